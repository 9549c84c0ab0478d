"""The node's own metadata service behind us: its values, cached.

Knows: how to ask an EC2 metadata service with a token of our own, and how long its answers are good for.
Must not know: which paths pods may ask (`imds` decides that), or who asks. Nothing that a client sent is forwarded.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
import structlog
import yarl
from cachetools import LRUCache, TLRUCache, TTLCache

from metaproxy.errors import UpstreamUnavailable
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

TOKEN_LIFE = 21_600.0
"""Seconds: the longest that EC2 gives a token for."""

TOKEN_RENEWED = 0.9
"""The share of its life after which our token is replaced."""

FRESH = 3600.0
"""Seconds for which a value is good: those of the `basic` profile change, if ever, with the instance stopped."""

MISSING = 60.0
"""Seconds for which it is remembered that an item is not there."""

FAILED = 2.0
"""Seconds after a failure for which the same item is not asked for again: a dead service must not slow all requests."""

RETRY = 10.0
"""Seconds between two tries to fetch ahead what failed."""

TOTAL_TIMEOUT = 0.8
"""Seconds for everything that one item takes, tokens included: less than a request to us is held (contract §9.1)."""

CONNECT_TIMEOUT = 0.3
"""Seconds to connect: the service is on the same machine or one hop away."""

BODY_LIMIT = 64 << 10
"""Bytes of one answer."""

ENTRIES = 256
"""How many items are remembered: an operator may allow prefixes, and pods may make up what follows."""

_NO_TOKENS = frozenset({403, 404, 405})
_TOKEN_TEXT = re.compile(r"[!-~]{1,1024}", re.ASCII)
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}", re.ASCII)

_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An answer worth keeping: 200 with its body, or 404."""

    status: int
    body: bytes
    content_type: str


class _AskError(Exception):
    """The service gave no answer that can be used: says why."""


class Upstream:
    """The metadata service at `url`. `paths` are fetched ahead and kept fresh by `run`.

    An async context manager: it owns its connections and the fetches under way.
    """

    def __init__(
        self,
        url: str,
        *,
        metrics: Metrics,
        paths: Iterable[str] = (),
        timer: Callable[[], float] | None = None,
        total_timeout: float = TOTAL_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        self._url = url.rstrip("/")
        self._metrics = metrics
        self._paths = tuple(paths)
        self._timer = timer or (lambda: asyncio.get_running_loop().time())
        self._total_timeout = total_timeout
        self._connect_timeout = connect_timeout
        self._fresh: TLRUCache[str, Item] = TLRUCache(
            ENTRIES, lambda _, item, now: now + (FRESH if item.status == _OK else MISSING), timer=self._timer
        )
        self._last: LRUCache[str, Item] = LRUCache(ENTRIES)
        self._failed: TTLCache[str, str] = TTLCache(ENTRIES, FAILED, timer=self._timer)
        self._flights: dict[str, asyncio.Task[Item | str]] = {}
        self._token: str | None = None
        self._token_until = float("-inf")
        self._token_lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._trouble = "not asked yet"

    async def __aenter__(self) -> Self:
        # No proxies of the environment, no cookies, no headers but our own.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=8),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._total_timeout, sock_connect=self._connect_timeout),
            headers={"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "metaproxy"},
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    def status(self) -> str:
        """One line for a person."""
        tokens = "with tokens" if self._token else "without tokens"
        where = urlsplit(self._url).netloc.rpartition("@")[2]  # a URL may carry a password
        return f"{where}: {self._trouble}" if self._trouble else f"{where} answers ({tokens})"

    async def run(self) -> None:
        """Eternal: keep `paths` fresh, so that no pod waits for them."""
        while True:
            await self.prefetch(self._paths)
            await asyncio.sleep(RETRY if any(path in self._failed for path in self._paths) else FRESH / 2)

    async def prefetch(self, paths: Iterable[str]) -> None:
        """Fetch these now, whatever is held; never raises, failures are in log and status."""
        await asyncio.gather(*(asyncio.shield(self._flight(path)) for path in paths))

    async def get(self, path: str) -> Item:
        """The item at a canonical path (`/latest/…`): held, fetched, or, when that fails, as it was last seen.

        Raises:
            UpstreamUnavailable: there is neither an answer nor a copy.
        """
        if (item := self._fresh.get(path)) is not None:
            return item
        failure = self._failed.get(path)
        if failure is None:
            flight = self._flight(path)
            try:
                answer = await asyncio.shield(flight)
            except asyncio.CancelledError:
                if not flight.cancelled() or ((task := asyncio.current_task()) and task.cancelling()):
                    raise
                answer = "the agent is stopping"
            if isinstance(answer, Item):
                return answer
            failure = answer
        if (item := self._last.get(path)) is not None:
            return item
        raise UpstreamUnavailable(
            f"the node's metadata service gave no answer: {failure}",
            remedy="ask again; if it lasts, the operator should look at --upstream.url and the node's metadata options",
        )

    async def region(self) -> str:
        """The region that the node is in.

        Raises:
            UpstreamUnavailable: it is not told.
        """
        told = [(await self.get("/latest/meta-data/placement/region")).body.decode("ascii", "replace").strip()]
        if _REGION.fullmatch(told[0]) is None:
            # A service that does not know the item may know the document.
            told.append(str(_field(await self.get("/latest/dynamic/instance-identity/document"), "region")))
        for text in told:
            if _REGION.fullmatch(text):
                return text
        raise UpstreamUnavailable("the node's metadata service names no region", remedy="set --sts.region")

    async def instance_profile_arn(self) -> str | None:
        """The ARN of the node's instance profile; None when it has none.

        Raises:
            UpstreamUnavailable: there is no answer.
        """
        arn = _field(await self.get("/latest/meta-data/iam/info"), "InstanceProfileArn")
        return arn if isinstance(arn, str) else None

    def _flight(self, path: str) -> asyncio.Task[Item | str]:
        """The one fetch of the path that is under way. We own it: who waits for it may go away."""
        if (flight := self._flights.get(path)) is None:
            flight = self._flights[path] = asyncio.create_task(self._fetch(path), name=f"upstream {path}")
            flight.add_done_callback(lambda _: self._flights.pop(path, None))
        return flight

    async def _fetch(self, path: str) -> Item | str:
        """The item, or why there is none."""
        try:
            async with asyncio.timeout(self._total_timeout):
                item = await self._asked(path)
        except (_AskError, aiohttp.ClientError, OSError, ValueError) as error:
            why = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
            if why != self._trouble:
                log.warning("the node's metadata service does not answer", path=path, error=why)
            self._trouble = why
            self._failed[path] = why
            self._metrics.counter("upstream_requests_total", outcome="failed").inc()
            return why
        self._trouble = ""
        self._failed.pop(path, None)
        self._fresh[path] = item
        if item.status == _OK:
            self._last[path] = item
        else:
            self._last.pop(path, None)
        self._metrics.counter("upstream_requests_total", outcome="ok" if item.status == _OK else "missing").inc()
        return item

    async def _asked(self, path: str) -> Item:
        token = await self._own_token()
        status, body, content_type = await self._request("GET", path, _with(token))
        if status == _UNAUTHORIZED:
            # Tokens end with the instance's restart, or are demanded since a moment ago: once with another one.
            token = await self._own_token(refused=True, known=token)
            status, body, content_type = await self._request("GET", path, _with(token))
        if status not in {_OK, _NOT_FOUND}:
            # A redirect too: the metadata service has none, who else answers is none of ours.
            raise _AskError(f"it answered {status}")
        return Item(status=status, body=body if status == _OK else b"", content_type=content_type)

    async def _own_token(self, *, refused: bool = False, known: str | None = None) -> str | None:
        """Our token, or None where there are no tokens. `refused`: the one `known` to the caller was rejected."""
        async with self._token_lock:
            now = self._timer()
            if now < self._token_until and not (refused and known == self._token):
                return self._token
            life = f"{TOKEN_LIFE:.0f}"
            status, body, _ = await self._request(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": life}
            )
            text = body.decode("ascii", "replace").strip()
            if status == _OK and _TOKEN_TEXT.fullmatch(text):
                self._token, self._token_until = text, now + TOKEN_LIFE * TOKEN_RENEWED
            elif status in _NO_TOKENS:
                self._token, self._token_until = None, now + FRESH
            else:
                raise _AskError(f"it answered {status} to the token request")
            return self._token

    async def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, str]:
        if self._session is None:
            raise _AskError("the agent is not running")
        url = yarl.URL(self._url + path, encoded=True)
        async with self._session.request(method, url, headers=headers, allow_redirects=False) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise _AskError(f"its answer is longer than {BODY_LIMIT} bytes")
            return response.status, bytes(body), response.headers.get("Content-Type", "text/plain")


def _with(token: str | None) -> dict[str, str]:
    return {"X-aws-ec2-metadata-token": token} if token else {}


def _field(item: Item, name: str) -> object:
    try:
        document = json.loads(item.body)
    except (ValueError, RecursionError):
        return None
    return document.get(name) if isinstance(document, dict) else None

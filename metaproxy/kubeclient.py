"""The API server's wire: requests and streams of bytes, each within a time.

Knows: when credentials are read anew, connections, time-outs.
Must not know: where credentials come from; what a refusal means; pods, namespaces, Events; lists and watches beyond
their being bytes.

kubernetes-asyncio's own REST class is not used: it looks into `.netrc` before each request, takes no body that is
already bytes, and sets no time-out; its watch has no silence deadline.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
import structlog
from aiohttp.http_exceptions import HttpProcessingError

from metaproxy import __version__
from metaproxy.kubeaccess import CA_FILE, TOKEN_FILE, Access, AccessError, AccessLoader
from metaproxy.kubeanswers import SHOWN, Answer, KubeIdentity, KubeTimeout, KubeUnreachable

log = structlog.get_logger()

JSON = "application/json"

CONNECT = 5.0
"""Seconds for a connection, TLS included."""

REQUEST = 10.0
"""Seconds for a request and its whole answer, unless the caller says otherwise."""

REFRESH = 60.0
"""Seconds after which credentials are read again; a projected token is replaced at 80 % of its hour or more."""

REFRESH_RETRY = 10.0
"""Seconds until the next try when that failed and the old ones are still held."""

REFUSAL_SIZE = 64 * 1024
"""Bytes of a refusal that are read."""

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""A peer that vanished (a cut cable, a forgotten NAT entry) is noticed within 30 s, silent watches included."""

_UNAUTHORIZED = 401


class Chunks:
    """The bytes of one answer as they come, to its end or to the deadline.

    Raises while it is iterated:
        KubeTimeout: the deadline came first, however much is still being sent.
        KubeUnreachable: the connection broke, or the server sent what is no HTTP.
    """

    def __init__(self, response: aiohttp.ClientResponse, *, what: str, deadline: float) -> None:
        self._response = response
        self._what = what
        self._deadline = deadline

    def __aiter__(self) -> Self:
        """Itself: there is one stream."""
        return self

    async def __anext__(self) -> bytes:
        """What came since the last time, at least one byte."""
        async with _mapped(self._what), asyncio.timeout_at(self._deadline):
            if asyncio.get_running_loop().time() >= self._deadline:
                # What has already come is returned without a turn of the loop, in which a time-out could strike.
                raise TimeoutError
            chunk = await self._response.content.readany()
        if not chunk:
            raise StopAsyncIteration
        return chunk


class KubeClient:
    """One API server, with connections of its own; an async context manager.

    Credentials are read when they are first needed and then again every minute and after each 401: a missing or broken
    file at start is a failed request and not the end. Every file, and an exec plugin, is dealt with in a thread.

    Args:
        kubeconfig: path of a kubeconfig file, its current context counts; empty for the pod's own ServiceAccount.
        token_file: of the ServiceAccount.
        ca_file: of the ServiceAccount.
    """

    def __init__(
        self,
        kubeconfig: str | os.PathLike[str] | None = None,
        *,
        token_file: str | os.PathLike[str] = TOKEN_FILE,
        ca_file: str | os.PathLike[str] = CA_FILE,
    ) -> None:
        self._loader = AccessLoader(kubeconfig, token_file=token_file, ca_file=ca_file)
        self._access: Access | None = None
        self._fresh_until = float("-inf")
        self._loading: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Nothing is asked or read yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = JSON,
        timeout: float = REQUEST,  # noqa: ASYNC109  one bound for credentials, connection, head and body together
    ) -> Answer:
        """One request and its answer, whatever its status (`Answer.error` makes an exception of it).

        Raises:
            KubeError: there is no answer: KubeUnreachable, KubeTimeout or KubeIdentity.
        """
        what = f"{method} {path}"
        sent = {**(headers or {}), **({"Content-Type": content_type} if body is not None else {})}
        async with _mapped(what), asyncio.timeout(timeout):
            response = await self._send(method, path, query, sent, body)
            async with response:
                content = response.content
                data = await (content.read() if response.ok else _first(content, REFUSAL_SIZE))
        return Answer(status=response.status, headers=response.headers, body=data)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        head: float = REQUEST,
        lasting: float,
    ) -> AsyncIterator[Chunks]:
        """A GET whose answer is read as it comes. `head`: seconds until it begins; `lasting`: until it must have ended.

        Raises:
            KubeError: the answer is not 2xx, or there is none.
        """
        what = f"GET {path}"
        begun = asyncio.get_running_loop().time()
        async with _mapped(what), asyncio.timeout(head):
            response = await self._send("GET", path, query, headers or {}, None)
        try:
            if not response.ok:
                async with _mapped(what), asyncio.timeout(head):
                    data = await _first(response.content, REFUSAL_SIZE)
                raise Answer(status=response.status, headers=response.headers, body=data).error(what)
            yield Chunks(response, what=what, deadline=begun + lasting)
        finally:
            # What a watch leaves unread is of no use to anybody: the connection goes with it.
            response.close()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> aiohttp.ClientResponse:
        access, session = await self._ready()
        try:
            response = await session.request(
                method,
                access.host + path,
                params=query,
                data=body,
                headers={
                    "Accept": JSON,
                    "User-Agent": f"metaproxy/{__version__}",
                    **({"Authorization": access.authorization} if access.authorization else {}),
                    **headers,
                },
                proxy=access.proxy,
                server_hostname=access.server_hostname,
                allow_redirects=False,
                # aiohttp's default ends everything after 300 s; what bounds us stands around each call.
                timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=CONNECT, sock_read=None),
            )
        except aiohttp.ClientSSLError:
            self._expire()  # the authority may have been replaced
            raise
        if response.status == _UNAUTHORIZED:
            self._expire()
        return response

    def _expire(self) -> None:
        """Read everything anew before the next request, the kubeconfig file itself included."""
        self._fresh_until = float("-inf")
        self._loader.forget()

    async def _ready(self) -> tuple[Access, aiohttp.ClientSession]:
        """Credentials that are fresh, and connections that fit them; one load serves everybody."""
        if self._loading is None and asyncio.get_running_loop().time() >= self._fresh_until:
            self._loading = asyncio.create_task(self._load(), name="load Kubernetes credentials")
            # Those who asked may have given up by the time it fails.
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        if self._loading is not None:
            await asyncio.shield(self._loading)
        assert self._access is not None  # noqa: S101  a load that gives none raises
        assert self._session is not None  # noqa: S101
        return self._access, self._session

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            access = await self._loader.read()
            self._fresh_until = loop.time() + REFRESH
            await self._take(access)
        except AccessError as error:
            if self._access is None:
                raise KubeIdentity(str(error), reason="NoCredentials") from error
            log.warning("kubernetes credentials cannot be read, the old ones are kept", error=str(error))
            self._fresh_until = loop.time() + REFRESH_RETRY
        finally:
            self._loading = None

    async def _take(self, access: Access) -> None:
        before, old = self._access, self._session
        self._access = access
        if old is not None and before is not None and before.tls == access.tls:
            return
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=access.context, socket_factory=_socket), trust_env=False
        )
        if old is not None:
            # Open watches break off and resume under the new authority or certificate.
            await old.close()


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


async def _first(content: aiohttp.StreamReader, size: int) -> bytes:
    try:
        return await content.readexactly(size)
    except asyncio.IncompleteReadError as error:
        return error.partial


@asynccontextmanager
async def _mapped(what: str) -> AsyncIterator[None]:
    """Every way in which there is no answer, as ours. Foreign texts name hosts and ports, never headers or bodies."""
    try:
        yield
    except TimeoutError as error:
        raise KubeTimeout(f"{what}: no answer in time", reason="Timeout") from error
    except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
        text = f"{type(error).__name__}: {error}"[:SHOWN]
        raise KubeUnreachable(f"{what}: {text}", reason="Unreachable") from error

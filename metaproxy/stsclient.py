"""The client that talks to STS, and the chain that finds our own keys: botocore, kept in one place.

Knows: how botocore is set up: regional endpoint, time-outs, no retries of its own, connections kept.
Must not know: when keys are fetched or renewed, what is asked, what an answer means.

There is one client, whose signer takes the keys that a call hands over. So the node's own keys and those of the
separate role share connections and models, and keys are replaced without making anything anew.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

import structlog
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials

from metaproxy.credentials import Keys, Secret
from metaproxy.errors import StsOwnIdentity
from metaproxy.roles import AssumeRole, RoleArn, session_name

log = structlog.get_logger()

CONNECT_TIMEOUT = 1.0
READ_TIMEOUT = 5.0
CALL_TIMEOUT = 10.0
"""Seconds. STS answers in tens of milliseconds; who waits for a pod gives up after one second anyway. The last one is
for all that a call may take, repetition and waiting for keys included."""

HOP_DURATION = 3600
"""Seconds: the longest session that a role assumed by a role may have."""

KEEP_WARM = 300.0
"""Seconds for which idle connections to STS are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to reach STS, and as whom.

    `region` and `endpoint_url` may be empty; `metadata_url` is where the default chain asks for the node's role, empty
    for its own default. `hop` is the separate role. Time-outs in seconds; `connections` is how many calls run at once.
    """

    region: str = ""
    endpoint_url: str = ""
    metadata_url: str = ""
    hop: RoleArn | None = None
    hop_session_name: str = "metaproxy"
    hop_external_id: str | None = None
    connections: int = 32
    connect_timeout: float = CONNECT_TIMEOUT
    read_timeout: float = READ_TIMEOUT
    call_timeout: float = CALL_TIMEOUT

    @property
    def separate(self) -> AssumeRole | None:
        """The call that gives the separate role's session; None where there is none."""
        if self.hop is None:
            return None
        return AssumeRole(
            role=self.hop,
            session_name=session_name(self.hop_session_name),
            duration=HOP_DURATION,
            external_id=self.hop_external_id,
        )


_CHAINS_LOG = logging.getLogger("aiobotocore.credentials")
_SIGNING: ContextVar[Keys] = ContextVar("keys that sign the call under way")


class _Signer(AioCredentials):  # type: ignore[misc]  # botocore is not typed
    """What botocore takes for the client's credentials and their chain: the keys of the call under way."""

    def __init__(self) -> None:
        super().__init__("unused", "unused", method="metaproxy")

    async def load_credentials(self) -> Self:
        return self

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        keys = _SIGNING.get()
        token = keys.session_token.reveal() if keys.session_token else None
        return ReadOnlyCredentials(keys.access_key_id, keys.secret_access_key.reveal(), token)


class _Renewals(logging.Filter):
    """Takes what botocore logs of a failed renewal, a traceback each time, and tells the failure instead.

    It is told while the former keys go on being used; a renewal that has to be fails the call, and so is told anyway.
    """

    def __init__(self, thread: threading.Thread, tell: Callable[[BaseException], None]) -> None:
        super().__init__()
        self._thread, self._tell = thread, tell

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged: all are but those of failures in the chain's own thread."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or record.thread != self._thread.ident:
            return True
        if record.args != ("mandatory",):
            self._tell(error)
        return False


class _Apart:
    """A loop of its own, in a thread, for the chain: it reads files wherever it likes, which would hold up pods."""

    def __init__(self, tell: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="credentials chain", daemon=True)
        self._thread.start()
        self._renewals = _Renewals(self._thread, tell)
        _CHAINS_LOG.addFilter(self._renewals)

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What the work returns or raises; cancelled with its waiter."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def close(self) -> None:
        await self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()
        _CHAINS_LOG.removeFilter(self._renewals)


class StsClient:
    """An open client; `StsClient.open` makes one."""

    def __init__(self, client: Any, chain: Any, apart: _Apart) -> None:
        self._client = client
        self._chain = chain
        self._apart = apart
        self._found: Any = None

    @classmethod
    async def open(
        cls,
        options: Options,
        find_region: Callable[[], Awaitable[str]] | None,
        tell: Callable[[BaseException], None] = lambda _: None,
    ) -> Self:
        """A client, its files read and its models loaded off the loop. Nothing is sent.

        `tell` is called, in another thread, with what keeps the chain from renewing keys that are still good.

        Raises:
            StsOwnIdentity: the region is not known. Whatever else botocore raises, for settings that it cannot use.
        """
        session: AioSession = await asyncio.to_thread(_session, options)
        region = options.region or session.get_config_variable("region") or await _asked(find_region)
        if not region:
            raise StsOwnIdentity(
                "the region is not known yet", remedy="the operator can set --sts.region", code="NoRegionError"
            )
        # Also for the client with which the chain turns a web identity into keys.
        session.set_config_variable("region", region)
        chain = session.get_component("credential_provider")
        session.register_component("credential_provider", _Signer())
        config = AioConfig(
            connect_timeout=options.connect_timeout,
            read_timeout=options.read_timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=options.connections,
            connector_args={"keepalive_timeout": KEEP_WARM},
        )
        url = options.endpoint_url or None
        client = await session.create_client("sts", region_name=region, endpoint_url=url, config=config).__aenter__()
        # In one step: a thread made while nobody waits any more would be left behind.
        return cls(client, chain, _Apart(tell))

    async def close(self) -> None:
        """End all connections, and what the chain still does."""
        await self._client.close()
        await self._apart.close()

    @property
    def endpoint(self) -> str:
        """The URL that is asked."""
        return str(self._client.meta.endpoint_url)

    @property
    def region(self) -> str:
        """The region whose STS is asked."""
        return str(self._client.meta.region_name)

    async def own_keys(self) -> Keys | None:
        """What the default chain finds (environment, web identity, files, metadata service); renewed when that is due.

        Raises whatever botocore raises, and what reading files and asking services does.
        """
        if self._found is None:
            self._found = await self._apart.run(self._chain.load_credentials())
        if self._found is None:
            return None
        access_key_id, secret, token, *_ = await self._apart.run(self._found.get_frozen_credentials())
        return Keys(
            access_key_id=access_key_id,
            secret_access_key=Secret(secret),
            session_token=Secret(token) if token else None,
            method=self._found.method,
        )

    def forget(self) -> None:
        """Walk the chain anew next time."""
        self._found = None

    async def send(self, keys: Keys, operation: str, parameters: Mapping[str, Any]) -> Any:
        """One request, signed with the keys. Raises whatever botocore and the network raise."""
        token = _SIGNING.set(keys)
        try:
            return await getattr(self._client, operation)(**parameters)
        finally:
            _SIGNING.reset(token)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _session(options: Options) -> AioSession:
    """A session with everything read that making a client needs: for a thread."""
    session = AioSession()
    session.set_config_variable("sts_regional_endpoints", "regional")
    if options.region:
        session.set_config_variable("region", options.region)
    if options.metadata_url:
        session.set_config_variable("ec2_metadata_service_endpoint", options.metadata_url)
    session.get_scoped_config()
    session.warm_up_loader_caches("sts")
    return session


async def _asked(find_region: Callable[[], Awaitable[str]] | None) -> str:
    if find_region is None:
        return ""
    try:
        return await find_region()
    except Exception as error:  # noqa: BLE001  whatever kept us from asking, the region is not known
        log.debug("the region is not known", error=type(error).__name__)
        return ""

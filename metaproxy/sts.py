"""Our own identity, the separate role, and one AssumeRole call.

Knows: botocore's clients, their time-outs and credentials, regional endpoints.
Must not know: caching of pods' sessions, retries across calls, pods.

Two clients at most: one signs with what botocore's default chain finds (node role, web identity, files), the other
with the separate role's session (`--assume-role-arn`), which is renewed ahead like any other. botocore's own retries
are off: the broker decides when to ask again.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from metaproxy.credentials import Credentials, FailureClass, Secret, pause, renew_at, usable
from metaproxy.errors import IssueError, StsOwnIdentity, StsUnreachable
from metaproxy.roles import PARTITION, AssumeRole, RoleArn, session_name
from metaproxy.stserrors import translated

log = structlog.get_logger()

CONNECT_TIMEOUT = 1.0
READ_TIMEOUT = 5.0
"""Seconds. STS answers in tens of milliseconds; who waits for a pod gives up after one second anyway."""

KEEP_WARM = 300.0
"""Seconds for which idle connections to STS are kept."""

CHECK = 300.0
"""Seconds after which our own identity is looked at again when nothing else does: readiness should not be a memory."""

HOP_DURATION = 3600
"""Seconds: the longest session that a role assumed by a role may have."""

HOP_WAIT = 5.0
"""Seconds for which a call waits for the separate role's first session."""

_ARN = re.compile(rf"arn:({PARTITION}):(?:sts|iam)::([0-9]{{12}}):.+", re.ASCII)
_PLAIN = re.compile(r"[!-+\--\[\]-~]+", re.ASCII)  # printable, no comma, no backslash: contract M11
_KEY_LIMIT, _TOKEN_LIMIT = 256, 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who we are to AWS."""

    arn: str
    account: str
    partition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to reach STS. `region` and `endpoint_url` may be empty; `metadata_url` is where the default chain asks."""

    region: str = ""
    endpoint_url: str = ""
    metadata_url: str = ""
    hop: RoleArn | None = None
    hop_session_name: str = "metaproxy"
    connections: int = 32


class Sts:
    """See the module. `find_region` is asked when no region was given; it raises, or returns an empty text."""

    def __init__(
        self,
        options: Options,
        *,
        find_region: Callable[[], Awaitable[str]] | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._options = options
        self._find_region = find_region
        self._clock = clock
        self._chance = chance
        self._clients: list[Any] = []
        self._opening = asyncio.Lock()
        self._own: Any = None
        self._through: Any = None
        self._keys: Any = None
        self._hop: Credentials | None = None
        self._hop_failure: IssueError | None = None
        self._hop_news = asyncio.Event()
        self._hop_due = asyncio.Event()
        self._identity: Identity | None = None
        self._failure: IssueError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close(self._clients)

    async def issue(self, call: AssumeRole) -> Credentials:
        """The session that the call gives.

        Raises:
            IssueError: none was given; every other exception of botocore and the network is translated.
        """
        return await self._issue(call, hop=self._options.hop is not None)

    async def identity(self) -> Identity:
        """The identity that botocore's default chain finds, as STS sees it. Raises IssueError."""
        try:
            client = await self._client()
            self._identity = _identity_in(await client.get_caller_identity())
        except Exception as error:
            raise self._failed(error, None) from error
        self._failure = None
        return self._identity

    async def run(self) -> None:
        """Eternal: opens the client ahead of the first call, and keeps the separate role's session fresh."""
        failures = 0
        while True:
            try:
                if self._options.hop is None:
                    await self.identity()
                    wait = CHECK
                else:
                    wait = await self._renew_hop(self._options.hop)
                failures = 0
            except IssueError as failure:
                failures += 1
                if self._options.hop is not None:
                    self._hop_failure = failure
                    self._tell()
                    log.warning(
                        "the separate role gave no session",
                        role_arn=self._options.hop.arn,
                        reason=failure.reason,
                        code=failure.code,
                        message=failure.message,
                        remedy=failure.remedy,
                    )
                wait = pause(FailureClass.TRANSIENT, failures=failures, jitter=self._chance())
            self._hop_due.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._hop_due.wait()
            except TimeoutError:
                continue

    def trouble(self) -> str | None:
        """What is wrong with our own identity; None when it works."""
        failure = self._hop_failure if self._options.hop is not None and self._hop is None else self._failure
        if failure is not None:
            return f"{failure.reason}: {failure.message}; {failure.remedy}"
        ready = self._hop is not None if self._options.hop is not None else self._identity is not None
        return None if ready else "STS has not answered yet"

    def status(self) -> str:
        """One line for the operator."""
        who = self._identity.arn if self._identity else "own identity not known yet"
        through = f", through {self._options.hop.arn}" if self._options.hop else ""
        trouble = self.trouble()
        return f"{who}{through}{f' ({trouble})' if trouble else ''}"

    @property
    def _who(self) -> str:
        """The ARN that trust policies must name: the separate role's, or our own role's."""
        return self._own_role if self._options.hop is None else self._options.hop.arn

    @property
    def _own_role(self) -> str:
        if self._identity is None:
            return ""
        kind, _, rest = self._identity.arn.rpartition(":")[2].partition("/")
        if kind != "assumed-role":
            return self._identity.arn
        # A role's path is not in its session's ARN; with one, the trust policy needs the full ARN from IAM.
        role = rest.partition("/")[0]
        return f"arn:{self._identity.partition}:iam::{self._identity.account}:role/{role}"

    async def _client(self) -> Any:
        async with self._opening:
            if self._own is None:
                await self._close([client for client in self._clients if client is not self._through])
                self._own = await self._open(AioSession())
            return self._own

    async def _open(self, session: AioSession) -> Any:
        options = self._options
        region = options.region or await self._region()
        if not region:
            raise StsOwnIdentity(
                "the region is not known yet", remedy="ask again; the operator can set --sts.region", code="NoRegion"
            )
        session.set_config_variable("sts_regional_endpoints", "regional")
        if options.metadata_url:
            session.set_config_variable("ec2_metadata_service_endpoint", options.metadata_url)
        config = AioConfig(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=options.connections,
            connector_args={"keepalive_timeout": KEEP_WARM},
            warm_up_loader_caches=True,
        )
        client = await session.create_client(
            "sts", region_name=region, endpoint_url=options.endpoint_url or None, config=config
        ).__aenter__()
        self._clients.append(client)
        return client

    async def _close(self, clients: list[Any]) -> None:
        for client in list(clients):
            self._clients.remove(client)
            await client.close()

    async def _region(self) -> str:
        if self._find_region is None:
            return ""
        try:
            return await self._find_region()
        except Exception as error:  # noqa: BLE001  whatever kept us from asking, the region is not known
            log.debug("the region is not known", error=repr(error))
            return ""

    async def _issue(self, call: AssumeRole, *, hop: bool) -> Credentials:
        parameters: dict[str, Any] = {
            "RoleArn": call.role.arn,
            "RoleSessionName": call.session_name,
            "DurationSeconds": call.duration,
        }
        if call.external_id is not None:
            parameters["ExternalId"] = call.external_id
        if call.tags:
            parameters["Tags"] = [{"Key": key, "Value": value} for key, value in call.tags]
        if call.source_identity is not None:
            parameters["SourceIdentity"] = call.source_identity
        try:
            client = await (self._hop_client() if hop else self._client())
            issued = self._clock()
            answer = await client.assume_role(**parameters)
            credentials = _read(answer, call, issued)
        except Exception as error:
            raise self._failed(error, call, hop=hop) from error
        if not hop:
            self._failure = None
        return credentials

    def _failed(self, error: Exception, call: AssumeRole | None, *, hop: bool = False) -> IssueError:
        failure = translated(error, call=call, who=self._who if hop or self._options.hop is None else self._own_role)
        if isinstance(failure, StsOwnIdentity):
            # What was signed with is no good: the separate role's session, or what the chain found, is had anew.
            if hop:
                self._hop = None
            else:
                self._failure = failure
                self._own = None
            self._hop_due.set()
        elif call is None:
            self._failure = failure
        return failure

    async def _hop_client(self) -> Any:
        if self._hop is None or not usable(self._hop, self._clock()):
            self._hop_due.set()
            news = self._hop_news
            if self._hop_failure is None:
                async with asyncio.timeout(HOP_WAIT):
                    await news.wait()
            if self._hop is None or not usable(self._hop, self._clock()):
                raise self._hop_failure or StsOwnIdentity(
                    "the separate role has no session yet", remedy="ask again", code="HopPending"
                )
        return self._through

    async def _renew_hop(self, role: RoleArn) -> float:
        """Assume the separate role; seconds until that is due again. Raises IssueError."""
        if self._identity is None:
            await self.identity()
        if self._hop is None or self._clock() >= renew_at(self._hop, phase=self._chance()):
            name = session_name(self._options.hop_session_name)
            call = AssumeRole(role=role, session_name=name, duration=HOP_DURATION)
            self._hop = await self._issue(call, hop=False)
            await self._use(self._hop)
            self._hop_failure = None
            self._tell()
            log.info("separate role assumed", role_arn=role.arn, session_name=name, expires=self._hop.expires)
        return max(1.0, renew_at(self._hop, phase=0.5) - self._clock())

    async def _use(self, hop: Credentials) -> None:
        """Sign with this session from now on; connections stay."""
        keys = (hop.access_key_id, hop.secret_access_key.reveal(), hop.session_token.reveal())
        if self._keys is None:
            session = AioSession()
            session.set_credentials(*keys)
            try:
                self._through = await self._open(session)
            except Exception as error:
                raise self._failed(error, None) from error
            self._keys = await session.get_credentials()
        else:
            # No await between these: a request is signed with the old keys or with the new ones.
            self._keys.access_key, self._keys.secret_key, self._keys.token = keys

    def _tell(self) -> None:
        self._hop_news.set()
        self._hop_news = asyncio.Event()


def _identity_in(answer: Any) -> Identity:
    arn = str(answer["Arn"])
    match = _ARN.fullmatch(arn)
    if match is None:
        raise StsUnreachable("STS does not say who the agent is", remedy="ask again", code="Unreadable")
    return Identity(arn=arn, account=match[2], partition=match[1])


def _read(answer: Any, call: AssumeRole, issued: float) -> Credentials:
    """The session in an answer; anything missing or that clients could not read is no session at all."""
    parts = answer["Credentials"]
    expires = parts["Expiration"]
    key, secret, token = (parts[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
    for text, limit in ((key, _KEY_LIMIT), (secret, _KEY_LIMIT), (token, _TOKEN_LIMIT)):
        if not (isinstance(text, str) and len(text) <= limit and _PLAIN.fullmatch(text)):
            raise StsUnreachable("STS gave an answer that cannot be read", remedy="ask again", code="Unreadable")
    if not isinstance(expires, datetime) or expires.tzinfo is None:
        raise StsUnreachable("STS gave an answer that cannot be read", remedy="ask again", code="Unreadable")
    return Credentials(
        access_key_id=key,
        secret_access_key=Secret(secret),
        session_token=Secret(token),
        account=call.role.account,
        issued=issued,
        expires=expires.timestamp(),
    )

"""Our own identity, the separate role, and one AssumeRole call.

Knows: which keys sign which call, and how they are kept good.
Must not know: caching of pods' sessions, retries across calls, pods; how botocore is set up.

`run` alone finds keys: what botocore's default chain finds (node role, web identity, files), and through it the session
of the separate role (`--assume-role-arn`). A call takes the keys at hand, or waits a moment for the round that is
fetching them; it never walks the chain itself, so a slow or failing chain is asked by one task with growing pauses,
however many pods wait. botocore's own retries are off: the broker decides when to ask again.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

import structlog

from metaproxy.credentials import Credentials, FailureClass, pause, renew_at, usable
from metaproxy.errors import IssueError, StsDenied, StsInvalidRequest, StsOwnIdentity, StsRegionDisabled
from metaproxy.roles import AssumeRole, RoleArn, session_name
from metaproxy.stsanswers import Identity, identity_in, session_in
from metaproxy.stsclient import Keys, Options, StsClient
from metaproxy.stserrors import STALE, dropped, own_failure, translated

__all__ = ["Identity", "Options", "Sts"]

log = structlog.get_logger()

_Thing = TypeVar("_Thing")

KEYS_WAIT = 5.0
"""Seconds for which a call waits for the keys that it is to be signed with."""

ROUND = 60.0
"""Seconds between two looks at our own keys: botocore renews them 15 minutes before they end, when looked at."""

IDENTITY_FRESH = 3600.0
"""Seconds after which STS is asked again who we are."""

HOP_DURATION = 3600
"""Seconds: the longest session that a role assumed by a role may have."""


class Sts:
    """See the module; an async context manager, whose `run` must be running for calls to find keys.

    `find_region` is asked when neither the options nor botocore's configuration name a region; it raises, or returns an
    empty text, while the region is not known.
    """

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
        self._client: StsClient | None = None
        self._own: Keys | None = None
        self._suspect = False  # STS refused our own keys, and has not taken them or others since
        self._hop: Credentials | None = None
        self._hop_keys: Keys | None = None
        self._hop_due = 0.0
        self._identity: Identity | None = None
        self._asked = float("-inf")
        self._proven = False
        self._spare = False
        self._failure: IssueError | None = None
        self._news = asyncio.Event()
        self._due = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def issue(self, call: AssumeRole) -> Credentials:
        """The session that the call gives.

        Raises:
            IssueError: none was given; every exception of botocore and of the network is translated to one.
        """
        try:
            async with asyncio.timeout(self._options.call_timeout):
                outcome = await self._issue(call)
        except TimeoutError as error:
            outcome = translated(error, call=call, who="")
        if isinstance(outcome, IssueError):
            raise outcome
        return outcome

    async def identity(self) -> Identity:
        """Who we are: what botocore's default chain finds, as STS sees it. Raises IssueError."""
        return await self._awaited(lambda: None if self._suspect else self._identity)

    async def usable(self) -> None:
        """Wait until there are keys for application roles, those of the separate role if there is one.

        Raises IssueError.
        """
        await self._awaited(self._keys)

    async def run(self) -> None:
        """Eternal: opens the client ahead of the first call, finds our own keys, and keeps them and the hop's good."""
        failures = 0
        while True:
            self._due.clear()
            failure = await self._round()
            self._tell(failure)
            if failure is not None:
                failures += 1
                kind = FailureClass.TRANSIENT if failure.retryable else FailureClass.DENIED
                # Not to be cut short by those who wait: they would hammer what is refusing us.
                await asyncio.sleep(pause(kind, failures=failures, jitter=self._chance(), holding=self._ready))
                continue
            failures = 0
            wait = ROUND if self._hop is None else min(ROUND, max(1.0, self._hop_due - self._clock()))
            try:
                async with asyncio.timeout(wait):
                    await self._due.wait()
            except TimeoutError:
                continue

    @property
    def principal(self) -> str:
        """The role that asks for sessions, as far as it is known; empty while it is not."""
        if self._options.hop is not None:
            return self._options.hop.arn
        return self._identity.role if self._identity is not None else ""

    def trouble(self) -> str | None:
        """What is wrong with our own identity; None when it works, however STS itself may be."""
        works = self._ready and self._proven
        if self._failure is not None and (not works or isinstance(self._failure, StsOwnIdentity)):
            return f"{self._failure.reason}: {self._failure.message}; {self._failure.remedy}"
        return None if works else "STS has not answered yet"

    def status(self) -> str:
        """One line for the operator."""
        who = self._identity.arn if self._identity else "own identity not known yet"
        through = f", through {self._options.hop.arn}" if self._options.hop else ""
        where = f", at {self._client.endpoint}" if self._client else ""
        last = f" (last failure {self._failure.reason} {self._failure.code})" if self._failure else ""
        return f"{who}{through}{where}{last}"

    @property
    def _ready(self) -> bool:
        """Whether there are keys for application roles."""
        return self._keys() is not None

    async def _principal(self) -> str:
        """The ARN that trust policies of application roles must name; empty when it cannot be told."""
        if self._options.hop is not None:
            return self._options.hop.arn
        with suppress(IssueError):
            return (await self.identity()).role
        return ""

    async def _own_principal(self) -> str:
        """The ARN that the separate role's trust policy must name."""
        if self._identity is None and self._own is not None:
            with suppress(IssueError):
                await self._identify(self._own)
        return self._identity.role if self._identity else ""

    def _keys(self) -> Keys | None:
        """What signs calls for application roles."""
        if self._options.hop is None:
            return None if self._suspect else self._own
        return self._hop_keys if self._hop is not None and usable(self._hop, self._clock()) else None

    def _tell(self, failure: IssueError | None) -> None:
        """A round ended, or has something already: who waits looks again."""
        before, self._failure = self._failure, failure
        if failure is not None and (before is None or (before.reason, before.code) != (failure.reason, failure.code)):
            log.warning(
                "own identity is in trouble",
                reason=failure.reason,
                code=failure.code,
                message=failure.message,
                remedy=failure.remedy,
            )
        self._news.set()
        self._news = asyncio.Event()

    async def _awaited(self, there: Callable[[], _Thing | None]) -> _Thing:
        """What a round brings: at once when it is there, an IssueError at once when the last round failed."""
        try:
            async with asyncio.timeout(KEYS_WAIT):
                while (thing := there()) is None:
                    if self._failure is not None:
                        raise self._failure.again()
                    await self._news.wait()
                return thing
        except TimeoutError:
            failure = StsOwnIdentity(
                "the agent's own credentials are not known yet", remedy="ask again in a moment", code="Pending"
            )
        raise failure

    # A call

    async def _issue(self, call: AssumeRole) -> Credentials | IssueError:
        if self._hop is not None and self._clock() >= self._hop_due:
            self._due.set()  # the machine slept, or its clock was set: do not wait for the round's own time
        keys = await self._awaited(self._keys)
        outcome, repeat = await self._try(call, keys, self._principal)
        if isinstance(outcome, StsOwnIdentity) and outcome.code in STALE:
            self._distrust(keys)
            repeat = True
        if repeat:
            outcome, _ = await self._try(call, await self._awaited(self._keys), self._principal)
        return outcome

    async def _try(
        self, call: AssumeRole, keys: Keys, principal: Callable[[], Awaitable[str]]
    ) -> tuple[Credentials | IssueError, bool]:
        """One AssumeRole: the session or the failure, and whether to repeat it at once."""
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
        issued = self._clock()
        try:
            answer = await self._open_client.send(keys, "assume_role", parameters)
            credentials = session_in(answer, call, issued)
        except Exception as error:  # noqa: BLE001  whatever it is, it is translated
            raised = error
        else:
            self._spare = self._proven = True
            return credentials, False
        # An idle connection that STS closed is worth a repetition; in an outage only the first one is.
        repeat, self._spare = self._spare and dropped(raised), False
        failure = translated(raised, call=call, who="")
        if isinstance(failure, StsDenied):
            failure = translated(raised, call=call, who=await principal())
        # Returned, not raised from there: its context would carry the signed request into tracebacks.
        return failure, repeat

    def _distrust(self, keys: Keys) -> None:
        """STS refused these keys: whoever comes next waits for others."""
        if keys == self._hop_keys:
            self._hop = self._hop_keys = None
        elif keys == self._own:
            self._open_client.forget()
            self._suspect = True
        self._due.set()

    @property
    def _open_client(self) -> StsClient:
        if self._client is None:
            raise RuntimeError("keys come from an open client")  # pragma: no cover
        return self._client

    # A round

    async def _round(self) -> IssueError | None:
        """Look after everything that calls are signed with; a step that fails does not keep the others from theirs."""
        first: IssueError | None = None
        for step in (self._keep_own, self._keep_hop, self._keep_identity):
            try:
                async with asyncio.timeout(self._options.call_timeout):
                    await step()
            except Exception as error:  # noqa: BLE001  the chain reads files, runs processes, asks services
                first = first or own_failure(error).again()
        return first

    async def _keep_own(self) -> None:
        if self._client is None:
            self._client = await StsClient.open(self._options, self._find_region, _not_renewed)
        keys = await self._client.own_keys()
        if keys is None:
            raise StsOwnIdentity(
                "the agent has no AWS credentials of its own",
                remedy="the operator should give the node a role, or the agent a web identity",
                code="NoCredentialsError",
            )
        self._own = keys
        if self._options.hop is None and self._failure is None:
            self._tell(None)  # pods need not wait for the rest of the first round

    async def _keep_hop(self) -> None:
        role = self._options.hop
        if role is None or self._own is None:
            return
        if self._hop is not None and self._clock() < self._hop_due and usable(self._hop, self._clock()):
            return
        if self._suspect:
            await self._identify(self._own)
        call = AssumeRole(
            role=role,
            session_name=session_name(self._options.hop_session_name),
            duration=HOP_DURATION,
            external_id=self._options.hop_external_id,
        )
        outcome, repeat = await self._try(call, self._own, self._own_principal)
        if repeat:
            outcome, _ = await self._try(call, self._own, self._own_principal)
        if isinstance(outcome, IssueError):
            if isinstance(outcome, StsOwnIdentity) and await self._replaced(self._own):
                await self._keep_hop()
                return
            raise _as_ours(outcome, role)
        self._hop_due = renew_at(outcome, phase=self._chance())
        self._hop_keys = Keys(
            access_key_id=outcome.access_key_id,
            secret_access_key=outcome.secret_access_key,
            session_token=outcome.session_token,
        )
        self._hop = outcome
        self._tell(None)
        log.info("separate role assumed", role_arn=role.arn, session_name=call.session_name, expires=outcome.expires)

    async def _replaced(self, keys: Keys) -> bool:
        """Whether the chain has other keys than these, which STS refused."""
        self._distrust(keys)
        await self._keep_own()
        return self._own != keys

    async def _keep_identity(self) -> None:
        due = self._suspect or asyncio.get_running_loop().time() >= self._asked + IDENTITY_FRESH
        if self._own is not None and due:
            await self._identify(self._own)

    async def _identify(self, keys: Keys) -> None:
        """Ask STS who we are: the proof that our own keys are good."""
        try:
            identity = identity_in(await self._open_client.send(keys, "get_caller_identity", {}))
        except Exception as error:  # noqa: BLE001  as above
            failure = own_failure(error)
        else:
            if identity != self._identity:
                log.info("own identity", arn=identity.arn)
            self._identity, self._asked = identity, asyncio.get_running_loop().time()
            self._suspect, self._proven = False, True
            return
        if isinstance(failure, StsOwnIdentity):
            self._distrust(keys)
        raise failure


def _not_renewed(error: BaseException) -> None:
    """Our own keys are good for some minutes more, but others could not be had in time."""
    failure = own_failure(error)
    log.warning(
        "own credentials are not renewed: those at hand serve on until they end",
        reason=failure.reason,
        code=failure.code,
        message=failure.message,
        remedy=failure.remedy,
    )


def _as_ours(failure: IssueError, role: RoleArn) -> IssueError:
    """A refusal of the separate role: not the pod's, and not for ever, so no 403 for pods."""
    if not isinstance(failure, StsDenied | StsInvalidRequest | StsRegionDisabled):
        return failure
    return StsOwnIdentity(
        f"the separate role {role.arn} gives no session: {failure.message}", remedy=failure.remedy, code=failure.code
    )

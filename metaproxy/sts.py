"""Our own identity, the separate role, and the sessions that are had by them.

Knows: how the keys that sign calls are found and kept good, how long a call waits for them.
Must not know: caching of pods' sessions, retries across calls, pods; how botocore is set up, how a call is spelt.

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
from typing import Self

import structlog

from metaproxy.assuming import Assuming
from metaproxy.credentials import Credentials, FailureClass, Keys, pause, renew_at
from metaproxy.errors import IssueError, StsOwnIdentity
from metaproxy.handoverstate import Own
from metaproxy.keyring import Keyring
from metaproxy.keyrounds import KeyRounds, not_renewed
from metaproxy.ownidentity import OwnIdentity, away
from metaproxy.roles import AssumeRole
from metaproxy.stsanswers import Identity, identity_in
from metaproxy.stsclient import Options, StsClient
from metaproxy.stserrors import STALE, own_failure, separate_failure, translated

__all__ = ["Identity", "Options", "Sts"]

log = structlog.get_logger()

KEYS_WAIT = 5.0
"""Seconds for which a call waits for the keys that it is to be signed with."""

ROUND = 60.0
"""Seconds between two looks at our own keys: botocore renews them 15 minutes before they end, when looked at."""


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
        self._keyring = Keyring(separate=options.hop is not None)
        self._assuming = Assuming(clock)
        self._identity = OwnIdentity()
        self._rounds = KeyRounds()
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
        return await self._rounds.brought(
            lambda: None if self._keyring.suspect else self._identity.now, within=KEYS_WAIT
        )

    async def usable(self) -> None:
        """Wait until there are keys for application roles, those of the separate role if there is one.

        Raises IssueError.
        """
        await self._awaited_keys()

    async def run(self) -> None:
        """Eternal: opens the client ahead of the first call, finds our own keys, and keeps them and the hop's good."""
        failures = 0
        while True:
            self._due.clear()
            failure = await self._round()
            self._rounds.ended(failure)
            if failure is not None:
                failures += 1
                kind = FailureClass.TRANSIENT if failure.retryable else FailureClass.DENIED
                # Not to be cut short by those who wait: they would hammer what is refusing us.
                await asyncio.sleep(pause(kind, failures=failures, jitter=self._chance(), holding=self._ready))
                continue
            failures = 0
            wait = min(ROUND, max(1.0, self._keyring.due_in(self._clock())))
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
        return self._identity.role

    async def own(self) -> Own | None:
        """Our word for who we are, to the process after this one; None where STS has refused our keys."""
        if (keys := self._keyring.own) is None:
            return None
        gone = await away(lambda: self._identify(keys))
        held = self._keyring.held(self._options.separate, self._clock())
        return None if self._keyring.suspect else self._identity.own(keys, held, away=gone)

    def adopt(self, own: Own) -> None:
        """By the word of another process of this node we are this, with the same keys, until STS is heard itself.

        So is its session of the separate role; while STS is away that is ours by whatever keys.
        """
        self._identity.heard(own)
        if own.away:
            self._identity.proven = self._keyring.inherit(own.separate, self._options.separate, self._clock())

    def trouble(self) -> str | None:
        """What is wrong with our own identity; None when it works, however STS itself may be."""
        works, failure = self._ready and self._identity.proven, self._rounds.failure
        if failure is not None and (not works or isinstance(failure, StsOwnIdentity)):
            return f"{failure.reason}: {failure.message}; {failure.remedy}"
        return None if works else "STS has not answered yet"

    def status(self) -> str:
        """One line for the operator."""
        who = self._identity.now.arn if self._identity.now else "own identity not known yet"
        through = f", through {self._options.hop.arn}" if self._options.hop else ""
        where = f", at {self._client.endpoint}" if self._client else ""
        failure = self._rounds.failure
        last = f" (last failure {failure.reason} {failure.code})" if failure else ""
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
        if self._identity.now is None and self._keyring.own is not None:
            with suppress(IssueError):
                await self._identify(self._keyring.own)
        return self._identity.role

    def _keys(self) -> Keys | None:
        """What signs calls for application roles."""
        return self._keyring.signing(self._clock())

    async def _awaited_keys(self) -> Keys:
        return await self._rounds.brought(self._keys, within=KEYS_WAIT)

    # A call

    async def _issue(self, call: AssumeRole) -> Credentials | IssueError:
        if self._keyring.due_in(self._clock()) <= 0:
            self._due.set()  # the machine slept, or its clock was set: do not wait for the round's own time
        keys = await self._awaited_keys()
        outcome, repeat = await self._assuming.ask(self._open_client, keys, call, self._principal)
        if isinstance(outcome, StsOwnIdentity) and outcome.code in STALE:
            self._distrust(keys)
            repeat = True
        if repeat:
            keys = await self._awaited_keys()
            outcome, _ = await self._assuming.ask(self._open_client, keys, call, self._principal)
        self._identity.proven |= isinstance(outcome, Credentials)
        return outcome

    def _distrust(self, keys: Keys) -> None:
        """STS refused these keys: whoever comes next waits for others."""
        if self._keyring.distrust(keys):
            self._open_client.forget()
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
            self._client = await StsClient.open(self._options, self._find_region, not_renewed)
        keys = await self._client.own_keys()
        if keys is None:
            raise StsOwnIdentity(
                "the agent has no AWS credentials of its own",
                remedy="the operator should give the node a role, or the agent a web identity",
                code="NoCredentialsError",
            )
        self._keyring.own = keys
        if (word := self._identity.recognized(keys)) is not None:
            self._keyring.inherit(word.separate, self._options.separate, self._clock())
            if word.away:
                log.warning("own identity, by the word of the process before", identity=self.status())
        if self._options.hop is None and self._rounds.failure is None:
            self._rounds.ended(None)  # pods need not wait for the rest of the first round

    async def _keep_hop(self) -> None:
        call, own, now = self._options.separate, self._keyring.own, self._clock()
        if call is None or own is None:
            return
        if self._keyring.due_in(now) > 0 and self._ready:
            return
        if self._keyring.suspect:
            await self._identify(own)
        outcome, repeat = await self._assuming.ask(self._open_client, own, call, self._own_principal)
        if repeat:
            outcome, _ = await self._assuming.ask(self._open_client, own, call, self._own_principal)
        if isinstance(outcome, IssueError):
            if isinstance(outcome, StsOwnIdentity) and await self._replaced(own):
                await self._keep_hop()
                return
            raise separate_failure(outcome, call.role)
        self._keyring.hold(outcome, due=renew_at(outcome, phase=self._chance()))
        self._identity.proven = True
        self._rounds.ended(None)
        log.info(
            "separate role assumed", role_arn=call.role.arn, session_name=call.session_name, expires=outcome.expires
        )

    async def _replaced(self, keys: Keys) -> bool:
        """Whether the chain has other keys than these, which STS refused."""
        self._distrust(keys)
        await self._keep_own()
        return self._keyring.own != keys

    async def _keep_identity(self) -> None:
        own = self._keyring.own
        due = self._keyring.suspect or self._identity.due(asyncio.get_running_loop().time())
        if own is not None and due:
            await self._identify(own)

    async def _identify(self, keys: Keys) -> None:
        """Ask STS who we are: the proof that our own keys are good."""
        try:
            identity = identity_in(await self._open_client.send(keys, "get_caller_identity", {}))
        except Exception as error:  # noqa: BLE001  as above
            failure = own_failure(error)
        else:
            if self._identity.told(identity, asyncio.get_running_loop().time()):
                log.info("own identity", arn=identity.arn)
            self._keyring.suspect = False
            return
        if isinstance(failure, StsOwnIdentity):
            self._distrust(keys)
        raise failure

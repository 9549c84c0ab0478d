"""Credentials on demand and ahead of demand: cache, single flight, renewal, remembered failures, one budget.

Knows: for each AssumeRole call what is held, what failed, who wants it, and when to ask again.
Must not know: botocore, HTTP, pods' annotations, why somebody is entitled to a call.

The broker owns every flight; a waiter owns only its wait, so who hangs up hurts nobody (kiam's fetch ran under its
first caller's deadline). Nothing is ever evicted because it ages: the next session replaces it (kiam's refresh began
with an empty slot). Expiry is wall time; pauses and the budget run on the loop's clock, which nobody sets back. Lives
run on both: whichever clock says first that a session is due or over is believed.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import structlog

from metaproxy.budget import Spending, TokenBucket
from metaproxy.credentials import LAST_SERVED, Credentials, FailureClass, pause, renew_at, usable
from metaproxy.eager import in_task
from metaproxy.errors import (
    IssueError,
    StsDenied,
    StsInvalidRequest,
    StsOwnIdentity,
    StsPending,
    StsRegionDisabled,
    StsUnreachable,
)
from metaproxy.handoverstate import Failure, Held, failure_of
from metaproxy.roles import AssumeRole
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

GRACE = 300.0
"""Seconds for which a session that nobody wants is kept: a pod that is replaced finds it again."""

FLIGHT_LIMIT = 15.0
"""Seconds after which a flight is given up, whatever the supplier's own time-outs are."""

EXPIRING = 600.0
"""Seconds of life below which a renewal is urgent: SDKs fail with less than that (contract §9.1)."""

NAP = 30.0
"""The longest sleep of the schedule: wall time may jump, and then the schedule must not sleep through it."""

TICK = 0.001
"""The shortest sleep of the schedule: uvloop's clock counts milliseconds, and less would be spun, not slept."""

AUDITED = 16
"""Pods that the record of a session names: one line must stay a line."""

QUICK_RETRY = (0.1, 0.3)
"""Seconds, from and to, before the one second try of a first failure that somebody waits for: an early 503 breaks
clients that never ask again (contract §9.1)."""


class Issuer(Protocol):
    """Who asks STS."""

    async def issue(self, call: AssumeRole) -> Credentials:
        """The session that the call gives; raises an IssueError when it gives none."""
        ...


class Priority(IntEnum):
    """Who goes first when the budget is short."""

    WAITING = 0
    EXPIRING = 1
    PREFETCH = 2
    EARLY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is held of a call, for explanations: Unix seconds, no secret. `failing` and `retry_in` are seconds."""

    held: bool
    fetching: bool
    issued: float | None
    expires: float | None
    renew_at: float | None
    failure: IssueError | None
    failing: float | None
    retry_in: float | None


_NOTHING = State(
    held=False, fetching=False, issued=None, expires=None, renew_at=None, failure=None, failing=None, retry_in=None
)


@dataclass(slots=True, eq=False)
class _Entry:
    call: AssumeRole
    wanted: set[str] = field(default_factory=set)
    idle_since: float = 0.0
    waiters: int = 0
    flying: bool = False
    credentials: Credentials | None = None
    renew_at: float = 0.0
    # The same moment, and the last moment of serving, on the loop's clock: a wall clock set back stretches no life.
    renew_by: float = 0.0
    serve_by: float = 0.0
    failure: IssueError | None = None
    failures: int = 0
    failing_since: float = 0.0
    retry_at: float = 0.0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake who waits now; who comes later waits for the next news."""
        self.news.set()
        self.news = asyncio.Event()


class Broker:
    """Holds sessions; see the module. `rate` and `burst` bound the calls to STS, in calls and calls a second."""

    def __init__(
        self,
        issuer: Issuer,
        metrics: Metrics,
        *,
        concurrency: int = 32,
        rate: float = 20.0,
        burst: float = 200.0,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        on_failure: Callable[[AssumeRole, IssueError], None] = lambda _call, _failure: None,
    ) -> None:
        self._issuer = issuer
        self._metrics = metrics
        self._concurrency = concurrency
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._chance = chance
        self._on_failure = on_failure
        self._results = {
            result: metrics.counter("credentials_requests_total", result=result)
            for result in ("cached", "waited", "stale", "failed")
        }
        self._entries: dict[AssumeRole, _Entry] = {}
        self._wants: dict[str, AssumeRole] = {}
        self._wake = asyncio.Event()
        self._bucket: TokenBucket | None = None
        self._flights = self._queued = 0
        self.resting = False

    def want(self, uid: str, call: AssumeRole | None) -> None:
        """The pod is entitled to this call from now on, or to none: fetched at once, renewed while anybody wants it."""
        before = self._wants.get(uid)
        if before == call:
            return
        if before is not None:
            entry = self._entries[before]
            entry.wanted.discard(uid)
            if not entry.wanted:
                entry.idle_since = asyncio.get_running_loop().time()
            del self._wants[uid]
        if call is not None:
            self._wants[uid] = call
            self._entry(call).wanted.add(uid)
        self._wake.set()

    def wanting(self, call: AssumeRole) -> frozenset[str]:
        """The uids of the pods that are entitled to the call."""
        entry = self._entries.get(call)
        return frozenset(entry.wanted) if entry else frozenset()

    async def get(self, call: AssumeRole, *, deadline: float) -> Credentials:
        """The session that the call gives: what is held, or what comes until `deadline` (the loop's time).

        Raises:
            IssueError: STS refused or failed and will not be asked again in time; StsPending when it did not answer.
        """
        entry = self._entry(call)
        if (held := self._usable(entry)) is not None:
            if entry.failure is None and not entry.flying and self._clock() >= entry.renew_at:
                self._wake.set()
            self._count("stale" if entry.failure else "cached")
            return held
        entry.waiters += 1
        try:
            await in_task()
            held = await self._wait(entry, deadline)
        except IssueError:
            self._count("failed")
            raise
        finally:
            entry.waiters -= 1
        self._count("waited")
        return held

    async def _wait(self, entry: _Entry, deadline: float) -> Credentials:
        self._hurry(entry, deadline)
        self._wake.set()
        while (held := self._usable(entry)) is None:
            news = entry.news
            if not entry.flying and entry.failure and entry.retry_at >= deadline:
                raise entry.failure.again()
            try:
                async with asyncio.timeout_at(deadline):
                    await news.wait()
            except TimeoutError:
                if entry.failure:
                    raise entry.failure.again() from None
                raise StsPending("STS has not answered yet", remedy="ask again: the answer is kept") from None
        return held

    def _hurry(self, entry: _Entry, deadline: float) -> None:
        """Somebody waits now, and not as long as the pause: the second try comes as soon as if they had seen the first.

        Only that one, and only of a failure that may pass: an early 503 breaks clients that never ask again.
        """
        if entry.failures == 1 and entry.failure is not None and entry.failure.retryable and entry.retry_at >= deadline:
            entry.retry_at = asyncio.get_running_loop().time() + self._quick()

    def _quick(self) -> float:
        earliest, latest = QUICK_RETRY
        return earliest + (latest - earliest) * self._chance()

    def state(self, call: AssumeRole) -> State:
        """What is held of the call."""
        entry = self._entries.get(call)
        if entry is None:
            return _NOTHING
        held = self._usable(entry)
        now = asyncio.get_running_loop().time()
        return State(
            held=held is not None,
            fetching=entry.flying,
            issued=held.issued if held else None,
            expires=held.expires if held else None,
            renew_at=entry.renew_at if held else None,
            failure=entry.failure,
            failing=now - entry.failing_since if entry.failure else None,
            retry_in=max(0.0, entry.retry_at - now) if entry.failure else None,
        )

    def spending(self) -> Spending:
        """How much of the budget towards STS is left, and what is made of it."""
        left = self._burst if self._bucket is None else self._bucket.level(asyncio.get_running_loop().time())
        return Spending(
            tokens=left,
            burst=self._burst,
            rate=self._rate,
            flights=self._flights,
            concurrency=self._concurrency,
            queued=self._queued,
        )

    def rest(self, resting: bool) -> None:
        """While it rests, STS is asked for those who wait and for nobody else: another process looks ahead."""
        self.resting = resting
        self._wake.set()

    async def landed(self) -> None:
        """Wait until no call is under way."""
        for entry in list(self._entries.values()):
            while entry.flying:
                await entry.news.wait()

    @property
    def settled(self) -> bool:
        """Whether each session that is wanted is held, or was refused."""
        return all(
            self._usable(entry) is not None or entry.failure is not None
            for entry in self._entries.values()
            if entry.wanted
        )

    def held(self) -> tuple[Held, ...]:
        """Everything that is held, for a process that goes on with it."""
        now, wall = asyncio.get_running_loop().time(), self._clock()
        return tuple(
            Held(
                call=entry.call,
                credentials=credentials,
                renew_in=min(entry.renew_at - wall, entry.renew_by - now) if credentials else 0.0,
                serve_in=entry.serve_by - now if credentials else 0.0,
                failure=None if entry.failure is None else _told(entry.failure),
                failures=entry.failures,
                failing=now - entry.failing_since if entry.failure else 0.0,
                retry_in=max(0.0, entry.retry_at - now) if entry.failure else 0.0,
            )
            for entry in self._entries.values()
            if (credentials := self._usable(entry)) is not None or entry.failure is not None
        )

    def adopt(self, held: Iterable[Held]) -> None:
        """Hold what another process held. What is held already and lives longer is kept."""
        now, wall = asyncio.get_running_loop().time(), self._clock()
        for one in held:
            entry = self._entry(one.call)
            if (mine := entry.credentials) is not None and (
                one.credentials is None or one.credentials.expires <= mine.expires
            ):
                continue
            if (credentials := one.credentials) is not None:
                entry.credentials = credentials
                entry.renew_at, entry.renew_by = wall + one.renew_in, now + one.renew_in
                # Neither clock stretches a life: not ours here, nor the other process's there.
                entry.serve_by = now + min(one.serve_in, credentials.expires - LAST_SERVED - wall)
            entry.failure = failure_of(one.failure) if one.failure is not None else None
            entry.failures, entry.retry_at = one.failures, now + one.retry_in
            entry.failing_since = now - one.failing
            entry.tell()
        self._wake.set()

    async def run(self) -> None:
        """Eternal: starts what is due; owns every flight."""
        now = asyncio.get_running_loop().time()
        bucket = self._bucket = TokenBucket(rate=self._rate, burst=self._burst, now=now)
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                nap = self._dispatch(group, bucket)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(nap, TICK)):
                        await self._wake.wait()

    def _entry(self, call: AssumeRole) -> _Entry:
        entry = self._entries.get(call)
        if entry is None:
            entry = self._entries[call] = _Entry(call=call, idle_since=asyncio.get_running_loop().time())
        return entry

    def _usable(self, entry: _Entry) -> Credentials | None:
        held = entry.credentials
        if held is None or not usable(held, self._clock()) or asyncio.get_running_loop().time() >= entry.serve_by:
            return None
        return held

    def _dispatch(self, group: asyncio.TaskGroup, bucket: TokenBucket) -> float:
        """Start what is due and the budget allows, most urgent first; seconds until the next thing may be due."""
        now, wall = asyncio.get_running_loop().time(), self._clock()
        nap = NAP
        due: list[tuple[Priority, int, _Entry]] = []
        for number, entry in enumerate(list(self._entries.values())):
            wait = self._due_in(entry, now, wall)
            if wait is None:
                if self._idle(entry, now):
                    del self._entries[entry.call]
            elif wait <= 0:
                due.append((self._priority(entry, wall), number, entry))
            else:
                nap = min(nap, wait)
        due.sort(key=lambda item: item[:2])
        started = 0
        for _, _, entry in due:
            if self._flights >= self._concurrency:
                break  # the end of a flight wakes us
            if not bucket.take(now):
                nap = min(nap, bucket.wait(now))
                break
            started += 1
            self._flights += 1
            entry.flying = True
            group.create_task(self._fly(entry), name=f"assume {entry.call.role.name}")
        self._queued = len(due) - started
        self._measure(wall, queued=self._queued)
        return nap

    def _due_in(self, entry: _Entry, now: float, wall: float) -> float | None:
        """Seconds until STS is to be asked for an entry; None when it is not, as things stand."""
        if entry.flying or not (entry.waiters or (entry.wanted and not self.resting)):
            return None
        fresh = min(entry.renew_at - wall, entry.renew_by - now) if self._usable(entry) else 0.0
        return max(fresh, entry.retry_at - now if entry.failure else 0.0)

    def _priority(self, entry: _Entry, wall: float) -> Priority:
        if entry.waiters:
            return Priority.WAITING
        if entry.credentials is None:
            return Priority.PREFETCH
        return Priority.EXPIRING if entry.credentials.expires - wall < EXPIRING else Priority.EARLY

    def _idle(self, entry: _Entry, now: float) -> bool:
        return not (entry.flying or entry.wanted or entry.waiters) and now - entry.idle_since >= GRACE

    async def _fly(self, entry: _Entry) -> None:
        try:
            credentials = await self._ask(entry)
        except IssueError as failure:
            self._failed(entry, failure)
        else:
            self._landed(entry, credentials)
        finally:
            entry.flying = False
            self._flights -= 1
            entry.tell()
            self._wake.set()

    async def _ask(self, entry: _Entry) -> Credentials:
        try:
            return await self._ask_once(entry.call)
        except IssueError as failure:
            if not (failure.retryable and entry.waiters and entry.failures == 0):
                raise
        await asyncio.sleep(self._quick())
        return await self._ask_once(entry.call)

    async def _ask_once(self, call: AssumeRole) -> Credentials:
        loop = asyncio.get_running_loop()
        begun, outcome = loop.time(), "ok"
        try:
            async with asyncio.timeout(FLIGHT_LIMIT):
                return await self._issued(call)
        except IssueError as failure:
            outcome = failure.reason.value
            raise
        except TimeoutError as error:
            outcome = StsUnreachable.reason.value
            raise StsUnreachable("STS did not answer in time", remedy="ask again; STS is asked on") from error
        except Exception as error:
            # A mistake of the supplier's must not end the agent: every other pod still depends on it.
            outcome = StsUnreachable.reason.value
            log.exception("the call to STS broke", role_arn=call.role.arn)
            raise StsUnreachable("the call to STS broke", remedy="ask again, and tell the operator") from error
        finally:
            self._metrics.histogram("sts_request_duration_seconds", outcome=outcome).observe(loop.time() - begun)

    async def _issued(self, call: AssumeRole) -> Credentials:
        credentials = await self._issuer.issue(call)
        if usable(credentials, self._clock()):
            return credentials
        # A failure, with its pauses: kept as a session it would be due again at once, for ever.
        raise StsOwnIdentity(
            "the session that STS gave is over already: the node's clock is wrong",
            remedy="ask again, and tell the operator to set the node's clock",
        )

    def _landed(self, entry: _Entry, credentials: Credentials) -> None:
        entry.credentials = credentials
        entry.renew_at = renew_at(credentials, phase=self._chance())
        now, wall = asyncio.get_running_loop().time(), self._clock()
        entry.renew_by = now + entry.renew_at - wall
        entry.serve_by = now + credentials.expires - LAST_SERVED - wall
        entry.failure, entry.failures, entry.retry_at = None, 0, 0.0
        log.info(
            "session issued",
            role_arn=entry.call.role.arn,
            session_name=entry.call.session_name,
            access_key_id=credentials.access_key_id,
            expires=credentials.expires,
            pods=len(entry.wanted),
            pod_uids=sorted(entry.wanted)[:AUDITED],
        )

    def _failed(self, entry: _Entry, failure: IssueError) -> None:
        now = asyncio.get_running_loop().time()
        if entry.failure is None:
            entry.failing_since = now
        entry.failures += 1
        entry.failure = failure
        wait = pause(
            _class_of(failure),
            failures=entry.failures,
            jitter=self._chance(),
            holding=self._usable(entry) is not None,
        )
        entry.retry_at = now + wait
        log.warning(
            "no session",
            role_arn=entry.call.role.arn,
            session_name=entry.call.session_name,
            reason=failure.reason,
            code=failure.code,
            message=failure.message,
            remedy=failure.remedy,
            failures=entry.failures,
            retry_seconds=round(wait, 1),
        )
        self._on_failure(entry.call, failure)

    def _count(self, result: str) -> None:
        self._results[result].inc()

    def _measure(self, wall: float, *, queued: int) -> None:
        lives = [
            entry.credentials.expires - wall
            for entry in self._entries.values()
            if entry.credentials is not None and entry.wanted
        ]
        self._metrics.gauge("sts_queue").set(queued)
        self._metrics.gauge("credentials_wanted").set(sum(1 for entry in self._entries.values() if entry.wanted))
        self._metrics.gauge("credentials_cached").set(
            sum(1 for entry in self._entries.values() if self._usable(entry) is not None)
        )
        self._metrics.gauge("credentials_shortest_life_seconds").set(min(lives, default=0.0))


def _told(failure: IssueError) -> Failure:
    return Failure(reason=failure.reason.value, message=failure.message, remedy=failure.remedy, code=failure.code)


def _class_of(failure: IssueError) -> FailureClass:
    if isinstance(failure, StsInvalidRequest):
        return FailureClass.INVALID
    if isinstance(failure, StsDenied | StsRegionDisabled):
        return FailureClass.DENIED
    return FailureClass.TRANSIENT

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

import structlog

from metaproxy.budget import Spending, TokenBucket
from metaproxy.credentials import Credentials
from metaproxy.eager import in_task
from metaproxy.errors import IssueError, StsPending
from metaproxy.handoverstate import Held
from metaproxy.issuer import BoundedIssuer, Issuer
from metaproxy.roles import AssumeRole
from metaproxy.sessions import Entry, Priority, State
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

NAP = 30.0
"""The longest sleep of the schedule: wall time may jump, and then the schedule must not sleep through it."""

TICK = 0.001
"""The shortest sleep of the schedule: uvloop's clock counts milliseconds, and less would be spun, not slept."""

AUDITED = 16
"""Pods that the record of a session names: one line must stay a line."""

QUICK_RETRY = (0.1, 0.3)
"""Seconds, from and to, before the one second try of a first failure that somebody waits for: an early 503 breaks
clients that never ask again (contract §9.1)."""


@dataclass(slots=True, eq=False)
class _Shared(Entry):
    """An entry for which several may wait."""

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
        self._issuer = BoundedIssuer(issuer, metrics, clock=clock)
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
        self._entries: dict[AssumeRole, _Shared] = {}
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

    async def _wait(self, entry: _Shared, deadline: float) -> Credentials:
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

    def _hurry(self, entry: _Shared, deadline: float) -> None:
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
        return State() if entry is None else entry.state(asyncio.get_running_loop().time(), self._clock())

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
        held = (entry.held(now, wall) for entry in self._entries.values())
        return tuple(one for one in held if one is not None)

    def adopt(self, held: Iterable[Held]) -> None:
        """Hold what another process held. What is held already and lives longer is kept."""
        now, wall = asyncio.get_running_loop().time(), self._clock()
        for one in held:
            entry = self._entry(one.call)
            if entry.adopt(one, now, wall):
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

    def _entry(self, call: AssumeRole) -> _Shared:
        entry = self._entries.get(call)
        if entry is None:
            entry = self._entries[call] = _Shared(call=call, idle_since=asyncio.get_running_loop().time())
        return entry

    def _usable(self, entry: _Shared) -> Credentials | None:
        return entry.usable(asyncio.get_running_loop().time(), self._clock())

    def _dispatch(self, group: asyncio.TaskGroup, bucket: TokenBucket) -> float:
        """Start what is due and the budget allows, most urgent first; seconds until the next thing may be due."""
        now, wall = asyncio.get_running_loop().time(), self._clock()
        nap = NAP
        due: list[tuple[Priority, int, _Shared]] = []
        for number, entry in enumerate(list(self._entries.values())):
            wait = entry.due_in(now, wall, resting=self.resting)
            if wait is None:
                if entry.idle(now):
                    del self._entries[entry.call]
            elif wait <= 0:
                due.append((entry.priority(wall), number, entry))
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

    async def _fly(self, entry: _Shared) -> None:
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

    async def _ask(self, entry: _Shared) -> Credentials:
        try:
            return await self._issuer.issue(entry.call)
        except IssueError as failure:
            if not (failure.retryable and entry.waiters and entry.failures == 0):
                raise
        await asyncio.sleep(self._quick())
        return await self._issuer.issue(entry.call)

    def _landed(self, entry: _Shared, credentials: Credentials) -> None:
        entry.landed(credentials, asyncio.get_running_loop().time(), self._clock(), phase=self._chance())
        log.info(
            "session issued",
            role_arn=entry.call.role.arn,
            session_name=entry.call.session_name,
            access_key_id=credentials.access_key_id,
            expires=credentials.expires,
            pods=len(entry.wanted),
            pod_uids=sorted(entry.wanted)[:AUDITED],
        )

    def _failed(self, entry: _Shared, failure: IssueError) -> None:
        wait = entry.failed(failure, asyncio.get_running_loop().time(), self._clock(), jitter=self._chance())
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

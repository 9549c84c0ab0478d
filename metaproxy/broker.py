"""Credentials on demand and ahead of demand: cache, single flight, renewal, remembered failures.

Knows: for each AssumeRole call what is held, who wants it, who waits for it, and when it is due.
Must not know: botocore, HTTP, pods' annotations, why somebody is entitled to a call; how often STS may be asked.

The broker owns every flight; a waiter owns only its wait, so who hangs up hurts nobody (kiam's fetch ran under its
first caller's deadline). Nothing is ever evicted because it ages: the next session replaces it (kiam's refresh began
with an empty slot). Expiry is wall time; pauses run on the loop's clock, which nobody sets back. Lives run on both:
whichever clock says first that a session is due or over is believed.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable

from metaproxy.budget import Spending
from metaproxy.credentials import Credentials
from metaproxy.eager import in_task
from metaproxy.errors import IssueError, StsPending
from metaproxy.flights import Flights, Shared
from metaproxy.handoverstate import Held
from metaproxy.issuer import Issuer
from metaproxy.roles import AssumeRole
from metaproxy.sessions import Priority, State
from metaproxy.telemetry import Metrics

NAP = 30.0
"""The longest sleep of the schedule: wall time may jump, and then the schedule must not sleep through it."""

TICK = 0.001
"""The shortest sleep of the schedule: uvloop's clock counts milliseconds, and less would be spun, not slept."""


class Broker:
    """Holds sessions; see the module. `rate` and `burst` bound the calls to STS, in calls a second and calls."""

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
        self._metrics = metrics
        self._clock = clock
        self._results = {
            result: metrics.counter("credentials_requests_total", result=result)
            for result in ("cached", "waited", "stale", "failed")
        }
        self._entries: dict[AssumeRole, Shared] = {}
        self._wants: dict[str, AssumeRole] = {}
        self._wake = asyncio.Event()
        self._flights = Flights(
            issuer,
            metrics,
            concurrency=concurrency,
            rate=rate,
            burst=burst,
            clock=clock,
            chance=chance,
            on_end=self._wake.set,
            on_failure=on_failure,
        )
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

    async def _wait(self, entry: Shared, deadline: float) -> Credentials:
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

    def _hurry(self, entry: Shared, deadline: float) -> None:
        """Somebody waits now, and not as long as the pause: the second try comes as soon as if they had seen the first.

        Only that one, and only of a failure that may pass: an early 503 breaks clients that never ask again.
        """
        if entry.failures == 1 and entry.failure is not None and entry.failure.retryable and entry.retry_at >= deadline:
            entry.retry_at = asyncio.get_running_loop().time() + self._flights.quick()

    def state(self, call: AssumeRole) -> State:
        """What is held of the call."""
        entry = self._entries.get(call)
        return State() if entry is None else entry.state(asyncio.get_running_loop().time(), self._clock())

    def spending(self) -> Spending:
        """How much of the budget towards STS is left, and what is made of it."""
        return self._flights.spending()

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
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                nap = self._dispatch(group)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(nap, TICK)):
                        await self._wake.wait()

    def _entry(self, call: AssumeRole) -> Shared:
        entry = self._entries.get(call)
        if entry is None:
            entry = self._entries[call] = Shared(call=call, idle_since=asyncio.get_running_loop().time())
        return entry

    def _usable(self, entry: Shared) -> Credentials | None:
        return entry.usable(asyncio.get_running_loop().time(), self._clock())

    def _dispatch(self, group: asyncio.TaskGroup) -> float:
        """Start what is due and the budget allows, most urgent first; seconds until the next thing may be due."""
        now, wall = asyncio.get_running_loop().time(), self._clock()
        nap = NAP
        due: list[tuple[Priority, int, Shared]] = []
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
        nap = min(nap, self._flights.start(group, [entry for _, _, entry in due]))
        self._measure(wall)
        return nap

    def _count(self, result: str) -> None:
        self._results[result].inc()

    def _measure(self, wall: float) -> None:
        lives = [
            entry.credentials.expires - wall
            for entry in self._entries.values()
            if entry.credentials is not None and entry.wanted
        ]
        self._metrics.gauge("credentials_wanted").set(sum(1 for entry in self._entries.values() if entry.wanted))
        self._metrics.gauge("credentials_cached").set(
            sum(1 for entry in self._entries.values() if self._usable(entry) is not None)
        )
        self._metrics.gauge("credentials_shortest_life_seconds").set(min(lives, default=0.0))

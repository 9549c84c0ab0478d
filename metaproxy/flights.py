"""Calls to STS under way: how many at once and how often, the quick second try, and what came of each.

Knows: the budget towards STS, what is told of a call that has ended.
Must not know: when a call is due, who waits for it, whether its session may be served.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from metaproxy.budget import Spending, TokenBucket
from metaproxy.credentials import Credentials
from metaproxy.errors import IssueError
from metaproxy.issuer import BoundedIssuer, Issuer
from metaproxy.roles import AssumeRole
from metaproxy.sessions import Entry
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

AUDITED = 16
"""Pods that the record of a session names: one line must stay a line."""

QUICK_RETRY = (0.1, 0.3)
"""Seconds, from and to, before the one second try of a first failure that somebody waits for: an early 503 breaks
clients that never ask again (contract §9.1)."""


@dataclass(slots=True, eq=False)
class Shared(Entry):
    """An entry for which several may wait."""

    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake who waits now; who comes later waits for the next news."""
        self.news.set()
        self.news = asyncio.Event()


class Flights:
    """See the module. At most `concurrency` calls at once; `rate` and `burst` in calls a second and calls.

    `on_end` is called whenever a call has ended, `on_failure` before that when it gave no session.
    """

    def __init__(
        self,
        issuer: Issuer,
        metrics: Metrics,
        *,
        concurrency: int,
        rate: float,
        burst: float,
        clock: Callable[[], float],
        chance: Callable[[], float],
        on_end: Callable[[], None],
        on_failure: Callable[[AssumeRole, IssueError], None],
    ) -> None:
        self._issuer = BoundedIssuer(issuer, metrics, clock=clock)
        self._queue = metrics.gauge("sts_queue")
        self._concurrency = concurrency
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._chance = chance
        self._on_end = on_end
        self._on_failure = on_failure
        self._bucket: TokenBucket | None = None
        self._under_way = self._queued = 0

    def start(self, group: asyncio.TaskGroup, due: Sequence[Shared]) -> float:
        """Begin these calls, the first ones first, as far as the budget goes; seconds until it goes further.

        That is for ever when only the end of a call can help.
        """
        now = asyncio.get_running_loop().time()
        bucket = self._budget(now)
        wait, started = float("inf"), 0
        for entry in due:
            if self._under_way >= self._concurrency:
                break
            if not bucket.take(now):
                wait = bucket.wait(now)
                break
            started += 1
            self._under_way += 1
            entry.flying = True
            group.create_task(self._fly(entry), name=f"assume {entry.call.role.name}")
        self._queued = len(due) - started
        self._queue.set(self._queued)
        return wait

    def spending(self) -> Spending:
        """How much of the budget towards STS is left, and what is made of it."""
        now = asyncio.get_running_loop().time()
        return Spending(
            tokens=self._budget(now).level(now),
            burst=self._burst,
            rate=self._rate,
            flights=self._under_way,
            concurrency=self._concurrency,
            queued=self._queued,
        )

    def quick(self) -> float:
        """Seconds before the quick second try."""
        earliest, latest = QUICK_RETRY
        return earliest + (latest - earliest) * self._chance()

    def _budget(self, now: float) -> TokenBucket:
        if self._bucket is None:
            self._bucket = TokenBucket(rate=self._rate, burst=self._burst, now=now)
        return self._bucket

    async def _fly(self, entry: Shared) -> None:
        try:
            credentials = await self._ask(entry)
        except IssueError as failure:
            self._failed(entry, failure)
        else:
            self._landed(entry, credentials)
        finally:
            entry.flying = False
            self._under_way -= 1
            entry.tell()
            self._on_end()

    async def _ask(self, entry: Shared) -> Credentials:
        try:
            return await self._issuer.issue(entry.call)
        except IssueError as failure:
            if not (failure.retryable and entry.waiters and entry.failures == 0):
                raise
        await asyncio.sleep(self.quick())
        return await self._issuer.issue(entry.call)

    def _landed(self, entry: Shared, credentials: Credentials) -> None:
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

    def _failed(self, entry: Shared, failure: IssueError) -> None:
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

"""One AssumeRole call: what is held of it, what failed, who wants it, and when STS is to be asked for it.

Knows: lives and pauses of one call's sessions and failures, on both clocks.
Must not know: the clocks themselves, chance, the event loop, other calls, the budget.

`now` is the loop's time, which nobody sets back; `wall` is Unix seconds. A life runs on both: whichever clock says
first that a session is due or over is believed, so that a wall clock set back stretches no life.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from metaproxy.credentials import LAST_SERVED, Credentials, FailureClass, pause, renew_at, usable
from metaproxy.errors import IssueError, StsDenied, StsInvalidRequest, StsRegionDisabled
from metaproxy.handoverstate import Failure, Held, failure_of
from metaproxy.roles import AssumeRole

GRACE = 300.0
"""Seconds for which a session that nobody wants is kept: a pod that is replaced finds it again."""

EXPIRING = 600.0
"""Seconds of life below which a renewal is urgent: SDKs fail with less than that (contract §9.1)."""


class Priority(IntEnum):
    """Who goes first when the budget is short."""

    WAITING = 0
    EXPIRING = 1
    PREFETCH = 2
    EARLY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is held of a call, for explanations: Unix seconds, no secret. `failing` and `retry_in` are seconds."""

    held: bool = False
    fetching: bool = False
    issued: float | None = None
    expires: float | None = None
    renew_at: float | None = None
    failure: IssueError | None = None
    failing: float | None = None
    retry_in: float | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """See the module. `renew_by`, `serve_by`: when to renew, and the last moment of serving, on the loop's clock."""

    call: AssumeRole
    wanted: set[str] = field(default_factory=set)
    idle_since: float = 0.0
    waiters: int = 0
    flying: bool = False
    credentials: Credentials | None = None
    renew_at: float = 0.0
    renew_by: float = 0.0
    serve_by: float = 0.0
    failure: IssueError | None = None
    failures: int = 0
    failing_since: float = 0.0
    retry_at: float = 0.0

    def usable(self, now: float, wall: float) -> Credentials | None:
        """The session, while it may be served."""
        held = self.credentials
        return None if held is None or not usable(held, wall) or now >= self.serve_by else held

    def due_in(self, now: float, wall: float, *, resting: bool) -> float | None:
        """Seconds until STS is to be asked; None when it is not, as things stand.

        While the broker is `resting` only those who wait are a reason to ask.
        """
        if self.flying or not (self.waiters or (self.wanted and not resting)):
            return None
        fresh = min(self.renew_at - wall, self.renew_by - now) if self.usable(now, wall) else 0.0
        return max(fresh, self.retry_at - now if self.failure else 0.0)

    def priority(self, wall: float) -> Priority:
        """How urgent it is to ask."""
        if self.waiters:
            return Priority.WAITING
        if self.credentials is None:
            return Priority.PREFETCH
        return Priority.EXPIRING if self.credentials.expires - wall < EXPIRING else Priority.EARLY

    def idle(self, now: float) -> bool:
        """Whether nobody has had a use for it for so long that it may be forgotten."""
        return not (self.flying or self.wanted or self.waiters) and now - self.idle_since >= GRACE

    def landed(self, credentials: Credentials, now: float, wall: float, *, phase: float) -> None:
        """STS gave a session; `phase` in [0, 1) moves its renewal."""
        self.credentials = credentials
        self.renew_at = renew_at(credentials, phase=phase)
        self.renew_by = now + self.renew_at - wall
        self.serve_by = now + credentials.expires - LAST_SERVED - wall
        self.failure, self.failures, self.retry_at = None, 0, 0.0

    def failed(self, failure: IssueError, now: float, wall: float, *, jitter: float) -> float:
        """STS gave none; the seconds until it is asked again, which `jitter` in [0, 1) moves."""
        if self.failure is None:
            self.failing_since = now
        self.failures += 1
        self.failure = failure
        holding = self.usable(now, wall) is not None
        wait = pause(_class_of(failure), failures=self.failures, jitter=jitter, holding=holding)
        self.retry_at = now + wait
        return wait

    def state(self, now: float, wall: float) -> State:
        """What is held, for explanations."""
        held = self.usable(now, wall)
        return State(
            held=held is not None,
            fetching=self.flying,
            issued=held.issued if held else None,
            expires=held.expires if held else None,
            renew_at=self.renew_at if held else None,
            failure=self.failure,
            failing=now - self.failing_since if self.failure else None,
            retry_in=max(0.0, self.retry_at - now) if self.failure else None,
        )

    def held(self, now: float, wall: float) -> Held | None:
        """What there is for a process that goes on with it; None if there is nothing."""
        credentials = self.usable(now, wall)
        if credentials is None and self.failure is None:
            return None
        return Held(
            call=self.call,
            credentials=credentials,
            renew_in=min(self.renew_at - wall, self.renew_by - now) if credentials else 0.0,
            serve_in=self.serve_by - now if credentials else 0.0,
            failure=None if self.failure is None else _told(self.failure),
            failures=self.failures,
            failing=now - self.failing_since if self.failure else 0.0,
            retry_in=max(0.0, self.retry_at - now) if self.failure else 0.0,
        )

    def adopt(self, held: Held, now: float, wall: float) -> bool:
        """Go on with what another process held, if nothing here lives longer; whether that is so."""
        theirs, mine = held.credentials, self.credentials
        if mine is not None and (theirs is None or theirs.expires <= mine.expires):
            return False
        if theirs is not None:
            self.credentials = theirs
            self.renew_at, self.renew_by = wall + held.renew_in, now + held.renew_in
            # Neither clock stretches a life: not ours here, nor the other process's there.
            self.serve_by = now + min(held.serve_in, theirs.expires - LAST_SERVED - wall)
        self.failure = failure_of(held.failure) if held.failure is not None else None
        self.failures, self.retry_at = held.failures, now + held.retry_in
        self.failing_since = now - held.failing
        return True


def _told(failure: IssueError) -> Failure:
    return Failure(reason=failure.reason.value, message=failure.message, remedy=failure.remedy, code=failure.code)


def _class_of(failure: IssueError) -> FailureClass:
    if isinstance(failure, StsInvalidRequest):
        return FailureClass.INVALID
    if isinstance(failure, StsDenied | StsRegionDisabled):
        return FailureClass.DENIED
    return FailureClass.TRANSIENT

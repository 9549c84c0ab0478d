"""A token bucket: how often something may be done, as a value that is told the time.

Knows: arithmetic. Must not know: the clock, what is being limited.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The budget towards STS: calls that may begin at once of at most `burst`, calls under way, calls that wait."""

    tokens: float
    burst: float
    rate: float
    flights: int
    concurrency: int
    queued: int


class TokenBucket:
    """`burst` tokens at most, `rate` new ones each second; starts full."""

    __slots__ = ("_burst", "_last", "_level", "_rate")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._last = now

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._fill(now)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 when there is one."""
        self._fill(now)
        # A hair more than the bare quotient: rounding must not wake us a moment too early again and again.
        return 0.0 if self._level >= 1.0 else (1.0 - self._level) / self._rate + 1e-6

    def level(self, now: float) -> float:
        """How many tokens there are."""
        self._fill(now)
        return self._level

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + max(0.0, now - self._last) * self._rate)
        self._last = max(self._last, now)

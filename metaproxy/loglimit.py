"""How often the same thing is worth a line in the log: a pod that is refused again and again must not fill it.

Knows: when each thing was last told and how often it was not. Must not know: the clock, what is told.
"""

from collections import OrderedDict
from collections.abc import Hashable

EVERY = 60.0
"""Seconds between two lines about the same thing."""

KEPT = 1024
"""Things that are remembered; one that is forgotten early is only told once more."""


class LogLimit:
    """Tells whether to tell; `now` is any clock in seconds that does not go back."""

    def __init__(self) -> None:
        self._told: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def left_out(self, thing: Hashable, now: float) -> int | None:
        """How many lines about it were left out since the last one, if it may be told now; None if it may not."""
        last, left_out = self._told.pop(thing, (float("-inf"), 0))
        if now - last < EVERY:
            self._told[thing] = last, left_out + 1
            return None
        self._told[thing] = now, 0
        if len(self._told) > KEPT:
            self._told.popitem(last=False)
        return left_out

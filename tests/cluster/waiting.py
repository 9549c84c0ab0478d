"""Waiting for a server that offers nothing to be woken by.

Knows: the clock. Must not know: what is waited for.
"""

import time
from collections.abc import Callable

_PAUSE = 0.02


def wait_until(what: str, reached: Callable[[], bool], seconds: float) -> None:
    """Ask again and again until it is so; TimeoutError naming `what` after `seconds`: choose ten times too many."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(_PAUSE)

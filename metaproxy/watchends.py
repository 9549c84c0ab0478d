"""How a list or a watch ended, and what follows from that.

Knows: what each error of the API server's says of the version that is held; how pauses grow.
Must not know: the clock, chance, what is watched, how it is had.
"""

from dataclasses import dataclass
from typing import Literal

from metaproxy.kubeanswers import KubeError, KubeIdentity, KubeTimeout, KubeUnreachable

Reason = Literal["end", "silence", "expired", "error", "lost", "refused"]
"""Why a watch ended: cleanly, not in time, by 410, by any other error, by its connection, or by our rights or rate."""

_UNAUTHORIZED, _FORBIDDEN, _GONE, _TOO_MANY, _GATEWAY_TIMEOUT = 401, 403, 410, 429, 504
_REFUSED = frozenset({_UNAUTHORIZED, _FORBIDDEN, _TOO_MANY})
_VERSION_TROUBLE = frozenset({_GONE, _GATEWAY_TIMEOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a round ended.

    `relist`: the version is of no use any more. `at_once`: without a pause. `consistent`: the next list is from etcd.
    `retry_after`: seconds that the server wants to be left alone.
    """

    reason: Reason
    trouble: str = ""
    relist: bool = False
    at_once: bool = False
    consistent: bool = False
    retry_after: float | None = None


def end_by(error: KubeError, *, listing: bool, consistent: bool, expired: bool) -> End:
    """How a round ended that an error ended.

    `listing`: the error came in answer to a list; `consistent`: that was one from etcd; `expired`: the round before
    ended so.
    """
    text = str(error)
    if isinstance(error, KubeIdentity) or error.status in _REFUSED:
        return End(reason="refused", trouble=text, retry_after=error.retry_after)
    if isinstance(error, KubeTimeout):
        # Something says nothing any more, or a version is still to come: only a list can tell.
        return End(reason="silence", trouble=text, relist=True)
    if isinstance(error, KubeUnreachable):
        return End(reason="lost", trouble=text)
    if listing and error.status in _VERSION_TROUBLE:
        return End(reason="expired", trouble=text, consistent=not consistent)
    if error.status == _GONE:
        # At first from the API server's memory: after its restart a whole fleet comes at once. If that gives a
        # version that is too old again (another server lags), the next list must come from etcd.
        return End(reason="expired", trouble=text, relist=True, at_once=not expired, consistent=expired)
    return End(reason="error", trouble=text, relist=True, retry_after=error.retry_after)


def pause_after(failures: int, jitter: float, bounds: tuple[float, float]) -> float:
    """Seconds until the next try after so many failures in a row (1 is the first): half of it fixed, half by jitter."""
    shortest, longest = bounds
    return min(longest, shortest * 2.0 ** min(failures - 1, 64)) * (0.5 + 0.5 * jitter)

"""Who we are to STS: as it has answered, or by the word of the process before until it answers.

Knows: which identity is ours, when STS was asked for it last, whether it takes our keys, when it counts as away.
Must not know: how STS is asked, how keys are found, the clock. Times are the loop's seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from metaproxy.credentials import Keys
from metaproxy.errors import IssueError, StsOwnIdentity
from metaproxy.handoverstate import Held, Own
from metaproxy.stsanswers import Identity, identity_in

FRESH = 3600.0
"""Seconds after which STS is asked again who we are."""

PATIENCE = 1.5
"""Seconds within which STS answers if it is not away: who comes after us waits three for all that it is given."""


async def away(ask: Callable[[], Awaitable[None]]) -> bool:
    """Whether STS, asked now who we are, cannot be reached, fails or has no time; `ask` raises IssueError for that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            for _ in range(2):  # an idle connection that STS closes just then is no outage
                try:
                    await ask()
                except StsOwnIdentity:
                    return False
                except IssueError:
                    continue
                return False
    return True


class OwnIdentity:
    """See the module. `proven`: STS takes our keys, or took those of the process before, which was the same."""

    def __init__(self) -> None:
        self._asked = float("-inf")
        self._heard: Own | None = None
        self.now: Identity | None = None
        self.proven = False

    @property
    def role(self) -> str:
        """The role that trust policies must name; empty while it is not known."""
        return self.now.role if self.now is not None else ""

    def due(self, now: float) -> bool:
        """Whether STS is to be asked."""
        return now >= self._asked + FRESH

    def told(self, identity: Identity, now: float) -> bool:
        """STS has answered; whether that is news: for the first time, or with another identity than ours was."""
        news = self._asked == float("-inf") or self.now != identity
        self.now, self._asked, self.proven = identity, now, True
        return news

    def heard(self, own: Own) -> None:
        """The process before was this to STS."""
        self._heard = own

    def recognized(self, keys: Keys) -> Own | None:
        """What the process before said, where the first keys that were found show that we are who it was; else None.

        While STS is away that is who we are from now on.
        """
        heard, self._heard = self._heard, None
        if heard is None or not heard.has(keys):
            return None
        if heard.away:
            with suppress(IssueError):
                self.now, self.proven = identity_in({"Arn": heard.arn}), True
        return heard

    def own(self, keys: Keys, separate: Held | None, *, away: bool) -> Own | None:
        """What the process after this one may hear: who we are by these keys; None while that is not known."""
        if self.now is None:
            return None
        return Own(away=away, arn=self.now.arn, access_key_id=keys.access_key_id, method=keys.method, separate=separate)

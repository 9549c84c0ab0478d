"""Waiting for what the rounds bring that look after our own keys.

Knows: how the last round failed, what the log is told of that, who waits for the next one.
Must not know: what a round does.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog

from metaproxy.errors import IssueError, StsOwnIdentity
from metaproxy.stserrors import own_failure

log = structlog.get_logger()

ThingT = TypeVar("ThingT")


class KeyRounds:
    """See the module. `failure`: how the last round failed; None when it did not."""

    def __init__(self) -> None:
        self.failure: IssueError | None = None
        self._news = asyncio.Event()

    def ended(self, failure: IssueError | None) -> None:
        """A round ended, or has something already: who waits looks again."""
        before, self.failure = self.failure, failure
        if failure is not None and (before is None or (before.reason, before.code) != (failure.reason, failure.code)):
            log.warning("own identity is in trouble", **_words(failure))
        self._news.set()
        self._news = asyncio.Event()

    async def brought(self, there: Callable[[], ThingT | None], *, within: float) -> ThingT:
        """What `there` finds once a round has brought it: at once when it is there.

        Raises:
            IssueError: the last round failed, or there was nothing within so many seconds.
        """
        try:
            async with asyncio.timeout(within):
                while (thing := there()) is None:
                    if self.failure is not None:
                        raise self.failure.again()
                    await self._news.wait()
                return thing
        except TimeoutError:
            failure = StsOwnIdentity(
                "the agent's own credentials are not known yet", remedy="ask again in a moment", code="Pending"
            )
        raise failure


def not_renewed(error: BaseException) -> None:
    """Tell that our own keys are good for some minutes more, but that others could not be had in time."""
    words = _words(own_failure(error))
    log.warning("own credentials are not renewed: those at hand serve on until they end", **words)


def _words(failure: IssueError) -> dict[str, str]:
    return {"reason": failure.reason, "code": failure.code, "message": failure.message, "remedy": failure.remedy}

"""What clients that are replayed have in common: how they send, what they end with, how they read keys.

Knows: what a client is to its caller.
Must not know: any of them; the agent.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from tests.conformance.replaying import Said, Wire

UNAUTHORIZED, NOT_FOUND = 401, 404
LOST = frozenset({500, 502, 503, 504})
FIELDS = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")
HELD_SECONDS = 21600


@dataclass(frozen=True, slots=True)
class Held:
    """Credentials as a client has read them."""

    key: str
    secret: str
    token: str
    expires: datetime


class Refused(Exception):
    """The client's own error, with the last answer that it had."""

    def __init__(self, said: Said) -> None:
        super().__init__(f"{said.status}: {said.text}")
        self.said = said


class Replay(ABC):
    """A client. `wires` opens a connection; `pause` is called where it sleeps before it tries again."""

    agent: ClassVar[str]
    cached: ClassVar[bool] = False
    """It keeps its token from one fetch to the next."""

    patience: ClassVar[float] = 1.0
    """Seconds for which it waits for an answer."""

    def __init__(
        self, wires: Callable[[], AbstractAsyncContextManager[Wire]], pause: Callable[[], Awaitable[None]]
    ) -> None:
        self._wires, self._pause = wires, pause
        self.without_tokens = False
        self.asked: list[tuple[str, int]] = []
        self.waits: list[tuple[float, float]] = []
        """The times of the loop at which it asked, and how many seconds the answers took."""

    @abstractmethod
    async def fetch(self) -> Held:
        """What it does when it needs credentials.

        Raises:
            Refused: it has none.
        """

    async def _send(self, wire: Wire, line: str, *headers: str) -> Said:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        said = await wire.send(f"{line} HTTP/1.1", *headers)
        self.waits.append((asked, loop.time() - asked))
        self.asked.append((line, said.status))
        return said


def good(document: Mapping[str, str]) -> None:
    """A document of success has nothing in it that is said of a failure."""
    assert document["Code"] == "Success"
    assert "Message" not in document


def read(found: Mapping[str, str]) -> Held:
    """The four fields, none of them empty."""
    assert all(found[name] for name in FIELDS)
    return Held(found["AccessKeyId"], found["SecretAccessKey"], found["Token"], date(found["Expiration"]))


def date(text: str) -> datetime:
    """In the only form that every parser takes."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)

"""STS as the broker meets it: answers after a while, or fails as told, and remembers who was given what."""

import asyncio
from collections import deque
from collections.abc import Callable

from metaproxy.credentials import Credentials, Secret
from metaproxy.roles import AssumeRole

BASE = 1_800_000_000.0
"""The wall time at the loop's second 0."""


class Wall:
    """A wall clock that runs with the loop's clock until somebody sets it: `offset` in seconds."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        """Unix seconds."""
        return BASE + asyncio.get_running_loop().time() + self.offset


class ScriptedIssuer:
    """Sessions of an hour after 50 ms, unless told otherwise.

    `delay` in seconds for each call; `failing` makes the error of every call while it is set; `script` says for the
    next calls alone what happens: an error, or None for a session. `truth` is the clock of STS, `wall` the node's.
    """

    def __init__(self, wall: Callable[[], float], *, delay: float = 0.05, life: float = 3600.0) -> None:
        self.wall = wall
        self.truth: Callable[[], float] = wall
        self.delay = delay
        self.life = life
        self.failing: Callable[[], Exception] | None = None
        self.script: deque[Exception | None] = deque()
        self.calls: list[tuple[float, AssumeRole]] = []
        self.given: dict[str, AssumeRole] = {}
        self.flying = 0
        self.most_flying = 0

    async def issue(self, call: AssumeRole) -> Credentials:
        """One answer of STS."""
        self.calls.append((asyncio.get_running_loop().time(), call))
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        try:
            await asyncio.sleep(self.delay)
        finally:
            self.flying -= 1
        failure = self.script.popleft() if self.script else self.failing() if self.failing else None
        if failure is not None:
            raise failure
        number = len(self.given) + 1
        key = f"ASIA{number:016}"
        self.given[key] = call
        return Credentials(
            access_key_id=key,
            secret_access_key=Secret(f"secret/of/{number}"),
            session_token=Secret(f"token/of/{number}"),
            account=call.role.account,
            issued=self.wall(),
            expires=self.truth() + self.life,
        )

    def times(self, call: AssumeRole | None = None) -> list[float]:
        """When STS was asked, in the loop's seconds: for one call, or for all."""
        return [moment for moment, asked in self.calls if call is None or asked == call]

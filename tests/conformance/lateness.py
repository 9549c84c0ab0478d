"""How late the machine lets this process be, as clients and the agent are late beside it: time-outs are short of that.

Knows: when it wanted to look, and when it could.
Must not know: cells.
"""

import asyncio
import math
from dataclasses import dataclass, field

EVERY = 0.05
"""Seconds between two looks: as many of them come to a second as there are steps in the way of a request that is held,
from the client by the agent to STS and back."""


@dataclass
class Lateness:
    """See the module: the times of the loop at which it wanted to look, and by how many seconds it was late."""

    looks: list[tuple[float, float]] = field(default_factory=list)

    async def run(self) -> None:
        """Eternal: look."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY
            await asyncio.sleep(EVERY)
            self.looks.append((due, loop.time() - due))

    @property
    def worst(self) -> float:
        """The worst of all, in seconds."""
        return max((late for _, late in self.looks), default=0.0)

    def total(self, since: float, until: float = math.inf) -> float:
        """All of it between two times of the loop, in seconds."""
        return sum(late for due, late in self.looks if due + late >= since and due <= until)

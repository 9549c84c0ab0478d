"""How late the machine lets this process be, as clients and the agent are late beside it: time-outs are short of that.

Knows: when it wanted to look, and when it could.
Must not know: cells.
"""

import asyncio
import math
from dataclasses import dataclass, field

EVERY, TOLD = 0.05, 0.1
"""Seconds between two looks, and the lateness that is remembered."""


@dataclass
class Lateness:
    """See the module: the times of the loop at which it was late, and by how many seconds."""

    looks: int = 0
    seen: list[tuple[float, float]] = field(default_factory=list)

    async def run(self) -> None:
        """Eternal: look."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY
            await asyncio.sleep(EVERY)
            self.looks += 1
            if (late := loop.time() - due) > TOLD:
                self.seen.append((due, late))

    def worst(self, since: float = 0.0, until: float = math.inf) -> float:
        """The worst between two times of the loop, in seconds; 0 when it was not late by then."""
        return max((late for due, late in self.seen if due + late >= since and due <= until), default=0.0)

"""When a client or the whole run is given up: a fault that lets no cell be played must not cost the time of each.

Knows: how many cells came to nothing, and how many are too many.
Must not know: why they did. Pure.
"""

from collections import Counter
from dataclasses import dataclass, field

OF_ONE, OF_ALL = 3, 12
"""Cells that may come to nothing until their client gets no more of them, or nobody does."""


@dataclass
class Tally:
    """See the module."""

    lost: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        """Whether nobody gets further cells."""
        return self.lost.total() >= OF_ALL

    def plays(self, client: str) -> bool:
        """Whether the client gets this cell; counted when it does not."""
        plays = not self.over and self.lost[client] < OF_ONE
        self.left_out[client] += not plays
        return plays

    def lose(self, client: str) -> None:
        """A cell of the client came to nothing: it could not be played, or the client came to no end."""
        self.lost[client] += 1

    def words(self) -> list[str]:
        """What was left out, a line for each client, as faults are told."""
        whose = f"{self.lost.total()} of all clients" if self.over else "its own"
        return [
            f"{client}, {number} cells were left out: too many came to nothing before, {whose}"
            for client, number in sorted(self.left_out.items())
            if number
        ]

"""Clocks that are set: how a Python program is given one that may be wrong.

Knows: how it is told to the interpreter (`clock/sitecustomize.py`).
Must not know: whose clock it is.
"""

import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "clock"


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock that a file holds; the folder of the file must be there."""

    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """What gives it to a Python program."""
        path = os.pathsep.join(part for part in (str(FOLDER), os.environ.get("PYTHONPATH", "")) if part)
        return {"PYTHONPATH": path, "CLOCK": str(self.file)}

    def set(self, seconds: float) -> None:
        """From now on it is ahead by so much, or behind when negative."""
        aside = self.file.with_suffix(".aside")
        aside.write_text(str(seconds))
        aside.rename(self.file)

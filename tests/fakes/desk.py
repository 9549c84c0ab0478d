"""Where somebody types the commands of a document: a shell in a folder, with the programs under test on its PATH.

Knows: how a line is run as it stands, and what the shell around it has.
Must not know: what the lines do.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.network.lab.processes import Process

PATIENCE = 600.0
"""Seconds for a command that ends: many times what it takes."""

_SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Desk:
    """See the module. `folder` is where the shell is; `metaproxy` is this checkout's, and `programs` are those by name.

    `environment` has what the shell's has beside that; of the machine's own it has nothing but the PATH.
    """

    def __init__(self, folder: Path, programs: Mapping[str, Path | str] | None = None, **environment: str) -> None:
        self.folder = folder
        self._programs = folder / ".bin"
        self._programs.mkdir(parents=True)
        for name, program in {"metaproxy": f"{sys.executable} -m metaproxy", **(programs or {})}.items():
            self.add(name, program)
        self.environment = {
            "PATH": f"{self._programs}:{_SYSTEM}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            # Else a shell elsewhere than in the checkout might find another one, and nothing of it would be counted.
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **{name: value for name, value in os.environ.items() if name.startswith(("COVERAGE_", "COV_"))},
            **environment,
        }

    def add(self, name: str, program: Path | str) -> None:
        """Let a name be this program, which may have words behind it."""
        path = self._programs / name
        path.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        path.chmod(0o755)

    def type(self, line: str, *codes: int) -> str:
        """Run a command to its end; what it printed. Its exit code must be one of these, 0 unless told otherwise."""
        done = subprocess.run(
            self.shell(line),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode in (codes or (0,)), f"{line}\nexit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def start(self, line: str) -> Process:
        """Start a command that goes on until it is ended."""
        return Process(self.shell(f"cd {self.folder}; exec {line}"), **self.environment)

    @staticmethod
    def shell(line: str) -> list[str]:
        """The line as a shell is given it."""
        return ["bash", "-ec", line]

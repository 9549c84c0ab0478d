"""A daemon of docker's that is the test's own: in its own folder, with no bridge, no rules and no say over the machine.

Knows: dockerd, and how it comes by a Debian without a registry.
Must not know: what is built and run with it.
"""

import shlex
import shutil
from pathlib import Path
from signal import SIGTERM
from types import TracebackType
from typing import Self

from tests.image.building import debian, pip_settings, run
from tests.network.lab.processes import Process

STARTED = 300.0
"""Seconds until it listens: many times what it takes."""

BASE = "debian:test"


class Docker:
    """It runs while it is entered, by a command that begins with the words `before`; images stay in the folder."""

    def __init__(self, folder: Path, *before: str) -> None:
        self._folder, self._before = folder, before
        self._socket = f"unix://{folder}/socket"

    @property
    def command(self) -> str:
        """The client for this daemon: Debian's, whatever other the machine has."""
        return shlex.join([shutil.which("docker", path="/usr/bin") or "docker", "--host", self._socket])

    def __enter__(self) -> Self:
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        words = [f"--{name}={self._folder / place}" for name, place in places.items()]
        words += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        # What it mounts goes with it: some of that it would leave behind.
        daemon = ["unshare", "-m", "sh", "-c", 'exec "$@" 2>&1', "-", "dockerd", *words, "--host", self._socket]
        self._process = Process([*self._before, *daemon])
        try:
            self._process.wait_for("API listen on", seconds=STARTED)
        except BaseException:
            self._process.end(SIGTERM)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.end(SIGTERM)

    def base(self) -> tuple[str, ...]:
        """Arguments for a build: the Debian of the other tests, and the machine's network, as there is no bridge."""
        context = self._folder / "debian"
        context.mkdir()
        shutil.copyfile(debian(), context / "debian.tar")
        pip_settings(context / "pip")
        (context / "Dockerfile").write_text("FROM scratch\nADD debian.tar /\nCOPY pip /etc/xdg/pip\n")
        run(*shlex.split(self.command), "build", "--tag", BASE, str(context))
        return "--network", "host", "--build-arg", f"DEBIAN={BASE}"

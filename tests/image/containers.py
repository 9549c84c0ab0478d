"""Containers as a kubelet has them run: an OCI runtime, the image's own user and command, a root nobody can write to.

Knows: the OCI runtime specification, crun.
Must not know: what is in the image.
"""

import itertools
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.image.building import Image

PATIENCE = 120.0
"""Seconds for a command: many times what it takes."""

_ALONE = ("unshare", "-m", "sh", "-ec", 'mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec "$@"', "-")
"""crun wants to see cgroups of version 2 and nothing else, even where it is to use none."""

_numbers = itertools.count(1)


@dataclass(kw_only=True)
class Container:
    """A container on the machine's own network, as a DaemonSet with hostNetwork has it.

    `arguments` stand in the place of the image's CMD, `capabilities` are those added to none, `shared` are folders and
    files of the machine by their place inside, with "ro" or "rw".
    """

    image: Image
    folder: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    shared: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"mp-{os.getpid()}-{next(_numbers)}")

    def command(self) -> list[str]:
        """The command that runs it and ends with its exit code; signals reach it."""
        bundle = self.folder / self.name
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self._config()))
        return self._crun("run", "--bundle", str(bundle), self.name)

    def run(self, *before: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, whatever its outcome; `before` are words of a command that runs it elsewhere."""
        return _done([*before, *self.command()])

    def execute(self, *command: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in the running container, as its user or another."""
        chosen = ("--user", user) if user else ()
        return _done(self._crun("exec", *chosen, self.name, *command))

    def _crun(self, *arguments: str) -> list[str]:
        # No limits are set, so no cgroups are wanted: in a container of a build farm there may be none to be had.
        return [*_ALONE, "crun", "--cgroup-manager", "disabled", "--root", str(self.folder / "crun"), *arguments]

    def _config(self) -> dict[str, Any]:
        user, group = map(int, self.image.config["User"].split(":"))
        held = [f"CAP_{name}" for name in self.capabilities]
        return {
            "ociVersion": "1.0.2",
            "root": {"path": str(self.image.root), "readonly": True},
            "process": {
                "user": {"uid": user, "gid": group},
                "args": [*self.image.config["Entrypoint"], *(self.arguments or self.image.config["Cmd"])],
                "env": [*self.image.config["Env"], *(f"{name}={value}" for name, value in self.environment.items())],
                "cwd": self.image.config.get("WorkingDir") or "/",
                "noNewPrivileges": True,
                "capabilities": {"bounding": held, "effective": held, "permitted": held},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "mode=755", "size=64k"],
                },
                *(
                    {"destination": place, "type": "bind", "source": str(path), "options": ["rbind", mode]}
                    for place, (path, mode) in self.shared.items()
                ),
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            },
        }


def _done(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

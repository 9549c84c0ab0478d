"""Runs a rendered container's command as the kubelet and a runtime would, as far as one machine without them can.

Knows: mounts, users, groups, capabilities, environment of a container as they stand in a pod's specification.
Must not know: what the command does.

The command is in a mount namespace whose root is read-only, with the volumes where the container has them, as the
container's user and group, with its capabilities as the bounding set and nothing that could gain more. The image is
this machine: `metaproxy` and `python3` are the ones under test. Left out: the image, seccomp, cgroups, SELinux.
"""

import json
import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.network.lab.processes import QUIET, Process

SOURCES = Path(__file__).parents[2]

PATIENCE = 60.0
"""Seconds for a command that ends: many times what it takes."""

_HIDDEN = "/run/.image"
"""Where the programs are, whose own place may be closed to the container's user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubelet:
    """A node with one pod. `volumes`: their folders or files on this machine by name; `fields`: the downward API."""

    pod: Mapping[str, Any]
    volumes: Mapping[str, Path]
    fields: Mapping[str, str]
    environment: Mapping[str, str]
    within: tuple[str, ...] = ()
    """A command that leads into a network namespace, if not into this one."""

    def container(self, name: str) -> Mapping[str, Any]:
        """A container, or init container, by its name."""
        spec = self.pod["spec"]
        (found,) = [each for each in [*spec.get("initContainers", []), *spec["containers"]] if each["name"] == name]
        return dict(found)

    def run(
        self, name: str, *, command: Sequence[str] = (), seconds: float = PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        """Run a container's command, or another one in it as exec does, to its end; subprocess.TimeoutExpired."""
        return subprocess.run(
            self._command(self.container(name), command),
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def start(self, name: str) -> Process:
        """Start a container's command."""
        return Process(self._command(self.container(name), ()))

    def probe(self, name: str, probe: str) -> subprocess.CompletedProcess[str]:
        """Run an exec probe of a container."""
        return self.run(name, command=self.container(name)[probe]["exec"]["command"])

    def _command(self, container: Mapping[str, Any], command: Sequence[str]) -> list[str]:
        words = [*(command or [*container["command"], *container.get("args", [])])]
        script = "\n".join([*self._files(container), f"exec {shlex.join([*_identity(container), *words])}"])
        variables = [f"{name}={value}" for name, value in self._variables(container).items()]
        return [*self.within, "unshare", "--mount", "--propagation=private", "env", *variables, "bash", "-ec", script]

    def _files(self, container: Mapping[str, Any]) -> list[str]:
        """What is done to the mount namespace."""
        python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        places = {f"{_HIDDEN}/python": sys.base_prefix, f"{_HIDDEN}/sources": SOURCES, f"{_HIDDEN}/site": _site()}
        hidden = f"{_HIDDEN}/python/bin/{python.name}"
        lines = [
            "mount -t tmpfs -o mode=755 run /run",
            f"mkdir -p {_HIDDEN}/bin",
            *(f"mkdir -p {to}; mount --bind {shlex.quote(str(at))} {to}" for to, at in places.items()),
            *_program("python3", hidden),
            *_program("metaproxy", f"{hidden} -m metaproxy"),
            # A mount point below /etc takes a folder there, which must not be made on the machine itself.
            f"cp -a /etc {_HIDDEN}/etc; mount --bind {_HIDDEN}/etc /etc",
        ]
        for mount in container.get("volumeMounts", []):
            source, target = self.volumes[mount["name"]], mount["mountPath"]
            make = f"mkdir -p {target}" if source.is_dir() else f"mkdir -p $(dirname {target}); touch {target}"
            lines += [make, f"mount --bind {shlex.quote(str(source))} {target}"]
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {target}")
        if container["securityContext"]["readOnlyRootFilesystem"]:
            lines += [f"mount -o remount,bind,ro {place}" for place in ("/run", "/etc", "/")]
        return [*lines, "cd /"]

    def _variables(self, container: Mapping[str, Any]) -> dict[str, str]:
        found = {
            "PATH": f"{_HIDDEN}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{_HIDDEN}/sources:{_HIDDEN}/site",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environment,
        }
        for each in container.get("env", []):
            source = each.get("valueFrom")
            found[each["name"]] = each["value"] if source is None else self.fields[source["fieldRef"]["fieldPath"]]
        return found


def _program(name: str, command: str) -> list[str]:
    """An executable of that name. Python's own library is to be found where Python is now."""
    path, library = f"{_HIDDEN}/bin/{name}", f"{_HIDDEN}/python/lib"
    text = f'#!/bin/sh\nLD_LIBRARY_PATH={library} exec {command} "$@"\n'
    return [f"printf %s {shlex.quote(text)} > {path}", f"chmod 755 {path}"]


def _site() -> str:
    return sysconfig.get_path("purelib")


def _identity(container: Mapping[str, Any]) -> list[str]:
    """The command by which the rest is run as whom the security context says."""
    context = container["securityContext"]
    capabilities = [f"+{name.lower()}" for name in context["capabilities"].get("add", [])]
    bounds = ",".join(["-all", *capabilities])
    assert context["capabilities"]["drop"] == ["ALL"]
    return [
        "setpriv",
        f"--reuid={context['runAsUser']}",
        f"--regid={context['runAsGroup']}",
        "--clear-groups",
        f"--inh-caps={bounds}",
        f"--bounding-set={bounds}",
        *(["--no-new-privs"] if context["allowPrivilegeEscalation"] is False else []),
    ]


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    """What a command printed, which must be JSON."""
    assert done.stdout, done.stderr
    return json.loads(done.stdout)

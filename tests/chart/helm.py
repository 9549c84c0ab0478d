"""Helm as a process: renders, checks, installs.

Knows: how helm is called, and what it prints.
Must not know: what is in the chart.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "metaproxy"
KUBERNETES = "1.34.4"
"""A helm built by Go itself would else take the cluster for a very old one."""

PATIENCE = 120.0
"""Seconds: many times what any of it takes."""


class HelmError(Exception):
    """Helm refused; the message is what it said."""


class Helm:
    """See the module. `folder` has its cache and configuration: nothing of the user's is read or written."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HELM_")},
            **{f"HELM_{part}_HOME": str(folder / part.lower()) for part in ("CACHE", "CONFIG", "DATA")},
        }

    def run(self, *arguments: str | Path, kubeconfig: Path | None = None) -> str:
        """What it printed; raises HelmError."""
        done = subprocess.run(
            self.command(*arguments, kubeconfig=kubeconfig),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout

    def start(self, *arguments: str | Path, kubeconfig: Path) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        command = self.command(*arguments, kubeconfig=kubeconfig)
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def command(self, *arguments: str | Path, kubeconfig: Path | None = None) -> list[str]:
        """The command line."""
        where = [] if kubeconfig is None else [f"--kubeconfig={kubeconfig}"]
        return [str(self._program), *map(str, arguments), *where]

    def text(self, *arguments: str | Path, release: str = "metaproxy", namespace: str = "metaproxy") -> str:
        """The chart as it is rendered; raises HelmError."""
        fixed = ("--namespace", namespace, "--kube-version", KUBERNETES)
        return self.run("template", release, CHART, *fixed, *arguments)

    def objects(self, *arguments: str | Path, **more: Any) -> list[dict[str, Any]]:
        """The objects of the chart as it is rendered; raises HelmError."""
        return [each for each in yaml.safe_load_all(self.text(*arguments, **more)) if each]

    def with_values(self, values: Mapping[str, Any], **more: Any) -> list[dict[str, Any]]:
        """The objects with these values, the keys of which may be paths: `config.sts.region`."""
        return self.objects(*(f"--set-json={key}={json.dumps(value)}" for key, value in values.items()), **more)


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def settings_of(objects: list[dict[str, Any]]) -> str:
    """The agent's settings file in its ConfigMap."""
    (found,) = [
        each["data"]["config.yaml"] for each in objects if each["kind"] == "ConfigMap" and "config.yaml" in each["data"]
    ]
    return str(found)

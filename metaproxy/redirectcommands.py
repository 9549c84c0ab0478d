"""The node's own tools, run: ip, nft, iptables, conntrack.

Knows: how a command is started, what its failures mean for an operator, how several are tried each in turn.
Must not know: what any of them is for.

Commands and not pyroute2: iptables can be spoken to in no other way, the operator can repeat by hand what is run, and
iproute2 and nft answer in JSON.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 30.0
"""Seconds for a command: it takes milliseconds, unless somebody holds iptables' lock."""

CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW"}
"""Those that can be needed, by their bit (linux/capability.h)."""


class RedirectError(Exception):
    """A step could not be done: which, why, and what to do."""


class MissingToolError(RedirectError):
    """A tool is not installed."""


def run(*command: str, stdin: str | None = None, accept: tuple[str, ...] = ()) -> str:
    """What a command printed.

    Raises:
        RedirectError: it failed, and what it complains of is none of what is accepted.
    """
    try:
        done = subprocess.run(  # noqa: S603  no shell, and the words are ours
            command, input=stdin, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
        )
    except FileNotFoundError:
        raise MissingToolError(f"{command[0]} is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RedirectError(f"{' '.join(command)}: {error}") from error
    if done.returncode and not any(text in done.stderr for text in accept):
        raise RedirectError(f"{' '.join(command)}: {_explained(done.stderr.strip())}")
    return done.stdout


def listed(*command: str, accept: tuple[str, ...] = ()) -> Any:
    """The JSON that a command printed; an empty list when it printed nothing, or what is no JSON."""
    try:
        return json.loads(run(*command, accept=accept) or "[]")
    except ValueError:
        return []


def lacking(*numbers: int) -> str:
    """Which of the capabilities this process has not; empty when it has all."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return " and ".join(CAPABILITIES[number] for number in numbers if not held >> number & 1)
    return ""


class Tries:
    """Steps of which each is tried, whatever became of the others."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def do(self, step: Callable[..., None], *arguments: Any) -> None:
        """Try a step."""
        try:
            step(*arguments)
        except RedirectError as error:
            self.failed.append(str(error))

    def run(self, *command: str, accept: tuple[str, ...] = ()) -> None:
        """Try a command."""
        try:
            run(*command, accept=accept)
        except RedirectError as error:
            self.failed.append(str(error))

    def end(self) -> None:
        """Raise RedirectError if a step failed, naming each."""
        if self.failed:
            raise RedirectError("; ".join(dict.fromkeys(self.failed)))


def _explained(complaint: str) -> str:
    lines = " ".join(complaint.split()) or "it failed and said nothing"
    if "Unknown device type" in complaint:
        return f"{lines} (this kernel has no dummy devices: name an existing device with --redirect.device)"
    return lines

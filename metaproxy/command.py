"""What a command is, and what commands share: bad usage, exit codes, the parser with all settings in it.

Knows: how a command is described and called.
Must not know: any command.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaproxy.settingsources import Parser

CLEAN, FAILED, USAGE = 0, 1, 2


class UsageError(Exception):
    """Bad usage: what is wrong, in lines for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command: its line in the help, how it is used, what it is for, and what it does.

    `group`: the group of settings that matters for it; empty when all do.
    """

    summary: str
    usage: str
    about: str
    act: Callable[[str, Sequence[str]], int]
    group: str = ""


def parser_of(name: str) -> "Parser":
    """A parser that knows every setting, for the command to add its own options to."""
    from metaproxy.settings import Settings  # noqa: PLC0415  see __main__
    from metaproxy.settingsources import Parser  # noqa: PLC0415

    return Parser(f"metaproxy {name}", Settings)


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before and after the first `--`: ours, and a peer's."""
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]

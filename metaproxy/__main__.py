"""The program: leads to the command that the arguments name, and tells mistakes.

Knows: how a command is found, and how bad usage and an agent that does not answer are told.
Must not know: any command.

Exit codes: 0 clean, 1 failed while running, 2 bad usage or settings. What a command needs is imported when it runs:
`health` is started every few seconds on every node.
"""

import difflib
import io
import sys
from collections.abc import Sequence

from metaproxy import __version__
from metaproxy.adminclient import AgentError
from metaproxy.command import CLEAN, FAILED, USAGE, UsageError
from metaproxy.commands import COMMANDS, help_for
from metaproxy.wording import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What cannot be written in this terminal's letters is written out: it may be a pod's name.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        match given:
            case ["--version", *_]:
                print(f"metaproxy {__version__}")
            case ["--help" | "-h" | "help", *_]:
                print(help_for(), end="")
            case []:
                raise UsageError("no command\nsee metaproxy --help")  # noqa: TRY301  told like every other
            case [name, *rest]:
                return _act(name, rest)
    except UsageError as error:
        for line in str(error).splitlines():
            print(f"metaproxy: {printable(line)}", file=sys.stderr)
        return USAGE
    except AgentError as error:
        print(f"metaproxy: {printable(str(error))}", file=sys.stderr)
        return FAILED
    return CLEAN


def _act(name: str, arguments: Sequence[str]) -> int:
    command = COMMANDS.get(name)
    if command is None:
        closest = max(COMMANDS, key=lambda other: difflib.SequenceMatcher(None, name, other).ratio())
        raise UsageError(f"{name[:80]!a} is no command; the closest is {closest}\nsee metaproxy --help")
    if "--help" in arguments or "-h" in arguments:
        print(help_for(name), end="")
        return CLEAN
    return command.act(name, arguments)


if __name__ == "__main__":
    sys.exit(main())

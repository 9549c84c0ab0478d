"""The commands that ask the running agent: health, explain, status.

Knows: their options and help, and how the agent's answers are told to a person.
Must not know: what the agent does.

What a command needs is imported when it runs: `health` is started every few seconds on every node.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from metaproxy.adminclient import AgentError, Where, ask, shown
from metaproxy.command import CLEAN, FAILED, Command, UsageError, parser_of
from metaproxy.wording import printable

if TYPE_CHECKING:
    from metaproxy.settingsources import Parser

_OK = 200


def _health(name: str, arguments: Sequence[str]) -> int:
    parser = parser_of(name)
    for option in ("--ready", "--redirect"):
        parser.add_argument(option, action="store_true")
    options, where = _admin(parser, arguments, "redirect" if "--redirect" in arguments else "admin")
    status, body = ask(where, "/readyz?verbose" if options.ready else "/livez")
    for line in body.rstrip("\n").split("\n"):
        print(printable(line))
    return CLEAN if status == _OK else FAILED


def _explain(name: str, arguments: Sequence[str]) -> int:
    parser = parser_of(name)
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--pod")
    whom.add_argument("--ip")
    parser.add_argument("--json", action="store_true")
    options, where = _admin(parser, arguments)
    if options.pod is not None and not all(options.pod.partition("/")):
        raise UsageError("--pod: write NAMESPACE/NAME")
    if options.ip is not None:
        import ipaddress  # noqa: PLC0415

        try:
            ipaddress.ip_address(options.ip)
        except ValueError as error:
            raise UsageError("--ip: write an IP address") from error
    query = {"pod": options.pod} if options.pod is not None else {"ip": options.ip}
    status, about = _document(where, f"/explain?{urlencode(query)}")
    if options.json:
        print(json.dumps(about, indent=2))
    else:
        print("\n".join(_lines(about)))
    return CLEAN if status == _OK and about.get("pod") is not None else FAILED


def _status(name: str, arguments: Sequence[str]) -> int:
    parser = parser_of(name)
    for option in ("--json", "--watch"):
        parser.add_argument(option, action="store_true")
    options, where = _admin(parser, arguments)
    if options.watch and (options.json or not sys.stdout.isatty()):
        raise UsageError("--watch redraws a terminal: it goes with no --json and no pipe")
    from metaproxy import statustable  # noqa: PLC0415  see the module
    from metaproxy.statusview import view  # noqa: PLC0415

    def look() -> dict[str, Any]:
        status, about = _document(where, "/status.json")
        if status != _OK:
            raise AgentError(f"the agent at {shown(where)} does not tell: {about.get('message', status)}")
        return about

    def again() -> Any:
        try:
            return view(look())
        except AgentError as error:
            return printable(f"metaproxy: {error}; asking again")

    if options.watch:
        statustable.watch(again)
    elif options.json:
        print(json.dumps(look(), indent=2))
    else:
        statustable.show(view(look()))
    return CLEAN


def _lines(about: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A document for a person: whatever is in it, one line for each value."""
    labelled = [(printable(key.replace("_", " ")), value) for key, value in about.items()]
    width = max((len(label) for label, value in labelled if not isinstance(value, dict)), default=0)
    for label, value in labelled:
        if isinstance(value, dict):
            yield f"{indent}{label}"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{label:<{width}}  {printable(_words(value))}"


def _words(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_words, value)) or "none"
    return str(value)


def _admin(parser: "Parser", arguments: Sequence[str], group: str = "admin") -> tuple[argparse.Namespace, Where]:
    """The command's options, and where the running agent, or the redirect's watch, can be asked."""
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load_group  # noqa: PLC0415

    try:
        options, flags = parser.read(arguments)
        admin = load_group(Settings, flags, group)
    except SettingsError as error:
        raise UsageError(str(error)) from error
    if admin.socket is not None:
        return options, admin.socket
    if admin.listen is None:
        raise UsageError("--admin.listen: with none nobody can be asked; give --admin.socket")
    host, port = admin.listen
    if port == 0:
        raise UsageError(f"--{group}.listen: with port 0 nobody knows where it listens; give the port")
    # Who listens on every address answers on this one.
    return options, ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


def _document(where: Where, target: str) -> tuple[int, dict[str, Any]]:
    """Status and document of the running agent's answer."""
    status, body = ask(where, target)
    try:
        about = json.loads(body)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise AgentError(f"what answers at {shown(where)} is no agent")
    return status, about


COMMANDS: Mapping[str, Command] = {
    "explain": Command(
        summary="ask the running agent why a pod gets what it gets",
        usage="(--pod NAMESPACE/NAME | --ip ADDRESS) [--json] [settings]",
        about="Tells which pod it is, which role it has, which rule decides, how its credentials are, and what to do.\n"
        "Exit code 1 when the agent does not answer or knows no such pod.\n\n"
        "  --pod NAMESPACE/NAME\n      The pod by its name.\n"
        "  --ip ADDRESS\n      The pod that owns the address.\n"
        "  --json\n      The same for a program.",
        act=_explain,
        group="admin",
    ),
    "status": Command(
        summary="ask the running agent about all pods of its node",
        usage="[--json | --watch] [settings]",
        about="Tells each pod's role, decision, session, last failure and carrier, and how the agent itself is.\n"
        "Exit code 1 when the agent does not answer.\n\n"
        "  --json\n      The same for a program.\n"
        "  --watch\n      Look again every 2 s, until Ctrl-C.",
        act=_status,
        group="admin",
    ),
    "health": Command(
        summary="ask the running agent whether it is alive, or ready",
        usage="[--redirect] [--ready] [settings]",
        about="Exit code 0 when the agent is alive, else 1.\n\n"
        "  --ready\n      Ask whether it is ready: synced, listening, its own identity usable; and tell what is not.\n"
        "  --redirect\n      Ask metaproxy redirect watch instead; ready is it when the redirect is in place.",
        act=_health,
        group="admin",
    ),
}

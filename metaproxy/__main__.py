"""The commands, their exit codes, and which function each calls.

Knows: how each command is used, and how its answer is told to a person.
Must not know: how any of them does its work.

Exit codes: 0 clean, 1 failed while running, 2 bad usage or settings. What a command needs is imported when it runs:
`health` is started every few seconds on every node.
"""

import argparse
import difflib
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from metaproxy import __version__
from metaproxy.adminclient import AgentError, Where, ask, shown
from metaproxy.wording import printable

if TYPE_CHECKING:
    from metaproxy.settingsources import Parser

CLEAN, FAILED, USAGE = 0, 1, 2

_OK = 200
_DEMO_PACKAGES = ("moto", "flask", "boto3")


class UsageError(Exception):
    """Bad usage: what is wrong, in lines for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command: its line in the help, how it is used, what it is for, and what it does."""

    summary: str
    usage: str
    about: str
    act: Callable[[str, Sequence[str]], int]


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


def help_for(name: str = "") -> str:
    """The help of a command, or of the program."""
    if not name:
        return _OVERVIEW + "".join(f"  {name:<9} {command.summary}\n" for name, command in COMMANDS.items()) + _CLOSING
    command = COMMANDS[name]
    text = f"usage: metaproxy {name} {command.usage}\n\n{command.about}\n"
    if "[settings]" not in command.usage:
        return text
    from metaproxy.knobs import help_text  # noqa: PLC0415  see the module
    from metaproxy.settings import Settings  # noqa: PLC0415

    if (group := _GROUPS.get(name)) is not None:
        return f"{text}\nAll settings of metaproxy run are taken; this group matters:\n\n{help_text(Settings, [group])}"
    return f"{text}\n{help_text(Settings)}"


def _run(name: str, arguments: Sequence[str]) -> int:
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load  # noqa: PLC0415

    try:
        _, flags = _parser(name).read(arguments)
        settings = load(Settings, flags).settings
    except SettingsError as error:
        raise UsageError(str(error)) from error
    from metaproxy import app  # noqa: PLC0415  only when there is something to run

    return app.run(settings)


def _config(name: str, arguments: Sequence[str]) -> int:
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import as_yaml, load  # noqa: PLC0415

    parser = _parser(name)
    parser.add_argument("--from", dest="peer")
    try:
        mine, _, theirs = _parted(arguments)
        options, flags = parser.read(mine)
        if options.peer is not None:
            print(_migrated(options.peer, theirs), end="")
            return CLEAN
        if theirs:
            raise UsageError("flags after -- are a peer's: --from kiam or --from kube2iam")
        print(as_yaml(load(Settings, flags)), end="")
    except SettingsError as error:
        raise UsageError(str(error)) from error
    return CLEAN


def _parted(arguments: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """What stands before and after the first `--`."""
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], "--", words[at + 1 :]


def _migrated(peer: str, flags: Sequence[str]) -> str:
    """A peer's flags as our settings file, with a comment for each that has no place in it."""
    import yaml  # noqa: PLC0415

    from metaproxy.migration import PEERS, MigrationError, migrated  # noqa: PLC0415

    known = next((each for each in PEERS if each == peer), None)
    if known is None:
        raise UsageError(f"--from: one of {', '.join(PEERS)}")
    try:
        found = migrated(known, flags)
    except MigrationError as error:
        raise UsageError(str(error)) from error
    lines = [f"# {flag}: {why}\n" for flag, why in found.notes]
    return (yaml.safe_dump(found.settings, sort_keys=True) if found.settings else "") + "".join(lines)


def _redirect(name: str, arguments: Sequence[str]) -> int:
    from metaproxy import redirect  # noqa: PLC0415  see the module
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load_group  # noqa: PLC0415

    parser = _parser(name)
    parser.add_argument("verb", choices=redirect.VERBS)
    for option in ("--json", "--guard", "--cilium"):
        parser.add_argument(option, action="store_true")
    # Each of the group's own settings may go by its bare name here.
    long = [f"--redirect.{word[2:]}" if word.partition("=")[0] in _BARE else word for word in arguments]
    try:
        options, flags = parser.read(long)
        chosen, logs = (load_group(Settings, flags, group) for group in ("redirect", "log"))
    except SettingsError as error:
        raise UsageError(str(error)) from error
    if (options.guard or options.cilium) and options.verb != "render":
        raise UsageError("--guard and --cilium say what to render")
    if options.json and options.verb not in {"apply", "check"}:
        raise UsageError("--json goes with apply and check")
    if options.verb == "render":
        print(redirect.render(chosen, guard=options.guard, cilium=options.cilium), end="")
        return CLEAN
    return redirect.act(options.verb, chosen, logs, as_json=options.json)


def _iam(name: str, arguments: Sequence[str]) -> int:
    from metaproxy import iam  # noqa: PLC0415  see the module
    from metaproxy.iamformats import FORMATS  # noqa: PLC0415
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load_some  # noqa: PLC0415

    parser = _parser(name)
    parser.add_argument("verb", choices=iam.VERBS)
    for option in ("--role", "--node-role"):
        parser.add_argument(option, action="append", default=[])
    for option in ("--external-id", "--existing"):
        parser.add_argument(option, default="")
    parser.add_argument("--format", choices=list(FORMATS), default="json")
    try:
        options, flags = parser.read(arguments)
        chosen = load_some(Settings, flags, "assume_role_arn", "role_base_arn", "sts")
        text = iam.document(
            options.verb,
            hop=chosen.assume_role_arn,
            base=chosen.role_base_arn,
            tags=bool(chosen.sts.session_tags),
            source_identity=bool(chosen.sts.source_identity),
            roles=options.role,
            node_roles=options.node_role,
            external_id=options.external_id,
            existing=options.existing,
            form=options.format,
        )
    except (SettingsError, iam.IamError) as error:
        raise UsageError(str(error)) from error
    print(text, end="")
    return CLEAN


def _doctor(name: str, arguments: Sequence[str]) -> int:
    from metaproxy import doctor  # noqa: PLC0415  see the module
    from metaproxy.findings import as_document, as_lines, good  # noqa: PLC0415
    from metaproxy.migration import PEERS, MigrationError  # noqa: PLC0415
    from metaproxy.peers import PeerRules  # noqa: PLC0415
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load_some  # noqa: PLC0415

    parser = _parser(name)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--compat", choices=PEERS)
    mine, _, theirs = _parted(arguments)
    try:
        options, flags = parser.read(mine)
        chosen = load_some(Settings, flags, *doctor.GROUPS)
        peer = PeerRules.of(options.compat, theirs) if options.compat else None
    except (SettingsError, MigrationError) as error:
        raise UsageError(str(error)) from error
    if theirs and peer is None:
        raise UsageError("flags after -- are a peer's: --compat kiam or --compat kube2iam")
    found = doctor.examine(chosen, peer)
    if options.json:
        print(json.dumps(as_document(found), indent=2))
    else:
        for line in as_lines(found):
            print(printable(line))
    return CLEAN if good(found) else FAILED


def _demo(name: str, arguments: Sequence[str]) -> int:
    parser = _PlainParser(prog=f"metaproxy {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--port", type=int)
    options = parser.parse_args(arguments)
    if options.port is not None and not 0 < options.port <= 65535:  # noqa: PLR2004  the ports there are
        raise UsageError("--port: a port is 1 to 65535")
    import importlib.util  # noqa: PLC0415  see the module

    # Looked for before anything begins: the demo itself meets them late, in the middle of its start.
    if missing := [name for name in _DEMO_PACKAGES if importlib.util.find_spec(name) is None]:
        raise UsageError(f"the demo needs {', '.join(missing)}: pip install 'metaproxy[demo]'")
    from metaproxy import demo  # noqa: PLC0415

    return demo.main(once=options.once, port=options.port)


def _health(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(name)
    for option in ("--ready", "--redirect"):
        parser.add_argument(option, action="store_true")
    options, where = _admin(parser, arguments, "redirect" if "--redirect" in arguments else "admin")
    status, body = ask(where, "/readyz?verbose" if options.ready else "/livez")
    for line in body.rstrip("\n").split("\n"):
        print(printable(line))
    return CLEAN if status == _OK else FAILED


def _explain(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(name)
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


def _status(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(name)
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


def _parser(name: str) -> "Parser":
    from metaproxy.settings import Settings  # noqa: PLC0415
    from metaproxy.settingsources import Parser  # noqa: PLC0415

    return Parser(f"metaproxy {name}", Settings)


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


class _PlainParser(argparse.ArgumentParser):
    """A parser of a command without settings, whose mistakes are told as all others are."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}\nsee {self.prog} --help")


COMMANDS = {
    "run": Command(
        summary="answer the pods of this node until told to stop",
        usage="[settings]",
        about="Answers pods on the metadata address until SIGTERM or SIGINT.",
        act=_run,
    ),
    "demo": Command(
        summary="see it at work on this machine: no cluster, no account",
        usage="[--once] [--port PORT]",
        about="A tour with an embedded STS and pods that are loopback addresses; then it keeps serving.\n\n"
        "  --once\n      End after the tour: 0 when everything went as it should, else 1.\n"
        "  --port PORT\n      Where the first agent listens. Default: any free port.",
        act=_demo,
    ),
    "config": Command(
        summary="show the settings in effect, and where each comes from",
        usage="[--from kiam|kube2iam -- FLAGS...] [settings]",
        about="Shows the settings in effect as YAML, each with its source, passwords left out; exit code 2 when they\n"
        "cannot work.\n\n"
        "  --from kiam|kube2iam -- FLAGS...\n"
        "      What the flags of that program come to: a settings file, and why a flag has no place in it.",
        act=_config,
    ),
    "explain": Command(
        summary="ask the running agent why a pod gets what it gets",
        usage="(--pod NAMESPACE/NAME | --ip ADDRESS) [--json] [settings]",
        about="Tells which pod it is, which role it has, which rule decides, how its credentials are, and what to do.\n"
        "Exit code 1 when the agent does not answer or knows no such pod.\n\n"
        "  --pod NAMESPACE/NAME\n      The pod by its name.\n"
        "  --ip ADDRESS\n      The pod that owns the address.\n"
        "  --json\n      The same for a program.",
        act=_explain,
    ),
    "redirect": Command(
        summary="lead this node's pods to the agent, with no way around it",
        usage="(apply | check | remove | watch | render [--guard | --cilium]) [--json] [settings]",
        about="Addresses, unreachable routes, routing rules and netfilter rules, for IPv4 and IPv6.\n"
        "Needs CAP_NET_ADMIN, and ip, nft or iptables, and conntrack.\n"
        "Exit code 0 when it is done or in place, 1 when it failed or is not, 2 for bad usage; a device that is named\n"
        "and not there is that for apply and watch, for check and remove it is a device without our addresses.\n\n"
        "  apply\n      Put it in place; safe to repeat.\n"
        "  check\n      Tell what is not as it should be.\n"
        "  remove\n      Take all of it away.\n"
        "  watch\n      Put it in place and repair it, until told to stop; stopping removes nothing.\n"
        "  render\n      Print it as a script, for review. Changes nothing.\n"
        "  --guard\n      Of render: the routing rules alone, for a unit that runs before the kubelet.\n"
        "  --cilium\n      Of render: the CiliumLocalRedirectPolicy instead.\n"
        "  --json\n      Of apply and check: the answer for a program.",
        act=_redirect,
    ),
    "iam": Command(
        summary="print the IAM documents of a set-up",
        usage="(node-policy | hop-policy | hop-trust | trust-policy) [options] [settings]",
        about="Asks and changes nothing. What the settings turn on (separate role, session tags, source identity)\n"
        "is in the documents, and nothing else.\n\n"
        "  node-policy\n      What the nodes' role, or the agent's own, may do.\n"
        "  hop-policy\n      What the separate role may do.\n"
        "  hop-trust\n      Whom the separate role trusts.\n"
        "  trust-policy\n      Whom an application role trusts: the separate role if there is one, else --node-role.\n"
        "  --role ROLE (several)\n      Application roles: a name, PATH/NAME or ARN; policies are narrowed to them.\n"
        "  --node-role ARN (several)\n      The role of the nodes, or of the agent.\n"
        "  --external-id ID\n      What trust-policy asks for besides.\n"
        "  --existing FILE\n      A trust policy whose other statements are kept.\n"
        "  --format json|terraform|cloudformation\n      Default: json.",
        act=_iam,
    ),
    "doctor": Command(
        summary="look for what is wrong with a set-up",
        usage="[--json] [--compat kiam|kube2iam [-- FLAGS...]] [settings]",
        about="Looks at identity, roles, cluster and node, and says of each check: ok, warning, problem, or not\n"
        "checked and why; with a remedy. Every role that a pod is entitled to is assumed once, and nothing kept.\n"
        "Nothing is changed. Exit code 0 when there is no problem, else 1. See docs/doctor.md.\n\n"
        "  --json\n      The answer for a program.\n"
        "  --compat kiam|kube2iam\n      Also which pods would be decided differently than by that peer, and why.\n"
        "  FLAGS\n      The flags that the peer is started with.",
        act=_doctor,
    ),
    "status": Command(
        summary="ask the running agent about all pods of its node",
        usage="[--json | --watch] [settings]",
        about="Tells each pod's role, decision, session, last failure and carrier, and how the agent itself is.\n"
        "Exit code 1 when the agent does not answer.\n\n"
        "  --json\n      The same for a program.\n"
        "  --watch\n      Look again every 2 s, until Ctrl-C.",
        act=_status,
    ),
    "health": Command(
        summary="ask the running agent whether it is alive, or ready",
        usage="[--redirect] [--ready] [settings]",
        about="Exit code 0 when the agent is alive, else 1.\n\n"
        "  --ready\n      Ask whether it is ready: synced, listening, its own identity usable; and tell what is not.\n"
        "  --redirect\n      Ask metaproxy redirect watch instead; ready is it when the redirect is in place.",
        act=_health,
    ),
}

_GROUPS = {"explain": "admin", "health": "admin", "status": "admin", "redirect": "redirect"}
"""Commands for which one group of settings matters."""

_BARE = {"--include-interface", "--exclude-interface", "--exclude-source"}

_OVERVIEW = """\
usage: metaproxy COMMAND [options]
       metaproxy --version

Gives each pod of a Kubernetes node credentials of exactly the IAM role that it is entitled to,
on the EC2 metadata address.

"""

_CLOSING = """
metaproxy COMMAND --help tells about one; metaproxy run --help lists all settings. Each setting is
a flag (--sts.region), an environment variable (METAPROXY_STS__REGION) or a key in a YAML file
(region below sts); flag over environment over file over default. Empty means unset.

Exit codes: 0 clean, 1 failed while running, 2 bad usage or settings.
"""

if __name__ == "__main__":
    sys.exit(main())

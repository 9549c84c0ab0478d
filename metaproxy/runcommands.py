"""The commands that serve until told to stop, or change the node: run, demo, redirect.

Knows: their options and help, and which function each calls.
Must not know: how any of them does its work.

What a command needs is imported when it runs: see `__main__`.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from metaproxy.command import CLEAN, Command, UsageError, parser_of

_DEMO_PACKAGES = ("moto", "flask", "boto3")
_BARE = {"--include-interface", "--exclude-interface", "--exclude-source"}


def _run(name: str, arguments: Sequence[str]) -> int:
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load  # noqa: PLC0415

    try:
        _, flags = parser_of(name).read(arguments)
        settings = load(Settings, flags).settings
    except SettingsError as error:
        raise UsageError(str(error)) from error
    from metaproxy import life  # noqa: PLC0415  only when there is something to run

    return life.run(settings)


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


def _redirect(name: str, arguments: Sequence[str]) -> int:
    from metaproxy import redirect  # noqa: PLC0415  see the module
    from metaproxy.settings import Settings, SettingsError  # noqa: PLC0415
    from metaproxy.settingsources import load_group  # noqa: PLC0415

    parser = parser_of(name)
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


class _PlainParser(argparse.ArgumentParser):
    """A parser of a command without settings, whose mistakes are told as all others are."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}\nsee {self.prog} --help")


COMMANDS: Mapping[str, Command] = {
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
        "  --json\n      Of apply and check: the answer for a program.\n"
        "  --include-interface, --exclude-interface, --exclude-source\n      The settings of these names.",
        act=_redirect,
        group="redirect",
    ),
}

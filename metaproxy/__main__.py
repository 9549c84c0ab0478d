"""The commands: their flags, exit codes, and which function each calls.

Knows: how people and probes start us.
Must not know: how anything works. Each command imports what it needs when it runs: `health` is an exec probe, and must
cost a few milliseconds, not the whole program.

Exit codes: 0 clean, 1 failed while running, 2 bad usage or settings.
"""

import argparse
import http.client
import json
import os
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from metaproxy import __version__

TIMEOUT = 3.0
"""Seconds for an answer of the running agent."""

UNSET = argparse.SUPPRESS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words)
    options, strange = parser.parse_known_args(words)
    if options.command is None:
        parser.print_help()
        return 2
    if strange:
        parser.error(f"{strange[0]}: there is no such flag{_meant(strange[0], options.flags)}")
    return int(options.run(options))


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Every command; the settings' flags only for the command that is called, because they cost their imports."""
    parser = argparse.ArgumentParser(
        prog="metaproxy",
        description="Answers pods on the EC2 metadata address with credentials of the IAM role they are entitled to.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"metaproxy {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    run = commands.add_parser("run", help="answer pods until SIGTERM", allow_abbrev=False)
    run.set_defaults(run=_run)
    demo = commands.add_parser("demo", help="see it all on this machine: no cluster, no account", allow_abbrev=False)
    demo.add_argument("--once", action="store_true", help="end after the tour, with 0 or 1")
    demo.add_argument("--port", type=int, default=None, help="where the first agent answers; a free port if not given")
    demo.set_defaults(run=_demo)
    config = commands.add_parser(
        "config", help="show the effective settings, or what is wrong with them", allow_abbrev=False
    )
    config.set_defaults(run=_config)
    explain = commands.add_parser(
        "explain", help="ask the running agent why a pod gets what it gets", allow_abbrev=False
    )
    which = explain.add_mutually_exclusive_group(required=True)
    which.add_argument("--pod", metavar="NAMESPACE/NAME", help="a pod of this node by its name")
    which.add_argument("--ip", metavar="ADDRESS", help="whoever owns this address")
    explain.add_argument("--json", action="store_true", help="print the answer as it comes")
    explain.set_defaults(run=_explain)
    health = commands.add_parser("health", help="ask the running agent whether it is alive", allow_abbrev=False)
    health.add_argument("--ready", action="store_true", help="ask whether it is ready, and why not")
    health.set_defaults(run=_health)
    for name, command in (("run", run), ("config", config), ("explain", explain), ("health", health)):
        if words[:1] == [name]:
            _add_settings(command, whole=command in (run, config))
    for command in commands.choices.values():
        command.set_defaults(flags=[flag for action in command._actions for flag in action.option_strings])  # noqa: SLF001
    return parser


def _meant(flag: str, known: Sequence[str]) -> str:
    from metaproxy.configuration import closest  # noqa: PLC0415

    return closest(flag.partition("=")[0], known)


def _add_settings(parser: argparse.ArgumentParser, *, whole: bool) -> None:
    """A flag for each setting, grouped as the settings are; only the admin address where we talk to a running agent."""
    if not whole:
        parser.add_argument(
            "--admin.listen", default=UNSET, metavar="ADDR:PORT", help="the admin address of the running agent"
        )
        parser.add_argument("--config", default=UNSET, metavar="FILE", help="the settings file of the running agent")
        return
    from metaproxy.configuration import groups  # noqa: PLC0415

    parser.add_argument("--config", default=UNSET, metavar="FILE", help="a YAML file of settings")
    for name, meaning, knobs in groups():
        group = parser.add_argument_group(name or "identity", meaning)
        for knob in knobs:
            note = f" [{knob.default}]" if knob.default else ""
            options: dict[str, Any] = {"dest": knob.key, "default": UNSET, "help": f"{knob.field.description}{note}"}
            if knob.switch:
                options["action"] = argparse.BooleanOptionalAction
            elif knob.several:
                options |= {"action": "append", "metavar": "VALUE"}
            elif knob.choices:
                options["metavar"] = "|".join(knob.choices)
            else:
                options["metavar"] = "VALUE"
            group.add_argument(knob.flag, **options)


def _settings(options: argparse.Namespace) -> Any:
    """The loaded settings; prints what is wrong and returns None."""
    from metaproxy.configuration import SettingsError, load  # noqa: PLC0415

    flags = {key: value for key, value in vars(options).items() if key not in {"command", "run", "flags"}}
    try:
        return load(flags, os.environ)
    except SettingsError as error:
        for line in error.lines:
            print(f"metaproxy: {line}", file=sys.stderr)
        return None


def _run(options: argparse.Namespace) -> int:
    loaded = _settings(options)
    if loaded is None:
        return 2
    from metaproxy.app import run  # noqa: PLC0415

    return run(loaded.settings)


def _config(options: argparse.Namespace) -> int:
    loaded = _settings(options)
    if loaded is None:
        return 2
    from metaproxy.configuration import effective  # noqa: PLC0415

    print(effective(loaded), end="")
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from metaproxy.demo import main as demo  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"moto", "boto3"}:
            raise
        print("metaproxy: the demo needs more packages: pip install 'metaproxy[demo]'", file=sys.stderr)
        return 2
    return demo(once=options.once, port=options.port)


def _explain(options: argparse.Namespace) -> int:
    query = {"pod": options.pod} if options.pod else {"ip": options.ip}
    status, body = _ask(options, f"/explain?{urlencode(query)}")
    if status is None:
        return 1
    if options.json:
        print(body, end="")
    else:
        for line in _lines(json.loads(body)):
            print(line)
    return 0 if status == http.HTTPStatus.OK else 1


def _health(options: argparse.Namespace) -> int:
    status, body = _ask(options, "/readyz?verbose" if options.ready else "/livez")
    if status is None:
        return 1
    print(body, end="")
    return 0 if status == http.HTTPStatus.OK else 1


def _ask(options: argparse.Namespace, path: str) -> tuple[int | None, str]:
    """Ask the running agent; (None, "") when it does not answer, which is said."""
    host, port = _admin_address(options)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError as error:
        print(f"metaproxy: no agent answers at {host}:{port}: {error.strerror or error}", file=sys.stderr)
        return None, ""
    finally:
        connection.close()


def _admin_address(options: argparse.Namespace) -> tuple[str, int]:
    """Where the running agent's admin listener is: the same setting, without reading all the others."""
    given = getattr(options, "admin.listen", None) or os.environ.get("METAPROXY_ADMIN__LISTEN")
    config = getattr(options, "config", None) or os.environ.get("METAPROXY_CONFIG")
    if not given and config:
        import yaml  # noqa: PLC0415

        with open(config, encoding="utf-8") as file:  # noqa: PTH123
            given = ((yaml.safe_load(file) or {}).get("admin") or {}).get("listen")
    host, _, port = (given or "127.0.0.1:9181").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and port.isdigit()):
        print("metaproxy: --admin.listen: an address is ADDR:PORT, an IPv6 address in brackets", file=sys.stderr)
        raise SystemExit(2)
    # Who listens everywhere is asked on loopback.
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)


def _lines(value: Any, indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, inner in value.items():
        name = key.replace("_", " ")
        if isinstance(inner, dict):
            lines += [f"{indent}{name}:", *_lines(inner, f"{indent}  ")]
        elif inner not in (None, [], ""):
            text = ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
            lines.append(f"{indent}{name}: {text}")
    return lines


if __name__ == "__main__":
    sys.exit(main())

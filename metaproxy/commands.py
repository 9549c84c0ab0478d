"""All commands by their names, in the order of the help; and the help.

Knows: which commands there are.
Must not know: what any of them does.
"""

from collections.abc import Mapping

from metaproxy import agentcommands, runcommands, setupcommands
from metaproxy.command import Command

_ALL = {**runcommands.COMMANDS, **setupcommands.COMMANDS, **agentcommands.COMMANDS}

COMMANDS: Mapping[str, Command] = {
    name: _ALL[name] for name in ("run", "demo", "config", "explain", "redirect", "iam", "doctor", "status", "health")
}

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


def help_for(name: str = "") -> str:
    """The help of a command, or of the program."""
    if not name:
        return _OVERVIEW + "".join(f"  {name:<9} {command.summary}\n" for name, command in COMMANDS.items()) + _CLOSING
    command = COMMANDS[name]
    text = f"usage: metaproxy {name} {command.usage}\n\n{command.about}\n"
    if "[settings]" not in command.usage:
        return text
    from metaproxy.knobs import help_text  # noqa: PLC0415  see __main__
    from metaproxy.settings import Settings  # noqa: PLC0415

    if command.group:
        group = help_text(Settings, [command.group])
        return f"{text}\nAll settings of metaproxy run are taken; this group matters:\n\n{group}"
    return f"{text}\n{help_text(Settings)}"

"""Writes the documents that are made from code, or says which of them have drifted from it.

    python -m scripts.generate_docs           write them
    python -m scripts.generate_docs --check   exit 1 and name those that are not as they would be written

Knows: which document is made from what.
Must not know: anything that is not said in the code.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from metaproxy.commands import COMMANDS, help_for
from metaproxy.knobs import knobs, titles
from metaproxy.metricnames import METRICS, REDIRECT_METRICS, Spec
from metaproxy.settings import Settings
from scripts import chart, clients_page

DOCS = Path(__file__).parent.parent / "docs"
CHART = "../charts/metaproxy"

_MADE = "<!-- Made by `make docs`; change the code that it is made from. -->"

_CONFIGURATION = f"""\
# Configuration

{_MADE}

Each setting has one name in three spellings: a flag, an environment variable, and a key in the YAML file that
`--config` names (`sts.region` is `region` below `sts`). Flag over environment over file over default. Empty means
unset. Lists are given by repeating the flag; in a variable by commas or as JSON. A list or mapping replaces the whole
one of a weaker source. Unknown flags, keys, and variables that begin with `METAPROXY_` are refused with the closest
known name; what Kubernetes sets for Services is left alone.

`metaproxy config` shows what is in effect and where it comes from. Settings that cannot work end it, and
`metaproxy run`, with exit code 2 and the name of each.
"""

_METRICS = f"""\
# Metrics

{_MADE}

At `/metrics` of the admin listener. Labels are bounded: never a role, pod, namespace or address.

"""


def configuration() -> str:
    """`docs/configuration.md`."""
    parts = [_CONFIGURATION]
    for group, title in titles(Settings).items():
        heading = f"`{group}`: {title}" if group else f"{title}"
        rows = [
            (
                f"`{one.flag}`",
                f"`{one.variable}`",
                f"`{one.key}`" if one.key != "config" else "",
                f"{', '.join(f'`{word}`' for word in one.metavar.split('|'))}{', several' if one.several else ''}",
                one.unit or "",
                f"`{one.default}`" if one.literal else one.default,
                f"{one.meaning} *{one.reason}*",
            )
            for one in knobs(Settings)
            if one.group == group
        ]
        columns = ("flag", "environment", "file key", "type", "unit", "default", "meaning, *reason for the default*")
        parts.append(f"\n## {heading}\n\n{_table(columns, rows)}")
    return "".join(parts)


def metrics() -> str:
    """`docs/metrics.md`."""
    return f"{_METRICS}{_of(METRICS)}\n## Of `metaproxy redirect watch`\n\n{_of(REDIRECT_METRICS)}"


def _of(specs: Iterable[Spec]) -> str:
    rows = [
        (
            f"`{spec.name}`",
            spec.kind,
            _unit(spec.name),
            "<br>".join(f"`{name}`: {values}" for name, values in spec.labels) or "",
            spec.help,
        )
        for spec in specs
    ]
    return _table(("name", "kind", "unit", "labels", "meaning"), rows)


def command_line() -> str:
    """`docs/command-line.txt`: the help of the program and of each command."""
    texts = [("metaproxy --help", help_for())]
    texts += [(f"metaproxy {name} --help", help_for(name)) for name in COMMANDS]
    return "\n".join(f"$ {line}\n{text}" for line, text in texts)


DOCUMENTS: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "metrics.md": metrics,
    "command-line.txt": command_line,
    f"{CHART}/values.yaml": chart.values,
    f"{CHART}/values.schema.json": chart.schema,
    f"{CHART}/README.md": chart.readme,
    f"{CHART}/files/admission.yaml": chart.policies,
    "clients.md": clients_page.page,
    "../README.md": clients_page.readme,
}


def drifted(folder: Path) -> list[str]:
    """The names of those documents in the folder that are missing or not as they would be written."""
    return [
        name
        for name, make in DOCUMENTS.items()
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != make()
    ]


def main(arguments: Sequence[str] | None = None, folder: Path = DOCS) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.generate_docs", description="Write generated documents.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when one has drifted")
    if parser.parse_args(arguments).check:
        for name in (stale := drifted(folder)):
            print(f"{folder / name} is not what the code says: run make docs", file=sys.stderr)
        return 1 if stale else 0
    for name, make in DOCUMENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(make(), encoding="utf-8")
    return 0


def _unit(name: str) -> str:
    """The unit that a metric's name ends in, by the conventions of Prometheus."""
    return next((unit for unit in ("seconds", "bytes") if unit in name.split("_")), "")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())

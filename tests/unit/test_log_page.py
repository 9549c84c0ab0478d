"""What documents say of the log, of metrics and of reasons, against what the code says."""

import ast
import difflib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from metaproxy.errors import Reason
from metaproxy.metricnames import METRICS, REDIRECT_METRICS
from tests import guides

ROOT = Path(__file__).parents[2]
LEVELS = {"debug": False, "info": False, "warning": True, "error": True, "exception": True, "log": True}
"""The log's methods: whether what they say is something that an operator must find in the documents."""


@cache
def sources() -> list[ast.Module]:
    """The program."""
    return [ast.parse(path.read_text()) for path in sorted((ROOT / "metaproxy").glob("*.py"))]


def texts(node: ast.AST) -> Iterator[str]:
    """The literals in it."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def events() -> dict[str, bool]:
    """What the code writes into the log: whether as a warning, or something worse, somewhere."""
    found: dict[str, bool] = {}
    for node in (each for module in sources() for each in ast.walk(module)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level), args=[*_, said]):
                for text in texts(said):
                    found[text] = found.get(text, False) or LEVELS[level]
    return found


def tabled() -> list[str]:
    """What stands in the first columns of the documents' tables of log lines."""
    rows = []
    for page in guides.PAGES:
        for table in re.findall(r"^\| in the log.*\n\|[-|]+\n((?:\|.*\n)+)", (ROOT / page).read_text(), re.MULTILINE):
            rows += [event for row in table.splitlines() for event in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    return rows


def test_every_warning_has_its_line() -> None:
    """Each once, in the words of the log; and nothing has one that is never written. A line may end before a colon."""
    said, rows = events(), tabled()
    assert len(said) > 60
    assert sorted(rows) == sorted(set(rows))
    known = {row: [text for text in said if text == row or text.startswith(f"{row}:")] for row in rows}
    assert [row for row, found in known.items() if len(found) != 1] == []
    assert {text for (text,) in known.values()} == {text for text, bad in said.items() if bad}


def quoted(page: str) -> list[str]:
    """Words of a page's text in code's letters that are neither commands nor settings: something that was said."""
    prose = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    tools = re.compile(rf"(?:{'|'.join(guides.TOOLS)}) ")
    words = re.compile(r"[a-z][a-z',:-]*( [A-Za-z'-]+[,:]?)+")
    return [span for span in spans if words.fullmatch(span) and not tools.match(span)]


def test_what_is_quoted_is_said() -> None:
    """Words in the text that look like something of ours are in the program, as they stand or behind a check's name."""
    literals = "\n".join(" ".join(text.split()) for module in sources() for text in texts(module))
    found = [(page, span) for page in guides.PAGES for span in quoted(page)]
    assert len(found) > 60
    known = {*literals.split("\n")}
    assert [each for each in found if each[1] not in literals and each[1].rpartition(": ")[2] not in known] == []


@pytest.mark.parametrize("page", [*guides.PAGES, "charts/metaproxy/files/alerts.yaml"])
def test_metrics_that_are_named_exist(page: str) -> None:
    """With the labels that they are given."""
    known = {spec.name: {label for label, _ in spec.labels} for spec in (*METRICS, *REDIRECT_METRICS)}
    for name, labels in re.findall(r"\b(metaproxy_[a-z0-9_]+)(?:\{([^}]*)\})?", (ROOT / page).read_text()):
        bare = re.sub(r"_(?:bucket|sum|count)$", "", name)
        assert name in known or bare in known or any(each.startswith(name) for each in known if name.endswith("_")), (
            name
        )
        assert set(re.findall(r"(\w+)\s*[=!]", labels)) <= known.get(name, known.get(bare, set())), (name, labels)


@pytest.mark.parametrize("page", guides.PAGES)
def test_no_reason_is_misspelt(page: str) -> None:
    """What is nearly a reason's code is one."""
    for word in re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", (ROOT / page).read_text()):
        assert word in set(Reason) or not difflib.get_close_matches(word, list(Reason), cutoff=0.85), word

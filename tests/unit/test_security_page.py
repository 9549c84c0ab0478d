"""The page on security names tests that exist, and speaks of each vector once."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text()
NAMED = re.compile(r"`([a-z]+/[a-z_]+\.py)::(\w+)`")
ROW = re.compile(r"^\| (\d+) \| .+ \| (closed|partly|open) \| (.+) \|$", re.MULTILINE)


@cache
def defined(file: str) -> set[str]:
    """The tests that pytest finds at the top of a file."""
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED.findall(PAGE))))
def test_named_tests_exist(file: str, test: str) -> None:
    """A renamed or removed test takes its claim along."""
    assert test.startswith("test_")
    assert test in defined(file)


def test_every_test_is_named_in_full() -> None:
    """No test is named in a way that the check above does not see."""
    assert set(re.findall(r"\btest_\w+\b(?!\.py)", PAGE)) == {test for _, test in NAMED.findall(PAGE)}


def test_every_vector_is_spoken_of_once() -> None:
    """In order, and nothing is called closed without a test."""
    rows = ROW.findall(PAGE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 49))
    assert all(NAMED.search(by) for _, state, by in rows if state != "open")

"""The page on the architecture tells of the modules that there are, and what it calls pure is held to that."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MODULES = {path.stem: path for path in (ROOT / "metaproxy").glob("*.py") if path.stem != "__init__"}
PICTURE = PAGE.split("```")[1]


def pictured(part: str) -> list[str]:
    """The modules in a part of the picture: those that a line begins with, before what is said of them."""
    names = [re.split(r" {3,}", line)[0].split() for line in part.splitlines()]
    return [name for line in names for name in line if name in MODULES]


def test_every_module_is_pictured_once() -> None:
    """In its place among the layers."""
    assert sorted(pictured(PICTURE)) == sorted(MODULES)


def test_of_every_module_it_is_said_what_it_knows() -> None:
    """In one row of the table at least; and none is named that is not there."""
    rows = re.findall(r"^\| (`[^|]+) \|", PAGE.partition("## Who knows what")[2], re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert sorted(told | {"__main__"}) == sorted(MODULES)


def test_what_is_called_pure_is_held_to_it() -> None:
    """Below the line of the picture, in the coverage gate of the Makefile, and in the contract on imports: the same."""
    below = set(pictured(PICTURE.partition("below: pure")[2]))
    gate = re.search(r"^PURE := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert gate is not None
    assert set(gate[1].split()) == below
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (pure,) = [contract for contract in contracts if contract["name"] == "The core is pure"]
    assert {name.removeprefix("metaproxy.") for name in pure["source_modules"]} == below


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_begins_with_what_it_knows(module: str) -> None:
    """And with what it must not know."""
    page = MODULES[module].read_text().split('"""')[1]
    assert "Knows: " in page
    assert "Must not know: " in page

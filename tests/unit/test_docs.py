"""The documents: links lead somewhere, settings and commands that are named exist, and what is to be typed is run."""

import re
from pathlib import Path

import pytest

from metaproxy.commands import COMMANDS
from metaproxy.knobs import knobs
from metaproxy.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without what is in fences."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The fragments by which its headings are reached, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the project, and to a heading in it."""
    for link in LINK.findall(prose(page)):
        if re.match(r"https?:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not fragment or fragment in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_and_commands_exist(page: Path) -> None:
    """A flag with a group in its name is a setting, and `metaproxy WORD` is a command."""
    flags = {knob.flag for knob in knobs(Settings)}
    text = page.read_text()
    groups = {flag.partition(".")[0] for flag in flags if "." in flag}
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*\.[a-z][a-z_-]*", text):
        assert flag in flags or flag.partition(".")[0] not in groups, flag
    for pair in re.findall(
        r"`metaproxy ([a-z]+)|^metaproxy ([a-z]+)",
        "\n".join([prose(page).replace("\n", " "), *FENCED.findall(text)]),
        re.MULTILINE,
    ):
        assert "".join(pair) in COMMANDS, pair


def test_every_command_to_type_is_in_a_page_that_a_test_runs() -> None:
    """A page with blocks for a shell has a test that reads that page."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    for page in PAGES:
        if "```sh\n" in page.read_text():
            assert f'"{page.name}"' in tests or f"docs/{page.name}" in tests, page.name

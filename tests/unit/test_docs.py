"""The documents: links lead somewhere, settings and commands that are named exist, and what is to be typed is run."""

import re
from pathlib import Path

import pytest

from metaproxy.commands import COMMANDS, help_for
from metaproxy.knobs import knobs
from metaproxy.migration import PEERS, Flag, read
from metaproxy.settings import Settings
from metaproxy.settingsources import Parser, load_group
from tests import guides

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


@pytest.mark.parametrize("page", [*guides.PAGES, guides.NOTES])
def test_every_command_is_run_by_a_test(page: str) -> None:
    """A test claims it, or the table says why none does; not both."""
    run = {text for claim in guides.claims() if claim.page == page for text in guides.claimed(page, claim.said)}
    known = {text for where, said in guides.NOT_RUN if where == page for text in guides.claimed(page, said)}
    texts = {command.text for command in guides.commands(page)}
    assert sorted(texts - run - known) == []
    assert sorted(known & run) == []
    assert [said for where, said in guides.NOT_RUN if where == page and not guides.claimed(page, said)] == []


def test_every_claim_is_about_a_command() -> None:
    """Of a page that is there, with that text."""
    claims = guides.claims()
    assert len(claims) > 20
    assert [claim for claim in claims if claim.page not in {*guides.PAGES, guides.NOTES}] == []
    assert [claim for claim in claims if not guides.claimed(claim.page, claim.said)] == []


def test_what_no_test_runs_is_a_known_limit() -> None:
    """The README says it, but for what the gate itself runs."""
    readme = " ".join((ROOT / "README.md").read_text().split())
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck: ")[2].partition("\n\n")[0]
    limits = readme[readme.index("## Known limits") :]
    for (page, text), why in guides.NOT_RUN.items():
        if why == guides.BY_THE_GATE:
            assert text.replace("make", "$(MAKE)") in recipe
        else:
            assert page in limits, text


@pytest.mark.parametrize("page", guides.PAGES)
def test_commands_stand_where_they_are_found(page: str) -> None:
    """In blocks for a shell; any other block holds none."""
    for language, block in guides.blocks(page):
        assert language in guides.LANGUAGES, language
        assert language.startswith("sh") or guides.pictured(block) == []


@pytest.mark.parametrize("page", [page for page in guides.PAGES if page != "docs/configuration.md"])
def test_commands_in_the_text_have_the_options_that_they_are_given(page: str) -> None:
    """Each `metaproxy …` is one that its help knows, each `make …` a target of the Makefile."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for span in re.findall(r"`((?:metaproxy|make) [^`]+)`", prose(ROOT / page)):
        tool, name, *words = span.split(" -- ")[0].split()
        if tool == "make":
            assert name in targets, span
            continue
        known = help_for(name)
        for word in words:
            option = word.partition("=")[0]
            if option.startswith("--") and "." not in option:
                assert re.search(rf"{option}\b", known), span


OTHERS = {
    "--build-arg": "builders",
    "--platform": "builders",
    "--register-with-taints": "the kubelet",
    "--service-account-issuer": "the API server",
    "--set": "helm",
}
"""Flags in the text that are not ours, nor those of who is migrated from: whose they are."""


def is_a_peers(flag: str) -> bool:
    """Whether kiam or kube2iam has it."""
    return any(isinstance(next(read(peer, [flag, "x"])), Flag) for peer in PEERS)


def test_flags_in_the_text_are_ones_of_ours() -> None:
    """Each by itself is some command's, or a peer's that is read; a setting's takes the value that it is given."""
    options = {*re.findall(r"--[a-z][a-z0-9.-]*", "".join(map(help_for, COMMANDS)))}
    settings, named = {one.flag for one in knobs(Settings) if one.group}, set[str]()
    for page in guides.PAGES:
        for span in re.findall(r"`(--[^`]+)`", prose(ROOT / page)):
            flag, _, value = re.sub(r"\s+|=", " ", span, count=1).partition(" ")
            named.add(flag)
            assert flag in options or flag in OTHERS or is_a_peers(flag), (page, span)
            if value and flag in settings:
                _, given = Parser("metaproxy run", Settings).read([flag, value])
                load_group(Settings, given, flag[2:].partition(".")[0])
    assert set(OTHERS) <= named


def test_the_parts_of_a_block() -> None:
    """Comments go, continued lines are one."""
    block = "# first\nmake demo     # a tour\n\nhelm upgrade \\\n  --set a=b#c\n"
    assert guides.lines(block) == ["make demo", "helm upgrade --set a=b#c"]

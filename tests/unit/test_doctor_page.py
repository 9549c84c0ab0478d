"""The page on the doctor speaks of each check and each difference, in the doctor's own words; its commands are read."""

import re
import shlex
from pathlib import Path

import pytest

from metaproxy.compat import Why
from metaproxy.doctor import GROUPS
from metaproxy.findings import CHECKS
from metaproxy.peers import PeerRules
from metaproxy.settings import Settings
from metaproxy.settingsources import Parser, load_some

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "doctor.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("metaproxy ")]
ROW = re.compile(r"^\| (.+?) \| (.+) \| (.+) \|$", re.MULTILINE)


def rows(title: str) -> list[tuple[str, ...]]:
    """The table below a heading, without its own."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return ROW.findall(section)[1:]


def test_every_check() -> None:
    """In order, with what ok means, and something to do."""
    table = rows("Checks")
    assert [(name.strip("`"), meaning.replace("`", "")) for name, meaning, _ in table] == list(CHECKS.items())
    assert all(remedy.strip() for _, _, remedy in table)


def test_every_difference() -> None:
    """By the name that the report gives it."""
    assert [name for name, _, _ in rows("Compared with kiam or kube2iam")] == [why.value for why in Why]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands(command: str) -> None:
    """Their flags are ours, and behind the dashes the peer's; what they do is run elsewhere."""
    name, verb, *words = shlex.split(command)
    assert (name, verb) == ("metaproxy", "doctor")
    mine, _, theirs = " ".join(words).partition("-- ")
    parser = Parser("metaproxy doctor", Settings)
    for option in ("--json", "--node"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--compat")
    options, flags = parser.read(mine.split())
    load_some(Settings, flags, *GROUPS)
    if theirs:
        assert PeerRules.of(options.compat, theirs.split()).restricted


@pytest.mark.parametrize("guide", ["migrate-from-kiam.md", "migrate-from-kube2iam.md"])
def test_settings_that_the_guides_name_exist(guide: str) -> None:
    """Flags with a dot are ours; metrics and pages are there."""
    text = (DOCS / guide).read_text()
    known = (DOCS / "configuration.md").read_text()
    for flag in set(re.findall(r"`(--[a-z]+\.[a-z-]+)", text)):
        assert f"`{flag}`" in known
    for metric in set(re.findall(r"`(metaproxy_[a-z_]+)`", text)):
        assert f"`{metric}`" in (DOCS / "metrics.md").read_text()
    for page in set(re.findall(r"\]\(([a-z-]+\.md)\)", text + PAGE)):
        assert (DOCS / page).exists()

"""The documents as what people type: their commands, and the claims of tests to run them.

Knows: how commands stand in the pages, what the marker `runs` says, which commands no test runs and why.
Must not know: what the commands do.

A command is a line of a block marked `sh` (comments and continued lines are joined away), or of NOTES.txt, or stands
in the text as code that begins with the name of a tool. A test claims it by its page and its text, or the
beginning of it before ` …`:

    @pytest.mark.runs("docs/install.md", "kubectl create namespace metaproxy", "helm upgrade --install …")
    def test_install(typed: Typed) -> None: ...

The fixture `typed` gives out the text as it stands in the page; a test that has not taken all that it claims fails.
`tests/unit/test_docs.py` fails for a command that nobody claims, and for a claim whose command is gone.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTES = "charts/metaproxy/templates/NOTES.txt"
PAGES = (
    "README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "charts/metaproxy/README.md",
)

TOOLS = (
    *("aws", "buildah", "curl", "docker", "helm", "ip", "iptables", "kubectl", "make", "metaproxy", "nft", "podman"),
    *("ss", "sysctl"),
)
"""What a line begins with that is to be typed."""

LANGUAGES = frozenset({"sh", "sh node", "yaml", "json", "ini", ""})
"""`sh node`: on a node. What has no language is a picture."""

_BLOCK = re.compile(r"^ *```([^\n`]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_TOOL = re.compile(rf"(?:{'|'.join(TOOLS)}) ")
_NAME = re.compile(r"[a-z]+ [a-z]+")

BY_THE_GATE = "`make check` runs it, which tests are part of"

NOT_RUN: Mapping[tuple[str, str], str] = {
    ("README.md", "make demo"): BY_THE_GATE,
    ("README.md", "make test"): BY_THE_GATE,
}
"""By page and text, as in a claim: what no test runs, and why. The README's known limits say so too."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command as it stands in a page. `block`: the language of its block; empty in the text."""

    page: str
    text: str
    block: str = ""


def commands(page: str) -> list[Command]:
    """All commands of a page, in its order."""
    text = (ROOT / page).read_text()
    if page == NOTES:
        return [Command(page, line, "sh") for line in re.findall(r"^  ((?:kubectl|helm) .+)$", text, re.MULTILINE)]
    found = [
        (match.start(), Command(page, line, match[1]))
        for match in _BLOCK.finditer(text)
        if match[1].startswith("sh")
        for line in lines(match[2])
    ]
    prose = _BLOCK.sub(lambda match: " " * len(match[0]), text)
    for match in _SPAN.finditer(prose):
        words = " ".join(match[1].split())
        # What the text says of make is held to its targets. A verb alone is a name.
        if _TOOL.match(words) and not words.startswith("make ") and not _NAME.fullmatch(words):
            found.append((match.start(), Command(page, words)))
    return [command for _, command in sorted(found, key=lambda each: each[0])]


def sections(page: str) -> dict[str, list[str]]:
    """The commands of a page's blocks by the headings of its second level, in its order."""
    parts = re.split(r"^## (.+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    return {
        heading: [line for match in _BLOCK.finditer(text) if match[1] == "sh" for line in lines(match[2])]
        for heading, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and content of each block of a page."""
    for match in _BLOCK.finditer((ROOT / page).read_text()):
        yield match[1], match[2]


def lines(block: str) -> list[str]:
    """The commands in a block for a shell."""
    joined = re.sub(r"\\\n\s*", "", block)
    bare = (re.sub(r"\s+# .*$", "", line).strip() for line in joined.splitlines())
    return [line for line in bare if line and not line.startswith("#")]


def pictured(block: str) -> list[str]:
    """Lines of a block that is not for a shell and yet look like something to type."""
    return [line for line in block.splitlines() if _TOOL.match(line)]


def claimed(page: str, said: str) -> list[str]:
    """The commands that a claim is about; empty when there are none."""
    start = said.removesuffix(" …")
    every = dict.fromkeys(command.text for command in commands(page))
    if start == said:
        return [text for text in every if text == said]
    return [text for text in every if text.startswith(f"{start} ")]


@dataclass(frozen=True, slots=True)
class Claim:
    """Where which test claims what."""

    test: str
    page: str
    said: str


def claims() -> list[Claim]:
    """All claims of all tests, read from their source: nothing of a suite has to be there for that."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        source = path.read_text()
        if "mark.runs(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.runs":
                page, *said = [ast.literal_eval(word) for word in node.args]
                name = f"{path.relative_to(ROOT)}:{node.lineno}"
                found += [Claim(name, page, each) for each in said]
    return found


class Typed:
    """What a test claims to run, given out; see the module."""

    def __init__(self, marks: list[tuple[str, ...]]) -> None:
        self._claims = [(page, said) for page, *many in marks for said in many]
        self._taken: set[tuple[str, str]] = set()

    def __call__(self, said: str) -> str:
        """The one command of a claim, as the page has it."""
        (text,) = self.each(said)
        return text

    def each(self, *some: str) -> list[str]:
        """The commands of some claims, or of all, in the order in which they are claimed."""
        chosen = [claim for claim in self._claims if not some or claim[1] in some]
        assert chosen, f"not claimed: {some}"
        self._taken.update(chosen)
        return [text for page, said in chosen for text in claimed(page, said)]

    def left(self) -> list[tuple[str, str]]:
        """What was claimed and never asked for."""
        return [claim for claim in self._claims if claim not in self._taken]

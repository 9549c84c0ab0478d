"""Writes the page about clients from what the matrix has found, as it is committed.

Knows: how results read as tables.
Must not know: how they are found.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.conformance import registry, results
from tests.conformance.redirected import routes
from tests.conformance.results import Got, Result
from tests.conformance.situations import REDIRECTED, SITUATIONS, Course

COURSES = {**SITUATIONS, **REDIRECTED}
README = Path(__file__).parent.parent / "README.md"
MARK = "<!-- The next line is made by `make docs`. -->"
_LINE = re.compile(f"({re.escape(MARK)}\n).*\n")

_HEAD = """\
# Clients

<!-- Made by `make docs` from tests/conformance/results.json, which `make conformance ARGS=--write` writes. -->

{line}

`make conformance` runs real, unmodified clients against a real agent, each as a pod of its own in a network namespace
of its own, told nothing about where the metadata service is. Each ends its call with a request that is signed, whose
key must be of the role and session of its pod: the signature is verified as AWS does it, with the session's secret, its
token, the region, the date and the session's end. Tokens are required in one run and optional in the other. An outcome
other than the ones below fails `make conformance`; requests and seconds are those of one run on two shared cores,
counted from the first request of the first call to the end of the call; with the real redirect seconds have the start
of the program in them, and requests are those that the agent says it had.

Where credentials are due, every client must have them with its first call. Where they are refused, every client must
end with an error of its own within its own budget, and must say why where it shows the answer of a metadata service at
all: the reason in the column "got".

What this does not show yet:

- Second calls seldom ask the agent again: sessions are told at least a minute of life, and the wait is shorter. So
  "agent restarted", "agent taken over" and "role changed" say of most clients only that the first call went well.
- In "STS down" the session is fresh, so that the agent has no cause to ask STS again.
- No client is told apart by whether it sent a token.
- Some clients are built with fewer parts than usual (rclone with one back end, Rust without TLS), and Go v1 with the
  option to show each provider's error.
- boto3, aiobotocore and Ruby keep the answer of a refusal for the life of the client object; the column "second call"
  shows it.
"""


def page() -> str:
    """`docs/clients.md`."""
    found = list(results.read().values())
    clients = list(dict.fromkeys(one.client for one in sorted(found, key=lambda one: one.client.lower())))
    parts = [_HEAD.format(line=line(found))]
    parts.append(f"\n| client | version |\n|---|---|\n{''.join(_versions(found, clients))}")
    parts += [_section(course, found, clients) for course in COURSES.values()]
    return "".join(parts)


def readme() -> str:
    """`README.md`, with its one line about clients as it is now.

    Raises:
        ValueError: it has no place for that line.
    """
    whole, number = _LINE.subn(rf"\g<1>{line(list(results.read().values()))}\n", README.read_text(encoding="utf-8"))
    if number != 1:
        raise ValueError(f"{README} must have the line {MARK} once, and a line below it")
    return whole


def line(found: Sequence[Result]) -> str:
    """What came of it in one sentence."""
    entered = {client.name: client for chain in registry.toolchains() for client in chain.clients}
    good = [name for name in entered if _good(name, found)]
    bad = sorted(set(entered) - set(good))
    missing = f" Not: {', '.join(bad)}." if bad else ""
    return f"{len(good)} of {len(entered)} clients do in {len(COURSES)} situations what they should.{missing}"


def _good(name: str, found: Iterable[Result]) -> bool:
    """Whether each cell of a client is there, is of the version that is pinned, and has no fault."""
    client = next(one for chain in registry.toolchains() for one in chain.clients if one.name == name)
    own = [one for one in found if one.client == name and one.got is not Got.MISSING]
    whole = {(one.situation, one.tokens) for one in own} == {
        (situation, tokens) for situation in [*SITUATIONS, *routes(client)] for tokens in ("optional", "required")
    }
    return whole and not any(
        results.faults(
            one,
            COURSES[one.situation].expected,
            shows_bodies=client.shows_bodies,
            finds_region=client.finds_region,
            budget=client.budget,
        )
        or one.version != client.version
        for one in own
    )


def _versions(found: Sequence[Result], clients: Iterable[str]) -> Iterable[str]:
    for name in clients:
        own = next(one for one in found if one.client == name)
        gone = " **not installed**" if own.got is Got.MISSING else ""
        yield f"| {name} | {own.version}{gone} |\n"


def _section(course: Course, found: Sequence[Result], clients: Iterable[str]) -> str:
    head = "| client | tokens | got | requests | seconds | second call |\n|---|---|---|---|---|---|\n"
    rows = []
    for name in clients:
        own = [one for one in found if (one.client, one.situation) == (name, course.name)]
        for one in sorted(own, key=lambda one: one.tokens):
            got = f"{one.got}: `{one.reason}`" if one.reason else one.got.value
            rows.append(f"| {name} | {one.tokens} | {got} | {one.requests} | {one.seconds:.2f} | {one.again.value} |\n")
    return f"\n## {course.name[0].upper()}{course.name[1:]}\n\n{course.text}\n\n{head}{''.join(rows)}"

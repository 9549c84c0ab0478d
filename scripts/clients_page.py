"""Writes the page about clients from what the matrix has found, as it is committed.

Knows: how results read as tables.
Must not know: how they are found.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.conformance import judging, registry, results
from tests.conformance.redirected import routes
from tests.conformance.results import Got, Result, Run
from tests.conformance.situations import REDIRECTED, SITUATIONS, Course

COURSES = {**SITUATIONS, **REDIRECTED}
README = Path(__file__).parent.parent / "README.md"
MARK = "<!-- The next line is made by `make docs`. -->"
_LINE = re.compile(f"({re.escape(MARK)}\n).*\n")

_HEAD = """\
# Clients

<!-- Made by `make docs` from tests/conformance/results.json, which `make conformance ARGS=--write` writes. -->

{line}{took}

`make conformance` runs real, unmodified clients against a real agent, each as a pod of its own in a network namespace
of its own, told nothing about where the metadata service is. Each ends its call with a request that is signed: the
signature is verified as AWS does it, with the session's secret, its token, the region, the date and the session's end,
and the session must be of the role and name of the pod. Tokens are required in one run and optional in the other; in
both each pod is asked for without one too, which must end as its namespace says. An outcome other than the ones below
fails `make conformance`, as does a call that takes four times the requests that the client usually makes, or more than
half a minute (where it may be refused: more than its own budget, which is 10 seconds at most), one that is refused
anywhere but at the role list, a request without an answer of a client that waits for as long as one may be held, and an
error that is not the client's own word for having no credentials.

Requests and seconds are those of one run on two shared cores, counted from the first request of the first call to the
end of the call, and of a second call from when the client was told to make it; with the real redirect seconds have the
start of the program in them, and requests are those that the agent says it had.

Where a client must have asked again, its keys have run out by its own rules: the agent's clock is 40 seconds behind,
so that it tells of sessions of 20 seconds, and the client rests until they are over. boto3 and aiobotocore hold such
short sessions for longer than they are told; the machine's clock is set on for them instead, by 50 minutes.

Five clients are in no registry that is asked here: .NET, PHP, fluent-bit, vector and s3fs are replayed, byte for byte,
with readers that read as theirs do (`tests/conformance/test_replays.py`, part of `make check`). What is restated there
is what their sources said when they were read, and no client itself. They are not counted above.

A request is held for 0.9 seconds, for most clients wait for one. When STS takes longer ("held to its end"), those that
ask again by themselves have credentials with their first call all the same; the others have an error of their own then,
and credentials with the second call, unless they are of those below that never look again.

Go v2 and rclone wait for half a second, and ask again. Of everybody else a request without an answer is a fault: the
agent may be late with its 503 by a tenth of a second, and by as much more as the machine was.

The situations leave a fifth of a second of those 0.9 to the machine. A first call that ends without credentials while
the process of the matrix was late by more than that in all is lost to the machine, and told by name; so is a cell whose
client left before the 503 came, when that process was late by more than the tenth of a second that the client leaves.
No more than six of them may be in a run, and none is among the rows below.

What this does not show:

- Some clients are built with fewer parts than usual (rclone with one back end, Rust without TLS), and Go v1 with the
  option to show each provider's error.
- C++ asks for the availability zone when it is told no region, and signs for us-east-1 all the same.
- Behind the real redirect sessions live an hour, so second calls of programs ask nobody.
- The pieces of a body that is signed while it streams (restic) are not verified, the head that announces them is.
"""


def page(file: Path = results.FILE) -> str:
    """`docs/clients.md`, from the outcomes in a file."""
    found = list(results.read(file).values())
    clients = list(dict.fromkeys(one.client for one in sorted(found, key=lambda one: one.client.lower())))
    parts = [_HEAD.format(line=line(found), took=_took(results.read_run(file)))]
    parts += [_situations(), _clients(found, clients), _stubborn(), _excused()]
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
    """What came of it in one sentence, and in a second one who was not tried, or not as they should be."""
    entered = [client.name for chain in registry.toolchains() for client in chain.clients]
    good = [name for name in entered if _good(name, found)]
    missing = {one.client for one in found if one.got is Got.MISSING}
    untried = [name for name in entered if name in missing]
    bad = [name for name in entered if name not in {*good, *missing}]
    cells = sum(one.client in good for one in found)
    whole = f"{len(good)} of {len(entered)} clients do in {len(COURSES)} situations what they should, in {cells} cells."
    others = {"Not tried": untried, "Not as they should": bad}
    return whole + "".join(f" {what}: {', '.join(names)}." for what, names in others.items() if names)


def _took(run: Run | None) -> str:
    return f"\nThe run that is shown here took {run.words}." if run is not None else ""


def _good(name: str, found: Iterable[Result]) -> bool:
    """Whether each cell of a client is there, is of the version that is pinned, and has no fault."""
    client = next(one for chain in registry.toolchains() for one in chain.clients if one.name == name)
    own = [one for one in found if one.client == name and one.got is not Got.MISSING]
    whole = {(one.situation, one.tokens) for one in own} == {
        (situation, tokens) for situation in [*SITUATIONS, *routes(client)] for tokens in ("optional", "required")
    }
    return whole and not any(
        judging.faults(one, COURSES[one.situation].expected, client) or one.version != client.version for one in own
    )


def _situations() -> str:
    rows = [
        f"| [{course.name}](#{_anchor(course.name)}) | {course.text} | {course.expected.first_in_words} | "
        f"{course.expected.second_in_words} |\n"
        for course in COURSES.values()
    ]
    head = "| situation | what happens | the first call must bring | the second call |\n|---|---|---|---|\n"
    return f"\n## What must come of it\n\n{head}{''.join(rows)}"


def _clients(found: Sequence[Result], clients: Iterable[str]) -> str:
    rows = []
    for name in clients:
        own = [one for one in found if one.client == name]
        if own[0].got is Got.MISSING:
            rows.append(f"| {name} | {own[0].version} | **not installed** | | | |\n")
            continue
        good = [one for one in own if one.got is Got.CREDENTIALS]
        seen = {one.token for one in good} - {""}
        tokens = "" if not seen else "always" if seen == {results.SHOWN} else "not always"
        most = max((one.requests for one in good), default=0)
        slowest = max((one.seconds for one in good), default=0.0)
        rows.append(f"| {name} | {own[0].version} | {len(own)} | {tokens} | {most} | {slowest:.2f} |\n")
    head = "| client | version | cells | shows a token | most requests | most seconds |\n|---|---|---|---|---|---|\n"
    text = "Most requests and seconds are those of a first call that ended with credentials."
    return f"\n## Clients\n\n{text}\n\n{head}{''.join(rows)}"


def _excused() -> str:
    rows = [f"| {name} | {why} |\n" for name, why in registry.excuses(registry.toolchains()).items()]
    text = "A client that is missing makes the matrix fail, unless it is excused by name: "
    table = f"these are.\n\n| client | why |\n|---|---|\n{''.join(rows)}" if rows else "none is.\n"
    return f"\n## Clients that may be missing\n\n{text}{table}"


def _stubborn() -> str:
    text = (
        "After a refusal these have no credentials with the second call, when its cause has gone, and ask nobody. A "
        "third call with a new object, in the same process, must bring them."
    )
    rows = [f"| {name} | {why} |\n" for name, why in results.NEVER_LOOKS_AGAIN.items()]
    return f"\n## Clients that never look again\n\n{text}\n\n| client | why |\n|---|---|\n{''.join(rows)}"


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-")


def _section(course: Course, found: Sequence[Result], clients: Iterable[str]) -> str:
    names = "| client | tokens | got | requests | seconds | second call | requests | seconds |"
    head = f"{names}\n{'|---' * 8}|\n"
    rows = []
    for name in clients:
        own = [one for one in found if (one.client, one.situation) == (name, course.name)]
        for one in sorted(own, key=lambda one: one.tokens):
            got = f"{one.got}, {one.at}" if one.at else one.got.value
            got += f": `{one.reason}`" if one.reason else ""
            anew = f"; with a new object {one.anew.value}" if one.anew else ""
            again = (
                f"{one.again.value}{anew} | {one.again_requests} | {one.again_seconds:.2f}" if one.again else " | | "
            )
            rows.append(f"| {name} | {one.tokens} | {got} | {one.requests} | {one.seconds:.2f} | {again} |\n")
    return f"\n## {course.name[0].upper()}{course.name[1:]}\n\n{course.text}\n\n{head}{''.join(rows)}"

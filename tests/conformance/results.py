"""What came of each cell of the matrix, what is wrong with it, and its place in a file.

Knows: the vocabulary of outcomes, what of a run must be the same in the next.
Must not know: how a cell is run. Pure, but for the two functions that read and write the file.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from metaproxy.errors import Reason

FILE = Path(__file__).parent / "results.json"


class Got(StrEnum):
    """How a call of a client ended."""

    CREDENTIALS = "credentials"
    REFUSED = "an error"
    NOTHING = ""
    """The call was not made."""

    HUNG = "no end"
    SILENT = "ended without a word"
    ABORTED = "process aborted"
    FOREIGN = "ANOTHER ROLE"
    UNPROVED = "no proof"
    MISSING = "not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a situation demands of every client: credentials, or an error for this reason."""

    reason: Reason | None = None
    region: bool = False
    """Credentials are demanded only of clients that find their region by themselves."""

    again: bool = False
    """The second call must have credentials too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell: the first call and the second, the reason code that the error showed, what the first took.

    Requests and seconds are counted from the client's first request to the metadata service to the end of its call.
    """

    client: str
    version: str
    situation: str
    tokens: str
    got: Got
    again: Got = Got.NOTHING
    reason: str = ""
    requests: int = 0
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """Which cell it is."""
        return self.client, self.situation, self.tokens

    @property
    def outcome(self) -> tuple[str, str, str]:
        """What must be the same in every run."""
        return self.got.value, self.again.value, self.reason


def faults(result: Result, expected: Expected, *, shows_bodies: bool, finds_region: bool, budget: float) -> list[str]:
    """What is against what is demanded, in words; empty when all is well."""
    found = []
    if result.got is Got.MISSING:
        return ["it is not installed"]
    if result.got not in {Got.CREDENTIALS, Got.REFUSED}:
        found.append(f"the first call: {result.got}")
    if result.again not in {Got.CREDENTIALS, Got.REFUSED, Got.NOTHING}:
        found.append(f"the second call: {result.again}")
    if expected.reason is None and result.got is Got.REFUSED and (finds_region or not expected.region):
        found.append("no credentials with the first call")
    if expected.again and result.again is Got.REFUSED:
        found.append("no credentials with the second call")
    if expected.reason is not None and result.got is Got.CREDENTIALS:
        found.append(f"credentials in spite of {expected.reason}")
    if result.got is Got.REFUSED and result.seconds > budget:
        found.append(f"an error after {result.seconds:.1f} s only, its budget is {budget:.0f} s")
    if expected.reason is not None and result.got is Got.REFUSED and shows_bodies and result.reason != expected.reason:
        found.append(f"its message does not name {expected.reason}")
    return found


def differences(results: Iterable[Result], committed: Mapping[tuple[str, str, str], Result]) -> list[str]:
    """Cells whose outcome or version is not as committed, in words."""
    found = []
    for result in results:
        before = committed.get(result.key)
        name = ", ".join(result.key)
        if before is None:
            found.append(f"{name}: not committed")
        elif (before.version, *before.outcome) != (result.version, *result.outcome):
            found.append(f"{name}: {before.version} {before.outcome} before, {result.version} {result.outcome} now")
    return found


def read(file: Path = FILE) -> dict[tuple[str, str, str], Result]:
    """What is committed; nothing when there is no file."""
    if not file.exists():
        return {}
    rows = json.loads(file.read_text(encoding="utf-8"))
    results = [Result(**{**row, "got": Got(row["got"]), "again": Got(row["again"])}) for row in rows]
    return {result.key: result for result in results}


def write(results: Sequence[Result], file: Path = FILE) -> None:
    """One line for each cell, in the order of their names, so that a change reads as one."""
    rows = [json.dumps(asdict(result), ensure_ascii=False) for result in sorted(results, key=lambda one: one.key)]
    file.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")

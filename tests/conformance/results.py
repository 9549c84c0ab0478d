"""What came of each cell of the matrix, and its place in a file.

Knows: the vocabulary of outcomes, what of a run must be the same in the next.
Must not know: how a cell is run, what is demanded of it. Pure, but for the functions that read and write the file.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from metaproxy.errors import Reason
from tests.conformance.exchanges import Exchange, Step, refused_at, refused_late
from tests.conformance.registry import Client

FILE = Path(__file__).parent / "results.json"

_REASON = re.compile(r"\b(" + "|".join(sorted(reason.value for reason in Reason)) + r")\b")

TEN_MINUTES = 600
"""Seconds for a run of the whole matrix."""

SHOWN, NOT_SHOWN = "shown", "not shown"

STATUS = {Reason.STS_DENIED: 403, Reason.NOT_PERMITTED: 403, Reason.NO_ROLE: 404, Reason.STS_PENDING: 503}
"""With which status the agent refuses for a reason of these situations."""

_DEAD = "a client object whose first look for credentials failed never looks again; a new one does"
NEVER_LOOKS_AGAIN: Mapping[str, str] = {"boto3": _DEAD, "aiobotocore": _DEAD, "Ruby": _DEAD}
"""Clients that by design keep a refusal for the life of an object, and so have nothing in the second call."""


class Got(StrEnum):
    """How a call of a client ended."""

    CREDENTIALS = "credentials"
    REFUSED = "an error"
    NOTHING = ""
    """The call was not made."""

    BROKEN = "AN ERROR OF ANOTHER KIND"
    """What it says is not what it says when it has no credentials."""

    HUNG = "no end"
    SILENT = "ended without a word"
    ABORTED = "process aborted"
    FOREIGN = "ANOTHER ROLE"
    FORMER = "THE FORMER ROLE"
    """Keys of the role that the pod had at the first call, when it has another by now."""

    KEPT = "THE KEYS OF BEFORE"
    """Those of the first call, when the agent has given new ones since."""

    UNPROVED = "no proof"
    MISSING = "not installed"


@dataclass
class Call:
    """One call of a client, as it was told and seen."""

    got: Got
    said: str = ""
    requests: list[Exchange] = field(default_factory=list)
    seconds: float = 0.0
    role: str = ""

    @property
    def reason(self) -> str:
        """The reason code that the message shows, or empty."""
        found = _REASON.search(self.said) if self.got is Got.REFUSED else None
        return found[1] if found else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell: the first call and the second, the reason code that the error showed, what each took.

    Requests and seconds are counted from the client's first request to the metadata service to the end of its call, of
    the second call from when it was told to make it; None where nobody counted. `anew`: how a call with a new object
    ended, where the second did not look again. `token`: whether the requests for credentials showed a session token;
    empty where nobody could see it. `at`: the step at which the first call was refused, and the status. `late`: how
    many requests for credentials were refused, which the role list should have been instead. `left`: how many requests
    had no answer when the client hung up, `dropped`: when the agent did.
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
    again_requests: int = 0
    again_seconds: float = 0.0
    anew: Got = Got.NOTHING
    token: str = ""
    at: str = ""
    late: int = 0
    left: int = 0
    dropped: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """Which cell it is."""
        return self.client, self.situation, self.tokens

    @property
    def outcome(self) -> tuple[str, str, str]:
        """What must be the same in every run, and is not said of the client or of the situation anyway."""
        return self.got.value, self.again.value, self.anew.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run of the whole matrix took, of a machine whose load average was `load` when it began."""

    cells: int
    seconds: int
    cpu_seconds: int
    cores: int
    load: float

    @property
    def too_long(self) -> bool:
        """Whether it took more than ten minutes, and not because others had the machine: it had a core to spare."""
        return self.seconds > TEN_MINUTES and self.load < self.cores

    @property
    def words(self) -> str:
        """All of that."""
        return (
            f"{self.cells} cells within {self.seconds} s and {self.cpu_seconds} s of CPU time, on {self.cores} cores "
            f"with a load of {self.load:.1f} at the beginning"
        )


def of(client: Client, situation: str, tokens: str, calls: Sequence[Call]) -> Result:
    """What came of a cell with these calls: one, two, or three when the last is made with a new object."""
    first, again, anew = (*calls, Call(Got.NOTHING), Call(Got.NOTHING))[:3]
    asked = [one for call in calls for one in call.requests]
    shows = [one.shows for one in first.requests if one.step is not Step.TOKEN]
    return Result(
        client=client.name,
        version=client.version,
        situation=situation,
        tokens=tokens,
        got=first.got,
        again=again.got,
        reason=first.reason,
        requests=len(first.requests),
        seconds=round(first.seconds, 2),
        again_requests=len(again.requests),
        again_seconds=round(again.seconds, 2),
        anew=anew.got,
        token="" if None in shows or not shows else SHOWN if any(shows) else NOT_SHOWN,
        at=refused_at(first.requests) if first.got is Got.REFUSED else "",
        late=sum(refused_late(call.requests) for call in calls),
        left=sum(one.left for one in asked),
        dropped=sum(not one.status and not one.left for one in asked),
    )


def differences(results: Iterable[Result], committed: Mapping[tuple[str, str, str], Result]) -> list[str]:
    """Cells whose outcome or version is not as committed, in words."""
    found = []
    for result in results:
        before = committed.get(result.key)
        name = ", ".join(result.key)
        if before is None:
            found.append(f"{name}: not committed")
        elif (before.version, before.outcome) != (result.version, result.outcome):
            found.append(f"{name}: {before.version} {before.outcome} before, {result.version} {result.outcome} now")
    return found


def read(file: Path = FILE) -> dict[tuple[str, str, str], Result]:
    """What is committed; nothing when there is no file."""
    if not file.exists():
        return {}
    rows = json.loads(file.read_text(encoding="utf-8"))["results"]
    results = [
        Result(**{**row, "got": Got(row["got"]), "again": Got(row["again"]), "anew": Got(row["anew"])}) for row in rows
    ]
    return {result.key: result for result in results}


def read_run(file: Path = FILE) -> Run | None:
    """What the run took in which the file was written as a whole; None when there is no file, or nobody knows."""
    told = json.loads(file.read_text(encoding="utf-8"))["run"] if file.exists() else None
    return None if told is None else Run(**told)


def write(results: Sequence[Result], run: Run | None, file: Path = FILE) -> None:
    """One line for each cell, in the order of their names, so that a change reads as one."""
    rows = [json.dumps(asdict(result), ensure_ascii=False) for result in sorted(results, key=lambda one: one.key)]
    took = "null" if run is None else json.dumps(asdict(run))
    file.write_text(f'{{"run": {took},\n"results": [\n' + ",\n".join(rows) + "\n]}\n", encoding="utf-8")

"""What came of each cell of the matrix, what is wrong with it, and its place in a file.

Knows: the vocabulary of outcomes, what of a run must be the same in the next.
Must not know: how a cell is run. Pure, but for the functions that read and write the file.
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

MOST, LONGEST = 4, 30.0
"""A call may take so many times the requests that the client usually needs, and so many seconds: far more than any
takes, far less than a client takes that asks without end."""

_REASON = re.compile(r"\b(" + "|".join(sorted(reason.value for reason in Reason)) + r")\b")

NO_CREDENTIALS = "no credentials with the first call"
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
class Expected:
    """What a situation demands of every client: credentials, or an error for this reason.

    `either`: the reason passes while the client waits, so one that asks again must not end with it, nor must others.
    """

    reason: Reason | None = None
    either: bool = False
    region: bool = False
    """Credentials are demanded only of clients that find their region by themselves."""

    again: bool = False
    """The second call must have credentials: after a refusal, because its cause has gone."""

    asks: bool = False
    """The second call must have asked the agent: by the client's own rules it is time to."""

    @property
    def first_in_words(self) -> str:
        """What the first call must bring."""
        if self.reason is not None:
            return f"{'credentials, or ' if self.either else ''}an error, for `{self.reason}`"
        return "credentials, of those that find their region" if self.region else "credentials"

    @property
    def second_in_words(self) -> str:
        """What the second call must bring."""
        if not self.again:
            return "none is made"
        return "credentials, and the agent was asked" if self.asks else "credentials"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell: the first call and the second, the reason code that the error showed, what each took.

    Requests and seconds are counted from the client's first request to the metadata service to the end of its call, of
    the second call from when it was told to make it; None where nobody counted. `anew`: how a call with a new object
    ended, where the second did not look again. `token`: whether the requests for credentials showed a session token;
    empty where nobody could see it. `at`: the step at which the first call was refused, and the status. `late`: how
    many requests for credentials were refused, which the role list should have been instead. `left`: how many requests
    had no answer, as the client did not wait for it.
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
    again_requests: int | None = None
    again_seconds: float | None = None
    anew: Got = Got.NOTHING
    token: str = ""
    at: str = ""
    late: int = 0
    left: int = 0

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
    def words(self) -> str:
        """All of that."""
        return (
            f"{self.cells} cells within {self.seconds} s and {self.cpu_seconds} s of CPU time, on {self.cores} cores "
            f"with a load of {self.load:.1f} at the beginning"
        )


SPARE = 0.2
"""Seconds of the 0.9 for which a request is held that the situations leave to the machine, at least."""


def of(client: Client, situation: str, tokens: str, calls: Sequence[Call]) -> Result:
    """What came of a cell with these calls: one, two, or three when the last is made with a new object."""
    first, again, anew = (*calls, Call(Got.NOTHING), Call(Got.NOTHING))[:3]
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
        left=sum(not one.status for call in calls for one in call.requests),
    )


def faults(result: Result, expected: Expected, client: Client) -> list[str]:
    """What is against what is demanded of the client, in words; empty when all is well."""
    if result.got is Got.MISSING:
        return ["it is not installed"]
    refused, again = result.got is Got.REFUSED, result.again
    rules = (
        (result.got not in {Got.CREDENTIALS, Got.REFUSED}, f"the first call: {result.got}"),
        (again not in {Got.CREDENTIALS, Got.REFUSED, Got.NOTHING}, f"the second call: {again}"),
        (
            refused and expected.reason is None and (client.finds_region or not expected.region),
            NO_CREDENTIALS,
        ),
        (
            result.got is Got.CREDENTIALS and expected.reason is not None and not expected.either,
            f"credentials in spite of {expected.reason}",
        ),
        (result.late > 0, f"{result.late} requests for credentials were refused after a list that was not"),
        *(_refusal(result, expected.reason, expected, client) if refused and expected.reason is not None else ()),
        (
            bool(result.reason) and result.reason != expected.reason,
            f"its message names {result.reason}, not {expected.reason}",
        ),
        (
            expected.again and again is Got.REFUSED and not _keeps_its_refusal(result),
            "no credentials with the second call",
        ),
        (expected.again and again is Got.NOTHING and client.calls_twice, "no second call"),
        (
            result.anew not in {Got.CREDENTIALS, Got.NOTHING},
            f"the call with a new object: {result.anew}",
        ),
        (
            expected.asks and again is Got.CREDENTIALS and result.again_requests == 0,
            "the second call did not ask the agent",
        ),
        (
            result.tokens == "required" and result.got is Got.CREDENTIALS and result.token == NOT_SHOWN,
            "credentials without a session token",
        ),
        *_bounds("first", result.requests, result.seconds, client, refused=refused),
        *_bounds(
            "second", result.again_requests or 0, result.again_seconds or 0.0, client, refused=again is Got.REFUSED
        ),
    )
    return [text for holds, text in rules if holds]


def taken(result: Result, found: Sequence[str], late: float) -> bool:
    """Whether the machine has made the one fault that was found, not the agent and not the client.

    It was `late` by more than the situation leaves to it (seconds, in all) while the request was held, so that what
    came in time came too late: the agent has refused at the role list, as it must, or the client has left.
    """
    held = result.at in {f"{Step.LIST} {STATUS[Reason.STS_PENDING]}", ""}
    return list(found) == [NO_CREDENTIALS] and held and late > SPARE


def _bounds(which: str, requests: int, seconds: float, client: Client, *, refused: bool) -> Iterable[tuple[bool, str]]:
    most, longest = MOST * client.requests, client.budget if refused else max(client.budget, LONGEST)
    yield requests > most, f"{requests} requests in the {which} call, and no more than {most} are right"
    yield seconds > longest, f"{seconds:.1f} s for the {which} call, and no more than {longest:.0f} s are right"


def _refusal(result: Result, reason: Reason, expected: Expected, client: Client) -> Iterable[tuple[bool, str]]:
    due, shows = f"{Step.LIST} {STATUS[reason]}", STATUS[reason] in client.shows_bodies
    # Of a request that was held to its end a client may not have waited for the answer.
    left = expected.either and not result.at
    yield not left and result.at != due, f"it was refused at {result.at or 'no step'}, and only at {due} is right"
    yield (
        not left and shows != (result.reason != ""),
        f"its message shows {result.reason or 'no reason'}, against what its client.toml says",
    )


def _keeps_its_refusal(result: Result) -> bool:
    """It was refused with the first call, and with the second it has not asked again, as it is known not to."""
    return result.got is Got.REFUSED and not result.again_requests and result.client in NEVER_LOOKS_AGAIN


def differences(results: Iterable[Result], committed: Mapping[tuple[str, str, str], Result]) -> list[str]:
    """Cells whose outcome or version is not as committed, in words.

    An outcome may differ where a request had no answer: of one that is held to its end a tenth of a second is left for
    its answer to arrive, which a busy machine takes. Whether the client may end so is for `faults` to say.
    """
    found = []
    for result in results:
        before = committed.get(result.key)
        name = ", ".join(result.key)
        if before is None:
            found.append(f"{name}: not committed")
        elif before.version != result.version or (before.outcome != result.outcome and not result.left):
            found.append(f"{name}: {before.version} {before.outcome} before, {result.version} {result.outcome} now")
    return found


def read(file: Path = FILE) -> dict[tuple[str, str, str], Result]:
    """What is committed; nothing when there is no file."""
    if not file.exists():
        return {}
    rows = json.loads(file.read_text(encoding="utf-8"))["results"]
    results = [
        Result(**{**row, "got": Got(row["got"]), "again": Got(row["again"]), "anew": Got(row.get("anew", ""))})
        for row in rows
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

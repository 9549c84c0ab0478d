"""What is said of a cell: every way in which one can be wrong is told, and what is not as committed."""

from dataclasses import replace
from pathlib import Path

import pytest

from metaproxy.errors import Reason
from tests.conformance import judging, results
from tests.conformance.exchanges import recorded
from tests.conformance.judging import Expected
from tests.conformance.registry import Client
from tests.conformance.results import Call, Got, Result, Run

FINE = Result(
    client="c", version="1", situation="cached", tokens="required", got=Got.CREDENTIALS, again=Got.CREDENTIALS
)
CLIENT = Client(
    toolchain="t",
    name="c",
    version="1",
    command=("c",),
    proof="sts",
    refusal="no role",
    budget=10.0,
    shows_bodies=(404,),
    requests=3,
)
GONE = Expected(reason=Reason.NO_ROLE, again=True)
REFUSED = replace(FINE, got=Got.REFUSED, again=Got.NOTHING, reason="NoRole", at="list 404", seconds=1.0)
HELD = Expected(reason=Reason.STS_PENDING, either=True, again=True)


def test_what_calls_come_to() -> None:
    """The first says where it was refused, all of them how many requests for credentials were."""
    late = [
        *(recorded("GET", "list", 200), recorded("GET", "credentials", 403)),
        *(recorded("GET", "item", 0), recorded("GET", "item", 0)),
    ]
    for call in late:
        call.shows = True
    late[-1].left = True
    result = results.of(
        CLIENT, "cached", "required", [Call(Got.REFUSED, requests=late), Call(Got.CREDENTIALS, requests=late)]
    )
    assert (result.at, result.late, result.token) == ("credentials 403", 2, results.SHOWN)
    assert (result.left, result.dropped) == (2, 2)
    assert results.of(CLIENT, "cached", "required", [Call(Got.CREDENTIALS, requests=late)]).at == ""


@pytest.mark.parametrize(
    ("result", "expected", "number"),
    [
        (FINE, Expected(again=True), 0),
        (replace(FINE, got=Got.FOREIGN), Expected(), 1),
        (replace(FINE, got=Got.UNPROVED), Expected(), 1),
        (replace(FINE, got=Got.REFUSED), Expected(), 1),
        (replace(FINE, got=Got.REFUSED), Expected(region=True), 1),
        (replace(FINE, again=Got.REFUSED), Expected(again=True), 1),
        (replace(FINE, again=Got.REFUSED), Expected(), 0),
        (replace(FINE, again=Got.FOREIGN), Expected(), 1),
        (FINE, Expected(reason=Reason.NO_ROLE), 1),
        (REFUSED, Expected(reason=Reason.NO_ROLE), 0),
        (replace(REFUSED, at="credentials 404"), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, at="list 403"), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, at="", reason=""), Expected(reason=Reason.NO_ROLE), 2),
        (replace(FINE, late=1), Expected(), 1),
        (replace(FINE, got=Got.BROKEN), Expected(reason=Reason.NO_ROLE), 1),
        (FINE, HELD, 0),
        (replace(REFUSED, at="list 503", reason=""), replace(HELD, again=False), 0),
        (replace(REFUSED, at="", reason=""), replace(HELD, again=False), 1),
        (replace(REFUSED, at="", reason="", left=1), replace(HELD, again=False), 1),
        (replace(FINE, left=1), HELD, 1),
        (replace(FINE, dropped=1), HELD, 1),
        (replace(FINE, seconds=11.0), HELD, 1),
        (replace(REFUSED, at="credentials 503", reason=""), replace(HELD, again=False), 1),
        (replace(REFUSED, at="list 503", reason="StsDenied"), replace(HELD, again=False), 2),
        (replace(REFUSED, at="list 503", reason="", again=Got.REFUSED), HELD, 1),
        (replace(REFUSED, at="list 503", reason="", client="boto3", again=Got.REFUSED), HELD, 0),
        (replace(REFUSED, reason=""), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, reason="StsDenied"), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, seconds=11.0), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, got=Got.HUNG), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, got=Got.ABORTED), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, got=Got.SILENT), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, got=Got.MISSING), Expected(), 1),
        (replace(FINE, again=Got.FORMER), Expected(again=True), 1),
        (replace(FINE, again=Got.KEPT), Expected(again=True), 1),
        (replace(FINE, again=Got.NOTHING), Expected(again=True), 1),
        (replace(FINE, again_requests=0), Expected(again=True, asks=True), 1),
        (replace(FINE, again_requests=1), Expected(again=True, asks=True), 0),
        (replace(FINE, token="not shown"), Expected(), 1),
        (replace(FINE, token="not shown", tokens="optional"), Expected(), 1),
        (replace(FINE, requests=12, seconds=30.0), Expected(), 0),
        (replace(FINE, requests=13), Expected(), 1),
        (replace(FINE, seconds=31.0), Expected(), 1),
        (replace(FINE, again_requests=13), Expected(), 1),
        (replace(FINE, again_seconds=31.0), Expected(), 1),
        (replace(FINE, again=Got.REFUSED, again_seconds=11.0), Expected(), 1),
        (replace(REFUSED, again=Got.REFUSED), GONE, 1),
        (replace(REFUSED, client="boto3", again=Got.REFUSED), GONE, 0),
        (replace(REFUSED, client="boto3", again=Got.REFUSED, again_requests=1), GONE, 1),
        (replace(REFUSED, client="boto3", again=Got.REFUSED, anew=Got.CREDENTIALS), GONE, 0),
        (replace(REFUSED, client="boto3", again=Got.REFUSED, anew=Got.REFUSED), GONE, 1),
        (replace(REFUSED, again=Got.CREDENTIALS), GONE, 0),
        (replace(REFUSED, at="list 403", reason="NotPermitted"), Expected(reason=Reason.NOT_PERMITTED), 1),
        (replace(REFUSED, at="list 403", reason=""), Expected(reason=Reason.NOT_PERMITTED), 0),
    ],
)
def test_faults(result: Result, expected: Expected, number: int) -> None:
    """What a client must do and must not."""
    found = judging.faults(result, expected, CLIENT)
    assert len(found) == number, found


@pytest.mark.parametrize(
    ("change", "late", "taken"),
    [
        ({"at": "list 503"}, 0.3, True),
        ({"at": "", "left": 1}, 0.15, True),
        ({"at": "", "left": 1}, 0.05, False),
        ({"got": Got.CREDENTIALS}, 0.3, False),
        ({"at": "list 503"}, 0.1, False),
        ({"at": "list 403"}, 0.3, False),
        ({"at": "credentials 503", "late": 1}, 0.3, False),
        ({"at": "list 503", "again": Got.REFUSED}, 0.3, False),
    ],
)
def test_what_the_machine_takes(change: dict[str, object], late: float, taken: bool) -> None:
    """Is a request that was held, and nothing beside it, when it was late by then for more than is left to it."""
    result = replace(FINE, **{"got": Got.REFUSED, **change})  # type: ignore[arg-type]
    assert judging.taken(result, judging.faults(result, Expected(again=True), CLIENT), late) is taken


@pytest.mark.parametrize(("at", "number"), [("", 0), ("list 503", 1), ("credentials 404", 1)])
def test_region(at: str, number: int) -> None:
    """Who has an error for having no region has it by itself, and after the agent has given all that was asked for."""
    refused = replace(FINE, got=Got.REFUSED, again=Got.NOTHING, at=at)
    client = replace(CLIENT, no_region="no region")
    assert len(judging.faults(refused, Expected(region=True), client)) == number


def test_who_leaves() -> None:
    """A client that by its own rules waits for less than a request may be held has no fault of that."""
    client = replace(CLIENT, leaves=True)
    assert judging.faults(replace(FINE, left=1), HELD, client) == []
    assert judging.faults(replace(FINE, dropped=1), HELD, client) != []


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({}, 0),
        ({"seconds": 9.0, "requests": 7}, 0),
        ({"got": Got.REFUSED}, 1),
        ({"got": Got.REFUSED, "left": 1}, 1),
        ({"version": "2", "left": 1}, 1),
        ({"again": Got.REFUSED}, 1),
        ({"anew": Got.REFUSED}, 1),
        ({"reason": "NoRole"}, 0),
        ({"version": "2"}, 1),
        ({"tokens": "optional"}, 1),
    ],
)
def test_differences(change: dict[str, object], number: int, tmp_path: Path) -> None:
    """Outcomes and versions are compared with the file; times and numbers of requests are not."""
    run = Run(cells=2, seconds=3, cpu_seconds=4, cores=2, load=0.5)
    results.write([FINE, REFUSED], run, tmp_path / "results.json")
    assert results.read_run(tmp_path / "results.json") == run
    committed = results.read(tmp_path / "results.json") | {FINE.key: FINE}
    assert len(results.differences([replace(FINE, **change)], committed)) == number  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "load", "too_long"), [(601, 1.9, True), (600, 1.9, False), (601, 2.0, False), (9_000, 30.0, False)]
)
def test_a_run_that_takes_too_long(seconds: int, load: float, too_long: bool) -> None:
    """Is one of a machine that had a core to spare."""
    assert Run(cells=2, seconds=seconds, cpu_seconds=4, cores=2, load=load).too_long is too_long

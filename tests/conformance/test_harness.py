"""The matrix itself: it believes no client, tells every way in which one can fail, finds what is not as committed."""

import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from metaproxy.errors import Reason
from tests.conformance import calls as calls_module
from tests.conformance import results
from tests.conformance.calls import Calls
from tests.conformance.post import Heads, Post, Traffic
from tests.conformance.proving import Prover
from tests.conformance.registry import Client
from tests.conformance.results import Expected, Got, Result
from tests.fakes.sts import FakeSts, Step

ASSUME = {"Action": "AssumeRole", "RoleSessionName": "s", "Version": "2011-06-15"}
FINE = Result(
    client="c", version="1", situation="cached", tokens="required", got=Got.CREDENTIALS, again=Got.CREDENTIALS
)
REFUSED = replace(FINE, got=Got.REFUSED, again=Got.NOTHING, reason="NoRole", seconds=1.0)
Make = Callable[[str, str], Calls]


@pytest.fixture
async def sts() -> AsyncIterator[FakeSts]:
    """An STS that has given a key for the right role, one for another, and one whose session has expired."""
    async with FakeSts() as sts, aiohttp.ClientSession() as session:
        sts.script(Step(life=0.0), role="arn:aws:iam::123456789012:role/over")
        for role in ("right", "other", "over"):
            form = {**ASSUME, "RoleArn": f"arn:aws:iam::123456789012:role/{role}"}
            async with session.post(sts.url, data=form) as answer:
                assert answer.status == 200
        yield sts


@pytest.fixture
async def make(sts: FakeSts) -> AsyncIterator[Make]:
    """Makes a client of a Python program, or a tool of one."""
    made: list[Calls] = []
    async with Post(1, Prover(sts)) as post:

        def make(program: str, kind: str = "program") -> Calls:
            post.traffic = Traffic("127.0.0.2", ("127.0.0.1", 1))
            command = (sys.executable, "-c", SIGNED + textwrap.dedent(program))
            client = Client(toolchain="t", name="c", version="1", command=command, proof="sts", budget=9, kind=kind)
            made.append(
                Calls(
                    client,
                    namespace=post.namespace,
                    traffic=post.traffic,
                    sts=sts,
                    owner="arn:aws:iam::123456789012:role/right s",
                )
            )
            return made[-1]

        yield make
        for one in made:
            await one.close()


SIGNED = """
import os, sys, urllib.request
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

def sign(number, token=None, secret=None, region="us-east-1", body=b"Action=GetCallerIdentity&Version=2011-06-15"):
    keys = Credentials(f"ASIA{number:016}", secret or f"secret/of/{number}", token or f"token/of/{number}==")
    request = AWSRequest("POST", os.environ["STS_URL"], data=b"Action=GetCallerIdentity&Version=2011-06-15")
    SigV4Auth(keys, "sts", region).add_auth(request)
    urllib.request.urlopen(urllib.request.Request(request.url, data=body, headers=dict(request.headers))).read()

def say(ok=True):
    told = '{"step": 1, "ok": true, "key": ""}' if ok else '{"step": 1, "ok": false, "error": "x: NoRole: y"}'
    print(told, flush=True)

"""


@pytest.mark.parametrize(
    ("program", "got"),
    [
        ("sign(1); say()", Got.CREDENTIALS),
        ("say()", Got.UNPROVED),
        ("sign(2); say()", Got.FOREIGN),
        ("sign(1); sign(2); say()", Got.FOREIGN),
        ("try: sign(1, 'wrong')\nfinally: say()", Got.UNPROVED),
        ("try: sign(1, secret='wrong')\nfinally: say()", Got.UNPROVED),
        ("try: sign(1, region='eu-west-1')\nfinally: say()", Got.UNPROVED),
        ("try: sign(1, body=b'Action=GetCallerIdentity')\nfinally: say()", Got.UNPROVED),
        ("try: sign(3)\nfinally: say()", Got.UNPROVED),
        ("try: sign(9)\nfinally: say()", Got.UNPROVED),
        ("say(False)", Got.REFUSED),
        ("", Got.SILENT),
        ("sys.exit(3)", Got.SILENT),
        ("os.abort()", Got.ABORTED),
        ("sys.exit(134)", Got.ABORTED),
    ],
)
async def test_every_end_of_a_call(make: Make, program: str, got: Got) -> None:
    """What a program says is believed only with a key of the right role and session."""
    client = make(program, "program")
    await client.first()
    assert client.calls[0].got is got


@pytest.mark.parametrize(
    ("program", "got"),
    [
        ("sign(1)", Got.CREDENTIALS),
        ("", Got.UNPROVED),
        ("sign(2)", Got.FOREIGN),
        ("sys.exit('no: StsDenied: x')", Got.REFUSED),
        ("sys.exit(253)", Got.REFUSED),
        ("os.abort()", Got.ABORTED),
    ],
)
async def test_every_end_of_a_tool(make: Make, program: str, got: Got) -> None:
    """A tool says it by its exit code; it is run anew for the second call."""
    client = make(program, "tool")
    await client.first()
    await client.again()
    assert [call.got for call in client.calls] == [got, got]


async def test_a_second_call(make: Make) -> None:
    """Is made by the same process, when it is told to."""
    client = make("sign(1); say(); assert sys.stdin.readline() == 'again\\n'; sign(1); say()", "program")
    await client.first()
    await client.again()
    assert [call.got for call in client.calls] == [Got.CREDENTIALS, Got.CREDENTIALS]


async def test_a_call_without_an_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told from an error, and its process is ended."""
    monkeypatch.setattr(calls_module, "HANG", 2.0)
    client = make("import time\nwhile True: time.sleep(1)", "program")
    await client.first()
    assert client.calls[0].got is Got.HUNG
    await client.close()
    assert client._process is not None
    assert client._process.returncode is not None


async def test_the_reason_in_a_message(make: Make) -> None:
    """Is found where a client shows it."""
    client = make("say(False)", "program")
    await client.first()
    assert client.calls[0].reason == "NoRole"


def test_requests_in_pieces() -> None:
    """Each request is seen once, wherever the stream is cut."""
    whole = b"PUT /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n\r\n"
    for cut in range(len(whole)):
        heads = Heads()
        assert heads.feed(whole[:cut]) + heads.feed(whole[cut:]) == ["PUT /a HTTP/1.1", "GET /b HTTP/1.1"]


@pytest.mark.parametrize(
    ("result", "expected", "number"),
    [
        (FINE, Expected(again=True), 0),
        (replace(FINE, got=Got.FOREIGN), Expected(), 1),
        (replace(FINE, got=Got.UNPROVED), Expected(), 1),
        (replace(FINE, got=Got.REFUSED), Expected(), 1),
        (replace(FINE, got=Got.REFUSED), Expected(region=True), 0),
        (replace(FINE, again=Got.REFUSED), Expected(again=True), 1),
        (replace(FINE, again=Got.REFUSED), Expected(), 0),
        (replace(FINE, again=Got.FOREIGN), Expected(), 1),
        (FINE, Expected(reason=Reason.NO_ROLE), 1),
        (REFUSED, Expected(reason=Reason.NO_ROLE), 0),
        (replace(REFUSED, reason=""), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, reason="StsDenied"), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, seconds=11.0), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, got=Got.HUNG), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, got=Got.ABORTED), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, got=Got.SILENT), Expected(reason=Reason.NO_ROLE), 1),
        (replace(REFUSED, got=Got.MISSING), Expected(), 1),
    ],
)
def test_faults(result: Result, expected: Expected, number: int) -> None:
    """What a client must do and must not."""
    found = results.faults(result, expected, shows_bodies=True, finds_region=False, budget=10.0)
    assert len(found) == number, found


def test_region() -> None:
    """Who finds its region must have credentials without one being told."""
    refused = replace(FINE, got=Got.REFUSED)
    assert results.faults(refused, Expected(region=True), shows_bodies=False, finds_region=True, budget=10.0)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({}, 0),
        ({"seconds": 9.0, "requests": 7}, 0),
        ({"got": Got.REFUSED}, 1),
        ({"again": Got.REFUSED}, 1),
        ({"reason": "NoRole"}, 1),
        ({"version": "2"}, 1),
        ({"tokens": "optional"}, 1),
    ],
)
def test_differences(change: dict[str, object], number: int, tmp_path: Path) -> None:
    """Outcomes and versions are compared with the file; times and numbers of requests are not."""
    results.write([FINE, REFUSED], tmp_path / "results.json")
    committed = results.read(tmp_path / "results.json") | {FINE.key: FINE}
    assert len(results.differences([replace(FINE, **change)], committed)) == number  # type: ignore[arg-type]

"""The matrix itself: it believes no client, tells every way in which one can fail, finds what is not as committed."""

import subprocess
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
from tests.network.lab.namespaces import NAMES, Namespace, clear_abandoned, until

ASSUME = {"Action": "AssumeRole", "RoleSessionName": "s", "Version": "2011-06-15"}
FINE = Result(
    client="c", version="1", situation="cached", tokens="required", got=Got.CREDENTIALS, again=Got.CREDENTIALS
)
CLIENT = Client(
    toolchain="t", name="c", version="1", command=("c",), proof="sts", budget=10.0, shows_bodies=(404,), requests=3
)
GONE = Expected(reason=Reason.NO_ROLE, again=True)
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


@pytest.mark.parametrize(
    ("program", "got"),
    [
        ("sign(1); say(); sys.stdin.readline()", Got.CREDENTIALS),
        ("sign(1); say(); sys.stdin.readline(); os.abort()", Got.ABORTED),
        ("say(False); sys.stdin.readline(); sys.exit(1)", Got.ABORTED),
        ("import time\nsign(1); say()\nwhile True: time.sleep(1)", Got.HUNG),
    ],
)
async def test_how_a_program_ends(make: Make, program: str, got: Got, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts for its last call, however well that went."""
    monkeypatch.setattr(calls_module, "END", 5.0)
    client = make(program, "program")
    await client.first()
    await client.close()
    assert client.calls[0].got is got


async def test_keys_of_the_former_role(make: Make) -> None:
    """Are told from those of the role that the pod has by now."""
    client = make("sign(1); say(); sys.stdin.readline(); sign(1); say()", "program")
    await client.first()
    await client.again("arn:aws:iam::123456789012:role/other")
    assert [call.got for call in client.calls] == [Got.CREDENTIALS, Got.FORMER]


async def test_keys_of_the_first_call(make: Make) -> None:
    """Are told from new ones, where the agent has given new ones."""
    client = make("sign(1); say(); sys.stdin.readline(); sign(1); say()", "program")
    await client.first()
    await client.again(renewed=True)
    assert [call.got for call in client.calls] == [Got.CREDENTIALS, Got.KEPT]


async def test_a_clock_that_is_set(make: Make) -> None:
    """Is the program's own, and that by which its proof is judged."""
    client = make("sign(1); say(); sys.stdin.readline(); sign(1); say()", "program")
    client.has_a_clock()
    await client.first()
    client.leaps(3_000.0)
    await client.again()
    client.traffic.proofs.ahead = 0.0
    assert [call.got for call in client.calls] == [Got.CREDENTIALS, Got.CREDENTIALS]


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
        found = heads.feed(whole[:cut]) + heads.feed(whole[cut:])
        assert found == ["PUT /a HTTP/1.1\r\nHost: x", "GET /b HTTP/1.1"]


async def test_who_shows_a_token() -> None:
    """A header that is empty shows none, nor does the one that asks for a token."""
    traffic = Traffic("", ("", 0))
    for head, shown in (
        ("PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60", 0),
        ("GET /a HTTP/1.1\r\nHost: x", 0),
        ("GET /b HTTP/1.1\r\nX-aws-ec2-metadata-token: \r\nHost: x", 0),
        ("GET /c HTTP/1.1\r\nX-Aws-Ec2-Metadata-Token: a==\r\nHost: x", 1),
        ("GET /d HTTP/1.1\r\nhost: x\r\nx-aws-ec2-metadata-token:a==", 2),
    ):
        traffic.saw(head)
        assert traffic.shown == shown, head
    assert [line.split()[1] for line in traffic.requests] == ["/latest/api/token", "/a", "/b", "/c", "/d"]


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
        (replace(FINE, again=Got.FORMER), Expected(again=True), 1),
        (replace(FINE, again=Got.KEPT), Expected(again=True), 1),
        (replace(FINE, again=Got.NOTHING), Expected(again=True), 1),
        (replace(FINE, again_requests=0), Expected(again=True, asks=True), 1),
        (replace(FINE, again_requests=1), Expected(again=True, asks=True), 0),
        (replace(FINE, token="not shown"), Expected(), 1),
        (replace(FINE, token="not shown", tokens="optional"), Expected(), 0),
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
        (replace(REFUSED, reason="NotPermitted"), Expected(reason=Reason.NOT_PERMITTED), 1),
        (replace(REFUSED, reason=""), Expected(reason=Reason.NOT_PERMITTED), 0),
    ],
)
def test_faults(result: Result, expected: Expected, number: int) -> None:
    """What a client must do and must not."""
    found = results.faults(result, expected, CLIENT)
    assert len(found) == number, found


def test_region() -> None:
    """Who finds its region must have credentials without one being told."""
    refused = replace(FINE, got=Got.REFUSED)
    assert results.faults(refused, Expected(region=True), replace(CLIENT, finds_region=True))


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({}, 0),
        ({"seconds": 9.0, "requests": 7}, 0),
        ({"got": Got.REFUSED}, 1),
        ({"again": Got.REFUSED}, 1),
        ({"anew": Got.REFUSED}, 1),
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


def test_abandoned_namespaces() -> None:
    """What a killed run has left goes with the next run, and what ran in it; what a living one has stays."""
    left = (
        "import time\nfrom tests.network.lab.namespaces import Namespace\n"
        "import subprocess\nnamespace = Namespace('left')\n"
        "sleeper = subprocess.Popen(namespace.command('sleep', '1000'), stdout=subprocess.DEVNULL)\n"
        "print(namespace.name, sleeper.pid, flush=True)\ntime.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", left], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        name, sleeper = run.stdout.readline().split()
        clear_abandoned.__wrapped__()
        assert (NAMES / name).exists()
        run.kill()
    mine = Namespace("mine")
    try:
        clear_abandoned.__wrapped__()
        assert not (NAMES / name).exists()
        until(lambda: not _runs(sleeper))
        assert (NAMES / mine.name).exists()
    finally:
        mine.close()


def _runs(pid: str) -> bool:
    """A process that has ended and that nobody has waited for yet runs no more."""
    try:
        return ") Z " not in Path("/proc", pid, "stat").read_text()
    except FileNotFoundError:
        return False

"""The matrix itself: it believes no client, tells every way in which one can fail, finds what is not as committed."""

import asyncio
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from tests.conformance import calls as calls_module
from tests.conformance.calls import Calls
from tests.conformance.lateness import Lateness
from tests.conformance.post import Post, Traffic
from tests.conformance.proving import Prover
from tests.conformance.registry import Client
from tests.conformance.results import Got
from tests.fakes import sts as fake
from tests.fakes.sts import FakeSts
from tests.network.lab.namespaces import NAMES, Namespace, clear_abandoned, until

ASSUME = {"Action": "AssumeRole", "RoleSessionName": "s", "Version": "2011-06-15"}
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
Make = Callable[[str, str], Calls]


@pytest.fixture
async def sts() -> AsyncIterator[FakeSts]:
    """An STS that has given a key for the right role, one for another, and one whose session has expired."""
    async with FakeSts() as sts, aiohttp.ClientSession() as session:
        sts.script(fake.Step(life=0.0), role="arn:aws:iam::123456789012:role/over")
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
            client = replace(CLIENT, command=command, refusal="no|NoRole|^$", kind=kind)
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
        ("try: urllib.request.urlopen(os.environ['STS_URL'])\nexcept OSError: say(False)", Got.REFUSED),
        ("try: sign(1, 'wrong')\nexcept OSError: say(False)", Got.BROKEN),
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
        ("sys.exit('Killed')", Got.BROKEN),
        ("raise RuntimeError", Got.BROKEN),
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
    monkeypatch.setattr(calls_module, "END", 2.0)
    client = make("import time\nwhile True: time.sleep(1)", "program")
    await client.first()
    assert client.calls[0].got is Got.HUNG
    await client.close()
    assert client._process is not None
    assert client._process.returncode is not None


ASK = """
import http.client
agent = http.client.HTTPConnection("169.254.169.254", timeout=PATIENCE)
for path in ("/latest/meta-data/iam/security-credentials/", "/latest/x"):
    try:
        agent.request("GET", path)
        agent.getresponse().read()
    except OSError:
        agent.close()
say(False)
"""


@pytest.mark.parametrize(
    ("answer", "patience", "statuses", "left"),
    [
        (b"503 S", 30.0, [503, 503], [False, False]),
        (b"", 30.0, [0, 0], [False, False]),
        (None, 0.2, [0, 0], [True, True]),
    ],
)
async def test_what_was_answered(
    make: Make, answer: bytes | None, patience: float, statuses: list[int], left: list[bool]
) -> None:
    """Each request has the status of its answer, or none when its connection ended without, and who ended that."""

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n") and answer != b"":
                if answer is None:
                    continue
                writer.write(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 2\r\n\r\nno")
        writer.close()

    client = make(ASK.replace("PATIENCE", str(patience)), "program")
    async with await asyncio.start_server(agent, "127.0.0.1", 0) as server:
        client.traffic.agent = server.sockets[0].getsockname()
        await client.first()
        assert [request.status for request in client.calls[0].requests] == statuses
        assert [request.left for request in client.calls[0].requests] == left
        assert client.traffic.listed.is_set()
        assert client.traffic.settled.is_set()


async def test_the_reason_in_a_message(make: Make) -> None:
    """Is found where a client shows it."""
    client = make("say(False)", "program")
    await client.first()
    assert client.calls[0].reason == "NoRole"


async def test_how_late_the_machine_is() -> None:
    """Whoever keeps the loop from going on is seen, and when."""
    lateness, loop = Lateness(), asyncio.get_running_loop()
    looking = asyncio.create_task(lateness.run())
    await asyncio.sleep(0)
    began = loop.time()
    time.sleep(0.5)  # noqa: ASYNC251  the fault itself
    await asyncio.wait({looking}, timeout=1.0)
    looking.cancel()
    assert 0.4 < lateness.worst <= lateness.total(began) < 10.0
    assert lateness.total(loop.time() + 1.0) == 0.0
    assert lateness.total(0.0, began - 1.0) == 0.0


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

"""The handover's wire: real unix sockets, real descriptors, and everything that the other side can do wrong."""

import asyncio
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from metaproxy import arrival, handover, handoverwire, unixsocket
from metaproxy.handover import Handover
from metaproxy.handoverwire import DONE, HELLO, SOCKETS, STATE, TAKE, BusyError, HandoverError
from metaproxy.predecessor import OthersError, Predecessor, SilentError, ask

pytestmark = pytest.mark.sockets

BOUND = 20.0
"""Seconds that nothing here may take."""

NOBODY = 65534
NAME = "one"


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def frame(kind: int, body: bytes = b"", *, length: int | None = None, magic: bytes = b"mpx1") -> bytes:
    """A frame, right or wrong."""
    return struct.pack(">4sBI", magic, kind, len(body) if length is None else length) + body


def listening() -> socket.socket:
    """A listening socket."""
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made


class House:
    """What is handed over, and what was said to who hands it over."""

    def __init__(self) -> None:
        self.made = {NAME: listening(), "two": listening()}
        self.said: list[object] = []
        self.retired = asyncio.Event()
        self.broken = False
        self.elsewhere = True
        self.number = 0

    def sockets(self) -> Mapping[str, socket.socket]:
        """Two."""
        return self.made

    async def state(self, *, last: bool) -> bytes:
        """The first, or the last."""
        if self.broken:
            raise ZeroDivisionError
        self.number += 1
        return (b"last" if last else b"first") * 100_000  # more than fits into the socket at once

    def rest(self, resting: bool) -> None:
        """It is told to rest, or to go on."""
        self.said.append(resting)

    async def retire(self) -> None:
        """It is told to stop."""
        self.said.append("retire")
        self.retired.set()

    async def followed(self) -> bool:
        """Whether somebody else serves by now."""
        return self.elsewhere

    def close(self) -> None:
        """Be gone."""
        for each in self.made.values():
            each.close()


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[House]:
    """A process that serves, as far as a successor can see."""
    with closing(House()) as house:
        task = asyncio.create_task(Handover(house).run(await asyncio.to_thread(arrival.again, path)))
        try:
            async with asyncio.timeout(BOUND):
                yield house
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def saying(path: Path, *parts: bytes, sent: tuple[int, ...] = (), last: bool = True) -> AsyncIterator[None]:
    """A predecessor that says just this, whatever it is asked; `last`: and then hangs up."""

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection, suppress(ConnectionError):
                connection.recv(4096)
                for number, part in enumerate(parts):
                    socket.send_fds(connection, [part], [] if number else list(sent))
                if not last:
                    connection.settimeout(BOUND)
                    while connection.recv(4096):
                        pass

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(BOUND)
    thread = asyncio.create_task(asyncio.to_thread(serve))
    yield
    await thread


async def test_everything_is_handed_over(tmp_path: Path) -> None:
    """Sockets that are the same sockets, the state twice, and the other one is told each step."""
    path = tmp_path / "socket"
    async with running(path) as house:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        former = await ask(path, needed=NAME)
        assert (former.state, former.gone) == (b"first" * 100_000, False)
        assert [former.sockets[name].getsockname() for name in house.made] == [
            each.getsockname() for each in house.made.values()
        ]
        assert not any(os.get_inheritable(each.fileno()) for each in former.sockets.values())
        kept = former.sockets.pop("two")
        assert house.said == []
        assert await former.take() == b"last" * 100_000
        assert house.said == [True]
        assert await former.done()
        assert house.said == [True, "retire"]
        former.close()
        house.close()
        with kept, socket.create_connection(kept.getsockname()):
            pass  # who took it owns it
        with pytest.raises(HandoverError, match="nobody is there"):
            await ask(path, needed=NAME)


async def test_a_successor_that_dies(tmp_path: Path) -> None:
    """Before it was ready or just before it served: it is as if it had never been there, and the next one is heard."""
    path = tmp_path / "socket"
    async with running(path) as house:
        (await ask(path, needed=NAME)).close()
        former = await until_offered(path)
        await former.take()
        former.close()
        former = await until_offered(path)
        assert house.said == [True, False]
        await former.take()
        await former.done()
        await house.retired.wait()
        former.close()


async def test_a_successor_that_ends_later(tmp_path: Path) -> None:
    """Who has retired lives with it: it fails when the successor ends and nobody serves, and only then."""
    path = tmp_path / "socket"
    with closing(House()) as house:
        house.elsewhere = False
        task = asyncio.create_task(Handover(house).run(await asyncio.to_thread(arrival.again, path)))
        former = await ask(path, needed=NAME)
        await former.take()
        await former.done()
        await house.retired.wait()
        former.release()
        assert not task.done()
        former.close()
        with pytest.raises(RuntimeError, match="the successor has ended and nobody serves"):
            async with asyncio.timeout(BOUND):
                await task


class Ending(House):
    """A process that is ended in the moment in which its successor takes over."""

    task: asyncio.Task[None]

    async def retire(self) -> None:
        """It is told to stop."""
        self.task.cancel()


async def test_a_process_that_is_ended_while_it_hands_over(tmp_path: Path) -> None:
    """Its successor is hung up on, as it is by every end."""
    with closing(Ending()) as house:
        listener = await asyncio.to_thread(arrival.again, tmp_path / "sock")
        house.task = asyncio.create_task(Handover(house).run(listener))
        former = await ask(tmp_path / "sock", needed=NAME)
        with closing(former):
            await former.take()
            assert not await former.done()
            await asyncio.wait([house.task], timeout=BOUND)
            assert former.gone


async def test_a_successor_that_never_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has said that it will, and hangs: the running process goes on as before, after a while."""
    monkeypatch.setattr(handover, "TAKING", 0.2)
    path = tmp_path / "socket"
    async with running(path) as house:
        former = await ask(path, needed=NAME)
        await former.take()
        with closing(former):
            (await until_offered(path)).close()
        assert house.said == [True, False]


async def test_one_at_a_time(tmp_path: Path) -> None:
    """Of two successors the second is told to come later while the first is served; then it may."""
    path = tmp_path / "socket"
    async with running(path):
        first = await ask(path, needed=NAME)
        for _ in range(2):
            with pytest.raises(BusyError, match="another process"):
                await ask(path, needed=NAME)
        first.close()
        (await until_offered(path)).close()


async def test_a_mistake_of_ours_ends_nothing(tmp_path: Path) -> None:
    """What cannot be written down is said in the log; who serves goes on serving, and may be asked again."""
    path = tmp_path / "socket"
    async with running(path) as house:
        house.broken = True
        with capture_logs() as logs, pytest.raises(HandoverError, match="is gone"):
            await ask(path, needed=NAME)
        assert [line["event"] for line in logs] == ["handing over broke"]
        house.broken = False
        (await ask(path, needed=NAME)).close()


async def test_a_predecessor_that_goes(tmp_path: Path) -> None:
    """While its successor warms up: it is seen to be gone, gives no last state, and its sockets are the successor's."""
    path = tmp_path / "socket"
    async with running(path) as house:
        former = await ask(path, needed=NAME)
    assert former.gone
    house.close()
    assert await former.take() is None
    assert not await former.done()
    with socket.create_connection(former.sockets[NAME].getsockname()):
        pass
    former.close()


async def test_nobody_is_there(tmp_path: Path) -> None:
    """No file, a socket that was left behind, a file that is none; a new socket takes the place of any."""
    path = tmp_path / "socket"
    with pytest.raises(HandoverError, match="nobody is there"):
        await ask(path, needed=NAME)
    for _ in range(2):
        (await asyncio.to_thread(arrival.again, path)).close()
        with pytest.raises(HandoverError, match="nobody is there"):
            await ask(path, needed=NAME)
    path.unlink()
    path.write_text("")
    with pytest.raises(HandoverError, match="nobody is there"):
        await ask(path, needed=NAME)
    with pytest.raises(OSError, match="No such file"):
        await asyncio.to_thread(arrival.again, tmp_path / "nowhere" / "socket")


async def until_offered(path: Path) -> Predecessor:
    """Ask until there is time for us: the other side may not have seen yet that the one before has gone."""
    async with asyncio.timeout(BOUND):
        while True:
            with suppress(BusyError):
                return await ask(path, needed=NAME)


ONE = json.dumps([NAME]).encode()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((), "is gone"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "something else came"),
        ((frame(SOCKETS, ONE, magic=b"mpx2"),), "something else came"),
        ((frame(STATE, b"x"),), "something else came"),
        ((frame(SOCKETS, ONE)[:-1],), "is gone"),
        ((frame(SOCKETS, ONE), frame(STATE, b"x" * 9)[:-1]), "is gone"),
        ((frame(SOCKETS, b"", length=1 << 30),), "a message of 1073741824 bytes"),
        ((frame(SOCKETS, ONE), frame(STATE, b"", length=(64 << 20) + 1)), "a message of 67108865 bytes"),
        ((frame(SOCKETS, b"[" * 9_000),), "names of the sockets"),
        ((frame(SOCKETS, b"{}"),), "names of the sockets"),
        ((frame(SOCKETS, b'["one", 1]'),), "names of the sockets"),
        ((frame(SOCKETS, b'["one", "one"]'),), "names of the sockets"),
        ((frame(SOCKETS, b'["two"]'),), "names of the sockets"),
        ((frame(SOCKETS, b'["one", "two"]'), frame(STATE)), "as many listening sockets"),
    ],
)
async def test_a_predecessor_that_cannot_be_followed(tmp_path: Path, parts: tuple[bytes, ...], said: str) -> None:
    """It says something else, too much, or half of it: refused with the reason, and no descriptor is left open."""
    with closing(listening()) as given:
        before = descriptors()
        async with saying(tmp_path / "socket", *parts, sent=(given.fileno(),)):
            with pytest.raises(HandoverError, match=said):
                await ask(tmp_path / "socket", needed=NAME)
        assert descriptors() == before


@pytest.mark.parametrize("make", [socket.socket, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)])
async def test_sockets_that_do_not_listen(tmp_path: Path, make: Callable[[], socket.socket]) -> None:
    """Are of no use."""
    with closing(make()) as given:
        async with saying(tmp_path / "socket", frame(SOCKETS, ONE), frame(STATE), sent=(given.fileno(),)):
            with pytest.raises(HandoverError, match="listening sockets"):
                await ask(tmp_path / "socket", needed=NAME)


async def test_more_descriptors_than_there_can_be(tmp_path: Path) -> None:
    """A flood of them is refused, and none is kept."""
    with closing(listening()) as given:
        before = descriptors()
        async with saying(tmp_path / "socket", frame(SOCKETS, ONE), frame(STATE), sent=(given.fileno(),) * 100):
            with pytest.raises(HandoverError, match="more sockets"):
                await ask(tmp_path / "socket", needed=NAME)
        assert descriptors() == before


async def test_a_predecessor_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts, or gives half of it, and says no more: bounded in time, at each step."""
    monkeypatch.setattr(handoverwire, "PATIENCE", 0.3)
    path = tmp_path / "socket"
    with closing(listening()) as given:
        for parts in ((), (frame(SOCKETS, ONE),), (frame(SOCKETS, ONE), frame(STATE, b"x" * 99)[:-1])):
            path.unlink(missing_ok=True)
            async with saying(path, *parts, sent=(given.fileno(),), last=False):
                with pytest.raises(HandoverError, match="no answer within"):
                    await ask(path, needed=NAME)
        path.unlink()
        async with saying(path, frame(SOCKETS, ONE), frame(STATE), sent=(given.fileno(),), last=False):
            former = await ask(path, needed=NAME)
            assert await former.take() is None
            former.close()


@pytest.mark.parametrize("parts", [(frame(TAKE),), (b"\0" * 9,), (frame(HELLO, b"x"),), (frame(HELLO), frame(DONE))])
async def test_a_successor_that_is_none(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    """Whoever says something else is sent away, with a reason in the log, and the next one is heard."""
    path = tmp_path / "socket"
    async with running(path) as house:
        with capture_logs() as logs, closing(socket.socket(socket.AF_UNIX)) as other:
            other.connect(str(path))
            for part in parts:
                other.sendall(part)
            await asyncio.to_thread(_drained, other)
            (await ask(path, needed=NAME)).close()
        assert (
            logs[-2]["event"] == "a successor has not taken over"
            or logs[0]["event"] == "a successor has not taken over"
        )
        assert house.said == []


def _drained(connection: socket.socket) -> None:
    connection.settimeout(BOUND)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return


ASKS = "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(20); print(s.recv(1))"
OFFERS = (
    "s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); s.settimeout(20); "
    "print('up', flush=True); print(s.accept()[0].recv(1))"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """That everybody may use; pytest's own is its user's alone."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o777)
        yield Path(made)


async def test_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither gets anything nor is followed."""
    become = "import os, socket, sys"
    if os.geteuid() == 0:
        become += f"; os.setuid({NOBODY})"
    else:
        # Then everybody that can be started here is of our user: we are the ones who become another.
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)

    async def started(code: str, path: Path) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", f"{become}; {code}", str(path)), stdout=subprocess.PIPE
        )

    async with running(folder / "ours"):
        (folder / "ours").chmod(0o666)
        with capture_logs() as logs:
            out, _ = await (await started(ASKS, folder / "ours")).communicate()
        assert out == b"b''\n"
        assert "and not ours" in logs[0]["error"]
    process = await started(OFFERS, folder / "theirs")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    with pytest.raises(HandoverError, match="and not ours"):
        await ask(folder / "theirs", needed=NAME)
    assert (await process.communicate())[0] == b"b''\n"


async def test_root_is_no_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither gets anything nor is followed by an agent of another user: in a container everybody may be root."""
    path = tmp_path / "socket"
    async with running(path) as house:
        # Both ends are of our user, which is root where it matters; the agent is then said to be another one.
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        with pytest.raises(OthersError, match="and not ours"):
            await ask(path, needed=NAME)
        with capture_logs() as logs, closing(socket.socket(socket.AF_UNIX)) as other:
            other.connect(str(path))
            other.sendall(frame(HELLO))
            await asyncio.to_thread(_drained, other)
        assert house.number == 0
        assert "and not ours" in logs[-1]["error"]


async def test_what_was_said_while_this_process_stood_still(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its time is over when it wakes up, and the successor has long said that it serves: that counts."""
    path = tmp_path / "socket"
    async with running(path) as house:
        monkeypatch.setattr(handover, "TAKING", 0.2)
        former = await ask(path, needed=NAME)
        await former.take()
        telling = asyncio.create_task(former.done())
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251  that is standing still: its time is over when the loop looks again
        assert await telling
        assert house.said == [True, "retire"]
        former.close()


async def test_nobody_was_told_that_it_is_displaced(tmp_path: Path) -> None:
    """Who is displaced retires, gives nothing away any more, and goes on as long as whoever displaced it serves."""
    path = tmp_path / "socket"
    with closing(House()) as house:
        one = Handover(house)
        task = asyncio.create_task(one.run(await asyncio.to_thread(arrival.again, path)))
        former = await ask(path, needed=NAME)
        await one.displaced()
        assert house.said == ["retire"]
        former.close()
        await one.displaced()
        assert house.said == ["retire"]
        house.elsewhere = False
        with pytest.raises(RuntimeError, match="nobody serves any more"):
            async with asyncio.timeout(BOUND):
                await task


async def test_who_only_looks_is_no_successor(tmp_path: Path) -> None:
    """A connection that says nothing and ends is no news for the operator."""
    path = tmp_path / "socket"
    async with running(path):
        with capture_logs() as logs:
            assert await asyncio.to_thread(unixsocket.answered, path)
            (await until_offered(path)).close()
        assert {line["log_level"] for line in logs if line["event"] == "a successor has not taken over"} <= {"debug"}


async def test_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that accepts nobody, whose queue is even full, hangs: that is another thing than one that is gone."""
    monkeypatch.setattr(handoverwire, "PATIENCE", 0.2)
    path = tmp_path / "socket"
    with closing(socket.socket(socket.AF_UNIX)) as hanging:
        hanging.bind(str(path))
        hanging.listen(0)
        for said in ("no answer within", "as many processes wait"):
            with pytest.raises(SilentError, match=said):
                await ask(path, needed=NAME)

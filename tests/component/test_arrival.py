"""How a process finds its place, on real sockets: what each answer at the handover's socket leads to, and when."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from metaproxy import arrival, handoverwire, sockets
from metaproxy.arrival import BESIDE, FIRST, FOLLOWED, HANDOVER, Place, arrive
from metaproxy.doors import AddressTakenError, Doors
from metaproxy.handover import Handover
from tests.component.test_handover import House
from tests.fakes.process import own_address, until

pytestmark = pytest.mark.sockets

BOUND = 60.0
"""Seconds that nothing here may take."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that a process of its own takes longer for; the order of things is the same."""
    monkeypatch.setattr(handoverwire, "PATIENCE", 0.3)
    monkeypatch.setattr(arrival, "AGAIN", 0.01)


@pytest.fixture
def host() -> str:
    """An address that nobody else has."""
    return own_address()


@pytest.fixture
def doors(host: str) -> Doors:
    """Of pods and of the operator, there."""
    return Doors([(host, 8181)], (host, 9181), shared=True)


def names(host: str) -> set[str]:
    """The names of all sockets there."""
    return {f"pods at {host}:8181", f"admin at {host}:9181", HANDOVER}


async def arrived(path: Path, doors: Doors) -> Place:
    """The place that is found; its sockets are the caller's."""
    async with asyncio.timeout(BOUND):
        return await arrive(path, doors, asyncio.Event())


def leave(place: Place) -> None:
    """Close what it was given."""
    for each in place.given.values():
        each.close()


@asynccontextmanager
async def hanging(path: Path) -> AsyncIterator[None]:
    """A process that has put its socket there, and accepts nobody."""
    with await asyncio.to_thread(arrival.again, path):
        yield


async def test_the_first(tmp_path: Path, doors: Doors, host: str) -> None:
    """Nobody is there: it has every address, and the socket at which it will be asked."""
    place = await arrived(tmp_path / "socket", doors)
    assert (place.how, set(place.given), place.beside) == (FIRST, names(host), False)
    leave(place)


async def test_an_offer_is_followed(tmp_path: Path, doors: Doors) -> None:
    """Whatever the addresses: the sockets come from the other one, after it has had no time for a while."""
    path = tmp_path / "socket"
    with closing(House()) as house:
        house.made[HANDOVER] = await asyncio.to_thread(arrival.again, path)
        serving = asyncio.create_task(Handover(house).run(house.made[HANDOVER].dup()))
        first = await arrived(path, doors)
        with capture_logs() as logs:
            second = asyncio.create_task(arrived(path, doors))
            await until("it waits", lambda: any("hand over to" in line.get("error", "") for line in logs), str)
            assert first.former is not None
            first.former.close()
            place = await second
        assert (place.how, set(place.given)) == (FOLLOWED, set(house.made))
        assert place.former is not None
        place.former.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_one_that_hangs(tmp_path: Path, doors: Doors, host: str) -> None:
    """Silent twice: this process is beside it, and at the path."""
    path = tmp_path / "socket"
    former = await asyncio.to_thread(doors.first)
    async with hanging(path):
        before = path.lstat().st_ino
        with capture_logs() as logs:
            place = await arrived(path, doors)
        assert [line["event"] for line in logs] == ["waiting for a place", "cold start beside a process that hangs"]
        assert (place.how, set(place.given), place.beside) == (BESIDE, names(host), False)
        assert path.lstat().st_ino != before
        leave(place)
    for each in former.values():
        each.close()


async def test_another_one_was_beside_it_first(tmp_path: Path, doors: Doors) -> None:
    """Seen under the lock: nobody is displaced who may be followed."""
    path = tmp_path / "socket"
    async with hanging(path):
        there = path.lstat()
        async with hanging(path):
            with pytest.raises(OSError, match="has come first") as raised:
                await asyncio.to_thread(arrival.beside, path, doors, (there.st_dev, there.st_ino))
            assert raised.value.errno == errno.EBUSY


async def test_one_that_cannot_be_followed(tmp_path: Path, doors: Doors) -> None:
    """It answers twice, and not as it should: it serves, so nothing of it is touched before this process is warm."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    path = tmp_path / "socket"
    async with await asyncio.start_unix_server(answer, path):
        place = await arrived(path, doors)
    assert (place.how, place.given, place.beside) == (BESIDE, {}, True)


async def test_a_strangers_address(tmp_path: Path, doors: Doors, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waited for, in case that it goes; then given up, with whose it is and what to do."""
    path = tmp_path / "socket"
    with sockets.listening(host, 8181, backlog=1, free=False) as stranger:
        with capture_logs() as logs:
            asking = asyncio.create_task(arrived(path, doors))
            await until("it waits", lambda: logs, str)
        stranger.close()
        leave(await asking)
    monkeypatch.setattr(arrival, "GIVE_UP", 0.1)
    path.unlink()
    with (
        sockets.listening(host, 8181, backlog=1, free=False),
        pytest.raises(AddressTakenError, match=rf"nobody is there; .*{host} port 8181, held by user .* `ss -ltnp"),
    ):
        await arrived(path, doors)


async def test_what_no_waiting_will_mend(tmp_path: Path, doors: Doors) -> None:
    """There is no such folder, or no such address: said at once, and nothing is left open."""
    with pytest.raises(OSError, match="No such file"):
        await arrived(tmp_path / "nowhere" / "socket", doors)
    with pytest.raises(OSError, match="Cannot assign"):
        await arrived(tmp_path / "socket", Doors([("192.0.2.77", 8181)], None, shared=True))
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"folder"):
        await asyncio.to_thread(arrival.first, tmp_path / "folder", doors, None)
    leave(await arrived(tmp_path / "socket", doors))


async def test_who_is_told_to_stop_finds_no_place(tmp_path: Path, doors: Doors) -> None:
    """And asks nobody."""
    stop = asyncio.Event()
    stop.set()
    assert not (await arrive(tmp_path / "socket", doors, stop)).given


async def test_the_operators_address_keeps_nobody_waiting(tmp_path: Path, doors: Doors, host: str) -> None:
    """It is a stranger's: all else is had, the trouble is said once, and it is had as soon as it is free."""
    with sockets.listening(host, 9181, backlog=1, free=False), capture_logs() as logs:
        place = await arrived(tmp_path / "socket", doors)
        assert set(place.given) == names(host) - {f"admin at {host}:9181"}
        assert await asyncio.to_thread(doors.of_operator, {}) is None
        assert f"{host}:9181" in str(doors.trouble)
    assert len([line for line in logs if "operator" in line["event"]]) == 1
    made = await asyncio.to_thread(doors.of_operator, {})
    assert made is not None
    made.close()
    assert doors.trouble is None
    leave(place)


@pytest.mark.parametrize(("former", "now"), [("0.0.0.0", "{}"), ("{}", "0.0.0.0")])
async def test_one_address_and_every_address(host: str, former: str, now: str) -> None:
    """A successor may listen at either while its predecessor's socket is at the other; that one is not gone on with."""
    port = 20_000 + int(host.rpartition(".")[2])
    before = Doors([(former.format(host), port)], None, shared=True)
    after = Doors([(now.format(host), port)], None, shared=True)
    given = await asyncio.to_thread(before.first)
    made = await asyncio.to_thread(after.of_pods, given)
    assert after.former(given) == {}
    for each in (*given.values(), *made.values()):
        each.close()


async def test_a_former_port(host: str) -> None:
    """Of the same address is gone on with, under the same name; sockets for other things are left."""
    before = Doors([(host, 8181)], (host, 9181), shared=True)
    after = Doors([(host, 8182)], (host, 9182), shared=True)
    given = await asyncio.to_thread(before.first)
    made = await asyncio.to_thread(after.of_pods, given)
    former = after.former(given)
    assert (set(made), set(former), set(given)) == ({(host, 8182)}, {(host, 8181)}, {f"admin at {host}:9181"})
    assert set(after.named(made | former, None)) == {f"pods at {host}:8182", f"pods at {host}:8181"}
    for each in (*given.values(), *made.values(), *former.values()):
        each.close()

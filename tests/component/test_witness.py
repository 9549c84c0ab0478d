"""The witness and a kernel that is scripted, over a real socket; and the real one, as far as that shows anything."""

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from metaproxy import ear, lookout, netlink, witness
from metaproxy.carriers import Carrier, Device
from metaproxy.telemetry import Metrics
from metaproxy.witness import Witness

pytestmark = pytest.mark.sockets

BOUND = 10.0
"""Seconds that nothing here may take: many times what it should."""

PORT = 4711
BRIDGE, LOOPBACK = 3, 1
MAC, OTHER = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
POD = "127.0.0.5"
LINKS = (16, struct.pack("=BxHiII", 0, 1, LOOPBACK, 1, 0))


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, *, flags: int = 0, number: int = 0, port: int = 0) -> bytes:
    """One message."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number, port) + body + bytes(-len(body) % 4)


def bridge() -> bytes:
    """A bridge that is up."""
    return struct.pack("=BxHiII", 0, 1, BRIDGE, 1, 0) + attribute(18, attribute(1, b"bridge\0"))


def route(device: int, length: int = 24) -> bytes:
    """To the pods, or to the pod alone."""
    to = bytes(map(int, POD.split(".")))
    head = struct.pack("=BBBBBBBBI", 2, length, 0, 0, 254, 3, 253, 1, 0)
    return head + attribute(1, to if length == 32 else to[:3] + b"\0") + attribute(4, struct.pack("=I", device))


def neighbour(hardware: bytes) -> bytes:
    """The pod's neighbour entry."""
    to = bytes(map(int, POD.split(".")))
    return struct.pack("=BxxxiHBB", 2, BRIDGE, 2, 0, 1) + attribute(1, to) + attribute(2, hardware)


def forwarding(hardware: bytes, port: int = LOOPBACK) -> bytes:
    """The bridge's entry."""
    return struct.pack("=BxxxiHBB", 7, port, 2, 0, 0) + attribute(2, hardware) + attribute(9, struct.pack("=I", BRIDGE))


async def until(changed: asyncio.Event, holds: Callable[[], object]) -> None:
    """Look again whenever something changed, until it holds."""
    async with asyncio.timeout(BOUND):
        while not holds():
            changed.clear()
            await changed.wait()


class Kernel:
    """Answers requests for everything with what is `there`, if it `answers`; `breaks`: how often not well."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.there: list[tuple[int, bytes]] = [LINKS]
        self.answers, self.breaks, self.dumps, self.ports = True, 0, 0, 0
        self.refuses = 0
        self.said: list[tuple[int, bytes]] = []
        self.asked = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.far, self._asked)

    def _asked(self) -> None:
        request = self.far.recv(1 << 16)
        _, kind, asks, number, _ = struct.unpack_from("=IHHII", request)
        self.dumps += kind == 18
        self.asked.set()
        if not self.answers:
            return
        if kind == 30 and not asks & 0x300:
            self._asked_port(request, number)
            return
        flags = 0
        if self.breaks:
            self.breaks -= 1
            flags = 0x10
        for what, body in self.there:
            if kind == what + 2 - what % 2:
                self.far.send(message(what, body, flags=2 | flags, number=number, port=PORT))
        self.far.send(message(3, bytes(4), flags=flags, number=number, port=PORT))

    def _asked_port(self, request: bytes, number: int) -> None:
        self.ports += 1
        known = [body for what, body in self.there + self.said if what == 28 and body[:1] == b"\7"]
        found = [body for body in known if body[16:22] == request[32:38]]
        if found and not self.refuses:
            self.far.send(message(28, found[-1], number=number, port=PORT))
        else:
            self.far.send(message(2, struct.pack("=i", -(self.refuses or errno.ENOENT)), number=number, port=PORT))

    def say(self, kind: int, body: bytes = b"") -> None:
        """A notification; what it says of a bridge's ports is so from now on."""
        if kind == 28 and body[:1] == b"\7":
            self.said.append((kind, body))
        elif kind == 17:
            self.said.clear()
        self.far.send(message(kind, body))

    def close(self) -> None:
        """The end."""
        asyncio.get_running_loop().remove_reader(self.far)
        self.far.close()


class Sink:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.sights: dict[str, Carrier | None] = {}
        self.dead: list[Device] = []
        self.blinds: list[bool] = []
        self._changed = asyncio.Event()

    def saw(self, sights: Mapping[str, Carrier | None], dead: Iterable[Device]) -> None:
        """Carriers changed."""
        self.sights.update(sights)
        self.dead.extend(dead)
        self._changed.set()

    def blind(self, blind: bool) -> None:
        """Whether the kernel is heard."""
        if self.blinds[-1:] != [blind]:
            self.blinds.append(blind)
        self._changed.set()

    async def until_seen(self, carrier: Carrier | None) -> None:
        """Wait for the pod's carrier."""
        await until(self._changed, lambda: POD in self.sights and self.sights[POD] == carrier)

    async def until_dead(self, *devices: Device) -> None:
        """Wait until these were told to be gone."""
        await until(self._changed, lambda: self.dead == list(devices))

    async def until_blind(self, *blinds: bool) -> None:
        """Wait until this was told, in this order."""
        await until(self._changed, lambda: self.blinds == list(blinds))


class Bench:
    """A witness at work."""

    def __init__(self) -> None:
        self.kernel, self.sink, self.metrics = Kernel(), Sink(), Metrics()
        self.witness = Witness(self.sink, self.metrics, connect=lambda: (self.kernel.near, PORT))

    def dumps(self, reason: str) -> float | None:
        """How often everything was asked for, for this reason."""
        return self.metrics.registry.get_sample_value("metaproxy_witness_dumps_total", {"reason": reason})


@asynccontextmanager
async def bench(*, runs: bool = True) -> AsyncIterator[Bench]:
    """A witness that has heard everything there is, and must not end by itself."""
    made = Bench()
    task = asyncio.create_task(made.witness.run())
    try:
        if runs:
            await made.sink.until_blind(False)
        yield made
        assert not task.done(), "the witness ended by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        made.kernel.close()


class Datagrams(asyncio.DatagramProtocol):
    """Counts what arrives."""

    def __init__(self) -> None:
        self.number = 0
        self._came = asyncio.Event()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """One."""
        self.number += 1
        self._came.set()

    async def more(self) -> None:
        """Wait for another."""
        async with asyncio.timeout(BOUND):
            self._came.clear()
            await self._came.wait()


@pytest.fixture
async def discard(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Datagrams]:
    """The pod's discard port, at a number that needs no privilege, asked for without patience."""
    loop = asyncio.get_running_loop()
    transport, datagrams = await loop.create_datagram_endpoint(Datagrams, (POD, 0))
    monkeypatch.setattr(lookout, "DISCARD", transport.get_extra_info("sockname")[1])
    monkeypatch.setattr(lookout, "ASK_AGAIN", (0.01, 0.02))
    monkeypatch.setattr(lookout, "CALL_HOME", 0.01)
    yield datagrams
    transport.close()


HERE = Carrier(link=LOOPBACK, born=1, bridge=BRIDGE, hardware=MAC)


async def test_it_asks_and_then_listens() -> None:
    """What there is, and every change, of the addresses that matter and no others."""
    async with bench() as b:
        assert b.witness.status() == "listening to the kernel"
        assert (b.kernel.dumps, b.dumps("start")) == (1, 1)
        b.witness.follow({POD: False})
        b.kernel.say(16, bridge())
        b.kernel.say(24, route(BRIDGE))
        await b.sink.until_seen(Carrier(bridge=BRIDGE))
        b.kernel.say(28, neighbour(MAC))
        b.kernel.say(28, forwarding(MAC))
        await b.sink.until_seen(HERE)
        b.kernel.say(17, LINKS[1])
        await b.sink.until_seen(Carrier(bridge=BRIDGE, hardware=MAC))
        assert b.sink.dead == [(LOOPBACK, 1)]
        b.witness.follow({})
        b.kernel.say(28, neighbour(OTHER))
        b.kernel.say(4)
        await b.sink.until_blind(False, True, False)
        assert b.sink.sights[POD] == Carrier(bridge=BRIDGE, hardware=MAC)


async def test_what_is_there_is_told_at_once() -> None:
    """Of an address that comes to matter later, without waiting for the next word."""
    async with bench() as b:
        b.kernel.say(24, route(LOOPBACK, 32))
        b.kernel.say(4)
        b.kernel.there.append((24, route(LOOPBACK, 32)))
        await b.sink.until_blind(False, True, False)
        b.witness.follow({POD: True})
        assert b.sink.sights == {POD: Carrier(link=LOOPBACK, born=1)}


async def test_it_makes_the_kernel_look(discard: Datagrams) -> None:
    """For an address that is claimed and awaited, again and again until it is seen; and calls it home afterwards."""
    async with bench() as b:
        b.kernel.say(16, bridge())
        b.kernel.say(24, route(BRIDGE))
        b.witness.follow({POD: False})
        await b.sink.until_seen(Carrier(bridge=BRIDGE))
        assert b.witness._lookout._asked == {}, "nobody claims it"
        b.witness.follow({POD: True})
        for _ in range(4):
            await discard.more()
        b.kernel.say(28, neighbour(MAC))
        b.kernel.say(28, forwarding(MAC))
        await b.sink.until_seen(HERE)
        assert b.witness._lookout._asked == {}
        b.kernel.say(16, struct.pack("=BxHiII", 0, 1, 9, 1, 0))
        b.kernel.say(28, neighbour(OTHER))
        b.kernel.say(28, forwarding(OTHER, 9))
        away = Carrier(link=9, born=3, bridge=BRIDGE, hardware=OTHER)
        await b.sink.until_seen(away)
        for _ in range(4):
            await discard.more()
        b.kernel.say(28, neighbour(MAC))
        await b.sink.until_seen(HERE)
        assert (b.witness._lookout._asked, b.witness._lookout._homes) == ({}, {})
        b.kernel.say(28, neighbour(OTHER))
        await b.sink.until_seen(away)
        b.kernel.say(17, LINKS[1])
        await b.sink.until_dead((LOOPBACK, 1))
        assert b.witness._lookout._homes == {}, "there is no home to be called to"
        b.witness.follow({})
        assert b.witness._lookout._asked == {}


async def test_an_address_that_cannot_be_asked_hurts_nobody(
    discard: Datagrams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no way to it: it is tried again, and the rest goes on."""
    async with bench() as b:
        b.witness._lookout._probes[4].close()
        b.kernel.say(16, bridge())
        b.kernel.say(24, route(BRIDGE))
        b.witness.follow({POD: True})
        await b.sink.until_seen(Carrier(bridge=BRIDGE))
        assert list(b.witness._lookout._asked) == [POD]
        b.witness._lookout._probes.clear()
        b.kernel.say(28, neighbour(MAC))
        b.kernel.say(28, forwarding(MAC))
        await b.sink.until_seen(HERE)
        assert b.witness._lookout._asked == {}


async def test_lost_words_are_asked_for_anew() -> None:
    """Until everything is there nothing is certain; what changed meanwhile is told then."""
    async with bench() as b:
        b.witness.follow({POD: False})
        b.kernel.there += [(16, bridge()), (24, route(BRIDGE)), (28, neighbour(MAC)), (28, forwarding(MAC))]
        with capture_logs() as logs:
            b.kernel.say(4)
            await b.sink.until_blind(False, True, False)
        assert [line["log_level"] for line in logs] == ["warning"]
        assert b.sink.sights[POD] == HERE
        assert b.dumps("overrun") == 1


async def test_a_dump_that_was_interrupted_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says that its list changed while it was read; what it says of a dump that was given up is nothing."""
    monkeypatch.setattr(witness, "PAUSE", 0.0)
    monkeypatch.setattr(witness, "AUDIT", 0.05)
    async with bench() as b:
        b.kernel.breaks = 3
        await until(b.kernel.asked, lambda: b.dumps("broken"))
        await b.sink.until_blind(False)
        assert (b.dumps("audit") or 0) >= 1


async def test_a_kernel_that_does_not_answer_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again, and until it answers nothing is certain."""
    monkeypatch.setattr(witness, "PATIENCE", 0.02)
    async with bench() as b:
        b.kernel.answers = False
        b.kernel.say(4)
        with capture_logs() as logs:
            await until(b.kernel.asked, lambda: any(line["event"] == "the kernel does not answer" for line in logs))
        assert b.witness.status() == "the kernel does not answer"
        b.kernel.answers = True
        await b.sink.until_blind(False, True, False)
        assert b.witness.status() == "listening to the kernel"


async def test_others_run_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm of them is read in turns, so that what else is due waits for one turn and not for all."""
    async with bench() as b:
        b.kernel.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        turns: list[int] = []
        heard = 0

        def count(data: bytes) -> None:
            nonlocal heard
            heard += 1
            # Whatever else the loop has to do is due from the first word on.
            if heard == 1:
                asyncio.get_running_loop().call_soon(lambda: turns.append(heard))

        monkeypatch.setattr(b.witness._ear, "_heard", count)
        monkeypatch.setattr(ear, "TURN", 2)
        for _ in range(6):
            b.kernel.say(28, neighbour(MAC))
        await b.sink.until_blind(False, True, False)
        assert (heard, turns) == (6, [2])


async def test_some_words_at_once_are_no_storm() -> None:
    """What a pod's start makes the kernel say is read in one turn, before any request and without anybody's loss."""
    async with bench() as b:
        b.witness.follow({POD: False})
        for _ in range(5):
            b.kernel.say(28, neighbour(MAC))
        b.kernel.say(24, route(LOOPBACK, 32))
        await b.sink.until_seen(Carrier(link=LOOPBACK, born=1))
        assert b.sink.blinds == [False]


async def test_more_than_is_read_in_a_turn_is_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may run while words wait, so nobody is the owner meanwhile."""
    async with bench() as b:
        monkeypatch.setattr(ear, "TURN", 2)
        for _ in range(3):
            b.kernel.say(28, neighbour(MAC))
        await b.sink.until_blind(False, True, False)
        assert b.witness.status() == "listening to the kernel"
        assert b.dumps("overrun") is None, "nothing was lost"


async def test_a_bridges_table_is_not_asked_for() -> None:
    """But the ports of the addresses that matter, one by one; what is said of others does not even arrive."""
    async with bench() as b:
        b.kernel.there += [(16, bridge()), (24, route(BRIDGE)), (28, neighbour(MAC)), (28, forwarding(MAC))]
        b.kernel.say(4)
        await b.sink.until_blind(False, True, False)
        assert b.kernel.ports == 0, "nobody wants to know"
        b.witness.follow({POD: False})
        await b.sink.until_seen(HERE)
        assert b.kernel.ports == 1
        for number in range(100):
            b.kernel.far.send(message(28, forwarding(number.to_bytes(6))))
        with pytest.raises(BlockingIOError):
            b.kernel.near.recv(1)
        b.kernel.say(28, forwarding(MAC, 9))
        await b.sink.until_seen(Carrier(bridge=BRIDGE, hardware=MAC))
        assert b.witness._table._view.ports.keys() == {(BRIDGE, MAC)}
        assert b.kernel.ports == 1


async def test_what_is_said_while_an_answer_is_on_its_way_is_newer() -> None:
    """A port that was read before it changed, and is delivered after."""
    async with bench() as b:
        b.kernel.there += [(16, bridge()), (24, route(BRIDGE)), (28, neighbour(MAC)), (28, forwarding(MAC, 9))]
        b.kernel.say(4)
        await b.sink.until_blind(False, True, False)
        b.kernel.answers = False
        b.witness.follow({POD: False})
        ((number, _),) = b.witness._seeking.items()
        b.kernel.say(28, forwarding(MAC))
        b.kernel.far.send(message(28, forwarding(MAC, 9), number=number, port=PORT))
        await b.sink.until_seen(HERE)
        b.kernel.answers = True
        b.kernel.say(28, neighbour(OTHER))
        await b.sink.until_seen(Carrier(bridge=BRIDGE, hardware=OTHER))
        assert b.witness._table.sights[POD] == Carrier(bridge=BRIDGE, hardware=OTHER)


@pytest.mark.parametrize("why", ["an old kernel", "VLANs"])
async def test_a_bridges_table_is_asked_for_where_there_is_no_other_way(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel cannot be asked for one, or the bridge may know an address several times."""
    monkeypatch.setattr(witness, "PAUSE", 0.0)
    async with bench() as b:
        vlans = attribute(18, attribute(1, b"bridge\0") + attribute(2, attribute(7, b"\1")))
        there = bridge() if why == "an old kernel" else struct.pack("=BxHiII", 0, 1, BRIDGE, 1, 0) + vlans
        b.kernel.refuses = errno.EOPNOTSUPP
        b.kernel.there += [(16, there), (24, route(BRIDGE)), (28, neighbour(MAC)), (28, forwarding(MAC))]
        b.witness.follow({POD: False})
        b.kernel.say(16, there)
        b.kernel.say(4)
        await b.sink.until_seen(HERE)
        assert b.kernel.ports == (why == "an old kernel")
        b.kernel.say(28, forwarding(MAC, 9))
        await b.sink.until_seen(Carrier(bridge=BRIDGE, hardware=MAC))


async def test_where_no_kernel_can_be_heard_the_agent_is_not_ready() -> None:
    """It is said as an error, and why; nothing is taken from anybody."""
    sink = Sink()

    def refuse() -> tuple[socket.socket, int]:
        raise OSError("no such family")

    made = Witness(sink, Metrics(), connect=refuse)
    task = asyncio.create_task(made.run())
    assert made.deaf() is None
    with capture_logs() as logs:
        await sink.until_blind(False)
    assert [line["log_level"] for line in logs] == ["error"]
    assert made.status() == made.deaf() == "the kernel cannot be heard: no such family"
    made.follow({POD: True})
    task.cancel()
    await asyncio.wait([task])


async def test_the_real_kernel_is_heard_without_privilege() -> None:
    """All its answers are understood as answers."""
    sink = Sink()
    made = Witness(sink, Metrics())
    task = asyncio.create_task(made.run())
    await sink.until_blind(False)
    assert made.status() == "listening to the kernel"
    assert LOOPBACK in made._table._view.links
    task.cancel()
    await asyncio.wait([task])
    assert len(netlink.requests(forwarding=False)) == 4

"""The watch of the redirect, in virtual time: when it looks, what it says, what it counts. The node is scripted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from metaproxy.metricnames import REDIRECT_METRICS
from metaproxy.redirectcommands import RedirectError
from metaproxy.redirectnode import Report
from metaproxy.redirectplan import Finding
from metaproxy.redirectwatch import BURST, EVERY, PATIENCE, Watch
from metaproxy.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=2)

WIPED = Finding(part="rules", family="IPv4", text="no table ip metaproxy")
ADDRESS = Finding(part="addresses", family="IPv4", text="169.254.170.254 is not on mp0")


class Node:
    """A node: what differs on it now, what a repair leaves, when it was looked at."""

    def __init__(self) -> None:
        self.differs: list[Finding] = []
        self.stubborn: list[Finding] = []
        self.notes: tuple[str, ...] = ()
        self.broken = ""
        self.applied = 0
        self.looks: list[float] = []
        self.slow = 0.0

    def check(self) -> Report:
        """What differs."""
        if self.broken:
            raise RedirectError(self.broken)
        return Report(backend="nftables", differs=tuple(self.differs), notes=self.notes)

    def apply(self) -> Report:
        """Repair what can be."""
        self.applied += 1
        self.differs = list(self.stubborn)
        return self.check()


class Bench:
    """A watch at work, its node, and its metrics."""

    def __init__(self, node: Node) -> None:
        self.node, self.metrics, self.stop = node, Metrics(REDIRECT_METRICS), asyncio.Event()
        self.watch = Watch(node, self.metrics, call=self._call)

    async def _call(self, blocking: Callable[[], Report]) -> Report:
        if blocking == self.node.check:
            self.node.looks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.node.slow)
        return blocking()

    def value(self, name: str, **labels: str) -> float | None:
        """A metric's sample."""
        return self.metrics.registry.get_sample_value(f"metaproxy_redirect_{name}", labels)


@asynccontextmanager
async def bench(node: Node) -> AsyncIterator[Bench]:
    """A bench whose watch has looked once, and ends when it is told to and not before."""
    made = Bench(node)
    await made.watch.look()
    task = asyncio.create_task(made.watch.keep(made.stop))
    try:
        yield made
        assert not task.done()
    finally:
        made.stop.set()
        await task


async def test_it_looks_every_so_often() -> None:
    """Without a word of the kernel, every 10 seconds; nothing is said while all is well."""
    with capture_logs() as logs:
        async with bench(Node()) as b:
            await asyncio.sleep(10 * EVERY + 1)
            assert b.node.looks == pytest.approx([number * EVERY for number in range(11)], abs=0.01)
            assert b.watch.trouble is None
            assert (b.value("in_place"), b.value("looks_total", outcome="in_place")) == (1, 11)
    assert logs == []


async def test_it_looks_at_once_when_told() -> None:
    """And repairs what differs: counted by layer, said with what differed."""
    with capture_logs() as logs:
        async with bench(Node()) as b:
            await asyncio.sleep(3)
            b.node.differs = [WIPED, ADDRESS]
            b.watch.told()
            await asyncio.sleep(0.001)
            assert b.node.looks[-1] == pytest.approx(3, abs=0.01)
            assert b.node.differs == []
            assert (b.value("looks_total", outcome="repaired"), b.value("in_place")) == (1, 1)
            for part in ("rules", "addresses"):
                assert b.value("repairs_total", part=part) == 1
    assert [(line["event"], line["differed"]) for line in logs] == [("repaired", [str(WIPED), str(ADDRESS)])]


async def test_a_storm_costs_a_look_a_second() -> None:
    """A node that changes all the time is looked at in a burst, then once a second."""
    async with bench(Node()) as b:
        for _ in range(6000):
            b.watch.told()
            await asyncio.sleep(0.01)
        assert len(b.node.looks) <= BURST + 60 + 2


async def test_what_cannot_be_repaired_is_said_once() -> None:
    """A tool that fails, a difference that stays: the probe hears it each time, the log once; it goes on trying."""
    node = Node()
    with capture_logs() as logs:
        async with bench(node) as b:
            node.broken = "nft is not installed"
            await asyncio.sleep(5 * EVERY + 1)
            assert b.watch.trouble == "cannot be repaired: nft is not installed"
            assert (b.value("in_place"), b.value("looks_total", outcome="failed")) == (0, 5)
            assert b.value("looks_total", outcome="repaired") is None
            node.broken, node.differs, node.stubborn = "", [ADDRESS], [ADDRESS]
            await asyncio.sleep(2 * EVERY)
            assert b.watch.trouble == f"differs after a repair: {ADDRESS}"
            node.differs = node.stubborn = []
            await asyncio.sleep(EVERY)
            assert b.value("in_place") == 1
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["the redirect is not in place"] * 2


async def test_a_repair_that_does_not_help_is_no_reason_for_another() -> None:
    """What the repair itself changes wakes nobody: it is tried every 10 seconds, and not called repaired."""
    node = Node()
    node.differs = node.stubborn = [ADDRESS]
    with capture_logs() as logs:
        async with bench(node) as b:
            for _ in range(1000):
                b.watch.told()
                await asyncio.sleep(0.1)
            assert len(node.looks) <= 13
            assert b.value("looks_total", outcome="repaired") is None
            node.differs, node.stubborn = [ADDRESS, WIPED], [ADDRESS]
            await asyncio.sleep(EVERY + 1)
            assert b.value("repairs_total", part="rules") == 1
            assert b.value("repairs_total", part="addresses") is None
    assert [line["differed"] for line in logs if line["event"] == "repaired"] == [[str(WIPED)]]


async def test_what_cannot_be_looked_at_is_put_in_place_all_the_same() -> None:
    """A tool of one layer fails: the others must not be left undone for that."""
    node = Node()
    node.broken = "nft is not installed"
    async with bench(node) as b:
        assert node.applied == 1
        await asyncio.sleep(2 * EVERY + 1)
        assert node.applied == 3
        assert b.watch.trouble == "cannot be repaired: nft is not installed"


async def test_tools_that_hang() -> None:
    """Are given up, and said."""
    node = Node()
    async with bench(node) as b:
        node.slow = PATIENCE * 10
        await asyncio.sleep(EVERY + PATIENCE + 0.01)
        assert b.watch.trouble == "cannot be repaired: the tools do not answer"


async def test_notes_are_said_once() -> None:
    """Until they are others."""
    node = Node()
    with capture_logs() as logs:
        async with bench(node) as b:
            node.notes = ("another's chain",)
            await asyncio.sleep(5 * EVERY + 1)
            assert (b.watch.trouble, b.watch.notes) == (None, ("another's chain",))
    assert [line["note"] for line in logs] == ["another's chain"]


async def test_it_stops_while_it_waits_its_turn() -> None:
    """After a burst as well."""
    b = Bench(Node())
    task = asyncio.create_task(b.watch.keep(b.stop))
    for _ in range(100):
        b.watch.told()
        await asyncio.sleep(0.01)
    b.stop.set()
    await asyncio.sleep(0.001)
    assert task.done()

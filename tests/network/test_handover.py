"""Takeovers on a node: through the redirect, over both families, with the kernel as witness, in real namespaces.

What a successor must not do is believe what its predecessor knew to be over: a cold start may, for nobody tells it.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.network.lab.hammer import Hammer
from tests.network.lab.namespaces import until
from tests.network.lab.newcomer import on_bridge, routed
from tests.network.lab.processes import Process
from tests.network.test_witness import ADMIN, FAMILIES, Node, node, said

TAKEOVERS = 3

PATIENCE = 5.0
"""Seconds for an answer: a process that is led to another one may be slow, and is not wrong for that."""


class Line:
    """A node on which one agent takes over from the other; the newest is `node.agent`."""

    def __init__(self, world: Node, folder: Path) -> None:
        self.node, self._flags = world, flags(folder)

    def start(self) -> Process:
        """One more, that listens as soon as it has a place."""
        world = self.node
        made = world.lab.agent(*world.kube.flags, f"--admin.listen={ADMIN}", "--server.hold=0.1", *self._flags)
        world.agent = made
        return made

    def follow(self) -> None:
        """One more, that has taken over; the former one is ended as Kubernetes does it."""
        former = self.node.agent
        self.start().wait_for('"taken over"')
        former.wait_for('"handed over"')
        former.end(signal.SIGTERM)
        assert former.popen.returncode == 0


def flags(folder: Path) -> tuple[str, ...]:
    """How one finds the other; each is probed at the same path here, for one after the other."""
    return (f"--handover.socket={folder / 'handover.sock'}",)


@contextmanager
def line(tmp_path: Path, *, styles: tuple[str, ...] = ("bridge", "proxyarp")) -> Iterator[Line]:
    """A node with its first agent."""
    with node(tmp_path, *flags(tmp_path), styles=styles) as world:
        yield Line(world, tmp_path)


def test_takeovers_under_load(tmp_path: Path) -> None:
    """No request of any pod fails, over either family, and every address is tied as it was."""
    with line(tmp_path) as upgrade:
        world = upgrade.node
        tied = world.metric('witness_addresses{state="tied"}')
        assert tied == sum(len(pod.addresses) for pod in world.lab.pods)
        with Hammer(*world.lab.aims, patience=PATIENCE) as load:
            for _ in range(TAKEOVERS):
                upgrade.follow()
                load.more()
        assert set(load.counts) == {"agent"}, load.troubles
        assert world.metric('witness_addresses{state="tied"}') == tied
        assert "carriers are not taken over" not in "".join(world.agent.lines)
        assert world.lab.leaks() == []


@pytest.mark.parametrize("wired", [on_bridge, routed], ids=["bridge", "routed"])
def test_what_was_withdrawn_stays_so(tmp_path: Path, wired: type) -> None:
    """A pod is gone in the kernel, another one has its addresses, and the API server still says that it is the first.

    Its agent knows better; so does whoever takes over from it, which has never seen the first one's link. And when the
    address changes hands after a takeover, the tie that was handed over is what gives that away.
    """
    addresses = ("10.244.1.77", "fd44:1::77")
    with line(tmp_path, styles=("bridge",)) as upgrade:
        world = upgrade.node
        first = wired(world.lab, "first", *addresses)
        world.knows(first)
        for family in FAMILIES:
            until(lambda family=family: said(first, family) == first.role)  # type: ignore[misc]
        upgrade.follow()
        assert {said(first, family, patience=PATIENCE) for family in FAMILIES} == {first.role}
        world.gone(first)
        second = wired(world.lab, "second", *addresses)
        for _ in range(2):
            for family in FAMILIES:
                assert {said(second, family) for _ in range(20)} == {""}, f"IPv{family}"
            upgrade.follow()
        world.kube.create("second")
        world.kube.addressed("second", *addresses)
        for family in FAMILIES:
            until(lambda family=family: said(second, family, patience=2.0) == second.role)  # type: ignore[misc]


def test_a_predecessor_that_hangs(tmp_path: Path) -> None:
    """At the agent's own addresses of both families: the next one is beside it, whether it is there or killed."""
    with line(tmp_path) as upgrade:
        world, lab = upgrade.node, upgrade.node.lab
        former = world.agent
        former.popen.send_signal(signal.SIGSTOP)
        upgrade.start().wait_for('"cold start beside a process that hangs"')
        for pod in lab.pods:
            for family in FAMILIES:
                until(lambda pod=pod, family=family: said(pod, family) == pod.role)  # type: ignore[misc]
        with Hammer(*lab.aims, patience=PATIENCE) as load:
            load.more()
            former.end(signal.SIGKILL)
            load.more()
            upgrade.follow()
            load.more()
        assert set(load.counts) == {"agent"}, load.troubles
        assert lab.leaks() == []

"""The node's kernel as witness: whose address it was is not whose it is, and no neighbour takes it.

On real kernels' networks, through the real redirect, with the agent as a process. The API server is a fake that says
what the test wants it to, and so can be late for as long as that is asked of it.
"""

import itertools
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.network.lab.hammer import PATH
from tests.network.lab.kube import Kube
from tests.network.lab.namespaces import Namespace, ask, until
from tests.network.lab.newcomer import ROUTER, on_bridge, routed
from tests.network.lab.node import METADATA, Lab, Pod
from tests.network.lab.processes import Process
from tests.network.lab.rtnl import Rtnl
from tests.network.lab.spoofer import Spoofer, mac

ADMIN = "127.0.0.1:9181"
FAMILIES = (4, 6)
MADE_UP, UNLEARNT = bytes.fromhex("02deadbeef01"), bytes.fromhex("02deadbeef02")
THIEF = ("10.244.1.66", "fd44:1::66")

AT_ONCE = 1.0
"""Seconds where a tenth of that is asked for, so that a busy machine does not make the test fail."""

SOON = 20.0
"""Likewise where two seconds are."""


class Node:
    """A lab with its agent and API server, and what tests ask of them."""

    def __init__(self, lab: Lab, kube: Kube, agent: Process) -> None:
        self.lab, self.kube, self.agent = lab, kube, agent

    def knows(self, pod: Pod) -> None:
        """The API server knows the pod, at all its addresses."""
        self.kube.create(pod.style)
        self.kube.addressed(pod.style, *pod.addresses.values())

    def metric(self, name: str) -> float:
        """A metric of the agent, by its name with labels."""
        lines = self.admin("/metrics").splitlines()
        return float(next(line for line in lines if line.startswith(f"metaproxy_{name} ")).split()[1])

    def admin(self, path: str) -> str:
        """What the agent tells its operator."""
        return self.lab.node.shell(f"curl -s --noproxy '*' http://{ADMIN}{path}")

    def gone(self, pod: Pod) -> None:
        """The kernel has the pod no more; nobody tells the API server."""
        self.lab.node.shell(f"ip link del {pod.link}")

    def ready(self, pod: Pod | None) -> None:
        """The kubelet writes that the pod's readiness is another, as it does some time after each start.

        What it said of an address while words of the kernel were lost is not known to be newer than the loss.
        """
        assert pod is not None
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": str(time.monotonic())}
        word = {"status": {"conditions": [condition]}}
        self.kube.do(lambda api: api._merge("pods", f"shop/{pod.style}", word))

    def resident(self) -> int:
        """Kilobytes of the agent's memory."""
        status = Path(f"/proc/{self.agent.popen.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@contextmanager
def node(tmp_path: Path, *flags: str, styles: tuple[str, ...] = ("bridge",)) -> Iterator[Node]:
    """A node whose agent listens to the kernel and to an API server that knows the lab's pods."""
    with Lab(tmp_path, styles=styles) as lab, Kube(lab.node, tmp_path) as kube:
        watch = lab.start(*lab.redirect_command("watch"))
        watch.wait_for("watching the redirect")
        # Requests that nobody can answer are not held for long here: there are many.
        agent = lab.agent(*kube.flags, f"--admin.listen={ADMIN}", "--server.hold=0.1", *flags)
        made = Node(lab, kube, agent)
        for pod in lab.pods:
            made.knows(pod)
            for family in FAMILIES:
                until(lambda pod=pod, family=family: said(pod, family) == pod.role)  # type: ignore[misc]
        yield made


def said(pod: Pod | Namespace, family: int, *, source: str = "", patience: float = 0.25) -> str:
    """The body of the role list that the pod gets on a connection of its own; empty when it gets none."""
    namespace = pod.namespace if isinstance(pod, Pod) else pod
    try:
        with namespace.connect(METADATA[family], source=source, timeout=patience) as end:
            head, _, body = ask(end, PATH).partition(b"\r\n\r\n")
    except OSError:
        return ""
    return body.decode() if head.startswith(b"HTTP/1.1 200 ") else ""


def since(begun: float) -> float:
    """Seconds."""
    return time.monotonic() - begun


ATTACKS = {
    "own": "answers with its own hardware address",
    "made-up": "answers with one that nobody has",
    "from-nowhere": "answers with one that no bridge can learn, so that what is sent to it goes to every port",
    "victims": "sends as the victim's own hardware address, so that the bridge believes the victim at its port",
}


def hardware(pod: Pod) -> bytes:
    """The pod's hardware address."""
    return mac(pod.namespace.shell("cat /sys/class/net/eth0/address"))


def spoofer(world: Node, thief: Pod, victim: Pod, family: int, kind: str) -> Spoofer:
    """Who takes the victim's address, sitting in the thief's namespace."""
    mine = hardware(thief)
    return Spoofer(
        thief.namespace,
        address=victim.addresses[family],
        router=ROUTER[family],
        gateway=mac(world.lab.node.shell("cat /sys/class/net/cbr0/address")),
        hardware={"own": mine, "victims": hardware(victim), "made-up": MADE_UP, "from-nowhere": UNLEARNT}[kind],
        source=mine if kind == "from-nowhere" else None,
    )


def given_back(victim: Pod, family: int) -> float:
    """Seconds from the attack's end until the victim has its role again."""
    begun = time.monotonic()
    until(lambda: said(victim, family) == victim.role)
    return since(begun)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attack_works_where_nobody_listens_to_the_kernel(tmp_path: Path, family: int) -> None:
    """Else the next test would prove nothing: without the witness each kind of takeover gets the victim's role."""
    with node(tmp_path, "--caller.witness=off") as world:
        (victim,) = world.lab.pods
        thief = on_bridge(world.lab, "thief", *THIEF)
        for kind in ATTACKS:
            with spoofer(world, thief, victim, family, kind) as attack:
                until(lambda attack=attack: victim.role.encode() in attack.ask(METADATA[family], PATH))  # type: ignore[misc]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neighbour_on_the_bridge_never_gets_the_role(tmp_path: Path, family: int) -> None:
    """However it answers for the victim's address; and the victim is back soon after it stops."""
    with node(tmp_path) as world:
        (victim,) = world.lab.pods
        thief = on_bridge(world.lab, "thief", *THIEF)
        world.knows(thief)
        until(lambda: said(thief, family) == thief.role)
        for kind in ATTACKS:
            got: list[bytes] = []
            with spoofer(world, thief, victim, family, kind) as attack:

                def shaken(attack: Spoofer = attack, got: list[bytes] = got) -> bool:
                    got.append(attack.ask(METADATA[family], PATH, patience=0.3))
                    return attack.shaken >= 5

                until(shaken)
            seconds = given_back(victim, family)
            print(f"IPv{family}, {kind}: victim back after {seconds:.2f} s")
            assert not [each for each in got if victim.role.encode() in each]
            assert seconds < SOON
        until(lambda: said(thief, family) == thief.role)
        assert world.metric('caller_withdrawn_total{why="shared"}') > 0
        events = world.kube.do(lambda api: api.list_events("shop"))
        assert "CallerWithdrawn" in {event["reason"] for event in events}


def silent(world: Node) -> Pod:
    """A thief that the API server knows but that answers for no address of its own, so that its port is not known."""
    thief = on_bridge(world.lab, "thief", *THIEF)
    thief.namespace.shell("ip addr flush dev eth0 scope global")
    world.lab.node.shell("ip neigh flush dev cbr0; ip -6 neigh flush dev cbr0")
    world.knows(thief)
    return thief


def robbed(world: Node, attack: Spoofer, victim: Pod, family: int) -> list[bytes]:
    """What the thief is answered at the victim's address, while the kubelet goes on writing of the victim."""
    got: list[bytes] = []

    def shaken() -> bool:
        got.append(attack.ask(METADATA[family], PATH, patience=0.3))
        world.ready(victim)
        return attack.shaken >= 15

    until(shaken)
    return got


@pytest.mark.parametrize("kind", ["own", "made-up"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_thief_without_an_address_of_its_own_never_gets_the_role(tmp_path: Path, family: int, kind: str) -> None:
    """Of a pod that has long been known, whatever the kubelet writes meanwhile; nor when it goes on for long."""
    with node(tmp_path) as world:
        (victim,) = world.lab.pods
        thief = silent(world)
        with spoofer(world, thief, victim, family, kind) as attack:
            got = robbed(world, attack, victim, family)
        seconds = given_back(victim, family)
        print(f"IPv{family}, {kind}: victim back after {seconds:.2f} s")
        assert not [each for each in got if victim.role.encode() in each]
        assert seconds < SOON


@pytest.mark.parametrize("family", FAMILIES)
def test_nor_does_it_of_a_pod_that_is_new(tmp_path: Path, family: int) -> None:
    """Although it answers before that pod does; the operator reads who is waited for, and the pod has its own later."""
    addresses = ("10.244.1.50", "fd44:1::50")
    with node(tmp_path) as world:
        thief = silent(world)
        fresh = on_bridge(world.lab, "fresh", *addresses)
        with spoofer(world, thief, fresh, family, "own") as attack:
            attack.ask(METADATA[family], PATH, patience=0.3)
            world.knows(fresh)
            got = robbed(world, attack, fresh, family)
        assert not [each for each in got if fresh.role.encode() in each]

        def named() -> bool:
            # It is known where the pod answers while it speaks: the entry of a neighbour that changed is taken away.
            # It was seen elsewhere before it ever had a port, so that it takes a newer word of the kubelet.
            world.ready(fresh)
            said(fresh, family)
            return "shop/thief" in world.admin(f"/explain?ip={fresh.addresses[family]}")

        until(named)
        world.gone(thief)
        world.kube.do(lambda api: api.delete_pod("shop", "thief"))

        def served() -> bool:
            world.ready(fresh)
            return {said(fresh, each) for each in FAMILIES} == {fresh.role}

        until(served)


def test_many_new_pods_at_once_are_served(tmp_path: Path) -> None:
    """None has a port, and none waits for another for longer than it takes to answer."""
    with node(tmp_path) as world:
        pods = [on_bridge(world.lab, f"new{n}", f"10.244.1.{100 + n}", f"fd44:1::1:{n}") for n in range(12)]
        begun = time.monotonic()
        for pod in pods:
            world.knows(pod)
        for pod in pods:
            for family in FAMILIES:
                until(lambda pod=pod, family=family: said(pod, family) == pod.role)  # type: ignore[misc]
        print(f"{len(pods)} pods after {since(begun):.2f} s")
        assert since(begun) < SOON


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neighbours_address_on_an_own_interface_is_of_no_use(tmp_path: Path, family: int) -> None:
    """The thief's kernel itself speaks for the address, until it is taken off again."""
    with node(tmp_path) as world:
        (victim,) = world.lab.pods
        thief = on_bridge(world.lab, "thief", *THIEF)
        world.knows(thief)
        taken, length = victim.addresses[family], {4: 32, 6: 128}[family]
        nodad = {4: "", 6: "nodad"}[family]
        thief.namespace.shell(f"ip addr add {taken}/{length} dev eth0 {nodad}")
        refusals: Counter[str] = Counter()
        with spoofer(world, thief, victim, family, "own") as attack:

            def refused() -> bool:
                attack.announce()
                try:
                    with thief.namespace.connect(METADATA[family], source=taken, timeout=0.3) as end:
                        answer = ask(end, PATH)
                except OSError:
                    return False
                assert victim.role.encode() not in answer
                refusals["CallerWithdrawn" if b"CallerWithdrawn" in answer else "reset"] += 1
                return refusals["CallerWithdrawn"] >= 10

            until(refused)
        thief.namespace.shell(f"ip addr del {taken}/{length} dev eth0")
        seconds = given_back(victim, family)
        print(f"IPv{family}, own interface: victim back after {seconds:.2f} s")
        assert seconds < SOON


@pytest.mark.parametrize("wired", [on_bridge, routed], ids=["bridge", "routed"])
def test_a_dead_pods_successor_is_not_taken_for_it(tmp_path: Path, wired: type) -> None:
    """Deleted in the kernel while the API server still has it: who comes at its addresses gets its own role alone."""
    addresses = ("10.244.1.77", "fd44:1::77")
    with node(tmp_path) as world:
        first = wired(world.lab, "first", *addresses)
        world.knows(first)
        for family in FAMILIES:
            until(lambda family=family: said(first, family) == first.role)  # type: ignore[misc]
        world.gone(first)
        second = wired(world.lab, "second", *addresses)
        for family in FAMILIES:
            got = [said(second, family) for _ in range(20)]
            assert set(got) == {""}, f"IPv{family}"
        # An annotation, a label or a deletion says nothing new of where the first pod is.
        world.kube.do(lambda api: api.patch_pod("shop", "first", {"labels": {"a": "b"}}))
        assert [said(second, family) for family in FAMILIES] == ["", ""]
        world.kube.create("second")
        world.kube.addressed("second", *addresses)
        begun = time.monotonic()
        for family in FAMILIES:
            until(lambda family=family: said(second, family, patience=2.0) == second.role)  # type: ignore[misc]
        print(f"own role {since(begun):.3f} s after the event")
        assert since(begun) < AT_ONCE
        world.kube.do(lambda api: api.delete_pod("shop", "first"))
        assert [said(second, family) for family in FAMILIES] == [second.role] * 2


def test_the_successor_of_two_dead_pods_is_taken_for_neither(tmp_path: Path) -> None:
    """It has the IPv4 address of one and the IPv6 address of the other, and the API server still has both."""
    with node(tmp_path) as world:
        dead = [routed(world.lab, f"dead{n}", f"10.244.9.{n}", f"fd44:9::{n}") for n in (1, 2)]
        for pod in dead:
            world.knows(pod)
            for family in FAMILIES:
                until(lambda pod=pod, family=family: said(pod, family) == pod.role)  # type: ignore[misc]
        for pod in dead:
            world.gone(pod)
        addresses = ("10.244.9.1", "fd44:9::2")
        successor = routed(world.lab, "successor", *addresses)
        assert [{said(successor, family) for _ in range(20)} for family in FAMILIES] == [{""}, {""}]
        world.knows(successor)
        for family in FAMILIES:
            until(lambda family=family: said(successor, family, patience=2.0) == successor.role)  # type: ignore[misc]
        for pod in dead:
            world.kube.do(lambda api, pod=pod: api.delete_pod("shop", pod.style))  # type: ignore[misc]
        # What was thought of its device while the dead were known is over: nor is it another's former self.
        world.gone(successor)
        heir = routed(world.lab, "heir", *addresses)
        assert [{said(heir, family) for _ in range(20)} for family in FAMILIES] == [{""}, {""}]
        world.knows(heir)
        for family in FAMILIES:
            until(lambda family=family: said(heir, family, patience=2.0) == heir.role)  # type: ignore[misc]


def test_pods_behind_one_device_outlive_it(tmp_path: Path) -> None:
    """Routed to one device off bridges they are whom the API server says, when it is made anew too."""
    with node(tmp_path) as world:
        pods = {name: (f"10.244.9.{n}", f"fd44:9::{n}") for n, name in enumerate(("one", "two"), 1)}
        for name, addresses in pods.items():
            world.kube.create(name)
            world.kube.addressed(name, *addresses)
        for number in range(3):
            shared = routed(world.lab, f"shared{number}", *pods["one"])
            for address in pods["two"]:
                nodad = "nodad" if ":" in address else ""
                shared.namespace.shell(f"ip addr add {address} dev eth0 {nodad}")
                world.lab.node.shell(f"ip route add {address} dev {shared.link}")
            for name, addresses in pods.items():
                for family, address in zip(FAMILIES, addresses, strict=True):
                    asked = partial(said, shared, family, source=address, patience=2.0)
                    until(lambda asked=asked, name=name: asked() == f"role-{name}")  # type: ignore[misc]
            world.gone(shared)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_bridge_forgets_comes_back(tmp_path: Path, family: int) -> None:
    """An idle pod's port and neighbour entry age out, and once it did not answer either: its requests are answered."""
    with node(tmp_path) as world:
        (pod,) = world.lab.pods
        place = pod.namespace.shell("cat /sys/class/net/eth0/address").strip()
        forget = f"bridge fdb del {place} dev {pod.link} master; ip -{family} neigh flush dev cbr0"
        for _ in range(10):
            world.lab.node.shell(forget)
            assert said(pod, family, patience=3.0) == pod.role
        pod.namespace.shell("ip link set eth0 down")
        world.lab.node.shell(f"ip -{family} neigh flush dev cbr0")
        until(lambda: "FAILED" in world.lab.node.shell(f"ip -{family} neigh show {pod.addresses[family]}"))
        nodad = f"ip -6 addr replace {pod.addresses[6]}/64 dev eth0 nodad"
        ways = "; ".join(f"ip -{each} route replace default via {ROUTER[each]} dev eth0" for each in FAMILIES)
        pod.namespace.shell(f"ip link set eth0 up; {nodad}; {ways}")
        begun = time.monotonic()
        until(lambda: said(pod, family) == pod.role)
        print(f"IPv{family}: answered {since(begun):.2f} s after it was back")
        assert since(begun) < SOON


def test_a_flood_of_hardware_addresses_silences_nobody(tmp_path: Path) -> None:
    """A pod on the bridge makes up hundreds of thousands; others, on the bridge and off it, are answered meanwhile."""
    with node(tmp_path, styles=("bridge", "proxyarp")) as world:
        thief = on_bridge(world.lab, "thief", *THIEF)
        world.knows(thief)
        until(lambda: said(thief, 4) == thief.role)
        with flood(thief):
            begun, got = time.monotonic(), Counter[str]()
            while since(begun) < 5.0:
                for pod in world.lab.pods:
                    got[pod.style] += said(pod, 4, patience=3.0) == pod.role
        print(f"answered during the flood: {dict(got)}")
        for pod in world.lab.pods:
            assert got[pod.style] > 20
            assert said(pod, 4, patience=3.0) == pod.role
        late = routed(world.lab, "late", "10.244.9.9")
        world.knows(late)
        until(lambda: said(late, 4) == late.role)
        assert world.metric('witness_dumps_total{reason="start"}') == 1


@contextmanager
def flood(pod: Pod) -> Iterator[None]:
    """Frames from as many hardware addresses as a process can send."""
    with pod.namespace.inside():
        sending = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sending.bind(("eth0", 0x88B5))
    child = os.fork()
    if not child:
        while True:
            sending.send(b"\xff" * 6 + b"\2" + os.urandom(5) + b"\x88\xb5" + bytes(46))
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sending.close()


def test_where_no_carrier_is_seen_it_is_said_and_nothing_changes(tmp_path: Path) -> None:
    """A pod that the node reaches as it reaches strangers is what the API server says."""
    with node(tmp_path) as world:
        world.kube.create("plain")
        world.kube.addressed("plain", "10.9.0.2")
        until(lambda: '"plain"' in world.admin("/explain?ip=10.9.0.2"))
        assert "2 addresses tied, 0 withdrawn, 1 without a carrier of their own" in world.admin("/readyz?verbose")
        world.kube.create("host", host_network=True)
        until(lambda: world.metric("host_network_roles") == 1)


def test_files_are_newer_word_when_they_change(tmp_path: Path) -> None:
    """With manifests nobody has an address that was lost, until the author's next word."""
    with Lab(tmp_path, styles=("proxyarp",)) as lab:
        lab.apply()
        lab.declare()
        lab.agent(f"--source.manifests={tmp_path / 'pods.yaml'}", "--caller.witness=on", "--server.hold=0.1")
        (pod,) = lab.pods
        until(lambda: said(pod, 4) == pod.role)
        lab.node.shell(f"ip link del {pod.link}")
        successor = routed(lab, "successor", pod.addresses[4])
        assert {said(successor, 4) for _ in range(10)} == {""}
        lab.pods[:] = [successor]
        lab.declare()
        until(lambda: said(successor, 4) == successor.role)


class Crowd:
    """Pods that have an address now and then, and threads that ask at each address as whoever has it.

    `wrong`: answers with a role that is not the asking pod's. `right`: how many each address had.
    """

    def __init__(self, pods: list[Pod], addresses: list[str]) -> None:
        self.holders: dict[str, Pod | None] = dict.fromkeys(addresses)
        self.free = list(pods)
        self.wrong: list[tuple[str, str, str]] = []
        self.right: Counter[str] = Counter()
        self._changed, self._stop = threading.Condition(), threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=(addresses[n::8],)) for n in range(8)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until_right(self, address: str, ready: Callable[[], None]) -> None:
        """Wait for another right answer at the address; `ready` says what the kubelet has still to say of pods."""
        with self._changed:
            goal = self.right[address] + 1
            for _ in range(60):
                if self._changed.wait_for(lambda: self.right[address] >= goal, 0.5):
                    return
                ready()
            raise AssertionError(f"no answer any more: {address}")

    def _loop(self, addresses: list[str]) -> None:
        for address in itertools.cycle(addresses):
            if self._stop.is_set():
                return
            if (pod := self.holders[address]) is None:
                self._stop.wait(0.001)
                continue
            role = said(pod, 6 if ":" in address else 4, source=address)
            with self._changed:
                if role == pod.role:
                    self.right[address] += 1
                elif role:
                    self.wrong.append((address, pod.role, role))
                self._changed.notify_all()


ROUNDS, ADDRESSES, OVERRUNS = 32, 32, 10
"""All addresses change hands in a round, 1,024 changes in all: one read of the API server then serves them all."""

OVERRUN = 'witness_dumps_total{reason="overrun"}'


class Town:
    """Routed pods that addresses move between, faster than any command could move them."""

    def __init__(self, world: Node, stack: ExitStack) -> None:
        self.world = world
        self.pods = [routed(world.lab, f"pod{n}", f"10.244.9.{n}") for n in range(ADDRESSES + 8)]
        self.kernel = stack.enter_context(Rtnl(world.lab.node))
        self._inside = {pod.style: stack.enter_context(Rtnl(pod.namespace)) for pod in self.pods}
        self._links = {pod.style: self.kernel.index(pod.link) for pod in self.pods}
        for pod in self.pods:
            world.kube.create(pod.style)
            pod.namespace.shell("ip -6 route replace default via fe80::1 dev eth0")

    def move(self, address: str, before: Pod | None, after: Pod) -> None:
        """The address is the other pod's now."""
        self.kernel.route(address, self._links[after.style])
        for pod, there in ((after, True), (before, False)):
            if pod is not None:
                inside = self._inside[pod.style]
                inside.address(address, inside.index("eth0"), there=there)

    def flood(self) -> None:
        """Say more than any buffer holds while the agent sleeps."""
        device = self._links[self.pods[0].style]
        for there in (True, False):
            for host in range(8000):
                self.kernel.route(f"10.200.{host >> 8}.{host & 255}", device, there=there)

    def tell(self, chance: random.Random, words: list[tuple[str, tuple[str, ...]]]) -> None:
        """The API server says which pods have which addresses, in any order, with words between that say nothing."""
        chance.shuffle(words)
        for name, has in words:
            if chance.random() < 0.3:
                labels = {"labels": {"n": str(chance.random())}}
                self.world.kube.do(lambda api, name=name, labels=labels: api.patch_pod("shop", name, labels))  # type: ignore[misc]
            self.world.kube.addressed(name, *has)

    def ready(self, crowd: Crowd) -> None:
        """The kubelet writes of each pod that its readiness is another, as it does some time after each start.

        What it said of an address while words of the kernel were lost is not known to be newer than the loss.
        """
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": str(time.monotonic())}
        word = {"status": {"conditions": [condition]}}
        for pod in filter(None, crowd.holders.values()):
            self.world.kube.do(lambda api, pod=pod: api._merge("pods", f"shop/{pod.style}", word))  # type: ignore[misc]


@pytest.mark.timeout(170)
def test_a_thousand_changes_of_hands(tmp_path: Path) -> None:
    """Addresses change hands with requests under way, the API server late in every way, words of the kernel lost."""
    chance = random.Random(7)
    addresses = [f"10.244.8.{n}" if n % 2 else f"fd44:8::{n:x}" for n in range(1, ADDRESSES + 1)]
    with ExitStack() as stack:
        world = stack.enter_context(node(tmp_path))
        town = Town(world, stack)
        crowd = stack.enter_context(Crowd(town.pods, addresses))
        sizes: list[int] = []
        for number in range(ROUNDS):
            words: list[tuple[str, tuple[str, ...]]] = []
            lossy = number % (ROUNDS // OVERRUNS) == 1
            if lossy:
                world.agent.popen.send_signal(signal.SIGSTOP)
            for address in addresses:
                before, after = crowd.holders[address], crowd.free.pop(chance.randrange(len(crowd.free)))
                town.move(address, before, after)
                crowd.holders[address] = after
                words.append((after.style, (address,)))
                if before is not None:
                    crowd.free.append(before)
                    words.append((before.style, ()))
            if lossy:
                town.flood()
                world.agent.popen.send_signal(signal.SIGCONT)
            # A pod that lost one address and has got another is told of once, as it is.
            town.tell(
                chance, list({name: (name, has) for name, has in sorted(words, key=lambda w: len(w[1]))}.values())
            )
            for address in addresses:
                crowd.until_right(address, partial(town.ready, crowd))
            sizes.append(world.resident())
        print(f"right: {sum(crowd.right.values())}, overruns: {world.metric(OVERRUN):.0f}, resident kB: {sizes[::8]}")
        assert crowd.wrong == []
        assert world.metric(OVERRUN) >= OVERRUNS
        # The first rounds warm what is filled once; a leak of some kilobytes a change would show.
        assert sizes[-1] < sizes[ROUNDS // 3] * 1.25

"""A node in which addresses change hands: its kernel, its kubelet, a late API server, and a thief on the bridge.

Knows the truth, which the directory must not contradict. Must not know how the directory decides.

What it takes for granted: the kubelet writes of a pod what is so when it writes; whoever else writes repeats what was
written; the kernel has seen a pod before it dies; and each address's first pod is heard of while it lives.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from metaproxy import handoverstate
from metaproxy.caller import Directory
from metaproxy.carriers import Seen, Table
from metaproxy.handoverstate import State, Terms
from metaproxy.netlink import Fact, Forwarding, Link, Neighbour, Route
from metaproxy.pods import ROLE, Pod

BRIDGE = 1
ROUTED = ("10.0.0.1", "10.0.0.2")
BRIDGED = ("10.1.0.1", "10.1.0.2")
TWINS = ("10.2.0.1", "10.2.0.2")
"""The other addresses of the bridged pods, in the same order: of another family, as it were."""
OTHERS = ("10.3.0.1", "10.3.0.2")
"""Other addresses of routed pods: of another family too, from a pool of its own, so that any two come together."""
THIEF = "10.1.0.9"
HOSTS = ROUTED + OTHERS
"""Addresses with a host route to a device of the pod's own."""
ADDRESSES = HOSTS + BRIDGED + TWINS
NOWHERE = b"\6\0\0\0\0\1"
"""A hardware address that no bridge has learnt."""

_NETWORKS = (0x0A010000, 0x0A020000)


@dataclass
class Living:
    """A pod's part in the kernel."""

    uid: str
    device: int
    hardware: bytes


def written(directory: Directory, table: Table) -> bytes:
    """What a process that knows no more than this hands over."""
    terms = Terms(source="", network="", issuer="", principal="", keys="")
    return handoverstate.write(
        State(
            terms=terms,
            key=None,
            own=None,
            sessions=(),
            directory=directory.memory(),
            newest=(0, 0),
            lives=table.lives(),
        )
    )


def host_route(address: str, device: int, *, gone: bool = False) -> Route:
    """To the address alone."""
    return Route(
        network=int.from_bytes(bytes(map(int, address.split(".")))), version=4, length=32, link=device, gone=gone
    )


def _about(fact: Fact) -> object:
    match fact:
        case Link():
            return ("link", fact.index)
        case Route():
            return ("route", fact.network, fact.length)
        case Neighbour():
            return ("neighbour", fact.address)
        case Forwarding():
            return ("port", fact.hardware)


class World:
    """The truth, what of it was told, and the directory that was told it. Each step is one thing that happens."""

    def __init__(self, chance: random.Random, *, silent: bool = False) -> None:
        self.chance = chance
        self.silent = silent
        self.directory = Directory()
        self.table = Table()
        self.holders: dict[str, Living | None] = dict.fromkeys((*ADDRESSES, THIEF))
        self.devices: dict[int, str] = {}
        self.facts: dict[object, Fact] = {}
        self.api: dict[str, Pod] = {}
        self.events: deque[tuple[str, Pod, int]] = deque()
        self.read: tuple[list[Pod], int, int] | None = None
        self.heir = b""
        self.missed: list[tuple[str, Pod, int]] = []
        self.version = self.births = self.changes = 0
        self.blind = False
        self.directory.blind(False)
        self.say(Link(index=BRIDGE, bridge=True, up=True, life=(b"bridge",)))
        for network in _NETWORKS:
            self.say(Route(network=network, version=4, length=24, link=BRIDGE))
        for address in self.holders:
            self.begin(address)
            living = self.holders[address]
            assert living is not None
            self.write(living.uid)
            self.deliver()
            self.resolve(address)

    # ---- the kernel

    def say(self, *facts: Fact) -> None:
        """The kernel's state changes, and it says so, unless nobody hears it."""
        for fact in facts:
            key = _about(fact)
            if getattr(fact, "gone", False) or (isinstance(fact, Neighbour) and not fact.hardware):
                self.facts.pop(key, None)
            else:
                self.facts[key] = fact
            if not self.blind:
                self._saw(self.table.heard(fact))

    def begin(self, address: str) -> None:
        """A pod starts at the address, if nobody is there, on a device of its own."""
        if self.holders[address] is not None:
            return
        addresses = self.given(address)
        self.changes += 1
        self.births += 1
        device = next(index for index in range(BRIDGE + 1, 100) if index not in self.devices)
        living = Living(f"pod{self.births}", device, b"\2" + self.births.to_bytes(5))
        self.holders.update(dict.fromkeys(addresses, living))
        self.devices[device] = living.uid
        self.version += 1
        self.api[living.uid] = Pod(uid=living.uid, namespace="n", name=living.uid, version=self.version)
        self.say(Link(index=device, up=True, life=(living.uid.encode(),)))
        self.say(*(host_route(each, device) for each in addresses if each in HOSTS))

    def given(self, address: str) -> tuple[str, ...]:
        """Which addresses a pod gets that gets this one: on the bridge always the same, else whichever is free."""
        for these, those in ((BRIDGED, TWINS), (TWINS, BRIDGED)):
            if address in these:
                return (address, those[these.index(address)])
        for these, those in ((ROUTED, OTHERS), (OTHERS, ROUTED)):
            if address in these and (free := [each for each in those if self.holders[each] is None]):
                return (address, self.chance.choice(free))
        return (address,)

    def resolve(self, address: str) -> None:
        """The kernel learns from the pod itself where on the bridge it is, unless that is a thief that keeps silent."""
        if address == THIEF and self.silent:
            return
        if (living := self.holders[address]) is not None and address not in HOSTS:
            facts: list[Fact] = [
                Neighbour(link=BRIDGE, address=address, hardware=living.hardware),
                Forwarding(bridge=BRIDGE, hardware=living.hardware, port=living.device),
            ]
            self.changes += any(self.facts.get(_about(fact)) != fact for fact in facts)
            self.chance.shuffle(facts)
            self.say(*facts)

    def forget(self, address: str) -> None:
        """An entry ages out."""
        if address not in HOSTS:
            neighbour = self.facts.get(("neighbour", address))
            if isinstance(neighbour, Neighbour) and self.chance.random() < 0.5:
                port = self.facts.get(("port", neighbour.hardware))
                if isinstance(port, Forwarding):
                    self.say(replace(port, gone=True))
            else:
                self.say(Neighbour(link=BRIDGE, address=address))

    def die(self, address: str) -> None:
        """The pod ends in the kernel; nobody else knows."""
        if (living := self.holders[address]) is None or address == THIEF:
            return
        self.changes += 1
        addresses = [each for each, holder in self.holders.items() if holder is living]
        for each in addresses:
            self.resolve(each)
        self.holders.update(dict.fromkeys(addresses))
        del self.devices[living.device]
        for each in addresses:
            if each in HOSTS and self.chance.random() < 0.5:
                self.say(host_route(each, living.device, gone=True))
        self.facts = {
            key: fact
            for key, fact in self.facts.items()
            if not (isinstance(fact, Route) and fact.link == living.device)
        }
        for key in [k for k, f in self.facts.items() if isinstance(f, Forwarding) and f.port == living.device]:
            del self.facts[key]
        self.say(Link(index=living.device, life=(living.uid.encode(),), gone=True))

    def renew(self) -> None:
        """Another pod is the thief, whose port nobody knows yet."""
        thief = self.holders[THIEF]
        assert thief is not None
        self.holders[THIEF] = None
        del self.devices[thief.device]
        for key in [k for k, f in self.facts.items() if isinstance(f, Forwarding) and f.port == thief.device]:
            del self.facts[key]
        self.say(Link(index=thief.device, life=(thief.uid.encode(),), gone=True))
        self.delete(thief.uid)
        self.begin(THIEF)
        living = self.holders[THIEF]
        assert living is not None
        self.write(living.uid)
        while self.events:
            self.deliver()
        self.silent = True

    def attack(self, address: str) -> None:
        """The thief answers for it: with its own hardware address, a new one, the victim's, or from nowhere."""
        thief = self.holders[THIEF]
        if address in HOSTS or address == THIEF or thief is None:
            return
        self.changes += 1
        victim = self.holders[address]
        hardware = self.chance.choice(
            [thief.hardware, b"\6\0\0\0\0\2", NOWHERE, victim.hardware if victim else NOWHERE]
        )
        if hardware != NOWHERE:
            self.say(Forwarding(bridge=BRIDGE, hardware=hardware, port=thief.device))
        self.say(Neighbour(link=BRIDGE, address=address, hardware=hardware))

    def deafen(self) -> None:
        """From now on words are lost."""
        if not self.blind:
            self.blind = True
            self.directory.blind(True)

    def dump(self) -> None:
        """Everything is asked for anew, and heard again."""
        self.table.begin()
        facts = list(self.facts.values())
        for fact in sorted(facts, key=lambda fact: not isinstance(fact, Link)):
            self.table.listed(fact)
        self._saw(self.table.finish())
        self.blind = False
        self.directory.blind(False)

    # ---- another process

    def hand_over(self) -> None:
        """All that is known is written down for another process, which begins with it; this one goes on for now."""
        self.heir, self.missed = written(self.directory, self.table), []

    def succeed(self) -> None:
        """The other one takes over: its watch is as late as this one's was, and it has not heard the kernel yet."""
        if not self.heir:
            return
        state = handoverstate.read(self.heir)
        assert state.lives is not None
        assert state.directory.ties is not None
        self.directory, self.table = Directory(), Table()
        self.table.adopt(state.lives, {address: point.sight for address, point in state.directory.ties.points.items()})
        self.directory.witness()
        self.directory.adopt(state.directory)
        self._follow()
        self.events.extendleft(reversed(self.missed))
        self.heir, self.missed, self.read, self.blind = b"", [], None, True

    # ---- the kubelet and the API server

    def write(self, uid: str) -> None:
        """The kubelet looks at a pod and writes what it sees."""
        if uid not in self.api:
            return
        addresses = tuple(a for a, living in self.holders.items() if living is not None and living.uid == uid)
        self._modify(uid, addresses=addresses, observed=f"{uid} {self.version}", finished=not addresses)

    def label(self, uid: str) -> None:
        """Somebody writes something else of it."""
        if uid in self.api:
            self._modify(uid, annotations={ROLE: str(self.version)})

    def terminate(self, uid: str) -> None:
        """It is to be deleted."""
        if uid in self.api:
            self._modify(uid, terminating=True)

    def delete(self, uid: str) -> None:
        """The API server has it no more; only of pods that are dead."""
        if uid in self.api and uid not in self.devices.values():
            self.version += 1
            self.events.append(("DELETED", self.api.pop(uid), self.version))

    def force(self, uid: str) -> None:
        """It is deleted by force: the API server has it no more, and it still runs."""
        thief = self.holders[THIEF]
        if uid in self.api and thief is not None and uid != thief.uid:
            self.version += 1
            self.events.append(("DELETED", self.api.pop(uid), self.version))

    def deliver(self) -> None:
        """The watch tells what is next."""
        if self.events:
            kind, pod, version = self.events.popleft()
            if self.heir:
                self.missed.append((kind, pod, version))
            if kind == "DELETED":
                self.directory.delete_pod(pod.uid, version)
            else:
                self.directory.put_pod(pod)
            self._follow()

    def begin_read(self) -> None:
        """A consistent read begins; its answer is as things are now, and comes later."""
        self.read = list(self.api.values()), self.version, self.directory.losses

    def end_read(self) -> None:
        """Its answer is there."""
        if self.read is not None:
            pods, version, since = self.read
            self.read = None
            self.directory.replace_pods(pods, version, since=since)
            self._follow()

    # ---- what is asked

    def owner(self, address: str) -> str | None:
        """Whom the directory takes for the address's owner."""
        owners = self.directory.owners(address)
        return owners[0].uid if len(owners) == 1 else None

    def there(self, address: str) -> str | None:
        """Who would be answered at the address now: the pod at whose device the kernel has it."""
        if address in HOSTS:
            route = self.facts.get(("route", host_route(address, 0).network, 32))
            return self.devices.get(route.link) if isinstance(route, Route) else None
        neighbour = self.facts.get(("neighbour", address))
        port = self.facts.get(("port", neighbour.hardware)) if isinstance(neighbour, Neighbour) else None
        return self.devices.get(port.port) if isinstance(port, Forwarding) else None

    def wrong(self) -> Iterator[str]:
        """Each address whose owner is not who is there."""
        for address in self.holders:
            owner = self.owner(address)
            if owner is not None and (self.blind or owner != self.there(address)):
                yield f"{address} is {owner}'s, but {self.there(address)} is there"

    def settle(self) -> None:
        """All that is late comes: the kernel is heard, the dead are deleted, the kubelet has looked at the living."""
        self.silent = False
        self.dump()
        for uid in list(self.api):
            self.delete(uid)
        for address, living in list(self.holders.items()):
            if living is not None and living.uid not in self.api:
                self.die(address)
        for address in self.holders:
            self.begin(address)
            self.resolve(address)
        for _ in range(2):
            while self.events:
                self.deliver()
            self.begin_read()
            self.end_read()
            for living in self.holders.values():
                if living is not None:
                    self.api[living.uid] = replace(self.api[living.uid], terminating=False)
                    self.write(living.uid)
        while self.events:
            self.deliver()

    def _modify(self, uid: str, **more: object) -> None:
        self.version += 1
        self.api[uid] = replace(self.api[uid], version=self.version, **more)  # type: ignore[arg-type]
        self.events.append(("MODIFIED", self.api[uid], self.version))

    def _saw(self, seen: Seen) -> None:
        self.directory.saw(seen.sights, seen.dead)

    def _follow(self) -> None:
        addresses = self.directory.witness().addresses
        for address in [address for address in self.table.sights if address not in addresses]:
            self.table.forget(address)
        new = {address: self.table.want(address) for address in addresses if address not in self.table.sights}
        self.directory.saw({address: sight for address, sight in new.items() if sight is not None})

"""What carries an address: the device behind which its pod is, and on a bridge the pod's hardware address and port.

Knows: what follows from what the kernel has said, and which word of it is newer than which.
Must not know: netlink's wire, pods, the clock.

An address has a carrier of its own

- where a host route leads to a device (point-to-point, as Calico and the VPC CNI make it): that device;
- where its route leads to a bridge: the neighbour's hardware address, and the one port that the bridge knows for it.

On a bridge that does not know one of the two (yet, or any more) the carrier is *awaited*: that is not the same as none,
for an attacker can see to it that an address answers from nowhere.

Everything else (a gateway, a device that many pods are behind, macvlan) shows none. Routes of other tables than `main`
are not looked at: what leads there depends on the packet. The VPC CNI puts those of pods with security groups in mode
strict into tables of their own; such pods show none, and are not served (docs/networking.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from metaproxy.kernelview import Known, View, about, sole_address
from metaproxy.netlink import Fact, Forwarding, Link, Neighbour, Route

Device = tuple[int, int]
"""Its index, and which of the lives with that index it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """A device (`link`, in its life `born`: an index may be given anew), and on a bridge the hardware address there.

    Without a device it is awaited on that bridge, and `hardware` is what is known of it.
    """

    link: int = 0
    born: int = 0
    bridge: int = 0
    hardware: bytes = b""

    @property
    def device(self) -> Device | None:
        """The device in its life; None while it is awaited."""
        return (self.link, self.born) if self.link else None


class Seen(NamedTuple):
    """What a word of the kernel changed: carriers by address, and devices that are gone."""

    sights: dict[str, Carrier | None]
    dead: tuple[Device, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """The devices that are known, each with the number of its life, and how many lives there were: for a successor."""

    devices: tuple[tuple[Link, int], ...]
    births: int


class Table:
    """The kernel's word, and the carriers of the addresses that are `wanted`.

    A dump is heard into a view aside (`begin`, `listed`, `finish`) while notifications go on. What a notification said
    during a dump is not overwritten by it: an entry can be listed before it changes and be delivered after.
    """

    def __init__(self) -> None:
        self._view = View()
        self._next: View | None = None
        self._said: set[object] = set()
        self._births = 0
        self._watched: frozenset[tuple[int, bytes]] | None = None
        self._sights: dict[str, Carrier | None] = {}

    @property
    def sights(self) -> Mapping[str, Carrier | None]:
        """The addresses that are looked after, and their carriers as last looked at."""
        return self._sights

    def sight(self, address: str) -> Carrier | None:
        """The carrier of an address that matters."""
        return self._sights.get(address)

    @property
    def vlans(self) -> bool:
        """Whether a bridge may know a hardware address several times."""
        views = (self._view,) if self._next is None else (self._view, self._next)
        return any(known.link.vlans for view in views for known in view.links.values())

    @property
    def pairs(self) -> frozenset[tuple[int, bytes]]:
        """The bridges and hardware addresses whose ports tell where the wanted addresses are."""
        return frozenset(
            (index, hardware)
            for view in ((self._view,) if self._next is None else (self._view, self._next))
            for index, known in view.links.items()
            if known.link.bridge
            for address in self._sights
            if (hardware := view.neighbours.get((index, address)))
        )

    def watch(self, pairs: frozenset[tuple[int, bytes]] | None) -> None:
        """Only these are heard of; all, if None. What is said of others is neither kept nor believed later."""
        self._watched = pairs
        if pairs is not None:
            for view in (self._view,) if self._next is None else (self._view, self._next):
                for key in view.ports.keys() - pairs:
                    del view.ports[key]

    def lives(self) -> Lives:
        """The devices as last heard of."""
        return Lives(
            devices=tuple((known.link, known.born) for known in self._view.links.values()), births=self._births
        )

    def adopt(self, lives: Lives, sights: Mapping[str, Carrier | None]) -> None:
        """Go on from what another table knew, as if a dump had told it: the next one tells what is not so any more."""
        self._view.links = {link.index: Known(link, born) for link, born in lives.devices}
        self._births = lives.births
        self._sights = dict(sights)

    def want(self, address: str) -> Carrier | None:
        """Look after an address from now on; its carrier now."""
        sight = self._sights[address] = self._carrier(address)
        return sight

    def forget(self, address: str) -> None:
        """Look after it no longer."""
        self._sights.pop(address, None)

    def begin(self) -> None:
        """Everything will be listed anew."""
        self._next = View()
        self._said.clear()

    def listed(self, fact: Fact) -> None:
        """A part of the dump."""
        if self._next is not None and about(fact) not in self._said:
            self._apply(self._next, fact)

    def finish(self) -> Seen:
        """The dump is whole: what was not listed is not there."""
        before = self._view
        if self._next is not None:
            self._view, self._next = self._next, None
            self._said.clear()
        now = self._view.links
        dead = tuple(
            (index, known.born)
            for index, known in before.links.items()
            if index not in now or now[index].born != known.born
        )
        return Seen(self._looked(list(self._sights)), dead)

    def heard(self, fact: Fact) -> Seen:
        """A notification, or an answer that is as new as one."""
        if isinstance(fact, Forwarding) and not self._hears(fact):
            return Seen({}, ())
        affected = self._affected(fact)
        known = self._view.links.get(fact.index) if isinstance(fact, Link) and fact.gone else None
        self._apply(self._view, fact)
        if self._next is not None:
            self._said.add(about(fact))
            self._apply(self._next, fact)
        return Seen(self._looked(affected), () if known is None else ((known.link.index, known.born),))

    def _hears(self, fact: Forwarding) -> bool:
        return self._watched is None or (fact.bridge, fact.hardware) in self._watched

    def _looked(self, addresses: Iterable[str]) -> dict[str, Carrier | None]:
        changed = {}
        for address in addresses:
            sight = self._carrier(address)
            if sight != self._sights[address]:
                changed[address] = self._sights[address] = sight
        return changed

    def _affected(self, fact: Fact) -> list[str]:
        if isinstance(fact, Neighbour):
            return [fact.address] if fact.address in self._sights else []
        if isinstance(fact, Forwarding):
            known = self._view.neighbours
            return [address for address in self._sights if known.get((fact.bridge, address)) == fact.hardware]
        if isinstance(fact, Route) and (address := sole_address(fact)):
            return [address] if address in self._sights else []
        return list(self._sights)

    def _apply(self, view: View, fact: Fact) -> None:
        if not isinstance(fact, Link):
            view.apply(fact)
            return
        if fact.gone:
            view.drop_link(fact.index)
            return
        # A life goes on through a dump; a name or a hardware address that changes does not begin another.
        before = view.links.get(fact.index)
        known = before or self._view.links.get(fact.index)
        if before is None and known is not None and known.link.life != fact.life:
            known = None
        if known is None:
            self._births += 1
        view.put_link(fact, self._births if known is None else known.born)

    def _carrier(self, address: str) -> Carrier | None:
        index, full = self._view.route(address)
        known = self._view.links.get(index)
        if known is None or not known.link.up:
            return None
        if not known.link.bridge:
            return Carrier(link=index, born=known.born) if full else None
        hardware = self._view.neighbours.get((index, address))
        ports = {port for port, _ in self._view.ports.get((index, hardware), ())} if hardware else set()
        port = self._view.links.get(next(iter(ports))) if len(ports) == 1 else None
        if port is None or hardware is None:
            return Carrier(bridge=index, hardware=hardware or b"")
        return Carrier(link=port.link.index, born=port.born, bridge=index, hardware=hardware)

"""Which claims to an address count, by what the kernel says of the address: the owner is tied to a carrier.

Knows: the carrier that each address has now, the one its owner was tied to, and what has been proved since it was lost.
Must not know: how claims are learnt, the clock, sockets.

The rule
--------
An owner is tied to the first carrier that is seen at its address after it claimed it. When the carrier *is lost* (its
device or host route goes, or another carrier is seen in its place), the address has no owner until

- the tied carrier is back: then nothing happened to the pod; or
- a claim that is *newer than the loss* is known: its pod is tied to what carries the address then.

What is newer than the loss is defined in `claims`. Until the read that it takes is there nobody counts.

A bridge forgets: that a neighbour or a port is not known at the moment is no loss, but nobody is the owner meanwhile.
It is asked for before a connection from there can be made. Two pods' addresses behind one port of a bridge have no
owners while that lasts. Where no carrier is seen at an address nothing is changed: claims decide alone.

Off bridges a device may be *common*, and then claims decide alone: see `places`. On a bridge a pod has its port to
itself: see `tenancy`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from metaproxy.carriers import Carrier, Device
from metaproxy.claims import ClaimT, Point, Why, best, counts
from metaproxy.places import Places, differs
from metaproxy.tenancy import Port, Tenancy, Tenant

REMEMBERED = 1024
"""Addresses that nobody claims and whose last loss is remembered: many times what one node has to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """All that is remembered, for a process that goes on with it; the claims themselves are the directory's.

    `points` of addresses that nobody claims come in the order in which they are to be forgotten.
    """

    points: Mapping[str, Point]
    tenants: Mapping[Device, Tenant]
    ports: Mapping[tuple[str, int], Port]
    common: frozenset[Device]
    losses: int
    heard: bool


class Ties(Generic[ClaimT]):
    """The points of all addresses that are claimed, or were. `claims` tells who claims an address now.

    `moved`: addresses that have left a carrier since whoever reads this last emptied it.
    """

    def __init__(self, claims: Callable[[str], Sequence[ClaimT]]) -> None:
        self._claims = claims
        self._points: dict[str, Point] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._places = Places(self._counting)
        self._tenancy: Tenancy[ClaimT] = Tenancy()
        self._unsettled: set[str] = set()
        self._blind, self._heard = True, False
        self.losses = 0
        self.moved: set[str] = set()

    @property
    def addresses(self) -> dict[str, bool]:
        """Those whose carriers matter, each with whether anybody claims it now."""
        return {address: address not in self._idle for address in self._points}

    @property
    def unproved(self) -> bool:
        """Whether a read is wanted that begins now."""
        return any(point.fence is None for point in self._points.values())

    def states(self) -> Mapping[str, int]:
        """How many claimed addresses are tied, withdrawn (or not seen yet on their bridge), without an own carrier."""
        found = {"tied": 0, "withdrawn": 0, "unseen": 0}
        for address, point in self._points.items():
            if address not in self._idle:
                tied = point.tied is not None and not point.broken and not self._places.is_common(point.tied)
                lost = point.broken or (point.sight is not None and not self._places.is_common(point.sight))
                found["tied" if tied else "withdrawn" if lost else "unseen"] += 1
        return found

    def memory(self) -> Memory:
        """What is remembered now: a copy."""
        tenants, ports = self._tenancy.memory()
        order = {address: number for number, address in enumerate(self._idle)}
        return Memory(
            points={
                address: self._copied(address, self._points[address])
                for address in sorted(self._points, key=lambda address: order.get(address, -1))
            },
            tenants=tenants,
            ports=ports,
            common=frozenset(self._places.common),
            losses=self.losses,
            heard=self._heard,
        )

    def _copied(self, address: str, point: Point) -> Point:
        """Of the proof only what was said of pods that have, or had, the address.

        Of any other the kubelet has to say that it has it, which is something new.
        """
        concerned = point.stale | {claim.uid for claim in self._claims(address)}
        proof = {uid: point.proof[uid] for uid in sorted(concerned & point.proof.keys())}
        return replace(point, stale=set(point.stale), proof=proof)

    def adopt(self, memory: Memory) -> None:
        """Go on, blind for now, from what another process remembered and nobody else has; nothing is known here yet."""
        for address, point in memory.points.items():
            sight, point.sight = point.sight, None
            self._points[address] = point
            self._move(address, point, sight)
            if not self._claims(address):
                self._idle[address] = None
        self._tenancy.adopt(memory.tenants, memory.ports)
        self._places.common |= memory.common
        self.losses, self._heard = memory.losses, memory.heard

    def blinded(self, blind: bool) -> set[str]:
        """Whether the kernel cannot be heard, so that no tie is certain; the addresses concerned. So it begins."""
        if blind == self._blind:
            return set()
        if self._heard and not blind:
            for address, point in self._points.items():
                # Whoever comes there may have come and gone meanwhile.
                if point.loss and (point.broken or not point.uid):
                    last, point.anonymous = point.last, True
                    self._lose(address, point)
                    point.last = last
        self._blind, self._heard = blind, self._heard or not blind
        return set(self._points)

    def claimed(self, address: str, gone: ClaimT | None, version: int) -> set[str]:
        """Claims to an address changed, that of `gone` ended, by a word of this version; the addresses concerned."""
        claims, point = self._claims(address), self._points.get(address)
        if point is None:
            if not claims:
                return {address}
            point = self._points[address] = Point()
        if gone is not None and gone.uid == point.uid:
            if not point.broken:
                point.end(gone, self._number(), version, self._claims(address))
            point.stale.add(gone.uid)
        self._places.unmark(point.sight)
        concerned = {address, *self._places.beside(point.sight), *self._places.beside(point.tied), *self._unsettled}
        if claims:
            self._idle.pop(address, None)
        else:
            self._idle[address] = None
            self._idle.move_to_end(address)
        if len(self._idle) > REMEMBERED:
            oldest, _ = self._idle.popitem(last=False)
            self._move(oldest, self._points.pop(oldest), None)
        return concerned

    def ended(self, uid: str) -> set[str]:
        """The API server has the pod no more; the addresses that this may decide."""
        self._tenancy.ended(uid)
        return set(self._unsettled)

    def saw(self, sights: Mapping[str, Carrier | None]) -> set[str]:
        """The kernel says that these addresses have other carriers; the addresses whose owners may differ by that."""
        concerned = {*sights, *self._unsettled}
        for address, sight in sights.items():
            if (point := self._points.get(address)) is None:
                continue
            concerned |= self._move(address, point, sight)
            last = point.last
            if last is not None and differs(last, sight):
                if sight is not None and sight == point.tied:
                    self.moved.add(address)
                else:
                    self._leave(address, point)
            if sight is not None and sight.device is not None:
                point.broken = point.broken and sight != point.tied
                point.last = sight
        return concerned

    def died(self, device: Device) -> set[str]:
        """A device is gone: what it carried is lost, on bridges too. The addresses concerned."""
        concerned = set(self._unsettled)
        self._tenancy.died(device, self._claims)
        for address, point in self._points.items():
            if point.last is not None and point.last.device == device:
                concerned.add(address)
                self._leave(address, point)
        self._places.common.discard(device)
        return concerned

    def proved(self, version: int, since: int, observed: Mapping[str, str]) -> set[str]:
        """A consistent read of that version, which said this of each pod, began after the loss number `since`.

        The addresses that this may decide.
        """
        decided = set()
        for address, point in self._points.items():
            if point.fence is None and point.loss <= since:
                point.fence, point.proof = version, observed
                decided.add(address)
        return decided

    def spoken(self) -> set[str]:
        """Files were read anew: their word counts, whatever happened before. The addresses that this may decide."""
        for point in self._points.values():
            point.fence, point.anonymous, point.stale = 0, False, set()
        return set(self._points)

    def sight(self, address: str) -> Carrier | None:
        """The carrier that is seen at the address now."""
        point = self._points.get(address)
        return None if point is None else point.sight

    def awaited(self, address: str) -> list[ClaimT]:
        """The pods that keep others on the address's bridge from a first port: none is seen at one of its own."""
        point = self._points.get(address)
        return [] if point is None or point.sight is None else self._waiting(point.sight.bridge)

    def judge(self, address: str) -> list[ClaimT] | Why:
        """Whose claims count now, tying a single one to the carrier; or why nobody's does."""
        verdict = self._judged(address)
        if verdict is Why.UNSETTLED:
            self._unsettled.add(address)
        else:
            self._unsettled.discard(address)
        return verdict

    def _judged(self, address: str) -> list[ClaimT] | Why:
        claims, point = self._claims(address), self._points.get(address)
        if point is None or not claims:
            return best(claims)
        if self._blind and not (self._heard and point.tied is None and point.sight is None):
            return Why.BLIND
        if point.sight is not None and point.sight.bridge:
            if self._several(address, point.sight, claims):
                return Why.SHARED
        elif point.sight is not None:
            self._places.mark(point.sight)
        counting = best([claim for claim in claims if counts(point, claim)])
        if not counting:
            return Why.LOST
        return counting if len(counting) > 1 else self._tied(address, point, counting[0])

    def _tied(self, address: str, point: Point, claim: ClaimT) -> list[ClaimT] | Why:
        if point.sight is None:
            # Never a carrier of its own: no network that shows any. Else one is awaited.
            own = point.tied is not None or (point.loss and claim.uid != point.uid)
            return Why.UNRESOLVED if own else [claim]
        if point.sight.device is None:
            return Why.UNRESOLVED
        if claim.uid == point.uid and point.tied is not None and not point.broken:
            return [claim]
        if bridge := point.sight.bridge:
            why = self._tenancy.take(claim, address, bridge, point.sight.device, lambda: self._waiting(bridge))
            if why is not None:
                return why
        point.uid, point.tied, point.broken, point.anonymous = claim.uid, point.sight, False, False
        return [claim]

    def _leave(self, address: str, point: Point) -> None:
        """The address is not where it was last: a loss, unless that is a common device."""
        if not self._places.is_common(point.last):
            self._lose(address, point)
            return
        if point.tied == point.last and not point.broken:
            point.tied = None
        point.last = None

    def _lose(self, address: str, point: Point) -> None:
        self.moved.add(address)
        point.lose(self._number(), self._claims(address))

    def _number(self) -> int:
        self.losses += 1
        return self.losses

    def _move(self, address: str, point: Point, sight: Carrier | None) -> set[str]:
        """The address is seen there now; who is at the old or the new device."""
        before, point.sight = point.sight, sight
        return self._places.move(address, before, sight)

    def _counting(self, address: str) -> set[str]:
        """The pods whose claims to the address count."""
        point = self._points[address]
        return {claim.uid for claim in self._claims(address) if counts(point, claim)}

    def _several(self, address: str, sight: Carrier, claims: Sequence[ClaimT]) -> bool:
        """Whether another pod's address is at the same device."""
        mine = {claim.uid for claim in claims}
        theirs = [self._claims(other) for other in self._places.beside(sight) if other != address]
        return any(pods and mine.isdisjoint(pod.uid for pod in pods) for pods in theirs)

    def _waiting(self, bridge: int) -> list[ClaimT]:
        """The pods that keep others on the bridge from a first port."""
        return self._tenancy.waiting(bridge, self._there(bridge))

    def _there(self, bridge: int) -> Iterator[tuple[str, Device | None, Sequence[ClaimT]]]:
        for address, point in self._points.items():
            if point.sight is not None and point.sight.bridge == bridge:
                yield address, point.sight.device, self._claims(address)

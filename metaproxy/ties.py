"""Which claim to an address counts, by what the kernel says of the address: the owner is tied to a carrier.

Knows: the carrier that each address has now, the one its owner was tied to, and what has been proved since it was lost.
Must not know: how claims are learnt, the clock, sockets.

The rule
--------
An owner is tied to the first carrier that is seen at its address after it claimed it. When the carrier *is lost* (its
device or host route goes, or another carrier is seen in its place), the address has no owner until

- the tied carrier is back: then nothing happened to the pod; or
- a claim that is *newer than the loss* is known: its pod is tied to what carries the address then.

What is newer than the loss? That something arrives after it says nothing: a watch may be late. A consistent read of the
API server that *began* after the loss does: every version later than that list's was written after the loss (the
address's `fence`). So

- a pod that claimed the address when it was lost counts again only with a version behind the fence, in which the node
  agent (kubelet) itself has said something new of the pod (`observed`), and not when it is being deleted: an annotation,
  a label or a deletion write the old addresses once more, and so does the read, without anybody having looked at them.
- a pod that did not, counts behind the fence; and, if it is known whose carrier was lost, also when that read names it.
  If it is not (a carrier that was never tied went), only what is behind the fence counts: the read could name the loser.

Until the read is there nobody counts. When an owner's claim ends by the API server's word, the fence is the version of
that word. Claims without version are files, whose author's newest word always counts.

A bridge forgets: a neighbour or a port that is not known at the moment is no loss, but nobody is the owner meanwhile. It
is asked for before a connection from there can be made. Two pods' addresses at one hardware address have no owners while
that lasts. Where no carrier was ever seen at an address nothing is changed: claims decide alone.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from metaproxy.carriers import Carrier

REMEMBERED = 1024
"""Addresses that nobody claims and whose last loss is remembered: many times what one node has to give."""


class Claim(Protocol):
    """A pod that says it has an address."""

    @property
    def uid(self) -> str:
        """Who."""
        ...

    @property
    def version(self) -> int:
        """When it was written; 0 in files."""
        ...

    @property
    def terminating(self) -> bool:
        """Whether it is being deleted."""
        ...

    @property
    def observed(self) -> str:
        """A digest of what the kubelet last wrote."""
        ...


ClaimT = TypeVar("ClaimT", bound=Claim)


class Why(StrEnum):
    """Why an address that is claimed has no owner."""

    LOST = "lost"
    UNRESOLVED = "unresolved"
    SHARED = "shared"
    BLIND = "blind"


@dataclass(slots=True)
class _Point:
    """What is known of an address.

    `last` is the last carrier that was seen and not lost: `sight`, unless a bridge has forgotten it. `loss` numbers the
    last loss, 0 is none; `fence` is None until a read that began after it is there. `stale`: who claimed the address
    then, and what the kubelet had said of them. `anonymous`: a carrier went of which nobody knows whose it was.
    """

    sight: Carrier | None = None
    last: Carrier | None = None
    uid: str = ""
    tied: Carrier | None = None
    broken: bool = False
    loss: int = 0
    fence: int | None = 0
    stale: dict[str, str] = field(default_factory=dict)
    anonymous: bool = False


class Ties(Generic[ClaimT]):
    """The points of all addresses that are claimed, or were. `claims` tells who claims an address now.

    `blind`: the kernel was not heard for a moment, so that no tie is certain. `moved`: addresses that have left a carrier
    since whoever reads this last emptied it.
    """

    def __init__(self, claims: Callable[[str], Sequence[ClaimT]]) -> None:
        self._claims = claims
        self._points: dict[str, _Point] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._at: dict[object, set[str]] = {}
        self.losses = 0
        self.moved: set[str] = set()
        self.blind = False

    @property
    def addresses(self) -> frozenset[str]:
        """Those whose carriers matter."""
        return frozenset(self._points)

    @property
    def unproved(self) -> bool:
        """Whether a read is wanted that begins now."""
        return any(point.fence is None for point in self._points.values())

    def states(self) -> Mapping[str, int]:
        """How many claimed addresses are tied to a carrier, withdrawn from their owner, or have never had a carrier."""
        counts = {"tied": 0, "withdrawn": 0, "unseen": 0}
        for address, point in self._points.items():
            if address not in self._idle:
                counts["withdrawn" if point.broken else "tied" if point.tied else "unseen"] += 1
        return counts

    def claimed(self, address: str, gone: ClaimT | None, version: int) -> set[str]:
        """The claims to an address changed, that of `gone` ended, by a word of this version; the addresses concerned."""
        claims, point = self._claims(address), self._points.get(address)
        if point is None:
            if not claims:
                return {address}
            point = self._points[address] = _Point()
        if gone is not None and gone.uid == point.uid:
            self._end(point, gone, version)
        if claims:
            self._idle.pop(address, None)
        else:
            self._idle[address] = None
            self._idle.move_to_end(address)
        concerned = {address} | (self._at[_place(point.sight)] if point.sight is not None else set())
        if len(self._idle) > REMEMBERED:
            oldest, _ = self._idle.popitem(last=False)
            self._move(oldest, self._points.pop(oldest), None)
        return concerned

    def saw(self, sights: Mapping[str, Carrier | None]) -> set[str]:
        """The kernel says that these addresses have other carriers; the addresses whose owners may differ by that."""
        concerned = set(sights)
        for address, sight in sights.items():
            point = self._points.get(address)
            if point is None:
                continue
            concerned |= self._move(address, point, sight)
            if sight is None:
                if point.last is not None and not point.last.bridge:
                    self._lose(address, point)
                continue
            if point.last is not None and point.last != sight:
                if sight == point.tied:
                    self.moved.add(address)
                else:
                    self._lose(address, point)
            if sight == point.tied:
                point.broken = False
            point.last = sight
        return concerned

    def died(self, link: int) -> set[str]:
        """A device is gone: what it carried is lost, on bridges too. The addresses concerned."""
        concerned = {
            address for address, point in self._points.items() if point.last is not None and point.last.link == link
        }
        for address in concerned:
            self._lose(address, self._points[address])
        return concerned

    def proved(self, version: int, since: int) -> set[str]:
        """A consistent read of that version began after the loss number `since`; the addresses that this may decide."""
        decided = set()
        for address, point in self._points.items():
            if point.fence is None and point.loss <= since:
                point.fence = version
                decided.add(address)
        return decided

    def spoken(self) -> frozenset[str]:
        """Files were read anew: their word counts, whatever happened before. The addresses that this may decide."""
        for point in self._points.values():
            point.fence, point.anonymous = 0, False
            point.stale.clear()
        return self.addresses

    def judge(self, address: str) -> list[ClaimT] | Why:
        """Whose claims count now, tying a single one to the carrier; or why nobody's does."""
        claims, point = self._claims(address), self._points.get(address)
        if point is None:
            return list(claims)
        counting = [claim for claim in claims if _counts(point, claim)]
        best = [claim for claim in counting if not claim.terminating] or counting
        if not best:
            return Why.LOST if claims else []
        if self._shared(address, point, claims):
            return Why.SHARED
        if self.blind and point.tied is not None:
            return Why.BLIND
        return best if len(best) > 1 else self._tied(address, point, best[0])

    def _tied(self, address: str, point: _Point, claim: ClaimT) -> list[ClaimT] | Why:
        if point.sight is None:
            # Never a carrier: no network that shows any. Else one is awaited.
            return [claim] if point.tied is None and not point.loss else Why.UNRESOLVED
        if claim.uid == point.uid and not point.broken:
            return [claim]
        if self._taken(address, point.sight, claim):
            if point.loss:
                return Why.SHARED  # nobody is tied to what carries a neighbour
            if not point.sight.bridge:
                return [claim]  # one device for many pods tells nobody apart
        point.uid, point.tied, point.broken = claim.uid, point.sight, False
        return [claim]

    def _end(self, point: _Point, claim: ClaimT, version: int) -> None:
        """The owner's claim is over by the source's word, whatever the kernel still shows."""
        if not point.broken:
            point.loss, point.fence, point.broken = self._number(), version, True
            point.stale = {}
        point.stale[claim.uid] = claim.observed

    def _lose(self, address: str, point: _Point) -> None:
        self.moved.add(address)
        point.anonymous |= point.last != point.tied
        point.last, point.broken = None, point.tied is not None
        point.loss, point.fence = self._number(), None
        point.stale = {claim.uid: claim.observed for claim in self._claims(address)}

    def _number(self) -> int:
        self.losses += 1
        return self.losses

    def _move(self, address: str, point: _Point, sight: Carrier | None) -> set[str]:
        """Index the new sight; who is at the old or the new hardware address."""
        concerned: set[str] = set()
        if point.sight is not None:
            there = self._at[_place(point.sight)]
            there.discard(address)
            concerned |= there
            if not there:
                del self._at[_place(point.sight)]
        if sight is not None:
            there = self._at.setdefault(_place(sight), set())
            concerned |= there
            there.add(address)
        point.sight = sight
        return concerned

    def _shared(self, address: str, point: _Point, claims: Sequence[ClaimT]) -> bool:
        """Whether another pod's address is at the same hardware address of the same bridge."""
        if point.sight is None or not point.sight.bridge:
            return False
        mine = {claim.uid for claim in claims}
        theirs = [self._claims(other) for other in self._at[_place(point.sight)] if other != address]
        return any(pods and mine.isdisjoint(pod.uid for pod in pods) for pods in theirs)

    def _taken(self, address: str, sight: Carrier, claim: ClaimT) -> bool:
        """Whether another pod is tied to the same device."""
        return any(
            point.tied is not None
            and not point.broken
            and (point.tied.link, point.tied.born) == (sight.link, sight.born)
            and point.uid != claim.uid
            for other, point in self._points.items()
            if other != address
        )


def _counts(point: _Point, claim: Claim) -> bool:
    """The rule of the module's page."""
    if not point.loss or (claim.uid == point.uid and not point.broken):
        return True
    if point.fence is None:
        return False
    behind = claim.version > point.fence or not claim.version
    if claim.uid in point.stale:
        return behind and claim.observed != point.stale[claim.uid] and not claim.terminating
    return behind or not point.anonymous


def _place(carrier: Carrier) -> object:
    return (carrier.bridge, carrier.hardware) if carrier.bridge else (carrier.link, carrier.born)

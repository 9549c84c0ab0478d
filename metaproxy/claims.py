"""Which claims to an address count after a loss, by what was written since.

Knows: a claim, what is known of an address, what a loss leaves of that, and when a claim is newer than it.
Must not know: how claims are learnt, what carries what, the clock.

What is newer than the loss? That something arrives after it says nothing: a watch may be late. A consistent read of the
API server that *began* after the loss does: every version later than that list's was written after the loss (the
address's `fence`). So

- a pod that claimed the address when it was lost counts again only with a version behind the fence, in which the node
  agent (kubelet) itself says something of the pod (`observed`) that it did not in that read, and not when it is being
  deleted: an annotation, a label or a deletion write the old addresses once more, and so does the read, without
  anybody having looked at them.
- a pod that did not, counts when that read names it, or behind the fence. But if it is not known whose carrier was
  lost (one that was never tied went, or words of the kernel were lost) it is treated as if it had: it may be the loser.

Until the read is there nobody counts. When an owner's claim ends by the API server's word, the fence is the version of
that word, if no later read has set it and none is awaited; who had lost the address before has lost it still. Claims
without version are files, whose author's newest word always counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from metaproxy.carriers import Carrier


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
        """A digest of what the kubelet last wrote; empty when it saw nothing of the pod run."""
        ...


ClaimT = TypeVar("ClaimT", bound=Claim)


class Why(StrEnum):
    """Why an address that is claimed has no owner."""

    LOST = "lost"
    UNRESOLVED = "unresolved"
    SHARED = "shared"
    UNSETTLED = "unsettled"
    BLIND = "blind"


@dataclass(slots=True)
class Point:
    """What is known of an address.

    `last` is the last carrier that was seen and not lost: `sight`, unless a bridge has forgotten it. `loss` numbers the
    last loss, 0 is none; `fence` is None until a read that began after it is there, and `proof` is what the kubelet had
    said of each pod in that. `stale`: who claimed the address at the loss. `anonymous`: nobody knows whose it was. An
    owner (`uid`) that left a common device is not broken, but `tied` to nothing.
    """

    sight: Carrier | None = None
    last: Carrier | None = None
    uid: str = ""
    tied: Carrier | None = None
    broken: bool = False
    loss: int = 0
    fence: int | None = 0
    proof: Mapping[str, str] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    anonymous: bool = False

    def lose(self, number: int, claims: Sequence[Claim]) -> None:
        """What the address was last seen at is lost, while these claimed it; the loss has that number."""
        self.anonymous |= self.last != self.tied
        self.last, self.broken = None, self.uid != ""
        self.loss, self.fence = number, None
        self.stale, self.proof = {claim.uid for claim in claims}, {}

    def end(self, owner: Claim, number: int, version: int, claims: Sequence[Claim]) -> None:
        """The owner's claim is over by the source's word of that version, whatever the kernel still shows.

        It is a loss with that number; `claims` are those that there are still.
        """
        # Who had lost the address to this one does not get it back by that.
        lost = {each.uid for each in claims if each.uid in self.stale and not counts(self, each)}
        self.loss, self.broken = number, True
        self.fence = None if self.fence is None else max(self.fence, version)
        proof = {uid: said for uid, said in self.proof.items() if uid in lost}
        self.stale, self.proof = lost, {**proof, owner.uid: owner.observed}


def best(claims: Sequence[ClaimT]) -> list[ClaimT]:
    """A running pod's claim beats that of one that is being deleted."""
    return [claim for claim in claims if not claim.terminating] or list(claims)


def counts(point: Point, claim: Claim) -> bool:
    """The rule of the module's page."""
    if not point.loss or (claim.uid == point.uid and not point.broken):
        return True
    if point.fence is None:
        return False
    if not point.anonymous and claim.uid not in point.stale:
        return True
    newer = claim.observed not in {"", point.proof.get(claim.uid)}
    return newer and claim.version > point.fence and not claim.terminating

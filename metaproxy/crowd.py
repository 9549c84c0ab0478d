"""Who of many gives way when there is no place left, and who waits when one wants everything.

Knows: how many connections each address has, which of them have not said a word yet, how much of a turn each has had.
Must not know: sockets, the event loop, the clock, what is asked.

The rule is one: whoever has most gives way, so that nobody's crowd keeps a neighbour out.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

MemberT = TypeVar("MemberT", bound=Hashable)


@dataclass(slots=True, eq=False)
class Party(Generic[MemberT]):
    """What one address has: all its `members`, and of these the `silent` ones, which never spoke, longest first."""

    members: set[MemberT] = field(default_factory=set)
    silent: dict[MemberT, None] = field(default_factory=dict)


class Place(NamedTuple, Generic[MemberT]):
    """Whether one more may come, and who has to go for that; None: nobody."""

    free: bool
    instead_of: MemberT | None = None


_FREE: Place[Any] = Place(free=True)
_NONE: Place[Any] = Place(free=False)


class Crowd(Generic[MemberT]):
    """All connections by their addresses: at most `total` together, at most `each` of one.

    `rank` tells which of an address's members goes first: the least. Silent ones go before all others.
    """

    def __init__(self, *, total: int, each: int, rank: Callable[[MemberT], Any]) -> None:
        self._total = total
        self._each = each
        self._rank = rank
        self._parties: dict[str, Party[MemberT]] = {}
        self.size = 0

    def place(self, who: str) -> Place[MemberT]:
        """Whether `who` may have one more; looking changes nothing."""
        mine = self.count(who)
        if mine < self._each:
            if self.size < self._total:
                return _FREE
            most = self._most()
            # With one less than most it has its share: two crowds would only drive one another out by turns.
            if mine == 0 or len(most.members) > mine + 1:
                return Place(free=True, instead_of=self._first(most))
        # Who says nothing makes room for who may have something to say.
        if mine and (silent := self._parties[who].silent):
            return Place(free=True, instead_of=next(iter(silent)))
        return _NONE

    def first(self) -> MemberT | None:
        """Who goes first of all, if there is anybody."""
        return self._first(self._most()) if self._parties else None

    def add(self, who: str, member: MemberT) -> Party[MemberT]:
        """One more, silent yet; its party."""
        party = self._parties.get(who)
        if party is None:
            party = self._parties[who] = Party()
        party.members.add(member)
        party.silent[member] = None
        self.size += 1
        return party

    def remove(self, who: str, member: MemberT) -> bool:
        """One less; False when it was not there."""
        party = self._parties.get(who)
        if party is None or member not in party.members:
            return False
        party.members.discard(member)
        party.silent.pop(member, None)
        self.size -= 1
        if not party.members:
            del self._parties[who]
        return True

    def count(self, who: str) -> int:
        """How many one address has."""
        party = self._parties.get(who)
        return len(party.members) if party is not None else 0

    def of(self, who: str) -> list[MemberT]:
        """Those of one address."""
        party = self._parties.get(who)
        return list(party.members) if party is not None else []

    def everybody(self) -> list[MemberT]:
        """Those of all addresses."""
        return [member for party in self._parties.values() for member in party.members]

    def _most(self) -> Party[MemberT]:
        return max(self._parties.values(), key=lambda party: (len(party.members), len(party.silent)))

    def _first(self, party: Party[MemberT]) -> MemberT:
        return next(iter(party.silent)) if party.silent else min(party.members, key=self._rank)


class Turns(Generic[MemberT]):
    """What each address may have of one turn of the loop: so many answers. Who wants more waits for the next turns."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._spent: dict[str, int] = {}
        self._waiting: dict[str, OrderedDict[MemberT, None]] = {}

    def take(self, who: str, member: MemberT) -> bool:
        """Whether the member may answer in this turn; if not, it waits behind those of its address."""
        spent = self._spent.get(who, 0)
        if spent < self._budget:
            self._spent[who] = spent + 1
            return True
        self._waiting.setdefault(who, OrderedDict())[member] = None
        return False

    def following(self) -> list[MemberT]:
        """Begin the next turn: those that waited and may answer in it."""
        self._spent.clear()
        going: list[MemberT] = []
        for who, waiting in list(self._waiting.items()):
            count = self._spent[who] = min(self._budget, len(waiting))
            going += [waiting.popitem(last=False)[0] for _ in range(count)]
            if not waiting:
                del self._waiting[who]
        return going

    def over(self) -> bool:
        """Whether nobody has had anything of this turn, and nobody waits."""
        return not self._spent and not self._waiting

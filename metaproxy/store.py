"""Objects by uid that never go back in time.

Knows: in which version each object was last seen, what was deleted, how new the newest list was.
Must not know: what the objects are.

Versions are resourceVersions read as integers; 0 means that the source has none (files). A list can be older than what
a watch has already said (another API server answers, or a cache lags), so nothing here ever goes back in time: an older
version of an object is dropped, an object that was deleted stays deleted, and a list removes only what it is new enough
to know of.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

TOMBSTONES = 4096
"""How many deleted uids are remembered: many times what a node loses between two lists."""


class Item(Protocol):
    """An object of the API server's, or of a file."""

    @property
    def uid(self) -> str:
        """Which it is, also when another comes by its name."""
        ...

    @property
    def version(self) -> int:
        """Its resourceVersion; 0 in files."""
        ...


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Generic[ItemT]):
    """One object before and after; None where it is not there."""

    before: ItemT | None
    after: ItemT | None


class Store(Generic[ItemT]):
    """See the module. `merge` makes of what was kept, what is seen, and whether in a list, what is kept."""

    def __init__(self, merge: Callable[[ItemT | None, ItemT, bool], ItemT]) -> None:
        self._merge: Callable[[ItemT | None, ItemT, bool], ItemT] = merge
        self.items: dict[str, ItemT] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._listed = 0

    def memory(self) -> tuple[tuple[ItemT, ...], tuple[str, ...], int]:
        """The objects, the uids of those that are gone, and the version of the newest list."""
        return tuple(self.items.values()), tuple(self._gone), self._listed

    def adopt(self, items: Iterable[ItemT], gone: Iterable[str], listed: int) -> list[Change[ItemT]]:
        """Begin with what another store knew."""
        self.items = {item.uid: item for item in items}
        self._gone, self._listed = OrderedDict.fromkeys(gone), listed
        return [Change(before=None, after=item) for item in self.items.values()]

    def put(self, item: ItemT, *, listed: bool = False) -> list[Change[ItemT]]:
        """An object was added or modified, or is in a list."""
        before = self.items.get(item.uid)
        # Unknown, but older than a list that did not have it: it came and went before that list, and is gone.
        newest = self._listed if before is None else before.version
        if item.uid in self._gone or 0 < item.version < newest:
            return []
        after = self._merge(before, item, listed)
        if after == before:
            return []
        self.items[item.uid] = after
        return [Change(before=before, after=after)]

    def delete(self, uid: str, version: int) -> list[Change[ItemT]]:
        """An object was deleted."""
        if version:
            self._gone[uid] = None
            self._gone.move_to_end(uid)
            if len(self._gone) > TOMBSTONES:
                self._gone.popitem(last=False)
        before = self.items.pop(uid, None)
        return [] if before is None else [Change(before=before, after=None)]

    def replace(self, items: Iterable[ItemT], version: int) -> list[Change[ItemT]]:
        """These are all objects as of `version`: what is missing was deleted, unless it was seen later than that."""
        listed = list(items)
        uids = {item.uid for item in listed}
        missing = [item.uid for item in self.items.values() if item.uid not in uids and item.version <= version]
        changes = [change for uid in missing for change in self.delete(uid, version)]
        changes += [change for item in listed for change in self.put(item, listed=True)]
        self._listed = max(self._listed, version)
        return changes

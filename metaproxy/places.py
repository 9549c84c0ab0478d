"""Where addresses are seen: who is at the same device, and which devices tell nobody from anybody.

Knows: the device that each address is seen at now, and which of them are common.
Must not know: what makes a claim count, who owns what, the clock.

Common devices
--------------
Off bridges one device may carry several pods. It is *common* from when claims of different pods count at its addresses
until a word of the source leaves it to one, or it dies. That an address leaves it is no loss meanwhile: who had it
there has it wherever it is seen next, and if it is seen nowhere. So claims decide alone. But only claims that count
make a device common, and only they have a say there: two that were lost, at the addresses of one successor, are no two
pods. And that routes go does not end it: they go one by one when such a device is made anew.
"""

from collections.abc import Callable
from typing import TypeGuard

from metaproxy.carriers import Carrier, Device


class Places:
    """See the module. `counting` tells the uids of the pods whose claims to an address count.

    `at`: the addresses at each device now. `common`: the devices that are.
    """

    def __init__(self, counting: Callable[[str], set[str]]) -> None:
        self._counting = counting
        self.at: dict[Device, set[str]] = {}
        self.common: set[Device] = set()

    def beside(self, sight: Carrier | None) -> set[str]:
        """The addresses at that device now."""
        return self.at.get(sight.device, set()) if sight is not None and sight.device is not None else set()

    def move(self, address: str, before: Carrier | None, after: Carrier | None) -> set[str]:
        """An address is seen elsewhere; who is at the old or the new device."""
        concerned: set[str] = set()
        if before is not None and before.device is not None:
            there = self.at[before.device]
            there.discard(address)
            concerned |= there
            if not there:
                del self.at[before.device]
        if after is not None and after.device is not None:
            there = self.at.setdefault(after.device, set())
            concerned |= there
            there.add(address)
        return concerned

    def is_common(self, carrier: Carrier | None) -> TypeGuard[Carrier]:
        """Whether it is a device off bridges that tells nobody from anybody."""
        return carrier is not None and not carrier.bridge and carrier.device in self.common

    def mark(self, sight: Carrier) -> None:
        """Call the device common if claims of different pods count at its addresses."""
        if not self.is_common(sight) and self._is_crowded(sight):
            self.common.add((sight.link, sight.born))

    def unmark(self, sight: Carrier | None) -> None:
        """Call it so no longer if they do not: that a word of the source came has to be the reason to ask."""
        if self.is_common(sight) and not self._is_crowded(sight):
            self.common.discard((sight.link, sight.born))

    def _is_crowded(self, sight: Carrier) -> bool:
        """Whether no pod has a claim that counts at each address of the device at which one does."""
        there = [pods for pods in map(self._counting, self.beside(sight)) if pods]
        return bool(there) and not set.intersection(*there)


def differs(last: Carrier, sight: Carrier | None) -> bool:
    """Whether the address is elsewhere now: that a bridge has forgotten its port, or knows nothing of it, is not."""
    if sight is None:
        return not last.bridge
    if sight.device is None:
        return sight.bridge != last.bridge or sight.hardware not in {b"", last.hardware}
    return sight != last

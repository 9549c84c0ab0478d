"""Which IPv6 addresses have lately changed their hardware address, so that the kernel should ask anew who has them.

Knows: what was the last hardware address of each, and until when one that changed is in doubt.
Must not know: sockets, which devices are bridges.

The kernel believes whoever speaks for an address and then asks that one alone for up to a minute, also after it has
gone silent; of IPv4 any datagram's sender can make it ask everybody, of IPv6 nobody but the administrator can.
"""

from collections import OrderedDict

from metaproxy.netlink import Neighbour

DOUBT = 300.0
"""Seconds for which a change is doubted: an attack that lasts makes more of them, and each counts anew."""

KNOWN = 8192
"""Addresses whose hardware address is remembered: eight times what the kernel keeps by default."""

DOUBTED = 1024
"""Addresses that are in doubt at once; the oldest doubts go first."""

Place = tuple[int, str]
"""A device by its index, and an address there."""


class Doubts:
    """See the module. The caller's clock counts seconds."""

    def __init__(self) -> None:
        self._hardware: OrderedDict[Place, bytes] = OrderedDict()
        self._until: dict[Place, float] = {}

    def told(self, one: Neighbour, now: float) -> None:
        """The kernel's word on a neighbour. What the administrator has fixed is never in doubt."""
        place = one.link, one.address
        if ":" not in one.address or not one.hardware:
            return
        if one.permanent:
            self._hardware.pop(place, None)
            self._until.pop(place, None)
            return
        before = self._hardware.pop(place, one.hardware)
        self._hardware[place] = one.hardware
        if len(self._hardware) > KNOWN:
            self._hardware.popitem(last=False)
        if before != one.hardware:
            self._until.pop(place, None)
            self._until[place] = now + DOUBT
            if len(self._until) > DOUBTED:
                del self._until[next(iter(self._until))]

    def places(self, now: float) -> list[Place]:
        """Those that are in doubt now."""
        self._until = {place: until for place, until in self._until.items() if until > now}
        return list(self._until)

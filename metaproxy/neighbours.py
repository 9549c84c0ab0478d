"""Which IPv6 addresses have lately changed their hardware address, so that the kernel should ask anew who has them.

Knows: what was the last hardware address of each, and until when one that changed is in doubt.
Must not know: sockets, which devices are bridges.

The kernel believes whoever speaks for an address and then asks that one alone for up to a minute, also after it has
gone silent; of IPv4 any datagram's sender can make it ask everybody, of IPv6 nobody but the administrator can.
"""

from collections import OrderedDict
from dataclasses import dataclass

from metaproxy.netlink import Neighbour

DOUBT = 300.0
"""Seconds for which a change is doubted: an attack that lasts makes more of them, and each counts anew."""

ANSWERS = 30
"""Answers in a row with the same hardware address, after which it is in doubt no more: two that fight for an address
both answer, so that it changes; one that only went to its next owner is asked for no longer than half a minute."""

KNOWN = 8192
"""Addresses whose hardware address is remembered: eight times what the kernel keeps by default."""

DOUBTED = 1024
"""Addresses that are in doubt at once; the oldest doubts go first."""

Place = tuple[int, str]
"""A device by its index, and an address there."""


@dataclass(slots=True)
class _Doubt:
    """`away`: the kernel does not know the address now. `answers`: how often it came back as it was."""

    until: float
    away: bool = False
    answers: int = 0


class Doubts:
    """See the module. The caller's clock counts seconds."""

    def __init__(self) -> None:
        self._hardware: OrderedDict[Place, bytes] = OrderedDict()
        self._doubts: dict[Place, _Doubt] = {}

    def told(self, one: Neighbour, now: float) -> None:
        """The kernel's word on a neighbour. What somebody has fixed is never in doubt."""
        place = one.link, one.address
        if ":" not in one.address:
            return
        doubt = self._doubts.get(place)
        if not one.hardware:
            if doubt:
                doubt.away = True
            return
        if one.fixed:
            self._hardware.pop(place, None)
            self._doubts.pop(place, None)
            return
        before = self._hardware.pop(place, one.hardware)
        self._hardware[place] = one.hardware
        if len(self._hardware) > KNOWN:
            self._hardware.popitem(last=False)
        if before != one.hardware:
            self._doubts.pop(place, None)
            self._doubts[place] = _Doubt(now + DOUBT)
            if len(self._doubts) > DOUBTED:
                del self._doubts[next(iter(self._doubts))]
        elif doubt and doubt.away:
            doubt.away, doubt.answers = False, doubt.answers + 1
            if doubt.answers == ANSWERS:
                del self._doubts[place]

    def places(self, now: float) -> list[Place]:
        """Those that are in doubt now, and that the kernel would ask nobody about."""
        self._doubts = {place: doubt for place, doubt in self._doubts.items() if doubt.until > now}
        return [place for place, doubt in self._doubts.items() if not doubt.away]

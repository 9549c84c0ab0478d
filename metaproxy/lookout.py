"""Makes the kernel look for addresses of pods whose place it does not know, or that have left their port.

Knows: the port that each address was last seen at, how to make the kernel ask for an address, how often.
Must not know: rtnetlink, what pods are, what comes of it.

Nothing is said to anybody: a datagram without content goes to a port that nothing listens on, and that it has to go
there makes the kernel ask on the wire who has the address.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

import structlog

from metaproxy.carriers import Carrier, Device, Seen

log = structlog.get_logger()

ASK_AGAIN = (0.5, 30.0)
"""Seconds between two datagrams to an address that the kernel does not know: from, and growing to."""

CALL_HOME = 0.5
"""Seconds between two datagrams to an address that has left its port on a bridge: it may want to come back."""

DISCARD = 9
"""The port to which nothing is said (RFC 863)."""

IP_PKTINFO = 8
"""Linux's number of the option that names a datagram's device; Python has no name for it."""

_PACKET_INFO = struct.Struct("=iII")


class Lookout:
    """See the module. `sight`: what the kernel shows at an address. It asks only while it is open.

    `_claimed`: the addresses that are looked for when the kernel does not know them. `_homes`: the port that an address
    was last seen at before it was elsewhere or nowhere, while that port is there.
    """

    def __init__(self, sight: Callable[[str], Carrier | None]) -> None:
        self._sight = sight
        self._probes: dict[int, socket.socket] = {}
        self._claimed: frozenset[str] = frozenset()
        self._homes: dict[str, Carrier] = {}
        self._last: dict[str, Carrier] = {}
        self._asked: dict[str, asyncio.TimerHandle] = {}
        self._open = False

    def open(self, stack: ExitStack) -> None:
        """Ask from now on until the stack is closed."""
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            try:
                probe = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                log.info("addresses of a family are not looked for", version=version, error=str(error))
            else:
                self._probes[version] = stack.enter_context(probe)
        self._open = True
        stack.callback(self._close)

    def adopt(self, sights: Mapping[str, Carrier | None]) -> None:
        """Begin with what another process saw last."""
        self._last = {address: sight for address, sight in sights.items() if sight is not None and sight.device}

    def follow(self, claimed: Iterable[str]) -> None:
        """These addresses are looked for when the kernel does not know them, and no others."""
        self._claimed = frozenset(claimed)
        self.mind(self._claimed)

    def forget(self, address: str) -> None:
        """The address does not matter any more."""
        self._settled(address)
        self._last.pop(address, None)
        self._homes.pop(address, None)

    def saw(self, seen: Seen) -> None:
        """The kernel shows other carriers: remember the ports that addresses have left."""
        for address in [address for address, home in self._homes.items() if home.device in seen.dead]:
            del self._homes[address]
        for address, sight in seen.sights.items():
            self._note(address, sight, seen.dead)

    def mind(self, addresses: Iterable[str]) -> None:
        """Look for those of these addresses that are missed, if it is not done already, and for the others no more."""
        for address in addresses:
            if not self._missed(address):
                self._settled(address)
            elif address not in self._asked and self._open:
                self._look_for(address)

    def _close(self) -> None:
        for address in list(self._asked):
            self._settled(address)
        self._probes.clear()
        self._open = False

    def _note(self, address: str, sight: Carrier | None, dead: tuple[Device, ...]) -> None:
        last = self._last.get(address)
        if last is not None and last.bridge and last != sight and last.device not in dead:
            self._homes.setdefault(address, last)
        if sight is not None and sight.device is not None:
            self._last[address] = sight
            if sight == self._homes.get(address):
                del self._homes[address]

    def _missed(self, address: str) -> bool:
        sight = self._sight(address)
        away = address in self._homes or (sight is not None and sight.device is None)
        return away and address in self._claimed

    def _settled(self, address: str) -> None:
        if (timer := self._asked.pop(address, None)) is not None:
            timer.cancel()

    def _look_for(self, address: str, pause: float = ASK_AGAIN[0]) -> None:
        """Make the kernel learn where the address is, again and again until it knows."""
        if not self._missed(address):
            self._settled(address)
            return
        self._send(address)
        home = self._homes.get(address)
        if home is not None:
            self._send(address, home.link)
        self._asked[address] = asyncio.get_running_loop().call_later(
            (pause if home is None else CALL_HOME) * (0.75 + 0.5 * random.random()),  # noqa: S311  spreads load
            self._look_for,
            address,
            min(2 * pause, ASK_AGAIN[1]),
        )

    def _send(self, address: str, port: int = 0) -> None:
        """A datagram to the address; through a bridge's port if one is given.

        The kernel then asks for it behind that port alone, whatever it believes of it on the bridge. The answer arrives
        on the bridge and corrects what is believed there. Of IPv6 it will not have this, for want of a route.
        """
        version = 6 if ":" in address else 4
        if (probe := self._probes.get(version)) is None or (port and version == 6):  # noqa: PLR2004  IP's
            return
        through = [(socket.IPPROTO_IP, IP_PKTINFO, _PACKET_INFO.pack(port, 0, 0))] if port else []
        try:
            probe.sendmsg([b""], through, 0, (address, DISCARD))
        except OSError as error:
            log.debug("looking for an address failed", address=address, error=str(error))

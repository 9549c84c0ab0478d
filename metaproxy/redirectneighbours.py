"""Makes the kernel ask anew who has an IPv6 address on a bridge, for a while after somebody else has spoken for it.

Knows: how the kernel is heard and told of neighbours.
Must not know: which of them are in doubt, and why; who is right.

It is here and not with the witness because it takes CAP_NET_ADMIN. It decides nothing: an entry that is taken away is
made again by whoever answers next, and every pod on the bridge is asked.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

import structlog

from metaproxy import netlink
from metaproxy.neighbours import Doubts, Place

log = structlog.get_logger()

EVERY = 1.0
"""Seconds between two questions: who was robbed of an address waits so long at most once the thief is silent."""

DATAGRAMS = 256
"""Datagrams that are read in one turn: whoever makes the kernel tell of more keeps nothing else from being done."""

_GROUP = 1 << 2


class Asking:
    """See the module. Nothing in it waits: the loop calls it when the kernel has spoken, and every second."""

    def __init__(self, told: socket.socket) -> None:
        self._told = told
        self._doubts = Doubts()
        self._missed = True
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Hear, and ask every second from now on."""
        asyncio.get_running_loop().add_reader(self._told, self._heard)
        self._tick()

    def end(self) -> None:
        """Do no more."""
        asyncio.get_running_loop().remove_reader(self._told)
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(EVERY, self._tick)
        if self._missed:
            # Without knowing who had an address nobody can tell that it has changed.
            self._missed = False
            self._tell(netlink.neighbour_request())
        for link, address in filter(_on_bridge, self._doubts.places(loop.time())):
            self._tell(netlink.forget(link, address))

    def _tell(self, request: bytes) -> None:
        # Whether it came true is heard as every other change is; what is full or gone now is tried in the next second.
        with contextlib.suppress(OSError):
            self._told.send(request)

    def _heard(self) -> None:
        now = asyncio.get_running_loop().time()
        for _ in range(DATAGRAMS):
            try:
                data = self._told.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                self._missed = True
                return
            for _, _, message in netlink.messages(data):
                if isinstance(message, netlink.Neighbour):
                    self._doubts.told(message, now)


def _on_bridge(place: Place) -> bool:
    """Whether the device is a bridge: on every other link who speaks for an address is who is plugged in there."""
    try:
        return os.path.isdir(f"/sys/class/net/{socket.if_indextoname(place[0])}/bridge")  # noqa: PTH112  no object for it
    except OSError:
        return False


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """While this lasts, IPv6 neighbours on bridges that change are asked for anew."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as told:
        try:
            told.bind((0, _GROUP))
        except OSError as error:
            log.warning("the kernel does not tell of neighbours: none is asked for anew", error=str(error))
            yield
            return
        one = Asking(told)
        one.begin()
        try:
            yield
        finally:
            one.end()

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

from metaproxy import netlink, sockets
from metaproxy.loglimit import LogLimit
from metaproxy.neighbours import Doubts
from metaproxy.netlinksieve import sieve
from metaproxy.netlinkwire import sealed
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

EVERY = 1.0
"""Seconds between two questions: who was robbed of an address waits so long at most once the thief is silent."""

DATAGRAMS = 256
"""Datagrams that are read in one turn: whoever makes the kernel tell of more keeps nothing else from being done."""

_GROUP = 1 << 2


class Asking:
    """See the module. Nothing in it waits: the loop calls it when the kernel has spoken, and every second.

    `_missed`: not everything was heard, so that the list of all has to be asked for. `_list` is the number of the last
    such request: what the kernel says to other requests, as that an entry has gone already, does not matter.
    """

    def __init__(self, told: socket.socket, metrics: Metrics) -> None:
        self._told = told
        self._metrics = metrics
        self._doubts = Doubts()
        self._limit = LogLimit()
        self._missed = True
        self._list = 0
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
            self._list += 1
            self._missed = not self._tell(sealed(netlink.neighbour_request(), self._list))
        for link, address in self._doubts.places(loop.time()):
            if (bridge := _bridge(link)) and self._tell(netlink.forget(link, address)):
                self._metrics.counter("redirect_neighbours_asked_total").inc()
                if (left_out := self._limit.left_out(link, loop.time())) is not None:
                    log.info(
                        "a neighbour's hardware address has changed: asking anew whose the address is",
                        address=address,
                        bridge=bridge,
                        left_out=left_out,
                    )

    def _tell(self, request: bytes) -> bool:
        # Whether it came true is heard as every other change is; what is full or gone now is tried in the next second.
        try:
            self._told.send(request)
        except OSError:
            return False
        return True

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
            for _, number, message in netlink.messages(data):
                match message:
                    case netlink.Neighbour():
                        self._doubts.told(message, now)
                    case netlink.Overrun():
                        self._missed = True
                    case netlink.End(broken=True) if number == self._list:
                        self._missed = True


def _bridge(link: int) -> str:
    """The device's name if it is a bridge: on every other link who speaks for an address is who is plugged in there."""
    try:
        name = socket.if_indextoname(link)
    except OSError:
        return ""
    return name if os.path.isdir(f"/sys/class/net/{name}/bridge") else ""  # noqa: PTH112  no object for it


def hearing() -> socket.socket:
    """A socket on which the kernel tells of neighbours; raises OSError when there is none to be had."""
    told = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        # What bridges say of hardware addresses comes in the same group: any pod can make them say it without end.
        with contextlib.suppress(OSError):
            sockets.sift(told, sieve(()))
        told.bind((0, _GROUP))
    except OSError:
        told.close()
        raise
    return told


@contextlib.contextmanager
def asking(metrics: Metrics) -> Iterator[None]:
    """While this lasts, IPv6 neighbours on bridges that change are asked for anew."""
    try:
        told = hearing()
    except OSError as error:
        log.warning("the kernel does not tell of neighbours: none is asked for anew", error=str(error))
        yield
        return
    with told:
        one = Asking(told, metrics)
        one.begin()
        try:
            yield
        finally:
            one.end()

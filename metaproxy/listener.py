"""Listening sockets and all that is connected to them: who may connect, who gives way, how all of it ends.

Knows: sockets and the event loop, the node's redirect, caps.
Must not know: what a connection does, how HTTP is written, what is asked or answered.
"""

import asyncio
import contextlib
import errno
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

import structlog

from metaproxy import descriptors, sockets
from metaproxy.acceptor import Acceptor
from metaproxy.addresses import METADATA, OWN, OWN_IPV6
from metaproxy.connection import LINGER, TURN, Connection, Walk
from metaproxy.crowd import Crowd, Turns
from metaproxy.errors import Reason
from metaproxy.loglimit import LogLimit
from metaproxy.objects import canonical_address
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

FIRST_REQUEST = 10.0
"""Seconds that a new connection has for its first complete request head: slow senders hold nothing."""

KEEP_ALIVE = 75.0
"""Seconds that an idle connection is kept: as long as EC2's clients reuse one."""

DRAIN = 5.0
"""Seconds for requests that are held to end when the listener closes; more than any may be held."""

BACKLOG = 4096
"""Connections that the kernel keeps for us while the loop is busy."""

UNIX = "unix"
"""The peer at a unix socket: no address, and no spelling of one."""

REFUSALS = 1024
"""Addresses whose refused connections are remembered, for explanations."""

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_peer_address = lru_cache(maxsize=4096)(canonical_address)


class Listener:
    """Listens on several addresses and leads each request through `walk`; times are in seconds.

    `walk` awaits `eager.in_task` before it waits for anything. At most `connections` are held, and of one address
    `connections_per_address`; when all places are taken, the address that has most gives one up for others. Unless
    `accept_direct`, only connections are taken that the node's redirect has led here: whoever reaches the agent in
    another way may be anybody. `name` begins the names of the metrics.
    """

    def __init__(
        self,
        walk: Walk,
        metrics: Metrics,
        *,
        connections: int,
        connections_per_address: int,
        accept_direct: bool = True,
        first_request: float = FIRST_REQUEST,
        keep_alive: float = KEEP_ALIVE,
        drain: float = DRAIN,
        farewell: float = DRAIN,
        name: Literal["http", "admin"] = "http",
    ) -> None:
        self.walk = walk
        self.first_request = first_request
        self.keep_alive = keep_alive
        self._sweep_every = min(first_request, keep_alive, LINGER) / 4
        self._drain = drain
        self._farewell = farewell
        self.retired = False
        self._each = connections_per_address
        self._accept_direct = accept_direct
        self._refusals: OrderedDict[str, tuple[Reason, int]] = OrderedDict()
        self._crowd: Crowd[Connection] = Crowd(total=connections, each=connections_per_address, rank=Connection.rank)
        self._turns: Turns[Connection] = Turns(TURN)
        self._nobody = asyncio.Event()
        self._limit = LogLimit()
        metrics.gauge(f"{name}_connections").set_function(lambda: self.size)
        self._refused = {
            reason: metrics.counter(f"{name}_connections_refused_total", reason=reason.value)
            for reason in (Reason.TOO_MANY_CONNECTIONS, Reason.CROWDED_OUT, Reason.NOT_REDIRECTED)
        }
        self._failures = {
            error: metrics.counter(f"{name}_accept_failures_total", reason=error)
            for error in (*descriptors.SCARCE.values(), "other")
        }
        self._acceptors: list[Acceptor] = []
        self._sweeping = False
        self.sockets: dict[tuple[str, int], socket.socket] = {}
        self.loop: asyncio.AbstractEventLoop
        self.addresses: list[tuple[str, int]] = []

    async def open(self, addresses: list[tuple[str, int]]) -> None:
        """Listen; OSError when an address cannot be had."""
        await self.accept(bound(addresses))

    async def accept(self, listening: Mapping[Any, socket.socket], *, quiet: float | None = None) -> None:
        """Accept connections on these sockets, which are the listener's from now on, by the addresses asked for.

        `quiet`: seconds after which a socket to which nobody has come is given up; never, unless that is said.
        """
        self.loop = asyncio.get_running_loop()
        self.sockets.update(listening)
        for key, each in listening.items():
            acceptor = Acceptor(each, self._admit, self._failed)
            self._acceptors.append(acceptor)
            if quiet is not None:
                self.loop.call_later(quiet, self._give_up, key, acceptor, quiet)
            if each.family != socket.AF_UNIX:
                self.addresses.append(each.getsockname()[:2])

    def _give_up(self, key: Any, acceptor: Acceptor, quiet: float) -> None:
        if acceptor.closed:
            return
        if (left := acceptor.latest + quiet - self.loop.time()) > 0:
            self.loop.call_later(left, self._give_up, key, acceptor, quiet)
            return
        address = self.sockets.pop(key).getsockname()[:2]
        acceptor.close()
        self.addresses.remove(address)
        log.info("nobody comes to a former address any more: given up", address=address)

    def retire(self) -> None:
        """Stop accepting: another process does. What is connected is served on, up to its next answer or its time-out.

        An idle connection is not closed here: a request may be on its way, and its client would see that fail.
        """
        self.retired = True
        for acceptor in self._acceptors:
            acceptor.close()

    async def close(self) -> None:
        """Stop accepting, let held requests end, close; who has retired gives idle connections time for a request."""
        for acceptor in self._acceptors:
            acceptor.close()
        if self.retired:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._farewell):
                    await self._gone()
            for connection in self._crowd.everybody():
                connection.part()
        else:
            for connection in self._crowd.everybody():
                connection.drain()
        try:
            async with asyncio.timeout(LINGER if self.retired else self._drain):
                await self._gone()
        except TimeoutError:
            for connection in self._crowd.everybody():
                connection.abort()
            await self._gone()

    async def _gone(self) -> None:
        while self._crowd.size:
            self._nobody.clear()
            await self._nobody.wait()

    def _admit(self, end: socket.socket, name: Any) -> Connection | None:
        """What speaks on a connection; None when it may not be: its address, or nobody, has a place left for it."""
        peer = peer_of(name)
        place = self._crowd.place(peer)
        if not place.free:
            self._refuse(peer)
            return None
        if not self._accept_direct and sockets.original_destination(end, ipv6=":" in peer) not in METADATA:
            self._refuse(peer, Reason.NOT_REDIRECTED)
            return None
        if place.instead_of is not None:
            self._crowd_out(place.instead_of)
        connection = Connection(self, peer)
        connection.party = self._crowd.add(peer, connection)
        if not self._sweeping:
            self._sweeping = True
            self.loop.call_later(self._sweep_every, self._sweep)
        return connection

    def _sweep(self) -> None:
        """Cut what was silent for too long: one timer for all, so that neither connections nor requests arm any."""
        now = self.loop.time()
        for connection in self._crowd.everybody():
            connection.look(now)
        self._sweeping = bool(self._crowd.size)
        if self._sweeping:
            self.loop.call_later(self._sweep_every, self._sweep)

    def _failed(self, error: OSError) -> bool:
        """No connection could be taken: who has most gives one up, if that helps; whether it did."""
        name = descriptors.SCARCE.get(error.errno or 0, "other")
        self._failures[name].inc()
        if (left_out := self._limit.left_out(name, self.loop.time())) is not None:
            log.error(
                "connections cannot be accepted",
                error=error.strerror,
                open=self._crowd.size,
                limit=descriptors.limit(),
                remedy=descriptors.REMEDY,
                left_out=left_out or None,
            )
        if name != "EMFILE" or (first := self._crowd.first()) is None:
            return False
        self._crowd_out(first)
        return True

    def _crowd_out(self, connection: Connection) -> None:
        self._refuse(connection.peer)
        connection.abort()
        self.closed(connection)

    def turn(self, connection: Connection) -> bool:
        """Whether a connection may answer in this turn of the loop; else it is called in one that follows."""
        if self._turns.over():
            self.loop.call_soon(self._next_turn)
        return self._turns.take(connection.peer, connection)

    def _next_turn(self) -> None:
        for connection in self._turns.following():
            connection.go_on()
        if not self._turns.over():
            self.loop.call_soon(self._next_turn)

    @property
    def size(self) -> int:
        """How many connections are open."""
        return self._crowd.size

    def refusal(self, peer: str) -> tuple[Reason, int] | None:
        """Why a connection of the address was last refused, and how many were; None if none was."""
        return self._refusals.get(peer)

    def _refuse(self, peer: str, reason: Reason | None = None) -> None:
        if reason is None:
            many = self._crowd.count(peer) >= self._each
            reason = Reason.TOO_MANY_CONNECTIONS if many else Reason.CROWDED_OUT
        self._refused[reason].inc()
        _, number = self._refusals.pop(peer, (reason, 0))
        self._refusals[peer] = (reason, number + 1)
        if len(self._refusals) > REFUSALS:
            self._refusals.popitem(last=False)
        if (left_out := self._limit.left_out((peer, reason), self.loop.time())) is not None:
            log.warning("connection refused", peer=peer, reason=reason, left_out=left_out or None)

    def closed(self, connection: Connection) -> None:
        """A connection ended, or counts no more."""
        if self._crowd.remove(connection.peer, connection) and not self._crowd.size:
            self._nobody.set()

    def reset(self, address: str) -> None:
        """Whoever has the address now did not open its connections: cut them, and send nothing again on them."""
        for connection in self._crowd.of(address):
            connection.reset()


def bound(
    addresses: Iterable[tuple[str, int]], bind: Callable[..., socket.socket] | None = None
) -> dict[tuple[str, int], socket.socket]:
    """Listening sockets by these addresses, each made by `bind` or alone; OSError when one cannot be had.

    The agent's own addresses may not be there yet: the redirect brings them, in whatever order both are started.
    """
    made: dict[tuple[str, int], socket.socket] = {}
    bind = bind or sockets.listening
    try:
        for host, port in dict.fromkeys(addresses):
            try:
                made[host, port] = bind(host, port, backlog=BACKLOG, free=host in OWN)
            except OSError as error:
                if host != OWN_IPV6 or error.errno not in _NO_IPV6:
                    raise OSError(error.errno, f"{error.strerror}: {host} port {port}") from error
                log.info("this kernel has no IPv6: not listening there", host=host, error=error.strerror)
    except BaseException:
        for each in made.values():
            each.close()
        raise
    return made


def peer_of(name: Any) -> str:
    """The socket's peer, as accept(2) names it, and nothing else: no header says who is calling."""
    return (_peer_address(name[0]) or "unknown") if isinstance(name, tuple) else UNIX

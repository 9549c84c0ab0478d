"""The sockets that pods reach: connections, their time-outs and caps, and the walk that each request is led through.

Knows: sockets and the event loop.
Must not know: how HTTP is written, what is asked or answered.

There is no router and no framework: no second reader of paths that could disagree with ours, and a request that finds
its credentials ready costs no task.
"""

import asyncio
import contextlib
import errno
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any, cast

import structlog

from metaproxy import eager, httpwire, imds, sockets
from metaproxy.addresses import METADATA, OWN, OWN_IPV6
from metaproxy.errors import Reason
from metaproxy.httpwire import Asked, Reader, UnreadableError
from metaproxy.imds import Answer, Request
from metaproxy.loglimit import LogLimit
from metaproxy.objects import canonical_address
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

FIRST_REQUEST = 10.0
"""Seconds that a new connection has for its first complete request head: slow senders hold nothing."""

KEEP_ALIVE = 75.0
"""Seconds that an idle connection is kept: as long as EC2's clients reuse one."""

LINGER = 1.0
"""Seconds for the other side to end what it is sending: closing before would reset the answer away."""

DRAIN = 5.0
"""Seconds for requests that are held to end when the listener closes; more than any may be held."""

BACKLOG = 4096
"""Connections that the kernel keeps for us while the loop is busy."""

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets, and what was written but not acknowledged is never sent again."""

_peer_address = lru_cache(maxsize=4096)(canonical_address)

REFUSALS = 1024
"""Addresses whose refused connections are remembered, for explanations."""

Walk = Callable[[Request], Coroutine[Any, Any, Answer]]


class _Connection(asyncio.Protocol):
    """One connection: answers what it is asked, in order; ended when it is silent, slow, or cannot be understood.

    `_since` is when it was made or last answered, on the loop's clock. `_deaf`: nothing more is read from it, what was
    asked is answered yet; `_mumbled`: and then it is told that the rest could not be read. `_closing`: all was said.
    """

    __slots__ = (
        "_closing",
        "_deaf",
        "_listener",
        "_mumbled",
        "_paused",
        "_peer",
        "_reader",
        "_since",
        "_spoke",
        "_task",
        "_timer",
        "_transport",
    )

    _reader: Reader
    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._peer: str | None = None
        self._task: asyncio.Task[Answer] | None = None
        self._since = listener.loop.time()
        self._spoke = self._paused = self._deaf = self._mumbled = self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A TCP connection; uvloop's are no subclass, so the type can only be told.
        self._transport = cast(asyncio.Transport, transport)
        listener, peer = self._listener, peer_of(transport)
        if not listener.opened(self, peer, transport.get_extra_info("socket")):
            self._closing = True
            self._transport.abort()
            return
        self._peer = peer
        self._reader = Reader(peer)
        self._timer = listener.loop.call_later(min(listener.first_request, listener.keep_alive), self._look)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self._closing = True
        if self._peer is None:
            return
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._listener.closed(self, self._peer)

    def data_received(self, data: bytes) -> None:
        if self._deaf or self._closing:
            # What was under way is let go by; more stays with the kernel, so that a flood costs the loop nothing.
            self._transport.pause_reading()
            return
        reader = self._reader
        in_body = not reader.whole
        try:
            reader.feed(data)
        except UnreadableError as error:
            # Strange bytes from a pod are nothing to alarm the operator with.
            log.debug("unreadable request", error=str(error))
            self._deaf = True
            if self._task is not None:
                reader.asked.clear()  # the end follows the answer that is held
            else:
                # A body that breaks belongs to a request that has its answer, so there is nothing more to say.
                self._mumbled = not in_body and (reader.whole or not reader.asked)
            reader.whole = False
        self._go_on()

    def pause_writing(self) -> None:
        # Who does not read is not read from either, so that nothing piles up here.
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._go_on()

    def drain(self) -> None:
        """Take no more; a request that is held is answered first."""
        self._deaf = True
        if self._task is None:
            self._closing = True
            self._transport.close()
        else:
            self._reader.asked.clear()

    def part(self) -> None:
        """Say that nothing more will be said, but let a request that is on its way arrive: no reset answers it."""
        if self._task is not None or self._closing:
            self.drain()
        else:
            self._deaf = self._closing = True
            self._transport.write_eof()

    def abort(self) -> None:
        """Cut it."""
        self._transport.abort()

    def reset(self) -> None:
        """Cut it so that nothing of what was written is sent again."""
        self._closing = True
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def _go_on(self) -> None:
        """Answer the next request, as far as that can be done now: one a turn, because others wait for theirs."""
        listener, asked = self._listener, self._reader.asked
        if self._task is not None or self._paused or self._closing:
            return
        if not asked:
            if self._deaf:
                if self._mumbled:
                    self._transport.write(httpwire.unreadable(_now()))
                self._end()
            return
        self._spoke = True
        one = asked.pop(0)
        try:
            outcome = eager.start(listener.walk(one.request), listener.loop)
        except Exception as error:  # noqa: BLE001  the walk answers whatever happens: this is for what it cannot see
            self._broke(one, error)
            return
        if isinstance(outcome, asyncio.Task):
            self._task = outcome
            outcome.add_done_callback(partial(self._waited, one))
            return
        self._say(one, outcome)
        if asked or self._deaf:
            listener.loop.call_soon(self._go_on)

    def _waited(self, one: Asked, task: "asyncio.Task[Answer]") -> None:
        self._task = None
        if task.cancelled() or self._transport.is_closing():
            return
        try:
            answer = task.result()
        except Exception as error:  # noqa: BLE001  as above
            self._broke(one, error)
            return
        last = self._deaf and not self._reader.asked
        self._say(one._replace(keep=False) if last else one, answer)
        self._go_on()

    def _say(self, one: Asked, answer: Answer) -> None:
        listener = self._listener
        if listener.retired and not self._reader.asked:
            one = one._replace(keep=False)
        self._transport.write(httpwire.rendered(answer, one, _now()))
        self._since = listener.loop.time()
        if not one.keep:
            self._end()
        elif not self._reader.whole:
            self._timer.cancel()
            self._timer = listener.loop.call_later(LINGER, self._look)

    def _broke(self, one: Asked, error: Exception) -> None:
        log.error("answering broke", peer=self._peer, exc_info=error)
        body = imds.error_document(Reason.INTERNAL.value, ["the agent made a mistake", "tell the operator"])
        self._say(one._replace(keep=False), Answer(status=500, body=body, content_type=imds.JSON))

    def _end(self) -> None:
        """Close, but not so that what was said is lost: a reset, because something is unread, would take it back."""
        self._closing = True
        if self._reader.whole and not self._reader.asked:
            self._transport.close()
            return
        self._transport.write_eof()
        self._timer.cancel()
        self._timer = self._listener.loop.call_later(LINGER, self._transport.abort)

    def _look(self) -> None:
        """Cut the connection when it was silent too long; one timer for its life, so that requests arm none."""
        listener = self._listener
        now = listener.loop.time()
        if not self._spoke:
            due = self._since + listener.first_request
        elif self._task is not None:
            due = now + listener.keep_alive
        else:
            due = self._since + (listener.keep_alive if self._reader.whole else LINGER)
        if due <= now:
            self._transport.abort()
        else:
            self._timer = listener.loop.call_at(due, self._look)


class Listener:
    """Listens on several addresses and leads each request through `walk`; times are in seconds.

    `walk` awaits `eager.in_task` before it waits for anything. Unless `accept_direct`, only connections are taken that
    the node's redirect has led here: whoever reaches the agent in another way may be anybody.
    """

    def __init__(
        self,
        walk: Walk,
        metrics: Metrics,
        *,
        connections_per_address: int,
        accept_direct: bool = True,
        first_request: float = FIRST_REQUEST,
        keep_alive: float = KEEP_ALIVE,
        drain: float = DRAIN,
        farewell: float = DRAIN,
    ) -> None:
        self.walk = walk
        self.first_request = first_request
        self.keep_alive = keep_alive
        self._drain = drain
        self._farewell = farewell
        self.retired = False
        self._cap = connections_per_address
        self._accept_direct = accept_direct
        self._refusals: OrderedDict[str, tuple[Reason, int]] = OrderedDict()
        self._by_address: dict[str, set[_Connection]] = {}
        self._connections: set[_Connection] = set()
        self._nobody = asyncio.Event()
        self._limit = LogLimit()
        self._open = metrics.gauge("http_connections")
        self._refused = {
            reason: metrics.counter("http_connections_refused_total", reason=reason.value)
            for reason in (Reason.TOO_MANY_CONNECTIONS, Reason.NOT_REDIRECTED)
        }
        self._servers: list[asyncio.Server] = []
        self.sockets: dict[tuple[str, int], socket.socket] = {}
        self.loop: asyncio.AbstractEventLoop
        self.addresses: list[tuple[str, int]] = []

    async def open(self, addresses: list[tuple[str, int]]) -> None:
        """Listen; OSError when an address cannot be had."""
        await self.accept(bound(addresses))

    async def accept(self, listening: Mapping[tuple[str, int], socket.socket]) -> None:
        """Accept connections on these sockets, which are the listener's from now on, by the addresses asked for."""
        self.loop = asyncio.get_running_loop()
        self.sockets.update(listening)
        for each in listening.values():
            self._servers.append(await self.loop.create_server(self._connect, sock=each, backlog=BACKLOG))
            self.addresses.append(each.getsockname()[:2])

    def retire(self) -> None:
        """Stop accepting: another process does. What is connected is served on, up to its next answer or its time-out.

        An idle connection is not closed here: a request may be on its way, and its client would see that fail.
        """
        self.retired = True
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """Stop accepting, let held requests end, close; who has retired gives idle connections time for a request."""
        for server in self._servers:
            server.close()
        if self.retired:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._farewell):
                    await self._gone()
            for connection in list(self._connections):
                connection.part()
        else:
            for connection in list(self._connections):
                connection.drain()
        try:
            async with asyncio.timeout(LINGER if self.retired else self._drain):
                await self._gone()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._gone()

    async def _gone(self) -> None:
        while self._connections:
            self._nobody.clear()
            await self._nobody.wait()

    def opened(self, connection: _Connection, peer: str, end: sockets.Options) -> bool:
        """A connection was made; False when its address has too many, or it was not led here by the redirect."""
        if len(self._by_address.get(peer, ())) >= self._cap:
            self._refuse(peer, Reason.TOO_MANY_CONNECTIONS)
            return False
        if not self._accept_direct and sockets.original_destination(end, ipv6=":" in peer) not in METADATA:
            self._refuse(peer, Reason.NOT_REDIRECTED)
            return False
        self._by_address.setdefault(peer, set()).add(connection)
        self._connections.add(connection)
        self._open.inc()
        return True

    def refusal(self, peer: str) -> tuple[Reason, int] | None:
        """Why a connection of the address was last refused, and how many were; None if none was."""
        return self._refusals.get(peer)

    def _refuse(self, peer: str, reason: Reason) -> None:
        self._refused[reason].inc()
        _, number = self._refusals.pop(peer, (reason, 0))
        self._refusals[peer] = (reason, number + 1)
        if len(self._refusals) > REFUSALS:
            self._refusals.popitem(last=False)
        if (left_out := self._limit.left_out((peer, reason), self.loop.time())) is not None:
            log.warning("connection refused", peer=peer, reason=reason, left_out=left_out or None)

    def closed(self, connection: _Connection, peer: str) -> None:
        """A counted connection ended."""
        self._open.dec()
        self._connections.discard(connection)
        self._by_address[peer].discard(connection)
        if not self._by_address[peer]:
            del self._by_address[peer]
        if not self._connections:
            self._nobody.set()

    def reset(self, address: str) -> None:
        """Whoever has the address now did not open its connections: cut them, and send nothing again on them."""
        for connection in self._by_address.get(address, ()):
            connection.reset()

    def _connect(self) -> _Connection:
        return _Connection(self)


def bound(addresses: Iterable[tuple[str, int]]) -> dict[tuple[str, int], socket.socket]:
    """Listening sockets by these addresses; OSError when one cannot be had.

    The agent's own addresses may not be there yet: the redirect brings them, in whatever order both are started.
    """
    made: dict[tuple[str, int], socket.socket] = {}
    try:
        for host, port in dict.fromkeys(addresses):
            try:
                made[host, port] = sockets.listening(host, port, backlog=BACKLOG, free=host in OWN)
            except OSError as error:
                if host != OWN_IPV6 or error.errno not in _NO_IPV6:
                    raise OSError(error.errno, f"{error.strerror}: {host} port {port}") from error
                log.info("this kernel has no IPv6: not listening there", host=host, error=error.strerror)
    except BaseException:
        for each in made.values():
            each.close()
        raise
    return made


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The socket's peer and nothing else: no header says who is calling."""
    name = transport.get_extra_info("peername")
    return (_peer_address(name[0]) if name else None) or "unknown"


@lru_cache(maxsize=4)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _now() -> str:
    return _http_date(int(time.time()))

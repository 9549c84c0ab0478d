"""One connection of a listener: answers what it is asked, in order, and ends when it is silent or slow.

Knows: an asyncio transport, time-outs, when a request is answered and when it waits.
Must not know: who may connect, how HTTP is written, what is asked or answered.

There is no router and no framework: no second reader of paths that could disagree with ours, and a request that finds
its credentials ready costs no task.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any, Protocol, cast

import structlog

from metaproxy import eager, httpwire, imds
from metaproxy.crowd import Party
from metaproxy.errors import Reason
from metaproxy.httpwire import Asked, Reader, UnreadableError
from metaproxy.imds import Answer, Request

log = structlog.get_logger()

LINGER = 1.0
"""Seconds for the other side to end what it is sending: closing before would reset the answer away."""

TURN = 32
"""Answers that one address has in a turn of the loop: about a millisecond, however many connections it has."""

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets, and what was written but not acknowledged is never sent again."""

Walk = Callable[[Request], Coroutine[Any, Any, Answer]]


class Owner(Protocol):
    """Where connections live: what they are led through, their time-outs in seconds, and who is told of them."""

    loop: asyncio.AbstractEventLoop
    walk: Walk
    first_request: float
    keep_alive: float
    retired: bool

    def turn(self, connection: "Connection") -> bool:
        """Whether it may answer now; if not, its `go_on` is called in a later turn of the loop."""
        ...

    def closed(self, connection: "Connection") -> None:
        """It has ended."""
        ...


class Connection(asyncio.Protocol):
    """One connection: answers what it is asked, in order; ended when it is silent, slow, or cannot be understood.

    `_since` is when it was made or last answered, on the loop's clock; `party` what its address has. `_deaf`: nothing
    more is read from it, what was asked is answered yet; `_mumbled`: and then it is told that the rest could not be
    read. `_closing`: all was said;
    `_parting`: the other side is given time to end, too.
    """

    __slots__ = (
        "_closing",
        "_deaf",
        "_made",
        "_mumbled",
        "_owner",
        "_parting",
        "_paused",
        "_reader",
        "_since",
        "_spoke",
        "_task",
        "_transport",
        "party",
        "peer",
    )

    _transport: asyncio.Transport
    party: "Party[Connection]"

    def __init__(self, owner: Owner, peer: str) -> None:
        self._owner = owner
        self.peer = peer
        self._reader = Reader(peer)
        self._task: asyncio.Task[Answer] | None = None
        self._since = owner.loop.time()
        self._made = self._spoke = self._paused = self._parting = self._deaf = self._mumbled = self._closing = False

    def rank(self) -> tuple[bool, float]:
        """Its place among those that may be closed for others: who is being answered last, else the longest idle."""
        return self._task is not None, self._since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop's word: here is what to speak on."""
        # A TCP or unix connection; uvloop's are no subclass, so the type can only be told.
        self._transport = cast(asyncio.Transport, transport)
        self._made = True
        if self._closing:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """The loop's word: it has ended."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
        self._owner.closed(self)

    def data_received(self, data: bytes) -> None:
        """The loop's word: bytes."""
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
        """The loop's word: the other side does not read."""
        # Who does not read is not read from either, so that nothing piles up here.
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The loop's word: it reads again."""
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._go_on()

    def drain(self) -> None:
        """Take no more; a request that is held, or waits for its turn, is answered first."""
        self._deaf = True
        waiting = self._task is None and bool(self._reader.asked)
        del self._reader.asked[waiting:]
        if waiting or self._task is not None:
            return
        self._closing = True
        if self._made:
            self._transport.close()

    def part(self) -> None:
        """Say that nothing more will be said, but let a request that is on its way arrive: no reset answers it."""
        if self._task is not None or self._reader.asked or self._closing or not self._made:
            self.drain()
        else:
            self._deaf = self._closing = True
            self._transport.write_eof()

    def look(self, now: float) -> None:
        """Cut it when it was silent for too long; `now` on the loop's clock."""
        owner = self._owner
        if self._parting:
            patience = LINGER
        elif not self._spoke:
            patience = owner.first_request
        elif self._task is not None:
            return
        else:
            patience = owner.keep_alive if self._reader.whole else LINGER
        if now >= self._since + patience:
            self.abort()

    def abort(self) -> None:
        """Cut it."""
        self._closing = True
        if self._made:
            self._transport.abort()

    def reset(self) -> None:
        """Cut it so that nothing of what was written is sent again."""
        if self._made:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.abort()

    def go_on(self) -> None:
        """Answer the next request: its turn has come."""
        if self._reader.asked and not (self._task is not None or self._paused or self._closing):
            self._answer()

    def _go_on(self) -> None:
        """Answer the next request, as far as that can be done now: one a turn, because others wait for theirs."""
        if self._task is not None or self._paused or self._closing:
            return
        if not self._reader.asked:
            if self._deaf:
                if self._mumbled:
                    self._transport.write(httpwire.unreadable(_now()))
                self._end()
        # Fewer connections than that cannot have more answers in a turn, so that the many who have one count nothing.
        elif len(self.party.members) <= TURN or self._owner.turn(self):
            self._answer()

    def _answer(self) -> None:
        owner, asked = self._owner, self._reader.asked
        if not self._spoke:
            self._spoke = True
            self.party.silent.pop(self, None)
        one = asked.pop(0)
        try:
            outcome = eager.start(owner.walk(one.request), owner.loop)
        except Exception as error:  # noqa: BLE001  the walk answers whatever happens: this is for what it cannot see
            self._broke(one, error)
            return
        if isinstance(outcome, asyncio.Task):
            self._task = outcome
            outcome.add_done_callback(partial(self._waited, one))
            return
        self._say(one, outcome)
        if asked or self._deaf:
            owner.loop.call_soon(self._go_on)

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
        owner = self._owner
        if owner.retired and not self._reader.asked:
            one = one._replace(keep=False)
        self._transport.write(httpwire.rendered(answer, one, _now()))
        self._since = owner.loop.time()
        if not one.keep:
            self._end()

    def _broke(self, one: Asked, error: Exception) -> None:
        log.error("answering broke", peer=self.peer, exc_info=error)
        body = imds.error_document(Reason.INTERNAL.value, ["the agent made a mistake", "tell the operator"])
        self._say(one._replace(keep=False), Answer(status=500, body=body, content_type=imds.JSON))

    def _end(self) -> None:
        """Close, but not so that what was said is lost: a reset, because something is unread, would take it back."""
        self._closing = True
        if self._reader.whole and not self._reader.asked:
            self._transport.close()
            return
        self._transport.write_eof()
        self._parting = True
        self._since = self._owner.loop.time()


@lru_cache(maxsize=4)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _now() -> str:
    return _http_date(int(time.time()))

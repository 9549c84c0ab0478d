"""Whose turn it is to change the node's redirect: one process's at a time, for two plans would undo each other.

Knows: a name that only one process of a network namespace can have, and how its end is heard of.
Must not know: what is done in turn.

A name and no file: it needs no folder that all share, goes with its process however that ends, and the kernel tells
whoever waits by breaking the connection to it. Nobody is ever spoken to.

Any process of the node's network can have the name first. Whoever shows that it is no watch is gone on beside: it is of
another user, or it does not listen, as a watch does from its first moment.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

import structlog

from metaproxy import unixsocket

log = structlog.get_logger()

NAME = "\0metaproxy-redirect"
"""In the abstract namespace (unix(7)), which is the network namespace's: one for each node."""

AGAIN = 0.5
"""Seconds until who has the name and cannot be asked is asked again."""

ASKED = 10
"""Questions in a row, so five seconds, until who cannot be asked counts as nobody: a watch listens at once,
and accepts."""

WAITING = 64
"""Processes that wait and are kept. One more is hung up on and comes again: whoever takes all places does not use up
what a watch works with."""


class Turn:
    """A process's turn, once `take` or `wait` have given it, until it is closed.

    `beside` says who has the name all the same and is no watch; empty when that is nobody.
    """

    def __init__(self) -> None:
        self._name: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[socket.socket] = set()
        self.beside = ""

    async def take(self) -> bool:
        """Whether it is this process's turn now: no watch has it. At once, unless who has it cannot be asked."""
        for _ in range(ASKED):
            if self._bound():
                return True
            with _holder() as (_, user):
                if user == os.geteuid():
                    return False
                if user is not None:
                    self.beside = f"a process of user {user}"
                    return True
            await asyncio.sleep(AGAIN)
        self.beside = "a process that answers nobody"
        return True

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait for it, for as long as another watch lives, or until `stop`; then let others wait for this one."""
        both = asyncio.ensure_future(self._awaited()), asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    def close(self) -> None:
        """Let the next one have it."""
        for waiting in [*self._waiting]:
            self._drop(waiting)
        if self._name is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._name)
            self._name.close()
            self._name = None

    async def _awaited(self) -> None:
        said = False
        while not await self.take():
            if not said:
                log.info("another watch is at work: waiting for it to end")
                said = True
            else:
                await asyncio.sleep(AGAIN)  # it ended and another one was first, or it had no place for us
            with _holder() as (holder, _):
                if holder is not None:
                    await _ended(holder)
        if self._name is not None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._name, self._accept, self._name)
        if self.beside:
            log.warning("a process that is no watch has the name of one: going on beside it", who=self.beside)

    def _accept(self, name: socket.socket) -> None:
        """Keep who waits until it goes, lest those that went fill the kernel's queue."""
        with contextlib.suppress(OSError):
            waiting, _ = name.accept()
            self._waiting.add(waiting)
            if len(self._waiting) > WAITING:
                self._drop(waiting)
            elif self._loop is not None:
                self._loop.add_reader(waiting, self._drop, waiting)

    def _drop(self, waiting: socket.socket) -> None:
        """It has gone, or there is no place for it, or it need not wait any more."""
        if self._loop is not None:
            self._loop.remove_reader(waiting)
        self._waiting.discard(waiting)
        waiting.close()

    def _bound(self) -> bool:
        """Whether this process has the name."""
        if self._name is None:
            name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                name.bind(NAME)
                name.listen(WAITING)
            except OSError:
                name.close()
                return False
            self._name = name
        return True


@contextlib.contextmanager
def _holder() -> Iterator[tuple[socket.socket | None, int | None]]:
    """A connection to who has the name, which breaks when that ends, and its user; None where there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as holder:
        if holder.connect_ex(NAME):
            yield None, None  # just gone, not listening, or as many wait as can
            return
        yield holder, unixsocket.user(holder)


async def _ended(holder: socket.socket) -> None:
    """Wait for its end."""
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_recv(holder, 1)

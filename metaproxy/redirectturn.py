"""Whose turn it is to change the node's redirect: one process's at a time, for two plans would undo each other.

Knows: a name that only one process of a network namespace can have, and how its end is heard of.
Must not know: what is done in turn.

A name and no file: it needs no folder that all share, goes with its process however that ends, and the kernel tells
whoever waits by breaking the connection to it. Nobody is ever accepted or spoken to.
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
"""Seconds until the name is tried again where its holder's end cannot be waited for."""

WAITING = 128
"""Connections that the kernel keeps: one for each process that waits."""


class Turn:
    """A process's turn, once `take` or `wait` have given it, until it is closed."""

    def __init__(self) -> None:
        self._name: socket.socket | None = None

    def take(self) -> bool:
        """Whether it is this process's turn now: nobody else of its user has it.

        Whoever has the name without being of our user is no watch of ours: that is said, and nothing waits for it.
        """
        if self._name is None:
            name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                name.bind(NAME)
                name.listen(WAITING)
            except OSError:
                name.close()
                return _is_a_strangers()
            self._name = name
        return True

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait for it, for as long as another watch lives, or until `stop`."""
        said, stopped = False, asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set() and not self.take():
                with _holder() as (holder, _):
                    if not said:
                        log.info("another watch is at work: waiting for it to end")
                        said = True
                    ended = asyncio.create_task(_ended(holder))
                    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
                    ended.cancel()
                    await asyncio.gather(ended, return_exceptions=True)
        finally:
            stopped.cancel()

    def close(self) -> None:
        """Let the next one have it."""
        if self._name is not None:
            self._name.close()
            self._name = None


def _is_a_strangers() -> bool:
    with _holder() as (_, user):
        if user in (None, os.geteuid()):
            return False
        log.warning("a process that is no watch has the name of one: going on beside it", user=user)
        return True


@contextlib.contextmanager
def _holder() -> Iterator[tuple[socket.socket | None, int | None]]:
    """A connection to who has the name, which breaks when that ends, and its user; None where there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as holder:
        if holder.connect_ex(NAME):
            yield None, None  # just gone, not listening yet, or as many wait as can
            return
        yield holder, unixsocket.user(holder)


async def _ended(holder: socket.socket | None) -> None:
    """Wait for its end, or for a while where that cannot be heard of."""
    if holder is None:
        await asyncio.sleep(AGAIN)
        return
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_recv(holder, 1)

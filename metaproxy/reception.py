"""Where the operator is answered: this process's own socket, and the address of the node's agent, whichever that is.

Knows: when each is opened, and that the address may be somebody else's for a while.
Must not know: what the operator is told.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from metaproxy.admin import BACKLOG, Admin
from metaproxy.doors import Doors
from metaproxy.unixsocket import UnixSocket

PAUSE = 2.0
"""Seconds until the address, which somebody else has, is tried again."""


class Reception:
    """See the module. `at` is the socket at the address; None while there is none."""

    def __init__(self, admin: Admin, doors: Doors) -> None:
        self._admin = admin
        self._doors = doors
        self.at: socket.socket | None = None

    async def open_own(self, path: Path, stack: AsyncExitStack) -> None:
        """Answer who asks this very process, until the stack is left; OSError when the path cannot be had."""
        # In a thread: it looks at files, and another process may be looking at the same.
        own = await asyncio.to_thread(UnixSocket, path, backlog=BACKLOG)
        stack.push_async_callback(asyncio.to_thread, own.remove)
        await self._admin.open([own.socket])

    async def open(self, given: dict[str, socket.socket]) -> None:
        """Answer at the address: on the socket that was given, which is taken out, or on another, if it can be had."""
        self.at = await asyncio.to_thread(self._doors.of_operator, given)
        if self.at is not None:
            await self._admin.open([self.at])

    async def keep(self, begun: asyncio.Event, over: Callable[[], bool]) -> None:
        """Eternal: have the address as soon as who has it gives it up; from when it was `begun`, until it is `over`."""
        await begun.wait()
        while self._doors.trouble is not None and not over():
            await asyncio.sleep(PAUSE)
            await self.open({})
        await asyncio.Event().wait()

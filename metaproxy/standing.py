"""Whether this process's place in the line is its own yet: looked at again and again, for nobody may have told it.

Knows: whose file is at the handover's path, and who else listens at our addresses.
Must not know: how a place is had, or what becomes of who has lost it.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from metaproxy import portgroup, unixsocket
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

LOOK = 1.0
"""Seconds between two looks."""

REMEDY = (
    "if no other agent hangs on this node, a process of the agent's user in the node's network is a stranger: end it"
)


class Standing:
    """See the module."""

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._path = path
        self._gauge = metrics.gauge("handover_strangers")
        self._file: unixsocket.Identity | None = None

    async def begin(self) -> None:
        """The file that is at the path now is ours."""
        self._file = await asyncio.to_thread(unixsocket.identity, self._path)

    async def followed(self) -> bool:
        """Whether anybody is asked at the path."""
        return await asyncio.to_thread(unixsocket.answered, self._path)

    async def displaced(self, sockets: Callable[[], Mapping[str, socket.socket]]) -> None:
        """Until another process's socket is at the path; says meanwhile who joins these sockets' addresses."""
        seen = await asyncio.to_thread(_others, sockets())
        while True:
            self._gauge.set(seen)
            await asyncio.sleep(LOOK)
            if await asyncio.to_thread(self._is_displaced):
                return
            now = await asyncio.to_thread(_others, sockets())
            if now > seen:
                log.warning("somebody else listens at our addresses", sockets=now, remedy=REMEDY)
            elif seen and not now:
                await asyncio.to_thread(_lead_here, sockets())
            seen = now

    def _is_displaced(self) -> bool:
        there = unixsocket.identity(self._path)
        return None not in {there, self._file} and there != self._file and unixsocket.answered(self._path)


def _others(sockets: Mapping[str, socket.socket]) -> int:
    try:
        return sum(len(portgroup.others(each)) for each in _tcp(sockets))
    except OSError:
        return 0  # the kernel does not tell


def _lead_here(sockets: Mapping[str, socket.socket]) -> None:
    """Alone again: who joins unasked gets nothing by that."""
    with contextlib.suppress(OSError):
        for each in _tcp(sockets):
            portgroup.lead(each, 0)


def _tcp(sockets: Mapping[str, socket.socket]) -> list[socket.socket]:
    return [each for each in sockets.values() if each.family != socket.AF_UNIX and each.fileno() >= 0]

"""The way from one process to the next: what is gone on with, in which order, and what becomes of who is followed.

Knows: when this process may take over, and what is given away.
Must not know: how anything travels, or which parts of a state count here.

While this process warms up, the other one looks ahead for both, if both mean the same calls by what they are entitled
to; so nothing is asked of STS twice.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog

from metaproxy import arrival, handover
from metaproxy.arrival import HANDOVER, Doors
from metaproxy.credentials import Secret
from metaproxy.inheritance import Inheritance
from metaproxy.predecessor import Predecessor
from metaproxy.standing import Standing
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

LOOK = 0.02
"""Seconds between two looks whether this process is warm."""

SLOW = 10.0
"""Seconds of warming up after which it is said what is missing."""

LEAVING = 2.0
"""Seconds for which a process that is displaced accepts what was led to it before: it takes milliseconds."""


class Succession:
    """One process's place in the line; see the module.

    `given` are the listening sockets that this process begins with, by name; who takes one out owns it.
    """

    def __init__(
        self,
        path: Path,
        *,
        doors: Doors,
        inheritance: Inheritance,
        on_retired: Callable[[], Awaitable[None]],
        metrics: Metrics,
    ) -> None:
        self._path = path
        self._doors = doors
        self._inheritance = inheritance
        self._on_retired = on_retired
        self._former: Predecessor | None = None
        self._told: Predecessor | None = None
        self._key: Secret | None = None
        self._open: Callable[[], Mapping[str, socket.socket]] = dict
        self._beside = False
        self._metrics = metrics
        self._standing = Standing(path, metrics)
        self.given: dict[str, socket.socket] = {}

    @property
    def follows(self) -> bool:
        """Whether another process serves yet."""
        return self._former is not None or self._beside

    async def begin(self, stop: asyncio.Event) -> None:
        """Find a place in the line; ends early on `stop`. See `arrival` for what is waited for and for how long.

        Raises:
            AddressTakenError: an address is a stranger's. OSError: one cannot be had at all.
        """
        place = await arrival.arrive(self._path, self._doors, stop)
        self._former, self.given, self._beside = place.former, place.given, place.beside
        self._metrics.counter("handover_starts_total", how=place.how).inc()

    @property
    def key(self) -> bytes | None:
        """The token key that was handed over."""
        return self._inheritance.key

    def adopt(self) -> None:
        """Use what the predecessor gave, before anything else is known here."""
        if self._former is not None:
            self._inheritance.adopt(self._former.state)

    async def warm(self, lacking: Callable[[], list[str]], stop: asyncio.Event) -> None:
        """Wait until nothing is `lacking`, or nobody serves any more, or `stop`.

        Beside a process that cannot be followed there is no telling whether it serves: so not for long.
        """
        loop = asyncio.get_running_loop()
        slow = loop.time() + SLOW
        while self.follows and not self._gone() and not stop.is_set() and (missing := lacking()):
            if loop.time() >= slow:
                if self._beside:
                    return
                log.warning("still warming up: the predecessor serves on", missing=missing)
                slow = float("inf")
            await asyncio.sleep(LOOK)

    async def take(self) -> None:
        """Hold what the predecessor holds at last, or be beside it; from now on this process looks ahead.

        Raises:
            OSError: an address cannot be had beside it.
        """
        if self._beside:
            self.given = await asyncio.to_thread(arrival.beside, self._path, self._doors, None)
            self._beside = False
        if self._former is None:
            return
        self._inheritance.settle(await self._former.take())
        self._inheritance.rest(False)

    async def done(self) -> socket.socket:
        """This process accepts connections: the predecessor may stop. The socket over which the next one asks."""
        told = self._former is None or await self._former.done()
        asked = self.given.pop(HANDOVER)
        if not told:
            asked = await self._displacing(asked)
        if self._former is not None:
            self._former.release()
            self._told, self._former = self._former, None
            log.info("taken over")
        await self._standing.begin()
        return asked

    def close(self) -> None:
        """Be done with the predecessor, and with sockets that nobody took."""
        for former in (self._former, self._told):
            if former is not None:
                former.close()
        self._former = self._told = None
        for left in self.given.values():
            left.close()
        self.given = {}

    async def serve(
        self, asked: socket.socket, sockets: Callable[[], Mapping[str, socket.socket]], key: bytes | None
    ) -> None:
        """Eternal: give everything to who asks there, these sockets among it; `key` only if it is in no file."""
        self._open = lambda: {**sockets(), HANDOVER: asked}
        self._key = None if key is None else Secret(key.hex())
        heirs = handover.Handover(self)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(heirs), name="place in the line")
            await heirs.run(asked)

    async def _displacing(self, asked: socket.socket) -> socket.socket:
        """Another socket in the place of the one that the predecessor has too: so it sees that it is followed."""
        try:
            own = await asyncio.to_thread(arrival.again, self._path)
        except OSError as error:
            log.warning("the predecessor cannot be shown that it is followed", error=str(error))
            return asked
        asked.close()
        return own

    def _gone(self) -> bool:
        return self._former is not None and self._former.gone

    async def _watch(self, heirs: handover.Handover) -> None:
        """Retire when another process is in our place, whether it was given it or not; ends with that."""
        await self._standing.displaced(self._open)
        if not heirs.handed:
            log.warning("displaced: another process is in our place, and has not been given it")
            self._inheritance.rest(True)
            # New connections are led to it; those that wait here already are answered yet.
            await asyncio.sleep(LEAVING)
            await heirs.displaced()

    # What handing over asks for.

    def sockets(self) -> Mapping[str, socket.socket]:
        """The listening sockets by name."""
        return self._open()

    async def state(self, *, last: bool) -> bytes:
        """All that is held now."""
        return await self._inheritance.state(self._key, last=last)

    def rest(self, resting: bool) -> None:
        """Whether a successor is about to serve."""
        self._inheritance.rest(resting)

    async def retire(self) -> None:
        """The successor serves."""
        await self._on_retired()

    async def followed(self) -> bool:
        """Whether anybody gives what there is to have now."""
        return await self._standing.followed()

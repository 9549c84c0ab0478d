"""The way from one process to the next: what is gone on with, in which order, and what becomes of who is followed.

Knows: which parts of a predecessor's state may be used here, when this process may take over, what it gives away.
Must not know: how anything travels, or what any part does with what it is given.

What may be used
----------------
- *Sockets*, whatever else is wrong: whoever connects meanwhile waits in the kernel for the first who accepts.
- *The token key*, unless a file has one.
- *The directory*, of the same source on the same node. It is no newer by being handed over: what a list or a watch says
  next is compared with it as ever, so that nothing goes back in time; and an address that was withdrawn stays so, for
  its ties to carriers come with it, in the same network. The time between is as if the kernel had not been heard.
- *Sessions and remembered failures*, when they were asked for in the same way (separate role, endpoint, region) and by
  the same role: who is trusted may differ with that. Everything else that matters is in the call that each is held by.

While this process warms up, the other one looks ahead for both, if both mean the same calls by what they are entitled
to; so nothing is asked of STS twice.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from metaproxy import arrival, handover, handoverstate
from metaproxy.arrival import HANDOVER, Doors
from metaproxy.caller import Directory, Memory
from metaproxy.carriers import Carrier, Lives
from metaproxy.credentials import Secret
from metaproxy.handoverstate import Held, MisfitError, State, Terms
from metaproxy.predecessor import Predecessor
from metaproxy.standing import Standing
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

LOOK = 0.02
"""Seconds between two looks whether this process is warm."""

SLOW = 10.0
"""Seconds of warming up after which it is said what is missing."""

LANDING = 0.5
"""Seconds for calls to STS that are under way to end, before the last state is written."""


LEAVING = 2.0
"""Seconds for which a process that is displaced accepts what was led to it before: it takes milliseconds."""


class Sessions(Protocol):
    """Who holds sessions."""

    def rest(self, resting: bool) -> None:
        """Whether another process looks ahead."""
        ...

    async def landed(self) -> None:
        """Wait until no call is under way."""
        ...

    def held(self) -> tuple[Held, ...]:
        """Everything that is held."""
        ...

    def adopt(self, held: Iterable[Held]) -> None:
        """Hold what another process held."""
        ...


class Callers(Protocol):
    """Who has the directory."""

    @property
    def directory(self) -> Directory:
        """What is known."""
        ...

    def adopt(self, memory: Memory) -> None:
        """Go on from what another process knew."""
        ...


class Kernel(Protocol):
    """Who listens to the kernel."""

    def lives(self) -> Lives:
        """The devices that it has told of."""
        ...

    def adopt(self, lives: Lives, sights: Mapping[str, Carrier | None]) -> None:
        """Begin with what another process knew."""
        ...


class Source(Protocol):
    """Who watches what has versions."""

    @property
    def newest(self) -> tuple[int, int]:
        """The newest versions that were seen."""
        ...

    def begin_after(self, newest: tuple[int, int]) -> None:
        """Another process has seen these."""
        ...


class Succession:
    """One process's place in the line; see the module. `kernel` and `source`: None where there is none.

    `given` are the listening sockets that this process begins with, by name; who takes one out owns it.
    """

    def __init__(
        self,
        path: Path,
        *,
        doors: Doors,
        terms: Callable[[], Terms],
        sessions: Sessions,
        callers: Callers,
        kernel: Kernel | None,
        source: Source | None,
        on_retired: Callable[[], Awaitable[None]],
        metrics: Metrics,
    ) -> None:
        self._path = path
        self._doors = doors
        self._terms = terms
        self._sessions = sessions
        self._callers = callers
        self._kernel = kernel
        self._source = source
        self._on_retired = on_retired
        self._former: Predecessor | None = None
        self._told: Predecessor | None = None
        self._offered: State | None = None
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

    @property
    def key(self) -> bytes | None:
        """The token key that was handed over."""
        state = self._offered
        return bytes.fromhex(state.key.reveal()) if state is not None and state.key is not None else None

    async def begin(self, stop: asyncio.Event) -> None:
        """Find a place in the line; ends early on `stop`. See `arrival` for what is waited for and for how long.

        Raises:
            AddressTakenError: an address is a stranger's. OSError: one cannot be had at all.
        """
        place = await arrival.arrive(self._path, self._doors, stop)
        self._former, self.given, self._beside = place.former, place.given, place.beside
        self._metrics.counter("handover_starts_total", how=place.how).inc()

    def adopt(self) -> None:
        """Use what the predecessor gave, before anything else is known here."""
        if self._former is None:
            return
        self._offered = state = self._read(self._former.state)
        if state is None:
            return
        mine, theirs = self._terms(), state.terms
        if mine.source != theirs.source:
            log.warning("the directory is not taken over: it is of another source of pods")
        else:
            self._adopt_directory(state, same_network=mine.network == theirs.network)
        if self._same_issuer(theirs) and (mine.source, mine.keys) == (theirs.source, theirs.keys):
            self._sessions.rest(True)
        log.info("state read", pods=len(state.directory.pods), sessions=len(state.sessions))

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
        last = await self._former.take()
        state = self._offered if last is None else self._read(last) or self._offered
        if state is not None:
            if self._same_issuer(state.terms):
                self._sessions.adopt(state.sessions)
            else:
                log.warning("sessions are not taken over: they were asked for in another way, or by another role")
        self._sessions.rest(False)

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
            self._sessions.rest(True)
            # New connections are led to it; those that wait here already are answered yet.
            await asyncio.sleep(LEAVING)
            await heirs.displaced()

    # What handing over asks for.

    def sockets(self) -> Mapping[str, socket.socket]:
        """The listening sockets by name."""
        return self._open()

    async def state(self) -> bytes:
        """All that is held now."""
        try:
            async with asyncio.timeout(LANDING):
                await self._sessions.landed()
        except TimeoutError:
            log.info("a call to STS is under way while the state is written")
        state = State(
            terms=self._terms(),
            key=self._key,
            sessions=self._sessions.held(),
            directory=self._callers.directory.memory(),
            newest=self._source.newest if self._source is not None else (0, 0),
            lives=self._kernel.lives() if self._kernel is not None else None,
        )
        return await asyncio.to_thread(handoverstate.write, state)

    def rest(self, resting: bool) -> None:
        """Whether a successor is about to serve."""
        self._sessions.rest(resting)

    async def retire(self) -> None:
        """The successor serves."""
        await self._on_retired()

    async def followed(self) -> bool:
        """Whether anybody gives what there is to have now."""
        return await self._standing.followed()

    def _adopt_directory(self, state: State, *, same_network: bool) -> None:
        memory = state.directory
        if self._kernel is None or memory.ties is None or state.lives is None or not same_network:
            if self._kernel is not None:
                log.warning("carriers are not taken over: the predecessor heard another kernel's word, or none")
            memory = replace(memory, ties=None)
        else:
            sights = {address: point.sight for address, point in memory.ties.points.items()}
            self._kernel.adopt(state.lives, sights)
        if self._source is not None:
            self._source.begin_after(state.newest)
        self._callers.adopt(memory)

    def _same_issuer(self, theirs: Terms) -> bool:
        mine = self._terms()
        known = mine.principal and theirs.principal
        return mine.issuer == theirs.issuer and not (known and mine.principal != theirs.principal)

    def _read(self, document: bytes) -> State | None:
        try:
            return handoverstate.read(document)
        except MisfitError as error:
            log.warning("the predecessor's state cannot be used: a cold start on its sockets", error=str(error))
            return None

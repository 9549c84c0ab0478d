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
import errno
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from metaproxy import handover, handoverstate
from metaproxy.caller import Directory, Memory
from metaproxy.carriers import Carrier, Lives
from metaproxy.credentials import Secret
from metaproxy.handover import HandoverError, Predecessor
from metaproxy.handoverstate import Held, MisfitError, State, Terms

log = structlog.get_logger()

HANDOVER = "handover"
"""The name of the socket over which the next one asks."""

LOOK = 0.02
"""Seconds between two looks whether this process is warm."""

SLOW = 10.0
"""Seconds of warming up after which it is said what is missing."""

AGAIN = 0.5
"""Seconds until a predecessor that holds our addresses is asked again."""

LANDING = 0.5
"""Seconds for calls to STS that are under way to end, before the last state is written."""


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
        terms: Callable[[], Terms],
        sessions: Sessions,
        callers: Callers,
        kernel: Kernel | None,
        source: Source | None,
        on_retired: Callable[[], Awaitable[None]],
    ) -> None:
        self._path = path
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
        self._open: Mapping[str, socket.socket] = {}
        self.given: dict[str, socket.socket] = {}

    @property
    def follows(self) -> bool:
        """Whether another process serves yet."""
        return self._former is not None

    @property
    def key(self) -> bytes | None:
        """The token key that was handed over."""
        state = self._offered
        return bytes.fromhex(state.key.reveal()) if state is not None and state.key is not None else None

    async def begin(self, bind: Callable[[], dict[str, socket.socket]], stop: asyncio.Event) -> None:
        """Find a predecessor, or `bind` what is needed to be the first; ends early on `stop`.

        A predecessor that cannot be followed, and holds our addresses, is waited for: it may be followed later, or end.

        Raises:
            OSError: an address cannot be had.
        """
        said = ""
        while not stop.is_set():
            try:
                self._former = await handover.ask(self._path, needed=HANDOVER)
            except HandoverError as error:
                why = str(error)
            else:
                self.given = self._former.sockets
                log.info("following a predecessor", sockets=sorted(self.given))
                return
            try:
                self.given = bind()
                self.given[HANDOVER] = await asyncio.to_thread(handover.bound, self._path)
            except OSError as error:
                self.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                if said != why:
                    log.warning("waiting: the predecessor cannot be followed and has our address", error=why)
                    said = why
                await asyncio.sleep(AGAIN)
            else:
                log.info("cold start: no predecessor is followed", error=why)
                return

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
        """Wait until nothing is `lacking`, or nobody serves any more, or `stop`."""
        loop = asyncio.get_running_loop()
        slow = loop.time() + SLOW
        while self._former is not None and not stop.is_set() and not self._former.gone and (missing := lacking()):
            if loop.time() >= slow:
                log.warning("still warming up: the predecessor serves on", missing=missing)
                slow = float("inf")
            await asyncio.sleep(LOOK)

    async def take(self) -> None:
        """Hold what the predecessor holds at last; from now on this process looks ahead."""
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

    async def done(self) -> None:
        """This process accepts connections: the predecessor may stop."""
        if self._former is not None:
            await self._former.done()
            self._former.release()
            self._told, self._former = self._former, None
            log.info("taken over")

    def close(self) -> None:
        """Be done with the predecessor, and with sockets that nobody took."""
        for former in (self._former, self._told):
            if former is not None:
                former.close()
        self._former = self._told = None
        for left in self.given.values():
            left.close()
        self.given = {}

    async def serve(self, listening: socket.socket, sockets: Mapping[str, socket.socket], key: bytes | None) -> None:
        """Eternal: give everything to a successor, these sockets among it; `key` only if it is in no file."""
        self._open = {**sockets, HANDOVER: listening}
        self._key = None if key is None else Secret(key.hex())
        await handover.Handover(self).run(listening)

    # What handing over asks for.

    def sockets(self) -> Mapping[str, socket.socket]:
        """The listening sockets by name."""
        return self._open

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
        return await handover.answered(self._path)

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

"""What passes from one process to the next: which parts of a predecessor's state are gone on with, and what is written.

Knows: on which terms each part counts here, and who has it.
Must not know: how anything travels, when, or what any part does with what it is given.

What may be used
----------------
- *Sockets*, whatever else is wrong: whoever connects meanwhile waits in the kernel for the first who accepts.
- *The token key*, unless a file has one.
- *The directory*, of the same source on the same node. It is no newer by being handed over: what a list or a watch says
  next is compared with it as ever, so that nothing goes back in time; and an address that was withdrawn stays so, for
  its ties to carriers come with it, in the same network. The time between is as if the kernel had not been heard. What
  the API server has told the predecessor since is in its last state: this process's own watch may be behind.
- *Who we are to STS*, when it is asked in the same way: for as long as STS says nothing else. It is handed over only
  while the predecessor itself finds STS away: else a process that cannot reach STS would take over, and pass for good.
  Whether our own keys are such that it can be so is not known here.
- *Sessions and remembered failures*, when they were asked for in the same way (separate role, endpoint, region) and by
  the same role: who is trusted may differ with that. Everything else that matters is in the call that each is held by.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from metaproxy import handoverstate
from metaproxy.caller import Directory, Memory
from metaproxy.carriers import Carrier, Lives
from metaproxy.credentials import Secret
from metaproxy.handoverstate import Held, MisfitError, Own, State, Terms
from metaproxy.pods import Namespace, Pod

log = structlog.get_logger()

LANDING = 0.5
"""Seconds for calls to STS that are under way to end, before the last state is written."""


class Identity(Protocol):
    """Who knows who we are."""

    async def own(self) -> Own | None:
        """What another process may believe of itself; None where it can ask STS."""
        ...

    def adopt(self, own: Own) -> None:
        """Another process was this."""
        ...


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

    def put_pod(self, pod: Pod) -> None:
        """A pod was added or modified."""
        ...

    def delete_pod(self, uid: str, version: int) -> None:
        """A pod was deleted."""
        ...

    def put_namespace(self, namespace: Namespace) -> None:
        """A namespace was added or modified."""
        ...

    def delete_namespace(self, uid: str, version: int) -> None:
        """A namespace was deleted."""
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


class Inheritance:
    """See the module. `kernel` and `source`: None where there is none."""

    def __init__(
        self,
        *,
        terms: Callable[[], Terms],
        identity: Identity,
        sessions: Sessions,
        callers: Callers,
        kernel: Kernel | None,
        source: Source | None,
    ) -> None:
        self._terms = terms
        self._identity = identity
        self._sessions = sessions
        self._callers = callers
        self._kernel = kernel
        self._source = source
        self._offered: State | None = None

    @property
    def key(self) -> bytes | None:
        """The token key that was handed over."""
        state = self._offered
        return bytes.fromhex(state.key.reveal()) if state is not None and state.key is not None else None

    def adopt(self, document: bytes) -> None:
        """Use what the predecessor gave, before anything else is known here. Total: whatever the bytes."""
        self._offered = state = _read(document)
        if state is None:
            return
        mine, theirs = self._terms(), state.terms
        if mine.source != theirs.source:
            log.warning("the directory is not taken over: it is of another source of pods")
        else:
            self._adopt_directory(state, same_network=mine.network == theirs.network)
        if state.own is not None and mine.issuer == theirs.issuer:
            self._identity.adopt(state.own)
        if self._same_issuer(theirs) and (mine.source, mine.keys) == (theirs.source, theirs.keys):
            self._sessions.rest(True)
        log.info("state read", pods=len(state.directory.pods), sessions=len(state.sessions))

    def settle(self, document: bytes | None) -> None:
        """Hold the sessions that the predecessor held at last, and know what it knew; None: it gave no last state."""
        last = None if document is None else _read(document)
        state = last or self._offered
        if state is None:
            return
        if last is not None and self._offered is not None and self._terms().source == last.terms.source:
            self._catch_up(self._offered.directory, last)
        if self._same_issuer(state.terms):
            self._sessions.adopt(state.sessions)
        else:
            log.warning("sessions are not taken over: they were asked for in another way, or by another role")

    def rest(self, resting: bool) -> None:
        """Whether another process looks ahead."""
        self._sessions.rest(resting)

    async def state(self, key: Secret | None, *, last: bool) -> bytes:
        """All that is held now, as bytes; `key` signs tokens, None when it is in a file.

        `last`: the successor has warmed up, and so has proved who it is or been told.
        """
        own = None if last else await self._identity.own()
        try:
            async with asyncio.timeout(LANDING):
                await self._sessions.landed()
        except TimeoutError:
            log.info("a call to STS is under way while the state is written")
        state = State(
            terms=self._terms(),
            key=key,
            own=own,
            sessions=self._sessions.held(),
            directory=self._callers.directory.memory(),
            newest=self._source.newest if self._source is not None else (0, 0),
            lives=self._kernel.lives() if self._kernel is not None else None,
        )
        return await asyncio.to_thread(handoverstate.write, state)

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

    def _catch_up(self, before: Memory, last: State) -> None:
        """Hear what the predecessor has heard of its source since; versions tell which word is newer. Not of files."""
        if self._source is None:
            return
        seen = {pod.uid: pod.version for pod in before.pods}
        seen |= {namespace.uid: namespace.version for namespace in before.namespaces}
        now, (pods, namespaces) = last.directory, last.newest
        for uid in {*now.gone_pods} - {*before.gone_pods}:
            self._callers.delete_pod(uid, pods)
        for uid in {*now.gone_namespaces} - {*before.gone_namespaces}:
            self._callers.delete_namespace(uid, namespaces)
        for namespace in now.namespaces:
            if seen.get(namespace.uid) != namespace.version:
                self._callers.put_namespace(namespace)
        for pod in now.pods:
            if seen.get(pod.uid) != pod.version:
                self._callers.put_pod(pod)
        mine = self._source.newest
        self._source.begin_after((max(mine[0], pods), max(mine[1], namespaces)))

    def _same_issuer(self, theirs: Terms) -> bool:
        mine = self._terms()
        known = mine.principal and theirs.principal
        return mine.issuer == theirs.issuer and not (known and mine.principal != theirs.principal)


def _read(document: bytes) -> State | None:
    try:
        return handoverstate.read(document)
    except MisfitError as error:
        log.warning("the predecessor's state cannot be used: a cold start on its sockets", error=str(error))
        return None

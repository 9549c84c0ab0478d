"""Passes listening sockets and a state from one process to the next, over a unix socket; nothing of it is on any disk.

Knows: what each side says when; here is the side that gives, `predecessor` is the other one.
Must not know: what the state says, or what the sockets are for beyond their names.

    successor                              the running process
    HELLO  ──────────────────────────────►
           ◄──────────────────────────────  SOCKETS (names, and the descriptors beside them), STATE
    … warms up, as long as it takes; the other one serves on as if nothing had been …
    TAKE   ──────────────────────────────►  looks ahead no more
           ◄──────────────────────────────  STATE, as it is now
    … accepts …
    DONE   ──────────────────────────────►  stops accepting
           ◄──────────────────────────────  RETIRED
    … keeps the connection for as long as it lives …

A connection that ends before DONE is a successor that is gone: the running process goes on. One that ends after it is a
successor that has ended: unless another one serves by then, the process fails, so that it is started anew and serves
(else a rollback would leave a node with nobody but who has retired). One that ends before SOCKETS and STATE are there
is a predecessor that cannot be followed. One successor is served at a time: others are told LATER, for who is silent is
taken for one that hangs.

Who hears no RETIRED cannot know what became of the other process, and puts another socket at the path. A process that
finds another one's socket there is displaced, whatever it has heard, and retires.

Both ends must be processes of one user, and of no other: root in a container is root of that container alone.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Mapping
from typing import Protocol

import structlog

from metaproxy import handoverwire as wire
from metaproxy.handoverwire import (
    DONE,
    HELLO,
    LATER,
    RETIRED,
    SOCKETS,
    STATE,
    TAKE,
    Channel,
    GoneError,
    HandoverError,
    words,
)

log = structlog.get_logger()

TAKING = 10.0
"""Seconds for a successor to accept connections once it has said that it will: until then nothing is done ahead."""

LOOK = 1.0
"""Seconds between two looks of who has retired whether anybody serves."""

LOOKS = 3
"""Looks in a row that find nobody, before it is believed: a process that was ended may be started anew."""

BREATH = 1.0
"""Seconds until who cannot be listened to, for want of descriptors, is listened to again."""


class Estate(Protocol):
    """What there is to be handed over, and what becomes of who hands it over."""

    def sockets(self) -> Mapping[str, socket.socket]:
        """The listening sockets by name."""
        ...

    async def state(self, *, last: bool) -> bytes:
        """The state as it is now, for who has none yet or for the last time."""
        ...

    def rest(self, resting: bool) -> None:
        """Whether a successor is about to serve, so that nothing is done ahead here."""
        ...

    async def retire(self) -> None:
        """The successor accepts connections: stop doing so here."""
        ...

    async def followed(self) -> bool:
        """Whether anybody gives what there is to have now."""
        ...


class Handover:
    """The side that serves: gives everything to the first successor that gets through; see the module."""

    def __init__(self, estate: Estate) -> None:
        self._estate = estate
        self._serving = False
        self._heir: Channel | None = None
        self._over = asyncio.Event()
        self.handed = False

    async def run(self, listening: socket.socket) -> None:
        """Eternal: hear successors, until one has taken over, and then go on as long as anybody serves.

        Owns the socket. Raises RuntimeError when whoever came after has ended and nobody serves.
        """
        try:
            with listening:
                hearing = asyncio.create_task(self._hear(listening), name="successors")
                over = asyncio.create_task(self._over.wait(), name="handed over or displaced")
                try:
                    await asyncio.wait((hearing, over), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    over.cancel()
                    hearing.cancel()
                    await asyncio.gather(over, hearing, return_exceptions=True)
                if not self._over.is_set():
                    hearing.result()
            if self._heir is not None:
                # Not before: from now on nobody who connects anywhere meets this process.
                await _farewell(self._heir)
                await self._heir.closed()
        finally:
            if self._heir is not None:
                self._heir.close()
        if self._heir is not None:
            if not await self._estate.followed():
                raise RuntimeError("the successor has ended and nobody serves: ending too, to be started anew")
            log.info("the successor has ended, and has a successor of its own")
        alone = 0
        while alone < LOOKS:
            await asyncio.sleep(LOOK)
            alone = 0 if await self._estate.followed() else alone + 1
        raise RuntimeError("nobody serves any more: ending, to be started anew")

    async def displaced(self) -> None:
        """Another process is in our place without having been given it: hear nobody any more, and retire."""
        if not self.handed:
            self.handed = True
            await self._estate.retire()
            self._over.set()

    async def _hear(self, listening: socket.socket) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                # Not the loop's own accept: cancelled at the wrong moment, it loses who has come.
                await wire.readable(listening)
                try:
                    connection, _ = listening.accept()
                except BlockingIOError:
                    continue
                except OSError as error:
                    log.warning("successors cannot be heard", error=str(error))
                    await asyncio.sleep(BREATH)
                    continue
                connection.setblocking(False)
                group.create_task(self._meet(Channel(connection)), name="a successor")

    async def _meet(self, channel: Channel) -> None:
        """Hand everything over, or send it away; whatever it does, the process goes on."""
        served = False
        try:
            if not wire.admits(channel.peer):
                raise HandoverError(f"it is of user {channel.peer}, and not ours")  # noqa: TRY301
            async with asyncio.timeout(wire.PATIENCE):
                await channel.receive(HELLO)
                if self._serving:
                    await channel.send(LATER)
                    return
            served = self._serving = True
            await self._serve(channel)
        except GoneError as error:
            # Who has not asked for anything only looked whether anybody listens.
            log.log(logging.WARNING if served else logging.DEBUG, "a successor has not taken over", error=str(error))
        except (HandoverError, OSError) as error:
            log.warning("a successor has not taken over", error=words(error))
        except Exception:
            # A mistake of ours must not end the process that serves everybody.
            log.exception("handing over broke")
        finally:
            if served:
                self._serving = False
            if self._heir is not channel:
                channel.close()
        if self.handed and served:
            self._over.set()

    async def _serve(self, channel: Channel) -> None:
        sockets = self._estate.sockets()
        async with asyncio.timeout(wire.PATIENCE):
            descriptors = tuple(each.fileno() for each in sockets.values())
            await channel.send(SOCKETS, json.dumps(list(sockets)).encode(), descriptors)
            await channel.send(STATE, await self._estate.state(last=False))
        log.info("a successor warms up")
        await channel.receive(TAKE)
        self._estate.rest(True)
        try:
            async with asyncio.timeout(wire.PATIENCE):
                await channel.send(STATE, await self._estate.state(last=True))
            await _done(channel)
            self.handed = True
        finally:
            if not self.handed:
                self._estate.rest(False)
        await self._estate.retire()
        self._heir = channel
        log.info("handed over")


async def _farewell(channel: Channel) -> None:
    with contextlib.suppress(OSError):
        async with asyncio.timeout(wire.PATIENCE):
            await channel.send(RETIRED)


async def _done(channel: Channel) -> None:
    try:
        async with asyncio.timeout(TAKING):
            await channel.receive(DONE)
    except TimeoutError:
        # This process itself may have stood still: what was said meanwhile counts.
        async with asyncio.timeout(0):
            await channel.receive(DONE)

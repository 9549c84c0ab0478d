"""The process before this one: what it offers, and how it is told that it may stop.

Knows: what is said to it when, and what each kind of silence means.
Must not know: what its state says, or what becomes of what it gives.

See `handover` for the whole conversation.
"""

import asyncio
import socket
from pathlib import Path

import structlog

from metaproxy import handoverwire as wire
from metaproxy.handoverwire import (
    DONE,
    HELLO,
    NAMES_LIMIT,
    RETIRED,
    SOCKETS,
    STATE,
    STATE_LIMIT,
    TAKE,
    Channel,
    HandoverError,
    named,
    names_in,
    words,
)

log = structlog.get_logger()


class NobodyError(HandoverError):
    """Nobody is there to be followed."""


class SilentError(HandoverError):
    """A process is there, and gives no answer: it hangs."""


class OthersError(HandoverError):
    """A process is there that is not ours."""


class Predecessor:
    """A process that has offered what it has: `sockets` by their names, and `state`. It serves on until `done`.

    What is left in `sockets` is closed with it.
    """

    def __init__(self, channel: Channel, sockets: dict[str, socket.socket], state: bytes) -> None:
        self._channel = channel
        self.sockets = sockets
        self.state = state

    @property
    def gone(self) -> bool:
        """Whether it has ended, so that nobody serves now."""
        return self._channel.ended

    async def take(self) -> bytes | None:
        """Its last state: from now on it looks ahead no more. None when it is gone, or does not answer in time."""
        try:
            async with asyncio.timeout(wire.PATIENCE):
                await self._channel.send(TAKE)
                return await self._channel.receive(STATE, STATE_LIMIT)
        except (HandoverError, OSError) as error:
            log.warning("the predecessor gave no last state", error=words(error))
            return None

    async def done(self) -> bool:
        """Tell it that connections are accepted here: it may stop. Whether it has."""
        try:
            async with asyncio.timeout(wire.PATIENCE):
                await self._channel.send(DONE)
                await self._channel.receive(RETIRED)
        except (HandoverError, OSError) as error:
            log.warning("the predecessor has not said that it stops", error=words(error))
            return False
        return True

    def release(self) -> None:
        """Give up what of it was not used; it hears of our end yet."""
        self.state = b""
        for left in self.sockets.values():
            left.close()
        self.sockets.clear()

    def close(self) -> None:
        """Be done with it."""
        self.release()
        self._channel.close()


async def ask(path: Path, *, needed: str) -> Predecessor:
    """What the process that listens there offers, a socket of that name in any case; bounded in time.

    Raises:
        NobodyError, SilentError, OthersError, BusyError: see these.
        HandoverError: somebody of ours is there and alive, who cannot be followed.
    """
    channel = Channel(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
    try:
        async with asyncio.timeout(wire.PATIENCE):
            await channel.connect(path)
            if not wire.admits(channel.peer):
                raise OthersError(f"the process there is of user {channel.peer}, and not ours")  # noqa: TRY301
            await channel.send(HELLO)
            names = names_in(await channel.receive(SOCKETS, NAMES_LIMIT), needed)
            state = await channel.receive(STATE, STATE_LIMIT)
        return Predecessor(channel, named(names, channel.taken()), state)
    except BaseException as error:
        channel.close()
        match error:
            case FileNotFoundError() | ConnectionRefusedError():
                raise NobodyError("nobody is there") from None
            case PermissionError():
                raise OthersError("its socket is not ours to open") from error
            case BlockingIOError():
                raise SilentError("as many processes wait for an answer as can") from None
            case TimeoutError():
                raise SilentError(words(error)) from error
            case OSError():
                raise HandoverError(words(error)) from error
        raise

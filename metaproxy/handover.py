"""Passes listening sockets and a state from one process to the next, over a unix socket; nothing of it is on any disk.

Knows: the frames, who may ask, how long each side waits for the other.
Must not know: what the state says, or what the sockets are for beyond their names.

    successor                              the running process
    HELLO  ──────────────────────────────►
           ◄──────────────────────────────  SOCKETS (names, and the descriptors beside them), STATE
    … warms up, as long as it takes; the other one serves on as if nothing had been …
    TAKE   ──────────────────────────────►  looks ahead no more
           ◄──────────────────────────────  STATE, as it is now
    … accepts …
    DONE   ──────────────────────────────►  stops accepting
    … keeps the connection for as long as it lives …

A connection that ends before DONE is a successor that is gone: the running process goes on. One that ends after it is a
successor that has ended: unless another one serves by then, the process fails, so that it is started anew and serves
(else a rollback would leave a node with nobody but who has retired). One that ends before
SOCKETS and STATE are there is a predecessor that cannot be followed. One successor is served at a time.

The frames are older and will be younger than any format of the state: sockets can be passed on whatever the state says.

Both ends must be processes of one user. Root may ask too, and may be followed: it can read any process's memory anyway.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import structlog

log = structlog.get_logger()

HELLO, SOCKETS, STATE, TAKE, DONE = range(1, 6)

PATIENCE = 3.0
"""Seconds for everything that the other side has at hand; it takes milliseconds."""

TAKING = 10.0
"""Seconds for a successor to accept connections once it has said that it will: until then nothing is done ahead."""

STATE_LIMIT = 64 << 20
"""Bytes: many times the state of a full node in a cluster of ten thousand namespaces."""

NAMES_LIMIT = 1 << 14
SOCKETS_LIMIT = 32

NEW = ".new"
"""Ends the name under which a socket is made before it takes the place of what is there."""

_HEAD = struct.Struct(">4sBI")
_MAGIC = b"mpx1"
_CREDENTIALS = struct.Struct("iII")
_DESCRIPTOR = struct.Struct("i")
_RIGHTS_SIZE = socket.CMSG_SPACE(SOCKETS_LIMIT * _DESCRIPTOR.size)
_CHUNK = 1 << 18


class HandoverError(Exception):
    """The other side cannot be followed, or is gone: says why."""


def admits(uid: int) -> bool:
    """Whether a process of that user may have, or give, everything that there is to have."""
    return uid in {os.geteuid(), 0}


def bound(path: Path) -> socket.socket:
    """A unix socket that listens there, for this user alone, in the place of whatever was there before.

    Only who holds the listening sockets of pods may call this: so no two processes ever do at once. Blocks.

    Raises:
        OSError: it cannot be made.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    aside = Path(f"{path}{NEW}")
    try:
        aside.unlink(missing_ok=True)
        made.bind(str(aside))
        aside.chmod(0o600)
        made.listen()
        aside.rename(path)
    except BaseException:
        made.close()
        raise
    return made


class _Channel:
    """Frames over one connection; owns it, and the descriptors that came over it until they are `taken`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._descriptors: list[int] = []

    def close(self) -> None:
        self._connection.close()
        for descriptor in self.taken():
            os.close(descriptor)

    def taken(self) -> list[int]:
        """The descriptors that came: the caller's from now on."""
        descriptors, self._descriptors = self._descriptors, []
        return descriptors

    @property
    def peer(self) -> int:
        """The user of the process at the other end."""
        told = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(told)[1])

    @property
    def ended(self) -> bool:
        """Whether the other side has closed, or says something that it was not asked."""
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def connect(self, path: Path) -> None:
        # Never waits: a full backlog is an error at once.
        self._connection.connect(str(path))

    async def send(self, kind: int, body: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
        left = memoryview(_HEAD.pack(_MAGIC, kind, len(body)) + body)
        rights = struct.pack(f"{len(descriptors)}i", *descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        loop = asyncio.get_running_loop()
        while left:
            try:
                sent = self._connection.sendmsg([left[:_CHUNK]], ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                await _turn(loop.add_writer, loop.remove_writer, self._connection)
                continue
            left, ancillary = left[sent:], []

    async def receive(self, kind: int, limit: int = 0) -> bytes:
        """The body of the next frame, which must be of that kind and no longer than that."""
        magic, told, length = _HEAD.unpack(await self._exactly(_HEAD.size))
        if magic != _MAGIC or told != kind:
            raise HandoverError("something else came than was asked for")
        if length > limit:
            raise HandoverError(f"a message of {length} bytes came; at most {limit} are taken")
        return await self._exactly(length)

    async def closed(self) -> None:
        """Until the other side has closed."""
        with contextlib.suppress(HandoverError, OSError):
            while True:
                await self._exactly(1)

    async def _exactly(self, size: int) -> bytes:
        data = bytearray()
        loop = asyncio.get_running_loop()
        while len(data) < size:
            try:
                # Not socket.recv_fds: it leaves out the flag, and a process that is run would inherit what came.
                part, ancillary, flags, _ = self._connection.recvmsg(
                    min(size - len(data), _CHUNK), _RIGHTS_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await _turn(loop.add_reader, loop.remove_reader, self._connection)
                continue
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._descriptors += [number for (number,) in _DESCRIPTOR.iter_unpack(rights)]
            if flags & socket.MSG_CTRUNC or len(self._descriptors) > SOCKETS_LIMIT:
                raise HandoverError("more sockets came than there can be")
            if not part:
                raise HandoverError("the other process is gone")
            data += part
        return bytes(data)


async def _turn(
    add: Callable[..., object], remove: Callable[[socket.socket], object], connection: socket.socket
) -> None:
    """Wait until the socket can go on."""
    woken = asyncio.Event()
    add(connection, woken.set)
    try:
        await woken.wait()
    finally:
        remove(connection)


class Predecessor:
    """A process that has offered what it has: `sockets` by their names, and `state`. It serves on until `done`.

    What is left in `sockets` is closed with it.
    """

    def __init__(self, channel: _Channel, sockets: dict[str, socket.socket], state: bytes) -> None:
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
            async with asyncio.timeout(PATIENCE):
                await self._channel.send(TAKE)
                return await self._channel.receive(STATE, STATE_LIMIT)
        except (HandoverError, OSError) as error:
            log.warning("the predecessor gave no last state", error=_words(error))
            return None

    async def done(self) -> None:
        """Tell it that connections are accepted here: it may stop."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._channel.send(DONE)
        except OSError as error:
            log.warning("the predecessor was not told to stop", error=_words(error))

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
        HandoverError: nobody is there, or nobody that can be followed.
    """
    channel = _Channel(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
    try:
        async with asyncio.timeout(PATIENCE):
            await channel.connect(path)
            if not admits(channel.peer):
                raise HandoverError(f"the process there is of user {channel.peer}, and neither ours nor root's")  # noqa: TRY301
            await channel.send(HELLO)
            names = _names_in(await channel.receive(SOCKETS, NAMES_LIMIT), needed)
            state = await channel.receive(STATE, STATE_LIMIT)
        return Predecessor(channel, _named(names, channel.taken()), state)
    except (FileNotFoundError, ConnectionRefusedError):
        channel.close()
        raise HandoverError("nobody is there") from None
    except (HandoverError, OSError) as error:
        channel.close()
        raise HandoverError(_words(error)) from error
    except BaseException:
        channel.close()
        raise


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no answer within {PATIENCE:.0f} s"
    return str(error)


def _names_in(body: bytes, needed: str) -> list[str]:
    try:
        names = json.loads(body)
    except (ValueError, RecursionError):
        names = None
    if (
        not isinstance(names, list)
        or needed not in names
        or not all(isinstance(name, str) for name in names)
        or len({*names}) != len(names)
    ):
        raise HandoverError("the names of the sockets cannot be read")
    return names


def _named(names: list[str], descriptors: list[int]) -> dict[str, socket.socket]:
    """The sockets that came, by their names. Raises HandoverError when one is no listening socket."""
    came = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    listen = [each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in came]
    if len(names) != len(came) or not all(listen):
        for each in came:
            each.close()
        raise HandoverError("there are not as many listening sockets as names")
    for each in came:
        each.setblocking(False)
    return dict(zip(names, came, strict=True))


class Estate(Protocol):
    """What there is to be handed over, and what becomes of who hands it over."""

    def sockets(self) -> Mapping[str, socket.socket]:
        """The listening sockets by name."""
        ...

    async def state(self) -> bytes:
        """The state as it is now."""
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


async def answered(path: Path) -> bool:
    """Whether anybody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        return asking.connect_ex(str(path)) in {0, errno.EAGAIN}


class Handover:
    """The side that serves: gives everything to the first successor that gets through; see the module."""

    def __init__(self, estate: Estate) -> None:
        self._estate = estate
        self.handed = False

    async def run(self, listening: socket.socket) -> None:
        """Eternal: one successor after the other, until one has taken over, and then as long as anybody serves.

        Owns the socket. Raises RuntimeError when the successor has ended and nobody serves.
        """
        loop = asyncio.get_running_loop()
        channel: _Channel | None = None
        with listening:
            while not self.handed:
                connection, _ = await loop.sock_accept(listening)
                connection.setblocking(False)
                channel = _Channel(connection)
                try:
                    await self._serve(channel)
                except (HandoverError, OSError) as error:
                    log.warning("a successor has not taken over", error=_words(error))
                except Exception:
                    # A mistake of ours must not end the process that serves everybody.
                    log.exception("handing over broke")
                finally:
                    if not self.handed:
                        channel.close()
        if channel is not None:
            with contextlib.closing(channel):
                await channel.closed()
        if not await self._estate.followed():
            raise RuntimeError("the successor has ended and nobody serves: ending too, to be started anew")
        log.info("the successor has ended, and has a successor of its own")
        await asyncio.Event().wait()

    async def _serve(self, channel: _Channel) -> None:
        if not admits(channel.peer):
            raise HandoverError(f"it is of user {channel.peer}, and neither ours nor root's")
        sockets = self._estate.sockets()
        async with asyncio.timeout(PATIENCE):
            await channel.receive(HELLO)
            descriptors = tuple(each.fileno() for each in sockets.values())
            await channel.send(SOCKETS, json.dumps(list(sockets)).encode(), descriptors)
            await channel.send(STATE, await self._estate.state())
        log.info("a successor warms up")
        await channel.receive(TAKE)
        self._estate.rest(True)
        try:
            async with asyncio.timeout(PATIENCE):
                await channel.send(STATE, await self._estate.state())
            async with asyncio.timeout(TAKING):
                await channel.receive(DONE)
            self.handed = True
        finally:
            if not self.handed:
                self._estate.rest(False)
        await self._estate.retire()
        log.info("handed over")

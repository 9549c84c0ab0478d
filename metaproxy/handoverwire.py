"""The handover's wire: frames over a unix socket, and descriptors beside them.

Knows: how a frame is written, how much of anything is taken, how long is waited, and who may be at the other end.
Must not know: what is said when, or what any of it means.

Frames are older and will be younger than any format of the state: sockets can be passed on whatever the state says.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from metaproxy import unixsocket

HELLO, SOCKETS, STATE, TAKE, DONE, RETIRED, LATER = range(1, 8)

PATIENCE = 3.0
"""Seconds for everything that the other side has at hand; it takes milliseconds."""

STATE_LIMIT = 64 << 20
"""Bytes: many times the state of a full node in a cluster of ten thousand namespaces."""

NAMES_LIMIT = 1 << 14
SOCKETS_LIMIT = 32

_HEAD = struct.Struct(">4sBI")
_MAGIC = b"mpx1"
_DESCRIPTOR = struct.Struct("i")
_RIGHTS_SIZE = socket.CMSG_SPACE(SOCKETS_LIMIT * _DESCRIPTOR.size)
_CHUNK = 1 << 18


class HandoverError(Exception):
    """The other side cannot be followed, or is gone: says why."""


class GoneError(HandoverError):
    """The other side has hung up."""


class BusyError(HandoverError):
    """The other side serves another successor."""


def admits(uid: int) -> bool:
    """Whether a process of that user may have, or give, everything that there is to have."""
    return uid == os.geteuid()


def words(error: Exception) -> str:
    """What went wrong, for the log."""
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no answer within {PATIENCE:.0f} s"
    return str(error)


class Channel:
    """Frames over one connection; owns it, and the descriptors that came over it until they are `taken`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._descriptors: list[int] = []

    def close(self) -> None:
        """Hang up."""
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
        return unixsocket.user(self._connection)

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
        """Call who listens there; OSError when nobody does."""
        # Never waits: a full backlog is an error at once.
        self._connection.connect(str(path))

    async def send(self, kind: int, body: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
        """Send a frame, descriptors beside it; OSError when the other side is gone."""
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
        """The body of the next frame, which must be of that kind and no longer than that.

        Raises:
            BusyError: the other side has no time. HandoverError: anything else came, or nothing any more.
        """
        magic, told, length = _HEAD.unpack(await self._exactly(_HEAD.size))
        if (magic, told) == (_MAGIC, LATER):
            raise BusyError("it is about to hand over to another process")
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
        while len(data) < size:
            try:
                # Not socket.recv_fds: it leaves out the flag, and a process that is run would inherit what came.
                part, ancillary, flags, _ = self._connection.recvmsg(
                    min(size - len(data), _CHUNK), _RIGHTS_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await readable(self._connection)
                continue
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._descriptors += [number for (number,) in _DESCRIPTOR.iter_unpack(rights)]
            if flags & socket.MSG_CTRUNC or len(self._descriptors) > SOCKETS_LIMIT:
                raise HandoverError("more sockets came than there can be")
            if not part:
                raise GoneError("the other process is gone")
            data += part
        return bytes(data)


async def readable(one: socket.socket) -> None:
    """Wait until there is something to be read, or somebody to be accepted."""
    loop = asyncio.get_running_loop()
    await _turn(loop.add_reader, loop.remove_reader, one)


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


def names_in(body: bytes, needed: str) -> list[str]:
    """The names of the sockets that come, one `needed` among them; HandoverError when they are no such names."""
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


def named(names: list[str], descriptors: list[int]) -> dict[str, socket.socket]:
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

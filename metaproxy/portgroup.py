"""Several sockets that listen at one address: which of them gets the connections, and whose they are.

Knows: groups of sockets that share an address (SO_REUSEPORT, socket(7)), and the program that chooses one of a group.
Must not know: why another one is there, or who answers.

The first socket is bound alone, so that it is the only one or none, and is opened to others of the same user before it
listens: the kernel lets in nobody else. By themselves the connections would be spread over the group; a program of
classic BPF that returns a number leads them all to the socket of that number. Numbers are given in the order in which
sockets join. When one leaves, the last one takes its number; a program that returns a number that nobody has counts as
none (net/core/sock_reuseport.c). So with two in the group, a program that names the last stays right when either goes.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from metaproxy import sockets, tcptable
from metaproxy.tcptable import Holder

_ATTACH = 51
"""SO_ATTACH_REUSEPORT_CBPF (asm-generic/socket.h)."""

_RETURN = 0x06
"""BPF_RET with a constant (linux/filter.h)."""

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def first(host: str, port: int, *, backlog: int, free: bool) -> socket.socket:
    """A socket that listens where nobody does yet, and lets others of this user join it later; gets all connections.

    Raises:
        OSError: it cannot be had; EADDRINUSE: somebody has it.
    """
    made = sockets.bound(host, port, free=free)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.listen(backlog)
        # Who joins unasked gets nothing by that alone. Not worth a start, if this kernel has no such programs.
        with contextlib.suppress(OSError):
            lead(made, 0)
    except BaseException:
        made.close()
        raise
    return made


def beside(host: str, port: int, *, backlog: int, free: bool) -> socket.socket:
    """A socket that listens there, beside others of this user if they are in the way; gets all new connections.

    Two processes must not call this at once.

    Raises:
        OSError: it cannot be had; EADDRINUSE: who has it is of another user, or lets nobody join.
    """
    try:
        return first(host, port, backlog=backlog, free=free)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    made = sockets.bound(host, port, free=free, join=True)
    try:
        made.listen(backlog)
        lead(made, len(others(made)))
    except BaseException:
        made.close()
        raise
    return made


def lead(one: socket.socket, number: int) -> None:
    """Lead the new connections of the socket's group to the one with that number; OSError when that cannot be."""
    program = struct.pack("=HBBI", _RETURN, 0, 0, number)
    held = ctypes.create_string_buffer(program, len(program))
    one.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", 1, ctypes.addressof(held)))


def others(one: socket.socket) -> list[Holder]:
    """The other sockets that listen at exactly that address; OSError when the kernel does not tell. Blocks."""
    host, port = one.getsockname()[:2]
    mine = os.fstat(one.fileno()).st_ino
    return [each for each in holders() if (each.host, each.port) == (host, port) and each.inode != mine]


def in_the_way(addresses: Iterable[tuple[str, int]]) -> list[Holder]:
    """The sockets that listen there, or in the way of who wants to; none when the kernel does not tell. Blocks."""
    try:
        listening = holders()
    except OSError:
        return []
    return [each for host, port in addresses for each in listening if each.keeps(host, port)]


def holders() -> list[Holder]:
    """Every socket of this network that listens on TCP; OSError when the kernel does not tell. Blocks."""
    found: list[Holder] = []
    for table in _TABLES:
        # The second one is not there when the kernel has no IPv6.
        if table.exists():
            with table.open(encoding="ascii") as lines:
                found += tcptable.holders(lines)
    return found

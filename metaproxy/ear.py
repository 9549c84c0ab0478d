"""A socket on which the node's kernel is heard: what it says, in turns, and that something was lost.

Knows: how much is read before others may run, what the kernel need not even tell.
Must not know: what a message means, when to ask for what.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import ExitStack

import structlog

from metaproxy import netlink, sockets
from metaproxy.netlinksieve import sieve, unwanted

log = structlog.get_logger()

DATAGRAM = 1 << 17
"""Bytes: four times what the kernel puts into one datagram of a dump."""

BUFFER = 1 << 22
"""Bytes that may wait unread; the kernel gives what it allows without privilege."""

TURN = 256
"""Datagrams that are read before others may run: a pod can make the kernel talk without end."""


def netlink_socket() -> tuple[socket.socket, int]:
    """A socket that hears the kernel, and its own name there. Raises OSError when there is none to be had."""
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        listening.bind((0, netlink.GROUPS))
        return listening, int(listening.getsockname()[0])
    except OSError:
        listening.close()
        raise


class Ear:
    """See the module. It hears while it is open.

    `heard` is given each datagram, `lost` what kept some from being read, `late` whether more waits than is read in a
    turn; `behind` is what that was told last.
    """

    def __init__(
        self, *, heard: Callable[[bytes], None], lost: Callable[[OSError], None], late: Callable[[bool], None]
    ) -> None:
        self._heard = heard
        self._lost = lost
        self._late = late
        self._socket: socket.socket | None = None
        self._hardware: frozenset[bytes] | None = frozenset()
        self.behind = False

    def open(self, stack: ExitStack, connect: Callable[[], tuple[socket.socket, int]]) -> int:
        """Hear from now on until the stack is closed; our own name. Raises what `connect` does."""
        listening, name = connect()
        self._socket = stack.enter_context(listening)
        self.sift(frozenset())
        stack.callback(self._close)
        self._listen()
        return name

    @property
    def hears(self) -> bool:
        """Whether it is open."""
        return self._socket is not None

    def send(self, request: bytes) -> None:
        """Ask the kernel."""
        self._open.send(request)

    def sift(self, hardware: frozenset[bytes] | None) -> None:
        """Of forwarding, hear only of these hardware addresses; of all if None.

        The kernel throws the rest away before it can fill the socket.
        """
        self._hardware = hardware
        try:
            sockets.sift(self._open, b"" if hardware is None else sieve(hardware))
        except OSError as error:
            # Then it is read and thrown away here.
            if error.errno != errno.ENOENT:
                log.info("the kernel does not sift what it says", error=str(error))

    @property
    def _open(self) -> socket.socket:
        assert self._socket is not None  # noqa: S101  only while it is open
        return self._socket

    def _listen(self) -> None:
        """Be called when there is something to read."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._open)
        loop.add_reader(self._open, self._readable)

    def _close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._open)
        self._socket = None

    def _readable(self) -> None:
        """Read what there is before anybody else may run.

        What the kernel said before a handshake is heard before that connection's first request: the loop reads from a
        connection no earlier than a turn after it was accepted.
        """
        listening = self._open
        for _ in range(TURN):
            try:
                data = listening.recv(DATAGRAM)
            except BlockingIOError:
                if self.behind:
                    self.behind = False
                    self._late(False)
                return
            except OSError as error:
                # ENOBUFS: something was lost, and nothing says what. After an error libuv looks at the socket no more.
                self._listen()
                self._lost(error)
                continue
            if self._hardware is None or not unwanted(data, self._hardware):
                self._heard(data)
        if not self.behind:
            self.behind = True
            self._late(True)
        # Perhaps that was all, and then nobody would call.
        asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        if self.behind and self._socket is not None:
            self._readable()

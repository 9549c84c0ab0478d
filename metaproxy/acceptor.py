"""Takes connections off one listening socket, a few a turn, and waits a moment when there is nothing to make them of.

Knows: accept(2) and its errors.
Must not know: who may connect, what is said.

The loop's own servers are not used: of a process without descriptors uvloop's closes connections unseen, or closes
itself for good, and who may not connect costs a transport there.
"""

import asyncio
import errno
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

BATCH = 64
"""Connections that are taken before others have their turn."""

PAUSE = 0.1
"""Seconds after which is looked again whether there are descriptors: they end with connections, and nobody tells."""

_PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.EINTR,
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)
"""What accept(2) says of one connection that came to nothing, or to another process: the next may do better."""

Admit = Callable[[socket.socket, Any], asyncio.Protocol | None]
"""Given a connection's socket and the address of its peer: what speaks on it; None when it is to be closed at once."""


class Acceptor:
    """See the module. The socket is ours, and not blocking.

    `failed` is told why nothing can be accepted now; whether it has made room, so that the next try may be at once.
    `latest` is when the last connection came, or the acceptor was made, on the loop's clock.
    """

    def __init__(self, listening: socket.socket, admit: Admit, failed: Callable[[OSError], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = listening
        self._admit = admit
        self._failed = failed
        self._again: asyncio.TimerHandle | None = None
        self.latest = self._loop.time()
        self._queue = select.poll()
        self._queue.register(listening, select.POLLIN)
        self._resume()

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Take no more; also a second time."""
        if self._again is not None:
            self._again.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _resume(self) -> None:
        self._again = None
        self._loop.add_reader(self._socket.fileno(), self._take)

    def _take(self) -> None:
        self.latest = self._loop.time()
        for _ in range(BATCH):
            try:
                end, name = self._socket.accept()
            except OSError as error:
                if error.errno not in _PASSING:
                    self._pause(error)
                    return
            else:
                protocol = self._admit(end, name)
                if protocol is None:
                    end.close()
                else:
                    self._hand(end, protocol)
            # Asked before, for an exception costs several times as much; and a process without descriptors is told of
            # that even where nobody waits.
            if not self._queue.poll(0):
                return

    def _pause(self, error: OSError) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._again = self._loop.call_later(0 if self._failed(error) else PAUSE, self._resume)

    def _hand(self, end: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            end.setblocking(False)
            # The loop makes the transport at once, and waits only to be told that it was made: that needs no task.
            making = self._loop.connect_accepted_socket(lambda: protocol, end)
            made = making.send(None)
        except OSError as error:
            # It has ended already.
            end.close()
            protocol.connection_lost(error)
        else:
            made.add_done_callback(partial(_finish, making))


def _finish(making: Any, _made: Any) -> None:
    try:
        making.send(None)
    except StopIteration:
        return

"""Asking for neighbours anew, and a kernel that is scripted at the other end of a socket: what is lost is asked for."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from metaproxy.metricnames import REDIRECT_METRICS
from metaproxy.redirectneighbours import DATAGRAMS, EVERY, Asking
from metaproxy.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=2)

ERROR, DONE, OVERRUN, NEW, GET = 2, 3, 4, 28, 30
BUSY, NOT_THERE = 16, 2


def message(kind: int, body: bytes = bytes(4), *, flags: int = 0, number: int = 0) -> bytes:
    """One message of the kernel."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0) + body


class Kernel:
    """The other end of the socket."""

    def __init__(self) -> None:
        self.far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.far.bind(("127.0.0.1", 0))
        self.near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.near.connect(self.far.getsockname())
        self.far.connect(self.near.getsockname())

    def lists(self) -> list[int]:
        """The numbers of the requests for every neighbour that have come."""
        return [
            struct.unpack_from("=I", each, 8)[0] for each in self._requests() if each[4:6] == struct.pack("=H", GET)
        ]

    def _requests(self) -> Iterator[bytes]:
        while True:
            try:
                yield self.far.recv(65536)
            except BlockingIOError:
                return

    def away(self) -> tuple[str, int]:
        """Be away, so that whatever is sent comes back as an error; where it was."""
        name: tuple[str, int] = self.far.getsockname()
        self.far.close()
        return name

    def back(self, name: tuple[str, int]) -> None:
        """Be there again."""
        self.far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.far.bind(name)
        self.far.connect(self.near.getsockname())


async def second() -> None:
    """Let what was said be heard, and one second pass."""
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.sleep(EVERY)


@asynccontextmanager
async def asked() -> AsyncIterator[Kernel]:
    """A kernel that has been asked once and has said all."""
    made = Kernel()
    asking = Asking(made.near, Metrics(REDIRECT_METRICS))
    asking.begin()
    try:
        (first,) = made.lists()
        made.far.send(message(DONE, number=first))
        # From here on every second ends between two questions.
        await asyncio.sleep(EVERY / 2)
        yield made
    finally:
        asking.end()
        made.near.close()
        made.far.close()


async def test_who_has_heard_all_asks_no_more() -> None:
    """Nor for what the kernel says to other requests: that what is to be forgotten has gone already is no loss."""
    async with asked() as kernel:
        kernel.far.send(message(ERROR, struct.pack("=i", -NOT_THERE) + bytes(16)))
        await asyncio.sleep(100 * EVERY)
        assert kernel.lists() == []


@pytest.mark.parametrize("how", ["overrun", "interrupted", "refused"])
async def test_what_was_lost_is_asked_for(how: str) -> None:
    """Until it has come whole, once a second."""
    async with asked() as kernel:
        kernel.far.send(message(OVERRUN))
        for _ in range(5):
            await second()
            (number,) = kernel.lists()
            if how == "overrun":
                kernel.far.send(message(OVERRUN))
            elif how == "interrupted":
                kernel.far.send(message(DONE, flags=0x10, number=number))
            else:
                kernel.far.send(message(ERROR, struct.pack("=i", -BUSY) + bytes(16), number=number))
        await second()
        (number,) = kernel.lists()
        kernel.far.send(message(DONE, number=number))
        await asyncio.sleep(100 * EVERY)
        assert kernel.lists() == []


async def test_a_socket_that_fails_has_lost_something() -> None:
    """As it does when more came than it holds; the request that it does not take is made again."""
    async with asked() as kernel:
        name = kernel.away()
        kernel.near.send(b"")
        for _ in range(3):
            await second()
        kernel.back(name)
        await second()
        assert len(kernel.lists()) == 1


async def test_a_request_that_is_not_taken_is_made_again() -> None:
    """The kernel's own queue is full at that moment."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    asking = Asking(near, Metrics(REDIRECT_METRICS))
    with near, far:
        for end in (near, far):
            end.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while near.send(b"full"):
                sent += 1
        asking.begin()
        try:
            assert [far.recv(100) for _ in range(sent)] == [b"full"] * sent
            await asyncio.sleep(EVERY)
            assert far.recv(100)[4:6] == struct.pack("=H", GET)
        finally:
            asking.end()


async def test_others_have_their_turn() -> None:
    """However much the kernel says, so many datagrams are read at once."""
    async with asked() as kernel:
        await asyncio.sleep(EVERY)
        for number in range(DATAGRAMS + 10):
            kernel.far.send(message(NEW, number=number))
        seen = []
        while True:
            try:
                seen.append(struct.unpack_from("=I", kernel.near.recv(100, socket.MSG_PEEK), 8)[0])
            except BlockingIOError:
                break
            await asyncio.sleep(0)
        assert sorted(set(seen)) == [0, DATAGRAMS]

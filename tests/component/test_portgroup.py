"""Several sockets at one address, on this kernel: who gets the connections, and who may be there at all."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from metaproxy import portgroup, sockets
from tests.fakes.process import own_address

pytestmark = pytest.mark.sockets

MANY = 100
"""Connections: were they spread over two sockets, not all would come to one."""

NOBODY = 65534

JOIN = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
one.bind((sys.argv[2], int(sys.argv[3])))
"""

Make = Callable[..., socket.socket]


@pytest.fixture(params=[own_address(), "::1"], ids=["IPv4", "IPv6"])
def made(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Sockets at one address that nobody else has."""
    with ExitStack() as stack:
        with closing(socket.socket(socket.AF_INET6 if ":" in request.param else socket.AF_INET)) as asking:
            asking.bind((request.param, 0))
            port = asking.getsockname()[1]

        def make(bind: Callable[..., socket.socket]) -> socket.socket:
            return stack.enter_context(bind(request.param, port, backlog=2 * MANY, free=False))

        yield make


def came(*waiting: socket.socket) -> list[int]:
    """How many of many connections come to each."""
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(socket.create_connection(waiting[0].getsockname()[:2], timeout=20))
        return [accepted(each) for each in waiting]


def accepted(one: socket.socket) -> int:
    """How many wait there."""
    number = 0
    while True:
        try:
            one.accept()[0].close()
        except BlockingIOError:
            return number
        number += 1


def test_the_first_is_alone(made: Make) -> None:
    """Two that begin as the first cannot both be it, though each lets others join."""
    first = made(portgroup.first)
    with pytest.raises(OSError, match="in use"):
        made(portgroup.first)
    assert came(first) == [MANY]
    assert portgroup.others(first) == []


def test_new_connections_are_led_to_the_newest(made: Make) -> None:
    """And stay there when either of the two goes; what waited at the older one waits on."""
    first = made(portgroup.first)
    waiting = socket.create_connection(first.getsockname()[:2], timeout=20)
    second = made(portgroup.beside)
    assert [len(portgroup.others(each)) for each in (first, second)] == [1, 1]
    with waiting:
        assert accepted(first) == 1
    assert came(first, second) == [0, MANY]
    first.close()
    assert came(second) == [MANY]
    third = made(portgroup.beside)
    assert came(second, third) == [0, MANY]
    third.close()
    assert came(second) == [MANY]


def test_beside_nobody_is_first(made: Make) -> None:
    """Who it was has gone meanwhile."""
    assert came(made(portgroup.beside)) == [MANY]


def test_who_joins_unasked_gets_nothing(made: Make) -> None:
    """Another process of our user at our address, that does not know of the program."""
    first = made(portgroup.first)
    with closing(socket.socket(first.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(first.getsockname()[:2])
        stranger.listen(2 * MANY)
        assert came(first, stranger) == [MANY, 0]
        assert [each.uid for each in portgroup.others(first)] == [os.geteuid()]


def test_another_user_cannot_join(made: Make) -> None:
    """The kernel sees to that; who is in the way is told with its user."""
    host, port = made(portgroup.first).getsockname()[:2]
    if os.geteuid() == 0:
        done = subprocess.run(
            [sys.executable, "-c", JOIN, str(NOBODY), host, str(port)], capture_output=True, text=True, check=False
        )
        # A socket of IPv6 is made by `socket.socket` only when asked for; here it is refused in either case.
        assert done.returncode != 0
        assert "in use" in done.stderr or ":" in host
    assert {each.uid for each in portgroup.in_the_way([(host, port)])} == {os.geteuid()}


def test_who_lets_nobody_join(made: Make) -> None:
    """Another program's socket: it cannot be had, alone or beside."""
    made(sockets.listening)
    for bind in (portgroup.first, portgroup.beside):
        with pytest.raises(OSError, match="in use"):
            made(bind)

"""What Linux tells of sockets, as far as loopback can show it; translated connections are tried in real namespaces."""

import socket
import struct

import pytest

from metaproxy.sockets import is_own, listening, original_destination

pytestmark = pytest.mark.sockets


class Told:
    """A socket whose kernel says this."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: tuple[int, int, int] | None = None

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """What it says."""
        self.asked = (level, option, size)
        return self.answer


def test_original_destinations() -> None:
    """The address in a sockaddr_in and a sockaddr_in6; too short an answer is none."""
    four = Told(struct.pack("!HH4s8x", 2, 80, socket.inet_aton("169.254.169.254")))
    six = Told(struct.pack("!HHI16sI", 10, 80, 0, socket.inet_pton(socket.AF_INET6, "fd00:ec2::254"), 0))
    assert original_destination(four, ipv6=False) == "169.254.169.254"
    assert original_destination(six, ipv6=True) == "fd00:ec2::254"
    assert (four.asked, six.asked) == ((0, 80, 16), (41, 80, 28))
    assert original_destination(Told(b""), ipv6=False) == ""
    assert original_destination(Told(four.answer), ipv6=True) == ""


def test_an_untracked_connection_has_none() -> None:
    """The kernel says that there is no such thing."""
    server = listening("127.0.0.1", 0, backlog=1, free=False)
    with server, socket.create_connection(server.getsockname()) as client:
        server.setblocking(True)
        taken = server.accept()[0]
        with taken:
            assert original_destination(taken, ipv6=False) in {"", "127.0.0.1"}
            assert client.getpeername() == taken.getsockname()


def test_own_addresses() -> None:
    """Loopback is nobody's mask, others' addresses and what is no address are not ours."""
    assert not is_own("127.0.0.1")
    assert not is_own("::1")
    assert not is_own("192.0.2.77")
    assert not is_own("2001:db8::77")
    assert not is_own("unknown")


def test_an_address_that_is_not_there() -> None:
    """Only free binding takes it."""
    with listening("169.254.170.254", 0, backlog=1, free=True) as server:
        assert server.getsockname()[0] == "169.254.170.254"
    with pytest.raises(OSError, match="Cannot assign"):
        listening("192.0.2.77", 0, backlog=1, free=False)

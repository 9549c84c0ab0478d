"""The wire of rtnetlink: what a kernel wrote, and what nobody should write."""

import base64
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.netlink import (
    End,
    Forwarding,
    Link,
    Message,
    Neighbour,
    Overrun,
    Route,
    forget,
    messages,
    port_request,
    requests,
)
from metaproxy.netlinksieve import sieve, unwanted
from metaproxy.netlinkwire import sealed

RECORDED = zlib.decompress(
    base64.b64decode("""
eNrtWktvXDUUPrbvnVemySQdkvSZhD4IEGBKowqVUAIti0qzAASoikpBbSKgqmgbJd32LliwiAQ/IItu+QcsEKrYgASVWHSFQGIH6oIVQmyS22P7eOLr
8eTemcyQBMXSzPF4fB72+fyd60m+CQEqwIEBwJnL+AaBkP2LagQgDwJu3AQowD74UwCEOFu2EAZJnlczCxDgO0P5ohovwGmSh0geJfkKyTHSm4Q4lvJp
0j9L8lWSsyRfhn/jPMoZmv862RlXdkKYIHvHaPwFkjUlc3CB5BsU91NKlmidus8b/Z9gBP4vbR6z2OtWhmdxTzn1c/DpzdvLC8sLUBMHYQXHP7f2GVRG
ky+wpNvYJt/5WgVTK7Hqs3OPlxATylpUxYgllt5/MAKfvaN1/qY1zJKGG2eM7d6Aniv70dkiRG8xkO4ucaDTkdT58FHrWKUNN27mxAyb7E/015lNv1ct
ML60P3feNBNwEvZaO20GMd7pqap6NENEpWzHoT9VP4BzUQCvRZfzLnczhd7zFZ3hIqLy2tXFmubBdP7+NQTF3xeIvzXP/vf8zYm/GfE3S+Hvf9794tz3
i5q/41ifKMnfBueG1eskv86YJ7aD+JvROuot4mdd5O9VNgR9aPHq4ifzHy0ArDCO31esuYNWf8jq728gW3KsxhOHH9RnAT/nNc5qy1KGlM8ckpjMZ54+
F8lWHw7rzJYxs6afw28MnjUO+kkOEB6qwKLvyMbzSo5ZOCrAKZo/TLgbITlK4wdIPkN+DqqVq3NQkfIw4fOIkiHum5ZTyk4Zz8l8Yz/G4MsF0x+H1Wum
PwEPa6b/ZKNWlRH702XDB8dJniB5sie1td3Wbm29grX11mpzbZXY2Ky2KiNbrK3ME/d21lbm8FDWs+vmcGmH1cI0jNXbjHuz2pq2V92qrQ/D5toqrNoq
70V3TiXras6pq9BhXeVdqqt8i3X17d+mv33wR3NdFU4uhqgztwvvRYLWIdfQi/jtulrBWllEb3cWlj7WOQoVfew2Tv8AOX3qvT1Ot58t7ztzeJucWd9h
Z4On7NH9NuPeCZz+kue+FLicXusOpzPidNYDTi/QL1W9vDMZOphzOH43cTujdcz1KH6b22+wJLf3IUbM/elNFuI8zXk5nD9O9yGdw4ByE5LMkcyTPNzA
u76nFEkeInmUZInmlSm2fdb9qd+6Pw3g/UjGUSFsDNLnIbKzn+xUSR6heWP0eZzkMeeeMpHAWIhYB7of6XiesPZtGH4JTX/EOtMHCL8nFAEViGXledHj
5k4Wqr3cjXVz5au9utnNu0Z9h/JPGsZ2U92sKh616ybmEl+jOMZpjCMt5MUa0+dzQHmW+C8FwGS9FD4dlOsCGjrrdLZLDLjU4Wr9js4o6vA1R4dJHZR5
KZnR9cW4Ljy6fCPGKa+O3siEDsY945kb83Vu5sYbsTE3Nr/umvDoxqm6Bb/fu6D3BKXSZS39enVZNt3mmO/i2Xd1DYa4haElsidorDQrc5vEQxU/rjlQ
L8gayfRzGFdYLqdi2dSzJp9RMwaVz+QDPFM+A+1TbNVni3WuR0n9rq6zA5/bsc5gqz69nKJzJ+uwgyXeLQzFGtqNc1BtZmeNIbo/sB75dNaX8LnldSqe
0Q+qts8YeojbDnyKbfDZLm4NHwqLD+UzgfzrQmDVR3oxqgXFEnGo/DNJgR64qiCanh9b2cIjGUpbvwMMl1RNv4K9pK3bI8nn5UuOrRI96klbal+SXKns
npb//uHYveX8S4XPruiRXd6B3Sz7wPVeMM/Za5kr167BQmBhYZJ8hTSWJ18RvjfiZenzVH6vZ7R3PaM9lsVe/OPQc5nmtbQnMq5XZIwvaS9Wv23XPfMC
ilHOM7+BFzCJnPjA5NH3TO+zNUu2NrDgt8Wce43PVkS2zO83rWxx6ze8yZa20vc2yLi3SXuxis3gOrRw/Ri3vdcm
""")
)
"""A kernel's answers to the five requests, numbered from 1, in a namespace made for it:

    ip link add cbr0 type bridge; ip addr add 10.1.0.1/24 dev cbr0; ip addr add fd00:1::1/64 dev cbr0
    ip link add v0 type veth peer name v1; ip link set v0 master cbr0
    ip route add 10.2.0.1/32 dev v1; ip -6 route add fd02::1 dev v1; ip route add table 7 10.4.0.1 dev v1
    ip route add default via 10.1.0.2; ip -6 route add default via fd00:1::2; ip route add unreachable 10.3.0.1
    ip neigh add 10.1.0.9 lladdr 02:00:00:00:00:09 dev cbr0 nud reachable (and fd00:1::9, stale)
    bridge fdb add 02:00:00:00:00:09 dev v0 master static
"""

POD = bytes.fromhex("020000000009")
CBR0, V1, V0 = 2, 3, 4


def told(data: bytes) -> list[Message]:
    """What a datagram says."""
    return [message for _, _, message in messages(data)]


def message(kind: int, body: bytes, *, flags: int = 0) -> bytes:
    """One message."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 7, 99) + body + bytes(-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def test_what_a_kernel_wrote_is_read() -> None:
    """Links, routes that lead to a device and others, neighbours of both families, and the bridge's table."""
    read = told(RECORDED)
    links = {each.index: each for each in read if isinstance(each, Link)}
    assert {index: each.bridge for index, each in links.items()} == {1: False, CBR0: True, V1: False, V0: False}
    assert all(each.up and not each.gone for each in links.values())
    routes = {(each.version, each.network, each.length): each.link for each in read if isinstance(each, Route)}
    assert routes[4, 0x0A010000, 24] == CBR0
    assert routes[4, 0x0A020001, 32] == V1
    assert routes[4, 0, 0] == routes[6, 0, 0] == 0, "a gateway is no device of a pod"
    assert routes[4, 0x0A030001, 32] == 0
    assert (4, 0x0A040001, 32) not in routes, "another table"
    assert routes[6, 0xFD02 << 112 | 1, 128] == V1
    neighbours = [each for each in read if isinstance(each, Neighbour) and each.hardware == POD]
    assert neighbours == [Neighbour(link=CBR0, address=a, hardware=POD) for a in ("10.1.0.9", "fd00:1::9")]
    assert Forwarding(bridge=CBR0, hardware=POD, port=V0) in read
    assert [seq for _, seq, each in messages(RECORDED) if isinstance(each, End)] == [1, 2, 3, 4, 5]
    assert {each for each in read if isinstance(each, End)} == {End()}


def test_requests_are_numbered() -> None:
    """Five, each with the number that it is given, else as they were; the kernel tells answers by it."""
    for number, request in enumerate(requests(forwarding=True), 1000):
        numbered = sealed(request, number)
        assert struct.unpack_from("=IHHII", numbered)[3] == number
        assert (numbered[:8], numbered[12:]) == (request[:8], request[12:])
    assert len(requests(forwarding=True)) == len(requests(forwarding=False)) + 1 == 5


LINK = struct.pack("=BxHiII", 0, 1, 5, 1, 0)
ROUTE = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 3, 253, 1, 0)
TO = attribute(1, bytes([10, 0, 0, 1])) + attribute(4, struct.pack("=I", 5))
NEIGHBOUR = struct.pack("=BxxxiHBB", 2, 5, 2, 0, 1)
HERE = attribute(1, bytes([10, 0, 0, 1])) + attribute(2, POD)
FORWARDING = struct.pack("=BxxxiHBB", 7, 5, 2, 0, 0)
MASTER = attribute(9, struct.pack("=I", 6))

HOST = Route(network=0x0A000001, version=4, length=32)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (message(2, struct.pack("=i", -16)), [End(broken=True, error=16)]),
        (message(3, struct.pack("=i", 0)), [End()]),
        (message(3, struct.pack("=i", -4)), [End(broken=True, error=4)]),
        (message(3, b""), [End()]),
        (message(3, b"", flags=0x10), [End(broken=True), End()]),
        (message(4, b""), [Overrun()]),
        (message(1, b""), []),
        (message(17, LINK), [Link(index=5, up=True, life=(b"",) * 4, gone=True)]),
        (message(16, b"\7" + LINK[1:]), []),
        (message(16, LINK[:-1]), []),
        (message(24, ROUTE + TO), [replace(HOST, link=5)]),
        (message(25, ROUTE + TO + attribute(6, struct.pack("=I", 9))), [replace(HOST, link=5, metric=9, gone=True)]),
        (message(24, ROUTE + TO + attribute(15, struct.pack("=I", 7))), []),
        (message(24, ROUTE + TO + attribute(5, bytes(4))), [HOST]),
        (message(24, ROUTE + TO + attribute(30, bytes(4))), [HOST]),
        (message(24, ROUTE[:-4] + struct.pack("=I", 0x200) + TO), []),
        (message(24, b"\x07" + ROUTE[1:] + TO), []),
        (message(24, ROUTE + attribute(1, b"\x0a")), []),
        (message(24, ROUTE[:1] + b"\x21" + ROUTE[2:] + TO), []),
        (message(28, NEIGHBOUR + HERE), [Neighbour(link=5, address="10.0.0.1", hardware=POD)]),
        (message(29, NEIGHBOUR + HERE), [Neighbour(link=5, address="10.0.0.1")]),
        (message(28, struct.pack("=BxxxiHBB", 2, 5, 0x20, 0, 1) + HERE), [Neighbour(link=5, address="10.0.0.1")]),
        (message(28, struct.pack("=BxxxiHBB", 2, 5, 2, 8, 1) + HERE), []),
        *(
            (
                message(28, struct.pack("=BxxxiHBB", 2, 5, state, flags, 1) + HERE),
                [Neighbour(link=5, address="10.0.0.1", hardware=POD, fixed=True)],
            )
            for state, flags in ((0x80, 0), (0x40, 0), (0x02, 0x10))
        ),
        (message(28, NEIGHBOUR), []),
        (message(28, b"\x09" + NEIGHBOUR[1:] + HERE), []),
        (message(28, NEIGHBOUR + attribute(1, b"\1\2\3")), []),
        (message(28, FORWARDING + attribute(2, POD) + MASTER), [Forwarding(bridge=6, hardware=POD, port=5)]),
        (
            message(29, FORWARDING + attribute(2, POD) + MASTER + attribute(5, b"\x0a\0")),
            [Forwarding(bridge=6, hardware=POD, port=5, vlan=10, gone=True)],
        ),
        (message(28, FORWARDING + attribute(2, POD)), []),
        (message(28, FORWARDING + MASTER), []),
        (message(28, struct.pack("=BxxxiHBB", 7, 5, 0x80, 0, 0) + attribute(2, POD) + MASTER), []),
    ],
)
def test_each_kind_of_word(data: bytes, expected: list[Message]) -> None:
    """What says something is read, and what is about something else, or cannot be meant, is left out."""
    assert told(data) == expected
    assert told(data + message(4, b"")) == [*expected, Overrun()], "and what follows is not lost with it"
    assert {(port, number) for port, number, _ in messages(data)} <= {(99, 7)}


@pytest.mark.parametrize(
    "tail", [b"\0", struct.pack("=HH", 2, 1), struct.pack("=HH", 9, 1), struct.pack("=HH", 0, 0), b"\xff" * 6]
)
def test_broken_attributes_end_the_list(tail: bytes) -> None:
    """What came before them counts; nothing loops."""
    assert told(message(28, NEIGHBOUR + HERE + tail)) == [Neighbour(link=5, address="10.0.0.1", hardware=POD)]


@pytest.mark.parametrize("length", [0, 15, 200, 0xFFFFFFFF])
def test_broken_lengths_end_the_datagram(length: int) -> None:
    """A message that is shorter than its head, or longer than what there is, is the last."""
    data = message(4, b"") + struct.pack("=IHHII", length, 4, 0, 0, 0)
    assert told(data) == [Overrun()]


@given(st.binary(max_size=300))
def test_garbage_is_left_out(data: bytes) -> None:
    """Whatever arrives, nothing is raised and it ends."""
    list(messages(data))


@given(
    st.sampled_from([2, 3, 4, 16, 17, 24, 25, 28, 29]),
    st.sampled_from([LINK, ROUTE, NEIGHBOUR, FORWARDING, b""]),
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=20)), max_size=6),
    st.binary(max_size=12),
)
def test_almost_messages_are_left_out(kind: int, head: bytes, has: list[tuple[int, bytes]], tail: bytes) -> None:
    """The same for what has the form of a message."""
    list(messages(message(kind, head + b"".join(attribute(*each) for each in has) + tail)))


@given(st.integers(0, len(RECORDED) - 1), st.integers(0, 255))
def test_a_byte_that_is_another_breaks_nothing(place: int, value: int) -> None:
    """Nor does a real kernel's datagram with an error."""
    list(messages(RECORDED[:place] + bytes([value]) + RECORDED[place + 1 :]))


def sifted(program: bytes, data: bytes) -> bool:
    """Whether the program throws the datagram away; it is run as the kernel runs it."""
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        kind, yes, no, number = code[at]
        at += 1
        match kind:
            case 0x06:
                return bool(number == 0)
            case 0x05:
                at += number
            case 0x80:
                accumulator = len(data)
            case 0x15 | 0x35:
                at += yes if (accumulator == number if kind == 0x15 else accumulator >= number) else no
            case 0x20 | 0x28 | 0x30:
                size = {0x20: 4, 0x28: 2, 0x30: 1}[kind]
                if number + size > len(data):
                    return True
                accumulator = int.from_bytes(data[number : number + size])
            case _:
                raise AssertionError(kind)


def notice(kind: int, body: bytes, *, port: int = 0) -> bytes:
    """What nobody asked for, unless a port did."""
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, port) + body + bytes(-len(body) % 4)


STRANGER = attribute(2, b"\2\0\0\0\0\x0a") + MASTER


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (notice(28, FORWARDING + STRANGER), True),
        (notice(29, FORWARDING + STRANGER), True),
        (notice(28, FORWARDING + attribute(2, b"\3" + POD[1:]) + MASTER), True),
        (notice(28, FORWARDING + attribute(2, POD) + MASTER), False),
        (notice(28, FORWARDING + attribute(2, b"\2\0\0\0\0\x0b") + MASTER), False),
        (notice(28, FORWARDING + STRANGER, port=99), False),
        (notice(28, FORWARDING + MASTER + attribute(2, b"\1" * 6)), False),
        (notice(28, NEIGHBOUR + STRANGER), False),
        (notice(24, ROUTE + TO), False),
        (notice(16, LINK), False),
        (notice(30, FORWARDING + STRANGER), False),
        (notice(28, FORWARDING + attribute(2, POD))[:37], False),
        (RECORDED, False),
        (b"", False),
    ],
)
def test_what_nobody_wants_is_thrown_away(data: bytes, expected: bool) -> None:
    """A bridge's word on a hardware address of no pod, and nothing else; by the kernel's program exactly as here."""
    wanted = frozenset({POD, b"\2\0\0\0\0\x0b", b"longer than Ethernet's"})
    assert unwanted(data, wanted) is expected
    assert sifted(sieve(wanted), data) is expected


def test_a_program_that_the_kernel_would_not_take_is_none() -> None:
    """So many pods are on no node."""
    assert sieve(frozenset(number.to_bytes(6) for number in range(1000))) == b""
    assert len(sieve(frozenset(number.to_bytes(6) for number in range(800)))) <= 4096 * 8


def test_one_port_is_asked_for() -> None:
    """By bridge and hardware address, and not as a list."""
    request = sealed(port_request(6, POD), 8)
    assert struct.unpack_from("=IHHII", request) == (len(request), 30, 1, 8, 0)
    assert request[28:] == attribute(2, POD) + MASTER


def test_one_neighbour_is_forgotten() -> None:
    """RTM_DELNEIGH of an IPv6 address on one device, without an answer (linux/neighbour.h)."""
    request = sealed(forget(6, "fd44::10"), 8)
    assert struct.unpack_from("=IHHII", request) == (len(request), 29, 1, 8, 0)
    assert struct.unpack_from("=BxxxiHBB", request, 16) == (10, 6, 0, 0, 0)
    assert request[28:] == struct.pack("=HH", 20, 1) + bytes.fromhex("fd44") + bytes(13) + b"\x10"


def test_a_bridge_that_knows_vlans_is_told() -> None:
    """By what its link says of it."""
    for says, vlans in (
        (attribute(2, attribute(7, b"\1")), True),
        (attribute(2, attribute(7, b"\0")), False),
        (b"", False),
    ):
        about = attribute(18, attribute(1, b"bridge\0") + says)
        (link,) = told(message(16, LINK + about))
        assert isinstance(link, Link)
        assert (link.bridge, link.vlans) == (True, vlans)

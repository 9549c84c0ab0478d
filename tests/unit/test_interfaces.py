"""Interfaces as rtnetlink tells of them: what is read, and that nothing breaks the reading."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from metaproxy.interfaces import Interface, interface_request, interfaces
from metaproxy.netlinkwire import attribute, frames


def link(index: int, *attributes: bytes) -> bytes:
    """The body of a message on a link."""
    return struct.pack("=BxHiII", 0, 1, index, 0, 0) + b"".join(attributes)


def number(kind: int, value: int) -> bytes:
    """An attribute that is a number."""
    return attribute(kind, struct.pack("=I", value))


def test_what_is_told() -> None:
    """Names end with a zero; what stands on another is in the same namespace, unless the kernel says otherwise."""
    veth = attribute(18, attribute(1, b"veth\0") + attribute(4, b"bridge\0"))
    macvlan = attribute(18, attribute(1, b"macvlan\0"))
    told = [
        link(1, attribute(3, b"lo\0")),
        link(2, attribute(3, b"v1\0"), number(10, 7), number(5, 9), number(37, 0), veth),
        link(3, attribute(3, b"m\xff\0"), number(5, 1), macvlan),
    ]
    assert list(interfaces(told)) == [
        Interface(index=1, name="lo"),
        Interface(index=2, name="v1", kind="veth", master=7, port_kind="bridge"),
        Interface(index=3, name="m\\xff", kind="macvlan", below=1),
    ]


def test_what_is_asked() -> None:
    """For all of them (RTM_GETLINK, a dump)."""
    [(kind, flags, sequence, port, body)] = frames(interface_request())
    assert (kind, flags, sequence, port, len(body)) == (18, 0x301, 0, 0, 16)


@given(st.lists(st.binary(max_size=60)))
def test_whatever_is_told(bodies: list[bytes]) -> None:
    """Total: what is too short is no interface."""
    assert len(list(interfaces(bodies))) <= len(bodies)

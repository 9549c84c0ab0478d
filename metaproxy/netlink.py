"""The wire of rtnetlink, as much of it as tells who carries an address: links, routes, neighbours, bridge forwarding.

Knows: the layout of these four messages and of the requests for them, and where a message says what it is about.
Must not know: sockets, what anybody concludes.

An own reader instead of a library's: four kinds of message are a page, it costs neither memory nor a second loop, and
it can be total: what it does not understand is left out, never raised.

Sources: linux/netlink.h, rtnetlink.h, if_link.h, neighbour.h.
"""

import ipaddress
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from metaproxy.netlinkwire import (
    DONE,
    ERROR,
    INTERRUPTED,
    OVERRUN,
    REQUEST,
    attribute,
    attributes,
    ending,
    frames,
    number,
    request,
)

GROUPS = 1 << 0 | 1 << 2 | 1 << 6 | 1 << 10
"""What is listened to: links, neighbours (bridge forwarding entries too), IPv4 and IPv6 routes."""

_LINK = struct.Struct("=BxHiII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")

_NEW_LINK, _DEL_LINK, _GET_LINK = 16, 17, 18
_NEW_ROUTE, _DEL_ROUTE, _GET_ROUTE = 24, 25, 26
_NEW_NEIGHBOUR, _DEL_NEIGHBOUR, _GET_NEIGHBOUR = 28, 29, 30
_UNSPECIFIED, _INET, _INET6, _BRIDGE = 0, 2, 10, 7
_FAMILIES = {_INET: 4, _INET6: 16}

_UP = 0x1
_CLONED = 0x200
_UNICAST = 1
_MAIN = 254
_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
"""Reachable, stale, delay, probe, noarp, permanent: the states in which a neighbour's hardware address is in use."""
_PERMANENT, _NO_ARP = 0x80, 0x40
_PROXY, _LEARNED_ELSEWHERE = 0x08, 0x10
_HARDWARE, _MASTER = 2, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network device. `life` tells devices apart that may have had one index; `gone`: it is not there any more.

    `vlans`: a bridge that knows a hardware address once for each VLAN.
    """

    index: int
    bridge: bool = False
    vlans: bool = False
    up: bool = False
    life: tuple[bytes, ...] = ()
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route of the main table. `link` is 0 when it does not lead straight to one device."""

    network: int
    version: int
    length: int
    metric: int = 0
    tos: int = 0
    link: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An address's hardware address on a device; empty when it is not known there (any more).

    `fixed`: an administrator or a control plane has put it there, and the kernel asks nobody about it.
    """

    link: int
    address: str
    hardware: bytes = b""
    fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """A bridge's knowledge of which port leads to a hardware address."""

    bridge: int
    hardware: bytes
    port: int
    vlan: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The answer is whole, unless `broken`: then ask again. `error` is the kernel's number for why."""

    broken: bool = False
    error: int = 0


@dataclass(frozen=True, slots=True)
class Overrun:
    """Messages were lost."""


Fact = Link | Route | Neighbour | Forwarding
Message = Fact | End | Overrun


def requests(*, forwarding: bool) -> tuple[bytes, ...]:
    """What asks for everything there is, one after the other; each is to be sealed with a number.

    Bridges' forwarding tables only if wanted: any pod can make them as large as it likes.
    """
    requests = (
        request(_GET_LINK, _LINK.pack(_UNSPECIFIED, 0, 0, 0, 0)),
        request(_GET_ROUTE, _ROUTE.pack(_INET, 0, 0, 0, 0, 0, 0, 0, 0)),
        request(_GET_ROUTE, _ROUTE.pack(_INET6, 0, 0, 0, 0, 0, 0, 0, 0)),
        neighbour_request(),
    )
    return (*requests, request(_GET_NEIGHBOUR, _NEIGHBOUR.pack(_BRIDGE, 0, 0, 0, 0))) if forwarding else requests


def port_request(bridge: int, hardware: bytes) -> bytes:
    """What asks for a bridge's port to one hardware address (Linux 5.0); to be sealed. One message answers it."""
    wanted = attribute(_HARDWARE, hardware) + attribute(_MASTER, struct.pack("=I", bridge))
    return request(_GET_NEIGHBOUR, _NEIGHBOUR.pack(_BRIDGE, 0, 0, 0, 0) + wanted, flags=REQUEST)


def neighbour_request() -> bytes:
    """What asks for every neighbour there is."""
    return request(_GET_NEIGHBOUR, _NEIGHBOUR.pack(_UNSPECIFIED, 0, 0, 0, 0))


def forget(link: int, address: str) -> bytes:
    """What takes an IPv6 neighbour's entry away, so that the next packet to it makes the kernel ask everybody."""
    destination = 1
    body = _NEIGHBOUR.pack(_INET6, link, 0, 0, 0) + attribute(destination, ipaddress.ip_address(address).packed)
    return request(_DEL_NEIGHBOUR, body, flags=REQUEST)


def messages(data: bytes) -> Iterator[tuple[int, int, Message]]:
    """What a datagram says, each with the port of whoever asked for it, and the number of that request.

    A notification has those of whoever made the change, so the number alone does not tell what is an answer to us.
    """
    for kind, flags, sequence, port, body in frames(data):
        if flags & INTERRUPTED:
            # What was listed changed meanwhile, so that something may be missing.
            yield port, sequence, End(broken=True)
        if (message := _message(kind, body)) is not None:
            yield port, sequence, message


def _message(kind: int, body: bytes) -> Message | None:
    if kind in {DONE, ERROR}:
        error = ending(body)
        return End(broken=kind == ERROR or error != 0, error=error)
    if kind == OVERRUN:
        return Overrun()
    try:
        read, gone = _READ[kind]
        return read(body, gone)
    except (KeyError, struct.error, ValueError):
        return None


def _link(body: bytes, gone: bool) -> Link | None:
    address, name, peer, info, kind, detail, filtering, netns = 1, 3, 5, 18, 1, 2, 7, 37
    family, _, index, flags, _ = _LINK.unpack_from(body)
    if family == _BRIDGE:
        return None  # about a bridge's port: its forwarding entries tell the same
    has = attributes(body, _LINK.size)
    about = attributes(has.get(info, b""), 0)
    what = about.get(kind, b"").rstrip(b"\0")
    return Link(
        index=index,
        bridge=what == b"bridge",
        vlans=what == b"bridge" and any(attributes(about.get(detail, b""), 0).get(filtering, b"")),
        up=bool(flags & _UP),
        # A bridge's own hardware address follows its ports', and its life does not end with one of them.
        life=(what,) if what == b"bridge" else tuple(has.get(each, b"") for each in (address, name, peer, netns)),
        gone=gone,
    )


def _route(body: bytes, gone: bool) -> Route | None:
    destination, out, gateway, priority, multipath, table, via, nexthop = 1, 4, 5, 6, 9, 15, 18, 30
    family, length, _, tos, small_table, _, _, kind, flags = _ROUTE.unpack_from(body)
    has = attributes(body, _ROUTE.size)
    if family not in _FAMILIES or flags & _CLONED or (number(has.get(table)) or small_table) != _MAIN:
        return None
    size = _FAMILIES[family]
    network = has.get(destination, bytes(size))
    if len(network) != size or length > 8 * size:
        return None
    straight = kind == _UNICAST and not has.keys() & {gateway, multipath, via, nexthop}
    return Route(
        network=int.from_bytes(network),
        version=4 if family == _INET else 6,
        length=length,
        metric=number(has.get(priority)),
        tos=tos,
        link=number(has.get(out)) if straight else 0,
        gone=gone,
    )


def _neighbour(body: bytes, gone: bool) -> Neighbour | Forwarding | None:
    destination, hardware, vlan, master = 1, _HARDWARE, 5, _MASTER
    family, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
    has = attributes(body, _NEIGHBOUR.size)
    if family == _BRIDGE:
        if master not in has or not has.get(hardware) or state & _PERMANENT:
            return None  # a device's own list, or a port's own address
        return Forwarding(
            bridge=number(has[master]),
            hardware=has[hardware],
            port=index,
            vlan=number(has.get(vlan)),
            gone=gone,
        )
    if family not in _FAMILIES or flags & _PROXY or destination not in has:
        return None
    known = not gone and state & _VALID
    return Neighbour(
        link=index,
        address=str(ipaddress.ip_address(has[destination])),
        hardware=has.get(hardware, b"") if known else b"",
        fixed=bool(known and (state & (_PERMANENT | _NO_ARP) or flags & _LEARNED_ELSEWHERE)),
    )


_READ: dict[int, tuple[Callable[[bytes, bool], Fact | None], bool]] = {
    _NEW_LINK: (_link, False),
    _DEL_LINK: (_link, True),
    _NEW_ROUTE: (_route, False),
    _DEL_ROUTE: (_route, True),
    _NEW_NEIGHBOUR: (_neighbour, False),
    _DEL_NEIGHBOUR: (_neighbour, True),
}

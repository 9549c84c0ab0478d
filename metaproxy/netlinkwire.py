"""Netlink's framing: messages in datagrams, attributes in messages, requests.

Knows: how both are laid out and aligned.
Must not know: what any message is about; sockets. Total: what is cut off ends what is read, and nothing is raised.

Source: linux/netlink.h.
"""

import struct
import sys
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")

ERROR, DONE, OVERRUN = 2, 3, 4
"""Kinds of messages that every family has."""

REQUEST, DUMP = 0x1, 0x300
INTERRUPTED = 0x10
"""The flag of a list that changed while it was told, so that something may be missing."""

_TYPE = 0x3FFF
"""An attribute's type without the flags in its highest bits."""


def request(kind: int, body: bytes, *, flags: int = REQUEST | DUMP) -> bytes:
    """A message to the kernel; to be sealed with a number."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, 0, 0) + body


def sealed(request: bytes, sequence: int) -> bytes:
    """The request under a number, by which its answer is known."""
    return request[:8] + struct.pack("=I", sequence) + request[12:]


def frames(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """The messages of a datagram: kind, flags, number and port of the request that it answers, body."""
    offset, size = 0, HEADER.size
    while offset + size <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < size or offset + length > len(data):
            return
        yield kind, flags, sequence, port, data[offset + size : offset + length]
        offset += (length + 3) & ~3


def ending(body: bytes) -> int:
    """The kernel's number for why a list has ended, 0 for that it is whole: what DONE and ERROR carry."""
    return -int.from_bytes(body[:4], sys.byteorder, signed=True)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, aligned."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(body: bytes, offset: int) -> dict[int, bytes]:
    """The attributes from there on, by their type; of two of a type the last."""
    found: dict[int, bytes] = {}
    while offset + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, offset)
        if length < ATTRIBUTE.size or offset + length > len(body):
            break
        found[kind & _TYPE] = body[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def number(data: bytes | None) -> int:
    """An attribute as a number; 0 where there is none."""
    return int.from_bytes(data, sys.byteorder) if data else 0

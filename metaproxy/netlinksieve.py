"""What rtnetlink tells that nobody wants: a bridge's word on hardware addresses that no pod has.

Knows: where such a message says whose word it is about; classic BPF, by which the kernel throws it away itself.
Must not know: sockets; which hardware addresses are wanted.

A pod can make the kernel say such things hundreds of thousands of times a second.

Sources: linux/rtnetlink.h, neighbour.h, filter.h.
"""

import struct
from collections.abc import Collection

from metaproxy.netlinkwire import ATTRIBUTE

_NEW_NEIGHBOUR, _DEL_NEIGHBOUR = 28, 29
_BRIDGE = 7
_HARDWARE = 2
_NEIGHBOURLY = (struct.pack("=H", _NEW_NEIGHBOUR), struct.pack("=H", _DEL_NEIGHBOUR))
_FIRST = ATTRIBUTE.pack(ATTRIBUTE.size + 6, _HARDWARE)
"""With what the attributes of a bridge's word on a hardware address begin."""
_TOLD = 38
"""Bytes up to the end of that hardware address."""
_INSTRUCTION = struct.Struct("=HBBI")
_INSTRUCTIONS = 4096
"""What the kernel takes of a program for a socket."""


def unwanted(data: bytes, hardware: Collection[bytes]) -> bool:
    """Whether the datagram is but a bridge's word on a hardware address that is none of these; without parsing it."""
    return data[28:32] == _FIRST and data[4:6] in _NEIGHBOURLY and _is_notice(data) and data[32:38] not in hardware


def sieve(hardware: Collection[bytes]) -> bytes:
    """The same as a program by which the kernel itself throws them away (classic BPF), empty if there are too many."""
    load_half, load_word, load_byte, length, equal, at_least, leave, jump = 0x28, 0x20, 0x30, 0x80, 0x15, 0x35, 6, 5
    new, gone = (int.from_bytes(each) for each in _NEIGHBOURLY)
    head = [
        (length, 0, 0, 0),
        (at_least, 0, 10, _TOLD),
        (load_half, 0, 0, 4),
        (equal, 1, 0, new),
        (equal, 0, 7, gone),
        (load_word, 0, 0, 12),
        (equal, 0, 5, 0),
        (load_byte, 0, 0, 16),
        (equal, 0, 3, _BRIDGE),
        (load_word, 0, 0, 28),
        (equal, 0, 1, int.from_bytes(_FIRST)),
        (jump, 0, 0, 1),
        (leave, 0, 0, 0xFFFFFFFF),
    ]
    for each in sorted(each for each in hardware if len(each) == 6):  # noqa: PLR2004  Ethernet's
        head += [
            (load_word, 0, 0, 32),
            (equal, 0, 3, int.from_bytes(each[:4])),
            (load_half, 0, 0, 36),
            (equal, 0, 1, int.from_bytes(each[4:])),
            (leave, 0, 0, 0xFFFFFFFF),
        ]
    head.append((leave, 0, 0, 0))
    return b"".join(_INSTRUCTION.pack(*each) for each in head) if len(head) <= _INSTRUCTIONS else b""


def _is_notice(data: bytes) -> bool:
    """Nobody asked for it, and it is about a bridge."""
    return data[12:17] == bytes((0, 0, 0, 0, _BRIDGE)) and len(data) >= _TOLD

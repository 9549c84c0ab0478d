"""Which network interfaces there are, as rtnetlink tells: their names, kinds, and what each stands on or belongs to.

Knows: where a link's message says so.
Must not know: sockets; what an interface means for anybody.

Sources: linux/rtnetlink.h, if_link.h.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from metaproxy.netlinkwire import attributes, number, request

NEW_LINK = 16
_GET_LINK = 18
_LINK = struct.Struct("=BxHiII")
_NAME, _BELOW, _MASTER, _INFO, _ELSEWHERE = 3, 5, 10, 18, 37
_KIND, _PORT_KIND = 1, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One of them. `kind` and `port_kind` (of a port: its master's) are the kernel's words, empty for hardware.

    `master` and `below` are indexes, 0 for none, or for one in another network namespace.
    """

    index: int
    name: str
    kind: str = ""
    master: int = 0
    port_kind: str = ""
    below: int = 0


def interface_request() -> bytes:
    """What asks for all of them; to be sealed with a number."""
    return request(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0))


def interfaces(bodies: list[bytes]) -> Iterator[Interface]:
    """Those that messages of `NEW_LINK` tell of."""
    for body in bodies:
        if len(body) < _LINK.size:
            continue
        has = attributes(body, _LINK.size)
        about = attributes(has.get(_INFO, b""), 0)
        yield Interface(
            index=_LINK.unpack_from(body)[2],
            name=_text(has.get(_NAME)),
            kind=_text(about.get(_KIND)),
            master=number(has.get(_MASTER)),
            port_kind=_text(about.get(_PORT_KIND)),
            below=0 if _ELSEWHERE in has else number(has.get(_BELOW)),
        )


def _text(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode("ascii", "backslashreplace")

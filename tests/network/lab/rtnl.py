"""Changes of addresses and routes at the kernel's own pace: a thousand processes of `ip` would take minutes.

Knows the layout of these few requests; must not know why they are made.
"""

import ipaddress
import os
import socket
import struct
from types import TracebackType
from typing import Self

from tests.network.lab.namespaces import Namespace

NEW_ADDRESS, DELETE_ADDRESS, NEW_ROUTE, DELETE_ROUTE = 20, 21, 24, 25
REQUEST, ACKNOWLEDGE, REPLACE, CREATE = 0x1, 0x4, 0x100, 0x400
NO_DETECTION = 0x02
MAIN, BOOT, LINK, UNICAST = 254, 3, 253, 1


class Rtnl:
    """A socket in a namespace; each change is made when the call returns."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.inside():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._namespace = namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def index(self, device: str) -> int:
        """A device's number."""
        with self._namespace.inside():
            return socket.if_nametoindex(device)

    def address(self, text: str, device: int, *, there: bool) -> None:
        """Add or remove an address, as one for itself."""
        family, packed = _parsed(text)
        flags = NO_DETECTION if family == socket.AF_INET6 else 0
        body = struct.pack("=BBBBI", family, len(packed) * 8, flags, 0, device) + _attribute(2, packed)
        self._do(NEW_ADDRESS if there else DELETE_ADDRESS, CREATE | REPLACE, body + _attribute(1, packed))

    def route(self, text: str, device: int, *, there: bool = True) -> None:
        """Lead an address to a device, wherever it led before; or no longer."""
        family, packed = _parsed(text)
        scope = LINK if family == socket.AF_INET else 0
        head = struct.pack("=BBBBBBBBI", family, len(packed) * 8, 0, 0, MAIN, BOOT, scope, UNICAST, 0)
        body = head + _attribute(1, packed) + _attribute(4, struct.pack("=I", device))
        self._do(NEW_ROUTE if there else DELETE_ROUTE, CREATE | REPLACE if there else 0, body)

    def _do(self, kind: int, flags: int, body: bytes) -> None:
        head = struct.pack("=IHHII", 16 + len(body), kind, REQUEST | ACKNOWLEDGE | flags, 1, 0)
        self._socket.send(head + body)
        (error,) = struct.unpack_from("=i", self._socket.recv(65536), 16)
        if error:
            raise OSError(-error, os.strerror(-error))


def _parsed(text: str) -> tuple[int, bytes]:
    address = ipaddress.ip_address(text)
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), address.packed


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

"""What Linux can do with sockets that Python has no words for.

Knows: a few socket options, and a way to tell the node's own addresses from others.
Must not know: who is calling, HTTP.
"""

import ctypes
import ipaddress
import socket
import struct
from typing import Protocol

_FREEBIND = {socket.AF_INET: (socket.SOL_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
"""IP_FREEBIND (linux/in.h) and IPV6_FREEBIND (linux/in6.h)."""

_ORIGINAL_DST = 80
"""SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h, netfilter_ipv6/ip6_tables.h)."""

_ATTACH_FILTER, _DETACH_FILTER = 26, 27
"""SO_ATTACH_FILTER and SO_DETACH_FILTER (asm-generic/socket.h)."""

_INSTRUCTION = struct.calcsize("=HBBI")

_DISCARD = 9


class Options(Protocol):
    """A socket, or what an event loop shows of one."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """An option as bytes; raises OSError."""
        ...


def listening(host: str, port: int, *, backlog: int, free: bool) -> socket.socket:
    """A socket that listens; `free`: also at an address that the node has not got yet.

    Raises:
        OSError: it cannot be had.
    """
    made = bound(host, port, free=free)
    try:
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made


def bound(host: str, port: int, *, free: bool, join: bool = False) -> socket.socket:
    """A socket that has the address and does not listen yet; `join`: beside others of this user who let it.

    Raises:
        OSError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if join:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family is socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if free:
            made.setsockopt(*_FREEBIND[family], 1)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def sift(one: socket.socket, program: bytes) -> None:
    """Have the kernel throw away what a program of classic BPF does not let through; without a program nothing.

    Raises:
        OSError: it does not; ENOENT: nothing was thrown away before.
    """
    if not program:
        one.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
        return
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // _INSTRUCTION, ctypes.addressof(held))
    one.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)


def original_destination(connected: Options, *, ipv6: bool) -> str:
    """Where the peer wanted to go before the node translated it; empty when nobody translated, or nobody knows.

    Needs no capability. On a connection that was not translated it is the address at which we listen.
    """
    level, size, first, last = (socket.IPPROTO_IPV6, 28, 8, 24) if ipv6 else (socket.SOL_IP, 16, 4, 8)
    try:
        told = connected.getsockopt(level, _ORIGINAL_DST, size)
    except OSError:
        # Not tracked at all, or no connection tracking in this kernel.
        return ""
    return str(ipaddress.ip_address(told[first:last])) if len(told) >= last else ""


def is_own(address: str) -> bool:
    """Whether the address is one of this node's, loopback aside: who calls from there was masqueraded, or is the node.

    The kernel would send to an own address from that address itself; a bind would not tell them apart where
    ip_nonlocal_bind is set. Nothing is sent.
    """
    try:
        if ipaddress.ip_address(address).is_loopback:
            return False
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((address, _DISCARD))
            return str(asking.getsockname()[0]) == address
    except (OSError, ValueError):
        return False


def device_name(index: int) -> str:
    """The device of that index in this network namespace, as long as there is one; else its number."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"#{index}"

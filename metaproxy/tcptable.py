"""Who listens on TCP, as the kernel tells it in /proc/net/tcp and /proc/net/tcp6 (proc(5)).

Knows: how the lines are written.
Must not know: who reads them, or whose sockets are ours.
"""

import ipaddress
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LISTEN = "0A"
"""TCP_LISTEN (net/tcp_states.h). The kernel tells of those that listen before all others."""

_FIELDS = 10
"""Of a line, up to the inode."""

_WORD = 8
"""Hexadecimal digits of an address's 32-bit word, each in the machine's own order."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A socket that listens: where, of which user, and its inode, which no other socket has."""

    host: str
    port: int
    uid: int
    inode: int

    def keeps(self, host: str, port: int) -> bool:
        """Whether it is in the way of who wants to listen there."""
        mine, theirs = ipaddress.ip_address(self.host), ipaddress.ip_address(host)
        if self.port != port:
            return False
        if mine.version != theirs.version:
            # A socket of IPv6 for every address may be one for IPv4 too; that is not told.
            return mine.version > theirs.version and mine.is_unspecified
        return mine == theirs or mine.is_unspecified or theirs.is_unspecified


def holders(lines: Iterable[str]) -> Iterator[Holder]:
    """Those that listen, up to the first line of one that does not. Total: what is no such line is passed over."""
    for line in lines:
        fields = line.split()
        if len(fields) < _FIELDS or ":" not in fields[1]:
            continue
        if fields[3] != _LISTEN:
            return
        host, _, port = fields[1].partition(":")
        try:
            yield Holder(_address(host), int(port, 16), int(fields[7]), int(fields[9]))
        except ValueError:
            continue


def _address(digits: str) -> str:
    words = [digits[at : at + _WORD] for at in range(0, len(digits), _WORD)]
    return str(ipaddress.ip_address(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)))

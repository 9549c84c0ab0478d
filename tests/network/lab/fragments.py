"""A TCP of its own in IP fragments or behind headers, from a pod's own address: what a filter of ports cannot see.

Knows: the layout of fragments and extension headers, and as much of TCP as one request takes.
Must not know: what is to come of it.
"""

import random
import socket
import struct
import time

from tests.network.lab.namespaces import Namespace
from tests.network.lab.node import GATEWAY_MAC
from tests.network.lab.spoofer import checksum, mac

_SYN, _RST, _PUSH_ACK = 2, 4, 24
_TCP, FRAGMENT, OPTIONS = 6, 44, 60
_FILLING = b"\1\4\0\0\0\0"
"""An option of IPv6 that is but filling."""


class Fragments:
    """One attempt from a pod with NET_RAW; its own kernel must not answer for it."""

    def __init__(self, pod: Namespace, source: str, target: str, chain: tuple[int, ...] = (FRAGMENT,)) -> None:
        """`chain`: the extension headers of each IPv6 packet, in their order; over IPv4 there are two fragments."""
        self._chain = chain
        self._six = ":" in source
        family = socket.AF_INET6 if self._six else socket.AF_INET
        self._source, self._target = socket.inet_pton(family, source), socket.inet_pton(family, target)
        pod.shell(
            "nft add table inet mute; nft 'add chain inet mute out { type filter hook output priority 0; }'\n"
            "nft add rule inet mute out tcp flags rst drop"
        )
        with pod.inside():
            self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._wire.bind(("eth0", 3))
        self._frame = mac(GATEWAY_MAC) + self._wire.getsockname()[4]
        self._port = random.randrange(20000, 60000)

    def ask(self, path: str, patience: float) -> bytes:
        """What a request is answered with, within some seconds; empty when nobody does, or refuses."""
        with self._wire:
            mine, theirs, said = random.randrange(1 << 31), 0, b""
            self._send(_SYN, mine, 0)
            end = time.monotonic() + patience
            while (left := end - time.monotonic()) > 0:
                self._wire.settimeout(left)
                try:
                    segment = self._segment(self._wire.recv(65536))
                except TimeoutError:
                    return said
                if len(segment) < 20 or int.from_bytes(segment[2:4]) != self._port:
                    continue
                flags, number, data = segment[13], int.from_bytes(segment[4:8]), segment[(segment[12] >> 4) * 4 :]
                if flags & _RST:
                    return b""
                if flags & _SYN and not theirs:
                    mine, theirs = mine + 1, number + 1
                    self._send(_PUSH_ACK, mine, theirs, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                elif theirs == number and data:
                    said, theirs = said + data, theirs + len(data)
                    if b"service" in said:
                        return said
            return said

    def _send(self, flags: int, number: int, acknowledged: int, data: bytes = b"") -> None:
        head = struct.pack("!HHIIBBHHH", self._port, 80, number, acknowledged, 5 << 4, flags, 65535, 0, 0)
        length = len(head) + len(data)
        pseudo = struct.pack("!II", length, _TCP) if self._six else struct.pack("!BBH", 0, _TCP, length)
        sum_ = checksum(self._source + self._target + pseudo + head + data)
        segment = head[:16] + sum_ + head[18:] + data
        name = random.randrange(1, 65535)
        if self._six:
            first, whole = _TCP, segment
            for kind in reversed(self._chain):
                body = struct.pack("!HI", 0, name) if kind == FRAGMENT else _FILLING
                first, whole = kind, bytes((first, 0)) + body + whole
            packet = struct.pack("!IHBB", 6 << 28, len(whole), first, 64) + self._source + self._target + whole
            self._wire.send(self._frame + b"\x86\xdd" + packet)
            return
        for offset, part, more in ((0, segment[:16], 1), (16, segment[16:], 0)):
            where = more << 13 | offset // 8
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), name, where, 64, _TCP, 0)
            ip += self._source + self._target
            self._wire.send(self._frame + b"\x08\x00" + ip[:10] + checksum(ip) + ip[12:] + part)

    def _segment(self, frame: bytes) -> bytes:
        """The TCP segment in a frame from whom was asked; empty for anything else."""
        packet = frame[14:]
        if self._six:
            ours = frame[12:14] == b"\x86\xdd" and packet[6] == _TCP and packet[8:24] == self._target
            return packet[40 : 40 + int.from_bytes(packet[4:6])] if ours else b""
        ours = frame[12:14] == b"\x08\x00" and packet[9] == _TCP and packet[12:16] == self._target
        return packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4])] if ours else b""

"""A pod that takes a neighbour's address with raw frames, and speaks TCP for it without its own kernel's knowledge.

Knows the wire of Ethernet, ARP, neighbour discovery and as much of TCP as one request needs.
Must not know what the answer should be.

A pod with NET_RAW, which container runtimes give by default, can do all of this.
"""

import ipaddress
import random
import socket
import struct
import time
from types import TracebackType
from typing import Self

from tests.network.lab.namespaces import Namespace

ALL = 0x0003
PROMISCUOUS = struct.pack("iHH8s", 0, 1, 0, b"")
SOL_PACKET, ADD_MEMBERSHIP = 263, 1
ARP, IP4, IP6, TCP, ICMP6 = 0x0806, 0x0800, 0x86DD, 6, 58
FIN, SYN, RST, PUSH, ACK = 1, 2, 4, 8, 16
SOLICITATION, ADVERTISEMENT = 135, 136


def mac(text: str) -> bytes:
    """A hardware address as it is on the wire."""
    return bytes.fromhex(text.strip().replace(":", ""))


class Spoofer:
    """Answers for `address` with `hardware`, in frames that come from `source` (the same, unless told otherwise).

    `gateway` is the node's hardware address on the bridge, `router` its address there.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        address: str,
        router: str,
        gateway: bytes,
        hardware: bytes,
        source: bytes | None = None,
    ) -> None:
        self._address, self._router = (ipaddress.ip_address(each).packed for each in (address, router))
        self._gateway, self._hardware, self._from = gateway, hardware, source or hardware
        self._v6 = len(self._address) == 16
        self.shaken = 0
        with namespace.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
            index = socket.if_nametoindex("eth0")
        self._socket.bind(("eth0", ALL))
        self._socket.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, struct.pack("i", index) + PROMISCUOUS[4:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def announce(self) -> None:
        """Tell the node, unasked, that the address is here."""
        if self._v6:
            self._advertise(self._router)
        else:
            self._arp(self._gateway, self._router)

    def ask(self, target: str, path: str, *, patience: float = 0.5) -> bytes:
        """Everything that comes back on a connection from the address in which the path is asked for.

        Ends when the other side does, or after some seconds of nothing.
        """
        self._peer, self._ports = ipaddress.ip_address(target).packed, (random.randrange(20000, 60000), 80)
        number, expected, said = random.randrange(1 << 32), 0, b""
        self.announce()
        self._segment(SYN, number, 0)
        end = time.monotonic() + patience
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame = self._socket.recv(65536)
            except TimeoutError:
                break
            if (segment := self._read(frame)) is None:
                continue
            flags, theirs, payload = segment
            if flags & RST:
                break
            if flags & SYN:
                if not expected:
                    self.shaken += 1
                    number, expected = (number + 1) & 0xFFFFFFFF, (theirs + 1) & 0xFFFFFFFF
                    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
                    self._segment(ACK, number, expected)
                    self._segment(ACK | PUSH, number, expected, request)
                    number = (number + len(request)) & 0xFFFFFFFF
            elif theirs == expected:
                said += payload
                expected = (expected + len(payload) + (flags & FIN)) & 0xFFFFFFFF
                self._segment(ACK, number, expected)
                if flags & FIN:
                    break
        return said

    def answer(self, seconds: float) -> None:
        """Only answer for the address, for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                self._answered(self._socket.recv(65536))
            except TimeoutError:
                return

    def _read(self, frame: bytes) -> tuple[int, int, bytes] | None:
        """Flags, number and payload of a segment of ours; questions for the address are answered."""
        if self._answered(frame):
            return None
        kind, packet = frame[12:14], frame[14:]
        if not self._v6 and kind == struct.pack("!H", IP4) and packet[9] == TCP:
            here, there, body = packet[16:20], packet[12:16], packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4])]
        elif self._v6 and kind == struct.pack("!H", IP6) and packet[6] == TCP:
            here, there, body = packet[24:40], packet[8:24], packet[40 : 40 + int.from_bytes(packet[4:6])]
        else:
            return None
        if (here, there) != (self._address, self._peer) or struct.unpack("!HH", body[:4]) != self._ports[::-1]:
            return None
        return body[13], int.from_bytes(body[4:8]), body[(body[12] >> 4) * 4 :]

    def _answered(self, frame: bytes) -> bool:
        kind, packet = int.from_bytes(frame[12:14]), frame[14:]
        if not self._v6 and kind == ARP and packet[6:8] == b"\0\1" and packet[24:28] == self._address:
            self._arp(packet[8:14], packet[14:18])
            return True
        if self._v6 and kind == IP6 and packet[6] == ICMP6 and packet[40] == SOLICITATION:
            if packet[48:64] == self._address and any(packet[8:24]):
                self._advertise(packet[8:24], solicited=True)
            return True
        return False

    def _arp(self, to: bytes, asker: bytes) -> None:
        head = struct.pack("!HHBBH", 1, IP4, 6, 4, 2)
        self._send(ARP, head + self._hardware + self._address + to + asker, to)

    def _advertise(self, asker: bytes, *, solicited: bool = False) -> None:
        flags = 0x20000000 | (0x40000000 if solicited else 0)
        body = struct.pack("!BBHI", ADVERTISEMENT, 0, 0, flags) + self._address + b"\x02\x01" + self._hardware
        total = checksum(self._address + asker + struct.pack("!II", len(body), ICMP6) + body)
        head = struct.pack("!IHBB", 6 << 28, len(body), ICMP6, 255)
        self._send(IP6, head + self._address + asker + body[:2] + total + body[4:])

    def _segment(self, flags: int, number: int, expected: int, payload: bytes = b"") -> None:
        body = struct.pack("!HHIIBBHHH", *self._ports, number, expected, 5 << 4, flags, 65535, 0, 0) + payload
        total = checksum(self._address + self._peer + struct.pack("!II", len(body), TCP) + body)
        body = body[:16] + total + body[18:]
        if self._v6:
            head = struct.pack("!IHBB", 6 << 28, len(body), TCP, 64) + self._address + self._peer
            self._send(IP6, head + body)
            return
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, TCP, 0) + self._address + self._peer
        self._send(IP4, head[:10] + checksum(head) + head[12:] + body)

    def _send(self, kind: int, packet: bytes, to: bytes | None = None) -> None:
        self._socket.send((to or self._gateway) + self._from + struct.pack("!H", kind) + packet)


def checksum(data: bytes) -> bytes:
    """The Internet's."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)

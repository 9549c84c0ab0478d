"""The real metadata service: owns the real addresses, answers everybody, and writes down whom before it does.

    python -m tests.network.lab.recorder FILE ADDRESS...

Knows: who asked for what, over which protocol, at which address and port. Must not know: who was allowed to.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import cast

MARK = b"I am the real metadata service"
TCP_PORTS = (80, 8080)
UDP_PORT = 80


class Record:
    """Lines of JSON in a file, complete before anything is answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def add(self, protocol: str, to: str, port: int, peer: str, path: str) -> None:
        """Somebody asked; an empty path: they connected and asked nothing."""
        line = {"protocol": protocol, "to": to, "port": port, "peer": peer, "path": path}
        self._file.write(json.dumps(line) + "\n")


class Datagrams(asyncio.DatagramProtocol):
    """UDP: each datagram is answered."""

    def __init__(self, record: Record, address: str) -> None:
        self._record, self._address = record, address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        # asyncio's own transport of datagrams says of itself only that it is a transport.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer it."""
        self._record.add("udp", self._address, UDP_PORT, addr[0], data.decode(errors="replace"))
        self._transport.sendto(MARK, addr)


async def main(path: str, addresses: list[str]) -> None:
    """Serve until ended."""
    record, loop = Record(Path(path)), asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (to, port), peer = writer.get_extra_info("sockname")[:2], writer.get_extra_info("peername")[0]
        asked = False
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked = True
                record.add("tcp", to, port, peer, head.split(b" ", 2)[1].decode())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(MARK), MARK))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            if not asked:
                record.add("tcp", to, port, peer, "")
        finally:
            writer.close()

    for address in addresses:
        for port in TCP_PORTS:
            await asyncio.start_server(serve, address, port, backlog=1024)
        await loop.create_datagram_endpoint(lambda to=address: Datagrams(record, to), (address, UDP_PORT))  # type: ignore[misc]
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))

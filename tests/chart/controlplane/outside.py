"""What is outside of the nodes' networks and reached from them all the same: the API server, and an STS.

Knows: how a port of loopback here is that port of loopback in another network namespace.
Must not know: who asks, and what for.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.fakes.aside import Aside
from tests.fakes.sts import FakeSts
from tests.network.lab.namespaces import Namespace


class Outside(Aside):
    """For as long as the context lasts.

    Attributes:
        sts: the STS, which listens on loopback here; `sts.asked` may be read from any thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sts = FakeSts()
        self._servers: list[asyncio.Server] = []

    @property
    def sts_port(self) -> int:
        """Where the STS listens, here and wherever a way leads to it."""
        return int(self.sts.url.rpartition(":")[2])

    def lead(self, namespace: Namespace, *ports: int) -> None:
        """Whoever asks these ports of loopback in the namespace reaches those of loopback here."""
        for port in ports:
            with namespace.inside():
                bound = socket.create_server(("127.0.0.1", port))
            self._on_loop(self._listen(bound, port))

    @asynccontextmanager
    async def _living(self) -> AsyncIterator[None]:
        async with self.sts:
            yield
            for server in self._servers:
                server.close()

    async def _listen(self, bound: socket.socket, port: int) -> None:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Cancelled when all is over.
            with suppress(OSError, asyncio.CancelledError):
                there, back = await asyncio.open_connection("127.0.0.1", port)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(_pump(reader, back))
                        group.create_task(_pump(there, writer))
                finally:
                    back.close()
            writer.close()

        self._servers.append(await asyncio.start_server(carry, sock=bound))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

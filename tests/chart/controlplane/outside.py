"""What is outside of the nodes' networks and reached from them all the same: the API server, and an STS.

Knows: how a port of loopback here is that port of loopback in another network namespace.
Must not know: who asks, and what for.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.fakes.sts import FakeSts
from tests.network.lab.namespaces import PATIENCE, Namespace


class Outside:
    """Runs in a thread of its own for as long as the context lasts.

    Attributes:
        sts: the STS, which listens on loopback here; `sts.asked` may be read from any thread.
    """

    def __init__(self) -> None:
        self.sts = FakeSts()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outside")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def sts_port(self) -> int:
        """Where the STS listens, here and wherever a way leads to it."""
        return int(self.sts.url.rpartition(":")[2])

    def lead(self, namespace: Namespace, *ports: int) -> None:
        """Whoever asks these ports of loopback in the namespace reaches those of loopback here."""
        for port in ports:
            with namespace.inside():
                bound = socket.create_server(("127.0.0.1", port))
            asyncio.run_coroutine_threadsafe(self._listen(bound, port), self._loop).result(PATIENCE)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with self.sts:
            self._ready.set()
            await self._over.wait()
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

"""A network namespace for one client at a time: what it sends to the metadata address arrives at an agent as a pod's.

Knows: how a client's connections are led on, and what passes there.
Must not know: what the client is, what is expected of it.

The client is told nothing: 169.254.169.254 and fd00:ec2::254 are addresses of its namespace, and whoever connects to
them is led to the agent from the pod's address, as the redirect of a node does. Nothing is changed on the way.
"""

import asyncio
import contextlib
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

from metaproxy.addresses import METADATA_IPV4, METADATA_IPV6
from tests.conformance.exchanges import Exchange, Heads, Statuses, Step, requested
from tests.conformance.proving import Proofs, Prover
from tests.network.lab.namespaces import Namespace

PROVE_AT = ("127.0.0.1", 8080)


@dataclass
class Traffic:
    """What one client did: where it is led, its requests so far, how it proved itself.

    `began` is the loop's time of the first request. The events are set by the first request, by the first for the role
    list, and when that one has its answer or its connection has ended without.
    """

    pod: str
    agent: tuple[str, int]
    requests: list[Exchange] = field(default_factory=list)
    proofs: Proofs = field(default_factory=Proofs)
    began: float = 0.0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, head: str) -> Exchange:
        """A request with this head goes to the agent now."""
        request = requested(head)
        request.asked = asyncio.get_running_loop().time()
        if not self.requests:
            self.began = request.asked
            self.arrived.set()
        self.requests.append(request)
        if request.step is Step.LIST:
            self.listed.set()
        return request

    def ended(self, request: Exchange, status: int = 0, *, left: bool = False) -> None:
        """The request has an answer of this status, or will have none: the client has left, or else the agent."""
        request.left = left
        request.status, request.after = status, asyncio.get_running_loop().time() - request.asked
        if request.step is Step.LIST:
            self.settled.set()


class Post:
    """The namespace; `traffic` says who is in it now."""

    def __init__(self, number: int, prover: Prover) -> None:
        self._prover = prover
        self._stack = contextlib.AsyncExitStack()
        self._number = number
        self._carrying: set[asyncio.Task[None]] = set()
        self.traffic = Traffic("", ("", 0))
        self.namespace: Namespace

    async def __aenter__(self) -> Self:
        async with self._stack:
            self.namespace = await asyncio.to_thread(Namespace, f"client{self._number}")
            self._stack.push_async_callback(asyncio.to_thread, self.namespace.close)
            await asyncio.to_thread(
                self.namespace.shell,
                f"ip addr add {METADATA_IPV4}/32 dev lo; ip addr add {METADATA_IPV6}/128 dev lo nodad",
            )
            self._stack.push_async_callback(self._stop_carrying)
            for address in (METADATA_IPV4, METADATA_IPV6):
                sock = await asyncio.to_thread(listening, self.namespace, (address, 80))
                server = await asyncio.start_server(self._accept, sock=sock)
                await self._stack.enter_async_context(server)
            runner = web.ServerRunner(web.Server(self._prove), shutdown_timeout=0)
            await runner.setup()
            self._stack.push_async_callback(runner.cleanup)
            await web.SockSite(runner, await asyncio.to_thread(listening, self.namespace, PROVE_AT)).start()
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _prove(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._prover.answer(request, self.traffic.proofs)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A stream server holds its handlers by their connection alone, which may go before they do.
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _stop_carrying(self) -> None:
        carrying = list(self._carrying)
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        traffic, heads, statuses = self.traffic, Heads(), Statuses()
        waiting: deque[Exchange] = deque()
        gone: list[str] = []  # who has hung up, in the order in which they did
        try:
            host, port = traffic.agent
            there, back = await asyncio.open_connection(host, port, local_addr=(traffic.pod, 0))
        except OSError:
            # As a node does when the agent is down: the connection is refused, here a moment later.
            writer.transport.abort()
            return

        async def asked() -> None:
            with suppress(OSError):  # a side that is gone, however that shows
                while data := await reader.read(65536):
                    for head in heads.feed(data):
                        waiting.append(traffic.saw(head))
                    back.write(data)
                    await back.drain()
            gone.append("client")
            with suppress(OSError):
                back.write_eof()

        async def answered() -> None:
            with suppress(OSError):
                while data := await there.read(65536):
                    for status in statuses.feed(data):
                        traffic.ended(waiting.popleft(), status)
                    writer.write(data)
                    await writer.drain()
            gone.append("agent")
            with suppress(OSError):
                writer.write_eof()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asked())
                group.create_task(answered())
        finally:
            for request in waiting:
                traffic.ended(request, left=gone[:1] == ["client"])
            for end in (writer, back):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()


def listening(namespace: Namespace, address: tuple[str, int]) -> socket.socket:
    """A socket in the namespace that is bound to the address, for a server of this process.

    Entering a namespace may take long beside others that are made: not on a loop that others are carried on.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with namespace.inside():
        made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    return made

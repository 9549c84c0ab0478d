"""The whole agent in this loop, and the wire from a pod to it: nothing in between is made up.

A pod is a loopback address. `wire` does what a node's redirect does: connections to it come out with the pod's address.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from metaproxy.app import Agent
from metaproxy.settings import Settings

PATIENCE = 30.0
"""Seconds: many times what anything here takes."""


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Agent]:
    """An agent with these flags, listening on ports of its own choice."""
    # In a thread, as nothing in the loop may look at files.
    settings = await asyncio.to_thread(
        Settings.load, ["--server.listen=127.0.0.1:0", "--admin.listen=127.0.0.1:0", *arguments]
    )
    agent, stop = Agent(settings), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run(stop), name="agent")
        try:
            async with asyncio.timeout(PATIENCE):
                await agent.listening.wait()
            yield agent
        finally:
            stop.set()


def url(agent: Agent) -> str:
    """Where pods reach it."""
    host, port = agent.addresses[0]
    return f"http://{host}:{port}"


async def ask(
    where: str, pod: str, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Ask as the pod, on a connection of its own: status, body, headers."""
    connector = aiohttp.TCPConnector(local_addr=(pod, 0))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
        session.request(method, f"{where}{path}", headers=headers or {}) as response,
    ):
        return response.status, await response.read(), dict(response.headers)


@asynccontextmanager
async def wire(where: str, pod: str) -> AsyncIterator[str]:
    """An address for an unmodified SDK: what it sends there arrives at the agent from the pod's address."""
    host, _, port = where.removeprefix("http://").partition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port), local_addr=(pod, 0))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back))
                group.create_task(_pump(there, writer))
        finally:
            for end in (writer, back):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def pod_yaml(namespace: str, name: str, address: str, **annotations: str) -> str:
    """A pod as a manifest; annotations by their names below iam.amazonaws.com/."""
    marks = ", ".join(f"'iam.amazonaws.com/{key.replace('_', '-')}': '{value}'" for key, value in annotations.items())
    status = f"status: {{phase: Running, podIP: {address}}}\n" if address else ""
    return f"kind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, annotations: {{{marks}}}}}\n{status}---\n"


def namespace_yaml(name: str, permitted: str = ".*") -> str:
    """A namespace that permits what the expression matches."""
    marks = f"{{iam.amazonaws.com/permitted: '{permitted}'}}"
    return f"kind: Namespace\nmetadata: {{name: {name}, annotations: {marks}}}\n---\n"


async def write(path: Path, *documents: str) -> None:
    """Write manifests as a careful author does: aside, then renamed over."""
    aside = path.with_suffix(".tmp")
    await asyncio.to_thread(aside.write_text, "".join(documents))
    await asyncio.to_thread(aside.rename, path)

"""An agent that is to hear the kernel and may not is not ready, and says why to whoever asks."""

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest

from metaproxy.app import Agent
from metaproxy.settings import Settings
from metaproxy.sockets import listening
from metaproxy.witness import Witness

pytestmark = pytest.mark.sockets


def refuse() -> tuple[socket.socket, int]:
    """What a kernel does to who may not open a netlink socket."""
    raise OSError("Operation not permitted")


@pytest.fixture(params=["on", "off"])
def mode(request: pytest.FixtureRequest) -> str:
    """Of the witness."""
    return str(request.param)


@pytest.fixture
def agent(tmp_path: Path, mode: str) -> Agent:
    """One whose witness is in that mode."""
    return Agent(Settings.load([f"--source.manifests={tmp_path}", f"--caller.witness={mode}"]))


async def test_who_cannot_hear_the_kernel_is_not_ready(agent: Agent, mode: str) -> None:
    """While a witness is wanted; who says that none is has none to miss."""
    tasks = []
    if mode == "on":
        assert isinstance(agent._witness, Witness)
        agent._witness._connect = refuse
        tasks.append(asyncio.create_task(agent._witness.run()))
        await asyncio.sleep(0)
    await agent.admin.open([listening("127.0.0.1", 0, backlog=16, free=False)])
    host, port = agent.admin.address
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/readyz") as response:
            lines = (await response.text()).splitlines()
    finally:
        await agent.admin.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    said = {"on": "[-] witness: the kernel cannot be heard: Operation not permitted", "off": "[+] witness: ok"}
    assert said[mode] in lines

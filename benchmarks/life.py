"""The agent's life: how long until it is ready, how fast new pods get credentials, how much memory it takes.

Knows: a fake API server and a slow STS around a real process.
Must not know: how any of it is shown.
"""

import asyncio
import statistics
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from benchmarks.load import LIST
from benchmarks.parts import NODE, Agent, SlowSts, slow_sts
from tests.fakes.kube_api import FakeKubeApi

STS = 0.05
"""Seconds that STS takes."""

PODS, ROLES, MANY = 110, 30, 2000


@dataclass(slots=True, kw_only=True)
class Life:
    """Milliseconds, and MiB."""

    event: list[float] = field(default_factory=list)
    full_node: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    resident: dict[int, float] = field(default_factory=dict)
    proportional: dict[int, float] = field(default_factory=dict)


def address(number: int) -> str:
    """A loopback address for a pod."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def add_pod(api: FakeKubeApi, number: int, role: str) -> None:
    """A pod of the node, running, with its address."""
    name = f"pod-{number}"
    api.create_pod(
        "team",
        name,
        node=NODE,
        annotations={"iam.amazonaws.com/role": role, "iam.amazonaws.com/session-name": role},
    )
    api.set_pod_status("team", name, [address(number)])


@asynccontextmanager
async def surroundings(pods: int, *, delay: float = STS) -> AsyncIterator[tuple[FakeKubeApi, SlowSts, Path]]:
    """An API server with that many pods, and an STS."""
    with tempfile.TemporaryDirectory() as folder:
        async with FakeKubeApi() as api, slow_sts(delay) as sts:
            api.create_namespace("team", {"iam.amazonaws.com/permitted": ".*"})
            for number in range(pods):
                add_pod(api, number, f"role-{number % ROLES}")
            yield api, sts, Path(folder)


async def ready(agent: Agent) -> float:
    """The moment from which /readyz answers 200."""
    return await asyncio.to_thread(_ready, agent.admin)


def _ready(port: int) -> float:
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return time.monotonic()
        time.sleep(0.005)


async def ask(agent: Agent, number: int) -> tuple[float, str]:
    """Ask for the role list as a pod: the moment of the answer, and the answer."""
    connector = aiohttp.TCPConnector(local_addr=(address(number), 0))
    async with aiohttp.ClientSession(connector=connector) as session, session.get(f"{agent.url}{LIST}") as response:
        text = await response.text()
    return time.monotonic(), text


async def measure(rounds: int) -> Life:
    """Everything, each several times."""
    life = Life()
    for _ in range(rounds):
        await _start(life)
        await _full_node(life)
    await _events(life, rounds * 4)
    for pods in (0, PODS, MANY):
        await _memory(life, pods)
    return life


async def _start(life: Life) -> None:
    async with surroundings(PODS) as (api, sts, folder):
        agent = Agent(api, sts, folder)
        try:
            life.ready.append((await ready(agent) - agent.begun) * 1000)
            moment, text = await ask(agent, 7)
            assert text == "role-7", text
            life.answer.append((moment - agent.begun) * 1000)
        finally:
            agent.close()


async def _full_node(life: Life) -> None:
    async with surroundings(0) as (api, sts, folder):
        agent = Agent(api, sts, folder)
        try:
            await ready(agent)
            begun = time.monotonic()
            for number in range(PODS):
                add_pod(api, number, f"role-{number % ROLES}")
            await sts.until(ROLES)
            life.full_node.append((max(sts.answered.values()) - begun) * 1000)
            _, text = await ask(agent, PODS - 1)
            assert text == f"role-{(PODS - 1) % ROLES}", text
        finally:
            agent.close()


async def _events(life: Life, count: int) -> None:
    async with surroundings(0) as (api, sts, folder):
        agent = Agent(api, sts, folder)
        try:
            await ready(agent)
            for number in range(count):
                asked = asyncio.create_task(ask(agent, number))
                # The request is there first, so its answer tells when the key was: nothing is polled.
                await asyncio.sleep(0.1)
                begun = time.monotonic()
                add_pod(api, number, f"fresh-{number}")
                moment, text = await asked
                assert text == f"fresh-{number}", text
                life.event.append((moment - begun - STS) * 1000)
        finally:
            agent.close()


async def _memory(life: Life, pods: int) -> None:
    async with surroundings(pods) as (api, sts, folder):
        agent = Agent(api, sts, folder)
        try:
            await ready(agent)
            await sts.until(min(ROLES, pods))
            if pods:
                await ask(agent, 0)
            await asyncio.sleep(2)
            life.resident[pods] = agent.resident()
            life.proportional[pods] = agent.proportional()
        finally:
            agent.close()


def each_more(values: dict[int, float]) -> float:
    """KiB for each pod more."""
    return (values[MANY] - values[PODS]) / (MANY - PODS) * 1024


def median(values: list[float]) -> float:
    """The middle of what was measured."""
    return statistics.median(values)

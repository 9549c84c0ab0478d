"""Crowds of connections against the agent as a process that may open 1,024 files: nobody else is kept waiting.

Pods are loopback addresses; STS is scripted.
"""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.agent import namespace_yaml, pod_yaml
from tests.fakes.process import ROLES, AgentProcess, running
from tests.fakes.sts import FakeSts

pytestmark = pytest.mark.timeout(180)

WEB, CROWD = "127.0.0.2", "127.0.0.3"
MANY = 1500
LIMIT = ("prlimit", "--nofile=1024:1024")
ROOM = 768
"""What may be connected of 1,024 files."""


@pytest.fixture(scope="module", autouse=True)
def enough_files() -> Iterator[None]:
    """The pods' ends of all the connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard > 2 * MANY, "this test needs a higher hard limit of open files"
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def sts() -> AsyncIterator[FakeSts]:
    """An STS that gives what is asked for."""
    async with FakeSts() as made:
        yield made


def arguments(folder: Path, sts: FakeSts) -> tuple[str, ...]:
    """One pod with a role; who crowds is any other address."""
    pods = folder / "pods.yaml"
    pods.write_text(namespace_yaml("shop") + pod_yaml("shop", "web", WEB, role="shop-web"))
    return (f"--source.manifests={pods}", f"--sts.endpoint-url={sts.url}", "--server.hold=9")


@contextmanager
def crowd(where: str, number: int, *sources: str) -> Iterator[list[socket.socket]]:
    """Connections that never say anything, from each of the addresses in turn."""
    host, _, port = where.partition(":")
    made: list[socket.socket] = []
    try:
        for count in range(number):
            source = (sources[count % len(sources)], 0)
            made.append(socket.create_connection((host, int(port)), timeout=60, source_address=source))
        yield made
    finally:
        for each in made:
            each.close()


async def metrics(agent: AgentProcess) -> dict[str, float]:
    """All that is counted."""
    status, text = await agent.admin_get("/metrics")
    assert status == 200
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def refused(counted: dict[str, float], reason: str, listener: str = "http") -> float:
    """Connections that were closed for that reason."""
    return counted.get(f'metaproxy_{listener}_connections_refused_total{{reason="{reason}"}}', 0)


def opened(agent: AgentProcess) -> list[int]:
    """The numbers of the files that the agent has open."""
    return [int(each.name) for each in Path(f"/proc/{agent.process.pid}/fd").iterdir()]


async def test_a_pod_that_opens_without_end_keeps_no_neighbour_waiting(tmp_path: Path, sts: FakeSts) -> None:
    """1,500 silent connections of one address: its neighbour has its credentials, and so has whoever is behind it."""
    async with running(tmp_path, *arguments(tmp_path, sts), prefix=LIMIT) as agent:
        await agent.until_ready()
        await agent.until_told(WEB, 200, "shop-web")
        with crowd(f"{agent.host}:8181", MANY, CROWD):
            for _ in range(20):
                assert await agent.ask(WEB) == (200, b"shop-web")
            assert (await agent.ask(WEB, f"{ROLES}shop-web"))[0] == 200
            assert (await agent.ask(CROWD, "/latest/"))[0] == 404
            counted = await metrics(agent)
        assert counted["metaproxy_descriptors_limit"] == 1024
        assert counted["metaproxy_http_connections"] <= 513
        assert refused(counted, "TooManyConnections") >= MANY - 512
        assert len(opened(agent)) < 1024 - 100
        told = [line for line in agent.log().splitlines() if "connection refused" in line]
        assert len(told) == 1
        assert CROWD in told[0]
        assert "TooManyConnections" in told[0]


async def test_many_crowds_keep_no_neighbour_waiting(tmp_path: Path, sts: FakeSts) -> None:
    """Five addresses that take every place: who has most gives way, to each other pod."""
    async with running(tmp_path, *arguments(tmp_path, sts), prefix=LIMIT) as agent:
        await agent.until_ready()
        await agent.until_told(WEB, 200, "shop-web")
        with crowd(f"{agent.host}:8181", MANY, *(f"127.0.1.{last}" for last in range(1, 6))):
            for _ in range(20):
                assert await agent.ask(WEB) == (200, b"shop-web")
            for last in range(10, 30):
                assert (await agent.ask(f"127.0.1.{last}", "/latest/"))[0] == 404
            counted = await metrics(agent)
        assert counted["metaproxy_http_connections"] <= ROOM
        assert refused(counted, "CrowdedOut") >= MANY - ROOM
        assert counted['metaproxy_http_accept_failures_total{reason="EMFILE"}'] == 0


async def test_a_crowd_at_the_admin_port_stops_nothing(tmp_path: Path, sts: FakeSts) -> None:
    """1,500 silent connections there hold few descriptors; probes, scrapes and pods are answered."""
    async with running(tmp_path, *arguments(tmp_path, sts), prefix=LIMIT) as agent:
        await agent.until_ready()
        await agent.until_told(WEB, 200, "shop-web")
        before = len(opened(agent))
        with crowd(agent.admin, MANY, CROWD):
            for path in ("/livez", "/readyz", "/metrics", "/status", f"/explain?ip={WEB}"):
                assert (await agent.admin_get(path))[0] == 200
            assert await agent.ask(WEB) == (200, b"shop-web")
            counted = await metrics(agent)
            assert len(opened(agent)) <= before + 64
        assert refused(counted, "TooManyConnections", "admin") >= MANY - 64


async def test_the_soft_limit_is_raised(tmp_path: Path, sts: FakeSts) -> None:
    """As far as it may be: most runtimes give 1,024 and let a process have more."""
    async with running(tmp_path, *arguments(tmp_path, sts), prefix=("prlimit", "--nofile=1024:4096")) as agent:
        await agent.until_up()
        assert (await metrics(agent))["metaproxy_descriptors_limit"] == 4096
        assert resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE) == (4096, 4096)
    assert "limit of open files raised" in agent.log()


async def test_without_descriptors_it_says_so_and_goes_on(tmp_path: Path, sts: FakeSts) -> None:
    """Something else has taken every descriptor: a crowd gives way to a neighbour, and after that all is as before."""
    async with running(tmp_path, *arguments(tmp_path, sts), "--log.format=json") as agent:
        await agent.until_ready()
        await agent.until_told(WEB, 200, "shop-web")
        pid = agent.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(opened(agent)) + 4, hard))
        with crowd(f"{agent.host}:8181", 50, CROWD):
            for _ in range(5):
                assert await agent.ask(WEB) == (200, b"shop-web")
            asking = asyncio.create_task(agent.admin_get("/metrics"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            assert (await asking)[0] == 200
        counted = await metrics(agent)
        assert counted['metaproxy_http_accept_failures_total{reason="EMFILE"}'] > 0
        (told,) = [line for line in agent.log().splitlines() if "connections cannot be accepted" in line]
        assert "LimitNOFILE" in told
        assert await agent.ask(WEB) == (200, b"shop-web")

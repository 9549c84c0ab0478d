"""Upgrades as an operator does them: real processes, one after the other on the same addresses, and clients that must
not notice.

Pods come from files; STS is scripted. The load is made by a process of its own.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.agent import namespace_yaml, pod_yaml, write
from tests.fakes.process import AgentProcess, until
from tests.fakes.sts import FakeSts

pytestmark = pytest.mark.timeout(240)

TOKEN = "/latest/api/token"
TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
PODS = [f"127.0.0.{number}" for number in range(2, 10)]

TAKEOVERS = 10
RATE = 1000
"""Requests a second that the load has to reach, on average, while processes come and go."""


@dataclass
class Line:
    """Processes that follow one another at the same addresses."""

    sts: FakeSts
    folder: Path
    arguments: tuple[str, ...] = ()
    agents: list[AgentProcess] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        """Where one asks the other."""
        return self.folder / "handover.sock"

    @property
    def now(self) -> AgentProcess:
        """The newest."""
        return self.agents[-1]

    async def next(self, *arguments: str) -> AgentProcess:
        """Start one more, with the first one's addresses."""
        folder = self.folder / str(len(self.agents))
        folder.mkdir()
        agent = AgentProcess(
            folder,
            (
                f"--source.manifests={self.folder / 'pods.yaml'}",
                f"--sts.endpoint-url={self.sts.url}",
                f"--handover.socket={self.socket}",
                *self.arguments,
                *arguments,
            ),
            {},
            host=self.agents[0].host if self.agents else None,
        )
        self.agents.append(agent)
        await agent.start()
        return agent

    async def follow(self, *arguments: str) -> AgentProcess:
        """Start one more, and wait until it has taken over."""
        former, agent = self.now, await self.next(*arguments)
        await until("it has taken over", lambda: '"taken over"' in agent.log(), agent.log)
        await until("the former one knows", lambda: '"handed over"' in former.log(), former.log)
        return agent


@asynccontextmanager
async def line(folder: Path, *arguments: str) -> AsyncIterator[Line]:
    """A first process that serves eight pods."""
    await write(
        folder / "pods.yaml",
        namespace_yaml("shop"),
        *(pod_yaml("shop", f"web-{address}", address, role="shop-web") for address in PODS),
        pod_yaml("shop", "orders", "127.0.0.10", role="shop-orders"),
    )
    async with FakeSts() as sts:
        made = Line(sts, folder, arguments)
        try:
            await (await made.next()).until_ready()
            yield made
        except BaseException:
            for agent in made.agents:
                print(f"---- {agent.log_file}\n{agent.log()}")
            raise
        finally:
            codes = [await agent.stop() for agent in reversed(made.agents)]
        assert codes == [0] * len(codes)


@asynccontextmanager
async def load(agent: AgentProcess) -> AsyncIterator[asyncio.Future[dict[str, Any]]]:
    """Requests on fresh and on kept connections, from a process of its own, until the block ends; what came of it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.load", agent.host, "8181", *PODS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    outcome: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    assert (await process.stdout.readline()) == b"begun\n"
    yield outcome
    out, _ = await process.communicate(b"\n")
    outcome.set_result(json.loads(out))


async def test_ten_takeovers_under_load(tmp_path: Path) -> None:
    """P7: no request fails, STS is asked for nothing twice, tokens stay good, through ten processes one after the other.

    Each former process is told to stop as soon as the next one is ready, as Kubernetes does it.
    """
    async with line(tmp_path) as upgrade, AsyncExitStack() as stack:
        first = upgrade.now
        await first.until_told(PODS[0], 200, "shop-web")
        await first.until_told("127.0.0.10", 200, "shop-orders")
        _, token = await first.ask(PODS[0], TOKEN, method="PUT", headers=TTL)
        calls = len(upgrade.sts.calls())
        outcome = await stack.enter_async_context(load(first))
        for _ in range(TAKEOVERS):
            former, agent = upgrade.now, await upgrade.follow()
            await agent.until_ready()
            former.process.send_signal(signal.SIGTERM)
        await stack.aclose()
        told = outcome.result()
        shown = {"X-aws-ec2-metadata-token": token.decode()}
        assert await upgrade.now.ask(PODS[0], headers=shown) == (200, b"shop-web")
        assert (await upgrade.now.ask(PODS[1], headers=shown))[0] == 401
        assert told["failed"] == []
        assert told["requests"] >= RATE * told["seconds"]
        assert min(told["fresh"], told["kept"]) > RATE * told["seconds"] / 20
        assert told["idle"] > len(PODS) * TAKEOVERS
        assert len(upgrade.sts.calls()) == calls

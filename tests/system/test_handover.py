"""Upgrades as an operator does them: real processes, one after the other, and clients that must not notice.

Pods come from files; STS is scripted. The load is made by a process of its own.
"""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from metaproxy import handover, listener
from tests.component.test_listwatch_suite import write_kubeconfig
from tests.fakes.agent import namespace_yaml, pod_yaml, write
from tests.fakes.kube_api import FakeKubeApi
from tests.fakes.process import ROLES, AgentProcess, until
from tests.fakes.sts import FakeSts, Step

pytestmark = pytest.mark.timeout(240)

TOKEN = "/latest/api/token"
TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
PODS = [f"127.0.0.{number}" for number in range(2, 10)]

SESSIONS = len(PODS) + 1
"""Each pod's, and that of one with another role."""

TAKEOVERS = 10
RATE = 1000
"""Requests a second that the load has to reach, on average, while processes come and go."""


@dataclass
class Line:
    """Processes that follow one another at the same addresses."""

    sts: FakeSts
    folder: Path
    arguments: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    agents: list[AgentProcess] = field(default_factory=list)
    started: int = 0

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
        self.started += 1
        folder = self.folder / str(self.started)
        folder.mkdir()
        agent = AgentProcess(
            folder,
            (
                *(self.source or [f"--source.manifests={self.folder / 'pods.yaml'}"]),
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

    async def pods(self, **more: tuple[str, str]) -> None:
        """The eight pods, one of another role, and more: name to role and address."""
        await write(
            self.folder / "pods.yaml",
            namespace_yaml("shop"),
            *(pod_yaml("shop", f"web-{address}", address, role="shop-web") for address in PODS),
            pod_yaml("shop", "orders", "127.0.0.10", role="shop-orders"),
            *(pod_yaml("shop", name, address, role=role) for name, (role, address) in more.items()),
        )

    async def follow(self, *arguments: str) -> AgentProcess:
        """Start one more, and wait until it has taken over."""
        former, agent = self.now, await self.next(*arguments)
        await until("it has taken over", lambda: '"taken over"' in agent.log(), agent.log)
        await until("the former one knows", lambda: '"handed over"' in former.log(), former.log)
        return agent


@asynccontextmanager
async def line(folder: Path, *arguments: str) -> AsyncIterator[Line]:
    """A first process that serves eight pods."""
    async with FakeSts() as sts:
        made = Line(sts, folder, arguments)
        await made.pods()
        try:
            await (await made.next()).until_ready()
            await until("every session is held", lambda: len(sts.calls()) == SESSIONS, made.now.log)
            yield made
        except BaseException:
            for agent in made.agents:
                print(f"---- {agent.log_file}\n{agent.log()}")
            raise
        finally:
            # Those first who have retired: they fail when nobody serves any more.
            order = sorted(made.agents, key=lambda agent: '"handed over"' not in agent.log())
            codes = [await agent.stop() for agent in order]
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
    """P7: no request fails, STS is asked for nothing twice, tokens stay good, through ten processes in a row.

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
        assert told["requests"] >= RATE * told["seconds"], told
        assert min(told["fresh"], told["kept"]) > RATE * told["seconds"] / 20
        assert told["idle"] >= len(PODS)
        assert len(upgrade.sts.calls()) == calls


# What goes wrong on the way.


async def test_a_request_that_is_held_is_answered_by_who_holds_it(tmp_path: Path) -> None:
    """Its call to STS is under way when another process takes over; the token key is in a file here."""
    warm, gate = asyncio.Event(), asyncio.Event()
    slow = "arn:aws:iam::123456789012:role/shop-slow"
    async with line(tmp_path, "--server.hold=9", f"--tokens.key-file={tmp_path / 'key'}") as upgrade:
        former = upgrade.now
        _, token = await former.ask(PODS[0], TOKEN, method="PUT", headers=TTL)
        upgrade.sts.settings = {"GetCallerIdentity": Step(gate=warm), slow: Step(gate=gate)}
        agent = await upgrade.next()
        try:
            await until("it warms up", lambda: '"state read"' in agent.log(), agent.log)
            await upgrade.pods(slow=("shop-slow", "127.0.0.21"))
            held = asyncio.create_task(former.ask("127.0.0.21"))
            await until("STS is asked", lambda: upgrade.sts.calls(slow), former.log)
            warm.set()
            await until("it has taken over", lambda: '"handed over"' in former.log(), former.log)
        finally:
            warm.set()
            gate.set()
        assert await held == (200, b"shop-slow")
        assert '"a call to STS is under way while the state is written"' in former.log()
        shown = {"X-aws-ec2-metadata-token": token.decode()}
        assert await agent.ask(PODS[0], headers=shown) == (200, b"shop-web")


async def test_a_successor_that_dies_while_it_warms_up(tmp_path: Path) -> None:
    """The former process goes on as if nothing had been: it serves, renews, is ready, and hands over to the next."""
    gate = asyncio.Event()
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        upgrade.sts.settings["GetCallerIdentity"] = Step(gate=gate)
        agent = await upgrade.next()
        await until("it warms up", lambda: '"state read"' in agent.log(), agent.log)
        assert '"listening"' not in agent.log()
        assert await former.ask(PODS[0]) == (200, b"shop-web")
        assert await agent.stop(signal.SIGKILL) == -signal.SIGKILL
        upgrade.agents.pop()
        gate.set()
        await until("the former one knows", lambda: '"a successor has not taken over"' in former.log(), former.log)
        await former.until_ready()
        await upgrade.pods(new=("shop-new", "127.0.0.22"))
        await former.until_told("127.0.0.22", 200, "shop-new")
        await upgrade.follow()
        assert len(upgrade.sts.calls()) == SESSIONS + 1


async def test_a_predecessor_that_dies_while_its_successor_warms_up(tmp_path: Path) -> None:
    """Nobody is left to wait for: the successor serves at once, with what it was given, though it is not ready."""
    gate = asyncio.Event()
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        await former.until_told("127.0.0.10", 200, "shop-orders")
        upgrade.sts.settings["GetCallerIdentity"] = Step(gate=gate)
        agent = await upgrade.next()
        await until("it warms up", lambda: '"state read"' in agent.log(), agent.log)
        await former.stop(signal.SIGKILL)
        upgrade.agents.remove(former)
        assert await agent.ask(PODS[0]) == (200, b"shop-web")
        assert await agent.ask("127.0.0.10") == (200, b"shop-orders")
        assert "StsPending" not in agent.log()
        gate.set()
        await agent.until_ready()
        assert len(upgrade.sts.calls()) == SESSIONS


async def test_a_predecessor_that_hangs(tmp_path: Path) -> None:
    """It has the addresses and answers nobody: waited for, with the reason in the log, until it is ended."""
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        former.process.send_signal(signal.SIGSTOP)
        agent = await upgrade.next()
        await until("it waits", lambda: "waiting: the predecessor cannot be followed" in agent.log(), agent.log)
        assert "no answer within 3 s" in agent.log()
        assert await agent.stop() == 0  # it may be ended while it waits
        agent = await upgrade.next()
        await former.stop(signal.SIGKILL)
        upgrade.agents.remove(former)
        await agent.until_ready()
        assert "cold start" in agent.log()
        assert await agent.ask(PODS[0]) == (200, b"shop-web")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_successor_that_ends_after_it_has_taken_over(tmp_path: Path, end: signal.Signals) -> None:
    """A rollback ends the newer one while the older one is still there: that one fails, and started anew it serves."""
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        agent = await upgrade.follow()
        await agent.stop(end)
        async with asyncio.timeout(60):
            assert await former.process.wait() == 1
        assert "the successor has ended and nobody serves" in former.log()
        upgrade.agents.clear()
        upgrade.agents.append(agent)  # for its addresses
        anew = await upgrade.next()
        upgrade.agents.remove(agent)
        await anew.until_ready()
        assert await anew.ask(PODS[0]) == (200, b"shop-web")


async def test_two_successors_at_once(tmp_path: Path) -> None:
    """One follows; the other waits, and follows that one. Whoever is last serves, alone."""
    async with line(tmp_path) as upgrade:
        calls = len(upgrade.sts.calls())
        two = [await upgrade.next(), await upgrade.next()]

        def served() -> bool:
            return all('"taken over"' in agent.log() for agent in two)

        await until("both have taken over", served, lambda: "".join(agent.log() for agent in two))
        assert sum('"handed over"' in agent.log() for agent in two) == 1
        assert await two[0].ask(PODS[0]) == (200, b"shop-web")
        assert len(upgrade.sts.calls()) == calls


async def test_a_state_that_cannot_be_read(tmp_path: Path) -> None:
    """Of another version: its sockets are taken, and sessions are asked for anew before it serves."""

    class Other:
        def __init__(self, made: dict[str, socket.socket]) -> None:
            self.made = made
            self.calls: list[str] = []

        def sockets(self) -> dict[str, socket.socket]:
            return self.made

        async def state(self) -> bytes:
            return b'{"format":2,"state":"quite another"}'

        def rest(self, resting: bool) -> None:
            self.calls.append(f"rest {resting}")

        async def retire(self) -> None:
            for each in self.made.values():
                each.close()
            self.calls.append("retire")

        async def followed(self) -> bool:
            return True

    async with line(tmp_path) as upgrade:
        first = upgrade.now
        await first.stop()
        made = listener.bound([(first.host, 8181)])
        other = Other({f"pods at {first.host}:8181": made[first.host, 8181]})
        asked = await asyncio.to_thread(handover.bound, upgrade.socket)
        other.made["handover"] = asked
        serving = asyncio.create_task(handover.Handover(other).run(asked.dup()))
        calls = len(upgrade.sts.calls())
        agent = await upgrade.next()
        waiting = asyncio.create_task(agent.ask(PODS[0]))  # while nobody accepts, it waits in the kernel
        assert await waiting == (200, b"shop-web")
        await until("it is told", lambda: "retire" in other.calls, agent.log)
        assert other.calls == ["rest True", "retire"]
        assert "cannot be used: a cold start on its sockets" in agent.log()
        assert len(upgrade.sts.calls()) == calls + SESSIONS
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_another_separate_role(tmp_path: Path) -> None:
    """Sessions are not taken over by who asks for them in another way: whom roles trust may differ."""
    async with line(tmp_path) as upgrade:
        calls = len(upgrade.sts.calls())
        agent = await upgrade.follow("--assume-role-arn=arn:aws:iam::123456789012:role/hop")
        assert "sessions are not taken over" in agent.log()
        assert await agent.ask(PODS[0]) == (200, b"shop-web")
        assert len(upgrade.sts.calls()) == calls + SESSIONS + 1


async def test_idle_connections_are_served_once_more(tmp_path: Path) -> None:
    """An idle connection to the former process outlives the takeover and SIGTERM: one more request is answered."""
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        reader, writer = await asyncio.open_connection(former.host, 8181, local_addr=(PODS[0], 0))

        async def asked() -> bytes:
            writer.write(f"GET {ROLES} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(b"shop-web")) == b"shop-web"
            return head

        assert b"Connection: close" not in await asked()
        agent = await upgrade.follow()
        status, body = await agent.admin_get("/readyz?verbose")
        assert (status, "listener: ok" in body) == (200, True)  # the operator meets the new one at the old address
        former.process.send_signal(signal.SIGTERM)
        await until("it stops", lambda: '"stopping"' in former.log(), former.log)
        assert b"Connection: close" in await asked()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert await former.stop() == 0


async def test_idle_connections_end_with_the_drain(tmp_path: Path) -> None:
    """Who never asks again is told the end, without a reset, when the drain is over."""
    async with line(tmp_path, "--handover.drain=0.5") as upgrade:
        former = upgrade.now
        reader, writer = await asyncio.open_connection(former.host, 8181, local_addr=(PODS[0], 0))
        writer.write(f"GET {ROLES} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"shop-web")
        await upgrade.follow()
        assert await former.stop() == 0
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_with_an_api_server_whose_memory_lags(tmp_path: Path) -> None:
    """What the former process knows to be gone stays gone, though the lists of the next one show it yet.

    The kernel is listened to, which shows no carriers on loopback.
    """
    arn = "arn:aws:iam::123456789012:role/{}"
    async with FakeKubeApi() as api, FakeSts() as sts:
        api.create_namespace("shop", {"iam.amazonaws.com/permitted": ".*"})
        for name, address in (("a", PODS[0]), ("b", PODS[1])):
            api.create_pod("shop", name, node="node-1", annotations={"iam.amazonaws.com/role": f"shop-{name}"})
            api.set_pod_status("shop", name, [address])
        kubeconfig = await asyncio.to_thread(write_kubeconfig, tmp_path / "kubeconfig", api.url)
        source = (f"--source.kubeconfig={kubeconfig}", "--node-name=node-1", "--caller.witness=on")
        upgrade = Line(sts, tmp_path, source=source)
        try:
            former = await upgrade.next()
            await former.until_ready()
            await former.until_told(PODS[0], 200, "shop-a")
            await former.until_told(PODS[1], 200, "shop-b")
            api.freeze_memory()
            api.delete_pod("shop", "a")
            await former.until_told(PODS[0], 503, "CallerUnknown")
            api.create_pod("shop", "c", node="node-1", annotations={"iam.amazonaws.com/role": "shop-c"})
            api.set_pod_status("shop", "c", [PODS[0]])
            await former.until_told(PODS[0], 200, "shop-c")
            agent = await upgrade.follow()
            await agent.until_ready()
            assert await agent.ask(PODS[0]) == (200, b"shop-c")
            assert await agent.ask(PODS[1]) == (200, b"shop-b")
            assert '"pods": 2' in agent.log()
            assert [len(sts.calls(arn.format(f"shop-{name}"))) for name in "abc"] == [1, 1, 1]
        finally:
            codes = [await agent.stop() for agent in upgrade.agents]
            print(*(agent.log() for agent in upgrade.agents), sep="----\n")
        assert codes == [0, 0]

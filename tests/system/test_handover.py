"""Upgrades as an operator does them: real processes, one after the other, and clients that must not notice.

Pods come from files; STS is scripted. The load is made by a process of its own.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from metaproxy import arrival, handover, listener, portgroup, sockets
from tests.component.test_listwatch_suite import write_kubeconfig
from tests.fakes.agent import ask, namespace_yaml, pod_yaml, write
from tests.fakes.kube_api import FakeKubeApi, Fault
from tests.fakes.process import ROLES, AgentProcess, until
from tests.fakes.sts import NODE_ARN, FakeSts, Step

pytestmark = pytest.mark.timeout(240)

TOKEN = "/latest/api/token"
TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
PODS = [f"127.0.0.{number}" for number in range(2, 10)]

SESSIONS = len(PODS) + 1
"""Each pod's, and that of one with another role."""

SEPARATE = ("--assume-role-arn=arn:aws:iam::123456789012:role/hop",)
"""Sessions are had by a separate role: one call more."""

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

    async def next(
        self, *arguments: str, port: int = 8181, environment: Mapping[str, str] | None = None
    ) -> AgentProcess:
        """Start one more, with the first one's addresses, or pods' at another port."""
        self.started += 1
        folder = self.folder / str(self.started)
        folder.mkdir()
        agent = AgentProcess(
            folder,
            (
                *(self.source or [f"--source.manifests={self.folder / 'pods.yaml'}"]),
                f"--sts.endpoint-url={self.sts.url}",
                f"--handover.socket={self.socket}",
                f"--admin.socket={folder / 'admin.sock'}",
                *self.arguments,
                *arguments,
            ),
            environment or {},
            host=self.agents[0].host if self.agents else None,
            port=port,
        )
        self.agents.append(agent)
        await agent.start()
        return agent

    async def warming(self, gate: asyncio.Event) -> AgentProcess:
        """Start one more that has what the former one gave first, and warms up until the gate opens.

        The former one is told who it is before that: STS is there, so the new one has to be told too.
        """
        former = self.now
        self.sts.script(Step(), role="GetCallerIdentity")
        self.sts.settings["GetCallerIdentity"] = Step(gate=gate)
        agent = await self.next()
        await until("it warms up", lambda: '"a successor warms up"' in former.log(), former.log)
        await until("it has what was given first", lambda: '"state read"' in agent.log(), agent.log)
        assert '"listening"' not in agent.log()
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

    async def follow(self, *arguments: str, port: int = 8181) -> AgentProcess:
        """Start one more, and wait until it has taken over."""
        former, agent = self.now, await self.next(*arguments, port=port)
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
            await until("every session is held", lambda: len(sts.calls()) >= SESSIONS, made.now.log)
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


async def until_all_told(agent: AgentProcess) -> None:
    """Every session is held again, so that no request has to wait for one."""
    for pod in PODS:
        await agent.until_told(pod, 200, "shop-web")
        await agent.until_told(pod, 200, "AccessKeyId", f"{ROLES}shop-web")


async def until_own_ready(agent: AgentProcess) -> None:
    """The process itself says that it is ready, whichever has the operator's address."""

    async def ready() -> bool:
        return await agent.own("/readyz") == "ok\n"

    await until("the agent is ready", ready, agent.log)


async def until_known(agent: AgentProcess) -> None:
    """The process itself says who it is to STS."""

    async def known() -> bool:
        return NODE_ARN in await agent.own("/readyz?verbose")

    await until("its own identity is known", known, agent.log)


async def until_metric(agent: AgentProcess, line: str) -> None:
    """The process itself says so, whichever has the operator's address."""

    async def told() -> bool:
        return line in (await agent.own("/metrics")).splitlines()

    await until(line, told, agent.log)


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


@pytest.mark.parametrize("settings", [(), SEPARATE], ids=["", "separate"])
async def test_ten_takeovers_under_load(tmp_path: Path, settings: tuple[str, ...]) -> None:
    """P7: no request fails, STS is asked for nothing twice, tokens stay good, through ten processes in a row.

    Each former process is told to stop as soon as the next one is ready, as Kubernetes does it.
    """
    async with line(tmp_path, *settings) as upgrade, AsyncExitStack() as stack:
        first, calls = upgrade.now, SESSIONS + len(settings)
        await first.until_told(PODS[0], 200, "shop-web")
        await first.until_told("127.0.0.10", 200, "shop-orders")
        _, token = await first.ask(PODS[0], TOKEN, method="PUT", headers=TTL)
        await until("every session is held", lambda: len(upgrade.sts.calls()) == calls, first.log)
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


async def test_who_has_retired_is_ready_for_its_node_is_served(tmp_path: Path) -> None:
    """A DaemonSet ends an old pod that is not ready, and goes to the next node, even if the new pod is not ready."""
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        await upgrade.follow()
        told = await former.own("/readyz?verbose")
        assert "place: another process has taken over" in told
        assert "[-]" not in told
        assert "place: serving" in await upgrade.now.own("/readyz?verbose")


# What goes wrong on the way.


async def test_a_request_that_is_held_is_answered_by_who_holds_it(tmp_path: Path) -> None:
    """Its call to STS is under way when another process takes over, and yet when its own is told to end.

    The token key is in a file here.
    """
    warm, gate = asyncio.Event(), asyncio.Event()
    slow = "arn:aws:iam::123456789012:role/shop-slow"
    async with line(tmp_path, "--server.hold=9", f"--tokens.key-file={tmp_path / 'key'}") as upgrade:
        former = upgrade.now
        _, token = await former.ask(PODS[0], TOKEN, method="PUT", headers=TTL)
        upgrade.sts.settings[slow] = Step(gate=gate)
        try:
            agent = await upgrade.warming(warm)
            await upgrade.pods(slow=("shop-slow", "127.0.0.21"))
            held = asyncio.create_task(former.ask("127.0.0.21"))
            await until("STS is asked", lambda: upgrade.sts.calls(slow), former.log)
            warm.set()
            await until("it has taken over", lambda: '"handed over"' in former.log(), former.log)
            former.process.send_signal(signal.SIGTERM)
            await until("it stops", lambda: '"stopping"' in former.log(), former.log)
            assert not held.done()
        finally:
            warm.set()
            gate.set()
        assert await held == (200, b"shop-slow")
        assert await former.process.wait() == 0
        assert '"a call to STS is under way while the state is written"' in former.log()
        shown = {"X-aws-ec2-metadata-token": token.decode()}
        assert await agent.ask(PODS[0], headers=shown) == (200, b"shop-web")


@pytest.mark.parametrize("settings", [(), SEPARATE], ids=["", "separate"])
@pytest.mark.parametrize("away", [Step(reset=True), Step(hang=True)], ids=["refuses", "silent"])
async def test_while_sts_is_away(tmp_path: Path, settings: tuple[str, ...], away: Step) -> None:
    """The successor is who the former process was, by the same keys: ready at once, with all that is held."""
    async with line(tmp_path, *settings) as upgrade:
        await until_all_told(upgrade.now)
        await upgrade.now.until_told("127.0.0.10", 200, "AccessKeyId", f"{ROLES}shop-orders")
        calls = len(upgrade.sts.calls())
        upgrade.sts.always = away
        for _ in range(2):
            agent = await upgrade.follow()
            await agent.until_ready()
            await until_all_told(agent)
            await until_known(agent)
        assert len(upgrade.sts.calls()) == calls


@pytest.mark.parametrize("settings", [(), SEPARATE], ids=["", "separate"])
async def test_a_successor_that_cannot_reach_sts(tmp_path: Path, settings: tuple[str, ...]) -> None:
    """Where the former one can: it does not take over, and another one, which can too, does."""
    async with line(tmp_path, *settings) as upgrade:
        former = upgrade.now
        agent = await upgrade.next(environment={"http_proxy": f"http://{former.host}:9", "no_proxy": ""})
        await until("it warms up", lambda: '"still warming up: the predecessor serves on"' in agent.log(), agent.log)
        assert '"missing": ["identity' in agent.log()
        assert '"listening"' not in agent.log()
        await former.until_ready()
        assert await former.ask(PODS[0]) == (200, b"shop-web")
        assert await agent.stop() == 0
        upgrade.agents.pop()
        await upgrade.follow()


async def test_what_is_learnt_while_a_successor_warms_up(tmp_path: Path) -> None:
    """A session and a refusal that came after the first state was given are in the last: neither is asked for again."""
    gate = asyncio.Event()
    late, refused = (f"arn:aws:iam::123456789012:role/shop-{name}" for name in ("late", "refused"))
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        upgrade.sts.settings[refused] = Step(status=403, code="AccessDenied")
        try:
            agent = await upgrade.warming(gate)
            await upgrade.pods(late=("shop-late", "127.0.0.21"), refused=("shop-refused", "127.0.0.22"))
            session = await former.until_told("127.0.0.21", 200, "AccessKeyId", f"{ROLES}shop-late")
            await former.until_told("127.0.0.22", 403, "StsDenied", f"{ROLES}shop-refused")
        finally:
            gate.set()
        await until("it has taken over", lambda: '"handed over"' in former.log(), former.log)
        assert await agent.ask("127.0.0.21", f"{ROLES}shop-late") == (200, session)
        await agent.until_told("127.0.0.22", 403, "StsDenied", f"{ROLES}shop-refused")
        assert [len(upgrade.sts.calls(role)) for role in (late, refused)] == [1, 1]


async def test_a_successor_that_dies_while_it_warms_up(tmp_path: Path) -> None:
    """The former process goes on as if nothing had been: it serves, renews, is ready, and hands over to the next."""
    gate = asyncio.Event()
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        agent = await upgrade.warming(gate)
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
        agent = await upgrade.warming(gate)
        await former.stop(signal.SIGKILL)
        upgrade.agents.remove(former)
        assert await agent.ask(PODS[0]) == (200, b"shop-web")
        assert await agent.ask("127.0.0.10") == (200, b"shop-orders")
        assert "StsPending" not in agent.log()
        gate.set()
        await agent.until_ready()
        assert len(upgrade.sts.calls()) == SESSIONS


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGCONT])
async def test_a_predecessor_that_hangs(tmp_path: Path, end: signal.Signals) -> None:
    """It has the addresses and answers nobody: the next one begins beside it, and no request fails from then on.

    Neither when it is killed, nor when it wakes up: then it sees that another one is in its place, and retires.
    """
    async with line(tmp_path) as upgrade, AsyncExitStack() as stack:
        former = upgrade.now
        former.process.send_signal(signal.SIGSTOP)
        agent = await upgrade.next()
        await until_own_ready(agent)  # the operator's address may yet lead to the former one
        assert '"cold start beside a process that hangs"' in agent.log()
        assert "no answer within 3 s" in agent.log()
        await until_all_told(agent)
        outcome = await stack.enter_async_context(load(agent))
        strangers = "metaproxy_handover_strangers {}"
        await until_metric(agent, strangers.format("2.0"))  # the former one's sockets for pods and for the operator
        if end is signal.SIGKILL:
            await former.stop(end)
            upgrade.agents.remove(former)
        else:
            former.process.send_signal(end)
            await until("it retires", lambda: '"displaced: another process' in former.log(), former.log)
        await until_metric(agent, strangers.format("0.0"))
        if end is signal.SIGKILL:
            await upgrade.follow()
        await stack.aclose()
        told = outcome.result()
        assert told["failed"] == []
        assert min(told["fresh"], told["kept"], told["idle"]) > len(PODS)


async def test_two_begin_beside_one_that_hangs(tmp_path: Path) -> None:
    """One does, and the other sees it and follows that one; in any case one serves at last, and the other retires."""
    async with line(tmp_path) as upgrade:
        former = upgrade.now
        former.process.send_signal(signal.SIGSTOP)
        two = [await upgrade.next(), await upgrade.next()]

        async def retired() -> list[bool]:
            return ["another process has taken over" in (await agent.own("/readyz?verbose")) for agent in two]

        async def settled() -> bool:
            return sorted(await retired()) == [False, True]

        await until("one has retired", settled, lambda: "".join(agent.log() for agent in two))
        await until_all_told(two[0])
        await former.stop(signal.SIGKILL)
        upgrade.agents.remove(former)


async def test_a_predecessor_that_speaks_another_language(tmp_path: Path) -> None:
    """It serves, and cannot be followed: the next one warms up, begins beside it, and then gets all connections."""
    async with line(tmp_path) as upgrade:
        first = upgrade.now
        await first.stop()
        hosts = await asyncio.to_thread(portgroup.first, first.host, 8181, backlog=64, free=False)
        asked = await asyncio.to_thread(arrival.again, upgrade.socket)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nthe other version")
            await writer.drain()
            writer.close()

        async with (
            await asyncio.start_server(answer, sock=hosts),
            await asyncio.start_unix_server(answer, sock=asked),
        ):
            gate = asyncio.Event()
            upgrade.sts.settings["GetCallerIdentity"] = Step(gate=gate)
            agent = await upgrade.next()
            await until("it warms up", lambda: "that cannot be followed" in agent.log(), agent.log)
            for _ in range(20):
                assert (await agent.ask(PODS[0]))[1] == b"the other version"
            gate.set()
            await agent.until_ready()
            for _ in range(50):
                assert await agent.ask(PODS[0]) == (200, b"shop-web")
        await upgrade.follow()


async def test_a_strangers_address(tmp_path: Path) -> None:
    """No agent has it: waited for a while, and then the process ends with 2 and says whose it is and what to do."""
    async with line(tmp_path) as upgrade:
        first = upgrade.now
        await first.stop()
        with sockets.listening(first.host, 8181, backlog=1, free=False):
            agent = await upgrade.next()
            async with asyncio.timeout(120):
                assert await agent.process.wait() == 2
            upgrade.agents.remove(agent)
        said = agent.log()
        assert f"Address already in use: {first.host} port 8181, held by user {os.geteuid()}, which is ours" in said
        assert "`ss -ltnp 'sport = :8181'` on the node shows the process" in said
        assert "Traceback" not in said


async def test_a_strangers_address_for_the_operator(tmp_path: Path) -> None:
    """It keeps no pod waiting: it is tried again, and said meanwhile where the operator is answered."""
    async with line(tmp_path) as upgrade:
        first = upgrade.now
        await first.stop()
        with sockets.listening(first.host, 9181, backlog=1, free=False):
            agent = await upgrade.next()
            await until("it listens", lambda: '"listening"' in agent.log(), agent.log)
            await agent.until_told(PODS[0], 200, "shop-web")
            assert f"admin address: Address already in use: {agent.admin}" in await agent.own("/readyz?verbose")
        await agent.until_ready()
        assert "admin address: as it should be" in await agent.own("/readyz?verbose")
        await upgrade.follow()


async def test_a_predecessor_that_does_not_say_that_it_stops(tmp_path: Path) -> None:
    """It may have given up on its successor: so that one puts a socket of its own at the path, which is seen."""

    class Stuck(Other):
        async def retire(self) -> None:
            await asyncio.Event().wait()

    async with line(tmp_path) as upgrade:
        await upgrade.now.stop()
        async with other(upgrade, Stuck):
            before = upgrade.socket.lstat().st_ino
            agent = await upgrade.next()
            await until("it is done", lambda: "the predecessor has not said that it stops" in agent.log(), agent.log)
            await agent.until_ready()
            await until("it goes on", lambda: '"taken over"' in agent.log(), agent.log)
            assert upgrade.socket.lstat().st_ino != before
        await upgrade.follow()


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


class Other:
    """A process of another version, as far as a successor can see: its state is quite another."""

    def __init__(self, made: dict[str, socket.socket]) -> None:
        self.made = made
        self.calls: list[str] = []

    def sockets(self) -> dict[str, socket.socket]:
        """Those that it was made with."""
        return self.made

    async def state(self, *, last: bool) -> bytes:
        """Of no use."""
        return b'{"format":3,"state":"quite another"}'

    def rest(self, resting: bool) -> None:
        """It is told to rest, or to go on."""
        self.calls.append(f"rest {resting}")

    async def retire(self) -> None:
        """It is told to stop."""
        for each in self.made.values():
            each.close()
        self.calls.append("retire")

    async def followed(self) -> bool:
        """Yes."""
        return True


@asynccontextmanager
async def other(upgrade: Line, kind: type[Other] = Other) -> AsyncIterator[Other]:
    """Such a process in the place of the one that was there."""
    host = upgrade.now.host
    made = listener.bound([(host, 8181)])
    asked = await asyncio.to_thread(arrival.again, upgrade.socket)
    one = kind({f"pods at {host}:8181": made[host, 8181], "handover": asked})
    serving = asyncio.create_task(handover.Handover(one).run(asked.dup()))
    try:
        yield one
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        for each in one.made.values():
            each.close()


async def test_a_state_that_cannot_be_read(tmp_path: Path) -> None:
    """Of another version: its sockets are taken, and sessions are asked for anew before it serves."""
    async with line(tmp_path) as upgrade:
        await upgrade.now.stop()
        async with other(upgrade) as former:
            calls = len(upgrade.sts.calls())
            agent = await upgrade.next()
            waiting = asyncio.create_task(agent.ask(PODS[0]))  # while nobody accepts, it waits in the kernel
            assert await waiting == (200, b"shop-web")
            await until("it is told", lambda: "retire" in former.calls, agent.log)
            assert former.calls == ["rest True", "retire"]
            assert "cannot be used: a cold start on its sockets" in agent.log()
            assert len(upgrade.sts.calls()) == calls + SESSIONS


async def test_another_port(tmp_path: Path) -> None:
    """Pods are led to the former one until the redirect moves: both are answered, by who follows and a rollback too.

    Pods ask at the first port all the time, and no request fails.
    """
    async with line(tmp_path) as upgrade, AsyncExitStack() as stack:
        former = upgrade.now
        await until_all_told(former)
        calls = len(upgrade.sts.calls())
        outcome = await stack.enter_async_context(load(former))
        for port in (8182, 8182, 8181):
            before, agent = upgrade.now, await upgrade.follow(port=port)
            await agent.until_ready()
            for url in (f"http://{agent.host}:8181", f"http://{agent.host}:8182"):
                assert (await ask(url, PODS[0], ROLES))[:2] == (200, b"shop-web")
            before.process.send_signal(signal.SIGTERM)
        await stack.aclose()
        told = outcome.result()
        assert told["failed"] == []
        assert min(told["fresh"], told["kept"], told["idle"]) > len(PODS)
        assert len(upgrade.sts.calls()) == calls


async def test_another_role_of_its_own(tmp_path: Path) -> None:
    """Whom roles trust may differ: nobody is given what the former identity was allowed to have."""
    async with line(tmp_path) as upgrade:
        upgrade.sts.arns["ASIAOTHER00000000000"] = "arn:aws:sts::123456789012:assumed-role/other/i-0123456789abcdef0"
        calls = len(upgrade.sts.calls())
        agent = await upgrade.next(environment={"AWS_ACCESS_KEY_ID": "ASIAOTHER00000000000"})
        await until("it has taken over", lambda: '"taken over"' in agent.log(), agent.log)
        assert "sessions are not taken over" in agent.log()
        assert len(upgrade.sts.calls()) > calls


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


async def two_pods(api: FakeKubeApi, folder: Path) -> tuple[str, ...]:
    """The API server has two pods with roles of their own; what makes agents read it, and listen to the kernel."""
    api.create_namespace("shop", {"iam.amazonaws.com/permitted": ".*"})
    for name, address in (("a", PODS[0]), ("b", PODS[1])):
        api.create_pod("shop", name, node="node-1", annotations={"iam.amazonaws.com/role": f"shop-{name}"})
        api.set_pod_status("shop", name, [address])
    kubeconfig = await asyncio.to_thread(write_kubeconfig, folder / "kubeconfig", api.url)
    return (f"--source.kubeconfig={kubeconfig}", "--node-name=node-1", "--caller.witness=on")


async def test_with_an_api_server_whose_memory_lags(tmp_path: Path) -> None:
    """What the former process knows to be gone stays gone, though the lists of the next one show it yet.

    The kernel is listened to, which shows no carriers on loopback.
    """
    arn = "arn:aws:iam::123456789012:role/{}"
    async with FakeKubeApi() as api, FakeSts() as sts:
        upgrade = Line(sts, tmp_path, source=await two_pods(api, tmp_path))
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


async def test_what_the_api_server_says_while_a_successor_warms_up(tmp_path: Path) -> None:
    """The former process has heard of it, and the next one's own watch has not: who is gone gets nothing again."""
    gate = asyncio.Event()
    async with FakeKubeApi() as api, FakeSts() as sts:
        upgrade = Line(sts, tmp_path, source=await two_pods(api, tmp_path))
        try:
            former = await upgrade.next()
            await former.until_ready()
            await former.until_told(PODS[0], 200, "shop-a")
            for resource in ("pods", "namespaces"):
                api.fail("watch", resource, Fault(open=True))
            agent = await upgrade.warming(gate)
            await api.until(lambda: all(len(api.asked("watch", each)) == 2 for each in ("pods", "namespaces")))
            api.delete_pod("shop", "a")
            api.create_pod("shop", "c", node="node-1", annotations={"iam.amazonaws.com/role": "shop-c"})
            api.set_pod_status("shop", "c", [PODS[0]])
            api.annotate_namespace("shop", {"iam.amazonaws.com/permitted": ".*/shop-c"})
            await former.until_told(PODS[0], 200, "shop-c")
            await former.until_told(PODS[1], 403, "NotPermitted")
            lists = len(api.asked("list", "pods"))
            gate.set()
            await until("it has taken over", lambda: '"handed over"' in former.log(), former.log)
            assert await agent.ask(PODS[0]) == (200, b"shop-c")
            assert (await agent.ask(PODS[1]))[0] == 403
            assert len(api.asked("list", "pods")) == lists
            assert len(sts.calls("arn:aws:iam::123456789012:role/shop-c")) == 1
        finally:
            gate.set()
            codes = [await agent.stop() for agent in upgrade.agents]
            print(*(agent.log() for agent in upgrade.agents), sep="----\n")
        assert codes == [0, 0]

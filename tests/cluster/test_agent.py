"""The whole agent, as a process, with a real API server: pods come, get addresses, go; the API server and etcd fail.

STS is scripted; each of its access key ids can be traced to the role that was asked for. The agent has exactly the
rights that its documentation asks for.
"""

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from metaproxy import events
from metaproxy.errors import Reason
from metaproxy.events import EventRecorder
from metaproxy.kubeclient import KubeClient
from metaproxy.pods import Pod
from metaproxy.telemetry import Metrics
from tests.cluster.harness import Cluster
from tests.fakes.process import ROLES, AgentProcess, running, until
from tests.fakes.sts import FakeSts

pytestmark = pytest.mark.timeout(300)  # the first test waits for the start of the servers, some for a restart

READ = [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}]
TELL = [{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}]
ROLE = "iam.amazonaws.com/role"
PERMITTED = "iam.amazonaws.com/permitted"


class World:
    """A node and a namespace of its own in the cluster, its agent's account, and STS."""

    def __init__(self, cluster: Cluster, node: str, sts: FakeSts, folder: Path) -> None:
        self.cluster, self.node, self.sts, self.folder = cluster, node, sts, folder
        self.team = f"team-{secrets.token_hex(4)}"
        self.token = ""
        # Addresses are the node's own in a cluster, so two tests must not share one.
        self.subnet = f"127.{10 + secrets.randbelow(80)}.{secrets.randbelow(256)}"

    async def do(self, action: str, *args: Any, **kwargs: Any) -> Any:
        """What an actor does; the harness blocks, so in a thread."""
        return await asyncio.to_thread(getattr(self.cluster, action), *args, **kwargs)

    def address(self, number: int) -> str:
        """An address of this node's pods."""
        return f"{self.subnet}.{number}"

    async def pod(self, name: str, role: str | None, *addresses: str, **more: Any) -> None:
        """A pod that is bound, and runs when it has addresses."""
        annotations = {} if role is None else {ROLE: role}
        await self.do("create_pod", self.team, name, node=self.node, annotations=annotations, **more)
        if addresses:
            await self.do("set_pod_status", self.team, name, list(addresses))

    @asynccontextmanager
    async def agent(self, *arguments: str) -> AsyncIterator[AgentProcess]:
        """The agent of the node; nothing that it says may show a secret."""
        kubeconfig = await asyncio.to_thread(self.cluster.write_kubeconfig, self.folder / "kubeconfig", self.token)
        async with running(
            self.folder,
            f"--source.kubeconfig={kubeconfig}",
            f"--node-name={self.node}",
            f"--sts.endpoint-url={self.sts.url}",
            "--log.level=debug",
            *arguments,
        ) as agent:
            yield agent
        said = agent.log() + json.dumps(await self.do("list_events", self.team))
        for secret in ("secret/of/", "token/of/", self.token):
            assert secret not in said

    def role_of(self, document: bytes) -> str:
        """The name of the role that the credentials in an answer were given for."""
        return self.sts.owner(json.loads(document)["AccessKeyId"])[0].rpartition("/")[2]


@pytest.fixture
async def world(fragile: Cluster, node: str, tmp_path: Path) -> AsyncIterator[World]:
    """A namespace that permits roles `app-…`, and an account with the documented rights."""
    async with FakeSts() as sts:
        made = World(fragile, node, sts, tmp_path)
        await made.do("create_namespace", made.team, {PERMITTED: ".*:role/app-.*"})
        await made.do("create_service_account", made.team, "agent")
        made.token = await made.do("mint_token", made.team, "agent")
        await made.do("grant", made.team, "agent", [*READ, *TELL], name=f"{made.team}-agent")
        yield made
        # Others look at all pods of the cluster.
        await made.do("delete_namespace", made.team)


async def test_a_pods_life(world: World) -> None:
    """P1, P4: keys before any address; at its address the pod's role alone; the next pod there gets its own.

    A forbidden role is refused with the same code in body and Event, and stays refused for whoever asks.
    """
    first, second = world.address(1), world.address(2)
    async with world.agent() as agent:
        await agent.until_ready()
        await world.do("create_pod", world.team, "a", annotations={ROLE: "app-a"})
        await world.do("bind_pod", world.team, "a", world.node)
        await until("keys before an address", world.sts.calls, agent.log)
        await world.do("set_pod_status", world.team, "a", [first])
        await agent.until_told(first, 200, "app-a")
        status, body = await agent.ask(first, f"{ROLES}app-a")
        assert (status, world.role_of(body)) == (200, "app-a")
        assert len(world.sts.calls()) == 1

        assert (await agent.ask(second))[0] == 503
        await world.do("delete_pod", world.team, "a")
        await world.pod("b", "app-b", first)
        await agent.until_told(first, 200, "app-b")
        status, body = await agent.ask(first, f"{ROLES}app-b")
        assert (status, world.role_of(body)) == (200, "app-b")
        assert (await agent.ask(first, f"{ROLES}app-a"))[0] == 404

        await world.pod("thief", "bank", second)
        told = json.loads(await agent.until_told(second, 403, "NotPermitted"))
        await until("an Event", lambda: world.cluster.list_events(world.team), agent.log)
        (event,) = await world.do("list_events", world.team)
        assert (event["reason"], event["regarding"]["name"]) == (told["code"], "thief")
        assert event["note"]


async def test_address_reuse_in_a_burst(world: World) -> None:
    """An address that goes from pod to pod at once: whoever asks at any moment gets nobody's keys but the owner's."""
    address = world.address(1)
    async with world.agent() as agent:
        await agent.until_ready()
        seen: set[str] = set()
        owners: list[str] = []
        done = asyncio.Event()

        async def asking() -> None:
            while not done.is_set():
                known = len(owners)
                status, body = await agent.ask(address)
                if status == 200:
                    # Whoever it was, it owned the address at some moment of this request.
                    assert body.decode() in owners[max(0, known - 2) :]
                    seen.add(body.decode())

        async with asyncio.TaskGroup() as group:
            group.create_task(asking())
            for number in range(8):
                role = f"app-{number}"
                owners.append(role)
                await world.pod(f"pod-{number}", role, address)
                await agent.until_told(address, 200, role)
                await world.do("delete_pod", world.team, f"pod-{number}")
            done.set()
        assert seen


async def test_a_late_event(world: World) -> None:
    """P3: who asks before the API server says whose address it is, is held and answered by that event."""
    address = world.address(1)
    async with world.agent("--server.hold=9") as agent:  # however busy the machine is
        await agent.until_ready()
        await world.pod("late", "app-late")
        asked = asyncio.create_task(agent.ask(address))
        await asyncio.sleep(0.3)  # the measure itself, not a wait for something
        await world.do("set_pod_status", world.team, "late", [address])
        assert await asked == (200, b"app-late")


async def test_a_namespace_takes_its_permission_back(world: World) -> None:
    """Removing a permission takes effect with its event, though keys are held; giving it back gives the same keys."""
    address = world.address(1)
    async with world.agent() as agent:
        await agent.until_ready()
        await world.pod("a", "app-a", address)
        await agent.until_told(address, 200, "app-a")
        await world.do("annotate_namespace", world.team, {PERMITTED: None})
        await agent.until_told(address, 403, "NamespaceSilent")
        assert (await agent.ask(address, f"{ROLES}app-a"))[0] == 403
        await world.do("annotate_namespace", world.team, {PERMITTED: ".*"})
        await agent.until_told(address, 200, "app-a")
        assert len(world.sts.calls()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_api_server_restarts(world: World, number: signal.Signals) -> None:
    """P5: known pods never notice; what happened meanwhile is known soon after."""
    first, second = world.address(1), world.address(2)
    async with world.agent() as agent:
        await agent.until_ready()
        await world.pod("a", "app-a", first)
        await agent.until_told(first, 200, "app-a")
        await asyncio.to_thread(world.cluster.stop_apiserver, number)
        for _ in range(20):
            assert await agent.ask(first) == (200, b"app-a")
        assert (await agent.ask(second))[0] == 503
        await asyncio.to_thread(world.cluster.start_apiserver)
        await world.pod("b", "app-b", second)
        await agent.until_told(second, 200, "app-b")
        assert await agent.ask(first) == (200, b"app-a")
        assert (await agent.admin_get("/readyz"))[0] == 200


async def test_what_is_deleted_in_a_gap_is_gone(world: World) -> None:
    """A pod that is deleted while no watch is open has no role after it, and its address is the next pod's."""
    first, second = world.address(1), world.address(2)
    async with world.agent() as agent:
        await agent.until_ready()
        for name, address in (("a", first), ("b", second)):
            await world.pod(name, f"app-{name}", address)
            await agent.until_told(address, 200, f"app-{name}")
        agent.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.to_thread(world.cluster.expire_versions)
            for name in ("a", "b"):
                await world.do("delete_pod", world.team, name)
            await world.pod("c", "app-c", second)
        finally:
            agent.process.send_signal(signal.SIGCONT)
        await agent.until_told(second, 200, "app-c")
        await agent.until_told(first, 503, "CallerUnknown")


async def test_etcd_stops(world: World) -> None:
    """P5: without the API server's store known pods are served, a stranger is refused in time, all recovers."""
    first, second = world.address(1), world.address(2)
    async with world.agent() as agent:
        await agent.until_ready()
        await world.pod("a", "app-a", first)
        await agent.until_told(first, 200, "app-a")
        await asyncio.to_thread(world.cluster.stop_etcd)
        for _ in range(10):
            assert await agent.ask(first) == (200, b"app-a")
        assert (await agent.ask(second))[0] == 503
        await asyncio.to_thread(world.cluster.start_etcd)
        await world.pod("b", "app-b", second)
        await agent.until_told(second, 200, "app-b")


async def test_no_rights_at_the_start(world: World) -> None:
    """Missing rights keep it up, not ready, and named; given, it recovers; Events stay a courtesy."""
    address, refused = world.address(1), world.address(2)
    await world.do("revoke", f"{world.team}-agent")
    await world.pod("a", "app-a", address)
    await world.pod("thief", "bank", refused)
    async with world.agent() as agent:
        await agent.until_up()

        async def named() -> bool:
            return "403" in (await agent.admin_get("/readyz?verbose"))[1]

        await until("the missing right is named", named, agent.log)
        status, text = await agent.admin_get("/readyz?verbose")
        assert status == 503
        assert 'cannot list resource "pods"' in text
        assert (await agent.ask(address))[0] == 503
        await world.do("grant", world.team, "agent", READ, name=f"{world.team}-reader")
        await agent.until_ready()
        assert await agent.ask(address) == (200, b"app-a")
        await agent.until_told(refused, 403, "NotPermitted")
        assert await world.do("list_events", world.team) == []


async def test_no_api_server_at_the_start(world: World) -> None:
    """An API server that cannot be reached keeps it up and not ready, and says so; it recovers by itself."""
    address = world.address(1)
    await world.pod("a", "app-a", address)
    await asyncio.to_thread(world.cluster.stop_apiserver, signal.SIGKILL)
    async with world.agent() as agent:
        await agent.until_up()
        status, text = await agent.admin_get("/readyz?verbose")
        assert (status, "[-] pods: no list yet" in text) == (503, True)
        assert (await agent.admin_get("/livez"))[0] == 200
        assert (await agent.ask(address))[0] == 503
        await asyncio.to_thread(world.cluster.start_apiserver)
        await agent.until_ready()
        assert await agent.ask(address) == (200, b"app-a")


async def test_explaining(world: World) -> None:
    """The operator asks the running agent by name and by address, the pod asks about itself: one answer."""
    address, refused = world.address(1), world.address(2)
    async with world.agent() as agent:
        await agent.until_ready()
        await world.pod("a", "app-a", address)
        await world.pod("thief", "bank", refused)
        await agent.until_told(address, 200, "app-a")
        await agent.until_told(refused, 403, "NotPermitted")
        code, text = await agent.command("explain", "--pod", f"{world.team}/a")
        assert (code, "app-a" in text, PERMITTED in text) == (0, True, True)
        code, text = await agent.command("explain", "--ip", refused)
        assert ("NotPermitted" in text, "bank" in text) == (True, True), (code, text)
        _, body = await agent.ask(refused, "/metaproxy/explain")
        assert b"NotPermitted" in body


async def test_a_series_on_the_real_wire(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same thing again is one Event whose count grows, by PATCH, as the real API server takes it."""
    monkeypatch.setattr(events, "REPEAT", 0.05)
    await world.pod("thief", "bank")
    uid = (await world.do("get_pod", world.team, "thief"))["metadata"]["uid"]
    kubeconfig = await asyncio.to_thread(world.cluster.write_kubeconfig, tmp_path / "own", world.token)
    async with KubeClient(str(kubeconfig)) as client:
        recorder = EventRecorder(client, world.node, metrics=Metrics())
        work = asyncio.create_task(recorder.run())
        try:
            pod = Pod(uid=uid, namespace=world.team, name="thief")

            async def counted() -> bool:
                recorder.record(pod, Reason.NOT_PERMITTED, "no; ask the operator")
                found = await world.do("list_events", world.team)
                return len(found) == 1 and (found[0].get("series") or {}).get("count", 0) >= 2

            await until("one Event with a series", counted, lambda: str(world.cluster.list_events(world.team)))
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

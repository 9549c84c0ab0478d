"""The startup taint against a real API server: removed by the agent when it is ready, others' changes kept."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from metaproxy.kubeanswers import Answer
from metaproxy.kubeclient import KubeClient
from metaproxy.taint import KEY, StartupTaint
from tests.cluster.harness import Cluster
from tests.fakes.process import running, until
from tests.fakes.sts import FakeSts, Step

pytestmark = pytest.mark.timeout(300)

RULES = [
    {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]},
]
OURS = {"key": KEY, "effect": "NoSchedule"}
OTHER = {"key": "example.com/other", "value": "x", "effect": "NoExecute"}


class World:
    """A node with taints and an account that may patch it."""

    def __init__(self, cluster: Cluster, name: str, kubeconfig: Path) -> None:
        self.cluster, self.name, self.kubeconfig = cluster, name, kubeconfig
        self.path = f"/api/v1/nodes/{name}"

    def taints(self) -> set[str]:
        """The keys of what is on the node, but for what the API server itself puts on a new one."""
        taints = self.cluster.admin.get(self.path)["spec"].get("taints") or []
        return {taint["key"] for taint in taints} - {"node.kubernetes.io/not-ready"}


@asynccontextmanager
async def node(cluster: Cluster, folder: Path, *taints: dict[str, str]) -> AsyncIterator[World]:
    """A world, removed afterwards."""
    name, team = f"node-{secrets.token_hex(4)}", f"team-{secrets.token_hex(4)}"

    def make() -> Path:
        cluster.admin.post(
            "/api/v1/nodes",
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": list(taints)}},
        )
        cluster.create_namespace(team)
        cluster.create_service_account(team, "agent")
        cluster.grant(team, "agent", RULES, name=team)
        return cluster.write_kubeconfig(folder / "kubeconfig", cluster.mint_token(team, "agent"))

    kubeconfig = await asyncio.to_thread(make)
    try:
        yield World(cluster, name, kubeconfig)
    finally:
        await asyncio.to_thread(cluster.admin.delete, f"/api/v1/nodes/{name}")
        await asyncio.to_thread(cluster.delete_namespace, team)


async def test_the_agent_removes_its_own_taint_and_only_that(cluster: Cluster, tmp_path: Path) -> None:
    """A process of its own, from its start on; while it is not ready the taint stays."""
    gate = asyncio.Event()
    async with node(cluster, tmp_path, OTHER, OURS) as world, FakeSts() as sts:
        flags = [f"--source.kubeconfig={world.kubeconfig}", f"--node-name={world.name}", "--events.enabled=false"]
        arguments = (*flags, f"--sts.endpoint-url={sts.url}", "--node.remove-startup-taint")
        sts.settings["GetCallerIdentity"] = Step(gate=gate)
        async with running(tmp_path, *arguments) as agent:
            try:
                await agent.until_up()
                await until("only STS is waited for", lambda: sts.asked, agent.log)
                for _ in range(20):  # an agent that did not wait would need two requests for it
                    told = (await agent.admin_get("/readyz?verbose"))[1]
                    assert "startup taint: waiting until the agent is ready" in told
                    assert await asyncio.to_thread(world.taints) == {OTHER["key"], KEY}
            finally:
                gate.set()
            await agent.until_ready()

            async def off() -> bool:
                return await asyncio.to_thread(world.taints) == {OTHER["key"]}

            await until("the taint is off", off, agent.log)
            assert "startup taint: off" in (await agent.admin_get("/readyz?verbose"))[1]


async def test_a_conflict(cluster: Cluster, tmp_path: Path) -> None:
    """Somebody else taints the node between our reading and our patching: theirs stays, ours goes."""
    async with node(cluster, tmp_path, OURS) as world, KubeClient(str(world.kubeconfig)) as client:
        statuses: list[tuple[str, int]] = []

        class Late:
            """The client, after whose first read somebody else is faster."""

            async def request(self, method: str, path: str, **more: Any) -> Answer:
                answer = await client.request(method, path, **more)
                if not statuses:
                    change = {"spec": {"taints": [OURS, OTHER]}}
                    await asyncio.to_thread(cluster.admin.merge, world.path, change)
                statuses.append((method, answer.status))
                return answer

        taint = StartupTaint(Late(), world.name, ready=lambda: True)
        work = asyncio.create_task(taint.run())
        try:

            async def off() -> bool:
                return taint.status() == "off"

            await until("the taint is off", off, lambda: json.dumps(statuses))
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        assert statuses[1][0] == "PATCH"
        assert statuses[1][1] in {409, 422}
        assert await asyncio.to_thread(world.taints) == {OTHER["key"]}


def forbids(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """An admission policy, and what puts it in force, by which nobody changes that node."""
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["nodes"]}
                ]
            },
            "matchConditions": [{"name": "ours", "expression": f"object.metadata.name == '{name}'"}],
            "validations": [{"expression": "false", "message": "nodes are the platform's"}],
        },
    }
    binding = {
        "apiVersion": policy["apiVersion"],
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return policy, binding


async def test_a_policy_that_forbids_it(cluster: Cluster, tmp_path: Path) -> None:
    """It answers 422, as to a conflict does: its words are told, and when it is gone the taint goes."""
    async with node(cluster, tmp_path, OURS) as world, KubeClient(str(world.kubeconfig)) as client:
        policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
        policy, binding = forbids(world.name)
        change = {"metadata": {"labels": {"x": "y"}}}

        async def refused() -> bool:
            answer = await asyncio.to_thread(
                cluster.admin.request,
                "PATCH",
                f"{world.path}?dryRun=All",
                change,
                content_type="application/merge-patch+json",
            )
            return answer.status == 422

        async def off() -> bool:
            return taint.status() == "off"

        async def told() -> bool:
            return "nodes are the platform's" in taint.status()

        await asyncio.to_thread(cluster.admin.post, f"{policies}ies", policy)
        await asyncio.to_thread(cluster.admin.post, f"{policies}ybindings", binding)
        taint = StartupTaint(client, world.name, ready=lambda: True)
        work: asyncio.Task[None] | None = None
        try:
            await until("the policy is in force", refused, str)
            work = asyncio.create_task(taint.run())
            await until("its words are told", told, taint.status)
            assert await asyncio.to_thread(world.taints) == {KEY}
        finally:
            await asyncio.to_thread(cluster.admin.delete, f"{policies}ybindings/{world.name}")
            await asyncio.to_thread(cluster.admin.delete, f"{policies}ies/{world.name}")
        try:
            await until("the taint is off", off, taint.status)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

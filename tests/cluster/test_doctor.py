"""The doctor against a real API server: its rights reviewed by the server itself, its lists in pages."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from metaproxy.doctor import GROUPS, examined
from metaproxy.findings import Finding, Verdict
from metaproxy.pods import PERMITTED, ROLE
from metaproxy.settings import Settings
from metaproxy.settingsources import Parser, load_some
from tests.cluster.harness import Cluster
from tests.fakes.sts import NODE_KEY, FakeSts

pytestmark = pytest.mark.timeout(300)

READ = {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}
EVENTS = {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}


@pytest.fixture(autouse=True)
def node_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's own keys, in the environment; no metadata service."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", NODE_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "own-secret-of-the-node")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class World:
    """A namespace whose account runs the doctor."""

    def __init__(self, cluster: Cluster, name: str, kubeconfig: Path, sts: FakeSts) -> None:
        self.cluster, self.name, self.kubeconfig, self.sts = cluster, name, kubeconfig, sts

    def _settings(self) -> Any:
        where = f"--source.kubeconfig={self.kubeconfig}", f"--sts.endpoint-url={self.sts.url}"
        _, flags = Parser("metaproxy doctor", Settings).read(
            [*where, "--sts.region=us-east-1", "--upstream.url=http://127.0.0.1:9"]
        )
        return load_some(Settings, flags, *GROUPS)

    async def doctor(self) -> dict[str, list[Finding]]:
        """What it finds, by check."""
        found: dict[str, list[Finding]] = {}
        for finding in await examined(await asyncio.to_thread(self._settings)):
            found.setdefault(finding.check, []).append(finding)
        return found


@asynccontextmanager
async def world(cluster: Cluster, folder: Path, *rules: dict[str, list[str]]) -> AsyncIterator[World]:
    """With an account that may do this, and nothing else."""
    name = f"team-{secrets.token_hex(4)}"

    def make() -> Path:
        cluster.create_namespace(name, {PERMITTED: ".*"})
        cluster.create_service_account(name, "doctor")
        if rules:
            cluster.grant(name, "doctor", rules, name=name)
        return cluster.write_kubeconfig(folder / "kubeconfig", cluster.mint_token(name, "doctor"))

    kubeconfig = await asyncio.to_thread(make)
    try:
        async with FakeSts() as sts:
            yield World(cluster, name, kubeconfig, sts)
    finally:
        if rules:
            await asyncio.to_thread(cluster.revoke, name)
        await asyncio.to_thread(cluster.delete_namespace, name)


def row_of(found: dict[str, list[Finding]], check: str) -> Finding:
    """The one finding of a check."""
    [row] = found[check]
    return row


async def test_with_every_right(cluster: Cluster, tmp_path: Path) -> None:
    """What the agent needs is enough: its own list permission is for the whole cluster."""
    async with world(cluster, tmp_path, READ, EVENTS) as here:
        role = f"role-{here.name}"
        await asyncio.to_thread(cluster.create_pod, here.name, "web", node="n", annotations={ROLE: role})
        host = {"hostNetwork": True}
        await asyncio.to_thread(cluster.create_pod, here.name, "host", node="n", annotations={ROLE: "x"}, spec=host)
        found = await here.doctor()
        assert row_of(found, "api-permissions").verdict is Verdict.OK
        assert f"{here.name}/host" in row_of(found, "host-network").subjects
        assert row_of(found, "clock").verdict is Verdict.OK
        assert "the API server" in row_of(found, "clock").found
        assert len(here.sts.calls(f"arn:aws:iam::123456789012:role/{role}")) == 1


@pytest.mark.parametrize(
    ("missing", "rules"),
    [
        ("watch", [{**READ, "verbs": ["list"]}, EVENTS]),
        ("patch", [READ, {**EVENTS, "verbs": ["create"]}]),
    ],
)
async def test_a_verb_that_is_missing(
    cluster: Cluster, tmp_path: Path, missing: str, rules: list[dict[str, list[str]]]
) -> None:
    """The rule to add is what a ClusterRole takes, and mends it."""
    async with world(cluster, tmp_path, *rules) as here:
        lacking = row_of(await here.doctor(), "api-permissions")
        assert lacking.verdict is Verdict.PROBLEM
        assert {verb for rule in lacking.document for verb in rule["verbs"]} == {missing}
        more = f"{here.name}-more"
        await asyncio.to_thread(cluster.grant, here.name, "doctor", lacking.document, name=more)
        try:
            assert row_of(await here.doctor(), "api-permissions").verdict is Verdict.OK
        finally:
            await asyncio.to_thread(cluster.revoke, more)


async def test_without_any_right(cluster: Cluster, tmp_path: Path) -> None:
    """Reviewing oneself is everybody's right; nothing is claimed of pods."""
    async with world(cluster, tmp_path) as here:
        found = await here.doctor()
        lacking = row_of(found, "api-permissions")
        assert lacking.verdict is Verdict.PROBLEM
        assert {resource for rule in lacking.document for resource in rule["resources"]} == {
            "pods",
            "namespaces",
            "events",
        }
        for check in ("roles", "namespace-policy", "annotations", "host-network"):
            assert row_of(found, check).verdict is Verdict.NOT_CHECKED
            assert "403" in row_of(found, check).found


async def test_pages(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own way of telling that there is more."""
    monkeypatch.setattr("metaproxy.doctorcluster.PAGE", 2)
    async with world(cluster, tmp_path, READ, EVENTS) as here:
        names = [f"web-{number}" for number in range(5)]
        for name in names:
            await asyncio.to_thread(cluster.create_pod, here.name, name, node="n", annotations={ROLE: name})
        await here.doctor()
        asked = {call.role.rpartition("/")[2] for call in here.sts.calls()}
        assert asked >= set(names)


async def test_nothing_is_changed(cluster: Cluster, tmp_path: Path) -> None:
    """An account that may only read sees no Event and no change of its pods."""
    async with world(cluster, tmp_path, READ) as here:
        await asyncio.to_thread(cluster.create_pod, here.name, "web", node="n", annotations={ROLE: "a b"})
        before = await asyncio.to_thread(cluster.get_pod, here.name, "web")
        assert row_of(await here.doctor(), "annotations").subjects == (f"{here.name}/web",)
        assert await asyncio.to_thread(cluster.get_pod, here.name, "web") == before
        assert await asyncio.to_thread(cluster.list_events, here.name) == []

"""The suite of the list-watch over a real API server: what it promises over the fake it must keep here."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Cluster
from tests.component.kubewire_suite import KubeWireSuite
from tests.component.listwatch_suite import RULES, ListWatchSuite

pytestmark = pytest.mark.timeout(180)  # the first test waits for the start of the servers, some for a restart


class RealWorld:
    """The cluster, seen from one node and one namespace. Its harness blocks, so it works in threads."""

    def __init__(self, cluster: Cluster, node: str, namespace: str, folder: Path) -> None:
        self.cluster = cluster
        self.node = node
        self.namespace = namespace
        self._path = folder / "kubeconfig"

    async def do(self, action: str, *args: Any, **kwargs: Any) -> Any:
        """What an actor does."""
        return await asyncio.to_thread(getattr(self.cluster, action), *args, **kwargs)

    async def kubeconfig(self, token: str | None = None) -> Path:
        """Always the same file."""
        return self.cluster.write_kubeconfig(self._path, token)

    async def break_off(self) -> None:
        """Kill the API server and start it again."""
        await asyncio.to_thread(self.cluster.restart_apiserver, signal.SIGKILL)

    async def expire(self) -> None:
        """Every version up to now becomes too old."""
        await asyncio.to_thread(self.cluster.expire_versions)

    async def freeze_etcd(self) -> None:
        """The store says nothing any more."""
        await asyncio.to_thread(self.cluster.freeze_etcd)

    async def account(self) -> str:
        """A new ServiceAccount's token."""
        await self.do("create_service_account", self.namespace, "agent")
        token: str = await self.do("mint_token", self.namespace, "agent")
        return token

    async def permit(self) -> None:
        """Give it rights."""
        await self.do("grant", self.namespace, "agent", RULES, name=f"{self.namespace}-agent")

    async def forbid(self) -> None:
        """Take them again."""
        await self.do("revoke", f"{self.namespace}-agent")


@pytest.fixture
def world(fragile: Cluster, node: str, namespace: str, tmp_path: Path) -> RealWorld:
    """The one cluster, mended afterwards, with a node and a namespace of its own for each test."""
    return RealWorld(fragile, node, namespace, tmp_path)


class TestReal(ListWatchSuite):
    """What the source promises, over kube-apiserver and etcd."""


class TestRealWire(KubeWireSuite):
    """What kube-apiserver says."""

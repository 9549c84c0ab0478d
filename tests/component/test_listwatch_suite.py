"""The suite of the list-watch over the fake API server; `tests/cluster` asks a real one the same."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.component.kubewire_suite import KubeWireSuite
from tests.component.listwatch_suite import ListWatchSuite
from tests.fakes.kube_api import FakeKubeApi


def write_kubeconfig(path: Path, url: str, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    """A kubeconfig file for a server."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "test", "user": user or {"token": "admin"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(config))
    return path


class FakeWorld:
    """The fake, and everybody who writes to it."""

    def __init__(self, api: FakeKubeApi, folder: Path) -> None:
        self.api = api
        self.node = "node-1"
        self.namespace = "default"
        self._path = folder / "kubeconfig"
        api.token = "admin"
        api.create_namespace(self.namespace)

    async def do(self, action: str, *args: Any, **kwargs: Any) -> Any:
        """What an actor does."""
        return getattr(self.api, action)(*args, **kwargs)

    async def kubeconfig(self, token: str | None = None) -> Path:
        """Always the same file."""
        return write_kubeconfig(self._path, self.api.url, {"token": token or "admin"})

    async def break_off(self) -> None:
        """Every connection ends without a last chunk."""
        self.api.drop_watches()

    async def expire(self) -> None:
        """Every version up to now becomes too old."""
        self.api.expire_versions()

    async def freeze_etcd(self) -> None:
        """The store says nothing any more."""
        self.api.etcd_down = True

    async def account(self) -> str:
        """Here the administrator loses the rights."""
        await self.forbid()
        return "admin"

    async def permit(self) -> None:
        """Give them."""
        self.api.forbidden.clear()

    async def forbid(self) -> None:
        """Take them."""
        self.api.forbidden |= {(verb, what) for verb in ("list", "watch") for what in ("pods", "namespaces")}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[FakeWorld]:
    """A fake of its own for each test."""
    async with FakeKubeApi() as api:
        yield FakeWorld(api, tmp_path)


class TestFake(ListWatchSuite):
    """What the source promises, over the fake."""


class TestFakeWire(KubeWireSuite):
    """What the fake says."""

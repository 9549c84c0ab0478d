"""The fake API server in a namespace of the lab, told by the test what to say of pods and when.

Knows how a server of the test's process listens in another namespace; must not know what a test does with it.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes.aside import Aside, ValueT
from tests.fakes.kube_api import FakeKubeApi
from tests.network.lab.namespaces import Namespace

NODE_NAME = "node-1"


class Kube(Aside):
    """For as long as the context lasts; pods are in the namespace `shop`."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        super().__init__()
        self._namespace = namespace
        self.kubeconfig = folder / "kubeconfig"
        self.api = FakeKubeApi()

    @property
    def flags(self) -> tuple[str, ...]:
        """What the agent must be told to read this server."""
        return (f"--source.kubeconfig={self.kubeconfig}", f"--node-name={NODE_NAME}")

    def do(self, what: Callable[[FakeKubeApi], ValueT]) -> ValueT:
        """Change the state, in the server's loop; its watchers are told at once."""

        async def done() -> ValueT:
            return what(self.api)

        return self._on_loop(done())

    def create(self, name: str, *, host_network: bool = False) -> None:
        """A pod that is bound to the node, without address; its role has its name."""
        marks, spec = {"iam.amazonaws.com/role": f"role-{name}"}, {"hostNetwork": host_network}
        self.do(lambda api: api.create_pod("shop", name, node=NODE_NAME, annotations=marks, spec=spec))

    def addressed(self, name: str, *addresses: str) -> None:
        """The kubelet writes that the pod runs at these addresses, or at none."""
        self.do(lambda api: api.set_pod_status("shop", name, addresses))

    @asynccontextmanager
    async def _living(self) -> AsyncIterator[None]:
        # The thread is back before anything is awaited that other tasks could make sockets in; this is the first.
        with self._namespace.inside():
            await self.api.start()
        entry = {"cluster": {"server": self.api.url}, "user": {"token": "t"}, "context": {"cluster": "x", "user": "x"}}
        config = {f"{kind}s": [{"name": "x", kind: entry[kind]}] for kind in entry}
        self.kubeconfig.write_text(json.dumps({"kind": "Config", "current-context": "x", **config}))
        self.api.create_namespace("shop", {"iam.amazonaws.com/permitted": ".*"})
        yield
        await self.api.stop()

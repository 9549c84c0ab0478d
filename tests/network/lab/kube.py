"""The fake API server in a namespace of the lab, told by the test what to say of pods and when.

Knows how a server of the test's process listens in another namespace; must not know what a test does with it.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.fakes.kube_api import FakeKubeApi
from tests.network.lab.namespaces import PATIENCE, Namespace

ValueT = TypeVar("ValueT")
NODE_NAME = "node-1"


class Kube:
    """Runs in a thread of its own for as long as the context lasts; pods are in the namespace `shop`."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self._namespace = namespace
        self.kubeconfig = folder / "kubeconfig"
        self.api = FakeKubeApi()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        with_sockets = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        with_sockets.result(PATIENCE)
        entry = {"cluster": {"server": self.api.url}, "user": {"token": "t"}, "context": {"cluster": "x", "user": "x"}}
        config = {f"{kind}s": [{"name": "x", kind: entry[kind]}] for kind in entry}
        self.kubeconfig.write_text(json.dumps({"kind": "Config", "current-context": "x", **config}))
        self.do(lambda api: api.create_namespace("shop", {"iam.amazonaws.com/permitted": ".*"}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self.api.stop(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    @property
    def flags(self) -> tuple[str, ...]:
        """What the agent must be told to read this server."""
        return (f"--source.kubeconfig={self.kubeconfig}", f"--node-name={NODE_NAME}")

    def do(self, what: Callable[[FakeKubeApi], ValueT]) -> ValueT:
        """Change the state, in the server's loop; its watchers are told at once."""
        future: Future[ValueT] = Future()

        def run() -> None:
            try:
                future.set_result(what(self.api))
            except Exception as error:  # noqa: BLE001  raised where it was asked for
                future.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return future.result(PATIENCE)

    def create(self, name: str, *, host_network: bool = False) -> None:
        """A pod that is bound to the node, without address; its role has its name."""
        marks, spec = {"iam.amazonaws.com/role": f"role-{name}"}, {"hostNetwork": host_network}
        self.do(lambda api: api.create_pod("shop", name, node=NODE_NAME, annotations=marks, spec=spec))

    def addressed(self, name: str, *addresses: str) -> None:
        """The kubelet writes that the pod runs at these addresses, or at none."""
        self.do(lambda api: api.set_pod_status("shop", name, addresses))

    async def _start(self) -> None:
        # The thread is back before anything is awaited that other tasks could make sockets in; this is the first.
        with self._namespace.inside():
            await self.api.start()

"""The control plane: API server, scheduler, and the controllers that a DaemonSet's life needs, all of them real.

Knows: how they are started, and when a namespace is ready for pods.
Must not know: what runs in the cluster, and how a node does it.

The controllers: DaemonSets with their history, garbage collection, ServiceAccounts, the authority's certificate in each
namespace. No others: nodes are judged by whoever plays their kubelet, and a namespace is not deleted.
"""

from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL
from typing import Self

from tests.cluster.api import Json
from tests.cluster.harness import Cluster
from tests.cluster.processes import Server
from tests.cluster.waiting import wait_until

EFFECT_SECONDS = 60.0
"""For what a controller does: many times what it takes."""


class ControlPlane:
    """For as long as the context lasts.

    Attributes:
        cluster: the API server. Whoever creates a namespace there creates its account twice: see `create_namespace`.
        kubeconfig: a file with all rights.
    """

    def __init__(self, binary: Path, folder: Path) -> None:
        self.cluster = Cluster(binary, folder)
        self.kubeconfig = self.cluster.write_kubeconfig(folder / "kubeconfig")
        access = f"--kubeconfig={self.kubeconfig}"
        self._servers = [
            Server(program, [binary, program, access, *flags], folder / f"{program}.log")
            for program, flags in {
                "controllers": [f"--root-ca-file={self.cluster.ca_file}"],
                # It serves metrics and health to nobody.
                "kube-scheduler": ["--leader-elect=false", "--secure-port=0"],
            }.items()
        ]

    def __enter__(self) -> Self:
        self.cluster.start()
        try:
            for server in self._servers:
                server.start()
            self._wait_ready("default")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, and only them."""
        for server in self._servers:
            server.end(SIGKILL)
        self.cluster.close()

    def create_namespace(self, name: str, annotations: Mapping[str, str] | None = None) -> None:
        """Create a namespace; returns when pods can be created there."""
        self.cluster.admin.post(
            "/api/v1/namespaces", {"metadata": {"name": name, "annotations": {**(annotations or {})}}}
        )
        self._wait_ready(name)

    def daemon_set(self, namespace: str, name: str) -> Json:
        """A DaemonSet as it is; raises ApiFailure."""
        return self.cluster.admin.get(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")

    def rolled_out(self, namespace: str, name: str) -> bool:
        """What `kubectl rollout status` waits for: all pods that are wanted are of the newest template, and available.

        And nothing else is left: no pod of another template, not even one that is ending.
        """
        found = self.daemon_set(namespace, name)
        status, wanted = found["status"], found["status"]["desiredNumberScheduled"]
        return bool(
            status.get("observedGeneration") == found["metadata"]["generation"]
            and wanted == status.get("updatedNumberScheduled", 0) == status.get("numberAvailable", 0)
            and wanted == len(self.pods(namespace, selector_of(found)))
        )

    def pods(self, namespace: str, selector: str = "") -> list[Json]:
        """The pods of a namespace with these labels, as they are."""
        query = {"labelSelector": selector} if selector else {}
        found: list[Json] = self.cluster.admin.get(f"/api/v1/namespaces/{namespace}/pods", query=query)["items"]
        return found

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join([self.cluster.logs(), *(server.tail() for server in self._servers)])

    def _wait_ready(self, namespace: str) -> None:
        home = f"/api/v1/namespaces/{namespace}"

        def ready() -> bool:
            for server in self._servers:
                if not server.running:
                    raise RuntimeError(f"{server.name} ended\n{server.tail()}")
            wanted = (f"{home}/serviceaccounts/default", f"{home}/configmaps/kube-root-ca.crt")
            return all(self.cluster.admin.request("GET", path).status == 200 for path in wanted)

        try:
            wait_until(f"pods can be created in {namespace}", ready, EFFECT_SECONDS)
        except TimeoutError as error:
            raise RuntimeError(f"{error}\n{self.logs()}") from None


def selector_of(daemon_set: Json) -> str:
    """By which the pods of a DaemonSet are found."""
    return ",".join(f"{key}={value}" for key, value in daemon_set["spec"]["selector"]["matchLabels"].items())

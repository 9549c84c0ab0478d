"""A node on which the kubelet is played: it runs the pods that are bound to it, in a network of its own.

Knows: the node's object, the watch of its pods, who gets which network.
Must not know: what a pod does.

Pods of the host's network are in the lab's node; others get one of the lab's pods, network and address, while one is
free. Every image is this machine; which of them can be had is up to the test. All nodes have the same addresses, as
each has a network of its own that ends at the lab's metadata service.
"""

import http.client
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chart.controlplane.containers import now
from tests.chart.controlplane.pods import RunningPod, Site
from tests.cluster.actors import Actors
from tests.cluster.api import Json
from tests.network.lab.node import NODE, Lab, Pod

_WATCH_SECONDS = 3
"""A watch that ends by itself: so nothing has to wake it when the node goes."""

_ROOM = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi"}


class PlayedNode:
    """For as long as the context lasts; `folder` is its disk.

    Attributes:
        pods: those that run here or have run here, by name; of pods with one name the last.
    """

    def __init__(
        self,
        name: str,
        cluster: Actors,
        lab: Lab,
        *,
        folder: Path,
        images: Collection[str],
        environment: Mapping[str, str],
    ) -> None:
        self.name, self.lab = name, lab
        self.pods: dict[str, RunningPod] = {}
        self._cluster = cluster
        self._site = Site(cluster=cluster, folder=folder, address=NODE[4], images=images, environment=environment)
        self._given: dict[str, Pod] = {}
        self._running: dict[str, RunningPod] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=name)

    def __enter__(self) -> Self:
        # What every node has: the folder in which a chart may have files made.
        (self._site.folder / "host" / "run").mkdir(parents=True)
        self._register()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for pod in self._running.values():
            pod.end(0.0)
        for pod in self._running.values():
            pod.join()
        self._cluster.admin.delete(f"/api/v1/nodes/{self.name}")

    def disk(self, path: str) -> Path:
        """Where a path of the node's is here."""
        return self._site.folder / "host" / path.lstrip("/")

    def said(self) -> str:
        """What all pods have said, for a failure's message."""
        return "\n".join(f"{self.name} {name}/{line}" for name, pod in self.pods.items() for line in pod.lines)

    def _register(self) -> None:
        path = "/api/v1/nodes"
        labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": self.name}
        self._cluster.admin.post(path, {"metadata": {"name": self.name, "labels": labels}})
        moment = now()
        ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": moment, "lastTransitionTime": moment}
        status: Json = {
            "capacity": _ROOM,
            "allocatable": _ROOM,
            "conditions": [{**ready, "reason": "KubeletReady", "message": "played"}],
            "addresses": [{"type": "InternalIP", "address": NODE[4]}],
        }
        self._cluster.admin.merge(f"{path}/{self.name}/status", {"status": status})
        # The controller that takes the first taint away when a node is ready does not run here.
        self._cluster.admin.merge(f"{path}/{self.name}", {"spec": {"taints": None}})

    def _watch(self) -> None:
        path, query = "/api/v1/pods", {"fieldSelector": f"spec.nodeName={self.name}"}
        while not self._stop.is_set():
            told = self._cluster.admin.get(path, query=query)
            self._sync(told["items"])
            version = told["metadata"]["resourceVersion"]
            bounds = {"resourceVersion": version, "timeoutSeconds": _WATCH_SECONDS}
            try:
                with self._cluster.admin.watch(path, query={**query, **bounds}, timeout=60.0) as events:
                    while not self._stop.is_set() and (event := events.next(60.0)) is not None:
                        self._see(event["object"], gone=event["type"] == "DELETED")
            except http.client.IncompleteRead:
                continue

    def _sync(self, items: list[Json]) -> None:
        for pod in items:
            self._see(pod, gone=False)
        there = {pod["metadata"]["uid"] for pod in items}
        for uid in self._running.keys() - there:
            self._running[uid].end(0.0)
        for uid in [uid for uid, pod in self._running.items() if pod.gone]:
            del self._running[uid]
            self._given.pop(uid, None)

    def _see(self, pod: Json, *, gone: bool) -> None:
        metadata = pod["metadata"]
        uid, known = metadata["uid"], self._running.get(metadata["uid"])
        if known is None and not gone and pod["status"].get("phase") not in {"Succeeded", "Failed"}:
            self._begin(uid, pod)
        elif known is not None and gone:
            known.end(0.0)
        elif known is not None and "deletionTimestamp" in metadata:
            known.end(metadata["deletionGracePeriodSeconds"])

    def _begin(self, uid: str, pod: Json) -> None:
        network, address = self.lab.node, self._site.address
        if not pod["spec"].get("hostNetwork"):
            free = [each for each in self.lab.pods if each not in self._given.values()]
            if not free:
                return  # until one is free; the next list asks again
            self._given[uid] = free[0]
            network, address = free[0].namespace, free[0].addresses[4]
        self._running[uid] = RunningPod(pod, self._site, network=network, address=address)
        self.pods[pod["metadata"]["name"]] = self._running[uid]

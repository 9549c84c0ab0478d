"""One pod on a played node, from its volumes to its end, in a thread of its own.

Knows: the order of a pod's life, and how the kubelet tells it as a status.
Must not know: which pods there are, and how a container is run.
"""

import shutil
import subprocess
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chart.controlplane.containers import Container, now
from tests.chart.controlplane.volumes import NotYetError, fields_of, make_volumes
from tests.chart.kubelet import Kubelet
from tests.cluster.actors import Actors
from tests.cluster.api import ApiFailure, Json
from tests.network.lab.namespaces import Namespace

_AGAIN = 0.5
"""Seconds until what is lacking is looked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a node gives all its pods: its disk below `folder`, its address, the images that it can have.

    `environment` is what the kubelet puts into every container: the way to the API server.
    """

    cluster: Actors
    folder: Path
    address: str
    images: Collection[str]
    environment: Mapping[str, str]


class RunningPod:
    """A pod from when it is bound until nothing of it is left; `network` and `address` are its own or the node's.

    Attributes:
        containers: those that were started, by name.
    """

    def __init__(self, pod: Json, site: Site, *, network: Namespace, address: str) -> None:
        self.containers: dict[str, Container] = {}
        self._pod, self._site, self._network, self._address = pod, site, network, address
        self._path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        self._folder = site.folder / "pods" / pod["metadata"]["uid"]
        self._began = now()
        self._runtime: Kubelet | None = None
        self._waiting: Json = {"reason": "PodInitializing"}
        self._initialized = self._terminated = False
        self._since: dict[str, tuple[bool, str]] = {}
        self._told: Json = {}
        self._news, self._ending = threading.Event(), threading.Event()
        self._grace = 0.0
        self._thread = threading.Thread(target=self._live, name=pod["metadata"]["name"])
        self._thread.start()

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return not self._thread.is_alive()

    @property
    def lines(self) -> list[str]:
        """What its containers have said."""
        return [f"{name}: {line}" for name, each in [*self.containers.items()] for line in each.lines]

    def run(self, container: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container to its end, as `kubectl exec` does, when volumes and images are there."""
        assert self._runtime is not None, f"{self._path} is not prepared: {self._waiting}"
        return self._runtime.run(container, command=command)

    def end(self, grace: float) -> None:
        """End it, with this many seconds for its processes; returns at once. Only the first call counts."""
        if not self._ending.is_set():
            self._grace = grace
            self._ending.set()
            self._news.set()

    def join(self) -> None:
        """Wait until nothing of it is left."""
        self._thread.join()

    def _live(self) -> None:
        try:
            self._runtime = self._prepare()
            if self._runtime is not None and self._initialize(self._runtime):
                self._main(self._runtime)
        finally:
            self._end()

    def _prepare(self) -> Kubelet | None:
        """When volumes and images are there; None when the pod has to end before."""
        containers = [*self._pod["spec"].get("initContainers", []), *self._pod["spec"]["containers"]]
        host = self._site.folder / "host"
        while not self._ending.is_set():
            try:
                volumes = make_volumes(self._pod, cluster=self._site.cluster, folder=self._folder, host=host)
            except NotYetError as error:
                self._waiting = {"reason": "ContainerCreating", "message": str(error)}
            else:
                lacking = [each["image"] for each in containers if each["image"] not in self._site.images]
                if not lacking:
                    return Kubelet(
                        pod=self._pod,
                        volumes=volumes,
                        fields=fields_of(self._pod),
                        environment=self._site.environment,
                        within=tuple(self._network.command()),
                    )
                self._waiting = {"reason": "ImagePullBackOff", "message": f"there is no {lacking[0]}"}
            self._tell()
            self._ending.wait(_AGAIN)
        return None

    def _initialize(self, runtime: Kubelet) -> bool:
        """Run the init containers, one after the other, each until it ends well; whether all have."""
        policy = "Never" if self._pod["spec"]["restartPolicy"] == "Never" else "OnFailure"
        for spec in self._pod["spec"].get("initContainers", []):
            container = self._start(runtime, spec["name"], policy)
            while container.exit is None and not self._ending.is_set():
                self._tell()
                self._wait()
            if container.exit != 0:
                return False
        self._initialized = True
        return True

    def _main(self, runtime: Kubelet) -> None:
        for spec in self._pod["spec"]["containers"]:
            self._start(runtime, spec["name"], self._pod["spec"]["restartPolicy"])
        while not self._ending.is_set():
            self._tell()
            self._wait()

    def _start(self, runtime: Kubelet, name: str, policy: str) -> Container:
        self.containers[name] = made = Container(runtime, name, policy=policy, changed=self._news.set)
        return made

    def _wait(self) -> None:
        self._news.wait()
        self._news.clear()

    def _end(self) -> None:
        """When it has to: all containers at once; then the API server is told that the pod is no more."""
        self._ending.wait()
        threads = [threading.Thread(target=each.end, args=(self._grace,)) for each in self.containers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._terminated = True
        self._tell()
        options: Json = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._pod["metadata"]["uid"]}}
        # Whatever the answer: somebody may have forced it away already.
        self._site.cluster.admin.request("DELETE", self._path, options)
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- the status

    def _tell(self) -> None:
        status = self._status()
        if status == self._told:
            return
        self._told = status
        try:
            self._site.cluster.admin.merge(f"{self._path}/status", {"status": status})
        except ApiFailure as error:
            if error.status != 404:
                raise

    def _status(self) -> Json:
        spec = self._pod["spec"]
        main, first = (self._statuses(spec.get(kind, [])) for kind in ("containers", "initContainers"))
        exits = [each["state"].get("terminated", {}).get("exitCode") for each in main]
        phase = "Running" if self._initialized else "Pending"
        if self._terminated or None not in exits:
            phase = "Succeeded" if set(exits) == {0} else "Failed"
        ready = phase == "Running" and all(each["ready"] for each in main)
        conditions = {"PodScheduled": True, "Initialized": self._initialized, "ContainersReady": ready, "Ready": ready}
        return {
            "phase": phase,
            "hostIP": self._site.address,
            "hostIPs": [{"ip": self._site.address}],
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "startTime": self._began,
            "conditions": [self._condition(kind, so) for kind, so in conditions.items()],
            "initContainerStatuses": first,
            "containerStatuses": main,
        }

    def _statuses(self, specs: list[Json]) -> list[Json]:
        known = {name: each.status for name, each in [*self.containers.items()]}
        return [known.get(spec["name"]) or self._unstarted(spec) for spec in specs]

    def _unstarted(self, spec: Json) -> Json:
        nothing = {"imageID": "", "ready": False, "started": False, "restartCount": 0, "lastState": {}}
        return {"name": spec["name"], "image": spec["image"], "state": {"waiting": self._waiting}, **nothing}

    def _condition(self, kind: str, so: bool) -> Json:
        if kind not in self._since or self._since[kind][0] is not so:
            self._since[kind] = so, now()
        return {"type": kind, "status": str(so), "lastTransitionTime": self._since[kind][1]}

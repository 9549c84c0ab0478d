"""Pods of this node and namespaces of the cluster from the Kubernetes API server.

Knows: which of both is asked for, in which form, and who is told.
Must not know: how a list-watch lives, how bytes travel, policy, credentials.
"""

import asyncio
import random as randomness
import time
from collections.abc import Callable, Iterable
from typing import Protocol, get_args

from metaproxy.kubeclient import JSON, KubeClient
from metaproxy.listwatch import ListWatch, Timing
from metaproxy.objects import namespace_from, pod_from, version_of
from metaproxy.pods import Namespace, Pod
from metaproxy.resources import ItemT, Resource, read_list
from metaproxy.status import Watch
from metaproxy.telemetry import Metrics
from metaproxy.watchends import Reason

PODS, NAMESPACES = "/api/v1/pods", "/api/v1/namespaces"

METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Of namespaces only metadata are asked for: they are the one part whose cost grows with the cluster. The two forms
must not be mixed up: a watch with the list's is answered with 200 and ends after swallowing its first event."""

READ = 0.8
"""Seconds for a read that a held request waits for: it is held 0.9 s (contract §9.1)."""


class Sink(Protocol):
    """Where pods and namespaces go. Older versions than known may come and must not count."""

    def put_pod(self, pod: Pod) -> None:
        """A pod was added or modified."""
        ...

    def delete_pod(self, uid: str, version: int) -> None:
        """A pod was deleted."""
        ...

    def replace_pods(self, pods: Iterable[Pod], version: int) -> None:
        """These are all pods as of `version`."""
        ...

    def put_namespace(self, namespace: Namespace) -> None:
        """A namespace was added or modified."""
        ...

    def delete_namespace(self, uid: str, version: int) -> None:
        """A namespace was deleted."""
        ...

    def replace_namespaces(self, namespaces: Iterable[Namespace], version: int) -> None:
        """These are all namespaces as of `version`."""
        ...


class KubeSource:
    """Keeps a sink true to the API server."""

    def __init__(
        self,
        sink: Sink,
        client: KubeClient,
        node_name: str,
        *,
        metrics: Metrics,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._client = client
        self._pods: Resource[Pod] = Resource(
            name="pods",
            path=PODS,
            selector={"fieldSelector": f"spec.nodeName={node_name}"},
            list_accept=JSON,
            watch_accept=JSON,
            parse=pod_from,
            put=sink.put_pod,
            delete=sink.delete_pod,
            replace=sink.replace_pods,
        )
        namespaces: Resource[Namespace] = Resource(
            name="namespaces",
            path=NAMESPACES,
            selector={},
            list_accept=METADATA_LIST,
            watch_accept=METADATA,
            parse=namespace_from,
            put=sink.put_namespace,
            delete=sink.delete_namespace,
            replace=sink.replace_namespaces,
        )

        def watched(resource: Resource[ItemT]) -> ListWatch[ItemT]:
            restarts: dict[Reason, Callable[[], None]] = {
                reason: metrics.counter("watch_restarts_total", resource=resource.name, reason=reason).inc
                for reason in get_args(Reason)
            }
            return ListWatch(
                client,
                resource,
                timing=timing,
                on_restart=lambda reason: restarts[reason](),
                on_event=metrics.gauge("watch_last_event_timestamp_seconds", resource=resource.name).set,
                clock=clock,
                random=random,
            )

        self.pods = watched(self._pods)
        self.namespaces = watched(namespaces)

    def status(self) -> str:
        """One line for a person: what is known, and what is wrong."""
        return f"{self.pods.status()}; {self.namespaces.status()}"

    def watches(self) -> list[Watch]:
        """Both list-watches, for whoever looks."""
        return [
            Watch(
                resource=name,
                synced=watch.synced,
                last_word=watch.last_word,
                trouble=watch.trouble,
                trouble_since=watch.trouble_since,
            )
            for name, watch in (("pods", self.pods), ("namespaces", self.namespaces))
        ]

    @property
    def newest(self) -> tuple[int, int]:
        """The newest versions that were seen, of pods and of namespaces."""
        return self.pods.newest, self.namespaces.newest

    def begin_after(self, newest: tuple[int, int]) -> None:
        """Another process has seen these versions."""
        self.pods.begin_after(newest[0])
        self.namespaces.begin_after(newest[1])

    async def run(self) -> None:
        """Eternal: both list-watches; if one ends, so does the other, and this."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pods.run(), name="watch pods")
            group.create_task(self.namespaces.run(), name="watch namespaces")

    async def read_pods(self) -> tuple[list[Pod], int]:
        """All pods of this node as etcd has them now, and the version of that list.

        Raises:
            KubeError: there is no such answer within 0.8 s. WireError: the answer is no list.
        """
        pods, version = await read_list(self._client, self._pods, consistent=True, within=READ)
        return pods, version_of(version)

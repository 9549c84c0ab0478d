"""What the Kubernetes source promises, asked of whatever API server a `World` stands for: the fake, or a real one.

Knows: what is written to the API server and what must then be known. Must not know: which server it is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from metaproxy.caller import Directory
from metaproxy.kube import KubeSource
from metaproxy.kubeanswers import KubeError
from metaproxy.kubeclient import KubeClient
from metaproxy.listwatch import Timing
from metaproxy.pods import Namespace, Pod
from metaproxy.telemetry import Metrics

BOUND = 40.0
"""Seconds that nothing here may take; a real API server's restart takes five."""

QUICK = Timing(watch=(60, 60), grace=5.0, head=5.0, listing=5.0, pause=(0.05, 1.0))
"""Pauses that a test can wait for."""

RULES = [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}]


class World(Protocol):
    """An API server and everybody who writes to it."""

    node: str
    namespace: str

    async def do(self, action: str, *args: Any, **kwargs: Any) -> Any:
        """What an actor does: a method of `tests.cluster.actors.Actors`."""
        ...

    async def kubeconfig(self, token: str | None = None) -> Path:
        """A kubeconfig file with the administrator's token, or another; always the same file."""
        ...

    async def break_off(self) -> None:
        """Every connection ends without a last chunk."""
        ...

    async def expire(self) -> None:
        """Every version up to now becomes too old, and every connection ends."""
        ...

    async def freeze_etcd(self) -> None:
        """The store says nothing any more."""
        ...

    async def account(self) -> str:
        """The token of an account without rights."""
        ...

    async def permit(self) -> None:
        """Give the account `RULES`."""
        ...

    async def forbid(self) -> None:
        """Take them again."""
        ...


class Held:
    """The directory behind the source, what was reported to it, and a bell that rings at each report."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.reports: list[tuple[str, str, int]] = []
        self.bell = asyncio.Event()

    def _report(self, kind: str, what: str, version: int) -> None:
        self.reports.append((kind, what, version))
        self.bell.set()

    def put_pod(self, pod: Pod) -> None:
        """A pod is there."""
        self.directory.put_pod(pod)
        self._report("put", pod.name, pod.version)

    def delete_pod(self, uid: str, version: int) -> None:
        """A pod is gone."""
        self.directory.delete_pod(uid, version)
        self._report("delete", uid, version)

    def replace_pods(self, pods: Iterable[Pod], version: int) -> None:
        """These are all pods."""
        self.directory.replace_pods(pods, version)
        self._report("replace", "pods", version)

    def put_namespace(self, namespace: Namespace) -> None:
        """A namespace is there."""
        self.directory.put_namespace(namespace)
        self._report("put", namespace.name, namespace.version)

    def delete_namespace(self, uid: str, version: int) -> None:
        """A namespace is gone."""
        self.directory.delete_namespace(uid, version)
        self._report("delete", uid, version)

    def replace_namespaces(self, namespaces: Iterable[Namespace], version: int) -> None:
        """These are all namespaces."""
        self.directory.replace_namespaces(namespaces, version)
        self._report("replace", "namespaces", version)

    @property
    def pods(self) -> dict[str, Pod]:
        """The pods that are held, by name."""
        return {pod.name: pod for pod in self.directory.pods()}

    def count(self, kind: str, what: str) -> int:
        """How often this was reported."""
        return sum(report[:2] == (kind, what) for report in self.reports)

    async def until(self, condition: Callable[[], object], within: float = BOUND) -> None:
        """Wait until it is so; looked at after each report."""
        async with asyncio.timeout(within):
            while not condition():
                self.bell.clear()
                await self.bell.wait()


class Running:
    """A source at work, and how to make it stop and go on."""

    def __init__(self, source: KubeSource, metrics: Metrics) -> None:
        self.source = source
        self.metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def restarts(self, resource: str, reason: str) -> float:
        """How often this ended a watch."""
        labels = {"resource": resource, "reason": reason}
        return self.metrics.registry.get_sample_value("metaproxy_watch_restarts_total", labels) or 0.0

    def start(self) -> None:
        """Run it; it goes on where it was."""
        self._task = asyncio.create_task(self.source.run())

    async def stop(self) -> None:
        """Stop it; that it ended by itself fails the test."""
        assert self._task is not None
        ended = self._task.done()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        assert not ended, self._task


@asynccontextmanager
async def running(
    world: World, held: Held, kubeconfig: Path | None = None, timing: Timing = QUICK
) -> AsyncIterator[Running]:
    """A source over this world's API server."""
    metrics = Metrics()
    async with KubeClient(kubeconfig or await world.kubeconfig()) as client:
        it = Running(KubeSource(held, client, world.node, metrics=metrics, timing=timing), metrics)
        it.start()
        try:
            yield it
        finally:
            await it.stop()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what rings no bell."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110  it has no event to wait for
            await asyncio.sleep(0.01)


def role(name: str) -> Mapping[str, str]:
    """Annotations of a pod."""
    return {"iam.amazonaws.com/role": name}


def _reached(it: Running, ends: int) -> bool:
    return it.restarts("pods", "end") >= ends


def _has(held: Held, name: str) -> bool:
    return name in held.pods


class ListWatchSuite:
    """The tests. Whoever inherits gives the fixture `world`."""

    @pytest.fixture
    def held(self) -> Held:
        """What the source has reported."""
        return Held()

    async def test_begins_with_what_is_there(self, world: World, held: Held) -> None:
        """A list comes first: this node's pods, no other's, and every namespace with its annotations."""
        await world.do("annotate_namespace", world.namespace, {"iam.amazonaws.com/permitted": ".*"})
        await world.do("create_pod", world.namespace, "mine", node=world.node, annotations=role("reader"))
        await world.do("create_pod", world.namespace, "other", node=f"{world.node}-2")
        await world.do("create_pod", world.namespace, "unbound")

        async with running(world, held):
            await held.until(lambda: held.pods and held.directory.namespace(world.namespace))

        assert set(held.pods) == {"mine"}
        assert held.pods["mine"].annotations == role("reader")
        namespace = held.directory.namespace(world.namespace)
        assert namespace is not None
        assert namespace.annotations == {"iam.amazonaws.com/permitted": ".*"}

    async def test_life_of_a_pod(self, world: World, held: Held) -> None:
        """Binding, address, second family, termination and deletion of a pod are known as they happen."""
        async with running(world, held):
            await held.until(lambda: held.count("replace", "pods"))
            await world.do("create_pod", world.namespace, "p", annotations=role("reader"))
            await world.do("bind_pod", world.namespace, "p", world.node)
            await held.until(lambda: "p" in held.pods)
            assert held.pods["p"].addresses == ()

            await world.do("set_pod_status", world.namespace, "p", ["10.1.2.3", "fd00:1::3"])
            await held.until(lambda: held.pods["p"].addresses == ("10.1.2.3", "fd00:1::3"))
            assert held.directory.owners("fd00:1::3") == [held.pods["p"]]

            await world.do("delete_pod", world.namespace, "p", grace_seconds=30)
            await held.until(lambda: held.pods["p"].terminating)
            last = held.pods["p"]
            await world.do("delete_pod", world.namespace, "p")
            await held.until(lambda: not held.pods)

        assert held.directory.owners("10.1.2.3") == []
        [(_, _, version)] = [report for report in held.reports if report[:2] == ("delete", last.uid)]
        assert version > last.version

    async def test_burst(self, world: World, held: Held) -> None:
        """Fifty pods at once, whose events are cut anywhere, are all known."""
        async with running(world, held):
            await held.until(lambda: held.count("replace", "pods"))
            for number in range(50):
                await world.do("create_pod", world.namespace, f"p{number}", node=world.node)
            await held.until(lambda: len(held.pods) == 50)

    async def test_huge_pod(self, world: World, held: Held) -> None:
        """A pod of 1.2 MB, more than a line reader takes, is an event like others and hurts no other pod."""
        many = [{"name": f"variable{number}", "value": "x" * 30_000} for number in range(40)]
        async with running(world, held) as it:
            await held.until(lambda: held.count("replace", "pods"))
            await world.do(
                "create_pod",
                world.namespace,
                "huge",
                node=world.node,
                spec={"containers": [{"name": "main", "image": "none", "env": many}]},
            )
            await world.do("create_pod", world.namespace, "small", node=world.node)
            await held.until(lambda: set(held.pods) == {"huge", "small"})

            assert held.count("replace", "pods") == 1
            assert it.restarts("pods", "error") == 0

    async def test_namespaces(self, world: World, held: Held) -> None:
        """A namespace's annotations, its deletion, and another one of the same name are known as they happen."""
        name = world.namespace
        async with running(world, held):
            await held.until(lambda: held.directory.namespace(name))
            first = held.directory.namespace(name)
            assert first is not None

            await world.do("annotate_namespace", name, {"iam.amazonaws.com/permitted": "a.*"})
            await held.until(lambda: (found := held.directory.namespace(name)) and found.annotations)
            await world.do("delete_namespace", name)
            await held.until(lambda: held.directory.namespace(name) is None)
            await world.do("create_namespace", name, {"iam.amazonaws.com/permitted": "b.*"})
            await held.until(lambda: held.directory.namespace(name))

        again = held.directory.namespace(name)
        assert again is not None
        assert again.uid != first.uid
        assert again.annotations == {"iam.amazonaws.com/permitted": "b.*"}

    async def test_connections_break_off(self, world: World, held: Held) -> None:
        """After every connection ended without a last chunk, what happens then is known."""
        await world.do("create_pod", world.namespace, "before", node=world.node)
        async with running(world, held) as it:
            await held.until(lambda: "before" in held.pods)
            await world.do("set_pod_status", world.namespace, "before", ["10.1.2.3"])
            await held.until(lambda: held.count("put", "before"))  # so it is being watched
            await world.break_off()
            await world.do("delete_pod", world.namespace, "before")
            await world.do("create_pod", world.namespace, "after", node=world.node)
            await held.until(lambda: set(held.pods) == {"after"})

            assert it.restarts("pods", "lost") >= 1
            assert not it.source.pods.trouble

    async def test_missed_while_away(self, world: World, held: Held) -> None:
        """What was deleted and created while nobody watched is known, without a new list."""
        await world.do("create_pod", world.namespace, "before", node=world.node)
        async with running(world, held) as it:
            await held.until(lambda: "before" in held.pods)
            await it.stop()
            await world.do("delete_pod", world.namespace, "before")
            await world.do("create_pod", world.namespace, "after", node=world.node)
            it.start()
            await held.until(lambda: set(held.pods) == {"after"})

            assert held.count("replace", "pods") == 1

    async def test_missed_for_too_long(self, world: World, held: Held) -> None:
        """When the version is too old (an ERROR in a 200 answer) a new list shows what is gone and what is new."""
        await world.do("create_pod", world.namespace, "before", node=world.node)
        async with running(world, held) as it:
            await held.until(lambda: "before" in held.pods)
            await it.stop()
            await world.do("delete_pod", world.namespace, "before")
            await world.do("create_pod", world.namespace, "after", node=world.node)
            await world.expire()
            it.start()
            await held.until(lambda: set(held.pods) == {"after"})

            assert held.count("replace", "pods") == 2
            assert it.restarts("pods", "expired") == 1

    async def test_watches_that_end_in_time(self, world: World, held: Held) -> None:
        """Watches end cleanly by their time-out again and again, and nothing is missed."""
        async with running(world, held, timing=Timing(watch=(1, 1), pause=(0.05, 1.0))) as it:
            for number in range(4):
                await eventually(partial(_reached, it, number))
                await world.do("create_pod", world.namespace, f"p{number}", node=world.node)
                await held.until(partial(_has, held, f"p{number}"))

            assert it.restarts("pods", "silence") == 0
            assert it.restarts("pods", "error") == 0

    async def test_watch_from_the_future(self, world: World, held: Held) -> None:
        """A watch from a version that is still to come says nothing for ever: after one such watch there is a list."""
        async with running(world, held, timing=Timing(watch=(1, 1), pause=(0.05, 1.0))) as it:
            await held.until(lambda: held.count("replace", "pods"))
            await it.stop()
            await world.do("create_pod", world.namespace, "p", node=world.node)
            it.source.pods._version = "1000000000"
            it.start()
            await held.until(lambda: "p" in held.pods)

    async def test_read_is_consistent(self, world: World, held: Held) -> None:
        """A read shows what has just been written, though no watch has brought it."""
        async with KubeClient(await world.kubeconfig()) as client:
            source = KubeSource(held, client, world.node, metrics=Metrics())
            for number in range(5):
                made = await world.do("create_pod", world.namespace, f"p{number}", node=world.node)
                pods, version = await source.read_pods()

                assert {pod.name for pod in pods} == {f"p{n}" for n in range(number + 1)}
                assert version >= int(made["metadata"]["resourceVersion"])

    async def test_without_etcd(self, world: World, held: Held) -> None:
        """With its store gone the API server still gives a list to begin with; a consistent read ends in time."""
        await world.do("create_pod", world.namespace, "p", node=world.node)
        async with KubeClient(await world.kubeconfig()) as client:
            source = KubeSource(held, client, world.node, metrics=Metrics())
            await source.read_pods()  # the server's memory has the pod from here on
            await world.freeze_etcd()

            async with running(world, held):
                await held.until(lambda: "p" in held.pods)
                begun = asyncio.get_running_loop().time()
                with pytest.raises(KubeError, match="no answer in time"):
                    await source.read_pods()

        assert asyncio.get_running_loop().time() - begun < 8.0

    async def test_rights_come_and_go(self, world: World, held: Held) -> None:
        """Without rights it says so, tries on, and begins as soon as they are given; lost ones are said when missed."""
        config = await world.kubeconfig(await world.account())
        await world.do("create_pod", world.namespace, "p", node=world.node)
        async with running(world, held, config, timing=Timing(watch=(1, 1), pause=(0.05, 0.5))) as it:
            await eventually(lambda: it.restarts("pods", "refused") and it.restarts("namespaces", "refused"))
            assert "403" in it.source.pods.trouble
            assert not it.source.pods.synced

            await world.permit()
            await held.until(lambda: "p" in held.pods)
            await eventually(lambda: not it.source.pods.trouble)

            await world.forbid()
            await eventually(lambda: "403" in it.source.pods.trouble)
            assert "synced" in it.source.status()
        assert set(held.pods) == {"p"}

    async def test_unknown_token(self, world: World, held: Held) -> None:
        """A refused token is said, and the file it came from is read again before the next try."""
        config = await world.kubeconfig("unknown")
        await world.do("create_pod", world.namespace, "p", node=world.node)
        async with running(world, held, config) as it:
            await eventually(lambda: "401" in it.source.pods.trouble)
            await world.kubeconfig()
            await held.until(lambda: "p" in held.pods)

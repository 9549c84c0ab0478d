"""Pods and namespaces from YAML files and folders: metaproxy without a cluster.

Knows: when files must be looked at again, and who is told what they declare.
Must not know: what pods are for, or who asks for them.

A broken file keeps its last good state and says so; an odd object hurts only itself. The kernel's notices make changes
fast, a slow sweep makes them certain.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import structlog
import watchfiles

from metaproxy.manifestfiles import Ground, Root, look
from metaproxy.pods import Namespace, Pod
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

SWEEP = 1.0
"""Seconds after which files are looked at without a notice."""

POLL = 0.1
"""Seconds between two looks where notices are not to be had."""

DEBOUNCE_MS, STEP_MS = 100, 20
"""Changes are taken together until it is quiet for a step, at most this long: a file is often written in pieces."""


class Sink(Protocol):
    """Where pods and namespaces go."""

    def put_pod(self, pod: Pod) -> None:
        """A pod is there."""
        ...

    def delete_pod(self, uid: str, version: int) -> None:
        """A pod is gone."""
        ...

    def replace_pods(self, pods: Iterable[Pod], version: int) -> None:
        """These are all pods."""
        ...

    def put_namespace(self, namespace: Namespace) -> None:
        """A namespace is there."""
        ...

    def delete_namespace(self, uid: str, version: int) -> None:
        """A namespace is gone."""
        ...

    def replace_namespaces(self, namespaces: Iterable[Namespace], version: int) -> None:
        """These are all namespaces."""
        ...


class _UnwatchableError(Exception):
    """There are no notices: the system's watches are used up, or a folder went just before it was to be watched."""


async def _notices(ground: Ground) -> AsyncGenerator[bool, None]:
    """True for a change, False for a sweep.

    The first comes as soon as the watch stands: what changed between the last look and now made no notice.

    Raises:
        _UnwatchableError: no notices can be had.
    """
    watch = watchfiles.awatch(
        *sorted(path for path, *_ in ground.watched),
        watch_filter=ground.concerns,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        rust_timeout=int(SWEEP * 1000),
        yield_on_timeout=True,
        recursive=False,
        force_polling=False,
        ignore_permission_denied=True,
    )
    async with aclosing(watch):
        following = asyncio.ensure_future(anext(watch))
        try:
            # Within this turn of the loop the watch is set up; then it waits in a thread.
            await asyncio.sleep(0)
            if not following.done():
                yield True
            while True:
                changes = await following
                following = asyncio.ensure_future(anext(watch))
                yield bool(changes)
        except (OSError, RuntimeError) as error:
            raise _UnwatchableError(str(error)) from error
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


class ManifestSource:
    """Keeps a sink true to files. Until every path has been read once, what is known is handed on, but not as all."""

    def __init__(
        self, sink: Sink, paths: Sequence[str | Path], metrics: Metrics, *, force_polling: bool = False
    ) -> None:
        self._sink = sink
        self._paths = [str(path) for path in paths]
        self._metrics = metrics
        self._force_polling = force_polling
        self._roots: dict[str, Root] = {}
        self._ground = Ground()
        self._problems: tuple[str, ...] = ("not read yet",)
        self._skipped: tuple[str, ...] = ()
        self._pods: dict[str, Pod] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._unwatched = ""
        self.ready = False

    def status(self) -> str:
        """One line for a person: what is held, and what is wrong with the files."""
        held = f"{len(self._pods)} pods and {len(self._namespaces)} namespaces from {', '.join(self._paths)}"
        wrong = [*self._problems, *self._skipped, *([self._unwatched] if self._unwatched else [])]
        return "; ".join([held, *wrong])

    async def run(self) -> None:
        """Eternal: read the files, then again whenever they change."""
        await self._refresh(reread=True)
        while True:
            if self._force_polling:
                await self._poll()
                continue
            try:
                await self._watch(self._ground)
            except _UnwatchableError as error:
                if self._unwatched != (why := f"changes are polled for: {error}"):
                    self._unwatched = why
                    log.warning("manifests cannot be watched, polling", error=str(error))
                await self._poll()

    async def _poll(self) -> None:
        await asyncio.sleep(POLL)
        await self._refresh(reread=False)

    async def _watch(self, ground: Ground) -> None:
        """Follow the kernel's notices until what is to be watched is something else."""
        async with aclosing(_notices(ground)) as notices:
            async for changed in notices:
                self._unwatched = ""
                await self._refresh(reread=changed)
                if self._ground != ground:
                    return

    async def _refresh(self, *, reread: bool) -> None:
        roots, self._ground = await asyncio.to_thread(look, self._paths, self._roots, reread=reread)
        if roots == self._roots:
            return
        self._report(roots)
        self._roots = roots
        self._hand_on()

    def _report(self, roots: Mapping[str, Root]) -> None:
        """Say what is wrong, and what no longer is; each once."""
        files = [(name, file) for root in roots.values() for name, file in root.files.items()]
        problems = [root.problem for root in roots.values() if root.problem]
        problems += [f"{name}: {file.problem}" for name, file in files if file.problem]
        for problem in problems:
            if problem not in self._problems:
                log.warning("a manifest cannot be read, its last good state is kept", problem=problem)
        if self._problems and not problems:
            log.info("manifests are read")
        self._problems = tuple(problems)
        self._metrics.gauge("manifest_errors").set(len(problems))

    def _hand_on(self) -> None:
        gone_pods, gone_namespaces = set(self._pods), set(self._namespaces)
        self._pods, self._namespaces, skipped = _declared(self._roots)
        for problem in skipped:
            if problem not in self._skipped:
                log.warning("an object of a manifest is skipped", problem=problem)
        self._skipped = skipped
        self.ready = self.ready or all(root.good for root in self._roots.values())
        if self.ready:
            # Namespaces first: a pod that is seen is decided about at once.
            self._sink.replace_namespaces(self._namespaces.values(), 0)
            self._sink.replace_pods(self._pods.values(), 0)
            return
        for uid in gone_namespaces - self._namespaces.keys():
            self._sink.delete_namespace(uid, 0)
        for namespace in self._namespaces.values():
            self._sink.put_namespace(namespace)
        for uid in gone_pods - self._pods.keys():
            self._sink.delete_pod(uid, 0)
        for pod in self._pods.values():
            self._sink.put_pod(pod)


def _declared(roots: Mapping[str, Root]) -> tuple[dict[str, Pod], dict[str, Namespace], tuple[str, ...]]:
    """All that the files declare. What is declared twice counts as first declared: files must not take turns."""
    pods: dict[str, Pod] = {}
    namespaces: dict[str, Namespace] = {}
    skipped: list[str] = []
    for name, contents in ((name, file.contents) for root in roots.values() for name, file in root.files.items()):
        if contents is None:
            continue
        skipped += [f"{name}: {problem}" for problem in contents.skipped]
        for pod in contents.pods:
            if pods.setdefault(pod.uid, pod) is not pod:
                skipped.append(f"{name}: pod {pod.namespace}/{pod.name} is declared before")
        for namespace in contents.namespaces:
            if namespaces.setdefault(namespace.uid, namespace) is not namespace:
                skipped.append(f"{name}: namespace {namespace.name} is declared before")
    return pods, namespaces, tuple(skipped)

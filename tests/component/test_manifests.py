"""Pods from files: what is said of them, and how fast and safely a change of them is seen."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import watchfiles
from structlog.testing import capture_logs

from metaproxy import manifestfiles, manifests
from metaproxy.caller import Directory
from metaproxy.manifests import ManifestSource
from metaproxy.pods import Namespace, Pod
from metaproxy.telemetry import Metrics

BOUND = 5.0
"""Seconds that nothing here may take: far more than the 250 ms that are promised, for a machine that is busy."""

Running = Callable[..., AbstractAsyncContextManager[ManifestSource]]


class Held:
    """The directory behind the source, with a bell that rings at each report."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.synced: list[str] = []
        self.bell = asyncio.Event()

    def put_pod(self, pod: Pod) -> None:
        """A pod is there."""
        self.directory.put_pod(pod)
        self.bell.set()

    def delete_pod(self, uid: str, version: int) -> None:
        """A pod is gone."""
        self.directory.delete_pod(uid, version)
        self.bell.set()

    def replace_pods(self, pods: Iterable[Pod], version: int) -> None:
        """These are all pods."""
        self.directory.replace_pods(pods, version)
        self.synced.append("pods")
        self.bell.set()

    def put_namespace(self, namespace: Namespace) -> None:
        """A namespace is there."""
        self.directory.put_namespace(namespace)
        self.bell.set()

    def delete_namespace(self, uid: str, version: int) -> None:
        """A namespace is gone."""
        self.directory.delete_namespace(uid, version)
        self.bell.set()

    def replace_namespaces(self, namespaces: Iterable[Namespace], version: int) -> None:
        """These are all namespaces."""
        self.directory.replace_namespaces(namespaces, version)
        self.synced.append("namespaces")
        self.bell.set()

    @property
    def pods(self) -> set[str]:
        """Which pods are held, as namespace/name."""
        return {f"{pod.namespace}/{pod.name}" for pod in self.directory.pods()}

    async def until(self, *pods: str) -> float:
        """Wait until exactly these pods are held; the seconds that it took."""
        begun = time.monotonic()
        async with asyncio.timeout(BOUND):
            while self.pods != set(pods):
                self.bell.clear()
                await self.bell.wait()
        return time.monotonic() - begun


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what rings no bell."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110  it has no event to wait for
            await asyncio.sleep(0.005)


def pod(name: str, address: str = "127.0.0.2", *, role: str = "reader") -> str:
    """A manifest of one pod."""
    return (
        "apiVersion: v1\nkind: Pod\n"
        f"metadata:\n  name: {name}\n  annotations: {{iam.amazonaws.com/role: '{role}'}}\n"
        f"status: {{podIP: {address}}}\n---\n"
    )


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of their own for each test."""
    return Metrics()


@pytest.fixture
def held() -> Held:
    """What the source has reported."""
    return Held()


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    """What was logged."""
    with capture_logs() as captured:
        yield captured  # type: ignore[misc]  # a log entry is a mapping of strings


@pytest.fixture
def running(held: Held, metrics: Metrics) -> Running:
    """Run a source over paths; that it ends by itself fails the test."""

    @asynccontextmanager
    async def run(*paths: Path, force_polling: bool = False) -> AsyncIterator[ManifestSource]:
        source = ManifestSource(held, paths, metrics, force_polling=force_polling)
        task = asyncio.create_task(source.run())
        try:
            yield source
        finally:
            assert not task.done(), task.exception()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return run


def problems(metrics: Metrics) -> float:
    """How many files are said to be broken."""
    value = metrics.registry.get_sample_value("metaproxy_manifest_errors")
    assert value is not None
    return value


def renamed_over(path: Path, text: str) -> None:
    """Write as careful editors do."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


async def test_a_file_is_read_and_its_pods_are_all_pods(tmp_path: Path, held: Held, running: Running) -> None:
    """Pods and namespaces of a file reach the sink as a full list, namespaces first, and the source is ready."""
    file = tmp_path / "pods.yaml"
    file.write_text(pod("a") + "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n")
    async with running(file) as source:
        assert not source.ready
        assert "not read yet" in source.status()
        await held.until("default/a")
        assert held.synced[:2] == ["namespaces", "pods"]
        assert held.directory.namespace("default") is not None
        (owner,) = held.directory.owners("127.0.0.2")
        assert owner.uid == "default/a"
        assert owner.version == 0
        await eventually(lambda: source.ready)
        assert source.status() == f"1 pods and 1 namespaces from {file}"


async def test_several_paths_add_up(tmp_path: Path, held: Held, running: Running) -> None:
    """Files and folders together declare what each of them declares."""
    (tmp_path / "one.yaml").write_text(pod("a"))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "two.yml").write_text(pod("b", "127.0.0.3"))
    (folder / "three.json").write_text('{"kind": "Pod", "metadata": {"name": "c"}}')
    (folder / "notes.txt").write_text(pod("no"))
    (folder / ".hidden.yaml").write_text(pod("no"))
    async with running(tmp_path / "one.yaml", folder):
        await held.until("default/a", "default/b", "default/c")


@pytest.mark.parametrize("write", [Path.write_text, renamed_over], ids=["in place", "renamed over"])
async def test_a_change_is_seen_at_once(
    tmp_path: Path, held: Held, running: Running, write: Callable[[Path, str], object]
) -> None:
    """However a file is written, its new content counts; the median of several changes is within 250 ms."""
    file = tmp_path / "pods.yaml"
    file.write_text(pod("a0"))
    async with running(file):
        await held.until("default/a0")
        took = []
        for number in range(1, 8):
            write(file, pod(f"a{number}"))
            took.append(await held.until(f"default/a{number}"))
        assert sorted(took)[3] < 0.25


async def test_a_folder_gains_and_loses_files(tmp_path: Path, held: Held, running: Running) -> None:
    """A file that comes adds its pods, one that goes takes them along."""
    async with running(tmp_path):
        await eventually(lambda: held.synced)
        (tmp_path / "a.yaml").write_text(pod("a"))
        await held.until("default/a")
        (tmp_path / "b.yaml").write_text(pod("b", "127.0.0.3"))
        await held.until("default/a", "default/b")
        (tmp_path / "a.yaml").unlink()
        await held.until("default/b")


async def test_a_mounted_configmap_is_swapped(tmp_path: Path, held: Held, running: Running) -> None:
    """The kubelet swaps the `..data` symlink: the names that are watched never change themselves."""
    mount = tmp_path / "mount"
    mount.mkdir()
    for number in range(3):
        (mount / f"..{number}").mkdir()
        (mount / f"..{number}" / "pods.yaml").write_text(pod(f"a{number}"))
    (mount / "..data").symlink_to("..0")
    (mount / "pods.yaml").symlink_to("..data/pods.yaml")
    by_link = tmp_path / "link.yaml"
    by_link.symlink_to(mount / "pods.yaml")
    for path in (mount, mount / "pods.yaml", by_link):
        async with running(path):
            await held.until("default/a0")
            for number in (1, 2, 0):
                (mount / "..data_tmp").symlink_to(f"..{number}")
                (mount / "..data_tmp").replace(mount / "..data")
                assert await held.until(f"default/a{number}") < 0.9, "found by the sweep, not by a notice"


async def test_a_missing_file_is_waited_for(tmp_path: Path, held: Held, metrics: Metrics, running: Running) -> None:
    """Until the file appears, folders above it included, the source stays up, is not ready, and says why."""
    file = tmp_path / "not" / "yet" / "pods.yaml"
    async with running(file) as source:
        await eventually(lambda: "No such file" in source.status())
        assert not source.ready
        assert not held.synced
        assert problems(metrics) == 1
        file.parent.mkdir(parents=True)
        file.write_text(pod("a"))
        assert await held.until("default/a") < 0.9, "found by the sweep, not by a notice"
        await eventually(lambda: source.ready)
        assert problems(metrics) == 0
        assert "No such" not in source.status()


async def test_what_is_known_is_handed_on_before_all_is_known(tmp_path: Path, held: Held, running: Running) -> None:
    """One missing path withholds readiness, not the pods of the other; what goes meanwhile goes."""
    file = tmp_path / "pods.yaml"
    namespace = "kind: Namespace\nmetadata: {name: team}\n---\n"
    file.write_text(namespace + pod("a"))
    async with running(file, tmp_path / "missing") as source:
        await held.until("default/a")
        assert held.directory.namespace("team") is not None
        assert not held.synced
        assert not source.ready
        file.write_text(pod("b"))
        await held.until("default/b")
        assert held.directory.namespace("team") is None
        (tmp_path / "missing").mkdir()
        await eventually(lambda: source.ready)
        assert held.pods == {"default/b"}


BROKEN = {
    "no YAML": b"kind: [",
    "control characters": b"\x00\x01",
    "no text": b"\xff\xfe\xff",
    "too deep": b"[" * 200,
    "deep enough to end the process": b"- " * 50_000,
    "a billion values": b"a0: &a0 [x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)),
    "a tag with a wrong value": b"a: !!bool maybe",
    "an unknown tag": b"a: !!python/object:os.system x",
    "an impossible date": b"a: 2026-13-45",
    "an unknown alias": b"a: *nobody",
    "empty": b"",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
async def test_a_broken_file_keeps_its_last_good_state(
    tmp_path: Path, held: Held, metrics: Metrics, running: Running, logs: list[dict[str, object]], text: bytes
) -> None:
    """Whatever is wrong with one file, its last good pods stay, the other file goes on, and it is said everywhere."""
    (tmp_path / "a.yaml").write_text(pod("a"))
    (tmp_path / "b.yaml").write_text(pod("b", "127.0.0.3"))
    async with running(tmp_path) as source:
        await held.until("default/a", "default/b")
        (tmp_path / "a.yaml").write_bytes(text)
        await eventually(lambda: problems(metrics) == 1)
        assert str(tmp_path / "a.yaml") in source.status()
        assert source.ready
        (tmp_path / "b.yaml").write_text(pod("c", "127.0.0.3"))
        await held.until("default/a", "default/c")
        (tmp_path / "a.yaml").write_text(pod("a"))
        await eventually(lambda: problems(metrics) == 0)
        assert held.pods == {"default/a", "default/c"}
    said = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(said) == 1
    assert str(tmp_path / "a.yaml") in str(said[0]["problem"])


async def test_a_file_that_is_none_keeps_its_last_good_state(
    tmp_path: Path, held: Held, metrics: Metrics, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe, a giant and a vanished file are problems that last only as long as they do; nothing hangs on a pipe."""
    monkeypatch.setattr(manifestfiles, "SIZE_LIMIT", 1000)
    file = tmp_path / "pods.yaml"
    file.write_text(pod("a"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with running(file) as source:
        await held.until("default/a")
        pipe.replace(file)
        await eventually(lambda: "no regular file" in source.status())
        renamed_over(file, pod("a") * 20)
        await eventually(lambda: "larger than 1000 bytes" in source.status())
        file.unlink()
        await eventually(lambda: "No such file" in source.status())
        assert held.pods == {"default/a"}
        file.write_text(pod("a"))
        await eventually(lambda: not problems(metrics))
        assert held.pods == {"default/a"}


async def test_a_dangling_link_in_a_folder_keeps_its_last_good_state(
    tmp_path: Path, held: Held, metrics: Metrics, running: Running
) -> None:
    """A link whose target is away for a moment has not been removed; links in a circle harm nobody."""
    target, folder = tmp_path / "target", tmp_path / "folder"
    target.mkdir()
    folder.mkdir()
    (target / "pods").write_text(pod("a"))
    (folder / "pods.yaml").symlink_to(target / "pods")
    (folder / "circle.yaml").symlink_to(folder / "circle.yaml")
    (folder / "spiral.yaml").symlink_to(folder / "spiral.yaml" / "x")
    async with running(folder) as source:
        await held.until("default/a")
        assert not source.ready
        (target / "pods").rename(target / "away")
        await eventually(lambda: problems(metrics) == 3)
        assert held.pods == {"default/a"}
        (target / "pods").write_text(pod("b"))
        await held.until("default/b")


async def test_a_folder_that_is_replaced_is_followed(tmp_path: Path, held: Held, running: Running) -> None:
    """Another folder at the same path is watched like the first; while there is none, its pods stay."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "pods.yaml").write_text(pod("a"))
    async with running(folder) as source:
        await held.until("default/a")
        folder.rename(tmp_path / "old")
        await eventually(lambda: "No such file" in source.status())
        assert held.pods == {"default/a"}
        folder.mkdir()
        (folder / "pods.yaml").write_text(pod("b"))
        await held.until("default/b")
        (folder / "pods.yaml").write_text(pod("c"))
        assert await held.until("default/c") < 0.9, "found by the sweep, not by a notice"


async def test_odd_objects_hurt_only_themselves(
    tmp_path: Path, held: Held, running: Running, logs: list[dict[str, object]]
) -> None:
    """What cannot be a pod is skipped, named in log and status, once; its neighbours are there."""
    file = tmp_path / "pods.yaml"
    odd = "kind: Pod\nmetadata: {name: odd, annotations: {iam.amazonaws.com/role: 012}}\n---\n"
    file.write_text(pod("a") + odd + pod("b", "127.0.0.3"))
    async with running(file) as source:
        await held.until("default/a", "default/b")
        assert "put it in quotes" in source.status()
        assert source.ready
        file.write_text(odd + pod("b", "127.0.0.3"))
        await held.until("default/b")
    assert len([entry for entry in logs if "put it in quotes" in str(entry.get("problem"))]) == 1


async def test_what_is_declared_twice_counts_once(tmp_path: Path, held: Held, running: Running) -> None:
    """The first declaration in order of the files counts, the second is named: files must not take turns."""
    namespace = "kind: Namespace\nmetadata: {name: default, annotations: {iam.amazonaws.com/permitted: '%s'}}\n---\n"
    (tmp_path / "a.yaml").write_text(pod("p", role="first") + namespace % "first")
    (tmp_path / "b.yaml").write_text(pod("p", role="second") + namespace % "second")
    async with running(tmp_path) as source:
        await held.until("default/p")
        await eventually(lambda: source.ready)
        (found,) = held.directory.pods()
        assert found.annotations == {"iam.amazonaws.com/role": "first"}
        known = held.directory.namespace("default")
        assert known is not None
        assert known.annotations == {"iam.amazonaws.com/permitted": "first"}
        assert "pod default/p is declared before" in source.status()
        assert "namespace default is declared before" in source.status()


async def test_polling_needs_no_notices(tmp_path: Path, held: Held, running: Running) -> None:
    """Where told to poll, changes are seen all the same, two of one size within one tick of the clock included."""
    file = tmp_path / "pods.yaml"
    file.write_text(pod("a0"))
    async with running(file, force_polling=True) as source:
        await held.until("default/a0")
        for number in range(1, 6):
            file.write_text(pod(f"a{number}"))
            await held.until(f"default/a{number}")
        assert "polled" not in source.status()


async def test_without_watches_it_polls_and_says_so(
    tmp_path: Path, held: Held, running: Running, monkeypatch: pytest.MonkeyPatch, logs: list[dict[str, object]]
) -> None:
    """When the system has no more watches to give, changes are polled for until it has."""
    file = tmp_path / "pods.yaml"
    file.write_text(pod("a"))
    real = watchfiles.awatch

    async def used_up(*args: object, **kwargs: object) -> AsyncIterator[object]:
        if args:
            raise OSError(28, "No space left on device")
        yield None

    monkeypatch.setattr(watchfiles, "awatch", used_up)
    async with running(file) as source:
        await held.until("default/a")
        file.write_text(pod("b"))
        await held.until("default/b")
        await eventually(lambda: "polled" in source.status())
        assert "No space left on device" in source.status()
        monkeypatch.setattr(watchfiles, "awatch", real)
        await eventually(lambda: "polled" not in source.status())
        file.write_text(pod("c"))
        await held.until("default/c")
    assert len([entry for entry in logs if "polling" in str(entry["event"])]) == 1


async def test_the_sweep_finds_what_made_no_notice(
    tmp_path: Path, held: Held, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that gives no notices (some network mounts) is looked at once a second."""
    monkeypatch.setattr(manifestfiles.Ground, "concerns", lambda *_: False)
    monkeypatch.setattr(manifests, "SWEEP", 0.05)
    file = tmp_path / "pods.yaml"
    file.write_text(pod("a"))
    async with running(file):
        await held.until("default/a")
        file.write_text(pod("b"))
        await held.until("default/b")

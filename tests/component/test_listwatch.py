"""A list-watch whose API server misbehaves in every way that a real one was seen to."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from metaproxy.kube import METADATA_LIST, KubeSource
from metaproxy.kubeanswers import KubeError
from metaproxy.kubeclient import KubeClient
from metaproxy.listwatch import HistoryError, ListWatch, Timing
from metaproxy.resources import BREATH
from metaproxy.status import Watch
from metaproxy.telemetry import Metrics
from metaproxy.watchends import pause_after
from metaproxy.watchlines import LINE_LIMIT, WireError
from tests.component.listwatch_suite import QUICK, Held, Running, eventually, running
from tests.component.test_listwatch_suite import FakeWorld, write_kubeconfig
from tests.fakes.kube_api import FakeKubeApi, Fault, status_of

BRIEF = Timing(watch=(1, 1), grace=0.5, head=0.5, listing=0.5, pause=(0.01, 0.2))
"""Short bounds, for what has to be waited out."""


@pytest.fixture
async def api() -> AsyncIterator[FakeKubeApi]:
    """A fake API server."""
    async with FakeKubeApi() as started:
        yield started


@pytest.fixture
def world(api: FakeKubeApi, tmp_path: Path) -> FakeWorld:
    """Its world."""
    return FakeWorld(api, tmp_path)


@pytest.fixture
def held() -> Held:
    """What is reported."""
    return Held()


@pytest.fixture
async def it(world: FakeWorld, held: Held) -> AsyncIterator[Running]:
    """A source that watches pods and namespaces."""
    async with running(world, held) as it:
        await world.api.until_watching("pods", "namespaces")
        yield it


def line(kind: str, obj: Any) -> bytes:
    """An event as it is sent."""
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def lists(api: FakeKubeApi) -> list[str | None]:
    """The versions that lists of pods asked for; None for a consistent one."""
    return [seen.query.get("resourceVersion") for seen in api.asked("list", "pods")]


def watches(api: FakeKubeApi) -> list[str]:
    """The versions from which pods were watched."""
    return [seen.query["resourceVersion"] for seen in api.asked("watch", "pods")]


# ---- what is asked


async def test_requests(api: FakeKubeApi, it: Running) -> None:
    """Lists come from the server's memory; watches name their end and want bookmarks; the forms of Accept differ."""
    [pods], [namespaces] = api.asked("list", "pods"), api.asked("list", "namespaces")
    [watch_pods], [watch_namespaces] = api.asked("watch", "pods"), api.asked("watch", "namespaces")

    assert pods.query == {"fieldSelector": "spec.nodeName=node-1", "resourceVersion": "0"}
    assert pods.headers["Accept"] == "application/json"
    assert namespaces.query == {"resourceVersion": "0"}
    assert namespaces.headers["Accept"] == "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    assert watch_pods.query == {
        "fieldSelector": "spec.nodeName=node-1",
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "101",
        "timeoutSeconds": "60",
    }
    assert watch_namespaces.headers["Accept"] == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, "240"), (0.5, "270"), (0.999, "300")])
async def test_fleets_do_not_move_in_step(world: FakeWorld, held: Held, jitter: float, seconds: str) -> None:
    """How long a watch lasts is drawn for each, between four minutes and five."""
    async with KubeClient(await world.kubeconfig()) as client:
        source = KubeSource(held, client, world.node, metrics=Metrics(), random=lambda: jitter)
        task = asyncio.create_task(source.run())
        await world.api.until_watching("pods")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert world.api.asked("watch", "pods")[0].query["timeoutSeconds"] == seconds


# ---- versions


async def test_bookmarks_move_the_version(world: FakeWorld, held: Held) -> None:
    """A quiet watch that ends in time is resumed from its last bookmark, without a list."""
    async with running(world, held, timing=replace(BRIEF, grace=5.0)) as it:
        await world.api.until_watching("pods")
        world.api.version = 150
        world.api.bookmark()
        await world.api.until(lambda: len(watches(world.api)) == 2)

        assert watches(world.api) == ["101", "150"]
        assert lists(world.api) == ["0"]
        assert it.restarts("pods", "end") == 1


async def test_bookmarks_are_no_heartbeat(world: FakeWorld, held: Held) -> None:
    """However many bookmarks come, a watch is given up soon after it should have ended."""
    world.api.endless = True
    async with running(world, held, timing=BRIEF) as it:
        await world.api.until_watching("pods")

        async def remind() -> None:
            while True:
                world.api.bookmark()
                await asyncio.sleep(0.01)

        task = asyncio.create_task(remind())
        await eventually(lambda: it.restarts("pods", "silence"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_quiet_watch_is_followed_by_a_list(world: FakeWorld, held: Held) -> None:
    """A watch that said nothing at all may be deaf (a version still to come, a swallowed event): a list follows."""
    async with running(world, held, timing=BRIEF):
        await world.api.until(lambda: len(lists(world.api)) == 2)

    assert len(watches(world.api)) == 1


async def test_list_after_a_long_time(world: FakeWorld, held: Held) -> None:
    """Now and then a list makes certain that nothing was missed, bookmarks or not."""
    async with running(world, held, timing=replace(BRIEF, relist=0.5)):
        await world.api.until_watching("pods")
        world.api.version += 1
        world.api.bookmark()
        await world.api.until(lambda: len(lists(world.api)) == 2)


async def test_deleted_in_a_gap_with_expired_version(api: FakeKubeApi, it: Running, held: Held) -> None:
    """What was deleted while nothing could be heard is noticed by the list, and 410 is answered by one at once."""
    api.create_pod("default", "gone", node="node-1")
    await held.until(lambda: "gone" in held.pods)
    await api.stop()
    api.delete_pod("default", "gone")
    api.expire_versions()
    await api.start()
    await held.until(lambda: not held.pods)

    assert lists(api) == ["0", "0"]
    assert it.restarts("pods", "expired") == 1
    assert it.restarts("pods", "lost") >= 1


async def test_expired_again_and_again(api: FakeKubeApi, it: Running) -> None:
    """When the version of a list from memory is too old as well, the next list comes from etcd, after a pause."""
    gone = line("ERROR", status_of(410, "Expired", "too old"))
    api.say(gone)
    api.fail("watch", "pods", Fault(status=410, reason="Expired"))
    await api.until(lambda: len(lists(api)) == 3)

    assert lists(api) == ["0", "0", None]
    await eventually(lambda: it.restarts("pods", "expired") == 2)


@pytest.mark.parametrize("code", [410, 504])
async def test_list_of_no_version(world: FakeWorld, held: Held, code: int) -> None:
    """A list that fails for its version is asked for once without any; if that fails, from memory again."""
    world.api.fail("list", "pods", Fault(status=code, reason="Expired"), times=2)
    async with running(world, held) as it:
        await held.until(lambda: held.count("replace", "pods"))

        assert lists(world.api) == ["0", None, "0"]
        assert it.restarts("pods", "expired") == 2


async def test_older_list(api: FakeKubeApi, it: Running, held: Held) -> None:
    """A list older than what was seen is checked against etcd; nothing goes back in time."""
    api.freeze_memory()
    api.create_pod("default", "new", node="node-1")
    await held.until(lambda: "new" in held.pods)
    api.say(line("ERROR", status_of(410, "Expired", "too old")))
    await held.until(lambda: held.count("replace", "pods") == 2)

    assert lists(api) == ["0", "0", None]
    assert set(held.pods) == {"new"}


async def test_older_list_without_etcd(world: FakeWorld, held: Held) -> None:
    """An older list is used when etcd does not answer: it is safe, and the watch from there brings the rest."""
    api = world.api
    async with running(world, held, timing=replace(QUICK, listing=0.3)):
        await api.until_watching("pods")
        api.freeze_memory()
        api.create_pod("default", "new", node="node-1")
        await held.until(lambda: "new" in held.pods)
        hanging = (lambda seen: seen.verb == "list" and "resourceVersion" not in seen.query, Fault(hang=True))
        api.faults.append(hanging)
        api.say(line("ERROR", status_of(410, "Expired", "too old")))
        await api.until(lambda: len(watches(api)) == 2)

        assert lists(api) == ["0", "0", None]
        assert watches(api) == ["101", "101"]
        assert set(held.pods) == {"new"}
        assert held.count("replace", "pods") == 2


async def test_restored_cluster(world: FakeWorld, held: Held) -> None:
    """When the newest version is older than what was seen the cluster's history was replaced: only a restart helps."""
    async with KubeClient(await world.kubeconfig()) as client:
        source = KubeSource(held, client, world.node, metrics=Metrics(), timing=QUICK)
        task = asyncio.create_task(source.run())
        await world.api.until_watching("pods", "namespaces")
        world.api.version = world.api.oldest = 50
        world.api.say(line("ERROR", status_of(410, "Expired", "too old")))
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(task, 20.0)

    assert caught.value.subgroup(HistoryError)


async def test_restored_cluster_after_expiry(world: FakeWorld, held: Held) -> None:
    """The same when the consistent list was asked for anyway."""
    async with KubeClient(await world.kubeconfig()) as client:
        source = KubeSource(held, client, world.node, metrics=Metrics(), timing=QUICK)
        source.pods._newest, source.pods._consistent = 1_000, True
        with pytest.raises(HistoryError, match="pods: 101 is the newest version, but 1000 was seen"):
            await asyncio.wait_for(source.pods.run(), 20.0)


async def test_history_that_a_predecessor_knew(world: FakeWorld, held: Held) -> None:
    """A process that follows another knows what that one has seen: a restored cluster is none to go on with."""
    async with KubeClient(await world.kubeconfig()) as client:
        source = KubeSource(held, client, world.node, metrics=Metrics(), timing=QUICK)
        source.begin_after((1_000, 900))
        assert source.newest == (1_000, 900)
        with pytest.raises(HistoryError, match="pods: 101 is the newest version, but 1000 was seen"):
            await asyncio.wait_for(source.pods.run(), 20.0)


# ---- streams that break


async def test_silence(world: FakeWorld, held: Held) -> None:
    """A watch that says nothing and does not end is given up soon after it should have ended, and a list follows."""
    async with running(world, held, timing=BRIEF) as it:
        await world.api.until_watching("pods")
        world.api.silent = True
        await eventually(lambda: it.restarts("pods", "silence"))
        world.api.silent = False
        world.api.create_pod("default", "p", node="node-1")
        await held.until(lambda: "p" in held.pods)


@pytest.mark.parametrize("fault", [Fault(hang=True), Fault(open=True)])
async def test_hanging_heads_and_bodies(world: FakeWorld, held: Held, fault: Fault) -> None:
    """Neither a list nor a watch that hangs, before its head or after, holds anything up for long."""
    world.api.create_pod("default", "p", node="node-1")
    world.api.fail("list", "pods", fault)
    world.api.fail("watch", "pods", fault)
    async with running(world, held, timing=BRIEF) as it:
        await held.until(lambda: "p" in held.pods)
        await eventually(lambda: it.restarts("pods", "silence") == 2)
        await eventually(lambda: not it.source.pods.trouble)


async def test_cut_off_in_mid_event(api: FakeKubeApi, it: Running, held: Held) -> None:
    """A connection that breaks in mid-event resumes before that event; nothing of the half is used."""
    api.say(b'{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"half"')
    await asyncio.sleep(0)
    api.drop_watches()
    await api.until(lambda: len(watches(api)) == 2)
    api.create_pod("default", "p", node="node-1")
    await held.until(lambda: "p" in held.pods)

    assert watches(api) == ["101", "101"]
    assert it.restarts("pods", "lost") == 1


async def test_clean_end_in_mid_event(api: FakeKubeApi, it: Running) -> None:
    """A clean end in mid-event is no end in good order: a list follows."""
    api.say(b'{"type":"ADDED"')
    api.end_watches()
    await api.until(lambda: len(lists(api)) == 2)

    assert it.restarts("pods", "error") == 1


async def test_early_end(api: FakeKubeApi, it: Running, held: Held) -> None:
    """A watch that is ended cleanly before its time is resumed, after a pause."""
    api.create_pod("default", "p", node="node-1")
    await held.until(lambda: "p" in held.pods)
    api.end_watches()
    await api.until(lambda: len(watches(api)) == 2)

    assert watches(api) == ["101", "102"]
    assert lists(api) == ["0"]
    assert it.restarts("pods", "end") == 1


async def test_wrong_form_of_accept(world: FakeWorld, held: Held) -> None:
    """If ever a watch ends after swallowing its event, as it does when asked in the list's form, a list shows it."""
    async with KubeClient(await world.kubeconfig()) as client:
        source = KubeSource(held, client, world.node, metrics=Metrics(), timing=QUICK)
        wrong = replace(source._pods, watch_accept=METADATA_LIST)
        task = asyncio.create_task(ListWatch(client, wrong, timing=QUICK).run())
        await world.api.until_watching("pods")
        world.api.create_pod("default", "p", node="node-1")
        await held.until(lambda: "p" in held.pods)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert held.count("put", "p") == 0
    assert held.count("replace", "pods") == 2


@pytest.mark.parametrize("code", [500, 403, None, "x"])
async def test_error_event(api: FakeKubeApi, it: Running, code: Any) -> None:
    """Any other ERROR inside a 200 answer is said and followed by a pause, not by trust in the stream."""
    api.say(line("ERROR", {"kind": "Status", "code": code, "reason": "Why", "message": "because"}))
    await api.until(lambda: len(watches(api)) == 2)

    assert it.restarts("pods", "refused" if code == 403 else "error") == 1
    assert it.restarts("pods", "expired") == 0


@pytest.mark.parametrize("raw", [b"garbage\n", b"[]\n", b"x" * (LINE_LIMIT + 1)])
async def test_no_watch_at_all(api: FakeKubeApi, it: Running, held: Held, raw: bytes) -> None:
    """What is no event, or never ends, ends the watch; a list brings what was meant."""
    api.say(raw, next(watch for watch in api.watches if watch.resource == "pods"))
    api.create_pod("default", "p", node="node-1")
    await held.until(lambda: "p" in held.pods and held.count("replace", "pods") == 2)

    assert it.restarts("pods", "error") == 1


async def test_no_list_at_all(world: FakeWorld, held: Held) -> None:
    """An answer that is no list is an error, and nothing of it counts; the next try is as good as ever."""
    world.api.create_pod("default", "p", node="node-1")
    world.api.fail("list", "pods", Fault(status=200, text='{"items":[{}'))
    world.api.fail("list", "pods", Fault(status=200, text='{"items":[],"metadata":{}}'))
    async with running(world, held) as it:
        await held.until(lambda: "p" in held.pods)

        assert it.restarts("pods", "error") == 2
        assert held.count("replace", "pods") == 1


# ---- odd objects


async def test_malformed_objects(api: FakeKubeApi, it: Running, held: Held) -> None:
    """An object that cannot be kept hurts only itself, in watches, deletions and lists; an unknown event likewise."""
    with capture_logs() as logs:
        api.say(line("ADDED", {"metadata": {"name": 5}}))
        api.say(line("DELETED", {}))
        api.say(line("SURPRISE", {"metadata": {"resourceVersion": "999"}}))
        api.create_pod("default", "odd", node="node-1", metadata={"uid": ""})
        api.create_pod("default", "p", node="node-1")
        await held.until(lambda: "p" in held.pods)
        api.drop_watches()
        await api.until(lambda: len(watches(api)) == 2)
        await it.stop()
        it.source.pods._version = ""
        it.start()
        await held.until(lambda: held.count("replace", "pods") == 2)

    assert set(held.pods) == {"p"}
    assert watches(api)[1] == "103"  # not what the unknown event said
    events = [entry["event"] for entry in logs if entry.get("resource") == "pods"]
    assert events.count("malformed object skipped") == 4
    assert events.count("unknown kind of event skipped") == 1


async def test_events_of_objects_without_version(api: FakeKubeApi, it: Running, held: Held) -> None:
    """An event without a version does not make the watch forget the version it is at."""
    api.say(line("ADDED", {"metadata": {"name": "p", "namespace": "default", "uid": "u"}}))
    await held.until(lambda: "p" in held.pods)
    api.drop_watches()
    await api.until(lambda: len(watches(api)) == 2)

    assert watches(api) == ["101", "101"]


async def test_bursts_let_others_run(api: FakeKubeApi, it: Running, held: Held) -> None:
    """Between any few events of a burst everybody else may run: no request is held up by it."""
    turns, most, running_others = 0, 0, True

    async def others() -> None:
        nonlocal turns, most
        while running_others:
            before = len(held.reports)
            await asyncio.sleep(0)
            most = max(most, len(held.reports) - before)

    pods = [{"metadata": {"name": f"p{n}", "namespace": "default", "uid": f"u{n}"}} for n in range(2_000)]
    burst = b"".join(line("ADDED", pod) for pod in pods)
    task = asyncio.create_task(others())
    api.say(burst, next(watch for watch in api.watches if watch.resource == "pods"))
    await held.until(lambda: len(held.pods) == 2_000)
    running_others = False
    await task

    assert most <= BREATH


# ---- refusals and pauses


async def test_retry_after(world: FakeWorld, held: Held) -> None:
    """A 429 in plain text is said, and its Retry-After is waited for, though the pause would be shorter."""
    world.api.fail("list", "pods", Fault(status=429, text="Too many requests", headers={"Retry-After": "1"}))
    begun = asyncio.get_running_loop().time()
    async with running(world, held) as it:
        await eventually(lambda: "429" in it.source.pods.trouble)
        await held.until(lambda: held.count("replace", "pods"))

        assert it.restarts("pods", "refused") == 1
    assert asyncio.get_running_loop().time() - begun >= 1.0


async def test_refused_watch_keeps_its_version(api: FakeKubeApi, it: Running) -> None:
    """Too many requests are no reason for a list, which costs more."""
    api.fail("watch", "pods", Fault(status=429, text="no"))
    api.drop_watches()
    await api.until(lambda: len(watches(api)) == 3)

    assert lists(api) == ["0"]
    assert it.restarts("pods", "refused") == 1


async def test_trouble_is_told(api: FakeKubeApi, world: FakeWorld, held: Held) -> None:
    """While something is wrong the status says what and since when; afterwards it says nothing of it."""
    now = 1_000.0
    async with KubeClient(await world.kubeconfig()) as client:
        source = KubeSource(held, client, world.node, metrics=Metrics(), timing=QUICK, clock=lambda: now)
        assert source.status() == "pods: no list yet; namespaces: no list yet"
        assert source.watches()[0] == Watch(
            resource="pods", synced=False, last_word=None, trouble="", trouble_since=1_000.0
        )
        api.forbidden = {("list", "pods")}
        task = asyncio.create_task(source.run())
        await eventually(lambda: source.pods.trouble and source.namespaces.synced)
        now += 60.0
        expected = 'list pods: 403 Forbidden User "agent" cannot list resource "pods" at the cluster scope (for 60 s)'
        assert source.status() == f"pods: no list yet, {expected}; namespaces: synced"
        pods, namespaces = source.watches()
        assert (pods.synced, pods.last_word, pods.trouble_since) == (False, None, 1_000.0)
        assert pods.trouble == expected.removesuffix(" (for 60 s)")
        assert (namespaces.resource, namespaces.synced, namespaces.trouble) == ("namespaces", True, "")
        assert namespaces.last_word == 1_000.0, "a list is a word, too"
        api.forbidden.clear()
        await eventually(lambda: source.pods.synced and not source.pods.trouble)
        await api.until_watching("pods")
        api.create_pod("default", "p", node="node-1")
        await held.until(lambda: held.pods)
        now += 5.0
        assert source.status() == "pods: synced, last event 5 s ago; namespaces: synced"
        assert source.watches()[0].last_word == now - 5.0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_metrics(api: FakeKubeApi, it: Running, held: Held) -> None:
    """Every reason for a restart is there from the start; the time of the last event follows events and bookmarks."""
    labels = {"resource": "pods"}
    registry = it.metrics.registry
    for reason in ("end", "silence", "expired", "error", "lost", "refused"):
        assert registry.get_sample_value("metaproxy_watch_restarts_total", labels | {"reason": reason}) == 0.0
    api.bookmark()
    await eventually(lambda: it.source.pods.last_event)

    last = registry.get_sample_value("metaproxy_watch_last_event_timestamp_seconds", labels)
    assert last == it.source.pods.last_event


async def test_end_of_one_ends_both(world: FakeWorld, held: Held) -> None:
    """A list-watch that fails for good takes the other with it: nothing goes on half."""
    async with KubeClient(await world.kubeconfig()) as client:
        source = KubeSource(held, client, world.node, metrics=Metrics(), timing=QUICK)
        source.pods._newest, source.pods._consistent = 1_000, True
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(source.run(), 20.0)


@pytest.mark.parametrize(("healthy", "failures"), [(0.0, 1), (1_000.0, 3)])
async def test_healthy_watch_ends_a_series_of_failures(
    world: FakeWorld, held: Held, healthy: float, failures: int
) -> None:
    """After a watch that lasted, pauses begin small again; after one that did not, they go on growing."""
    async with running(world, held, timing=replace(QUICK, healthy=healthy)) as it:
        for _ in range(3):
            await world.api.until_watching("pods", "namespaces")
            world.api.drop_watches()
            await world.api.until(lambda: not world.api.watches)
        await eventually(lambda: it.restarts("pods", "lost") == 3)

        assert it.source.pods._failures == failures


@given(st.integers(1, 10_000), st.floats(0.0, 1.0, exclude_max=True))
def test_pauses(failures: int, jitter: float) -> None:
    """Pauses grow, spread over their upper half, and stay within 0.2 and 30 s for ever."""
    pause = pause_after(failures, jitter, (0.4, 30.0))

    assert 0.2 <= pause <= 30.0
    assert pause <= 0.4 * 2.0 ** min(failures - 1, 64)
    assert pause_after(failures + 1, jitter, (0.4, 30.0)) >= pause
    assert pause_after(failures, jitter, (0.4, 30.0)) <= 2 * pause_after(failures, 0.0, (0.4, 30.0))


# ---- reads


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(hang=True), KubeError),
        (Fault(status=500), KubeError),
        (Fault(abort=True), KubeError),
        (Fault(status=200, text="{"), WireError),
    ],
)
async def test_failing_read(world: FakeWorld, held: Held, fault: Fault, kind: type[Exception]) -> None:
    """A read that cannot be had raises within its time, whatever is wrong."""
    world.api.fail("list", "pods", fault, times=2)
    async with KubeClient(await world.kubeconfig()) as client:
        source = KubeSource(held, client, world.node, metrics=Metrics())
        with pytest.raises(kind):
            await asyncio.wait_for(source.read_pods(), 20.0)


async def test_many_pods(tmp_path: Path, held: Held) -> None:
    """A list of two thousand pods arrives whole, and others run while it is taken apart."""
    async with FakeKubeApi() as api:
        for number in range(2_000):
            api.create_pod("default", f"p{number}", node="node-1")
        async with KubeClient(write_kubeconfig(tmp_path / "k", api.url)) as client:
            source = KubeSource(held, client, "node-1", metrics=Metrics())
            pods, version = await source.read_pods()

    assert len(pods) == 2_000
    assert version == 2_100

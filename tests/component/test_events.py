"""Events on pods: told once, counted when repeated, and never in anybody's way."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from metaproxy import events
from metaproxy.events import FORBIDDEN_PAUSE, KEPT, KEPT_PER_POD, PAUSE, POD_BURST, REPEAT, WINDOW, EventRecorder
from metaproxy.pods import Pod
from metaproxy.telemetry import Metrics

pytestmark = pytest.mark.looptime

BASE = 1_800_000_000.0
POD = Pod(uid="u1", namespace="team", name="web")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of the API server."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


class FakeEventsApi:
    """The API server's Events, with the checks that a real one makes; `script` answers, or fails, the next calls."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], dict[str, Any]] = {}
        self.calls: list[tuple[float, str]] = []
        self.script: list[Said | Exception] = []
        self.always: Said | None = None
        self.lose_answers = 0

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = "",
        timeout: float = 0,  # noqa: ASYNC109  the protocol's
    ) -> Said:
        """One call."""
        assert timeout > 0
        assert body is not None
        self.calls.append((asyncio.get_running_loop().time(), method))
        await asyncio.sleep(0)
        if self.script:
            answer = self.script.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if self.always is not None:
            return self.always
        match = re.fullmatch(r"/apis/events\.k8s\.io/v1/namespaces/([a-z0-9-]+)/events(?:/([a-z0-9.-]+))?", path)
        assert match, path
        said = self._taken(method, match[1], match[2], json.loads(body), content_type)
        if self.lose_answers:
            self.lose_answers -= 1
            raise TimeoutError
        return said

    def _taken(self, method: str, namespace: str, name: str | None, body: dict[str, Any], content_type: str) -> Said:
        if method == "PATCH":
            assert content_type == "application/merge-patch+json"
            known = self.events.get((namespace, str(name)))
            if known is None:
                return Said(404)
            if body.keys() != {"series"} or body["series"]["count"] < 2:
                return Said(422)
            self._time(body["series"]["lastObservedTime"])
            known.update(body)
            return Said(200)
        assert method == "POST"
        assert content_type == "application/json"
        assert body["metadata"]["namespace"] == namespace == body["regarding"]["namespace"]
        self._time(body["eventTime"])
        assert len(body["note"].encode()) <= 1024
        assert len(body["reason"].encode()) <= 128
        assert len(body["reportingInstance"].encode()) <= 128
        assert body["action"]
        assert body["reportingController"]
        key = (namespace, body["metadata"]["name"])
        if key in self.events:
            return Said(409)
        self.events[key] = body
        return Said(201)

    def _time(self, text: str) -> None:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)

    @property
    def told(self) -> list[tuple[str, int]]:
        """Notes with their counts."""
        return [(event["note"], event.get("series", {}).get("count", 1)) for event in self.events.values()]


@pytest.fixture
def api() -> FakeEventsApi:
    """The API server."""
    return FakeEventsApi()


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of their own for each test."""
    return Metrics()


@pytest.fixture
def recorder(api: FakeEventsApi, metrics: Metrics) -> EventRecorder:
    """Ours, on a node with the longest possible name; its wall clock goes with the loop's."""
    return EventRecorder(
        api,
        "n" * 253,
        metrics=metrics,
        clock=lambda: BASE + asyncio.get_running_loop().time(),
        random=lambda: 0.5,
    )


@asynccontextmanager
async def running(recorder: EventRecorder) -> AsyncIterator[None]:
    """Its eternal task."""
    task = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def counted(metrics: Metrics, outcome: str) -> float:
    """How many Events came to that."""
    return metrics.registry.get_sample_value("metaproxy_events_total", {"outcome": outcome}) or 0.0


async def test_a_report_becomes_an_event(recorder: EventRecorder, api: FakeEventsApi, metrics: Metrics) -> None:
    """What is recorded is told at once, in the pod's namespace, whatever the length of its texts."""
    async with running(recorder):
        recorder.record(POD, "NotPermitted" * 20, "é" * 2000)
        assert recorder.status() == "1 waiting"
        await asyncio.sleep(0.1)
    (made,) = api.events.values()
    assert made["regarding"]["uid"] == "u1"
    assert made["note"].startswith("éé")
    assert counted(metrics, "sent") == 1
    assert recorder.status() == "0 waiting"


async def test_repeats_become_a_series(recorder: EventRecorder, api: FakeEventsApi, metrics: Metrics) -> None:
    """A thousand repeats are one Event with a count, patched at most once a minute."""
    async with running(recorder):
        for _ in range(1000):
            recorder.record(POD, "NoRole", "no role")
            await asyncio.sleep(0.1)
        await asyncio.sleep(REPEAT)
    assert api.told == [("no role", 1000)]
    assert [method for _, method in api.calls] == ["POST", "PATCH", "PATCH"]
    times = [moment for moment, _ in api.calls]
    assert all(later - earlier >= REPEAT for earlier, later in pairwise(times))
    assert counted(metrics, "repeated") == 2


async def test_what_differs_is_told_apart(recorder: EventRecorder, api: FakeEventsApi) -> None:
    """Another pod, reason or note is another Event; so is the same after it has been quiet for long."""
    async with running(recorder):
        recorder.record(POD, "NoRole", "a")
        recorder.record(POD, "NoRole", "b")
        recorder.record(POD, "NotPermitted", "a")
        recorder.record(Pod(uid="u2", namespace="other", name="web"), "NoRole", "a")
        await asyncio.sleep(1)
        assert len(api.events) == 4
        await asyncio.sleep(WINDOW + 1)
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(1)
    assert len(api.events) == 5
    assert all(count == 1 for _, count in api.told)


async def test_one_pod_has_a_budget(recorder: EventRecorder, api: FakeEventsApi, metrics: Metrics) -> None:
    """A pod with ever new notes is told of slowly, pushes out only its own reports, and delays nobody else's."""
    async with running(recorder):
        for number in range(1000):
            recorder.record(POD, "StsDenied", f"note {number}")
        recorder.record(Pod(uid="u2", namespace="team", name="quiet"), "NoRole", "no role")
        await asyncio.sleep(1)
        assert len(api.events) == POD_BURST + 1
        assert ("no role", 1) in api.told
        await asyncio.sleep(3600)
    assert len(api.events) == KEPT_PER_POD + 1
    assert counted(metrics, "dropped") == 1000 - KEPT_PER_POD


async def test_all_pods_have_a_budget(recorder: EventRecorder, api: FakeEventsApi, metrics: Metrics) -> None:
    """A node full of refused pods tells the API server no faster than allowed, and remembers only so much."""
    async with running(recorder):
        for number in range(KEPT + 100):
            recorder.record(Pod(uid=f"u{number}", namespace="team", name=f"p{number}"), "NoRole", "no role")
        assert recorder.status() == f"{KEPT} waiting"
        await asyncio.sleep(10)
        assert len(api.calls) <= events.BURST + 10 * events.RATE + 1
        await asyncio.sleep(KEPT / events.RATE)
    assert len(api.events) == KEPT
    assert counted(metrics, "dropped") == 100


@pytest.mark.parametrize(
    "failure",
    [
        Said(500),
        Said(503),
        Said(401),
        Said(429, {"retry-after": "1"}, b"Too many requests"),
        OSError("gone"),
        TimeoutError(),
    ],
    ids=["500", "503", "401", "429", "connection lost", "no answer"],
)
async def test_failures_back_off(
    recorder: EventRecorder, api: FakeEventsApi, metrics: Metrics, failure: Said | Exception
) -> None:
    """After a failure nothing is sent for a while, longer each time; then all that was meant is told, once."""
    api.script = [failure] * 4
    with capture_logs() as logs:
        async with running(recorder):
            recorder.record(POD, "NoRole", "a")
            recorder.record(POD, "NoRole", "b")
            await asyncio.sleep(0.5)
            assert "waiting; " in recorder.status()
            await asyncio.sleep(60)
    times = [moment for moment, _ in api.calls]
    assert times[:5] == pytest.approx([0, 1, 3, 7, 15], abs=0.1)
    assert len(api.calls) == 6
    assert api.told == [("a", 1), ("b", 1)]
    assert counted(metrics, "failed") == 4
    assert recorder.status() == "0 waiting"
    assert len(logs) == 1, "said once"


async def test_an_outage_of_hours_costs_a_call_a_minute(recorder: EventRecorder, api: FakeEventsApi) -> None:
    """However much is recorded while the API server is down, nothing piles up."""
    api.always = Said(503)
    async with running(recorder):
        for number in range(3600):
            recorder.record(POD, "NoRole", f"note {number}")
            await asyncio.sleep(1)
    assert len(api.calls) <= 3600 / PAUSE[1] + 8


@pytest.mark.parametrize(("header", "pause"), [("30", 30), ("100000", PAUSE[1]), ("soon", 1), ("٣", 1)])
async def test_the_server_may_ask_for_a_pause(
    recorder: EventRecorder, api: FakeEventsApi, header: str, pause: float
) -> None:
    """Retry-After is honoured within reason; nonsense is not."""
    api.script = [Said(429, {"Retry-After": header})]
    async with running(recorder):
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(120)
    (first, _), (second, _) = api.calls
    assert second - first == pytest.approx(pause, abs=0.1)


async def test_missing_permission_is_said_once(recorder: EventRecorder, api: FakeEventsApi) -> None:
    """Without RBAC it says so in log and status, tries rarely, and goes on by itself when it is given."""
    api.always = Said(403, body=b'{"reason":"Forbidden"}')
    with capture_logs() as logs:
        async with running(recorder):
            for number in range(20):
                recorder.record(POD, "NoRole", f"note {number % 3}")
                await asyncio.sleep(60)
            assert len(api.calls) <= 20 * 60 / FORBIDDEN_PAUSE + 1
            assert "ClusterRole" in recorder.status()
            assert len(logs) == 1
            api.always = None
            await asyncio.sleep(FORBIDDEN_PAUSE)
    assert len(api.events) == 3
    assert recorder.status() == "0 waiting"


@pytest.mark.parametrize(
    "answer", [Said(404), Said(403, body=b'{"details":{"causes":[{"reason":"NamespaceTerminating"}]}}')]
)
async def test_a_namespace_that_goes_is_nobodys_trouble(
    recorder: EventRecorder, api: FakeEventsApi, metrics: Metrics, answer: Said
) -> None:
    """Events in a namespace that is gone or going are dropped; others are told at once."""
    api.script = [answer]
    async with running(recorder):
        recorder.record(POD, "NoRole", "a")
        recorder.record(Pod(uid="u2", namespace="other", name="web"), "NoRole", "b")
        await asyncio.sleep(0.5)
    assert api.told == [("b", 1)]
    assert counted(metrics, "dropped") == 1


async def test_what_the_server_calls_wrong_is_dropped(
    recorder: EventRecorder, api: FakeEventsApi, metrics: Metrics
) -> None:
    """A refused Event is said in the log with the server's words, and not sent again."""
    api.script = [Said(422, body=b"note is too long")]
    with capture_logs() as logs:
        async with running(recorder):
            recorder.record(POD, "NoRole", "a")
            await asyncio.sleep(3600)
    assert len(api.calls) == 1
    assert counted(metrics, "dropped") == 1
    assert "note is too long" in str(logs)


async def test_a_lost_answer_makes_no_second_event(recorder: EventRecorder, api: FakeEventsApi) -> None:
    """When only the answer was lost, the same name is found taken, and the series goes on."""
    api.lose_answers = 1
    async with running(recorder):
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(5)
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(2 * REPEAT)
    assert api.told == [("a", 2)]


async def test_an_event_that_expired_is_told_anew(recorder: EventRecorder, api: FakeEventsApi) -> None:
    """The API server forgets Events after a while: a series that goes on then begins again."""
    async with running(recorder):
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(5)
        api.events.clear()
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(3 * REPEAT)
    assert api.told == [("a", 1)]


async def test_a_conflict_on_a_series_is_tried_again(recorder: EventRecorder, api: FakeEventsApi) -> None:
    """A conflicting patch is no reason to stop counting."""
    async with running(recorder):
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(1)
        api.script = [Said(409)]
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(2 * REPEAT)
    assert api.told == [("a", 2)]


async def test_what_could_not_be_told_yet_is_not_forgotten(recorder: EventRecorder, api: FakeEventsApi) -> None:
    """A report that waits through a long outage and is repeated stays one report with its first time."""
    api.always = Said(503)
    async with running(recorder):
        recorder.record(POD, "NoRole", "a")
        await asyncio.sleep(2 * WINDOW)
        recorder.record(POD, "NoRole", "a")
        api.always = None
        await asyncio.sleep(4 * REPEAT)
    assert api.told == [("a", 2)]
    (made,) = api.events.values()
    assert made["eventTime"] == "2027-01-15T08:00:00.000000Z"


async def test_a_report_that_is_pushed_out_while_it_is_sent(recorder: EventRecorder, api: FakeEventsApi) -> None:
    """What a full queue pushes out in the very moment of its call does no harm."""
    api.script = [Said(404)]
    async with running(recorder):
        recorder.record(POD, "NoRole", "first")
        while not api.calls:  # noqa: ASYNC110  until the call is under way, turn by turn
            await asyncio.sleep(0)
        for number in range(KEPT_PER_POD):
            recorder.record(POD, "NoRole", f"note {number}")
        await asyncio.sleep(3600)
    assert len(api.events) == KEPT_PER_POD

"""Kubernetes Events on pods: what their owners see in `kubectl describe pod` when a role is refused.

Knows: what is the same thing again, and how rarely the API server may be told.
Must not know: why anything was refused. Notes are shown to everybody who may see the pod: callers pass reasons only.

Telling is a courtesy: it never holds up or fails a request, and what cannot be told in time is dropped and counted.
"""

import asyncio
import json
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog
from cachetools import LRUCache

from metaproxy.budget import TokenBucket
from metaproxy.eventobjects import NOTE_LIMIT, SHORT_LIMIT, Key, cut, event, event_name, series
from metaproxy.pods import Pod
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

WINDOW = 360.0
"""Seconds after the last one within which the same thing is the same series, as in client-go."""

REPEAT = 60.0
"""Seconds between two reports of one series: the count is interesting, not its every step."""

RATE, BURST = 2.0, 25.0
"""Calls per second towards the API server, for all pods of the node."""

POD_RATE, POD_BURST = 1 / 60, 5.0
"""Calls per second for one pod."""

KEPT, KEPT_PER_POD = 1024, 16
"""How many different things are remembered, of all pods and of one: a pod must not push out the others."""

PAUSE = (1.0, 60.0)
"""Seconds for which nothing is sent after a failure: from, and growing to."""

FORBIDDEN_PAUSE = 300.0
"""Seconds between two tries while our permissions are missing: somebody has to give them first."""

TIMEOUT = 5.0
"""Seconds for one call."""

_NOT_FOUND, _CONFLICT, _FORBIDDEN, _UNAUTHORIZED, _TOO_MANY, _SERVER_ERROR = 404, 409, 403, 401, 429, 500

Outcome = Literal["sent", "repeated", "dropped", "failed"]


class Answer(Protocol):
    """An answer of the API server, whatever its status."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers."""
        ...

    @property
    def body(self) -> bytes:
        """Its body."""
        ...


class Client(Protocol):
    """Who talks to the API server."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str = ...,
        timeout: float = ...,  # noqa: ASYNC109  the client's own, of its parts
    ) -> Answer:
        """One request; raises when there is no answer."""
        ...


@dataclass(slots=True, kw_only=True)
class _Report:
    """One thing about one pod. `told` of its `count` occurrences are known to the API server; `due`: loop time."""

    key: Key
    pod: Pod
    name: str
    first: float
    last: float
    count: int = 1
    told: int = 0
    due: float = float("-inf")


class EventRecorder:
    """Takes reports at once and sends them when it may; see the module."""

    def __init__(
        self,
        client: Client,
        node_name: str,
        *,
        metrics: Metrics,
        reporting_instance: str = "",
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._instance = cut(reporting_instance or f"metaproxy-{node_name}", SHORT_LIMIT)
        self._metrics = metrics
        self._clock = clock
        self._random = random
        self._reports: OrderedDict[Key, _Report] = OrderedDict()
        self._buckets: LRUCache[str, TokenBucket] = LRUCache(KEPT)
        self._wake = asyncio.Event()
        self._paused_until = float("-inf")
        self._failures = 0
        self._trouble = ""

    def status(self) -> str:
        """One line for a person."""
        waiting = sum(report.told < report.count for report in self._reports.values())
        return f"{waiting} waiting; {self._trouble}" if self._trouble else f"{waiting} waiting"

    def record(self, pod: Pod, reason: str, note: str) -> None:
        """Something about a pod that its owner should know; returns at once, never raises."""
        key = (pod.uid, cut(reason, SHORT_LIMIT), cut(note, NOTE_LIMIT))
        now = self._clock()
        report = self._reports.get(key)
        if report is not None and (not report.told or now - report.last <= WINDOW):
            report.count += 1
            report.last = now
        else:
            self._reports[key] = _Report(key=key, pod=pod, name=event_name(pod.name, key, now), first=now, last=now)
            self._make_room(pod.uid)
        self._reports.move_to_end(key)
        self._wake.set()

    async def run(self) -> None:
        """Eternal: send what is due."""
        loop = asyncio.get_running_loop()
        overall = TokenBucket(rate=RATE, burst=BURST, now=loop.time())
        while True:
            self._wake.clear()
            report, moment = self._next(loop.time(), overall)
            if report is None or moment > loop.time():
                try:
                    async with asyncio.timeout_at(None if report is None else moment):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            overall.take(loop.time())
            self._bucket(report.pod.uid).take(loop.time())
            await self._send(report)

    def _next(self, now: float, overall: TokenBucket) -> tuple[_Report | None, float]:
        """The report that may be sent first, and from when."""
        best: _Report | None = None
        moment = float("inf")
        for report in self._reports.values():
            if report.told < report.count:
                allowed = max(report.due, now + self._bucket(report.pod.uid).wait(now))
                if allowed < moment:
                    best, moment = report, allowed
        return best, max(moment, self._paused_until, now + overall.wait(now))

    def _bucket(self, uid: str) -> TokenBucket:
        bucket = self._buckets.get(uid)
        if bucket is None:
            now = asyncio.get_running_loop().time()
            bucket = self._buckets[uid] = TokenBucket(rate=POD_RATE, burst=POD_BURST, now=now)
        return bucket

    def _make_room(self, uid: str) -> None:
        of_pod = [key for key in self._reports if key[0] == uid]
        for key in [*of_pod[:-KEPT_PER_POD], *list(self._reports)[: max(0, len(self._reports) - KEPT)]]:
            if (report := self._reports.pop(key, None)) is not None and report.told < report.count:
                self._count("dropped")

    async def _send(self, report: _Report) -> None:
        count = report.count
        collection = f"/apis/events.k8s.io/v1/namespaces/{report.pod.namespace}/events"
        try:
            if report.told:
                answer = await self._client.request(
                    "PATCH",
                    f"{collection}/{report.name}",
                    body=json.dumps(series(count, report.last)).encode(),
                    content_type="application/merge-patch+json",
                    timeout=TIMEOUT,
                )
            else:
                count = 1
                _, reason, note = report.key
                body = event(
                    report.pod, name=report.name, reason=reason, note=note, first=report.first, instance=self._instance
                )
                answer = await self._client.request(
                    "POST",
                    collection,
                    body=json.dumps(body).encode(),
                    content_type="application/json",
                    timeout=TIMEOUT,
                )
        except Exception as error:  # noqa: BLE001  whatever the client's trouble, it is said and tried again later
            self._pause(f"the API server gave no answer: {error!r}")
            return
        self._judge(report, count, answer)

    def _judge(self, report: _Report, count: int, answer: Answer) -> None:
        """What an answer means for the report and for those that come after."""
        repeated, status = report.told > 0, answer.status
        if status < 300 or (status == _CONFLICT and not repeated):  # noqa: PLR2004  any success
            # A conflict: it was made by an earlier try whose answer was lost.
            report.told = count
            report.due = asyncio.get_running_loop().time() + REPEAT
            self._failures, self._trouble = 0, ""
            self._count("repeated" if repeated else "sent")
        elif status == _NOT_FOUND and repeated:
            # Events live for an hour or so: say it anew.
            now = self._clock()
            report.told, report.count, report.first = 0, 1, now
            report.name = event_name(report.pod.name, report.key, now)
        elif status == _NOT_FOUND or _is_terminating(answer):
            # The namespace is gone or going, and the pod with it.
            self._drop(report)
        elif status == _FORBIDDEN:
            verb = "patch" if repeated else "create"
            self._pause(
                f"may not {verb} events: a ClusterRole lacks {verb} of events in events.k8s.io", FORBIDDEN_PAUSE
            )
        elif status in {_UNAUTHORIZED, _CONFLICT, _TOO_MANY} or status >= _SERVER_ERROR:
            self._pause(f"the API server answered {status}", _retry_after(answer))
        else:
            log.warning("an event was refused", status=status, answer=answer.body[:300].decode("utf-8", "replace"))
            self._drop(report)

    def _drop(self, report: _Report) -> None:
        if self._reports.get(report.key) is report:
            del self._reports[report.key]
        self._count("dropped")

    def _pause(self, trouble: str, at_least: float = 0.0) -> None:
        first, longest = PAUSE
        pause = min(longest, first * 2.0 ** min(self._failures, 16)) * (0.75 + 0.5 * self._random())
        self._failures += 1
        self._paused_until = asyncio.get_running_loop().time() + max(pause, at_least)
        self._count("failed")
        if trouble != self._trouble:
            log.warning("events cannot be written", trouble=trouble)
        self._trouble = trouble

    def _count(self, outcome: Outcome) -> None:
        self._metrics.counter("events_total", outcome=outcome).inc()


def _retry_after(answer: Answer) -> float:
    """Seconds that the server asks for, within reason. It is its plain header: a 429 has no JSON."""
    text = next((value for name, value in answer.headers.items() if name.lower() == "retry-after"), "")
    return min(float(text), PAUSE[1]) if text.isascii() and text.isdigit() and len(text) < SHORT_LIMIT else 0.0


def _is_terminating(answer: Answer) -> bool:
    """Whether a 403 is about a namespace that is being deleted, not about us."""
    return answer.status == _FORBIDDEN and b"NamespaceTerminating" in answer.body

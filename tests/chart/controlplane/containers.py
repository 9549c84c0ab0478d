"""One container on a played node: started, probed, started again when it ends, and ended.

Knows: what Kubernetes promises of a container's life: probes, restarts, hooks, the signal and the grace.
Must not know: what else is in the pod, and whom its status is told to.

Left out: probes and hooks other than exec, success thresholds, and readiness once the pod is to end.
"""

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from signal import SIGKILL, SIGTERM

from tests.chart.kubelet import Kubelet
from tests.cluster.api import Json
from tests.network.lab.processes import Process

FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 30.0
"""Seconds between a container's end and its next start. The kubelet waits ten times as long."""

GRACE = 30.0
"""Seconds: Kubernetes' own default."""

_TICK = 0.05
"""Seconds at most until the end of a process is seen."""

_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """A container, cared for by a thread of its own from the beginning.

    `policy` is when it is started again: Always, OnFailure, Never. `changed` is called whenever its status is another.
    """

    def __init__(self, runtime: Kubelet, name: str, *, policy: str, changed: Callable[[], None]) -> None:
        self._spec = runtime.container(name)
        self._runtime, self._policy, self._changed = runtime, policy, changed
        self._grace = runtime.pod["spec"].get("terminationGracePeriodSeconds", GRACE)
        self._state: Json = {"waiting": {"reason": "ContainerCreating"}}
        self._last: Json = {}
        self._ready = self._started = False
        self._processes: list[Process] = []
        self._ending = threading.Event()
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    @property
    def status(self) -> Json:
        """As in a pod's `containerStatuses`."""
        return {
            "name": self._spec["name"],
            "image": self._spec["image"],
            "imageID": self._spec["image"],
            "ready": self._ready,
            "started": self._started,
            "restartCount": max(0, len(self._processes) - 1),
            "state": self._state,
            "lastState": self._last,
        }

    @property
    def exit(self) -> int | None:
        """How it ended, when it has ended for good."""
        ended: Json | None = self._state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    @property
    def lines(self) -> list[str]:
        """What all its processes have said until now."""
        return [line for process in self._processes for line in process.lines]

    def end(self, grace: float) -> None:
        """End it as a pod's deletion does: the hook, SIGTERM, and SIGKILL when the grace (seconds) is over."""
        deadline = time.monotonic() + grace
        with self._starting:
            self._ending.set()
        hook = self._spec.get("lifecycle", {}).get("preStop")
        if hook is not None:
            self._exec(hook["exec"]["command"], grace)
        self._terminate(max(0.0, deadline - time.monotonic()))
        self._thread.join()

    def _run(self) -> None:
        backoff = FIRST_BACKOFF
        while (process := self._next()) is not None:
            begun = now()
            self._set({"running": {"startedAt": begun}})
            self._care(process)
            process.end(SIGKILL)  # it has ended; this reads the rest of what it said
            code = process.popen.returncode
            self._ready = self._started = False
            self._last = {
                "terminated": {
                    "exitCode": code if code >= 0 else 128 - code,  # of a signal, as a runtime tells it
                    "reason": "Error" if code else "Completed",
                    "startedAt": begun,
                    "finishedAt": now(),
                }
            }
            if self._policy == "Never" or (self._policy == "OnFailure" and not code):
                break
            self._set({"waiting": {"reason": "CrashLoopBackOff", "message": f"back-off {backoff:.0f}s"}})
            self._ending.wait(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF)
        self._set(self._last or {"terminated": {"exitCode": 137, "reason": "Error"}})

    def _next(self) -> Process | None:
        """The next process; none when there must not be another."""
        with self._starting:
            if self._ending.is_set():
                return None
            process = self._runtime.start(self._spec["name"])
            self._processes.append(process)
            return process

    def _care(self, process: Process) -> None:
        """Until the process has ended: probe it, and end it when a probe has failed often enough."""
        due = {kind: time.monotonic() + self._times(kind)[0] for kind in _PROBES if kind in self._spec}
        failures: Counter[str] = Counter()
        if "startupProbe" not in due:
            self._has_started(due)
        while process.popen.poll() is None:
            kind = "startupProbe" if "startupProbe" in due else min(due, key=due.__getitem__, default="")
            if self._ending.is_set() or not kind or time.monotonic() < due[kind]:
                _wait(process, _TICK)
                continue
            _, period, timeout, threshold = self._times(kind)
            good = self._exec(self._spec[kind]["exec"]["command"], timeout)
            due[kind] = time.monotonic() + period
            failures[kind] = 0 if good else failures[kind] + 1
            if good and kind == "startupProbe":
                del due[kind]
                self._has_started(due)
            elif kind == "readinessProbe" and (good or failures[kind] >= threshold):
                self._set_ready(good)
            elif kind != "readinessProbe" and failures[kind] >= threshold:
                self._terminate(self._grace)

    def _has_started(self, due: dict[str, float]) -> None:
        self._started = True
        self._set_ready("readinessProbe" not in due)

    def _times(self, kind: str) -> tuple[float, float, float, int]:
        """Delay, period and time-out in seconds, and the failures that count; with Kubernetes' own defaults."""
        probe = self._spec[kind]
        return (
            probe.get("initialDelaySeconds", 0),
            probe.get("periodSeconds", 10),
            probe.get("timeoutSeconds", 1),
            probe.get("failureThreshold", 3),
        )

    def _exec(self, command: list[str], timeout: float) -> bool:
        """Whether a command in the container ended well, and in time (seconds)."""
        try:
            return self._runtime.run(self._spec["name"], command=command, seconds=timeout).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _terminate(self, grace: float) -> None:
        if self._processes:
            process = self._processes[-1]
            process.popen.send_signal(SIGTERM)
            if not _wait(process, grace):
                process.popen.send_signal(SIGKILL)
                _wait(process, GRACE)

    def _set(self, state: Json) -> None:
        self._state = state
        self._changed()

    def _set_ready(self, ready: bool) -> None:
        self._ready = ready
        self._changed()


def _wait(process: Process, seconds: float) -> bool:
    """Whether it has ended, after so long at most."""
    try:
        process.popen.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True

"""The played kubelet keeps to what Kubernetes promises: else what rolls out on it would prove nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chart.controlplane.containers import Container
from tests.chart.controlplane.volumes import NotYetError, make_volumes
from tests.chart.kubelet import Kubelet
from tests.cluster.actors import Actors
from tests.cluster.api import Api, Json
from tests.cluster.waiting import wait_until

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("root")]

PATIENCE = 100.0
RUNS = "trap 'echo asked to end; exit 3' TERM; echo began; while true; do sleep 0.05; done"
DEAF = "trap '' TERM; echo began; while true; do sleep 0.05; done"

Run = Callable[..., Container]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a script as a container that has a folder at /data, which is here `tmp_path`."""
    with ExitStack() as stack:

        def start(script: str, *, policy: str = "Always", **more: Any) -> Container:
            security = {
                "runAsUser": 0,
                "runAsGroup": 0,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            spec: Json = {
                "name": "main",
                "image": "none",
                "command": ["bash", "-c", script],
                "securityContext": security,
                "volumeMounts": [{"name": "data", "mountPath": "/run/data"}],
                **more,
            }
            pod: Json = {"spec": {"containers": [spec], "terminationGracePeriodSeconds": 60}}
            runtime = Kubelet(pod=pod, volumes={"data": tmp_path}, fields={}, environment={})
            made = Container(runtime, "main", policy=policy, changed=lambda: None)
            stack.callback(made.end, 0.0)
            return made

        yield start


def probe(command: str, **more: float) -> Json:
    """An exec probe that is quick about it."""
    return {"exec": {"command": ["bash", "-c", command]}, "timeoutSeconds": 60, "periodSeconds": 0.1, **more}


def until(what: str, reached: Callable[[], bool]) -> None:
    """Wait for it, patiently."""
    wait_until(what, reached, PATIENCE)


def test_what_ends_is_started_again(run: Run) -> None:
    """And says how it ended; in between it waits."""
    made = run("echo began; exit 7")
    until("it has been started again", lambda: made.lines.count("began") == 2)
    until("it waits", lambda: made.status["restartCount"] == 1 and "waiting" in made.status["state"])
    assert made.status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert made.status["lastState"]["terminated"]["exitCode"] == 7
    assert made.exit is None


@pytest.mark.parametrize(("policy", "code"), [("Never", 7), ("OnFailure", 0)])
def test_what_may_end_is_not(run: Run, policy: str, code: int) -> None:
    """Unless it failed and must not."""
    made = run(f"exit {code}", policy=policy)
    until("it has ended", lambda: made.exit is not None)
    assert (made.exit, made.status["restartCount"]) == (code, 0)


def test_ready_is_what_the_probe_says(run: Run, tmp_path: Path) -> None:
    """At once when it is, and not any more after so many failures; nothing is started again for it."""
    made = run(RUNS, readinessProbe=probe("test -e /run/data/good", failureThreshold=2))
    until("it runs", lambda: made.status["started"])
    assert not made.status["ready"]
    (tmp_path / "good").touch()
    until("it is ready", lambda: bool(made.status["ready"]))
    (tmp_path / "good").unlink()
    until("it is not", lambda: not made.status["ready"])
    assert made.status["restartCount"] == 0


def test_nothing_is_probed_before_the_start(run: Run, tmp_path: Path) -> None:
    """Until the startup probe is content, the others would fail, and it is neither started nor ready."""
    made = run(
        RUNS,
        startupProbe=probe("test -e /run/data/good", failureThreshold=10_000),
        livenessProbe=probe("echo alive >> /run/data/said", failureThreshold=1),
    )
    until("it has begun", lambda: "began" in made.lines)
    assert (made.status["started"], made.status["ready"]) == (False, False)
    assert not (tmp_path / "said").exists()
    (tmp_path / "good").touch()
    until("it is probed", (tmp_path / "said").exists)
    assert (made.status["started"], made.status["ready"]) == (True, True)


def test_what_does_not_live_is_ended_and_started_again(run: Run, tmp_path: Path) -> None:
    """It is asked to end, and has the pod's grace for it."""
    (tmp_path / "good").touch()
    made = run(RUNS, livenessProbe=probe("test -e /run/data/good", failureThreshold=2))
    until("it runs", lambda: "began" in made.lines)
    assert made.status["restartCount"] == 0
    (tmp_path / "good").unlink()
    until("it is started again", lambda: made.status["restartCount"] >= 1)
    assert "asked to end" in made.lines
    assert made.status["lastState"]["terminated"]["exitCode"] == 3


def test_a_probe_that_takes_too_long_has_failed(run: Run) -> None:
    """However it would have ended."""
    made = run(RUNS, livenessProbe=probe("sleep 1000", timeoutSeconds=0.1, failureThreshold=1))
    until("it is started again", lambda: made.status["restartCount"] >= 1)


def test_the_end(run: Run, tmp_path: Path) -> None:
    """First the hook, then the signal; how it ended is told."""
    made = run(RUNS, lifecycle={"preStop": {"exec": {"command": ["bash", "-c", "echo hook > /run/data/said"]}}})
    until("it runs", lambda: "began" in made.lines)
    made.end(60.0)
    assert (tmp_path / "said").exists()
    assert made.lines.count("asked to end") == 1
    assert made.exit == 3


def test_the_end_of_who_does_not_listen(run: Run) -> None:
    """It is killed when the grace is over, and not before."""
    made = run(DEAF)
    until("it runs", lambda: "began" in made.lines)
    begun = time.monotonic()
    made.end(1.0)
    assert time.monotonic() - begun >= 1.0
    assert made.exit == 137


# ---- volumes


def volumes(tmp_path: Path, *specs: Json) -> dict[str, Path]:
    """Made on a node whose disk has /run."""
    host = tmp_path / "host"
    (host / "run").mkdir(parents=True, exist_ok=True)
    pod: Json = {"metadata": {}, "spec": {"volumes": [{"name": f"v{n}", **spec} for n, spec in enumerate(specs)]}}
    return make_volumes(pod, cluster=Actors(Api("http://127.0.0.1:9")), folder=tmp_path / "pod", host=host)


def test_the_node_keeps_what_is_its_own(tmp_path: Path) -> None:
    """A path of the host is the same for every pod; what is the pod's own is empty, and everybody's."""
    folder: Json = {"hostPath": {"path": "/run/a/b", "type": "DirectoryOrCreate"}}
    file: Json = {"hostPath": {"path": "/run/lock", "type": "FileOrCreate"}}
    made = volumes(tmp_path, folder, file, {"emptyDir": {}})
    assert made["v0"] == tmp_path / "host" / "run" / "a" / "b"
    assert made["v1"].is_file()
    assert made["v2"].stat().st_mode & 0o777 == 0o777
    assert volumes(tmp_path, folder)["v0"] == made["v0"]


@pytest.mark.parametrize("source", [{"type": "Directory"}, {"type": "File"}, {"type": "FileOrCreate", "path": "/run"}])
def test_what_is_not_there_is_waited_for(tmp_path: Path, source: dict[str, str]) -> None:
    """Also when something else is there."""
    with pytest.raises(NotYetError):
        volumes(tmp_path, {"hostPath": {"path": "/run/none", **source}})

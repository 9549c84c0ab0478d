"""The chart's DaemonSet in the hands of its real controller: installed, upgraded, rolled back, broken, uninstalled.

Two nodes with a network each, on which the kubelet is played and the chart's containers are real processes: the
redirect is put in place by its own container, and pods ask at the metadata address all the while.
"""

import json
import re
import secrets
import select
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import pytest

from metaproxy import __version__
from metaproxy.addresses import METADATA_IPV4, OWN_IPV4
from tests.chart.controlplane.node import PlayedNode
from tests.chart.controlplane.outside import Outside
from tests.chart.controlplane.plane import ControlPlane
from tests.chart.helm import CHART, Helm
from tests.cluster.api import Json
from tests.cluster.waiting import wait_until
from tests.network.lab.hammer import PATH
from tests.network.lab.namespaces import ask
from tests.network.lab.node import Lab
from tests.network.lab.recorder import MARK

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("root")]

SECONDS = 600.0
"""For a rollout over both nodes: many times what it takes."""

SILENT = 3.0
"""Seconds without a request after an agent was told to end: more than it takes to end, much less than the drain."""

SEVERAL = 20
"""Connections that are kept: the oldest of them was answered a good while before it is known who takes over."""

NODES = ("one", "two")
NEXT = "next"
IMAGES = (f"metaproxy:{__version__}", f"metaproxy:{NEXT}", f"metaproxy-redirect:{__version__}")


# ---- what pods and the cluster see meanwhile


class Chronicle:
    """What happens to the pods of a namespace, in the order in which the API server tells it."""

    def __init__(self, controlplane: ControlPlane, namespace: str) -> None:
        self.events: list[Json] = []
        self._admin, self._path = controlplane.cluster.admin, f"/api/v1/namespaces/{namespace}/pods"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def steps(self) -> list[str]:
        """In order, each once: `NAME made`, `NAME ready`, `NAME told to end`, `NAME gone`."""
        found: dict[str, None] = {}
        for event in self.events:
            pod = event["object"]
            so = {
                "made": True,
                "ready": ready(pod),
                "told to end": "deletionTimestamp" in pod["metadata"],
                "gone": event["type"] == "DELETED",
            }
            found |= dict.fromkeys(f"{pod['metadata']['name']} {step}" for step in so if so[step])
        return list(found)

    def _write(self) -> None:
        version = self._admin.get(self._path)["metadata"]["resourceVersion"]
        while not self._stop.is_set():
            query = {"resourceVersion": version, "timeoutSeconds": 3}
            with self._admin.watch(self._path, query=query, timeout=60.0) as events:
                while (event := events.next(60.0)) is not None:
                    version = event["object"]["metadata"]["resourceVersion"]
                    self.events.append(event)


class Load:
    """Clients in the network of a pod on each node, which ask for credentials at the metadata address without end."""

    def __init__(self, nodes: list[PlayedNode]) -> None:
        self._processes = [
            subprocess.Popen(
                node.lab.pods[0].namespace.command(
                    *(sys.executable, "-m", "tests.fakes.load", "--gently"),
                    *(METADATA_IPV4, "80", node.lab.pods[0].addresses[4]),
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for node in nodes
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def told(self) -> list[dict[str, Any]]:
        """What came of it on each node; it is over then."""
        return [json.loads(process.communicate("enough\n", timeout=SECONDS)[0]) for process in self._processes]


def assert_nothing_failed(load: Load) -> None:
    """On no node; and on each there was something that could have."""
    for told in load.told():
        assert told["failed"] == [], told
        assert min(told["fresh"], told["kept"], told["idle"]) > 0, told


# ---- the release


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Two nodes, and a release of the chart on them."""

    helm: Helm
    controlplane: ControlPlane
    nodes: list[PlayedNode]
    namespace: str
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """The release's, and all its objects'."""
        return f"metaproxy-{self.namespace}"

    def upgrade(self, *flags: str) -> None:
        """To the values of the first installation, and these."""
        self.run("upgrade", "--install", *self._chart(), *flags)

    def _chart(self) -> tuple[str, ...]:
        return (str(CHART), *self.values)

    def run(self, verb: str, *arguments: str) -> str:
        """A verb of helm on the release."""
        where = ("--namespace", self.namespace)
        return self.helm.run(verb, self.name, *arguments, *where, kubeconfig=self.controlplane.kubeconfig)

    def pods(self) -> dict[str, list[Json]]:
        """The release's pods by their nodes."""
        found: dict[str, list[Json]] = {node.name: [] for node in self.nodes}
        for pod in self.controlplane.pods(self.namespace, f"app.kubernetes.io/instance={self.name}"):
            if "nodeName" in pod["spec"] and pod["metadata"]["labels"]["app.kubernetes.io/component"] == "agent":
                found[pod["spec"]["nodeName"]].append(pod)
        return found

    def only(self) -> dict[str, str]:
        """The name of the one pod on each node."""
        found = {}
        for node, pods in self.pods().items():
            (pod,) = pods
            found[node] = pod["metadata"]["name"]
        return found

    def wait(self, what: str, reached: Callable[[], bool]) -> None:
        """Until it is so; a failure shows what every pod has said."""
        try:
            wait_until(what, reached, SECONDS)
        except TimeoutError as error:
            state = json.dumps([pod["status"] for pods in self.pods().values() for pod in pods], indent=1)
            said = "\n".join(node.said() for node in self.nodes)
            raise AssertionError(f"{error}\n{state}\n{said}\n{self.controlplane.logs()}") from None

    def wait_rolled_out(self) -> None:
        """Until each node has one pod, of the newest template, and it is ready."""
        self.wait("rolled out", lambda: self.controlplane.rolled_out(self.namespace, self.name))


@pytest.fixture(scope="module")
def nodes(
    controlplane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[PlayedNode], Outside]]:
    """Two nodes, from which API server and STS are reached, and on each a pod that may have a role."""
    api_port = int(controlplane.cluster.url.rpartition(":")[2])
    workloads = f"shop-{secrets.token_hex(4)}"
    controlplane.create_namespace(workloads, {"iam.amazonaws.com/permitted": ".*:role/shop-.*"})
    with ExitStack() as stack:
        outside = stack.enter_context(Outside())
        made = []
        for name in NODES:
            folder = tmp_path_factory.mktemp(f"node-{name}")
            lab = stack.enter_context(Lab(folder, families=(4,)))
            outside.lead(lab.node, api_port, outside.sts_port)
            node = PlayedNode(
                f"{name}-{secrets.token_hex(4)}",
                controlplane.cluster,
                lab,
                folder=folder / "disk",
                images=IMAGES,
                environment={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api_port)},
            )
            made.append(stack.enter_context(node))
            _workload(controlplane, workloads, node)
        yield made, outside


def _workload(controlplane: ControlPlane, namespace: str, node: PlayedNode) -> None:
    """A pod that may have a role; what it does is up to the test, which enters its network."""
    security = {
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container = {"name": "main", "image": IMAGES[0], "command": ["sleep", "infinity"], "securityContext": security}
    cluster, name = controlplane.cluster, f"web-{node.name}"
    spec: Json = {"containers": [container], "terminationGracePeriodSeconds": 1}
    cluster.create_pod(namespace, name, node=node.name, annotations={"iam.amazonaws.com/role": "shop-web"}, spec=spec)

    def runs() -> bool:
        return bool(cluster.get_pod(namespace, name)["status"]["phase"] == "Running")

    wait_until(f"{name} runs", runs, SECONDS)


@pytest.fixture(scope="module")
def installation(helm: Helm, controlplane: ControlPlane, nodes: tuple[list[PlayedNode], Outside]) -> Iterator[World]:
    """A release that is gone at the end; which of its versions runs is up to `world`."""
    made, outside = nodes
    values = {
        "config.redirect.device": "mp0",
        "config.role_base_arn": "arn:aws:iam::123456789012:role/",
        "config.sts.endpoint_url": outside.sts.url,
        "config.sts.region": "us-east-1",
        "config.upstream.profile": "none",
        "extraEnv": [
            {"name": "AWS_ACCESS_KEY_ID", "value": "ASIANODE000000000000"},
            {"name": "AWS_SECRET_ACCESS_KEY", "value": "own-secret"},
        ],
        # Each probe starts a Python here: on a machine that does much else it takes its time.
        **{f"probes.{kind}.timeoutSeconds": 60 for kind in ("startup", "liveness", "readiness")},
        "probes.readiness.periodSeconds": 5,
    }
    namespace = f"ns-{secrets.token_hex(4)}"
    controlplane.create_namespace(namespace)
    flags = tuple(f"--set-json={name}={json.dumps(value)}" for name, value in values.items())
    world = World(helm=helm, controlplane=controlplane, nodes=made, namespace=namespace, values=flags)
    yield world
    world.run("uninstall", "--ignore-not-found")


@pytest.fixture
def world(installation: World) -> World:
    """The release as it was first installed, on both nodes; whatever a test before left is mended by this."""
    installation.upgrade()
    installation.wait_rolled_out()
    return installation


def ready(pod: Json) -> bool:
    """Whether it says that it is."""
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def test_upgrade_and_rollback(world: World) -> None:
    """On one node after the other the new pod stands beside the old one, and this ends when that is ready.

    Nobody who asks meanwhile notices anything, nor who is silent until after the old one was told to end.
    """
    with Load(world.nodes) as load:
        for change in ("upgrade", "rollback"):
            old = world.only()
            with Chronicle(world.controlplane, world.namespace) as chronicle:
                if change == "upgrade":
                    world.upgrade(f"--set=image.tag={NEXT}", "--set=config.events.enabled=false")
                    assert_answered_once_more(world, old)
                else:
                    world.run("rollback")
                world.wait_rolled_out()
            new, steps = world.only(), chronicle.steps()
            for node in old:
                assert before(steps, f"{new[node]} ready", f"{old[node]} told to end", f"{old[node]} gone")
            first, second = sorted(new.values(), key=lambda name: steps.index(f"{name} made"))
            assert before(steps, f"{first} ready", f"{second} made")
        assert_nothing_failed(load)


def assert_answered_once_more(world: World, old: dict[str, str]) -> None:
    """On the first node that is upgraded: on a connection to the old agent, seconds after that was told to end."""

    def begun() -> list[PlayedNode]:
        return [node for node in world.nodes if len(world.pods()[node.name]) > 1]

    world.wait("a new pod is made", lambda: bool(begun()))
    node = begun()[0]
    agent = node.pods[old[node.name]]

    def says(event: str) -> bool:
        return any(f'"{event}"' in line for line in agent.lines)

    # An idle connection is kept for a while only: so one of the newest that are the old agent's for certain.
    asked: deque[socket.socket] = deque()
    with ExitStack() as stack:

        def followed() -> bool:
            end = stack.enter_context(node.lab.pods[0].namespace.connect(METADATA_IPV4, timeout=SECONDS))
            assert b"AccessKeyId" in ask(end, f"{PATH}shop-web")
            if says("handed over"):
                return True
            asked.append(end)
            if len(asked) > SEVERAL:
                asked.popleft().close()
            return False

        world.wait("the old agent is followed", followed)
        world.wait("it is told to end", lambda: says("stopping"))
        heard, _, _ = select.select([asked[0]], [], [], SILENT)
        assert not heard, "it was hung up on"
        answer = ask(asked[0], f"{PATH}shop-web")
        assert b"AccessKeyId" in answer
        assert b"connection: close" in answer.lower()
        assert asked[0].recv(1) == b""


def test_another_port(world: World) -> None:
    """Pods are led to the old port until the new agent listens at the new one and the old watch has ended."""
    with Load(world.nodes) as load:
        world.upgrade("--set=config.redirect.port=8282")
        world.wait_rolled_out()

        def led() -> set[str]:
            rules = "\n".join(node.lab.node.shell("nft list table ip metaproxy") for node in world.nodes)
            return set(re.findall(r"dnat to \S+:([0-9]+)", rules))

        wait_until("pods are led to the new port on both nodes", lambda: led() == {"8282"}, SECONDS)
        assert_nothing_failed(load)


def before(steps: list[str], *wanted: str) -> bool:
    """Whether these happened, in this order."""
    places = [steps.index(each) for each in wanted]
    return places == sorted(places)


# ---- what is broken


def has_no_image(pod: Json) -> bool:
    """Its image is not to be had."""
    return any(
        each["state"].get("waiting", {}).get("reason") == "ImagePullBackOff"
        for each in pod["status"].get("containerStatuses", [])
    )


def crashes(pod: Json) -> bool:
    """It has ended twice, and not well."""
    return any(
        each["restartCount"] >= 2 and each["lastState"]["terminated"]["exitCode"] == 2
        for each in pod["status"].get("containerStatuses", [])
    )


def runs_unready(pod: Json) -> bool:
    """It has started, and is not ready."""
    agent = [each for each in pod["status"].get("containerStatuses", []) if each["name"] == "metaproxy"]
    return bool(agent) and agent[0]["started"] and not agent[0]["ready"]


BROKEN = {
    "image": ("image.tag=nowhere", has_no_image, ""),
    # What helm's schema cannot know, and the agent refuses.
    "settings": ("config.role_base_arn=arn:aws-cn:iam::123456789012:role/", crashes, ""),
    # What the agent cannot know: it warms up for ever, as its own identity cannot be had.
    "endpoint": ("config.sts.endpoint_url=http://127.0.0.1:9", runs_unready, "identity"),
    # Nor this, though sessions are asked for as before: that the old pod is who it is proves nothing of the new one.
    "proxy": ("extraEnv[2].name=http_proxy,extraEnv[2].value=http://127.0.0.1:9", runs_unready, "identity"),
}


@pytest.mark.parametrize(("value", "broken", "why"), BROKEN.values(), ids=BROKEN)
def test_a_broken_upgrade_stops_and_a_rollback_heals(
    world: World, value: str, broken: Callable[[Json], bool], why: str
) -> None:
    """The pods of before serve on, all of them; one node alone has a pod of the broken version, until the rollback."""
    old = world.only()
    with Load(world.nodes) as load:
        world.upgrade(f"--set={value}")

        def stuck() -> list[str]:
            return [node for node, pods in world.pods().items() if any(broken(pod) for pod in pods)]

        world.wait("the new version has shown what it is", lambda: bool(stuck()))
        assert len(stuck()) == 1
        for node, pods in world.pods().items():
            assert {each["metadata"]["name"]: ready(each) for each in pods}[old[node]], pods
            assert len(pods) == 1 + (node in stuck())
        if why:
            (name,) = {each["metadata"]["name"] for each in world.pods()[stuck()[0]]} - set(old.values())
            (pod,) = [each.pods[name] for each in world.nodes if name in each.pods]
            done = pod.run("metaproxy", "metaproxy", "health", "--ready")
            assert (done.returncode, why in done.stdout + done.stderr) == (1, True), done

        world.run("rollback")
        world.wait_rolled_out()
        assert world.only() == old
        assert_nothing_failed(load)


def test_without_a_surge_requests_fail(world: World) -> None:
    """What the tests above would see, were the new pod not there before the old one goes."""
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    with Load(world.nodes) as load:
        # Who has no successor waits for nobody's last request here, which would only take time.
        world.upgrade(f"--set-json=updateStrategy={json.dumps(strategy)}", "--set=config.handover.drain=1")
        world.wait_rolled_out()
        assert all(told["failed"] for told in load.told())


# ---- the end


def test_helm_test(world: World) -> None:
    """It succeeds, by a pod in a network of its own that is led to the agent by the redirect of the chart."""
    assert "Succeeded" in world.run("test", "--timeout", f"{SECONDS:.0f}s")


def test_clean_up_and_uninstall(world: World) -> None:
    """The first step takes the redirect off each node, the second the pods, with nobody's help but the controllers'."""
    for node in world.nodes:
        assert OWN_IPV4 in rules(node)
        assert MARK not in answered(node)
    world.upgrade("--set=cleanup=true")
    world.wait_rolled_out()
    for node in world.nodes:
        assert OWN_IPV4 not in rules(node)
        assert METADATA_IPV4 not in rules(node)
        assert MARK in answered(node)

    world.run("uninstall")
    admin, home = world.controlplane.cluster.admin, f"/namespaces/{world.namespace}"

    def left() -> bool:
        history = admin.get(f"/apis/apps/v1{home}/controllerrevisions")["items"]
        return bool(history or any(world.pods().values()))

    world.wait("pods and history are gone", lambda: not left())


def rules(node: PlayedNode) -> str:
    """Everything by which a node may lead packets elsewhere."""
    return node.lab.node.shell("ip rule; ip route; nft list ruleset; ip -br addr show dev mp0")


def answered(node: PlayedNode) -> bytes:
    """What a pod of the node is told at the metadata address."""
    with node.lab.pods[0].namespace.connect(METADATA_IPV4, timeout=SECONDS) as end:
        return ask(end, PATH)

"""The containers' commands as rendered, really run: with their user, capabilities, mounts and environment.

The redirect's in a network namespace; the agent's as the account of a release on the real API server, by the token and
certificate that the kubelet would mount; the probes beside it; the pod of `helm test` in a pod of a lab.
"""

import asyncio
import importlib.util
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from tests.chart.helm import CHART, Helm, only, settings_of
from tests.chart.kubelet import Kubelet
from tests.cluster.harness import Cluster
from tests.cluster.waiting import wait_until
from tests.fakes.agent import ask
from tests.fakes.process import ROLES, own_address, until
from tests.fakes.sts import FakeSts
from tests.network.conftest import PROBES, kernel_lacks
from tests.network.lab.namespaces import Namespace
from tests.network.lab.node import Lab
from tests.network.lab.processes import Process

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("root")]

PATIENCE = 60.0

MINUTES = 600.0
"""Seconds for what an agent does once a minute."""


def folders(tmp_path: Path, settings: str) -> dict[str, Path]:
    """The pod's volumes, as the kubelet makes them: the node's folder is root's, the settings are readable to all."""
    made = {name: tmp_path / f"volume-{name}" for name in ("state", "admin", "redirect", "config", "token")}
    for folder in made.values():
        folder.mkdir(mode=0o755)
    for name in ("admin", "redirect"):
        made[name].chmod(0o777)
    (made["config"] / "config.yaml").write_text(settings)
    lock = tmp_path / "xtables.lock"
    lock.touch()
    return {**made, "xtables-lock": lock}


def kubelet(objects: list[dict[str, Any]], tmp_path: Path, **environment: str) -> Kubelet:
    """A node with the DaemonSet's pod."""
    return Kubelet(
        pod=only(objects, "DaemonSet")["spec"]["template"],
        volumes=folders(tmp_path, settings_of(objects)),
        fields={"spec.nodeName": "node-1"},
        environment=environment,
    )


# ---- the node's folder


def test_the_folder_is_given_to_the_agents_group(helm: Helm, tmp_path: Path) -> None:
    """Without any capability; again when it is there; others stay out."""
    node = kubelet(helm.objects(), tmp_path)
    for _ in range(2):
        done = node.run("folder")
        assert done.returncode == 0, done.stderr
        found = node.volumes["state"].stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 65532, 0o770)
    script = "import pathlib; pathlib.Path('/run/metaproxy/key').touch()"
    agent = node.run("metaproxy", command=["python3", "-c", script])
    assert agent.returncode == 0, agent.stderr
    assert (node.volumes["state"] / "key").stat().st_uid == 65532


def test_another_user_finds_a_folder_of_its_own(helm: Helm, tmp_path: Path) -> None:
    """What the former user left there, which the new one could neither read nor replace, is gone; its own stays."""
    whom = {"securityContext.runAsUser": 1000, "securityContext.runAsGroup": 1000}
    node = kubelet(helm.with_values(whom), tmp_path)
    state = node.volumes["state"]
    for name, user in (("token.key", 65532), ("mine", 1000)):
        (state / name).touch()
        os.chown(state / name, user, user)
    done = node.run("folder")
    assert done.returncode == 0, done.stderr
    assert [each.name for each in state.iterdir()] == ["mine"]
    found = state.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 1000, 0o770)
    agent = node.run("metaproxy", command=["python3", "-c", "open('/run/metaproxy/token.key', 'x')"])
    assert agent.returncode == 0, agent.stderr


GOES = """
import os, sys
real = os.scandir
def scandir(place):
    found = [*real(place)]
    for each in found:
        if each.name == sys.argv[1]:
            os.unlink(each)
    return found
os.scandir = scandir
exec(sys.argv[2])
"""


def test_what_goes_meanwhile_is_gone(helm: Helm, tmp_path: Path) -> None:
    """The former agent ends while the folder is looked through: the pod starts all the same, and the rest is gone."""
    node = kubelet(helm.objects(), tmp_path)
    for name in ("aside", "goes", "left"):
        (node.volumes["state"] / name).touch()
    [*_, script] = node.container("folder")["command"]
    done = node.run("folder", command=["python3", "-c", GOES, "goes", script])
    assert done.returncode == 0, done.stderr
    assert list(node.volumes["state"].iterdir()) == []


PLACES = ["/x", "/etc/x", "/etc/metaproxy/config.yaml", "/usr/x"]
WRITE = """
import sys
for place in sys.argv[1:]:
    try:
        open(place, "a").close()
    except OSError as error:
        print(error)
"""


@pytest.mark.parametrize("container", ["metaproxy", "redirect"])
def test_nothing_else_can_be_written(helm: Helm, tmp_path: Path, container: str) -> None:
    """The agent and the redirect cannot write anywhere but into their volumes: else what follows proved nothing."""
    node = kubelet(helm.objects(), tmp_path)
    done = node.run(container, command=["python3", "-c", WRITE, *PLACES])
    assert done.returncode == 0, done.stderr
    refusals = done.stdout.splitlines()
    assert len(refusals) == len(PLACES), refusals
    # Whoever is not root is stopped by the files' modes already.
    words = ("Read-only file system",) if container == "redirect" else ("Read-only file system", "Permission denied")
    assert all(any(word in line for word in words) for line in refusals), refusals


# ---- the redirect


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A network namespace that stands for a node's, and the device that the redirect is given where there is none."""

    namespace: Namespace
    values: dict[str, Any]


@pytest.fixture
def host() -> Iterator[Host]:
    """A node's network; a bridge where this kernel has no dummy devices."""
    namespace = Namespace("chart")
    try:
        values = {}
        if kernel_lacks("ip link add x type dummy"):
            namespace.shell("ip link add mp0 type bridge; ip link set mp0 up")
            values = {"config.redirect.device": "mp0"}
        yield Host(namespace=namespace, values=values)
    finally:
        namespace.close()


def net(node: Kubelet, namespace: Namespace) -> Kubelet:
    """The same node, in a network namespace."""
    return replace(node, within=tuple(namespace.command()))


@pytest.mark.parametrize("backend", ["auto", "iptables-nft", "iptables-legacy"])
def test_the_redirect_is_applied_watched_and_removed(helm: Helm, tmp_path: Path, host: Host, backend: str) -> None:
    """By the containers of the chart, with the capabilities that it gives them for the backend, and no others."""
    if backend in PROBES and (why := kernel_lacks(PROBES[backend])):
        pytest.skip(f"no {backend} in this kernel: {why}")
    values = {**host.values, "config.redirect.backend": backend}
    node = net(kubelet(helm.with_values(values), tmp_path), host.namespace)

    # A container's own command, and what the operator is told to run beside it.
    assert node.run("redirect-watch", command=["metaproxy", "redirect", "check"]).returncode == 1
    done = node.run("redirect")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "in place" in done.stdout
    assert node.run("redirect-watch", command=["metaproxy", "redirect", "check"]).returncode == 0

    watch = node.start("redirect-watch")
    try:
        watch.wait_for("watching the redirect")
        for each in ("startupProbe", "livenessProbe", "readinessProbe"):
            done = node.probe("redirect-watch", each)
            assert done.returncode == 0, done.stdout + done.stderr
        for family in ("-4", "-6"):
            host.namespace.shell(f"ip {family} rule flush; ip {family} rule add pref 32766 lookup main")
        watch.wait_for("repaired")
        wait_until("it is whole again", lambda: _whole(node), PATIENCE)
    finally:
        watch.end(SIGTERM)
    assert watch.popen.returncode == 0
    assert _whole(node), "stopping removes nothing"

    (tmp_path / "cleanup").mkdir()
    cleanup = net(kubelet(helm.with_values({**values, "cleanup": True}), tmp_path / "cleanup"), host.namespace)
    done = cleanup.run("redirect-remove")
    assert done.returncode == 0, done.stderr
    rules = host.namespace.shell("ip rule; ip -6 rule; ip route; nft list ruleset; ip -br addr")
    assert "169.254.169.254" not in rules
    assert "169.254.170.254" not in rules
    assert "metaproxy" not in rules


def _whole(node: Kubelet) -> bool:
    return node.run("redirect-watch", command=["metaproxy", "redirect", "check"]).returncode == 0


def test_an_upgrade_to_another_port(helm: Helm, tmp_path: Path, host: Host) -> None:
    """The new pod's containers leave the rules where they are until the old watch has ended and the new agent listens.

    Both watches are ready all along, or neither pod would ever go.
    """
    values = {**host.values, "config.redirect.backend": "nftables"}
    old = net(kubelet(helm.with_values(values), tmp_path), host.namespace)
    assert old.run("redirect").returncode == 0
    (tmp_path / "new").mkdir()
    new = net(kubelet(helm.with_values({**values, "config.redirect.port": 8282}), tmp_path / "new"), host.namespace)
    former = Process(host.namespace.command(sys.executable, "-c", LISTEN, "8181"))
    watch = old.start("redirect-watch")
    successor = agent = None
    try:
        former.wait_for("listens")
        watch.wait_for("watching the redirect")
        done = new.run("redirect")
        assert (done.returncode, "a watch is at work" in done.stdout) == (0, True), done
        successor = new.start("redirect-watch")
        successor.wait_for("another watch is at work")
        assert new.probe("redirect-watch", "readinessProbe").returncode == 0
        assert _led_to(host) == {"8181"}
        watch.end(SIGTERM)
        successor.wait_for("pods are led to port 8181 until somebody listens at 8282")
        assert new.probe("redirect-watch", "readinessProbe").returncode == 0
        assert _led_to(host) == {"8181"}
        agent = Process(host.namespace.command(sys.executable, "-c", LISTEN, "8181", "8282"))
        agent.wait_for("listens")
        wait_until("the rules are moved", lambda: _led_to(host) == {"8282"}, PATIENCE)
    finally:
        for each in (former, watch, successor, agent):
            if each is not None:
                each.end(SIGTERM)


LISTEN = """
import signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
held = []
for port in sys.argv[1:]:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("0.0.0.0", int(port)))
    one.listen()
    held.append(one)
print("listens", flush=True)
signal.pause()
"""
"""Stands for agents: an old one at its port, a new one at both."""


def _led_to(host: Host) -> set[str]:
    """The ports to which the node's rules lead."""
    return set(re.findall(r"dnat to \S+:([0-9]+)", host.namespace.shell("nft list ruleset")))


@pytest.mark.parametrize(("missing", "backend"), [("NET_ADMIN", "auto"), ("NET_RAW", "iptables-legacy")])
def test_each_capability_is_needed(helm: Helm, tmp_path: Path, host: Host, missing: str, backend: str) -> None:
    """Without one of them the redirect is not applied, and says which."""
    objects = helm.with_values({**host.values, "config.redirect.backend": backend})
    for container in only(objects, "DaemonSet")["spec"]["template"]["spec"]["initContainers"]:
        if container["name"] == "redirect":
            container["securityContext"]["capabilities"]["add"].remove(missing)
    done = net(kubelet(objects, tmp_path), host.namespace).run("redirect")
    assert done.returncode == 1
    assert f"CAP_{missing}" in done.stderr


# ---- the agent


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A release on the real API server and a node with its pod; the agent has addresses of its own on this machine."""

    cluster: Cluster
    node: Kubelet
    namespace: str
    role: str
    address: str

    @contextmanager
    def agent(self) -> Iterator[Process]:
        """The agent's container, running, until it is told to stop, which it must do well."""
        process = self.node.start("metaproxy")
        try:
            process.wait_for('"listening"')
            yield process
        except BaseException:
            print("\n".join(process.lines))
            process.end(SIGKILL)
            raise
        process.end(SIGTERM)
        assert process.popen.returncode == 0, process.lines

    def ready(self) -> str:
        """What the readiness probe says; empty when it is content."""
        done = self.node.probe("metaproxy", "readinessProbe")
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def without(self, resource: str, verb: str) -> None:
        """Take one verb from the chart's ClusterRole, until the API server knows."""
        path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{self.role}"
        rules = self.cluster.admin.get(path)["rules"]
        for rule in rules:
            if resource in rule["resources"] and verb in rule["verbs"]:
                # The other resources of the rule keep the verb.
                others = [name for name in rule["resources"] if name != resource]
                if others:
                    rules.append({**rule, "resources": others})
                rule["resources"] = [resource]
                rule["verbs"] = [each for each in rule["verbs"] if each != verb]
                break
        else:
            raise AssertionError(f"the chart does not grant {verb} of {resource}")
        self.cluster.admin.merge(path, {"rules": rules})
        wait_until("the API server knows", lambda: not self.may(resource, verb), PATIENCE)

    def may(self, resource: str, verb: str) -> bool:
        """Whether the release's account may."""
        account = f"system:serviceaccount:{self.namespace}:{self.role}"
        group = "events.k8s.io" if resource == "events" else ""
        attributes = {"group": group, "resource": resource, "verb": verb, "namespace": self.namespace}
        review = {"spec": {"user": account, "resourceAttributes": attributes}}
        answer = self.cluster.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])


@pytest.fixture
async def world(helm: Helm, cluster: Cluster, tmp_path: Path) -> Any:
    """Installed by helm; token and certificate where the kubelet puts them."""
    async with FakeSts() as sts:
        yield await asyncio.to_thread(_world, helm, cluster, tmp_path, sts.url)


def _world(helm: Helm, cluster: Cluster, tmp_path: Path, sts: str) -> World:
    namespace = f"ns-{secrets.token_hex(4)}"
    name = f"metaproxy-{namespace}"
    cluster.create_namespace(namespace, {"iam.amazonaws.com/permitted": ".*:role/app-.*"})
    address = own_address()
    values = {
        "admin.listen": f"{address}:9181",
        "server.listen": [f"{address}:8181"],
        "server.accept_direct": True,
        "sts.endpoint_url": sts,
        "sts.region": "us-east-1",
        "role_base_arn": "arn:aws:iam::123456789012:role/",
        "upstream.url": f"http://{address}:9",
    }
    flags = [f"--set-json=config.{key}={json.dumps(value)}" for key, value in values.items()]
    flags += ["--set=config.node.remove_startup_taint=true", "--set=redirect.enabled=false"]
    kubeconfig = cluster.write_kubeconfig(tmp_path / "kubeconfig")
    where = ("--namespace", namespace)
    helm.run("install", name, CHART, *where, *flags, kubeconfig=kubeconfig)
    objects = helm.objects(*flags, release=name, namespace=namespace)
    host, _, port = cluster.url.removeprefix("https://").partition(":")
    node = kubelet(
        objects,
        tmp_path,
        KUBERNETES_SERVICE_HOST=host,
        KUBERNETES_SERVICE_PORT=port,
        AWS_ACCESS_KEY_ID="ASIANODE000000000000",
        AWS_SECRET_ACCESS_KEY="own-secret",
    )
    node = replace(node, fields={"spec.nodeName": f"node-{namespace}"})
    cluster.admin.post(
        "/api/v1/nodes",
        {
            "metadata": {"name": f"node-{namespace}"},
            "spec": {"taints": [{"key": "metaproxy.dev/agent-not-ready", "effect": "NoSchedule"}]},
        },
    )
    token = node.volumes["token"]
    # As the kubelet's: bound to the pod and so to its node, by which the chart's policy knows whose node it is.
    pod = cluster.create_pod(namespace, "agent", node=f"node-{namespace}", spec={"serviceAccountName": name})
    (token / "token").write_text(cluster.mint_token(namespace, name, pod=pod))
    (token / "ca.crt").write_bytes(cluster.ca_file.read_bytes())
    (token / "namespace").write_text(namespace)
    done = node.run("folder")
    assert done.returncode == 0, done.stderr
    made = World(cluster=cluster, node=node, namespace=namespace, role=name, address=address)
    wait_until("the binding has effect", lambda: made.may("nodes", "patch"), PATIENCE)
    return made


async def test_the_agent_runs_with_what_the_chart_gives(world: World) -> None:
    """Ready by its own probes; a pod gets its role, another its refusal and an Event; the taint is off."""
    await asyncio.to_thread(_runs, world)


def _runs(world: World) -> None:
    cluster = world.cluster
    pod = own_address()
    with world.agent():
        for probe in ("startupProbe", "livenessProbe"):
            assert world.node.probe("metaproxy", probe).returncode == 0
        wait_until("it is ready", lambda: not world.ready(), PATIENCE)
        assert (world.node.volumes["state"] / "token.key").stat().st_mode & 0o777 == 0o600
        for name, role in (("a", "app-a"), ("thief", "bank")):
            annotations = {"iam.amazonaws.com/role": role}
            cluster.create_pod(world.namespace, name, node=f"node-{world.namespace}", annotations=annotations)
        cluster.set_pod_status(world.namespace, "a", [pod])

        def explained() -> bool:
            command = ["metaproxy", "explain", "--pod", f"{world.namespace}/a"]
            done = world.node.run("metaproxy", command=command)
            return done.returncode == 0 and "app-a" in done.stdout

        wait_until("the pod has its role", explained, PATIENCE)
        wait_until("an Event", lambda: bool(cluster.list_events(world.namespace)), PATIENCE)
        (event,) = cluster.list_events(world.namespace)
        assert (event["reason"], event["regarding"]["name"]) == ("NotPermitted", "thief")

        def untainted() -> bool:
            taints = cluster.admin.get(f"/api/v1/nodes/node-{world.namespace}")["spec"].get("taints") or []
            return all(taint["key"] != "metaproxy.dev/agent-not-ready" for taint in taints)

        wait_until("the taint is off", untainted, PATIENCE)


async def test_an_upgrade_on_one_node(world: World, tmp_path: Path) -> None:
    """Two pods of the DaemonSet at once, as a surge has them: the new one takes over through the node's folder.

    No request fails, though both want the same addresses; the former ends well.
    """
    pod, url = own_address(), f"http://{world.address}:8181"
    answers: list[tuple[int, bytes]] = []
    await asyncio.to_thread(_annotated, world, pod)
    former = await asyncio.to_thread(world.node.start, "metaproxy")
    second = tmp_path / "second"
    second.mkdir(mode=0o777)
    second.chmod(0o777)
    # The folder of the node is both pods'; that of the admin socket is each pod's own.
    node = replace(world.node, volumes={**world.node.volumes, "admin": second})
    try:
        await asyncio.to_thread(former.wait_for, '"listening"')

        async def told() -> bool:
            return (await ask(url, pod, ROLES))[:2] == (200, b"app-a")

        await until("the pod has its role", told, lambda: "\n".join(former.lines))
        over = asyncio.Event()

        async def asking() -> None:
            while not over.is_set():
                status, body, _ = await ask(url, pod, ROLES)
                answers.append((status, body))

        work = asyncio.create_task(asking())
        successor = await asyncio.to_thread(node.start, "metaproxy")
        try:
            await asyncio.to_thread(_until_ready, node, successor)
            await asyncio.to_thread(former.end, SIGTERM)
            assert former.popen.returncode == 0, former.lines
            seen = len(answers)
            await until("requests after it", lambda: len(answers) > seen + 20, lambda: "\n".join(successor.lines))
            over.set()
            await work
        finally:
            work.cancel()
            await asyncio.to_thread(successor.end, SIGTERM)
    finally:
        await asyncio.to_thread(former.end, SIGKILL)
    assert set(answers) == {(200, b"app-a")}
    assert successor.popen.returncode == 0, successor.lines


def _annotated(world: World, pod: str) -> None:
    annotations = {"iam.amazonaws.com/role": "app-a"}
    node = f"node-{world.namespace}"
    world.cluster.create_pod(world.namespace, "a", node=node, annotations=annotations)
    world.cluster.set_pod_status(world.namespace, "a", [pod])


def _until_ready(node: Kubelet, process: Process) -> None:
    """The process has taken over, and the pod's own probe says that it is ready."""
    process.wait_for('"listening"')
    wait_until("it is ready", lambda: node.probe("metaproxy", "readinessProbe").returncode == 0, PATIENCE)


WITHOUT = [
    ("pods", "list", 'cannot list resource \\"pods\\"'),
    ("pods", "watch", 'cannot watch resource \\"pods\\"'),
    ("namespaces", "list", 'cannot list resource \\"namespaces\\"'),
    ("namespaces", "watch", 'cannot watch resource \\"namespaces\\"'),
    ("nodes", "get", "may the agent get nodes?"),
    ("nodes", "patch", "may the agent patch nodes?"),
    ("events", "create", "lacks create of events"),
]


@pytest.mark.parametrize(("resource", "verb", "named"), WITHOUT, ids=lambda part: str(part)[:10])
async def test_without_one_verb(world: World, resource: str, verb: str, named: str) -> None:
    """Each verb of the chart is needed: without it the agent says which, by name, in its log and to who asks it."""
    await asyncio.to_thread(_lacks, world, resource, verb, named)


def _lacks(world: World, resource: str, verb: str, named: str) -> None:
    world.without(resource, verb)
    annotations = {"iam.amazonaws.com/role": "bank"}
    world.cluster.create_pod(world.namespace, "thief", node=f"node-{world.namespace}", annotations=annotations)
    with world.agent() as agent:
        agent.wait_for(named)
        ready = ["metaproxy", "health", "--ready"]

        def told() -> bool:
            return named.replace("\\", "") in world.node.run("metaproxy", command=ready).stdout

        wait_until("who asks is told", told, PATIENCE)
        unlisted = resource in {"pods", "namespaces"} and verb == "list"
        assert bool(world.ready()) is unlisted


@pytest.mark.timeout(1200)
async def test_an_event_that_repeats(world: World) -> None:
    """It is counted up by a patch, which the release's account may; without the verb the agent says so by its name."""
    await asyncio.to_thread(_repeats, world)


def _repeats(world: World) -> None:
    cluster, role = world.cluster, "iam.amazonaws.com/role"
    node = f"node-{world.namespace}"
    cluster.create_pod(world.namespace, "thief", node=node, annotations={role: "bank"})

    def again() -> None:
        for value in (None, "bank"):
            cluster.patch_pod(world.namespace, "thief", {"annotations": {role: value}})

    def counts() -> list[int]:
        return [(each.get("series") or {}).get("count", 1) for each in cluster.list_events(world.namespace)]

    with world.agent() as agent:
        wait_until("an Event", lambda: counts() == [1], PATIENCE)
        again()
        wait_until("it is counted up", lambda: counts() == [2], MINUTES)
        world.without("events", "patch")
        again()
        agent.wait_for("lacks patch of events in events.k8s.io", seconds=MINUTES)
        assert counts() == [2]


# ---- helm test


@pytest.mark.parametrize(
    ("role", "allowed", "code", "said"),
    [
        ("", True, 0, "NoRole"),
        ("role-bridge", True, 0, "role-bridge"),
        ("role-other", True, 1, "was not told so"),
        ("", False, 1, "is it the node's?"),
    ],
    ids=["none", "own", "other", "no-redirect"],
)
def test_the_pod_of_helm_test(
    helm: Helm, tmp_path: Path, build: Callable[..., Lab], role: str, allowed: bool, code: int, said: str
) -> None:
    """From a pod, behind the redirect of the chart, at the real address: it shows the answer, and tells ours apart."""
    values: dict[str, Any] = {"config.redirect.device": "mp0", "helmTest.role": role}
    objects = helm.with_values(values)
    lab = build(families=(4,), styles=("bridge",))
    if allowed:
        done = net(kubelet(objects, tmp_path), lab.node).run("redirect")
        assert done.returncode == 0, done.stderr
        lab.agent(*([] if role else [_roleless(lab, tmp_path)]))
    (pod,) = [each for each in objects if each["kind"] == "Pod"]
    tester = Kubelet(pod=pod, volumes={}, fields={}, environment={}, within=tuple(lab.pods[0].namespace.command()))
    done = tester.run("ask")
    assert said in done.stdout, done.stdout + done.stderr
    assert done.returncode == code


def _roleless(lab: Lab, tmp_path: Path) -> str:
    """The flag for manifests in which the lab's pod asks for no role."""
    pod = lab.pods[0]
    file = tmp_path / "roleless.yaml"
    file.write_text(
        f"kind: Namespace\nmetadata: {{name: shop}}\n---\nkind: Pod\nmetadata: {{namespace: shop, name: {pod.style}}}\n"
        f"status: {{phase: Running, podIP: '{pod.addresses[4]}', podIPs: [{{ip: '{pod.addresses[4]}'}}]}}\n"
    )
    return f"--source.manifests={file}"


def script() -> Any:
    """The program of the pod of `helm test`, as a module."""
    spec = importlib.util.spec_from_file_location("role_list", CHART / "files" / "role_list.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("answer", "role", "default", "right"),
    [
        ((200, "app"), "arn:aws:iam::123456789012:role/a/app", "", True),
        ((200, "app"), "", "a/app", True),
        ((200, "node"), "", "a/app", False),
        ((200, "node"), "", "", False),
        ((404, '{"code": "NoRole", "message": "x"}'), "", "", True),
        ((403, '{"code": "NamespaceSilent", "message": "x"}'), "", "", False),
        ((403, '{"code": "NamespaceSilent", "message": "x"}'), "", "app", True),
        ((503, '{"code": "CallerUnknown", "message": "x"}'), "", "app", False),
        ((404, "<html>"), "", "", False),
        ((404, "[]"), "", "", False),
        ((0, "refused"), "", "", False),
    ],
)
def test_verdicts_of_helm_test(answer: tuple[int, str], role: str, default: str, *, right: bool) -> None:
    """Whose answer it is, and whether it is the right one, with and without a default role."""
    assert bool(script().verdict(*answer, role, default)) is not right

"""The doctor in the chart's containers: what each sees with its own user, capabilities, mounts and environment.

Each finding is planted, and found by the container whose it is: the node's by the redirect's, the rest by the agent's.
No container has a HOME: not every runtime gives one.
"""

import asyncio
import shlex
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from metaproxy.clusterfacts import NETWORKS
from metaproxy.findings import CHECKS
from metaproxy.pods import ROLE
from metaproxy.trust import trusted
from tests.chart import test_containers as containers
from tests.chart.helm import Helm
from tests.chart.kubelet import Kubelet, as_json
from tests.chart.test_containers import Host, World
from tests.cluster.harness import Cluster
from tests.fakes.sts import FakeSts, Step
from tests.guides import Typed
from tests.network.conftest import PROBES, kernel_lacks

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("root")]

host = containers.host

ACCOUNT = "arn:aws:iam::123456789012:role/"
COMMANDS = {"metaproxy": "metaproxy doctor", "redirect-watch": "metaproxy doctor --node"}
"""What is run in which container."""

OF_THE_NODE = {"clock", "net-raw", "second-networks", "redirect", "leftover-rules", "source-route"}
BY_THE_OTHER = {"redirect", "leftover-rules"}
"""What the agent's container cannot look at."""

LEFT = "-t nat -A PREROUTING -d 169.254.169.254/32 -i cali+ -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8181"
"""What kiam and kube2iam leave behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the doctor said: its exit code, its findings by check, the checks that it did not make."""

    code: int
    found: dict[str, list[dict[str, Any]]]
    not_made: list[str]

    def verdicts(self, *checks: str) -> dict[str, list[str]]:
        """Of these checks."""
        return {check: [each["verdict"] for each in self.found[check]] for check in checks}

    def of(self, check: str, subject: str) -> dict[str, Any]:
        """The one finding of a check that concerns somebody."""
        [finding] = [each for each in self.found[check] if subject in each["subjects"]]
        return finding


def doctor(node: Kubelet, container: str) -> Report:
    """Run it in a container, as exec does."""
    done = node.run(container, command=["env", "-u", "HOME", *COMMANDS[container].split(), "--json"])
    assert not done.stderr
    told = as_json(done)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in told["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    assert (done.returncode == 0) is told["ok"]
    return Report(code=done.returncode, found=found, not_made=told["not_made"])


# ---- the redirect's container


def node_of(helm: Helm, tmp_path: Path, host: Host) -> Kubelet:
    """A node without STS, in a network of its own."""
    return containers.net(containers.kubelet(helm.with_values(host.values), tmp_path), host.namespace)


def test_a_node_where_all_is_well(helm: Helm, tmp_path: Path, host: Host) -> None:
    """Everything but what takes pods or STS is looked at, in the container that the chart has for it."""
    node = node_of(helm, tmp_path, host)
    assert node.run("redirect").returncode == 0
    told = doctor(node, "redirect-watch")
    assert told.code == 0
    assert set(told.found) == OF_THE_NODE
    assert set(told.not_made) == set(CHECKS) - OF_THE_NODE
    assert told.verdicts("redirect", "leftover-rules", "source-route", "net-raw") == {
        "redirect": ["ok"],
        "leftover-rules": ["ok"],
        "source-route": ["ok"],
        "net-raw": ["ok"],
    }
    # Nobody tells of pods here, nor of the time: that is no ok.
    assert told.verdicts("clock", "second-networks") == {"clock": ["not checked"], "second-networks": ["not checked"]}


def test_a_redirect_that_is_missing(helm: Helm, tmp_path: Path, host: Host) -> None:
    """A problem, with exit code 1; the init container's command mends it."""
    node = node_of(helm, tmp_path, host)
    told = doctor(node, "redirect-watch")
    assert (told.code, told.verdicts("redirect")) == (1, {"redirect": ["problem"]})
    assert node.run("redirect").returncode == 0
    assert doctor(node, "redirect-watch").verdicts("redirect") == {"redirect": ["ok"]}


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_a_rule_that_kiam_left(helm: Helm, tmp_path: Path, host: Host, kind: str) -> None:
    """Found with the command that takes it away; of legacy iptables, for want of a capability, that there are some."""
    if why := kernel_lacks(PROBES[f"iptables-{kind}"]):
        pytest.skip(f"no iptables-{kind} in this kernel: {why}")
    host.namespace.shell(f"iptables-{kind} {LEFT}")
    node = node_of(helm, tmp_path, host)
    told = doctor(node, "redirect-watch")
    if kind == "legacy":
        assert told.verdicts("leftover-rules") == {"leftover-rules": ["not checked"]}
        assert "CAP_NET_RAW" in told.found["leftover-rules"][0]["found"]
        return
    [rule] = told.found["leftover-rules"]
    assert (rule["verdict"], told.code) == ("problem", 1)
    done = host.namespace.run(*shlex.split(rule["remedy"].partition("then: ")[2]))
    assert done.returncode == 0, done.stderr
    assert doctor(node, "redirect-watch").verdicts("leftover-rules") == {"leftover-rules": ["ok"]}


def test_packets_that_name_their_own_way(helm: Helm, tmp_path: Path, host: Host) -> None:
    """A warning of both containers: it is the node's network that both are on."""
    host.namespace.shell("sysctl -qw net.ipv4.conf.all.accept_source_route=1 net.ipv4.conf.lo.accept_source_route=1")
    told = doctor(node_of(helm, tmp_path, host), "redirect-watch")
    assert told.of("source-route", "lo")["verdict"] == "warning"


def test_links(helm: Helm, tmp_path: Path, host: Host) -> None:
    """Pods on a bridge are seen, and who says whether they keep NET_RAW; what goes past the node is a warning."""
    host.namespace.shell("ip link add cni0 type bridge; ip link add v1 type veth peer p1; ip link set v1 master cni0")
    made = host.namespace.run("ip", "link", "add", "m1", "link", "cni0", "type", "macvlan")
    told = doctor(node_of(helm, tmp_path, host), "redirect-watch")
    [raw] = told.found["net-raw"]
    assert raw["verdict"] == "not checked"
    assert "cni0" in raw["found"]
    assert "agent's container" in raw["remedy"]
    if made.returncode:
        pytest.skip(f"no macvlan in this kernel: {made.stderr.strip()}")
    assert told.of("second-networks", "macvlan m1 on cni0")["verdict"] == "warning"


# ---- the agent's container


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """A release on the real API server, and an STS that does as told; the pod of a release with the redirect."""

    world: World
    sts: FakeSts
    redirected: Kubelet

    async def doctor(self, container: str = "metaproxy") -> Report:
        """In a container of a release's pod."""
        node = self.world.node if container == "metaproxy" else self.redirected
        return await asyncio.to_thread(doctor, node, container)

    async def pod(self, name: str, role: str, **more: Any) -> str:
        """A pod on the release's node; its name in a report."""
        annotations = {ROLE: role, **more.pop("annotations", {})}
        node = f"node-{self.world.namespace}"
        make = self.world.cluster.create_pod
        await asyncio.to_thread(make, self.world.namespace, name, node=node, annotations=annotations, **more)
        return f"{self.world.namespace}/{name}"


@pytest.fixture
async def hospital(helm: Helm, cluster: Cluster, tmp_path: Path) -> AsyncIterator[Hospital]:
    """With the chart's own rights."""
    (redirected := tmp_path / "redirected").mkdir()
    async with FakeSts() as sts:
        values = {"config.sts.endpoint_url": sts.url, "config.sts.region": "us-east-1"}
        objects = await asyncio.to_thread(helm.with_values, values)
        yield Hospital(
            world=await asyncio.to_thread(containers._world, helm, cluster, tmp_path, sts.url),
            sts=sts,
            redirected=containers.kubelet(objects, redirected),
        )


async def test_what_the_agents_container_sees(hospital: Hospital) -> None:
    """All but the node's rules: of these it says who looks at them, and never ok."""
    subject = await hospital.pod("good", "app-good")
    told = await hospital.doctor()
    assert told.not_made == ["compat"]
    well = ("own-identity", "region", "separate-role", "base-arn", "clock", "api-permissions", "source-route")
    assert told.verdicts(*well) == {check: ["ok"] for check in well}
    for check in BY_THE_OTHER:
        [row] = told.found[check]
        assert row["verdict"] == "not checked"
        assert "metaproxy doctor --node" in row["remedy"]
        assert "redirect-watch" in row["remedy"]
    assert not [each for rows in told.found.values() for each in rows if subject in each["subjects"]]
    assert len(hospital.sts.calls(f"{ACCOUNT}app-good")) == 1
    # The links were looked at, without a tool and without a capability.
    assert all("could not be looked at" not in each["found"] for each in told.found["net-raw"])


@pytest.mark.runs("docs/doctor.md", "kubectl exec …")
async def test_what_is_wrong_is_found(hospital: Hospital, typed: Typed) -> None:
    """Each with its remedy; where a statement is missing, with the statement."""
    assert typed.each() == [f"kubectl exec POD -c {where} -- {command}" for where, command in COMMANDS.items()]
    sts, refused, short = hospital.sts, f"{ACCOUNT}app-refused", f"{ACCOUNT}app-short"
    sts.settings[refused] = Step(code="AccessDenied", message="is not authorized", status=403)
    words = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
    sts.settings[short] = Step(code="ValidationError", message=words, status=400)
    sts.settings["GetCallerIdentity"] = Step(date=formatdate(time.time() - 400, usegmt=True))
    planted = {
        "roles": await hospital.pod("refused", "app-refused"),
        "session-duration": await hospital.pod("short", "app-short"),
        "namespace-policy": await hospital.pod("thief", "bank"),
        "annotations": await hospital.pod("odd", "a b"),
        "host-network": await hospital.pod("host", "app-host", spec={"hostNetwork": True}),
        "second-networks": await hospital.pod("multus", "app-good", annotations={NETWORKS: "lan"}),
    }
    told = await hospital.doctor()
    assert told.code == 1
    found = {check: told.of(check, subject) for check, subject in planted.items()}
    assert {check: each["verdict"] for check, each in found.items()} == {
        "roles": "problem",
        "session-duration": "problem",
        "namespace-policy": "problem",
        "annotations": "problem",
        "host-network": "warning",
        "second-networks": "warning",
    }
    assert all(each["remedy"] for each in found.values())
    assert trusted(found["roles"]["document"], principal=f"{ACCOUNT}node")
    assert "max-session-duration 3600" in found["session-duration"]["remedy"]
    assert told.verdicts("clock") == {"clock": ["problem"]}
    # The same clock, by the container that has no identity.
    sts.settings["GetCallerIdentity"] = Step(
        code="InvalidClientTokenId", status=403, date=formatdate(time.time() - 400, usegmt=True)
    )
    asked = len(sts.asked)
    told = await hospital.doctor("redirect-watch")
    assert told.verdicts("clock") == {"clock": ["problem"]}
    assert len(sts.asked) == asked + 1


async def test_a_right_that_is_missing(hospital: Hospital) -> None:
    """By name, as the rule that a ClusterRole lacks."""
    await asyncio.to_thread(hospital.world.without, "pods", "watch")
    told = await hospital.doctor()
    [row] = told.found["api-permissions"]
    assert (row["verdict"], told.code) == ("problem", 1)
    assert row["document"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]}]


async def test_the_table_says_the_same(hospital: Hospital) -> None:
    """As the operator reads it; bad usage is exit code 2."""
    run = hospital.world.node.run
    command = ["env", "-u", "HOME", "metaproxy", "doctor"]
    done = await asyncio.to_thread(run, "metaproxy", command=command)
    assert done.returncode in {0, 1}
    lines = done.stdout.splitlines()
    assert any(line.startswith("not checked") and " redirect " in line for line in lines)
    assert any("metaproxy doctor --node" in line for line in lines)
    done = await asyncio.to_thread(run, "metaproxy", command=[*command, "--nod"])
    assert (done.returncode, done.stdout) == (2, "")

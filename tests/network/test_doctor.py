"""The doctor on a node with leftovers of others: what it finds goes when its own remedies are run."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.network.conftest import PROBES, kernel_lacks
from tests.network.lab.namespaces import Namespace

LEFT = "-t nat -A PREROUTING -d 169.254.169.254 -i cali+ -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8181"
"""What kiam and kube2iam add (`--iptables`, `--host-interface`)."""

LEFT6 = LEFT.replace("169.254.169.254", "fd00:ec2::254").replace("10.0.0.1", "[fd00::1]")

OTHERS = """
nft -f - <<'END'
table inet mesh { chain out { type nat hook prerouting priority -150
ip daddr 169.254.169.254 tcp dport 80 dnat ip to 10.0.0.1:15001
}
}
END
"""

WIRE = """
ip link add mp0 type bridge; ip link set mp0 up
ip link add cni0 type bridge
ip link add v1 type veth peer name p1; ip link set v1 master cni0
ip link add v2 type veth peer name p2; ip link set v2 master cni0
"""

PODS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}, "spec": {}},
]


@pytest.fixture
def node() -> Iterator[Namespace]:
    """A network namespace with a device for the addresses, and a bridge with two pods' ends."""
    namespace = Namespace("doctor")
    try:
        namespace.shell(WIRE)
        yield namespace
    finally:
        namespace.close()


class Doctor:
    """The doctor on that node, with pods from a file, or of the node alone."""

    def __init__(self, node: Namespace, folder: Path, *words: str) -> None:
        self._node, self._folder, self._words = node, folder, words
        (folder / "pods.yaml").write_text(yaml.safe_dump_all(PODS))

    def __call__(self, *before: str) -> dict[str, list[dict[str, Any]]]:
        """What it finds, by check; `before` goes before the command."""
        done = self._node.run(
            *(*before, sys.executable, "-m", "metaproxy", "doctor", *self._words, "--json", "--redirect.device=mp0"),
            *(f"--source.manifests={self._folder}", "--sts.region=us-east-1", "--sts.endpoint-url=http://127.0.0.1:9"),
            "--upstream.url=http://127.0.0.1:9",
            environment={"AWS_EC2_METADATA_DISABLED": "true"},
        )
        assert done.returncode in {0, 1}, done.stderr
        found: dict[str, list[dict[str, Any]]] = {}
        for finding in json.loads(done.stdout)["findings"]:
            found.setdefault(finding["check"], []).append(finding)
        return found


@pytest.fixture(params=[[], ["--node"]], ids=["whole", "node"])
def doctor(node: Namespace, tmp_path: Path, request: pytest.FixtureRequest) -> Doctor:
    """On the node, with a pod of which its containers are not known; or with nothing but the node."""
    return Doctor(node, tmp_path, *request.param)


def command_in(remedy: str) -> list[str]:
    """What the remedy says to run."""
    return shlex.split(remedy.partition("then: ")[2])


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_leftovers_of_kiam_and_kube2iam(node: Namespace, doctor: Doctor, kind: str) -> None:
    """Each rule is found once, with what takes it away; our own redirect is none of them."""
    if why := kernel_lacks(PROBES[f"iptables-{kind}"]):
        pytest.skip(f"no iptables-{kind} in this kernel: {why}")
    node.shell(f"iptables-{kind} {LEFT}; ip6tables-{kind} {LEFT6}")
    applied = node.run(sys.executable, "-m", "metaproxy", "redirect", "apply", "--redirect.device=mp0")
    assert applied.returncode == 0, applied.stderr
    rules = doctor()["leftover-rules"]
    assert [rule["verdict"] for rule in rules] == ["problem", "problem"]
    assert {command_in(rule["remedy"])[0] for rule in rules} == {f"iptables-{kind}", f"ip6tables-{kind}"}
    for rule in rules:
        assert node.run(*command_in(rule["remedy"])).returncode == 0
    found = doctor()
    assert [rule["verdict"] for rule in found["leftover-rules"]] == ["ok"]
    assert [each["verdict"] for each in found["redirect"]] == ["ok"]


@pytest.mark.parametrize("left", [False, True])
def test_legacy_rules_that_cannot_be_read(node: Namespace, doctor: Doctor, left: bool) -> None:
    """It takes a capability that the redirect has not: that there are none is known without, what they are is not."""
    if why := kernel_lacks(PROBES["iptables-legacy"]):
        pytest.skip(f"no iptables-legacy in this kernel: {why}")
    if left:
        node.shell(f"iptables-legacy {LEFT}")
    [found] = doctor("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", "--")["leftover-rules"]
    assert found["verdict"] == ("not checked" if left else "ok")
    assert ("CAP_NET_RAW" in found["found"]) is left


def test_rules_of_others(node: Namespace, doctor: Doctor) -> None:
    """In tables that only nft knows."""
    node.shell(OTHERS)
    [rule] = doctor()["leftover-rules"]
    assert rule["verdict"] == "problem"
    assert "inet mesh out: ip daddr 169.254.169.254 tcp dport 80 dnat ip to 10.0.0.1:15001" in rule["found"]


def test_the_redirect_and_the_links(node: Namespace, doctor: Doctor) -> None:
    """Not in place, then in place; pods' ends on the bridge are seen."""
    found = doctor()
    assert [each["verdict"] for each in found["redirect"]] == ["problem"]
    assert any("guard" in text for text in found["redirect"][0]["subjects"])
    # There is a bridge with pods, and what their containers may is not known of manifests.
    assert [each["verdict"] for each in found["net-raw"]] == ["not checked"]
    assert [each["verdict"] for each in found["leftover-rules"]] == ["ok"]
    node.run(sys.executable, "-m", "metaproxy", "redirect", "apply", "--redirect.device=mp0")
    node.shell("ip link del cni0")
    found = doctor()
    assert [each["verdict"] for each in found["redirect"]] == ["ok"]
    assert [each["verdict"] for each in found["net-raw"]] == ["ok"]


def test_source_routes(node: Namespace, doctor: Doctor) -> None:
    """The remedy is what closes them."""
    node.shell("sysctl -qw net.ipv4.conf.all.accept_source_route=1 net.ipv4.conf.mp0.accept_source_route=1")
    [found] = doctor()["source-route"]
    assert found["verdict"] == "warning"
    assert "mp0" in found["subjects"]
    node.shell(found["remedy"])
    assert [each["verdict"] for each in doctor()["source-route"]] == ["ok"]


def test_macvlan(node: Namespace, doctor: Doctor) -> None:
    """A link that goes past the node's hooks is named."""
    done = node.run("ip", "link", "add", "m1", "link", "mp0", "type", "macvlan")
    if done.returncode:
        pytest.skip(f"no macvlan in this kernel: {done.stderr.strip()}")
    found = [each for each in doctor()["second-networks"] if each["verdict"] == "warning"]
    assert [each["subjects"] for each in found] == [["macvlan m1 on mp0"]]


def test_without_the_capability(doctor: Doctor) -> None:
    """What could not be looked at is not taken for good."""
    found = doctor("setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw", "--")
    assert [each["verdict"] for each in found["redirect"]] == ["not checked"]
    assert "CAP_NET_ADMIN" in found["redirect"][0]["found"]
    assert [each["verdict"] for each in found["leftover-rules"]] == ["not checked"]


@pytest.mark.parametrize(
    ("tools", "redirect", "leftovers"),
    [
        ("", "ip is not installed", "neither nft nor iptables is installed"),
        (
            "ip nft ip6tables-legacy-save",
            "out of order",
            "ip6tables-legacy-save: out of order; nft list ruleset: out of",
        ),
    ],
    ids=["missing", "broken"],
)
def test_without_tools(doctor: Doctor, tmp_path: Path, tools: str, redirect: str, leftovers: str) -> None:
    """Each that fails is named with what it says; nothing is taken for good."""
    (tmp_path / "bin").mkdir()
    for tool in tools.split():
        path = tmp_path / "bin" / tool
        path.write_text("#!/bin/sh\necho out of order >&2; exit 1\n")
        path.chmod(0o755)
    found = doctor("env", f"PATH={tmp_path / 'bin'}")
    for check, words in (("redirect", redirect), ("leftover-rules", leftovers)):
        [each] = found[check]
        assert each["verdict"] == "not checked"
        assert words in each["found"]

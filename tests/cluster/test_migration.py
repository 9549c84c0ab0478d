"""The migration guides' other commands: ours as they stand, kubectl's as their calls to a real API server."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaproxy.caller import ALLOWED_ROLES, PERMITTED, ROLE
from metaproxy.migration import Peer
from metaproxy.settings import Settings
from tests.cluster.harness import Cluster
from tests.fakes.sts import NODE_KEY

pytestmark = pytest.mark.timeout(300)

DOCS = Path(__file__).parents[2] / "docs"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
ACCOUNT = "arn:aws:iam::123456789012:role/"
PEERS: tuple[tuple[Peer, str, str], ...] = (("kiam", "kiam-agent", PERMITTED), ("kube2iam", "kube2iam", ALLOWED_ROLES))
"""The peer, its DaemonSet, the annotation that its guide corrects."""


def blocks(peer: str) -> list[list[str]]:
    """The guide's commands, block by block; those for a node are run in another suite."""
    guide = (DOCS / f"migrate-from-{peer}.md").read_text()
    found = re.findall(r"^```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert len(found) + guide.count("```sh node\n") == guide.count("```sh")
    return [block.splitlines() for block in found]


class Desk:
    """Where somebody types: a home with a kubeconfig, and the cluster."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.cluster, self.home = cluster, home
        (home / ".kube").mkdir()
        cluster.write_kubeconfig(home / ".kube" / "config", cluster.admin_token)

    def type(self, line: str) -> str:
        """Run a command; what it printed."""
        words = shlex.split(line)
        if words[0] == "kubectl":
            getattr(self, f"_{self._verb(words)}")(words)
            return ""
        assert words[0] == "metaproxy"
        done = subprocess.run(
            ["bash", "-c", line.replace("metaproxy", f"{sys.executable} -m metaproxy", 1)],
            cwd=self.home,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": str(DOCS.parent),
                "HOME": str(self.home),
                "AWS_ACCESS_KEY_ID": NODE_KEY,
                "AWS_SECRET_ACCESS_KEY": "s",
                # Nobody at Amazon is asked by a test.
                "METAPROXY_STS__ENDPOINT_URL": "http://127.0.0.1:9",
                "METAPROXY_STS__REGION": "us-east-1",
                "METAPROXY_UPSTREAM__URL": "http://127.0.0.1:9",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        # With no STS there is a problem to tell of.
        assert done.returncode in ({0, 1} if words[1] == "doctor" else {0}), done.stderr
        return done.stdout

    @staticmethod
    def _verb(words: list[str]) -> str:
        return next(word for word in words if word in {"label", "patch", "annotate", "delete"})

    def _label(self, words: list[str]) -> None:
        selector = {"labelSelector": words[words.index("-l") + 1]} if "-l" in words else {}
        assert selector or "--all" in words
        key, _, value = next(word for word in words if word.startswith("metadata-agent=")).partition("=")
        for node in self.cluster.admin.get("/api/v1/nodes", query=selector)["items"]:
            labels = node["metadata"].get("labels", {})
            assert key not in labels or "--overwrite" in words
            self.cluster.admin.merge(
                f"/api/v1/nodes/{node['metadata']['name']}", {"metadata": {"labels": {key: value}}}
            )

    def _patch(self, words: list[str]) -> None:
        space, at = words[words.index("--namespace") + 1], words.index("patch")
        assert words[at + 1] == "daemonset"
        path = f"/apis/apps/v1/namespaces/{space}/daemonsets/{words[at + 2]}"
        patch = yaml.safe_load(words[words.index("--patch") + 1])
        self.cluster.admin.call("PATCH", path, patch, content_type=STRATEGIC_PATCH)

    def _annotate(self, words: list[str]) -> None:
        at = words.index("annotate")
        assert words[at + 1] == "namespace"
        key, _, value = words[at + 3].partition("=")
        self.cluster.annotate_namespace(words[at + 2], {key: value})

    def _delete(self, words: list[str]) -> None:
        assert words[words.index("delete") + 1] == "pods"
        query = {"labelSelector": words[words.index("-l") + 1]}
        query["fieldSelector"] = words[words.index("--field-selector") + 1]
        space = words[words.index("--namespace") + 1]
        self.cluster.admin.call("DELETE", f"/api/v1/namespaces/{space}/pods", {"gracePeriodSeconds": 0}, query=query)


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path) -> Iterator[Desk]:
    """With two nodes, of which one is in the canary pool, and a namespace to correct."""
    nodes = {"node-1": {"pool": "canary"}, "node-2": {}}
    for name, labels in nodes.items():
        node: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        cluster.admin.post("/api/v1/nodes", node)
    cluster.create_namespace("shop")
    cluster.create_pod("shop", "web", node="node-1", annotations={ROLE: "shop-web"})
    cluster.create_service_account("kube-system", "default")
    try:
        yield Desk(cluster, tmp_path)
    finally:
        cluster.delete_namespace("shop")
        cluster.admin.delete("/api/v1/namespaces/kube-system/serviceaccounts/default")
        for name in nodes:
            cluster.admin.delete(f"/api/v1/nodes/{name}")


def daemonset(name: str) -> dict[str, Any]:
    """The peer's, as far as it matters where it runs."""
    labels = {"app": name.partition("-")[0], "component": "agent"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "agent", "image": "none"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": labels}, "updateStrategy": {"type": "OnDelete"}, "template": template},
    }


@pytest.mark.parametrize(("peer", "name", "annotation"), PEERS)
def test_the_guide(desk: Desk, peer: Peer, name: str, annotation: str) -> None:
    """From the flags to the last step back, in order."""
    translate, compare, part, forward, back = blocks(peer)
    admin, path = desk.cluster.admin, f"/apis/apps/v1/namespaces/kube-system/daemonsets/{name}"
    admin.post(path.rpartition("/")[0], daemonset(name))
    labels = daemonset(name)["spec"]["selector"]["matchLabels"]
    for node in ("node-1", "node-2"):
        desk.cluster.create_pod("kube-system", f"{name}-{node}", node=node, metadata={"labels": labels})

    def whose() -> dict[str, str]:
        items = [admin.get(f"/api/v1/nodes/{node}")["metadata"] for node in ("node-1", "node-2")]
        return {item["name"]: item["labels"].get("metadata-agent", "") for item in items}

    try:
        [line] = translate
        desk.type(line)
        written = yaml.safe_load((desk.home / "metaproxy.yaml").read_text())
        assert written["role_base_arn"] == ACCOUNT
        given = written | {"node_name": "node-1", "source": {"kubeconfig": str(desk.home / ".kube/config")}}
        assert Settings(**given).policy.namespace_policy == ("required" if peer == "kiam" else "optional")

        doctor, correct = compare
        table = desk.type(doctor)
        row = next(line for line in table.splitlines() if " compat " in line)
        # kiam gives nothing in a namespace that permits nothing, and so do we; kube2iam asks none, nor do we.
        assert row.startswith("ok "), table
        desk.type(correct)
        permitted = admin.get("/api/v1/namespaces/shop")["metadata"]["annotations"][annotation]
        assert "shop-web" in permitted
        assert " compat " in desk.type(doctor)

        for line in part:
            desk.type(line)
        assert whose() == {"node-1": peer, "node-2": peer}
        assert admin.get(path)["spec"]["template"]["spec"]["nodeSelector"] == {"metadata-agent": peer}
        assert len(admin.get(path)["spec"]["template"]["spec"]["containers"]) == 1

        for line in forward:
            desk.type(line)
        assert whose() == {"node-1": "metaproxy", "node-2": peer}
        left = admin.get("/api/v1/namespaces/kube-system/pods")["items"]
        assert [pod["spec"]["nodeName"] for pod in left] == ["node-2"]

        [line] = back
        desk.type(line)
        assert whose() == {"node-1": peer, "node-2": peer}
    finally:
        admin.delete(path)
        for node in ("node-1", "node-2"):
            pod = f"/api/v1/namespaces/kube-system/pods/{name}-{node}"
            admin.request("DELETE", pod, {"gracePeriodSeconds": 0})

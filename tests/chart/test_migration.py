"""The migration guides' commands at a desk, as they stand, with kubectl on a real API server."""

from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
import yaml

from metaproxy.migration import Peer
from metaproxy.pods import ALLOWED_ROLES, PERMITTED, ROLE
from metaproxy.settings import Settings
from tests.chart.build import Tools
from tests.cluster.harness import Cluster
from tests.cluster.waiting import wait_until
from tests.fakes.desk import Desk
from tests.fakes.sts import NODE_KEY
from tests.guides import Typed

pytestmark = pytest.mark.timeout(300)

ACCOUNT = "arn:aws:iam::123456789012:role/"
EFFECT_SECONDS = 60.0


@pytest.fixture
def desk(cluster: Cluster, tools: Tools, tmp_path: Path) -> Iterator[Desk]:
    """With two nodes, one of them in the canary pool, and a namespace to correct; nothing of other tests is left."""
    for pod in cluster.admin.get("/api/v1/pods")["items"]:
        about = pod["metadata"]
        path = f"/api/v1/namespaces/{about['namespace']}/pods/{about['name']}"
        cluster.admin.request("DELETE", path, {"gracePeriodSeconds": 0})
    for other in cluster.admin.get("/api/v1/nodes")["items"]:
        cluster.admin.delete(f"/api/v1/nodes/{other['metadata']['name']}")
    nodes = {"node-1": {"pool": "canary"}, "node-2": {}}
    for name, labels in nodes.items():
        node: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        cluster.admin.post("/api/v1/nodes", node)
    cluster.create_namespace("shop")
    cluster.create_pod("shop", "web", node="node-1", annotations={ROLE: "shop-web"})
    cluster.create_service_account("kube-system", "default")
    try:
        (tmp_path / ".kube").mkdir()
        cluster.write_kubeconfig(tmp_path / ".kube" / "config")
        yield Desk(
            tmp_path,
            {"kubectl": f"{tools.kubectl} kubectl"},
            AWS_ACCESS_KEY_ID=NODE_KEY,
            AWS_SECRET_ACCESS_KEY="s",
            # Nobody at Amazon is asked by a test.
            METAPROXY_STS__ENDPOINT_URL="http://127.0.0.1:9",
            METAPROXY_STS__REGION="us-east-1",
            METAPROXY_UPSTREAM__URL="http://127.0.0.1:9",
        )
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


@pytest.mark.parametrize(
    ("peer", "name", "annotation"),
    [
        pytest.param(
            "kiam",
            "kiam-agent",
            PERMITTED,
            marks=pytest.mark.runs(
                "docs/migrate-from-kiam.md", "metaproxy config …", "metaproxy doctor --config …", "kubectl …"
            ),
        ),
        pytest.param(
            "kube2iam",
            "kube2iam",
            ALLOWED_ROLES,
            marks=pytest.mark.runs(
                "docs/migrate-from-kube2iam.md", "metaproxy config …", "metaproxy doctor --config …", "kubectl …"
            ),
        ),
    ],
)
def test_the_guide(cluster: Cluster, desk: Desk, typed: Typed, peer: Peer, name: str, annotation: str) -> None:
    """From the flags to the last step back, in order."""
    admin, path = cluster.admin, f"/apis/apps/v1/namespaces/kube-system/daemonsets/{name}"
    correct, label, patch, forward, delete, back = typed.each("kubectl …")
    admin.post(path.rpartition("/")[0], daemonset(name))
    labels = daemonset(name)["spec"]["selector"]["matchLabels"]
    for node in ("node-1", "node-2"):
        cluster.create_pod("kube-system", f"{name}-{node}", node=node, metadata={"labels": labels})

    def whose() -> dict[str, str]:
        items = [admin.get(f"/api/v1/nodes/{node}")["metadata"] for node in ("node-1", "node-2")]
        return {item["name"]: item["labels"].get("metadata-agent", "") for item in items}

    try:
        desk.type(typed("metaproxy config …"))
        written = yaml.safe_load((desk.folder / "metaproxy.yaml").read_text())
        assert written["role_base_arn"] == ACCOUNT
        given = written | {"node_name": "node-1", "source": {"kubeconfig": str(desk.folder / ".kube/config")}}
        assert Settings(**given).policy.namespace_policy == ("required" if peer == "kiam" else "optional")

        # With no STS there is a problem to tell of.
        doctor = typed("metaproxy doctor --config …")
        table = desk.type(doctor, 0, 1)
        row = next(line for line in table.splitlines() if " compat " in line)
        # kiam gives nothing in a namespace that permits nothing, and so do we; kube2iam asks none, nor do we.
        assert row.startswith("ok "), table
        desk.type(correct)
        permitted = admin.get("/api/v1/namespaces/shop")["metadata"]["annotations"][annotation]
        assert "shop-web" in permitted
        assert " compat " in desk.type(doctor, 0, 1)

        desk.type(label)
        assert whose() == {"node-1": peer, "node-2": peer}
        desk.type(patch)
        assert admin.get(path)["spec"]["template"]["spec"]["nodeSelector"] == {"metadata-agent": peer}
        assert len(admin.get(path)["spec"]["template"]["spec"]["containers"]) == 1

        desk.type(forward)
        assert whose() == {"node-1": "metaproxy", "node-2": peer}
        under_way = desk.start(delete)
        # No kubelet ends it: it is only told to.
        pod = f"/api/v1/namespaces/kube-system/pods/{name}-node-1"
        wait_until("it is told to end", lambda: "deletionTimestamp" in admin.get(pod)["metadata"], EFFECT_SECONDS)
        admin.request("DELETE", pod, {"gracePeriodSeconds": 0})
        assert under_way.popen.wait(EFFECT_SECONDS) == 0
        under_way.end(SIGKILL)
        left = admin.get("/api/v1/namespaces/kube-system/pods")["items"]
        assert [pod["spec"]["nodeName"] for pod in left] == ["node-2"]

        desk.type(back)
        assert whose() == {"node-1": peer, "node-2": peer}
    finally:
        admin.delete(path)
        for node in ("node-1", "node-2"):
            pod = f"/api/v1/namespaces/kube-system/pods/{name}-{node}"
            admin.request("DELETE", pod, {"gracePeriodSeconds": 0})

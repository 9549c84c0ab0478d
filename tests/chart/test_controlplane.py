"""The control plane of the rollout's tests is one: what it is asked to do happens with nobody's help."""

import secrets

import pytest

from tests.chart.controlplane.plane import EFFECT_SECONDS, ControlPlane
from tests.cluster.api import Json
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


def test_a_daemon_set_comes_and_goes(controlplane: ControlPlane) -> None:
    """Its pod is made by the controller and bound by the scheduler; both it and the history go with their owner."""
    name, node = f"ns-{secrets.token_hex(4)}", f"node-{secrets.token_hex(4)}"
    admin = controlplane.cluster.admin
    admin.post("/api/v1/nodes", {"metadata": {"name": node, "labels": {"only": node}}})
    room = {"cpu": "1", "memory": "1Gi", "pods": "10"}
    admin.merge(f"/api/v1/nodes/{node}/status", {"status": {"capacity": room, "allocatable": room}})
    controlplane.create_namespace(name)
    home = f"/apis/apps/v1/namespaces/{name}"
    spec: Json = {
        "nodeSelector": {"only": node},
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "none"}],
    }
    template = {"metadata": {"labels": {"app": "a"}}, "spec": spec}
    daemon_set = {"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}}
    admin.post(f"{home}/daemonsets", daemon_set)

    def bound() -> bool:
        return [pod["spec"].get("nodeName") for pod in controlplane.pods(name)] == [node]

    wait_until("a pod is bound to the node", bound, EFFECT_SECONDS)
    assert not controlplane.rolled_out(name, "a")
    assert len(admin.get(f"{home}/controllerrevisions")["items"]) == 1

    admin.delete(f"{home}/daemonsets/a", {"propagationPolicy": "Background"})

    def gone() -> bool:
        return not controlplane.pods(name) and not admin.get(f"{home}/controllerrevisions")["items"]

    wait_until("everything of it is gone", gone, EFFECT_SECONDS)
    admin.delete(f"/api/v1/nodes/{node}")

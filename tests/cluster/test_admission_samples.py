"""The admission policies of docs/security.md, given to a real API server as they stand there."""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.api import MERGE_PATCH, Api, ApiFailure
from tests.cluster.harness import Cluster
from tests.cluster.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
PATHS = {
    "ValidatingAdmissionPolicy": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}
EFFECT_SECONDS = 30.0
"""The API server looks for new policies about every second."""

ROLE = "iam.amazonaws.com/role"
DROPPED: dict[str, Any] = {"capabilities": {"drop": ["NET_RAW"]}}


def pod(name: str, *, security: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A pod that the policy admits, but for what is given."""
    container = {"name": "c", "image": "i", "securityContext": DROPPED if security is None else security}
    annotations = {ROLE: "web", **more.pop("annotations", {})}
    return {"metadata": {"name": name, "annotations": annotations}, "spec": {"containers": [container], **more}}


@pytest.fixture
def samples(cluster: Cluster) -> Iterator[Api]:
    """The policies are in force; taken away afterwards, the cluster is everybody's."""
    admin, made = cluster.admin, []
    try:
        for block in re.findall(r"```yaml\n(.+?)```", PAGE.read_text(), re.DOTALL):
            for document in yaml.safe_load_all(block):
                path = PATHS[document["kind"]]
                admin.post(path, document)
                made.append(f"{path}/{document['metadata']['name']}")
        assert len(made) == 6
        yield admin
    finally:
        for path in made:
            admin.delete(path)


def refused(api: Api, path: str, document: dict[str, Any]) -> str:
    """The reason for which it is not admitted; empty when it is."""
    try:
        api.post(path, document)
    except ApiFailure as error:
        return str(error)
    return ""


def test_pods(samples: Api, cluster: Cluster, namespace: str) -> None:
    """Each thing that opens a way is refused with its reason; an ordinary pod is admitted."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    dry = f"{path}?dryRun=All"
    host = pod("host", hostNetwork=True)
    wait_until("the policy has effect", lambda: "the node's role" in refused(samples, dry, host), EFFECT_SECONDS)
    # Privileged containers are not among them: this API server forbids them by itself, before any policy.
    bare = {"name": "b", "image": "i"}
    for odd, reason in (
        (pod("socket", volumes=[{"name": "v", "hostPath": {"path": "/run"}}]), "container runtime"),
        (pod("raw", security={}), "drop NET_RAW"),
        (pod("added", security={"capabilities": {"drop": ["ALL"], "add": ["net_raw"]}}), "drop NET_RAW"),
        (pod("init", initContainers=[bare]), "init containers must drop NET_RAW"),
        (pod("processes", hostPID=True), "among the host's processes"),
        (pod("memory", hostIPC=True), "among the host's processes"),
        (pod("multus", annotations={"k8s.v1.cni.cncf.io/networks": "macvlan"}), "pass the node by"),
    ):
        assert reason in refused(samples, dry, odd)
    assert refused(samples, path, pod("good")) == ""
    with pytest.raises(ApiFailure, match="keeps the role"):
        samples.merge(f"{path}/good", {"metadata": {"annotations": {ROLE: "bank"}}})
    samples.merge(f"{path}/good", {"metadata": {"annotations": {"other": "mark"}}})


def test_namespaces(samples: Api, cluster: Cluster) -> None:
    """Who may edit namespaces and not grant may change anything but what the namespace permits; who may grant may."""
    cluster.create_service_account("default", "editor")
    rule = {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["create", "get", "patch"]}
    cluster.grant("default", "editor", [rule], name="sample-editor")
    editor = cluster.api(cluster.mint_token("default", "editor"))
    marked = {"metadata": {"name": "sample", "annotations": {"iam.amazonaws.com/permitted": ".*"}}}
    dry = "/api/v1/namespaces?dryRun=All"
    wait_until("the policy has effect", lambda: "the platform's word" in refused(editor, dry, marked), EFFECT_SECONDS)
    assert refused(editor, dry, {"metadata": {"name": "sample"}}) == ""
    trusted = {"metadata": {"name": "sample", "labels": {"metaproxy.dev/trusted": ""}}}
    assert "the platform's word" in refused(editor, dry, trusted)
    grant = {"apiGroups": ["metaproxy.dev"], "resources": ["namespaceroles"], "verbs": ["grant"]}
    cluster.grant("default", "editor", [grant], name="sample-granter")
    assert refused(editor, dry, marked) == ""
    assert refused(editor, dry, trusted) == ""


OURS = {"key": "metaproxy.dev/agent-not-ready", "effect": "NoSchedule"}
OTHERS = {"key": "example.com/others", "effect": "NoSchedule"}
NODE_CLAIM = "no node but its own"


def test_nodes(samples: Api, cluster: Cluster) -> None:
    """With the chart's right to patch nodes an agent takes its own taint off its own node, and can do nothing else."""
    namespace = "metaproxy"
    cluster.create_namespace(namespace)
    made = [f"node-{name}-{secrets.token_hex(4)}" for name in ("mine", "theirs")]
    try:
        for account in ("metaproxy", "janitor"):
            cluster.create_service_account(namespace, account)
            rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}
            cluster.grant(namespace, account, [rule], name=f"sample-{account}")
        for name in made:
            spec = {"taints": [OURS, OTHERS]}
            cluster.admin.post("/api/v1/nodes", {"metadata": {"name": name, "labels": {"a": "b"}}, "spec": spec})
        mine, theirs = (f"/api/v1/nodes/{name}" for name in made)
        its = pod("agent", nodeName=made[0], serviceAccountName="metaproxy")
        bound = samples.post(f"/api/v1/namespaces/{namespace}/pods", its)
        agent = cluster.api(cluster.mint_token(namespace, "metaproxy", pod=bound))
        off = {"spec": {"taints": taints_of(samples, mine, without=OURS)}}

        def refusal(api: Api, path: str, change: dict[str, Any]) -> str:
            answer = api.request("PATCH", f"{path}?dryRun=All", change, content_type=MERGE_PATCH)
            return "" if answer.status < 300 else str(answer.json()["message"])

        wait_until("the policy has effect", lambda: NODE_CLAIM in refusal(agent, theirs, off), EFFECT_SECONDS)
        for change, reason in (
            ({"spec": {"taints": taints_of(samples, mine, without=OTHERS)}}, "its own taint and no other"),
            ({"spec": {"taints": [*off["spec"]["taints"], {**OTHERS, "effect": "NoExecute"}]}}, "its own taint and no"),
            ({"spec": {"taints": None}}, "its own taint and no other"),
            ({"spec": {"unschedulable": True}}, "nothing of a node but its taints"),
            ({"metadata": {"labels": {"a": "c"}}}, "nothing of a node but its taints"),
            ({"metadata": {"annotations": {"a": "c"}}}, "nothing of a node but its taints"),
        ):
            assert reason in refusal(agent, mine, change), change
        unbound = cluster.api(cluster.mint_token(namespace, "metaproxy"))
        assert NODE_CLAIM in refusal(unbound, mine, off)
        # Of others it says nothing.
        janitor = cluster.api(cluster.mint_token(namespace, "janitor"))
        assert refusal(janitor, theirs, {"spec": {"unschedulable": True}}) == ""
        agent.merge(mine, off)
        assert OURS["key"] not in {taint["key"] for taint in taints_of(samples, mine)}
    finally:
        for name in made:
            samples.request("DELETE", f"/api/v1/nodes/{name}")
        cluster.delete_namespace(namespace)


def taints_of(api: Api, path: str, *, without: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """A node's taints, but for one."""
    left = "" if without is None else without["key"]
    return [taint for taint in api.get(path)["spec"].get("taints") or [] if taint["key"] != left]

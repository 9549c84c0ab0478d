"""What the doctor makes of pods, namespaces and rights: verdicts, whom they concern, what to do."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.clusterfacts import NETWORKS, NamespaceFacts, PodFacts, namespace_facts, pod_facts
from metaproxy.doctorchecks import (
    Judged,
    calls_of,
    judged,
    namespace_findings,
    network_findings,
    permission_findings,
    permissions,
    pod_findings,
    raw_findings,
)
from metaproxy.findings import Finding, Verdict
from metaproxy.objects import ObjectError
from metaproxy.pods import ALLOWED_ROLES, EXTERNAL_ID, PERMITTED, ROLE, Namespace, Pod
from metaproxy.policy import Rules
from metaproxy.roles import BaseArn

ACCOUNT = "arn:aws:iam::123456789012:role/"
RULES = Rules(base=BaseArn.parse(ACCOUNT))
BASE: dict[str, Any] = {"name": "web", "namespace": "shop", "uid": "u"}
KEEPS = {"name": "main"}
DROPS = {"name": "main", "securityContext": {"capabilities": {"drop": ["ALL"]}}}


def facts(name: str = "web", *, role: str | None = None, **more: Any) -> PodFacts:
    """A pod with a role."""
    own = {key: more.pop(key) for key in ("net_raw", "networks", "node") if key in more}
    annotations = more.pop("annotations", {}) | ({} if role is None else {ROLE: role})
    pod = Pod(uid=name, namespace="shop", name=name, annotations=annotations, **more)
    return PodFacts(pod=pod, annotations=annotations, **own)


def space(**annotations: str) -> dict[str, NamespaceFacts]:
    """The namespace with these annotations (`permitted`, `allowed`)."""
    keys = {"permitted": PERMITTED, "allowed": ALLOWED_ROLES}
    named = {keys[key]: value for key, value in annotations.items()}
    return {"shop": NamespaceFacts(namespace=Namespace(uid="s", name="shop", annotations=named), annotations=named)}


def by_check(findings: Any) -> dict[str, Finding]:
    """The findings by their check; one each."""
    return {finding.check: finding for finding in findings}


# What is kept of objects


@pytest.mark.parametrize(
    ("container", "able"),
    [
        (KEEPS, True),
        (DROPS, False),
        ({"securityContext": {"capabilities": {"drop": ["net_raw"]}}}, False),
        ({"securityContext": {"capabilities": {"drop": ["CAP_NET_RAW"]}}}, False),
        ({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}}, True),
        ({"securityContext": {"capabilities": {"drop": ["ALL"]}, "privileged": True}}, True),
        ({"securityContext": {"capabilities": {"drop": "ALL"}}}, True),
        ({"securityContext": {"capabilities": {"drop": [7]}}}, True),
        ("odd", True),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "initContainers", "ephemeralContainers"])
def test_who_may_send_in_anothers_name(container: Any, able: bool, kind: str) -> None:
    """One container of any kind suffices."""
    spec = {"containers": [DROPS], "nodeName": "n"} | {kind: [DROPS, container]}
    seen = pod_facts({"metadata": BASE, "spec": spec})
    assert (seen.net_raw, seen.node) == (able, "n")


def test_windows_has_no_such_thing() -> None:
    """Nor has a pod without containers."""
    assert pod_facts({"metadata": BASE, "spec": {"os": {"name": "windows"}, "containers": [KEEPS]}}).net_raw is False
    assert pod_facts({"metadata": BASE, "spec": {"containers": None}}).net_raw is False


def test_what_else_is_kept() -> None:
    """Networks, annotations of the keys that are asked for, and no others; replicas are one."""
    owner = {"controller": True, "kind": "ReplicaSet", "name": "web-5d4f8b9c7"}
    annotations = {NETWORKS: "lan", ROLE: "x", "mine": "y", "other": "z", "odd": 7}
    seen = pod_facts({"metadata": BASE | {"annotations": annotations, "ownerReferences": [owner]}}, {"mine", "odd"})
    assert (seen.networks, seen.annotations, seen.subject) == ("lan", {ROLE: "x", "mine": "y"}, "shop/web")
    there = namespace_facts({"metadata": {"name": "shop", "uid": "u", "annotations": annotations}}, {"mine"})
    assert there.annotations == {"mine": "y"}


_JSON = st.recursive(
    st.none() | st.booleans() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["os", "containers", "securityContext", "capabilities", "drop", "annotations"]), inner
        )
    ),
)


@given(metadata=_JSON, spec=_JSON)
def test_whatever_an_object_is(metadata: Any, spec: Any) -> None:
    """Total, but for what has no name."""
    named = BASE | (metadata if isinstance(metadata, dict) else {})
    pod_facts({"metadata": named, "spec": spec})
    namespace_facts({"metadata": named})
    with pytest.raises(ObjectError):
        pod_facts({"metadata": metadata, "spec": spec})


# Rights


def test_permissions() -> None:
    """What the settings turn on, and no more."""
    assert {(each.resource, each.verb) for each in permissions(events=False, taint=False)} == {
        (resource, verb) for resource in ("pods", "namespaces") for verb in ("list", "watch")
    }
    more = {(each.group, each.resource, each.verb) for each in permissions(events=True, taint=True)}
    assert {("events.k8s.io", "events", "patch"), ("", "nodes", "patch"), ("", "nodes", "get")} <= more


def test_rights_that_are_missing() -> None:
    """With the rules that a ClusterRole lacks."""
    wanted = permissions(events=True, taint=False)
    [fine] = permission_findings(wanted, [])
    assert fine.verdict is Verdict.OK
    [lacking] = permission_findings(wanted, [each for each in wanted if each.verb == "watch" or each.group])
    assert lacking.verdict is Verdict.PROBLEM
    assert lacking.document == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["watch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ]


# Pods and namespaces


def examined(*pods: PodFacts, spaces: dict[str, NamespaceFacts], rules: Rules = RULES) -> dict[str, Finding]:
    """What is found of these."""
    found = judged(pods, spaces, rules)
    return by_check([*pod_findings(found, pods), *namespace_findings(found, spaces, rules)])


def test_all_is_well() -> None:
    """Nothing but ok; finished pods are nobody."""
    found = examined(facts(role="x"), facts("old", role="?", finished=True), spaces=space(permitted=".*"))
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert set(found) == {"namespace-policy", "annotations", "host-network"}


@pytest.mark.parametrize(
    ("there", "rules", "reason"),
    [
        (space(), RULES, "NamespaceSilent"),
        (space(permitted="y"), RULES, "NotPermitted"),
        (space(permitted=".*"), Rules(base=RULES.base, allow=(f"{ACCOUNT}y",)), "NotAllowed"),
        ({}, RULES, "NamespaceUnknown"),
    ],
)
def test_namespaces_that_refuse(there: dict[str, NamespaceFacts], rules: Rules, reason: str) -> None:
    """One row for all pods that it concerns."""
    found = examined(facts("a", role="x"), facts("b", role="x"), spaces=there, rules=rules)["namespace-policy"]
    assert (found.verdict, found.subjects) == (Verdict.PROBLEM, ("shop/a", "shop/b"))
    assert found.found.startswith(reason)


@pytest.mark.parametrize("annotations", [{ROLE: "a b"}, {ROLE: " "}, {ROLE: "x", EXTERNAL_ID: "?"}])
def test_pods_annotations(annotations: dict[str, str]) -> None:
    """What stands there cannot be meant."""
    found = examined(facts(annotations=annotations), spaces=space(permitted=".*"))
    assert (found["annotations"].verdict, found["annotations"].subjects) == (Verdict.PROBLEM, ("shop/web",))
    assert found["namespace-policy"].verdict is Verdict.OK


@pytest.mark.parametrize("annotations", [{"permitted": "("}, {"allowed": "x"}, {"permitted": "y", "allowed": "x"}])
def test_namespaces_annotations(annotations: dict[str, str]) -> None:
    """Found without a pod that meets them, whatever the operator's bounds."""
    found = examined(spaces=space(**annotations), rules=Rules(base=RULES.base, allow=(f"{ACCOUNT}y",)))["annotations"]
    assert (found.verdict, found.subjects) == (Verdict.PROBLEM, ("shop",))


def test_pods_without_a_role_are_no_trouble() -> None:
    """Nor are those whose role's account is not known yet."""
    found = examined(facts("a"), spaces=space())
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    found = examined(facts("a", role="x"), spaces=space(permitted=".*"), rules=Rules())
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}


def test_objects_that_cannot_be_read() -> None:
    """They are told, and nothing is called well."""
    [finding] = namespace_findings([], {}, RULES, skipped=["a pod without a name"])
    assert (finding.verdict, finding.subjects) == (Verdict.WARNING, ("a pod without a name",))


def test_the_nodes_network() -> None:
    """A role there has no effect."""
    pods = facts("a", role="x", host_network=True), facts("b", host_network=True)
    found = examined(*pods, spaces=space(permitted=".*"))["host-network"]
    assert (found.verdict, found.subjects) == (Verdict.WARNING, ("shop/a",))


def test_calls_are_tried_once() -> None:
    """Sessions' names do not tell calls apart; external ids do."""
    pods = [facts("a", role="x"), facts("b", role="x"), facts("c", role="x", annotations={EXTERNAL_ID: "id-1"})]
    calls = calls_of(judged([*pods, facts("d")], space(permitted=".*"), RULES))
    assert [(call.session_name, call.external_id, who) for call, who in calls.items()] == [
        ("shop.a", None, ("shop/a", "shop/b")),
        ("shop.c", "id-1", ("shop/c",)),
    ]
    assert calls_of(list[Judged]()) == {}


# Networks


BRIDGE = {"cni0": 3}


def raw(*pods: PodFacts, node: str = "n", bridges: dict[str, int] | None = BRIDGE, known: bool = True) -> Finding:
    """The one finding."""
    [finding] = raw_findings(pods if known else None, node, bridges)
    return finding


def test_raw_packets() -> None:
    """Counted for this node, and only where pods stand on a bridge."""
    here, away = facts("a", net_raw=True, node="n"), facts("b", net_raw=True, node="m")
    good = facts("c", net_raw=False, node="n")
    found = raw(here, away, good)
    assert (found.verdict, found.subjects) == (Verdict.WARNING, ("shop/a",))
    assert found.found.startswith("1 of 2 pods of this node")
    assert raw(here, away, node="").subjects == ("shop/a", "shop/b")
    assert raw(here, bridges={}).verdict is Verdict.OK
    assert raw(away, good).verdict is Verdict.OK
    assert raw(facts("d", node="n")).verdict is Verdict.NOT_CHECKED
    found = raw(here, away, good, bridges=None)
    assert found.verdict is Verdict.NOT_CHECKED
    assert found.found.startswith("2 of 3 pods in the cluster")


def test_raw_packets_where_nobody_tells_of_pods() -> None:
    """Without a bridge all is well whoever they are; on one it is not known, and where it is."""
    assert raw(known=False, bridges={}).verdict is Verdict.OK
    for bridges in (BRIDGE, None):
        assert raw(known=False, bridges=bridges).verdict is Verdict.NOT_CHECKED
    assert "cni0" in raw(known=False).found
    assert "agent's container" in raw(known=False).remedy


def test_further_networks() -> None:
    """By Multus, or by what links the node has."""
    asking, plain = facts("a", networks="lan"), facts("b", networks="")
    found = list(network_findings([asking, plain], ["macvlan m1 on eth0"]))
    assert [(each.verdict, each.subjects) for each in found] == [
        (Verdict.WARNING, ("shop/a",)),
        (Verdict.WARNING, ("macvlan m1 on eth0",)),
    ]
    assert [each.verdict for each in network_findings([asking], [])] == [Verdict.WARNING]
    assert [each.verdict for each in network_findings([plain], [])] == [Verdict.OK]
    assert [each.verdict for each in network_findings([plain], None)] == [Verdict.NOT_CHECKED]
    assert [each.verdict for each in network_findings([facts("c")], [])] == [Verdict.NOT_CHECKED]
    assert [each.verdict for each in network_findings(None, [])] == [Verdict.NOT_CHECKED]
    assert [each.verdict for each in network_findings(None, ["macvlan m1 on eth0"])] == [Verdict.WARNING]

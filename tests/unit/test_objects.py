"""Objects as Kubernetes writes them, and as nobody should."""

import contextlib
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.objects import ObjectError, canonical_address, namespace_from, pod_from, version_of
from metaproxy.pods import ALLOWED_ROLES, PERMITTED, ROLE, Namespace, Pod

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(
    [
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "annotations",
        "labels",
        "ownerReferences",
        "controller",
        "kind",
        "podIP",
        "podIPs",
        "ip",
        "phase",
        "hostNetwork",
        "serviceAccountName",
        "deletionTimestamp",
        "pod-template-hash",
        ROLE,
        PERMITTED,
    ]
) | st.text(max_size=4)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=20
)
ODD = st.one_of(JSON, st.sampled_from(["ReplicaSet", "Job", "Succeeded", "10.0.0.1", "::1%eth0", True, "7"]))
METADATA = st.fixed_dictionaries(
    {"name": st.just("p"), "namespace": st.just("n"), "uid": st.just("u")},
    optional={
        "resourceVersion": ODD,
        "annotations": st.dictionaries(st.sampled_from([ROLE, PERMITTED]), ODD) | ODD,
        "labels": ODD,
        "deletionTimestamp": ODD,
        "ownerReferences": st.lists(st.fixed_dictionaries({"controller": st.just(True), "name": ODD, "kind": ODD}))
        | ODD,
    },
)
PODS = st.fixed_dictionaries(
    {"metadata": METADATA},
    optional={
        "spec": st.fixed_dictionaries({}, optional={"hostNetwork": ODD, "serviceAccountName": ODD}) | ODD,
        "status": st.fixed_dictionaries({}, optional={"podIP": ODD, "podIPs": ODD, "phase": ODD}) | ODD,
    },
)


def made(**parts: Any) -> Pod:
    """The pod of an object with these parts; `metadata` is completed."""
    metadata = {"namespace": "team", "name": "web-7", "uid": "u1", **parts.pop("metadata", {})}
    return pod_from({"metadata": metadata, **parts})


@given(JSON)
def test_vector_42_pods_are_total(obj: Any) -> None:
    """Whatever an object looks like: a pod, or the one error (kiam#519: one odd pod ended the process)."""
    with contextlib.suppress(ObjectError):
        assert pod_from(obj).uid


@given(PODS)
def test_an_odd_pod_is_still_a_pod(obj: Any) -> None:
    """With name, namespace and uid nothing else can be so wrong that the watch would stop."""
    pod = pod_from(obj)
    assert (pod.namespace, pod.name, pod.uid) == ("n", "p", "u")
    assert all(canonical_address(address) == address for address in pod.addresses)
    assert all(isinstance(value, str) for value in pod.annotations.values())
    assert isinstance(pod.workload, str)
    hash((pod.version, pod.addresses, pod.host_network, pod.finished, pod.terminating, pod.service_account))


@given(JSON | st.fixed_dictionaries({"metadata": METADATA}))
def test_vector_42_namespaces_are_total(obj: Any) -> None:
    """Whatever an object looks like: a namespace, or the one error."""
    with contextlib.suppress(ObjectError):
        assert namespace_from(obj).name


@pytest.mark.parametrize("missing", ["name", "namespace", "uid"])
@pytest.mark.parametrize("value", [None, "", 7, []])
def test_a_pod_has_a_name(missing: str, value: Any) -> None:
    """Without namespace, name and uid nobody can be told apart."""
    with pytest.raises(ObjectError, match="a pod without"):
        made(metadata={missing: value})


@pytest.mark.parametrize("missing", ["name", "uid"])
def test_a_namespace_has_a_name(missing: str) -> None:
    """Likewise."""
    with pytest.raises(ObjectError, match="a namespace without"):
        namespace_from({"metadata": {"name": "team", "uid": "u", missing: None}})


def test_a_pod_as_the_api_server_writes_it() -> None:
    """Everything that is kept, and nothing else."""
    pod = made(
        metadata={
            "resourceVersion": "4711",
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {ROLE: "r", "other": "x", PERMITTED: ".*"},
            "labels": {"pod-template-hash": "5d4f8c7b9"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4f8c7b9", "controller": True}],
            "managedFields": [{"huge": True}],
        },
        spec={"serviceAccountName": "web", "hostNetwork": False},
        status={"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "FD00::0:7"}]},
    )
    assert pod.observed
    assert replace(pod, observed="") == Pod(
        uid="u1",
        namespace="team",
        name="web-7",
        version=4711,
        addresses=("10.0.0.7", "fd00::7"),
        terminating=True,
        annotations={ROLE: "r"},
        service_account="web",
        workload="web",
    )


RUNNING, ENDED = {"state": {"running": {"startedAt": "t"}}}, {"state": {"terminated": {"exitCode": 0}}}


def sandbox(status: str) -> dict[str, object]:
    """What the kubelet says of the pod's network since 1.29."""
    return {"conditions": [{"type": "Ready"}, {"type": "PodReadyToStartContainers", "status": status}]}


@pytest.mark.parametrize(
    ("status", "seen"),
    [
        ({}, False),
        ({"podIP": "10.0.0.7"}, True),
        ({"containerStatuses": [ENDED, RUNNING]}, True),
        ({"initContainerStatuses": [RUNNING], "containerStatuses": [{"state": {"waiting": {}}}]}, True),
        ({"containerStatuses": [ENDED]}, False),
        ({"containerStatuses": ["odd", {"state": 7}]}, False),
        (sandbox("True") | {"containerStatuses": [ENDED]}, True),
        (sandbox("False") | {"containerStatuses": [RUNNING]}, False),
    ],
)
def test_what_the_kubelet_saw_run_is_observed(status: dict[str, object], seen: bool) -> None:
    """A status of what has ended observes nothing, though it still has the addresses."""
    assert bool(made(status=status | {"podIPs": [{"ip": "10.0.0.7"}]} if status else {}).observed) == seen


def test_only_what_the_kubelet_writes_is_observed() -> None:
    """A label, an annotation, a deletion or somebody else's condition changes nothing of it; readiness does."""
    status = {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "False"}]}
    first = made(status=status).observed
    foreign = status | {"conditions": [*status["conditions"], {"type": "example.com/gate", "status": "True"}]}
    marked = {"labels": {"a": "b"}, "annotations": {ROLE: "r"}, "deletionTimestamp": "t", "resourceVersion": "9"}
    assert made(status=foreign, metadata=marked).observed == first
    assert made(status=status | {"conditions": [{"type": "Ready", "status": "True"}]}).observed != first


def test_a_bare_pod_is_taken_as_it_is() -> None:
    """What is missing is absent: no address, no annotation, the default account, its own workload."""
    assert made() == Pod(uid="u1", namespace="team", name="web-7", workload="web-7")


def test_a_namespace_keeps_its_own_annotations() -> None:
    """The two of the policy and the one of the tokens; a pod's annotation on a namespace is nothing."""
    annotations = {PERMITTED: ".*", ALLOWED_ROLES: "[]", "metaproxy.dev/imds-tokens": "required", ROLE: "r"}
    metadata = {"name": "team", "uid": "u", "resourceVersion": "5", "annotations": annotations}
    kept = {key: value for key, value in annotations.items() if key != ROLE}
    assert namespace_from({"metadata": metadata}) == Namespace(uid="u", name="team", version=5, annotations=kept)


@pytest.mark.parametrize(
    ("phase", "finished"),
    [
        ("Succeeded", True),
        ("Failed", True),
        ("Running", False),
        ("Pending", False),
        ([], False),
        ({}, False),
        (None, False),
    ],
)
def test_finished_is_a_phase(phase: Any, finished: bool) -> None:
    """The two phases that a pod never leaves; a phase that is no text is none."""
    assert made(status={"phase": phase}).finished is finished


@pytest.mark.parametrize(("value", "host"), [(True, True), (False, False), (None, False), ("true", False), (1, False)])
def test_vector_23_host_network_is_kept(value: Any, host: bool) -> None:
    """A hostNetwork pod is known as such and never live: its address is the node's."""
    pod = made(spec={"hostNetwork": value}, status={"podIP": "10.0.0.1"})
    assert pod.host_network is host
    assert pod.live is not host


@pytest.mark.parametrize("value", [7, 1.5, True, None, [], ["r"], {"a": 1}])
def test_an_annotation_that_is_no_text_is_malformed_not_absent(value: Any) -> None:
    """It must neither open the door to the default role nor be a role's name by accident (`None`, `7`)."""
    text = made(metadata={"annotations": {ROLE: value}}).annotations[ROLE]
    assert text.strip()
    assert re.fullmatch(r"[A-Za-z0-9_+=,.@:~!/-]+", text) is None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("9" * 19, int("9" * 19)),
        ("9" * 20, 0),
        ("", 0),
        ("-1", 0),
        ("1.0", 0),
        ("a", 0),
        ("\u0661", 0),
        ("²", 0),
        (" 1", 0),
        (7, 0),
        (None, 0),
        ([], 0),
        (True, 0),
    ],
)
def test_versions_are_numbers_or_nothing(text: Any, version: int) -> None:
    """Opaque, signed, foreign or endless versions compare with nothing."""
    assert version_of(text) == version


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:0001", "10.0.0.1"),
        ("FD00:0:0::1", "fd00::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:10.0.0.1%eth0", "10.0.0.1"),
        ("010.0.0.1", None),
        ("10.0.0.1/32", None),
        ("10.0.0.1 ", None),
        ("10.0.0", None),
        ("1", None),
        ("", None),
        ("%", None),
        ("localhost", None),
        ("\u0661.1.1.1", None),
        (1, None),
        (b"\x0a\x00\x00\x01", None),
        (None, None),
        ([], None),
    ],
)
def test_addresses_have_one_spelling(text: Any, address: str | None) -> None:
    """The same address is the same text, whoever tells it: the status of a pod or a dual-stack socket."""
    assert canonical_address(text) == address


@given(st.ip_addresses())
def test_every_address_is_canonical_once(address: Any) -> None:
    """Asking twice changes nothing."""
    text = canonical_address(str(address))
    assert text is not None
    assert canonical_address(text) == text
    assert canonical_address(address.exploded) == text


def test_all_addresses_are_kept_once() -> None:
    """The primary one and those of both families, whatever is odd among them left out."""
    ips = [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}, {"ip": ""}, {}, "10.0.0.8", None]
    assert made(status={"podIP": "10.0.0.6", "podIPs": ips}).addresses == ("10.0.0.6", "10.0.0.7", "fd00::7")


REPLICA = {"kind": "ReplicaSet", "controller": True}
JOB = {"kind": "Job", "controller": True}


@pytest.mark.parametrize(
    ("owner", "hash_label", "workload"),
    [
        (REPLICA | {"name": "web-5d4f8c7b9"}, "5d4f8c7b9", "web"),
        (REPLICA | {"name": "web-custom"}, "custom", "web"),
        (REPLICA | {"name": "web-5d4f8c7b9"}, None, "web"),
        (REPLICA | {"name": "web-5d4f8c7b9"}, "other", "web"),
        (REPLICA | {"name": "web-api"}, None, "web-api"),
        (REPLICA | {"name": "web-frontend"}, None, "web-frontend"),
        (REPLICA | {"name": "web-5d4f8c7b9"}, 7, "web"),
        (JOB | {"name": "backup-28373820"}, None, "backup"),
        (JOB | {"name": "backup-1"}, None, "backup-1"),
        ({"kind": "StatefulSet", "name": "db", "controller": True}, None, "db"),
        ({"kind": "DaemonSet", "name": "log-5d4f8c7b9", "controller": True}, None, "log-5d4f8c7b9"),
        ({"kind": "ReplicaSet", "name": "web-5d4f8c7b9"}, None, "web-7"),
        ({"kind": "ReplicaSet", "name": "web-5d4f8c7b9", "controller": "true"}, None, "web-7"),
        (REPLICA | {"name": ""}, None, "web-7"),
        (REPLICA | {"name": 7}, None, "web-7"),
        ("web", None, "web-7"),
    ],
)
def test_the_workload_is_what_its_author_named(owner: Any, hash_label: Any, workload: str) -> None:
    """Replicas share a name, and runs of a CronJob do; a pod that nothing controls is its own workload."""
    assert (
        made(metadata={"ownerReferences": [{"name": "x"}, owner], "labels": {"pod-template-hash": hash_label}}).workload
        == workload
    )

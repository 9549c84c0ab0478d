"""Manifests as people write them: what is added, what is refused, what is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy import yamlobjects
from metaproxy.pods import ROLE
from metaproxy.yamlobjects import Contents, ManifestError, parse

JSON = b"""{"apiVersion": "v1", "kind": "List", "items": [
\t{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}},
\t{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
]}"""


def test_what_the_api_server_would_add() -> None:
    """A pod without namespace, uid and phase is a running pod of `default` under a uid made of its name."""
    (pod,) = parse(
        b"kind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}"
    ).pods
    assert (pod.namespace, pod.name, pod.uid, pod.version) == ("default", "a", "default/a", 0)
    assert pod.addresses == ("10.0.0.1", "fd00::1")
    assert pod.live


def test_a_dumped_pod_keeps_its_uid_but_not_its_version() -> None:
    """Files are edited without their resourceVersion changing, so it says nothing."""
    text = b"""
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: team, uid: 5f3c, resourceVersion: "77", creationTimestamp: 2026-01-01T00:00:00Z}
"""
    (pod,) = parse(text).pods
    assert (pod.uid, pod.namespace, pod.version) == ("5f3c", "team", 0)


def test_nulls_are_absent() -> None:
    """Fields that a template left empty are as if they were not there."""
    (pod,) = parse(b"kind: Pod\nmetadata: {name: a, namespace: null, uid: null, annotations: }").pods
    assert (pod.uid, pod.annotations) == ("default/a", {})


@pytest.mark.parametrize(
    "text",
    [
        b"kind: List\nitems: [{kind: Pod, metadata: {name: a}}, {kind: Namespace, metadata: {name: n}}]",
        b"kind: PodList\nitems: [{metadata: {name: a}}]\n---\nkind: NamespaceList\nitems: [{metadata: {name: n}}]",
        b"---\n---\nkind: Pod\nmetadata: {name: a}\n---\n---\nkind: Namespace\nmetadata: {name: n}\n---\n# done\n",
        JSON,
        b"kind: Pod\nmetadata: &m {name: a}\n---\nkind: Namespace\nmetadata: {name: n}\n",
    ],
    ids=["a list", "typed lists", "documents", "JSON", "an anchor"],
)
def test_ways_to_write_several_objects(text: bytes) -> None:
    """Lists, typed lists, several documents and JSON all declare the same."""
    contents = parse(text)
    assert [pod.uid for pod in contents.pods] == ["default/a"]
    assert [(namespace.uid, namespace.name) for namespace in contents.namespaces] == [("n", "n")]
    assert not contents.skipped


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"just text", "no Kubernetes object: 'just text'"),
        (b"[1, 2]", "no Kubernetes object: list"),
        (b"metadata: {name: a}", "no Kubernetes object: dict"),
        (b"kind: 7", "no Kubernetes object: dict"),
        (b"kind: List\nitems: {}", None),
        (b"kind: List\nitems: [null]", "no Kubernetes object: NoneType"),
        (b"kind: Pod", "a Pod without metadata"),
        (b"kind: Namespace\nmetadata: n", "a Namespace without metadata"),
        (b"kind: Pod\nmetadata: {generateName: a-}", "a pod without namespace, name or uid"),
        (b"kind: Pod\nmetadata: {name: 7}", "a pod without namespace, name or uid"),
        (b"kind: Pod\nmetadata: {name: a, namespace: on}", "a pod without namespace, name or uid"),
        (b"kind: Namespace\nmetadata: {}", "a namespace without name or uid"),
        (b"kind: Pod\nmetadata: {name: a, annotations: [role]}", "'a': its annotations are no mapping"),
        (b"kind: Pod\nmetadata: {name: a, annotations: {iam.amazonaws.com/external-id: 012}}", "put it in quotes"),
        (b"kind: Pod\nmetadata: {name: a, annotations: {iam.amazonaws.com/role: }}", "put it in quotes"),
        (
            b"kind: Namespace\nmetadata: {name: a, annotations: {iam.amazonaws.com/allowed-roles: ['*']}}",
            "put it in quotes",
        ),
        (b"kind: Deployment\nmetadata: {name: a}", None),
        (b"apiVersion: example.com/v1\nkind: Namespace\nmetadata: {name: a}", None),
    ],
)
def test_odd_objects_are_skipped_with_a_reason(text: bytes, why: str | None) -> None:
    """What the API server would refuse is not guessed at; kinds that are not ours are nobody's mistake."""
    contents = parse(
        text + b"\n---\nkind: Pod\nmetadata: {name: fine, annotations: {iam.amazonaws.com/role: r, other: 7}}\n"
    )
    assert [(pod.name, pod.annotations) for pod in contents.pods] == [("fine", {ROLE: "r"})]
    assert not contents.namespaces
    assert len(contents.skipped) == (why is not None)
    assert all(why in text for text in contents.skipped if why)


def test_documents_that_would_hurt_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth and width are bounded before anything is built, aliases counted as if written out."""
    with pytest.raises(ManifestError, match="deeper"):
        parse(b"[" * 65)
    assert parse(b"[" * 64 + b"]" * 64).skipped
    monkeypatch.setattr(yamlobjects, "NODE_LIMIT", 20)
    assert parse(b"[a, &x [b, c], *x, *x]").skipped
    with pytest.raises(ManifestError, match="more than 20"):
        parse(b"[a, &x [b, c, &y [d, e], *y], *x, *x]")


@given(
    st.binary() | st.text().map(str.encode) | st.text("kindPod:{}[]&*!|>-\n name metadata", max_size=40).map(str.encode)
)
def test_parsing_is_total(data: bytes) -> None:
    """Whatever the bytes, they are contents or refused with a reason of one line."""
    try:
        assert isinstance(parse(data), Contents)
    except ManifestError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert "\n" not in refusal


def test_only_a_document_that_changed_is_read_again() -> None:
    """A node's pods in one file: reading them all takes longer than a change may."""
    before = [f"kind: Pod\nmetadata: {{name: once-{number}}}\n" for number in range(110)]
    after = [*before[:50], before[50].replace("once", "twice"), *before[51:]]
    parse("---\n".join(before).encode())
    misses = yamlobjects._document.cache_info().misses
    contents = parse("---\n".join(after).encode())
    assert [pod.name for pod in contents.pods][49:52] == ["once-49", "twice-50", "once-51"]
    assert len(contents.pods) == 110
    assert yamlobjects._document.cache_info().misses == misses + 1


@pytest.mark.parametrize(
    "text",
    [
        "%YAML 1.1\n---\nkind: Pod\nmetadata: {name: a}\n",
        "kind: Pod\nmetadata:\n  name: a\n  annotations:\n    x: |\n      ---\n      kind: Pod\n---\n",
        "--- {kind: Pod, metadata: {name: a}}\n...\n---\n---\n",
        "---\r\nkind: Pod\r\nmetadata: {name: a}\r\n",
        "kind: Pod\nmetadata: {name: a}\n---- : x\n",
    ],
)
def test_where_documents_end(text: str) -> None:
    """At `---` in the first column and nowhere else, as YAML says."""
    assert [pod.name for pod in parse(text.encode()).pods] == ["a"]


def test_many_small_documents_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's limit is the file's, however it is cut."""
    monkeypatch.setattr(yamlobjects, "NODE_LIMIT", 50)
    with pytest.raises(ManifestError, match="more than 50 values"):
        parse(b"".join(b"---\n{kind: %d}\n" % number for number in range(30)))


DUMPED = """\
apiVersion: v1
kind: List
items:
- kind: Pod
  metadata:
    name: a
    managedFields: [{fieldsV1: {"f:metadata": {}}, time: 2026-99-99}]
    annotations: {iam.amazonaws.com/role: app, containers: x}
    ownerReferences: [{kind: StatefulSet, name: db, controller: true}]
  spec: {hostNetwork: false, containers: [{name: unread, env: [{name: A}]}], serviceAccountName: web}
  status: {phase: Running, conditions: [{type: Ready}], podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
- {kind: Pod, containers: [unread], metadata: {name: b}}
- kind: Pod
  metadata: {name: c, volumes: {}, tolerations: unlisted}
"""


def test_the_bulk_of_dumped_pods_is_not_built() -> None:
    """Who writes `kubectl get pods -o yaml` into a file waits for what is read of it alone."""
    contents = parse(DUMPED.encode())
    assert [pod.name for pod in contents.pods] == ["a", "b", "c"]
    first = contents.pods[0]
    assert (first.annotations[ROLE], first.service_account, first.addresses) == ("app", "web", ("10.0.0.1",))
    assert first.workload == "db"
    values, events = yamlobjects._skimmed(DUMPED.encode())
    assert values > 40
    assert not any(getattr(event, "value", "") in {"unread", "Ready", "f:metadata"} for event in events)


def test_left_out_or_not_it_says_the_same() -> None:
    """A name somewhere keeps everything, since something may refer to it: the same pods come of both."""
    text = DUMPED.replace(", time: 2026-99-99", "").encode()
    named = text + b"# &\n"
    assert len(yamlobjects._skimmed(named)[1]) > len(yamlobjects._skimmed(text)[1])
    assert parse(named) == parse(text)


def test_what_is_named_in_the_bulk_can_be_meant_elsewhere() -> None:
    """An alias to something inside a list that nobody reads is still what it stands for."""
    (pod,) = parse(b"kind: Pod\nspec: {containers: [&n app]}\nmetadata: {name: *n}\n").pods
    assert pod.name == "app"

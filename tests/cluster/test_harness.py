"""What the list-watch relies on, asked of a real API server: each test is a fact that a fake has to share.

Knows: the server's own words on the wire. Must not know: the code under test.
"""

import http.client
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster.api import METADATA, METADATA_LIST, Api, ApiFailure, Json, Query
from tests.cluster.harness import Cluster
from tests.cluster.waiting import wait_until

PODS = "/api/v1/pods"
NAMESPACES = "/api/v1/namespaces"
READ_PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
FUTURE = 1_000_000_000  # a version that no test run reaches
SILENCE = 1.0  # seconds: what is expected never to come has had a hundred times its usual 10 ms

pytestmark = pytest.mark.timeout(120)  # the first test waits for the start of the servers, others for a restart


def of_node(node: str, *more: str) -> str:
    """A field selector for this node's pods."""
    return ",".join((f"spec.nodeName={node}", *more))


def version(obj: Json) -> int:
    """The object's or list's version as the number that it is."""
    return int(obj["metadata"]["resourceVersion"])


def names(listed: Json) -> list[str]:
    """The names in a list."""
    return sorted(item["metadata"]["name"] for item in listed["items"])


# ---- forms


def test_metadata_only_list(cluster: Cluster, namespace: str) -> None:
    """The list form of the Accept header gives metadata alone, each item with its kind."""
    cluster.annotate_namespace(namespace, {"iam.amazonaws.com/permitted": ".*"})

    listed = cluster.admin.get(NAMESPACES, accept=METADATA_LIST)

    assert listed["kind"] == "PartialObjectMetadataList"
    [item] = [item for item in listed["items"] if item["metadata"]["name"] == namespace]
    assert set(item) == {"kind", "apiVersion", "metadata"}
    assert item["kind"] == "PartialObjectMetadata"
    assert item["metadata"]["annotations"] == {"iam.amazonaws.com/permitted": ".*"}


def test_metadata_only_watch(cluster: Cluster, namespace: str) -> None:
    """The object form of the Accept header gives a watch of metadata alone."""
    start = version(cluster.admin.get(NAMESPACES, accept=METADATA_LIST))
    with cluster.admin.watch(NAMESPACES, query={"resourceVersion": start}, accept=METADATA) as watch:
        cluster.annotate_namespace(namespace, {"a": "b"})
        event = watch.until("MODIFIED", namespace)

    assert set(event["object"]) == {"kind", "apiVersion", "metadata"}
    assert event["object"]["kind"] == "PartialObjectMetadata"
    assert event["object"]["metadata"]["annotations"] == {"a": "b"}


def test_metadata_list_form_ends_a_watch(cluster: Cluster, namespace: str) -> None:
    """The list form on a watch is answered with 200 and ends cleanly, having swallowed its first event."""
    start = version(cluster.admin.get(NAMESPACES, accept=METADATA_LIST))
    with cluster.admin.watch(NAMESPACES, query={"resourceVersion": start}, accept=METADATA_LIST) as watch:
        cluster.annotate_namespace(namespace, {"a": "b"})

        assert watch.next() is None


def test_kinds_are_in_watches_only(cluster: Cluster, namespace: str, node: str) -> None:
    """An object in a watch names its kind; the same object in a typed list does not."""
    cluster.create_pod(namespace, "p", node=node)

    [item] = cluster.admin.get(PODS, query={"fieldSelector": of_node(node)})["items"]
    with cluster.admin.watch(PODS, query={"fieldSelector": of_node(node)}) as watch:
        event = watch.until("ADDED", "p")

    assert "kind" not in item
    assert event["object"]["kind"] == "Pod"


# ---- selectors


def test_selector_by_primary_address(cluster: Cluster, namespace: str, node: str) -> None:
    """`status.podIP` selects a pod by its primary address, and not by its second one."""
    cluster.create_pod(namespace, "p", node=node)
    cluster.set_pod_status(namespace, "p", ["10.1.2.3", "fd00:1::3"])

    def by(field: str, address: str) -> list[str]:
        return names(cluster.admin.get(PODS, query={"fieldSelector": of_node(node, f"{field}={address}")}))

    assert by("status.podIP", "10.1.2.3") == ["p"]
    assert by("status.podIP", "fd00:1::3") == []
    assert by("status.podIPs", "10.1.2.3") == []
    assert by("status.podIPs", "fd00:1::3") == []
    [pod] = cluster.admin.get(PODS, query={"fieldSelector": of_node(node)})["items"]
    assert [entry["ip"] for entry in pod["status"]["podIPs"]] == ["10.1.2.3", "fd00:1::3"]


def test_status_replaces_addresses(cluster: Cluster, namespace: str, node: str) -> None:
    """A later status has its own addresses only, and none when it has none."""
    cluster.create_pod(namespace, "p", node=node)
    cluster.set_pod_status(namespace, "p", ["10.1.2.3", "fd00:1::3"])

    changed = cluster.set_pod_status(namespace, "p", ["10.1.2.4"])["status"]
    gone = cluster.set_pod_status(namespace, "p", [], phase="Succeeded")["status"]

    assert (changed["podIP"], changed["podIPs"]) == ("10.1.2.4", [{"ip": "10.1.2.4"}])
    assert "podIP" not in gone
    assert "podIPs" not in gone
    assert gone["phase"] == "Succeeded"


# ---- events of a pod's life


def test_pod_bound_later(cluster: Cluster, namespace: str, node: str) -> None:
    """A pod appears to its node's watch as ADDED when it is bound, without an address; that follows as MODIFIED."""
    start = version(cluster.admin.get(PODS, query={"fieldSelector": of_node(node)}))
    created = cluster.create_pod(namespace, "p", annotations={"iam.amazonaws.com/role": "reader"})
    with cluster.admin.watch(PODS, query={"fieldSelector": of_node(node), "resourceVersion": start}) as watch:
        cluster.bind_pod(namespace, "p", node)
        added = watch.next()
        cluster.set_pod_status(namespace, "p", ["10.1.2.3"])
        modified = watch.next()

    assert added is not None
    assert added["type"] == "ADDED"
    assert added["object"]["metadata"]["uid"] == created["metadata"]["uid"]
    assert added["object"]["metadata"]["annotations"] == {"iam.amazonaws.com/role": "reader"}
    assert added["object"]["spec"]["nodeName"] == node
    assert "podIP" not in added["object"]["status"]
    assert version(added["object"]) > version(created)
    assert modified is not None
    assert modified["type"] == "MODIFIED"
    assert modified["object"]["status"]["podIP"] == "10.1.2.3"


def test_deleted_carries_the_new_version(cluster: Cluster, namespace: str, node: str) -> None:
    """DELETED shows the pod as it last was, under the version of its deletion."""
    cluster.create_pod(namespace, "p", node=node)
    last = cluster.set_pod_status(namespace, "p", ["10.1.2.3"])
    with cluster.admin.watch(PODS, query={"fieldSelector": of_node(node), "resourceVersion": version(last)}) as watch:
        cluster.delete_pod(namespace, "p")
        event = watch.until("DELETED", "p")

    assert event["object"]["status"]["podIP"] == "10.1.2.3"
    assert version(event["object"]) > version(last)


def test_leaving_the_selector(cluster: Cluster, namespace: str, node: str) -> None:
    """A pod that no longer matches is DELETED with the state before that, under the new version, though it lives."""
    cluster.create_pod(namespace, "p", node=node)
    last = cluster.set_pod_status(namespace, "p", ["10.1.2.3"])
    selector = of_node(node, "status.phase!=Succeeded", "status.phase!=Failed")
    with cluster.admin.watch(PODS, query={"fieldSelector": selector, "resourceVersion": version(last)}) as watch:
        now = cluster.set_pod_status(namespace, "p", ["10.1.2.3"], phase="Succeeded")
        event = watch.next()

    assert event is not None
    assert event["type"] == "DELETED"
    assert event["object"]["status"]["phase"] == "Running"
    assert version(event["object"]) == version(now)
    assert cluster.get_pod(namespace, "p")["status"]["phase"] == "Succeeded"


def test_graceful_deletion(cluster: Cluster, namespace: str, node: str) -> None:
    """A graceful deletion is MODIFIED with a deletionTimestamp; DELETED comes when the kubelet has done its part."""
    cluster.create_pod(namespace, "p", node=node)
    last = cluster.set_pod_status(namespace, "p", ["10.1.2.3"])
    with cluster.admin.watch(PODS, query={"fieldSelector": of_node(node), "resourceVersion": version(last)}) as watch:
        cluster.delete_pod(namespace, "p", grace_seconds=30)
        first = watch.next()
        assert "deletionTimestamp" in cluster.get_pod(namespace, "p")["metadata"]
        cluster.delete_pod(namespace, "p")
        watch.until("DELETED", "p")

    assert first is not None
    assert first["type"] == "MODIFIED"
    assert "deletionTimestamp" in first["object"]["metadata"]
    with pytest.raises(ApiFailure, match="404"):
        cluster.get_pod(namespace, "p")


def test_chunks_are_not_events(cluster: Cluster, namespace: str, node: str) -> None:
    """A burst of events is cut into chunks in mid-event."""
    for number in range(30):
        cluster.create_pod(namespace, f"p{number}", node=node)

    with cluster.admin.watch(PODS, query={"fieldSelector": of_node(node)}) as watch:
        events = [watch.next() for _ in range(30)]

    assert {event["object"]["metadata"]["name"] for event in events if event} == {f"p{n}" for n in range(30)}
    assert watch.cuts > 0


def test_huge_event(cluster: Cluster, namespace: str, node: str) -> None:
    """An event of 1.2 MB, more than aiohttp's line reader takes, arrives as one line, in the order of events."""
    start = version(cluster.admin.get(PODS, query={"fieldSelector": of_node(node)}))
    many = [{"name": f"variable{number}", "value": "x" * 30_000} for number in range(40)]
    with cluster.admin.watch(PODS, query={"fieldSelector": of_node(node), "resourceVersion": start}) as watch:
        cluster.create_pod(
            namespace, "huge", node=node, spec={"containers": [{"name": "main", "image": "none", "env": many}]}
        )
        cluster.create_pod(namespace, "small", node=node)
        huge, small = watch.next(), watch.next()

    assert huge is not None
    assert huge["object"]["spec"]["containers"][0]["env"] == many
    assert small is not None
    assert small["object"]["metadata"]["name"] == "small"


def test_streaming_list(cluster: Cluster, namespace: str, node: str) -> None:
    """A streaming list ends its initial events with an annotated bookmark: a pod of nothing but the version."""
    cluster.create_pod(namespace, "p", node=node)
    query: Query = {
        "fieldSelector": of_node(node),
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    with cluster.admin.watch(PODS, query=query) as watch:
        added, bookmark = watch.next(), watch.next()

    assert added is not None
    assert added["type"] == "ADDED"
    assert bookmark is not None
    assert bookmark["type"] == "BOOKMARK"
    metadata = bookmark["object"].pop("metadata")
    assert metadata.pop("annotations") == {"k8s.io/initial-events-end": "true"}
    assert int(metadata.pop("resourceVersion")) >= version(added["object"])
    assert metadata == {}
    assert bookmark["object"] == {"kind": "Pod", "apiVersion": "v1", "spec": {"containers": None}, "status": {}}


def test_watch_ends_on_time(cluster: Cluster, node: str) -> None:
    """`timeoutSeconds` ends a watch cleanly."""
    with cluster.admin.watch(PODS, query={"fieldSelector": of_node(node), "timeoutSeconds": 1}) as watch:
        assert watch.next() is None


# ---- versions


def test_too_old_is_an_event(fragile: Cluster, namespace: str, node: str) -> None:
    """A watch from a forgotten version is answered with 200, one ERROR of code 410, and a clean end."""
    old = version(fragile.create_pod(namespace, "p", node=node))
    fragile.set_pod_status(namespace, "p", ["10.1.2.3"])

    fragile.expire_versions()

    with fragile.admin.watch(PODS, query={"fieldSelector": of_node(node), "resourceVersion": old}) as watch:
        error, end = watch.next(), watch.next()
    assert error is not None
    assert error["type"] == "ERROR"
    assert (error["object"]["kind"], error["object"]["code"], error["object"]["reason"]) == ("Status", 410, "Expired")
    assert end is None


def test_last_version_expires_too(fragile: Cluster, node: str) -> None:
    """Even the very version that a list has just given is too old after `expire_versions`."""
    last = version(fragile.admin.get(PODS, query={"fieldSelector": of_node(node)}))

    fragile.expire_versions()

    with fragile.admin.watch(PODS, query={"fieldSelector": of_node(node), "resourceVersion": last}) as watch:
        error = watch.next()
    assert error is not None
    assert error["object"]["code"] == 410


def test_compaction_alone_breaks_nothing(cluster: Cluster, namespace: str, node: str) -> None:
    """After a compaction open watches go on, and the API server's own memory serves an older version."""
    old = version(cluster.create_pod(namespace, "p", node=node))
    query: Query = {"fieldSelector": of_node(node), "resourceVersion": old}
    with cluster.admin.watch(PODS, query=query) as watch:
        cluster.set_pod_status(namespace, "p", ["10.1.2.3"])
        watch.until("MODIFIED", "p")
        assert cluster.compact() > old
        cluster.set_pod_status(namespace, "p", ["10.1.2.4"])
        assert watch.until("MODIFIED", "p")["object"]["status"]["podIP"] == "10.1.2.4"

    with cluster.admin.watch(PODS, query=query) as watch:
        assert watch.until("MODIFIED", "p")["object"]["status"]["podIP"] == "10.1.2.3"


def test_list_of_an_old_version(fragile: Cluster, namespace: str, node: str) -> None:
    """A list at least as new as a forgotten version is 200 with the present data; with a limit it is 410."""
    fragile.create_pod(namespace, "p", node=node)
    fragile.expire_versions()
    query: Query = {"fieldSelector": of_node(node), "resourceVersion": 1}

    assert names(fragile.admin.get(PODS, query=query)) == ["p"]
    assert fragile.admin.request("GET", PODS, query={**query, "limit": 10}).status == 410


def test_list_of_a_future_version(cluster: Cluster, node: str) -> None:
    """A list at a version that does not exist yet is 504 after some seconds, with a cause that names it."""
    answer = cluster.admin.request("GET", PODS, query={"fieldSelector": of_node(node), "resourceVersion": FUTURE})

    assert answer.status == 504
    assert answer.json()["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_watch_of_a_future_version(cluster: Cluster, namespace: str, node: str) -> None:
    """A watch at a version that does not exist yet is 200 and says nothing of what happens, while others hear it."""
    query: Query = {"fieldSelector": of_node(node)}
    with (
        cluster.admin.watch(PODS, query=query) as present,
        cluster.admin.watch(PODS, query={**query, "resourceVersion": FUTURE}) as future,
    ):
        cluster.create_pod(namespace, "p", node=node)
        present.until("ADDED", "p")

        with pytest.raises(TimeoutError):
            future.next(SILENCE)


def test_version_that_is_none(cluster: Cluster) -> None:
    """A version that is no number is 400 for a list and 500 for a watch."""
    assert cluster.admin.request("GET", PODS, query={"resourceVersion": "abc"}).status == 400
    assert cluster.admin.request("GET", PODS, query={"resourceVersion": "abc", "watch": 1}).status == 500


# ---- faults


def test_killed_server(fragile: Cluster, namespace: str, node: str) -> None:
    """A killed API server breaks a watch off without a last chunk; the next one has the same port, data and tokens."""
    fragile.create_pod(namespace, "p", node=node)
    token = fragile.mint_token(namespace, "default")
    with fragile.admin.watch(PODS, query={"fieldSelector": of_node(node)}) as watch:
        watch.until("ADDED", "p")
        fragile.stop_apiserver(signal.SIGKILL)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            watch.next()
    with pytest.raises(ConnectionRefusedError):
        fragile.admin.get(PODS)

    fragile.start_apiserver()

    assert names(fragile.admin.get(PODS, query={"fieldSelector": of_node(node)})) == ["p"]
    assert fragile.api(token).request("GET", PODS).status == 403


def test_terminated_server(fragile: Cluster, namespace: str, node: str) -> None:
    """On SIGTERM new connections are refused while open watches go on."""
    fragile.create_pod(namespace, "p", node=node)
    with fragile.admin.watch(PODS, query={"fieldSelector": of_node(node)}) as watch:
        watch.until("ADDED", "p")
        fragile.terminate_apiserver()
        wait_until("new connections refused", lambda: not _answers(fragile.admin), 20.0)

        with pytest.raises(TimeoutError):
            watch.next(SILENCE)


def test_frozen_server(fragile: Cluster, namespace: str, node: str) -> None:
    """A frozen API server keeps connections open and silent; thawed, a watch goes on as if nothing had been."""
    with fragile.admin.watch(PODS, query={"fieldSelector": of_node(node)}) as watch:
        fragile.freeze_apiserver()
        with pytest.raises(TimeoutError):
            fragile.admin.request("GET", PODS, timeout=SILENCE)
        fragile.thaw_apiserver()
        fragile.create_pod(namespace, "p", node=node)
        watch.until("ADDED", "p")


def test_frozen_etcd(fragile: Cluster, namespace: str, node: str) -> None:
    """Without etcd the API server answers lists at version 0 from memory, and consistent ones not at all."""
    fragile.create_pod(namespace, "p", node=node)
    assert names(fragile.admin.get(PODS, query={"fieldSelector": of_node(node)})) == ["p"]
    query: Query = {"fieldSelector": of_node(node)}

    fragile.freeze_etcd()

    assert names(fragile.admin.get(PODS, query={**query, "resourceVersion": 0})) == ["p"]
    with pytest.raises(TimeoutError):
        fragile.admin.request("GET", PODS, query=query, timeout=SILENCE)
    fragile.thaw_etcd()
    assert names(fragile.admin.get(PODS, query=query)) == ["p"]


def test_stopped_etcd(fragile: Cluster, namespace: str, node: str) -> None:
    """A watch outlives etcd's end and start, and then hears of what is new."""
    with fragile.admin.watch(PODS, query={"fieldSelector": of_node(node)}) as watch:
        fragile.stop_etcd()
        fragile.start_etcd()
        fragile.create_pod(namespace, "p", node=node)
        watch.until("ADDED", "p")


# ---- access


def test_anonymous_and_unknown(cluster: Cluster) -> None:
    """An unknown token is 401, no token is 403 as anonymous; both in JSON."""
    unknown = cluster.api("unknown").request("GET", PODS)
    anonymous = cluster.api(None).request("GET", PODS)

    assert (unknown.status, unknown.json()["reason"]) == (401, "Unauthorized")
    assert (anonymous.status, anonymous.json()["reason"]) == (403, "Forbidden")
    assert "system:anonymous" in anonymous.json()["message"]


def test_grant_and_revoke(cluster: Cluster, namespace: str, node: str) -> None:
    """An account may what it was granted, and no longer when that is revoked; but its open watch goes on."""
    cluster.create_service_account(namespace, "agent")
    agent = cluster.api(cluster.mint_token(namespace, "agent"))
    assert agent.request("GET", PODS).status == 403

    cluster.grant(namespace, "agent", READ_PODS, name=f"{namespace}-agent")

    assert agent.request("GET", PODS).status == 200
    assert agent.request("GET", NAMESPACES).status == 403
    with agent.watch(PODS, query={"fieldSelector": of_node(node)}) as watch:
        cluster.revoke(f"{namespace}-agent")
        assert agent.request("GET", PODS).status == 403
        cluster.create_pod(namespace, "p", node=node)
        watch.until("ADDED", "p")


def test_deleted_account(cluster: Cluster, namespace: str) -> None:
    """The token of a deleted account is refused with 401."""
    cluster.create_service_account(namespace, "agent")
    agent = cluster.api(cluster.mint_token(namespace, "agent"))
    assert agent.request("GET", PODS).status == 403

    cluster.delete_service_account(namespace, "agent")

    # The server remembers a good token for some seconds.
    wait_until("token refused", lambda: agent.request("GET", PODS).status == 401, 60.0)


def test_kubeconfig(cluster: Cluster, tmp_path: Path) -> None:
    """The kubeconfig file leads to the server with the admin's token, and only its owner can read it."""
    path = cluster.write_kubeconfig(tmp_path / "kubeconfig")

    config = yaml.safe_load(path.read_text())
    [at], [who] = config["clusters"], config["users"]
    api = Api(
        at["cluster"]["server"],
        ca_file=Path(at["cluster"]["certificate-authority"]),
        token=who["user"]["token"],
    )
    assert api.request("GET", PODS).status == 200
    assert path.stat().st_mode & 0o777 == 0o600


def test_foreign_authority(cluster: Cluster) -> None:
    """The server's certificate is refused by whoever does not know its authority."""
    stranger = Api(cluster.url, token=cluster.admin_token)
    stranger._tls = ssl.create_default_context()

    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.request("GET", PODS)


# ---- namespaces and Events


def test_namespace_is_deleted_and_made_again(cluster: Cluster, namespace: str, node: str) -> None:
    """A deleted namespace is gone with its pods, and one of the same name starts empty under another uid."""
    cluster.create_pod(namespace, "p", node=node)
    first = cluster.admin.get(f"{NAMESPACES}/{namespace}")

    cluster.delete_namespace(namespace)

    assert cluster.admin.request("GET", f"{NAMESPACES}/{namespace}").status == 404
    assert names(cluster.admin.get(PODS, query={"fieldSelector": of_node(node)})) == []
    again = cluster.create_namespace(namespace, {"a": "b"})
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    assert again["metadata"]["annotations"] == {"a": "b"}


@pytest.mark.parametrize(("digits", "status"), [("123456", 201), ("123", 400), ("", 400)])
def test_event_time(cluster: Cluster, namespace: str, node: str, digits: str, status: int) -> None:
    """An Event's time has exactly six fraction digits, else the Event is refused."""
    pod = cluster.create_pod(namespace, "p", node=node)
    event = {
        "metadata": {"name": "p.1", "namespace": namespace},
        "type": "Warning",
        "reason": "NotPermitted",
        "action": "AssumeRole",
        "note": "not permitted",
        "reportingController": "metaproxy.dev/agent",
        "reportingInstance": node,
        "eventTime": f"2026-01-02T03:04:05{'.' if digits else ''}{digits}Z",
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": namespace,
            "name": "p",
            "uid": pod["metadata"]["uid"],
        },
    }

    answer = cluster.admin.request("POST", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)

    assert answer.status == status
    listed = cluster.list_events(namespace)
    assert [entry["note"] for entry in listed] == (["not permitted"] if status == 201 else [])


# ---- the harness itself


def test_server_ends_with_its_starter(server_binary: Path, tmp_path: Path) -> None:
    """A server ends when whoever started it is killed and could not tidy up."""
    program = (
        "import sys, subprocess\n"
        "server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\n"
        "print(server.pid, flush=True)\n"
        "server.wait()\n"
    )
    command = [sys.executable, "-c", program, str(server_binary), "etcd", f"--data-dir={tmp_path}", "--log-level=fatal"]
    # It listens where nobody looks: sockets in the folder instead of ports.
    command += ["--listen-client-urls=unix://localhost:1", "--advertise-client-urls=unix://localhost:1"]
    command += ["--listen-peer-urls=unix://localhost:2", "--initial-advertise-peer-urls=unix://localhost:2"]
    command += ["--initial-cluster=default=unix://localhost:2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        wait_until("the server runs", lambda: b"etcd" in _command_line(pid), 20.0)
        starter.kill()

    wait_until("the server has ended", lambda: not _command_line(pid), 20.0)


def test_close_ends_both(cluster: Cluster, server_binary: Path, tmp_path: Path) -> None:
    """A second cluster runs beside the first; closed, both its processes are gone and the first still answers."""
    with Cluster(server_binary, tmp_path) as second:
        assert second.url != cluster.url
        assert second.admin.request("GET", PODS).status == 200
        pids = (second._etcd.pid, second._apiserver.pid)

    assert not any(_command_line(pid) for pid in pids)
    assert cluster.admin.request("GET", PODS).status == 200


def test_mend(fragile: Cluster) -> None:
    """Whatever is broken, `mend` brings it back, and is harmless when repeated."""
    fragile.freeze_etcd()
    fragile.terminate_apiserver()
    fragile.mend()
    assert _answers(fragile.admin)

    fragile.freeze_apiserver()
    fragile.stop_etcd()
    fragile.mend()
    fragile.mend()
    assert names(fragile.admin.get(NAMESPACES, query={"fieldSelector": "metadata.name=kube-system"})) == ["kube-system"]


def test_failed_start_shows_the_logs(tmp_path: Path) -> None:
    """A program that cannot start is named with the end of its log, and nothing of it is left."""
    broken = Cluster(Path("/bin/false"), tmp_path)

    with pytest.raises(RuntimeError, match=r"etcd ended while it started\n--- end of .*etcd\.log"):
        broken.start()

    assert not broken._etcd.running


def _answers(api: Api) -> bool:
    """Whether the server takes new connections."""
    try:
        api.request("GET", "/livez", timeout=5.0)
    except (OSError, http.client.HTTPException):
        return False
    return True


def _command_line(pid: int) -> bytes:
    """The process' command line; empty when it is gone, or ended and not yet collected."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (ProcessLookupError, FileNotFoundError):
        return b""

"""The API server's own words, asked of the fake and of a real one alike: what they disagree on, the fake has wrong.

Knows: the facts on which the list-watch and the Events stand. Must not know: which server answers.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from metaproxy.kube import METADATA, METADATA_LIST, NAMESPACES, PODS
from metaproxy.kubeclient import KubeClient
from metaproxy.watchlines import Framer, WatchEvent, event_from
from tests.component.listwatch_suite import BOUND, World

FUTURE = "1000000000"
MERGE = "application/merge-patch+json"


def event(namespace: str, **changes: Any) -> dict[str, Any]:
    """An Event that is accepted, but for the changes."""
    return {
        "metadata": {"name": "p.1", "namespace": namespace},
        "type": "Warning",
        "reason": "NotPermitted",
        "action": "AssumeRole",
        "note": "not permitted",
        "reportingController": "metaproxy.dev/agent",
        "reportingInstance": "node-1",
        "eventTime": "2026-01-02T03:04:05.123456Z",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "p", "uid": "u"},
        **changes,
    }


async def watched(client: KubeClient, path: str, accept: str, **query: str) -> AsyncIterator[WatchEvent]:
    """The events of one watch."""
    framer = Framer()
    async with client.stream(path, query={"watch": "1", **query}, headers={"Accept": accept}, lasting=BOUND) as chunks:
        async for chunk in chunks:
            for line in framer.feed(chunk):
                yield event_from(line)


class KubeWireSuite:
    """The tests. Whoever inherits gives the fixture `world`."""

    @pytest.fixture
    async def client(self, world: World) -> AsyncIterator[KubeClient]:
        """A client with all rights."""
        async with KubeClient(await world.kubeconfig()) as client:
            yield client

    async def get(
        self, client: KubeClient, path: str, accept: str = "application/json", **query: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of a GET."""
        answer = await client.request("GET", path, query=query, headers={"Accept": accept})
        return answer.status, json.loads(answer.body)

    async def test_forms_of_lists(self, world: World, client: KubeClient) -> None:
        """Typed items name no kind, metadata-only items do and have nothing else; one object's form is no list's."""
        await world.do("create_pod", world.namespace, "p", node=world.node)

        _, pods = await self.get(client, PODS, fieldSelector=f"spec.nodeName={world.node}")
        _, metadata = await self.get(client, NAMESPACES, METADATA_LIST)
        wrong, _ = await self.get(client, NAMESPACES, METADATA)

        assert pods["kind"] == "PodList"
        assert "kind" not in pods["items"][0]
        assert metadata["kind"] == "PartialObjectMetadataList"
        assert {frozenset(item) for item in metadata["items"]} == {frozenset({"kind", "apiVersion", "metadata"})}
        assert wrong == 406

    async def test_forms_of_watches(self, world: World, client: KubeClient) -> None:
        """A watch in the object's form shows metadata; in the list's form it swallows its first event and ends."""
        _, listed = await self.get(client, NAMESPACES, METADATA_LIST)
        start = listed["metadata"]["resourceVersion"]
        await world.do("annotate_namespace", world.namespace, {"a": "b"})

        async for seen in watched(client, NAMESPACES, METADATA, resourceVersion=start):
            assert set(seen.object) == {"kind", "apiVersion", "metadata"}
            assert seen.object["kind"] == "PartialObjectMetadata"
            if seen.object["metadata"]["name"] == world.namespace:
                break
        assert [seen async for seen in watched(client, NAMESPACES, METADATA_LIST, resourceVersion=start)] == []

    async def test_leaving_the_selector(self, world: World, client: KubeClient) -> None:
        """Leaving a selector is DELETED with the state of before and the version of now."""
        await world.do("create_pod", world.namespace, "p", node=world.node)
        last = await world.do("set_pod_status", world.namespace, "p", ["10.1.2.3"])
        now = await world.do("set_pod_status", world.namespace, "p", ["10.1.2.3"], phase="Succeeded")
        selector = f"spec.nodeName={world.node},status.phase!=Succeeded"

        kinds = []
        async for seen in watched(
            client,
            PODS,
            "application/json",
            fieldSelector=selector,
            resourceVersion=last["metadata"]["resourceVersion"],
        ):
            kinds.append((seen.kind, seen.object["status"]["phase"], seen.version))
            break

        assert kinds == [("DELETED", "Running", now["metadata"]["resourceVersion"])]

    async def test_selectors(self, world: World, client: KubeClient) -> None:
        """A primary address selects, a second one does not, `podIPs` matches nothing, other fields are refused."""
        await world.do("create_pod", world.namespace, "p", node=world.node)
        await world.do("set_pod_status", world.namespace, "p", ["10.1.2.3", "fd00:1::3"])

        async def by(term: str) -> Any:
            status, listed = await self.get(client, PODS, fieldSelector=f"spec.nodeName={world.node},{term}")
            return status if status != 200 else [item["metadata"]["name"] for item in listed["items"]]

        assert await by("status.podIP=10.1.2.3") == ["p"]
        assert await by("status.podIP=fd00:1::3") == []
        assert await by("status.podIPs=10.1.2.3") == []
        assert await by("metadata.name=p") == ["p"]
        assert await by("metadata.name!=p") == []
        assert await by("spec.hostNetwork=false") == ["p"]
        assert await by("spec.hostNetwork=true") == []
        assert await by("spec.colour=red") == 400

    async def test_versions_of_lists(self, world: World, client: KubeClient) -> None:
        """An old version is answered with the present, one to come with 504 and its cause, none with 400."""
        old, _ = await self.get(client, PODS, resourceVersion="1")
        future, status = await self.get(client, PODS, resourceVersion=FUTURE)
        none, _ = await self.get(client, PODS, resourceVersion="abc")

        assert (old, future, none) == (200, 504, 400)
        assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
        assert status["details"]["retryAfterSeconds"] == 1

    async def test_versions_of_watches(self, world: World, client: KubeClient) -> None:
        """A version to come is silent to its end in time; one that is none is 500; no version shows what is there."""
        await world.do("create_pod", world.namespace, "p", node=world.node)
        selector = f"spec.nodeName={world.node}"

        ended = watched(
            client, PODS, "application/json", resourceVersion=FUTURE, timeoutSeconds="1", fieldSelector=selector
        )
        assert [seen async for seen in ended] == []
        none, _ = await self.get(client, PODS, watch="1", resourceVersion="abc")
        assert none == 500
        present = watched(client, PODS, "application/json", timeoutSeconds="1", fieldSelector=selector)
        assert [(seen.kind, seen.object["kind"]) async for seen in present] == [("ADDED", "Pod")]

    async def test_too_old(self, world: World, client: KubeClient) -> None:
        """A version that is too old is an ERROR of code 410 in an answer of status 200, and then a clean end."""
        made = await world.do("create_pod", world.namespace, "p", node=world.node)
        await world.do("set_pod_status", world.namespace, "p", ["10.1.2.3"])
        await world.expire()

        version = made["metadata"]["resourceVersion"]
        events = [seen async for seen in watched(client, PODS, "application/json", resourceVersion=version)]
        limited, _ = await self.get(client, PODS, resourceVersion=version, limit="10")

        [seen] = events
        assert (seen.kind, seen.object["code"], seen.object["reason"]) == ("ERROR", 410, "Expired")
        assert limited == 410

    async def test_access(self, world: World) -> None:
        """An unknown token is 401."""
        async with KubeClient(await world.kubeconfig("unknown")) as client:
            status, body = await self.get(client, PODS)

        assert (status, body["reason"]) == (401, "Unauthorized")

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({}, 201),
            ({"eventTime": "2026-01-02T03:04:05.123Z"}, 400),
            ({"eventTime": "2026-01-02T03:04:05Z"}, 400),
            ({"eventTime": None}, 422),
            ({"note": "n" * 1_024}, 201),
            ({"note": "n" * 1_025}, 422),
            ({"reason": ""}, 422),
            ({"reason": "r" * 129}, 422),
            ({"action": ""}, 422),
            ({"action": "a" * 129}, 422),
            ({"reportingController": ""}, 422),
            ({"reportingInstance": ""}, 422),
            ({"reportingInstance": "i" * 129}, 422),
            ({"type": "Other"}, 422),
            ({"series": {"count": 2, "lastObservedTime": "2026-01-02T03:04:05.123456Z"}}, 201),
            ({"series": {"count": 1, "lastObservedTime": "2026-01-02T03:04:05.123456Z"}}, 422),
        ],
    )
    async def test_new_event(self, world: World, client: KubeClient, changes: Mapping[str, Any], status: int) -> None:
        """An Event is accepted within its limits and with six fraction digits, and refused beyond."""
        path = f"/apis/events.k8s.io/v1/namespaces/{world.namespace}/events"
        body = json.dumps(event(world.namespace, **changes)).encode()

        assert (await client.request("POST", path, body=body)).status == status
        if status == 201:
            assert (await client.request("POST", path, body=body)).status == 409

    async def test_event_again(self, world: World, client: KubeClient) -> None:
        """A repeated Event is a patch of its series; its note stays; what is not there cannot be patched."""
        path = f"/apis/events.k8s.io/v1/namespaces/{world.namespace}/events"
        await client.request("POST", path, body=json.dumps(event(world.namespace)).encode())

        async def patch(name: str, content_type: str = MERGE, **changes: Any) -> int:
            body = json.dumps(changes).encode()
            answer = await client.request("PATCH", f"{path}/{name}", body=body, content_type=content_type)
            return answer.status

        series = {"count": 5, "lastObservedTime": "2026-01-02T03:05:05.123456Z"}
        assert await patch("p.1", series=series) == 200
        assert await patch("p.1", note="other") == 422
        assert await patch("p.2", series=series) == 404
        assert await patch("p.1", "application/json", series=series) == 415
        [listed] = await world.do("list_events", world.namespace)
        assert listed["series"]["count"] == 5
        assert listed["note"] == "not permitted"

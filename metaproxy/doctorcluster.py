"""The doctor's questions to the cluster: all its pods and namespaces, what we may ask, what its clock says.

Knows: lists page by page, reviews of our own rights, and manifests in place of a cluster.
Must not know: what any of it means for a verdict.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from metaproxy.clusterfacts import NamespaceFacts, PodFacts, namespace_facts, pod_facts
from metaproxy.doctoraws import skew_of
from metaproxy.doctorchecks import Permission
from metaproxy.kube import METADATA_LIST, NAMESPACES, PODS
from metaproxy.kubeanswers import KubeError
from metaproxy.kubeclient import JSON, KubeClient
from metaproxy.manifestfiles import look

PAGE = 500
"""Objects asked for at once: what a list costs the API server at its worst."""

WITHIN = 30.0
"""Seconds for a page."""

BEGINNINGS = 3
"""How often a list is begun: its pages end with the version they are from, after minutes (410)."""

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

_GONE = 410
_Facts = TypeVar("_Facts", PodFacts, NamespaceFacts)


@dataclass(slots=True)
class Cluster:
    """What was seen. `troubles` by what could not be had (`pods`, `namespaces`, `permissions`): why."""

    pods: list[PodFacts] = field(default_factory=list)
    namespaces: dict[str, NamespaceFacts] = field(default_factory=dict)
    denied: list[Permission] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    skew: float | None = None
    troubles: dict[str, str] = field(default_factory=dict)


async def of_kubernetes(kubeconfig: str, wanted: Sequence[Permission], keys: AbstractSet[str]) -> Cluster:
    """The cluster that the kubeconfig, or the pod's own service account, leads to. `keys`: annotations besides ours."""
    seen = Cluster()
    async with KubeClient(kubeconfig or None) as client:
        try:
            seen.denied = await _denied(client, wanted, seen)
        except KubeError as error:
            seen.troubles["permissions"] = str(error)
        try:
            seen.pods = await _listed(client, PODS, JSON, lambda obj: pod_facts(obj, keys), seen)
        except KubeError as error:
            seen.troubles["pods"] = str(error)
        try:
            spaces = await _listed(client, NAMESPACES, METADATA_LIST, lambda obj: namespace_facts(obj, keys), seen)
        except KubeError as error:
            seen.troubles["namespaces"] = str(error)
        else:
            seen.namespaces = {facts.namespace.name: facts for facts in spaces}
    return seen


async def of_manifests(paths: Sequence[str]) -> Cluster:
    """What the files declare."""
    seen = Cluster()
    roots, _ = await asyncio.to_thread(look, paths, {}, reread=True)
    for path, root in roots.items():
        for name, file in root.files.items():
            if file.contents is not None:
                seen.pods += [PodFacts(pod=pod, annotations=pod.annotations) for pod in file.contents.pods]
                seen.namespaces |= {
                    space.name: NamespaceFacts(namespace=space, annotations=space.annotations)
                    for space in file.contents.namespaces
                }
                seen.skipped += [f"{name}: {why}" for why in file.contents.skipped]
            if file.problem:
                seen.troubles["pods"] = f"{name}: {file.problem}"
        if root.problem:
            seen.troubles["pods"] = f"{path}: {root.problem}"
    return seen


async def _listed(
    client: KubeClient, path: str, accept: str, parse: Callable[[Any], _Facts], seen: Cluster
) -> list[_Facts]:
    """Everything of a kind, page by page.

    Raises:
        KubeError: the API server refuses, or does not answer as one.
    """
    for beginning in range(1, BEGINNINGS + 1):
        found: list[_Facts] = []
        following = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": following} if following else {})}
            answer = await client.request("GET", path, query=query, headers={"Accept": accept}, timeout=WITHIN)
            if answer.status == _GONE and beginning < BEGINNINGS:
                break
            if not answer.ok:
                raise answer.error(f"GET {path}")
            page = _mapping(_parsed(answer.body, path))
            items = page.get("items")
            for obj in items if isinstance(items, list) else []:
                try:
                    found.append(parse(obj))
                except (ValueError, AttributeError) as error:
                    seen.skipped.append(f"{path}: {error}")
            following = str(_mapping(page.get("metadata")).get("continue") or "")
            if not following:
                return found
    raise KubeError(f"GET {path}: its pages expire before they are read", reason="Expired", status=_GONE)


async def _denied(client: KubeClient, wanted: Sequence[Permission], seen: Cluster) -> list[Permission]:
    """Those that whoever asks has not; also what the API server's clock says."""
    denied = []
    for each in wanted:
        attributes = {"group": each.group, "resource": each.resource, "verb": each.verb}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        before = time.time()
        answer = await client.request("POST", REVIEWS, body=json.dumps(review).encode())
        if not answer.ok:
            raise answer.error(f"POST {REVIEWS}")
        seen.skew = skew_of(answer.headers.get("Date"), before)
        if _mapping(_mapping(_parsed(answer.body, REVIEWS)).get("status")).get("allowed") is not True:
            denied.append(each)
    return denied


def _parsed(body: bytes, path: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    raise KubeError(f"{path}: the answer is no JSON", reason="Unreadable")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

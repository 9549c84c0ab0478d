"""From Kubernetes objects, as JSON or YAML spells them, to what metaproxy keeps of them.

Knows: where in a Pod, a Namespace or a PartialObjectMetadata the few things we need stand, and how foreign input can be
wrong. Must not know: how objects arrive, or what anybody does with them.
"""

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from metaproxy.pods import NAMESPACE_ANNOTATIONS, POD_ANNOTATIONS, Namespace, Pod

_HASH_LABEL = "pod-template-hash"
_CRON_STAMP = re.compile(r"-[0-9]{8,10}$")
_REPLICA_HASH = re.compile(r"-[bcdf-hj-np-tv-xz2456789]{5,10}$")
_OBSERVED = ("phase", "podIP", "podIPs", "startTime", "initContainerStatuses", "containerStatuses")
_CONDITIONS = frozenset({"Initialized", "PodReadyToStartContainers", "ContainersReady", "Ready"})
"""What of a pod's status nobody but the kubelet writes; readiness gates and evictions write conditions of their own."""
_FINISHED = frozenset({"Succeeded", "Failed"})


class ObjectError(ValueError):
    """An object that cannot be what it should be: says which one and what is missing."""


def version_of(text: Any) -> int:
    """A resourceVersion as a number; 0 when there is none or it is no number (then nothing is compared)."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 20 else 0  # noqa: PLR2004  64 bits


def canonical_address(text: Any) -> str | None:
    """An IP address in the one spelling that the directory and the sockets share; None for anything else.

    An IPv4 address that a dual-stack socket shows as `::ffff:a.b.c.d` is that IPv4 address; a scope is not part of it.
    """
    if not isinstance(text, str):
        return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def pod_from(obj: Any) -> Pod:
    """The pod that an object describes.

    Raises:
        ObjectError: it has no name, namespace or uid. Everything else that is missing or misshapen is taken as absent:
            one odd pod must not stop the watch (kiam#519).
    """
    metadata, spec, status = (_mapping(_mapping(obj).get(part)) for part in ("metadata", "spec", "status"))
    namespace, name, uid = (_text(metadata.get(key)) for key in ("namespace", "name", "uid"))
    if not (namespace and name and uid):
        raise ObjectError(f"a pod without namespace, name or uid: {namespace!a}/{name!a}")
    ips = [status.get("podIP"), *(_mapping(entry).get("ip") for entry in _sequence(status.get("podIPs")))]
    addresses = dict.fromkeys(address for address in map(canonical_address, ips) if address)
    return Pod(
        uid=uid,
        namespace=namespace,
        name=name,
        version=version_of(metadata.get("resourceVersion")),
        addresses=tuple(addresses),
        host_network=spec.get("hostNetwork") is True,
        finished=_text(status.get("phase")) in _FINISHED,
        terminating=bool(metadata.get("deletionTimestamp")),
        annotations=_annotations(metadata, POD_ANNOTATIONS),
        service_account=_text(spec.get("serviceAccountName")) or "default",
        workload=_workload(metadata, name),
        observed=_observed(status),
    )


def namespace_from(obj: Any) -> Namespace:
    """The namespace that an object, or only its metadata, describes.

    Raises:
        ObjectError: it has no name or uid.
    """
    metadata = _mapping(_mapping(obj).get("metadata"))
    name, uid = _text(metadata.get("name")), _text(metadata.get("uid"))
    if not (name and uid):
        raise ObjectError(f"a namespace without name or uid: {name!a}")
    return Namespace(
        uid=uid,
        name=name,
        version=version_of(metadata.get("resourceVersion")),
        annotations=_annotations(metadata, NAMESPACE_ANNOTATIONS),
    )


def _workload(metadata: Mapping[str, Any], name: str) -> str:
    """The name of what made the pod, as its author wrote it.

    A Deployment's without the ReplicaSet's hash, a CronJob's without the Job's time. A pod that nothing controls is its
    own workload.
    """
    owners = (_mapping(owner) for owner in _sequence(metadata.get("ownerReferences")))
    controller = next((owner for owner in owners if owner.get("controller") is True), None)
    if controller is None or not (owner := _text(controller.get("name"))):
        return name
    if controller.get("kind") == "ReplicaSet":
        label = _text(_mapping(metadata.get("labels")).get(_HASH_LABEL))
        if label and owner.endswith(f"-{label}"):
            return owner.removesuffix(f"-{label}")
        return _REPLICA_HASH.sub("", owner)
    if controller.get("kind") == "Job":
        return _CRON_STAMP.sub("", owner)
    return owner


def _observed(status: Mapping[str, Any]) -> str:
    """A digest of what the kubelet has written; empty when it has seen nothing of the pod run in its network.

    It keeps the addresses of a sandbox that has ended in what it writes, until there is another.
    """
    if not status or not _runs(status):
        return ""
    conditions = [
        condition
        for condition in map(_mapping, _sequence(status.get("conditions")))
        if _text(condition.get("type")) in _CONDITIONS
    ]
    written = repr([[status.get(key) for key in _OBSERVED], conditions])
    return hashlib.blake2b(written.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def _runs(status: Mapping[str, Any]) -> bool:
    for condition in map(_mapping, _sequence(status.get("conditions"))):
        if condition.get("type") == "PodReadyToStartContainers":
            return condition.get("status") == "True"
    # Before Kubernetes 1.29 only the containers tell.
    containers = [
        container for key in ("initContainerStatuses", "containerStatuses") for container in _sequence(status.get(key))
    ]
    states = [_mapping(_mapping(container).get("state")) for container in containers]
    return not states or any("running" in state for state in states)


def _annotations(metadata: Mapping[str, Any], keys: frozenset[str]) -> Mapping[str, str]:
    annotations = _mapping(metadata.get("annotations"))
    # A value that is no text (the API server and our reading of YAML refuse it) is not taken for absent, but for a text
    # that is malformed wherever it matters: what it looks like, `None` or `7`, could be a role's name.
    return {
        key: value if isinstance(value, str) else f"not a text: {type(value).__name__}"
        for key, value in annotations.items()
        if key in keys
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

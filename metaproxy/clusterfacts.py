"""What the doctor keeps of the cluster's pods and namespaces beyond what the agent keeps.

Knows: where in an object the node, capabilities, further networks and other tools' annotations stand.
Must not know: what any of it means for a verdict; how objects arrive. Total: what is misshapen is taken as absent, and
where absent means danger, as danger.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from metaproxy.objects import namespace_from, pod_from
from metaproxy.pods import NAMESPACE_ANNOTATIONS, POD_ANNOTATIONS, Namespace, Pod

NETWORKS = "k8s.v1.cni.cncf.io/networks"
"""The annotation by which Multus gives a pod further networks."""

_ALL, _RAW = "ALL", "NET_RAW"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """A pod with what else is known of it.

    `net_raw`: whether a container of it may send packets as it likes; None when its containers are not known.
    `networks`: the further networks that it asks for; None when that is not known. `annotations`: those of the keys
    that were asked for.
    """

    pod: Pod
    node: str = ""
    net_raw: bool | None = None
    networks: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Whom a finding names: replicas are one."""
        return f"{self.pod.namespace}/{self.pod.workload or self.pod.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceFacts:
    """A namespace with the annotations of the keys that were asked for."""

    namespace: Namespace
    annotations: Mapping[str, str] = field(default_factory=dict)


def pod_facts(obj: Any, keys: AbstractSet[str] = frozenset()) -> PodFacts:
    """What an object says.

    Raises:
        ObjectError: it has no name, namespace or uid.
    """
    pod = pod_from(obj)
    metadata, spec = _mapping(obj.get("metadata")), _mapping(obj.get("spec"))
    annotations = _texts(metadata, POD_ANNOTATIONS | keys | {NETWORKS})
    return PodFacts(
        pod=pod,
        node=_text(spec.get("nodeName")),
        net_raw=any(_may_send_raw(container) for container in _containers(spec)),
        networks=annotations.pop(NETWORKS, ""),
        annotations=annotations,
    )


def namespace_facts(obj: Any, keys: AbstractSet[str] = frozenset()) -> NamespaceFacts:
    """What an object, or only its metadata, says.

    Raises:
        ObjectError: it has no name or uid.
    """
    namespace = namespace_from(obj)
    return NamespaceFacts(
        namespace=namespace, annotations=_texts(_mapping(obj.get("metadata")), NAMESPACE_ANNOTATIONS | keys)
    )


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if _mapping(spec.get("os")).get("name") == "windows":
        return
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        listed = spec.get(kind)
        yield from map(_mapping, listed if isinstance(listed, list) else [])


def _may_send_raw(container: Mapping[str, Any]) -> bool:
    """Whether it is left with NET_RAW, which container runtimes give to everybody."""
    context = _mapping(container.get("securityContext"))
    capabilities = _mapping(context.get("capabilities"))
    dropped, added = _names(capabilities.get("drop")), _names(capabilities.get("add"))
    return context.get("privileged") is True or bool(added & {_ALL, _RAW}) or not dropped & {_ALL, _RAW}


def _names(value: Any) -> set[str]:
    """Capabilities, in the one spelling of the two that runtimes take."""
    listed = value if isinstance(value, list) else []
    return {item.upper().removeprefix("CAP_") for item in listed if isinstance(item, str)}


def _texts(metadata: Mapping[str, Any], keys: AbstractSet[str]) -> dict[str, str]:
    found = _mapping(metadata.get("annotations"))
    return {key: value for key in keys if isinstance(value := found.get(key), str)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

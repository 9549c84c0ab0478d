"""Pods and namespaces: what metaproxy keeps of them, and of which annotations.

Knows: when a pod may own addresses, what goes on from one version of it to the next.
Must not know: Kubernetes client types, which address is whose, what an annotation says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ROLE = "iam.amazonaws.com/role"
SESSION_NAME = "iam.amazonaws.com/session-name"
EXTERNAL_ID = "iam.amazonaws.com/external-id"
PERMITTED = "iam.amazonaws.com/permitted"
ALLOWED_ROLES = "iam.amazonaws.com/allowed-roles"
IMDS_TOKENS = "metaproxy.dev/imds-tokens"

POD_ANNOTATIONS = frozenset({ROLE, SESSION_NAME, EXTERNAL_ID})
NAMESPACE_ANNOTATIONS = frozenset({PERMITTED, ALLOWED_ROLES, IMDS_TOKENS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What metaproxy keeps of a pod.

    `addresses` are canonical texts of all its podIPs. `finished`: Succeeded or Failed, its address is free.
    `terminating`: being deleted, still running. `remembered`: its addresses were blank in the last event and are those
    seen before. `annotations` has only the keys of `POD_ANNOTATIONS`. `workload` is its controller's name. `observed`
    is a digest of what the kubelet alone writes of it: it differs when the kubelet has looked anew, and is empty when
    it saw nothing of the pod run.
    """

    uid: str
    namespace: str
    name: str
    version: int = 0
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    finished: bool = False
    terminating: bool = False
    remembered: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"
    workload: str = ""
    observed: str = ""

    @property
    def live(self) -> bool:
        """Whether the pod may own addresses and have a role: a hostNetwork pod's address is the node's."""
        return not self.finished and not self.host_network


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """What metaproxy keeps of a namespace; `annotations` has only the keys of `NAMESPACE_ANNOTATIONS`."""

    uid: str
    name: str
    version: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)


def merged_pod(before: Pod | None, after: Pod, listed: bool) -> Pod:
    """What is kept of a pod when a new version of it is seen: in a list if `listed`, else in an event."""
    if before is None or not after.version:
        return after
    if before.finished and not after.finished:
        # A finished pod never runs again, whatever a later status says (kubernetes#125370).
        after = replace(after, finished=True)
    if not after.addresses and before.addresses and not after.finished and not listed:
        # A status may be blank for a moment; the pod still answers at its address until somebody else claims it. Not so
        # in a list: what came before it was perhaps not seen, and so neither who claimed the address meanwhile.
        # The kubelet has not looked at an address that it leaves out.
        after = replace(after, addresses=before.addresses, remembered=True, observed=before.observed)
    return after

"""What kiam and kube2iam decide for a pod, as they do it: their way of resolving, anchoring, and checking.

Knows: both peers' rules, and which of their flags bear on them.
Must not know: what we would decide.

Sources: kiam 4.2 (pkg/server/policy.go, pkg/aws/sts), kube2iam 0.12 (mappings/mapper.go, iam/arn.go). Total: whatever
stands in an annotation, the answer is a role or none; where a peer would fail or STS would refuse, there is none.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Self

import re2

from metaproxy.migration import MigrationError, Peer, flags_in
from metaproxy.pods import ALLOWED_ROLES, EXTERNAL_ID, PERMITTED, ROLE
from metaproxy.roles import BaseArn, RoleArn, RoleSyntaxError, external_id

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20

_FLAGS = {
    "role-base-arn": "base",
    "base-role-arn": "base",
    "default-role": "default_role",
    "iam-role-key": "role_key",
    "iam-external-id": "external_id_key",
    "namespace-key": "namespace_key",
}


NODE_ROLE = "the node's own role"
"""What kube2iam gives with --auto-discover-default-role: nobody here knows it by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the peer gives: a role by its ARN, with which external id. `unchecked`: no namespace was asked about it."""

    role: str
    external_id: str | None = None
    unchecked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRules:
    """How a peer was started, as far as it decides. `base` empty: what our own rules stand on."""

    peer: Peer
    base: str = ""
    default_role: str = ""
    node_role: bool = False
    restricted: bool = False
    expressions: bool = False
    anchored: bool = True
    role_key: str = ROLE
    external_id_key: str = EXTERNAL_ID
    namespace_key: str = ALLOWED_ROLES

    @classmethod
    def of(cls, peer: Peer, flags: Sequence[str]) -> Self:
        """By the peer's own flags.

        Raises:
            MigrationError: a flag is not one of the peer's, lacks its value, or has one that cannot be meant.
        """
        chosen: dict[str, Any] = {}
        for flag in flags_in(peer, flags):
            name, value = flag.name, flag.value
            if name in _FLAGS:
                chosen[_FLAGS[name]] = value
            elif name == "namespace-restrictions":
                chosen["restricted"] = value == "true"
            elif name == "namespace-restriction-format":
                chosen["expressions"] = value.lower() == "regexp"
            elif name == "disable-strict-namespace-regexp":
                chosen["anchored"] = value != "true"
            elif name == "auto-discover-default-role":
                chosen["node_role"] = value == "true"
        if chosen.get("node_role"):
            chosen.pop("base", None)  # what is discovered with the role takes the place of what was given
        if chosen.get("base"):
            try:
                chosen["base"] = BaseArn.parse(chosen["base"]).arn
            except RoleSyntaxError as error:
                raise MigrationError(str(error)) from error
        return cls(peer=peer, **chosen)

    @property
    def keys(self) -> AbstractSet[str]:
        """The annotations that it reads."""
        return {self.role_key, self.external_id_key, self.namespace_key}

    def served(self, pod: Mapping[str, str], namespace: Mapping[str, str], base: str) -> Served | None:
        """What a pod with these annotations gets in a namespace with those; `base` is ours, where none was given."""
        ours = self.base or base
        served = self._kiam(pod, namespace, ours) if self.peer == "kiam" else self._kube2iam(pod, namespace, ours)
        # What STS takes for no role, or no external id, is refused there: nobody is served.
        if served is None or not (served.role == NODE_ROLE or _is_role(served.role)):
            return None
        given = pod.get(self.external_id_key) or None
        if given is not None and not _is_external_id(given):
            return None
        return replace(served, external_id=given)

    def _kiam(self, pod: Mapping[str, str], namespace: Mapping[str, str], base: str) -> Served | None:
        text, pattern = pod.get(ROLE), namespace.get(PERMITTED)
        if not text or not pattern:
            return None
        role = text if text.startswith("arn:") else f"{base}{text.removeprefix('/')}"
        # Ends are put around the whole, so that in a|b the one holds for a, the other for b.
        return Served(role=role) if found(f"^{pattern}$" if self.anchored else pattern, role) else None

    def _kube2iam(self, pod: Mapping[str, str], namespace: Mapping[str, str], base: str) -> Served | None:
        default = self._named(self.default_role, base) if self.default_role else ""
        text = pod.get(self.role_key)
        if text is None and self.node_role:
            return Served(role=NODE_ROLE, unchecked=self.restricted)
        role = default if text is None else self._named(text, base)
        if not self.restricted:
            return Served(role=role)
        if role == default:
            return Served(role=role, unchecked=True)
        patterns = [self._named(each, base) for each in _decoded(namespace.get(self.namespace_key, ""))]
        match = found if self.expressions else crosses
        return Served(role=role) if any(match(pattern, role) for pattern in patterns) else None

    def _named(self, text: str, base: str) -> str:
        return text if text.lower().startswith("arn:") else f"{base}{text}"


def found(pattern: str, text: str) -> bool:
    """Whether an expression matches a part of the text, as Go's MatchString has it; what is no expression does not."""
    try:
        return re2.compile(pattern, _OPTIONS).search(text) is not None
    except (re2.error, ValueError):
        return False


def crosses(pattern: str, text: str) -> bool:
    """Whether a glob matches the whole text, its stars crossing slashes."""
    parts = "(?s:.*)".join(re2.escape(part) for part in pattern.split("*"))
    return found(rf"\A{parts}\z", text)


def _decoded(text: str) -> Iterable[str]:
    """The patterns of a list. Go's decoder keeps what is good of a list in which something else is not text."""
    try:
        listed = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    return [item if isinstance(item, str) else "" for item in listed] if isinstance(listed, list) else []


def _is_role(text: str) -> bool:
    try:
        RoleArn.parse(f"arn:{text[4:]}" if text.lower().startswith("arn:") else text)
    except RoleSyntaxError:
        return False
    return True


def _is_external_id(text: str) -> bool:
    try:
        external_id(text)
    except RoleSyntaxError:
        return False
    return True

"""The IAM documents that the set-up needs: who may assume what, and whom the roles trust.

Knows: policies and trust policies as IAM reads them.
Must not know: how they are printed, what is set up already, AWS's API.

Least is given: `sts:TagSession` and `sts:SetSourceIdentity` only where the agent sends tags or a source identity,
because a trust policy that lacks one of them refuses the whole call.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VERSION = "2012-10-17"

AGENT, TRUST = "MetaproxyAssumesRoles", "MetaproxyMayAssumeThis"
"""Ids of our statements: a document that has one already gets it replaced, not doubled."""

Document = dict[str, Any]


def actions(*, tags: bool, source_identity: bool) -> list[str]:
    """What an AssumeRole call needs, in both the caller's policy and the role's trust policy."""
    needed = ["sts:AssumeRole"]
    if tags:
        needed.append("sts:TagSession")
    if source_identity:
        needed.append("sts:SetSourceIdentity")
    return needed


def policy(roles: Iterable[str], allowed: Sequence[str]) -> Document:
    """May assume these roles, by their ARNs or patterns of them; any if there are none."""
    return _document([{"Sid": AGENT, "Effect": "Allow", "Action": _one(allowed), "Resource": _one([*roles] or ["*"])}])


def trust_policy(
    principals: Sequence[str], allowed: Sequence[str], *, external_id: str = "", existing: Any = None
) -> Document:
    """Trusts these roles, and whatever an existing trust policy trusts (`ec2.amazonaws.com`, say).

    `principals` are ARNs of roles that exist: IAM refuses any other. Raises ValueError when the existing document is no
    policy.
    """
    statement: Document = {
        "Sid": TRUST,
        "Effect": "Allow",
        "Principal": {"AWS": _one(principals)},
        "Action": _one(allowed),
    }
    if external_id:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    kept = [] if existing is None else _statements(existing)
    document = _document([*(each for each in kept if each.get("Sid") != TRUST), statement])
    return {**existing, **document} if existing is not None else document


def _document(statements: list[Document]) -> Document:
    return {"Version": VERSION, "Statement": statements}


def _statements(document: Any) -> list[Document]:
    found = document.get("Statement") if isinstance(document, Mapping) else None
    listed = found if isinstance(found, list) else [found]
    statements = [dict(each) for each in listed if isinstance(each, Mapping)]
    if len(statements) != len(listed):
        raise ValueError("it is no policy: a policy has a Statement")
    return statements


def _one(values: Sequence[str]) -> str | list[str]:
    """A single value stands for itself, as IAM gives it back."""
    return values[0] if len(values) == 1 else list(values)

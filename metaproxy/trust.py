"""Trust policies as IAM reads them, as far as AssumeRole goes: for the demo's STS, never for the agent.

Knows: principals by full ARN, actions, the external id's condition; an explicit Deny beats every Allow.
Must not know: who asks over which wire. Total: a policy that cannot be read trusts nobody.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from metaproxy.roles import PARTITION

_SESSION = re.compile(rf"arn:({PARTITION}):sts::([0-9]{{12}}):assumed-role/([^/]+)/[^/]+", re.ASCII)
_ACCOUNT = re.compile(rf"arn:{PARTITION}:iam::([0-9]{{12}}):root", re.ASCII)


def trusted(
    policy: Any, *, principal: str, external_id: str | None = None, actions: Sequence[str] = ("sts:AssumeRole",)
) -> bool:
    """Whether a role with this trust policy may be assumed by the principal, a role's ARN or a session's.

    `actions` are all that the call needs: tags need `sts:TagSession` beside `sts:AssumeRole`.
    """
    statements = [item for item in _listed(_mapping(policy).get("Statement")) if isinstance(item, Mapping)]
    return all(_decided(statements, principal, external_id, action) for action in actions)


def _decided(statements: Sequence[Mapping[str, Any]], principal: str, external_id: str | None, action: str) -> bool:
    effects = {
        statement.get("Effect")
        for statement in statements
        if _acts(statement, action) and _names(statement, principal) and _conditions_hold(statement, external_id)
    }
    return "Allow" in effects and "Deny" not in effects


def _acts(statement: Mapping[str, Any], action: str) -> bool:
    return any(_like(str(pattern).lower(), action.lower()) for pattern in _listed(statement.get("Action")))


def _names(statement: Mapping[str, Any], principal: str) -> bool:
    named = statement.get("Principal")
    patterns = _listed(_mapping(named).get("AWS")) if isinstance(named, Mapping) else _listed(named)
    return any(_is_principal(str(pattern), principal) for pattern in patterns)


def _is_principal(pattern: str, principal: str) -> bool:
    """Whether a Principal entry is this principal: `*`, the account, or the full ARN; IAM has no wildcards within ARNs.

    A session's ARN carries no path, so a role with a path is known by its role ARN alone.
    """
    if pattern in {"*", principal}:
        return True
    session = _SESSION.fullmatch(principal)
    if session and pattern == f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}":
        return True
    account = _ACCOUNT.fullmatch(pattern)
    named = account[1] if account else pattern
    return named.isdigit() and principal.split(":")[4:5] == [named]


def _conditions_hold(statement: Mapping[str, Any], external_id: str | None) -> bool:
    """Whether every condition holds. One that is not known here does not: a condition is never skipped."""
    for operator, tests in _mapping(statement.get("Condition")).items():
        for key, values in _mapping(tests).items():
            if key.lower() != "sts:externalid" or operator not in {"StringEquals", "StringLike"}:
                return False
            match = _like if operator == "StringLike" else str.__eq__
            if external_id is None or not any(match(str(value), external_id) for value in _listed(values)):
                return False
    return True


def _like(pattern: str, text: str) -> bool:
    parts = (re.escape(part).replace(r"\?", ".") for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), text, re.DOTALL) is not None


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list) else [value]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

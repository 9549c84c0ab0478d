"""Trust policies as IAM reads them, as far as AssumeRole goes: for the demo's STS, never for the agent.

Knows: principals, actions, the external id's condition; an explicit Deny beats every Allow.
Must not know: who asks over which wire. Total and closed: what cannot be read allows nothing, and denies what it may.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from metaproxy.roles import PARTITION

_ROLE = re.compile(rf"arn:({PARTITION}):iam::([0-9]{{12}}):role/(?:.+/)?([^/]+)", re.ASCII)
_ACCOUNT = re.compile(rf"(?:arn:{PARTITION}:iam::)?([0-9]{{12}})(?::root)?", re.ASCII)
_OPERATORS = frozenset({"StringEquals", "StringLike"})


def trusted(
    policy: Any,
    *,
    principal: str,
    session_name: str = "",
    external_id: str | None = None,
    actions: Sequence[str] = ("sts:AssumeRole",),
) -> bool:
    """Whether a role with this trust policy may be assumed by a session of the role `principal` (a role ARN).

    `actions` are all that the call needs: tags need `sts:TagSession` beside `sts:AssumeRole`, a source identity
    `sts:SetSourceIdentity`. Each needs an Allow and no Deny. What the principal's own policies say is not known here.
    """
    who = frozenset({principal, *_session(principal, session_name)})
    statements = [item for item in _listed(_mapping(policy).get("Statement")) if isinstance(item, Mapping)]
    return all(_decided(statements, who, external_id, action) for action in actions)


def _decided(
    statements: Sequence[Mapping[str, Any]], who: frozenset[str], external_id: str | None, action: str
) -> bool:
    allowed = False
    for statement in statements:
        if not _acts(statement, action) or not _names(statement, who):
            continue
        holds = _conditions_hold(statement, external_id)
        if statement.get("Effect") == "Allow":
            allowed = allowed or holds is True
        elif holds is not False:
            return False  # a Deny, or an effect that is neither; also one under a condition that is not known here
    return allowed


def _acts(statement: Mapping[str, Any], action: str) -> bool:
    key = "Action" if "Action" in statement else "NotAction"
    listed = any(_like(str(pattern).lower(), action.lower()) for pattern in _listed(statement.get(key)))
    # Who allows all but something allows too much to be taken at its word here; who denies it is.
    return listed if key == "Action" else not listed and statement.get("Effect") != "Allow"


def _names(statement: Mapping[str, Any], who: frozenset[str]) -> bool:
    key = "Principal" if "Principal" in statement else "NotPrincipal"
    named = statement.get(key)
    patterns = _listed(named.get("AWS")) if isinstance(named, Mapping) else _listed(named)
    listed = any(_is_one_of(str(pattern), who) for pattern in patterns)
    return listed if key == "Principal" else not listed and statement.get("Effect") != "Allow"


def _is_one_of(pattern: str, who: frozenset[str]) -> bool:
    """Whether a Principal entry names one of these ARNs: `*`, their account, or the whole ARN; no wildcards within."""
    if pattern == "*" or pattern in who:
        return True
    account = _ACCOUNT.fullmatch(pattern)
    return account is not None and any(arn.split(":")[4:5] == [account[1]] for arn in who)


def _session(role: str, session_name: str) -> tuple[str, ...]:
    """The ARN of a role's session, by which a policy may name just that one; it lacks the role's path."""
    match = _ROLE.fullmatch(role)
    return (f"arn:{match[1]}:sts::{match[2]}:assumed-role/{match[3]}/{session_name}",) if match else ()


def _conditions_hold(statement: Mapping[str, Any], external_id: str | None) -> bool | None:
    """Whether every condition holds; None when one is not known here, so that nobody can tell."""
    if "Condition" not in statement:
        return True
    conditions = statement["Condition"]
    if not isinstance(conditions, Mapping):
        return None
    outcomes: set[bool | None] = {True}
    for operator, tests in conditions.items():
        if operator not in _OPERATORS or not isinstance(tests, Mapping):
            outcomes.add(None)
            continue
        match = _like if operator == "StringLike" else str.__eq__
        for key, values in tests.items():
            if str(key).lower() != "sts:externalid":
                outcomes.add(None)
            else:
                outcomes.add(external_id is not None and any(match(str(v), external_id) for v in _listed(values)))
    return False if False in outcomes else None if None in outcomes else True


def _like(pattern: str, text: str) -> bool:
    """Whether the text matches a pattern in which `*` stands for any text and `?` for one character."""
    parts = (re.escape(part).replace(r"\?", ".") for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), text, re.DOTALL) is not None


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list) else [value]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

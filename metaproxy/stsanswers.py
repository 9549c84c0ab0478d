"""What STS answers, read as foreign input: a session, or who we are.

Knows: the shape of the answers, and what clients can read.
Must not know: how they were had. Total: an answer that lacks something is `StsUnreachable`, whatever it lacks.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from metaproxy.credentials import KEY_LIMIT, READABLE, TOKEN_LIMIT, Credentials, Secret
from metaproxy.errors import StsOwnIdentity, StsUnreachable
from metaproxy.roles import PARTITION, AssumeRole

_ARN = re.compile(rf"arn:({PARTITION}):(?:sts|iam)::([0-9]{{12}}):([!-~]+)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who we are to AWS: `arn` is a session's, a user's or the account's."""

    arn: str
    account: str
    partition: str

    @property
    def role(self) -> str:
        """The ARN that a trust policy must name; a session's role without its path, which STS does not tell."""
        kind, _, rest = self.arn.rpartition(":")[2].partition("/")
        if kind != "assumed-role":
            return self.arn
        return f"arn:{self.partition}:iam::{self.account}:role/{rest.partition('/')[0]}"


def identity_in(answer: Any) -> Identity:
    """The identity in an answer to GetCallerIdentity."""
    arn = _at(answer, "Arn")
    match = _ARN.fullmatch(arn) if isinstance(arn, str) else None
    if match is None:
        raise _unreadable("Arn")
    return Identity(arn=match[0], account=match[2], partition=match[1])


def session_in(answer: Any, call: AssumeRole, issued: float) -> Credentials:
    """The session in an answer to the call, asked for at `issued` (Unix seconds, our clock).

    Raises:
        StsUnreachable: something is missing, clients could not read it, or it is somebody else's session.
        StsOwnIdentity: it is over already: the clocks of STS and of the node do not agree.
    """
    parts = _at(answer, "Credentials")
    key, secret, token = (
        _plain(parts, name, limit)
        for name, limit in (
            ("AccessKeyId", KEY_LIMIT),
            ("SecretAccessKey", KEY_LIMIT),
            ("SessionToken", TOKEN_LIMIT),
        )
    )
    expires = _at(parts, "Expiration")
    if not isinstance(expires, datetime) or expires.tzinfo is None:
        raise _unreadable("Expiration")
    user = _at(_at(answer, "AssumedRoleUser"), "Arn")
    role = call.role
    asked = f"arn:{role.partition}:sts::{role.account}:assumed-role/{role.name}/{call.session_name}"
    # Names of roles are one whatever their case, and STS may answer with the one that IAM has.
    if user is not None and (not isinstance(user, str) or user.lower() != asked.lower()):
        raise _unreadable("AssumedRoleUser")
    if expires.timestamp() <= issued:
        raise StsOwnIdentity(
            "STS gave a session that is over by the node's clock",
            remedy="the operator should look at the node's clock",
            code="ClockSkew",
        )
    return Credentials(
        access_key_id=key,
        secret_access_key=Secret(secret),
        session_token=Secret(token),
        account=role.account,
        issued=issued,
        expires=expires.timestamp(),
    )


def _at(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _plain(value: Any, name: str, limit: int) -> str:
    text = _at(value, name)
    if not isinstance(text, str) or len(text) > limit or READABLE.fullmatch(text) is None:
        raise _unreadable(name)
    return text


def _unreadable(name: str) -> StsUnreachable:
    return StsUnreachable(
        f"STS gave an answer that cannot be read ({name})",
        remedy="ask again; the operator should look at what stands between the agent and STS",
        code="Unreadable",
    )

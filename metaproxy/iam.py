"""`metaproxy iam`: the IAM documents of a set-up, for its settings.

Knows: which document each verb means, and what it needs to be told.
Must not know: how a document is written, AWS's API: nothing is asked or changed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from metaproxy.iamdocuments import actions, policy, trust_policy
from metaproxy.iamformats import FORMATS, Kind
from metaproxy.roles import BaseArn, RoleArn, RoleSyntaxError, resolve

VERBS = ("node-policy", "hop-policy", "hop-trust", "trust-policy")


class IamError(ValueError):
    """Something is missing or malformed: says what to give."""


def document(
    verb: str,
    *,
    hop: str,
    base: str,
    tags: bool,
    source_identity: bool,
    roles: Sequence[str] = (),
    node_roles: Sequence[str] = (),
    external_id: str = "",
    existing: str = "",
    form: str = "json",
) -> str:
    """The document of a verb, as text.

    `hop` is the separate role, `base` what role names stand on, empty where there is none; `tags` and
    `source_identity` tell whether the agent sends any.

    Raises:
        IamError: the set-up does not say enough, or the existing document cannot be read.
    """
    needed = actions(tags=tags, source_identity=source_identity)
    wanted = [_role(text, BaseArn.parse(base) if base else None) for text in roles]
    if external_id and verb != "trust-policy":
        raise IamError("--external-id: only an application role's trust policy asks for one")
    if verb.startswith("hop-") and not hop:
        raise IamError("--assume-role-arn: name the separate role")
    kind: Kind = "policy"
    path = "/"
    if verb == "node-policy":
        name = "metaproxy-node"
        written = policy([hop], ["sts:AssumeRole"]) if hop else policy([role.arn for role in wanted], needed)
    elif verb == "hop-policy":
        name = f"{RoleArn.parse(hop).name}-policy"
        written = policy([role.arn for role in wanted], needed)
    else:
        kind = "trust"
        if verb == "trust-policy" and len(wanted) != 1:
            raise IamError("--role: name the one role whose trust policy it is")
        trusting = RoleArn.parse(hop) if verb == "hop-trust" else wanted[0]
        name, path = trusting.name, trusting.path
        principals = [hop] if verb == "trust-policy" and hop else [_arn(text) for text in node_roles]
        if not principals:
            raise IamError("--node-role: name the role of the nodes, or of the agent, by its ARN")
        try:
            written = trust_policy(
                principals,
                ["sts:AssumeRole"] if verb == "hop-trust" else needed,
                external_id=external_id,
                existing=json.loads(Path(existing).read_bytes()) if existing else None,
            )
        except (OSError, ValueError) as error:
            raise IamError(f"--existing: {existing}: {error}") from error
    return FORMATS[form](written, kind, name, path)


def _role(text: str, base: BaseArn | None) -> RoleArn:
    try:
        role = resolve(text, base)
    except RoleSyntaxError as error:
        raise IamError(f"--role: {error}") from error
    if role is None:
        raise IamError("--role: give its ARN, or what names stand on by --role-base-arn")
    return role


def _arn(text: str) -> str:
    try:
        return RoleArn.parse(text).arn
    except RoleSyntaxError as error:
        raise IamError(f"--node-role: {error}") from error

"""May it: from a pod, its namespace and the operator's rules to the AssumeRole call it is entitled to, or a denial.

Knows: the annotations of kiam and kube2iam and what they mean, the operator's bounds, and how to explain each decision.
Must not know: where facts came from, STS, HTTP, the clock.

Total: whatever stands in an annotation, the answer is a Grant or a Denial, and hurts only the pods it stands on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from metaproxy.errors import Reason
from metaproxy.patterns import PatternError, expression, glob, patterns_in
from metaproxy.pods import ALLOWED_ROLES, EXTERNAL_ID, IMDS_TOKENS, PERMITTED, ROLE, SESSION_NAME, Namespace, Pod
from metaproxy.roles import (
    AssumeRole,
    BaseArn,
    RoleArn,
    RoleSyntaxError,
    external_id,
    filled,
    resolve,
    session_name,
    source_identity,
    tag_value,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator decided. `base` is None until it is known; `duration` is in seconds.

    `allow` bounds everything: globs over whole ARNs of which one must match; none at all means no bound.
    `tags` are session tags, `source_identity` a source identity, both as templates like `session_name`.
    """

    base: BaseArn | None = None
    default_role: str = ""
    namespace_required: bool = True
    allow: tuple[str, ...] = ()
    session_name: str = "{namespace}.{workload}"
    tags: tuple[tuple[str, str], ...] = ()
    source_identity: str = ""
    duration: int = 3600
    node: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The pod may have this session; `rule` says by what."""

    call: AssumeRole
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """The pod may not, or not yet: `retryable` when the missing fact may arrive at any moment.

    `rule` names what decided, `message` what is wrong, `remedy` what to do.
    """

    reason: Reason
    status: int
    rule: str
    message: str
    remedy: str
    retryable: bool = False


Decision = Grant | Denial


class _DeniedError(Exception):
    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.message)
        self.denial = denial


def decide(pod: Pod, namespace: Namespace | None, rules: Rules) -> Decision:
    """Whether the pod may have a role, and exactly which session of it."""
    try:
        role, source = _wanted(pod, rules)
        rule = _permitted(role, pod, namespace, rules)
        return Grant(call=_call(role, pod, rules), rule=f"{source}; {rule}")
    except _DeniedError as denied:
        return denied.denial


def tokens_required(namespace: Namespace | None, *, default: bool) -> bool:
    """Whether requests from a namespace need an IMDSv2 token: its own word, else the operator's.

    A word that is neither `required` nor `optional` counts as the stricter one.
    """
    word = namespace.annotations.get(IMDS_TOKENS) if namespace else None
    return default if word is None else word.strip() != "optional"


def _wanted(pod: Pod, rules: Rules) -> tuple[RoleArn, str]:
    """The role that is wanted for the pod, and what says so."""
    annotation = pod.annotations.get(ROLE)
    if annotation is None and not rules.default_role:
        raise _denied(
            Reason.NO_ROLE,
            404,
            "no annotation",
            "the pod has no role",
            remedy=f"annotate the pod with {ROLE} if it should have one",
        )
    if annotation is not None and not annotation.strip():
        # Present but blank: somebody wants no role here, so the default is not for it either.
        raise _denied(
            Reason.NO_ROLE, 404, f"annotation {ROLE}", "the pod's role is blank", remedy=f"name a role in {ROLE}"
        )
    text = rules.default_role if annotation is None else annotation.strip()
    source = "default role" if annotation is None else f"annotation {ROLE}"
    try:
        role = resolve(text, rules.base)
    except RoleSyntaxError as error:
        raise _denied(
            Reason.ROLE_MALFORMED, 403, source, str(error), remedy=f"put a role name, PATH/NAME or role ARN into {ROLE}"
        ) from error
    if role is None:
        raise _no_base(source)
    return role, source


def _permitted(role: RoleArn, pod: Pod, namespace: Namespace | None, rules: Rules) -> str:
    """What permits the role: every rule that is there must."""
    if rules.allow and not any(glob(pattern).fullmatch(role.arn) for pattern in rules.allow):
        raise _denied(
            Reason.NOT_ALLOWED,
            403,
            "operator's allow patterns",
            f"{role.arn} is not among the roles that this cluster may use",
            remedy="ask the operator to allow it, or use another role",
        )
    if namespace is None:
        raise _denied(
            Reason.NAMESPACE_UNKNOWN,
            503,
            "namespace",
            f"the namespace {pod.namespace} is not known yet",
            remedy="ask again; if it lasts, the operator should look at the agent's readiness",
            retryable=True,
        )
    rules_met = [
        name
        for name, met in (
            (PERMITTED, _permitted_by_expression(role, namespace)),
            (ALLOWED_ROLES, _permitted_by_list(role, namespace, rules.base)),
        )
        if met
    ]
    if rules_met:
        return f"namespace annotation {' and '.join(rules_met)}"
    if rules.namespace_required:
        raise _denied(
            Reason.NAMESPACE_SILENT,
            403,
            "namespace annotation",
            f"the namespace {namespace.name} permits no role",
            remedy=f"annotate the namespace with {PERMITTED} or {ALLOWED_ROLES}",
        )
    return "namespace policy is optional and the namespace is silent"


def _permitted_by_expression(role: RoleArn, namespace: Namespace) -> bool:
    """Whether kiam's annotation is there; it then permits the role, or this does not return."""
    pattern = namespace.annotations.get(PERMITTED)
    if pattern is None:
        return False
    try:
        met = expression(pattern).fullmatch(role.arn)
    except PatternError as error:
        raise _malformed(namespace, PERMITTED, error) from error
    if not met:
        raise _not_permitted(role, namespace, PERMITTED, "an expression that matches the whole ARN")
    return True


def _permitted_by_list(role: RoleArn, namespace: Namespace, base: BaseArn | None) -> bool:
    """Whether kube2iam's annotation is there; it then permits the role, or this does not return."""
    text = namespace.annotations.get(ALLOWED_ROLES)
    if text is None:
        return False
    try:
        patterns = patterns_in(text)
        names = [pattern.removeprefix("/") for pattern in patterns if not pattern.startswith("arn:")]
        # All of them before any is asked: whether a list can be used does not depend on its order or on the role.
        globs = [glob(pattern) for pattern in patterns if pattern.startswith("arn:")]
        globs += [glob(f"{base.arn}{name}") for name in names] if base else []
    except PatternError as error:
        raise _malformed(namespace, ALLOWED_ROLES, error) from error
    met = any(each.fullmatch(role.arn) for each in globs)
    if not met and names and base is None:
        raise _no_base(f"namespace annotation {ALLOWED_ROLES}")
    if not met:
        raise _not_permitted(role, namespace, ALLOWED_ROLES, "a name or pattern for it (* does not cross a slash)")
    return True


def _call(role: RoleArn, pod: Pod, rules: Rules) -> AssumeRole:
    values: Mapping[str, str] = {
        "namespace": pod.namespace,
        "workload": pod.workload or pod.name,
        "pod": pod.name,
        "service_account": pod.service_account,
        "node": rules.node,
        "cluster": rules.cluster,
        "uid": pod.uid,
    }
    name = pod.annotations.get(SESSION_NAME)
    if name is not None and not name.strip():
        raise _denied(
            Reason.SESSION_NAME_MALFORMED,
            403,
            f"annotation {SESSION_NAME}",
            "the session name is blank",
            remedy=f"name the session in {SESSION_NAME}, or remove it",
        )
    text = pod.annotations.get(EXTERNAL_ID)
    try:
        identifier = None if text is None else external_id(text.strip())
    except RoleSyntaxError as error:
        raise _denied(
            Reason.EXTERNAL_ID_MALFORMED,
            403,
            f"annotation {EXTERNAL_ID}",
            str(error),
            remedy=f"correct {EXTERNAL_ID}, or remove it",
        ) from error
    return AssumeRole(
        role=role,
        session_name=session_name(name.strip() if name else filled(rules.session_name, values)),
        duration=rules.duration,
        external_id=identifier,
        tags=tuple((key, tag_value(filled(template, values))) for key, template in rules.tags),
        source_identity=source_identity(filled(rules.source_identity, values)) if rules.source_identity else None,
    )


def _denied(
    reason: Reason, status: int, rule: str, message: str, *, remedy: str, retryable: bool = False
) -> _DeniedError:
    return _DeniedError(
        Denial(reason=reason, status=status, rule=rule, message=message, remedy=remedy, retryable=retryable)
    )


def _no_base(source: str) -> _DeniedError:
    return _denied(
        Reason.BASE_ARN_UNKNOWN,
        503,
        source,
        "the account for role names without an ARN is not known yet",
        remedy="ask again, or name the role by its full ARN; the operator can give --role-base-arn",
        retryable=True,
    )


def _malformed(namespace: Namespace, annotation: str, error: PatternError) -> _DeniedError:
    return _denied(
        Reason.NAMESPACE_MALFORMED,
        403,
        f"namespace annotation {annotation}",
        f"the annotation {annotation} of namespace {namespace.name} cannot be used: {error}",
        remedy=f"correct {annotation} on the namespace",
    )


def _not_permitted(role: RoleArn, namespace: Namespace, annotation: str, what: str) -> _DeniedError:
    return _denied(
        Reason.NOT_PERMITTED,
        403,
        f"namespace annotation {annotation}",
        f"the namespace {namespace.name} does not permit {role.arn}",
        remedy=f"put {what} into {annotation} on the namespace",
    )


def is_role(text: str, role: RoleArn) -> bool:
    """Whether a name on a URL is this role: its bare name, its path and name, or its ARN (contract M10)."""
    return text in _spellings(role)


@lru_cache(maxsize=1024)
def _spellings(role: RoleArn) -> Iterable[str]:
    return frozenset({role.name, f"{role.path[1:]}{role.name}", role.arn})

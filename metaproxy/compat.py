"""Which pods are decided differently than by kiam or kube2iam, and why.

Knows: our decision, the peer's, and by what they can differ.
Must not know: how pods were learnt, or any flag.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from metaproxy.clusterfacts import NamespaceFacts
from metaproxy.doctorchecks import Judged
from metaproxy.errors import Reason
from metaproxy.findings import Finding, Verdict, not_checked, ok
from metaproxy.peers import PeerRules, Served
from metaproxy.pods import ALLOWED_ROLES, PERMITTED, ROLE
from metaproxy.policy import Decision, Denial, Grant, Rules


class Why(StrEnum):
    """By what a decision differs."""

    ANCHORING = "anchoring"
    DEFAULT_ROLE = "default role"
    SHARING = "external-id sharing"
    CASE = "case"
    STARS = "stars cross slashes"
    RESTRICTION = "namespace restriction"
    BOTH = "both annotations count"
    BOUNDS = "operator's allow patterns"
    MALFORMED = "malformed annotation"
    SPELLING = "spelling"
    KEY = "annotation key"
    BASE = "base ARN"


REMEDIES: Mapping[Why, str] = {
    Why.ANCHORING: "write an expression that matches the whole ARN: .* where a part is meant, (a|b) around a choice",
    Why.DEFAULT_ROLE: f"annotate the pods with {ROLE} and let their namespace permit it; or see --policy.default-role",
    Why.SHARING: "nothing: each external id gets sessions of its own; see that the roles' trust policies have each",
    Why.CASE: "write arn: in small letters",
    Why.STARS: "name the path: a star ends at a slash (role/team/* in place of role/*)",
    Why.RESTRICTION: f"annotate the namespace with {PERMITTED} or {ALLOWED_ROLES}; see --policy.namespace-policy",
    Why.BOTH: f"let {PERMITTED} and {ALLOWED_ROLES} of the namespace both permit the role, or remove one",
    Why.BOUNDS: "add the role to --policy.allow",
    Why.MALFORMED: "correct the annotation: what cannot be read whole permits nothing",
    Why.SPELLING: "correct the annotation if the pod's role is not meant: spaces and slashes around it are dropped",
    Why.KEY: f"move the annotation to {ROLE}, iam.amazonaws.com/external-id or {ALLOWED_ROLES}",
    Why.BASE: "set --role-base-arn to the peer's, or name roles by their whole ARN",
}
"""What to do about each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A pod that gets something else: `lost` when the peer served it and we refuse."""

    why: Why
    lost: bool
    text: str


def difference(
    pod: Mapping[str, str], namespace: Mapping[str, str], decision: Decision, rules: Rules, peer: PeerRules
) -> Difference | None:
    """How the decision differs from the peer's for a pod with these annotations; None when it does not."""
    theirs = peer.served(pod, namespace, rules.base.arn if rules.base else "")
    if isinstance(decision, Denial):
        if theirs is None:
            return None
        text = f"{peer.peer} gives {theirs.role}; here {decision.reason}: {decision.message}"
        return Difference(why=_lost(pod, theirs, decision, peer), lost=True, text=text)
    ours = decision.call
    if theirs is None:
        text = f"{peer.peer} gives nothing; here {ours.role.arn} by {decision.rule}"
        return Difference(why=_gained(pod, namespace, decision, peer), lost=False, text=text)
    if (theirs.role, theirs.external_id) == (ours.role.arn, ours.external_id):
        return None
    text = f"{peer.peer} gives {_told(theirs.role, theirs.external_id)}; here {_told(ours.role.arn, ours.external_id)}"
    return Difference(why=_other(pod, theirs, decision, peer), lost=True, text=text)


def compat_findings(
    found: Sequence[Judged], namespaces: Mapping[str, NamespaceFacts], rules: Rules, peer: PeerRules
) -> Iterator[Finding]:
    """A row for each difference, with the pods that it concerns."""
    unknown = sum(isinstance(each.decision, Denial) and each.decision.retryable for each in found)
    if unknown:
        text = f"{unknown} pods cannot be decided yet: their namespace or account is not known"
        yield not_checked("compat", text, "mend base-arn first")
    rows: dict[Difference, dict[str, None]] = {}
    for each, other in _different(found, namespaces, rules, peer):
        rows.setdefault(other, {})[each.facts.subject] = None
    for other, subjects in rows.items():
        yield Finding(
            check="compat",
            verdict=Verdict.PROBLEM if other.lost else Verdict.WARNING,
            found=f"{other.why}: {other.text}",
            remedy=REMEDIES[other.why],
            subjects=tuple(subjects),
        )
    if not rows and not unknown:
        yield ok("compat", f"{len(found)} pods are decided as by {peer.peer}")


def _different(
    found: Sequence[Judged], namespaces: Mapping[str, NamespaceFacts], rules: Rules, peer: PeerRules
) -> Iterator[tuple[Judged, Difference]]:
    shared: dict[str, list[Judged]] = defaultdict(list)
    for each in found:
        if isinstance(each.decision, Denial) and each.decision.retryable:
            continue
        space = namespaces.get(each.facts.pod.namespace)
        annotations = space.annotations if space else {}
        other = difference(each.facts.annotations, annotations, each.decision, rules, peer)
        if other is not None:
            yield each, other
        elif isinstance(each.decision, Grant):
            shared[each.decision.call.role.arn].append(each)
    if peer.peer == "kube2iam":
        for role, sharing in shared.items():
            yield from ((each, shares) for shares in _sharing(role, sharing) for each in sharing)


def _sharing(role: str, found: Iterable[Judged]) -> Iterator[Difference]:
    """kube2iam keeps sessions by role alone: whoever asks first decides whose external id all others get."""
    ids = {each.decision.call.external_id for each in found if isinstance(each.decision, Grant)}
    if len(ids) > 1:
        text = f"kube2iam hands the session of any of {len(ids)} external ids for {role} to all of its pods"
        yield Difference(why=Why.SHARING, lost=False, text=text)


def _lost(pod: Mapping[str, str], theirs: Served, denial: Denial, peer: PeerRules) -> Why:
    """Why we refuse what the peer gives."""
    if theirs.unchecked or peer.role_key not in pod:
        return Why.DEFAULT_ROLE
    if denial.reason is Reason.NOT_PERMITTED:
        return _unpermitted(denial, peer)
    return {
        Reason.NO_ROLE: Why.KEY,
        Reason.ROLE_MALFORMED: Why.KEY,
        Reason.NOT_ALLOWED: Why.BOUNDS,
        Reason.NAMESPACE_SILENT: Why.KEY if peer.restricted else Why.RESTRICTION,
    }.get(denial.reason, Why.MALFORMED)


def _unpermitted(denial: Denial, peer: PeerRules) -> Why:
    """Which of a namespace's annotations refuses, and how the peer reads it."""
    if PERMITTED in denial.rule:
        return Why.ANCHORING if peer.peer == "kiam" else Why.BOTH
    if peer.peer == "kiam":
        return Why.BOTH
    if not peer.restricted:
        return Why.RESTRICTION
    if peer.namespace_key != ALLOWED_ROLES:
        return Why.KEY
    return Why.ANCHORING if peer.expressions else Why.STARS


def _gained(pod: Mapping[str, str], namespace: Mapping[str, str], grant: Grant, peer: PeerRules) -> Why:
    """Why we give what the peer refuses."""
    if ROLE not in pod:
        return Why.DEFAULT_ROLE
    if peer.role_key not in pod:
        return Why.KEY
    if peer.peer == "kiam" and not namespace.get(PERMITTED):
        return Why.BOTH if ALLOWED_ROLES in grant.rule else Why.RESTRICTION
    if peer.peer == "kube2iam" and peer.restricted and peer.namespace_key not in namespace:
        return Why.BOTH if PERMITTED in grant.rule else Why.RESTRICTION
    return Why.SPELLING


def _other(pod: Mapping[str, str], theirs: Served, grant: Grant, peer: PeerRules) -> Why:
    """Why we give something else than the peer."""
    if peer.role_key not in pod:
        return Why.DEFAULT_ROLE
    if pod.get(ROLE) != pod[peer.role_key]:
        return Why.KEY
    if theirs.role == grant.call.role.arn:
        return Why.KEY
    # Here only arn: begins an ARN; any other is a path below the base.
    return Why.BASE if theirs.role.startswith("arn:") else Why.CASE


def _told(role: str, identifier: str | None) -> str:
    return f"{role} with external id {identifier}" if identifier else role

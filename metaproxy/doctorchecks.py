"""Of the cluster: what was seen there, judged.

Knows: what the agent asks of the API server, what policy decides for each pod, and what to do where it refuses.
Must not know: how anything was asked, AWS.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from metaproxy.clusterfacts import NamespaceFacts, PodFacts
from metaproxy.errors import Reason
from metaproxy.findings import Finding, Verdict, not_checked, ok
from metaproxy.pods import ALLOWED_ROLES, PERMITTED, ROLE, Pod
from metaproxy.policy import Decision, Denial, Grant, Rules, decide
from metaproxy.roles import AssumeRole

_NAMESPACE = frozenset({Reason.NAMESPACE_SILENT, Reason.NOT_PERMITTED, Reason.NOT_ALLOWED, Reason.NAMESPACE_UNKNOWN})
_MALFORMED = frozenset({Reason.ROLE_MALFORMED, Reason.SESSION_NAME_MALFORMED, Reason.EXTERNAL_ID_MALFORMED})
BY_AGENT = "run metaproxy doctor in the agent's container: the API server tells it of pods"
"""What to do where nobody tells of pods."""

_PROBE = Pod(uid="", namespace="", name="", annotations={ROLE: "arn:aws:iam::000000000000:role/x"})


@dataclass(frozen=True, slots=True, order=True)
class Permission:
    """Something that the API server is asked for; `why` the agent needs it."""

    group: str
    resource: str
    verb: str
    why: str = field(default="", compare=False)


def permissions(*, events: bool, taint: bool) -> tuple[Permission, ...]:
    """What the agent asks the API server for, with these settings."""
    wanted = [
        Permission("", resource, verb, "who is calling, and what its namespace permits")
        for resource in ("pods", "namespaces")
        for verb in ("list", "watch")
    ]
    if events:
        wanted += [
            Permission("events.k8s.io", "events", verb, "owners of pods are told of refusals")
            for verb in ("create", "patch")
        ]
    if taint:
        wanted += [Permission("", "nodes", verb, "the startup taint") for verb in ("get", "patch")]
    return tuple(wanted)


def permission_findings(wanted: Sequence[Permission], denied: Sequence[Permission]) -> Iterator[Finding]:
    """Of what the API server said that it permits."""
    if not denied:
        yield ok("api-permissions", f"all {len(wanted)} that are needed")
        return
    verbs: dict[tuple[str, str], list[str]] = {}
    for each in denied:
        verbs.setdefault((each.group, each.resource), []).append(each.verb)
    yield Finding(
        check="api-permissions",
        verdict=Verdict.PROBLEM,
        found=f"refused: {', '.join(f'{each.verb} {each.resource} ({each.why})' for each in denied)}",
        remedy="add these rules to the ClusterRole of whoever asked: the agent's service account, or you",
        document=[
            {"apiGroups": [group], "resources": [resource], "verbs": listed}
            for (group, resource), listed in verbs.items()
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A pod that may own addresses, and what policy decides for it."""

    facts: PodFacts
    decision: Decision


def judged(pods: Iterable[PodFacts], namespaces: Mapping[str, NamespaceFacts], rules: Rules) -> list[Judged]:
    """Every live pod with what the agent would decide."""
    return [
        Judged(facts=facts, decision=decide(facts.pod, there.namespace if there else None, rules))
        for facts in pods
        if facts.pod.live
        for there in (namespaces.get(facts.pod.namespace),)
    ]


def calls_of(found: Iterable[Judged]) -> dict[AssumeRole, tuple[str, ...]]:
    """The calls to try and for whom each is. Those that differ in the session's name alone are tried once."""
    first: dict[AssumeRole, AssumeRole] = {}
    subjects: dict[AssumeRole, dict[str, None]] = {}
    for each in found:
        if isinstance(each.decision, Grant):
            call = first.setdefault(replace(each.decision.call, session_name="any"), each.decision.call)
            subjects.setdefault(call, {})[each.facts.subject] = None
    return {call: tuple(names) for call, names in subjects.items()}


def pod_findings(found: Sequence[Judged], pods: Sequence[PodFacts]) -> Iterator[Finding]:
    """Namespaces that refuse their own pods, annotations that cannot be used, pods on the node's network."""
    refused: dict[tuple[str, str, str], dict[str, None]] = {}
    for each in found:
        denial = each.decision
        if isinstance(denial, Denial) and (check := _check_of(denial, each.facts.pod)):
            key = check, f"{denial.reason}: {denial.message}", denial.remedy
            refused.setdefault(key, {})[each.facts.subject] = None
    for (check, text, remedy), subjects in refused.items():
        yield Finding(check=check, verdict=Verdict.PROBLEM, found=text, remedy=remedy, subjects=tuple(subjects))
    if not any(check == "namespace-policy" for check, _, _ in refused):
        yield ok("namespace-policy", f"{len(found)} pods looked at")
    on_node = [facts for facts in pods if facts.pod.host_network and not facts.pod.finished]
    if asking := _subjects(facts for facts in on_node if ROLE in facts.pod.annotations):
        yield Finding(
            check="host-network",
            verdict=Verdict.WARNING,
            found="pods on the node's network are annotated with a role, and have the node's instead",
            remedy=f"take them off hostNetwork, or take {ROLE} away; docs/security.md has an admission policy",
            subjects=asking,
        )
    else:
        yield ok("host-network", f"{len(on_node)} pods on their node's network, none with a role")


def namespace_findings(
    found: Sequence[Judged], namespaces: Mapping[str, NamespaceFacts], rules: Rules, *, skipped: Sequence[str] = ()
) -> Iterator[Finding]:
    """Annotations of namespaces that cannot be used, whether a pod meets them yet or not; objects that were skipped."""
    bad: dict[tuple[str, str], str] = {}
    for facts in namespaces.values():
        space = facts.namespace
        for key in (PERMITTED, ALLOWED_ROLES):
            if key in space.annotations:
                alone = replace(space, annotations={key: space.annotations[key]})
                decision = decide(replace(_PROBE, namespace=space.name), alone, replace(rules, allow=()))
                if isinstance(decision, Denial) and decision.reason is Reason.NAMESPACE_MALFORMED:
                    bad[decision.message, decision.remedy] = space.name
    for (message, remedy), name in bad.items():
        yield Finding(check="annotations", verdict=Verdict.PROBLEM, found=message, remedy=remedy, subjects=(name,))
    if skipped:
        yield Finding(
            check="annotations",
            verdict=Verdict.WARNING,
            found=f"{len(skipped)} objects cannot be read, and are nobody",
            remedy="correct them: each names what it lacks",
            subjects=tuple(skipped),
        )
    malformed = any(
        isinstance(each.decision, Denial) and _check_of(each.decision, each.facts.pod) == "annotations"
        for each in found
    )
    if not (bad or malformed or skipped):
        yield ok("annotations", f"of {len(namespaces)} namespaces and {len(found)} pods")


def raw_findings(pods: Sequence[PodFacts] | None, node: str, bridges: Mapping[str, int] | None) -> Iterator[Finding]:
    """Pods that may send in another's name; None when nobody tells of pods. `bridges` of this node; None likewise."""
    remedy = "drop NET_RAW (or ALL) in the pods' securityContext; docs/security.md has an admission policy"
    known = [facts for facts in pods or () if facts.net_raw is not None and facts.pod.live]
    if bridges is None:
        text = "no node's links could be looked at"
        if pods is not None:
            text = (
                f"{sum(bool(each.net_raw) for each in known)} of {len(known)} pods in the cluster keep NET_RAW; {text}"
            )
        yield not_checked("net-raw", text, f"run it on a node, with --node-name; on bridges {remedy}")
        return
    here = [facts for facts in known if not node or facts.node == node]
    risky = [facts for facts in here if facts.net_raw]
    on = ", ".join(sorted(bridges))
    if not bridges:
        yield ok("net-raw", "no pod of this node stands on a bridge")
    elif pods is None:
        yield not_checked("net-raw", f"pods stand on {on}; whether they keep NET_RAW is not known", BY_AGENT)
    elif not known:
        yield not_checked("net-raw", "the pods' containers are not known", f"look yourself: {remedy}")
    elif risky:
        yield Finding(
            check="net-raw",
            verdict=Verdict.WARNING,
            found=f"{len(risky)} of {len(here)} pods of this node keep NET_RAW, on {on}: "
            "the witness withdraws an address that is taken over, at the price of its owner's credentials",
            remedy=remedy,
            subjects=_subjects(risky),
        )
    else:
        yield ok("net-raw", f"none of {len(here)} pods of this node keeps NET_RAW")


def network_findings(pods: Sequence[PodFacts] | None, links: Sequence[str] | None) -> Iterator[Finding]:
    """Pods with networks of macvlan's kind; None when nobody tells of pods.

    `links` of this node that go past it; None when it was not looked at. A link that was moved into a pod is not among
    them, so that they alone prove nothing.
    """
    remedy = "deny 169.254.169.254 on that network, or do without it: nothing on the node sees its packets"
    asking = _subjects(facts for facts in pods or () if facts.networks and facts.pod.live)
    if asking:
        yield Finding(
            check="second-networks",
            verdict=Verdict.WARNING,
            found="pods ask Multus for further networks; macvlan and ipvlan go past every hook of the node",
            remedy=remedy,
            subjects=asking,
        )
    if links:
        yield Finding(
            check="second-networks",
            verdict=Verdict.WARNING,
            found="this node has links that go past its hooks",
            remedy=remedy,
            subjects=tuple(links),
        )
    elif links is None:
        yield not_checked("second-networks", "no node's links could be looked at", "run it on a node, with --node-name")
    elif pods is None:
        text = "none on the node itself; one that was moved into a pod does not show there"
        yield not_checked("second-networks", text, BY_AGENT)
    elif any(facts.networks is None for facts in pods):
        yield not_checked("second-networks", "the pods' networks are not known", f"where a pod has one: {remedy}")
    elif not asking:
        yield ok("second-networks", "none")


def _check_of(denial: Denial, pod: Pod) -> str:
    """The check that a refusal belongs to; empty where nothing is wrong, or another check tells."""
    if denial.reason in _NAMESPACE:
        return "namespace-policy"
    blank = denial.reason is Reason.NO_ROLE and ROLE in pod.annotations
    return "annotations" if denial.reason in _MALFORMED or blank else ""


def _subjects(facts: Iterable[PodFacts]) -> tuple[str, ...]:
    return tuple(sorted({each.subject for each in facts}))

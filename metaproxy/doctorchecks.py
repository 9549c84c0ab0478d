"""Of AWS and of the cluster: what was seen there, judged.

Knows: what the agent needs, what policy decides for each pod, and what to do where it does not go well.
Must not know: how anything was asked, nor the node it runs on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from metaproxy.caller import ALLOWED_ROLES, PERMITTED, ROLE, Pod
from metaproxy.clusterfacts import NamespaceFacts, PodFacts
from metaproxy.errors import MetaproxyError, Reason
from metaproxy.findings import Finding, Verdict, not_checked, ok
from metaproxy.iamdocuments import trust_policy
from metaproxy.policy import Decision, Denial, Grant, Rules, decide
from metaproxy.roles import AssumeRole, BaseArn

SKEW_NOTED, SKEW_REFUSED = 30.0, 300.0
"""Seconds: more than a round trip and a date of whole seconds explain; what a signature may be off (AWS)."""

_NAMESPACE = frozenset({Reason.NAMESPACE_SILENT, Reason.NOT_PERMITTED, Reason.NOT_ALLOWED, Reason.NAMESPACE_UNKNOWN})
_MALFORMED = frozenset({Reason.ROLE_MALFORMED, Reason.SESSION_NAME_MALFORMED, Reason.EXTERNAL_ID_MALFORMED})
_TOO_LONG = ("MaxSessionDuration", "DurationSeconds exceeds")
_PROBE = Pod(uid="", namespace="", name="", annotations={ROLE: "arn:aws:iam::000000000000:role/x"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Aws:
    """What was seen of AWS. Failures say why something is not known; `skew` is our clock minus theirs, in seconds.

    `principal` is the role that the identity is a session of; `region_partition` that of the region.
    """

    identity: str = ""
    principal: str = ""
    partition: str = ""
    own_failure: MetaproxyError | None = None
    region: str = ""
    region_partition: str = ""
    endpoint: str = ""
    hop: str = ""
    hop_failure: MetaproxyError | None = None
    base: BaseArn | None = None
    base_given: bool = False
    skew: float | None = None

    @property
    def usable(self) -> bool:
        """Whether roles can be asked for at all."""
        return self.own_failure is None and self.hop_failure is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An AssumeRole that was tried, for whom, and what became of it (None: a session, thrown away at once)."""

    call: AssumeRole
    subjects: tuple[str, ...]
    failure: MetaproxyError | None = None


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
        for verb in ("get", "list", "watch")
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


def aws_findings(aws: Aws) -> Iterator[Finding]:
    """Identity, region, separate role, base ARN."""
    yield _of_failure("own-identity", aws.own_failure, good=aws.identity)
    if not aws.region:
        yield not_checked("region", "it is not known", "set --sts.region, or AWS_REGION")
    elif aws.partition and aws.region_partition != aws.partition:
        yield Finding(
            check="region",
            verdict=Verdict.PROBLEM,
            found=f"{aws.region} is in partition {aws.region_partition}, the identity in {aws.partition}",
            remedy="set --sts.region to a region of the identity's own partition",
        )
    else:
        partition = aws.partition or aws.region_partition
        yield ok("region", f"{aws.region}, partition {partition}, STS at {aws.endpoint}")
    if not aws.hop:
        yield ok("separate-role", "none is set: the agent's own identity assumes roles")
    elif aws.own_failure is not None:
        yield not_checked("separate-role", "the agent's own identity does not work", "mend own-identity first")
    else:
        document = trust_policy([aws.principal], ["sts:AssumeRole"]) if aws.hop_failure is not None else None
        yield replace(_of_failure("separate-role", aws.hop_failure, good=aws.hop), document=document)
    if aws.base is None:
        yield not_checked("base-arn", "it is learnt from the identity, which does not work", "set --role-base-arn")
    elif aws.partition and aws.base.partition != aws.partition:
        yield Finding(
            check="base-arn",
            verdict=Verdict.PROBLEM,
            found=f"{aws.base.arn} is in another partition than the identity ({aws.partition})",
            remedy="set --role-base-arn to the account whose roles are meant",
        )
    else:
        yield ok("base-arn", f"{aws.base.arn} ({'as set' if aws.base_given else 'the account of the identity'})")


def clock_findings(skews: Mapping[str, float | None]) -> Iterator[Finding]:
    """Of our clock minus that of others, by who they are; None where nobody answered with a date."""
    known = {name: skew for name, skew in skews.items() if skew is not None}
    for name, skew in known.items():
        if abs(skew) >= SKEW_NOTED:
            yield Finding(
                check="clock",
                verdict=Verdict.PROBLEM if abs(skew) >= SKEW_REFUSED else Verdict.WARNING,
                found=f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {name}'s",
                remedy="let the node keep time (chrony and 169.254.169.123 on EC2): signatures may be 300 s off",
            )
    if not known:
        yield not_checked("clock", "neither STS nor the API server told its time", "mend own-identity first")
    elif all(abs(skew) < SKEW_NOTED for skew in known.values()):
        yield ok("clock", f"as that of {' and '.join(known)}, within {SKEW_NOTED:.0f} s")


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


def role_findings(
    attempts: Sequence[Attempt], *, principal: str, needed: Sequence[str], waiting: int = 0
) -> Iterator[Finding]:
    """Of the roles: those that can be had, and those that cannot, with the trust policy that is missing.

    `principal` is whom a trust policy must name, `needed` the actions of a call; `waiting` pods have a role whose
    account is not known yet.
    """
    if not attempts and not waiting:
        yield ok("roles", "no pod is entitled to one")
        yield ok("session-duration", "no role has to allow it")
        return
    short: list[Finding] = []
    good = 0
    for attempt in attempts:
        call, failure = attempt.call, attempt.failure
        if failure is None:
            good += 1
        elif failure.reason is Reason.STS_INVALID_REQUEST and any(words in failure.message for words in _TOO_LONG):
            short.append(
                Finding(
                    check="session-duration",
                    verdict=Verdict.PROBLEM,
                    found=f"{call.role.arn} allows no session of {call.duration} s",
                    remedy=f"aws iam update-role --role-name {call.role.name} --max-session-duration {call.duration}, "
                    "or a shorter --sts.session-duration",
                    subjects=attempt.subjects,
                )
            )
        elif failure.retryable:
            yield not_checked("roles", f"{call.role.arn}: {failure.message}", failure.remedy)
        else:
            missing = failure.reason is Reason.STS_DENIED and principal
            yield Finding(
                check="roles",
                verdict=Verdict.PROBLEM,
                found=f"{call.role.arn}: {failure.message}",
                remedy=failure.remedy,
                subjects=attempt.subjects,
                document=trust_policy([principal], needed, external_id=call.external_id or "") if missing else None,
            )
    if waiting:
        yield not_checked("roles", f"{waiting} pods name roles without an account", "mend base-arn first")
    elif good == len(attempts):
        yield ok("roles", f"all {good} can be assumed")
    yield from short
    if not short and good:
        yield ok("session-duration", f"the {good} roles that can be assumed allow it")
    elif not short:
        yield not_checked("session-duration", "no role could be assumed", "mend roles first")


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


def raw_findings(pods: Sequence[PodFacts], node: str, bridges: Mapping[str, int] | None) -> Iterator[Finding]:
    """Pods that may send in another's name. `bridges` of this node; None when they could not be looked at."""
    known = [facts for facts in pods if facts.net_raw is not None and facts.pod.live]
    able = [facts for facts in known if facts.net_raw]
    remedy = "drop NET_RAW (or ALL) in the pods' securityContext; docs/security.md has an admission policy"
    if bridges is None:
        text = f"{len(able)} of {len(known)} pods in the cluster keep NET_RAW; no node's links could be looked at"
        yield not_checked("net-raw", text, f"run it on a node, with --node-name; on bridges {remedy}")
        return
    here = [facts for facts in known if not node or facts.node == node]
    risky = _subjects(facts for facts in here if facts.net_raw)
    if not bridges:
        yield ok("net-raw", "no pod of this node stands on a bridge")
    elif not known:
        yield not_checked("net-raw", "the pods' containers are not known", f"look yourself: {remedy}")
    elif risky:
        count = sum(1 for facts in here if facts.net_raw)
        yield Finding(
            check="net-raw",
            verdict=Verdict.WARNING,
            found=f"{count} of {len(here)} pods of this node keep NET_RAW, on {', '.join(sorted(bridges))}: "
            "the witness withdraws an address that is taken over, at the price of its owner's credentials",
            remedy=remedy,
            subjects=risky,
        )
    else:
        yield ok("net-raw", f"none of {len(here)} pods of this node keeps NET_RAW")


def network_findings(pods: Sequence[PodFacts], links: Sequence[str] | None) -> Iterator[Finding]:
    """Pods with networks of macvlan's kind. `links` of this node that go past it; None when it was not looked at."""
    remedy = "deny 169.254.169.254 on that network, or do without it: nothing on the node sees its packets"
    asking = _subjects(facts for facts in pods if facts.networks and facts.pod.live)
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


def _of_failure(check: str, failure: MetaproxyError | None, *, good: str) -> Finding:
    if failure is None:
        return ok(check, good)
    return Finding(
        check=check, verdict=Verdict.PROBLEM, found=f"{failure.reason}: {failure.message}", remedy=failure.remedy
    )


def _subjects(facts: Iterable[PodFacts]) -> tuple[str, ...]:
    return tuple(sorted({each.subject for each in facts}))

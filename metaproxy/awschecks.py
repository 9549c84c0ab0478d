"""Of AWS: who we are there, and which roles can be had, judged.

Knows: what the agent needs of STS, and what to do where it does not get it.
Must not know: how anything was asked; pods, beyond their names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from metaproxy.errors import MetaproxyError, Reason
from metaproxy.findings import Finding, Verdict, not_checked, ok
from metaproxy.iamdocuments import trust_policy
from metaproxy.roles import AssumeRole, BaseArn

SKEW_NOTED, SKEW_REFUSED = 30.0, 300.0
"""Seconds: more than a round trip and a date of whole seconds explain; what a signature may be off (AWS)."""

_TOO_LONG, _CHAINED = ("MaxSessionDuration", "DurationSeconds exceeds"), "chaining"


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
        yield _of_hop(aws)
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


def clock_findings(skews: Mapping[str, float | None], *, remedy: str = "mend own-identity first") -> Iterator[Finding]:
    """Of our clock minus that of others, by who they are; None where nobody answered with a date, and the remedy."""
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
        yield not_checked("clock", f"{' and '.join(skews)} did not tell the time", remedy)
    elif all(abs(skew) < SKEW_NOTED for skew in known.values()):
        yield ok("clock", f"as that of {' and '.join(known)}, within {SKEW_NOTED:.0f} s")


def role_findings(
    attempts: Sequence[Attempt], *, principal: str, needed: Sequence[str], waiting: int = 0, untried: int = 0
) -> Iterator[Finding]:
    """Of the roles: those that can be had, and those that cannot, with the trust policy that is missing.

    `principal` is whom a trust policy must name, `needed` the actions of a call; `waiting` pods have a role whose
    account is not known yet; `untried` calls differ from one that was tried in the session's name.
    """
    if not attempts and not waiting:
        yield ok("roles", "no pod is entitled to one")
        yield ok("session-duration", "no role has to allow it")
        return
    failed = [_failed(attempt, attempt.failure, principal, needed) for attempt in attempts if attempt.failure]
    short = [finding for finding in failed if finding.check == "session-duration"]
    good = len(attempts) - len(failed)
    yield from failed
    if waiting:
        yield not_checked("roles", f"{waiting} pods name roles without an account", "mend base-arn first")
    elif good and len(short) == len(failed):
        besides = f"; {untried} more names of sessions were not tried" if untried else ""
        yield ok("roles", f"{good} can be assumed{besides}")
    elif short and len(short) == len(attempts):
        yield not_checked("roles", "STS did not come to look at trust", "mend session-duration first")
    if not short and good:
        yield ok("session-duration", f"the {good} roles that can be assumed allow it")
    elif not short:
        yield not_checked("session-duration", "no role could be assumed", "mend roles first")


def _failed(attempt: Attempt, failure: MetaproxyError, principal: str, needed: Sequence[str]) -> Finding:
    """Of a role that cannot be had."""
    call = attempt.call
    if failure.reason is Reason.STS_INVALID_REQUEST and any(words in failure.message for words in _TOO_LONG):
        return Finding(
            check="session-duration",
            verdict=Verdict.PROBLEM,
            found=f"{call.role.arn} allows no session of {call.duration} s",
            remedy="--sts.session-duration 3600: whoever is a role's session already is given no longer one"
            if _CHAINED in failure.message
            else f"aws iam update-role --role-name {call.role.name} --max-session-duration {call.duration}, "
            "or a shorter --sts.session-duration",
            subjects=attempt.subjects,
        )
    if failure.retryable:
        return not_checked("roles", f"{call.role.arn}: {failure.message}", failure.remedy)
    missing = failure.reason is Reason.STS_DENIED and principal
    return Finding(
        check="roles",
        verdict=Verdict.PROBLEM,
        found=f"{call.role.arn}: {failure.message}",
        remedy=failure.remedy,
        subjects=attempt.subjects,
        document=trust_policy([principal], needed, external_id=call.external_id or "") if missing else None,
    )


def _of_hop(aws: Aws) -> Finding:
    """Of the separate role: what its trust policy lacks is said when STS has refused, and not when nobody answered."""
    failure = aws.hop_failure
    if failure is None:
        return ok("separate-role", aws.hop)
    if failure.reason in {Reason.STS_UNREACHABLE, Reason.STS_THROTTLED, Reason.STS_PENDING}:
        return not_checked("separate-role", f"{failure.reason}: {failure.message}", failure.remedy)
    document = trust_policy([aws.principal], ["sts:AssumeRole"])
    return replace(_of_failure("separate-role", failure, good=aws.hop), document=document)


def _of_failure(check: str, failure: MetaproxyError | None, *, good: str) -> Finding:
    if failure is None:
        return ok(check, good)
    return Finding(
        check=check, verdict=Verdict.PROBLEM, found=f"{failure.reason}: {failure.message}", remedy=failure.remedy
    )

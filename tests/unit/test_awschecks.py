"""What the doctor makes of AWS: identity, region, separate role, clock, and each role that was tried."""

from dataclasses import replace
from typing import Any

import pytest

from metaproxy.awschecks import Attempt, Aws, aws_findings, clock_findings, role_findings
from metaproxy.errors import MetaproxyError, StsDenied, StsInvalidRequest, StsOwnIdentity, StsThrottled, StsUnreachable
from metaproxy.findings import Finding, Verdict, in_order
from metaproxy.roles import AssumeRole, BaseArn, RoleArn
from metaproxy.trust import trusted

ACCOUNT = "arn:aws:iam::123456789012:role/"
NODE = f"{ACCOUNT}node"
HOP = f"{ACCOUNT}metaproxy"
AWS = Aws(
    identity="arn:aws:sts::123456789012:assumed-role/node/i-0",
    principal=NODE,
    partition="aws",
    region="eu-west-1",
    region_partition="aws",
    endpoint="https://sts.eu-west-1.amazonaws.com",
    base=BaseArn.parse(ACCOUNT),
)
FAILED = StsOwnIdentity("no credentials", remedy="give some")


def told(aws: Aws) -> dict[str, Finding]:
    """The findings by check."""
    return {finding.check: finding for finding in aws_findings(aws)}


def verdicts(aws: Aws) -> dict[str, str]:
    """Those that are not ok."""
    return {check: finding.verdict.value for check, finding in told(aws).items() if finding.verdict is not Verdict.OK}


def test_all_is_well() -> None:
    """With a separate role, too."""
    assert verdicts(AWS) == verdicts(replace(AWS, hop=HOP)) == {}
    assert told(AWS)["own-identity"].found == AWS.identity
    assert told(replace(AWS, hop=HOP))["separate-role"].found == HOP
    assert "as set" in told(replace(AWS, base_given=True))["base-arn"].found


def test_no_identity() -> None:
    """What builds on it is not checked, and says so."""
    lost = Aws(own_failure=FAILED, hop=HOP)
    assert verdicts(lost) == {
        "own-identity": "problem",
        "region": "not checked",
        "separate-role": "not checked",
        "base-arn": "not checked",
    }
    assert told(lost)["own-identity"].remedy == "give some"
    assert not lost.usable
    known = replace(AWS, own_failure=FAILED, identity="", principal="", partition="")
    assert verdicts(known) == {"own-identity": "problem"}


def test_the_separate_role_refuses() -> None:
    """With the statement that its trust policy lacks."""
    lost = replace(AWS, hop=HOP, hop_failure=FAILED)
    finding = told(lost)["separate-role"]
    assert finding.verdict is Verdict.PROBLEM
    assert trusted(finding.document, principal=NODE)
    assert not trusted(finding.document, principal=HOP)
    assert not lost.usable


def test_the_separate_role_is_not_known() -> None:
    """Nothing is said to be missing of who could not be asked, nor of who agrees."""
    away = replace(AWS, hop=HOP, hop_failure=StsUnreachable("away", remedy="look"))
    assert (told(away)["separate-role"].verdict, told(away)["separate-role"].document) == (Verdict.NOT_CHECKED, None)
    assert not away.usable
    assert told(replace(AWS, hop=HOP))["separate-role"].document is None


def test_partitions() -> None:
    """No role is assumed across them."""
    assert verdicts(replace(AWS, region="cn-north-1", region_partition="aws-cn")) == {"region": "problem"}
    assert verdicts(replace(AWS, base=BaseArn.parse("arn:aws-cn:iam::123456789012:role/"))) == {"base-arn": "problem"}


@pytest.mark.parametrize(
    ("skews", "expected"),
    [
        ({"STS": 0.4, "it": -29.9}, ["ok"]),
        ({"STS": None, "it": 1.0}, ["ok"]),
        ({"STS": None, "it": None}, ["not checked"]),
        ({"STS": 31.0, "it": 0.0}, ["warning"]),
        ({"STS": -301.0, "it": 60.0}, ["problem", "warning"]),
    ],
)
def test_the_clock(skews: dict[str, float | None], expected: list[str]) -> None:
    """By the date of every answer; who gives none says nothing."""
    found = list(clock_findings(skews))
    assert [finding.verdict.value for finding in found] == expected
    if expected[0] == "problem":
        assert "behind STS's" in found[0].found
        assert "ahead of it's" in found[1].found


def attempt(name: str, failure: MetaproxyError | None = None, **more: Any) -> Attempt:
    """A role that was tried for one workload."""
    role = RoleArn.parse(f"{ACCOUNT}{name}")
    call = AssumeRole(role=role, session_name="shop.web", duration=7200, **more)
    return Attempt(call=call, subjects=(f"shop/{name}",), failure=failure)


def roles(*attempts: Attempt, waiting: int = 0) -> list[Finding]:
    """What is found of them, in the order of a report."""
    needed = ["sts:AssumeRole", "sts:TagSession"]
    return in_order(role_findings(attempts, principal=NODE, needed=needed, waiting=waiting))


def test_roles_that_can_be_had() -> None:
    """All, and for as long as is wanted."""
    assert [(each.check, each.verdict.value) for each in roles(attempt("a"), attempt("b"))] == [
        ("roles", "ok"),
        ("session-duration", "ok"),
    ]
    assert [(each.check, each.verdict.value) for each in roles()] == [("roles", "ok"), ("session-duration", "ok")]


def test_names_of_sessions_that_were_not_tried() -> None:
    """They are told of: a trust policy may ask for a name."""
    told = [row.found for row in role_findings([attempt("a")], principal=NODE, needed=[], untried=3)]
    assert told[0] == "1 can be assumed; 3 more names of sessions were not tried"


def test_a_role_that_refuses() -> None:
    """With the trust policy that would let the agent in: its principal, its actions, the pod's external id."""
    refused, other = roles(attempt("a", StsDenied("not you", remedy="trust it"), external_id="id-1"))
    assert (refused.check, refused.verdict, refused.subjects) == ("roles", Verdict.PROBLEM, ("shop/a",))
    needed = ("sts:AssumeRole", "sts:TagSession")
    assert trusted(refused.document, principal=NODE, external_id="id-1", actions=needed)
    assert not trusted(refused.document, principal=NODE, external_id="id-2", actions=needed)
    assert other.verdict is Verdict.NOT_CHECKED


def test_a_role_whose_sessions_are_too_short() -> None:
    """Told apart from a refusal, with the command that mends it."""
    words = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
    good, short = roles(attempt("a", StsInvalidRequest(words, remedy="correct it")), attempt("b"))
    assert (short.check, short.verdict) == ("session-duration", Verdict.PROBLEM)
    assert "aws iam update-role --role-name a --max-session-duration 7200" in short.remedy
    assert (good.check, good.verdict) == ("roles", Verdict.OK)


def test_sessions_of_a_session() -> None:
    """No role can allow them longer: nobody is told to raise its maximum."""
    words = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
    short = roles(attempt("a", StsInvalidRequest(words, remedy="correct it")))[-1]
    assert short.check == "session-duration"
    assert short.remedy.startswith("--sts.session-duration 3600")


def test_short_roles_are_not_called_well() -> None:
    """No ok of the roles beside it."""
    words = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
    unknown, short = roles(attempt("a", StsInvalidRequest(words, remedy="correct it")))
    assert (unknown.check, unknown.verdict) == ("roles", Verdict.NOT_CHECKED)
    assert (short.check, short.verdict) == ("session-duration", Verdict.PROBLEM)


def test_what_could_not_be_tried() -> None:
    """A wrong request is a problem without a statement; an outage is nothing that is known."""
    wrong, *_ = roles(attempt("a", StsInvalidRequest("no such thing", remedy="correct it")))
    assert (wrong.verdict, wrong.document) == (Verdict.PROBLEM, None)
    later, *_ = roles(attempt("a", StsThrottled("less", remedy="ask again")))
    assert later.verdict is Verdict.NOT_CHECKED
    waiting, *_ = roles(attempt("a"), waiting=2)
    assert (waiting.verdict, waiting.found[:6]) == (Verdict.NOT_CHECKED, "2 pods")

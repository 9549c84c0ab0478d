"""Every refusal has one code and one status, and says whether asking again helps."""

from collections.abc import Iterator

import pytest

from metaproxy import errors
from metaproxy.errors import MetaproxyError, Reason

TABLE = [
    (errors.BadRequest, 400, "BadRequest", False),
    (errors.TokenMissing, 401, "TokenMissing", False),
    (errors.TokenInvalid, 401, "TokenInvalid", False),
    (errors.TokenExpired, 401, "TokenExpired", False),
    (errors.ForwardedRequest, 403, "ForwardedRequest", False),
    (errors.TokenVersion, 403, "TokenVersion", False),
    (errors.UnknownPath, 404, "UnknownPath", False),
    (errors.MethodNotAllowed, 405, "MethodNotAllowed", False),
    (errors.CallerUnknown, 503, "CallerUnknown", True),
    (errors.Masqueraded, 503, "Masqueraded", True),
    (errors.NotRedirected, 503, "NotRedirected", True),
    (errors.CallerAmbiguous, 503, "CallerAmbiguous", True),
    (errors.CallerChanged, 503, "CallerChanged", True),
    (errors.CallerWithdrawn, 503, "CallerWithdrawn", True),
    (errors.TooManyConnections, 503, "TooManyConnections", True),
    (errors.CrowdedOut, 503, "CrowdedOut", True),
    (errors.StsPending, 503, "StsPending", True),
    (errors.StsThrottled, 503, "StsThrottled", True),
    (errors.StsUnreachable, 503, "StsUnreachable", True),
    (errors.StsOwnIdentity, 503, "StsOwnIdentity", True),
    (errors.StsDenied, 403, "StsDenied", False),
    (errors.StsInvalidRequest, 403, "StsInvalidRequest", False),
    (errors.StsRegionDisabled, 403, "StsRegionDisabled", False),
    (errors.UpstreamUnavailable, 503, "UpstreamUnavailable", True),
]

TOLD_ONLY = {"HostNetwork"}
"""Reasons of Events about pods that never ask here."""

BY_POLICY = {
    "NoRole",
    "OtherRole",
    "RoleMalformed",
    "SessionNameMalformed",
    "ExternalIdMalformed",
    "NamespaceUnknown",
    "NamespaceMalformed",
    "NamespaceSilent",
    "NotPermitted",
    "NotAllowed",
    "BaseArnUnknown",
}
"""The reasons that a denial carries as data: `Refused` speaks for all of them."""


def leaves(kind: type[MetaproxyError]) -> Iterator[type[MetaproxyError]]:
    """The classes that nothing is derived from."""
    below = kind.__subclasses__()
    if not below:
        yield kind
    for child in below:
        yield from leaves(child)


@pytest.mark.parametrize(("kind", "status", "reason", "retryable"), TABLE)
def test_a_refusal_carries_its_code(kind: type[MetaproxyError], status: int, reason: str, retryable: bool) -> None:
    """Status, reason and the use of asking again are the class's own; message and remedy the instance's."""
    error = kind("what happened", remedy="what to do")
    assert (error.status, error.reason, error.retryable) == (status, reason, retryable)
    assert (error.message, error.remedy, str(error)) == ("what happened", "what to do", "what happened")


def test_the_table_above_is_complete() -> None:
    """No class and no reason is there that the table does not tell, and no reason belongs to two classes."""
    kinds = set(leaves(MetaproxyError)) - {errors.Refused}
    assert kinds == {kind for kind, *_ in TABLE}
    assert {*(reason for _, _, reason, _ in TABLE), *BY_POLICY, *TOLD_ONLY, "Internal"} == {
        reason.value for reason in Reason
    }
    assert len({reason for _, _, reason, _ in TABLE}) == len(TABLE)


@pytest.mark.parametrize("reason", sorted(BY_POLICY))
def test_a_denial_speaks_for_its_own_rule(reason: str) -> None:
    """Two refusals by policy do not share their reason, and the class stays as it is."""
    error = errors.Refused("no", remedy="do", reason=Reason(reason), status=404, retryable=True)
    other = errors.Refused("no", remedy="do", reason=Reason.NOT_PERMITTED, status=403, retryable=False)
    assert (error.status, error.reason, error.retryable) == (404, reason, True)
    assert (other.status, other.reason, other.retryable) == (403, "NotPermitted", False)
    assert errors.Refused.reason is Reason.INTERNAL


def test_an_issue_error_keeps_the_code_of_sts() -> None:
    """The code is for log and explanation; without one it is blank, not absent."""
    assert errors.StsDenied("no", remedy="do", code="AccessDenied").code == "AccessDenied"
    assert not errors.StsDenied("no", remedy="do").code


def test_only_a_bad_request_is_400() -> None:
    """Nothing but a token request without a usable life: a 400 is fatal to every client (contract M3)."""
    assert [kind for kind, status, *_ in TABLE if status == 400] == [errors.BadRequest]


def test_a_refusal_that_may_pass_is_503_and_no_other_is() -> None:
    """Clients retry a 503 and end at a 403 or 404: the status and the code agree on it."""
    assert all((status == 503) == retryable for _, status, _, retryable in TABLE)

"""From what botocore and the network raise to what the broker understands.

Knows: STS's error codes and botocore's exception classes, and for each what to do (contract §6).
Must not know: calls, caches, pods. Total: whatever is raised, an IssueError comes out.
"""

import re

import aiohttp
import botocore.exceptions as boto

from metaproxy.errors import (
    IssueError,
    StsDenied,
    StsInvalidRequest,
    StsOwnIdentity,
    StsRegionDisabled,
    StsThrottled,
    StsUnreachable,
)
from metaproxy.roles import AssumeRole

MESSAGE_LIMIT = 256
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA|AIDA|AROA)[A-Z0-9]{8,}")

THROTTLED = frozenset(
    {
        "LimitExceededException",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
OWN_IDENTITY = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IDPCommunicationError",
        "IDPRejectedClaim",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "InvalidSignature",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "OptInRequired",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClient",
        "UnrecognizedClientException",
    }
)
CLOCK = frozenset({"InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"})
DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
INVALID = frozenset(
    {
        "InvalidAction",
        "InvalidParameterCombination",
        "InvalidParameterValue",
        "MalformedPolicyDocument",
        "MalformedPolicyDocumentException",
        "MissingParameter",
        "PackedPolicyTooLarge",
        "SessionDurationEscalationException",
        "ValidationError",
        "ValidationException",
    }
)
REGION = frozenset({"RegionDisabledException"})

_IDENTITY_CLASSES: tuple[type[BaseException], ...] = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.UnknownCredentialError,
    boto.MetadataRetrievalError,
    boto.TokenRetrievalError,
    boto.NoAuthTokenError,
    boto.SSOError,
    boto.LoginError,
    boto.ProfileNotFound,
    boto.ConfigNotFound,
    boto.ConfigParseError,
    boto.InfiniteLoopConfigError,
    boto.InvalidConfigError,
    boto.RefreshWithMFAUnsupportedError,
    boto.NoRegionError,
    boto.InvalidRegionError,
)
_INVALID_CLASSES: tuple[type[BaseException], ...] = (boto.ParamValidationError, boto.ValidationError)

_UNREACHABLE = "ask again; STS is asked on until it answers"


def translated(error: BaseException, *, call: AssumeRole | None, who: str) -> IssueError:
    """The failure of a call, or of finding our own credentials when `call` is None. `who` is our own ARN if known."""
    if isinstance(error, IssueError):
        return error
    if isinstance(error, boto.ClientError):
        return _answered(error, call, who)
    if isinstance(error, _IDENTITY_CLASSES):
        return StsOwnIdentity(
            "the agent has no usable AWS credentials of its own",
            remedy="the operator should give the node a role, or the agent a web identity",
            code=type(error).__name__,
        )
    if isinstance(error, _INVALID_CLASSES):
        return StsInvalidRequest(
            "the request to STS is not valid", remedy="correct the pod's annotations", code=type(error).__name__
        )
    if isinstance(error, boto.BotoCoreError | boto.WaiterError | aiohttp.ClientError | OSError | TimeoutError):
        return StsUnreachable("STS cannot be reached", remedy=_UNREACHABLE, code=type(error).__name__)
    # An answer that cannot be read (KeyError, ValueError and their like), or a mistake of a library.
    return StsUnreachable("STS gave an answer that cannot be read", remedy=_UNREACHABLE, code=type(error).__name__)


def _answered(error: boto.ClientError, call: AssumeRole | None, who: str) -> IssueError:
    response = error.response if isinstance(error.response, dict) else {}
    fault = response.get("Error") or {}
    code, status = str(fault.get("Code") or ""), _status(response)
    text = clean(str(fault.get("Message") or ""))
    if code in THROTTLED or status == 429:  # noqa: PLR2004
        return StsThrottled("STS asks to be called less", remedy="ask again in a moment", code=code)
    if code in OWN_IDENTITY:
        remedy = "the operator should look at the agent's own credentials"
        if code in CLOCK:
            remedy = "the operator should look at the node's clock and the agent's own credentials"
        return StsOwnIdentity(f"STS refuses the agent's own credentials ({code})", remedy=remedy, code=code)
    if code in REGION:
        return StsRegionDisabled(
            "this region's STS is not active in the role's account",
            remedy="activate the region there, or let the operator set another --sts.region",
            code=code,
        )
    if code in INVALID:
        return StsInvalidRequest(
            f"STS calls the request wrong: {text}", remedy="correct the annotations or the role", code=code
        )
    if code in DENIED or status == 403:  # noqa: PLR2004
        return StsDenied(f"STS refuses: {text}", remedy=_trust_remedy(call, who), code=code)
    return StsUnreachable(f"STS failed ({code or status})", remedy=_UNREACHABLE, code=code)


def _trust_remedy(call: AssumeRole | None, who: str) -> str:
    if call is None:
        return "the operator should allow the agent's identity sts:AssumeRole"
    actions = ["sts:AssumeRole"]
    if call.tags:
        actions.append("sts:TagSession")
    if call.source_identity:
        actions.append("sts:SetSourceIdentity")
    condition = " under its external id's condition" if call.external_id else ""
    principal = who or "the agent's role"
    return (
        f"if {call.role.arn} exists, its trust policy must allow {' and '.join(actions)} to {principal}{condition}, "
        "and that identity's own policy must allow the same"
    )


def clean(text: str) -> str:
    """STS's own words, cut, on one line, without key ids: they go to pods, logs and Events."""
    return _KEY_ID.sub("…", " ".join(text.split()))[:MESSAGE_LIMIT]


def _status(response: dict[str, object]) -> int:
    metadata = response.get("ResponseMetadata")
    status = metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
    return status if isinstance(status, int) else 0

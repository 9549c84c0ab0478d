"""From what botocore and the network raise to what the broker understands.

Knows: STS's error codes and botocore's exception classes, and for each what to do (contract §6).
Must not know: calls, caches, pods. Total: whatever is raised, an IssueError comes out. Of a foreign exception only its
class, its error code and, where STS speaks about the role, its words go on: the words of a refused signature repeat the
signed headers, session token included.
"""

import re
from collections.abc import Mapping
from typing import Any

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError

from metaproxy.errors import (
    IssueError,
    StsDenied,
    StsInvalidRequest,
    StsOwnIdentity,
    StsRegionDisabled,
    StsThrottled,
    StsUnreachable,
)
from metaproxy.roles import AssumeRole, RoleArn

MESSAGE_LIMIT = 256
"""Characters of STS's own words that go on."""

_KEY_ID = re.compile(r"\bA[A-Z]{3}[A-Z0-9]{12,}\b")
_KEY_LIKE = re.compile(r"[A-Za-z0-9+/=]{40,}", re.ASCII)
"""A secret key has forty of these in a row, a session token hundreds. A long path goes too: the role is told anyhow."""
_TOO_MANY, _FORBIDDEN = 429, 403

THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
STALE = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "UnrecognizedClient",
        "UnrecognizedClientException",
    }
)
"""What STS says of keys that were good and are no more: others may be at hand."""

CLOCK = frozenset(
    {
        "InvalidSignature",
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
OWN_IDENTITY = (
    STALE
    | CLOCK
    | {
        "AuthFailure",
        "ExpiredTradeInTokenException",
        "IDPCommunicationError",
        "IDPRejectedClaim",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidIdentityToken",
        "InvalidIdentityTokenException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "OptInRequired",
    }
)
DENIED = frozenset({"AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"})
INVALID = frozenset(
    {
        "InvalidAction",
        "InvalidParameterCombination",
        "InvalidParameterValue",
        "InvalidQueryParameter",
        "MalformedInput",
        "MalformedPolicyDocument",
        "MalformedPolicyDocumentException",
        "MalformedQueryString",
        "MissingAction",
        "MissingParameter",
        "PackedPolicyTooLarge",
        "PackedPolicyTooLargeException",
        "SessionDurationEscalationException",
        "ValidationError",
        "ValidationException",
    }
)
REGION = frozenset({"RegionDisabledException"})

_REGION_CLASSES = (boto.NoRegionError, boto.InvalidRegionError, boto.EndpointProviderError)
_IDENTITY_CLASSES = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.UnknownCredentialError,
    boto.MetadataRetrievalError,
    boto.InvalidIMDSEndpointError,
    boto.InvalidIMDSEndpointModeError,
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
)
_INVALID_CLASSES = (boto.ParamValidationError, boto.ValidationError)
_NETWORK_CLASSES = (boto.HTTPClientError, boto.ConnectionError, aiohttp.ClientError, TimeoutError, ConnectionError)

_ASK_AGAIN = "ask again; STS is asked on until it answers"
_OWN_CREDENTIALS = "the operator should look at the agent's own credentials: the node's role, or its web identity"
_OWN_REGION = "the operator should set --sts.region"
_OWN_SETTINGS = "the operator should look at the agent's AWS_* variables and AWS configuration file"


def translated(error: BaseException, *, call: AssumeRole, who: str) -> IssueError:
    """How an AssumeRole call failed. `who` is the ARN that a trust policy must name, empty while it is not known."""
    if isinstance(error, IssueError):
        return error
    if isinstance(error, boto.ClientError):
        return _answered(error, call, who)
    code = type(error).__name__
    if isinstance(error, _REGION_CLASSES):
        return StsOwnIdentity("the region's STS is not known", remedy=_OWN_REGION, code=code)
    if isinstance(error, _IDENTITY_CLASSES):
        return StsOwnIdentity("the agent has no usable credentials of its own", remedy=_OWN_CREDENTIALS, code=code)
    if isinstance(error, _INVALID_CLASSES):
        return StsInvalidRequest(
            "the request to STS is not valid", remedy="correct the role and the pod's annotations", code=code
        )
    return _not_reached(error)


def own_failure(error: BaseException) -> IssueError:
    """How it failed to find our own credentials, or to ask STS who we are: nothing in it is a pod's doing."""
    if isinstance(error, IssueError):
        return error
    if isinstance(error, boto.ClientError):
        return _own_answered(error)
    if isinstance(error, (*_NETWORK_CLASSES, ResponseParserError)):
        return _not_reached(error)
    # Files, profiles, processes, the metadata service: whatever the chain stumbled over.
    message, remedy = "the agent has no usable credentials of its own", _OWN_CREDENTIALS
    if isinstance(error, _REGION_CLASSES):
        message, remedy = "the region's STS is not known", _OWN_REGION
    elif isinstance(error, boto.BotoCoreError) and not isinstance(error, _IDENTITY_CLASSES):
        message, remedy = "the agent's own AWS settings cannot be used", _OWN_SETTINGS
    return StsOwnIdentity(message, remedy=remedy, code=type(error).__name__)


def separate_failure(failure: IssueError, role: RoleArn) -> IssueError:
    """How the separate role gave no session: a refusal of it is not the pod's, and not for ever, so no 403 for pods."""
    if not isinstance(failure, StsDenied | StsInvalidRequest | StsRegionDisabled):
        return failure
    return StsOwnIdentity(
        f"the separate role {role.arn} gives no session: {failure.message}", remedy=failure.remedy, code=failure.code
    )


def dropped(error: BaseException) -> bool:
    """Whether a connection ended under the request: an idle one that STS closes just then is no failure of STS."""
    if isinstance(error, boto.EndpointConnectionError):
        cause = error.kwargs.get("error")
        return isinstance(cause, ConnectionError) and not isinstance(cause, aiohttp.ClientConnectorError)
    return isinstance(error, boto.ConnectionClosedError)


def clean(text: str) -> str:
    """STS's own words, printable, on one line, without anything like a key, cut: they go to pods, logs and Events."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return _KEY_LIKE.sub("…", _KEY_ID.sub("…", " ".join(printable.split())))[:MESSAGE_LIMIT]


def _answered(error: boto.ClientError, call: AssumeRole, who: str) -> IssueError:
    code, status, text = _fault(error)
    if _throttled(code, status):
        return _throttle(code)
    if code in OWN_IDENTITY:
        return _refused_us(code)
    if code in REGION:
        return StsRegionDisabled(
            "this region's STS is not active in the role's account",
            remedy="activate the region there, or let the operator set another --sts.region",
            code=code,
        )
    if code in INVALID:
        return StsInvalidRequest(
            f"STS calls the request for {call.role.arn} wrong ({code}): {text}",
            remedy="correct the role, the pod's annotations or the agent's settings for sessions",
            code=code,
        )
    # A 403 without a code of STS's is some proxy's on the way.
    if code in DENIED or (status == _FORBIDDEN and code and not code.isdigit()):
        return StsDenied(f"STS refuses {call.role.arn} ({code}): {text}", remedy=_trust_remedy(call, who), code=code)
    return StsUnreachable(f"STS failed ({code or status})", remedy=_ASK_AGAIN, code=code)


def _own_answered(error: boto.ClientError) -> IssueError:
    code, status, _ = _fault(error)
    if _throttled(code, status):
        return _throttle(code)
    if code in OWN_IDENTITY | DENIED | INVALID | REGION or status == _FORBIDDEN:
        return _refused_us(code)
    return StsUnreachable(f"STS failed ({code or status})", remedy=_ASK_AGAIN, code=code)


def _trust_remedy(call: AssumeRole, who: str) -> str:
    actions = ["sts:AssumeRole"]
    if call.tags:
        actions.append("sts:TagSession")
    if call.source_identity:
        actions.append("sts:SetSourceIdentity")
    condition = ", with this pod's external id if it has a condition for one" if call.external_id else ""
    return (
        f"if {call.role.arn} exists, its trust policy must allow {' and '.join(actions)} to the principal "
        f"{who or 'that is the role of the agent'}{condition}; "
        "from another account that principal's own policy must allow it too"
    )


def _not_reached(error: BaseException) -> StsUnreachable:
    code = type(error).__name__
    if isinstance(error, boto.SSLError | boto.ProxyConnectionError | aiohttp.ClientSSLError):
        remedy = "the operator should look at the CA bundle and the proxy between the agent and STS"
        return StsUnreachable("STS cannot be reached safely", remedy=remedy, code=code)
    if isinstance(error, (*_NETWORK_CLASSES, OSError)):
        return StsUnreachable("STS cannot be reached, or did not answer in time", remedy=_ASK_AGAIN, code=code)
    return StsUnreachable("STS gave an answer that cannot be read", remedy=_ASK_AGAIN, code=code)


def _refused_us(code: str) -> StsOwnIdentity:
    remedy = _OWN_CREDENTIALS
    if code in CLOCK:
        remedy = "the operator should look at the node's clock, then at the agent's own credentials"
    return StsOwnIdentity(f"STS refuses the agent's own credentials ({code})", remedy=remedy, code=code)


def _throttle(code: str) -> StsThrottled:
    return StsThrottled("STS asks to be called less", remedy="ask again in a moment", code=code)


def _throttled(code: str, status: int) -> bool:
    return code in THROTTLED or status == _TOO_MANY


def _fault(error: boto.ClientError) -> tuple[str, int, str]:
    """Error code, HTTP status and words in an answer, whatever is missing in it."""
    response = _mapping(error.response)
    fault = _mapping(response.get("Error"))
    status = _mapping(response.get("ResponseMetadata")).get("HTTPStatusCode")
    code = clean(str(fault.get("Code") or ""))
    return code, status if isinstance(status, int) else 0, clean(str(fault.get("Message") or ""))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

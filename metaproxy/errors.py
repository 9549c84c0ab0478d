"""The refusals of metaproxy: one reason code for each, the same in body, log, metric and Event.

Knows: what can be refused, with which status, and whether asking again helps.
Must not know: how anything is decided, who asks, or how a refusal is shown.

    MetaproxyError
    ├── RequestError         the request itself is wrong           400 401 403 404 405
    ├── CallerError          nobody, or nobody certain, is asking  503
    ├── Refused              the policy says no                    403 404 503
    ├── IssueError           STS gave no credentials               403 503
    └── UpstreamUnavailable  the node's metadata service is silent 503
"""

from enum import StrEnum
from typing import ClassVar, Self


class Reason(StrEnum):
    """Why an answer was refused: the code that body, log, metric and Event share."""

    BAD_REQUEST = "BadRequest"
    TOKEN_MISSING = "TokenMissing"  # noqa: S105  a reason, not a token
    TOKEN_INVALID = "TokenInvalid"  # noqa: S105
    TOKEN_EXPIRED = "TokenExpired"  # noqa: S105
    FORWARDED_REQUEST = "ForwardedRequest"
    TOKEN_VERSION = "TokenVersion"  # noqa: S105
    UNKNOWN_PATH = "UnknownPath"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"

    CALLER_UNKNOWN = "CallerUnknown"
    CALLER_AMBIGUOUS = "CallerAmbiguous"
    CALLER_CHANGED = "CallerChanged"
    CALLER_WITHDRAWN = "CallerWithdrawn"
    MASQUERADED = "Masqueraded"
    NOT_REDIRECTED = "NotRedirected"
    TOO_MANY_CONNECTIONS = "TooManyConnections"
    CROWDED_OUT = "CrowdedOut"

    HOST_NETWORK = "HostNetwork"
    NO_ROLE = "NoRole"
    OTHER_ROLE = "OtherRole"
    ROLE_MALFORMED = "RoleMalformed"
    SESSION_NAME_MALFORMED = "SessionNameMalformed"
    EXTERNAL_ID_MALFORMED = "ExternalIdMalformed"
    NAMESPACE_UNKNOWN = "NamespaceUnknown"
    NAMESPACE_MALFORMED = "NamespaceMalformed"
    NAMESPACE_SILENT = "NamespaceSilent"
    NOT_PERMITTED = "NotPermitted"
    NOT_ALLOWED = "NotAllowed"
    BASE_ARN_UNKNOWN = "BaseArnUnknown"

    STS_PENDING = "StsPending"
    STS_THROTTLED = "StsThrottled"
    STS_UNREACHABLE = "StsUnreachable"
    STS_DENIED = "StsDenied"
    STS_INVALID_REQUEST = "StsInvalidRequest"
    STS_OWN_IDENTITY = "StsOwnIdentity"
    STS_REGION_DISABLED = "StsRegionDisabled"

    UPSTREAM_UNAVAILABLE = "UpstreamUnavailable"
    INTERNAL = "Internal"


class MetaproxyError(Exception):
    """A refusal: what happened (`message`), what to do (`remedy`), and the reason's code and status.

    `message` and `remedy` go to the pod: they speak of the caller's own pod only and carry no secret.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[Reason] = Reason.INTERNAL
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class RequestError(MetaproxyError):
    """The request itself is wrong, whoever asks."""


class BadRequest(RequestError):
    """A token request without a usable life, or a request that is no HTTP (contract M3)."""

    status = 400
    reason = Reason.BAD_REQUEST


class TokenMissing(RequestError):
    """Tokens are required and none was sent (contract M5)."""

    status = 401
    reason = Reason.TOKEN_MISSING


class TokenInvalid(RequestError):
    """A token that this node did not make for this address (contract M5)."""

    status = 401
    reason = Reason.TOKEN_INVALID


class TokenExpired(RequestError):
    """A token past its life (contract M5)."""

    status = 401
    reason = Reason.TOKEN_EXPIRED


class ForwardedRequest(RequestError):
    """A request that something forwarded: refused as EC2 refuses it (contract M6)."""

    status = 403
    reason = Reason.FORWARDED_REQUEST


class TokenVersion(RequestError):
    """A token asked for under a version other than `latest` (contract M6)."""

    status = 403
    reason = Reason.TOKEN_VERSION


class UnknownPath(RequestError):
    """A path that is not served, whatever the reason."""

    status = 404
    reason = Reason.UNKNOWN_PATH


class MethodNotAllowed(RequestError):
    """A method that the path does not know."""

    status = 405
    reason = Reason.METHOD_NOT_ALLOWED


class CallerError(MetaproxyError):
    """It is not certain which pod is asking; it may be in a moment."""

    status = 503
    retryable = True


class CallerUnknown(CallerError):
    """No live pod of this node has the peer's address."""

    reason = Reason.CALLER_UNKNOWN


class CallerAmbiguous(CallerError):
    """More than one live pod claims the peer's address."""

    reason = Reason.CALLER_AMBIGUOUS


class CallerChanged(CallerError):
    """The address, or the role of its pod, changed hands while the request was held."""

    reason = Reason.CALLER_CHANGED


class Masqueraded(CallerError):
    """The peer's address is one of the node's own and no pod's: something on the way hid the pod behind it."""

    reason = Reason.MASQUERADED


class NotRedirected(CallerError):
    """The connection was made to the agent itself, past the redirect; said in log and metric, it is closed."""

    reason = Reason.NOT_REDIRECTED


class CallerWithdrawn(CallerError):
    """The kernel shows that the peer's address is not where its pod was, and nothing newer says whose it is."""

    reason = Reason.CALLER_WITHDRAWN


class TooManyConnections(CallerError):
    """One address holds more connections than it may; said in log and metric, the connection is closed."""

    reason = Reason.TOO_MANY_CONNECTIONS


class CrowdedOut(CallerError):
    """All places are taken, and its address has most of them; said in log and metric, the connection is closed."""

    reason = Reason.CROWDED_OUT


class Refused(MetaproxyError):
    """The policy says no; which rule, and with which status, the denial tells."""

    def __init__(self, message: str, *, remedy: str, reason: Reason, status: int, retryable: bool) -> None:
        super().__init__(message, remedy=remedy)
        # The rule is data here, not a class: an instance speaks for its own rule.
        self.reason = reason  # type: ignore[misc]
        self.status = status  # type: ignore[misc]
        self.retryable = retryable  # type: ignore[misc]


class IssueError(MetaproxyError):
    """STS gave no credentials. `code` is its error code, kept for log and explanation."""

    status = 503
    retryable = True

    def __init__(self, message: str, *, remedy: str, code: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code

    def again(self) -> Self:
        """The same failure as a new exception: one instance raised to each waiter would grow with every traceback."""
        return type(self)(self.message, remedy=self.remedy, code=self.code)


class StsPending(IssueError):
    """The answer of STS did not come within the time a request may be held (contract §9.1)."""

    reason = Reason.STS_PENDING


class StsThrottled(IssueError):
    """STS asks to be called less."""

    reason = Reason.STS_THROTTLED


class StsUnreachable(IssueError):
    """STS cannot be reached, did not answer in time, or failed by itself."""

    reason = Reason.STS_UNREACHABLE


class StsOwnIdentity(IssueError):
    """The agent's own credentials are missing, expired or refused, or the node's clock is wrong."""

    reason = Reason.STS_OWN_IDENTITY


class StsDenied(IssueError):
    """STS refuses the role: its trust policy does not name us, or the role is not there."""

    status = 403
    retryable = False
    reason = Reason.STS_DENIED


class StsInvalidRequest(IssueError):
    """STS calls the request wrong: the same request will not do better."""

    status = 403
    retryable = False
    reason = Reason.STS_INVALID_REQUEST


class StsRegionDisabled(IssueError):
    """The region's STS endpoint is not active in the role's account."""

    status = 403
    retryable = False
    reason = Reason.STS_REGION_DISABLED


class UpstreamUnavailable(MetaproxyError):
    """The node's own metadata service did not answer and no copy is held."""

    status = 503
    reason = Reason.UPSTREAM_UNAVAILABLE
    retryable = True

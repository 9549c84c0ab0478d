"""Whatever botocore and the network raise becomes one of our refusals: enumerated, so that a new class is noticed."""

import asyncio
import inspect
import socket
import ssl
from typing import Any

import aiobotocore.httpsession
import aiohttp
import botocore.exceptions
import botocore.httpsession
import botocore.loaders
import botocore.parsers
import pytest
from aiohttp import client_exceptions
from botocore.retries import standard

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
from metaproxy.stserrors import clean, dropped, own_failure, translated

ROLE = RoleArn.parse("arn:aws:iam::123456789012:role/team/app")
CALL = AssumeRole(role=ROLE, session_name="shop.web", duration=3600)
SECRET = "secret-that-must-not-go-on"


def bare(kind: type[BaseException]) -> BaseException:
    """An instance, without its constructor's ideas of what it needs."""
    error = kind.__new__(kind)
    BaseException.__init__(error, SECRET)
    error.__dict__.update(kwargs={"error": OSError(SECRET)}, response={}, operation_name="AssumeRole")
    return error


def classes() -> list[type[Exception]]:
    """Every exception class that can reach us."""
    modules = (
        botocore.exceptions,
        botocore.httpsession,
        botocore.parsers,
        aiobotocore.httpsession,
        client_exceptions,
        aiohttp,
    )
    found = {
        thing
        for module in modules
        for _, thing in inspect.getmembers(module, inspect.isclass)
        if issubclass(thing, Exception) and not issubclass(thing, Warning)
    }
    found |= {OSError, ConnectionResetError, BrokenPipeError, TimeoutError, socket.gaierror, ssl.SSLError}
    found |= {KeyError, ValueError, TypeError, AttributeError, RuntimeError, UnicodeDecodeError, asyncio.TimeoutError}
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}")


NAMED = {
    "NoCredentialsError": StsOwnIdentity,
    "PartialCredentialsError": StsOwnIdentity,
    "CredentialRetrievalError": StsOwnIdentity,
    "UnknownCredentialError": StsOwnIdentity,
    "MetadataRetrievalError": StsOwnIdentity,
    "InvalidIMDSEndpointError": StsOwnIdentity,
    "InvalidIMDSEndpointModeError": StsOwnIdentity,
    "TokenRetrievalError": StsOwnIdentity,
    "NoAuthTokenError": StsOwnIdentity,
    "SSOError": StsOwnIdentity,
    "SSOTokenLoadError": StsOwnIdentity,
    "UnauthorizedSSOTokenError": StsOwnIdentity,
    "LoginError": StsOwnIdentity,
    "LoginAuthorizationCodeError": StsOwnIdentity,
    "LoginInsufficientPermissions": StsOwnIdentity,
    "LoginRefreshRequired": StsOwnIdentity,
    "LoginTokenLoadError": StsOwnIdentity,
    "ProfileNotFound": StsOwnIdentity,
    "ConfigNotFound": StsOwnIdentity,
    "ConfigParseError": StsOwnIdentity,
    "InfiniteLoopConfigError": StsOwnIdentity,
    "InvalidConfigError": StsOwnIdentity,
    "RefreshWithMFAUnsupportedError": StsOwnIdentity,
    "NoRegionError": StsOwnIdentity,
    "InvalidRegionError": StsOwnIdentity,
    "EndpointProviderError": StsOwnIdentity,
    "EndpointResolutionError": StsOwnIdentity,
    "UnknownEndpointResolutionBuiltInName": StsOwnIdentity,
    "ParamValidationError": StsInvalidRequest,
    "ValidationError": StsInvalidRequest,
    "AliasConflictParameterError": StsInvalidRequest,
    "RangeError": StsInvalidRequest,
    "UnknownKeyError": StsInvalidRequest,
    "UnknownParameterError": StsInvalidRequest,
}
"""What is not simply an STS that cannot be reached."""


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_class_is_translated(kind: type[Exception]) -> None:
    """Each becomes the refusal that the table names, or an STS that cannot be reached; its words do not go on."""
    failure = translated(bare(kind), call=CALL, who="")
    assert type(failure) is NAMED.get(kind.__name__, StsUnreachable)
    assert failure.remedy
    assert SECRET not in f"{failure.message}{failure.remedy}{failure.code}"


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_class_is_ours_when_our_own_keys_are_sought(kind: type[Exception]) -> None:
    """While our own keys are sought nothing is the pod's doing: own identity, or STS that cannot be reached."""
    failure = own_failure(bare(kind))
    assert type(failure) in {StsOwnIdentity, StsUnreachable}
    assert failure.retryable
    assert SECRET not in f"{failure.message}{failure.remedy}{failure.code}"


def test_the_table_names_classes_that_exist() -> None:
    """No row of the table outlives its class."""
    assert set(NAMED) <= {kind.__name__ for kind in classes()}


@pytest.mark.parametrize(
    "kind", [aiohttp.ClientConnectionError, ConnectionError, TimeoutError, botocore.exceptions.EndpointConnectionError]
)
def test_networks_are_no_matter_of_identity(kind: type[Exception]) -> None:
    """A network that fails while own keys are sought says nothing about them."""
    assert type(own_failure(bare(kind))) is StsUnreachable


def answered(code: str, status: int, message: str = "words") -> botocore.exceptions.ClientError:
    """An error that STS answered."""
    return botocore.exceptions.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "AssumeRole"
    )


def modelled() -> list[tuple[str, int]]:
    """Every error that STS's model names: code and status."""
    shapes = botocore.loaders.Loader().load_service_model("sts", "service-2")["shapes"]
    return [
        (shape["error"]["code"], shape["error"]["httpStatusCode"])
        for shape in shapes.values()
        if shape.get("exception")
    ]


ELSEWHERE = {
    "InvalidAuthorizationMessageException",
    "JWTPayloadSizeExceededException",
    "OutboundWebIdentityFederationDisabledException",
}
"""Errors of STS's other operations."""


@pytest.mark.parametrize(("code", "status"), modelled())
def test_every_error_of_the_model_is_known(code: str, status: int) -> None:
    """No error of STS's model is an unknown one, save those of operations that are never called."""
    failure = translated(answered(code, status), call=CALL, who="")
    known = (StsThrottled, StsOwnIdentity, StsInvalidRequest, StsRegionDisabled)
    assert isinstance(failure, known) is (code not in ELSEWHERE)


@pytest.mark.parametrize("code", standard.ThrottledRetryableChecker._THROTTLED_ERROR_CODES)
def test_what_botocore_calls_throttling_is(code: str) -> None:
    """Every code that botocore takes for throttling is throttling, for calls and for our own identity."""
    assert type(translated(answered(code, 400), call=CALL, who="")) is StsThrottled
    assert type(own_failure(answered(code, 400))) is StsThrottled


@pytest.mark.parametrize("code", ["RequestTimeout", "InternalError", "503", ""])
def test_a_failing_sts_is_no_matter_of_identity(code: str) -> None:
    """STS that fails by itself says nothing about our keys."""
    assert type(own_failure(answered(code, 503))) is StsUnreachable


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDenied", 403), ("ExpiredToken", 403), ("ValidationError", 400), ("Odd", 403)]
)
def test_refused_while_asking_who_we_are(code: str, status: int) -> None:
    """Whatever STS refuses about ourselves is our own trouble, and temporary to pods."""
    failure = own_failure(answered(code, status))
    assert type(failure) is StsOwnIdentity
    assert failure.code == code


@pytest.mark.parametrize(
    "response", [{}, {"Error": None}, {"Error": {"Code": None}}, {"ResponseMetadata": []}, [], None]
)
def test_half_an_error_is_one(response: Any) -> None:
    """An error answer that lacks everything is an STS that cannot be reached."""
    error = answered("AccessDenied", 403)
    error.response = response
    assert type(translated(error, call=CALL, who="")) is StsUnreachable


def test_a_proxy_that_refuses_is_not_sts() -> None:
    """A 403 that carries no code of STS's denies nothing: some proxy is in the way."""
    assert type(translated(answered("403", 403), call=CALL, who="")) is StsUnreachable
    assert type(translated(answered("AccessDenied", 403), call=CALL, who="")) is StsDenied


def test_tls_says_where_to_look() -> None:
    """A certificate that does not verify points at the CA bundle."""
    assert "CA bundle" in translated(bare(botocore.exceptions.SSLError), call=CALL, who="").remedy


def test_ours_stays_ours() -> None:
    """A refusal of ours passes as it is; repeated, it is another object that says the same."""
    failure: IssueError = StsThrottled("m", remedy="r", code="c")
    assert translated(failure, call=CALL, who="") is failure
    assert own_failure(failure) is failure
    copy = failure.again()
    assert copy is not failure
    assert (type(copy), copy.message, copy.remedy, copy.code) == (StsThrottled, "m", "r", "c")


def test_dropped_connections() -> None:
    """A connection that ends under a request is told from one that could not be made."""

    def reached(cause: Exception) -> Any:
        return botocore.exceptions.EndpointConnectionError(endpoint_url="u", error=cause)

    key: Any = None
    assert dropped(botocore.exceptions.ConnectionClosedError(endpoint_url="u", request=None, error=None))
    assert dropped(reached(aiohttp.ClientConnectionResetError("gone")))
    assert not dropped(reached(aiohttp.ClientConnectorError(key, ConnectionRefusedError("no"))))
    assert not dropped(reached(aiohttp.ClientConnectionError("other")))
    assert not dropped(TimeoutError())


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [
        ("User: arn:aws:sts::1:assumed-role/node/i-0 is not authorized", None),
        ("the key ASIAIOSFODNN7EXAMPLE is unknown", "the key … is unknown"),
        ("with wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "with …"),
        (f"token {'FwoGZXIvYXdzE+/' * 40}== is over", "token … is over"),
        ("two\nlines\x1b[31m", "two lines [31m"),
    ],
)
def test_words_of_sts_go_on_without_keys(said: str, passed_on: str | None) -> None:
    """What STS says goes to pods, logs and Events: as it is, without what looks like a key, a token or a command."""
    assert clean(said) == (said if passed_on is None else passed_on)

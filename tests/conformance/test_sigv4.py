"""Signatures: AWS's published examples come out as published, and nothing that AWS would refuse is taken."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.conformance import sigv4
from tests.conformance.sigv4 import Request, Scope, Session

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
IAM_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
IAM_SIGNED = (
    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
    "SignedHeaders=content-type;host;x-amz-date, "
    "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
)
S3_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
S3_SCOPE = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
S3_HEADERS = (
    ("Host", "examplebucket.s3.amazonaws.com"),
    ("x-amz-date", "20130524T000000Z"),
)


def _s3(
    names: str,
    signature: str,
    *headers: tuple[str, str],
    method: str = "GET",
    path: str = "/",
    query: str = "",
    body: bytes = b"",
    digest: str = EMPTY,
) -> Request:
    said = ("Authorization", f"{S3_SCOPE},SignedHeaders={names},Signature={signature}")
    every = (*S3_HEADERS, ("x-amz-content-sha256", digest), *headers, said)
    return Request(method=method, path=path, query=query, headers=every, body=body)


LIST_USERS = Request(
    method="GET",
    path="/",
    query="Action=ListUsers&Version=2010-05-08",
    headers=(
        ("Host", "iam.amazonaws.com"),
        ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("X-Amz-Date", "20150830T123600Z"),
        ("Authorization", IAM_SIGNED),
    ),
    body=b"",
)
PUBLISHED = {
    "IAM's ListUsers": (LIST_USERS, IAM_SECRET),
    "S3's GetObject": (
        _s3(
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ("Range", "bytes=0-9"),
            path="/test.txt",
        ),
        S3_SECRET,
    ),
    "S3's PutObject": (
        _s3(
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ("Date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            method="PUT",
            path="/test%24file.text",
            body=b"Welcome to Amazon S3.",
            digest="44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
        ),
        S3_SECRET,
    ),
    "S3's lifecycle": (
        _s3(
            "host;x-amz-content-sha256;x-amz-date",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            query="lifecycle",
        ),
        S3_SECRET,
    ),
    "S3's ListObjects": (
        _s3(
            "host;x-amz-content-sha256;x-amz-date",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            query="max-keys=2&prefix=J",
        ),
        S3_SECRET,
    ),
}
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC).timestamp()
SESSION = Session(secret="of the session", token="token==", expires=NOW + 60)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_examples(name: str) -> None:
    """Each signature of AWS's documentation is derived anew."""
    request, secret = PUBLISHED[name]
    claimed = sigv4.scope(request)
    assert claimed is not None
    assert sigv4.signature(request, claimed, secret) == claimed.signature


def _signed(session: Session = SESSION, region: str = "us-east-1", *, names: str = "", **changes: object) -> Request:
    """A request as a client of STS makes it, signed after the changes."""
    headers = [
        ("Host", "127.0.0.1:8080"),
        ("X-Amz-Date", "20150830T123600Z"),
        ("X-Amz-Security-Token", session.token),
        *changes.pop("more", ()),  # type: ignore[misc]
    ]
    plain = Request(method="POST", path="/", query="", headers=headers, body=b"Action=GetCallerIdentity")
    plain = replace(plain, **changes)  # type: ignore[arg-type]
    signed = tuple(names.split(";")) if names else tuple(sorted(name.lower() for name, _ in plain.headers))
    claimed = Scope(key="ASIA", date="20150830", region=region, service="sts", headers=signed, signature="")
    said = (
        f"{sigv4.ALGORITHM} Credential=ASIA/{claimed.text}, SignedHeaders={';'.join(claimed.headers)}, "
        f"Signature={sigv4.signature(plain, claimed, session.secret)}"
    )
    return replace(plain, headers=[*plain.headers, ("Authorization", said)])


def _fault(request: Request, session: Session = SESSION, now: float = NOW) -> str:
    claimed = sigv4.scope(request)
    assert claimed is not None
    return sigv4.fault(request, claimed, session, regions={"us-east-1"}, now=now)


def test_a_good_signature() -> None:
    """Is taken, until the session ends."""
    assert _fault(_signed()) == ""
    assert _fault(_signed(), now=NOW + 59) == ""
    assert _fault(_signed(more=[("x-amz-content-sha256", "UNSIGNED-PAYLOAD")])) == ""


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: _signed(replace(SESSION, secret="another")), "secret"),
        (lambda: _signed(replace(SESSION, token="another")), "session token"),
        (lambda: _signed(region="eu-west-1"), "eu-west-1"),
        (lambda: _signed(headers=[("Host", "h"), ("X-Amz-Security-Token", SESSION.token)]), "dated"),
        (
            lambda: _signed(
                headers=[
                    ("Host", "h"),
                    ("X-Amz-Date", "20150831T123600Z"),
                    ("X-Amz-Security-Token", SESSION.token),
                ]
            ),
            "as its scope is",
        ),
        (lambda: _signed(names="host;x-amz-date"), "not signed: x-amz-security-token"),
        (lambda: _signed(names="x-amz-date;x-amz-security-token"), "not signed: host"),
        (lambda: _signed(more=[("x-amz-content-sha256", EMPTY)]), "body"),
        (lambda: _signed(more=[("x-amz-content-sha256", "none")]), "x-amz-content-sha256"),
        (lambda: replace(_signed(), body=b"Action=AssumeRole"), "secret"),
        (lambda: replace(_signed(), method="GET"), "secret"),
        (lambda: replace(_signed(), path="/other"), "secret"),
        (lambda: replace(_signed(), query="Action=x"), "secret"),
    ],
)
def test_what_is_not_taken(make: Callable[[], Request], part: str) -> None:
    """Each thing that AWS refuses is refused, and named."""
    assert part in _fault(make())


def test_times() -> None:
    """A session that is over signs nothing, nor does a request from another time."""
    assert "expired" in _fault(_signed(), now=NOW + 60)
    long = replace(SESSION, expires=NOW + 7200)
    assert "from now" in _fault(_signed(), long, NOW + 301)
    assert "from now" in _fault(_signed(), long, NOW - 301)


@pytest.mark.parametrize(
    "said", ["", "Bearer x", "AWS4-HMAC-SHA256 Credential=ASIA/20150830/us-east-1/sts/aws4_request"]
)
def test_not_signed(said: str) -> None:
    """A request without a whole signature claims none."""
    assert sigv4.scope(replace(LIST_USERS, headers=[("Authorization", said)])) is None

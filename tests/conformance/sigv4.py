"""AWS's Signature Version 4, verified as AWS does: whose key signed a request, and whether all of it is so signed.

Knows: how a request is put in its canonical form, how a signing key is derived, what must be signed.
Must not know: the clock, who was given which key. Pure.

The pieces of a body that is signed while it streams are not looked at; the head that announces them is.
"""

import hashlib
import hmac
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW = 300.0
"""Seconds by which a request's own time may be off: STS allows five minutes."""

_AUTHORIZATION = re.compile(
    rf"{ALGORITHM} Credential=(?P<key>[A-Z0-9]+)/(?P<date>\d{{8}})/(?P<region>[a-z0-9-]+)/(?P<service>[a-z0-9]+)"
    r"/aws4_request, ?SignedHeaders=(?P<headers>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNSIGNED = re.compile(r"UNSIGNED-PAYLOAD|STREAMING-[A-Z0-9-]+")
_DATE, _TOKEN, _CONTENT = "x-amz-date", "x-amz-security-token", "x-amz-content-sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came over the wire: path and query as they were written, header names as they were."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """The values of a header, named in small letters; empty when there is none."""
        return ",".join(" ".join(value.split()) for key, value in self.headers if key.lower() == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a request says of its signature: with which key, for what, over which headers."""

    key: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    signature: str

    @property
    def text(self) -> str:
        """As the string to sign has it."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What STS gave with the key; `expires` in Unix seconds."""

    secret: str
    token: str
    expires: float


def scope(request: Request) -> Scope | None:
    """Whose signature a request claims to have; None when it is not signed."""
    found = _AUTHORIZATION.fullmatch(request.header("authorization"))
    if found is None:
        return None
    names = tuple(found["headers"].split(";"))
    return Scope(
        key=found["key"],
        date=found["date"],
        region=found["region"],
        service=found["service"],
        headers=names,
        signature=found["signature"],
    )


def fault(request: Request, claimed: Scope, session: Session, *, regions: Container[str], now: float) -> str:
    """What is wrong with a signature, in words; empty when AWS would take it.

    `regions` are those in which the request may be meant to be made; `now` in Unix seconds.
    """
    when = _time(request.header(_DATE))
    content = request.header(_CONTENT)
    unsigned = {name.lower() for name, _ in request.headers if name.lower().startswith("x-amz-")} | {"host"}
    wrong = (
        (when is None or not request.header(_DATE).startswith(claimed.date), "it is not dated, or not as its scope is"),
        (when is not None and abs(when - now) > SKEW, f"it is dated {SKEW:.0f} s or more from now"),
        (now >= session.expires, "the session has expired"),
        (request.header(_TOKEN) != session.token, "the session token is not the one of this key"),
        (claimed.region not in regions, f"it is signed for the region {claimed.region}"),
        (not unsigned <= set(claimed.headers), f"not signed: {', '.join(sorted(unsigned - set(claimed.headers)))}"),
        (
            bool(_DIGEST.fullmatch(content)) and content != _sha256(request.body),
            "the body is not the one that was signed",
        ),
        (
            bool(content) and not _DIGEST.fullmatch(content) and not _UNSIGNED.fullmatch(content),
            f"{_CONTENT} is {content!r}",
        ),
        (
            not hmac.compare_digest(signature(request, claimed, session.secret), claimed.signature),
            "the signature is not one of this key's secret",
        ),
    )
    return next((text for holds, text in wrong if holds), "")


def signature(request: Request, claimed: Scope, secret: str) -> str:
    """The signature that this secret gives."""
    key = f"AWS4{secret}".encode()
    for part in claimed.text.split("/"):
        key = _hmac(key, part)
    return _hmac(key, string_to_sign(request, claimed)).hex()


def string_to_sign(request: Request, claimed: Scope) -> str:
    """The text that is signed."""
    whole = canonical(request, claimed)
    return "\n".join((ALGORITHM, request.header(_DATE), claimed.text, _sha256(whole.encode())))


def canonical(request: Request, claimed: Scope) -> str:
    """The request in its canonical form."""
    headers = "".join(f"{name}:{request.header(name)}\n" for name in claimed.headers)
    content = request.header(_CONTENT) or _sha256(request.body)
    # S3 alone takes a path as it is; elsewhere it is encoded once more.
    path = _encoded(unquote(request.path) if claimed.service == "s3" else request.path, keep="/") or "/"
    return "\n".join(
        (request.method, path, _canonical_query(request.query), headers, ";".join(claimed.headers), content)
    )


def _canonical_query(query: str) -> str:
    pairs = (part.partition("=") for part in query.split("&") if part)
    return "&".join(
        f"{name}={value}" for name, value in sorted((_encoded(unquote(k)), _encoded(unquote(v))) for k, _, v in pairs)
    )


def _encoded(text: str, keep: str = "") -> str:
    return quote(text, safe=f"-_.~{keep}")


def _time(text: str) -> float | None:
    """The Unix seconds of `20150830T123600Z`."""
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()

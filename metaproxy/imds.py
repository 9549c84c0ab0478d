"""The wire contract of the metadata address: which paths there are, what may be forwarded, every document and error.

Knows: the path grammar, version prefixes, the allow-list, the bytes of answers.
Must not know: who is calling, the clock, the event loop, any HTTP library.

A path is read once, from the raw request target, with a small alphabet; whatever another server would have to
normalise first is unknown here, so there is nothing that two readers could understand differently.
"""

import hashlib
import json
import re
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from metaproxy.credentials import Credentials
from metaproxy.errors import ForwardedRequest, MethodNotAllowed, TokenVersion, UnknownPath
from metaproxy.roles import RoleArn

TEXT = "text/plain"
JSON = "application/json"

_VERSION = re.compile(r"latest|1\.0|[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_PLAIN = re.compile(r"/[A-Za-z0-9_./-]*", re.ASCII)
_ROLE_RAW = re.compile(r"(?:[A-Za-z0-9_+=,.@:~!/-]|%[0-9A-Fa-f]{2})+", re.ASCII)
_ROLE_TEXT = re.compile(r"[A-Za-z0-9_+=,.@:~!/-]+", re.ASCII)
_EMPTY_OR_DOTS = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")

_TOKEN = "api/token"  # noqa: S105  a path
_ROLES = "meta-data/iam/security-credentials"
_EXTENDED = "meta-data/iam/security-credentials-extended"
_INFO = "meta-data/iam/info"
_EXPLAIN = "/metaproxy/explain"

VERSIONS = "1.0\n2012-01-12\n2016-09-02\n2021-03-23\n2022-09-24\nlatest"
"""What `GET /` lists: enough for clients that probe it (contract M7)."""

BASIC = frozenset(
    {
        "dynamic/instance-identity/document",
        "meta-data/instance-id",
        "meta-data/instance-type",
        "meta-data/placement/availability-zone",
        "meta-data/placement/availability-zone-id",
        "meta-data/placement/region",
        "meta-data/services/domain",
        "meta-data/services/partition",
    }
)
"""The `basic` profile: what SDKs ask to find their region, and nothing that gives power (contract S10)."""

_NEVER = re.compile(
    r"(?:.*/)?(?:iam|identity-credentials|user-data|pkcs7|rsa2048|signature|public-keys|managed-ssh-keys|tags)\.*(?:/.*)?",
    re.IGNORECASE,
)
"""What is never forwarded, whatever the operator allows.

In any letter case, below any prefix (peers: NMI#1021), and with dots at the end that another server might drop (M16).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Which items may be asked of the node's own metadata service: exact paths, and prefixes ending in a slash.

    Paths are without version: `meta-data/mac`.
    """

    exact: frozenset[str] = BASIC
    prefixes: tuple[str, ...] = ()

    def allows(self, path: str) -> bool:
        """Whether the path may be forwarded."""
        return (path in self.exact or path.startswith(self.prefixes)) and _NEVER.fullmatch(path) is None


NONE = Profile(exact=frozenset())


# Not frozen, nor is the answer: that would be a fifth of all that the listener does for a request.
@dataclass(slots=True, kw_only=True)
class Request:
    """A request, as far as anything here looks at it. `peer` is the socket's address in canonical spelling.

    `host` is what the client calls us, which says nothing: only who shows the operator's pages looks at it.
    """

    method: str
    target: str
    peer: str
    token: str | None = None
    ttl: str | None = None
    forwarded: bool = False
    host: str | None = None


# Not frozen, as above.
@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer: HEAD requests get it without its body. `ttl` is told in the token header when a token was at work.

    `headers` are those that depend on nothing: of answers to pods EC2's name (S11).
    """

    status: int
    body: bytes
    content_type: str = TEXT
    ttl: int | None = None
    retry_after: int | None = None
    headers: tuple[tuple[str, str], ...] = (("Server", "EC2ws"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRoute:
    """`PUT /latest/api/token`."""

    label = "token"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsRoute:
    """`GET /`."""

    label = "versions"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRoute:
    """The role list; the `-extended` twin asks the same."""

    label = "list"


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsRoute:
    """Credentials of a role, named in any of its forms; `extended` adds the account."""

    label = "credentials"
    role: str
    extended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoRoute:
    """`iam/info`: the instance profile, made up for the pod's role (contract M18)."""

    label = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRoute:
    """An allowed item of the node's own metadata service; `path` is canonical and with version."""

    label = "item"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainRoute:
    """What the agent knows and decides about the pod that asks."""

    label = "explain"


Route = TokenRoute | VersionsRoute | ListRoute | CredentialsRoute | InfoRoute | ItemRoute | ExplainRoute


def parse(request: Request, profile: Profile) -> Route:
    """What is asked for.

    Raises:
        ForwardedRequest: something between forwarded the request (contract M6): refused before anything is read.
        UnknownPath, MethodNotAllowed, TokenVersion: as their names say.
    """
    if request.forwarded:
        raise ForwardedRequest(
            "a request with X-Forwarded-For is not answered", remedy="ask the metadata address directly, not by a proxy"
        )
    return _route(request.method, request.target, profile)


@lru_cache(maxsize=1024)  # every client asks the same few targets; refusals are not kept
def _route(method: str, target: str, profile: Profile) -> Route:
    path, _, _ = target.partition("?")
    route = _read(method, path, profile)
    if method not in (("PUT",) if isinstance(route, TokenRoute) else ("GET", "HEAD")):
        raise MethodNotAllowed(f"{_known(method)} is not for this path", remedy="use GET, or PUT /latest/api/token")
    return route


def _read(method: str, path: str, profile: Profile) -> Route:  # noqa: C901, PLR0911  one branch for each thing there is
    if path == "/":
        return VersionsRoute()
    if path in {_EXPLAIN, f"{_EXPLAIN}/"}:
        return ExplainRoute()
    version, _, rest = path[1:].partition("/")
    if not path.startswith("/") or _VERSION.fullmatch(version) is None:
        raise _unknown()
    leaf = rest.removesuffix("/")
    if leaf == _TOKEN:
        if method == "PUT" and version != "latest":
            raise TokenVersion("tokens are given under latest alone", remedy="PUT /latest/api/token")
        return TokenRoute()
    if leaf == _INFO:
        return InfoRoute()
    for prefix, extended in ((_ROLES, False), (_EXTENDED, True)):
        if leaf == prefix:
            return ListRoute()
        if rest.startswith(f"{prefix}/"):
            return CredentialsRoute(role=_role(rest[len(prefix) + 1 :]), extended=extended)
    if _PLAIN.fullmatch(path) is None or _EMPTY_OR_DOTS.search(leaf) or not profile.allows(leaf):
        raise _unknown()
    return ItemRoute(path=f"/latest/{leaf}")


def _role(raw: str) -> str:
    """The role that a path ends in, percent-decoded exactly once; one slash at the end is nothing."""
    if _ROLE_RAW.fullmatch(raw) is None:
        raise _unknown()
    text = unquote(raw.removesuffix("/"), errors="replace")
    if _ROLE_TEXT.fullmatch(text) is None or _EMPTY_OR_DOTS.search(text):
        raise _unknown()
    return text


def _known(method: str) -> str:
    return method if method in {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"} else "this method"


def _unknown() -> UnknownPath:
    return UnknownPath(
        "there is nothing here",
        remedy="roles are under /latest/meta-data/iam/security-credentials/ , or ask the operator",
    )


def date(seconds: float) -> str:
    """Unix seconds as every client reads them: UTC, whole seconds, `Z` (contract M12)."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=256)  # the same bytes for everybody who shares the session
def credentials_document(credentials: Credentials, *, expiry: int, extended: bool) -> bytes:
    """The credentials as EC2 writes them (contract M11): flat, no role, no empty value. `expiry` is what to tell."""
    fields = {
        "Code": "Success",
        "LastUpdated": date(credentials.issued),
        "Type": "AWS-HMAC",
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key.reveal(),
        "Token": credentials.session_token.reveal(),
        "Expiration": date(expiry),
    }
    if extended:
        fields["AccountId"] = credentials.account
    return json.dumps(fields, indent=2, separators=(",", " : ")).encode()


def info_document(role: RoleArn, *, now: float) -> bytes:
    """`iam/info` for a role: an instance profile of the role's own account (contract M18: not the node's)."""
    digest = b32encode(hashlib.sha256(role.arn.encode()).digest()).decode()
    fields = {
        "Code": "Success",
        "LastUpdated": date(now),
        "InstanceProfileArn": f"arn:{role.partition}:iam::{role.account}:instance-profile{role.path}{role.name}",
        "InstanceProfileId": f"AIPA{digest[:17]}",
    }
    return json.dumps(fields, indent=2, separators=(",", " : ")).encode()


def error_document(code: str, parts: Iterable[str]) -> bytes:
    """The body of a refusal: always with a space, since one client takes a body without for a role (contract §9.1)."""
    return json_document({"code": code, "message": "; ".join(part for part in parts if part)})


def json_document(fields: Any) -> bytes:
    """Readable JSON, ASCII, one newline at the end: for people with curl."""
    return json.dumps(fields, indent=2).encode() + b"\n"

"""Paths are read once and strictly, and the bytes of every document suit the pickiest known reader."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args
from urllib.parse import unquote

import pytest
from hypothesis import assume, example, given, reject, settings
from hypothesis import strategies as st

from metaproxy import imds
from metaproxy.credentials import Credentials, Secret
from metaproxy.errors import ForwardedRequest, MetaproxyError, MethodNotAllowed, TokenVersion, UnknownPath
from metaproxy.imds import (
    BASIC,
    NONE,
    CredentialsRoute,
    ExplainRoute,
    InfoRoute,
    ItemRoute,
    ListRoute,
    Profile,
    Request,
    Route,
    TokenRoute,
    VersionsRoute,
)
from metaproxy.roles import BaseArn, RoleArn, RoleSyntaxError, resolve

ALL = Profile(exact=frozenset({"meta-data", "user-data"}), prefixes=("meta-data/", "dynamic/", "user-data/", "spot/"))
"""As wide as an operator can open it: what is refused under it is refused under every other."""

ROLES = "/latest/meta-data/iam/security-credentials"


def route(target: str, *, method: str = "GET", profile: Profile | None = None) -> Route:
    """What is asked for, with the default profile."""
    return imds.parse(Request(method=method, target=target, peer="10.0.0.1"), profile or Profile())


# What is served.


@pytest.mark.parametrize("version", ["latest", "1.0", "2009-04-04", "2021-03-23", "9999-99-99"])
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("api/token", None),
        ("meta-data/iam/security-credentials", ListRoute()),
        ("meta-data/iam/security-credentials-extended", ListRoute()),
        ("meta-data/iam/security-credentials/r", CredentialsRoute(role="r", extended=False)),
        ("meta-data/iam/security-credentials-extended/r", CredentialsRoute(role="r", extended=True)),
        ("meta-data/iam/info", InfoRoute()),
        ("meta-data/placement/region", ItemRoute(path="/latest/meta-data/placement/region")),
        ("dynamic/instance-identity/document", ItemRoute(path="/latest/dynamic/instance-identity/document")),
    ],
)
def test_every_leaf_with_and_without_slash(version: str, slash: str, path: str, expected: Route | None) -> None:
    """All versions alike, a slash at the end is nothing (contract M8, S14): never a redirect."""
    target = f"/{version}/{path}{slash}"
    if expected is None:
        with pytest.raises(MethodNotAllowed):
            route(target)
    else:
        assert route(target) == expected
        assert route(target, method="HEAD") == expected
        assert route(f"{target}?x=/../iam#y") == expected


def test_the_three_paths_without_version() -> None:
    """The version list and a pod's own explanation."""
    assert route("/") == route("/?a") == VersionsRoute()
    assert route("/metaproxy/explain") == route("/metaproxy/explain/") == ExplainRoute()
    assert isinstance(route("/latest/api/token", method="PUT"), TokenRoute)


def test_labels_are_few() -> None:
    """Every route has a label of its own for metrics: foreign text never gets into one."""
    labels = [kind.label for kind in get_args(Route)]
    assert sorted(labels) == ["credentials", "explain", "info", "item", "list", "token", "versions"]


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("web", "web"),
        ("team/web", "team/web"),
        ("arn:aws:iam::123456789012:role/team/web", "arn:aws:iam::123456789012:role/team/web"),
        ("arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fteam%2fweb", "arn:aws:iam::123456789012:role/team/web"),
        ("a%2Bb%3D%2C%40", "a+b=,@"),
        ("a+b=,.@-_", "a+b=,.@-_"),
        ("%77eb/", "web"),
    ],
)
def test_roles_are_decoded_exactly_once(text: str, role: str) -> None:
    """Name, path and name, or ARN, percent-encoded or not (contract M10); a plus is a plus."""
    assert route(f"{ROLES}/{text}") == CredentialsRoute(role=role, extended=False)
    assert route(f"{ROLES}-extended/{text}") == CredentialsRoute(role=role, extended=True)


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "a//",
        "a//b",
        "/a",
        "..",
        "../info",
        "a/../b",
        "a/.",
        "%2e%2e",
        "%2E%2e/info",
        "%252e%252e",
        "a%2f%2fb",
        "a%2F",
        "%2Fa",
        "%2F",
        "a%00",
        "a%0a",
        "a%0d%0a",
        "a%20b",
        "a b",
        "a;b",
        "a\\b",
        "a%5cb",
        "a#b",
        "a%",
        "a%4",
        "a%zz",
        "é",
        "%c3%a9",
        "%ff",
        "a\n",
        "a*",
        "a%3Fb",
        "%uFF0Ea",
    ],
)
def test_vector_5_encodings_of_a_role(text: str) -> None:
    """A second encoding, encoded separators that build dot segments, controls, half escapes: there is nothing there."""
    with pytest.raises(UnknownPath):
        route(f"{ROLES}/{text}")


@given(st.text(st.characters(exclude_categories=[])))
def test_a_role_on_the_path_is_in_the_small_alphabet(text: str) -> None:
    """Whatever is asked: a text that can be a role's, without dot segments and gaps, or 404."""
    try:
        found = route(f"{ROLES}/{text}")
    except UnknownPath:
        return
    assume(isinstance(found, CredentialsRoute))
    assert isinstance(found, CredentialsRoute)
    assert re.fullmatch(r"[A-Za-z0-9_+=,.@:~!/-]+", found.role)
    assert not {"", ".", ".."} & set(found.role.split("/"))


@given(st.sampled_from(["", "team/", "a/b.c/"]), st.text("abcXYZ019_+=,.@-", min_size=1, max_size=64), st.booleans())
def test_every_role_can_be_asked_for(path: str, name: str, encoded: bool) -> None:
    """Each spelling of a role that IAM allows reaches the credentials of exactly this role."""
    try:
        role = resolve(f"{path}{name}", BaseArn.parse("arn:aws:iam::123456789012:role"))
    except RoleSyntaxError:
        reject()
    assert role is not None
    for text in (f"{path}{name}", role.arn):
        spelled = "".join(f"%{ord(letter):02x}" for letter in text) if encoded else text
        assert route(f"{ROLES}/{spelled}") == CredentialsRoute(role=text, extended=False)


# Methods.


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "get", "", "é\n"])
def test_only_put_asks_for_a_token(method: str) -> None:
    """Anything else on the token path is 405 (contract M6), and a strange method is not repeated to the asker."""
    with pytest.raises(MethodNotAllowed) as caught:
        route("/latest/api/token", method=method)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("version", ["1.0", "2021-03-23"])
def test_tokens_are_of_the_latest_version(version: str) -> None:
    """PUT on another version's token path is 403 (contract M6)."""
    with pytest.raises(TokenVersion):
        route(f"/{version}/api/token", method="PUT")


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "CONNECT", "PROPFIND"])
@pytest.mark.parametrize("target", ["/", ROLES, f"{ROLES}/r", "/latest/meta-data/iam/info", "/metaproxy/explain"])
def test_everything_else_is_read_only(method: str, target: str) -> None:
    """GET and HEAD, nothing more."""
    with pytest.raises(MethodNotAllowed):
        route(target, method=method)


@pytest.mark.parametrize("target", ["/", "/latest/api/token", ROLES, "/nothing", "junk"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_vector_15_forwarded_requests(target: str, method: str) -> None:
    """X-Forwarded-For on any request is refused before anything is read, as EC2 does (contract M6)."""
    with pytest.raises(ForwardedRequest):
        imds.parse(Request(method=method, target=target, peer="10.0.0.1", forwarded=True), Profile())


# What is not served, whoever might serve it.


@pytest.mark.parametrize(
    "target",
    [
        "/latest/meta-data/iam",
        "/latest/meta-data/iam/",
        "/latest/meta-data/iam/security-credentials/r/../../x",
        "/latest/meta-data/iam/security-credential",
        "/latest/meta-data/iam/security-credentials-extended-more/r",
        "/latest/meta-data/iam/info/x",
        "/latest/meta-data/iam/info//",
        "/latest/meta-data/x/iam/y",
        "/latest/dynamic/iam",
    ],
)
def test_vector_1_everything_under_iam_is_ours(target: str) -> None:
    """What follows the known leaves falls through to nobody (metadataproxy handed out the node's keys)."""
    with pytest.raises(UnknownPath):
        route(target, profile=ALL)


def test_vector_1_a_segment_after_the_role_is_part_of_the_role() -> None:
    """Read as PATH/NAME, which then is not the pod's role."""
    assert route(f"{ROLES}/r/x", profile=ALL) == CredentialsRoute(role="r/x", extended=False)


@pytest.mark.parametrize(
    "target",
    ["/latest/meta-data\\iam\\security-credentials\\r", "/latest\\meta-data/mac", "/latest/meta-data/mac\\..\\iam"],
)
def test_vector_2_backslashes(target: str) -> None:
    """No byte outside the small alphabet (CVE-2022-23551)."""
    with pytest.raises(UnknownPath):
        route(target, profile=ALL)


@pytest.mark.parametrize(
    "target",
    [
        "/latest/meta-data/IAM/security-credentials/r",
        "/latest/meta-data/Iam/info",
        "/latest/meta-data/Identity-Credentials/ec2/info",
        "/latest/User-Data/x",
        "/LATEST/meta-data/mac",
        "/latest/META-DATA/mac",
    ],
)
def test_vector_3_letter_case(target: str) -> None:
    """What an upstream might take in another case is not forwarded in any."""
    with pytest.raises(UnknownPath):
        route(target, profile=ALL)


@pytest.mark.parametrize(
    "target",
    [
        "//latest/meta-data/mac",
        "/latest//meta-data/mac",
        "/latest/meta-data//iam/info",
        "/latest/./meta-data/mac",
        "/latest/meta-data/mac/../iam/info",
        "/latest/meta-data/./iam/info",
        "/latest/meta-data/mac/..",
        "/latest/meta-data/mac/.",
        "/latest/meta-data/mac//",
        "/latest/../latest/meta-data/mac",
        "/latest/meta-data/iam./info",
        "/latest/meta-data/iam.../security-credentials/r",
        "/latest/dynamic/../meta-data/iam/info",
    ],
)
def test_vector_4_gaps_and_dots(target: str) -> None:
    """Nothing is left for anybody behind us to normalise; dots at the end count as such, too (contract M16)."""
    with pytest.raises(UnknownPath):
        route(target, profile=ALL)


@pytest.mark.parametrize(
    "target",
    [
        "/latest/meta-data/%69am/info",
        "/latest/meta-data/mac%2f..%2fiam",
        "/latest/meta-data/%2569am/info",
        "/latest/%6deta-data/mac",
        "/latest/meta-data%2Fmac",
        "/%6catest/meta-data/mac",
        "/latest/meta-data/iam%2Fsecurity-credentials/r",
        "/latest/meta-data/iam/security-credentials%2Fr",
    ],
)
def test_vector_5_encodings_of_a_path(target: str) -> None:
    """No escape before the role."""
    with pytest.raises(UnknownPath):
        route(target, profile=ALL)


@pytest.mark.parametrize(
    "version", ["1.1", "latest1", "Latest", "2009-4-4", "20090404", "2009-04-04x", "2009-04-04\n", "", ".", "1%2e0"]
)
def test_vector_6_versions(version: str) -> None:
    """A version is a date, `1.0` or `latest`: nothing else is compared or passed on."""
    with pytest.raises(UnknownPath):
        route(f"/{version}/meta-data/placement/region", profile=ALL)


def test_vector_6_the_version_is_not_forwarded() -> None:
    """Upstream is asked in our spelling, whatever version was asked for, without query."""
    assert route("/1.0/meta-data/mac/?a=b", profile=ALL) == ItemRoute(path="/latest/meta-data/mac")


@pytest.mark.parametrize(
    "target",
    [
        "/latest/meta-data/mac;x",
        "/latest/meta-data/iam;x/info",
        "/latest/meta-data/mac#x",
        "http://169.254.169.254/latest/meta-data/mac",
        "http://example.com/",
        "example.com:443",
        "*",
        "",
        "?",
        "latest/meta-data/mac",
        "/latest",
        "/latest/",
        "/latest/meta-data/mac%00",
        "/latest/meta-data/mac\x00",
        "/latest/meta-data/mac\n",
        "/latest/meta-data/mac x",
        "/latest/meta-data/\u212a",
        "/latest/meta-data/\u0131am",
    ],
)
def test_vector_7_other_forms(target: str) -> None:
    """Origin form only: no parameters, no fragments, no absolute or authority form, no asterisk."""
    with pytest.raises(UnknownPath):
        route(target, profile=ALL)


@pytest.mark.parametrize(
    ("vector", "path"),
    [
        (8, "meta-data/identity-credentials/ec2/security-credentials/ec2-instance"),
        (8, "meta-data/identity-credentials/ec2/info"),
        (9, "user-data"),
        (9, "user-data/x"),
        (10, "dynamic/instance-identity/pkcs7"),
        (10, "dynamic/instance-identity/signature"),
        (10, "dynamic/instance-identity/rsa2048"),
        (12, "meta-data/public-keys/0/openssh-key"),
        (12, "meta-data/managed-ssh-keys/signer-cert"),
        (12, "meta-data/tags/instance/Name"),
        (16, "meta-data/iam/anything"),
    ],
)
def test_vectors_8_9_10_12_never_forwarded(vector: int, path: str) -> None:
    """Whatever the operator allows, prefix or exact."""
    for profile in (ALL, Profile(exact=frozenset({path}))):
        for slash in ("", "/"):
            with pytest.raises(UnknownPath):
                route(f"/latest/{path}{slash}", profile=profile)


@pytest.mark.parametrize(
    "path", ["network/interfaces/macs/", "spot/instance-action", "autoscaling/target-lifecycle-state"]
)
def test_vector_12_the_default_profile_is_short(path: str) -> None:
    """What is not on the list is not forwarded; nor is anything with the profile `none`."""
    with pytest.raises(UnknownPath):
        route(f"/latest/meta-data/{path}")


@pytest.mark.parametrize("path", sorted(BASIC))
def test_profiles(path: str) -> None:
    """`basic` has what SDKs ask to find their region, exactly; `none` nothing."""
    assert route(f"/latest/{path}") == ItemRoute(path=f"/latest/{path}")
    for target, profile in ((f"/latest/{path}", NONE), (f"/latest/{path}/x", None), (f"/latest/{path}x", None)):
        with pytest.raises(UnknownPath):
            route(target, profile=profile)


@pytest.mark.parametrize(
    "path", ["meta-data/iamx", "meta-data/x-iam", "meta-data/hashtags", "meta-data/mac.", "spot/x_y-1"]
)
def test_an_operators_prefix_opens_what_is_below(path: str) -> None:
    """Only whole segments are forbidden."""
    assert route(f"/latest/{path}", profile=ALL) == ItemRoute(path=f"/latest/{path}")


FORBIDDEN = {
    "iam",
    "identity-credentials",
    "user-data",
    "pkcs7",
    "rsa2048",
    "signature",
    "public-keys",
    "managed-ssh-keys",
    "tags",
}


def lenient(target: str) -> list[str]:
    """The segments that the most obliging server imaginable would read: what our own reader must never rely on."""
    path = target.partition("?")[0].partition("#")[0]
    for _ in range(6):
        path = unquote(path, errors="ignore")
    path = re.sub(r"^[a-z]+://[^/]*", "", path.replace("\\", "/").lower())
    path = re.sub(r"[\s\x00-\x1f\x7f]", "", path)
    segments: list[str] = []
    for piece in path.split("/"):
        segment = piece.partition(";")[0]
        if segment == ".." and segments:
            segments.pop()
        segment = segment.rstrip(".")
        if segment:
            segments.append(segment)
    return segments


FRAGMENTS = st.sampled_from(
    [
        *(
            "/",
            "/",
            "/",
            "/",
            "//",
            "\\",
            "%2f",
            "%2F",
            "%252f",
            "%5c",
            ".",
            "..",
            "/../",
            "/./",
            "%2e",
            "%2e%2e",
            "..;/",
        ),
        *(
            "latest",
            "1.0",
            "2021-03-23",
            "LATEST",
            "/latest/",
            "meta-data",
            "meta-data/",
            "Meta-Data",
            "dynamic/",
            "spot/",
        ),
        *(
            "iam",
            "IAM",
            "i%61m",
            "%69am",
            "%2569am",
            "iam.",
            "iam;x",
            "ia",
            "m",
            "iam/",
            "/iam/info",
            "%49AM",
            "iam%00",
        ),
        *("identity-credentials", "Identity-Credentials/ec2", "identity-credential%73", "user-data", "user%2ddata"),
        *(
            "USER-DATA",
            "instance-identity/",
            "pkcs7",
            "rsa2048",
            "signature",
            "document",
            "public-keys",
            "tags",
            "tags.",
        ),
        *(
            "managed-ssh-keys",
            "security-credentials",
            "mac",
            "placement/region",
            "?",
            "#",
            ";",
            "%00",
            "%0a",
            " ",
            "\t",
        ),
        *("x", "-", "_", "\u0131am", "\u212a", "\uff0f", "%", "%%32%66", "http://169.254.169.254"),
    ]
)
TARGETS = st.lists(FRAGMENTS, max_size=9).map("".join)
PROFILES = st.sampled_from(
    [
        ALL,
        Profile(),
        Profile(exact=frozenset(), prefixes=("",)),
        Profile(exact=frozenset({"meta-data/iam/x", "user-data", "meta-data/iam", "dynamic/instance-identity/pkcs7"})),
        Profile(
            exact=frozenset(), prefixes=("meta-data/i", "meta-data/iam/", "user-data", "dynamic/instance-identity/")
        ),
    ]
)


@settings(max_examples=1000)
@given(TARGETS | TARGETS.map("/latest/meta-data/{}".format) | TARGETS.map("/latest/{}".format), PROFILES)
@example("/latest/meta-data/iam./x", ALL)
@example("/latest/meta-data/.../iam", ALL)
def test_no_forwarded_path_can_be_read_as_a_forbidden_one(target: str, profile: Profile) -> None:
    """Whatever somebody behind us normalises: what is forwarded is canonical and names nothing forbidden."""
    try:
        found = route(target, profile=profile)
    except MetaproxyError:
        return
    if isinstance(found, ItemRoute):
        assert not FORBIDDEN & set(lenient(found.path))
        assert not FORBIDDEN & set(lenient(target))
        assert re.fullmatch(r"(?:/[A-Za-z0-9_.-]+)+", found.path)
        assert lenient(found.path)[1:] == lenient(target)[1:]


def test_the_lenient_reader_is_lenient() -> None:
    """The check above would see what it looks for."""
    for target in (
        "/latest/meta-data/%2569AM/x",
        "/1.0/x/..\\iam;y",
        "//latest/./user-data/",
        "/latest/meta-data/iam./x",
        "/latest/x/..;/iam",
        "/latest/ia%0am",
    ):
        assert FORBIDDEN & set(lenient(target))


@given(
    st.text(st.characters(exclude_categories=[])),
    st.text(st.characters(exclude_categories=[]))
    | TARGETS
    | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.booleans(),
)
def test_parsing_is_total(method: str, target: str, forwarded: bool) -> None:
    """Any method and any target, bytes that are no text included: a route, or a refusal of ours."""
    refused: list[MetaproxyError] = []
    for asked in (method, "GET", "PUT"):
        try:
            imds.parse(Request(method=asked, target=target, peer="10.0.0.1", forwarded=forwarded), ALL)
        except MetaproxyError as error:
            refused.append(error)
    assert all(error.status in {403, 404, 405} and error.message.isascii() for error in refused)


# Documents.

TOKEN = "IQoJb3JpZ2luX2VjEJr//////////wEaCXVzLWVhc3QtMSJHMEUCIQ+/=="
CREDENTIALS = Credentials(
    access_key_id="ASIAIOSFODNN7EXAMPLE",
    secret_access_key=Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
    session_token=Secret(TOKEN),
    account="123456789012",
    issued=1_800_000_000.75,
    expires=1_800_003_600,
)
PLAIN = imds.credentials_document(CREDENTIALS, expiry=1_800_003_540, extended=False)
EXTENDED = imds.credentials_document(CREDENTIALS, expiry=1_800_003_540, extended=True)
ROLE = RoleArn.parse("arn:aws-cn:iam::123456789012:role/team/web")
INFO = imds.info_document(ROLE, now=1_800_000_000.75)


def test_the_bytes_of_the_credentials() -> None:
    """As EC2 writes them: key, space, colon, space, value; nothing follows the object."""
    assert (
        b"{\n"
        b'  "Code" : "Success",\n'
        b'  "LastUpdated" : "2027-01-15T08:00:00Z",\n'
        b'  "Type" : "AWS-HMAC",\n'
        b'  "AccessKeyId" : "ASIAIOSFODNN7EXAMPLE",\n'
        b'  "SecretAccessKey" : "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",\n'
        b'  "Token" : "' + TOKEN.encode() + b'",\n'
        b'  "Expiration" : "2027-01-15T08:59:00Z"\n'
        b"}"
    ) == PLAIN


def test_the_bytes_of_the_extended_credentials() -> None:
    """The same and the account."""
    assert PLAIN.removesuffix(b"\n}") + b',\n  "AccountId" : "123456789012"\n}' == EXTENDED


def test_the_bytes_of_the_info() -> None:
    """An instance profile named as the role, in the role's own account and partition (contract M18)."""
    assert (
        b"{\n"
        b'  "Code" : "Success",\n'
        b'  "LastUpdated" : "2027-01-15T08:00:00Z",\n'
        b'  "InstanceProfileArn" : "arn:aws-cn:iam::123456789012:instance-profile/team/web",\n'
        b'  "InstanceProfileId" : "' + json.loads(INFO)["InstanceProfileId"].encode() + b'"\n'
        b"}"
    ) == INFO
    assert re.fullmatch(r"AIPA[A-Z2-7]{17}", json.loads(INFO)["InstanceProfileId"])
    other = imds.info_document(RoleArn.parse("arn:aws:iam::123456789012:role/team/web"), now=0)
    assert json.loads(other)["InstanceProfileId"] != json.loads(INFO)["InstanceProfileId"]


def test_the_bytes_of_an_error() -> None:
    """Code and message in lower case (Java shows `message`); blank parts are left out."""
    assert imds.error_document("NoRole", ["the pod has no role", "", "annotate it"]) == (
        b'{\n  "code": "NoRole",\n  "message": "the pod has no role; annotate it"\n}\n'
    )


@given(st.text(), st.lists(st.text()))
def test_an_error_is_no_role_name(code: str, parts: list[str]) -> None:
    """A body with a space is taken for a role by nobody (contract §9.1), and it stays ASCII and JSON."""
    body = imds.error_document(code, parts)
    assert b" " in body
    assert body.isascii()
    assert json.loads(body)["code"] == code


def test_the_version_list() -> None:
    """Versions that the paths know, one a line, none at the end (fluent-bit asks it for its health)."""
    versions = imds.VERSIONS.split("\n")
    assert "latest" in versions
    assert all(isinstance(route(f"/{version}/meta-data/iam/info"), InfoRoute) for version in versions)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_800_000_000.999, "2027-01-15T08:00:00Z"), (951_782_400, "2000-02-29T00:00:00Z")],
)
def test_dates_have_whole_seconds_and_a_z(seconds: float, text: str) -> None:
    """UTC, no fraction, no offset (contract M12): never later than meant."""
    assert imds.date(seconds) == text


# Readers: each parses as one client does, restated from the contract's table.


def read_by_s3fs(text: str) -> dict[str, str]:
    """Split at commas; each piece searched for five names, of which exactly four must be found."""
    found: dict[str, str] = {}
    for piece in text.split(","):
        for key in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration", "RoleArn"):
            at = piece.find(key)
            if at >= 0 and key not in found:
                rest = piece[at + len(key) :].partition(":")[2]
                found[key] = rest[rest.index('"') + 1 : rest.rindex('"')]
                break
    assert len(found) == 4
    return found


def read_by_fluent_bit(text: str) -> dict[str, str]:
    """At most 50 tokens; any string, key or value, that is a prefix of a field's name is taken for it."""
    strings = re.findall(r'"([^"]*)"', text)
    assert len(strings) + 1 <= 50
    found: dict[str, str] = {}
    for at, string in enumerate(strings[:-1]):
        for key in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration"):
            if key.startswith(string):
                assert key not in found
                found[key] = strings[at + 1]
                break
    return found


def read_by_rust(text: str) -> dict[str, str]:
    """Nothing after the object, `Code` absent or Success, keys in any case, a date that ends in Z."""
    fields, end = json.JSONDecoder().raw_decode(text)
    assert end == len(text)
    lower = {key.lower(): value for key, value in fields.items()}
    assert lower.get("code", "Success") == "Success"
    datetime.strptime(lower["expiration"], "%Y-%m-%dT%H:%M:%SZ")  # noqa: DTZ007  as the client does
    return {key: lower[key.lower()] for key in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")}


def read_by_dot_net(text: str) -> dict[str, str]:
    """`Code` Success, no `Message`, both dates parse."""
    fields = json.loads(text)
    assert fields["Code"] == "Success"
    assert not fields.get("Message")
    for key in ("LastUpdated", "Expiration"):
        assert datetime.fromisoformat(fields[key]).tzinfo is not None
    return {key: fields[key] for key in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")}


def read_by_minio(text: str) -> dict[str, str]:
    """`Code` is exactly Success, `LastUpdated` is RFC 3339 if it is there."""
    fields = json.loads(text)
    assert fields["Code"] == "Success"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", fields["LastUpdated"])
    return {key: fields[key] for key in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")}


def read_by_crt(text: str) -> dict[str, str]:
    """At most 65,535 bytes, four texts that are not empty."""
    assert len(text) <= 65_535
    fields = json.loads(text)
    found = {key: fields[key] for key in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")}
    assert all(found.values())
    return found


@dataclass(frozen=True)
class Sent:
    """A document and what it should say."""

    document: bytes
    said: dict[str, str]


BASE64 = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=", min_size=16, max_size=1500)


@st.composite
def sent(draw: st.DrawFn) -> Sent:
    """Credentials as STS writes them."""
    key_id = "ASIA" + draw(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=16))
    secret, token = draw(BASE64), draw(BASE64)
    issued, expiry = draw(st.integers(0, 4_000_000_000)), draw(st.integers(0, 4_000_000_000))
    credentials = Credentials(
        access_key_id=key_id,
        secret_access_key=Secret(secret),
        session_token=Secret(token),
        account="123456789012",
        issued=issued,
        expires=expiry + 60,
    )
    said = {"AccessKeyId": key_id, "SecretAccessKey": secret, "Token": token, "Expiration": imds.date(expiry)}
    return Sent(imds.credentials_document(credentials, expiry=expiry, extended=draw(st.booleans())), said)


@pytest.mark.parametrize(
    "read", [read_by_s3fs, read_by_fluent_bit, read_by_rust, read_by_dot_net, read_by_minio, read_by_crt]
)
@given(sent=sent())
def test_every_reader_gets_what_was_sent(read: Any, sent: Sent) -> None:
    """The pickiest clients of the contract's table read the same four values (contract M11, M12)."""
    assert read(sent.document.decode("ascii")) == sent.said


@given(sent())
def test_the_document_is_flat_and_plain(sent: Sent) -> None:
    """One object of texts, none empty, no comma and no backslash inside one, no role's ARN (contract M11)."""
    fields = json.loads(sent.document)
    assert list(fields)[:7] == [
        *("Code", "LastUpdated", "Type", "AccessKeyId", "SecretAccessKey", "Token", "Expiration"),
    ]
    assert set(fields) <= {*list(fields)[:7], "AccountId"}
    assert all(isinstance(value, str) and value and "," not in value for value in fields.values())
    assert b"\\" not in sent.document


def test_info_suits_dot_net() -> None:
    """No `Message`, `Code` Success, a date."""
    fields = json.loads(INFO)
    assert fields["Code"] == "Success"
    assert "Message" not in fields
    assert datetime.fromisoformat(fields["LastUpdated"]).tzinfo is not None


def test_answers_and_requests_are_plain_values() -> None:
    """What a listener gives and takes, without any HTTP library."""
    answer = imds.Answer(status=200, body=b"x")
    assert (answer.content_type, answer.ttl, answer.retry_after) == ("text/plain", None, None)
    assert imds.json_document({"é": 1}) == b'{\n  "\\u00e9": 1\n}\n'

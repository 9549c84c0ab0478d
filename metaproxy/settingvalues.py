"""The values that settings can have beyond numbers and words: how each is written, and what is malformed.

Knows: addresses, URLs, ARNs, regions, templates, tags, paths, as an operator writes them.
Must not know: which setting has which value, or where it came from.
"""

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from metaproxy.imds import Profile
from metaproxy.patterns import allow_pattern
from metaproxy.roles import TAG_COUNT_LIMIT, TAG_KEY_LIMIT, BaseArn, RoleArn, fields_of, resolve

TEMPLATE_FIELDS = frozenset({"namespace", "workload", "pod", "service_account", "node", "cluster", "uid"})
"""What a template for session names, session tags and source identities may name in braces."""

NONE = "none"
"""What turns off a setting whose being empty means its default."""

_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}", re.ASCII)
_NODE_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
_ITEM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*/?", re.ASCII)
_TAG_KEY = re.compile(rf"(?!aws:)[\w\s.:/=+@-]{{1,{TAG_KEY_LIMIT}}}", re.IGNORECASE)
_INTERFACE = re.compile(r"[^\s/:!\"'\\*;{}$-][^\s/:!\"'\\*;{}$]{0,14}")
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_PORT_MAX = 65_535
_ANY_BASE = BaseArn(partition="aws", account="000000000000")

_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f",
    "eusc-": "aws-eusc",
}


def split_address(text: Any) -> Any:
    """Host and port of `ADDR:PORT`; an IPv6 address stands in brackets. Port 0 is any free one."""
    if not isinstance(text, str):
        return text
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    right = address is not None and (address.version == 6) == bracketed  # noqa: PLR2004  IPv6
    if not right or not colon or _PORT.fullmatch(port) is None or int(port) > _PORT_MAX:
        raise ValueError("write ADDR:PORT, as in 127.0.0.1:8181 or [::1]:8181")
    return str(address), int(port)


def join_address(address: tuple[str, int]) -> str:
    """As it is written: `split_address` backwards."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address_or_none(text: Any) -> Any:
    """As `split_address`; `none` is no address."""
    return None if text == NONE else split_address(text)


def join_address_or_none(address: tuple[str, int] | None) -> str:
    """As it is written: `split_address_or_none` backwards."""
    return NONE if address is None else join_address(address)


def several(text: Any) -> Any:
    """The list that one text stands for: JSON, or parts with commas between them."""
    if not isinstance(text, str):
        return text
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError("it begins like a JSON list and is none") from error
    return [part for piece in text.split(",") if (part := piece.strip())]


def pairs(value: Any) -> Any:
    """The mapping that texts `KEY=TEMPLATE` stand for; one text may be a JSON object, or have commas between pairs."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError("it begins like a JSON object and is none") from error
    parts = several(value)
    if not isinstance(parts, list):
        return parts
    found: dict[str, str] = {}
    for part in parts:
        key, equals, template = str(part).partition("=")
        if not equals or not key.strip() or not template.strip():
            raise ValueError(f"write KEY=TEMPLATE, not {part!a}")
        if key.strip() in found:
            raise ValueError(f"the key {key.strip()!a} is given twice")
        found[key.strip()] = template.strip()
    return found


def _tags(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > TAG_COUNT_LIMIT:
        raise ValueError(f"a session has at most {TAG_COUNT_LIMIT} tags")
    if len({key.lower() for key in tags}) != len(tags):
        raise ValueError("tag keys differ by more than their case")
    for key, template in tags.items():
        if _TAG_KEY.fullmatch(key) is None:
            raise ValueError(
                f"{key!a} is no tag key: 1 to {TAG_KEY_LIMIT} letters, digits, spaces and . : / = + @ _ -, "
                "not beginning with aws:"
            )
        _template(template)
    return tags


def _template(text: str) -> str:
    if unknown := sorted(fields_of(text) - TEMPLATE_FIELDS):
        raise ValueError(f"{{{unknown[0]}}} is no field; these are: {', '.join(sorted(TEMPLATE_FIELDS))}")
    if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", text)):
        raise ValueError("a brace has no partner")
    return text


def _role_arn(text: str) -> str:
    return RoleArn.parse(text).arn if text else ""


def _base_arn(text: str) -> str:
    return BaseArn.parse(text).arn if text else ""


def _role(text: str) -> str:
    if text:
        resolve(text, _ANY_BASE)
    return text


def _region(text: str) -> str:
    if text and _REGION.fullmatch(text) is None:
        raise ValueError("it is no region, as in eu-west-1")
    return text


def _node_name(text: str) -> str:
    if text and _NODE_NAME.fullmatch(text) is None:
        raise ValueError("it is no name of a Kubernetes node: small letters, digits, hyphens and dots")
    return text


def _cluster_name(text: str) -> str:
    if text and _CLUSTER_NAME.fullmatch(text) is None:
        raise ValueError("a cluster's name has at most 100 letters, digits, dots, hyphens and underscores")
    return text


def split_url(text: str) -> SplitResult:
    """The parts of an http(s) URL.

    Raises:
        ValueError: it is none, or has what no service's base has: a query or a fragment.
    """
    try:
        parts = urlsplit(text)
        right = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        # Its own words may hold a piece of a password.
        right = False
    if not right or not text.isprintable() or " " in text:
        raise ValueError("write an address as http://HOST[:PORT] or https://HOST[:PORT]") from None
    if parts.query or parts.fragment:
        raise ValueError("a service's address has neither a query nor a fragment")
    return parts


def url_address(text: str) -> tuple[str, int]:
    """Host and port that a URL leads to."""
    parts = split_url(text)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _url(text: str) -> str:
    if text:
        split_url(text)
    return text.rstrip("/")


def _signed_url(text: str) -> str:
    """A URL for signed requests: the HTTP client would put the user's name over the signature, and no call succeed."""
    if text and "@" in split_url(text).netloc:
        raise ValueError("calls to STS are signed: a user and password have no place here")
    return text


def _item(text: str) -> str:
    """A path below the version, as profiles have them."""
    path = text.removeprefix("/").removeprefix("latest/")
    if _ITEM.fullmatch(path) is None:
        raise ValueError("write a path below the version, as in meta-data/mac, or a prefix, as in meta-data/network/")
    if not Profile(exact=frozenset({path}), prefixes=(path,)).allows(path):
        raise ValueError("this is never forwarded, whatever is allowed")
    return path


def partition_of(region: str) -> str:
    """The partition that a region belongs to."""
    return next((partition for prefix, partition in _PARTITIONS.items() if region.startswith(prefix)), "aws")


def _interface(text: str) -> str:
    if text and _INTERFACE.fullmatch(text) is None:
        raise ValueError("it is no device's name: up to 15 characters without space, slash, colon, quote or backslash")
    return text


def _whole_interface(text: str) -> str:
    if text.endswith("+"):
        raise ValueError("routing rules take whole names, no trailing +")
    return _interface(text)


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}: write a network as 10.1.0.0/16") from error
    if not network.prefixlen:
        raise ValueError("it is everybody: then there is nothing to redirect")
    return str(network)


Address = Annotated[
    tuple[str, int], BeforeValidator(split_address), PlainSerializer(join_address, return_type=str, when_used="json")
]
AddressOrNone = Annotated[
    tuple[str, int] | None,
    BeforeValidator(split_address_or_none),
    PlainSerializer(join_address_or_none, return_type=str, when_used="json"),
]
Addresses = Annotated[list[Address], BeforeValidator(several)]
Paths = Annotated[list[Path], BeforeValidator(several)]
Url = Annotated[str, AfterValidator(_url)]
SignedUrl = Annotated[str, AfterValidator(_url), AfterValidator(_signed_url)]
RoleArnText = Annotated[str, AfterValidator(_role_arn)]
BaseArnText = Annotated[str, AfterValidator(_base_arn)]
RoleText = Annotated[str, AfterValidator(_role)]
Region = Annotated[str, AfterValidator(_region)]
NodeName = Annotated[str, AfterValidator(_node_name)]
ClusterName = Annotated[str, AfterValidator(_cluster_name)]
Template = Annotated[str, AfterValidator(_template)]
Tags = Annotated[dict[str, str], BeforeValidator(pairs), AfterValidator(_tags)]
Items = Annotated[list[Annotated[str, AfterValidator(_item)]], BeforeValidator(several)]
Patterns = Annotated[list[Annotated[str, AfterValidator(allow_pattern)]], BeforeValidator(several)]
Interface = Annotated[str, AfterValidator(_whole_interface)]
Interfaces = Annotated[list[Annotated[str, AfterValidator(_interface)]], BeforeValidator(several)]
WholeInterfaces = Annotated[list[Interface], BeforeValidator(several)]
Networks = Annotated[list[Annotated[str, AfterValidator(_network)]], BeforeValidator(several)]

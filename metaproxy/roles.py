"""Role names, role ARNs, session names and session tags: parse, resolve, render.

Knows: IAM's grammar for them, in every partition, and the AssumeRole call that they add up to.
Must not know: pods, annotations, policy, or who calls STS.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

PARTITION = r"aws(?:-cn|-us-gov|-iso(?:-[a-z])?|-eusc)?"
"""The partitions of AWS: aws, aws-cn, aws-us-gov, aws-iso and its lettered siblings, aws-eusc."""

_SEGMENT = r"[A-Za-z0-9_+=,.@-]+"
_ARN = re.compile(rf"arn:({PARTITION}):iam::([0-9]{{12}}):role/((?:[A-Za-z0-9_+=,.@:~!-]+/)*)({_SEGMENT})", re.ASCII)
_BASE = re.compile(rf"arn:({PARTITION}):iam::([0-9]{{12}}):role(?:/((?:[A-Za-z0-9_+=,.@:~!-]+/)*))?", re.ASCII)
_NAME = re.compile(rf"((?:[A-Za-z0-9_+=,.@:~!-]+/)*)({_SEGMENT})", re.ASCII)
_DOTS = re.compile(r"(?:^|/)\.{1,2}/")

NAME_LIMIT = 64
PATH_LIMIT = 512

SESSION_NAME_MIN = 2
SESSION_NAME_MAX = 64
_SESSION_NAME_ILLEGAL = re.compile(r"[^A-Za-z0-9_+=,.@-]")
_SESSION_NAME_HASH = 8

_EXTERNAL_ID = re.compile(r"[A-Za-z0-9_+=,.@:/-]{2,1224}", re.ASCII)

TAG_KEY_LIMIT = 128
TAG_VALUE_LIMIT = 256
TAG_COUNT_LIMIT = 50
# STS allows letters, spaces and digits of every script; `\w` without the underscore's exception is close enough to say
# what is *not* allowed, and what is replaced is only the value of a tag that the operator asked for.
# `\s` alone would let control characters through, which are no spaces to STS.
_TAG_ILLEGAL = re.compile(r"[^\w\s.:/=+\-@]|[\x00-\x1f\x7f-\x9f]")

_FIELD = re.compile(r"\{([^{}]*)\}")


class RoleSyntaxError(ValueError):
    """A text that is no role name, no ARN, no template: says which text and what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleArn:
    """A role, fully named. `path` begins and ends with a slash, as IAM has it."""

    partition: str
    account: str
    path: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The role that an ARN names.

        Raises:
            RoleSyntaxError: the text is no role ARN. Total: whatever the text (kiam#519 panicked here).
        """
        match = _ARN.fullmatch(text)
        if match is None:
            raise RoleSyntaxError(f"{_shown(text)} is no role ARN (arn:PARTITION:iam::ACCOUNT:role/PATH/NAME)")
        partition, account, path, name = match.groups()
        return cls(partition=partition, account=account, **_checked(path, name, text))

    @property
    def arn(self) -> str:
        """The ARN as IAM writes it."""
        return f"arn:{self.partition}:iam::{self.account}:role{self.path}{self.name}"

    def __str__(self) -> str:
        return self.arn


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseArn:
    """What a bare role name stands on: partition, account and a path that is put before the name's own."""

    partition: str
    account: str
    path: str = "/"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The base that `arn:PARTITION:iam::ACCOUNT:role/[PATH/]` names; the last slash may be missing.

        Raises:
            RoleSyntaxError: the text is no such base.
        """
        match = _BASE.fullmatch(text if text.endswith("/") else f"{text}/")
        if match is None or _DOTS.search(match[3] or ""):
            raise RoleSyntaxError(f"{_shown(text)} is no base ARN (arn:PARTITION:iam::ACCOUNT:role/)")
        return cls(partition=match[1], account=match[2], path=f"/{match[3] or ''}")

    @property
    def arn(self) -> str:
        """The base as a prefix of ARNs, its last slash included."""
        return f"arn:{self.partition}:iam::{self.account}:role{self.path}"

    def __str__(self) -> str:
        return self.arn


def resolve(text: str, base: BaseArn | None) -> RoleArn | None:
    """The role that an annotation or a URL names: an ARN, a name, or a path and a name; a leading slash is nothing.

    None when the text is a well-formed name but there is no base yet to put before it.

    Raises:
        RoleSyntaxError: the text is none of these.
    """
    if text.startswith("arn:"):
        return RoleArn.parse(text)
    match = _NAME.fullmatch(text.removeprefix("/"))
    if match is None:
        raise RoleSyntaxError(f"{_shown(text)} is neither a role name, nor PATH/NAME, nor a role ARN")
    parts = _checked(match[1], match[2], text)
    if base is None:
        return None
    return RoleArn.parse(f"{base.arn}{parts['path'][1:]}{parts['name']}")


def _checked(path: str, name: str, text: str) -> dict[str, str]:
    if len(name) > NAME_LIMIT or len(path) + 1 > PATH_LIMIT or name in {".", ".."} or _DOTS.search(path):
        raise RoleSyntaxError(
            f"{_shown(text)} is no role: a name has at most {NAME_LIMIT} characters, a path {PATH_LIMIT}, no dots"
        )
    return {"path": f"/{path}", "name": name}


def _shown(text: str) -> str:
    """Foreign text, cut and made printable: it goes to logs and bodies."""
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")  # noqa: PLR2004  a line's worth


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumeRole:
    """One AssumeRole call: everything that is sent, and so the key under which its answer is kept.

    Two calls that differ in anything have different answers (kube2iam and metadataproxy keyed by role alone and
    handed one pod the session made with another pod's external id). `duration` is in seconds.
    """

    role: RoleArn
    session_name: str
    duration: int
    external_id: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    source_identity: str | None = None
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        # Hashed once: the key is looked up in every request.
        parts = (self.role, self.session_name, self.duration, self.external_id, self.tags, self.source_identity)
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        return self._hash


def fields_of(template: str) -> frozenset[str]:
    """The names in braces in a template."""
    return frozenset(_FIELD.findall(template))


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with each `{name}` replaced by its value.

    Not `str.format`: that would let a template walk attributes, and a value's braces would be read again.

    Raises:
        KeyError: the template names a field without a value; settings refuse such templates at the start.
    """
    return _FIELD.sub(lambda match: values[match[1]], template)


def session_name(text: str) -> str:
    """A legal RoleSessionName that says as much of `text` as fits, always the same for the same text.

    Illegal characters become hyphens; what is too long keeps its beginning and ends in a hash of the whole, so that
    two long names that begin alike stay two.
    """
    legal = _SESSION_NAME_ILLEGAL.sub("-", text)
    if len(legal) > SESSION_NAME_MAX:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_SESSION_NAME_HASH]
        legal = f"{legal[: SESSION_NAME_MAX - _SESSION_NAME_HASH - 1]}-{digest}"
    return legal.ljust(SESSION_NAME_MIN, "-")


def external_id(text: str) -> str:
    """The text, if STS takes it as an external id.

    Raises:
        RoleSyntaxError: it does not. Never mended: another external id is another authorisation.
    """
    if _EXTERNAL_ID.fullmatch(text) is None:
        raise RoleSyntaxError(
            f"{_shown(text)} is no external id (2 to 1,224 characters of A-Z a-z 0-9 _ + = , . @ : / -)"
        )
    return text


def source_identity(text: str) -> str:
    """A legal SourceIdentity: as a session name; without colons there is no way into AWS's own name space, `aws:`."""
    return session_name(text)


def tag_value(text: str) -> str:
    """A legal session tag value: illegal characters become hyphens, cut at 256."""
    return _TAG_ILLEGAL.sub("-", text)[:TAG_VALUE_LIMIT]

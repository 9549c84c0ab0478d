"""The patterns by which namespaces and operators permit roles: expressions, globs, lists of globs.

Knows: what each language takes, how much of it, and what it matches.
Must not know: whose pattern it is, what follows from a match.
"""

import json
import re
from functools import lru_cache

import re2

from metaproxy.roles import PARTITION

PATTERN_LIMIT = 4096
"""Characters that a pattern of a namespace may have: what a person can still read."""

LIST_LIMIT = 32_768
"""Characters that a namespace's list of patterns may have."""

LIST_COUNT_LIMIT = 512
"""Patterns that a namespace's list may have: more would hold up everybody's requests while they are compiled."""

_RE2 = re2.Options()
_RE2.max_mem = 1 << 20  # a pattern that needs more is refused, not served
_RE2.log_errors = False

_EXPLICIT = re.compile(rf"arn:{PARTITION}:iam::[0-9]{{12}}:role/.*", re.ASCII | re.DOTALL)


class PatternError(ValueError):
    """A pattern that cannot be used: says which and why."""


@lru_cache(maxsize=1024)
def expression(pattern: str) -> "re2._Regexp[str]":
    """A kiam expression, compiled once. RE2: kiam's own dialect, and no input can make it slow.

    Raises:
        PatternError: it is no expression.
    """
    if len(pattern) > PATTERN_LIMIT:
        raise PatternError(f"an expression has at most {PATTERN_LIMIT} characters")
    try:
        return re2.compile(pattern, _RE2)
    except (re2.error, ValueError) as error:
        raise PatternError("it is not a valid RE2 expression") from error


@lru_cache(maxsize=1024)
def glob(pattern: str) -> "re2._Regexp[str]":
    """A glob over whole ARNs: `*` is any text without a slash (kube2iam's crosses slashes, and so accounts' paths).

    Raises:
        PatternError: partition or account are not written out.
    """
    if len(pattern) > PATTERN_LIMIT:
        raise PatternError(f"a pattern has at most {PATTERN_LIMIT} characters")
    if _EXPLICIT.fullmatch(pattern) is None:
        raise PatternError("a pattern for ARNs names its partition and account: arn:aws:iam::ACCOUNT:role/…")
    try:
        return re2.compile("[^/]*".join(re2.escape(part) for part in pattern.split("*")), _RE2)
    except (re2.error, ValueError) as error:  # a lone surrogate, which JSON can spell; too many stars
        raise PatternError("the pattern cannot be compiled") from error


def allow_pattern(text: str) -> str:
    """The text, if it can be one of the operator's allow patterns.

    Raises:
        PatternError: it cannot.
    """
    glob(text)
    return text


@lru_cache(maxsize=1024)
def patterns_in(text: str) -> tuple[str, ...]:
    """The patterns of a list in JSON.

    Raises:
        PatternError: it is no such list, or too long.
    """
    if len(text) > LIST_LIMIT:
        raise PatternError(f"a list has at most {LIST_LIMIT} characters")
    try:
        patterns = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PatternError("it is not JSON") from error
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise PatternError("it is not a list of texts")
    if len(patterns) > LIST_COUNT_LIMIT:
        raise PatternError(f"a list has at most {LIST_COUNT_LIMIT} patterns")
    return tuple(patterns)

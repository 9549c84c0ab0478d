"""What credentials are, and the arithmetic of their life.

Knows: the four values STS hands out, what of them signs a call, when to renew them, until when to serve them, which
expiry to tell clients, and how long a failure keeps us from asking again.
Must not know: the clock, chance, the event loop, who asks. Times are Unix seconds; jitter and phase are in [0, 1).
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Self, final

TOLD_EARLY = 60.0
"""Seconds by which clients are told an earlier expiry than the real one (contract S2): several have no early window."""

LAST_SERVED = 60.0
"""Seconds before the real expiry from which credentials are served no more (contract M14)."""

READABLE = re.compile(r"[!#-+\--\[\]-~]+", re.ASCII)
"""What the texts of a session are made of: printable, no comma, quote or backslash, which clients trip over (M11)."""

KEY_LIMIT, TOKEN_LIMIT = 256, 32768
"""Characters of an access key, its id or its secret, and of a session token."""

RENEW_AT = 0.5
"""The share of its life after which a session is renewed (contract S1)."""

RENEW_SPREAD = 0.1
"""How far renewal strays either way, as a share of life, so that sessions do not fall due together."""


@final
class Secret:
    """A text that shows itself only when asked by name, never in a repr, a log line or an exception."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself: for the wire, nowhere else."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('…')"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One session of a role, as STS answered it.

    `account` is the role's account (twelve digits); `issued` and `expires` are Unix seconds of wall time.
    """

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret
    account: str
    issued: float
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a call to AWS is signed with; keys that do not end have no token.

    `method`: by which one of botocore's chain they were found; empty where that did not find them.
    """

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None
    method: str = ""

    @classmethod
    def of(cls, session: Credentials) -> Self:
        """Those of a session."""
        return cls(
            access_key_id=session.access_key_id,
            secret_access_key=session.secret_access_key,
            session_token=session.session_token,
        )


def renew_at(credentials: Credentials, *, phase: float) -> float:
    """The moment from which the session should be renewed: half its life, moved by up to a tenth of it by `phase`."""
    life = credentials.expires - credentials.issued
    return credentials.issued + life * (RENEW_AT + RENEW_SPREAD * (2 * phase - 1))


def usable(credentials: Credentials, now: float) -> bool:
    """Whether the session may still be served."""
    return now < credentials.expires - LAST_SERVED


def told_expiry(credentials: Credentials, now: float) -> float:
    """The expiry to tell clients, in Unix seconds.

    A minute early, but never so early that less than a minute seems left while the session is served: a client that is
    told of a few seconds hangs (JS v2) or asks again for every call.
    """
    spare = credentials.expires - now - LAST_SERVED
    return credentials.expires - min(TOLD_EARLY, max(0.0, spare))


class FailureClass(Enum):
    """How STS failed, as far as asking again is concerned: (first pause, longest pause) in seconds."""

    TRANSIENT = (1.0, 60.0)
    DENIED = (5.0, 30.0)
    INVALID = (600.0, 600.0)

    @property
    def first(self) -> float:
        """The pause after the first failure in a row."""
        first, _ = self.value
        return first

    @property
    def longest(self) -> float:
        """The pause that repeated failures grow to."""
        _, longest = self.value
        return longest


STALE_FIRST = 15.0
"""The first pause while good credentials are still held: half an hour is left, so there is no hurry to hammer STS."""


def pause(kind: FailureClass, *, failures: int, jitter: float, holding: bool = False) -> float:
    """Seconds to wait before asking again after `failures` failures in a row (at least one).

    Doubles from the class's first pause to its longest and strays by a quarter either way, so that on average it keeps
    its length and nodes drift apart. `holding`: a session is still usable: the first pause is longer (`STALE_FIRST`).
    """
    first = max(kind.first, STALE_FIRST) if holding else kind.first
    longest = max(kind.longest, first)
    # The exponent is bounded: a year of failures must not build a number of a million digits.
    grown = min(longest, first * 2.0 ** min(failures - 1, 16))
    return grown * (0.75 + 0.5 * jitter)

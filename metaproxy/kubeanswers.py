"""What the API server answers, and every way in which it does not do what was asked.

Knows: the shape of a Kubernetes Status, what an answer's status means.
Must not know: connections, credentials, what was asked for what.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

SHOWN = 256
"""Characters of a server's message that are kept: enough to say what is wrong, too few for a body."""

_OK, _BAD = 200, 300


class KubeError(Exception):
    """The API server did not do what was asked.

    `status`: the HTTP status, 0 when there was no answer. `reason`: of the Status that came, or of our own. Both are
    for decisions; the text is for people and carries at most 256 characters of what the server said.
    `retry_after`: seconds, if the server named any.

        KubeError            an answer other than 2xx
        ├── KubeUnreachable  no answer: refused, cut off, not to be understood
        │   └── KubeTimeout  no answer, or no end of it, in time
        └── KubeIdentity     no usable credentials or configuration
    """

    def __init__(self, message: str, *, reason: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class KubeUnreachable(KubeError):
    """There was no answer."""


class KubeTimeout(KubeUnreachable):
    """There was no answer in time."""


class KubeIdentity(KubeError):
    """We do not know whom to ask, or as whom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer of the API server, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return _OK <= self.status < _BAD

    def error(self, what: str) -> KubeError:
        """What this answer says if it is a refusal; not every refusal is JSON (429 is plain text)."""
        status: Any = None
        with suppress(ValueError, RecursionError):
            status = json.loads(self.body)
        return status_error(
            status, what=what, status=self.status, retry_after=_seconds(self.headers.get("Retry-After"))
        )


def status_error(obj: Any, *, what: str, status: int, retry_after: float | None = None) -> KubeError:
    """The error that a Kubernetes Status describes, or what is left to say when it is none."""
    message = reason = ""
    if isinstance(obj, Mapping) and obj.get("kind") == "Status":
        message, reason = (text if isinstance(text := obj.get(key), str) else "" for key in ("message", "reason"))
        details = obj.get("details")
        if retry_after is None and isinstance(details, Mapping):
            retry_after = _seconds(details.get("retryAfterSeconds"))
    text = " ".join(filter(None, (str(status), reason, message[:SHOWN])))
    return KubeError(f"{what}: {text}", status=status, reason=reason[:SHOWN], retry_after=retry_after)


def _seconds(value: Any) -> float | None:
    """Retry-After as seconds; the form with a date is not used by API servers."""
    text = str(value)
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 and int(text) else None  # noqa: PLR2004  months are no answer

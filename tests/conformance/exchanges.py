"""Requests and what was answered, found in what passes between a client and the agent, or as the agent tells of them.

Knows: as much of HTTP/1.1 as both of them speak, and which step of the contract a path is.
Must not know: sockets, clocks, who the client is. Pure.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

OK, UNAUTHORIZED = 200, 401

_PATH = re.compile(r"/[^/]+/meta-data/iam/security-credentials(?:-extended)?(?P<role>/[^?]*)?(?:\?.*)?")
_TOKEN = re.compile(r"\r\nx-aws-ec2-metadata-token: *[^ \r]", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Step(StrEnum):
    """What is asked for, by the agent's own word for the route where it has one."""

    TOKEN = "token"
    LIST = "list"
    CREDENTIALS = "credentials"
    OTHER = "other"


@dataclass
class Exchange:
    """A request as it is told, its step, and the status of its answer: 0 when there was none.

    `shows`: whether it has a session token, None where nobody could see it. It was `asked` at this time, and had its
    answer so many seconds `after`, or none: `left` when the client hung up first.
    """

    told: str
    step: Step
    status: int = 0
    shows: bool | None = None
    asked: float = 0.0
    after: float = 0.0
    left: bool = False

    def __str__(self) -> str:
        none = f"no answer, {'the client' if self.left else 'the agent'} hung up"
        return f"{self.told}: {self.status or none} after {self.after:.2f} s"


def requested(head: str) -> Exchange:
    """The request with this head."""
    line = head.split("\r\n", 1)[0]
    method, _, rest = line.partition(" ")
    found = _PATH.fullmatch(rest.rpartition(" ")[0])
    step = Step.TOKEN if method == "PUT" else Step.OTHER
    if found is not None:
        step = Step.CREDENTIALS if (found["role"] or "").strip("/") else Step.LIST
    return Exchange(told=line, step=step, shows=bool(_TOKEN.search(head)))


def recorded(method: str, route: str, status: int) -> Exchange:
    """The request of which the agent's log says this."""
    step = Step(route) if route in set(Step) else Step.OTHER
    return Exchange(told=f"{method} {route}", step=step, status=status)


def refused_at(exchanges: list[Exchange]) -> str:
    """The step at which the last request was refused that was, and its status: `list 404`; empty when none was.

    A token that is asked for anew is no refusal.
    """
    refused = [one for one in exchanges if one.status not in {0, OK, UNAUTHORIZED}]
    return f"{refused[-1].step} {refused[-1].status}" if refused else ""


def refused_late(exchanges: list[Exchange]) -> int:
    """How many requests for credentials were refused: the role list is where that is due (contract §9.1)."""
    return sum(one.step is Step.CREDENTIALS and one.status not in {0, OK, UNAUTHORIZED} for one in exchanges)


class Heads:
    """Finds the heads of requests that have no body in a stream of bytes."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[str]:
        """The heads that end in this piece."""
        *heads, self._held = (self._held + data).split(b"\r\n\r\n")
        return [head.lstrip().decode("latin-1") for head in heads]


class Statuses:
    """Finds the statuses of answers in a stream of bytes: each tells the length of its body, none is to a HEAD."""

    def __init__(self) -> None:
        self._held, self._body = b"", 0

    def feed(self, data: bytes) -> list[int]:
        """The statuses of the answers whose heads end in this piece; what only goes before an answer is none."""
        self._held += data
        found: list[int] = []
        while True:
            skipped = min(self._body, len(self._held))
            self._held, self._body = self._held[skipped:], self._body - skipped
            head, end, rest = self._held.partition(b"\r\n\r\n")
            if self._body or not end:
                return found
            length = _LENGTH.search(head)
            self._held, self._body = rest, int(length[1]) if length else 0
            if (status := int(head.split(b" ", 2)[1])) >= OK:
                found.append(status)

"""HTTP/1 as bytes: what comes from a pod into requests, and answers into what goes out.

Knows: httptools' parser, how large a request may be, which headers are looked at, the bytes of an answer's head.
Must not know: sockets, the event loop, the clock, what is asked or answered.

The parser is llhttp in its strict mode: what two servers could read differently is an error here.
"""

from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from metaproxy import imds
from metaproxy.errors import Reason
from metaproxy.imds import Answer, Request

HEAD_LIMIT = 16_384
"""Bytes of a request line and its headers together: clients need a tenth of it."""

HEADERS_LIMIT = 64
"""Headers of a request."""

BODY_LIMIT = 65_536
"""Bytes of a body, which nobody reads, its chunks' frames included: the parser keeps the last piece of a trailer."""

AHEAD_LIMIT = 32
"""Requests that a pod may send ahead of their answers, together no larger than one may be: no SDK sends any."""

_HOST = b"host"
_FORWARDED = b"x-forwarded-for"
_TOKEN = b"x-aws-ec2-metadata-token"
_TTL = b"x-aws-ec2-metadata-token-ttl-seconds"
_LOOKED_AT = frozenset({_HOST, _FORWARDED, _TOKEN, _TTL})


class UnreadableError(Exception):
    """What came is no request that can be read. The text says why and shows nothing of what was sent."""


class Asked(NamedTuple):
    """A request, whether its connection is kept after the answer, whether that has to be said (HTTP/1.0), its bytes."""

    request: Request
    keep: bool
    old: bool = False
    size: int = 0


class Reader:
    """Reads the requests of one connection; `peer` is its other end.

    `asked` holds what was read and not taken yet. `whole` says whether the last request's body has ended: until then
    its bytes are dropped.
    """

    __slots__ = ("_fields", "_headers", "_parser", "_peer", "_pending", "_size", "_target", "asked", "whole")

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._parser = HttpRequestParser(self)
        self._fields: dict[bytes, str] = {}
        self._target = b""
        self._headers = self._size = self._pending = 0
        self.asked: list[Asked] = []
        self.whole = True

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises:
            UnreadableError: it is no HTTP, or too much of it. `asked` holds what could be read before.
        """
        self._pending += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # Nothing else is spoken here: what follows an offer of it cannot be told from it, so nothing may follow.
            self.asked[-1] = self.asked[-1]._replace(keep=False)
            self.whole = True
        except HttpParserError as error:
            inner = error.__context__
            raise UnreadableError(str(inner) if isinstance(inner, UnreadableError) else type(error).__name__) from None
        # The parser does not tell what it has of an unfinished field, so what was fed is counted too.
        if self._pending > (HEAD_LIMIT if self.whole else BODY_LIMIT):
            raise UnreadableError("too long a head or body")

    def on_message_begin(self) -> None:
        """The parser's word: a request begins."""
        self._fields = {}
        self._target = b""
        self._headers = self._size = 0

    def on_url(self, part: bytes) -> None:
        """The parser's word: a part of the target."""
        self._target += part
        self._count(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser's word: a header; or a trailer, which comes too late to mean anything."""
        self._headers += 1
        self._count(len(name) + len(value))
        name = name.lower()
        if name in _LOOKED_AT:
            text = value.strip(b" \t").decode("latin-1")
            # Said twice it says neither: a list is no token and no number.
            self._fields[name] = f"{self._fields[name]}, {text}" if name in self._fields else text

    def on_headers_complete(self) -> None:
        """The parser's word: the head is whole, which is all that an answer needs."""
        fields, parser = self._fields, self._parser
        version = parser.get_http_version()
        if version not in {"1.0", "1.1"} or (version == "1.1" and _HOST not in fields):
            raise UnreadableError("neither HTTP/1.0 nor HTTP/1.1 with a Host")
        ahead = sum(one.size for one in self.asked)
        if len(self.asked) >= AHEAD_LIMIT or (ahead and ahead + self._size > HEAD_LIMIT):
            raise UnreadableError("too many requests ahead of their answers")
        request = Request(
            method=parser.get_method().decode("ascii"),
            target=self._target.decode("latin-1"),
            peer=self._peer,
            token=fields.get(_TOKEN),
            ttl=fields.get(_TTL),
            forwarded=_FORWARDED in fields,
            host=fields.get(_HOST),
        )
        self.asked.append(Asked(request, parser.should_keep_alive(), version == "1.0", self._size))
        self._pending = 0
        self.whole = False

    def on_message_complete(self) -> None:
        """The parser's word: the body is over."""
        self._pending = 0
        self.whole = True

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > HEAD_LIMIT or self._headers > HEADERS_LIMIT:
            raise UnreadableError("too long a head")


def rendered(answer: Answer, asked: Asked, date: str) -> bytes:
    """The bytes of an answer; `date` is the present moment as HTTP writes it. HEAD gets no body (S11)."""
    head = _head(answer.status, answer.content_type, answer.headers, answer.ttl, answer.retry_after)
    kept = "" if asked.keep and not asked.old else f"Connection: {'keep-alive' if asked.keep else 'close'}\r\n"
    end = f"{head}{kept}Date: {date}\r\nContent-Length: {len(answer.body)}\r\n\r\n".encode("latin-1")
    return end if asked.request.method == "HEAD" else end + answer.body


def unreadable(date: str) -> bytes:
    """The bytes that answer what is no request: in our own words, and the end of the connection."""
    body = imds.error_document(Reason.BAD_REQUEST.value, ["this is no request that can be read", "speak HTTP/1.1"])
    return rendered(Answer(status=400, body=body, content_type=imds.JSON), _NOTHING, date)


_NOTHING = Asked(Request(method="GET", target="", peer=""), keep=False)


@lru_cache(maxsize=256)
def _head(
    status: int, content_type: str, headers: tuple[tuple[str, str], ...], ttl: int | None, retry_after: int | None
) -> str:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Type: {content_type}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if ttl is not None:
        lines.append(f"X-Aws-Ec2-Metadata-Token-Ttl-Seconds: {ttl}")
    if retry_after is not None:
        lines.append(f"Retry-After: {retry_after}")
    return "".join(f"{line}\r\n" for line in lines)

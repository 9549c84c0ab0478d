"""HTTP as bytes, without a socket: what is read, what is refused, how much of it is kept, what answers look like."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.httpwire import (
    AHEAD_LIMIT,
    BODY_LIMIT,
    HEAD_LIMIT,
    HEADERS_LIMIT,
    Asked,
    Reader,
    UnreadableError,
    rendered,
    unreadable,
)
from metaproxy.imds import Answer, Request

PEER = "10.0.0.1"
DATE = "Thu, 01 Jan 1970 00:00:00 GMT"
PUT = (
    b"PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nx-aws-EC2-metadata-token-ttl-seconds:  21600 \r\n"
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n"
)
GET = b"GET /latest/%2e?a=b HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token: T\r\nX-Forwarded-For:\r\n\r\n"


def read(*pieces: bytes) -> list[Asked]:
    """What a reader makes of it."""
    reader = Reader(PEER)
    for piece in pieces:
        reader.feed(piece)
    return reader.asked


def head(*lines: bytes) -> bytes:
    """A request with these headers."""
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: x", *lines, b"", b""])


def test_what_is_looked_at() -> None:
    """Method, raw target, peer, token, life, and whether something forwarded it; a trailer comes too late."""
    put, get = read(PUT + GET)
    assert put.request == Request(
        method="PUT", target="/latest/api/token", peer=PEER, ttl="21600", host="169.254.169.254"
    )
    assert get.request == Request(
        method="GET", target="/latest/%2e?a=b", peer=PEER, token="T", forwarded=True, host="x"
    )
    assert put.keep
    assert get.keep


@given(st.lists(st.integers(1, len(PUT + GET + PUT) - 1), max_size=20))
def test_however_it_is_cut(cuts: list[int]) -> None:
    """The network may cut a request anywhere."""
    whole = PUT + GET + PUT
    edges = [0, *sorted(cuts), len(whole)]
    assert read(*(whole[a:b] for a, b in pairwise(edges))) == read(whole)


@given(st.binary(max_size=300))
def test_total_on_any_bytes(data: bytes) -> None:
    """Whatever comes is read or is an UnreadableError that shows nothing of it."""
    try:
        read(data, data)
    except UnreadableError as error:
        said = str(error)
    else:
        said = ""
    assert said in {"", "too long a head", "neither HTTP/1.0 nor HTTP/1.1 with a Host"} or said.startswith("HttpParser")


PIECES = (
    *(b"GET / HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n", b"0\r\n", b"a: b\r\n", b"abcd"),
    *(b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n", b"X-Forwarded-For: y\r\n"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_a_forwarded_request_never_reads_as_another(parts: list[bytes]) -> None:
    """M6: in any order of pieces, a head that has X-Forwarded-For is told as forwarded."""
    reader = Reader(PEER)
    data = b"".join(parts)
    try:
        reader.feed(data)
    except UnreadableError:
        return
    heads = [piece for piece in data.split(b"GET /")[1:] if b"\r\n\r\n" in piece]
    if len(heads) == len(reader.asked):
        for piece, asked in zip(heads, reader.asked, strict=True):
            assert asked.request.forwarded or b"X-Forwarded-For" not in piece.split(b"\r\n\r\n")[0]


@pytest.mark.parametrize("name", [b"X-aws-ec2-metadata-token", b"X-aws-ec2-metadata-token-ttl-seconds"])
def test_said_twice_it_says_neither(name: bytes) -> None:
    """Two readers might take different ones of two headers: joined they are neither a token nor a number."""
    (asked,) = read(head(name + b": 60", name + b": 61"))
    assert "60, 61" in (asked.request.token, asked.request.ttl)


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        (head(b"A: " + b"a" * (HEAD_LIMIT - 100)), True),
        (head(b"A: " + b"a" * HEAD_LIMIT), False),
        (b"GET /" + b"a" * HEAD_LIMIT + b" HTTP/1.1\r\nHost: x\r\n\r\n", False),
        (head(*[b"A: b"] * (HEADERS_LIMIT - 1)), True),
        (head(*[b"A: b"] * HEADERS_LIMIT), False),
        (head(b"A: " + b"a" * 10)[:-4] + b"a" * HEAD_LIMIT, False),
        (b"\r\n" * HEAD_LIMIT, False),
        (head(b"Content-Length: 1000000") + b"x" * (BODY_LIMIT - 500), True),
        (head(b"Content-Length: 1000000") + b"x" * 2 * BODY_LIMIT, False),
        (head(b"Transfer-Encoding: chunked") + b"0\r\nA: " + b"a" * BODY_LIMIT * 2, False),
        (head(b"Transfer-Encoding: chunked") + b"1;" + b"a" * BODY_LIMIT * 2, False),
        (head() * AHEAD_LIMIT, True),
        (head() * (AHEAD_LIMIT + 1), False),
        (head(b"A: " + b"a" * 5000) * 3, True),
        (head(b"A: " + b"a" * 5000) * 4, False),
    ],
    ids=[
        *("header", "long header", "long target", "headers", "many headers", "unfinished header", "empty lines"),
        *("body", "long body", "trailer", "extension", "ahead", "far ahead", "much ahead", "too much ahead"),
    ],
)
def test_no_more_is_kept_than_that(data: bytes, fits: bool) -> None:
    """Nothing that a pod sends grows our memory by more than the limit and what is read at once."""
    for size in (1000, HEAD_LIMIT):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        if fits:
            assert read(*pieces)
        else:
            with pytest.raises(UnreadableError):
                read(*pieces)


def test_after_an_offer_to_speak_otherwise_nothing_follows() -> None:
    """An upgrade, or a tunnel: the request is answered as any other, and its connection ends."""
    for start in (head(b"Connection: Upgrade", b"Upgrade: h2c"), b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"):
        reader = Reader(PEER)
        reader.feed(start + b"PRI * HTTP/2.0")
        (asked,) = reader.asked
        assert not asked.keep


@pytest.mark.parametrize(
    ("asked", "connection"),
    [
        (Asked(Request(method="GET", target="/", peer=PEER), keep=True), b""),
        (Asked(Request(method="GET", target="/", peer=PEER), keep=False), b"Connection: close\r\n"),
        (Asked(Request(method="GET", target="/", peer=PEER), keep=True, old=True), b"Connection: keep-alive\r\n"),
    ],
)
def test_an_answer(asked: Asked, connection: bytes) -> None:
    """S11: the server's name, the type without charset, the length; `Connection` where it is not as it always is."""
    assert rendered(Answer(status=200, body=b"role", ttl=60), asked, DATE) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: EC2ws\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 60\r\n"
        + connection
        + b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 4\r\n\r\nrole"
    )


def test_head_and_refusals() -> None:
    """HEAD has the length of the body that it leaves away; `Retry-After` where told; what cannot be read is 400."""
    asked = Asked(Request(method="HEAD", target="/", peer=PEER), keep=True)
    text = rendered(Answer(status=503, body=b"late", retry_after=1), asked, DATE)
    assert text.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 1\r\n" in text
    assert text.endswith(b"Content-Length: 4\r\n\r\n")
    assert unreadable(DATE).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b'"code": "BadRequest"' in unreadable(DATE)

"""HTTP as pods speak it, well and badly: real sockets on loopback, each 127.0.0.x a pod, on both event loops.

What the walk does is not looked at here: it is a callable that says what it was asked.
"""

import asyncio
import errno
import json
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from metaproxy import sockets
from metaproxy.acceptor import BATCH
from metaproxy.connection import TURN
from metaproxy.eager import in_task
from metaproxy.errors import Reason
from metaproxy.httpwire import AHEAD_LIMIT, HEAD_LIMIT
from metaproxy.imds import Answer, Request
from metaproxy.listener import Listener, bound, peer_of
from metaproxy.telemetry import Metrics

pytestmark = pytest.mark.sockets

BOUND = 10.0
"""Seconds that nothing here may take: many times what it should."""

SHORT = 0.2
"""Seconds that stand for a time-out that would be long."""

POD = "127.0.0.2"


class Walk:
    """Answers each request with what it understood of it; holds what asks for `/hold` until it is released."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.closing: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.closed: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> Answer:
        """One answer; the first begins what is to be begun while others wait."""
        self.requests.append(request)
        if self.closing is not None and self.closed is None:
            self.closed = asyncio.create_task(self.closing())
        if request.target == "/hold":
            await in_task()
            self.held.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.hung_up.set()
                raise
        if request.target == "/wait-unsaid":
            await self.release.wait()
        if request.target == "/break-held":
            await in_task()
        if request.target.startswith("/break"):
            raise ZeroDivisionError("an inner detail")
        if request.target == "/late":
            raise TimeoutError
        if request.target == "/busy":
            return Answer(status=503, body=b'{"code": "Busy"}', content_type="application/json", retry_after=1)
        status = 404 if request.method == "CONNECT" else 200  # as the real walk: a 2xx would be a tunnel without body
        return Answer(status=status, body=json.dumps(asdict(request)).encode(), ttl=60)

    @property
    def targets(self) -> list[str]:
        """What was asked for, in order."""
        return [request.target for request in self.requests]


@dataclass
class Reply:
    """One answer as it came over the wire; header names in lower case."""

    status: int
    version: str
    headers: dict[str, str]
    body: bytes
    asked: dict[str, Any] = field(default_factory=dict)


class Wire:
    """A pod's connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Put bytes on the wire; a connection that is closed already swallows them."""
        self.writer.write(data)
        try:
            await self.writer.drain()
        except ConnectionError:
            return

    async def reply(self, *, head: bool = False) -> Reply:
        """The next answer."""
        async with asyncio.timeout(BOUND):
            block = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = block.split("\r\n")[:-2]
            version, status, *_ = first.split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = b"" if head else await self.reader.readexactly(int(headers["content-length"]))
        asked = json.loads(body) if body.startswith(b'{"method"') else {}
        return Reply(status=int(status), version=version, headers=headers, body=body, asked=asked)

    async def ask(self, data: bytes, *, head: bool = False) -> Reply:
        """Send and read one answer."""
        await self.send(data)
        return await self.reply(head=head)

    async def rest(self) -> bytes:
        """What comes until the other side closes."""
        async with asyncio.timeout(BOUND):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


QUIET = 1.5
"""Seconds after which a former address is given up, here: many times what connecting takes."""


class Bench:
    """A listener with its walk and metrics, and the connections to it."""

    def __init__(self, **options: Any) -> None:
        self.walk = Walk()
        self.metrics = Metrics()
        self.listener = Listener(
            self.walk, self.metrics, **{"connections": 128, "connections_per_address": 64, **options}
        )
        self.wires: list[Wire] = []

    async def dial(self, source: str = POD) -> Wire:
        """A connection from a pod's address."""
        host, port = self.listener.addresses[0]
        async with asyncio.timeout(BOUND):
            wire = Wire(*await asyncio.open_connection(host, port, local_addr=(source, 0)))
        self.wires.append(wire)
        return wire

    @property
    def connections(self) -> float | None:
        """How many connections are counted."""
        return self.metrics.registry.get_sample_value("metaproxy_http_connections")

    @property
    def refused(self) -> float | None:
        """How many connections were refused."""
        return self.metrics.registry.get_sample_value(
            "metaproxy_http_connections_refused_total", {"reason": "TooManyConnections"}
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until the other side has seen what was done."""
        async with asyncio.timeout(BOUND):
            while not condition():  # noqa: ASYNC110  the sockets' other side rings no bell
                await asyncio.sleep(0.001)


@asynccontextmanager
async def bench(**options: Any) -> AsyncIterator[Bench]:
    """A bench that listens on a free port, and ends with no connection counted."""
    made = Bench(**options)
    await made.listener.open([("127.0.0.1", 0)])
    try:
        yield made
    finally:
        made.walk.release.set()
        for wire in made.wires:
            await wire.close()
        await made.listener.close()
    await made.until(lambda: made.connections == 0)


def get(target: str = "/", *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request as a plain client sends it."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: 169.254.169.254", *headers, "", ""]).encode()


def unreadable(reply: Reply) -> None:
    """The answer to what is no request."""
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/json"
    assert reply.version == "HTTP/1.0" or reply.headers["connection"] == "close"
    assert json.loads(reply.body)["code"] == "BadRequest"
    assert b" " in reply.body


# Requests that can be read.


async def test_the_walk_is_told_what_was_asked() -> None:
    """Method, raw target, the socket's peer, token and life as sent; no header says who is calling."""
    async with bench() as b:
        wire = await b.dial("127.0.0.7")
        reply = await wire.ask(
            get(
                "/latest/%2e/x?a=b%20c",
                "X-aws-ec2-metadata-token: T",
                "X-aws-ec2-metadata-token-ttl-seconds: 60",
                "X-Real-IP: 10.0.0.1",
                "Forwarded: for=10.0.0.1",
            )
        )
        assert reply.asked == {
            "method": "GET",
            "target": "/latest/%2e/x?a=b%20c",
            "peer": "127.0.0.7",
            "token": "T",
            "ttl": "60",
            "forwarded": False,
            "host": "169.254.169.254",
        }


async def test_answers_look_like_ec2s() -> None:
    """S11: the server's name, a plain type without charset, the length, the token's life; `Retry-After` when told."""
    async with bench() as b:
        wire = await b.dial()
        reply = await wire.ask(get())
        assert (reply.status, reply.version) == (200, "HTTP/1.1")
        assert reply.headers["server"] == "EC2ws"
        assert reply.headers["content-type"] == "text/plain"
        assert reply.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "60"
        assert "retry-after" not in reply.headers
        busy = await wire.ask(get("/busy"))
        assert (busy.status, busy.headers["retry-after"]) == (503, "1")
        assert busy.headers["content-type"] == "application/json"
        assert "x-aws-ec2-metadata-token-ttl-seconds" not in busy.headers


@pytest.mark.parametrize(
    "name",
    ["x-aws-ec2-metadata-token", "X-Aws-Ec2-Metadata-Token", "X-AWS-EC2-METADATA-TOKEN", "x-AWS-ec2-Metadata-TOKEN"],
)
async def test_header_names_in_any_case(name: str) -> None:
    """Clients spell header names in every way."""
    async with bench() as b:
        wire = await b.dial()
        reply = await wire.ask(get("/", f"{name}:  T ", f"{name}-ttl-seconds:60", method="PUT"))
        assert (reply.asked["token"], reply.asked["ttl"]) == ("T", "60")
        assert (await wire.ask(get("/", "x-FORWARDED-for:"))).asked["forwarded"] is True


async def test_no_particular_headers_are_needed() -> None:
    """M19: no User-Agent or Accept; a Host that is empty, strange, or has an odd port; none at all in HTTP/1.0."""
    async with bench() as b:
        wire = await b.dial()
        for host in ("", "169.254.169.254", "169.254.169.254:8181", "metadata", "[fd00:ec2::254]"):
            assert (await wire.ask(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())).status == 200
        assert (await wire.ask(b"GET / HTTP/1.0\r\n\r\n")).status == 200


async def test_kept_alive_and_closed_as_asked() -> None:
    """M19: one connection serves many requests; `Connection: close` and HTTP/1.0 end it, unless asked to keep it."""
    async with bench() as b:
        wire = await b.dial()
        for _ in range(5):
            assert (await wire.ask(get())).status == 200
        assert (await wire.ask(get("/", "Connection: close"))).headers["connection"] == "close"
        assert await wire.rest() == b""
        old = await b.dial()
        assert (await old.ask(get(version="1.0"))).status == 200
        assert await old.rest() == b""
        kept = await b.dial()
        for _ in range(2):
            assert (await kept.ask(get("/", "Connection: keep-alive", version="1.0"))).status == 200


async def test_head_has_no_body() -> None:
    """S11: HEAD says how long the body would be and leaves it away, so the next answer stands where it should."""
    async with bench() as b:
        wire = await b.dial()
        whole = await wire.ask(get())
        head = await wire.ask(get(method="HEAD"), head=True)
        assert (head.status, head.headers["content-type"]) == (200, "text/plain")
        assert int(head.headers["content-length"]) == len(whole.body) + len("HEAD") - len("GET")
        assert (await wire.ask(get("/next"))).asked["target"] == "/next"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ((), b""),
        (("Content-Length: 0",), b""),
        (("Transfer-Encoding: chunked",), b"0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
        (("Content-Length: 5",), b"hello"),
        (("Expect: 100-continue", "Content-Length: 0"), b""),
        (("Expect: 100-continue",), b""),
        (("Content-Type: application/x-www-form-urlencoded", "Content-Length: 0"), b""),
    ],
    ids=["no length", "length 0", "chunked empty", "chunked", "a body", "expect, length 0", "expect", "form"],
)
async def test_a_put_may_have_any_body_or_none(headers: tuple[str, ...], body: bytes) -> None:
    """M19: clients differ in how they send a PUT without a body; each is answered, and the connection goes on."""
    async with bench() as b:
        wire = await b.dial()
        reply = await wire.ask(get("/latest/api/token", *headers, method="PUT") + body)
        assert (reply.status, reply.asked["method"]) == (200, "PUT")
        assert (await wire.ask(get("/next"))).asked["target"] == "/next"
        assert b.walk.targets == ["/latest/api/token", "/next"]


async def test_a_body_that_does_not_end_holds_nothing() -> None:
    """The answer does not wait for a body that nobody reads, and the connection is closed when it does not end."""
    async with bench() as b:
        wire = await b.dial()
        reply = await wire.ask(get("/latest/api/token", "Content-Length: 1000000", method="PUT") + b"x" * 100)
        assert reply.status == 200
        assert await wire.rest() == b""


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Many requests in one packet: each is answered, in the order of asking."""
    async with bench() as b:
        wire = await b.dial()
        await wire.send(b"".join(get(f"/{number}") for number in range(AHEAD_LIMIT)))
        for number in range(AHEAD_LIMIT):
            assert (await wire.reply()).asked["target"] == f"/{number}"


async def test_a_request_in_single_bytes() -> None:
    """However the network cuts a request it is read."""
    async with bench() as b:
        wire = await b.dial()
        for byte in get("/slow"):
            await wire.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await wire.reply()).asked["target"] == "/slow"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "http://169.254.169.254/latest/meta-data/iam/info"),
        ("GET", "HTTP://other.example:81/latest/"),
        ("OPTIONS", "*"),
        ("DELETE", "/latest/"),
        ("PROPFIND", "/latest/"),
    ],
)
async def test_odd_targets_reach_the_walk_as_sent(method: str, target: str) -> None:
    """Absolute form and `*` are not rewritten into something that is served: the walk sees them raw and refuses."""
    async with bench() as b:
        wire = await b.dial()
        reply = await wire.ask(get(target, method=method))
        assert (reply.asked["method"], reply.asked["target"]) == (method, target)


async def test_connect_opens_no_tunnel() -> None:
    """CONNECT is one more request for the walk; what follows is HTTP and not carried anywhere."""
    async with bench() as b:
        wire = await b.dial()
        reply = await wire.ask(get("169.254.169.254:80", method="CONNECT"))
        assert (reply.status, reply.asked["method"]) == (404, "CONNECT")
        assert reply.asked["target"] == "169.254.169.254:80"
        await wire.send(b"\x16\x03\x01\x02\x00" * 10 + b"\r\n\r\n")
        rest = await wire.rest()
        assert rest == b"" or rest.startswith(b"HTTP/1.0 400 ")
        assert len(b.walk.requests) == 1


async def test_an_upgrade_is_not_taken_up() -> None:
    """Offers to speak something else are passed over: an ordinary answer comes."""
    async with bench() as b:
        wire = await b.dial()
        reply = await wire.ask(get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"))
        assert reply.status == 200
        assert "upgrade" not in reply.headers


# Requests that cannot be read.


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40,
        b"\r\nhello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad name: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
        b"GET /" + b"a" * (HEAD_LIMIT) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * (HEAD_LIMIT) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"H%d: x\r\n" % number for number in range(200)) + b"\r\n",
    ],
    ids=[
        "TLS",
        "text",
        "method alone",
        "version",
        "no Host in 1.1",
        "lower case",
        "no colon",
        "space in name",
        "NUL",
        "negative length",
        "odd length",
        "odd chunk",
        "long target",
        "long header",
        "many headers",
    ],
)
async def test_what_is_no_request_is_400_and_closed(data: bytes) -> None:
    """Malformed HTTP: one 400 in our own words, then the connection is closed; the operator is not alarmed."""
    async with bench() as b:
        wire = await b.dial()
        with capture_logs() as logs:
            reply = await wire.ask(data)
            if reply.status == 200:
                # A broken body shows only behind a good head: that much was answered, and nothing more is.
                assert b"not a size" in data
                assert await wire.rest() == b""
                return
            unreadable(reply)
            assert await wire.rest() == b""
        assert b.walk.requests == []
        assert {line["log_level"] for line in logs} == {"debug"}


async def test_after_a_good_request_a_bad_one_still_closes() -> None:
    """A connection that spoke well once is closed all the same when it mumbles."""
    async with bench() as b:
        wire = await b.dial()
        assert (await wire.ask(get())).status == 200
        unreadable(await wire.ask(b"mumble mumble\r\n\r\n"))
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 40\r\n\r\n",
        "Content-Length: 0, 40\r\n\r\n",
        "Content-Length : 0\r\n\r\n",
        "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
        "A: b\r\n Content-Length: 40\r\nContent-Length: +0\r\n\r\n",
    ],
)
async def test_requests_are_not_smuggled(head: str) -> None:
    """Two readings of where a request ends are none: a 400, closed, and what stands behind is never answered."""
    async with bench() as b:
        wire = await b.dial()
        await wire.send(b"PUT /first HTTP/1.1\r\nHost: x\r\n" + head.encode() + get("/smuggled"))
        unreadable(await wire.reply())
        assert await wire.rest() == b""
        assert "/smuggled" not in b.walk.targets


async def test_what_breaks_in_the_walk_shows_nothing() -> None:
    """An exception, or a time-out, that the walk lets fall: a JSON error without a trace, and the connection closed.

    At once or after a wait; the operator gets the trace.
    """
    async with bench() as b:
        for target in ("/break", "/late", "/break-held"):
            wire = await b.dial()
            b.walk.release.set()
            with capture_logs() as logs:
                reply = await wire.ask(get(target))
            assert (reply.status, reply.headers["content-type"]) == (500, "application/json")
            assert json.loads(reply.body)["code"] == "Internal"
            assert b"detail" not in reply.body
            assert b"Traceback" not in reply.body
            assert await wire.rest() == b""
            assert [line["log_level"] for line in logs] == ["error"]


async def test_a_wait_that_is_no_task_is_a_mistake_of_ours() -> None:
    """Who waits without saying so would run outside any task: refused loudly instead of half working."""
    async with bench() as b:
        wire = await b.dial()
        with capture_logs() as logs:
            assert (await wire.ask(get("/wait-unsaid"))).status == 500
        assert [line["log_level"] for line in logs] == ["error"]


async def test_what_cannot_be_read_while_a_request_is_held() -> None:
    """The held request gets its answer, which says that it is the last, and then the connection ends."""
    async with bench() as b:
        wire = await b.dial()
        await wire.send(get("/hold"))
        await b.walk.held.wait()
        await wire.send(get("/next") + b"mumble mumble\r\n\r\n")
        assert (await (await b.dial()).ask(get())).status == 200
        b.walk.release.set()
        reply = await wire.reply()
        assert (reply.status, reply.asked["target"], reply.headers["connection"]) == (200, "/hold", "close")
        assert await wire.rest() == b""
        assert "/next" not in b.walk.targets


@pytest.mark.parametrize("target", ["/", "/hold"])
async def test_a_flood_is_not_read(target: str) -> None:
    """A body without end is read until its limit and one piece more; then the kernel holds it, and the end comes."""
    async with bench() as b:
        wire = await b.dial()
        await wire.send(get(target, "Transfer-Encoding: chunked", method="PUT"))
        sent, piece = 0, b"40000\r\n" + b"a" * 0x40000 + b"\r\n"

        async def flood() -> None:
            nonlocal sent
            while not wire.writer.is_closing():
                wire.writer.write(piece)
                await wire.writer.drain()
                sent += len(piece)

        flooding = asyncio.create_task(flood())
        if target == "/hold":
            await b.until(lambda: any(connection._deaf for connection in b.listener._crowd.everybody()))
            b.walk.release.set()
        assert (await wire.reply()).status == 200
        await b.until(lambda: b.connections == 0)
        await asyncio.gather(flooding, return_exceptions=True)
        assert sent < 64 << 20


async def test_who_asks_without_reading_is_read_no_more() -> None:
    """Megabytes of requests without a look at the answers: they wait in the kernel, none is lost, none out of order."""
    async with bench() as b:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind((POD, 0))
        sock.connect(b.listener.addresses[0])
        sock.setblocking(False)
        wire = Wire(*await asyncio.open_connection(sock=sock, limit=1 << 17))
        b.wires.append(wire)
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
        count, long = 0, "a" * 900
        while not any(connection._paused for connection in b.listener._crowd.everybody()):
            await wire.send(b"".join(get(f"/{count + number}/{long}") for number in range(8)))
            count += 8
            expected = count
            await b.until(
                lambda expected=expected: (  # type: ignore[misc]
                    len(b.walk.requests) == expected or any(one._paused for one in b.listener._crowd.everybody())
                )
            )
        wire.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(count):
            assert (await wire.reply()).asked["target"] == f"/{number}/{long}"


async def test_who_asks_much_at_once_does_not_stop_the_others() -> None:
    """One request a turn for each connection: bursts of one pod are answered between those of everybody else."""
    async with bench() as b:
        greedy = [await b.dial() for _ in range(20)]
        modest = await b.dial("127.0.0.3")
        assert (await modest.ask(get())).status == 200
        b.walk.requests.clear()
        for wire in greedy:
            wire.writer.write(b"".join(get(f"/{number}") for number in range(AHEAD_LIMIT)))
        modest.writer.write(get("/modest"))
        assert (await modest.reply()).status == 200
        before = [request.peer for request in b.walk.requests].index("127.0.0.3")
        assert before <= 4 * len(greedy)
        for wire in greedy:
            for _ in range(AHEAD_LIMIT):
                assert (await wire.reply()).status == 200


async def test_what_is_sent_ahead_is_little() -> None:
    """However many connections are held, each keeps no more than one request's bytes for later."""
    async with bench() as b:
        wires = [await b.dial() for _ in range(10)]
        for wire in wires:
            await wire.send(get("/hold"))
        await b.until(lambda: len(b.walk.requests) == len(wires))
        for wire in wires:
            await wire.send(b"".join(get(f"/{'a' * 3000}") for _ in range(20)))
        await b.until(lambda: all(connection._deaf for connection in b.listener._crowd.everybody()))
        assert not any(connection._reader.asked for connection in b.listener._crowd.everybody())
        b.walk.release.set()
        for wire in wires:
            assert (await wire.reply()).headers["connection"] == "close"
            assert await wire.rest() == b""


# Connections.


@pytest.mark.parametrize("begin", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nA: b\r\n"])
async def test_who_does_not_begin_to_speak_is_closed(begin: bytes) -> None:
    """A first request that does not come in time, however much of it came, holds its connection no longer."""
    async with bench(first_request=SHORT) as b:
        wire = await b.dial()
        await wire.send(begin)
        await b.until(lambda: b.connections == 1)
        assert await wire.rest() == b""
        await b.until(lambda: b.connections == 0)
        assert b.walk.requests == []


async def test_a_trickle_does_not_buy_time() -> None:
    """Single bytes that keep coming do not put off the end: the whole first request has to come in time."""
    async with bench(first_request=SHORT) as b:
        wire = await b.dial()
        end = asyncio.create_task(wire.rest())
        await wire.send(b"GET / HTTP/1.1\r\n")
        async with asyncio.timeout(BOUND):
            while not end.done():
                await wire.send(b"A: b\r\n")
                await asyncio.sleep(SHORT / 20)
        assert await end == b""
        assert b.walk.requests == []


async def test_who_spoke_once_may_be_silent_for_longer() -> None:
    """The first request's limit is the first request's: a connection in use outlives one that was silent after it."""
    async with bench(first_request=SHORT) as b:
        spoke = await b.dial()
        assert (await spoke.ask(get())).status == 200
        silent = await b.dial()
        assert await silent.rest() == b""
        assert (await spoke.ask(get("/again"))).asked["target"] == "/again"


async def test_a_held_request_is_not_cut_by_the_first_requests_limit() -> None:
    """Holding is our doing: the limit is for what the pod sends, not for our answer."""
    async with bench(first_request=SHORT) as b:
        held = await b.dial()
        await held.send(get("/hold"))
        await b.walk.held.wait()
        silent = await b.dial()
        assert await silent.rest() == b""
        b.walk.release.set()
        assert (await held.reply()).status == 200


async def test_idle_connections_end() -> None:
    """A connection that is kept alive for nothing is closed, half a second request included."""
    async with bench(keep_alive=SHORT) as b:
        for half in (b"", b"GET / HT"):
            wire = await b.dial()
            assert (await wire.ask(get())).status == 200
            await wire.send(half)
            assert await wire.rest() == b""


async def test_an_address_has_so_many_connections() -> None:
    """The connection above the limit is cut and counted; another pod is not touched; a closed one makes room."""
    async with bench(connections_per_address=2) as b:
        with capture_logs() as logs:
            first, second = await b.dial(), await b.dial()
            assert (await first.ask(get())).status == 200
            assert (await second.ask(get())).status == 200
            third = await b.dial()
            await third.send(get())
            assert await third.rest() == b""
            assert b.refused == 1
            assert b.connections == 2
            other = await b.dial("127.0.0.3")
            assert (await other.ask(get())).status == 200
            await first.close()
            await b.until(lambda: b.connections == 2)
            again = await b.dial()
            assert (await again.ask(get())).status == 200
            assert b.refused == 1
        (line,) = logs
        assert (line["peer"], line["reason"]) == (POD, "TooManyConnections")


async def test_who_is_silent_makes_room_for_its_own() -> None:
    """At an address's limit the longest silent connection goes for a new one: what leaks does not stop what asks."""
    async with bench(connections_per_address=3) as b:
        spoken, silent, younger = [await b.dial() for _ in range(3)]
        assert (await spoken.ask(get())).status == 200
        assert (await (await b.dial()).ask(get())).status == 200
        assert await silent.rest() == b""
        assert (await younger.ask(get())).status == 200
        assert (await spoken.ask(get())).status == 200
        assert (b.refused, b.connections) == (1, 3)
        assert b.listener.refusal(POD) == (Reason.TOO_MANY_CONNECTIONS, 1)


async def test_a_crowd_gives_way_to_a_neighbour() -> None:
    """All places are taken: of the address that has most the longest silent one goes, then the longest idle one.

    Who has most drives nobody out, and who is being answered goes last.
    """
    async with bench(connections=4) as b:
        idle, held, silent, modest = await b.dial(), await b.dial(), await b.dial(), await b.dial("127.0.0.3")
        assert (await idle.ask(get())).status == 200
        await held.send(get("/hold"))
        await b.walk.held.wait()
        assert (await modest.ask(get())).status == 200
        with capture_logs() as logs:
            assert (await (await b.dial("127.0.0.4")).ask(get())).status == 200
            assert await silent.rest() == b""
            assert (await (await b.dial("127.0.0.5")).ask(get())).status == 200
            assert await idle.rest() == b""
            refused = await b.dial("127.0.0.3")
            await refused.send(get())
            assert await refused.rest() == b""
        assert {(line["peer"], line["reason"]) for line in logs} == {(POD, "CrowdedOut"), ("127.0.0.3", "CrowdedOut")}
        assert b.listener.refusal(POD) == (Reason.CROWDED_OUT, 2)
        assert b.connections == 4
        b.walk.release.set()
        assert (await held.reply()).status == 200
        assert (await modest.ask(get())).status == 200


async def test_one_that_was_only_just_accepted_gives_way_too() -> None:
    """Before the loop has made anything of it: a burst that is accepted in one turn."""
    async with bench(connections=2) as b:
        early = [await b.dial() for _ in range(2)]
        where = b.listener.addresses[0]
        burst = [socket.create_connection(where, source_address=(f"127.0.0.{last}", 0)) for last in range(10, 18)]
        latest = await b.dial("127.0.0.99")
        assert (await latest.ask(get())).status == 200
        assert b.connections == 2
        for each in burst[:-1]:
            each.setblocking(False)
            b.wires.append(Wire(*await asyncio.open_connection(sock=each)))
        assert [await wire.rest() for wire in (*early, *b.wires[3:])] == [b""] * 9
        burst[-1].close()


async def test_a_burst_is_accepted_in_a_few_turns() -> None:
    """Many at once, so that who has come last does not wait for as many turns; but not all, for others have theirs."""
    async with bench(connections=300, connections_per_address=256) as b:
        where = b.listener.addresses[0]
        burst = [socket.create_connection(where, source_address=(POD, 0)) for _ in range(200)]
        turns, most, before = 0, 0, 0
        while b.listener.size < 200:
            await asyncio.sleep(0)
            turns, most, before = turns + 1, max(most, b.listener.size - before), b.listener.size
            assert turns < 50
        assert most <= BATCH
        for each in burst:
            each.close()


async def test_one_address_has_so_much_of_a_turn() -> None:
    """Hundreds of connections that ask at once are answered between those of everybody else, all of them in the end."""
    async with bench(connections=300, connections_per_address=256) as b:
        greedy = [await b.dial() for _ in range(200)]
        modest = await b.dial("127.0.0.3")
        for wire in (*greedy, modest):
            assert (await wire.ask(get())).status == 200
        b.walk.requests.clear()
        for wire in greedy:
            wire.writer.write(get("/first") + get("/second"))
        modest.writer.write(get("/modest"))
        assert (await modest.reply()).status == 200
        before = [request.peer for request in b.walk.requests].index("127.0.0.3")
        assert before <= 2 * TURN
        for wire in greedy:
            assert [(await wire.reply()).asked["target"] for _ in range(2)] == ["/first", "/second"]


# No descriptors.


def failures(b: Bench, error: str) -> float | None:
    """How often accepting failed for it."""
    return b.metrics.registry.get_sample_value("metaproxy_http_accept_failures_total", {"reason": error})


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open no more files than it has: every number below the limit is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.dup(0)]
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    while held[-1] < highest:
        held.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)


def unconnected(pod: str) -> socket.socket:
    """The end of a pod that has its descriptor already."""
    made = socket.socket()
    made.setblocking(False)
    made.bind((pod, 0))
    return made


async def test_without_descriptors_who_has_most_gives_one_up() -> None:
    """No connection can be accepted: counted, told once, and a connection ends so that the next is answered."""
    async with bench() as b:
        silent, spoken = await b.dial(), await b.dial()
        assert (await spoken.ask(get())).status == 200
        late = [unconnected(f"127.0.0.{last}") for last in (7, 8)]
        with capture_logs() as logs, no_more_files():
            for each in late:
                await asyncio.get_running_loop().sock_connect(each, b.listener.addresses[0])
                wire = Wire(*await asyncio.open_connection(sock=each))
                b.wires.append(wire)
                assert (await wire.ask(get())).status == 200
        assert await silent.rest() == await spoken.rest() == b""
        assert (failures(b, "EMFILE") or 0) >= 2
        told = [line for line in logs if line["event"] == "connections cannot be accepted"]
        assert [(line["error"], line["log_level"]) for line in told] == [("Too many open files", "error")]
        assert "LimitNOFILE" in told[0]["remedy"]


async def test_without_anything_to_give_up_it_looks_again() -> None:
    """Accepting goes on by itself when there are descriptors; who waits is answered then."""
    async with bench() as b:
        late = unconnected(POD)
        with no_more_files():
            await asyncio.get_running_loop().sock_connect(late, b.listener.addresses[0])
            await b.until(lambda: failures(b, "EMFILE") == 2)
        wire = Wire(*await asyncio.open_connection(sock=late))
        b.wires.append(wire)
        assert (await wire.ask(get())).status == 200


async def test_it_may_be_closed_while_it_waits_for_descriptors() -> None:
    """Nothing is accepted after that."""
    async with bench() as b:
        late = unconnected(POD)
        with late, no_more_files():
            await asyncio.get_running_loop().sock_connect(late, b.listener.addresses[0])
            await b.until(lambda: failures(b, "EMFILE") == 1)
            await b.listener.close()
        (acceptor,) = b.listener._acceptors
        assert acceptor._again is not None
        assert acceptor._again.cancelled()


class Odd(socket.socket):
    """A listening socket that says first what stands in `says`: an error, or the end of a pod that went already."""

    says: list[OSError | socket.socket]

    def accept(self) -> tuple[socket.socket, Any]:
        """Said, or as usual."""
        if not self.says:
            return super().accept()
        said = self.says.pop(0)
        if isinstance(said, OSError):
            raise said
        return said, (POD, 1)


@pytest.mark.parametrize("error", ["ENFILE", "ENOMEM", "EINVAL"])
async def test_whatever_accepting_says_it_goes_on(error: str) -> None:
    """The node has nothing left, or worse: counted, and tried again. What ended before it began is passed over."""
    b = Bench()
    with Odd(socket.AF_INET, socket.SOCK_STREAM) as odd:
        odd.setblocking(False)
        odd.bind(("127.0.0.1", 0))
        odd.listen()
        gone = socket.socket()
        gone.close()
        number = getattr(errno, error)
        odd.says = [OSError(errno.ECONNABORTED, ""), gone, OSError(number, os.strerror(number))]
        await b.listener.accept({("127.0.0.1", 0): odd})
        wire = await b.dial()
        assert (await wire.ask(get())).status == 200
        assert odd.says == []
        assert failures(b, "other" if error == "EINVAL" else error) == 1
        assert b.connections == 1
        await wire.close()
        await b.listener.close()


async def test_who_hangs_up_while_held_is_held_no_longer() -> None:
    """The pod closes its connection: its request ends in that moment, the connection is counted no more."""
    async with bench() as b:
        wire = await b.dial()
        await wire.send(get("/hold"))
        await b.walk.held.wait()
        assert b.connections == 1
        await wire.close()
        async with asyncio.timeout(BOUND):
            await b.walk.hung_up.wait()
        await b.until(lambda: b.connections == 0)


async def test_who_resets_while_held_is_held_no_longer() -> None:
    """The pod's process dies and the kernel resets the connection: the same."""
    async with bench() as b:
        wire = await b.dial()
        await wire.send(get("/hold"))
        await b.walk.held.wait()
        sock = wire.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        wire.writer.transport.abort()
        async with asyncio.timeout(BOUND):
            await b.walk.hung_up.wait()
        await b.until(lambda: b.connections == 0)


# Opening and closing.


async def test_closing_lets_held_requests_end() -> None:
    """P7: idle connections close, nobody new is let in, and a request that is held is answered first."""
    async with bench() as b:
        idle, held = await b.dial(), await b.dial()
        assert (await idle.ask(get())).status == 200
        await held.send(get("/hold"))
        await b.walk.held.wait()
        closing = asyncio.create_task(b.listener.close())
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await b.dial()
        assert not closing.done()
        b.walk.release.set()
        reply = await held.reply()
        assert (reply.status, reply.asked["target"]) == (200, "/hold")
        assert await held.rest() == b""
        async with asyncio.timeout(BOUND):
            await closing


@pytest.mark.parametrize("retired", [False, True])
async def test_closing_lets_requests_that_wait_for_their_turn_be_answered(retired: bool) -> None:
    """They have come in time; that their address has asked much is no reason to lose them."""
    async with bench(connections=512, connections_per_address=512, farewell=0.0) as b:
        wires = [await b.dial() for _ in range(10 * TURN)]
        for wire in wires:
            assert (await wire.ask(get())).status == 200
        if retired:
            b.listener.retire()
        b.walk.requests.clear()
        b.walk.closing = b.listener.close
        for wire in wires:
            wire.writer.write(get("/last"))
        for wire in wires:
            assert (await wire.reply()).asked["target"] == "/last"
            assert await wire.rest() == b""
        assert b.walk.closed is not None
        await b.walk.closed


async def test_closing_does_not_wait_for_ever() -> None:
    """A request that is held beyond the limit is cut."""
    async with bench(drain=SHORT) as b:
        wire = await b.dial()
        await wire.send(get("/hold"))
        await b.walk.held.wait()
        async with asyncio.timeout(BOUND):
            await b.listener.close()
        assert await wire.rest() == b""
        assert b.walk.hung_up.is_set()


async def test_an_address_that_cannot_be_had_is_an_error() -> None:
    """A port in use is an OSError; what was opened before it can be closed; closing what never opened is nothing."""
    async with bench() as b:
        taken = b.listener.addresses[0]
        second = Listener(b.walk, b.metrics, connections=1, connections_per_address=1)
        await second.close()
        with pytest.raises(OSError, match=r"Address already in use: 127\.0\.0\.1 port"):
            await second.open([("127.0.0.1", 0), taken])
        async with asyncio.timeout(BOUND):
            await second.close()
        assert (await (await b.dial()).ask(get())).status == 200


async def test_who_was_not_led_here_is_refused() -> None:
    """Without a translation on record the connection is closed, counted, told once, and kept for explanations."""
    with capture_logs() as logs:
        async with bench(accept_direct=False) as b:
            assert b.listener.refusal(POD) is None
            for _ in range(3):
                assert await (await b.dial()).rest() == b""
            name = "metaproxy_http_connections_refused_total"
            assert b.metrics.registry.get_sample_value(name, {"reason": "NotRedirected"}) == 3
            assert (b.refused, b.walk.requests) == (0, [])
            assert b.listener.refusal(POD) == (Reason.NOT_REDIRECTED, 3)
    assert [(line["event"], line["reason"], line["peer"]) for line in logs] == [
        ("connection refused", "NotRedirected", POD)
    ]


async def test_refusals_are_remembered_of_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten: addresses are without number."""
    monkeypatch.setattr("metaproxy.listener.REFUSALS", 2)
    async with bench(accept_direct=False) as b:
        for last in (2, 3, 4):
            assert await (await b.dial(f"127.0.0.{last}")).rest() == b""
        assert [b.listener.refusal(f"127.0.0.{last}") is None for last in (2, 3, 4)] == [True, False, False]


async def test_the_agents_own_addresses_need_not_be_there() -> None:
    """The redirect brings them, in whatever order both are started; any other address has to be there."""
    listener = Listener(Walk(), Metrics(), connections=1, connections_per_address=1)
    await listener.open([("169.254.170.254", 0), ("fd00:a9fe:170::254", 0)])
    assert [host for host, _ in listener.addresses] == ["169.254.170.254", "fd00:a9fe:170::254"]
    await listener.close()
    with pytest.raises(OSError, match=r"Cannot assign requested address: 192\.0\.2\.1 port 0"):
        await Listener(Walk(), Metrics(), connections=1, connections_per_address=1).open([("192.0.2.1", 0)])


async def test_a_kernel_without_ipv6_has_the_other_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said; what was asked for besides our own address is still an error."""
    real = sockets.listening

    def without_ipv6(host: str, port: int, *, backlog: int, free: bool) -> socket.socket:
        if ":" in host:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(host, port, backlog=backlog, free=free)

    monkeypatch.setattr(sockets, "listening", without_ipv6)
    listener = Listener(Walk(), Metrics(), connections=1, connections_per_address=1)
    with capture_logs() as logs:
        await listener.open([("169.254.170.254", 0), ("fd00:a9fe:170::254", 0)])
    assert [host for host, _ in listener.addresses] == ["169.254.170.254"]
    assert "no IPv6" in logs[0]["event"]
    with pytest.raises(OSError, match="not supported"):
        await listener.open([("::1", 0)])
    await listener.close()


async def test_several_addresses_are_listened_on() -> None:
    """Each given address answers, and is told with the port that it got."""
    b = Bench()
    await b.listener.open([("127.0.0.1", 0), ("127.0.0.5", 0)])
    try:
        assert [host for host, _ in b.listener.addresses] == ["127.0.0.1", "127.0.0.5"]
        for host, port in b.listener.addresses:
            wire = Wire(*await asyncio.open_connection(host, port))
            assert (await wire.ask(get())).status == 200
            await wire.close()
    finally:
        await b.listener.close()


async def _with_ipv6(talk: Callable[[Bench, int], Awaitable[None]], *, dual: bool) -> None:
    b = Bench()
    await b.listener.open([])
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)
        sock.bind(("::" if dual else "::1", 0))
        sock.listen()
        sock.setblocking(False)
        await b.listener.accept({("::", 0): sock})
        try:
            await talk(b, sock.getsockname()[1])
        finally:
            await b.listener.close()


async def test_mapped_peers_are_their_ipv4_address() -> None:
    """A dual-stack socket shows IPv4 pods as ::ffff:a.b.c.d: they are known by the address that the directory has."""

    async def talk(b: Bench, port: int) -> None:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port, local_addr=(POD, 0)))
        assert (await wire.ask(get())).asked["peer"] == POD
        await wire.close()

    await _with_ipv6(talk, dual=True)


async def test_ipv6_peers_are_canonical() -> None:
    """S15: an IPv6 pod is known by the one spelling of its address."""

    async def talk(b: Bench, port: int) -> None:
        wire = Wire(*await asyncio.open_connection("::1", port))
        assert (await wire.ask(get())).asked["peer"] == "::1"
        await wire.close()

    await _with_ipv6(talk, dual=False)


async def test_what_is_no_address_is_no_pod() -> None:
    """Nothing can be had for it; who comes by a unix socket is known by no address either."""
    assert peer_of(("no address", 1)) == "unknown"
    assert peer_of("") == peer_of(b"\0name") == "unix"


# An address that is somebody else's from now on.


async def test_an_addresss_connections_are_cut_when_it_moves() -> None:
    """Idle ones and those with a request that is held, which learns of it; another address's go on, and new ones."""
    async with bench() as b:
        idle, holding, other = await b.dial(), await b.dial(), await b.dial("127.0.0.3")
        await idle.ask(get())
        await holding.send(get("/hold"))
        await b.walk.held.wait()
        b.listener.reset(POD)
        b.listener.reset(POD)
        b.listener.reset("127.0.0.99")
        assert await idle.rest() == await holding.rest() == b""
        await b.walk.hung_up.wait()
        assert (await other.ask(get())).status == 200
        await b.until(lambda: b.connections == 1)
        assert (await (await b.dial()).ask(get())).status == 200


def drain(end: socket.socket) -> None:
    """Read until the other side closes."""
    while end.recv(1 << 16):
        pass


async def test_what_was_not_taken_is_not_sent_later() -> None:
    """The pod reads nothing, so that an answer waits in the kernel when the address moves: it is thrown away."""
    async with bench() as b:
        pod = socket.socket()
        with pod:
            pod.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            pod.bind((POD, 0))
            pod.connect(b.listener.addresses[0][:2])
            await b.until(lambda: b.connections == 1)
            (connection,) = b.listener._crowd.everybody()
            connection._transport.write(bytes(1 << 16))
            b.listener.reset(POD)
            await b.until(lambda: b.connections == 0)
            # What the pod's own kernel had taken may go with the reset, or be read before it; the rest never comes.
            with pytest.raises(ConnectionResetError):
                drain(pod)


async def test_a_connection_that_is_at_its_end_is_cut_too() -> None:
    """The other side has reset it already, and the loop has not seen that yet."""
    async with bench() as b:
        pod = socket.create_connection(b.listener.addresses[0][:2], source_address=(POD, 0))
        await b.until(lambda: b.connections == 1)
        pod.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pod.close()
        b.listener.reset(POD)
        await b.until(lambda: b.connections == 0)


# Another process accepts.


async def test_who_has_retired_answers_once_more() -> None:
    """New connections are not for it; one that is open gets one more answer, which says so, and what it holds."""
    async with bench() as b:
        idle, busy, piped = [await b.dial() for _ in range(3)]
        for wire in (idle, busy, piped):
            assert "connection" not in (await wire.ask(get())).headers
        await busy.send(get("/hold"))
        await b.walk.held.wait()
        other = b.listener.sockets["127.0.0.1", 0].dup()
        b.listener.retire()
        with other:
            other.setblocking(False)
            late = await b.dial()  # waits in the kernel for whoever accepts
            assert b.connections == 3
            assert (await idle.ask(get("/last"))).headers["connection"] == "close"
            assert await idle.rest() == b""
            await piped.send(get("/one") + get("/two"))
            assert (await piped.reply()).asked["target"] == "/one"
            assert (await piped.reply()).headers["connection"] == "close"
            b.walk.release.set()
            assert (await busy.reply()).headers["connection"] == "close"
            assert b.connections == 0
            await late.close()


async def test_who_has_retired_and_is_told_to_stop() -> None:
    """Idle connections have time for a last request; who does not use it is told the end, without a reset."""
    async with bench(farewell=BOUND) as b:
        wire = await b.dial()
        await wire.ask(get())
        b.listener.retire()
        closing = asyncio.create_task(b.listener.close())
        assert (await wire.ask(get())).status == 200
        await closing
    async with bench(farewell=SHORT) as b:
        idle, held = await b.dial(), await b.dial()
        await idle.ask(get())
        await held.send(get("/hold"))
        await b.walk.held.wait()
        b.listener.retire()
        closing = asyncio.create_task(b.listener.close())
        assert await asyncio.wait_for(idle.reader.read(), BOUND) == b""
        b.walk.release.set()
        assert (await held.reply()).headers["connection"] == "close"
        await idle.close()
        await closing


async def test_a_former_address_is_given_up_when_nobody_comes() -> None:
    """Not before: who comes puts it off. The others stay, and who is connected is served on."""
    async with bench() as b:
        (kept,) = b.listener.addresses
        await b.listener.accept({"former": bound([("127.0.0.1", 0)])["127.0.0.1", 0]}, quiet=QUIET)
        b.listener.addresses.reverse()  # the first is where the bench dials
        former, begun = b.listener.addresses[0], b.listener.loop.time()
        wire = await b.dial()
        while b.listener.loop.time() < begun + 2 * QUIET:
            await (await b.dial()).close()
            assert b.listener.addresses == [former, kept]
        await b.until(lambda: len(b.listener.sockets) == 1)
        assert b.listener.addresses == [kept]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*former)
        for each in (wire, await b.dial()):
            assert (await each.ask(get())).status == 200

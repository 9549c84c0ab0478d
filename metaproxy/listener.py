"""The sockets that pods reach: HTTP in, our own request values through the walk, HTTP out.

Knows: aiohttp's low-level server, time-outs and caps of connections.
Must not know: what is asked or answered.

The low-level server has no router: there is no second reader of paths to disagree with ours.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from metaproxy import imds
from metaproxy.errors import Reason
from metaproxy.imds import Answer, Request
from metaproxy.objects import canonical_address
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

FIRST_REQUEST = 10.0
"""Seconds that a new connection has for its first complete request head: slow senders hold nothing."""

KEEP_ALIVE = 75.0
"""Seconds that an idle connection is kept: as long as EC2's clients reuse one."""

LINGER = 1.0
"""Seconds in which a body that nobody reads may still end, so that the connection can be kept."""

LINE_LIMIT = 8190
"""Bytes of a request line or header; full ARNs with long paths stay far below."""

DRAIN = 5.0
"""Seconds for requests that are held to end when the listener closes; more than any may be held."""

_TTL_IN = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105  a header's name
_TTL_OUT = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"

_peer_address = lru_cache(maxsize=4096)(canonical_address)


class _Connection(RequestHandler):
    """One connection: counted by its address, closed when it does not begin to speak, told plainly when it mumbles."""

    __slots__ = ("_counted", "_first", "_listener")

    def __init__(self, listener: "Listener", *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._listener = listener
        self._counted: str | None = None
        self._first: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = _peer_of(transport)
        if not self._listener.opened(peer):
            # A TCP connection; uvloop's are no subclass, so the type can only be told.
            cast(asyncio.Transport, transport).abort()
            return
        self._counted = peer
        self._first = self._listener.loop.call_later(self._listener.first_request, self.force_close)

    def spoke(self) -> None:
        """A first request came in time."""
        if self._first is not None:
            self._first.cancel()
            self._first = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.spoke()
        if self._counted is not None:
            self._listener.closed(self._counted)
            self._counted = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """What aiohttp itself cannot read is answered in our words, and the connection closed.

        Strange bytes from a pod are nothing to alarm the operator with, so they are told at debug.
        """
        log.debug("unreadable request", status=status, error=repr(exc))
        body = imds.error_document(Reason.BAD_REQUEST.value, ["this is no request that can be read", "speak HTTP/1.1"])
        response = _response(Answer(status=status, body=body, content_type=imds.JSON))
        response.force_close()
        return response


class Listener:
    """Listens on several addresses and walks each request through `answer`; times are in seconds."""

    def __init__(
        self,
        answer: Callable[[Request], Awaitable[Answer]],
        metrics: Metrics,
        *,
        connections_per_address: int,
        first_request: float = FIRST_REQUEST,
        keep_alive: float = KEEP_ALIVE,
        drain: float = DRAIN,
    ) -> None:
        self._answer = answer
        self._cap = connections_per_address
        self.first_request = first_request
        self._keep_alive = keep_alive
        self._drain = drain
        self._open: Counter[str] = Counter()
        self._connections = metrics.gauge("http_connections")
        self._refused = metrics.counter("http_connections_refused_total")
        self._servers: list[asyncio.Server] = []
        self._web: web.Server | None = None
        self.loop: asyncio.AbstractEventLoop
        self.addresses: list[tuple[str, int]] = []

    async def open(self, addresses: list[tuple[str, int]]) -> None:
        """Listen; OSError when an address cannot be had."""
        self.loop = asyncio.get_running_loop()
        self._web = web.Server(
            self._handle,
            keepalive_timeout=self._keep_alive,
            lingering_time=LINGER,
            max_line_size=LINE_LIMIT,
            max_field_size=LINE_LIMIT,
            max_headers=64,
            access_log=None,
            handler_cancellation=True,
        )
        for host, port in addresses:
            server = await self.loop.create_server(self._connect, host, port, backlog=4096, reuse_address=True)
            self._servers.append(server)
            self.addresses.extend(socket.getsockname()[:2] for socket in server.sockets)

    async def close(self) -> None:
        """Stop accepting, let held requests end, close."""
        for server in self._servers:
            server.close()
        if self._web is not None:
            self._web.pre_shutdown()
            await self._web.shutdown(self._drain)

    def opened(self, peer: str) -> bool:
        """A connection was made; False when its address has too many."""
        if self._open[peer] >= self._cap:
            self._refused.inc()
            log.warning("too many connections", peer=peer, reason=Reason.TOO_MANY_CONNECTIONS)
            return False
        self._open[peer] += 1
        self._connections.inc()
        return True

    def closed(self, peer: str) -> None:
        """A counted connection ended."""
        self._connections.dec()
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]

    def _connect(self) -> _Connection:
        assert self._web is not None  # noqa: S101  open() made it
        return _Connection(self, self._web, loop=self.loop, **self._web._kwargs)  # noqa: SLF001  as its own __call__ does

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, _Connection)  # noqa: S101  _connect() makes no other
        protocol.spoke()
        headers = request.headers
        answer = await self._answer(
            Request(
                method=request.method,
                target=request.raw_path,
                peer=_peer_of(request.transport),
                token=headers.get(_TOKEN),
                ttl=headers.get(_TTL_IN),
                forwarded="X-Forwarded-For" in headers,
            )
        )
        return _response(answer)


def _peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The socket's peer and nothing else: no header says who is calling."""
    name = transport.get_extra_info("peername") if transport is not None else None
    return (_peer_address(name[0]) if name else None) or "unknown"


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type, "Server": "EC2ws"}
    if answer.ttl is not None:
        headers[_TTL_OUT] = str(answer.ttl)
    if answer.retry_after is not None:
        headers["Retry-After"] = str(answer.retry_after)
    return web.Response(status=answer.status, body=answer.body, headers=headers)

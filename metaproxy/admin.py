"""The operator's listener: `/livez`, `/readyz`, `/metrics`, `/explain`, `/status`.

Knows: how to show what others report, and to whom.
Must not know: what any check means. Nothing here asks anybody at probe time (kube2iam's liveness asked the metadata
service and restarted agents on one blip): checks read state that is already there.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from metaproxy import imds, statuspage
from metaproxy.imds import Answer, Request
from metaproxy.listener import UNIX, Listener
from metaproxy.objects import canonical_address
from metaproxy.statusview import view
from metaproxy.telemetry import Metrics

Check = Callable[[], str | None]
"""None when all is well, else what is wrong, in words for the operator."""

BACKLOG = 128
"""Connections that the kernel keeps for us."""

CONNECTIONS, CONNECTIONS_PER_ADDRESS = 64, 32
"""What may be open at once at the address, and as much again at the socket: who looks opens one or two."""

SHUTDOWN = 1.0
"""Seconds for open admin requests to end."""

REFRESH = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
"""Seconds between two looks of a page that refreshes itself."""

HEADERS = (
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)

_TEXT = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"

Query = Mapping[str, Sequence[str]]
Page = Callable[[Request, Query], Answer]


class Admin:
    """See the module. `explain` takes ("pod", "namespace/name") or ("ip", address) and returns None when unknown.

    `status` is the document of this node; None where there is none.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        checks: Mapping[str, Check],
        details: Callable[[], Mapping[str, Any]],
        explain: Callable[[str, str], Mapping[str, Any] | None],
        status: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._registry = metrics.registry
        self._checks = checks
        self._details = details
        self._explain = explain
        self._status = status
        # Two, so that whoever crowds at the address does not keep the probes out that come by the socket.
        self._tcp, self._unix = (
            Listener(
                self.answer,
                metrics,
                connections=CONNECTIONS,
                connections_per_address=CONNECTIONS_PER_ADDRESS,
                drain=SHUTDOWN,
                farewell=0.0,
                name="admin",
            )
            for _ in range(2)
        )
        metrics.gauge("admin_connections").set_function(lambda: self._tcp.size + self._unix.size)
        self._pages: dict[str, Page] = {
            "/livez": self._livez,
            "/healthz": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/explain": self._explained,
        }
        if status is not None:
            self._pages |= {"/": self._page, "/status": self._page, "/status.json": self._document}
        self.stopping = False

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; an empty host and port 0 when at no address."""
        return self._tcp.addresses[-1] if self._tcp.addresses else ("", 0)

    async def open(self, listening: Sequence[socket.socket]) -> None:
        """Answer on these sockets, which listen already, of whatever family; they are ours from now on.

        May be called again with more of them.
        """
        for each in listening:
            listener = self._unix if each.family == socket.AF_UNIX else self._tcp
            await listener.accept({each.getsockname(): each})

    async def retire(self) -> None:
        """Leave the address to another process; who is connected is sent away after its answer.

        A unix socket is this process's own and is answered on: its probes go on until it ends.
        """
        self._tcp.retire()

    async def close(self) -> None:
        """Stop listening."""
        for listener in (self._tcp, self._unix):
            await listener.close()

    async def answer(self, request: Request) -> Answer:
        """The answer to whoever asks."""
        path, _, query = request.target.partition("?")
        page = self._pages.get(path)
        if page is None:
            return _text(HTTPStatus.NOT_FOUND, "404: Not Found")
        if request.method not in {"GET", "HEAD"}:
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "405: Method Not Allowed", ("Allow", "GET,HEAD"))
        return page(request, parse_qs(query, keep_blank_values=True))

    @property
    def ready(self) -> bool:
        """Whether every check is content."""
        return not any(self.troubles().values())

    def troubles(self) -> dict[str, str | None]:
        """What each check says."""
        troubles = {name: check() for name, check in self._checks.items()}
        if self.stopping:
            troubles["stopping"] = "the agent is going down"
        return troubles

    def _livez(self, _request: Request, _query: Query) -> Answer:
        # That this runs is the answer: the loop is alive.
        return _text(HTTPStatus.OK, "ok\n")

    def _readyz(self, _request: Request, query: Query) -> Answer:
        troubles = self.troubles()
        ready = not any(troubles.values())
        lines = [f"[{'-' if trouble else '+'}] {name}: {trouble or 'ok'}" for name, trouble in troubles.items()]
        if "verbose" in query:
            lines += [f"    {name}: {value}" for name, value in self._details().items()]
        elif ready:
            lines = ["ok"]
        return _text(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(lines) + "\n")

    def _metrics(self, _request: Request, _query: Query) -> Answer:
        body = generate_latest(self._registry)
        return Answer(status=HTTPStatus.OK, body=body, content_type=CONTENT_TYPE_LATEST, headers=())

    def _explained(self, request: Request, query: Query) -> Answer:
        if (refusal := _elsewhere(request, "explanations are given to this machine only")) is not None:
            return refusal
        for key in ("pod", "ip"):
            if key in query:
                about = self._explain(key, query[key][0])
                if about is None:
                    return _json(HTTPStatus.NOT_FOUND, {"message": "no such pod on this node"})
                return _json(HTTPStatus.OK, about)
        return _json(HTTPStatus.BAD_REQUEST, {"message": "ask with ?pod=NAMESPACE/NAME or ?ip=ADDRESS"})

    def _document(self, request: Request, _query: Query) -> Answer:
        if (refusal := _elsewhere(request, "the status is shown to this machine only")) is not None:
            return refusal
        assert self._status is not None  # noqa: S101  else there is no such page
        return _json(HTTPStatus.OK, self._status())

    def _page(self, request: Request, query: Query) -> Answer:
        if (refusal := _elsewhere(request, "the status is shown to this machine only")) is not None:
            return refusal
        assert self._status is not None  # noqa: S101  as above
        asked = query.get("refresh", [""])[0]
        page = statuspage.render(view(self._status()), refresh=int(asked) if REFRESH.fullmatch(asked) else 0)
        headers = (*HEADERS, ("Content-Security-Policy", statuspage.POLICY))
        return Answer(status=HTTPStatus.OK, body=page.encode(), content_type=_HTML, headers=headers)


def _elsewhere(request: Request, why: str) -> Answer | None:
    """The refusal for who is not on this machine: metrics may be scraped from afar, which pod has which role may not.

    Nor for who was led here under a name of its own choice: a page in the browser of who forwards this port could
    make that name stand for loopback, and would then be the same site. No page can do that to an address.
    """
    if request.peer == UNIX:
        return None  # who may open the socket's file is on this machine
    peer = canonical_address(request.peer)
    if peer is None or not ipaddress.ip_address(peer).is_loopback:
        return _json(HTTPStatus.FORBIDDEN, {"message": why})
    # No browser leaves it out.
    if not _own_name("localhost" if request.host is None else request.host):
        return _json(HTTPStatus.FORBIDDEN, {"message": "ask by address or as localhost, not by another name"})
    return None


def _own_name(host: str) -> bool:
    name = re.sub(r":[0-9]*\Z", "", host)
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    return name.lower() == "localhost" or canonical_address(name) is not None


def _text(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status=status, body=text.encode(), content_type=_TEXT, headers=headers)


def _json(status: int, fields: Mapping[str, Any]) -> Answer:
    return Answer(status=status, body=imds.json_document(fields), content_type=imds.JSON, headers=HEADERS)

"""The operator's listener: `/livez`, `/readyz`, `/metrics`, `/explain`, `/status`.

Knows: how to show what others report, and to whom.
Must not know: what any check means. Nothing here asks anybody at probe time (kube2iam's liveness asked the metadata
service and restarted agents on one blip): checks read state that is already there.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from metaproxy import imds, statuspage
from metaproxy.objects import canonical_address
from metaproxy.statusview import view

Check = Callable[[], str | None]
"""None when all is well, else what is wrong, in words for the operator."""

BACKLOG = 128
"""Connections that the kernel keeps for us."""

SHUTDOWN = 1.0
"""Seconds for open admin requests to end."""

REFRESH = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
"""Seconds between two looks of a page that refreshes itself."""

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Admin:
    """See the module. `explain` takes ("pod", "namespace/name") or ("ip", address) and returns None when unknown.

    `status` is the document of this node; None where there is none.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        checks: Mapping[str, Check],
        details: Callable[[], Mapping[str, Any]],
        explain: Callable[[str, str], Mapping[str, Any] | None],
        status: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._registry = registry
        self._checks = checks
        self._details = details
        self._explain = explain
        self._status = status
        self._runner: web.AppRunner | None = None
        self._tcp: list[asyncio.Server] = []
        self._unix: list[asyncio.Server] = []
        self.stopping = False
        self.address: tuple[str, int] = ("", 0)

    async def open(self, listening: Sequence[socket.socket]) -> None:
        """Answer on these sockets, which listen already, of whatever family; they are ours from now on.

        May be called again with more of them.
        """
        factory = await self._factory()
        loop = asyncio.get_running_loop()
        for each in listening:
            if each.family == socket.AF_UNIX:
                self._unix.append(await loop.create_unix_server(factory, sock=each))
            else:
                self._tcp.append(await loop.create_server(factory, sock=each))
                self.address = each.getsockname()[:2]

    async def _factory(self) -> web.Server:
        if self._runner is not None and self._runner.server is not None:
            return self._runner.server
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/healthz", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/explain", self._explained)
        if self._status is not None:
            for path in ("/", "/status"):
                app.router.add_get(path, self._page)
            app.router.add_get("/status.json", self._document)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN)
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101  it was set up above
        return self._runner.server

    async def retire(self) -> None:
        """Leave the address to another process; who is connected is sent away after its answer.

        A unix socket is this process's own and is answered on: its probes go on until it ends.
        """
        for server in self._tcp:
            server.close()
        if self._runner is not None and self._runner.server is not None:
            self._runner.server.pre_shutdown()

    async def close(self) -> None:
        """Stop listening."""
        for server in (*self._tcp, *self._unix):
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()

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

    async def _livez(self, _request: web.Request) -> web.Response:
        # That this runs is the answer: the loop is alive.
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        troubles = self.troubles()
        ready = not any(troubles.values())
        lines = [f"[{'-' if trouble else '+'}] {name}: {trouble or 'ok'}" for name, trouble in troubles.items()]
        if "verbose" in request.query:
            lines += [f"    {name}: {value}" for name, value in self._details().items()]
        elif ready:
            lines = ["ok"]
        return web.Response(status=200 if ready else 503, text="\n".join(lines) + "\n")

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _explained(self, request: web.Request) -> web.Response:
        if (refusal := _elsewhere(request, "explanations are given to this machine only")) is not None:
            return refusal
        for key in ("pod", "ip"):
            if key in request.query:
                about = self._explain(key, request.query[key])
                return _json(404, {"message": "no such pod on this node"}) if about is None else _json(200, about)
        return _json(400, {"message": "ask with ?pod=NAMESPACE/NAME or ?ip=ADDRESS"})

    async def _document(self, request: web.Request) -> web.Response:
        if (refusal := _elsewhere(request, "the status is shown to this machine only")) is not None:
            return refusal
        assert self._status is not None  # noqa: S101  else there is no route
        return _json(200, self._status())

    async def _page(self, request: web.Request) -> web.Response:
        if (refusal := _elsewhere(request, "the status is shown to this machine only")) is not None:
            return refusal
        assert self._status is not None  # noqa: S101  as above
        asked = request.query.get("refresh", "")
        page = statuspage.render(view(self._status()), refresh=int(asked) if REFRESH.fullmatch(asked) else 0)
        headers = {**HEADERS, "Content-Security-Policy": statuspage.POLICY}
        return web.Response(text=page, content_type="text/html", headers=headers)


def _elsewhere(request: web.Request, why: str) -> web.Response | None:
    """The refusal for who is not on this machine: metrics may be scraped from afar, which pod has which role may not.

    Nor for who was led here under a name of its own choice: a page in the browser of who forwards this port could
    make that name stand for loopback, and would then be the same site. No page can do that to an address.
    """
    transport = request.transport
    end = transport.get_extra_info("socket") if transport is not None else None
    if end is not None and end.family == socket.AF_UNIX:
        return None  # who may open the socket's file is on this machine
    peer = canonical_address(request.remote)
    if peer is None or not ipaddress.ip_address(peer).is_loopback:
        return _json(403, {"message": why})
    # No browser leaves it out.
    if not _own_name(request.headers.get("Host", "localhost")):
        return _json(403, {"message": "ask by address or as localhost, not by another name"})
    return None


def _own_name(host: str) -> bool:
    name = re.sub(r":[0-9]*\Z", "", host)
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    return name.lower() == "localhost" or canonical_address(name) is not None


def _json(status: int, fields: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, body=imds.json_document(fields), content_type=imds.JSON, headers=HEADERS)

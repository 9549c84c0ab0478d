"""The operator's listener: `/livez`, `/readyz`, `/metrics`, `/explain`.

Knows: how to show what others report.
Must not know: what any check means. Nothing here asks anybody at probe time (kube2iam's liveness asked the metadata
service and restarted agents on one blip): checks read state that is already there.
"""

import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from metaproxy import imds, sockets
from metaproxy.objects import canonical_address

Check = Callable[[], str | None]
"""None when all is well, else what is wrong, in words for the operator."""

BACKLOG = 128
"""Connections that the kernel keeps for us."""

SHUTDOWN = 1.0
"""Seconds for open admin requests to end."""


class Admin:
    """See the module. `explain` takes ("pod", "namespace/name") or ("ip", address) and returns None when unknown."""

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        checks: Mapping[str, Check],
        details: Callable[[], Mapping[str, Any]],
        explain: Callable[[str, str], Mapping[str, Any] | None],
    ) -> None:
        self._registry = registry
        self._checks = checks
        self._details = details
        self._explain = explain
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self.listening: socket.socket | None = None
        self.stopping = False
        self.address: tuple[str, int] = ("", 0)

    async def open(self, host: str, port: int) -> None:
        """Listen; OSError when the address cannot be had."""
        await self.serve(sockets.listening(host, port, backlog=BACKLOG, free=False))

    async def serve(self, listening: socket.socket) -> None:
        """Answer on this socket, which is the admin's from now on."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/healthz", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/explain", self._explained)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN)
        await self._runner.setup()
        self._site = web.SockSite(self._runner, listening, backlog=BACKLOG)
        await self._site.start()
        self.listening, self.address = listening, self._runner.addresses[0][:2]

    async def retire(self) -> None:
        """Leave the address to another process; who is connected is sent away after its answer."""
        if self._site is not None and self._runner is not None and self._runner.server is not None:
            await self._site.stop()
            self._runner.server.pre_shutdown()

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def ready(self) -> bool:
        """Whether every check is content."""
        return not self.stopping and not self.troubles

    @property
    def troubles(self) -> Mapping[str, str]:
        """What is wrong, by the check that says so."""
        return {name: trouble for name, check in self._checks.items() if (trouble := check())}

    async def _livez(self, _request: web.Request) -> web.Response:
        # That this runs is the answer: the loop is alive.
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        troubles = {name: check() for name, check in self._checks.items()}
        if self.stopping:
            troubles["stopping"] = "the agent is going down"
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
        # Metrics may be scraped from afar; which pod has which role is for this node's operator only.
        peer = canonical_address(request.remote)
        if peer is None or not ipaddress.ip_address(peer).is_loopback:
            return _json(403, {"message": "explanations are given to this machine only"})
        for key in ("pod", "ip"):
            if key in request.query:
                about = self._explain(key, request.query[key])
                return _json(404, {"message": "no such pod on this node"}) if about is None else _json(200, about)
        return _json(400, {"message": "ask with ?pod=NAMESPACE/NAME or ?ip=ADDRESS"})


def _json(status: int, fields: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, body=imds.json_document(fields), content_type=imds.JSON)

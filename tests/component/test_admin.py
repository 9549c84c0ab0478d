"""The operator's listener, over its socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client import CollectorRegistry, Counter

from metaproxy.admin import Admin
from metaproxy.sockets import listening
from metaproxy.unixsocket import UnixSocket

KNOWN: Mapping[str, Any] = {"pod": {"namespace": "shop", "name": "web"}}


class World:
    """What the listener reports on."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.asked: list[tuple[str, str]] = []
        registry = CollectorRegistry()
        Counter("metaproxy_things", "Things.", registry=registry).inc()
        self.admin = Admin(
            registry=registry,
            checks={"pods": lambda: self.trouble, "listener": lambda: None},
            details=lambda: {"base ARN": "arn:aws:iam::123456789012:role/"},
            explain=self.explain,
            status=self.status,
        )

    def explain(self, key: str, value: str) -> Mapping[str, Any] | None:
        """The one pod that is known."""
        self.asked.append((key, value))
        return KNOWN if value in {"shop/web", "10.0.0.1"} else None

    def status(self) -> Mapping[str, Any]:
        """One pod, and a node of a hostile name."""
        return {"agent": {"node": "<i>a"}, "pods": [{"namespace": "shop", "name": "web", "condition": "served"}]}

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and body of an answer."""
        status, _, text = await self.get_all(path, **headers)
        return status, text

    async def get_all(self, path: str, **headers: str) -> tuple[int, Mapping[str, str], str]:
        """Status, headers and body of an answer."""
        host, port = self.admin.address
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{host}:{port}{path}", headers=headers) as response,
        ):
            return response.status, response.headers, await response.text()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A listener on a port of its own choice."""
    world = World()
    await world.admin.open([listening("127.0.0.1", 0, backlog=16, free=False)])
    yield world
    await world.admin.close()


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
async def test_alive_whatever_is_wrong(world: World, path: str) -> None:
    """Liveness does not depend on readiness: a blip of a dependency restarts nobody."""
    world.trouble = "no list yet"

    assert await world.get(path) == (200, "ok\n")


async def test_ready(world: World) -> None:
    """Ready when no check has anything to say."""
    assert await world.get("/readyz") == (200, "ok\n")


async def test_not_ready_says_why(world: World) -> None:
    """What is wrong stands in the answer, beside what is well."""
    world.trouble = "no list yet"

    assert await world.get("/readyz") == (503, "[-] pods: no list yet\n[+] listener: ok\n")


async def test_verbose_tells_details(world: World) -> None:
    """`?verbose` tells each check and the details."""
    status, text = await world.get("/readyz?verbose")

    assert status == 200
    assert "[+] pods: ok" in text
    assert "base ARN: arn:aws:iam::123456789012:role/" in text


async def test_stopping_is_not_ready(world: World) -> None:
    """An agent that goes down says so before it stops accepting."""
    world.admin.stopping = True

    status, text = await world.get("/readyz")

    assert status == 503
    assert "[-] stopping" in text


async def test_metrics(world: World) -> None:
    """The registry's metrics, in Prometheus' own format."""
    status, text = await world.get("/metrics")

    assert status == 200
    assert "metaproxy_things_total 1.0" in text


@pytest.mark.parametrize(
    ("query", "asked"), [("pod=shop/web", ("pod", "shop/web")), ("ip=10.0.0.1", ("ip", "10.0.0.1"))]
)
async def test_explanation(world: World, query: str, asked: tuple[str, str]) -> None:
    """A pod is explained by its name or its address."""
    status, text = await world.get(f"/explain?{query}")

    assert (status, world.asked) == (200, [asked])
    assert '"name": "web"' in text


async def test_unknown_pod(world: World) -> None:
    """A pod that is not of this node is 404."""
    assert (await world.get("/explain?pod=shop/other"))[0] == 404


async def test_nobody_named(world: World) -> None:
    """Without a name or an address there is nothing to explain."""
    assert (await world.get("/explain"))[0] == 400


# The status.


@pytest.mark.parametrize("path", ["/", "/status"])
async def test_the_page(world: World, path: str) -> None:
    """It is there without a redirect, under a policy that lets no script run and nobody frame it."""
    status, headers, text = await world.get_all(path)

    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "&lt;i&gt;a" in text
    assert "<i>" not in text
    assert "http-equiv" not in text


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("5", 5), ("9999", 9999), ("0", 0), ("-5", 0), ("5x", 0), ("99999", 0), ("\u0665", 0), ("5;url=http://x", 0)],
)
async def test_the_page_refreshes_by_a_number_alone(world: World, query: str, seconds: int) -> None:
    """What else stands there does not get into the page."""
    _, text = await world.get(f"/status?refresh={query}")

    assert ("http-equiv" in text) is bool(seconds)
    assert not seconds or f'content="{seconds}"' in text


async def test_the_document(world: World) -> None:
    """The same for a program."""
    status, headers, text = await world.get_all("/status.json")

    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(text) == world.status()


async def test_no_status_where_there_is_none() -> None:
    """The redirect's own listener has no pods to tell of."""
    admin = Admin(registry=CollectorRegistry(), checks={}, details=dict, explain=lambda _key, _value: None)
    await admin.open([listening("127.0.0.1", 0, backlog=16, free=False)])
    host, port = admin.address
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/status") as response:
        assert response.status == 404
    await admin.close()


# For whom.

PRIVATE = ["/", "/status", "/status.json", "/explain?pod=shop/web"]


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:9181", "localhost.evil.example", "127.0.0.1.evil.example"]
)
async def test_a_foreign_name_is_refused(world: World, path: str, name: str) -> None:
    """A page in the browser of who forwards this port may make its own name stand for loopback."""
    status, text = await world.get(path, Host=name)

    assert status == 403
    assert "ask by address" in text


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize("name", ["localhost", "LocalHost:9181", "127.0.0.1:1", "[::1]:9181", "[::1]", "10.0.0.1"])
async def test_an_address_and_localhost_are_no_foreign_names(world: World, path: str, name: str) -> None:
    """As a forwarded port is asked."""
    assert (await world.get(path, Host=name))[0] == 200


async def test_who_names_nobody_is_no_browser(world: World) -> None:
    """A plain client of an older HTTP is answered."""
    reader, writer = await asyncio.open_connection(*world.admin.address)
    writer.write(b"GET /explain?pod=shop/web HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.0 200 OK")


async def test_a_foreign_name_may_read_metrics(world: World) -> None:
    """Whoever scrapes and probes has its own name for the node."""
    for path in ("/metrics", "/readyz", "/livez"):
        assert (await world.get(path, Host="node-a.example:9181"))[0] == 200


@pytest.mark.parametrize("path", PRIVATE)
async def test_who_comes_from_afar_is_refused(path: str) -> None:
    """By the peer of the socket; a header that names another says nothing."""
    world = World()
    await world.admin.open([])
    app = world.admin._runner.app if world.admin._runner else None
    assert app is not None
    transport = Mock(spec=asyncio.Transport)
    transport.get_extra_info = lambda name, default=None: ("10.9.8.7", 4711) if name == "peername" else default
    request = make_mocked_request(
        "GET", path, headers={"Host": "127.0.0.1", "X-Forwarded-For": "127.0.0.1"}, app=app, transport=transport
    )
    match = await app.router.resolve(request)
    answer = await match.handler(request)
    await world.admin.close()

    assert isinstance(answer, web.Response)
    assert answer.status == 403
    assert world.asked == []


@pytest.mark.sockets
async def test_a_unix_socket_is_this_machine(tmp_path: Path) -> None:
    """All is told there, beside the address or without one, whatever name is asked for."""
    world = World()
    own = await asyncio.to_thread(UnixSocket, tmp_path / "admin", backlog=16)
    await world.admin.open([own.socket])
    connector = aiohttp.UnixConnector(str(tmp_path / "admin"))
    async with aiohttp.ClientSession(connector=connector) as session:
        for path in (*PRIVATE, "/livez", "/metrics"):
            async with session.get(f"http://any.name{path}") as response:
                assert response.status == 200
    assert world.admin.address == ("", 0)
    await world.admin.close()
    await asyncio.to_thread(own.remove)
    assert not (tmp_path / "admin").exists()

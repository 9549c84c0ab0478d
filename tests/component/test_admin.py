"""The operator's listener, over its socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from metaproxy.admin import CONNECTIONS, CONNECTIONS_PER_ADDRESS, Admin
from metaproxy.imds import Request
from metaproxy.metricnames import REDIRECT_METRICS
from metaproxy.sockets import listening
from metaproxy.telemetry import Metrics
from metaproxy.unixsocket import UnixSocket

KNOWN: Mapping[str, Any] = {"pod": {"namespace": "shop", "name": "web"}}


class World:
    """What the listener reports on."""

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.asked: list[tuple[str, str]] = []
        self.metrics = Metrics()
        self.metrics.counter("events_total", outcome="sent").inc()
        self.admin = Admin(
            metrics=self.metrics,
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
    assert 'metaproxy_events_total{outcome="sent"} 1.0' in text


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
    admin = Admin(metrics=Metrics(REDIRECT_METRICS), checks={}, details=dict, explain=lambda _key, _value: None)
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

    assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_a_foreign_name_may_read_metrics(world: World) -> None:
    """Whoever scrapes and probes has its own name for the node."""
    for path in ("/metrics", "/readyz", "/livez"):
        assert (await world.get(path, Host="node-a.example:9181"))[0] == 200


@pytest.mark.parametrize("path", PRIVATE)
async def test_who_comes_from_afar_is_refused(path: str) -> None:
    """By the peer of the socket; the name that it is asked by says nothing."""
    world = World()
    answer = await world.admin.answer(Request(method="GET", target=path, peer="10.9.8.7", host="127.0.0.1"))

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


@pytest.mark.sockets
async def test_who_retires_leaves_the_address_and_keeps_the_socket(tmp_path: Path) -> None:
    """Another process has the address; who is connected there is sent away after an answer; own probes go on."""
    world = World()
    own = await asyncio.to_thread(UnixSocket, tmp_path / "admin", backlog=16)
    await world.admin.open([listening("127.0.0.1", 0, backlog=16, free=False), own.socket])
    reader, writer = await asyncio.open_connection(*world.admin.address)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"Connection" not in await reader.readuntil(b"ok\n")
    await world.admin.retire()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*world.admin.address)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"Connection: close" in await reader.read()
    writer.close()
    connector = aiohttp.UnixConnector(str(tmp_path / "admin"))
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(2):
            async with session.get("http://localhost/livez") as response:
                assert response.status == 200
    await world.admin.close()
    await asyncio.to_thread(own.remove)


# HTTP.


async def test_head_is_get_without_the_body(world: World) -> None:
    """As probes ask."""
    host, port = world.admin.address
    async with aiohttp.ClientSession() as session:
        for path, status in (("/livez", 200), ("/readyz", 200), ("/status", 200), ("/explain", 400), ("/none", 404)):
            async with session.head(f"http://{host}:{port}{path}") as response:
                assert (response.status, await response.read()) == (status, b"")
                assert int(response.headers["Content-Length"]) > 0


@pytest.mark.parametrize("path", ["/none", "/livez/", "//livez", "/status/x", "/%6civez"])
async def test_what_is_not_there(world: World, path: str) -> None:
    """404, in plain text."""
    answer = await world.admin.answer(Request(method="GET", target=path, peer="127.0.0.1"))

    assert (answer.status, answer.body, answer.content_type) == (404, b"404: Not Found", "text/plain; charset=utf-8")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_changed(world: World, method: str) -> None:
    """405, with what may be asked; what stands in the request goes nowhere."""
    host, port = world.admin.address
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{host}:{port}/metrics", data=b"x" * 1000) as response,
    ):
        assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD")
        assert await response.text() == "405: Method Not Allowed"


async def test_answers_do_not_look_like_ec2s(world: World) -> None:
    """It is an agent that is asked here, and nobody takes it for the metadata service."""
    _, headers, _ = await world.get_all("/livez")

    assert "Server" not in headers
    assert headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.sockets
async def test_a_crowd_stops_nobody(tmp_path: Path) -> None:
    """Silent connections of one address: neither another address, nor the socket, nor itself is shut out."""
    world = World()
    own = await asyncio.to_thread(UnixSocket, tmp_path / "admin", backlog=16)
    await world.admin.open([listening("127.0.0.1", 0, backlog=256, free=False), own.socket])
    crowd = [await asyncio.open_connection(*world.admin.address, local_addr=("127.0.0.2", 0)) for _ in range(200)]
    assert await world.get("/livez") == (200, "ok\n")
    reader, writer = await asyncio.open_connection(*world.admin.address, local_addr=("127.0.0.2", 0))
    writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    connector = aiohttp.UnixConnector(str(tmp_path / "admin"))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://localhost/metrics") as told:
        text = await told.text()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert CONNECTIONS_PER_ADDRESS <= float(lines["metaproxy_admin_connections"]) <= CONNECTIONS
    refused = lines['metaproxy_admin_connections_refused_total{reason="TooManyConnections"}']
    assert float(refused) >= 200 - CONNECTIONS_PER_ADDRESS
    for _, end in (*crowd, (reader, writer)):
        end.close()
    await world.admin.close()
    await asyncio.to_thread(own.remove)

"""The operator's listener, over its socket."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from metaproxy.admin import Admin
from metaproxy.sockets import listening

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
        )

    def explain(self, key: str, value: str) -> Mapping[str, Any] | None:
        """The one pod that is known."""
        self.asked.append((key, value))
        return KNOWN if value in {"shop/web", "10.0.0.1"} else None

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of an answer."""
        host, port = self.admin.address
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as response:
            return response.status, await response.text()


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

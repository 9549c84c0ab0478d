"""Whose place it is: a file at a path and sockets at an address, both in others' hands."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from metaproxy import arrival, portgroup, standing
from metaproxy.standing import Standing
from metaproxy.telemetry import Metrics
from tests.fakes.process import own_address, until

pytestmark = pytest.mark.sockets


@asynccontextmanager
async def place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[socket.socket, Metrics, asyncio.Task[None]]]:
    """One that is ours, at an address of our own, looked at again and again; ends when it is ours no more."""
    monkeypatch.setattr(standing, "LOOK", 0.01)
    metrics = Metrics()
    one = Standing(path, metrics)
    made = await asyncio.to_thread(portgroup.first, own_address(), 8181, backlog=1, free=False)
    with made, await asyncio.to_thread(arrival.again, path) as asked:
        await one.begin()
        looks: list[None] = []

        def mine() -> dict[str, socket.socket]:
            looks.append(None)
            return {"pods": made, "handover": asked}

        watching = asyncio.create_task(one.displaced(mine))
        try:
            await until("it has looked once", lambda: len(looks) > 1, str)
            yield made, metrics, watching
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def until_seen(metrics: Metrics, number: int) -> None:
    """That many strangers are counted."""
    await until("seen", lambda: metrics.registry.get_sample_value("metaproxy_handover_strangers") == number, str)


async def test_a_stranger_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens at our address is counted and said once; when it goes, who joins next gets nothing again."""
    async with place(tmp_path / "socket", monkeypatch) as (made, metrics, watching):
        with capture_logs() as logs:
            with await asyncio.to_thread(portgroup.beside, *made.getsockname(), backlog=1, free=False):
                await until_seen(metrics, 1)
            await until_seen(metrics, 0)
        assert [(line["event"], line["sockets"]) for line in logs] == [("somebody else listens at our addresses", 1)]
        assert not watching.done()


async def test_another_users_socket_displaces_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may write to the folder could else silence a node: nobody would serve, and nobody fail."""
    path, user = tmp_path / "socket", os.geteuid()
    async with place(path, monkeypatch) as (_, _, watching):
        await asyncio.to_thread(path.unlink)
        with await asyncio.to_thread(arrival.again, path):
            monkeypatch.setattr(os, "geteuid", lambda: user + 1)
            for _ in range(20):
                await asyncio.sleep(standing.LOOK)
            assert not watching.done()
            assert not await Standing(path, Metrics()).followed()
            monkeypatch.setattr(os, "geteuid", lambda: user)
            async with asyncio.timeout(60):
                await watching


async def test_another_one_in_our_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone, or of a process that is gone, displaces nobody; one that is answered at does."""
    path = tmp_path / "socket"
    async with place(path, monkeypatch) as (_, _, watching):
        await asyncio.to_thread(path.unlink)
        with closing(socket.socket(socket.AF_UNIX)) as dead:
            dead.bind(str(path))
            for _ in range(20):
                await asyncio.sleep(standing.LOOK)
            assert not watching.done()
        with await asyncio.to_thread(arrival.again, path):
            async with asyncio.timeout(60):
                await watching

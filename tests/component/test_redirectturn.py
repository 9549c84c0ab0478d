"""Whose turn it is to change the redirect, by real sockets of this machine; and a watch that waits for it."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from metaproxy import redirectturn
from metaproxy.adminclient import ask
from metaproxy.redirectnode import Report
from metaproxy.redirectturn import Turn
from metaproxy.redirectwatch import until_signal
from tests.fakes.process import until

ENOUGH = 30.0
"""Seconds: many times what any of it takes."""


@pytest.fixture(autouse=True)
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name of the test's own: the network namespace is everybody's."""
    monkeypatch.setattr(redirectturn, "NAME", f"\0metaproxy-test-{secrets.token_hex(8)}")
    return redirectturn.NAME


@pytest.fixture
def holder() -> Iterator[Turn]:
    """Somebody whose turn it is."""
    turn = Turn()
    assert turn.take()
    yield turn
    turn.close()


def free() -> bool:
    """Whether it is nobody's turn."""
    turn = Turn()
    try:
        return turn.take()
    finally:
        turn.close()


def test_one_at_a_time(holder: Turn) -> None:
    """Who has it has it; the next one when that is done; being done twice is being done."""
    other = Turn()
    assert holder.take()
    assert not other.take()
    holder.close()
    holder.close()
    assert other.take()
    other.close()


async def test_whoever_waits_is_woken_by_the_end(holder: Turn) -> None:
    """By the kernel: nobody looks again and again."""
    other = Turn()
    with capture_logs() as logs:
        waiting = asyncio.create_task(other.wait(asyncio.Event()))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        holder.close()
        await asyncio.wait_for(waiting, ENOUGH)
    assert [line["event"] for line in logs] == ["another watch is at work: waiting for it to end"]
    assert not free()
    other.close()


async def test_of_two_that_wait_one_has_it(holder: Turn) -> None:
    """The other one waits on, for that one."""
    first, second = Turn(), Turn()
    tasks = {asyncio.create_task(each.wait(asyncio.Event())): each for each in (first, second)}
    await asyncio.sleep(0)
    holder.close()
    done, left = await asyncio.wait(tasks, timeout=ENOUGH, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(left)) == (1, 1)
    tasks[done.pop()].close()
    await asyncio.wait_for(left.pop(), ENOUGH)
    first.close()
    second.close()


async def test_told_to_stop_while_it_waits(holder: Turn) -> None:
    """It has not got it, and waits no longer."""
    stop, other = asyncio.Event(), Turn()
    waiting = asyncio.create_task(other.wait(stop))
    await asyncio.sleep(0)
    stop.set()
    await asyncio.wait_for(waiting, ENOUGH)
    holder.close()
    assert free()


async def test_who_cannot_be_waited_for_is_asked_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is had and not listened at tells nobody of its end."""
    monkeypatch.setattr(redirectturn, "AGAIN", 0.01)
    turn = Turn()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(name)
        waiting = asyncio.create_task(turn.wait(asyncio.Event()))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
    await asyncio.wait_for(waiting, ENOUGH)
    turn.close()


async def test_who_is_not_of_our_user_is_not_waited_for(holder: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any process of the node's network could have the name: it must not keep the redirect from being put in place."""
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with capture_logs() as logs:
        await asyncio.wait_for(Turn().wait(asyncio.Event()), ENOUGH)
        assert Turn().take()
    assert [(line["log_level"], line["user"]) for line in logs] == [("warning", user)] * 2


# ---- a watch


class Node:
    """A node on which nothing differs, and how often it was looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def check(self) -> Report:
        """Nothing."""
        self.looks += 1
        return Report(backend="nftables")

    apply = check


async def test_a_watch_answers_while_it_waits_and_looks_when_it_is_its_turn(holder: Turn, tmp_path: Path) -> None:
    """It is ready all along: an upgrade waits for that before it ends the former one."""
    node, path = Node(), tmp_path / "watch.sock"
    watch = asyncio.create_task(until_signal(node, "nftables", ("127.0.0.1", 0), path))

    async def told(words: str) -> None:
        async def so() -> bool:
            return path.exists() and words in (await asyncio.to_thread(ask, path, "/readyz?verbose"))[1]

        await until(words, so, lambda: f"{node.looks} looks")

    await told("turn: another watch is at work")
    assert await asyncio.to_thread(ask, path, "/readyz") == (200, "ok\n")
    assert node.looks == 0
    holder.close()
    await told("turn: ours")
    assert node.looks
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(watch, ENOUGH)
    assert not path.exists()
    assert free()

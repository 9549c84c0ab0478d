"""Whose turn it is to change the redirect, by real sockets of this machine; and a watch that waits for it."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
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
async def holder() -> AsyncIterator[Turn]:
    """Somebody whose turn it is."""
    turn = Turn()
    assert await turn.take()
    yield turn
    turn.close()


async def free() -> bool:
    """Whether it is nobody's turn, and nobody has the name."""
    turn = Turn()
    try:
        return await turn.take() and not turn.beside
    finally:
        turn.close()


async def test_one_at_a_time(holder: Turn) -> None:
    """Who has it has it; the next one when that is done; being done twice is being done."""
    other = Turn()
    assert await holder.take()
    assert not await other.take()
    holder.close()
    holder.close()
    assert await other.take()
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
    assert not await free()
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
    assert await free()


async def test_who_begins_to_listen_is_a_watch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between having the name and listening at it there is a moment: who is met in it is asked again."""
    monkeypatch.setattr(redirectturn, "AGAIN", 0.01)
    monkeypatch.setattr(redirectturn, "ASKED", 1_000_000)
    turn = Turn()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as late, capture_logs() as logs:
        late.bind(name)
        waiting = asyncio.create_task(turn.wait(asyncio.Event()))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert (done, logs) == (set(), [])
        late.listen()
        await until("it is waited for", lambda: logs, lambda: str(logs))
    await asyncio.wait_for(waiting, ENOUGH)
    assert [line["event"] for line in logs] == ["another watch is at work: waiting for it to end"]
    assert not turn.beside
    turn.close()


def deaf(name: str) -> socket.socket:
    """Somebody who has the name and does not listen."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(name)
    return made


def crowded(name: str) -> socket.socket:
    """Somebody who has the name, and in whose queue nobody else has a place."""
    made = deaf(name)
    made.listen(0)
    # What stands in the queue stays there when it is closed.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as first:
        first.connect(name)
    return made


@pytest.mark.parametrize("somebody", [deaf, crowded])
async def test_who_cannot_be_asked_is_nobody_after_a_while(
    name: str, monkeypatch: pytest.MonkeyPatch, somebody: Callable[[str], socket.socket]
) -> None:
    """Any process could have the name like that, and is not to keep the redirect from being put in place."""
    monkeypatch.setattr(redirectturn, "AGAIN", 0.001)
    turn, later = Turn(), Turn()
    with somebody(name), capture_logs() as logs:
        await asyncio.wait_for(turn.wait(asyncio.Event()), ENOUGH)
        assert turn.beside == "a process that answers nobody"
        assert await later.take()
    assert [(line["log_level"], line["who"]) for line in logs] == [("warning", turn.beside)]
    assert await free()


def descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_those_that_went_leave_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command that asks whose turn it is comes and goes: a watch that is asked often stays one."""
    monkeypatch.setattr(redirectturn, "AGAIN", 0.0)
    before, watch = descriptors(), Turn()
    await watch.wait(asyncio.Event())
    for _ in range(4 * redirectturn.WAITING):
        other = Turn()
        assert not await other.take()
        await asyncio.sleep(0)
    watch.close()
    assert await free()
    await until("nobody is kept any more", lambda: descriptors() <= before, lambda: str(descriptors()))


async def test_who_takes_all_places_keeps_nobody_from_waiting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds no place is hung up on, comes again, and has its turn when the watch ends; nothing is used up."""
    monkeypatch.setattr(redirectturn, "AGAIN", 0.001)
    crowd, places = 3 * redirectturn.WAITING, redirectturn.WAITING
    watch, other = Turn(), Turn()
    await watch.wait(asyncio.Event())
    before = descriptors()
    with contextlib.ExitStack() as ends, capture_logs() as logs:
        for _ in range(crowd):
            one = ends.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            await asyncio.to_thread(one.connect, name)
        await until(
            "none but those with a place are kept",
            lambda: descriptors() <= before + crowd + places,
            lambda: str(descriptors()),
        )
        waiting = asyncio.create_task(other.wait(asyncio.Event()))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        watch.close()
        await asyncio.wait_for(waiting, ENOUGH)
        other.close()
        await until("nobody is kept any more", lambda: descriptors() <= before + crowd, lambda: str(descriptors()))
    assert [line["event"] for line in logs] == ["another watch is at work: waiting for it to end"]
    assert not other.beside


async def test_told_to_stop_while_nobody_can_be_asked(name: str) -> None:
    """At once, and not after all questions."""
    stop, turn = asyncio.Event(), Turn()
    with deaf(name):
        waiting = asyncio.create_task(turn.wait(stop))
        await asyncio.sleep(0)
        stop.set()
        await asyncio.wait_for(waiting, ENOUGH)
        assert not turn.beside


async def test_who_is_not_of_our_user_is_not_waited_for(holder: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any process of the node's network could have the name: it must not keep the redirect from being put in place."""
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    turn = Turn()
    with capture_logs() as logs:
        await asyncio.wait_for(turn.wait(asyncio.Event()), ENOUGH)
    assert turn.beside == f"a process of user {user}"
    assert [(line["log_level"], line["who"]) for line in logs] == [("warning", turn.beside)]


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
    assert await free()

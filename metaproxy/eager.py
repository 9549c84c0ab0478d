"""Runs a coroutine at once, and makes a task of it only when it has to wait.

Knows: that a coroutine which has not waited for anything needs no task, which costs more than a cached answer does.
Must not know: what the coroutine does.

A wait needs a task from its first moment (time-outs belong to tasks), so whoever waits says so with `in_task` before.
"""

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


@coroutine
def in_task() -> Generator[None, None, None]:
    """Await this before anything that may wait: from here on the code runs in a task."""
    yield


def start(work: Coroutine[Any, Any, ResultT], loop: asyncio.AbstractEventLoop) -> ResultT | asyncio.Task[ResultT]:
    """What the coroutine returns, if it need not wait; else the task that goes on with it. Its exceptions pass.

    Raises:
        RuntimeError: it waited without `in_task`; it is closed.
    """
    try:
        waited_for = work.send(None)
    except StopIteration as done:
        value: ResultT = done.value
        return value
    if waited_for is not None:
        work.close()
        raise RuntimeError("a wait begins with in_task()")
    return loop.create_task(work)

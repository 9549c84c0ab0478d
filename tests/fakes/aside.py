"""Something that lives on an event loop of its own, in a thread beside a test that blocks.

Knows: when it is there, how it is asked from other threads, how it ends.
Must not know: what it is.
"""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.network.lab.namespaces import PATIENCE

ValueT = TypeVar("ValueT")


class Aside(ABC):
    """For as long as the context lasts; what it is stands in `_living`, a context on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.result(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @abstractmethod
    def _living(self) -> AbstractAsyncContextManager[Any]:
        """What it is, made on the loop."""

    def _on_loop(self, work: Coroutine[Any, Any, ValueT]) -> ValueT:
        """What comes of it there; called from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        try:
            async with self._living():
                self._begun.set_result(None)
                await self._over.wait()
        except BaseException as error:
            if self._begun.done():
                raise
            self._begun.set_exception(error)

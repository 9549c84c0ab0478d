"""Those who wait for news of something, woken by it or by their deadline.

Knows: who waits for which key.
Must not know: what a key stands for, what the news is.
"""

import asyncio
from collections.abc import Hashable


class Waiters:
    """See the module. Nothing is kept of who went."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, set[asyncio.Future[bool]]] = {}

    async def news(self, key: Hashable, *, deadline: float) -> bool:
        """Wait until something about the key changed; False when `deadline` (the loop's time) came first."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting.setdefault(key, set()).add(future)
        timer = loop.call_at(deadline, _settle, future, False)
        try:
            return await future
        finally:
            timer.cancel()
            if (futures := self._waiting.get(key)) is not None:
                futures.discard(future)
                if not futures:
                    del self._waiting[key]

    def tell(self, key: Hashable) -> None:
        """Something about the key changed."""
        for future in self._waiting.pop(key, ()):
            _settle(future, True)


def _settle(future: asyncio.Future[bool], told: bool) -> None:
    if not future.done():
        future.set_result(told)

"""What the cells share: the STS, the agent that serves most of them, agents with a clock to set, turns, the machine.

Knows: how agents are set up, started, lent and ended.
Must not know: cells, clients, situations.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conformance.clocks import Clock
from tests.conformance.lateness import Lateness
from tests.fakes.process import AgentProcess
from tests.fakes.sts import FakeSts

TURNS, LENT = 2 * len(os.sched_getaffinity(0)), 8
"""How many cells are awake at once: the agent must have its share of the machine, as on a node; and how many agents
there are at most whose clock can be set."""

PATIENCE, START = 45.0, 180.0
"""Seconds for each thing that is waited for in a cell: the longest is that STS, which denied, is asked again. A fault
costs each cell so much, as long as cells are played (tally.py). And for an agent to start, or to end: what it has to do
is work, of which a busy machine does little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An agent with the clock of its machine and the folder from which it knows pods."""

    agent: AgentProcess
    folder: Path
    clock: Clock

    @property
    def pods(self) -> Path:
        """Where a file for each pod lies."""
        return self.folder / "pods"


class Stage:
    """See the module; an async context manager. `turns` is taken by whoever is awake."""

    def __init__(self, folder: Path, sts: FakeSts, upstream: str) -> None:
        self.sts = sts
        self.turns = asyncio.Semaphore(TURNS)
        self.lateness = Lateness()
        self.codes: list[tuple[int, str]] = []
        self.node: Node
        self._folder, self._upstream = folder, upstream
        self._stack = AsyncExitStack()
        self._free: asyncio.Queue[Node] = asyncio.Queue()
        self._made = 0
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        async with self._stack:
            looking = asyncio.create_task(self.lateness.run(), name="lateness")
            self._stack.callback(looking.cancel)
            self.node = await self._stack.enter_async_context(self.made(self._folder / "shared"))
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def made(self, folder: Path, *flags: str) -> AsyncIterator[Node]:
        """An agent of its own folder, with these flags more, that is ready; its exit code is kept in `codes`."""
        (folder / "pods").mkdir(parents=True)
        clock = Clock(folder / "clock")
        clock.set(0.0)
        agent = AgentProcess(
            folder,
            (
                f"--source.manifests={folder / 'pods'}",
                f"--sts.endpoint-url={self.sts.url}",
                f"--tokens.key-file={folder / 'key'}",
                f"--upstream.url={self._upstream}",
                *flags,
            ),
            clock.environment,
            patience=START,
        )
        await agent.start()
        try:
            await agent.until_ready()
            yield Node(agent=agent, folder=folder, clock=clock)
        finally:
            self.codes.append((await agent.stop(), agent.log()[-2000:]))

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Node]:
        """An agent that serves nobody else meanwhile. Its clock is right at first, and must be again at the end.

        Whoever asks has no turn: a start takes one, for eight of them at once took a minute.
        """
        if self._free.empty() and self._made < LENT:
            self._made += 1
            folder = self._folder / f"lent{next(self._numbers)}"
            try:
                async with self.turns:
                    node = await self._stack.enter_async_context(self.made(folder))
            except BaseException:
                self._made -= 1  # else those who wait would wait for one that never comes
                raise
        else:
            node = await self._free.get()
        try:
            yield node
        finally:
            node.clock.set(0.0)
            self._free.put_nowait(node)

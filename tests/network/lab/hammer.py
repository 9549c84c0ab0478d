"""Requests without pause from pods, each on a new connection, until told to stop; counts who answered.

Knows how an answer of the agent differs from one of the real service; must not know why one came.
"""

import threading
from collections import Counter
from types import TracebackType
from typing import Self

from tests.network.lab.namespaces import Namespace, ask
from tests.network.lab.recorder import MARK

PATH = "/latest/meta-data/iam/security-credentials/"
PAUSE = 0.25
"""Seconds for a connection or an answer: dropped packets must not slow the loop to the kernel's own time-outs."""

ENOUGH = 20
"""Requests of each pod that make a load: by then the loop has run through what happens meanwhile."""


class Hammer:
    """A thread for each pod and address. `counts`: answers by `agent`, by the `real` service, `failed` ones."""

    def __init__(self, *aims: tuple[Namespace, str], path: str = PATH, patience: float = PAUSE) -> None:
        self.counts: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self._path, self._patience = path, patience
        self._stop, self._changed = threading.Event(), threading.Condition()
        self._done: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._loop, args=(n, *aim)) for n, aim in enumerate(aims)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, number: int = ENOUGH) -> None:
        """Wait until every pod has had this many further requests answered or refused."""
        with self._changed:
            goals = {n: self._done[n] + number for n in range(len(self._threads))}
            # Each request is bounded by the pause, so this bound is ten times too wide.
            assert self._changed.wait_for(lambda: all(self._done[n] >= g for n, g in goals.items()), 600)

    def _loop(self, number: int, pod: Namespace, address: str) -> None:
        while not self._stop.is_set():
            outcome, trouble = self._once(pod, address)
            with self._changed:
                self.counts[outcome] += 1
                if trouble:
                    self.troubles[trouble] += 1
                self._done[number] += 1
                self._changed.notify_all()

    def _once(self, pod: Namespace, address: str) -> tuple[str, str]:
        try:
            with pod.connect(address, timeout=self._patience) as end:
                said = ask(end, self._path)
        except OSError as error:
            return "failed", repr(error)
        if MARK in said:
            return "real", ""
        return ("agent", "") if said.startswith(b"HTTP/1.1 200 ") else ("failed", repr(said[:60]))

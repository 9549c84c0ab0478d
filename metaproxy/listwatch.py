"""Keeps somebody true to one resource of the API server: list, watch, and again, whatever the server does.

Knows: versions, when to resume and when to list anew, how long to wait.
Must not know: what the objects are for; credentials; sockets.

Facts of real API servers on which this stands: `timeoutSeconds` is the only promise that a watch ever ends, bookmarks
come when they like (none in short watches, the first after up to two minutes) and are no heartbeat; a version that is
too old is an ERROR event of code 410 in an answer of status 200; a watch from a version that is still to come is silent
for ever; a watch with the wrong form of Accept swallows an event and ends cleanly; DELETED carries the state of before
under the version of the deletion.
"""

import asyncio
import random as randomness
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import structlog

from metaproxy.kubeanswers import KubeError, status_error
from metaproxy.kubeclient import KubeClient
from metaproxy.objects import version_of
from metaproxy.resources import BREATH, ItemT, Resource, parsed, read_list
from metaproxy.watchends import End, Reason, end_by, pause_after
from metaproxy.watchlines import Framer, WatchEvent, WireError, event_from

log = structlog.get_logger()

LONGEST_PAUSE = 120.0
"""Seconds that a server's Retry-After can keep us away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. `watch`: how long a watch is asked to last, between these, so that a fleet does not move in step.

    `grace`: how much later than asked it may end. `head`: until a watch's answer begins. `listing`: for a list.
    `pause`: after a failure, from and growing to. `healthy`: a watch that lasted so long ends a series of failures.
    `relist`: after so long a list makes certain that nothing was missed.
    """

    watch: tuple[int, int] = (240, 300)
    grace: float = 15.0
    head: float = 10.0
    listing: float = 15.0
    pause: tuple[float, float] = (0.4, 30.0)
    healthy: float = 10.0
    relist: float = 3600.0


class HistoryError(Exception):
    """The cluster's versions went backwards: it was restored from a backup, or it is another cluster.

    What is known can then not be told from what is to come; only beginning anew helps, so nobody should catch this.
    """


class ListWatch(Generic[ItemT]):
    """One resource; `run` is its life. `synced`: a full list has been handed on.

    `last_event` and `last_word` are Unix seconds: of the last event, of the last event or list.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource[ItemT],
        *,
        timing: Timing | None = None,
        on_restart: Callable[[Reason], None] = lambda _: None,
        on_event: Callable[[float], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._client = client
        self._resource = resource
        self._timing = timing or Timing()
        self._on_restart = on_restart
        self._on_event = on_event
        self._clock = clock
        self._random = random
        self._version = ""
        self._newest = 0
        self._consistent = False
        self._listed_at = 0.0
        self._opened_at = float("inf")
        self._failures = 0
        self._expired = False
        self.synced = False
        self.trouble = ""
        self.trouble_since = clock()
        self.last_event: float | None = None
        self.last_word: float | None = None

    def status(self) -> str:
        """One line for a person."""
        now = self._clock()
        parts = ["synced" if self.synced else "no list yet"]
        if self.last_event is not None:
            parts.append(f"last event {max(0.0, now - self.last_event):.0f} s ago")
        if self.trouble:
            parts.append(f"{self.trouble} (for {max(0.0, now - self.trouble_since):.0f} s)")
        return f"{self._resource.name}: {', '.join(parts)}"

    @property
    def newest(self) -> int:
        """The newest version that was seen."""
        return self._newest

    def begin_after(self, version: int) -> None:
        """Versions up to this were seen already: history that does not go that far is another one."""
        self._newest = version

    async def run(self) -> None:
        """Eternal; see the module.

        Raises:
            HistoryError: the process must begin anew.
        """
        while True:
            end = await self._round()
            self._on_restart(end.reason)
            await asyncio.sleep(self._settle(end))

    async def _round(self) -> End:
        """List if need be, watch until that ends; how it ended."""
        listing = not self._version
        self._opened_at = float("inf")
        try:
            if listing:
                await self._list()
                listing = False
            return await self._watch()
        except WireError as error:
            return End(reason="error", trouble=str(error), relist=True)
        except KubeError as error:
            return end_by(error, listing=listing, consistent=self._consistent, expired=self._expired)

    def _settle(self, end: End) -> float:
        """Draw the consequences of an end; the seconds until the next round."""
        loop_time = asyncio.get_running_loop().time()
        if loop_time - self._opened_at >= self._timing.healthy:
            self._failures = 0
        if end.relist or loop_time - self._listed_at >= self._timing.relist:
            self._version = ""
        # Asked once; if that fails, what the API server remembers is better than nothing.
        self._consistent = end.consistent
        self._expired = end.reason == "expired"
        if not end.trouble:
            self._failures = 0
            return 0.0
        self._failures += 1
        pause = pause_after(self._failures, self._random(), self._timing.pause)
        if end.at_once:
            pause = 0.0
        if end.retry_after is not None:
            pause = max(pause, min(end.retry_after, LONGEST_PAUSE) * (1.0 + 0.1 * self._random()))
        log.info(
            "watch ended",
            resource=self._resource.name,
            reason=end.reason,
            error=end.trouble,
            pause_seconds=round(pause, 3),
        )
        self._troubled(end.trouble)
        return pause

    async def _list(self) -> None:
        items, version = await self._read_list(consistent=self._consistent)
        if 0 < version_of(version) < self._newest and not self._consistent:
            # A server that lags, or a restored history? Only etcd knows; if it does not answer, an older list is still
            # safe: whoever is told knows versions, and the watch brings the rest.
            try:
                items, version = await self._read_list(consistent=True)
            except KubeError as error:
                log.info("an older list is used", resource=self._resource.name, error=str(error))
            else:
                self._compare(version)
        elif self._consistent:
            self._compare(version)
        self._resource.replace(items, version_of(version))
        self._listed_at = asyncio.get_running_loop().time()
        self._seen(version)
        self.last_word = self._clock()
        self.synced = True

    def _compare(self, version: str) -> None:
        if 0 < version_of(version) < self._newest:
            raise HistoryError(f"{self._resource.name}: {version} is the newest version, but {self._newest} was seen")

    async def _read_list(self, *, consistent: bool) -> tuple[list[ItemT], str]:
        return await read_list(self._client, self._resource, consistent=consistent, within=self._timing.listing)

    async def _watch(self) -> End:
        shortest, longest = self._timing.watch
        lasting = round(shortest + (longest - shortest) * self._random())
        query = {
            **self._resource.selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(lasting),
        }
        started_from = self._version
        framer, count = Framer(), 0
        loop = asyncio.get_running_loop()
        async with self._client.stream(
            self._resource.path,
            query=query,
            headers={"Accept": self._resource.watch_accept},
            head=self._timing.head,
            lasting=lasting + self._timing.grace,
        ) as chunks:
            self._opened_at = loop.time()
            self._troubled("")
            async for chunk in chunks:
                for line in framer.feed(chunk):
                    self._event(event_from(line))
                    count += 1
                    if count % BREATH == 0:
                        await asyncio.sleep(0)
        if framer.pending:
            raise WireError("a watch that ended in mid-event")
        # A watch that never said which version it is at may have been from one that is still to come, or have
        # swallowed what it was to say: the next begins with a list.
        silent = self._version == started_from
        early = loop.time() - self._opened_at < lasting - 1.0
        return End(reason="end", relist=silent, trouble="the watch ended early" if early else "")

    def _event(self, event: WatchEvent) -> None:
        if event.kind == "ERROR":
            code = event.object.get("code")
            raise status_error(event.object, what="watch", status=code if isinstance(code, int) else 0)
        self._expired = False
        self.last_event = self.last_word = self._clock()
        self._on_event(self.last_event)
        if event.kind in {"ADDED", "MODIFIED", "DELETED"}:
            self._change(event)
        elif event.kind != "BOOKMARK":
            log.warning("unknown kind of event skipped", resource=self._resource.name, kind=event.kind[:32])
            return
        self._seen(event.version)

    def _change(self, event: WatchEvent) -> None:
        item = parsed(self._resource, event.object)
        if item is None:
            return
        if event.kind == "DELETED":
            self._resource.delete(item.uid, item.version)
        else:
            self._resource.put(item)

    def _seen(self, version: str) -> None:
        if version:
            self._version = version
            self._newest = max(self._newest, version_of(version))

    def _troubled(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            self.trouble_since = self._clock()
        self.trouble = trouble

"""Keeps the redirect in place: looks when the kernel tells of a change, and every 10 s; repairs what differs.

Knows: when to look, whom to tell.
Must not know: what the redirect consists of.

Ending it removes nothing: what a dead process leaves behind is a closed door (kiam removes its rule on SIGTERM and
leaves the node's role open). Changes of legacy iptables are told by nobody: they wait for the next look.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import structlog

from metaproxy import sockets
from metaproxy.admin import BACKLOG, Admin
from metaproxy.budget import TokenBucket
from metaproxy.metricnames import REDIRECT_METRICS
from metaproxy.redirectcommands import RedirectError
from metaproxy.redirectneighbours import asking
from metaproxy.redirectnode import Report
from metaproxy.redirectturn import Turn
from metaproxy.telemetry import Metrics
from metaproxy.unixsocket import UnixSocket

log = structlog.get_logger()

EVERY = 10.0
"""Seconds between two looks without a reason."""

RATE, BURST = 1.0, 20.0
"""Looks each second: a busy node changes its routes and rules all the time, and a look costs a dozen commands."""

PATIENCE = 60.0
"""Seconds after which a look that does not end is a failure: each of its commands has less."""

AGAIN = 0.5
"""Seconds between two tries for an address that somebody has: nobody tells when it is free."""

# linux/rtnetlink.h: links, IPv4 and IPv6 addresses, routes and routing rules, as a bit mask of groups.
_ROUTE_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
_NETFILTER, _NFTABLES_GROUP = 12, 1 << 6


class Redirect(Protocol):
    """What is kept in place."""

    def check(self) -> Report:
        """What differs; raises RedirectError when it cannot be told."""
        ...

    def apply(self) -> Report:
        """Repair it, and say what differs even then; raises RedirectError when it cannot be repaired."""
        ...


Call = Callable[[Callable[[], Report]], Awaitable[Report]]
"""How something that blocks is called."""


class Watch:
    """See the module. `trouble` is what is wrong, for a probe; `notes` are beyond repair."""

    def __init__(self, redirect: Redirect, metrics: Metrics, *, call: Call = asyncio.to_thread) -> None:
        self._redirect = redirect
        self._metrics = metrics
        self._call = call
        self._news = asyncio.Event()
        self._stuck = False
        self.trouble: str | None = "not looked yet"
        self.notes: tuple[str, ...] = ()

    def told(self) -> None:
        """Something changed on the node."""
        self._news.set()

    async def keep(self, stop: asyncio.Event) -> None:
        """Look again and again, until `stop`."""
        loop = asyncio.get_running_loop()
        bucket = TokenBucket(rate=RATE, burst=BURST, now=loop.time())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while True:
                news = asyncio.ensure_future(self._news.wait())
                # While a repair does not help, its own changes are no reason to try again.
                wakes = [stopped] if self._stuck else [news, stopped]
                await asyncio.wait(wakes, timeout=EVERY, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if not stopped.done() and (pause := bucket.wait(loop.time())):
                    await asyncio.wait([stopped], timeout=pause)
                if stopped.done():
                    return
                bucket.take(loop.time())
                await self.look()
        finally:
            stopped.cancel()

    async def look(self) -> None:
        """Look, and repair what differs."""
        self._news.clear()
        outcome = "in_place"
        try:
            async with asyncio.timeout(PATIENCE):
                report = await self._checked()
                if report is None:
                    # What cannot be looked at may be gone: each layer that can be is put in place, and the rest named.
                    report = await self._call(self._redirect.apply)
                elif report.differs:
                    report = await self._repair(report)
                    outcome = "repaired"
        except (RedirectError, TimeoutError) as error:
            self._say("failed", f"cannot be repaired: {error if str(error) else 'the tools do not answer'}")
            return
        if report.differs:
            self._say("failed", f"differs after a repair: {'; '.join(map(str, report.differs))}")
        else:
            self._say(outcome, None)
        if report.notes != self.notes:
            for note in report.notes:
                log.warning("to be known", note=note)
        self.notes = report.notes

    async def _checked(self) -> Report | None:
        """What differs; None when it cannot be told."""
        try:
            return await self._call(self._redirect.check)
        except RedirectError:
            return None

    async def _repair(self, before: Report) -> Report:
        report = await self._call(self._redirect.apply)
        repaired = [finding for finding in before.differs if finding not in report.differs]
        for part in sorted({finding.part for finding in repaired}):
            self._metrics.counter("redirect_repairs_total", part=part).inc()
        if repaired:
            log.warning("repaired", differed=[str(finding) for finding in repaired], backend=report.backend)
        return report

    def _say(self, outcome: str, trouble: str | None) -> None:
        """Count one look; keep what is wrong for the probe, and say it once."""
        self._metrics.counter("redirect_looks_total", outcome=outcome).inc()
        self._stuck = trouble is not None and trouble == self.trouble
        if trouble and trouble != self.trouble:
            log.error("the redirect is not in place", trouble=trouble)
        self.trouble = trouble
        self._metrics.gauge("redirect_in_place").set(not trouble)


async def until_signal(redirect: Redirect, backend: str, listen: tuple[str, int], path: Path | None) -> None:
    """Watch until SIGTERM or SIGINT, with /livez, /readyz and /metrics at `listen`, and at once at a socket's `path`.

    Raises:
        OSError: the socket cannot be had.
    """
    stop, loop, metrics = asyncio.Event(), asyncio.get_running_loop(), Metrics(REDIRECT_METRICS)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch, turn = Watch(redirect, metrics), Turn()
    waiting = True
    admin = Admin(
        metrics=metrics,
        # While another watch keeps the redirect, this one has nothing to answer for: it is what an upgrade waits for.
        checks={"redirect": lambda: None if waiting else watch.trouble},
        details=lambda: {
            "backend": backend,
            "turn": "another watch is at work" if waiting else "ours",
            "notes": "; ".join(watch.notes) or "none",
        },
        explain=lambda _key, _value: None,
    )
    own = None if path is None else await asyncio.to_thread(UnixSocket, path, backlog=BACKLOG)
    listening: asyncio.Task[None] | None = None
    with _listening() as bells, asking(metrics):
        for each in bells:
            loop.add_reader(each, _heard, each, watch)
        try:
            if own is not None:
                await admin.open([own.socket])
            await turn.wait(stop)
            waiting = False
            await watch.look()
            listening = asyncio.create_task(_listened(admin, listen), name="listen")
            log.info("watching the redirect", backend=backend)
            await watch.keep(stop)
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            for each in bells:
                loop.remove_reader(each)
            await admin.close()
            if own is not None:
                await asyncio.to_thread(own.remove)
            # The last of all: who waits for it finds everything free.
            turn.close()


async def _listened(admin: Admin, listen: tuple[str, int]) -> None:
    """Listen as soon as that can be: the rules matter more than who looks at them."""
    said = False
    while True:
        try:
            await admin.open([sockets.listening(*listen, backlog=BACKLOG, free=False)])
        except OSError as error:
            if not said:
                log.error("cannot be looked at, trying again", listen=listen, error=str(error))  # noqa: TRY400
            said = True
            await asyncio.sleep(AGAIN)
        else:
            return


def _heard(told: socket.socket, watch: Watch) -> None:
    # What changed does not matter, nor whether some of it was lost (ENOBUFS): everything is looked at again.
    with contextlib.suppress(OSError):
        while told.recv(65536):
            pass
    watch.told()


@contextlib.contextmanager
def _listening() -> Iterator[list[socket.socket]]:
    """Sockets on which the kernel tells of changes."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for protocol, groups in ((socket.NETLINK_ROUTE, _ROUTE_GROUPS), (_NETFILTER, _NFTABLES_GROUP)):
            told = stack.enter_context(
                socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
            )
            try:
                told.bind((0, groups))
            except OSError as error:
                log.warning("the kernel does not tell of some changes: they wait for the next look", error=str(error))
            else:
                sockets.append(told)
        yield sockets

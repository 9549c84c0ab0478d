"""Listens to the node's kernel about who carries the addresses of pods, and reports it.

Knows: a socket of rtnetlink, when everything has to be asked anew, how to make the kernel look for an address.
Must not know: what pods are, what a carrier means for an owner.

No privilege is needed: anybody may listen. Messages can be lost when they come faster than they are read; the kernel
says so, and everything is asked for again. Until it is there nothing is certain, and it is reported so.
"""

import asyncio
import random
import socket
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Literal, Protocol

import structlog

from metaproxy import netlink
from metaproxy.carriers import Carrier, Seen, Table
from metaproxy.netlink import End, Overrun
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

Reason = Literal["start", "overrun", "broken", "audit"]
"""Why everything is asked of the kernel."""

DATAGRAM = 1 << 17
"""Bytes: four times what the kernel puts into one datagram of a dump."""

BUFFER = 1 << 22
"""Bytes that may wait unread; the kernel gives what it allows without privilege."""

AUDIT = 60.0
"""Seconds after which everything is asked anew, should a word have been missed: IPv4 routes can go without one."""

PATIENCE = 5.0
"""Seconds for an answer of the kernel, which takes milliseconds; then it is asked again."""

PAUSE = 0.1
"""Seconds between two tries while the kernel's lists change faster than they are read."""

ASK_AGAIN = (0.5, 30.0)
"""Seconds between two datagrams to an address that the kernel does not know: from, and growing to."""

DISCARD = 9
"""The port to which nothing is said (RFC 863): that a packet has to go there makes the kernel look for the address."""


class Sink(Protocol):
    """Who wants to know."""

    def saw(self, sights: Mapping[str, Carrier | None], dead: Iterable[int]) -> None:
        """These addresses have other carriers now; these devices are gone."""
        ...

    def blind(self, blind: bool) -> None:
        """Whether the kernel cannot be heard for the moment."""
        ...


class Witness:
    """See the module. `follow` says which addresses matter; `run` is its life."""

    def __init__(self, sink: Sink, metrics: Metrics) -> None:
        self._sink = sink
        self._metrics = metrics
        self._table = Table()
        self._sequence = count(random.randrange(1, 1 << 30))  # noqa: S311  a number to know answers by, no secret
        self._requests: Iterator[bytes] = iter(())
        self._port = self._awaited = 0
        self._ended = asyncio.Event()
        self._outcome: Reason | None = None
        self._socket: socket.socket | None = None
        self._probes: dict[int, socket.socket] = {}
        self._asked: dict[str, tuple[asyncio.TimerHandle, float]] = {}
        self._trouble = "not listening yet"

    def status(self) -> str:
        """One line for a person."""
        return self._trouble or "listening to the kernel"

    def follow(self, addresses: frozenset[str]) -> None:
        """These addresses matter, and no others."""
        for address in [address for address in self._table.wanted if address not in addresses]:
            self._table.forget(address)
            self._settled(address)
        known = set(self._table.wanted)
        sights = {address: self._table.want(address) for address in addresses if address not in known}
        seen = {address: sight for address, sight in sights.items() if sight is not None}
        if seen:
            self._sink.saw(seen, ())
        for address in sights.keys() - seen.keys():
            self._look_for(address)

    async def run(self) -> None:
        """Eternal: listen, and ask for everything when that is due."""
        loop = asyncio.get_running_loop()
        reason: Reason = "start"
        with (
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as listening,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe,
        ):
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            listening.bind((0, netlink.GROUPS))
            self._port = listening.getsockname()[0]
            self._socket, self._probes = listening, {4: probe}
            try:
                self._probes[6] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError:
                log.info("the kernel has no IPv6: its addresses are not looked for")
            loop.add_reader(listening, self._readable)
            try:
                while True:
                    reason = await self._round(reason)
            finally:
                loop.remove_reader(listening)
                for timer, _ in self._asked.values():
                    timer.cancel()
                self._asked.clear()
                self._socket = None
                if 6 in self._probes:  # noqa: PLR2004  IP's
                    self._probes.pop(6).close()

    async def _round(self, reason: Reason) -> Reason:
        """Ask for everything, then only listen; why everything has to be asked anew."""
        self._metrics.counter("witness_dumps_total", reason=reason).inc()
        self._ended.clear()
        self._outcome = None
        self._table.begin()
        self._requests = iter(netlink.requests())
        self._ask()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ended.wait()
        except TimeoutError:
            self._trouble = "the kernel does not answer"
            self._sink.blind(True)
            log.warning("the kernel does not answer", seconds=PATIENCE)
            return "broken"
        if (outcome := self._why()) is not None:
            await asyncio.sleep(PAUSE if outcome == "broken" else 0)
            return outcome
        self._ended.clear()
        try:
            async with asyncio.timeout(AUDIT):
                await self._ended.wait()
        except TimeoutError:
            return "audit"
        return self._why() or "broken"

    def _why(self) -> Reason | None:
        """Why everything has to be asked anew, by what was read meanwhile."""
        return self._outcome

    def _ask(self) -> None:
        """Send the next request, or be done."""
        request = next(self._requests, None)
        if request is None:
            self._awaited = 0
            self._report(self._table.finish())
            for address in self._table.unseen:
                if address not in self._asked:
                    self._look_for(address)
            self._trouble = ""
            self._sink.blind(False)
            self._ended.set()
            return
        self._awaited = next(self._sequence)
        assert self._socket is not None  # noqa: S101  only while running
        self._socket.send(netlink.sealed(request, self._awaited))

    def _again(self, reason: Reason) -> None:
        self._awaited = 0
        self._outcome = reason
        self._ended.set()

    def _readable(self) -> None:
        """Read everything there is before anybody else may run: a request must not be faster than the kernel's word."""
        assert self._socket is not None  # noqa: S101  only while running
        while True:
            try:
                data = self._socket.recv(DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                # ENOBUFS: something was lost, and nothing says what.
                self._lost(error)
                continue
            for port, sequence, message in netlink.messages(data):
                if isinstance(message, Overrun):
                    self._lost("overrun")
                elif port == self._port:
                    self._answered(sequence, message)
                elif not isinstance(message, End):
                    self._report(self._table.heard(message))

    def _answered(self, sequence: int, message: netlink.Fact | End) -> None:
        if sequence != self._awaited:
            return  # of a dump that was given up
        if not isinstance(message, End):
            self._table.listed(message)
        elif message.broken:
            self._again("broken")
        else:
            self._ask()

    def _lost(self, error: object) -> None:
        log.warning("messages of the kernel were lost: asking for everything anew", error=str(error))
        self._trouble = "messages of the kernel were lost, asking anew"
        self._sink.blind(True)
        self._again("overrun")

    def _report(self, seen: Seen) -> None:
        if not seen.sights and not seen.dead:
            return
        self._sink.saw(seen.sights, seen.dead)
        for address, sight in seen.sights.items():
            if sight is None:
                self._look_for(address)
            else:
                self._settled(address)

    def _settled(self, address: str) -> None:
        if (asked := self._asked.pop(address, None)) is not None:
            asked[0].cancel()

    def _look_for(self, address: str, pause: float = ASK_AGAIN[0]) -> None:
        """Make the kernel learn where the address is, again and again until it knows."""
        self._settled(address)
        if self._socket is None:
            return
        if self._table.asks(address):
            probe = self._probes.get(6 if ":" in address else 4)
            if probe is not None:
                try:
                    probe.sendto(b"", (address, DISCARD))
                except OSError as error:
                    log.debug("looking for an address failed", address=address, error=str(error))
        timer = asyncio.get_running_loop().call_later(
            pause * (0.75 + 0.5 * random.random()),  # noqa: S311  spreads load, guards nothing
            self._look_for,
            address,
            min(2 * pause, ASK_AGAIN[1]),
        )
        self._asked[address] = (timer, pause)

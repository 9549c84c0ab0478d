"""Listens to the node's kernel about who carries the addresses of pods, and reports it.

Knows: what is asked of the kernel, and when everything has to be asked anew.
Must not know: what pods are, what a carrier means for an owner, how the kernel's words are read.

A bridge's forwarding table is never asked for as a whole, and what is said of hardware addresses that no pod has does
not even arrive: a pod can make up hundreds of thousands of them, and silence the agent for the whole node by that. The
two exceptions are kernels before Linux 5.0, which cannot be asked for one, and bridges that know VLANs.

No privilege is needed: anybody may listen. Messages can be lost when they come faster than they are read; the kernel
says so, and everything is asked for again. Until it is there, or while more waits than is read in a turn, nothing is
certain, and it is reported so.
"""

import asyncio
import errno
import random
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from typing import Literal, Protocol

import structlog

from metaproxy import netlink
from metaproxy.carriers import Carrier, Device, Lives, Seen, Table
from metaproxy.ear import Ear, netlink_socket
from metaproxy.lookout import Lookout
from metaproxy.netlink import End, Forwarding, Overrun
from metaproxy.netlinkwire import sealed
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

Reason = Literal["start", "overrun", "broken", "audit"]
"""Why everything is asked of the kernel."""

AUDIT = 60.0
"""Seconds after which everything is asked anew, should a word have been missed: IPv4 routes can go without one."""

PATIENCE = 5.0
"""Seconds for an answer of the kernel, which takes milliseconds; then it is asked again."""

PAUSE = 0.1
"""Seconds between two tries while the kernel's lists change faster than they are read."""

ASKED_AT_ONCE = 32
"""Ports that are asked for before the first answer is read: so many fit into any buffer."""


class Sink(Protocol):
    """Who wants to know."""

    def saw(self, sights: Mapping[str, Carrier | None], dead: Iterable[Device]) -> None:
        """These addresses have other carriers now; these devices are gone."""
        ...

    def blind(self, blind: bool) -> None:
        """Whether the kernel cannot be heard for the moment; it begins so."""
        ...


class Witness:
    """See the module. `follow` says which addresses matter; `run` is its life."""

    def __init__(
        self,
        sink: Sink,
        metrics: Metrics,
        *,
        connect: Callable[[], tuple[socket.socket, int]] = netlink_socket,
    ) -> None:
        self._sink = sink
        self._metrics = metrics
        self._connect = connect
        self._table = Table()
        self._sequence = count(random.randrange(1, 1 << 30))  # noqa: S311  a number to know answers by, no secret
        self._requests: Iterator[bytes] = iter(())
        self._name = self._awaited = 0
        self._ended = asyncio.Event()
        self._outcome: Reason | None = None
        self._ear = Ear(heard=self._read, lost=self._lost, late=self._late)
        self._lookout = Lookout(self._table.sight)
        # Bridges' ports that are to be asked for, that have been, and of which something was said since they were.
        self._sought: deque[tuple[int, bytes]] = deque()
        self._seeking: dict[int, tuple[int, bytes]] = {}
        self._said: set[tuple[int, bytes]] = set()
        self._watched: frozenset[tuple[int, bytes]] = frozenset()
        self._by_table = self._old = self._listing = False
        self._whole = False
        self._trouble = "not listening yet"
        self._deaf = ""

    def status(self) -> str:
        """One line for a person."""
        return self._trouble or "listening to the kernel"

    def deaf(self) -> str | None:
        """Why the kernel will never be heard; None if it can be."""
        return self._deaf or None

    def lives(self) -> Lives:
        """The devices that the kernel has told of, for a process that goes on with it."""
        return self._table.lives()

    def adopt(self, lives: Lives, sights: Mapping[str, Carrier | None]) -> None:
        """Begin with what another process knew: the first answers of the kernel are compared with it."""
        self._table.adopt(lives, sights)
        self._lookout.adopt(sights)

    def follow(self, addresses: Mapping[str, bool]) -> None:
        """These addresses matter, and no others; each with whether it is to be looked for, too."""
        for address in [address for address in self._table.sights if address not in addresses]:
            self._table.forget(address)
            self._lookout.forget(address)
        new = {address: self._table.want(address) for address in addresses if address not in self._table.sights}
        self._report(Seen({address: sight for address, sight in new.items() if sight is not None}, ()))
        self._tune()
        self._lookout.follow(address for address, claimed in addresses.items() if claimed)

    async def run(self) -> None:
        """Eternal: listen, and ask for everything when that is due."""
        with ExitStack() as stack:
            try:
                self._name = self._ear.open(stack, self._connect)
            except OSError as error:
                # The API server's word alone counts then, which nobody asked for: the agent is not ready.
                self._trouble = self._deaf = f"the kernel cannot be heard: {error}"
                log.error(  # noqa: TRY400  a trace would help nobody
                    "the kernel cannot be heard: who has which address is the API server's word alone",
                    error=str(error),
                    remedy="let the agent open netlink sockets, or say --caller.witness=off if you want no witness",
                )
                self._sink.blind(False)
                await asyncio.Event().wait()
            self._lookout.open(stack)
            reason: Reason = "start"
            while True:
                reason = await self._round(reason)

    async def _round(self, reason: Reason) -> Reason:
        """Ask for everything, then only listen; why everything has to be asked anew."""
        self._metrics.counter("witness_dumps_total", reason=reason).inc()
        self._ended.clear()
        self._outcome = None
        self._listing = False
        self._by_table = self._old or self._table.vlans
        self._table.watch(None if self._by_table else self._watched)
        self._sift()
        self._sought.clear()
        self._seeking.clear()
        self._table.begin()
        self._requests = iter(netlink.requests(forwarding=self._by_table))
        self._ask()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ended.wait()
        except TimeoutError:
            self._uncertain("the kernel does not answer")
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
            self._awaited, self._listing = 0, True
            self._tune(anew=True)
            return
        self._awaited = next(self._sequence)
        self._ear.send(sealed(request, self._awaited))

    def _tune(self, *, anew: bool = False) -> None:
        """Hear of the ports that matter now and of no others, and ask for those that were not heard of before."""
        if not self._ear.hears:
            return
        if self._table.vlans and not self._by_table:
            self._again("broken")
        elif not self._by_table and (anew or self._table.pairs != self._watched):
            before, self._watched = self._watched, self._table.pairs
            self._table.watch(self._watched)
            # First this: what changes after the answer was made is to be heard.
            self._sift()
            self._sought.extend(self._watched if anew else self._watched - before)
        self._seek()

    def _seek(self) -> None:
        """Ask for ports; when no answer is due any more, everything is there."""
        while self._sought and len(self._seeking) < ASKED_AT_ONCE:
            pair, number = self._sought.popleft(), next(self._sequence)
            self._seeking[number] = pair
            self._said.discard(pair)
            self._ear.send(sealed(netlink.port_request(*pair), number))
        if not self._seeking:
            self._said.clear()
        if self._listing and not self._seeking:
            self._listing = False
            self._report(self._table.finish())
            self._whole, self._trouble = True, ""
            self._sink.blind(self._ear.behind)
            self._ended.set()

    def _sift(self) -> None:
        self._ear.sift(None if self._by_table else frozenset(hardware for _, hardware in self._watched))

    def _again(self, reason: Reason) -> None:
        self._awaited, self._listing = 0, False
        self._sought.clear()
        self._seeking.clear()
        self._outcome = reason
        self._ended.set()

    def _read(self, data: bytes) -> None:
        for port, sequence, message in netlink.messages(data):
            if isinstance(message, Overrun):
                self._lost("overrun")
            elif port == self._name:
                self._answered(sequence, message)
            elif not isinstance(message, End):
                if self._seeking and isinstance(message, Forwarding):
                    self._said.add((message.bridge, message.hardware))
                self._report(self._table.heard(message))

    def _answered(self, sequence: int, message: netlink.Fact | End) -> None:
        if (pair := self._seeking.pop(sequence, None)) is not None:
            self._found(pair, message)
            return
        if sequence != self._awaited:
            return  # of a dump that was given up
        if not isinstance(message, End):
            self._table.listed(message)
        elif message.broken:
            self._again("broken")
        else:
            self._ask()

    def _found(self, pair: tuple[int, bytes], message: netlink.Fact | End) -> None:
        """A port, or that the bridge knows none; unless what was said while the answer was on its way is newer."""
        if isinstance(message, End):
            if message.error in {errno.EINVAL, errno.EOPNOTSUPP}:
                self._old = True
                self._again("broken")
                return
        elif pair not in self._said:
            self._report(self._table.heard(message))
        self._seek()

    def _late(self, late: bool) -> None:
        """Words wait, and others may run meanwhile: so nothing is certain until they are read."""
        self._sink.blind(late or not self._whole)

    def _lost(self, error: object) -> None:
        if self._whole:
            log.warning("messages of the kernel were lost: asking for everything anew", error=str(error))
        self._uncertain("messages of the kernel were lost, asking anew")
        self._again("overrun")

    def _uncertain(self, trouble: str) -> None:
        self._whole, self._trouble = False, trouble
        self._sink.blind(True)

    def _report(self, seen: Seen) -> None:
        self._lookout.saw(seen)
        if seen.sights or seen.dead:
            self._sink.saw(seen.sights, seen.dead)
        self._lookout.mind(seen.sights)
        if seen.sights and not self._listing:
            self._tune()

"""Listens to the node's kernel about who carries the addresses of pods, and reports it.

Knows: a socket of rtnetlink, when everything has to be asked anew, how to make the kernel look for an address.
Must not know: what pods are, what a carrier means for an owner.

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
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from typing import Literal, Protocol

import structlog

from metaproxy import netlink, sockets
from metaproxy.carriers import Carrier, Device, Lives, Seen, Table
from metaproxy.netlink import End, Forwarding, Overrun
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

Reason = Literal["start", "overrun", "broken", "audit"]
"""Why everything is asked of the kernel."""

DATAGRAM = 1 << 17
"""Bytes: four times what the kernel puts into one datagram of a dump."""

BUFFER = 1 << 22
"""Bytes that may wait unread; the kernel gives what it allows without privilege."""

TURN = 256
"""Datagrams that are read before others may run: a pod can make the kernel talk without end."""

AUDIT = 60.0
"""Seconds after which everything is asked anew, should a word have been missed: IPv4 routes can go without one."""

PATIENCE = 5.0
"""Seconds for an answer of the kernel, which takes milliseconds; then it is asked again."""

PAUSE = 0.1
"""Seconds between two tries while the kernel's lists change faster than they are read."""

ASK_AGAIN = (0.5, 30.0)
"""Seconds between two datagrams to an address that the kernel does not know: from, and growing to."""

CALL_HOME = 0.5
"""Seconds between two datagrams to an address that has left its port on a bridge: it may want to come back."""

DISCARD = 9
"""The port to which nothing is said (RFC 863): that a packet has to go there makes the kernel look for the address."""

IP_PKTINFO = 8
"""Linux's number of the option that names a datagram's device; Python has no name for it."""

ASKED_AT_ONCE = 32
"""Ports that are asked for before the first answer is read: so many fit into any buffer."""

_PACKET_INFO = struct.Struct("=iII")


class Sink(Protocol):
    """Who wants to know."""

    def saw(self, sights: Mapping[str, Carrier | None], dead: Iterable[Device]) -> None:
        """These addresses have other carriers now; these devices are gone."""
        ...

    def blind(self, blind: bool) -> None:
        """Whether the kernel cannot be heard for the moment; it begins so."""
        ...


def netlink_socket() -> tuple[socket.socket, int]:
    """A socket that hears the kernel, and its own name there. Raises OSError when there is none to be had."""
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        listening.bind((0, netlink.GROUPS))
        return listening, int(listening.getsockname()[0])
    except OSError:
        listening.close()
        raise


class Witness:
    """See the module. `follow` says which addresses matter; `run` is its life.

    `_claimed`: the addresses that are looked for when the kernel does not know them. `_homes`: the port that an address
    was last seen at before it was elsewhere or nowhere, while that port is there.
    """

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
        self._port = self._awaited = 0
        self._ended = asyncio.Event()
        self._outcome: Reason | None = None
        self._socket: socket.socket | None = None
        self._probes: dict[int, socket.socket] = {}
        self._claimed: frozenset[str] = frozenset()
        self._homes: dict[str, Carrier] = {}
        self._last: dict[str, Carrier] = {}
        self._asked: dict[str, asyncio.TimerHandle] = {}
        # Bridges' ports that are to be asked for, that have been, and of which something was said since they were.
        self._sought: deque[tuple[int, bytes]] = deque()
        self._seeking: dict[int, tuple[int, bytes]] = {}
        self._said: set[tuple[int, bytes]] = set()
        self._watched: frozenset[tuple[int, bytes]] = frozenset()
        self._hardware: frozenset[bytes] = frozenset()
        self._by_table = self._old = self._listing = False
        self._whole = self._behind = False
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
        self._last = {address: sight for address, sight in sights.items() if sight is not None and sight.device}

    def follow(self, addresses: Mapping[str, bool]) -> None:
        """These addresses matter, and no others; each with whether it is to be looked for, too."""
        self._claimed = frozenset(address for address, claimed in addresses.items() if claimed)
        for address in [address for address in self._table.sights if address not in addresses]:
            self._table.forget(address)
            self._settled(address)
            self._last.pop(address, None)
            self._homes.pop(address, None)
        new = {address: self._table.want(address) for address in addresses if address not in self._table.sights}
        self._report(Seen({address: sight for address, sight in new.items() if sight is not None}, ()))
        self._tune()
        for address in self._claimed:
            self._mind(address)

    async def run(self) -> None:
        """Eternal: listen, and ask for everything when that is due."""
        with ExitStack() as stack:
            try:
                self._open(stack)
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
            reason: Reason = "start"
            while True:
                reason = await self._round(reason)

    def _open(self, stack: ExitStack) -> None:
        listening, self._port = self._connect()
        stack.enter_context(listening)
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            try:
                probe = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                log.info("addresses of a family are not looked for", version=version, error=str(error))
            else:
                self._probes[version] = stack.enter_context(probe)
        self._socket = listening
        self._sift()
        stack.callback(self._close)
        self._listen()

    def _listen(self) -> None:
        """Be called when there is something to read."""
        assert self._socket is not None  # noqa: S101  only while running
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.add_reader(self._socket, self._readable)

    def _close(self) -> None:
        assert self._socket is not None  # noqa: S101  only while running
        asyncio.get_running_loop().remove_reader(self._socket)
        for address in list(self._asked):
            self._settled(address)
        self._probes.clear()
        self._socket = None

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
        assert self._socket is not None  # noqa: S101  only while running
        self._socket.send(netlink.sealed(request, self._awaited))

    def _tune(self, *, anew: bool = False) -> None:
        """Hear of the ports that matter now and of no others, and ask for those that were not heard of before."""
        if self._socket is None:
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
        assert self._socket is not None  # noqa: S101  only while running
        while self._sought and len(self._seeking) < ASKED_AT_ONCE:
            pair, number = self._sought.popleft(), next(self._sequence)
            self._seeking[number] = pair
            self._said.discard(pair)
            self._socket.send(netlink.sealed(netlink.port_request(*pair), number))
        if not self._seeking:
            self._said.clear()
        if self._listing and not self._seeking:
            self._listing = False
            self._report(self._table.finish())
            self._whole, self._trouble = True, ""
            self._sink.blind(self._behind)
            self._ended.set()

    def _sift(self) -> None:
        """Let the kernel throw away what nobody wants to hear, before it can fill the socket."""
        assert self._socket is not None  # noqa: S101  only while running
        self._hardware = frozenset(hardware for _, hardware in self._watched)
        program = b"" if self._by_table else netlink.sieve(self._hardware)
        try:
            sockets.sift(self._socket, program)
        except OSError as error:
            # Then it is read and thrown away here.
            if error.errno != errno.ENOENT:
                log.info("the kernel does not sift what it says", error=str(error))

    def _again(self, reason: Reason) -> None:
        self._awaited, self._listing = 0, False
        self._sought.clear()
        self._seeking.clear()
        self._outcome = reason
        self._ended.set()

    def _readable(self) -> None:
        """Read what there is before anybody else may run.

        What the kernel said before a handshake is heard before that connection's first request: the loop reads from a
        connection no earlier than a turn after it was accepted.
        """
        assert self._socket is not None  # noqa: S101  only while running
        for _ in range(TURN):
            try:
                data = self._socket.recv(DATAGRAM)
            except BlockingIOError:
                if self._behind:
                    self._behind = False
                    self._sink.blind(not self._whole)
                return
            except OSError as error:
                # ENOBUFS: something was lost, and nothing says what. After an error libuv looks at the socket no more.
                self._listen()
                self._lost(error)
                continue
            if self._by_table or not netlink.unwanted(data, self._hardware):
                self._read(data)
        if not self._behind:
            self._behind = True
            self._sink.blind(True)
        # Perhaps that was all, and then nobody would call.
        asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        if self._behind and self._socket is not None:
            self._readable()

    def _read(self, data: bytes) -> None:
        for port, sequence, message in netlink.messages(data):
            if isinstance(message, Overrun):
                self._lost("overrun")
            elif port == self._port:
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

    def _lost(self, error: object) -> None:
        if self._whole:
            log.warning("messages of the kernel were lost: asking for everything anew", error=str(error))
        self._uncertain("messages of the kernel were lost, asking anew")
        self._again("overrun")

    def _uncertain(self, trouble: str) -> None:
        self._whole, self._trouble = False, trouble
        self._sink.blind(True)

    def _report(self, seen: Seen) -> None:
        for address in [address for address, home in self._homes.items() if home.device in seen.dead]:
            del self._homes[address]
        for address, sight in seen.sights.items():
            self._note(address, sight, seen.dead)
        if seen.sights or seen.dead:
            self._sink.saw(seen.sights, seen.dead)
        for address in seen.sights:
            self._mind(address)
        if seen.sights and not self._listing:
            self._tune()

    def _note(self, address: str, sight: Carrier | None, dead: tuple[Device, ...]) -> None:
        """Remember the port that the address has left."""
        last = self._last.get(address)
        if last is not None and last.bridge and last != sight and last.device not in dead:
            self._homes.setdefault(address, last)
        if sight is not None and sight.device is not None:
            self._last[address] = sight
            if sight == self._homes.get(address):
                del self._homes[address]

    def _mind(self, address: str) -> None:
        """Look for the address if there is reason to, and it is not done already."""
        if not self._missed(address):
            self._settled(address)
        elif address not in self._asked and self._socket is not None:
            self._look_for(address)

    def _missed(self, address: str) -> bool:
        sight = self._table.sights.get(address)
        away = address in self._homes or (sight is not None and sight.device is None)
        return away and address in self._claimed

    def _settled(self, address: str) -> None:
        if (timer := self._asked.pop(address, None)) is not None:
            timer.cancel()

    def _look_for(self, address: str, pause: float = ASK_AGAIN[0]) -> None:
        """Make the kernel learn where the address is, again and again until it knows."""
        if not self._missed(address):
            self._settled(address)
            return
        self._send(address)
        home = self._homes.get(address)
        if home is not None:
            self._send(address, home.link)
        self._asked[address] = asyncio.get_running_loop().call_later(
            (pause if home is None else CALL_HOME) * (0.75 + 0.5 * random.random()),  # noqa: S311  spreads load
            self._look_for,
            address,
            min(2 * pause, ASK_AGAIN[1]),
        )

    def _send(self, address: str, port: int = 0) -> None:
        """A datagram to the address; through a bridge's port if one is given.

        The kernel then asks for it behind that port alone, whatever it believes of it on the bridge. The answer arrives
        on the bridge and corrects what is believed there. Of IPv6 it will not have this, for want of a route.
        """
        version = 6 if ":" in address else 4
        if (probe := self._probes.get(version)) is None or (port and version == 6):  # noqa: PLR2004  IP's
            return
        through = [(socket.IPPROTO_IP, IP_PKTINFO, _PACKET_INFO.pack(port, 0, 0))] if port else []
        try:
            probe.sendmsg([b""], through, 0, (address, DISCARD))
        except OSError as error:
            log.debug("looking for an address failed", address=address, error=str(error))

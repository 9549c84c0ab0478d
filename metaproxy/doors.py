"""The addresses at which this process listens, and whose the sockets there are.

Knows: the names under which listening sockets are handed over, how each is bound, and who is in the way.
Must not know: who answers there, or how sockets travel.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable, Mapping

import structlog

from metaproxy import listener, portgroup, sockets
from metaproxy.admin import BACKLOG
from metaproxy.settingvalues import join_address

log = structlog.get_logger()

Address = tuple[str, int]
Bind = Callable[..., socket.socket]


class AddressTakenError(OSError):
    """An address at which pods are answered is somebody else's: says whose, and what to do."""


def pods(address: Address) -> str:
    """The name of a socket at which pods are answered."""
    return f"pods at {join_address(address)}"


def admin(address: Address) -> str:
    """The name of a socket at which the operator is answered."""
    return f"admin at {join_address(address)}"


class Doors:
    """Where pods (`listen`) and the operator are answered; `shared`: so that a successor can join this process there.

    The operator's address keeps nobody from the pods': it is had, or tried again later. All of this blocks.
    """

    def __init__(self, listen: Iterable[Address], operator: Address | None, *, shared: bool) -> None:
        self._listen = tuple(listen)
        self._operator = operator
        self._bind: Bind = portgroup.first if shared else sockets.listening
        self.trouble: str | None = None

    def first(self) -> dict[str, socket.socket]:
        """Every socket by its name, when nobody else is there.

        Raises:
            AddressTakenError: somebody is. OSError: an address cannot be had.
        """
        return self._all(self._bind)

    def beside(self) -> dict[str, socket.socket]:
        """Every socket by its name, beside whoever is there; new connections come here.

        Raises:
            AddressTakenError: who is there lets nobody join. OSError: an address cannot be had.
        """
        return self._all(portgroup.beside)

    def of_pods(self, given: dict[str, socket.socket]) -> dict[Address, socket.socket]:
        """Where pods are answered: what was given, which is taken out, and what is still missing.

        What is missing may be in the way of what was given, as an address is of every address: then both are there.

        Raises:
            AddressTakenError: somebody has what is missing. OSError: it cannot be had.
        """
        ready = {each: given.pop(name) for each in self._listen if (name := pods(each)) in given}
        ports = {each.getsockname()[1] for each in given.values() if each.family != socket.AF_UNIX}
        missing = [each for each in self._listen if each not in ready]
        bind = portgroup.beside if ports & {port for _, port in missing} else self._bind
        try:
            return ready | self._of_pods(missing, bind)
        except OSError:
            for each in ready.values():
                each.close()
            raise

    def former(self, given: dict[str, socket.socket]) -> dict[Address, socket.socket]:
        """Where pods were answered at other ports of the same addresses: they are led there until the redirect moves.

        Taken out of what was given. What is left at other addresses was given up by the operator.
        """
        hosts = {host for host, _ in self._listen}
        where = {name: each.getsockname()[:2] for name, each in given.items() if each.family != socket.AF_UNIX}
        return {
            address: given.pop(name) for name, address in where.items() if address[0] in hosts and name == pods(address)
        }

    def of_operator(self, given: dict[str, socket.socket]) -> socket.socket | None:
        """Where the operator is answered: given, or made; None when that is nowhere, or not yet (`trouble`)."""
        if self._operator is None:
            return None
        return given.pop(admin(self._operator), None) or self._for_operator(self._operator, self._bind)

    def named(
        self, of_pods: Mapping[Address, socket.socket], operator: socket.socket | None
    ) -> dict[str, socket.socket]:
        """These sockets by their names."""
        made = {pods(address): each for address, each in of_pods.items()}
        if self._operator is not None and operator is not None:
            made[admin(self._operator)] = operator
        return made

    def _all(self, bind: Bind) -> dict[str, socket.socket]:
        of_pods = self._of_pods(self._listen, bind)
        try:
            operator = self._for_operator(self._operator, bind) if self._operator is not None else None
        except OSError:
            for each in of_pods.values():
                each.close()
            raise
        return self.named(of_pods, operator)

    def _of_pods(self, addresses: Iterable[Address], bind: Bind) -> dict[Address, socket.socket]:
        try:
            return listener.bound(addresses, bind=bind)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise AddressTakenError(error.errno, f"{error.strerror}, {_keepers(self._listen)}") from error

    def _for_operator(self, address: Address, bind: Bind) -> socket.socket | None:
        try:
            made = bind(*address, backlog=BACKLOG, free=False)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if self.trouble is None:
                self.trouble = f"{error.strerror}: {join_address(address)}, {_keepers([address])}"
                log.warning("the operator is not answered at --admin.listen yet", error=self.trouble)
            return None
        self.trouble = None
        return made


def _keepers(addresses: Iterable[Address]) -> str:
    """Who has them, as far as the kernel tells, and how to learn more."""
    held = portgroup.in_the_way(addresses)
    users = sorted({each.uid for each in held})
    whose = f"held by user {' and '.join(map(str, users))}" if users else "held by somebody"
    if users == [os.geteuid()]:
        whose += ", which is ours: maybe an agent with another --handover.socket"
    ports = " or ".join(
        f"sport = :{port}" for port in sorted({each.port for each in held} or {*dict(addresses).values()})
    )
    return f"{whose}; `ss -ltnp '{ports}'` on the node shows the process"

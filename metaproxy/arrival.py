"""How a process that is started finds its place: after another, as the first, or beside one that cannot be followed.

Knows: what each answer to a question at the handover's socket means, how long is waited, and who has which address.
Must not know: what is handed over, or who answers at any address.

- *An offer* is followed.
- *No time*: the other process hands over to a third. Asked again until that is through.
- *Nobody*, or a process of another user: this process is the first, if the addresses are free. If not, they are a
  stranger's: that is said, tried again for a while, and then the process ends, for no waiting makes them ours.
- *Silence*, again and again: the other process hangs. Nobody serves, so this one begins at once, beside it.
- *Anything else*, again and again: another version, or a mistake. It serves, so this one warms up first.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from metaproxy import predecessor, unixsocket
from metaproxy.doors import AddressTakenError
from metaproxy.handoverwire import BusyError, HandoverError
from metaproxy.predecessor import NobodyError, OthersError, Predecessor, SilentError
from metaproxy.unixsocket import Identity

log = structlog.get_logger()

HANDOVER = "handover"
"""The name of the socket over which the next one asks."""

FOLLOWED, FIRST, BESIDE = "followed", "first", "beside"

AGAIN = 0.5
"""Seconds until it is asked, or an address is tried, again."""

ASKED = 2
"""Questions in a row without a usable answer, before a process is not followed: a loaded node is slow at times."""

GIVE_UP = 30.0
"""Seconds for which a stranger's address is waited for: more than a process needs to end."""

BACKLOG = 128
"""Processes that the kernel keeps waiting for an answer."""


class Doors(Protocol):
    """Where this process is to listen."""

    def first(self) -> dict[str, socket.socket]:
        """Listen there alone."""
        ...

    def beside(self) -> dict[str, socket.socket]:
        """Listen there beside another one."""
        ...


@dataclass(slots=True)
class Place:
    """What was found: a predecessor that is followed, or the sockets `given` to begin with.

    Neither: `beside` a process that serves and cannot be followed. `how`: followed, first or beside.
    """

    how: str
    former: Predecessor | None = None
    given: dict[str, socket.socket] = field(default_factory=dict)

    @property
    def beside(self) -> bool:
        """Whether the place is beside a process that serves yet."""
        return self.how == BESIDE and not self.given


async def arrive(path: Path, doors: Doors, stop: asyncio.Event) -> Place:
    """Find a place; nothing is in it when `stop` came first.

    Raises:
        AddressTakenError: an address is a stranger's. OSError: one cannot be had at all.
    """
    waiting, unusable = _Waiting(), 0
    while not stop.is_set():
        there = await asyncio.to_thread(unixsocket.identity, path)
        try:
            former = await predecessor.ask(path, needed=HANDOVER)
        except HandoverError as error:
            answer = error
        else:
            log.info("following a predecessor", sockets=sorted(former.sockets))
            return Place(FOLLOWED, former=former, given=former.sockets)
        unusable = 0 if isinstance(answer, NobodyError | OthersError | BusyError) else unusable + 1
        take = _way(answer, unusable)
        if take is None and unusable >= ASKED:
            log.warning("cold start beside a process that cannot be followed", error=str(answer))
            return Place(BESIDE)
        trouble: OSError | None = None
        if take is not None:
            try:
                given = await asyncio.to_thread(take, path, doors, there)
            except OSError as error:
                trouble = error
            else:
                hangs = take is beside
                log.log(
                    logging.WARNING if hangs else logging.INFO,
                    "cold start beside a process that hangs" if hangs else "cold start: no predecessor is followed",
                    error=str(answer),
                )
                return Place(BESIDE if hangs else FIRST, given=given)
        waiting.on(answer, trouble)
        await asyncio.sleep(AGAIN)
    return Place(FIRST)


Way = Callable[[Path, Doors, Identity | None], dict[str, socket.socket]]
"""How sockets are had."""


class _Waiting:
    """What is waited for, and since when on the loop's clock it is an address that somebody else has."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said = ""

    def on(self, answer: HandoverError, trouble: OSError | None) -> None:
        """Wait on, and say so once; raises the trouble when no waiting will mend it."""
        words = str(answer)
        if trouble is None:
            self._since = None
        elif trouble.errno not in {errno.EADDRINUSE, errno.EBUSY}:
            raise trouble
        else:
            words += f"; {trouble.strerror}"
            now = asyncio.get_running_loop().time()
            self._since = now if self._since is None else self._since
            if now - self._since >= GIVE_UP:
                raise AddressTakenError(trouble.errno, words) from trouble
        if words != self._said:
            log.warning("waiting for a place", error=words)
            self._said = words


def _way(answer: HandoverError, unusable: int) -> Way | None:
    """How the sockets are to be had at once after that answer; None: not now."""
    if isinstance(answer, NobodyError | OthersError):
        return first
    if isinstance(answer, SilentError) and unusable >= ASKED:
        return beside
    return None


def first(path: Path, doors: Doors, _there: Identity | None) -> dict[str, socket.socket]:
    """The sockets to begin with where nobody else is. Blocks; raises OSError when one cannot be had."""
    with unixsocket.locked(path.parent):
        return _and_our_own(path, doors.first())


def beside(path: Path, doors: Doors, there: Identity | None) -> dict[str, socket.socket]:
    """The same beside the process whose file is `there`, which is displaced by that; None: whoever it is. Blocks.

    Raises:
        OSError: an address cannot be had; EBUSY: another process has come first, which may be followed.
    """
    with unixsocket.locked(path.parent):
        if there not in {None, unixsocket.identity(path)}:
            raise OSError(errno.EBUSY, "another process has come first", str(path))
        return _and_our_own(path, doors.beside())


def again(path: Path) -> socket.socket:
    """A socket at the path in place of one that another process may have too. Blocks; raises OSError."""
    with unixsocket.locked(path.parent):
        return unixsocket.put(path, backlog=BACKLOG)


def _and_our_own(path: Path, made: dict[str, socket.socket]) -> dict[str, socket.socket]:
    try:
        made[HANDOVER] = unixsocket.put(path, backlog=BACKLOG)
    except BaseException:
        for each in made.values():
            each.close()
        raise
    return made

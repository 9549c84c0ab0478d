"""A listening unix socket at a path, put there in one step.

Knows: how to find out whether anybody listens at a path, whose file is there, and how to put a socket in its place.
Must not know: who listens, or what is said.

All of it is done under a lock on the folder, so that of two processes that start at once one sees the other's socket.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

MODE = 0o600
"""Whoever runs as us, and nobody else: what is told there is for this machine's operator."""

LONGEST = 90
"""Bytes of a path: the kernel takes 107 (unix(7)), and ours is for a moment a longer one."""

LOCKED = 5.0
"""Seconds that another process may look at the folder: it takes milliseconds, unless that process stands still."""

LOOK = 0.01
"""Seconds between two tries to lock the folder."""

_CREDENTIALS = struct.Struct("iII")

Identity = tuple[int, int]
"""Which file is at a path: its device and inode."""


class UnixSocket:
    """A socket at a path that is ours: taken over from the dead, never from the living. `socket` listens until closed.

    Raises OSError when it cannot be had. Blocks for as long as another process looks at the same folder.
    """

    def __init__(self, path: Path, *, backlog: int) -> None:
        if len(os.fsencode(path)) > LONGEST:
            raise OSError(errno.ENAMETOOLONG, f"the path is longer than {LONGEST} bytes", str(path))
        self._path = path
        with locked(path.parent):
            _free(path)
            self.socket = put(path, backlog=backlog)
            self._file = identity(path)

    def remove(self) -> None:
        """Take the path away, if it is still ours: a successor may have put its own there. Closes nothing."""
        with contextlib.suppress(OSError), locked(self._path.parent):
            if identity(self._path) == self._file:
                self._path.unlink()


def put(path: Path, *, backlog: int) -> socket.socket:
    """A socket that listens there, for this user alone, in the place of whatever was there before.

    Only who has `locked` the folder may call this. Raises OSError when it cannot be made.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.unlink(missing_ok=True)
        made.bind(str(aside))
        try:
            aside.chmod(MODE)
            made.listen(backlog)
            aside.rename(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    except BaseException:
        made.close()
        raise
    return made


def identity(path: Path) -> Identity | None:
    """Which file is there; None when there is none, or nobody may know."""
    try:
        about = path.lstat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While no other process is in here with that folder.

    Raises:
        OSError: there is no such folder; EBUSY: another one does not end with it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        last = time.monotonic() + LOCKED
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= last:
                    raise OSError(errno.EBUSY, "another process keeps the folder locked", str(folder)) from None
            time.sleep(LOOK)  # flock(2) has no time-out; the loop calls this in a thread
        yield
    finally:
        os.close(handle)


def answered(path: Path) -> bool:
    """Whether anybody of this process's own user listens there: who is of another one does so in nobody's place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        told = asking.connect_ex(str(path))
        return user(asking) == os.geteuid() if told == 0 else told == errno.EAGAIN and _owner(path) == os.geteuid()


def user(connection: socket.socket) -> int:
    """The user of who is at the other end, or was when it began to listen (unix(7), SO_PEERCRED)."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(told)[1])


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:
        return None


def _free(path: Path) -> None:
    """Whether the path may be taken; OSError when it is somebody's."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(about.st_mode):
        raise OSError(errno.EEXIST, "there is something else than a socket", str(path))
    # Only this says that nobody listens: any other answer, a full queue for one, comes from somebody who lives.
    if _knock(path) != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, "another process listens there", str(path))


def _knock(path: Path) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        return asking.connect_ex(str(path))

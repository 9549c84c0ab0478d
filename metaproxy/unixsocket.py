"""A listening unix socket at a path that is ours: taken over from the dead, never from the living.

Knows: how to find out whether anybody listens at a path, and how to put a socket there in one step.
Must not know: who listens, or what is said.

All of it is done under a lock on the folder, so that of two processes that start at once one sees the other's socket.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

MODE = 0o600
"""Whoever runs as us, and nobody else: what is told there is for this machine's operator."""

LONGEST = 90
"""Bytes of a path: the kernel takes 107 (unix(7)), and ours is for a moment a longer one."""


class UnixSocket:
    """See the module; `socket` listens until the process ends or closes it. Raises OSError when it cannot be had.

    Blocks for as long as another process looks at the same folder.
    """

    def __init__(self, path: Path, *, backlog: int) -> None:
        if len(os.fsencode(path)) > LONGEST:
            raise OSError(errno.ENAMETOOLONG, f"the path is longer than {LONGEST} bytes", str(path))
        self._path = path
        aside = path.with_name(f".{os.getpid()}.new")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with _locked(path.parent):
                _free(path)
                aside.unlink(missing_ok=True)
                self.socket.bind(str(aside))
                try:
                    aside.chmod(MODE)
                    self.socket.listen(backlog)
                    self._file = _identity(aside)
                    aside.rename(path)
                except BaseException:
                    aside.unlink(missing_ok=True)
                    raise
        except BaseException:
            self.socket.close()
            raise

    def remove(self) -> None:
        """Take the path away, if it is still ours: a successor may have put its own there. Closes nothing."""
        with contextlib.suppress(OSError), _locked(self._path.parent):
            if _identity(self._path) == self._file:
                self._path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    about = path.lstat()
    return about.st_dev, about.st_ino


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _free(path: Path) -> None:
    """Whether the path may be taken; OSError when it is somebody's."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(about.st_mode):
        raise OSError(errno.EEXIST, "there is something else than a socket", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        outcome = asking.connect_ex(str(path))
    # Only this says that nobody listens: any other answer, a full queue for one, comes from somebody who lives.
    if outcome != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, "another process listens there", str(path))

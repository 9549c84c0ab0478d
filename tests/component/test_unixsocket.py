"""A unix socket's path: had from nobody and from the dead, never from the living, and given back only while ours."""

import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metaproxy.unixsocket import LONGEST, UnixSocket


@pytest.fixture
def made() -> Iterator[Callable[[Path], UnixSocket]]:
    """Makes sockets that are closed afterwards."""
    all_made: list[UnixSocket] = []

    def make(path: Path) -> UnixSocket:
        all_made.append(UnixSocket(path, backlog=64))
        return all_made[-1]

    yield make
    for each in all_made:
        each.socket.close()


def answers(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0


def names(folder: Path) -> list[str]:
    """What lies there."""
    return [each.name for each in folder.iterdir()]


def leave(path: Path) -> None:
    """Leave a socket there of a process that is gone."""
    script = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r}); s.listen()"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert stat.S_ISSOCK(path.lstat().st_mode)


def test_a_new_socket(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """It listens, for us alone, and nothing else is left in the folder."""
    path = tmp_path / "admin"
    made(path)
    assert answers(path)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert names(tmp_path) == ["admin"]


def test_the_dead_leave_their_path(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """A process that was killed removed nothing."""
    path = tmp_path / "admin"
    leave(path)
    made(path)
    assert answers(path)


def test_what_one_was_killed_in_the_middle_of(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """What lies aside is of one that is gone: whoever is there locks the folder."""
    leave(tmp_path / ".admin.new")
    made(tmp_path / "admin")
    assert names(tmp_path) == ["admin"]


def test_the_living_keep_theirs(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """Also when their queue is full, so that nobody can be reached at the moment."""
    path = tmp_path / "admin"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen(0)
        with pytest.raises(OSError, match="another process listens there"):
            made(path)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
        assert 0 not in [each.connect_ex(str(path)) for each in waiting][-1:]
        with pytest.raises(OSError, match="another process listens there"):
            made(path)
        for each in waiting:
            each.close()
    assert names(tmp_path) == ["admin"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, made: Callable[[Path], UnixSocket], kind: str) -> None:
    """A path that names something else is a mistake of the settings, not something to remove."""
    path = tmp_path / "admin"
    if kind == "file":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/nowhere")
    with pytest.raises(FileExistsError, match="something else than a socket"):
        made(path)
    assert path.lstat()
    assert names(tmp_path) == ["admin"]


def test_no_folder(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """It is not made: where it should be is the operator's word."""
    with pytest.raises(FileNotFoundError):
        made(tmp_path / "none" / "admin")


def test_a_path_that_is_too_long(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """Is told as that, not as the kernel's "invalid argument"."""
    with pytest.raises(OSError, match=f"longer than {LONGEST} bytes"):
        made(tmp_path / ("a" * 100))


def test_ours_is_removed(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """And that twice does no harm."""
    own = made(tmp_path / "admin")
    own.remove()
    own.remove()
    assert names(tmp_path) == []


def test_a_successors_is_not_removed(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """Who stops listening may be replaced before it has cleaned up."""
    path = tmp_path / "admin"
    own = made(path)
    own.socket.close()
    made(path)
    own.remove()
    assert answers(path)


def test_of_two_that_start_at_once_one_has_it(tmp_path: Path, made: Callable[[Path], UnixSocket]) -> None:
    """Both find the same dead socket; whoever is second finds a living one."""
    path = tmp_path / "admin"
    leave(path)
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def begin() -> None:
        start.wait()
        try:
            made(path)
        except OSError as error:
            outcomes.append(error.strerror or "")
        else:
            outcomes.append("has it")

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [*["another process listens there"] * 7, "has it"]
    assert answers(path)

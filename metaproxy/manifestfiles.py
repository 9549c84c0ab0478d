"""Looks once at the files and folders that declare pods: what they say, and where their next change will show.

Knows: how files are reached (through symlinks, as ConfigMap mounts are) and what of a file can be wrong.
Must not know: when to look, or what the objects are for. Everything here blocks: it is for a thread.

A file that cannot be read keeps the last good state *of that file*.
"""
# ruff: noqa: TID251  looking at files is its business

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from metaproxy.yamlobjects import Contents, ManifestError, parse

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
"""What is read of a folder; hidden files are not, so that `..data` and editors' swap files are nobody's pods."""

SIZE_LIMIT = 8 << 20
"""Bytes of one file: thousands of pods as `kubectl get -o yaml` writes them."""

HOPS = 40
"""How many symlinks are followed on the way to a file: as many as the kernel follows."""

RACY_NS = 50_000_000
"""A file changed less than this before it was read may change again within the same tick of the file system's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as last looked at: `contents` is its last good state, `problem` why that may be out of date."""

    stamp: tuple[int, int, int] | None = None
    digest: bytes = b""
    contents: Contents | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One of the given paths: its files, and why it could not be looked at."""

    files: Mapping[str, File] = field(default_factory=dict)
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether it and everything in it has been read once."""
        return not self.problem and all(file.contents is not None for file in self.files.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where changes show: folders to watch, as path and inode; names and folders whose changes concern us."""

    watched: frozenset[tuple[str, int, int]] = frozenset()
    names: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()

    def concerns(self, _change: object, path: str) -> bool:
        """Whether a change at that path may change what is declared."""
        return path in self.names or os.path.dirname(path) in self.folders  # noqa: PTH120  called for each change


def look(paths: Sequence[str], known: Mapping[str, Root], *, reread: bool) -> tuple[dict[str, Root], Ground]:
    """Look at everything once: file system calls and parsing, for a thread."""
    roots: dict[str, Root] = {}
    steps: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        absolute = os.path.abspath(path)  # noqa: PTH100  keeps a symlink's own name, as Path.absolute does, and no dots
        before = known.get(path, Root())
        steps |= _steps(absolute)
        try:
            names = [absolute]
            if is_folder := stat.S_ISDIR(os.stat(absolute).st_mode):  # noqa: PTH116
                folders.add(absolute)
                names = [os.path.join(absolute, name) for name in sorted(os.listdir(absolute))]  # noqa: PTH118, PTH208
                names = [name for name in names if _is_manifest(name)]
        except OSError as error:
            roots[path] = replace(before, problem=f"{path}: {error.strerror}")
            continue
        if is_folder:
            steps |= {step for name in names for step in _steps(name)}
        files = {name: _read(name, before.files.get(name, File()), reread=reread) for name in names}
        roots[path] = Root(files=files)
    return roots, _ground(steps, folders)


def _is_manifest(name: str) -> bool:
    base = os.path.basename(name)  # noqa: PTH119
    return os.path.splitext(base)[1] in SUFFIXES and not base.startswith(".")  # noqa: PTH122


def _read(name: str, before: File, *, reread: bool) -> File:
    """The file now. Whatever is wrong with it, the last good state stays."""
    try:
        status = os.stat(name)  # noqa: PTH116
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp == before.stamp and not reread:
            return before
        data = _bytes(name, status)
    except OSError as error:
        return replace(before, stamp=None, digest=b"", problem=error.strerror or str(error))
    except ManifestError as error:
        return replace(before, stamp=None, digest=b"", problem=str(error))
    digest = hashlib.sha256(data).digest()
    settled = stamp if time.time_ns() - status.st_mtime_ns > RACY_NS else None
    if digest == before.digest:
        return replace(before, stamp=settled)
    try:
        return File(stamp=settled, digest=digest, contents=parse(data))
    except ManifestError as error:
        return replace(before, stamp=settled, digest=digest, problem=str(error))


def _bytes(name: str, status: os.stat_result) -> bytes:
    if not stat.S_ISREG(status.st_mode):
        raise ManifestError("is no regular file")
    if status.st_size > SIZE_LIMIT:
        raise ManifestError(f"is larger than {SIZE_LIMIT} bytes")
    with open(name, "rb") as file:  # noqa: PTH123
        data = file.read(SIZE_LIMIT)
    if not data:
        # Who writes in place empties the file first; a file that is to hold nothing says so in a comment.
        raise ManifestError("is empty")
    return data


def _steps(path: str) -> set[str]:
    """Every name on the way to the file, through symlinks, that may come, go, or point elsewhere."""
    steps = {path}
    with suppress(OSError):
        for _ in range(HOPS):
            here = Path(path)
            link = next((part for part in (here, *here.parents) if part.is_symlink()), None)
            if link is None:
                break
            path = os.path.normpath(link.parent / link.readlink() / here.relative_to(link))
            steps |= {str(link), path}
    return steps


def _ground(steps: Iterable[str], folders: Iterable[str]) -> Ground:
    watched: set[tuple[str, int, int]] = set()
    names: set[str] = set()
    for place in {*map(os.path.dirname, steps), *folders}:
        below = place
        # What is missing is waited for where it, or the folder above it, will appear.
        while not os.path.isdir(place) and place != os.path.dirname(place):  # noqa: PTH112, PTH120
            below, place = place, os.path.dirname(place)  # noqa: PLW2901, PTH120
        with suppress(OSError):
            status = os.stat(place)  # noqa: PTH116
            watched.add((place, status.st_dev, status.st_ino))
            names |= {place, below}
    return Ground(watched=frozenset(watched), names=frozenset({*names, *steps}), folders=frozenset(folders))

"""Builds the control plane of the tests (API server, etcd, scheduler, controllers), once for each version of it.

    python -m tests.cluster.build           builds the binary if it is not there yet, and prints its path
    python -m tests.cluster.build --check   exit 0 when the cluster tests can run here, else 1 and the reason

Knows: the Go module in `apiserver/`, the Go tool, the user's cache folder.
Must not know: what the binary does.

Cold it takes nine minutes of one core and 3 GB of disk for Go's own caches; what remains is a binary of about 100 MiB.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent / "apiserver"

_BUILD_SECONDS = 3_600.0
_LIST_SECONDS = 900.0
_ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "-mod=readonly",  # a user's own flags could make it another binary
    "GOTOOLCHAIN": "local",  # the Go of this machine or a clear refusal, never another one from the network
    "GOWORK": "off",
}


class CannotBuildError(Exception):
    """The binary is not there and cannot be built here; the message says what is missing."""


def ensure() -> Path:
    """The binary's path; builds it when it is not cached. Raises CannotBuildError."""
    binary = _cached(_go_version())
    if binary.exists():
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    with _locked(binary.with_suffix(".lock")):
        if not binary.exists():  # whoever held the lock may have built it
            print("building the API server of the cluster tests: once, and it takes minutes", file=sys.stderr)
            _build(binary)
    return binary


def check() -> None:
    """Raise CannotBuildError when the binary is neither cached nor buildable. Fetches modules, compiles nothing."""
    if not _cached(_go_version()).exists():
        _go("list", "-deps", "-f", "{{if .Error}}{{.Error}}{{end}}", ".", seconds=_LIST_SECONDS)


def _cached(go_version: str) -> Path:
    """Where the binary of exactly these sources and this Go belongs."""
    digest = hashlib.sha256()
    for part in (
        *(path.read_bytes() for path in sorted(SOURCES.iterdir())),
        go_version.encode(),
        " ".join(_build_flags()).encode(),
    ):
        digest.update(len(part).to_bytes(8) + part)
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification of base directories: a relative path is to be ignored.
    cache = Path(home) if home.startswith("/") else Path.home() / ".cache"
    return cache / "metaproxy" / "cluster" / f"cluster-{digest.hexdigest()[:16]}"


def _build_flags() -> list[str]:
    """Small and reproducible, and named as what it is: unset, `/version` would say v0.0.0-master."""
    version = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    if version is None:
        raise CannotBuildError(f"{SOURCES / 'go.mod'} does not require k8s.io/kubernetes")
    link = f"-s -w -X k8s.io/component-base/version.gitVersion={version[1]}"
    return ["-trimpath", "-buildvcs=false", "-ldflags", link]


def _build(binary: Path) -> None:
    with tempfile.TemporaryDirectory(dir=binary.parent, prefix="building-") as folder:
        made = Path(folder) / "cluster"
        _go("build", *_build_flags(), "-o", str(made), ".", seconds=_BUILD_SECONDS)
        made.replace(binary)


def _go_version() -> str:
    """What `go version` says, platform included. Raises CannotBuildError without a Go that is new enough."""
    said = _go("version", seconds=60.0).strip()
    have = re.search(r"\bgo(\d+)\.(\d+)", said)
    want = re.search(r"^go (\d+)\.(\d+)", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    if have is None or want is None:
        raise CannotBuildError(f"cannot read the version of Go in {said!r} or in {SOURCES / 'go.mod'}")
    if (int(have[1]), int(have[2])) < (int(want[1]), int(want[2])):
        raise CannotBuildError(f"Go {want[1]}.{want[2]} or newer is needed to build the API server; this is {said!r}")
    return said


def _go(*arguments: str, seconds: float) -> str:
    """Run the Go tool on the module; its output. Raises CannotBuildError."""
    go = shutil.which("go")
    if go is None:
        raise CannotBuildError(
            "Go is missing: there is no `go` on the PATH, and the cluster tests build their API server with it"
        )
    command = [go, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=SOURCES,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotBuildError(f"`go {arguments[0]}` took longer than {seconds:.0f} s") from None
    if done.returncode:
        raise CannotBuildError(f"`go {arguments[0]}` failed in {SOURCES}:\n{done.stderr[-4_000:]}")
    return done.stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; waits for whoever holds it. The kernel lets go of it with the process."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run is building the API server; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.build", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the cluster tests can run here")
    options = parser.parse_args()
    try:
        if options.check:
            check()
        else:
            print(ensure())
    except CannotBuildError as error:
        print(f"cluster tests cannot run: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

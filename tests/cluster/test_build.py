"""Building the API server once, and saying what is missing. A make-believe `go` stands in for minutes of compiling."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import build

FakeGo = Callable[[str], None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def go(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    """Put a `go` on the PATH that says this version, and builds by writing a line; each build is noted in `builds`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")

    def install(version: str) -> None:
        script = tools / "go"
        script.write_text(
            f"""#!/bin/sh
case "$1" in
version) echo "go version {version} linux/amd64" ;;
list) test ! -e {tmp_path}/offline || {{ echo "cannot find module" >&2; exit 1; }} ;;
build)
    echo build >> {tmp_path}/builds
    test ! -e {tmp_path}/offline || {{ echo "cannot find module" >&2; exit 1; }}
    while [ "$1" != -o ]; do shift; done
    echo binary > "$2" ;;
esac
"""
        )
        script.chmod(0o755)

    install("go1.99.0")
    return install


def builds(tmp_path: Path) -> int:
    """How often the make-believe Go has built."""
    noted = tmp_path / "builds"
    return len(noted.read_text().splitlines()) if noted.exists() else 0


def test_built_once(go: FakeGo, tmp_path: Path, cache: Path) -> None:
    """The binary is built on the first call into the user's cache folder, and found there by the second."""
    binary = build.ensure()

    assert build.ensure() == binary
    assert builds(tmp_path) == 1
    assert cache in binary.parents
    assert binary.read_text() == "binary\n"


def test_another_go_is_another_binary(go: FakeGo, tmp_path: Path) -> None:
    """Another version of Go builds anew, and the first one's binary stays."""
    first = build.ensure()
    go("go1.99.1")

    assert build.ensure() != first
    assert first.exists()
    assert builds(tmp_path) == 2


def test_two_runs_build_once(go: FakeGo, tmp_path: Path) -> None:
    """Of two processes that need the binary at the same time one builds, and both have it."""
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, second = pool.submit(build.ensure), pool.submit(build.ensure)

    assert first.result() == second.result()
    assert builds(tmp_path) == 1


def test_no_go(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Go both calls say that Go is what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))

    for call in (build.ensure, build.check):
        with pytest.raises(build.CannotBuildError, match="Go is missing"):
            call()


def test_old_go(go: FakeGo) -> None:
    """A Go older than the module asks for is named, and so is what it would take."""
    go("go1.20.1")

    with pytest.raises(build.CannotBuildError, match=r"Go 1\.24 or newer is needed.*go1\.20\.1"):
        build.check()


def test_modules_out_of_reach(go: FakeGo, tmp_path: Path, cache: Path) -> None:
    """Without the modules both calls pass on what Go says; nothing half-built is left, and later it works."""
    offline = tmp_path / "offline"
    offline.touch()
    for call in (build.ensure, build.check):
        with pytest.raises(build.CannotBuildError, match="cannot find module"):
            call()
    assert [path.suffix for path in (cache / "metaproxy" / "cluster").iterdir()] == [".lock"]

    offline.unlink()
    build.check()
    assert builds(tmp_path) == 1  # the one that failed
    assert build.ensure().exists()


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_command(
    go: FakeGo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """The command exits 0 when the suite can run, else 1 with the reason."""
    monkeypatch.setattr("sys.argv", ["build", *arguments])
    assert build.main() == 0
    capsys.readouterr()

    go("go1.20.1")

    assert build.main() == 1
    assert "cluster tests cannot run: Go 1.24 or newer is needed" in capsys.readouterr().err


def test_a_relative_cache_folder_is_ignored(go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative XDG_CACHE_HOME means ~/.cache, as its specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert tmp_path / ".cache" in build.ensure().parents

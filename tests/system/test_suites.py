"""The heavy suites: what runs, what is said of what cannot, and the exit code."""

import os
import sys
from pathlib import Path

import pytest

from scripts import test_all
from scripts.test_all import SUITES, Suite, main

TESTS = Path(__file__).parent.parent


def suite(name: str, code: int = 0, obstacle: str = "") -> Suite:
    """A suite that ends with a code, or cannot run."""
    return Suite(
        name=name,
        needs="nothing",
        command=(sys.executable, "-c", f"print('ran {name}'); raise SystemExit({code})"),
        obstacle=lambda: obstacle,
    )


@pytest.mark.parametrize(
    ("suites", "environment", "code", "summary"),
    [
        ([suite("a"), suite("b")], {}, 0, ["a: passed", "b: passed"]),
        ([suite("a", 1), suite("b")], {}, 1, ["a: FAILED with 1", "b: passed"]),
        ([suite("a", 5)], {}, 1, ["a: FAILED: it has no tests"]),
        ([suite("a", obstacle="no Go"), suite("b")], {}, 0, ["NOT RUN: a: no Go", "b: passed"]),
        ([suite("a", obstacle="no Go"), suite("b")], {"CI": "true"}, 1, ["NOT RUN: a: no Go", "b: passed"]),
    ],
)
def test_outcomes(
    suites: list[Suite],
    environment: dict[str, str],
    code: int,
    summary: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Every suite that can run does; the summary names each; what could not run is an error where CI=true."""
    assert main(suites, environment) == code
    lines = capfd.readouterr().out.splitlines()
    assert lines[lines.index("==== summary") + 1 :] == summary
    for one in suites:
        why = one.obstacle()
        assert f"==== suite {one.name}: {f'CANNOT RUN HERE: {why}' if why else 'can run here'} (needs nothing)" in lines
        assert (f"ran {one.name}" in lines) is not bool(why)


def test_two_run_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each waits here until the other is there; what they print does not mix."""
    script = (
        "import pathlib, sys; me, other = map(pathlib.Path, sys.argv[1:]); me.touch()\n"
        "while not other.exists(): pass\n"
        "print('one'); print('two', flush=True)"
    )
    places = [str(tmp_path / each) for each in "ab"]
    suites = [
        Suite(name=name, needs="", command=(sys.executable, "-c", script, *order), obstacle=lambda: "")
        for name, order in (("a", places), ("b", places[::-1]))
    ]
    assert main(suites, {}) == 0
    assert capfd.readouterr().out.count("one\ntwo\n") == 2


def test_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Who is to run alone waits until all others have ended, wherever it is listed."""
    done = tmp_path / "done"
    looking = ("import pathlib, sys", "raise SystemExit(not pathlib.Path(sys.argv[1]).exists())")
    suites = [
        Suite(
            name="alone",
            needs="",
            command=(sys.executable, "-c", "; ".join(looking), str(done)),
            obstacle=lambda: "",
            alone=True,
        ),
        Suite(
            name="other",
            needs="",
            command=(sys.executable, "-c", "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()", str(done)),
            obstacle=lambda: "",
        ),
    ]
    assert main(suites, {}) == 0
    assert capfd.readouterr().out.endswith("alone: passed\nother: passed\n")


def test_missing_go_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Go the obstacle says so in words; it comes from the suite's own check."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    assert "Go is missing" in test_all.no_api_server()


def test_missing_go_keeps_the_chart_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helm and the API server are both built with it."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    assert "Go is missing" in test_all.no_chart()


def test_check_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that does not end is an obstacle, not a wait without end."""
    monkeypatch.setattr(test_all, "CHECK_SECONDS", 0.001)
    assert "did not end" in test_all.no_api_server()


def test_every_heavy_folder_is_a_suite() -> None:
    """What the fast tests leave out is run by a suite of its name; the fast ones are a suite themselves."""
    folders = {path.parent.name for path in TESTS.glob("*/test_*.py")} - {"unit", "component", "contract", "system"}
    assert {"browser", "cluster", "network"} <= folders
    run = {one.command[-1].removeprefix("tests/").removeprefix("test-") for one in SUITES if one.name in folders}
    assert run == folders
    assert next(one for one in SUITES if one.name == "fast").command[-1] == "test"


def test_the_matrix_runs_after_its_clients_are_installed() -> None:
    """It tells seconds: nothing runs beside it, not even what installs them."""
    by_name = {one.name: one for one in SUITES}
    assert by_name["matrix"].alone
    assert not by_name["clients"].alone
    assert by_name["clients"].command == ("nice", *by_name["matrix"].command, "--install")


def test_network_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else than root is told so, and nothing is installed."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in test_all.no_network()
    assert "needs root" in test_all.no_images()


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be installed, each missing tool is named."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nowhere")
    assert test_all.no_network() == "not installed: conntrack, curl, ip, iptables, nft, unshare"
    assert (
        test_all.no_images()
        == "not installed: buildah, crun, dockerd, ip, mmdebstrap, nft, podman, qemu-aarch64-static, unshare"
    )


def test_missing_tools_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On Debian, apt-get is asked for the packages of what is missing and of nothing else."""

    def script(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    for tool in ("curl", "ip", "iptables", "unshare"):
        script(tool, "exit 0")
    script(
        "apt-get",
        f'echo "$@" >>{tmp_path}/asked\n'
        f"[ $1 = update ] || for t in conntrack nft; do echo >{tmp_path}/$t; /bin/chmod 755 {tmp_path}/$t; done",
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert test_all.no_network() == ""
    assert (tmp_path / "asked").read_text().splitlines() == [
        "update -q",
        "install -q -y --no-install-recommends conntrack nftables",
    ]

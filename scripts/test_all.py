"""Runs every suite, two at a time, and says loudly which of them could not run.

    python -m scripts.test_all

Knows: which suites these are, what each needs, how to find out whether it is there.
Must not know: what the suites test.

Exit code 1 when a suite failed, or, where CI=true, could not run: what is proved nowhere is not proved.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.browser.chromium import binary

CHECK_SECONDS = 1_200.0
"""Seconds that finding out may take: the Go tool may have to fetch modules."""

LANES = 2
"""Suites that run at once: most of each is waiting for processes and networks of its own."""

NOTHING_COLLECTED = 5
"""pytest's exit code when there was no test: a suite that has lost its tests has not passed."""

_TOLD = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite: what it needs, its command, and what stands in its way here (empty: nothing).

    `alone`: nothing runs beside it, for its clients are in a hurry; it comes after all others.
    """

    name: str
    needs: str
    command: tuple[str, ...]
    obstacle: Callable[[], str]
    alone: bool = False


def no_api_server() -> str:
    """Why the real API server of the tests is neither there nor can be built; empty when it can."""
    command = (sys.executable, "-m", "tests.cluster.build", "--check")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"the check did not end within {CHECK_SECONDS:.0f} s"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return said[0] if said else f"the check ended with {done.returncode}"


TOOLS = {
    "conntrack": "conntrack",
    "curl": "curl",
    "ip": "iproute2",
    "iptables": "iptables",
    "nft": "nftables",
    "unshare": "util-linux",
}
"""Tools of the network suite, and the Debian packages that have them."""

BROWSER = ("chromium", "fonts-dejavu-core")
"""The Debian packages of the browser suite: letters too, or the page's signs would be boxes."""

IMAGE_TOOLS = {
    "buildah": "buildah",
    "crun": "crun",
    "dockerd": "docker.io",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "podman": "podman",
    "qemu-aarch64-static": "qemu-user-static",
    "unshare": "util-linux",
}
"""Tools of the image suite, and the Debian packages that have them."""


def no_network() -> str:
    """Why network namespaces cannot be made and looked into here; empty when they can.

    On Debian, as root, what is missing is installed first.
    """
    if os.geteuid() != 0:
        return "it needs root, to make network namespaces"
    if why := _without("network", TOOLS):
        return why
    done = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    return f"network namespaces cannot be made: {done.stderr.strip()}" if done.returncode else ""


def no_images() -> str:
    """Why container images cannot be built and run here; empty when they can. Installs as `no_network` does."""
    if os.geteuid() != 0:
        return "it needs root, to mount images and to make namespaces"
    if why := _without("image", IMAGE_TOOLS):
        return why
    done = subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, text=True, check=False)
    return f"namespaces cannot be made: {done.stderr.strip()}" if done.returncode else ""


def no_browser() -> str:
    """Why no Chromium can be started here; empty when one can. On Debian, as root, it is installed first."""
    if not binary() and os.geteuid() == 0 and (why := _installed("browser", BROWSER)):
        return why
    if not (found := binary()):
        return "no Chromium is installed"
    command = [found, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    return f"{found} does not start: {done.stderr.strip()[:200]}" if done.returncode else ""


def _installed(suite: str, packages: Collection[str]) -> str:
    """Install Debian packages, where that is how it is done; why that did not end, else empty."""
    if shutil.which("apt-get") is None:
        return ""
    _say(f"suite {suite}: installing {' '.join(sorted(packages))}")
    try:
        for step in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *sorted(packages)]):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", *step], env=environment, timeout=CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"apt-get did not end within {CHECK_SECONDS:.0f} s"
    return ""


def _without(suite: str, tools: Mapping[str, str]) -> str:
    """Which tools are missing even after what is missing was installed, or why it could not be; empty when none."""
    if (missing := _missing(tools)) and (why := _installed(suite, {tools[tool] for tool in missing})):
        return why
    missing = _missing(tools)
    return f"not installed: {', '.join(missing)}" if missing else ""


def _missing(tools: Mapping[str, str]) -> list[str]:
    return [tool for tool in tools if shutil.which(tool) is None]


def no_chart() -> str:
    """Why helm is neither there nor can be built, or what else stands in the way of the chart's tests."""
    if why := no_api_server() or no_network():
        return why
    command = (sys.executable, "-m", "tests.chart.build", "--check")
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    return (
        (done.stderr.strip().splitlines() or [f"the check ended with {done.returncode}"])[0] if done.returncode else ""
    )


SUITES = (
    Suite(
        name="clients",
        needs="the registries, once: it installs the clients of the matrix, and runs none",
        # What compiles for minutes lets tests that wait for something go first.
        command=("nice", sys.executable, "-m", "tests.conformance", "--install"),
        obstacle=no_network,
    ),
    Suite(
        name="fast",
        needs="nothing",
        command=("make", "--no-print-directory", "test"),
        obstacle=lambda: "",
    ),
    Suite(
        name="network",
        needs="root, and " + ", ".join(TOOLS),
        command=("make", "--no-print-directory", "test-network"),
        obstacle=no_network,
    ),
    Suite(
        name="image",
        needs="root, the package index, and " + ", ".join(IMAGE_TOOLS),
        command=("make", "--no-print-directory", "test-image"),
        obstacle=no_images,
    ),
    Suite(
        name="chart",
        needs="Go, to build helm and the API server once, and what the network suite needs",
        command=("make", "--no-print-directory", "test-chart"),
        obstacle=no_chart,
    ),
    Suite(
        name="conformance",
        needs="nothing: it is the harness of the matrix, and the replays",
        command=(sys.executable, "-m", "pytest", "tests/conformance"),
        obstacle=lambda: "",
    ),
    Suite(
        name="cluster",
        needs="Go, to build a real API server with etcd once (minutes, 3 GB of disk)",
        command=(sys.executable, "-m", "pytest", "tests/cluster"),
        obstacle=no_api_server,
    ),
    Suite(
        name="browser",
        needs="Chromium",
        command=("make", "--no-print-directory", "test-browser"),
        obstacle=no_browser,
    ),
    Suite(
        name="matrix",
        needs="the clients, and what the network suite needs",
        command=(sys.executable, "-m", "tests.conformance"),
        obstacle=no_network,
        alone=True,
    ),
)


def main(suites: Sequence[Suite] = SUITES, environment: Mapping[str, str] = os.environ) -> int:
    """Run them; the exit code."""
    obstacles = {suite.name: suite.obstacle() for suite in suites}
    for suite in suites:
        why = obstacles[suite.name]
        _say(f"suite {suite.name}: {f'CANNOT RUN HERE: {why}' if why else 'can run here'} (needs {suite.needs})")
    able = [suite for suite in suites if not obstacles[suite.name]]
    # In the order in which they are listed: what others wait for, and what takes longest, begins first.
    codes = _codes([suite for suite in able if not suite.alone], LANES)
    codes |= _codes([suite for suite in able if suite.alone], 1)
    outcomes: list[str] = []
    failed = False
    for suite in suites:
        if why := obstacles[suite.name]:
            outcomes.append(f"NOT RUN: {suite.name}: {why}")
            failed |= environment.get("CI") == "true"
            continue
        code = codes[suite.name]
        failed |= code != 0
        words = {0: "passed", NOTHING_COLLECTED: "FAILED: it has no tests"}.get(code, f"FAILED with {code}")
        outcomes.append(f"{suite.name}: {words}")
    _say("summary")
    for outcome in outcomes:
        print(outcome, flush=True)
    return 1 if failed else 0


def _codes(suites: Sequence[Suite], lanes: int) -> dict[str, int]:
    """Run these, so many at once; their exit codes by their names."""
    with ThreadPoolExecutor(lanes) as pool:
        return dict(zip((suite.name for suite in suites), pool.map(_ended, suites), strict=True))


def _ended(suite: Suite) -> int:
    """Run a suite; its exit code. What it printed is told as a whole, because others run beside it."""
    _say(f"suite {suite.name}: {' '.join(suite.command)}")
    begun = time.monotonic()
    done = subprocess.run(suite.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    with _TOLD:
        _say(f"suite {suite.name}: ended after {time.monotonic() - begun:.0f} s with {done.returncode}")
        sys.stdout.buffer.write(done.stdout)
        sys.stdout.flush()
    return done.returncode


def _say(text: str) -> None:
    print(f"==== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

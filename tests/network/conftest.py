"""What the network tests need, and in one line each what this kernel or this version lacks of it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.network.lab.node import Lab

TOOLS = ("ip", "nft", "iptables", "conntrack", "curl", "unshare")

PROBES = {
    "nftables": "nft add table ip x; nft 'add chain ip x y { type nat hook prerouting priority -110; }'",
    "iptables-nft": "iptables-nft -t nat -L; ip6tables-nft -t nat -L; iptables-nft -t raw -L",
    "iptables-legacy": "iptables-legacy -t nat -L; ip6tables-legacy -t nat -L; iptables-legacy -t raw -L",
}


SECONDS = 300
"""For a test: many run the command dozens of times, which takes many seconds of the processor alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test here more time than others have, unless it says itself how much."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


@cache
def kernel_lacks(probe: str) -> str:
    """What the kernel said when it could not; empty when it can."""
    done = subprocess.run(["unshare", "-n", "bash", "-ec", probe], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1] if done.returncode else ""


def pytest_report_header() -> list[str]:
    """One line for each thing that is not to be had here."""
    if os.geteuid() or any(shutil.which(tool) is None for tool in TOOLS):
        return []
    lines = []
    if why := kernel_lacks("ip link add x type dummy"):
        lines.append(f"network: no dummy devices in this kernel ({why}): the redirect is given a bridge")
    for backend, probe in PROBES.items():
        if why := kernel_lacks(probe):
            lines.append(f"network: no {backend} in this kernel ({why}): its tests are skipped")
    return lines


@pytest.fixture(scope="session", autouse=True)
def needs() -> None:
    """Root and the tools: without them nothing here can be told, so nothing is passed over in silence."""
    assert os.geteuid() == 0, "network tests need root: they make network namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"not installed: {', '.join(missing)}"


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Labs as the test wants them; removed with everything in them when it ends."""
    with ExitStack() as stack:

        def make(**wanted: Any) -> Lab:
            backend = wanted.get("backend", "nftables")
            if why := kernel_lacks(PROBES[backend]):
                pytest.skip(f"no {backend} in this kernel: {why}")
            return stack.enter_context(Lab(tmp_path, **wanted))

        yield make

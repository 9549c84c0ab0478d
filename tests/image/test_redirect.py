"""The redirect's image at work on a node of its own: put in place, looked at, taken away, with each backend."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image.building import Image
from tests.image.containers import Container
from tests.network.conftest import PROBES, kernel_lacks
from tests.network.lab.namespaces import Namespace

pytestmark = pytest.mark.timeout(900)

CAPABILITIES = {
    "nftables": ("NET_ADMIN",),
    "iptables-nft": ("NET_ADMIN",),
    "iptables-legacy": ("NET_ADMIN", "NET_RAW"),
}

SNAPSHOT = """
ip addr; ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all; nft list ruleset
"""


@pytest.fixture
def node() -> Iterator[Namespace]:
    """A network namespace with a device for the addresses."""
    made = Namespace("image")
    try:
        # Without duplicate detection, so that nothing appears by itself a second later.
        made.shell("sysctl -qw net.ipv6.conf.default.accept_dad=0; ip link add mp0 type bridge; ip link set mp0 up")
        yield made
    finally:
        made.close()


Verb = Callable[..., tuple[int, str]]


@pytest.fixture
def verb(node: Namespace, redirect: Image, tmp_path: Path) -> Verb:
    """Run a verb in a container on that node: exit code and words."""
    lock = tmp_path / "xtables.lock"
    lock.touch()

    def run(name: str, backend: str, capabilities: tuple[str, ...]) -> tuple[int, str]:
        container = Container(
            image=redirect,
            folder=tmp_path,
            arguments=("redirect", name, "--redirect.device=mp0", f"--redirect.backend={backend}"),
            capabilities=capabilities,
            # The host's own, so that no two that change legacy tables do so at once.
            shared={"/run/xtables.lock": (lock, "rw")},
        )
        done = container.run(*node.command())
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("backend", CAPABILITIES)
def test_with_each_backend(node: Namespace, verb: Verb, backend: str) -> None:
    """In place with no note that a tool is missing, seen to be, seen when it is damaged, and gone without a trace."""
    if why := kernel_lacks(PROBES[backend]):
        pytest.skip(f"no {backend} in this kernel: {why}")
    held = CAPABILITIES[backend]
    before = node.shell(SNAPSHOT)
    assert verb("apply", backend, held) == (0, f"in place ({backend})\n")
    assert verb("check", backend, held) == (0, f"in place ({backend})\n")
    node.shell("ip rule del pref 2")
    code, said = verb("check", backend, held)
    assert code == 1
    assert said.startswith("guard: IPv4: ")
    assert verb("apply", backend, held) == (0, f"in place ({backend})\n")
    assert verb("remove", backend, held) == (0, "")
    assert node.shell(SNAPSHOT) == before


def test_the_capability_that_is_missing_is_named(node: Namespace, verb: Verb) -> None:
    """A container without it, or with too little for legacy iptables, changes nothing and says what it wants."""
    before = node.shell(SNAPSHOT)
    for backend, held, missing in (("auto", (), "NET_ADMIN"), ("iptables-legacy", ("NET_ADMIN",), "NET_RAW")):
        code, said = verb("apply", backend, held)
        assert (code, f"CAP_{missing} is missing" in said) == (1, True)
    assert node.shell(SNAPSHOT) == before

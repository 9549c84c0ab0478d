"""Unmodified clients in pods of every style get their own role, and nothing else on the node is disturbed."""

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import product

import pytest

from tests.network.lab.hammer import PATH
from tests.network.lab.namespaces import answer, ask
from tests.network.lab.node import METADATA, NEIGHBOURS, NODE, OWN, STYLES, Lab
from tests.network.lab.processes import QUIET
from tests.network.lab.recorder import MARK

EVERY = list(product(((4, 6), (4,), (6,)), (True, False), (0, 1, 2)))

MATRIX = [(backend, *row) for backend in ("nftables", "iptables-nft", "iptables-legacy") for row in EVERY]

FOREIGN = """
table ip foreign {
    chain pre {
        type nat hook prerouting priority -100;
        ip daddr 10.96.0.1 tcp dport 443 dnat to 10.9.0.2:8080
    }
    chain out {
        type filter hook forward priority 0;
        ip daddr 192.0.2.1 drop
    }
}
"""

SNAPSHOT = """
nft list ruleset; for f in ip ip6; do ${f}tables-legacy-save | grep -- '^-A' || true; done
ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip -br addr
"""

SYSCTLS = "sysctl net.ipv4.conf net.ipv6.conf net.ipv4.ip_forward"


def webs(family: int, address: str) -> str:
    """The beginning of a URL."""
    return f"http://{address}" if family == 4 else f"http://[{address}]"


@pytest.mark.parametrize(("backend", "families", "masquerade", "rp_filter"), MATRIX)
def test_every_style_gets_its_own_role(
    build: Callable[..., Lab], backend: str, families: tuple[int, ...], masquerade: bool, rp_filter: int
) -> None:
    """The role list by curl, the session by curl and by boto3, told no endpoint: the pod's own each time."""
    lab = build(backend=backend, families=families, masquerade=masquerade, rp_filter=rp_filter)
    lab.apply()
    lab.agent()
    assert [pod.style for pod in lab.pods] == list(STYLES)
    for pod in lab.pods:
        for family in families:
            base = webs(family, METADATA[family])
            assert pod.curl(f"{base}{PATH}") == pod.role
            assert json.loads(pod.curl(f"{base}{PATH}{pod.role}"))["Token"] == pod.role
            assert pod.boto3(family) == pod.role
    assert lab.leaks() == []


REVERSE = {
    "fib": """
        for family in ip ip6; do
            nft add table $family wall
            nft "add chain $family wall prerouting { type filter hook prerouting priority -290; }"
            nft "add rule $family wall prerouting fib saddr . iif oif missing counter drop"
        done
    """,
    "rpfilter": """
        for family in iptables ip6tables; do
            $family-legacy -t raw -A PREROUTING -m rpfilter --invert -j DROP
        done
    """,
}
"""Firewalls that take only what they would send back the same way, as firewalld does."""


@pytest.mark.parametrize("check", REVERSE)
def test_a_check_of_the_reverse_path_does_not_cut_the_node_off(build: Callable[..., Lab], check: str) -> None:
    """Its own processes reach the service, before and after; pods get their roles, and the service never a pod."""
    lab = build(styles=("proxyarp",))
    lab.node.shell(REVERSE[check])
    lab.apply()
    assert lab.redirect("check").returncode == 0
    lab.agent()
    for family in lab.families:
        url = f"{webs(family, METADATA[family])}/host"
        assert lab.node.run("curl", "-sg", "-m", "10", url, environment=QUIET).stdout == MARK.decode()
        for pod in lab.pods:
            assert pod.role in pod.curl(f"{webs(family, METADATA[family])}{PATH}")
    lab.node.shell("nft flush ruleset; iptables-legacy -t nat -F; iptables-legacy -F; iptables-legacy -t raw -F")
    lab.node.shell("ip6tables-legacy -t nat -F; ip6tables-legacy -F; ip6tables-legacy -t raw -F")
    for pod in lab.pods:
        for family in lab.families:
            # The node's own address on a pod's interface: what is answered to it goes to the node.
            pod.namespace.shell(f"ip addr add {NODE[family]}/{32 if family == 4 else 128} dev lo")
            for source in ("", NODE[family]):
                with suppress(OSError), pod.namespace.connect(METADATA[family], source=source, timeout=2) as end:
                    assert MARK not in ask(end, PATH)


@pytest.mark.parametrize("backend", ["nftables", "iptables-nft", "iptables-legacy"])
def test_nothing_else_is_disturbed(build: Callable[..., Lab], backend: str) -> None:
    """Host processes, UDP, other ports and addresses go on; foreign rules stay, and after remove all is as before."""
    lab = build(backend=backend)
    lab.foreign(FOREIGN)
    lab.node.shell("iptables-nft -t nat -A POSTROUTING -s 192.0.2.7 -j MASQUERADE")
    before, sysctls = lab.node.shell(SNAPSHOT), lab.node.shell(SYSCTLS)
    foreign = lab.node.shell("nft list table ip foreign; nft list table ip cni; nft list table ip6 cni")

    lab.apply()
    lab.agent()
    assert lab.node.shell("nft list table ip foreign; nft list table ip cni; nft list table ip6 cni") == foreign
    assert "-A POSTROUTING -s 192.0.2.7/32 -j MASQUERADE" in lab.node.shell("iptables-nft -t nat -S")
    assert lab.node.shell(SYSCTLS) == sysctls
    for family in lab.families:
        url = f"{webs(family, METADATA[family])}/host"
        assert lab.node.run("curl", "-sg", "-m", "10", url, environment=QUIET).stdout == MARK.decode()
        assert lab.node.ask_udp(METADATA[family], 80) == MARK
        for pod in lab.pods:
            assert pod.namespace.ask_udp(METADATA[family], 80) == MARK
            with pod.namespace.connect(METADATA[family], 8080) as end:
                assert MARK in ask(end, "/other-port")
            for neighbour in NEIGHBOURS[family]:
                with pod.namespace.connect(neighbour) as end:
                    assert MARK in ask(end, "/neighbour")
    assert lab.leaks() == []

    done = lab.redirect("remove")
    assert done.returncode == 0, done.stderr
    assert lab.node.shell(SNAPSHOT) == before
    for namespace, address in lab.aims:
        with namespace.connect(address) as end:
            assert MARK in ask(end, "/latest/after")


@pytest.mark.parametrize("backend", ["nftables", "iptables-nft", "iptables-legacy"])
def test_a_request_that_waits_in_the_agent_survives_another_apply(build: Callable[..., Lab], backend: str) -> None:
    """Half a request is sent, the redirect is applied anew, the other half is sent: the answer comes."""
    lab = build(backend=backend)
    lab.apply()
    lab.agent()
    waiting = [pod.connect(address, timeout=30.0) for pod, address in lab.aims]
    for end in waiting:
        end.sendall(f"GET {PATH} HTTP/1.1\r\n".encode())
    lab.apply()
    for end in waiting:
        end.sendall(b"Host: 169.254.169.254\r\n\r\n")
        assert answer(end).startswith(b"HTTP/1.1 200 ")
        end.close()
    assert lab.leaks() == []


def test_the_agent_is_reached_through_the_redirect_alone(build: Callable[..., Lab]) -> None:
    """Nobody gets an answer at the agent's own address; a stranger off the node gets no identity at any."""
    lab = build()
    lab.apply()
    lab.agent()
    for pod in lab.pods:
        for family in lab.families:
            with pytest.raises(OSError, match=r"timed out|refused|reset"):
                pod.namespace.connect(OWN[family], lab.port, timeout=0.5)
    # The machine behind the node no longer owns the addresses but asks the node for them.
    for family, length in ((4, 32), (6, 128)):
        for address in (METADATA[family], OWN[family]):
            lab.outside.shell(f"ip addr del {address}/{length} dev lo; ip route add {address} via {NODE[family]}")
        with pytest.raises(OSError, match=r"timed out|refused|reset"):
            lab.outside.connect(OWN[family], lab.port, timeout=0.5)
        with lab.outside.connect(METADATA[family], timeout=30.0) as end:
            said = ask(end, PATH)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"no pod of this node is known at your address" in said


@pytest.mark.parametrize("attacker", ["proxyarp", "policy"])
def test_a_neighbours_address_is_of_no_use_on_routed_pods(build: Callable[..., Lab], attacker: str) -> None:
    """A pod on a link of its own that takes a neighbour's address is never answered as that neighbour."""
    lab = build()
    lab.apply()
    lab.agent()
    thief = next(pod for pod in lab.pods if pod.style == attacker)
    for family, length in ((4, 32), (6, 128)):
        for victim in lab.pods:
            if victim is not thief:
                taken = victim.addresses[family]
                thief.namespace.shell(f"ip addr add {taken}/{length} dev eth0 {'nodad' if family == 6 else ''}")
                with pytest.raises(OSError, match=r"timed out|refused|reset"):
                    thief.namespace.connect(METADATA[family], source=taken, timeout=0.5)
                assert victim.curl(f"{webs(family, METADATA[family])}{PATH}") == victim.role
    assert lab.leaks() == []

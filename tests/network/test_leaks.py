"""Whatever happens to the agent, the rules or the connections: the real metadata service never answers a pod."""

import select
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from socket import inet_aton, socket

import pytest

from tests.network.lab.fragments import FRAGMENT, OPTIONS, Fragments
from tests.network.lab.hammer import PATH, Hammer
from tests.network.lab.namespaces import Namespace, ask, until
from tests.network.lab.node import METADATA, NODE, OWN, SERVICE, Lab
from tests.network.lab.recorder import MARK

BACKENDS = pytest.mark.parametrize("backend", ["nftables", "iptables-nft", "iptables-legacy"])

SILENCE = 1.0
"""Seconds in which an answer that must not come would come: within the node it takes less than a millisecond."""

WIPES = {
    "nft": "nft flush ruleset",
    "iptables": "for f in ip ip6; do for b in nft legacy; do ${f}tables-$b -t nat -F || true; done; done",
    "everything": "nft flush ruleset; for f in ip ip6; do for t in nat filter raw mangle; do "
    "${f}tables-legacy -t $t -F || true; done; done",
}

NOTRACK = """
table ip foreign { chain raw {
    type filter hook prerouting priority -400;
    ip daddr 169.254.169.254 notrack
    ip saddr 169.254.169.254 notrack
}; }
table ip6 foreign { chain raw {
    type filter hook prerouting priority -400;
    ip6 daddr fd00:ec2::254 notrack
    ip6 saddr fd00:ec2::254 notrack
}; }
""".replace("}; }", "}\n}")

KUBE_PROXY = f"""
table ip kube {{
    chain services {{
        type nat hook prerouting priority -100;
        ip daddr {SERVICE[4]} tcp dport 80 dnat to {METADATA[4]}:80
        ip daddr {SERVICE[4]} tcp dport 8081 dnat to {METADATA[4]}:80
    }}
}}
table ip6 kube {{
    chain services {{
        type nat hook prerouting priority -100;
        ip6 daddr {SERVICE[6]} tcp dport 80 dnat to [{METADATA[6]}]:80
        ip6 daddr {SERVICE[6]} tcp dport 8081 dnat to [{METADATA[6]}]:80
    }}
}}
"""

CHAINS = ((), (OPTIONS,), (OPTIONS,) * 16, (OPTIONS,) * 17, (OPTIONS,) * 60, (FRAGMENT,), (FRAGMENT, OPTIONS))
"""Extension headers before TCP."""

LOOSE_SOURCE_ROUTE = b"\x83\x07\x04" + inet_aton(NODE[4]) + b"\x00"
"""The option of RFC 791: first to the node, from there to where the connection goes."""


def answered(aims: Iterable[tuple[Namespace, str]], port: int = 80, options: bytes = b"") -> list[str]:
    """Those of the addresses at which the real service answers the pod."""
    found = []
    for pod, address in aims:
        with suppress(OSError), pod.connect(address, port, options=options, timeout=0.5) as end:
            if MARK in ask(end, "/latest/vector"):
                found.append(f"{pod.name} {address}")
    return found


def silent(connections: list[socket]) -> bool:
    """Whether none of the open connections says anything but that it ended."""
    for end in connections:
        with suppress(OSError):
            end.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    said = False
    for end in select.select(connections, [], [], SILENCE)[0]:
        with suppress(OSError):
            said |= bool(end.recv(100))
    return not said


@BACKENDS
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_agent_ends(build: Callable[..., Lab], backend: str, how: signal.Signals) -> None:
    """Pods are refused at once and never led on; another agent answers them again without another apply."""
    lab = build(backend=backend)
    lab.apply()
    agent = lab.agent()
    with Hammer(*lab.aims) as hammer:
        assert hammer.counts["agent"]
        agent.end(how)
        hammer.more()
        for pod, address in lab.aims:
            with pytest.raises(ConnectionRefusedError):
                pod.connect(address)
        lab.agent()
        served = hammer.counts["agent"]
        hammer.more()
        assert hammer.counts["agent"] > served
    assert hammer.counts["real"] == 0
    assert lab.leaks() == []


@BACKENDS
@pytest.mark.parametrize("wipe", WIPES)
def test_rules_are_wiped_and_nobody_watches(build: Callable[..., Lab], backend: str, wipe: str) -> None:
    """What no netfilter flush touches holds alone, until somebody applies again."""
    lab = build(backend=backend)
    lab.apply()
    lab.agent()
    with Hammer(*lab.aims) as hammer:
        for _ in range(2):
            lab.node.shell(WIPES[wipe])
            hammer.more(5)
            lab.apply()
        served = hammer.counts["agent"]
        until(lambda: hammer.counts["agent"] > served)
    assert hammer.counts["real"] == 0
    assert lab.leaks() == []


@BACKENDS
def test_rules_are_wiped_and_the_watch_repairs(build: Callable[..., Lab], backend: str) -> None:
    """Each wipe is repaired, and between wipe and repair nobody is led on."""
    lab = build(backend=backend)
    lab.apply()
    lab.agent()
    lab.start(*lab.redirect_command("watch"))
    with Hammer(*lab.aims) as hammer:
        # Nobody tells of changes of legacy iptables: each repair waits for the next look.
        for _ in range(1 if backend == "iptables-legacy" else 5):
            lab.node.shell(WIPES["everything"])
            until(lambda: lab.redirect("check").returncode == 0)
            hammer.more(5)
        served = hammer.counts["agent"]
        until(lambda: hammer.counts["agent"] > served)
    assert hammer.counts["real"] == 0
    assert lab.leaks() == []


@BACKENDS
def test_applied_again_and_again_under_load(build: Callable[..., Lab], backend: str) -> None:
    """Not one request fails, and none is led on."""
    lab = build(backend=backend)
    lab.apply()
    lab.agent()
    with Hammer(*lab.aims, patience=30.0) as hammer:
        for _ in range(8):
            lab.apply()
        hammer.more()
    assert hammer.counts["failed"] == 0, hammer.troubles
    assert hammer.counts["real"] == 0
    assert lab.leaks() == []


@BACKENDS
def test_the_port_changes_under_load(build: Callable[..., Lab], backend: str) -> None:
    """To and fro while somebody listens at both, as after a takeover: not one request fails, and none is led on."""
    lab = build(backend=backend)
    lab.apply()
    lab.agent(*(f"--server.listen={OWN[4] if family == 4 else f'[{OWN[6]}]'}:8282" for family in lab.families))
    with Hammer(*lab.aims, patience=30.0) as hammer:
        for port in (8282, 8181, 8282, 8181):
            done = lab.redirect("apply", f"--redirect.port={port}")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "until somebody listens" not in done.stdout
            hammer.more(5)
    assert hammer.counts["failed"] == 0, hammer.troubles
    assert hammer.counts["real"] == 0
    assert lab.leaks() == []


@BACKENDS
def test_applied_first_under_load(build: Callable[..., Lab], backend: str) -> None:
    """From the moment at which apply says that it is done, nobody reaches the real service any more."""
    lab = build(backend=backend)
    with Hammer(*lab.aims) as hammer:
        lab.apply()
        # Answers under way at that moment come in; whatever is asked after it must not be answered.
        hammer.more(2)
        lab.records()
        real = hammer.counts["real"]
        assert real
        hammer.more()
        assert hammer.counts["real"] == real
    assert lab.leaks() == []


@BACKENDS
@pytest.mark.parametrize("masquerade", [True, False])
@pytest.mark.parametrize("loose", [0, 1])
def test_a_connection_from_before(build: Callable[..., Lab], backend: str, masquerade: bool, loose: int) -> None:
    """It is cut, also when conntrack has forgotten it and calls its packets invalid (tcp_loose=0), or takes them up."""
    lab = build(backend=backend, masquerade=masquerade)
    lab.node.shell(f"sysctl -qw net.netfilter.nf_conntrack_tcp_loose={loose}")
    before = [pod.connect(address) for pod, address in lab.aims]
    assert all(MARK in ask(end, PATH) for end in before)
    lab.records()
    lab.apply()
    assert silent(before)
    lab.node.shell("conntrack -F")
    assert silent(before)
    assert lab.leaks() == []
    for end in before:
        end.close()


@BACKENDS
def test_a_service_whose_endpoint_is_the_metadata_address(build: Callable[..., Lab], backend: str) -> None:
    """kube-proxy translates to the metadata address after us: nobody gets through, with our rules or without."""
    lab = build(backend=backend)
    services = [(pod.namespace, SERVICE[family]) for pod in lab.pods for family in lab.families]
    lab.foreign(KUBE_PROXY)
    for port in (80, 8081):
        assert len(answered(services, port)) == len(services)
    lab.apply()
    lab.records()
    for port in (80, 8081):
        assert answered(services, port) == []
    lab.node.shell(WIPES["everything"])
    lab.foreign(KUBE_PROXY)
    for port in (80, 8081):
        assert answered(services, port) == []
    assert lab.leaks() == []


@BACKENDS
def test_untracked_packets(build: Callable[..., Lab], backend: str) -> None:
    """A foreign NOTRACK leaves nothing to translate: nobody gets through, with our rules or without."""
    lab = build(backend=backend, masquerade=False)
    lab.foreign(NOTRACK)
    assert len(answered(lab.aims)) == len(lab.aims)
    lab.apply()
    lab.records()
    assert answered(lab.aims) == []
    lab.node.shell(WIPES["everything"])
    lab.foreign(NOTRACK)
    assert answered(lab.aims) == []
    assert lab.leaks() == []


@BACKENDS
def test_our_address_is_deleted(build: Callable[..., Lab], backend: str) -> None:
    """Another host owns the same address: it does not get to answer in our place."""
    lab = build(backend=backend)
    own = [(pod.namespace, OWN[family]) for pod in lab.pods for family in lab.families]
    assert len(answered(own)) == len(own)
    lab.apply()
    lab.records()
    for family, length in ((4, 32), (6, 128)):
        lab.node.shell(f"ip addr del {OWN[family]}/{length} dev mp0")
    assert answered(lab.aims) == []
    assert answered(own) == []
    assert lab.leaks() == []


@BACKENDS
def test_loose_source_routing(build: Callable[..., Lab], backend: str) -> None:
    """A packet to the node that asks to be sent on to the metadata address is not, with our rules or without."""
    lab = build(backend=backend, masquerade=False)
    routed = "for i in /proc/sys/net/ipv4/conf/*/accept_source_route; do echo 1 >$i; done"
    for namespace in (lab.node, lab.outside, *(pod.namespace for pod in lab.pods)):
        namespace.shell(routed)
    aims = [(pod.namespace, METADATA[4]) for pod in lab.pods]
    assert len(answered(aims, options=LOOSE_SOURCE_ROUTE)) == len(aims)
    lab.apply()
    lab.records()
    assert answered(aims, options=LOOSE_SOURCE_ROUTE) == []
    lab.node.shell(WIPES["everything"])
    assert answered(aims, options=LOOSE_SOURCE_ROUTE) == []
    assert lab.leaks() == []


@BACKENDS
def test_stale_entries_go_and_no_others(build: Callable[..., Lab], backend: str) -> None:
    """What the real service answered is forgotten by connection tracking; what the agent answers is not."""
    lab = build(backend=backend)
    before = [pod.connect(address) for pod, address in lab.aims]
    tracked = "for f in ipv4 ipv6; do conntrack -L -f $f -p tcp --dport 80 2>/dev/null; done"
    assert lab.node.shell(tracked).count("dport=80") >= len(before)
    lab.apply()
    assert [line for line in lab.node.shell(tracked).splitlines() if "TIME_WAIT" not in line] == []
    lab.agent()
    after = [pod.connect(address) for pod, address in lab.aims]
    lab.apply()
    assert lab.node.shell(tracked).count("ESTABLISHED") == len(after)
    for end in (*before, *after):
        end.close()


FORGET = {
    "nftables": "for f in ip ip6; do nft flush chain $f metaproxy nat; done",
    "iptables-nft": "for f in ip ip6; do ${f}tables-nft -t nat -F METAPROXY-NAT; done",
    "iptables-legacy": "for f in ip ip6; do ${f}tables-legacy -t nat -F METAPROXY-NAT; done",
}


@BACKENDS
def test_without_translation_and_guard_the_reject_holds(build: Callable[..., Lab], backend: str) -> None:
    """Each layer closes alone what the others would have to."""
    lab = build(backend=backend)
    lab.apply()
    lab.node.shell(f"{FORGET[backend]}; ip rule del pref 2; ip -6 rule del pref 2")
    lab.records()
    for pod, address in lab.aims:
        with pytest.raises(ConnectionRefusedError):
            pod.connect(address)
    assert lab.leaks() == []


def test_without_address_and_guard_the_route_holds(build: Callable[..., Lab]) -> None:
    """Where pods are routed by the main table, as on a bridge and behind proxy ARP."""
    lab = build(styles=("bridge", "proxyarp"))
    lab.apply()
    for family, length in ((4, 32), (6, 128)):
        lab.node.shell(f"for p in 3 4; do ip -{family} rule del pref $p; done")
        lab.node.shell(f"ip addr del {OWN[family]}/{length} dev mp0")
    lab.records()
    assert answered(lab.aims) == []
    assert answered([(pod.namespace, OWN[family]) for pod in lab.pods for family in lab.families]) == []
    assert lab.leaks() == []


@BACKENDS
def test_a_source_that_is_routed_elsewhere_gets_nowhere(build: Callable[..., Lab], backend: str) -> None:
    """With rp_filter off: what a pod sends in a neighbour's name is dropped before anybody takes note of it."""
    lab = build(backend=backend, rp_filter=0)
    lab.apply()
    lab.agent()
    for thief in lab.pods:
        for family, length in ((4, 32), (6, 128)):
            victim = next(pod for pod in lab.pods if pod is not thief)
            taken = victim.addresses[family]
            thief.namespace.shell(f"ip addr add {taken}/{length} dev eth0 {'nodad' if family == 6 else ''}")
            with pytest.raises(TimeoutError):
                thief.namespace.connect(METADATA[family], source=taken, timeout=0.5)
            table = "ipv4" if family == 4 else "ipv6"
            assert lab.node.shell(f"conntrack -L -f {table} --orig-src {taken} 2>/dev/null") == ""


@pytest.mark.parametrize("masquerade", [True, False])
def test_fragments(build: Callable[..., Lab], masquerade: bool) -> None:
    """A fragment shows no port: the guard alone stops it too, from boot on and after everything else was flushed."""
    lab = build(styles=("proxyarp", "policy"), masquerade=masquerade)

    def through() -> list[str]:
        aims = [(pod, family) for pod in lab.pods for family in (4, 6)]
        return [
            f"{pod.style} {family}"
            for pod, family in aims
            if MARK in Fragments(pod.namespace, pod.addresses[family], METADATA[family]).ask(PATH, 0.7)
        ]

    # Through a masquerade over IPv6 an atomic fragment does not come back; the others all reach the real service.
    _stopped(lab, through, 3)


@pytest.mark.parametrize("style", ["proxyarp", "policy"])
def test_extension_headers(build: Callable[..., Lab], style: str) -> None:
    """TCP behind more headers than a routing rule looks at, or a fragment's further ones, is no TCP to the rule."""
    lab = build(styles=(style,), masquerade=False)
    (pod,) = lab.pods

    def through() -> list[str]:
        return [
            str(chain)
            for chain in CHAINS
            if MARK in Fragments(pod.namespace, pod.addresses[6], METADATA[6], chain).ask(PATH, 0.7)
        ]

    _stopped(lab, through, len(CHAINS))
    # What is no TCP goes on as before.
    for command in lab.redirect("render", "--guard").stdout.splitlines()[2:]:
        lab.node.shell(command)
    assert pod.namespace.ask_udp(METADATA[6], 80) == MARK
    assert lab.node.ask_udp(METADATA[6], 80) == MARK


def _stopped(lab: Lab, through: Callable[[], list[str]], without: int) -> None:
    """What gets through without us does not with the guard alone, with everything, and after all else was flushed."""
    assert len(through()) >= without
    for command in lab.redirect("render", "--guard").stdout.splitlines()[2:]:
        lab.node.shell(command)
    lab.records()
    assert through() == []
    lab.apply()
    assert through() == []
    lab.node.shell(WIPES["everything"])
    assert through() == []
    assert lab.leaks() == []

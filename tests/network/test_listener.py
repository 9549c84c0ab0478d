"""Who reaches the agent, in real namespaces: led there by the redirect, past it, or masqueraded on the way."""

import json
import urllib.request
from collections.abc import Callable

import pytest

from tests.network.lab.hammer import PATH
from tests.network.lab.namespaces import Namespace, ask, until
from tests.network.lab.node import METADATA, NODE, OWN, Lab

DIRECT = "--server.accept-direct=false"


def admin(lab: Lab, path: str) -> str:
    """What the agent's operator is told on the node."""
    with lab.node.inside():
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:9181{path}", timeout=60) as answer:
            return str(answer.read().decode())


def served(namespace: Namespace, address: str, port: int = 80) -> bytes:
    """The answer to a role list; empty when the connection is closed instead."""
    try:
        with namespace.connect(address, port) as end:
            return ask(end, PATH)
    except ConnectionError:
        return b""


def test_only_what_the_redirect_led_here(build: Callable[..., Lab]) -> None:
    """Pods of every style are served; a process of the node that comes directly is refused, which all can see."""
    lab = build()
    lab.apply()
    lab.agent(DIRECT)
    for pod in lab.pods:
        for family in lab.families:
            assert pod.role.encode() in served(pod.namespace, METADATA[family])
    for family in lab.families:
        assert served(lab.node, OWN[family], lab.port) == b""
    assert 'metaproxy_http_connections_refused_total{reason="NotRedirected"} 2.0' in admin(lab, "/metrics")
    told = json.loads(admin(lab, f"/explain?ip={OWN[4]}"))
    assert told["connections_refused"] == {"reason": "NotRedirected", "number": 1}


def test_without_the_input_rule_the_listener_is_the_last_door(build: Callable[..., Lab]) -> None:
    """A firewall reload took the rules that keep pods from the agent's own address: it refuses them itself."""
    lab = build(rp_filter=0)
    lab.apply()
    lab.agent(DIRECT)
    lab.node.shell("nft flush ruleset")
    for pod in lab.pods:
        for family in lab.families:
            assert served(pod.namespace, OWN[family], lab.port) == b""


def test_the_listener_may_be_first(build: Callable[..., Lab]) -> None:
    """Started before there is an address to listen on, it serves as soon as the redirect is there."""
    lab = build()
    lab.agent(DIRECT)
    lab.apply()
    for pod in lab.pods:
        for family in lab.families:
            assert pod.role.encode() in served(pod.namespace, METADATA[family])


@pytest.mark.parametrize("family", [4, 6])
def test_a_masqueraded_pod_is_told_so(build: Callable[..., Lab], family: int) -> None:
    """Something on the node hides the pod behind the node's address: refused at once, and all see why."""
    lab = build(styles=("bridge",))
    lab.apply()
    lab.agent(DIRECT)
    pod = lab.pods[0]
    nft, node = ("ip", NODE[4]) if family == 4 else ("ip6", NODE[6])
    lab.foreign(
        f"table {nft} hide {{ chain in {{ type nat hook input priority 100;\n"
        f"{nft} saddr {pod.addresses[family]} snat to {node}\n}}\n}}"
    )
    said = served(pod.namespace, METADATA[family])
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b'"code": "Masqueraded"' in said
    assert b"exclude the metadata address from masquerading" in said
    until(lambda: 'reason="Masqueraded"' in admin(lab, "/metrics"))
    assert json.loads(admin(lab, f"/explain?ip={node}"))["reason"] == "Masqueraded"
    assert lab.leaks() == []

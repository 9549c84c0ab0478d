"""Pods that come to the lab's node later, at addresses of the test's choice.

Knows how a CNI would wire them; must not know which of them the agent has heard of.
"""

import itertools

from tests.network.lab.namespaces import Namespace
from tests.network.lab.node import GATEWAY_MAC, Lab, Pod

_numbers = itertools.count(100)


def on_bridge(lab: Lab, name: str, *addresses: str) -> Pod:
    """A pod on the bridge of the lab's first bridge pod, whose network its addresses are of; it announces itself."""
    pod = _plugged(lab, name, *addresses)
    lab.node.shell(f"ip link set {pod.link} master cbr0")
    script = [f"ip -{family} route add default via {ROUTER[family]} dev eth0" for family in pod.addresses]
    bring(pod.namespace, pod.addresses, lengths={4: 24, 6: 64}, then=script)
    return pod


def routed(lab: Lab, name: str, *addresses: str) -> Pod:
    """A pod behind a link of its own, with a host route to it."""
    pod = _plugged(lab, name, *addresses)
    lab.node.shell(
        f"sysctl -qw net.ipv4.conf.{pod.link}.proxy_arp=1 net.ipv4.neigh.{pod.link}.proxy_delay=0\n"
        f"ip addr add fe80::1/64 dev {pod.link} nodad\n"
        + "\n".join(f"ip -{family} route add {a} dev {pod.link}" for family, a in pod.addresses.items())
    )
    routes = [
        "ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1 dev eth0",
        "ip -6 route add default via fe80::1 dev eth0",
    ]
    bring(pod.namespace, pod.addresses, lengths={4: 32, 6: 128}, then=routes)
    return pod


ROUTER = {4: "10.244.1.1", 6: "fd44:1::1"}
"""The bridge's own addresses."""


def bring(namespace: Namespace, addresses: dict[int, str], *, lengths: dict[int, int], then: list[str]) -> None:
    """Give the namespace its addresses and routes."""
    nodad = {4: "", 6: "nodad"}
    namespace.shell(
        "\n".join(
            [
                *(f"ip addr add {a}/{lengths[family]} dev eth0 {nodad[family]}" for family, a in addresses.items()),
                *then,
            ]
        )
    )


def _plugged(lab: Lab, name: str, *addresses: str) -> Pod:
    namespace, link = lab.namespace(name), f"pod{next(_numbers)}"
    lab.node.shell(
        f"ip link add {link} type veth peer name eth0 netns {namespace.name}\n"
        f"ip link set {link} address {GATEWAY_MAC} up"
    )
    namespace.shell("ip link set eth0 up")
    by_family = {6 if ":" in address else 4: address for address in addresses}
    return Pod(style=name, namespace=namespace, addresses=by_family, link=link)

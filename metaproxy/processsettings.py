"""The groups of settings about the process: where it listens, who follows it, how pods are led to it, what it says.

Each knob stands with its type, unit, default, and the reason for it.

Knows: what an operator may decide of these.
Must not know: what cannot go together, who uses a setting.
"""

import sys
from pathlib import Path
from typing import Literal

from metaproxy.addresses import PORT
from metaproxy.knobs import Group, knob
from metaproxy.settingvalues import (
    Address,
    Addresses,
    AddressOrNone,
    Interface,
    Interfaces,
    Networks,
    WholeInterfaces,
)


class Server(Group):
    """Where pods ask, and how long they are held."""

    listen: Addresses = knob(
        [("127.0.0.1", PORT)],
        "Where pods are answered. At 169.254.170.254 and fd00:a9fe:170::254, where the redirect leads them, also "
        "before these addresses are there. IPv6 in brackets; port 0 is any.",
        reason="With manifests loopback: nobody is answered before the operator has decided where.",
        metavar="ADDR:PORT",
        shown="where the redirect leads; 127.0.0.1:8181 with manifests",
        min_length=1,
    )
    accept_direct: bool = knob(
        default=True,
        meaning="Whether connections are taken that the redirect has not led here.",
        reason="Manifests need no redirect; with the Kubernetes source whoever comes past it may be anybody.",
        metavar="true|false",
        shown="true with manifests, else false",
    )
    hold: float = knob(
        0.9,
        "How long a request is held at most while its pod or its credentials are on their way; then 503.",
        reason="SDKs give up after 1 s by default: an answer just before that keeps their retry.",
        metavar="SECONDS",
        unit="seconds",
        ge=0,
        le=60,
    )
    connections: int = knob(
        1024,
        "Connections that all addresses together may have open; fewer where the limit of open files leaves no room for "
        "that. When all are taken, the address with most of them gives one up for another's.",
        reason="Eight or more for each pod of a full node: SDKs open one now and then.",
        metavar="NUMBER",
        unit="connections",
        ge=1,
    )
    connections_per_address: int = knob(
        512,
        "Connections that one address may have open; of more, one is closed that has not asked for anything yet, or "
        "else the new one.",
        reason="Far more than an SDK opens, and half of all.",
        metavar="NUMBER",
        unit="connections",
        ge=1,
    )


class Admin(Group):
    """Where the operator looks: health, metrics, status, explanations."""

    listen: AddressOrNone = knob(
        ("127.0.0.1", 9181),
        "Where /livez, /readyz, /metrics, /status and /explain are; IPv6 in brackets; none: at the socket alone.",
        reason="Loopback: name the node's address to let Prometheus in; status and explanations stay on this machine.",
        metavar="ADDR:PORT|none",
        shown="127.0.0.1:9181",
    )
    socket: Path | None = knob(
        None,
        "A unix socket where the same is; metaproxy health, status and explain ask there when it is set.",
        reason="None: one address suffices where no two agents share the node's network.",
        metavar="PATH",
        shown="none",
    )


class Handover(Group):
    """How a new version takes over from the running one without a gap."""

    socket: Path | None = knob(
        None,
        "The unix socket over which a process that is started asks the running one for its listening sockets and for "
        "all that it holds. Both must see it at this path, and be of one user.",
        reason="None: only a node that runs two at once during an upgrade needs it; its folder is the operator's.",
        metavar="PATH",
        shown="none",
    )
    drain: float = knob(
        20.0,
        "How long the former process, when it is told to stop, keeps connections that are idle, for a last request.",
        reason="Less than the 30 s that Kubernetes gives a pod to end.",
        metavar="SECONDS",
        unit="seconds",
        ge=0,
        le=600,
    )


class Redirect(Group):
    """How `metaproxy redirect` leads this node's pods to the agent."""

    device: Interface = knob(
        "",
        "An existing device for the agent's own addresses 169.254.170.254 and fd00:a9fe:170::254.",
        reason="A dummy device of its own, metaproxy0: nobody else takes addresses off it.",
        metavar="DEVICE",
        shown="its own",
    )
    port: int = knob(
        PORT,
        "The port of these addresses on which the agent listens.",
        reason="Above 1023: the agent runs without any capability.",
        metavar="PORT",
        ge=1,
        le=65_535,
    )
    backend: Literal["auto", "nftables", "iptables-nft", "iptables-legacy"] = knob(
        "auto",
        "What netfilter is spoken to with.",
        reason="Tables of our own by nftables, ahead of everybody's; a host that keeps its rules in legacy iptables "
        "goes on with that.",
        metavar="BACKEND",
    )
    include_interface: Interfaces = knob(
        [],
        "Interfaces whose pods are led to the agent; a trailing + stands for any rest (cali+). Who comes by another is "
        "refused.",
        reason="All: what no rule names would be forgotten.",
        metavar="DEVICE",
        shown="all",
    )
    exclude_interface: WholeInterfaces = knob(
        [],
        "Interfaces, by their whole names, behind which is nobody of the cluster: they reach the real service.",
        reason="None: whoever is led past the agent has the node's role.",
        metavar="DEVICE",
        shown="none",
    )
    exclude_source: Networks = knob(
        [],
        "Networks that reach the real metadata service, as 10.1.0.0/16.",
        reason="None, as above.",
        metavar="CIDR",
        shown="none",
    )
    listen: Address = knob(
        ("127.0.0.1", 9182),
        "Where metaproxy redirect watch has /livez, /readyz and /metrics; IPv6 in brackets.",
        reason="Loopback: name the node's address to let Prometheus in.",
        metavar="ADDR:PORT",
        shown="127.0.0.1:9182",
    )
    socket: Path | None = knob(
        None,
        "A unix socket where metaproxy redirect watch has the same, from its start on; metaproxy health --redirect "
        "asks there when it is set.",
        reason="None: one address suffices where no two of them share the node's network, one waiting for the other.",
        metavar="PATH",
        shown="none",
    )


class Node(Group):
    """What the agent does to its node object."""

    remove_startup_taint: bool = knob(
        default=False,
        meaning="Take the taint metaproxy.dev/agent-not-ready off the node when the agent is ready. Nodes must "
        "register with it. Needs the Kubernetes source, and get and patch of nodes.",
        reason="A permission to patch nodes is the operator's to give.",
        metavar="true|false",
    )


def _default_format() -> str:
    return "console" if sys.stdout.isatty() else "json"


class Log(Group):
    """What the agent says on standard output."""

    format: Literal["json", "console"] = knob(
        None,
        "Lines of JSON, or columns for a person.",
        reason="Whoever reads at a terminal is a person.",
        metavar="FORMAT",
        shown="console on a terminal, else json",
        factory=_default_format,
    )
    level: Literal["debug", "info", "warning", "error"] = knob(
        "info",
        "The least that is told; libraries speak from warning up, whatever this says.",
        reason="One record for each session, a refusal once a minute for each pod and reason, none for cached answers.",
        metavar="LEVEL",
    )

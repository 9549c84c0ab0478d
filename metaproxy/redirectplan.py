"""What the redirect is to bring about on a node: which addresses, on which device, for whom, and where it leads.

Knows: the two metadata addresses, the agent's own two, and what an operator may decide about the redirect.
Must not know: how any of it is written for a tool, or what the node has of it.

Five layers, of which each closes what the one before leaves open:

    addresses   the agent's own, on a device: the target of the translation
    routes      unreachable ones behind them: if an address vanishes, nothing leaves the node for it
    guard       routing rules: nothing forwarded reaches the metadata service, whatever becomes of netfilter
    rules       netfilter: the translation, a reject where it did not happen, and who may reach the agent
    stale       conntrack entries of connections that the real service answers, and no others
"""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from metaproxy.addresses import METADATA_IPV4, METADATA_IPV6, OWN_IPV4, OWN_IPV6, PORT

DEVICE = "metaproxy0"
"""The device that is made for the addresses where the operator names none."""

METRIC = "9999"
"""Of the unreachable routes: behind whatever else may lead to the address."""

Backend = Literal["nftables", "iptables-nft", "iptables-legacy"]
BACKENDS: tuple[Backend, ...] = ("nftables", "iptables-nft", "iptables-legacy")

Part = Literal["addresses", "routes", "guard", "rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One address family: the metadata service's address, the agent's own, and the tools' names for it."""

    name: str
    flag: str
    nft: str
    iptables: str
    conntrack: str
    metadata: str
    own: str
    length: int

    @property
    def target(self) -> str:
        """The agent's own address as it stands before a port."""
        return f"[{self.own}]" if ":" in self.own else self.own


IPV4 = Family(
    name="IPv4",
    flag="-4",
    nft="ip",
    iptables="iptables",
    conntrack="ipv4",
    metadata=METADATA_IPV4,
    own=OWN_IPV4,
    length=32,
)
IPV6 = Family(
    name="IPv6",
    flag="-6",
    nft="ip6",
    iptables="ip6tables",
    conntrack="ipv6",
    metadata=METADATA_IPV6,
    own=OWN_IPV6,
    length=128,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to hold. `own_device`: the device is ours to make and to remove.

    `include`: interfaces that are led to the agent, all if empty; a trailing + stands for any rest, as in iptables.
    Who comes by another is not led on either: the guard stays. `exclude` and `sources`: interfaces (whole names) and
    networks that are none of our business and reach the real service. `speakers` are the addresses from which the node
    itself speaks to that.
    """

    device: str = DEVICE
    own_device: bool = True
    port: int = PORT
    families: tuple[Family, ...] = (IPV4, IPV6)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sources: tuple[IPv4Network | IPv6Network, ...] = ()
    speakers: tuple[str, ...] = ()

    def speakers_of(self, family: Family) -> list[str]:
        """Those of a family."""
        return [speaker for speaker in self.speakers if (":" in speaker) == (":" in family.own)]

    def sources_of(self, family: Family) -> list[str]:
        """The excluded networks of a family, as tools tell of them: a single address without its length."""
        return [
            str(source.network_address if source.prefixlen == family.length else source)
            for source in self.sources
            if source.max_prefixlen == family.length
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the node that is not as planned: in which layer, of which family, in words."""

    part: Part
    family: str
    text: str

    def __str__(self) -> str:
        return f"{self.part}: {self.family}: {self.text}"

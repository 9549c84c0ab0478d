"""What the node's redirect consists of, as text: addresses, routes, routing rules, nft tables.

Knows the five layers and how each is written; must not run a command or read the node's state.
"""

from dataclasses import dataclass

COMMENT_METRIC = "9999"
TABLE = "metaproxy"


@dataclass(frozen=True)
class Family:
    """One address family: the metadata service's address and the agent's own."""

    name: str
    flag: str
    nft: str
    metadata: str
    own: str
    prefix: int
    conntrack: str


IPV4 = Family("IPv4", "-4", "ip", "169.254.169.254", "169.254.170.254", 32, "ipv4")
IPV6 = Family("IPv6", "-6", "ip6", "fd00:ec2::254", "fd00:a9fe:170::254", 128, "ipv6")


@dataclass(frozen=True)
class Plan:
    """What is to hold on the node: on which device, to which port of the agent, in which families."""

    device: str
    port: int = 80
    families: tuple[Family, ...] = (IPV4, IPV6)


def address(plan: Plan, family: Family) -> list[str]:
    """The agent's own address; IPv6 skips duplicate detection, during which it would not answer."""
    nodad = ["nodad"] if family is IPV6 else []
    return [family.flag, "addr", "replace", f"{family.own}/{family.prefix}", "dev", plan.device, *nodad]


def route(family: Family) -> list[str]:
    """What stands behind the address: if it vanishes, nothing leaves the node for it."""
    return ["unreachable", f"{family.own}/{family.prefix}", "metric", COMMENT_METRIC]


def guard(family: Family) -> list[list[str]]:
    """Routing rules, in order: the host's own processes go on; anything forwarded to the service is prohibited.

    The last one is the route behind our address once more, for nodes that route by source (VPC CNI): there a pod's
    packets are led off the node by a table of their own before the main one is asked.
    """
    match = ["to", family.metadata, "ipproto", "tcp", "dport", "80"]
    return [
        ["pref", "1", "iif", "lo", *match, "lookup", "main"],
        ["pref", "2", *match, "prohibit"],
        ["pref", "3", "to", family.own, "unreachable"],
    ]


def nft_table(plan: Plan, family: Family) -> str:
    """The family's own table."""
    f, real, own = family.nft, family.metadata, family.own
    target = f"[{own}]" if family is IPV6 else own
    return f"""table {f} {TABLE} {{
	chain nat {{
		type nat hook prerouting priority -110; policy accept;
		{f} daddr {real} tcp dport 80 dnat to {target}:{plan.port}
	}}
	chain forward {{
		type filter hook forward priority -10; policy accept;
		{f} daddr {real} tcp dport 80 reject with tcp reset
	}}
	chain raw {{
		type filter hook prerouting priority raw; policy accept;
		{f} daddr {{ {real}, {own} }} tcp dport 80 fib saddr . iif oif missing drop
	}}
	chain input {{
		type filter hook input priority -10; policy accept;
		iif != "lo" {f} daddr {own} ct original {f} daddr != {real} drop
		iif != "lo" {f} daddr {own} ct state untracked drop
	}}
}}
"""


def nft(plan: Plan) -> str:
    """One transaction that puts our tables in place of whatever they were."""
    return "".join(
        f"add table {f.nft} {TABLE}\ndelete table {f.nft} {TABLE}\n{nft_table(plan, f)}" for f in plan.families
    )


def stale(family: Family) -> list[str]:
    """Arguments of conntrack: entries answered by the real service, and no others."""
    match = ["--orig-dst", family.metadata, "--dport", "80", "--reply-src", family.metadata]
    return ["-D", "-f", family.conntrack, "-p", "tcp", *match]

"""Addresses, unreachable routes and the routing guard: as iproute2 writes them, and how they differ from the plan.

Knows: iproute2's arguments and its JSON.
Must not know: how a command is run, netfilter.

The guard is what holds when nothing else does: no netfilter flush, NOTRACK, foreign translation, IP option or chain of
extension headers undoes a routing rule. What iproute2 answers is foreign input: what is not understood is no rule of
ours.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from metaproxy.redirectplan import IPV6, METRIC, Family, Finding, Plan

EXEMPT, PROHIBIT, OWN, BEHIND = 1, 2, 3, 4
"""Preferences of the guard's rules: behind 0, the table of the node's own addresses, and ahead of what networks use.
They are ours: a rule of another at one of them is a difference, or named."""

OTHER_PORTS = ("1-79", "81-65534")
"""What goes on to the metadata service's host beside HTTP. Named, so that a packet without a port is not let through:
a fragment has none. 65535 is no end that the kernel takes."""

OTHER_PROTOCOLS = ("udp", "ipv6-icmp")
"""What goes on over IPv6 beside TCP. Named as well: a routing rule does not see the end of a long chain of extension
headers, nor what is behind a fragment's further ones. Over IPv4 the protocol stands in the header itself."""

_KNOWN = frozenset(
    {
        *("priority", "src", "srclen", "dst", "dstlen", "iif", "ipproto"),
        *("dport", "dport_start", "dport_end", "table", "action", "goto"),
        *("protocol", "iif_detached", "oif_detached", "unresolved"),
    }
)
"""Keys of a rule that we know how to write, or that change nothing about whom it concerns."""


def address(plan: Plan, family: Family) -> list[str]:
    """Put the agent's own address in place; IPv6 skips duplicate detection, during which it would not answer."""
    nodad = ["nodad"] if family is IPV6 else []
    return [family.flag, "addr", "replace", f"{family.own}/{family.length}", "dev", plan.device, *nodad]


def route(family: Family) -> list[str]:
    """The route behind the address, without the verb."""
    return ["unreachable", f"{family.own}/{family.length}", "metric", METRIC]


def guard(plan: Plan, family: Family) -> list[list[str]]:
    """The routing rules, without the verb, in the order in which they must come to be.

    The host's own processes go on, and so does who is excluded, and other ports; all else that is TCP, or over IPv6
    could be, is prohibited where it would be forwarded to the service. Our own address is looked for among the node's
    own before anybody's rules, which may lead pods off the node by their source or interface (VPC CNI); if it is not
    there, nothing leaves the node for it.

    A check of the reverse path by netfilter (firewalld's, for one) asks of the service's answer to the node whether the
    node would speak to the service that way, and names neither interface, port nor protocol: it is known by the node's
    own address alone. A pod that sends from that address gets no answer: answers go to the node.
    """
    to = ["to", family.metadata]
    tcp = [*to, "ipproto", "tcp"]
    protocols = OTHER_PROTOCOLS if family is IPV6 else ()
    exempt = [
        ["iif", "lo"],
        *(["iif", name] for name in plan.exclude),
        *(["from", source] for source in plan.sources_of(family)),
    ]
    return [
        *(["pref", str(EXEMPT), *who, *tcp, "dport", "80", "lookup", "main"] for who in exempt),
        *(["pref", str(EXEMPT), "from", own, *to, "goto", str(BEHIND)] for own in plan.speakers_of(family)),
        *(["pref", str(EXEMPT), *tcp, "dport", ports, "goto", str(BEHIND)] for ports in OTHER_PORTS),
        *(["pref", str(EXEMPT), *to, "ipproto", name, "goto", str(BEHIND)] for name in protocols),
        ["pref", str(PROHIBIT), *(to if family is IPV6 else tcp), "prohibit"],
        ["pref", str(OWN), "to", family.own, "lookup", "local"],
        ["pref", str(BEHIND), "to", family.own, "unreachable"],
    ]


def speaker(family: Family, routes: Any) -> tuple[str, ...]:
    """The address from which the node speaks to the service, by `ip -j route get`; none if it has no way there."""
    return tuple(
        own
        for each in _rules(routes)
        if isinstance(own := each.get("prefsrc"), str) and (":" in own) == (":" in family.own) and own != family.own
    )[:1]


def stale_rules(plan: Plan, family: Family, rules: Any) -> list[list[str]]:
    """Rules at our preferences and about our addresses that are not of this plan, without the verb: they are holes."""
    wanted = guard(plan, family)
    return [told for rule in _ours(family, rules) if (told := _arguments(rule)) and told not in wanted]


def address_findings(plan: Plan, family: Family, links: Any) -> Iterator[Finding]:
    """What is not as planned in `ip -j addr show dev …`."""
    link: Mapping[str, Any] = next(iter(_rules(links)), {})
    held = [each.get("prefixlen") for each in _rules(link.get("addr_info")) if each.get("local") == family.own]
    flags = link.get("flags")
    if family.length not in held:
        text = f"{family.own}/{family.length} is not on {plan.device}"
    elif not isinstance(flags, list) or "UP" not in flags:
        text = f"{plan.device} is down: bring it up"
    else:
        return
    yield Finding(part="addresses", family=family.name, text=text)


def route_findings(family: Family, routes: Any) -> Iterator[Finding]:
    """What is not as planned in `ip -j route show type unreachable`."""
    if not any(each.get("dst") == family.own and each.get("metric") == int(METRIC) for each in _rules(routes)):
        yield Finding(part="routes", family=family.name, text=f"no unreachable route stands behind {family.own}")


def guard_findings(plan: Plan, family: Family, rules: Any) -> Iterator[Finding]:
    """What is not as planned in `ip -j rule`."""
    wanted, ours = guard(plan, family), [(_arguments(rule), rule) for rule in _ours(family, rules)]
    there = [told for told, _ in ours]
    for rule in wanted:
        if rule not in there:
            yield Finding(part="guard", family=family.name, text=f"no routing rule {' '.join(rule)}")
    for told, raw in ours:
        if told not in wanted:
            what = " ".join(told) or _raw(raw)
            yield Finding(part="guard", family=family.name, text=f"routing rule {what} is not of this plan")


def rules_ahead(family: Family, rules: Any) -> Iterator[Finding]:
    """Others' routing rules that are asked before the guard has been: they may lead past it."""
    for rule in _rules(rules):
        number = rule.get("priority")
        local = rule.get("table") in ("local", "255", 255)
        if isinstance(number, int) and number <= BEHIND and not local and (number == 0 or not _about(family, rule)):
            what = " ".join(_arguments(rule)) or _raw(rule)
            yield Finding(part="guard", family=family.name, text=f"another's routing rule {what} is ahead of the guard")


def _ours(family: Family, rules: Any) -> list[Mapping[str, Any]]:
    """Rules at our preferences that are about our addresses."""
    return [
        rule
        for rule in _rules(rules)
        if _about(family, rule) and rule.get("priority") in (EXEMPT, PROHIBIT, OWN, BEHIND)
    ]


def _about(family: Family, rule: Mapping[str, Any]) -> bool:
    return rule.get("dst") in (family.metadata, family.own)


def _raw(rule: Mapping[str, Any]) -> str:
    """A rule that has more than we can write, for a person."""
    return " ".join(f"{key} {value}" for key, value in rule.items())


def _rules(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()


def _arguments(rule: Mapping[str, Any]) -> list[str]:
    """A rule of `ip -j rule` as iproute2's arguments, in our order; empty when it has more than we can write."""
    if rule.keys() - _KNOWN:
        return []
    written = ["pref", str(rule.get("priority"))]
    if "iif" in rule:
        written += ["iif", str(rule["iif"])]
    if rule.get("src", "all") != "all":
        written += ["from", _network(rule, "src")]
    if rule.get("dst", "all") != "all":
        written += ["to", _network(rule, "dst")]
    written += [str(text) for key in ("ipproto", "dport") if key in rule for text in (key, rule[key])]
    if "dport_start" in rule:
        written += ["dport", f"{rule['dport_start']}-{rule.get('dport_end')}"]
    if "goto" in rule:
        return [*written, "goto", str(rule["goto"])]
    if "action" in rule:
        return [*written, str(rule["action"])]
    return [*written, "lookup", str(rule.get("table"))]


def _network(rule: Mapping[str, Any], key: str) -> str:
    length = rule.get(f"{key}len")
    return str(rule[key]) if length is None else f"{rule[key]}/{length}"

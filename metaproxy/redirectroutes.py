"""Addresses, unreachable routes and the routing guard: as iproute2 writes them, and how they differ from the plan.

Knows: iproute2's arguments and its JSON.
Must not know: how a command is run, netfilter.

The guard is what holds when nothing else does: no netfilter flush, NOTRACK, foreign translation or IP option undoes a
routing rule. What iproute2 answers is foreign input: what is not understood is no rule of ours.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from metaproxy.redirectplan import IPV6, METRIC, Family, Finding, Plan

EXEMPT, PROHIBIT, OWN, BEHIND = 1, 2, 3, 4
"""Preferences of the guard's rules: behind 0, the table of the node's own addresses, and ahead of what networks use."""

_ASIDE = frozenset({"protocol", "iif_detached", "oif_detached"})
"""Keys of a rule that change nothing about whom it concerns."""


def address(plan: Plan, family: Family) -> list[str]:
    """Put the agent's own address in place; IPv6 skips duplicate detection, during which it would not answer."""
    nodad = ["nodad"] if family is IPV6 else []
    return [family.flag, "addr", "replace", f"{family.own}/{family.length}", "dev", plan.device, *nodad]


def route(family: Family) -> list[str]:
    """The route behind the address, without the verb."""
    return ["unreachable", f"{family.own}/{family.length}", "metric", METRIC]


def guard(plan: Plan, family: Family) -> list[list[str]]:
    """The routing rules, without the verb, in the order in which they must come to be.

    The host's own processes go on, and so does who is excluded; anything else that would be forwarded to the service
    is prohibited. Our own address is looked for among the node's own before anybody's rules, which may lead pods off
    the node by their source or interface (VPC CNI); if it is not there, nothing leaves the node for it.
    """
    to = ["to", family.metadata, "ipproto", "tcp", "dport", "80"]
    exempt = [
        ["iif", "lo"],
        *(["iif", name] for name in plan.exclude),
        *(["from", source] for source in plan.sources_of(family)),
    ]
    return [
        *(["pref", str(EXEMPT), *who, *to, "lookup", "main"] for who in exempt),
        ["pref", str(PROHIBIT), *to, "prohibit"],
        ["pref", str(OWN), "to", family.own, "lookup", "local"],
        ["pref", str(BEHIND), "to", family.own, "unreachable"],
    ]


def stale_rules(plan: Plan, family: Family, rules: Any) -> list[list[str]]:
    """Rules about our addresses that are not of this plan, without the verb: exemptions of another one are holes."""
    wanted = guard(plan, family)
    return [
        told
        for rule in _rules(rules)
        if rule.get("dst") in (family.metadata, family.own) and (told := _arguments(rule)) and told not in wanted
    ]


def address_findings(plan: Plan, family: Family, links: Any) -> Iterator[Finding]:
    """What is not as planned in `ip -j addr show dev …`."""
    link: Mapping[str, Any] = next(iter(_rules(links)), {})
    held = [each for each in _rules(link.get("addr_info")) if each.get("local") == family.own]
    flags = link.get("flags")
    if not held:
        yield Finding(part="addresses", family=family.name, text=f"{family.own} is not on {plan.device}")
    elif held[0].get("prefixlen") != family.length:
        yield Finding(part="addresses", family=family.name, text=f"{family.own} has no length of {family.length}")
    elif not isinstance(flags, list) or "UP" not in flags:
        yield Finding(part="addresses", family=family.name, text=f"{plan.device} is down")


def route_findings(family: Family, routes: Any) -> Iterator[Finding]:
    """What is not as planned in `ip -j route show type unreachable`."""
    if not any(each.get("dst") == family.own and each.get("metric") == int(METRIC) for each in _rules(routes)):
        yield Finding(part="routes", family=family.name, text=f"no unreachable route stands behind {family.own}")


def guard_findings(plan: Plan, family: Family, rules: Any) -> Iterator[Finding]:
    """What is not as planned in `ip -j rule`."""
    there = [_arguments(rule) for rule in _rules(rules)]
    for rule in guard(plan, family):
        if rule not in there:
            yield Finding(part="guard", family=family.name, text=f"no routing rule {' '.join(rule)}")
    for rule in stale_rules(plan, family, rules):
        yield Finding(part="guard", family=family.name, text=f"routing rule {' '.join(rule)} is not of this plan")


def rules_ahead(family: Family, rules: Any) -> Iterator[Finding]:
    """Others' routing rules that are asked before the guard: they may lead past it."""
    for rule in _rules(rules):
        number = rule.get("priority")
        ours = rule.get("dst") in (family.metadata, family.own)
        own = _local(rule)
        if isinstance(number, int) and number < BEHIND and not ours and not own:
            what = " ".join(_arguments(rule)) or f"with preference {number}"
            yield Finding(part="guard", family=family.name, text=f"another's routing rule {what} is ahead of the guard")


def _rules(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()


def _local(rule: Mapping[str, Any]) -> bool:
    return rule.get("table") in ("local", "255", 255)


def _arguments(rule: Mapping[str, Any]) -> list[str]:
    """A rule of `ip -j rule` as iproute2's arguments, in our order; empty when it has more than we can write."""
    known = {"priority", "src", "srclen", "dst", "dstlen", "iif", "ipproto", "dport", "table", "action"} | _ASIDE
    if rule.keys() - known:
        return []
    written = ["pref", str(rule.get("priority"))]
    if "iif" in rule:
        written += ["iif", str(rule["iif"])]
    if rule.get("src", "all") != "all":
        written += ["from", _network(rule, "src")]
    if rule.get("dst", "all") != "all":
        written += ["to", _network(rule, "dst")]
    written += [str(text) for key in ("ipproto", "dport") if key in rule for text in (key, rule[key])]
    if "action" in rule:
        return [*written, str(rule["action"])]
    return [*written, "lookup", str(rule.get("table"))]


def _network(rule: Mapping[str, Any], key: str) -> str:
    length = rule.get(f"{key}len")
    return str(rule[key]) if length is None else f"{rule[key]}/{length}"

"""Of the node: what its rules, links and switches, as the tools tell of them, mean for the metadata address.

Knows: the languages of iptables-save and `nft list ruleset`, the kernel's kinds of interfaces.
Must not know: how a tool is run. What the tools say is foreign input: what is not understood is no rule.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from metaproxy.addresses import METADATA_IPV4, METADATA_IPV6
from metaproxy.findings import Finding, Verdict, not_checked, ok
from metaproxy.interfaces import Interface

OURS = "METAPROXY-"
"""How chains of ours begin in iptables; in nftables ours are tables of this name in lower case."""

ON_NODE = "run metaproxy doctor --node in the container of the redirect (redirect-watch), or as root on the node"
"""Where the node's rules can be looked at."""

TARGETS = frozenset({"DNAT", "REDIRECT"})
_ADDRESSES = (METADATA_IPV4, METADATA_IPV6)
_TABLE = re.compile(r"\s*table (\S+) (\S+) \{")
_CHAIN = re.compile(r"\s*chain (\S+) \{")
_TRANSLATES = re.compile(r"\b(dnat|redirect)\b|xt target \"(DNAT|REDIRECT)\"")
_NAMED = re.compile(rf"(?<![0-9a-fA-F.:])(?:{'|'.join(re.escape(each) for each in _ADDRESSES)})(?![0-9a-fA-F.:])")
_PAST_THE_NODE = ("macvlan", "macvtap", "ipvlan", "ipvtap")


def iptables_leftovers(saved: str) -> Iterator[list[str]]:
    """Rules in what iptables-save printed that lead the metadata address elsewhere: as arguments that take them away.

    It is what kiam and kube2iam add, and never take away when they are killed: `-A PREROUTING -d 169.254.169.254/32 -i
    cali+ -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8181`.
    """
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if words[:1] != ["-A"] or len(words) < 3 or words[1].startswith(OURS):  # noqa: PLR2004  flag, chain, rule
            continue
        if table == "nat" and _after(words, "-j") in TARGETS and _after(words, "-d").partition("/")[0] in _ADDRESSES:
            yield ["-t", table, "-D", *words[1:]]


def nft_leftovers(listed: str, *, without: Iterable[str] = ()) -> Iterator[str]:
    """The same in what `nft list ruleset` printed; tables `without` are told of by another tool."""
    table = chain = ""
    told = {"ip metaproxy", "ip6 metaproxy", *without}
    for line in listed.splitlines():
        if (match := _TABLE.match(line)) is not None:
            table = f"{match[1]} {match[2]}"
        elif (match := _CHAIN.match(line)) is not None:
            chain = match[1]
        elif table not in told and _NAMED.search(line) and _TRANSLATES.search(line):
            yield f"{table} {chain}: {' '.join(line.split())}"


def _after(words: Sequence[str], flag: str) -> str:
    at = words.index(flag) if flag in words else len(words)
    return "" if words[at - 1 : at] == ["!"] else next(iter(words[at + 1 :]), "")


def leftover_findings(
    removals: Sequence[str], others: Sequence[str], looked: Sequence[str], unread: Sequence[str] = ()
) -> Iterator[Finding]:
    """What rules of others mean.

    `removals` are commands, `others` rules of nftables, `looked` the tools that answered, `unread` why others did not.
    """
    for command in removals:
        yield Finding(
            check="leftover-rules",
            verdict=Verdict.PROBLEM,
            found="a rule as kiam and kube2iam make it leads the metadata address elsewhere",
            remedy=f"end what made it, then: {command}",
        )
    for rule in others:
        yield Finding(
            check="leftover-rules",
            verdict=Verdict.PROBLEM,
            found=f"a rule of others translates the metadata address: {rule}",
            remedy="end what made it, and take it away with nft delete rule (nft -a list ruleset shows its handle)",
        )
    if unread or not looked:
        yield not_checked(
            "leftover-rules",
            "; ".join(unread) or "neither nft nor iptables is installed",
            ON_NODE,
        )
    elif not (removals or others):
        yield ok("leftover-rules", f"none ({', '.join(looked)})")


def bridges(found: Sequence[Interface]) -> dict[str, int]:
    """Bridges that have pods: names, and how many veth devices stand on each."""
    names = {each.index: each.name for each in found}
    masters = [names[each.master] for each in found if _is_pods_port(each) and each.master in names]
    return dict(Counter(masters))


def _is_pods_port(each: Interface) -> bool:
    return each.kind == "veth" and each.port_kind == "bridge"


def past_the_node(found: Sequence[Interface]) -> list[str]:
    """Interfaces whose traffic meets none of the node's hooks. Those that were moved into a pod are not among them."""
    names = {each.index: each.name for each in found}
    return [
        f"{each.kind} {each.name} on {names.get(each.below, 'another')}"
        for each in found
        if each.kind in _PAST_THE_NODE
    ]


def source_route_findings(switches: Mapping[str, str]) -> Iterator[Finding]:
    """Of `accept_source_route` by interface, `all` among them: the kernel takes such packets where both say so."""
    names = sorted(name for name, value in switches.items() if value.strip() == "1" and name not in {"all", "default"})
    if not switches:
        yield not_checked("source-route", "/proc/sys/net/ipv4/conf cannot be read", ON_NODE)
    elif names and switches.get("all", "").strip() == "1":
        yield Finding(
            check="source-route",
            verdict=Verdict.WARNING,
            found="packets that name their own way are taken: without the routing guard they get past every rule",
            remedy="sysctl -w net.ipv4.conf.all.accept_source_route=0",
            subjects=tuple(names),
        )
    else:
        yield ok("source-route", "refused")


def redirect_findings(
    differs: Sequence[str], notes: Sequence[str], backend: str, *, trouble: str = ""
) -> Iterator[Finding]:
    """Of what `metaproxy redirect check` found; `trouble` is why it could not look."""
    if trouble:
        yield not_checked("redirect", trouble, ON_NODE)
        return
    if differs:
        yield Finding(
            check="redirect",
            verdict=Verdict.PROBLEM,
            found=f"it is not in place: {len(differs)} differences from the plan",
            remedy="metaproxy redirect apply, and let metaproxy redirect watch keep it",
            subjects=tuple(differs),
        )
    else:
        yield ok("redirect", f"in place ({backend})")
    for note in notes:
        yield Finding(
            check="redirect", verdict=Verdict.WARNING, found=note, remedy="see docs/networking.md for this network"
        )

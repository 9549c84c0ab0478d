"""The netfilter rules as nftables: own tables, put in place in one transaction, and how they differ from the plan.

Knows: nft's language, as nft itself lists it.
Must not know: how a command is run, iptables.

Priority -110 is ahead of kube-proxy's translation and of every iptables rule, whoever inserts what; nobody else's table
is touched.
"""

from collections.abc import Iterator
from typing import Any

from metaproxy.redirectplan import Family, Finding, Plan

TABLE = "metaproxy"
PRIORITY, IPTABLES = -110, -100
"""Where we translate, and where iptables does: the tables `nat` of either kind."""


def table(plan: Plan, family: Family) -> str:
    """The family's own table, in the words in which nft lists it."""
    f, real, own = family.nft, family.metadata, family.own
    aside = [f'iifname "{name}" return' for name in plan.exclude]
    aside += [f"{f} saddr {source} return" for source in plan.sources_of(family)]
    translate = f"{f} daddr {real} tcp dport 80 dnat to {family.target}:{plan.port}"
    # nft writes a trailing * where iptables writes +.
    named = [f'iifname "{name[:-1] + "*" if name.endswith("+") else name}" {translate}' for name in plan.include]
    missing = "fib saddr . iif oif missing drop"
    chains = {
        f"nat hook prerouting priority {PRIORITY}": ("nat", [*aside, *(named or [translate])]),
        "filter hook forward priority -10": (
            "forward",
            [*aside, f"{f} daddr {real} tcp dport 80 reject with tcp reset"],
        ),
        "filter hook prerouting priority -300": (
            "raw",
            [*aside, f"{f} daddr {real} tcp dport 80 {missing}", f"{f} daddr {own} {missing}"],
        ),
        "filter hook input priority -10": (
            "input",
            [
                f'iif != "lo" {f} daddr {own} ct original {f} daddr != {real} drop',
                f'iif != "lo" {f} daddr {own} ct state untracked drop',
            ],
        ),
    }
    lines = [f"table {f} {TABLE} {{"]
    for hook, (name, rules) in chains.items():
        lines += [f"\tchain {name} {{", f"\t\ttype {hook}; policy accept;", *(f"\t\t{rule}" for rule in rules), "\t}"]
    return "\n".join([*lines, "}\n"])


def transaction(plan: Plan) -> str:
    """Our tables in place of whatever they were, all at once."""
    return "".join(removal(family) + table(plan, family) for family in plan.families)


def removal(family: Family) -> str:
    """Our table gone, whether it was there or not."""
    return f"add table {family.nft} {TABLE}\ndelete table {family.nft} {TABLE}\n"


def findings(plan: Plan, family: Family, listing: str) -> Iterator[Finding]:
    """What is not as planned in `nft -y list table …`; an empty listing is no table."""
    there, wanted = _lines(listing), _lines(table(plan, family))
    if not there:
        yield Finding(part="rules", family=family.name, text=f"no table {family.nft} {TABLE}")
        return
    for line in wanted:
        if line not in there:
            yield Finding(part="rules", family=family.name, text=f"not in the table: {line}")
    for line in there:
        if line not in wanted:
            yield Finding(part="rules", family=family.name, text=f"in the table, but not ours: {line}")
    if there != wanted and sorted(there) == sorted(wanted):
        yield Finding(part="rules", family=family.name, text="the table's lines are not in their order")


def chains_ahead(family: Family, listing: Any, priority: int = PRIORITY) -> Iterator[Finding]:
    """Others' chains in `nft -j list chains` that translate before ours, or at the same priority."""
    objects = listing.get("nftables") if isinstance(listing, dict) else None
    for each in objects if isinstance(objects, list) else ():
        chain = each.get("chain") if isinstance(each, dict) else None
        if not isinstance(chain, dict) or chain.get("family") not in (family.nft, "inet"):
            continue
        number = chain.get("prio")
        # Of iptables-nft's own table check says itself whether ours is first.
        ours = chain.get("table") == (TABLE if priority == PRIORITY else "nat")
        if (chain.get("type"), chain.get("hook"), ours) != ("nat", "prerouting", False):
            continue
        if isinstance(number, int) and number <= priority:
            name = f"{chain.get('family')} {chain.get('table')} {chain.get('name')}"
            yield Finding(
                part="rules",
                family=family.name,
                text=f"another's chain {name} with priority {number} translates before ours ({priority})",
            )


def _lines(text: str) -> list[str]:
    """Lines without indentation: nft lists rules as they were made, but for a word.

    What nft up to 1.1.3 lists as `fib … oif missing`, newer ones list as `fib … check missing`; all take the former.
    """
    return [line.strip().replace(" check missing ", " oif missing ") for line in text.splitlines() if line.strip()]

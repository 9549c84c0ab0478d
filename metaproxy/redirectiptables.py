"""The netfilter rules as iptables: own chains in the tables of all, for iptables-restore, and how they differ.

Knows: the language of iptables-save, which is that of iptables-restore.
Must not know: how a command is run, nftables.

Tables are shared, so a jump to our chain must stand first: what others insert later stands ahead of it until it is put
back. Each table changes at once; a chain of ours is emptied and filled in the same step, never in two.
"""

from collections.abc import Iterator, Mapping

from metaproxy.redirectplan import Family, Finding, Plan

PREFIX = "METAPROXY-"
JUMPS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "raw": (("PREROUTING", f"{PREFIX}RAW"),),
    "nat": (("PREROUTING", f"{PREFIX}NAT"),),
    "filter": (("INPUT", f"{PREFIX}INPUT"), ("FORWARD", f"{PREFIX}FORWARD")),
}
"""By table: from which of its chains to which of ours."""

TABLES = tuple(JUMPS)


def chains(plan: Plan, family: Family) -> dict[str, list[str]]:
    """Our chains' rules, in the words in which iptables-save shows them."""
    real, own = f"-d {family.metadata}/{family.length}", f"-d {family.own}/{family.length}"
    to_real = f"{real} -p tcp -m tcp --dport 80"
    aside = [f"-i {name} -j RETURN" for name in plan.exclude]
    aside += [f"-s {source} -j RETURN" for source in plan.sources_of(family)]
    translate = f"-p tcp -m tcp --dport 80 -j DNAT --to-destination {family.target}:{plan.port}"
    return {
        f"{PREFIX}RAW": [*aside, f"{to_real} -m rpfilter --invert -j DROP", f"{own} -m rpfilter --invert -j DROP"],
        f"{PREFIX}NAT": [*aside, *(f"{real} {who}{translate}" for who in [f"-i {n} " for n in plan.include] or [""])],
        f"{PREFIX}INPUT": [
            f"{own} ! -i lo -m conntrack ! --ctorigdst {family.metadata} -j DROP",
            f"{own} ! -i lo -m conntrack --ctstate UNTRACKED -j DROP",
        ],
        f"{PREFIX}FORWARD": [*aside, f"{to_real} -j REJECT --reject-with tcp-reset"],
    }


def restoration(plan: Plan, family: Family, saved: str) -> str:
    """Input of `iptables-restore --noflush` that makes it so, from what iptables-save shows now."""
    rules = chains(plan, family)
    lines: list[str] = []
    for table, jumps in JUMPS.items():
        there = _rules(saved, table)
        lines.append(f"*{table}")
        for _, chain in jumps:
            lines.append(f":{chain} - [0:0]")  # made if it is not there, emptied if it is
            lines += [f"-A {chain} {rule}" for rule in rules[chain]]
        for base, chain in jumps:
            if _first_alone(there, base, chain):
                continue  # a jump that stands well is not taken away for a moment
            lines += [f"-D {base} {rule}" for rule in there.get(base, []) if _leads_to(rule, chain)]
            lines.append(f"-I {base} 1 -j {chain}")
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def removal(saved: str) -> str:
    """Input of `iptables-restore --noflush` that takes away all that is ours; empty when nothing is."""
    lines: list[str] = []
    for table in TABLES:
        there = _rules(saved, table)
        ours = [chain for chain in there if chain.startswith(PREFIX)]
        jumps = [
            f"-D {base} {rule}"
            for base, rules in there.items()
            if base not in ours
            for rule in rules
            if _target(rule).startswith(PREFIX)
        ]
        if ours or jumps:
            lines += [f"*{table}", *jumps, *(f"-F {chain}" for chain in ours), *(f"-X {chain}" for chain in ours)]
            lines.append("COMMIT")
    return "\n".join([*lines, ""]) if lines else ""


def empty_tables(saved: str) -> list[str]:
    """Tables that hold nothing: what iptables-nft made for us and nobody else has used."""
    return [
        table
        for table in TABLES
        if f"*{table}" in saved.splitlines() and not any(_rules(saved, table).values()) and not _own(saved, table)
    ]


def empty_chains(saved: str) -> list[tuple[str, str]]:
    """Tables and chains from which we have jumped, that hold nothing and let everything pass: made for us likewise."""
    lines = saved.splitlines()
    return [
        (table, base)
        for table, jumps in JUMPS.items()
        for base, _ in jumps
        if _rules(saved, table).get(base) == [] and f":{base} ACCEPT" in {line.partition(" [")[0] for line in lines}
    ]


def has_rules(saved: str) -> bool:
    """Whether somebody else keeps rules there: what the host uses."""
    return any(
        line.startswith("-A ") and not line.startswith(f"-A {PREFIX}") and not _target(line).startswith(PREFIX)
        for line in saved.splitlines()
    )


def findings(plan: Plan, family: Family, saved: str) -> Iterator[Finding]:
    """What is not as planned in what iptables-save shows."""
    rules = chains(plan, family)
    for table, jumps in JUMPS.items():
        there = _rules(saved, table)
        for base, chain in jumps:
            if not any(_leads_to(rule, chain) for rule in there.get(base, [])):
                yield Finding(part="rules", family=family.name, text=f"{table} {base} has no jump to {chain}")
            elif not _first_alone(there, base, chain):
                yield Finding(
                    part="rules", family=family.name, text=f"{table} {base}: the jump to {chain} is not first and alone"
                )
            if chain not in there:
                yield Finding(part="rules", family=family.name, text=f"{table} has no chain {chain}")
            elif [_bare(rule) for rule in there[chain]] != [_bare(rule) for rule in rules[chain]]:
                yield Finding(part="rules", family=family.name, text=f"{table} {chain} does not hold what it should")


def _rules(saved: str, table: str) -> dict[str, list[str]]:
    """The rules of a table by chain."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in saved.splitlines():
        if line.startswith("*"):
            inside = line == f"*{table}"
        elif inside and line.startswith(":"):
            found.setdefault(line[1:].split(" ", 1)[0], [])
        elif inside and line.startswith("-A "):
            chain, _, rule = line.removeprefix("-A ").partition(" ")
            found.setdefault(chain, []).append(rule)
    return found


def _own(saved: str, table: str) -> bool:
    """Whether the table has chains of somebody's own, or a policy: then it is not nothing."""
    lines = saved.split(f"*{table}\n", 1)[1].split("COMMIT", 1)[0].splitlines()
    return any(line.startswith(":") and " ACCEPT " not in f"{line} " for line in lines)


def _target(rule: str) -> str:
    return rule.rpartition("-j ")[2].split(" ", 1)[0] if "-j " in rule else ""


def _leads_to(rule: str, chain: str) -> bool:
    return _target(rule) == chain


def _first_alone(there: Mapping[str, list[str]], base: str, chain: str) -> bool:
    rules = there.get(base, [])
    return rules[:1] == [f"-j {chain}"] and not any(_leads_to(rule, chain) for rule in rules[1:])


def _bare(rule: str) -> str:
    """Without the lengths of single addresses, which not every version writes."""
    return " ".join(word.removesuffix("/32").removesuffix("/128") for word in rule.split(" "))

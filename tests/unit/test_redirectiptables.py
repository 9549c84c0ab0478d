"""The iptables chains: what iptables-restore is given, and what iptables-save tells."""

import pytest

from metaproxy.redirectiptables import (
    JUMPS,
    chains,
    empty_chains,
    empty_tables,
    findings,
    has_rules,
    removal,
    restoration,
)
from metaproxy.redirectplan import IPV4, IPV6, Plan

PLAN = Plan()
CLEAN = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -j KUBE-SERVICES
-A POSTROUTING -s 10.0.0.0/8 -m comment --comment "to the world" -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
COMMIT
"""


def applied(saved: str, text: str) -> str:  # noqa: C901  one branch for each command
    """What iptables-save shows after iptables-restore --noflush was given the text: what both do, and no more."""
    tables: dict[str, dict[str, tuple[str, list[str]]]] = {}
    for source in (saved, text):
        table = ""
        for line in source.splitlines():
            word, _, rest = line.partition(" ")
            if line.startswith("*"):
                table = line[1:]
                tables.setdefault(table, {})
            elif line.startswith(":"):
                policy = rest.split(" ")[0]
                tables[table][word[1:]] = (policy, tables[table].get(word[1:], ("", []))[1] if policy != "-" else [])
            elif line != "COMMIT":
                chain, _, rule = rest.partition(" ")
                rules = tables[table].setdefault(chain, ("ACCEPT", []))[1]
                if word == "-A":
                    rules.append(rule)
                elif word == "-I":
                    rules.insert(0, rule.removeprefix("1 "))
                elif word == "-D":
                    rules.remove(rule)
                elif word == "-F":
                    rules.clear()
                else:
                    assert word == "-X"
                    assert not rules
                    del tables[table][chain]
    lines = []
    for table, held in tables.items():
        lines.append(f"*{table}")
        lines += [f":{chain} {policy} [0:0]" for chain, (policy, _) in held.items()]
        lines += [f"-A {chain} {rule}" for chain, (_, rules) in held.items() for rule in rules]
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def texts(saved: str, plan: Plan = PLAN) -> list[str]:
    """What is found, in words."""
    return [finding.text for finding in findings(plan, IPV4, saved)]


DONE = applied(CLEAN, restoration(PLAN, IPV4, CLEAN))


def test_what_is_put_is_found() -> None:
    """And a second time changes nothing."""
    assert len(texts(CLEAN)) == 8
    assert texts(DONE) == []
    assert applied(DONE, restoration(PLAN, IPV4, DONE)) == DONE


def test_a_jump_that_stands_is_not_touched() -> None:
    """Not for a moment is it away: requests pass meanwhile."""
    assert "-I " not in restoration(PLAN, IPV4, DONE)
    assert "-D " not in restoration(PLAN, IPV4, DONE)


def test_others_stay_as_they_are() -> None:
    """Before, after, and after it is taken away."""
    foreign = [line for line in CLEAN.splitlines() if line.startswith(("-A", ":"))]
    assert [line for line in DONE.splitlines() if line in foreign] == foreign
    assert applied(DONE, removal(DONE)) == CLEAN


def test_nothing_to_remove() -> None:
    """Nothing is said then."""
    assert removal(CLEAN) == ""
    assert removal("") == ""


@pytest.mark.parametrize("table", JUMPS)
def test_position(table: str) -> None:
    """Whoever is inserted before us is put behind us again; a second jump goes."""
    for base, chain in JUMPS[table]:
        ahead = applied(DONE, f"*{table}\n-I {base} 1 -j OTHER\nCOMMIT\n")
        assert texts(ahead) == [f"{table} {base}: the jump to {chain} is not first and alone"]
        twice = applied(DONE, f"*{table}\n-A {base} -j {chain}\nCOMMIT\n")
        assert texts(twice) == [f"{table} {base}: the jump to {chain} is not first and alone"]
        commented = applied(DONE, f'*{table}\n-I {base} 1 -m comment --comment "-j X" -j {chain}\nCOMMIT\n')
        for odd in (ahead, twice, commented):
            assert texts(applied(odd, restoration(PLAN, IPV4, odd))) == []


@pytest.mark.parametrize("chain", chains(PLAN, IPV4))
def test_content(chain: str) -> None:
    """A rule that is gone, altered or added is seen and put right."""
    lines = DONE.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"-A {chain} "))
    for odd in (lines[:at] + lines[at + 1 :], [*lines[:at], f"-A {chain} -j ACCEPT", *lines[at:]]):
        saved = "\n".join([*odd, ""])
        assert [text.split(" ", 1)[1] for text in texts(saved)] == [f"{chain} does not hold what it should"]
        assert texts(applied(saved, restoration(PLAN, IPV4, saved))) == []


def test_an_older_iptables_writes_no_lengths() -> None:
    """Of single addresses; the rules are the same."""
    assert texts(DONE.replace("--ctorigdst 169.254.169.254", "--ctorigdst 169.254.169.254/32")) == []


def test_a_chain_is_gone() -> None:
    """With its rules, but the jump is there: half a wipe."""
    lines = [line for line in DONE.splitlines() if not line.startswith((":METAPROXY-RAW", "-A METAPROXY-RAW"))]
    assert texts("\n".join(lines)) == ["raw has no chain METAPROXY-RAW"]


def test_tables_that_nobody_uses() -> None:
    """Without rules, chains of somebody's own, or a policy."""
    assert empty_tables(CLEAN) == ["raw"]
    assert empty_tables("*raw\n:PREROUTING ACCEPT [0:0]\n:MINE - [0:0]\nCOMMIT\n") == []
    assert empty_tables("") == []


def test_chains_that_nobody_uses() -> None:
    """Of those from which we jump: with a rule or a policy they are somebody's."""
    assert empty_chains(CLEAN) == [("raw", "PREROUTING"), ("filter", "INPUT")]
    assert empty_chains("") == []


def test_what_the_host_uses() -> None:
    """Our own rules do not count."""
    assert has_rules(CLEAN)
    alone = restoration(PLAN, IPV6, "").replace("-I PREROUTING 1", "-A PREROUTING")
    assert not has_rules(alone)
    assert not has_rules("")

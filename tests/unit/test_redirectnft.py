"""The nftables tables: what is told of what is there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.redirectnft import chains_ahead, findings, removal, table, transaction
from metaproxy.redirectplan import IPV4, IPV6, Plan

PLAN = Plan()
LISTING = table(PLAN, IPV4)
DROP = 'iif != "lo" ip daddr 169.254.170.254 ct state untracked drop'


def texts(listing: str) -> list[str]:
    """What is found, in words."""
    return [finding.text for finding in findings(PLAN, IPV4, listing)]


def test_what_is_made_is_found() -> None:
    """Between chains nft puts an empty line."""
    assert texts(LISTING.replace("\t}\n\tchain", "\t}\n\n\tchain")) == []


@pytest.mark.parametrize("spelling", ["oif missing", "check missing"])
def test_both_spellings_of_nft(spelling: str) -> None:
    """As nft 1.0.6 lists it, and as nft 1.1.4 does."""
    assert texts(LISTING.replace("oif missing", spelling)) == []
    assert texts(LISTING.replace("oif missing", "oif exists"))


def test_no_table() -> None:
    """It was wiped."""
    assert texts("") == ["no table ip metaproxy"]


@pytest.mark.parametrize("number", range(1, len(LISTING.splitlines()) - 1))
def test_each_line_matters(number: int) -> None:
    """A chain, a hook, a rule that is not there is missed."""
    lines = LISTING.splitlines()
    if lines[number].strip() != "}":
        assert texts("\n".join(lines[:number] + lines[number + 1 :]))


def test_what_is_not_ours() -> None:
    """A rule that somebody put into our table."""
    other = LISTING.replace("accept;\n", "accept;\n\t\tip saddr 10.0.0.1 accept\n", 1)
    assert texts(other) == ["in the table, but not ours: ip saddr 10.0.0.1 accept"]


def test_order() -> None:
    """The same lines in another order are other rules."""
    lines = LISTING.splitlines()
    at = next(number for number, line in enumerate(lines) if "fib" in line)
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    assert texts("\n".join(lines)) == ["the table's lines are not in their order"]


def test_one_transaction() -> None:
    """Both families' tables are replaced at once, never flushed first and filled later."""
    assert transaction(PLAN) == removal(IPV4) + LISTING + removal(IPV6) + table(PLAN, IPV6)


def chain(**fields: Any) -> dict[str, Any]:
    """A chain as nft tells of it."""
    base = {"family": "ip", "table": "x", "name": "y", "type": "nat", "hook": "prerouting", "prio": -150}
    return {"nftables": [{"metainfo": {}}, {"chain": base | fields}]}


def test_a_chain_ahead_is_named() -> None:
    """Who translates earlier, or at the same moment, may win."""
    told = [finding.text for finding in chains_ahead(IPV4, chain())]
    assert told == ["another's chain ip x y with priority -150 translates before ours (-110)"]
    assert list(chains_ahead(IPV4, chain(prio=-110)))
    assert list(chains_ahead(IPV6, chain(family="inet")))
    # iptables translates at -100, in a table whose order check looks at by itself.
    assert list(chains_ahead(IPV4, chain(prio=-100), -100))
    assert list(chains_ahead(IPV4, chain(prio=-100, table="nat"), -100)) == []
    assert list(chains_ahead(IPV4, chain(table="nat")))


@pytest.mark.parametrize(
    "fields",
    [
        {"prio": -100},
        {"prio": None},
        {"type": "filter"},
        {"hook": "output"},
        {"family": "ip6"},
        {"table": "metaproxy"},
    ],
)
def test_others_are_not(fields: dict[str, Any]) -> None:
    """Chains behind ours, of another kind, elsewhere."""
    assert list(chains_ahead(IPV4, chain(**fields))) == []


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["nftables", "chain", "family", "prio"]), inner, max_size=4)
        ),
    )
)
def test_answers_are_foreign_input(answer: Any) -> None:
    """Whatever nft says."""
    assert list(chains_ahead(IPV4, answer)) == []

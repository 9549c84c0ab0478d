"""Addresses, routes and guard: what iproute2 is told, and what its answers mean."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.redirectplan import IPV4, IPV6, Family, Finding, Plan
from metaproxy.redirectroutes import (
    address,
    address_findings,
    guard,
    guard_findings,
    route_findings,
    rules_ahead,
    speaker,
    stale_rules,
)

PLAN = Plan(device="mp0", exclude=("docker0",), sources=(ip_network("10.1.0.0/16"), ip_network("192.0.2.7/32")))
LOCAL = {"priority": 0, "src": "all", "table": "local"}
REST = [{"priority": 32766, "src": "all", "table": "main"}, {"priority": 32767, "src": "all", "table": "default"}]
TCP = {"dst": "169.254.169.254", "ipproto": "tcp"}
TO = {**TCP, "dport": 80}

# As iproute2 6.1 tells of what `guard` makes.
RULES: list[dict[str, Any]] = [
    LOCAL,
    {"priority": 1, "src": "all", "iif": "lo", **TO, "table": "main"},
    {"priority": 1, "src": "all", "iif": "docker0", "iif_detached": None, **TO, "table": "main"},
    {"priority": 1, "src": "10.1.0.0", "srclen": 16, **TO, "table": "main"},
    {"priority": 1, "src": "192.0.2.7", **TO, "table": "main", "protocol": "unspec"},
    {"priority": 1, "src": "all", **TCP, "dport_start": 1, "dport_end": 79, "goto": 4},
    {"priority": 1, "src": "all", **TCP, "dport_start": 81, "dport_end": 65534, "goto": 4, "unresolved": None},
    {"priority": 2, "src": "all", **TCP, "action": "prohibit"},
    {"priority": 3, "src": "all", "dst": "169.254.170.254", "table": "local"},
    {"priority": 4, "src": "all", "dst": "169.254.170.254", "action": "unreachable"},
    *REST,
]

LINK: dict[str, Any] = {
    "ifname": "mp0",
    "flags": ["BROADCAST", "UP", "LOWER_UP"],
    "addr_info": [
        {"family": "inet", "local": "169.254.170.254", "prefixlen": 32},
        {"family": "inet6", "local": "fd00:a9fe:170::254", "prefixlen": 128},
    ],
}


def texts(findings: Any) -> list[str]:
    """The findings in words."""
    return [finding.text for finding in findings]


def test_a_single_source_is_written_as_iproute2_tells_it() -> None:
    """What is made is found again: a network of one address has no length there."""
    assert list(guard_findings(PLAN, IPV4, RULES)) == []
    assert stale_rules(PLAN, IPV4, RULES) == []


@pytest.mark.parametrize("missing", range(1, 10))
def test_each_rule_is_missed(missing: int) -> None:
    """Whichever goes."""
    there = [rule for number, rule in enumerate(RULES) if number != missing]
    assert len(texts(guard_findings(PLAN, IPV4, there))) == 1


@pytest.mark.parametrize(
    "altered",
    [
        {"action": "unreachable"},
        {"dport": 81},
        {"fwmark": "0x1"},
        {"dst": "169.254.169.253"},
        {"priority": 7},
        {"dstlen": 24},
    ],
)
def test_an_altered_rule_is_another(altered: dict[str, Any]) -> None:
    """A rule that is narrower, elsewhere or does something else does not guard."""
    there = [rule | altered if rule.get("action") == "prohibit" else rule for rule in RULES]
    assert any("prohibit" in text and text.startswith("no ") for text in texts(guard_findings(PLAN, IPV4, there)))


def test_an_exemption_of_another_plan_is_a_hole() -> None:
    """What was excluded once and is no longer must go."""
    found = texts(guard_findings(Plan(device="mp0"), IPV4, RULES))
    assert len(found) == 3
    assert all("is not of this plan" in text for text in found)
    assert stale_rules(Plan(device="mp0"), IPV4, RULES)[1][:-2] == [
        "pref",
        "1",
        "from",
        "10.1.0.0/16",
        "to",
        "169.254.169.254",
        "ipproto",
        "tcp",
        "dport",
        "80",
    ]


@pytest.mark.parametrize(
    "key", ["sport", "fwmark", "not", "tos", "oif", "uid_start", "suppress_prefixlength", "l3mdev"]
)
def test_a_rule_that_we_would_not_write_is_a_difference(key: str) -> None:
    """About the metadata address and at our place: whatever it does, it is named, and cannot be taken away by words."""
    odd = {"priority": 1, "src": "all", **TCP, key: 7, "table": "main"}
    (found,) = texts(guard_findings(PLAN, IPV4, [odd, *RULES]))
    assert found.startswith("routing rule priority 1 ")
    assert f"{key} 7" in found
    assert stale_rules(PLAN, IPV4, [odd, *RULES]) == []


def test_others_rules_elsewhere_are_others() -> None:
    """Behind the guard, or ahead of it at 0: not ours to take away."""
    behind = {"priority": 200, "src": "10.9.0.1", "dst": "169.254.169.254", "table": "77"}
    assert list(guard_findings(PLAN, IPV4, [*RULES, behind])) == []
    assert stale_rules(PLAN, IPV4, [*RULES, behind]) == []


def test_others_ahead_of_the_guard_are_named() -> None:
    """They may lead past it."""
    other = {"priority": 1, "src": "all", "fwmark": "0x1", "table": "100"}
    plain = {"priority": 0, "src": "10.0.0.0", "srclen": 8, "table": "100"}
    ours = {"priority": 0, "src": "all", "dst": "169.254.169.254", "table": "100"}
    assert list(rules_ahead(IPV4, RULES)) == []
    assert texts(rules_ahead(IPV4, [other, plain, ours, *RULES])) == [
        "another's routing rule priority 1 src all fwmark 0x1 table 100 is ahead of the guard",
        "another's routing rule pref 0 from 10.0.0.0/8 lookup 100 is ahead of the guard",
        "another's routing rule pref 0 to 169.254.169.254 lookup 100 is ahead of the guard",
    ]


@pytest.mark.parametrize(
    ("link", "text"),
    [
        ({}, "169.254.170.254/32 is not on mp0"),
        ({**LINK, "addr_info": LINK["addr_info"][1:]}, "169.254.170.254/32 is not on mp0"),
        ({**LINK, "flags": ["BROADCAST"]}, "mp0 is down: bring it up"),
        ({**LINK, "flags": None}, "mp0 is down: bring it up"),
        ({**LINK, "addr_info": [{"local": "169.254.170.254", "prefixlen": 24}]}, "169.254.170.254/32 is not on mp0"),
    ],
)
def test_addresses(link: dict[str, Any], text: str) -> None:
    """The device, its state, the address, its length."""
    assert list(address_findings(PLAN, IPV4, [LINK])) == []
    assert list(address_findings(PLAN, IPV6, [LINK])) == []
    assert texts(address_findings(PLAN, IPV4, [link])) == [text]
    assert list(address_findings(PLAN, IPV4, [])) == [
        Finding(part="addresses", family="IPv4", text="169.254.170.254/32 is not on mp0")
    ]


def test_routes() -> None:
    """The unreachable route behind the address, with its own metric."""
    there = [{"type": "unreachable", "dst": "169.254.170.254", "metric": 9999, "flags": []}]
    assert list(route_findings(IPV4, there)) == []
    assert texts(route_findings(IPV4, [{**there[0], "metric": 1}])) == [
        "no unreachable route stands behind 169.254.170.254"
    ]
    assert str(next(route_findings(IPV6, []))) == "routes: IPv6: no unreachable route stands behind fd00:a9fe:170::254"


def test_over_ipv6_what_is_not_known_to_be_no_tcp_is_stopped() -> None:
    """A rule for TCP does not see it behind a chain of headers; over IPv4 nothing can stand before it."""
    assert ["pref", "2", "to", "fd00:ec2::254", "prohibit"] in guard(PLAN, IPV6)
    for name in ("udp", "ipv6-icmp"):
        assert ["pref", "1", "to", "fd00:ec2::254", "ipproto", name, "goto", "4"] in guard(PLAN, IPV6)
    assert ["pref", "2", "to", "169.254.169.254", "ipproto", "tcp", "prohibit"] in guard(PLAN, IPV4)


@pytest.mark.parametrize(
    ("family", "routes", "own"),
    [
        (IPV4, [{"dst": "169.254.169.254", "gateway": "10.9.0.2", "prefsrc": "10.9.0.1"}], ("10.9.0.1",)),
        (IPV6, [{"dst": "fd00:ec2::254", "prefsrc": "fd09::1"}], ("fd09::1",)),
        (IPV4, [{"prefsrc": IPV4.own}], ()),
        (IPV4, [{"prefsrc": "fd09::1"}], ()),
        (IPV4, [{"prefsrc": 7}, "x"], ()),
        (IPV4, [], ()),
        (IPV4, None, ()),
    ],
)
def test_who_the_node_speaks_as(family: Family, routes: Any, own: tuple[str, ...]) -> None:
    """By the route; never as the agent."""
    assert speaker(family, routes) == own


def test_the_node_is_known_by_the_address_that_it_speaks_from() -> None:
    """A check of the reverse path has nothing else; each family has its own."""
    plan = replace(PLAN, speakers=("10.9.0.1", "fd09::1"))
    assert "pref 1 from 10.9.0.1 to 169.254.169.254 goto 4" in [" ".join(rule) for rule in guard(plan, IPV4)]
    assert "pref 1 from fd09::1 to fd00:ec2::254 goto 4" in [" ".join(rule) for rule in guard(plan, IPV6)]
    assert len(guard(plan, IPV4)) == len(guard(PLAN, IPV4)) + 1


def test_ipv6_waits_for_no_duplicates() -> None:
    """While duplicates are looked for, the address does not answer."""
    assert address(PLAN, IPV6)[-1] == "nodad"
    assert "nodad" not in address(PLAN, IPV4)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["priority", "src", "dst", "table", "action", "addr_info", "x"]), inner, max_size=5
        )
    ),
)


@given(JSON)
def test_answers_are_foreign_input(answer: Any) -> None:
    """Whatever a tool says, something is found and nothing breaks."""
    assert list(guard_findings(PLAN, IPV4, answer))
    assert list(address_findings(PLAN, IPV4, answer))
    assert list(route_findings(IPV4, answer))
    list(rules_ahead(IPV4, answer))

"""Which port pods are led to while the agent's changes."""

import pytest

from metaproxy.redirectiptables import chains
from metaproxy.redirectnft import table
from metaproxy.redirectplan import IPV4, IPV6, Family, Plan
from metaproxy.redirectport import kept, led_to, listened_at
from metaproxy.tcptable import Holder


@pytest.mark.parametrize("family", [IPV4, IPV6], ids=lambda family: family.name)
def test_what_is_put_is_read(family: Family) -> None:
    """The port of the plan, in the words of either kind."""
    plan = Plan(port=8282, include=("cali+", "eni1"))
    assert led_to(table(plan, family)) == 8282
    assert led_to("\n".join(chains(plan, family)["METAPROXY-NAT"])) == 8282


def test_others_lead_elsewhere() -> None:
    """To addresses that are not ours, or to none."""
    assert led_to("") is None
    assert led_to("-A X -p tcp -j DNAT --to-destination 10.0.0.1:8181\nip daddr 10.0.0.9 dnat to 10.0.0.2:1") is None
    assert led_to("-A X -j DNAT --to-destination 10.0.0.1:1\n-A Y -j DNAT --to-destination 169.254.170.254:2") == 2


@pytest.mark.parametrize(
    ("host", "there"),
    [
        ("169.254.170.254", True),
        ("fd00:a9fe:170::254", True),
        ("0.0.0.0", True),
        ("::", True),
        ("127.0.0.1", False),
        ("10.0.1.1", False),
        ("fd00:a9fe:170::255", False),
    ],
)
def test_who_listens(host: str, there: bool) -> None:
    """At our addresses, or at all of them; on loopback, or at another address of the node, no pod is led to it."""
    assert listened_at([Holder(host, 8181, 65532, 1)]) == ({8181} if there else set())


@pytest.mark.parametrize(
    ("now", "listened", "port"),
    [
        (None, set(), 8282),
        (8282, {8181}, 8282),
        (8181, {8181}, 8181),
        (8181, {8181, 8282}, 8282),
        (8181, {8282}, 8282),
        (8181, set(), 8282),
    ],
)
def test_never_from_somebody_to_nobody(now: int | None, listened: set[int], port: int) -> None:
    """The old port is kept only while it is served and the new one is not."""
    assert kept(8282, now, frozenset(listened)) == port

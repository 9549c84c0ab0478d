"""Which port pods are led to while the agent's changes."""

import sys

import pytest

from metaproxy.redirectiptables import chains
from metaproxy.redirectnft import table
from metaproxy.redirectplan import IPV4, IPV6, Family, Plan
from metaproxy.redirectport import kept, led_to, listened_at

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(local: str, state: str = "0A") -> str:
    """A line of /proc/net/tcp as proc(5) has it."""
    return f"   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 65532        0 1 1\n"


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


LITTLE = {
    "169.254.170.254": "FEAAFEA9",
    "fd00:a9fe:170::254": "FEA900FD000070010000000054020000",
    "every": "00000000",
    "every of IPv6": "00000000000000000000000000000000",
}


@pytest.mark.parametrize("place", LITTLE.values(), ids=list(LITTLE))
def test_who_listens(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """At our addresses, or at all of them; whoever is connected listens not."""
    monkeypatch.setattr(sys, "byteorder", "little")
    assert listened_at([HEADER + row(f"{place}:1FF5"), HEADER]) == {8181}
    assert listened_at([HEADER + row(f"{place}:1FF5", state="01")]) == set()


def test_a_machine_of_the_other_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the kernel prints addresses as they are written."""
    monkeypatch.setattr(sys, "byteorder", "big")
    assert listened_at([row("A9FEAAFE:1FF5")]) == {8181}


def test_who_listens_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback, or at another address of the node: no pod is led there."""
    monkeypatch.setattr(sys, "byteorder", "little")
    assert listened_at([row("0100007F:1FF5"), row("0101000A:1FF6")]) == set()
    assert listened_at(["", "no table"]) == set()


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

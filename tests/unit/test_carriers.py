"""What carries an address, by what the kernel has said: links, routes, bridges, dumps and what is said during them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy import kernelview
from metaproxy.carriers import Carrier, Seen, Table
from metaproxy.netlink import Fact, Forwarding, Link, Neighbour, Route

A, B, SIX = "10.0.0.1", "10.0.0.2", "fd00::1"
ETH, CALI, BRIDGE, PORT, OTHER = 1, 2, 3, 4, 5
MAC, MAC2 = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"


def link(index: int, *, bridge: bool = False, up: bool = True, name: str = "", gone: bool = False) -> Link:
    """A device."""
    return Link(index=index, bridge=bridge, up=up, life=(name.encode(),), gone=gone)


def route(to: str, device: int, *, metric: int = 0, tos: int = 0, gone: bool = False) -> Route:
    """A route."""
    network = ipaddress.ip_network(to)
    return Route(
        network=int(network.network_address),
        version=network.version,
        length=network.prefixlen,
        link=device,
        metric=metric,
        tos=tos,
        gone=gone,
    )


def neighbour(address: str, hardware: bytes = b"", device: int = BRIDGE) -> Neighbour:
    """A neighbour; without hardware address the kernel does not know it."""
    return Neighbour(link=device, address=address, hardware=hardware)


def forwarding(hardware: bytes, port: int, *, vlan: int = 0, gone: bool = False) -> Forwarding:
    """An entry of the bridge."""
    return Forwarding(bridge=BRIDGE, hardware=hardware, port=port, vlan=vlan, gone=gone)


BRIDGED: tuple[Fact, ...] = (
    link(BRIDGE, bridge=True),
    link(PORT, name="p"),
    link(OTHER, name="o"),
    route("10.0.0.0/24", BRIDGE),
    route("fd00::/64", BRIDGE),
)


def dumped(table: Table, *facts: Fact) -> Seen:
    """Everything is listed: this."""
    table.begin()
    for fact in facts:
        table.listed(fact)
    return table.finish()


def filled(*facts: Fact, wanted: tuple[str, ...] = (A,)) -> Table:
    """A table that has heard these facts and looks after these addresses."""
    table = Table()
    for address in wanted:
        table.want(address)
    for fact in facts:
        table.heard(fact)
    return table


def sight(table: Table, address: str = A) -> Carrier | None:
    """The carrier that was reported, which must be what looking anew shows."""
    before = table.sights[address]
    assert table.want(address) == before, "a change was not reported"
    return before


def test_a_host_route_is_the_device_itself() -> None:
    """Of either family; a route to many is none, nor is one over a gateway, or to a device that is down or unknown."""
    table = filled(link(CALI), route(f"{A}/32", CALI), route(f"{SIX}/128", CALI), wanted=(A, SIX, B))
    found = sight(table)
    assert found is not None
    assert (found.link, found.bridge, found.device) == (CALI, 0, (CALI, found.born))
    assert sight(table, SIX) == found
    assert sight(table, B) is None
    for without in (
        (link(CALI), route("10.0.0.0/24", CALI)),
        (link(CALI), route(f"{A}/32", 0)),
        (link(CALI, up=False), route(f"{A}/32", CALI)),
        (route(f"{A}/32", CALI),),
    ):
        assert sight(filled(*without)) is None


def test_the_longest_and_the_preferred_route_count() -> None:
    """As for the kernel: length first, then no type of service, then the metric."""
    base = (link(ETH, name="e"), link(CALI, name="c"))
    table = filled(*base, route("0.0.0.0/0", ETH), route(f"{A}/32", CALI, metric=10))
    assert sight(table) == Carrier(link=CALI, born=2)
    table.heard(route(f"{A}/32", ETH, metric=5))
    assert sight(table) == Carrier(link=ETH, born=1)
    table.heard(route(f"{A}/32", CALI, tos=8))
    assert sight(table) == Carrier(link=ETH, born=1)
    table.heard(route(f"{A}/32", CALI, metric=5, gone=True))
    assert sight(table) == Carrier(link=ETH, born=1), "another's route was taken away"
    for metric in (5, 10):
        table.heard(route(f"{A}/32", ETH if metric == 5 else CALI, metric=metric, gone=True))
    table.heard(route(f"{A}/32", CALI, tos=8, gone=True))
    assert sight(table) is None
    table.heard(route("192.0.2.0/24", ETH, gone=True))
    table.heard(route("0.0.0.0/0", ETH, gone=True))
    assert table._view.routes == {}


def test_on_a_bridge_it_is_hardware_address_and_port() -> None:
    """Until the kernel knows both it is awaited, with what is known; two ports in two VLANs are none."""
    table = filled(*BRIDGED)
    assert sight(table) == Carrier(bridge=BRIDGE)
    assert table.heard(neighbour(A, MAC)).sights == {A: Carrier(bridge=BRIDGE, hardware=MAC)}
    known = Carrier(link=PORT, born=2, bridge=BRIDGE, hardware=MAC)
    assert table.heard(forwarding(MAC, PORT)).sights == {A: known}
    assert table.heard(forwarding(MAC, PORT)).sights == {}
    assert table.heard(forwarding(MAC, OTHER, vlan=7)).sights == {A: Carrier(bridge=BRIDGE, hardware=MAC)}
    assert table.heard(forwarding(MAC, OTHER, vlan=7, gone=True)).sights == {A: known}
    moved = table.heard(forwarding(MAC, OTHER)).sights[A]
    assert moved == Carrier(link=OTHER, born=3, bridge=BRIDGE, hardware=MAC)
    assert table.heard(neighbour(A, MAC2)).sights == {A: Carrier(bridge=BRIDGE, hardware=MAC2)}
    assert table.heard(neighbour(A)).sights == {A: Carrier(bridge=BRIDGE)}
    assert table.heard(neighbour(A)).sights == {}
    assert table.heard(forwarding(MAC2, PORT, gone=True)).sights == {}
    assert sight(table) == Carrier(bridge=BRIDGE)
    assert Carrier(bridge=BRIDGE).device is None


def test_only_what_is_wanted_is_reported() -> None:
    """Facts about other addresses are kept, not told; who is forgotten is told of no more."""
    table = filled(*BRIDGED, wanted=(A,))
    assert table.heard(neighbour(B, MAC2)) == Seen({}, ())
    assert table.heard(forwarding(MAC2, PORT)) == Seen({}, ())
    assert table.heard(route(f"{B}/32", ETH)) == Seen({}, ())
    assert table.want("10.0.0.3") == Carrier(bridge=BRIDGE)
    table.forget(A)
    table.forget("never wanted")
    assert table.heard(neighbour(A, MAC)) == Seen({}, ())
    assert dict(table.sights) == {"10.0.0.3": Carrier(bridge=BRIDGE)}


def test_a_device_that_goes_takes_everything_with_it() -> None:
    """Routes, neighbours and ports; one with the same index is another."""
    table = filled(
        *BRIDGED, neighbour(A, MAC), forwarding(MAC, PORT), forwarding(MAC2, PORT), forwarding(MAC2, OTHER, vlan=1)
    )
    seen = table.heard(link(PORT, gone=True))
    assert seen == Seen({A: Carrier(bridge=BRIDGE, hardware=MAC)}, ((PORT, 2),))
    table.heard(link(PORT, name="p"))
    table.heard(forwarding(MAC, PORT))
    again = sight(table)
    assert again is not None
    assert again.link == PORT
    assert again.born > 3
    assert table.heard(link(BRIDGE, bridge=True, gone=True)) == Seen({A: None}, ((BRIDGE, 1),))
    assert (table._view.ports, table._view.neighbours, table._view.routes) == ({}, {}, {})
    assert table.heard(link(99, gone=True)) == Seen({}, ())


def test_a_device_that_goes_down_loses_its_routes() -> None:
    """The kernel says nothing of IPv4's. Its life goes on, so it is the same when it is up and has its route again."""
    table = filled(link(CALI), link(ETH), route(f"{A}/32", CALI), route(f"{B}/32", ETH))
    before = sight(table)
    assert table.heard(link(CALI, up=False)).sights == {A: None}
    assert table.heard(link(CALI, name="renamed")).sights == {}
    assert table.heard(route(f"{A}/32", CALI)).sights == {A: before}


def test_a_dump_is_the_truth() -> None:
    """What it does not list is not there; whose index was given anew in the meantime is another device."""
    table = filled(
        link(CALI, name="a"), link(ETH, name="e"), route(f"{A}/32", CALI), route(f"{B}/32", ETH), wanted=(A, B)
    )
    before = sight(table)
    assert dumped(
        table, link(CALI, name="a"), link(ETH, name="e"), route(f"{A}/32", CALI), route(f"{B}/32", ETH)
    ) == Seen({}, ())
    assert sight(table) == before
    seen = dumped(table, link(CALI, name="b"), route(f"{A}/32", CALI))
    assert sorted(seen.dead) == [(ETH, 2), (CALI, 1)]
    assert seen.sights[B] is None
    after = sight(table)
    assert after is not None
    assert before is not None
    assert (after.link, after.born != before.born) == (CALI, True)


def test_what_is_said_during_a_dump_is_newer_than_it() -> None:
    """An entry can be listed before it changes, and be delivered after."""
    table = filled(*BRIDGED, neighbour(A, MAC), forwarding(MAC, PORT))
    table.begin()
    table.heard(neighbour(A, MAC2))
    table.heard(link(OTHER, gone=True))
    table.heard(route("10.9.0.0/24", PORT))
    table.heard(forwarding(MAC2, PORT))
    for fact in (*BRIDGED, neighbour(A, MAC), forwarding(MAC, PORT), route("10.9.0.0/24", ETH)):
        table.listed(fact)
    assert table.finish() == Seen({}, ())
    assert sight(table) == Carrier(link=PORT, born=2, bridge=BRIDGE, hardware=MAC2)
    assert OTHER not in table._view.links


def test_words_of_no_dump_are_nothing() -> None:
    """A part of a list that nobody asked for, and an end of none."""
    table = filled(*BRIDGED)
    table.listed(neighbour(A, MAC))
    assert table.finish() == Seen({}, ())
    assert sight(table) == Carrier(bridge=BRIDGE)


def test_a_flood_of_hardware_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod makes up as many as it likes: what no neighbour has is forgotten, the oldest first."""
    monkeypatch.setattr(kernelview, "FORWARDING", 64)
    table = filled(*BRIDGED, neighbour(A, MAC), forwarding(MAC, PORT))
    for number in range(10_000):
        table.heard(forwarding(number.to_bytes(6), OTHER))
    assert len(table._view.ports) <= 64
    assert sight(table) == Carrier(link=PORT, born=2, bridge=BRIDGE, hardware=MAC)
    assert table._view.ports[BRIDGE, (9_999).to_bytes(6)] == {(OTHER, 0)}


def test_ports_that_are_not_watched_are_not_believed() -> None:
    """Neither what is said of them, nor later what was known: what was not heard may have changed it."""
    table = filled(*BRIDGED, neighbour(A, MAC), neighbour(B, MAC2), forwarding(MAC2, PORT), neighbour(SIX, MAC2, ETH))
    assert table.pairs == {(BRIDGE, MAC)}
    table.want(B)
    assert table.pairs == {(BRIDGE, MAC), (BRIDGE, MAC2)}
    table.begin()
    table.heard(neighbour(B))
    table.listed(link(BRIDGE, bridge=True))
    table.listed(neighbour(A, MAC2))
    assert table.pairs == {(BRIDGE, MAC), (BRIDGE, MAC2)}, "what is known, and what is listed"
    table.heard(forwarding(MAC2, OTHER))
    table.watch(frozenset({(BRIDGE, MAC)}))
    assert table.heard(forwarding(MAC2, PORT)) == Seen({}, ())
    assert table.heard(forwarding(MAC, PORT)).sights == {A: Carrier(link=PORT, born=2, bridge=BRIDGE, hardware=MAC)}
    assert table._view.ports == {(BRIDGE, MAC): {(PORT, 0)}}
    table.finish()
    assert table._view.ports == {(BRIDGE, MAC): {(PORT, 0)}}
    table.watch(frozenset())
    assert table._view.ports == {}
    table.watch(None)
    table.heard(forwarding(MAC2, PORT))
    assert table._view.ports == {(BRIDGE, MAC2): {(PORT, 0)}}


def test_a_bridge_that_knows_vlans_is_noticed() -> None:
    """In what is known, and in what is listed."""
    table = filled(*BRIDGED)
    known = [table.vlans]
    table.begin()
    table.listed(Link(index=9, bridge=True, vlans=True))
    known.append(table.vlans)
    table.finish()
    assert [*known, table.vlans] == [False, True, True]


ADDRESSES = (A, B, SIX)
FACTS = st.one_of(
    st.builds(
        link, st.integers(1, 5), bridge=st.booleans(), up=st.booleans(), name=st.sampled_from("ab"), gone=st.booleans()
    ),
    st.builds(
        route,
        st.sampled_from([f"{A}/32", f"{B}/32", "10.0.0.0/24", "0.0.0.0/0", f"{SIX}/128", "fd00::/64"]),
        st.integers(0, 5),
        metric=st.integers(0, 2),
        gone=st.booleans(),
    ),
    st.builds(neighbour, st.sampled_from(ADDRESSES), st.sampled_from([b"", MAC, MAC2]), st.integers(1, 5)),
    st.builds(
        Forwarding,
        bridge=st.integers(1, 5),
        hardware=st.sampled_from([MAC, MAC2]),
        port=st.integers(1, 5),
        vlan=st.integers(0, 1),
        gone=st.booleans(),
    ),
)


@given(st.lists(FACTS, max_size=40))
def test_every_change_is_reported(facts: list[Fact]) -> None:
    """Whatever is heard, what was last reported of each address is what looking anew shows."""
    table = filled(*facts, wanted=ADDRESSES)
    for address in ADDRESSES:
        sight(table, address)


@given(st.lists(FACTS, max_size=20), st.lists(FACTS, max_size=20), st.integers(0, 20))
def test_a_dump_with_words_between_is_the_words_after_it(listed: list[Fact], heard: list[Fact], cut: int) -> None:
    """However a dump and notifications interleave, the outcome is that of the list overridden by what was said."""
    table = Table()
    for address in ADDRESSES:
        table.want(address)
    table.begin()
    listed = [fact for fact in listed if isinstance(fact, Neighbour) or not fact.gone]
    for fact in listed[:cut]:
        table.listed(fact)
    for fact in heard:
        table.heard(fact)
    for fact in listed[cut:]:
        table.listed(fact)
    table.finish()
    for address in ADDRESSES:
        sight(table, address)
    said: dict[object, Fact] = {kernelview.about(fact): fact for fact in heard if not isinstance(fact, Link)}
    for fact in said.values():
        if isinstance(fact, Neighbour) and fact.hardware and not any(isinstance(each, Link) for each in heard):
            assert table._view.neighbours[fact.link, fact.address] == fact.hardware

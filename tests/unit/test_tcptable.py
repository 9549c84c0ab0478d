"""The kernel's table of who listens, as it writes it; and whatever else could stand there."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.tcptable import Holder, holders

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
LINES = [
    HEAD,
    " 0: 01014D7F:1FF5 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 277907 1 0 100 0 0 10 0",
    " 1: 00000000:23DD 00000000:0000 0A 00000000:00000000 00:00000000 00000000 65532        0 277895 1 0 100 0 0 10 0",
]
ELSE = "   2: 0100007F:A2C4 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 9 1 0 100 0 0 10 0"
IPV6 = (
    "   0: FEA900FD00000000000000005402A9FE:1FF5 00000000000000000000000000000000:0000 0A 00000000:00000000 "
    "00:00000000 00000000   100        0 5 1 0 100 0 0 10 0"
)


def test_those_that_listen() -> None:
    """Of both families, with the user and the inode, up to the first that does not listen."""
    assert list(holders([*LINES, ELSE, LINES[1]])) == [
        Holder("127.77.1.1", 8181, 0, 277907),
        Holder("0.0.0.0", 9181, 65532, 277895),
    ]
    (found,) = holders([HEAD, IPV6])
    assert (found.host, found.port, found.uid, found.inode) == ("fd00:a9fe::fea9:254", 8181, 100, 5)


def test_a_machine_of_the_other_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the kernel prints addresses as they are written."""
    monkeypatch.setattr(sys, "byteorder", "big")
    (found,) = holders([LINES[1].replace("01014D7F", "7F4D0101")])
    assert found.host == "127.77.1.1"


@pytest.mark.parametrize("field", [1, 7, 9])
def test_a_line_that_is_none_is_passed_over(field: int) -> None:
    """A later kernel may write otherwise: nothing is believed of it."""
    fields = LINES[1].split()
    fields[field] = "zz:zz"
    assert list(holders([" ".join(fields), LINES[2]])) == [Holder("0.0.0.0", 9181, 65532, 277895)]


@given(st.lists(st.text(max_size=60) | st.just(LINES[1])))
def test_total(lines: list[str]) -> None:
    """Whatever the lines."""
    assert {*holders(lines)} <= {Holder("127.77.1.1", 8181, 0, 277907)}


@pytest.mark.parametrize(
    ("host", "wanted", "keeps"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "127.0.0.2", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("::1", "::1", True),
        ("::", "::1", True),
        ("::", "127.0.0.1", True),
        ("::1", "127.0.0.1", False),
        ("0.0.0.0", "::1", False),
        ("127.0.0.1", "::", False),
    ],
)
def test_who_is_in_the_way(host: str, wanted: str, keeps: bool) -> None:
    """The same address, or every address; at another port nobody."""
    assert Holder(host, 80, 0, 1).keeps(wanted, 80) is keeps
    assert not Holder(host, 80, 0, 1).keeps(wanted, 81)

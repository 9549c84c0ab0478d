"""The doctor's look at the kernel's own files and links: what is not there, and what goes while it is looked at."""

import socket
from pathlib import Path

import pytest

from metaproxy import doctornode
from metaproxy.redirectplan import IPV4, IPV6


def test_an_interface_that_goes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is no interface; the others are told of."""
    monkeypatch.setattr(doctornode, "_SWITCHES", tmp_path)
    for name in ("all", "gone"):
        (tmp_path / name).mkdir()
    (tmp_path / "all" / "accept_source_route").write_text("0\n")
    (tmp_path / "gone" / "accept_source_route").symlink_to("nowhere")
    assert doctornode._source_routes() == {"all": "0\n"}


def test_whether_there_are_legacy_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel tells it by family; what cannot be read may well say that there are."""
    monkeypatch.setattr(doctornode, "_PROC_NET", tmp_path)
    assert not doctornode._has_legacy_table(IPV4)
    (tmp_path / "ip_tables_names").write_text("filter\n")
    assert not doctornode._has_legacy_table(IPV4)
    (tmp_path / "ip_tables_names").write_text("filter\nnat\n")
    assert doctornode._has_legacy_table(IPV4)
    (tmp_path / "ip6_tables_names").mkdir()
    assert doctornode._has_legacy_table(IPV6)


def test_a_kernel_that_is_not_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are then not known, which is not the same as none."""
    assert doctornode.links().past is not None
    monkeypatch.setattr(socket, "AF_NETLINK", 46)  # a family that this kernel has not
    assert doctornode.links() == doctornode.Links()

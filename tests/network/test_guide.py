"""What the networking guide tells people to type does what it says."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from metaproxy.__main__ import main
from metaproxy.redirectplan import IPV4, IPV6, Plan
from metaproxy.redirectroutes import guard
from tests.network.lab.namespaces import until
from tests.network.lab.node import Lab
from tests.network.test_leaks import answered

GUIDE = (Path(__file__).parents[2] / "docs" / "networking.md").read_text()
UNIT = [line.removeprefix("ExecStart=-/sbin/").split() for line in GUIDE.splitlines() if line.startswith("ExecStart=")]


def test_the_unit_is_the_guard() -> None:
    """The lines that run before the kubelet are the rules that apply makes."""
    assert [
        ["ip", family.flag, "rule", "add", *rule] for family in (IPV4, IPV6) for rule in guard(Plan(), family)
    ] == UNIT


def test_the_unit_closes_a_booting_node(build: Callable[..., Lab]) -> None:
    """With it alone no pod reaches the real service, the host does; apply then takes over what is there."""
    lab = build()
    for command in UNIT:
        lab.node.shell(" ".join(command))
    lab.records()
    assert answered(lab.aims) == []
    for family, address in ((4, "169.254.169.254"), (6, "[fd00:ec2::254]")):
        assert family in lab.families
        assert "real metadata service" in lab.node.run("curl", "-sg", "--noproxy", "*", f"http://{address}/host").stdout
    lab.apply()
    lab.agent()
    pod = lab.pods[0]
    until(lambda: pod.curl("http://169.254.169.254/latest/meta-data/iam/security-credentials/") == pod.role)
    assert lab.leaks() == []


@pytest.mark.parametrize("command", sorted(set(re.findall(r"metaproxy redirect render[a-z -]*", GUIDE))))
def test_what_is_rendered(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each form that the guide names is there."""
    assert main(command.split()[1:]) == 0
    assert capsys.readouterr().out


def test_settings_that_are_named_exist() -> None:
    """Flags of the guide, with their values, are understood."""
    flags = re.findall(r"`(--(?:redirect|server)\.[a-z-]+)(?:[ =]([^` ]+))?`", GUIDE)
    assert len(flags) >= 8
    known = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for flag, _ in flags:
        assert f"`{flag}`" in known

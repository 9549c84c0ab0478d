"""The redirect on paper: what `metaproxy redirect render` prints, compared with files that people have read.

python -m tests.unit.test_redirectrender     write the files anew, to be read again

"""

from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from metaproxy.redirectplan import IPV4, Plan
from metaproxy.redirectrender import cilium, guard_script, script

GOLDEN = Path(__file__).parent / "golden"

CHOSEN = Plan(
    device="eth0",
    own_device=False,
    port=8181,
    include=("cali+", "eni1"),
    exclude=("docker0",),
    sources=(ip_network("10.1.0.0/16"), ip_network("fd01::/64")),
)

TEXTS = {
    "redirect-nftables.sh": script(Plan(), "nftables"),
    "redirect-iptables-nft.sh": script(Plan(), "iptables-nft"),
    "redirect-iptables-legacy.sh": script(Plan(), "iptables-legacy"),
    "redirect-chosen-nftables.sh": script(CHOSEN, "nftables"),
    "redirect-chosen-iptables-nft.sh": script(CHOSEN, "iptables-nft"),
    "redirect-ipv4-nftables.sh": script(Plan(families=(IPV4,)), "nftables"),
    "redirect-guard.sh": guard_script(Plan()),
    "redirect-chosen-guard.sh": guard_script(CHOSEN),
    "redirect-cilium.yaml": cilium(Plan()),
}


@pytest.mark.parametrize("name", TEXTS)
def test_golden(name: str) -> None:
    """What is printed is what was read and approved."""
    assert TEXTS[name] == (GOLDEN / name).read_text()


def test_every_golden_file_is_compared() -> None:
    """None is left over."""
    assert {path.name for path in GOLDEN.glob("redirect-*")} == set(TEXTS)


def test_the_order_leaves_no_gap() -> None:
    """Address, route, guard, rules, stale connections: each is there before what needs it closed behind it."""
    text = script(Plan(families=(IPV4,)), "nftables")
    steps = ["addr replace", "route replace unreachable", "prohibit", "to 169.254.170.254 unreachable", "dnat", "-D -f"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_cilium_is_yaml() -> None:
    """A document for each family, to the agent's port; the agent itself is not led to itself."""
    documents = list(yaml.safe_load_all(cilium(Plan(port=8181))))
    assert [one["spec"]["redirectFrontend"]["addressMatcher"]["ip"] for one in documents] == [
        "169.254.169.254",
        "fd00:ec2::254",
    ]
    assert all(one["spec"]["skipRedirectFromBackend"] is True for one in documents)
    assert {one["spec"]["redirectBackend"]["toPorts"][0]["port"] for one in documents} == {"8181"}


if __name__ == "__main__":
    for name, text in TEXTS.items():
        (GOLDEN / name).write_text(text)

"""The redirect command on a real kernel, in a network namespace of the test's own."""

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from metaproxy.redirectneighbours import hearing
from metaproxy.redirectplan import BACKENDS
from tests.network.conftest import PROBES, kernel_lacks
from tests.network.lab.namespaces import Namespace, until
from tests.network.lab.processes import Process

SNAPSHOT = """
nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip -o addr
for f in ip ip6; do ${f}tables-legacy-save | grep -- '^-A' || true; done
"""

FOREIGN = """
nft -f - <<'END'
table inet firewall { chain forward { type filter hook forward priority 0; policy accept; ip saddr 192.0.2.1 drop
}
}
END
iptables-nft -t nat -A PREROUTING -p tcp --dport 443 -j DNAT --to-destination 10.0.0.1
iptables-legacy -t nat -A PREROUTING -p tcp --dport 444 -j DNAT --to-destination 10.0.0.1
ip rule add pref 100 from 192.0.2.0/24 lookup 77
"""

DAMAGE = {
    "address": ("ip addr del 169.254.170.254/32 dev mp0", "addresses: IPv4: 169.254.170.254/32 is not on mp0"),
    "route": ("ip route del unreachable 169.254.170.254", "routes: IPv4: no unreachable route stands behind"),
    "guard": ("ip -6 rule del pref 2", "guard: IPv6: no routing rule pref 2 to fd00:ec2::254 prohibit"),
    "narrowed guard": (
        "ip rule del pref 2; ip rule add pref 2 to 169.254.169.254 ipproto tcp dport 81 prohibit",
        "guard: IPv4: no routing rule pref 2 to 169.254.169.254 ipproto tcp prohibit",
    ),
    "hole in the guard": (
        "ip rule add pref 1 from 10.0.0.0/8 to 169.254.169.254 ipproto tcp dport 80 lookup main",
        "guard: IPv4: routing rule pref 1 from 10.0.0.0/8 to 169.254.169.254 ipproto tcp dport 80 lookup main is not",
    ),
    "hole that is wider than ours": (
        "ip rule add pref 1 to 169.254.169.254 ipproto tcp dport 80 lookup main",
        "guard: IPv4: routing rule pref 1 to 169.254.169.254 ipproto tcp dport 80 lookup main is not",
    ),
}

WIPES = {
    "nftables": {
        "wiped": ("nft flush ruleset", "rules: IPv4: no table ip metaproxy"),
        "one rule": ("nft flush chain ip metaproxy nat", "rules: IPv4: not in the table: ip daddr 169.254.169.254"),
        "another's rule": (
            "nft insert rule ip6 metaproxy nat ip6 saddr fd01::1 accept",
            "rules: IPv6: in the table, but not ours: ip6 saddr fd01::1 accept",
        ),
    },
    **{
        backend: {
            "wiped": (
                f"iptables-{kind} -t nat -F",
                "rules: IPv4: nat PREROUTING has no jump to METAPROXY-NAT",
            ),
            "position": (
                f"ip6tables-{kind} -t nat -I PREROUTING 1 -p tcp -j ACCEPT",
                "rules: IPv6: nat PREROUTING: the jump to METAPROXY-NAT is not first and alone",
            ),
            "content": (
                f"iptables-{kind} -A METAPROXY-INPUT -j ACCEPT",
                "rules: IPv4: filter METAPROXY-INPUT does not hold what it should",
            ),
        }
        for backend, kind in (("iptables-nft", "nft"), ("iptables-legacy", "legacy"))
    },
}


class Machine:
    """A namespace with a device for the addresses, and the command in it."""

    def __init__(self, backend: str = "auto") -> None:
        self.namespace = Namespace("redirect")
        self.backend = backend
        # Without duplicate detection, so that nothing appears by itself a second later.
        self.shell("sysctl -qw net.ipv6.conf.default.accept_dad=0; ip link add mp0 type bridge; ip link set mp0 up")

    def shell(self, script: str) -> str:
        """Run a script that must succeed."""
        return self.namespace.shell(script)

    def command(self, verb: str, *arguments: str) -> list[str]:
        """The command as words."""
        flags = ("--redirect.device=mp0", f"--redirect.backend={self.backend}", "--redirect.listen=127.0.0.1:9182")
        return [sys.executable, "-m", "metaproxy", "redirect", verb, *flags, *arguments]

    def run(self, verb: str, *arguments: str, code: int = 0, **environment: str) -> str:
        """What it prints; the exit code must be this."""
        words = [f"{name}={value}" for name, value in environment.items()]
        done = self.namespace.run("env", *words, *self.command(verb, *arguments))
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def snapshot(self) -> str:
        """Everything that the redirect could change."""
        return self.shell(SNAPSHOT)


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    """Machines as the test wants them."""
    made: list[Machine] = []

    def make(backend: str = "auto") -> Machine:
        if backend != "auto" and (why := kernel_lacks(PROBES[backend])):
            pytest.skip(f"no {backend} in this kernel: {why}")
        made.append(Machine(backend))
        return made[-1]

    yield make
    for each in made:
        each.namespace.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_life(machine: Callable[..., Machine], backend: str) -> None:
    """Applied twice it is the same; each damage is seen, named and mended; removed, nothing of it is there."""
    here = machine(backend)
    document = json.loads(here.run("check", "--json", code=1))
    assert (document["in_place"], document["backend"]) == (False, backend)
    assert {(one["part"], one["family"]) for one in document["differs"]} == {
        (part, family) for part in ("addresses", "routes", "guard", "rules") for family in ("IPv4", "IPv6")
    }
    assert here.run("apply") == f"in place ({backend})\n"
    once = here.snapshot()
    assert json.loads(here.run("apply", "--json")) == {
        "in_place": True,
        "backend": backend,
        "differs": [],
        "notes": [],
    }
    assert here.snapshot() == once
    for damage, told in (DAMAGE | WIPES[backend]).values():
        here.shell(damage)
        assert told in here.run("check", code=1)
        assert here.run("apply").splitlines()[-1] == f"in place ({backend})"
        here.run("check")
    here.run("remove")
    for mark in ("metaproxy", "METAPROXY", "169.254.", "fd00:"):
        assert mark not in here.snapshot()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_left(machine: Callable[..., Machine], backend: str) -> None:
    """Others' rules, routes and addresses are byte for byte what they were, while it is there and after it is gone."""
    here = machine(backend)
    here.shell(FOREIGN)
    before = here.snapshot()
    here.run("apply")
    there = here.snapshot().splitlines()
    assert [line for line in before.splitlines() if line not in there] == []
    here.run("remove")
    here.run("remove")
    assert here.snapshot() == before


@pytest.mark.parametrize("backend", ["nftables", "iptables-nft"])
def test_the_watch_repairs_what_the_kernel_tells_of(machine: Callable[..., Machine], backend: str) -> None:
    """It puts everything in place; each damage is mended at once, counted and said; its end removes nothing."""
    here = machine(backend)
    watch = Process(here.namespace.command(*here.command("watch", "--log.format=json")))
    try:
        watch.wait_for("watching the redirect")
        for number, (damage, told) in enumerate((DAMAGE | WIPES[backend]).values(), 2):
            here.shell(damage)
            watch.wait_for(told)
            until(lambda: here.namespace.run(*here.command("check")).returncode == 0)
            repaired = [json.loads(line) for line in watch.lines if '"repaired"' in line]
            assert len(repaired) >= number
        page = _page(here, "/metrics")
        assert "metaproxy_redirect_in_place 1.0" in page
        counts = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line[0] != "#"}
        for part in ("addresses", "routes", "guard", "rules"):
            assert counts[f'metaproxy_redirect_repairs_total{{part="{part}"}}'] >= 2
        assert _page(here, "/readyz") == "ok\n"
    finally:
        watch.end(signal.SIGTERM)
    assert watch.popen.returncode == 0
    here.run("check")


def test_a_device_that_is_down(machine: Callable[..., Machine]) -> None:
    """It is the operator's, so it is named and not touched; what is ours on it comes back with it."""
    here = machine("nftables")
    here.run("apply")
    here.shell("ip link set mp0 down")
    assert "addresses: IPv4: mp0 is down" in here.run("apply", code=1)
    here.shell("ip link set mp0 up")
    here.run("apply")


def test_a_killed_watch_removes_nothing(machine: Callable[..., Machine]) -> None:
    """A dead process leaves a closed door."""
    here = machine("nftables")
    watch = Process(here.namespace.command(*here.command("watch")))
    watch.wait_for("watching the redirect")
    watch.end(signal.SIGKILL)
    here.run("check")


FIXED = {
    "fd00::2": "permanent",
    "fd00::3": "noarp",
    "fd00::4": "reachable extern_learn",
    "fd00::5": "noarp extern_learn",
}
"""Entries that whoever made them makes again, if anybody does."""


def test_who_changes_on_a_bridge_is_asked_for_anew(machine: Callable[..., Machine]) -> None:
    """Also when it was there before the watch; not off bridges, nor what somebody has fixed. It is counted and said."""
    here = machine("nftables")
    here.shell("ip link add veth0 type veth peer name veth1; ip link set veth0 up; ip link set veth1 up")

    def put(device: str, address: str, hardware: int, state: str = "reachable") -> None:
        place = f"lladdr 02:00:00:00:00:{hardware:02x} dev {device}"
        here.shell(f"ip -6 neigh replace {address} {place} nud {state}")

    def known(device: str) -> str:
        return here.shell(f"ip -6 neigh show dev {device}")

    with ExitStack() as stack:
        for device in ("mp0", "veth0"):
            put(device, "fd00::1", 1)
        for address, state in FIXED.items():
            put("mp0", address, 1, state)
        watch = Process(here.namespace.command(*here.command("watch")))
        stack.callback(watch.end, signal.SIGTERM)
        watch.wait_for("watching the redirect")
        for device in ("mp0", "veth0"):
            put(device, "fd00::1", 2)
        for address, state in FIXED.items():
            put("mp0", address, 2, state)
        until(lambda: "fd00::1 " not in known("mp0"))
        # It goes on, for who answers next may be the thief again.
        put("mp0", "fd00::1", 2)
        until(lambda: "fd00::1 " not in known("mp0"))
        everything = here.shell("ip -6 neigh show nud all dev mp0")
        for address in FIXED:
            assert f"{address} lladdr 02:00:00:00:00:02" in everything
        page = _page(here, "/metrics").splitlines()
        (count,) = (line for line in page if line.startswith("metaproxy_redirect_neighbours"))
        assert float(count.split()[1]) >= 2
        assert len([line for line in watch.lines if "asking anew whose the address is" in line]) == 1
        assert "fd00::1 lladdr 02:00:00:00:00:02" in known("veth0")


def test_what_bridges_learn_is_not_heard(machine: Callable[..., Machine]) -> None:
    """A pod can make a bridge learn hardware addresses without end: the kernel throws its word on them away."""
    here = machine("nftables")
    here.shell("ip link add veth0 type veth peer name veth1; ip link set veth0 master mp0 up; ip link set veth1 up")
    with here.namespace.inside():
        told = hearing()
    with told:
        here.shell("for n in 1 2 3; do bridge fdb replace 02:00:00:00:01:0$n dev veth0 master dynamic; done")
        here.shell("ip -6 neigh replace fd00::9 lladdr 02:00:00:00:00:09 dev mp0 nud reachable")
        told.settimeout(10.0)
        said = b""
        while b"\x02\0\0\0\0\x09" not in said:
            said += told.recv(65536)
        assert b"\x02\0\0\0\x01" not in said


def _page(here: Machine, path: str) -> str:
    with here.namespace.inside():
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:9182{path}", timeout=60) as answer:
            return str(answer.read().decode())


def test_the_backend_is_the_hosts(machine: Callable[..., Machine]) -> None:
    """Own tables where nothing speaks against it; legacy where the host keeps its rules there alone; ours if there."""
    fresh, legacy, both = machine(), machine(), machine()
    assert fresh.run("apply") == "in place (nftables)\n"
    legacy.shell("iptables-legacy -A FORWARD -s 192.0.2.1 -j DROP")
    assert legacy.run("apply") == "in place (iptables-legacy)\n"
    legacy.shell("iptables-legacy -D FORWARD -s 192.0.2.1 -j DROP")
    assert legacy.run("check") == "in place (iptables-legacy)\n"
    both.shell("iptables-legacy -A FORWARD -s 192.0.2.1 -j DROP; iptables-nft -A FORWARD -s 192.0.2.1 -j DROP")
    assert both.run("apply") == "in place (nftables)\n"


@pytest.mark.parametrize("other", ["iptables-nft", "iptables-legacy"])
def test_another_backend_takes_over(machine: Callable[..., Machine], other: str) -> None:
    """What was made with another backend goes, once the new rules stand."""
    here = machine(other)
    before = here.snapshot()
    here.run("apply")
    here.backend = "nftables"
    here.run("apply")
    assert "METAPROXY" not in here.snapshot()
    here.run("remove")
    assert here.snapshot() == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_choices(machine: Callable[..., Machine], backend: str) -> None:
    """Included and excluded interfaces and sources, by the short names too; changed later, the old exemptions go."""
    here = machine(backend)
    chosen = ["--include-interface", "cali+", "--include-interface=eni1", "--exclude-interface", "docker0"]
    chosen += ["--exclude-source", "10.1.0.0/16", "--exclude-source=192.0.2.7", "--redirect.exclude-source=fd01::/64"]
    here.run("apply", *chosen)
    here.run("check", *chosen)
    assert "is not of this plan" in here.run("check", code=1)
    rules = here.shell("ip rule; ip -6 rule")
    for text in ("iif docker0", "from 10.1.0.0/16", "from 192.0.2.7", "from fd01::/64"):
        assert text in rules
    here.run("apply")
    rules = here.shell("ip rule; ip -6 rule")
    for text in ("docker0", "10.1.0.0", "192.0.2.7", "fd01::"):
        assert text not in rules
    here.run("check")


def test_a_rule_that_cannot_be_taken_away_by_words(machine: Callable[..., Machine]) -> None:
    """It has more than we would write: check and apply say so, and are not content."""
    here = machine("nftables")
    here.run("apply")
    here.shell("ip rule add pref 1 to 169.254.169.254 sport 1024-65534 lookup main")
    for verb in ("check", "apply"):
        assert "guard: IPv4: routing rule priority 1 " in here.run(verb, code=1)


def test_others_rules_stay(machine: Callable[..., Machine]) -> None:
    """About the same address, but not at our preferences: put in place, and away, beside them."""
    here = machine("nftables")
    here.shell(
        "ip rule add pref 30000 to 169.254.169.254 lookup 77; ip rule add pref 200 from 10.9.0.1 to 169.254.169.254"
    )
    before = here.snapshot()
    here.run("apply")
    here.run("remove")
    assert here.snapshot() == before


def test_the_device_has_gone(machine: Callable[..., Machine]) -> None:
    """What is left can be looked at and taken away; to put something there needs it."""
    here = machine("nftables")
    before = here.snapshot()
    here.run("apply")
    here.shell("ip link del mp0")
    assert "is not on mp0" in here.run("check", code=1)
    assert "there is no device mp0" in here.run("apply", code=2)
    here.run("remove")
    gone = [line for line in before.splitlines() if "mp0" not in line]
    assert [line for line in here.snapshot().splitlines() if line not in gone] == []


def test_a_failing_step_leaves_none_undone(machine: Callable[..., Machine]) -> None:
    """The device goes while it is watched, and the rest is wiped: all that needs no device is put back."""
    here = machine("nftables")
    watch = Process(here.namespace.command(*here.command("watch", "--log.format=json")))
    try:
        watch.wait_for("watching the redirect")
        here.shell("ip link del mp0; for p in 1 1 1 2; do ip rule del pref $p; done; nft flush ruleset")
        watch.wait_for("the redirect is not in place")
        until(lambda: "prohibit" in here.shell("ip rule") and "reject" in here.shell("nft list ruleset"))
    finally:
        watch.end(signal.SIGTERM)


def test_a_watch_without_its_backend_keeps_the_guard(machine: Callable[..., Machine], tmp_path: Path) -> None:
    """Nft is missing: what needs only routing rules closes the node all the same."""
    here = machine()
    here.backend = "nftables"
    (tmp_path / "ip").symlink_to(str(shutil.which("ip")))
    command = here.command("watch", "--log.format=json")
    watch = Process(here.namespace.command("env", f"PATH={tmp_path}", *command))
    try:
        watch.wait_for("nft is not installed")
        assert "prohibit" in here.shell("ip rule")
        assert "prohibit" in here.shell("ip -6 rule")
    finally:
        watch.end(signal.SIGTERM)


def probe(here: Machine, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What an exec probe of a watch says that has a socket of its own."""
    command = [sys.executable, "-m", "metaproxy", "health", "--redirect", f"--redirect.socket={path}", *options]
    return here.namespace.run(*command)


def test_a_successor_waits_its_turn(machine: Callable[..., Machine], tmp_path: Path) -> None:
    """Two watches that want different things would undo each other's: the second begins when the first has ended.

    Meanwhile it answers its own probes, and is ready: the first one's end waits for that.
    """
    here = machine("nftables")
    first = Process(here.namespace.command(*here.command("watch", "--log.format=json")))
    second = None
    try:
        first.wait_for("watching the redirect")
        flags = ("--redirect.port=8282", f"--redirect.socket={tmp_path / 'second'}", "--log.format=json")
        second = Process(here.namespace.command(*here.command("watch", *flags)))
        second.wait_for("another watch is at work")
        here.run("check")
        assert probe(here, tmp_path / "second").returncode == 0
        waits = probe(here, tmp_path / "second", "--ready")
        assert (waits.returncode, "turn: another watch is at work" in waits.stdout) == (0, True), waits
        first.end(signal.SIGTERM)
        second.wait_for("watching the redirect")
        here.run("check", "--redirect.port=8282")
        assert not [line for line in first.lines if "repaired" in line][1:]
        assert "turn: ours" in probe(here, tmp_path / "second", "--ready").stdout
        until(
            lambda: here.namespace.run("curl", "-s", "--noproxy", "*", "http://127.0.0.1:9182/readyz").stdout == "ok\n"
        )
    finally:
        first.end(signal.SIGKILL)
        if second is not None:
            second.end(signal.SIGTERM)
    assert not (tmp_path / "second").exists()


def test_a_successor_that_is_told_to_end_while_it_waits(machine: Callable[..., Machine]) -> None:
    """It ends at once, and has changed nothing."""
    here = machine("nftables")
    first = Process(here.namespace.command(*here.command("watch", "--log.format=json")))
    try:
        first.wait_for("watching the redirect")
        second = Process(here.namespace.command(*here.command("watch", "--redirect.port=8282", "--log.format=json")))
        second.wait_for("another watch is at work")
        second.end(signal.SIGTERM)
        assert second.popen.returncode == 0
        here.run("check")
    finally:
        first.end(signal.SIGKILL)


def test_the_rules_are_gone_and_the_probe_says_so(machine: Callable[..., Machine], tmp_path: Path) -> None:
    """A watch that cannot put them back is alive, and not ready."""
    here = machine("nftables")
    socket = tmp_path / "probe"
    flags = (f"--redirect.socket={socket}", "--log.format=json")
    watch = Process(here.namespace.command(*here.command("watch", *flags)))
    try:
        watch.wait_for("watching the redirect")
        assert probe(here, socket, "--ready").returncode == 0
        here.shell("ip link del mp0")
        watch.wait_for("the redirect is not in place")
        assert probe(here, socket).returncode == 0
        unready = probe(here, socket, "--ready")
        assert (unready.returncode, "[-] redirect: " in unready.stdout) == (1, True), unready
    finally:
        watch.end(signal.SIGTERM)


def test_nobody_else_changes_what_a_watch_keeps(machine: Callable[..., Machine]) -> None:
    """Another plan is left to the watch, which would undo it; what is taken away it would put back."""
    here = machine("nftables")
    watch = Process(here.namespace.command(*here.command("watch", "--log.format=json")))
    try:
        watch.wait_for("watching the redirect")
        assert "a watch is at work" in here.run("apply", "--redirect.port=8282")
        assert "a watch is at work" in here.run("remove", code=1)
        here.run("check")
    finally:
        watch.end(signal.SIGTERM)
    here.run("apply", "--redirect.port=8282")
    here.run("check", "--redirect.port=8282")
    here.run("remove")


SQUAT = """
import os, signal, socket, sys
user, how = sys.argv[1:]
os.setuid(int(user))
name = socket.socket(socket.AF_UNIX)
name.bind(chr(0) + "metaproxy-redirect")
if how != "deaf":
    name.listen(0 if how == "crowded" else 8)
if how == "crowded":
    first = socket.socket(socket.AF_UNIX)
    first.connect(chr(0) + "metaproxy-redirect")
print("has it", flush=True)
signal.pause()
"""

SQUATTERS = {
    "another user": ("65534", "listens"),
    "deaf": ("65534", "deaf"),
    "deaf, as root": ("0", "deaf"),
    "crowded": ("65534", "crowded"),
}
"""Those that have the name of a watch, and show that they are none."""


@pytest.mark.parametrize("who", SQUATTERS.values(), ids=SQUATTERS)
def test_a_name_that_somebody_else_has_stops_no_watch(machine: Callable[..., Machine], who: tuple[str, str]) -> None:
    """Who is of another user, or cannot be asked, is no watch: that is said, and done is what is wanted."""
    here = machine("nftables")
    squatter = Process(here.namespace.command(sys.executable, "-c", SQUAT, *who))
    watch = None
    try:
        squatter.wait_for("has it")
        watch = Process(here.namespace.command(*here.command("watch", "--log.format=json")))
        watch.wait_for("has the name of one")
        watch.wait_for("watching the redirect")
        here.run("check")
        watch.end(signal.SIGTERM)
        told = json.loads(here.run("apply", "--json"))
        assert told["in_place"]
        assert told["notes"][0].endswith("has the name of a watch and is none")
        assert "has the name of a watch and is none" in here.run("remove")
        here.run("check", code=1)
    finally:
        squatter.end(signal.SIGKILL)
        if watch is not None:
            watch.end(signal.SIGTERM)


def test_a_node_that_is_open_is_closed_whoever_has_the_turn(machine: Callable[..., Machine]) -> None:
    """To say that one is a watch, and to keep nothing in place, keeps nobody from applying."""
    here = machine("nftables")
    squatter = Process(here.namespace.command(sys.executable, "-c", SQUAT, "0", "listens"))
    try:
        squatter.wait_for("has it")
        assert "a watch is at work" not in here.run("apply")
        assert "a watch is at work" in here.run("apply")
    finally:
        squatter.end(signal.SIGKILL)


LISTEN = """
import signal, socket, sys
for port in map(int, sys.argv[1:]):
    one = socket.create_server(("0.0.0.0", port))
    globals()[f"_{port}"] = one
print("listens", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_port_changes_when_somebody_listens_there(machine: Callable[..., Machine], backend: str) -> None:
    """Until then pods are led to the old one, by the watch and by apply; where nobody serves that, there is no wait."""
    here = machine(backend)
    here.run("apply")
    old = Process(here.namespace.command(sys.executable, "-c", LISTEN, "8181"))
    new = None
    try:
        old.wait_for("listens")
        told = here.run("apply", "--redirect.port=8282")
        assert "note: pods are led to port 8181 until somebody listens at 8282" in told
        here.run("check")
        new = Process(here.namespace.command(sys.executable, "-c", LISTEN, "8282"))
        new.wait_for("listens")
        assert "until somebody listens" not in here.run("apply", "--redirect.port=8282")
        # To the old one nobody is led back while the new one serves alone.
        old.end(signal.SIGKILL)
        assert "note: pods are led to port 8282 until somebody listens at 8181" in here.run("check")
        new.end(signal.SIGKILL)
        here.run("check", code=1)
        here.run("apply")
        here.run("check")
    finally:
        old.end(signal.SIGKILL)
        if new is not None:
            new.end(signal.SIGKILL)


@pytest.mark.parametrize("backends", [("nftables", "iptables-nft"), ("iptables-legacy", "nftables")], ids="-then-".join)
def test_the_port_changes_together_with_the_backend(machine: Callable[..., Machine], backends: tuple[str, str]) -> None:
    """The rules of the former backend lead pods to the port that is served, and so do the new ones."""
    former, now = backends
    here = machine(former)
    here.run("apply")
    old = Process(here.namespace.command(sys.executable, "-c", LISTEN, "8181"))
    new = None
    try:
        old.wait_for("listens")
        here.backend = now
        for _ in range(2):
            told = here.run("apply", "--redirect.port=8282")
            assert "note: pods are led to port 8181 until somebody listens at 8282" in told
        new = Process(here.namespace.command(sys.executable, "-c", LISTEN, "8282"))
        new.wait_for("listens")
        assert "until somebody listens" not in here.run("apply", "--redirect.port=8282")
    finally:
        old.end(signal.SIGKILL)
        if new is not None:
            new.end(signal.SIGKILL)


@pytest.mark.parametrize("backend", ["iptables-nft", "iptables-legacy"])
def test_a_foreign_chain_ahead_of_iptables_is_named(machine: Callable[..., Machine], backend: str) -> None:
    """Where nft can tell of it, whichever backend is ours."""
    here = machine(backend)
    here.run("apply")
    here.shell("nft add table ip foreign; nft 'add chain ip foreign c { type nat hook prerouting priority -100; }'")
    told = here.run("check")
    assert "note: rules: IPv4: another's chain ip foreign c with priority -100 translates before ours (-100)" in told


def test_a_foreign_chain_ahead_is_named(machine: Callable[..., Machine]) -> None:
    """Nothing can be repaired there, so it is a note, and another's routing rule ahead of the guard as well."""
    here = machine("nftables")
    here.run("apply")
    here.shell(
        "nft add table ip foreign; nft 'add chain ip foreign c { type nat hook prerouting priority -150; }'\n"
        "ip rule add pref 0 from 192.0.2.0/24 lookup 77"
    )
    told = here.run("check")
    assert "note: rules: IPv4: another's chain ip foreign c with priority -150 translates before ours (-110)" in told
    assert "note: guard: IPv4: another's routing rule pref 0 from 192.0.2.0/24 lookup 77 is ahead of the guard" in told
    assert len(json.loads(here.run("check", "--json"))["notes"]) == 2


def test_networks_that_lead_pods_off_the_node_first(machine: Callable[..., Machine]) -> None:
    """The VPC CNI puts the table of local addresses behind rules of its own: ours is still found, or nothing is."""
    here = machine("nftables")
    here.shell("ip rule add pref 20 lookup local; ip rule del pref 0; ip rule add pref 10 lookup 77")
    here.shell("ip addr add 192.0.2.1/24 dev mp0; ip route add default via 192.0.2.2 dev mp0 table 77")
    here.run("apply")
    here.run("check")
    assert here.shell("ip route get 169.254.170.254").startswith("local ")
    here.shell("ip addr del 169.254.170.254/32 dev mp0")
    assert here.namespace.run("ip", "route", "get", "169.254.170.254").returncode == 2
    here.run("remove")
    assert "169.254" not in here.shell("ip rule")


def test_ipv6_is_disabled(machine: Callable[..., Machine]) -> None:
    """On the device, the rest is closed and it is said; nothing breaks."""
    here = machine("nftables")
    here.shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    told = here.run("apply")
    assert told.startswith("note: IPv6 is disabled on mp0: who asks fd00:ec2::254 is refused\n")
    assert "prohibit" in here.shell("ip -6 rule")
    here.run("check")
    here.run("remove")


def test_an_nft_that_lists_otherwise(machine: Callable[..., Machine], tmp_path: Path) -> None:
    """From 1.1.4 on it has another word for a missing route than the one that it was given."""
    here = machine("nftables")
    for tool in ("ip", "conntrack", "sed", "sh"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    newer = tmp_path / "nft"
    newer.write_text(
        f'#!/bin/sh\n{shutil.which("nft")} "$@" >{tmp_path}/listed || exit\n'
        f"exec sed 's/oif missing/check missing/' {tmp_path}/listed\n"
    )
    newer.chmod(0o755)
    assert here.run("apply", PATH=str(tmp_path)) == "in place (nftables)\n"
    assert here.run("check", PATH=str(tmp_path)) == "in place (nftables)\n"


def test_no_conntrack_tool(machine: Callable[..., Machine], tmp_path: Path) -> None:
    """It is named; all else is in place."""
    here = machine("nftables")
    for tool in ("ip", "nft"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    told = here.run("apply", PATH=str(tmp_path))
    assert "note: conntrack is not installed" in told
    assert told.endswith("in place (nftables)\n")


def test_no_tool_at_all(machine: Callable[..., Machine]) -> None:
    """Each that is missing is named."""
    here = machine()
    assert "ip is not installed" in here.run("apply", code=1, PATH="/nowhere")
    for verb in ("apply", "check"):
        command = here.command(verb, "--json")
        done = here.namespace.run("env", "PATH=/nowhere", *command)
        assert done.returncode == 1
        assert json.loads(done.stdout) == {"in_place": False, "error": done.stderr.strip().removeprefix("metaproxy: ")}


def test_no_netfilter_tool(machine: Callable[..., Machine], tmp_path: Path) -> None:
    """The backend that was asked for, or all, are named."""
    here = machine()
    (tmp_path / "ip").symlink_to(str(shutil.which("ip")))
    assert "neither nft nor iptables works here" in here.run("check", code=1, PATH=str(tmp_path))
    # Every other layer is put in place all the same.
    assert "neither nft nor iptables works here" in here.run("apply", code=1, PATH=str(tmp_path))
    assert "prohibit" in here.shell("ip rule")
    assert "neither nft nor iptables works here" in here.run("remove", code=1, PATH=str(tmp_path))
    assert "prohibit" not in here.shell("ip rule")
    here.backend = "iptables-nft"
    assert "iptables-nft-save is not installed" in here.run("apply", code=1, PATH=str(tmp_path))


def test_no_dummy_devices(machine: Callable[..., Machine]) -> None:
    """Where the kernel has none, an existing device is asked for; where it has, the own one comes and goes."""
    here = machine("nftables")
    command = [word for word in here.command("apply") if "device" not in word]
    done = here.namespace.run(*command)
    if kernel_lacks("ip link add x type dummy"):
        assert done.returncode == 1
        assert "no dummy devices: name an existing device with --redirect.device" in done.stderr
        # What needs no device closes the node meanwhile.
        assert "prohibit" in here.shell("ip rule")
        assert "reject with tcp reset" in here.shell("nft list ruleset")
    else:
        assert done.returncode == 0, done.stderr
        assert "metaproxy0" in here.shell("ip -br link")
        assert here.namespace.run(*[word if word != "apply" else "remove" for word in command]).returncode == 0
        assert "metaproxy0" not in here.shell("ip -br link")


@pytest.mark.parametrize("verb", ["apply", "watch"])
def test_a_device_that_is_not_there(machine: Callable[..., Machine], verb: str) -> None:
    """Is bad usage."""
    done = machine().namespace.run(sys.executable, "-m", "metaproxy", "redirect", verb, "--redirect.device=nowhere0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "metaproxy: --redirect.device: there is no device nowhere0\n"


@pytest.mark.parametrize("verb", ["apply", "check", "remove", "watch"])
def test_without_privilege(machine: Callable[..., Machine], verb: str) -> None:
    """Exit code 1, which capability, and for what."""
    here = machine("nftables")
    dropped = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = here.namespace.run(*dropped, *here.command(verb))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "metaproxy: CAP_NET_ADMIN is missing: it takes it to read and change addresses, routes and netfilter\n"
    )


def test_render_needs_no_privilege_and_changes_nothing(machine: Callable[..., Machine]) -> None:
    """It is for review, on whatever machine."""
    here = machine("nftables")
    before = here.snapshot()
    done = here.namespace.run("setpriv", "--bounding-set=-net_admin", *here.command("render"))
    assert done.returncode == 0
    assert "dnat to 169.254.170.254:8181" in done.stdout
    assert here.snapshot() == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_rendered_script_is_the_redirect(machine: Callable[..., Machine], backend: str) -> None:
    """What was printed, run by a shell, is what check wants to see; twice too, but for a second jump of iptables."""
    here = machine(backend)
    script = here.run("render")
    for _ in range(2 if backend == "nftables" else 1):
        done = subprocess.run(
            here.namespace.command("sh", "-e"), input=script, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert here.run("check") == f"in place ({backend})\n"

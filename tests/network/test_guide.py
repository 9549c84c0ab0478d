"""What the networking guide tells people to type does what it says."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGTERM

import pytest

from metaproxy.__main__ import main
from metaproxy.redirectplan import IPV4, IPV6, Plan
from metaproxy.redirectroutes import guard
from tests.guides import Typed
from tests.network.lab.namespaces import PATIENCE, Namespace, until
from tests.network.lab.node import Lab
from tests.network.lab.processes import QUIET, Process
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


def typed_on(lab: Lab, line: str, *codes: int) -> str:
    """What a command on the node prints, which must end with one of these codes, 0 unless told otherwise."""
    done = lab.node.run("bash", "-ec", re.sub("^metaproxy ", f"{sys.executable} -m metaproxy ", line))
    assert done.returncode in (codes or (0,)), done.stdout + done.stderr
    return done.stdout


@pytest.mark.runs("docs/networking.md", "metaproxy redirect …", "curl -s …")
@pytest.mark.runs("README.md", "metaproxy redirect watch", "curl http://169.254.169.254/metaproxy/explain")
@pytest.mark.runs("docs/iam.md", "curl http://169.254.169.254/metaproxy/explain")
@pytest.mark.runs("docs/faq.md", "curl http://169.254.169.254/metaproxy/explain")
@pytest.mark.runs("docs/policy.md", "curl http://169.254.169.254/metaproxy/explain")
@pytest.mark.runs("docs/doctor.md", "sysctl -w net.ipv4.conf.all.accept_source_route=0")
def test_what_is_typed_on_a_node_and_in_a_pod(
    build: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch, typed: Typed
) -> None:
    """In the order of the page; what a pod asks is answered about that pod."""
    monkeypatch.setenv("METAPROXY_REDIRECT__DEVICE", "mp0")  # what a node's own settings would say
    lab = build(families=(4,), styles=("bridge",))
    [pod] = lab.pods

    def on_node(line: str, *codes: int) -> str:
        return typed_on(lab, line, *codes)

    def in_pod(line: str) -> str:
        return pod.namespace.run("bash", "-ec", line, environment=QUIET).stdout

    commands = typed.each("metaproxy redirect …")
    for line in commands:
        if line.endswith(" watch"):
            watch = lab.start("bash", "-ec", re.sub("^metaproxy ", f"exec {sys.executable} -m metaproxy ", line))
            watch.wait_for("watching the redirect")
            watch.end(SIGTERM)
            assert watch.popen.returncode == 0
        elif line.endswith(" render"):
            assert "nft -f -" in on_node(line)
        else:
            assert on_node(line) or not line.endswith("check")
    assert typed("metaproxy redirect watch") in commands
    on_node("metaproxy redirect check", 1)  # the page has taken it away by now

    on_node("metaproxy redirect apply")
    lab.agent()
    until(lambda: in_pod(typed("curl -s …")) == pod.role)
    for line in set(typed.each("curl http://169.254.169.254/metaproxy/explain")):
        assert json.loads(in_pod(line))["role"].endswith(f":role/{pod.role}")
    on_node(typed("sysctl -w net.ipv4.conf.all.accept_source_route=0"))


APPLY, WATCH, CHECK, REMOVE = (f"metaproxy redirect {verb}" for verb in ("apply", "watch", "check", "remove"))


@pytest.mark.runs("docs/doctor.md", "metaproxy redirect apply", "metaproxy redirect watch")
@pytest.mark.runs("docs/faq.md", "metaproxy redirect check")
@pytest.mark.runs("docs/install.md", "metaproxy redirect remove")
@pytest.mark.runs("docs/metrics.md", "metaproxy redirect watch")
@pytest.mark.runs("docs/networking.md", "metaproxy health --redirect", "nft flush ruleset", "iptables -t nat -F")
@pytest.mark.runs("docs/operations.md", "metaproxy redirect check", "ss -ltnp")
@pytest.mark.runs("docs/security.md", "metaproxy redirect watch")
def test_what_the_text_says_of_a_node(build: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch, typed: Typed) -> None:
    """What is flushed comes back, the watch answers its probe, an agent's port is seen, and all is taken away again."""
    monkeypatch.setenv("METAPROXY_REDIRECT__DEVICE", "mp0")
    lab = build(families=(4,), styles=("bridge",))
    assert {*typed.each(APPLY, WATCH, CHECK, REMOVE)} == {APPLY, WATCH, CHECK, REMOVE}
    typed_on(lab, APPLY)
    lab.agent().wait_for('"listening"')
    assert re.search(r"169\.254\.170\.254:8181 .*pid=", typed_on(lab, typed("ss -ltnp")))
    watch = lab.start("bash", "-ec", re.sub("^metaproxy ", f"exec {sys.executable} -m metaproxy ", WATCH))
    watch.wait_for("watching the redirect")
    typed_on(lab, typed("metaproxy health --redirect"))
    for flush in (typed("nft flush ruleset"), typed("iptables -t nat -F")):
        typed_on(lab, flush)
        until(lambda: lab.redirect("check").returncode == 0)
    assert any('"repaired"' in line for line in watch.lines)
    watch.end(SIGTERM)
    typed_on(lab, CHECK)
    typed_on(lab, REMOVE)
    typed_on(lab, CHECK, 1)


@pytest.mark.runs("README.md", "curl --interface …")
def test_a_pod_of_the_demo(typed: Typed) -> None:
    """Asked from its address, in a network that has nothing else."""
    node = Namespace("demo")
    demo = Process(node.command(sys.executable, "-u", "-m", "metaproxy", "demo"))
    try:
        port = re.search(
            r"http://127\.0\.0\.1:(\d+)/", demo.wait_for("curl --interface 127.0.0.", seconds=3 * PATIENCE)
        )
        assert port
        line = typed("curl --interface …").replace("PORT", port[1])
        assert node.shell(f"{line} -s").strip() == "shop-web"
    finally:
        demo.end(SIGTERM)
        node.close()


def test_settings_that_are_named_exist() -> None:
    """Flags of the guide, with their values, are understood."""
    flags = re.findall(r"`(--(?:redirect|server)\.[a-z-]+)(?:[ =]([^` ]+))?`", GUIDE)
    assert len(flags) >= 8
    known = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for flag, _ in flags:
        assert f"`{flag}`" in known

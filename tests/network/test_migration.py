"""What the migration guides tell people to run on a node, in order: at no step does a pod have the node's role."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metaproxy.addresses import PORT
from tests.guides import Typed
from tests.network.lab.namespaces import until
from tests.network.lab.node import NODE, Lab
from tests.network.lab.processes import Process

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = ("migrate-from-kiam.md", "migrate-from-kube2iam.md")
CREDENTIALS = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"

PEER = """
import http.server, sys
class Peer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "4"); self.end_headers(); self.wfile.write(b"peer")
    log_message = lambda *_: None
server = http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Peer)
print("ready", flush=True)
server.serve_forever()
"""
"""An agent of kiam's or kube2iam's kind: whoever asks is told that it was there."""

RULE = f"PREROUTING -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {NODE[4]}"

PORTS = (3100, PORT)
"""Where the peer listens, on every address: its own port, or ours, which their charts use too."""


@pytest.mark.parametrize(
    "port",
    [
        pytest.param(
            PORTS[0],
            marks=pytest.mark.runs(
                "docs/migrate-from-kiam.md",
                "metaproxy redirect render --guard | sh",
                "metaproxy redirect check",
                "metaproxy redirect remove",
            ),
        ),
        pytest.param(
            PORTS[1],
            marks=pytest.mark.runs(
                "docs/migrate-from-kube2iam.md",
                "metaproxy redirect render --guard | sh",
                "metaproxy redirect check",
                "metaproxy redirect remove",
            ),
        ),
    ],
)
def test_roll_forward_and_back(
    build: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch, typed: Typed, port: int
) -> None:
    """The peer answers under the guard, its end opens nothing, ours takes over; and back."""
    # The command is this checkout's.
    guard, check, remove = (re.sub(r"^metaproxy ", f"{sys.executable} -m metaproxy ", line) for line in typed.each())
    monkeypatch.setenv("METAPROXY_REDIRECT__DEVICE", "mp0")  # what a node's own settings would say
    lab = build(families=(4,))

    def told() -> set[str]:
        return {pod.curl(CREDENTIALS) for pod in lab.pods}

    def begin() -> Process:
        peer = lab.start(sys.executable, "-c", PEER, str(port))
        peer.wait_for("ready")
        lab.node.shell(f"iptables -t nat -A {RULE}:{port}")
        return peer

    peer = begin()
    assert told() == {"peer"}
    lab.node.shell(guard)
    assert told() == {"peer"}
    lab.records()
    # As either ends: its process, and its rule.
    peer.end(15)
    lab.node.shell(f"iptables -t nat -D {RULE}:{port}")
    assert told() == {""}
    lab.apply()
    agent = lab.agent()
    until(lambda: all(pod.curl(CREDENTIALS) == pod.role for pod in lab.pods))
    lab.node.shell(check)
    assert lab.leaks() == []

    agent.end(15)
    begin()
    # Ours go first: nobody is there, or whoever listens on that port of every address.
    assert told() == {"peer" if port == PORT else ""}
    lab.node.shell(remove)
    assert told() == {"peer"}
    assert lab.node.run("bash", "-ec", check).returncode == 1
    assert lab.leaks() == []


@pytest.mark.parametrize("guide", GUIDES)
def test_a_rule_that_was_left_does_no_harm(build: Callable[..., Lab], guide: str) -> None:
    """Ours are ahead of it, as the guide says."""
    assert "does no harm while ours are ahead of it" in " ".join((DOCS / guide).read_text().split())
    lab = build(families=(4,), styles=("bridge",))
    lab.node.shell(f"iptables -t nat -A {RULE}:3100")
    lab.apply()
    lab.agent()
    [pod] = lab.pods
    until(lambda: pod.curl(CREDENTIALS) == pod.role)

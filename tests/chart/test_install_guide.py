"""What docs/install.md, docs/runbooks.md, the chart's README and its notes tell people to type, typed.

By a real helm and a real kubectl, on a control plane whose controllers are real and a node whose kubelet is played.
"""

import secrets
import urllib.request
from collections.abc import Iterator
from signal import SIGKILL

import pytest

from metaproxy.taint import KEY
from tests.chart.build import Tools
from tests.chart.controlplane.outside import Outside
from tests.chart.controlplane.plane import ControlPlane
from tests.chart.helm import KUBERNETES
from tests.chart.site import REGISTRY, SECONDS, Site, open_site
from tests.cluster.processes import free_ports
from tests.cluster.waiting import wait_until
from tests.fakes.sts import NODE_KEY, Step
from tests.guides import Typed

pytestmark = [pytest.mark.timeout(1800), pytest.mark.usefixtures("root")]

WORKLOADS = f"shop-{secrets.token_hex(4)}"
DENIED = "arn:aws:iam::123456789012:role/shop-denied"


@pytest.fixture(scope="module")
def site(controlplane: ControlPlane, tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With a pod whose role STS refuses."""
    controlplane.create_namespace(WORKLOADS, {"iam.amazonaws.com/permitted": ".*:role/shop-.*"})
    with Outside() as outside:
        outside.sts.settings[DENIED] = Step(status=403, code="AccessDenied")
        with open_site(controlplane, tools, tmp_path_factory.mktemp("site"), outside.sts.url) as site:
            site.write_values(outside.sts.url, AWS_ACCESS_KEY_ID=NODE_KEY, AWS_SECRET_ACCESS_KEY="s")
            # Its image is not to be had, but it is bound, and that is enough.
            wanted = {"iam.amazonaws.com/role": "shop-denied"}
            controlplane.cluster.create_pod(WORKLOADS, "denied", annotations=wanted, node=site.node.name)
            yield site


def filled(text: str, **parts: str) -> str:
    """A command with the words that stand for something replaced."""
    for word, value in parts.items():
        text = text.replace(word, value)
    return text


@pytest.mark.runs("docs/install.md", "helm …", "kubectl …")
@pytest.mark.runs(
    "docs/runbooks.md",
    "kubectl -n metaproxy get pods …",
    "kubectl -n metaproxy describe pod POD",
    "kubectl -n metaproxy logs POD -c metaproxy --previous",
    "kubectl -n metaproxy exec …",
    "kubectl auth can-i …",
    "kubectl -n metaproxy logs POD -c metaproxy | grep Sts",
    "kubectl -n metaproxy logs POD -c metaproxy | grep REASON",
    "kubectl -n metaproxy logs POD -c redirect-watch",
    "kubectl -n NAMESPACE describe pod NAME",
)
@pytest.mark.runs("docs/operations.md", "kubectl -n metaproxy describe pod POD", "kubectl -n metaproxy rollout …")
@pytest.mark.runs("docs/status.md", "kubectl --namespace NAMESPACE port-forward …")
def test_from_the_installation_to_its_end(site: Site, typed: Typed) -> None:
    """Every command of the page, in its order; the runbooks' when the agent runs."""
    desk = site.desk
    helm, kubectl = typed.each("helm …"), typed.each("kubectl …")
    template, install, test, upgrade, rollback, cleanup, uninstall = helm
    create, label, status, healthy, redirected, untaint = kubectl
    # A helm that Go has built by itself takes the cluster for a very old one where it asks none.
    assert "eu-central-1" in desk.type(f"{template} --kube-version {KUBERNETES}")
    desk.type(create)
    desk.type(label)
    said = desk.type(install)
    assert "rollout status daemonset/metaproxy" in said
    assert "successfully rolled out" in desk.type(status)
    desk.type(healthy)
    assert desk.type(redirected)
    assert "NoRole" in desk.type(test)

    _runbooks(site, typed)

    (desk.folder / "values.yaml").write_text((desk.folder / "values.yaml").read_text() + "podLabels: {second: 'yes'}\n")
    for change in (upgrade, rollback):
        before = site.agent()
        desk.type(change)
        assert "successfully rolled out" in desk.type(status)
        wait_until("the former pod is gone", lambda: len(_agents(site)) == 1, SECONDS)
        assert site.agent() != before
    assert "169.254.170.254" in site.rules()
    desk.type(cleanup)
    assert "successfully rolled out" in desk.type(status)
    assert "169.254.170.254" not in site.rules()
    desk.type(uninstall)
    desk.type("kubectl -n metaproxy delete pod metaproxy-role-list")
    desk.type(f"kubectl taint nodes {site.node.name} {KEY}=:NoSchedule")
    desk.type(untaint)
    taints = site.controlplane.cluster.admin.get(f"/api/v1/nodes/{site.node.name}")["spec"].get("taints", [])
    assert KEY not in {taint["key"] for taint in taints}
    site.gone()


def _agents(site: Site) -> list[object]:
    return list(site.controlplane.pods("metaproxy", "app.kubernetes.io/component=agent"))


def _runbooks(site: Site, typed: Typed) -> None:
    """Those of docs/runbooks.md and docs/status.md."""
    desk, agent = site.desk, site.agent()
    parts = {"NODE": site.node.name, "POD": agent, "REASON": "StsDenied"}
    get = typed("kubectl -n metaproxy get pods …")
    assert agent in desk.type(filled(get, **parts))
    for line in typed.each("kubectl -n metaproxy describe pod POD"):
        assert "Name:" in desk.type(filled(line, **parts))
    assert "successfully rolled out" in desk.type(typed("kubectl -n metaproxy rollout …"))
    desk.type(filled(typed("kubectl -n metaproxy logs POD -c metaproxy --previous"), **parts))
    for line in typed.each("kubectl -n metaproxy exec …"):
        desk.type(filled(line, **{"NAMESPACE/NAME": f"{WORKLOADS}/denied"}, **parts))
    assert desk.type(typed("kubectl auth can-i …")).strip() == "yes"
    assert "StsDenied" in desk.type(filled(typed("kubectl -n metaproxy logs POD -c metaproxy | grep Sts"), **parts))
    found = desk.type(filled(typed("kubectl -n metaproxy logs POD -c metaproxy | grep REASON"), **parts))
    assert DENIED in found
    assert desk.type(filled(typed("kubectl -n metaproxy logs POD -c redirect-watch"), **parts))
    described = typed("kubectl -n NAMESPACE describe pod NAME")
    assert "StsDenied" in desk.type(filled(described, NAMESPACE=WORKLOADS, NAME="denied"))

    (port,) = free_ports(1)
    forward = filled(typed("kubectl --namespace NAMESPACE port-forward …"), NAMESPACE="metaproxy", AGENT=agent)
    # Another agent of this machine may have the port of the page.
    process = desk.start(forward.replace("9181", f"{port}:9181"))
    try:
        process.wait_for("Forwarding from 127.0.0.1")
        with urllib.request.urlopen(f"http://localhost:{port}/status", timeout=SECONDS) as page:
            shown = page.read().decode()
            assert WORKLOADS in shown
            assert "StsDenied" in shown
    finally:
        process.end(SIGKILL)


@pytest.mark.runs("charts/metaproxy/README.md", "helm upgrade --install …")
@pytest.mark.runs("charts/metaproxy/templates/NOTES.txt", "kubectl …", "helm …")
def test_the_charts_own_words(site: Site, typed: Typed) -> None:
    """Installed as its README says; then what it says itself, each line of which it says with the names filled in."""
    desk = site.desk
    install = filled(typed("helm upgrade --install …"), REGISTRY=REGISTRY)
    said = desk.type(f"{install} -f values.yaml")
    names = {"{{ $where }}": "-n metaproxy", "{{ $name }}": "metaproxy", "{{ .Release.Name }}": "metaproxy"}
    lines = {line: filled(line, **names) for line in typed.each("kubectl …", "helm …")}
    assert [line for line in lines.values() if f"  {line}\n" not in f"{said}\n"] == []
    for part in ("rollout status", "health --ready", "redirect check", " test ", " explain "):
        (line,) = [line for line in lines.values() if part in line]
        agent = site.agent() if part == " explain " else ""
        desk.type(filled(line, **{"POD-OF-ITS-NODE": agent, "NAMESPACE/NAME": f"{WORKLOADS}/denied"}))
    (cleanup,) = [line for line in lines.values() if "cleanup=true" in line]
    (status,) = [line for line in lines.values() if "rollout status" in line]
    (uninstall,) = [line for line in lines.values() if "uninstall" in line]
    after = desk.type(filled(cleanup, CHART="charts/metaproxy"))
    assert uninstall in after
    desk.type(status)
    assert "169.254.170.254" not in site.rules()
    desk.type(uninstall)
    desk.type("kubectl -n metaproxy delete pod metaproxy-role-list")
    site.gone()

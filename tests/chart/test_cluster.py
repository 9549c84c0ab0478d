"""The chart and a real API server: what it takes of the objects, and the release from install to uninstall."""

import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from metaproxy.commands import COMMANDS, help_for
from tests.chart.build import Tools
from tests.chart.helm import CHART, KUBERNETES, Helm, HelmError, only
from tests.cluster.api import Json
from tests.cluster.harness import Cluster
from tests.cluster.waiting import wait_until

pytestmark = pytest.mark.timeout(300)  # the first test waits for the start of the servers

PLURALS = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "DaemonSet": "daemonsets",
    "Pod": "pods",
    "PodMonitor": "podmonitors",
    "PrometheusRule": "prometheusrules",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "ServiceMonitor": "servicemonitors",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}
ROOT = Path(__file__).parents[2]

EFFECT_SECONDS = 60.0


def path_of(document: Json) -> str:
    """Where objects of a document's kind and namespace are."""
    version, kind = document["apiVersion"], PLURALS[document["kind"]]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = document["metadata"].get("namespace")
    return f"{base}/namespaces/{namespace}/{kind}" if namespace else f"{base}/{kind}"


@pytest.fixture(scope="session")
def kinds(cluster: Cluster, tools: Tools) -> None:
    """The Prometheus operator's kinds are known to the API server."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for file in tools.definitions:
        document = yaml.safe_load(file.read_text())
        cluster.admin.post(path, document)
        plural = document["spec"]["names"]["plural"]
        served = f"/apis/monitoring.coreos.com/v1/{plural}"

        def answers(served: str = served) -> bool:
            return cluster.admin.request("GET", served).status == 200

        wait_until(f"{plural} are served", answers, EFFECT_SECONDS)


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A namespace of the release's own."""
    name = f"ns-{secrets.token_hex(4)}"
    cluster.create_namespace(name)
    return name


@pytest.fixture
def kubeconfig(cluster: Cluster, tmp_path: Path) -> Path:
    """The administrator's."""
    return cluster.write_kubeconfig(tmp_path / "kubeconfig")


def refusal(cluster: Cluster, document: Json) -> str:
    """Why the API server does not take an object as it stands, unknown fields included; empty when it does."""
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = cluster.admin.request("POST", path_of(document), document, query=query)
    if answer.status < 300:
        return ""
    return str(answer.json().get("message", answer.body))


def test_every_object_is_strictly_valid(helm: Helm, cluster: Cluster, kinds: None, namespace: str, case: Path) -> None:
    """For every file of values: each object is taken by the API server, to the last field's name; long names, too."""
    longest = f"{'a' * 54}-{secrets.token_hex(4)}"
    flags = ("-f", case, f"--set=namespaceOverride={namespace}", f"--set=fullnameOverride={longest}")
    objects = helm.objects(*flags)
    assert len(objects) >= 2
    for document in objects:
        assert refusal(cluster, document) == "", document["kind"]


@pytest.mark.parametrize("kind", ["DaemonSet", "PodMonitor", "PrometheusRule", "ServiceMonitor"])
def test_a_misspelt_field_would_be_seen(helm: Helm, cluster: Cluster, kinds: None, namespace: str, kind: str) -> None:
    """The check above can fail, for custom kinds too."""
    on = {f"{name}.enabled": True for name in ("podMonitor", "serviceMonitor", "prometheusRule")}
    document = only(helm.with_values({**on, "namespaceOverride": namespace}), kind)
    assert refusal(cluster, document) == ""
    document["spec"]["selektor"] = {}
    assert "selektor" in refusal(cluster, document)


class Release:
    """A release of the chart in a namespace."""

    def __init__(self, helm: Helm, cluster: Cluster, namespace: str, kubeconfig: Path) -> None:
        self._helm, self.cluster, self.namespace, self._kubeconfig = helm, cluster, namespace, kubeconfig
        # Cluster-wide objects have the release's name, and the cluster is everybody's.
        self.name = f"metaproxy-{namespace}"

    def helm(self, verb: str, *arguments: str | Path) -> str:
        """Run a verb of helm on the release."""
        return self._helm.run(verb, self.name, *arguments, "--namespace", self.namespace, kubeconfig=self._kubeconfig)

    def test(self) -> "subprocess.Popen[str]":
        """`helm test`, under way."""
        flags = ("--namespace", self.namespace, "--timeout", "60s")
        return self._helm.start("test", self.name, *flags, kubeconfig=self._kubeconfig)

    def left(self) -> list[str]:
        """Everything in the cluster that carries the release's label."""
        query = {"labelSelector": f"app.kubernetes.io/instance={self.name}"}
        found = []
        for kind, plural in PLURALS.items():
            version = {
                "ClusterRole": "apis/rbac.authorization.k8s.io/v1",
                "ClusterRoleBinding": "apis/rbac.authorization.k8s.io/v1",
                "DaemonSet": "apis/apps/v1",
            }.get(kind)
            if version is None:
                custom = kind.endswith(("Monitor", "Rule"))
                policy = kind.startswith("Validating")
                version = "apis/monitoring.coreos.com/v1" if custom else "api/v1"
                version = "apis/admissionregistration.k8s.io/v1" if policy else version
            items = self.cluster.admin.get(f"/{version}/{plural}", query=query)["items"]
            found += [f"{kind} {item['metadata']['name']}" for item in items]
        return found

    def get(self, kind: str) -> Json:
        """The release's one object of a kind in its namespace."""
        paths = {"DaemonSet": "/apis/apps/v1", "ConfigMap": "/api/v1"}
        path = f"{paths[kind]}/namespaces/{self.namespace}/{PLURALS[kind]}/{self.name}"
        return self.cluster.admin.get(path)

    def checksum(self) -> str:
        """Of the settings that the pods are made for."""
        return str(self.get("DaemonSet")["spec"]["template"]["metadata"]["annotations"]["checksum/config"])


@pytest.fixture
def release(helm: Helm, cluster: Cluster, kinds: None, namespace: str, kubeconfig: Path) -> Iterator[Release]:
    """A release that is not yet installed, and is gone at the end."""
    made = Release(helm, cluster, namespace, kubeconfig)
    yield made
    if made.left():
        made.helm("uninstall", "--no-hooks", "--ignore-not-found")


EVERYTHING = ("podMonitor", "serviceMonitor", "prometheusRule", "grafanaDashboard", "admissionPolicies")


def test_a_releases_life(release: Release) -> None:
    """Installed, upgraded, rolled back, cleaned up and uninstalled; nothing of it is left."""
    on = [f"--set={name}.enabled=true" for name in EVERYTHING]
    said = release.helm("install", CHART, *on)
    assert f"rollout status daemonset/{release.name}" in said
    assert "--set cleanup=true" in said
    kinds = {name.partition(" ")[0] for name in release.left()}
    assert kinds == set(PLURALS) - {"Pod"}
    first = release.checksum()

    release.helm("upgrade", CHART, "--reuse-values", "--set=config.log.level=debug")
    assert "level: debug" in release.get("ConfigMap")["data"]["config.yaml"]
    assert release.checksum() != first
    assert release.get("DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"] == {
        "maxSurge": 1,
        "maxUnavailable": 0,
    }

    release.helm("rollback", "1")
    assert "level" not in release.get("ConfigMap")["data"]["config.yaml"]
    assert release.checksum() == first

    release.helm("upgrade", CHART, "--reuse-values", "--set=cleanup=true")
    spec = release.get("DaemonSet")["spec"]
    assert spec["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0
    (remove,) = spec["template"]["spec"]["initContainers"]
    assert remove["command"] == ["metaproxy", "redirect", "remove"]

    release.helm("uninstall")
    assert release.left() == []


CHANGES = {
    "user": ("--set=securityContext.runAsUser=1000,securityContext.runAsGroup=1000", "securityContext.runAsUser: 1000"),
    "folder": ("--set=stateDirectory=/var/lib/metaproxy", "stateDirectory: /var/lib/metaproxy where the running pods"),
    "socket": (
        "--set=config.handover.socket=/run/metaproxy/other.sock",
        "config.handover.socket: /run/metaproxy/other",
    ),
    "port": (
        "--set=redirect.watch=false,config.redirect.port=8282",
        "config.redirect.port: 8282 where pods are led to",
    ),
}


def test_a_change_that_no_successor_survives_is_refused(release: Release) -> None:
    """An upgrade whose new pods could not take over from those that run is refused; with a gap it is let through."""
    release.helm("install", CHART)
    gap = "--set=updateStrategy.rollingUpdate.maxSurge=0,updateStrategy.rollingUpdate.maxUnavailable=1"
    for flag, why in CHANGES.values():
        with pytest.raises(HelmError) as caught:
            release.helm("upgrade", CHART, flag)
        assert why in str(caught.value)
        release.helm("upgrade", CHART, flag, gap, "--dry-run=server")
    for harmless in ("--set=config.redirect.port=8282", "--set=config.log.level=debug", "--set=cleanup=true"):
        release.helm("upgrade", CHART, harmless, "--dry-run=server")
    # From pods that only take the redirect away there is nothing to be taken over.
    release.helm("upgrade", CHART, "--set=cleanup=true")
    release.helm("upgrade", CHART, CHANGES["user"][0], "--dry-run=server")


@pytest.mark.parametrize(("phase", "code"), [("Succeeded", 0), ("Failed", 1)])
def test_helm_test_waits_for_its_pod(release: Release, phase: str, code: int) -> None:
    """The hook's pod is made, on nobody's host network, and helm's verdict is the pod's. The kubelet is played here."""
    release.helm("install", CHART)
    pods = f"/api/v1/namespaces/{release.namespace}/pods"
    under_way = release.test()
    try:
        name = f"{release.name}-role-list"

        def made() -> bool:
            return release.cluster.admin.request("GET", f"{pods}/{name}").status == 200

        wait_until("the pod is made", made, EFFECT_SECONDS)
        pod = release.cluster.admin.get(f"{pods}/{name}")
        assert not pod["spec"].get("hostNetwork")
        release.cluster.set_pod_status(release.namespace, name, [], phase=phase)
        said, _ = under_way.communicate(timeout=EFFECT_SECONDS)
        assert under_way.returncode == code, said
        assert phase in said
    finally:
        under_way.kill()
        under_way.communicate()


def test_the_policies_spare_the_chart_itself(release: Release, cluster: Cluster) -> None:
    """With them in force the DaemonSet's pods are admitted in the release's namespace, and nowhere else."""
    other = f"{release.namespace}-other"
    cluster.create_namespace(other)
    cluster.create_service_account(other, release.name)
    release.helm("install", CHART, "--set=admissionPolicies.enabled=true")
    template = release.get("DaemonSet")["spec"]["template"]

    def refused(namespace: str) -> str:
        name = f"agent-{secrets.token_hex(4)}"
        pod = {"metadata": {**template["metadata"], "name": name}, "spec": template["spec"]}
        answer = cluster.admin.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)
        return "" if answer.status < 300 else str(answer.json()["message"])

    wait_until("the policy has effect", lambda: "the node's role" in refused(other), EFFECT_SECONDS)
    assert refused(release.namespace) == ""


# ---- rights


def test_with_its_rights_and_no_others(release: Release) -> None:
    """The account may do exactly what the ClusterRole says, everywhere, and nothing else that there is."""
    release.helm("install", CHART, "--set=config.node.remove_startup_taint=true")
    cluster = release.cluster
    allowed = {
        *(("", kind, verb) for kind in ("pods", "namespaces") for verb in ("list", "watch")),
        *(("events.k8s.io", "events", verb) for verb in ("create", "patch")),
        *(("", "nodes", verb) for verb in ("get", "patch")),
    }
    wait_until("the binding has effect", partial(_may, cluster, release, "", "nodes", "patch"), EFFECT_SECONDS)
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate")
    resources = [
        *(("", kind) for kind in ("pods", "namespaces", "nodes", "secrets", "configmaps", "serviceaccounts", "events")),
        *(("", kind) for kind in ("pods/exec", "pods/ephemeralcontainers", "serviceaccounts/token", "nodes/proxy")),
        ("events.k8s.io", "events"),
        ("apps", "daemonsets"),
        ("rbac.authorization.k8s.io", "clusterroles"),
    ]
    found = {
        (group, kind, verb) for group, kind in resources for verb in verbs if _may(cluster, release, group, kind, verb)
    }
    assert found == allowed


def _may(cluster: Cluster, release: Release, group: str, resource: str, verb: str) -> bool:
    main, _, sub = resource.partition("/")
    account = f"system:serviceaccount:{release.namespace}:{release.name}"
    attributes = {"group": group, "resource": main, "subresource": sub, "verb": verb, "namespace": "default"}
    review = {"spec": {"user": account, "groups": ["system:authenticated"], "resourceAttributes": attributes}}
    answer = cluster.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


# ---- the pages


def test_the_helm_commands_of_the_page(
    helm: Helm, cluster: Cluster, kinds: None, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of docs/install.md, in its order, with the values that it shows; kubectl's are the reader's."""
    page = (ROOT / "docs" / "install.md").read_text()
    (values,) = re.findall(r"```yaml\n(# values.yaml\n.+?)```", page, re.DOTALL)
    (tmp_path / "values.yaml").write_text(values)
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    monkeypatch.chdir(tmp_path)
    cluster.create_namespace("metaproxy")
    lines = [line for block in re.findall(r"```sh\n(.+?)```", page, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("helm ")]
    assert [each[0] for each in commands if each[0] != "-n"] == [
        "template",
        "upgrade",
        "upgrade",
        "rollback",
        "upgrade",
        "uninstall",
    ]
    for command in commands:
        more: tuple[str, ...] = ()
        if "test" in command:
            continue  # its pod needs a kubelet: see test_helm_test_waits_for_its_pod
        if command[0] == "template":
            more = ("--kube-version", KUBERNETES)
        said = helm.run(*command, *more, kubeconfig=kubeconfig)
        if command[0] == "template":
            assert "eu-central-1" in said
    query = {"labelSelector": "app.kubernetes.io/instance=metaproxy"}
    assert cluster.admin.get("/apis/apps/v1/daemonsets", query=query)["items"] == []


@pytest.mark.parametrize("page", ["install.md", "runbooks.md"])
def test_the_commands_of_ours_on_the_pages_exist(page: str) -> None:
    """Each `metaproxy …` that a page tells the reader to run is a command, with options that it has."""
    text = " ".join((ROOT / "docs" / page).read_text().split())
    found = re.findall(r"(?:-- |`)metaproxy ([a-z]+(?: [^`]*?)?)(?:`| kubectl| helm| ```)", text)
    assert found
    for line in found:
        name, *words = line.split()
        assert name in COMMANDS, line
        known = help_for(name)
        for word in words:
            if word.startswith("--") or word.islower():
                assert word in known, (line, word)

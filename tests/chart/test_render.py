"""The chart as text: what is rendered for which values, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml

from metaproxy import __version__
from metaproxy.knobs import Knob, group_of, knobs
from metaproxy.settings import Settings
from metaproxy.settingsources import Parser, load
from scripts.chart import reachable
from scripts.chartvalues import NOT_HERE, SET_HERE
from tests.chart import golden
from tests.chart.helm import CHART, KUBERNETES, Helm, HelmError, only, settings_of


def containers(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The DaemonSet's containers by name."""
    spec = only(objects, "DaemonSet")["spec"]["template"]["spec"]
    return {each["name"]: each for each in [*spec["initContainers"], *spec["containers"]]}


def test_lint(helm: Helm, case: Path) -> None:
    """Helm finds nothing wrong with any file of values below ci/."""
    said = helm.run("lint", "--strict", "--kube-version", KUBERNETES, CHART, "-f", case)
    assert "[WARNING]" not in said
    assert "[ERROR]" not in said


def test_golden(helm: Helm, case: Path) -> None:
    """Rendered as kept: what a change does to the objects is seen in its review (python -m tests.chart.golden)."""
    assert golden.rendered(helm, case) == golden.path_of(case).read_text()


def test_no_golden_is_left_over() -> None:
    """Each kept rendering belongs to a file of values."""
    kept = {path.name for path in golden.FOLDER.iterdir()}
    assert kept == {golden.path_of(path).name for path in (CHART / "ci").iterdir()}


def test_versions_agree() -> None:
    """Chart, program and so the image's tag are of one version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


# ---- what must hold whatever else changes


def test_the_agent_has_no_power(helm: Helm, case: Path) -> None:
    """No root, no capability, no writable root; the redirect has what it needs and no token; nobody is privileged."""
    objects = helm.objects("-f", case)
    pod = only(objects, "DaemonSet")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for name, container in containers(objects).items():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"]["drop"] == ["ALL"]
        assert "privileged" not in context
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        if name == "metaproxy":
            assert (context["runAsUser"], context["runAsNonRoot"]) == (65532, True)
        if not name.startswith("redirect"):
            assert "add" not in context["capabilities"]
        if name != "metaproxy":
            assert "token" not in mounts


@pytest.mark.parametrize(
    ("backend", "added"),
    [("auto", ["NET_ADMIN"]), ("nftables", ["NET_ADMIN"]), ("iptables-legacy", ["NET_ADMIN", "NET_RAW"])],
)
def test_capabilities_of_the_redirect(helm: Helm, backend: str, added: list[str]) -> None:
    """NET_RAW only for legacy iptables."""
    found = containers(helm.with_values({"config.redirect.backend": backend}))
    assert {name for name in found if name.startswith("redirect")} == {"redirect", "redirect-watch"}
    for name in ("redirect", "redirect-watch"):
        assert found[name]["securityContext"]["capabilities"]["add"] == added


def test_a_surge_can_be_placed(helm: Helm, case: Path) -> None:
    """No container declares a port: on the host's network it would keep a second pod off the node."""
    for container in containers(helm.objects("-f", case)).values():
        assert "ports" not in container


def test_scheduling(helm: Helm) -> None:
    """On every node, before all others, on the host's network and its DNS; a new pod before the old one goes."""
    daemonset = only(helm.objects(), "DaemonSet")["spec"]
    assert daemonset["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pod = daemonset["template"]["spec"]
    assert pod["hostNetwork"] is True
    assert (pod["dnsPolicy"], pod["priorityClassName"]) == ("Default", "system-node-critical")
    assert pod["tolerations"] == [{"operator": "Exists"}]


def test_rights(helm: Helm) -> None:
    """The exact rules; those of Events and nodes only with what needs them."""
    read = {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}
    tell = {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}
    taint = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}
    for values, rules in (
        ({}, [read, tell]),
        ({"config.node.remove_startup_taint": True}, [read, tell, taint]),
        ({"config.events.enabled": False}, [read]),
    ):
        assert only(helm.with_values(values), "ClusterRole")["rules"] == rules


def test_a_changed_setting_makes_new_pods(helm: Helm) -> None:
    """The pods carry the checksum of their settings."""

    def checksum(values: dict[str, Any]) -> str:
        annotations = only(helm.with_values(values), "DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum({}) == checksum({"podLabels": {"a": "b"}})
    assert checksum({}) != checksum({"config.log.level": "debug"})


def test_scraped_metrics_leave_loopback(helm: Helm) -> None:
    """Only a monitor opens the admin listeners to the node's addresses; its ports are those of the settings."""
    assert "listen" not in settings_of(helm.objects())
    opened = helm.with_values({"podMonitor.enabled": True, "config.redirect.listen": "10.0.0.1:7"})
    listen = {name: group.get("listen") for name, group in yaml.safe_load(settings_of(opened)).items()}
    assert (listen["admin"], listen["redirect"]) == ("0.0.0.0:9181", "10.0.0.1:7")
    endpoints = only(opened, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert [end["relabelings"][1]["replacement"] for end in endpoints] == ["$1:9181", "$1:7"]


def test_images(helm: Helm) -> None:
    """A digest wins over a tag, a tag over the chart's version."""
    for values, image in (
        ({}, f"metaproxy:{__version__}"),
        ({"image.tag": "1"}, "metaproxy:1"),
        ({"image.tag": "1", "image.digest": f"sha256:{'0' * 64}"}, f"metaproxy@sha256:{'0' * 64}"),
    ):
        assert containers(helm.with_values(values))["metaproxy"]["image"] == image


def test_the_pods_of_the_release_pass_the_policies(helm: Helm) -> None:
    """The binding of the policy for pods lets the release's own namespace through: the agent is on the host's."""
    objects = helm.objects("--set=admissionPolicies.enabled=true", namespace="elsewhere")
    (binding,) = [
        each
        for each in objects
        if each["kind"] == "ValidatingAdmissionPolicyBinding" and each["metadata"]["name"] == "metaproxy-pods"
    ]
    (names,) = [
        each["values"]
        for each in binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
        if each["operator"] == "NotIn"
    ]
    assert names == ["kube-system", "elsewhere"]


LONG = "a" * 61

NAMES: list[tuple[str, dict[str, str], str]] = [
    ("metaproxy", {}, "metaproxy"),
    ("edge", {}, "edge-metaproxy"),
    ("my-metaproxy-2", {}, "my-metaproxy-2"),
    ("edge", {"nameOverride": "imds"}, "edge-imds"),
    ("edge-imds", {"nameOverride": "imds"}, "edge-imds"),
    ("metaproxy", {"nameOverride": "imds"}, "metaproxy-imds"),
    ("metaproxy", {"fullnameOverride": "mine"}, "mine"),
    ("metaproxy", {"fullnameOverride": "mine", "nameOverride": "imds"}, "mine"),
    ("edge", {"fullnameOverride": f"{LONG}bcd"}, f"{LONG}bc"),
    ("edge", {"fullnameOverride": f"{LONG}--b"}, LONG),
    ("edge", {"nameOverride": LONG}, f"edge-{LONG[:58]}"),
    ("edge", {"nameOverride": f"{LONG[:57]}-b"}, f"edge-{LONG[:57]}"),
]


@pytest.mark.parametrize(("release", "values", "name"), NAMES, ids=range(len(NAMES)))
def test_names(helm: Helm, release: str, values: dict[str, str], name: str) -> None:
    """The release's and the chart's name, once if one is in the other; 63 characters at most, and no dash at the end.

    All objects have it, by itself or with an end of their own; pods are found by the chart's name and the release's.
    """
    kinds = ("serviceMonitor", "podMonitor", "prometheusRule", "grafanaDashboard")
    on = {f"{kind}.enabled": True for kind in kinds} | {"config.node.remove_startup_taint": True}
    objects = helm.with_values({**on, **values}, release=release)
    ends = {"metrics", "dashboard", "role-list", "nodes"}
    found = {each["metadata"]["name"] for each in objects}
    assert found == {name, *(f"{name[: 62 - len(end)].rstrip('-')}-{end}" for end in ends)}
    assert max(map(len, found)) <= 63
    selector = only(objects, "DaemonSet")["spec"]["selector"]["matchLabels"]
    chart = values.get("nameOverride", "metaproxy")[:63].rstrip("-")
    assert (selector["app.kubernetes.io/name"], selector["app.kubernetes.io/instance"]) == (chart, release)
    assert selector.items() <= only(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"].items()
    assert only(objects, "Service")["spec"]["selector"].items() <= selector.items()


# ---- settings


def fields() -> dict[str, Any]:
    """The settings' fields by key."""
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        group = group_of(field)
        members = (
            {name: field} if group is None else {f"{name}.{key}": each for key, each in group.model_fields.items()}
        )
        found |= members
    return found


EXAMPLES: dict[str, Any] = {
    "admin.listen": "127.0.0.1:7000",
    "admin.socket": "/run/metaproxy-admin/x",
    "redirect.socket": "/run/metaproxy-redirect/x",
    "node.remove_startup_taint": True,
    "policy.allow": ["arn:aws:iam::123456789012:role/*"],
    "redirect.exclude_source": ["10.1.0.0/16"],
    "server.listen": ["127.0.0.1:7001"],
    "sts.region": "eu-west-1",
    "sts.session_tags": {"team": "{namespace}"},
    "upstream.allow": ["meta-data/mac"],
}
BY_METAVAR = {
    "ADDR:PORT": "127.0.0.1:7000",
    "ARN": "arn:aws:iam::123456789012:role/a",
    "PATH": "/run/metaproxy/x",
    "URL": "http://127.0.0.1:7002",
    "TEMPLATE": "{pod}",
    "DEVICE": "mp0",
}
COMPANIONS: dict[str, dict[str, Any]] = {
    "sts.session_duration": {"config.sts.force_session_duration": True},
    "server.listen": {"redirect.enabled": False},
}


def example(one: Knob) -> Any:
    """Something that one may give a setting, another than its default."""
    if one.key in EXAMPLES:
        return EXAMPLES[one.key]
    field = fields()[one.key]
    kind = field.annotation
    if kind is bool:
        return not field.default
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != field.default)
    if kind in {int, float}:
        (least,) = [bound.ge for bound in field.metadata if hasattr(bound, "ge")] or [1]
        return least
    value = BY_METAVAR.get(one.metavar, "x")
    if one.key == "role_base_arn":
        value = "arn:aws:iam::123456789012:role/"
    return [value] if one.several else value


@pytest.mark.parametrize("one", reachable(), ids=lambda one: one.key)
def test_each_setting_is_a_value(helm: Helm, one: Knob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same name, in the file, and the agent takes it from there."""
    given = example(one)
    file = tmp_path / "config.yaml"
    values = {f"config.{one.key}": given, **COMPANIONS.get(one.key, {})}
    file.write_text(settings_of(helm.with_values(values)))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    _, flags = Parser("metaproxy run", Settings).read([f"--config={file}", "--node-name=n"])
    loaded = load(Settings, flags)
    assert one.key in dict.fromkeys(_keys(yaml.safe_load(file.read_text())))
    found = json.loads(loaded.settings.model_dump_json())
    for part in one.key.split("."):
        found = found[part]
    assert found == given


def _keys(document: dict[str, Any]) -> list[str]:
    return [
        f"{name}.{inner}" if isinstance(value, dict) and name != "session_tags" else name
        for name, value in document.items()
        for inner in (value if isinstance(value, dict) else [""])
    ]


def test_what_cannot_be_said_here() -> None:
    """Two settings are each node's own; every other is reachable. What the chart sets itself, it names."""
    assert {one.key for one in knobs(Settings)} - {one.key for one in reachable()} == set(NOT_HERE)
    assert set(SET_HERE) <= {one.key for one in knobs(Settings)}


def test_what_values_yaml_shows_can_be_said(helm: Helm, tmp_path: Path) -> None:
    """Each setting that is only shown there, taken out of its comment, passes the schema and the agent."""
    shown, lines = [], []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if found := re.fullmatch(r"( +)# ([a-z_]+): (\S.*)", line):
            lines.append(f"{found[1]}{found[2]}: {found[3]}")
            shown.append(found[2])
        else:
            # An empty group is none any more.
            lines.append(re.sub(r"^(  [a-z_]+:) \{\}$", r"\1", line))
    assert len(shown) == len([one for one in reachable() if one.key not in SET_HERE])
    (tmp_path / "values.yaml").write_text("\n".join(lines))
    file = tmp_path / "config.yaml"
    file.write_text(settings_of(helm.objects("-f", tmp_path / "values.yaml")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        _, flags = Parser("metaproxy run", Settings).read([f"--config={file}", "--node-name=n"])
        load(Settings, flags)


REFUSED = [
    ("oops", 1, "additional properties 'oops' not allowed"),
    ("image.repo", "x", "additional properties 'repo' not allowed"),
    ("image.digest", "latest", "does not match pattern"),
    ("image.pullPolicy", "Sometimes", "must be one of"),
    ("terminationGracePeriodSeconds", 5, "minimum: got 5, want 15"),
    ("stateDirectory", "run/metaproxy", "does not match pattern"),
    ("stateDirectory", "/", "does not match pattern"),
    ("stateDirectory", "/run", "does not match pattern"),
    ("stateDirectory", "/metaproxy", "does not match pattern"),
    ("stateDirectory", "/run/../metaproxy", "does not match pattern"),
    ("updateStrategy.type", "Recreate", "must be one of"),
    ("updateStrategy.rollingUpdate.maxSurge", -1, "minimum: got -1, want 0"),
    ("updateStrategy.rollingUpdate.maxSurge", "all", "does not match pattern"),
    ("updateStrategy.rollingUpdate.maxUnavailable", "101%", "does not match pattern"),
    ("tolerations", {}, "got object, want array"),
    ("podMonitor.enabled", "yes", "got string, want boolean"),
    ("config.oops", 1, "additional properties 'oops' not allowed"),
    ("config.node_name", "n", "additional properties 'node_name' not allowed"),
    ("config.sts.regoin", "x", "additional properties 'regoin' not allowed"),
    ("config.sts.session_duration", 10, "minimum: got 10, want 900"),
    ("config.sts.session_duration", "1h", "got string, want integer"),
    ("config.redirect.backend", "ipfw", "must be one of"),
    ("config.admin.listen", "everywhere", "does not match pattern"),
    ("config.assume_role_arn", "hop", "does not match pattern"),
    ("config.policy.allow", "arn", "got string, want array"),
]


@pytest.mark.parametrize(("key", "value", "why"), REFUSED, ids=lambda part: re.sub(r"\W+", "-", str(part))[:30])
def test_wrong_values_are_refused(helm: Helm, key: str, value: object, why: str) -> None:
    """By the schema, with the name of what is wrong, before anything is rendered."""
    with pytest.raises(HelmError) as caught:
        helm.with_values({key: value})
    assert why in str(caught.value)
    assert key.replace(".", "/").rpartition("/")[0] in str(caught.value)


NO_SURGE = {"updateStrategy.rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
HOP = "arn:aws:iam::123456789012:role/hop"
TOGETHER: list[tuple[dict[str, Any], str]] = [
    # How pods are replaced.
    ({"terminationGracePeriodSeconds": 25}, "terminationGracePeriodSeconds: 25 s end a pod"),
    ({"config.handover.drain": 60}, "terminationGracePeriodSeconds: 40 s end a pod"),
    ({"updateStrategy.rollingUpdate.maxSurge": 0}, "with maxSurge 0 and maxUnavailable 0 no pod could ever be"),
    ({"updateStrategy.rollingUpdate.maxSurge": "0%"}, "with maxSurge 0 and maxUnavailable 0 no pod could ever be"),
    ({"updateStrategy.rollingUpdate.maxUnavailable": "10%"}, "maxUnavailable must be 0 where there is a surge"),
    # Files that two pods must share, or must not, or that nobody could write.
    ({"config.handover.socket": ""}, "config.handover.socket: without it a new pod cannot take over"),
    ({"config.admin.socket": ""}, "config.admin.socket: without it a new pod's probes would be answered by the old"),
    ({"config.redirect.socket": ""}, "config.redirect.socket: without it the probes of a new pod's watch"),
    (
        {**NO_SURGE, "config.admin": {"socket": "", "listen": "none"}},
        "config.admin.listen: with none, and without config.admin.socket, no probe",
    ),
    ({"config.handover.socket": "/run/x.sock"}, "config.handover.socket: /run/x.sock is in no folder that can be"),
    ({"config.handover.socket": "/run/metaproxy-admin/x"}, "config.handover.socket: /run/metaproxy-admin/x is in no"),
    ({"config.admin.socket": "/run/metaproxy/x"}, "config.admin.socket: /run/metaproxy/x is in no folder"),
    ({"config.redirect.socket": "/run/metaproxy/x"}, "config.redirect.socket: /run/metaproxy/x is in no folder"),
    ({"config.tokens.key_file": "/etc/metaproxy/key"}, "config.tokens.key_file: /etc/metaproxy/key is in no folder"),
    # Whom the agent runs as.
    ({"securityContext.runAsUser": 0}, "securityContext.runAsUser: the agent needs no root"),
    ({"securityContext.runAsGroup": None}, "securityContext: give runAsUser and runAsGroup both"),
    # Where is listened.
    ({"podMonitor.enabled": True, "config.admin.listen": "none"}, "config.admin.listen: none has no port"),
    (
        {"serviceMonitor.enabled": True, "config.admin.listen": "0.0.0.0:0"},
        "config.admin.listen: 0.0.0.0:0 has no port",
    ),
    ({"config.server.listen": ["127.0.0.1:8181"]}, "config.server.listen: pods are led to port 8181 of"),
    (
        {"config.server.listen": ["0.0.0.0:8181"], "config.redirect.port": 8282},
        "config.server.listen: pods are led to port 8282 of",
    ),
    (
        {"config.redirect.listen": "127.0.0.1:9181"},
        "config.redirect.listen: 127.0.0.1:9181, where config.admin.listen is",
    ),
    ({"config.redirect.listen": "0.0.0.0:9181"}, "config.redirect.listen: 0.0.0.0:9181, where config.admin.listen is"),
    # What each agent would refuse.
    ({"config.sts.session_duration": 900}, "config.sts.session_duration: 900 s leave too little life"),
    (
        {"config.sts.session_duration": 7200, "config.assume_role_arn": HOP},
        "config.sts.session_duration: AWS gives a role that was assumed by a role",
    ),
    ({"config.sts.session_name": "{cluster}.{pod}"}, "config.cluster_name: a template of config.sts uses {cluster}"),
    ({"config.sts.session_tags": {"a": "{cluster}"}}, "config.cluster_name: a template of config.sts uses {cluster}"),
    ({"config.source": {"manifests": ["/m"], "kubeconfig": "/k"}}, "config.source: manifests and kubeconfig"),
    (
        {"config.source.manifests": ["/m"], "config.node.remove_startup_taint": True},
        "config.node.remove_startup_taint: with config.source.manifests there is no node object",
    ),
    # What is added in the place of what is there.
    ({"extraEnv": [{"name": "METAPROXY_HANDOVER__SOCKET", "value": ""}]}, "extraEnv: METAPROXY_HANDOVER__SOCKET: sett"),
    ({"extraVolumes": [{"name": "state", "emptyDir": {}}]}, "extraVolumes: the chart has a volume state itself"),
    ({"extraVolumeMounts": [{"name": "x", "mountPath": "/run/metaproxy/"}]}, "extraVolumeMounts: the chart mounts"),
    ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels: the chart sets the label app.kubernetes.io/name"),
    (
        {"commonLabels": {"app.kubernetes.io/instance": "x"}},
        "commonLabels: the chart sets the label app.kubernetes.io/i",
    ),
    ({"podAnnotations": {"checksum/config": "x"}}, "podAnnotations: the chart sets checksum/config itself"),
]


@pytest.mark.parametrize(("values", "why"), TOGETHER, ids=[why[:40] for _, why in TOGETHER])
def test_what_cannot_go_together(helm: Helm, values: dict[str, Any], why: str) -> None:
    """What the schema cannot see the templates do: else it would be a rollout that hangs on its first node."""
    with pytest.raises(HelmError) as caught:
        helm.with_values(values)
    assert why in str(caught.value)


def test_all_of_it_is_told_at_once(helm: Helm) -> None:
    """One run of helm names everything that is to be mended."""
    with pytest.raises(HelmError) as caught:
        helm.with_values({"config.handover.socket": "", "config.sts.session_duration": 900})
    assert all(part in str(caught.value) for part in ("config.handover.socket", "config.sts.session_duration"))


AWS = [{"name": "x", "mountPath": "/var/x"}]
GOES: list[dict[str, Any]] = [
    {**NO_SURGE, "config.handover.socket": "", "config.admin.socket": "", "config.redirect.socket": ""},
    {"updateStrategy.type": "OnDelete", "config.handover.socket": ""},
    {"updateStrategy.rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "0%"}},
    {"config.tokens.key_file": ""},
    {"extraVolumeMounts": AWS, "config.tokens.key_file": "/var/x/key", "config.handover.socket": "/var/x/sock"},
    {"redirect.watch": False, "config.redirect.socket": ""},
    {"redirect.enabled": False, "config.server.listen": ["127.0.0.1:8181"]},
    {"config.server.listen": ["0.0.0.0:8282"], "config.redirect.port": 8282},
    {"config.server.listen": ["[fd00:a9fe:170::254]:8181", "127.0.0.1:7"]},
    {"config.admin.listen": "none"},
    {"config.redirect.listen": "10.0.0.1:9181"},
    {"config.sts.session_duration": 7200},
    {"config.cluster_name": "c", "config.sts.source_identity": "{cluster}"},
    {"securityContext": {}},
    {"stateDirectory": "/var/lib/metaproxy-2"},
]


@pytest.mark.parametrize("values", GOES, ids=lambda values: "+".join(values)[:60])
def test_what_can_go_together(helm: Helm, values: dict[str, Any]) -> None:
    """What is refused above is refused for its reason, and not with everything that resembles it."""
    assert helm.with_values(values)


@pytest.mark.parametrize("group", [1000, 1000660000])
def test_another_user(helm: Helm, group: int) -> None:
    """The node's folder is given to the group that the agent has, whoever that is."""
    found = containers(helm.with_values({"securityContext.runAsUser": 1000660000, "securityContext.runAsGroup": group}))
    assert found["metaproxy"]["securityContext"]["runAsUser"] == 1000660000
    assert found["folder"]["securityContext"]["runAsGroup"] == group
    assert f'os.chown("/run/metaproxy", -1, {group})' in found["folder"]["command"][-1]
    assert "st_uid != 1000660000 " in found["folder"]["command"][-1]


def test_an_agent_is_held_to_its_own_node(helm: Helm) -> None:
    """Wherever it may patch nodes: by a policy of the release's own, for the release's own account."""

    def made(values: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
        objects = helm.with_values(values, **more)
        return {each["kind"]: each for each in objects if each["metadata"]["name"].endswith("-nodes")}

    taint = {"config.node.remove_startup_taint": True}
    found = made({**taint, "fullnameOverride": "mine", "namespaceOverride": "there", "serviceAccount.name": "sa"})
    policy, binding = found["ValidatingAdmissionPolicy"], found["ValidatingAdmissionPolicyBinding"]
    assert policy["metadata"]["name"] == binding["spec"]["policyName"] == "mine-nodes"
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == "request.userInfo.username == 'system:serviceaccount:there:sa'"
    assert not made({})
    assert not made({"admissionPolicies.enabled": True})
    assert not made({**taint, "admissionPolicies.nodes": False})
    old = helm.run("template", "m", CHART, "--set=config.node.remove_startup_taint=true", "--kube-version", "1.29.1")
    assert "ValidatingAdmissionPolicy" not in old


def test_policies_need_their_kind(helm: Helm) -> None:
    """An API server without them is told so before anything is installed."""
    flags = ("--set=admissionPolicies.enabled=true", "--kube-version")
    assert helm.run("template", "m", CHART, *flags, "1.30.0")
    with pytest.raises(HelmError, match=r"1\.29\.1 has no ValidatingAdmissionPolicy"):
        helm.run("template", "m", CHART, *flags, "1.29.1")


def test_every_block_of_the_schema_is_closed() -> None:
    """Nothing misspelt is passed over, at any depth."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def look(node: dict[str, Any], where: str) -> None:
        if "properties" in node:
            assert node.get("additionalProperties") is False, where
        for name, inner in node.get("properties", {}).items():
            look(inner, f"{where}.{name}")

    look(schema, "values")
    assert set(yaml.safe_load((CHART / "values.yaml").read_text())) | {"global"} == set(schema["properties"])

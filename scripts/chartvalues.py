"""What an operator may decide about the chart, as one tree: values.yaml, its schema and the README come from it.

Knows: each value with its type, default and meaning; what the chart itself sets of the agent's settings.
Must not know: the agent's settings (they come from their own tree), how anything is written.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Objects = list[dict[str, Any]]
Texts = dict[str, str]
Count = Annotated[int, Field(ge=0)]
Percent = Annotated[str, Field(pattern="^(100|[0-9]{1,2})%$")]

USER = 65532
"""The user of the image, and the group that may write the node's folder of the agent."""

STATE, ADMIN, WATCH = "/run/metaproxy", "/run/metaproxy-admin", "/run/metaproxy-redirect"
"""Where the agent finds what outlives its pod on the node, what is its pod's own, and what is its pod's watch's."""

SET_HERE = {
    "admin.socket": f"{ADMIN}/admin.sock",
    "handover.socket": f"{STATE}/handover.sock",
    "redirect.socket": f"{WATCH}/redirect.sock",
    "tokens.key_file": f"{STATE}/token.key",
}
"""The settings whose default is another in a DaemonSet, because it has folders for them."""

NOT_HERE = {
    "config": "it is this ConfigMap",
    "node_name": "each node has its own, by the downward API",
}
"""The settings that one file for all nodes cannot say, and why."""


class Block(BaseModel):
    """Values that belong together; nothing else is taken."""

    model_config = ConfigDict(extra="forbid")


class Image(Block):
    """An image of the pods."""

    repository: str = Field("metaproxy", min_length=1, description="Its name, with its registry.")
    tag: str = Field("", description="Its tag. Empty: the chart's appVersion.")
    digest: str = Field("", pattern="^(sha256:[0-9a-f]{64})?$", description="Its digest, sha256:…; wins over the tag.")
    pullPolicy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="When it is pulled.")


class RedirectImage(Image):
    """The image with nft, iptables and conntrack."""

    repository: str = Field("metaproxy-redirect", min_length=1, description="Its name, with its registry.")


class ServiceAccount(Block):
    """The agent's account."""

    create: bool = Field(default=True, description="Whether it is made.")
    name: str = Field("", description="Its name. Empty: the release's, or `default` when it is not made.")
    annotations: Texts = Field({}, description="As `eks.amazonaws.com/role-arn` for an identity of the agent's own.")
    labels: Texts = Field({}, description="Its labels.")


class Rbac(Block):
    """The agent's rights."""

    create: bool = Field(default=True, description="Whether ClusterRole and ClusterRoleBinding are made.")


class Redirect(Block):
    """How the node's pods are led to the agent."""

    enabled: bool = Field(
        default=True, description="Whether the pod puts the redirect in place. Off: by other means, see networking.md."
    )
    watch: bool = Field(default=True, description="Whether a container keeps it in place, whoever flushes rules.")
    image: RedirectImage = Field(RedirectImage(), description="")
    resources: dict[str, Any] = Field(
        {"requests": {"cpu": "10m", "memory": "48Mi"}, "limits": {"memory": "128Mi"}},
        description="Of the init container and of the watch, each.",
    )


class RollingUpdate(Block):
    """How many at once."""

    maxSurge: Count | Percent = Field(
        1, description="More than 0: the new pod takes over from the running one of its node."
    )
    maxUnavailable: Count | Percent = Field(0, description="0 as long as there is a surge.")


class UpdateStrategy(Block):
    """How pods are replaced."""

    type: Literal["RollingUpdate", "OnDelete"] = Field(
        "RollingUpdate", description="OnDelete: only when somebody deletes them."
    )
    rollingUpdate: RollingUpdate = Field(RollingUpdate(), description="")


class Probe(Block):
    """A probe."""

    periodSeconds: int = Field(10, ge=1, description="Seconds between two probes.")
    timeoutSeconds: int = Field(10, ge=1, description="Seconds that one may take: each starts a process.")
    failureThreshold: int = Field(3, ge=1, description="Failures in a row that count.")


class LivenessProbe(Probe):
    """Is the loop alive?"""

    periodSeconds: int = Field(30, ge=1, description="Seconds between two probes.")


class StartupProbe(Probe):
    """Does it answer at all?"""

    periodSeconds: int = Field(2, ge=1, description="Seconds between two probes.")
    failureThreshold: int = Field(60, ge=1, description="Failures in a row that count.")


class Probes(Block):
    """Of the agent and of the redirect's watch. Each runs `metaproxy health` and asks nobody else."""

    startup: StartupProbe = Field(StartupProbe(), description="")
    liveness: LivenessProbe = Field(LivenessProbe(), description="")
    readiness: Probe = Field(Probe(), description="")


class Monitor(Block):
    """What tells Prometheus where the metrics are. On: the metrics listen on all of the node's addresses."""

    enabled: bool = Field(default=False, description="Whether it is made.")
    labels: Texts = Field({}, description="Labels by which a Prometheus finds it.")
    interval: str = Field("30s", description="How often is asked.")
    scrapeTimeout: str = Field("10s", description="How long one answer may take.")
    relabelings: Objects = Field([], description="More of them.")
    metricRelabelings: Objects = Field([], description="Of the metrics themselves.")


class PrometheusRule(Block):
    """Six alerts; docs/runbooks.md says what to do at each."""

    enabled: bool = Field(default=False, description="Whether it is made.")
    labels: Texts = Field({}, description="Labels by which a Prometheus finds it.")
    alertLabels: Texts = Field({}, description="Labels of every alert.")
    runbooks: str = Field("docs/runbooks.md", description="Where the runbooks are; the alert's anchor is put behind.")
    disabled: list[str] = Field([], description="Names of alerts that are left out.")


class Dashboard(Block):
    """A Grafana dashboard in a ConfigMap."""

    enabled: bool = Field(default=False, description="Whether it is made.")
    labels: Texts = Field({"grafana_dashboard": "1"}, description="Labels by which Grafana's sidecar finds it.")
    annotations: Texts = Field({}, description="As `grafana_folder`.")


class AdmissionPolicies(Block):
    """The ValidatingAdmissionPolicies of docs/security.md."""

    enabled: bool = Field(default=False, description="Whether they are made. Read them first: they refuse pods.")
    exempt: list[str] = Field(
        ["kube-system"],
        description="Namespaces whose pods they let through, besides the release's own and those labelled "
        "`metaproxy.dev/trusted`.",
    )
    nodes: bool = Field(
        default=True,
        description="With `config.node.remove_startup_taint`, whether an agent is held to its own node and its own "
        "taint. Goes by a claim that the tokens of pods have from Kubernetes 1.30 on; before that nothing is made.",
    )


class HelmTest(Block):
    """The pod of `helm test`."""

    enabled: bool = Field(default=True, description="Whether there is one.")
    role: str = Field("", description="A role for it, which it must then be told. Empty: any answer of the agent does.")


class Values(Block):
    """Every value of the chart, but `config`."""

    nameOverride: str = Field("", description="In place of the chart's name.")
    fullnameOverride: str = Field("", description="In place of the name of all objects.")
    namespaceOverride: str = Field("", description="In place of the release's namespace.")
    commonLabels: Texts = Field({}, description="Labels of all objects.")
    image: Image = Field(Image(), description="The agent's image.")
    imagePullSecrets: Objects = Field([], description="As `- name: registry`.")
    serviceAccount: ServiceAccount = Field(ServiceAccount(), description="")
    rbac: Rbac = Field(Rbac(), description="")
    redirect: Redirect = Field(Redirect(), description="")
    stateDirectory: str = Field(
        STATE,
        pattern="^(/[^/.][^/]*)+/[^/]*metaproxy[^/]*$",
        description="The node's folder for the handover's socket and the key of tokens. In memory: gone with a reboot. "
        "It is the agent's alone, given to its group, and so has metaproxy in its name.",
    )
    updateStrategy: UpdateStrategy = Field(UpdateStrategy(), description="")
    terminationGracePeriodSeconds: int = Field(
        40,
        ge=15,
        description="Seconds that a pod has to end: more than it serves after its successor has taken over.",
    )
    priorityClassName: str = Field("system-node-critical", description="Before workloads, and never evicted for them.")
    nodeSelector: Texts = Field({"kubernetes.io/os": "linux"}, description="The nodes.")
    tolerations: Objects = Field([{"operator": "Exists"}], description="Everything: where pods are, the agent is.")
    affinity: dict[str, Any] = Field(
        {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"]}
                            ]
                        }
                    ]
                }
            }
        },
        description="Not on nodes that run no DaemonSets.",
    )
    podAnnotations: Texts = Field({}, description="Annotations of the pods.")
    podLabels: Texts = Field({}, description="Labels of the pods.")
    podSecurityContext: dict[str, Any] = Field(
        {"seccompProfile": {"type": "RuntimeDefault"}}, description="Of all containers."
    )
    securityContext: dict[str, Any] = Field(
        {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        description="Of the agent: no root, no capability, no writing. Give user and group both. Another user is no "
        "upgrade without a gap.",
    )
    resources: dict[str, Any] = Field(
        {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        description="Of the agent. No CPU limit: it would slow every pod's start.",
    )
    probes: Probes = Field(Probes(), description="")
    extraEnv: Objects = Field([], description="More environment of the agent, as AWS_SHARED_CREDENTIALS_FILE.")
    extraVolumes: Objects = Field([], description="More volumes of the pod.")
    extraVolumeMounts: Objects = Field([], description="Where the agent has them.")
    podMonitor: Monitor = Field(Monitor(), description="")
    serviceMonitor: Monitor = Field(Monitor(), description="")
    prometheusRule: PrometheusRule = Field(PrometheusRule(), description="")
    grafanaDashboard: Dashboard = Field(Dashboard(), description="")
    admissionPolicies: AdmissionPolicies = Field(AdmissionPolicies(), description="")
    helmTest: HelmTest = Field(HelmTest(), description="")
    cleanup: bool = Field(
        default=False,
        description="Before an uninstall: the pods take the redirect off their nodes, and then do nothing.",
    )

"""A cluster of one node, and a desk at which the commands of the documents are typed.

Knows: how a control plane whose controllers are real, a node whose kubelet is played, helm, kubectl come together.
Must not know: what is typed.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from metaproxy import __version__
from tests.chart.build import Tools
from tests.chart.controlplane.node import PlayedNode
from tests.chart.controlplane.outside import Outside
from tests.chart.controlplane.plane import ControlPlane
from tests.chart.door import Door
from tests.cluster.waiting import wait_until
from tests.fakes.desk import Desk
from tests.guides import ROOT, blocks
from tests.network.lab.node import Lab

SECONDS = 300.0
"""For what a controller and a pod's start take: many times that."""

REGISTRY = "registry.example"
IMAGES = [*(f"{REGISTRY}/{name}:{__version__}" for name in ("metaproxy", "metaproxy-redirect")), f"{REGISTRY}/tools"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A cluster of one node, and whoever types."""

    desk: Desk
    node: PlayedNode
    controlplane: ControlPlane

    def write_values(self, sts: str, **keys: str) -> None:
        """`values.yaml`, with an STS and the variables by which the agent finds its own keys."""
        (shown,) = [text for language, text in blocks("docs/install.md") if language == "yaml"]
        values = yaml.safe_load(shown)
        config = values["config"]
        config["sts"]["endpoint_url"] = sts
        config |= {
            "redirect": {"device": "mp0"},
            "role_base_arn": "arn:aws:iam::123456789012:role/",
            "upstream": {"profile": "none"},
        }
        # Each probe starts a Python here: on a machine that does much else it takes its time.
        slowly = {"timeoutSeconds": 60, "periodSeconds": 2}
        values |= {
            "extraEnv": [{"name": name, "value": value} for name, value in keys.items()],
            "probes": dict.fromkeys(("startup", "liveness", "readiness"), slowly),
        }
        (self.desk.folder / "values.yaml").write_text(yaml.safe_dump(values))

    def agent(self) -> str:
        """The name of the agent's pod."""
        (pod,) = self.controlplane.pods("metaproxy", "app.kubernetes.io/component=agent")
        return str(pod["metadata"]["name"])

    def rules(self) -> str:
        """What of the redirect is on the node."""
        return self.node.lab.node.shell("ip rule; ip -6 rule; nft list ruleset; ip route")

    def remove(self) -> None:
        """As docs/install.md says, and the pods' namespace too."""
        where = "-n metaproxy"
        self.desk.type(f"helm upgrade metaproxy charts/metaproxy {where} -f values.yaml --set cleanup=true")
        self.desk.type(f"kubectl {where} rollout status daemonset/metaproxy")
        self.desk.type(f"helm uninstall metaproxy {where}")
        self.desk.type("kubectl -n shop delete pod web --grace-period=1")
        self.controlplane.cluster.delete_namespace("shop")
        self.gone()

    def gone(self) -> None:
        """Wait until nothing of the agent is left but the namespace, and take that away too."""
        wait_until("its pods are gone", lambda: not self.controlplane.pods("metaproxy"), SECONDS)
        self.controlplane.cluster.delete_namespace("metaproxy")


@contextmanager
def open_site(
    controlplane: ControlPlane, tools: Tools, folder: Path, sts: str, *, everywhere: Mapping[str, str] | None = None
) -> Iterator[Site]:
    """As long as the context lasts, with an STS of loopback; `everywhere` is what every container has as variables.

    `values.yaml` at the desk has what docs/install.md shows, and what makes this machine a node that is far from AWS.
    """
    cluster, port = controlplane.cluster, int(controlplane.cluster.url.rpartition(":")[2])
    with ExitStack() as stack:
        outside = stack.enter_context(Outside())
        lab = stack.enter_context(Lab(folder, families=(4,), styles=("bridge", "policy")))
        outside.lead(lab.node, port, int(sts.rpartition(":")[2]))
        node = stack.enter_context(
            PlayedNode(
                f"node-{secrets.token_hex(4)}",
                cluster,
                lab,
                folder=folder / "disk",
                images=IMAGES,
                environment={
                    "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                    "KUBERNETES_SERVICE_PORT": str(port),
                    **(everywhere or {}),
                },
            )
        )
        stack.enter_context(Door(node, cluster, tools.kubectl, folder / "door"))
        desk = Desk(
            folder / "desk",
            {"kubectl": f"{tools.kubectl} kubectl", "helm": tools.helm},
            KUBECONFIG=str(controlplane.kubeconfig),
        )
        (desk.folder / "charts").symlink_to(ROOT / "charts")
        site = Site(desk=desk, node=node, controlplane=controlplane)
        site.write_values(sts)
        yield site

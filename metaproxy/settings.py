"""Every setting of metaproxy as one tree, and which of them cannot go together.

Knows: how settings bear on each other; what each is, its group says.
Must not know: who uses a setting.

`Settings.load(arguments)` reads flags, environment and file; `docs/configuration.md` is made from this page.
"""

import ipaddress
import os
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from metaproxy.addresses import OWN_IPV4, OWN_IPV6, PORT
from metaproxy.knobs import SettingsError, Tree, knob
from metaproxy.podsettings import Caller, Events, Policy, Source, Sts, Tokens, Upstream
from metaproxy.processsettings import Admin, Handover, Log, Node, Redirect, Server
from metaproxy.roles import fields_of
from metaproxy.settingsources import Parser, load
from metaproxy.settingvalues import (
    BaseArnText,
    ClusterName,
    NodeName,
    RoleArnText,
    join_address,
    partition_of,
    url_address,
)

__all__ = ["Settings", "SettingsError"]

SHORTEST_UNFORCED = 3600
SOCKET_PATH_LONGEST = 103
"""Bytes: what the kernel takes, and room for the name under which the socket is made."""

HOP_LONGEST = 3600
"""Seconds: AWS gives a role that was assumed by a role no longer session (role chaining)."""


class Settings(Tree):
    """Everything that an operator may decide."""

    config: Path | None = knob(
        None,
        "A YAML file with settings by their file keys.",
        reason="None: flags and environment suffice.",
        metavar="FILE",
        shown="none",
    )
    node_name: NodeName = knob(
        "",
        "The node whose pods are answered; in a DaemonSet, spec.nodeName by the downward API.",
        reason="Needed with the Kubernetes source; a host's name is not always its node's, so it is not guessed.",
        metavar="NAME",
        shown="none",
    )
    cluster_name: ClusterName = knob(
        "",
        "The cluster's name, for {cluster} in templates.",
        reason="None: Kubernetes does not tell a cluster's name.",
        metavar="NAME",
        shown="none",
    )
    assume_role_arn: RoleArnText = knob(
        "",
        "A separate role that the agent assumes first and that application roles trust in place of the node role: "
        "nodes and clusters come and go without touching a trust policy.",
        reason="None: the node role assumes application roles itself.",
        metavar="ARN",
        shown="none",
    )
    role_base_arn: BaseArnText = knob(
        "",
        "What is put before role names without an ARN: arn:aws:iam::ACCOUNT:role/[PATH/].",
        reason="The account of the agent's own identity, learnt without delaying the start.",
        metavar="ARN",
        shown="detected",
    )
    server: Server = Server()
    admin: Admin = Admin()
    handover: Handover = Handover()
    redirect: Redirect = Redirect()
    source: Source = Source()
    caller: Caller = Caller()
    sts: Sts = Sts()
    upstream: Upstream = Upstream()
    tokens: Tokens = Tokens()
    policy: Policy = Policy()
    events: Events = Events()
    node: Node = Node()
    log: Log = Field(default_factory=Log)  # not once for all: its format depends on the terminal

    @classmethod
    def load(cls, arguments: Sequence[str] = ()) -> Self:
        """The settings of flags, environment and file.

        Raises:
            SettingsError: something is unknown, malformed, or cannot work together.
        """
        _, flags = Parser("metaproxy run", cls).read(arguments)
        return load(cls, flags).settings

    @model_validator(mode="before")
    @classmethod
    def _as_the_source_needs(cls, given: Any) -> Any:
        """Defaults that depend on where pods are learnt: with manifests there need be no redirect."""
        groups = [given.get(name, {}) for name in ("source", "server", "caller", "redirect")]
        if not all(isinstance(group, dict) for group in groups) or groups[0].get("manifests"):
            return given
        _, server, caller, redirect = groups
        port = redirect.get("port", PORT)
        leads_here = {"listen": [f"{OWN_IPV4}:{port}", f"[{OWN_IPV6}]:{port}"], "accept_direct": False}
        return {**given, "server": leads_here | server, "caller": {"witness": "on"} | caller}

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        if lines := [*self._source_troubles(), *self._sts_troubles(), *self._address_troubles()]:
            raise ValueError("\n".join(lines))
        return self

    def _source_troubles(self) -> Iterator[str]:
        if self.source.manifests:
            if self.source.kubeconfig is not None:
                yield "--source.manifests and --source.kubeconfig: pods have one source; give one of them"
            if self.node.remove_startup_taint:
                yield "--node.remove-startup-taint: with --source.manifests there is no node object"
            return
        if self.source.kubeconfig is None and not os.environ.get("KUBERNETES_SERVICE_HOST"):
            # The kubelet gives that variable to every pod: without it there is no service account either.
            yield (
                "--source.manifests: there is no source of pods: this is no pod of a cluster; "
                "give --source.manifests or --source.kubeconfig"
            )
        if not self.node_name:
            yield "--node-name: the Kubernetes source watches the pods of one node; name it"

    def _sts_troubles(self) -> Iterator[str]:
        sts = self.sts
        if sts.session_duration < SHORTEST_UNFORCED and not sts.force_session_duration:
            yield (
                f"--sts.session-duration: {sts.session_duration} s leave too little life to sit out an outage of STS; "
                "give 3600, or --sts.force-session-duration"
            )
        if sts.session_duration > HOP_LONGEST and self.assume_role_arn:
            yield (
                f"--sts.session-duration: {sts.session_duration} s and --assume-role-arn: AWS gives a role that was "
                f"assumed by a role at most {HOP_LONGEST} s"
            )
        given = {"node": self.node_name, "cluster": self.cluster_name}
        for flag, template in (
            ("--sts.session-name", sts.session_name),
            *(("--sts.session-tags", template) for template in sts.session_tags.values()),
            ("--sts.source-identity", sts.source_identity),
        ):
            for field in sorted(fields_of(template) & given.keys()):
                if not given[field]:
                    yield f"{flag}: {{{field}}} is used and --{field}-name is not given"
        arns = {
            "--assume-role-arn": self.assume_role_arn,
            "--role-base-arn": self.role_base_arn,
            "--policy.default-role": self.policy.default_role,
        }
        partitions = {flag: arn.split(":")[1] for flag, arn in arns.items() if arn.startswith("arn:")}
        if sts.region:
            partitions = {"--sts.region": partition_of(sts.region), **partitions}
        for (flag, partition), (other, another) in combinations(partitions.items(), 2):
            if partition != another:
                yield f"{other}: it is in partition {another}, {flag} in {partition}; no role is assumed across them"

    def _address_troubles(self) -> Iterator[str]:
        if self.handover.socket is not None and len(os.fsencode(self.handover.socket)) > SOCKET_PATH_LONGEST:
            yield f"--handover.socket: the path of a unix socket has at most {SOCKET_PATH_LONGEST} bytes here"
        listeners = [("--server.listen", address) for address in self.server.listen]
        if self.admin.listen is not None:
            listeners.append(("--admin.listen", self.admin.listen))
        elif self.admin.socket is None:
            yield "--admin.listen: with none nobody could ask the agent how it is; give --admin.socket"
        for (_, address), (flag, other) in combinations(listeners, 2):
            if _meets(other, address) or _meets(address, other):
                yield f"{flag}: {join_address(other)} and {join_address(address)} cannot both be listened on"
        for flag, url in (("--upstream.url", self.upstream.url), ("--sts.endpoint-url", self.sts.endpoint_url)):
            if url and any(_meets(url_address(url), address) for _, address in listeners):
                yield f"{flag}: that is where the agent itself listens: it would ask itself"


def _meets(target: tuple[str, int], listener: tuple[str, int]) -> bool:
    """Whether a connection to `target` certainly ends at `listener`."""
    host, port = target
    if port != listener[1] or port == 0:
        return False
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return False
    own = ipaddress.ip_address(listener[0])
    # An unspecified listener answers on every address of the machine, of which loopback ones are certain.
    local = address.is_loopback or address.is_unspecified
    return address == own or (own.is_unspecified and own.version == address.version and local)

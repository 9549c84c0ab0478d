"""Every knob of metaproxy: its name, type, unit, default, and the reason for it; and which of them cannot go together.

Knows: what an operator may decide.
Must not know: who uses a setting.

`Settings.load(arguments)` reads flags, environment and file; `docs/configuration.md` is made from this page.
"""

import ipaddress
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from metaproxy.knobs import Group, SettingsError, Tree, knob
from metaproxy.roles import fields_of
from metaproxy.settingsources import Parser, load
from metaproxy.settingvalues import (
    Address,
    Addresses,
    BaseArnText,
    ClusterName,
    Items,
    NodeName,
    Paths,
    Patterns,
    Region,
    RoleArnText,
    RoleText,
    SignedUrl,
    Tags,
    Template,
    Url,
    join_address,
    partition_of,
    url_address,
)

__all__ = ["Settings", "SettingsError"]

SHORTEST_UNFORCED = 3600
HOP_LONGEST = 3600
"""Seconds: AWS gives a role that was assumed by a role no longer session (role chaining)."""


class Server(Group):
    """Where pods ask, and how long they are held."""

    listen: Addresses = knob(
        [("127.0.0.1", 8181)],
        "Where pods are answered; the node's redirect leads 169.254.169.254:80 here. IPv6 in brackets; port 0 is any.",
        reason="Loopback: nobody is answered before the operator has decided where.",
        metavar="ADDR:PORT",
        shown="127.0.0.1:8181",
        min_length=1,
    )
    hold: float = knob(
        0.9,
        "How long a request is held at most while its pod or its credentials are on their way; then 503.",
        reason="SDKs give up after 1 s by default: an answer just before that keeps their retry.",
        metavar="SECONDS",
        unit="seconds",
        ge=0,
        le=60,
    )
    connections_per_address: int = knob(
        2048,
        "Connections that one address may have open; more are closed at once.",
        reason="Far more than an SDK opens, and one pod cannot take every descriptor of the agent.",
        metavar="NUMBER",
        unit="connections",
        ge=1,
    )


class Admin(Group):
    """Where the operator looks: health, metrics, explanations."""

    listen: Address = knob(
        ("127.0.0.1", 9181),
        "Where /livez, /readyz, /metrics and /explain are; IPv6 in brackets.",
        reason="Loopback: name the node's address to let Prometheus in; explanations stay on this machine.",
        metavar="ADDR:PORT",
        shown="127.0.0.1:9181",
    )


class Source(Group):
    """Where pods and namespaces are learnt: from Kubernetes, unless manifests are named."""

    manifests: Paths = knob(
        [],
        "Files or folders of YAML with Pods and Namespaces, read anew when they change: no cluster is asked.",
        reason="None: a node of a cluster has the API server.",
        metavar="PATH",
        shown="none",
    )
    kubeconfig: Path | None = knob(
        None,
        "The kubeconfig to reach the API server with.",
        reason="None: in a pod, its service account is used. Its own setting, because KUBECONFIG is often a person's.",
        metavar="PATH",
        shown="the pod's service account",
    )


class Caller(Group):
    """How the pod behind an address is known."""

    witness: Literal["on", "off"] | None = knob(
        None,
        "Whether the node's kernel has a say in who owns an address: a pod is tied to the device, and on bridges the "
        "hardware address, at which its address was first seen. It only ever takes an owner away.",
        reason="The kernel knows at once what a watch tells late. Manifests may name addresses of other machines.",
        metavar="on|off",
        shown="on with the Kubernetes source",
    )


class Sts(Group):
    """How sessions are asked for."""

    endpoint_url: SignedUrl = knob(
        "",
        "Another address for STS: a VPC endpoint, or a test.",
        reason="The region's own endpoint is the nearest.",
        metavar="URL",
        shown="the region's",
    )
    region: Region = knob(
        "",
        "The region whose STS endpoint is asked.",
        reason="AWS_REGION or AWS_DEFAULT_REGION, else the node's metadata service knows it.",
        metavar="REGION",
        shown="detected",
    )
    session_duration: int = knob(
        3600,
        "How long a session lives; it is renewed at half its life.",
        reason="The longest that every role allows and that a separate role can hand on.",
        metavar="SECONDS",
        unit="seconds",
        ge=900,
        le=43_200,
    )
    force_session_duration: bool = knob(
        default=False,
        meaning="Take a session duration below 3600 seconds.",
        reason="Short sessions leave too little life to sit out an outage of STS, and cost calls: ask for it twice.",
        metavar="true|false",
    )
    session_name: Template = knob(
        "{namespace}.{workload}",
        "The session's name in CloudTrail. Fields: {namespace} {workload} {pod} {service_account} {node} {cluster} "
        "{uid}. What is too long is shortened with a hash.",
        reason="Names the workload, and its replicas share one session.",
        metavar="TEMPLATE",
    )
    session_tags: Tags = knob(
        {},
        "Session tags, with the fields of the session name. Trust policies must then allow sts:TagSession.",
        reason="None: without sts:TagSession every role would be refused.",
        metavar="KEY=TEMPLATE",
        shown="none",
    )
    source_identity: Template = knob(
        "",
        "The session's source identity, with the same fields. Trust policies must then allow sts:SetSourceIdentity.",
        reason="None: without sts:SetSourceIdentity every role would be refused.",
        metavar="TEMPLATE",
        shown="none",
    )
    concurrency: int = knob(
        32,
        "Calls to STS under way at once.",
        reason="A node's pods all get their credentials within a few round trips.",
        metavar="NUMBER",
        unit="calls",
        ge=1,
        le=1000,
    )
    rate: float = knob(
        20.0,
        "Calls to STS per second, in the long run.",
        reason="A node needs far fewer; a fault on one node must not take the account's quota of 600 per second.",
        metavar="NUMBER",
        unit="calls per second",
        gt=0,
    )
    burst: int = knob(
        200,
        "Calls to STS that may go at once after a quiet time.",
        reason="More roles than a node has pods: a start is never slowed.",
        metavar="NUMBER",
        unit="calls",
        ge=1,
    )


class Upstream(Group):
    """What pods may know of the node's own metadata service."""

    url: Url = knob(
        "http://169.254.169.254",
        "The node's own metadata service.",
        reason="Where EC2 has it.",
        metavar="URL",
    )
    profile: Literal["none", "basic"] = knob(
        "basic",
        "What is forwarded: nothing, or region, zone, partition, domain, instance id and type, and the unsigned "
        "identity document.",
        reason="What SDKs ask to find their region, and nothing that gives power.",
        metavar="PROFILE",
    )
    allow: Items = knob(
        [],
        "Further paths below the version: exact ones (meta-data/mac), or prefixes that end in a slash. Credentials, "
        "user data, signatures, keys and tags are never forwarded.",
        reason="None: everything on the metadata address tells something about the node.",
        metavar="PATH",
        shown="none",
    )


class Tokens(Group):
    """IMDSv2 session tokens."""

    mode: Literal["optional", "required"] = knob(
        "optional",
        "Whether requests need a token; a namespace's annotation metaproxy.dev/imds-tokens decides for its pods.",
        reason="Old SDKs know no tokens; an invalid one is refused in both modes.",
        metavar="MODE",
    )
    key_file: Path | None = knob(
        None,
        "The file with the key that signs tokens; made, readable by its owner only, when it is not there.",
        reason="No path is writable everywhere. Without one the key lives in memory: a restart ends all tokens, SDKs "
        "then ask for new ones, and the log warns of it.",
        metavar="PATH",
        shown="in memory",
    )


class Policy(Group):
    """Which roles pods may have."""

    namespace_policy: Literal["required", "optional"] = knob(
        "required",
        "Whether a namespace that says nothing about roles permits none, or any.",
        reason="Closed when in doubt: whoever may annotate a pod could otherwise take any role.",
        metavar="POLICY",
    )
    default_role: RoleText = knob(
        "",
        "The role of pods without an annotation: a name, PATH/NAME, or ARN. It passes the same checks.",
        reason="None: a pod that asks for nothing gets nothing.",
        metavar="ROLE",
        shown="none",
    )
    allow: Patterns = knob(
        [],
        "Patterns of whole role ARNs, of which one must match whatever namespaces permit; * stands for anything but "
        "a slash.",
        reason="No bound: what the agent may assume is bounded by IAM.",
        metavar="PATTERN",
        shown="no bound",
    )


class Events(Group):
    """Kubernetes Events about pods."""

    enabled: bool = knob(
        default=True,
        meaning="Tell pods' owners by Events why their pod got no credentials. Needs the Kubernetes source.",
        reason="kubectl describe pod is where owners look first.",
        metavar="true|false",
    )


def _default_format() -> str:
    return "console" if sys.stdout.isatty() else "json"


class Log(Group):
    """What the agent says on standard output."""

    format: Literal["json", "console"] = knob(
        None,
        "Lines of JSON, or columns for a person.",
        reason="Whoever reads at a terminal is a person.",
        metavar="FORMAT",
        shown="console on a terminal, else json",
        factory=_default_format,
    )
    level: Literal["debug", "info", "warning", "error"] = knob(
        "info",
        "The least that is told; libraries speak from warning up, whatever this says.",
        reason="One record for each session, a refusal once a minute for each pod and reason, none for cached answers.",
        metavar="LEVEL",
    )


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
    source: Source = Source()
    caller: Caller = Caller()
    sts: Sts = Sts()
    upstream: Upstream = Upstream()
    tokens: Tokens = Tokens()
    policy: Policy = Policy()
    events: Events = Events()
    log: Log = Field(default_factory=Log)  # not once for all: its format depends on the terminal

    @classmethod
    def load(cls, arguments: Sequence[str] = ()) -> Self:
        """The settings of flags, environment and file.

        Raises:
            SettingsError: something is unknown, malformed, or cannot work together.
        """
        _, flags = Parser("metaproxy run", cls).read(arguments)
        return load(cls, flags).settings

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        if lines := [*self._source_troubles(), *self._sts_troubles(), *self._address_troubles()]:
            raise ValueError("\n".join(lines))
        return self

    def _source_troubles(self) -> Iterator[str]:
        if self.source.manifests:
            if self.source.kubeconfig is not None:
                yield "--source.manifests and --source.kubeconfig: pods have one source; give one of them"
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
        listeners = [("--server.listen", address) for address in self.server.listen]
        listeners.append(("--admin.listen", self.admin.listen))
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

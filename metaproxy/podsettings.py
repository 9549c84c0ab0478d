"""The groups of settings about pods: where they are learnt, how each is known, what it may have, what it is told.

Each knob stands with its type, unit, default, and the reason for it.

Knows: what an operator may decide of these.
Must not know: what cannot go together, who uses a setting.
"""

from pathlib import Path
from typing import Literal

from metaproxy.knobs import Group, knob
from metaproxy.settingvalues import (
    Items,
    Paths,
    Patterns,
    Region,
    RoleText,
    SignedUrl,
    Tags,
    Template,
    Url,
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

    witness: Literal["on", "off"] = knob(
        "off",
        "Whether the node's kernel has a say in who owns an address: a pod is tied to the device, and on bridges the "
        "hardware address, at which its address was first seen. It only ever takes an owner away.",
        reason="The kernel knows at once what a watch tells late. Manifests may name addresses of other machines.",
        metavar="on|off",
        shown="on with the Kubernetes source, else off",
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


class Events(Group):
    """Kubernetes Events about pods."""

    enabled: bool = knob(
        default=True,
        meaning="Tell pods' owners by Events why their pod got no credentials. Needs the Kubernetes source.",
        reason="kubectl describe pod is where owners look first.",
        metavar="true|false",
    )

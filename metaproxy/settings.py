"""Every setting: its name, type, unit, default and reason, and the combinations that cannot work.

Knows: what may be set. Must not know: where values come from, what any setting does.
"""

import json
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from metaproxy.policy import PatternError, allow_pattern
from metaproxy.roles import (
    TAG_COUNT_LIMIT,
    TAG_KEY_LIMIT,
    BaseArn,
    RoleArn,
    RoleSyntaxError,
    fields_of,
    resolve,
)

TEMPLATE_FIELDS = frozenset({"namespace", "workload", "pod", "service_account", "node", "cluster", "uid"})
ROLE_CHAINING_LIMIT = 3600

_REGION = re.compile(r"[a-z]{2,5}(-[a-z]+)+-[0-9]{1,2}", re.ASCII)
_TAG_KEY = re.compile(r"[\w.:/=+\-@ ]+")


def _address(value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    host, colon, port = str(value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535) or (  # noqa: PLR2004
        ":" in host and not str(value).startswith("[")
    ):
        raise ValueError("an address is ADDR:PORT, an IPv6 address in brackets")
    return host, int(port)


def _many(value: Any) -> Any:
    """Several values in one text: JSON or with commas between."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith(("[", "{")) else [part.strip() for part in value.split(",")]


def _pairs(value: Any) -> Any:
    value = _many(value)
    if not isinstance(value, list):
        return value
    pairs = [str(part).partition("=") for part in value]
    if not all(key and equals for key, equals, _ in pairs):
        raise ValueError("a tag is KEY=TEMPLATE")
    return {key: template for key, _, template in pairs}


def _syntax(parse: Any) -> AfterValidator:
    def check(value: str) -> str:
        if value:
            try:
                parse(value)
            except (RoleSyntaxError, PatternError) as error:
                raise ValueError(str(error)) from error
        return value

    return AfterValidator(check)


def _template(value: str) -> str:
    if unknown := fields_of(value) - TEMPLATE_FIELDS:
        raise ValueError(f"unknown field {{{min(unknown)}}}; there are {', '.join(sorted(TEMPLATE_FIELDS))}")
    return value


def _tags(value: dict[str, str]) -> dict[str, str]:
    if len(value) > TAG_COUNT_LIMIT or len({key.lower() for key in value}) != len(value):
        raise ValueError(f"at most {TAG_COUNT_LIMIT} tags, and no key twice, whatever its case")
    for key, template in value.items():
        if len(key) > TAG_KEY_LIMIT or _TAG_KEY.fullmatch(key) is None or key.lower().startswith("aws:"):
            raise ValueError(f"{key!a} is no tag key")
        _template(template)
    return value


def _region(value: str) -> str:
    if value and _REGION.fullmatch(value) is None:
        raise ValueError("this is no region, such as eu-central-1")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("this is no URL, such as http://169.254.169.254")
    return value.rstrip("/")


def _item(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*/?", value) is None:
        raise ValueError("an item is a path without version, such as meta-data/mac, or a prefix ending in a slash")
    return value


Address = Annotated[tuple[str, int], BeforeValidator(_address)]
Addresses = Annotated[list[Address], BeforeValidator(_many)]
Texts = Annotated[list[str], BeforeValidator(_many)]
Url = Annotated[str, AfterValidator(_url)]
Template = Annotated[str, AfterValidator(_template)]
Seconds = Annotated[float, Field(gt=0)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ServerSettings(_Group):
    """The listener that pods reach."""

    listen: Addresses = Field(
        default_factory=lambda: [("127.0.0.1", 8181)],
        description="Addresses to answer pods on, ADDR:PORT: where a redirect leads; loopback until one does.",
    )
    hold: Seconds = Field(
        default=0.9, le=5, description="Seconds for which a request is held at most: nearly every SDK waits one second."
    )
    connections_per_address: int = Field(
        default=2048,
        ge=1,
        description="Connections that one pod may hold: more than SDKs open, less than harms others.",
    )


class AdminSettings(_Group):
    """The operator's listener."""

    listen: Address = Field(
        default=("127.0.0.1", 9181),
        description="Address of /livez, /readyz, /metrics and /explain. Loopback: the node's network is shared.",
    )


class SourceSettings(_Group):
    """Where pods and namespaces come from: the cluster of the service account, unless one of these is given."""

    manifests: Texts = Field(
        default_factory=list, description="YAML files or folders of Pods and Namespaces: no cluster is asked then."
    )
    kubeconfig: str = Field(default="", description="A kubeconfig file, instead of the pod's service account.")


class StsSettings(_Group):
    """The AssumeRole calls."""

    endpoint_url: Url = Field(default="", description="Another STS: for tests. Otherwise the region's own endpoint.")
    region: Annotated[str, AfterValidator(_region)] = Field(
        default="",
        description="The region whose STS is asked; if empty, the environment's or the metadata service's.",
    )
    session_duration: int = Field(
        default=3600,
        ge=900,
        le=43200,
        description="Seconds of life of a session. One hour: SDKs want 25 minutes left, and chained roles get no more.",
    )
    force_session_duration: bool = Field(
        default=False, description="Take a session duration below 3600 although SDKs will fetch again and again."
    )
    session_name: Template = Field(
        default="{namespace}.{workload}",
        description="The session's name: replicas of a workload share one session, and CloudTrail names the workload.",
    )
    session_tags: Annotated[dict[str, str], BeforeValidator(_pairs), AfterValidator(_tags)] = Field(
        default_factory=dict,
        description="Session tags, KEY=TEMPLATE. None: they need sts:TagSession in trust policies.",
    )
    source_identity: Template = Field(
        default="", description="A source identity template. None: it needs sts:SetSourceIdentity in trust policies."
    )
    concurrency: int = Field(default=32, ge=1, le=512, description="Calls to STS at the same time.")
    rate: float = Field(default=20.0, gt=0, description="Calls to STS for each second, once the burst is used up.")
    burst: int = Field(default=200, ge=1, description="Calls to STS at once: a node's pods at the start.")


class UpstreamSettings(_Group):
    """The node's own metadata service."""

    url: Url = Field(default="http://169.254.169.254", description="Where the node's own metadata service is.")
    profile: Literal["none", "basic"] = Field(
        default="basic",
        description="What pods may read of it: nothing, or region, zone, partition, instance id, type.",
    )
    allow: Annotated[list[Annotated[str, AfterValidator(_item)]], BeforeValidator(_many)] = Field(
        default_factory=list, description="Further items: exact paths without version, or prefixes ending in a slash."
    )


class TokensSettings(_Group):
    """IMDSv2 session tokens."""

    mode: Literal["optional", "required"] = Field(
        default="optional", description="Whether requests need a token. Optional: old clients know none."
    )
    key_file: str = Field(
        default="",
        description="File of the key that signs tokens, made when absent. Without one tokens do not outlive a restart.",
    )


class PolicySettings(_Group):
    """Who may have which role."""

    namespace_policy: Literal["required", "optional"] = Field(
        default="required",
        description="Whether a namespace must permit roles. Required: else whoever makes pods picks any role.",
    )
    default_role: Annotated[str, _syntax(lambda text: resolve(text, None))] = Field(
        default="", description="The role of pods that are known to have no annotation; checked like any other."
    )
    allow: Annotated[list[Annotated[str, _syntax(allow_pattern)]], BeforeValidator(_many)] = Field(
        default_factory=list,
        description="Patterns of whole role ARNs (* is anything but a slash) that bound every pod. None: no bound.",
    )


class EventsSettings(_Group):
    """Kubernetes Events on pods."""

    enabled: bool = Field(default=True, description="Whether refusals are told as Events; needs create and patch.")


class LogSettings(_Group):
    """Logs, on standard output."""

    format: Literal["json", "console", "auto"] = Field(
        default="auto", description="json for machines, console for people; auto: console on a terminal."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least urgent level to show. At info, cached answers are silent."
    )


class Settings(_Group):
    """metaproxy's settings."""

    server: ServerSettings = ServerSettings()
    admin: AdminSettings = AdminSettings()
    source: SourceSettings = SourceSettings()
    sts: StsSettings = StsSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    tokens: TokensSettings = TokensSettings()
    policy: PolicySettings = PolicySettings()
    events: EventsSettings = EventsSettings()
    log: LogSettings = LogSettings()
    node_name: str = Field(default="", description="This node's name; the watch is for its pods alone.")
    cluster_name: str = Field(default="", description="The cluster's name, for session names and tags.")
    assume_role_arn: Annotated[str, _syntax(RoleArn.parse)] = Field(
        default="",
        description="A separate role that is assumed first; application roles trust it instead of the node's role.",
    )
    role_base_arn: Annotated[str, _syntax(BaseArn.parse)] = Field(
        default="",
        description="What role names without an ARN stand on: arn:aws:iam::ACCOUNT:role/. The node's account if empty.",
    )

    @model_validator(mode="after")
    def _workable(self) -> Self:
        """Refuse combinations that cannot work."""
        sts, source = self.sts, self.source
        if sts.session_duration < ROLE_CHAINING_LIMIT and not sts.force_session_duration:
            raise ValueError(
                "--sts.session-duration: below 3600 SDKs ask for each call; or give --sts.force-session-duration"
            )
        if sts.session_duration > ROLE_CHAINING_LIMIT and self.assume_role_arn:
            raise ValueError("--sts.session-duration: a role assumed through another one lives 3600 seconds at most")
        if source.manifests and source.kubeconfig:
            raise ValueError("--source.manifests and --source.kubeconfig: pods come from one of them, not from both")
        if not source.manifests and not self.node_name:
            raise ValueError("--node-name: needed to watch the pods of this node (or give --source.manifests)")
        if not self.server.listen:
            raise ValueError("--server.listen: at least one address")
        upstream = urlsplit(self.upstream.url)
        if (upstream.hostname, upstream.port or 80) in self.server.listen:
            raise ValueError("--upstream.url: that is our own listener; it would ask itself")
        return self

"""What the operator's settings come to, for the parts that decide, call and answer.

Knows: settings, what each part asks to be told, and how what nobody set is learnt.
Must not know: how any part works, or when it is started.
"""

import asyncio
import os
import random
import secrets
from typing import Protocol

import structlog

from metaproxy import keyfile, tokens
from metaproxy.errors import MetaproxyError
from metaproxy.handoverstate import Terms
from metaproxy.imds import BASIC, Profile
from metaproxy.policy import Rules
from metaproxy.roles import BaseArn, RoleArn
from metaproxy.settings import Settings
from metaproxy.sts import Options
from metaproxy.stsanswers import Identity

log = structlog.get_logger()

DETECT_PAUSE = (0.5, 30.0)
"""Seconds between two tries to learn who we are: from, and growing to."""


def rules_of(settings: Settings) -> Rules:
    """What the operator decided about who may have what."""
    return Rules(
        base=BaseArn.parse(settings.role_base_arn) if settings.role_base_arn else None,
        default_role=settings.policy.default_role,
        namespace_required=settings.policy.namespace_policy == "required",
        allow=tuple(settings.policy.allow),
        session_name=settings.sts.session_name,
        tags=tuple(settings.sts.session_tags.items()),
        source_identity=settings.sts.source_identity,
        duration=settings.sts.session_duration,
        node=settings.node_name,
        cluster=settings.cluster_name,
    )


def sts_options(settings: Settings) -> Options:
    """How STS is reached, and as whom."""
    return Options(
        region=settings.sts.region or os.environ.get("AWS_REGION", "") or os.environ.get("AWS_DEFAULT_REGION", ""),
        endpoint_url=settings.sts.endpoint_url,
        # The default chain asks where we ask, so that both mean the same node.
        metadata_url="" if "AWS_EC2_METADATA_SERVICE_ENDPOINT" in os.environ else settings.upstream.url,
        hop=RoleArn.parse(settings.assume_role_arn) if settings.assume_role_arn else None,
        hop_session_name=f"metaproxy-{settings.node_name}" if settings.node_name else "metaproxy",
        connections=settings.sts.concurrency,
    )


def profile_of(settings: Settings) -> Profile:
    """Which of the node's own items pods may have."""
    return Profile(
        exact=(BASIC if settings.upstream.profile == "basic" else frozenset())
        | {path for path in settings.upstream.allow if not path.endswith("/")},
        prefixes=tuple(path for path in settings.upstream.allow if path.endswith("/")),
    )


def items_ahead(settings: Settings) -> tuple[str, ...]:
    """The items that are fetched before anybody asks: those that SDKs ask for, if pods may have them."""
    return tuple(f"/latest/{path}" for path in sorted(BASIC)) if settings.upstream.profile == "basic" else ()


def terms_of(settings: Settings, *, network: str, principal: str) -> Terms:
    """Who this process is to a successor: in that network, and to STS that role."""
    cluster = settings.source.kubeconfig or os.environ.get("KUBERNETES_SERVICE_HOST", "")
    where = [str(each) for each in settings.source.manifests] or [str(cluster)]
    sts = settings.sts
    options = sts_options(settings)
    return Terms(
        source=repr((settings.node_name, where)),
        network=network,
        issuer=repr((settings.assume_role_arn, options.endpoint_url, options.region)),
        principal=principal,
        keys=repr(
            (
                *(settings.node_name, settings.cluster_name, settings.role_base_arn, settings.policy),
                *(sts.session_name, sts.session_tags, sts.source_identity, sts.session_duration),
            )
        ),
    )


def token_key(settings: Settings, handed: bytes | None) -> bytes:
    """The key that signs tokens: of the file, else as it was `handed` over, else a new one.

    Raises:
        KeyFileError: there is a file, and it cannot be used.
    """
    if settings.tokens.key_file:
        return keyfile.load(settings.tokens.key_file, size=tokens.KEY_SIZE)
    if handed is not None:
        return handed
    log.warning("tokens will not outlive this process", remedy="name a file in --tokens.key-file")
    return secrets.token_bytes(tokens.KEY_SIZE)


class Known(Protocol):
    """Who can say who we are."""

    async def identity(self) -> Identity:
        """As STS sees us; MetaproxyError when that is not to be had now."""
        ...


async def detected_base(known: Known) -> BaseArn:
    """What bare role names stand on when nobody said: our own account, asked for until it is told."""
    pause, longest = DETECT_PAUSE
    while True:
        try:
            identity = await known.identity()
            base = BaseArn(partition=identity.partition, account=identity.account)
            break
        except MetaproxyError as failure:
            log.warning(
                "own identity is not known yet",
                reason=failure.reason,
                message=failure.message,
                remedy=failure.remedy,
            )
        await asyncio.sleep(pause * (0.75 + 0.5 * random.random()))  # noqa: S311  spreads load, guards nothing
        pause = min(2 * pause, longest)
    log.info("base ARN detected", base=base.arn)
    return base

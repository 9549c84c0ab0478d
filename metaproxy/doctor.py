"""`metaproxy doctor`: what is wrong with a set-up, before pods find out.

Knows: which looks there are, what each needs, and in which order they build on one another.
Must not know: how anything is looked at, judged or printed.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from metaproxy.awschecks import Aws, aws_findings, clock_findings, role_findings
from metaproxy.compat import compat_findings
from metaproxy.doctoraws import AwsLook, sts_skew
from metaproxy.doctorchecks import (
    Judged,
    Permission,
    calls_of,
    judged,
    namespace_findings,
    network_findings,
    permission_findings,
    permissions,
    pod_findings,
    raw_findings,
)
from metaproxy.doctorcluster import Cluster, of_kubernetes, of_manifests
from metaproxy.doctornode import Links, links, node_findings
from metaproxy.errors import Reason
from metaproxy.findings import Finding, in_order, not_checked
from metaproxy.iamdocuments import actions
from metaproxy.peers import PeerRules
from metaproxy.policy import Denial, Grant
from metaproxy.wiring import rules_of

GROUPS = (
    *("node_name", "cluster_name", "assume_role_arn", "role_base_arn"),
    *("source", "sts", "upstream", "policy", "redirect", "events", "node"),
)
"""The settings that are needed: the others may be missing, or of another machine."""

NODE_GROUPS = ("node_name", "assume_role_arn", "sts", "upstream", "redirect")
"""The settings that are needed for the node alone."""

ELSEWHERE = "run it on a node, with --node-name and on the node's network: in the pods of metaproxy"
_OF_PODS = ("namespace-policy", "annotations", "host-network", "net-raw", "second-networks")
_OF_ROLES = ("roles", "session-duration")


def _quiet() -> None:
    """What the agent logs of its troubles is in the findings."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def examine(settings: Any, peer: PeerRules | None = None) -> list[Finding]:
    """Look at everything that can be looked at from here; what was found. `settings`: those of `GROUPS`."""
    _quiet()
    return asyncio.run(examined(settings, peer))


def examine_node(settings: Any) -> list[Finding]:
    """Look at this node alone: no API server is asked, and STS but for the time. `settings`: those of `NODE_GROUPS`."""
    _quiet()
    return asyncio.run(node_examined(settings))


async def node_examined(settings: Any) -> list[Finding]:
    """The same, on the loop that runs."""
    seen = await asyncio.to_thread(links)
    found = [
        *clock_findings({"STS": await sts_skew(settings)}, remedy="let this node reach STS, and know its region"),
        *raw_findings(None, settings.node_name, seen.bridges),
        *network_findings(None, seen.past),
        *await asyncio.to_thread(lambda: list(node_findings(settings.redirect))),
    ]
    return in_order(found)


async def examined(settings: Any, peer: PeerRules | None = None) -> list[Finding]:
    """The same, on the loop that runs."""
    wanted = permissions(events=settings.events.enabled, taint=settings.node.remove_startup_taint)
    cluster = await _cluster(settings, wanted, peer)
    found: list[Finding] = []
    async with AwsLook(settings) as look:
        aws = await look.aws()
        rules = replace(rules_of(settings), base=aws.base)
        pods = judged(cluster.pods, cluster.namespaces, rules)
        whole = not cluster.troubles.keys() & {"pods", "namespaces"}
        found += aws_findings(aws)
        found += clock_findings({"STS": aws.skew, "the API server": cluster.skew})
        if whole:
            found += await _roles(settings, look, aws, pods)
    found += _of_permissions(settings, wanted, cluster)
    on_node = bool(settings.node_name or settings.source.manifests)
    seen = await asyncio.to_thread(links) if on_node else Links()
    if whole:
        found += pod_findings(pods, cluster.pods)
        found += namespace_findings(pods, cluster.namespaces, rules, skipped=cluster.skipped)
        found += raw_findings(cluster.pods, settings.node_name, seen.bridges)
        found += network_findings(cluster.pods, seen.past)
        if peer is not None:
            found += compat_findings(pods, cluster.namespaces, rules, peer)
    else:
        found += _unlisted(cluster, peer)
    found += await asyncio.to_thread(lambda: list(_of_node(settings, on_node)))
    return in_order(found)


async def _cluster(settings: Any, wanted: Sequence[Permission], peer: PeerRules | None) -> Cluster:
    if settings.source.manifests:
        return await of_manifests([str(path) for path in settings.source.manifests])
    return await of_kubernetes(str(settings.source.kubeconfig or ""), wanted, peer.keys if peer else frozenset())


async def _roles(settings: Any, look: AwsLook, aws: Aws, pods: Sequence[Judged]) -> list[Finding]:
    if not aws.usable:
        first = "own-identity" if aws.own_failure is not None else "separate-role"
        why = f"nothing can be assumed while {first} does not work"
        return [not_checked(check, why, f"mend {first} first") for check in _OF_ROLES]
    waiting = sum(
        isinstance(each.decision, Denial) and each.decision.reason is Reason.BASE_ARN_UNKNOWN for each in pods
    )
    needed = actions(tags=bool(settings.sts.session_tags), source_identity=bool(settings.sts.source_identity))
    calls = calls_of(pods)
    untried = len({each.decision.call for each in pods if isinstance(each.decision, Grant)}) - len(calls)
    whom = aws.hop or aws.principal
    attempts = await look.tried(calls)
    return list(role_findings(attempts, principal=whom, needed=needed, waiting=waiting, untried=untried))


def _of_permissions(settings: Any, wanted: Sequence[Permission], cluster: Cluster) -> Iterator[Finding]:
    if settings.source.manifests:
        yield not_checked("api-permissions", "pods come from manifests", "nothing, without a cluster")
    elif why := cluster.troubles.get("permissions"):
        yield not_checked("api-permissions", why, "name a kubeconfig that works in --source.kubeconfig")
    else:
        yield from permission_findings(wanted, cluster.denied)


def _unlisted(cluster: Cluster, peer: PeerRules | None) -> Iterator[Finding]:
    troubles: Mapping[str, str] = cluster.troubles
    why = troubles.get("pods") or troubles["namespaces"]
    remedy = "let whoever runs this list pods and namespaces of the whole cluster (docs/doctor.md)"
    for check in (*_OF_PODS, *_OF_ROLES, *(("compat",) if peer else ())):
        yield not_checked(check, why, remedy)


def _of_node(settings: Any, on_node: bool) -> Iterator[Finding]:
    if on_node:
        yield from node_findings(settings.redirect)
        return
    for check in ("redirect", "leftover-rules", "source-route"):
        yield not_checked(check, "this is not taken for a node: --node-name is not given", ELSEWHERE)

"""What pods are entitled to is wanted of the broker before they ask; what they are refused is told to their owners.

Knows: when to look at a decision anew, and whom to tell.
Must not know: how decisions are made, STS, HTTP.

Policy comes first, so a pod's author cannot make the node call STS for a role that the namespace forbids (kiam
prefetched before any check); the pod's address is not waited for.
"""

from collections.abc import Iterable
from typing import Protocol

import structlog

from metaproxy.caller import Directory
from metaproxy.entitlements import Entitlements
from metaproxy.errors import IssueError, Reason
from metaproxy.pods import ROLE, Pod
from metaproxy.policy import Decision, Denial, Grant, Rules
from metaproxy.roles import AssumeRole
from metaproxy.store import Change
from metaproxy.telemetry import Metrics

log = structlog.get_logger()

ON_HOST = (
    "a hostNetwork pod uses the node's network and so the node's role, not the one that its annotation names; "
    "give it a network of its own, or credentials of its own"
)


class Wants(Protocol):
    """Who keeps sessions ready."""

    def want(self, uid: str, call: AssumeRole | None) -> None:
        """The pod is entitled to this call from now on, or to none."""
        ...

    def wanting(self, call: AssumeRole) -> frozenset[str]:
        """The uids of the pods that are entitled to the call."""
        ...


class Recorder(Protocol):
    """Who tells pods' owners."""

    def record(self, pod: Pod, reason: str, note: str) -> None:
        """Something about the pod is worth an Event; never blocks, never raises."""
        ...


class Prefetch:
    """Observes the directory; see the module."""

    def __init__(
        self,
        directory: Directory,
        entitlements: Entitlements,
        wants: Wants,
        metrics: Metrics,
        recorder: Recorder | None = None,
    ) -> None:
        self._directory = directory
        self._entitlements = entitlements
        self._wants = wants
        self._metrics = metrics
        self._recorder = recorder
        self._told: dict[str, Decision] = {}
        self._on_host: dict[str, str] = {}

    def pods_changed(self, changes: Iterable[Change[Pod]]) -> None:
        """Pods came, changed, or went."""
        for change in changes:
            if change.after is not None:
                self._look(change.after)
            elif change.before is not None:
                self._drop(change.before.uid)
                self._host_role(change.before.uid, "")
                self._entitlements.forget(change.before.uid)

    def namespaces_changed(self, names: frozenset[str]) -> None:
        """Namespaces came, changed, or went."""
        for pod in list(self._directory.pods()):
            if pod.namespace in names:
                self._look(pod)

    def set_rules(self, rules: Rules) -> None:
        """The operator's rules changed, or a fact behind them became known."""
        self._entitlements.rules = rules
        for pod in list(self._directory.pods()):
            self._look(pod)

    def failed(self, call: AssumeRole, failure: IssueError) -> None:
        """STS gave no session: the owners of the pods that want it should read so where they look."""
        if self._recorder is None:
            return
        note = f"{call.role.arn}: {failure.message}; {failure.remedy}"
        for uid in self._wants.wanting(call):
            if (pod := self._directory.pod(uid)) is not None:
                self._recorder.record(pod, failure.reason.value, note)

    def owner_withdrawn(self, pod: Pod, note: str) -> None:
        """The kernel shows a pod's address elsewhere: its owner should know why it is refused."""
        log.warning(
            "address withdrawn",
            pod_namespace=pod.namespace,
            pod_name=pod.name,
            reason=Reason.CALLER_WITHDRAWN,
            message=note,
        )
        if self._recorder is not None:
            self._recorder.record(pod, Reason.CALLER_WITHDRAWN.value, note)

    def _drop(self, uid: str) -> None:
        self._wants.want(uid, None)
        self._told.pop(uid, None)

    def _on_node(self, pod: Pod) -> None:
        """A pod on the node's network never asks here, whatever role it names: its owner should know which it has."""
        role = pod.annotations.get(ROLE, "")
        if role and self._on_host.get(pod.uid) != role:
            log.warning("hostNetwork pod uses the node's role", pod_namespace=pod.namespace, pod_name=pod.name)
            if self._recorder is not None:
                self._recorder.record(pod, Reason.HOST_NETWORK.value, ON_HOST)
        self._host_role(pod.uid, role)

    def _host_role(self, uid: str, role: str) -> None:
        if role:
            self._on_host[uid] = role
        else:
            self._on_host.pop(uid, None)
        self._metrics.gauge("host_network_roles").set(len(self._on_host))

    def _look(self, pod: Pod) -> None:
        if not pod.live:
            self._drop(pod.uid)
            if pod.host_network and not pod.finished:
                self._on_node(pod)
            else:
                self._host_role(pod.uid, "")
            return
        decision = self._entitlements.of(pod)
        self._wants.want(pod.uid, decision.call if isinstance(decision, Grant) else None)
        if self._told.get(pod.uid) != decision:
            self._told[pod.uid] = decision
            self._tell(pod, decision)

    def _tell(self, pod: Pod, decision: Decision) -> None:
        if isinstance(decision, Grant):
            self._metrics.counter("decisions_total", outcome="granted", reason="").inc()
            return
        self._metrics.counter("decisions_total", outcome="denied", reason=decision.reason.value).inc()
        if decision.reason is Reason.NO_ROLE or decision.retryable:
            return  # most pods have no role, and what is only not known yet is nobody's mistake
        log.info(
            "pod may not have its role",
            pod_namespace=pod.namespace,
            pod_name=pod.name,
            reason=decision.reason,
            rule=decision.rule,
            message=decision.message,
            remedy=decision.remedy,
        )
        if self._recorder is not None:
            self._recorder.record(pod, decision.reason.value, _note(decision))


def _note(denial: Denial) -> str:
    return f"{denial.message} (decided by {denial.rule}); {denial.remedy}"

"""Why a pod gets what it gets: which pod, which role, which rule decides, and how its credentials are doing.

Knows: how to put what the others know into words.
Must not know: any secret; it never sees one.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

from metaproxy.caller import Directory, Pod
from metaproxy.entitlements import Entitlements
from metaproxy.errors import IssueError, Reason
from metaproxy.imds import date
from metaproxy.policy import Grant
from metaproxy.roles import AssumeRole
from metaproxy.ties import Why


class Held(Protocol):
    """What is held of a call; read-only, so that a frozen value will do."""

    @property
    def held(self) -> bool:
        """Whether there is a session to serve."""
        ...

    @property
    def fetching(self) -> bool:
        """Whether STS is being asked."""
        ...

    @property
    def expires(self) -> float | None:
        """The session's real end, in Unix seconds."""
        ...

    @property
    def renew_at(self) -> float | None:
        """When it is due for renewal, in Unix seconds."""
        ...

    @property
    def failure(self) -> IssueError | None:
        """What went wrong last, if nothing went well since."""
        ...

    @property
    def retry_in(self) -> float | None:
        """Seconds until STS is asked again."""
        ...


class Explainer:
    """Answers for a pod by its address or its name."""

    def __init__(
        self,
        directory: Directory,
        entitlements: Entitlements,
        state: Callable[[AssumeRole], Held],
        *,
        is_own: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._is_own = is_own
        self._directory = directory
        self._entitlements = entitlements
        self._state = state
        self._clock = clock

    def by_address(self, address: str) -> dict[str, Any]:
        """What is known of whoever owns the address; names nobody when that is not certain: the asker may be a pod."""
        owners = self._directory.owners(address)
        if len(owners) != 1:
            if (why := self._directory.withdrawn(address)) is not None:
                reason, message = (
                    Reason.CALLER_WITHDRAWN,
                    "it is not certain yet which pod is at which port of the node's bridge (unsettled)"
                    if why is Why.UNSETTLED
                    else f"the node's kernel does not show it where its pod was ({why.value})",
                )
            elif owners:
                reason, message = Reason.CALLER_AMBIGUOUS, "more than one pod claims it"
            elif self._is_own(address):
                reason, message = (
                    Reason.MASQUERADED,
                    "it is one of the node's own: whoever asks from there is hidden by it",
                )
            else:
                reason, message = Reason.CALLER_UNKNOWN, "no live pod of this node has it"
            return {"address": address, "pod": None, "reason": reason.value, "message": message}
        return {"address": address, **self.of(owners[0])}

    def by_name(self, namespace: str, name: str) -> dict[str, Any] | None:
        """What is known of a pod of this node; None when there is none of that name."""
        pods = [pod for pod in self._directory.pods() if (pod.namespace, pod.name) == (namespace, name)]
        return self.of(max(pods, key=lambda pod: (pod.live, pod.version))) if pods else None

    def of(self, pod: Pod) -> dict[str, Any]:
        """What is known of the pod, and decided about it."""
        about = {
            "pod": {
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
                "addresses": list(pod.addresses),
                "host_network": pod.host_network,
                "finished": pod.finished,
                "terminating": pod.terminating,
            },
            "tokens": "required" if self._entitlements.tokens_required(pod) else "optional",
        }
        if not pod.live:
            why = "it uses the node's network and so the node's role" if pod.host_network else "it has finished"
            return {**about, "decision": {"allowed": False, "message": f"the pod owns no address of its own: {why}"}}
        decision = self._entitlements.of(pod)
        if not isinstance(decision, Grant):
            return {
                **about,
                "decision": {
                    "allowed": False,
                    "reason": decision.reason.value,
                    "rule": decision.rule,
                    "message": decision.message,
                    "remedy": decision.remedy,
                },
            }
        call = decision.call
        return {
            **about,
            "role": call.role.arn,
            "session": {
                "name": call.session_name,
                "duration_seconds": call.duration,
                "external_id": call.external_id is not None,
                "tags": [key for key, _ in call.tags],
                "source_identity": call.source_identity,
            },
            "decision": {"allowed": True, "rule": decision.rule},
            "credentials": self._credentials(call),
        }

    def _credentials(self, call: AssumeRole) -> dict[str, Any]:
        held = self._state(call)
        state = "held" if held.held else "fetching" if held.fetching else "none"
        about: dict[str, Any] = {"state": state}
        if held.expires is not None and held.renew_at is not None:
            about["expires"] = date(held.expires)
            about["renew_at"] = date(held.renew_at)
        if held.failure is not None:
            about["failure"] = {
                "reason": held.failure.reason.value,
                "code": held.failure.code,
                "message": held.failure.message,
                "remedy": held.failure.remedy,
                "retry_at": date(self._clock() + (held.retry_in or 0.0)),
            }
        return about

"""Why a pod gets what it gets: which pod, which role, which rule decides, and how its credentials are doing.

Knows: how to put what the others know into words.
Must not know: any secret; it never sees one.
"""

import time
from collections.abc import Callable
from typing import Any

from metaproxy.caller import Directory
from metaproxy.claims import Why
from metaproxy.entitlements import Entitlements
from metaproxy.errors import Reason
from metaproxy.imds import date
from metaproxy.pods import Pod
from metaproxy.policy import Grant
from metaproxy.roles import AssumeRole
from metaproxy.status import Address, Held, Place, PodFacts, decided, listed


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
            return {**about, "decision": decided(decision)}
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
            "decision": decided(decision),
            "credentials": self._credentials(call),
        }

    def all(
        self, device_name: Callable[[int], str], refused: Callable[[str], tuple[Reason, int] | None]
    ) -> tuple[list[PodFacts], int]:
        """The facts about each pod that is worth a line, by name; and how many are not.

        `device_name` tells a device by its index, `refused` why connections of an address were refused last.
        """
        pods = sorted(self._directory.pods(), key=lambda pod: (pod.namespace, pod.name, pod.uid))
        found = [self._facts(pod, device_name, refused) for pod in pods if listed(pod)]
        return found, len(pods) - len(found)

    def _facts(
        self, pod: Pod, device_name: Callable[[int], str], refused: Callable[[str], tuple[Reason, int] | None]
    ) -> PodFacts:
        if not pod.live:
            return PodFacts(pod=pod)
        decision = self._entitlements.of(pod)
        return PodFacts(
            pod=pod,
            decision=decision,
            held=self._state(decision.call) if isinstance(decision, Grant) else None,
            addresses=[
                Address(
                    text=address,
                    owned=self._directory.owners(address) == [pod],
                    why=self._directory.withdrawn(address),
                    place=self._place(address, device_name),
                    refused=refused(address),
                )
                for address in pod.addresses
            ],
        )

    def _place(self, address: str, device_name: Callable[[int], str]) -> Place | None:
        carrier = self._directory.carrier(address)
        if carrier is None:
            return None
        return Place(
            device=device_name(carrier.link) if carrier.link else "",
            bridge=device_name(carrier.bridge) if carrier.bridge else "",
            hardware=carrier.hardware.hex(":"),
        )

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

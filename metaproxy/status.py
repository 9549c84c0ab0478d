"""What is so on this node, as one document: the agent, what it watches and may spend, and each pod's role and session.

Knows: which facts belong on it, and what they come to for a pod.
Must not know: where facts come from, how the document is shown, any secret.

Times in the document are seconds from or until the moment it was made, so that no reader needs the node's clock.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from metaproxy.budget import Spending
from metaproxy.claims import Why
from metaproxy.errors import IssueError, Reason
from metaproxy.pods import ROLE, Pod
from metaproxy.policy import Decision, Grant


class Condition(StrEnum):
    """What the facts about a pod come to."""

    SERVED = "served"
    STALE = "stale"
    FETCHING = "fetching"
    FAILING = "failing"
    WITHDRAWN = "withdrawn"
    WAITING = "waiting"
    REFUSED = "refused"
    NO_ROLE = "no role"
    HOST_NETWORK = "host network"


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
    def issued(self) -> float | None:
        """When the session began, in Unix seconds."""
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
    def failing(self) -> float | None:
        """Seconds since the first failure after what went well."""
        ...

    @property
    def retry_in(self) -> float | None:
        """Seconds until STS is asked again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """The agent itself; `source` and `witness` are its own words, `started` is in Unix seconds."""

    version: str
    node: str
    started: float
    identity: str
    base_arn: str
    source: str
    witness: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A list-watch: `last_word` (an event or a list) and `trouble_since` are Unix seconds."""

    resource: str
    synced: bool
    last_word: float | None
    trouble: str
    trouble_since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the kernel shows an address: a device, and on a bridge its port and the hardware address there."""

    device: str
    bridge: str = ""
    hardware: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A pod's address; `owned` by the pod, or not: `why` the kernel took it, else others claim it too."""

    text: str
    owned: bool
    why: Why | None = None
    place: Place | None = None
    refused: tuple[Reason, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """A pod, and what was decided for it; `held` goes with a grant."""

    pod: Pod
    decision: Decision | None = None
    held: Held | None = None
    addresses: Sequence[Address] = field(default_factory=tuple)


def listed(pod: Pod) -> bool:
    """Whether the pod is worth a line: it may ask, or its owner believes that it may."""
    return pod.live or (pod.host_network and not pod.finished and bool(pod.annotations.get(ROLE)))


def document(
    agent: Agent,
    *,
    checks: Mapping[str, str | None],
    watches: Iterable[Watch],
    spending: Spending,
    pods: Iterable[PodFacts],
    unlisted: int,
    now: float,
) -> dict[str, Any]:
    """The whole, as JSON has it; `checks` by name with what is wrong, `now` in Unix seconds, `unlisted` in pods."""
    return {
        "agent": {
            "version": agent.version,
            "node": agent.node,
            "uptime_seconds": _since(agent.started, now),
            "identity": agent.identity,
            "base_arn": agent.base_arn,
            "source": agent.source,
            "witness": agent.witness,
            "ready": not any(checks.values()),
        },
        "checks": [{"name": name, "ok": not trouble, "message": trouble or ""} for name, trouble in checks.items()],
        "watches": [
            {
                "resource": watch.resource,
                "synced": watch.synced,
                "last_word_seconds": None if watch.last_word is None else _since(watch.last_word, now),
                "trouble": watch.trouble,
                "trouble_seconds": _since(watch.trouble_since, now) if watch.trouble else None,
            }
            for watch in watches
        ],
        "sts": {
            "tokens": int(spending.tokens),
            "burst": int(spending.burst),
            "rate": spending.rate,
            "flights": spending.flights,
            "concurrency": spending.concurrency,
            "queued": spending.queued,
        },
        "pods": [_pod(facts, now) for facts in pods],
        "unlisted_pods": unlisted,
    }


def decided(decision: Decision) -> dict[str, Any]:
    """A decision with its reason and remedy."""
    if isinstance(decision, Grant):
        return {"allowed": True, "rule": decision.rule}
    return {
        "allowed": False,
        "reason": decision.reason.value,
        "rule": decision.rule,
        "message": decision.message,
        "remedy": decision.remedy,
    }


def _pod(facts: PodFacts, now: float) -> dict[str, Any]:
    pod, decision, held = facts.pod, facts.decision, facts.held
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "terminating": pod.terminating,
        "condition": _condition(facts).value,
        "role": decision.call.role.arn if isinstance(decision, Grant) else "",
        "decision": _ON_HOST if decision is None else decided(decision),
        "addresses": [_address(address) for address in facts.addresses],
        "credentials": None if held is None else _credentials(held, now),
        "failure": None if held is None or held.failure is None else _failure(held, held.failure),
    }


_ON_HOST = {
    "allowed": False,
    "reason": Reason.HOST_NETWORK.value,
    "rule": "host network",
    "message": "a hostNetwork pod uses the node's network and so the node's role",
    "remedy": "give it a network of its own, or credentials of its own",
}


def _condition(facts: PodFacts) -> Condition:
    decision, held = facts.decision, facts.held
    if decision is None:
        return Condition.HOST_NETWORK
    if not isinstance(decision, Grant):
        if decision.reason is Reason.NO_ROLE:
            return Condition.NO_ROLE
        return Condition.WAITING if decision.retryable else Condition.REFUSED
    if any(not address.owned for address in facts.addresses):
        return Condition.WITHDRAWN
    if held is None or not held.held:
        return Condition.FAILING if held is not None and held.failure else Condition.FETCHING
    return Condition.STALE if held.failure else Condition.SERVED


def _address(address: Address) -> dict[str, Any]:
    reason = "" if address.owned else (Reason.CALLER_WITHDRAWN if address.why else Reason.CALLER_AMBIGUOUS).value
    place, refused = address.place, address.refused
    return {
        "address": address.text,
        "reason": reason,
        "why": address.why.value if address.why else "",
        "carrier": None
        if place is None
        else {"device": place.device, "bridge": place.bridge, "hardware": place.hardware},
        "connections_refused": None if refused is None else {"reason": refused[0].value, "number": refused[1]},
    }


def _credentials(held: Held, now: float) -> dict[str, Any]:
    about: dict[str, Any] = {"held": held.held, "fetching": held.fetching}
    if held.issued is not None and held.expires is not None and held.renew_at is not None:
        about["life_seconds"] = round(held.expires - held.issued)
        about["left_seconds"] = round(held.expires - now)
        about["renew_in_seconds"] = round(held.renew_at - now)
    return about


def _failure(held: Held, failure: IssueError) -> dict[str, Any]:
    return {
        "reason": failure.reason.value,
        "code": failure.code,
        "message": failure.message,
        "remedy": failure.remedy,
        "since_seconds": round(held.failing or 0.0),
        "retry_in_seconds": round(held.retry_in or 0.0),
    }


def _since(moment: float, now: float) -> int:
    return max(0, round(now - moment))

"""What the pods of this node are entitled to now: the policy's decisions, made anew when a fact changes.

Knows: the directory, the rules, and which decision was made from which version of them.
Must not know: who asks, STS, the clock, the event loop.
"""

from metaproxy.caller import Directory
from metaproxy.pods import Namespace, Pod
from metaproxy.policy import Decision, Rules, decide, tokens_required


class Entitlements:
    """The policy applied to the directory; decisions are kept, because every request asks for one twice."""

    def __init__(self, directory: Directory, rules: Rules, *, tokens_required: bool) -> None:
        self._directory = directory
        self._rules = rules
        self._tokens_required = tokens_required
        self._decisions: dict[str, tuple[Pod, Namespace | None, Decision]] = {}

    @property
    def rules(self) -> Rules:
        """The operator's rules."""
        return self._rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self._rules = rules
        self._decisions.clear()

    def of(self, pod: Pod) -> Decision:
        """What the pod, in this very version, is entitled to in its namespace's present version."""
        namespace = self._directory.namespace(pod.namespace)
        kept = self._decisions.get(pod.uid)
        if kept is not None and kept[0] is pod and kept[1] is namespace:
            return kept[2]
        decision = decide(pod, namespace, self._rules)
        self._decisions[pod.uid] = (pod, namespace, decision)
        return decision

    def tokens_required(self, pod: Pod | None) -> bool:
        """Whether a request of the pod needs an IMDSv2 token; of nobody known: what the operator says."""
        namespace = self._directory.namespace(pod.namespace) if pod else None
        return tokens_required(namespace, default=self._tokens_required)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._decisions.pop(uid, None)

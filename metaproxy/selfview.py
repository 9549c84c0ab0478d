"""What this process tells its operator of itself: the details of `/readyz`, the status document, explanations.

Knows: whom to ask of what.
Must not know: what is asked at which path, or how anything is shown.
"""

import socket
from collections.abc import Callable, Mapping
from typing import Any

from metaproxy import __version__, sockets, status
from metaproxy.broker import Broker
from metaproxy.claims import Why
from metaproxy.entitlements import Entitlements
from metaproxy.errors import Reason
from metaproxy.explain import Explainer
from metaproxy.finder import Finder
from metaproxy.kube import KubeSource
from metaproxy.manifests import ManifestSource
from metaproxy.objects import canonical_address
from metaproxy.passthrough import Upstream
from metaproxy.sts import Sts
from metaproxy.witness import Witness


class Selfview:
    """See the module. `witness`: None where there is none; `clock`: Unix seconds.

    `refusal` tells why connections of an address were refused and how many; `more` are further details by name, each
    asked for when it is shown.
    """

    def __init__(
        self,
        node: str,
        *,
        entitlements: Entitlements,
        finder: Finder,
        source: KubeSource | ManifestSource,
        sts: Sts,
        broker: Broker,
        upstream: Upstream,
        witness: Witness | None,
        refusal: Callable[[str], tuple[Reason, int] | None],
        more: Mapping[str, Callable[[], str]],
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._started = clock()
        self._entitlements = entitlements
        self._finder = finder
        self._source = source
        self._sts = sts
        self._broker = broker
        self._upstream = upstream
        self._witness = witness
        self.explainer = Explainer(finder.directory, entitlements, broker.state, is_own=sockets.is_own, clock=clock)
        self._refusal = refusal
        self._more = more
        self._clock = clock

    def details(self) -> Mapping[str, Any]:
        """How each part is, in words."""
        base = self._entitlements.rules.base
        return {
            "version": __version__,
            "source": self._source.status(),
            "base ARN": base.arn if base else "not known yet",
            "own identity": self._sts.status(),
            "upstream": self._upstream.status(),
            "witness": self._heard(),
            **{name: told() for name, told in self._more.items()},
        }

    def status(self, checks: Mapping[str, str | None]) -> Mapping[str, Any]:
        """The document of this node; `checks` is what each of them says."""
        pods, unlisted = self.explainer.all(sockets.device_name, self._refusal)
        base = self._entitlements.rules.base
        return status.document(
            status.Agent(
                version=__version__,
                node=self._node or socket.gethostname(),
                started=self._started,
                identity=self._sts.status(),
                base_arn=base.arn if base else "",
                source=self._source.status(),
                witness=self._heard(),
            ),
            checks=checks,
            watches=self._source.watches() if isinstance(self._source, KubeSource) else (),
            spending=self._broker.spending(),
            pods=pods,
            unlisted=unlisted,
            now=self._clock(),
        )

    def explain(self, key: str, value: str) -> Mapping[str, Any] | None:
        """What there is to say of ("ip", address) or ("pod", "namespace/name"); None when that is unknown."""
        if key != "ip":
            namespace, _, name = value.partition("/")
            return self.explainer.by_name(namespace, name)
        address = canonical_address(value) or value
        about = self.explainer.by_address(address)
        if (refused := self._refusal(address)) is not None:
            about["connections_refused"] = {"reason": refused[0].value, "number": refused[1]}
        directory = self._finder.directory
        if directory.withdrawn(address) is Why.UNSETTLED:
            # Here and not in the explainer, whose words pods read too.
            about["waits_for"] = [f"{pod.namespace}/{pod.name}" for pod in directory.awaited(address)]
        return about

    def _heard(self) -> str:
        if self._witness is None:
            return "off"
        states = self._finder.directory.witness().states()
        parts = [self._witness.status(), f"{states['tied']} addresses tied", f"{states['withdrawn']} withdrawn"]
        if states["unseen"]:
            parts.append(f"{states['unseen']} without a carrier of their own: the API server's word alone counts there")
        return ", ".join(parts)

"""Whose the ports of a bridge are.

Knows: the port that each pod was first seen at on each bridge, while its device lives.
Must not know: what makes a claim count, the clock, how any of it is learnt.

On a bridge anybody can answer for anybody, so that what is seen at an address is worth little. But a pod's port does
not move: while its device lives it is that pod's alone, and the pod has no other there, whatever is written of either.

So it is the first tie that matters. A pod that answers nowhere has a port that nobody knows to be its, from which it
can answer for another. Hence nobody gets a first port while there is another pod on the bridge (alive, with an address
there) that has none, unless each of these is seen, each at a port of its own that is nobody's. That it is being deleted
changes nothing: its author says for how long. Not waited for is one whose port is gone, until the kubelet has looked at
it anew.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from metaproxy.carriers import Device
from metaproxy.claims import ClaimT, Why


@dataclass(slots=True)
class Tenant:
    """The pod that a bridge's port is of, and where it was seen there; `over`: the API server has the pod no more."""

    uid: str
    bridge: int
    addresses: set[str]
    over: bool = False


@dataclass(slots=True)
class Port:
    """A pod's port on a bridge; without device it is gone, and `observed` is what the kubelet had said by then."""

    device: Device | None
    observed: str = ""


class Tenancy(Generic[ClaimT]):
    """The tenants by port, and the ports by pod and bridge."""

    def __init__(self) -> None:
        self.tenants: dict[Device, Tenant] = {}
        self.ports: dict[tuple[str, int], Port] = {}

    def memory(self) -> tuple[dict[Device, Tenant], dict[tuple[str, int], Port]]:
        """What is remembered now: a copy."""
        tenants = {device: replace(one, addresses=set(one.addresses)) for device, one in self.tenants.items()}
        return tenants, {key: replace(port) for key, port in self.ports.items()}

    def adopt(self, tenants: Mapping[Device, Tenant], ports: Mapping[tuple[str, int], Port]) -> None:
        """Go on from what another process remembered."""
        self.tenants.update(tenants)
        self.ports.update(ports)

    def ended(self, uid: str) -> None:
        """The API server has the pod no more."""
        for key in [key for key in self.ports if key[0] == uid]:
            if (device := self.ports.pop(key).device) is not None:
                self.tenants[device].over = True

    def died(self, device: Device, claims: Callable[[str], Sequence[ClaimT]]) -> None:
        """A device is gone; `claims` tells who claims an address now."""
        if (tenant := self.tenants.pop(device, None)) is not None and not tenant.over:
            said = [claim.observed for each in tenant.addresses for claim in claims(each) if claim.uid == tenant.uid]
            self.ports[tenant.uid, tenant.bridge] = Port(None, said[0] if said else "")

    def take(
        self, claim: ClaimT, address: str, bridge: int, device: Device, waiting: Callable[[], object]
    ) -> Why | None:
        """Make the port the pod's, for this address too; or why not. `waiting`: whether others keep it from a first."""
        port = self.ports.get((claim.uid, bridge))
        if port is not None and port.device is not None:
            if port.device != device:
                return Why.LOST
        elif not self._free(device, address, claim.uid):
            return Why.SHARED
        elif waiting():
            return Why.UNSETTLED
        self.ports[claim.uid, bridge] = Port(device)
        tenant = self.tenants.setdefault(device, Tenant(claim.uid, bridge, set()))
        tenant.uid, tenant.over = claim.uid, False
        tenant.addresses.add(address)
        return None

    def waiting(self, bridge: int, there: Iterable[tuple[str, Device | None, Sequence[ClaimT]]]) -> list[ClaimT]:
        """The pods on the bridge that have no port there and are not seen, each at a free port that no other is at.

        `there`: the addresses on the bridge, at which device each is seen, and who claims it.
        """
        pods: dict[str, ClaimT] = {}
        seen: dict[str, set[Device]] = {}
        for address, device, claims in there:
            for claim in claims:
                port = self.ports.get((claim.uid, bridge))
                if port is not None and (port.device or port.observed == claim.observed):
                    continue
                pods[claim.uid] = claim
                devices = seen.setdefault(claim.uid, set())
                if device is not None and self._free(device, address, claim.uid):
                    devices.add(device)
        crowd = Counter(device for devices in seen.values() for device in devices)
        return [claim for uid, claim in pods.items() if all(crowd[device] > 1 for device in seen[uid])]

    def _free(self, device: Device, address: str, uid: str) -> bool:
        """Whether the port may become the pod's: it is nobody's, or was of one that this one continues.

        A static pod's mirror is made anew under another uid, at the addresses of the same sandbox.
        """
        tenant = self.tenants.get(device)
        return tenant is None or tenant.uid == uid or (tenant.over and address in tenant.addresses)

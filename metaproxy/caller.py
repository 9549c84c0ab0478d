"""Who is calling: the directory that says which single live pod owns an address.

Knows: which pods and namespaces there are, in which version each was last seen, and whose claim to an address is best.
Must not know: Kubernetes client types, sockets, the clock, the event loop, what a role is.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from metaproxy.carriers import Carrier, Device
from metaproxy.claims import Why
from metaproxy.pods import Namespace, Pod, merged_pod
from metaproxy.store import Change, Store
from metaproxy.ties import Memory as TiesMemory
from metaproxy.ties import Ties


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """All that a directory knows, for a process that goes on with it.

    `gone_`: the uids of what was deleted, oldest first. `listed_`: the version of the newest list. `ties`: what is
    remembered of the kernel's word; None without a witness.
    """

    pods: tuple[Pod, ...]
    gone_pods: tuple[str, ...]
    listed_pods: int
    namespaces: tuple[Namespace, ...]
    gone_namespaces: tuple[str, ...]
    listed_namespaces: int
    ties: TiesMemory | None


class Directory:
    """The pods of this node and the namespaces of the cluster, as last seen."""

    def __init__(self) -> None:
        self._pods: Store[Pod] = Store(merged_pod)
        self._namespaces: Store[Namespace] = Store(lambda _before, after, _listed: after)
        self._claims: dict[str, dict[str, Pod]] = {}
        self._ties: Ties[Pod] | None = None
        self._owners: dict[str, list[Pod]] = {}
        self._withdrawn: dict[str, Why] = {}
        self._moved: dict[str, Why | None] = {}
        self._by_name: dict[str, dict[str, Namespace]] = {}
        self._adopted = False

    def pods(self) -> Iterable[Pod]:
        """Every pod that is known, hostNetwork and finished ones included."""
        return self._pods.items.values()

    @property
    def pod_count(self) -> int:
        """How many pods are known."""
        return len(self._pods.items)

    @property
    def namespace_count(self) -> int:
        """How many namespaces are known."""
        return len(self._namespaces.items)

    def pod(self, uid: str) -> Pod | None:
        """The pod as last seen."""
        return self._pods.items.get(uid)

    def owners(self, address: str) -> list[Pod]:
        """The live pods with the best claim to an address: one is the owner, none or several are nobody.

        A running pod's claim beats that of one that is being deleted. A remembered claim is never among several: it
        ends as soon as another pod's present status has the address. With a witness, what `ties` lets count.
        """
        return self._owners.get(address, [])

    def withdrawn(self, address: str) -> Why | None:
        """Why an address that is claimed has no owner, if it is the kernel's word that took it."""
        return self._withdrawn.get(address)

    def awaited(self, address: str) -> list[Pod]:
        """The pods that are to be seen on the bridge before the address has an owner: for the operator alone."""
        return self._ties.awaited(address) if self._ties is not None else []

    def carrier(self, address: str) -> Carrier | None:
        """What the kernel shows at the address now, if anybody looks."""
        return self._ties.sight(address) if self._ties is not None else None

    def claims(self, address: str) -> list[Pod]:
        """The live pods that say they have the address."""
        return list(self._claims.get(address, {}).values())

    def namespace(self, name: str) -> Namespace | None:
        """The namespace of that name; when one was deleted and made anew and both are known, the newer."""
        known = self._by_name.get(name)
        return max(known.values(), key=lambda namespace: namespace.version) if known else None

    def memory(self) -> Memory:
        """All that is known now."""
        pods, gone_pods, listed_pods = self._pods.memory()
        namespaces, gone_namespaces, listed_namespaces = self._namespaces.memory()
        return Memory(
            pods=pods,
            gone_pods=gone_pods,
            listed_pods=listed_pods,
            namespaces=namespaces,
            gone_namespaces=gone_namespaces,
            listed_namespaces=listed_namespaces,
            ties=self._ties.memory() if self._ties is not None else None,
        )

    def adopt(self, memory: Memory) -> tuple[list[Change[Pod]], list[Change[Namespace]]]:
        """Go on from what another directory knew; this one knows nothing yet. What changed by that.

        It is as if that directory had heard nothing since: what the kernel or the source say next is compared with it.
        """
        namespaces = self._indexed_namespaces(
            self._namespaces.adopt(memory.namespaces, memory.gone_namespaces, memory.listed_namespaces)
        )
        pods = self._pods.adopt(memory.pods, memory.gone_pods, memory.listed_pods)
        for change in pods:
            self._index(change)
        concerned = set(self._claims)
        if self._ties is not None:
            if memory.ties is not None:
                self._ties.adopt(memory.ties)
                self._adopted = True
            for address in self._claims:
                concerned |= self._ties.claimed(address, None, 0)
        self._settle(concerned)
        return pods, namespaces

    def put_pod(self, pod: Pod) -> list[Change[Pod]]:
        """A pod was added or modified."""
        return self._indexed_pods(self._pods.put(pod), pod.version)

    def delete_pod(self, uid: str, version: int) -> list[Change[Pod]]:
        """A pod was deleted."""
        return self._indexed_pods(self._pods.delete(uid, version), version)

    def replace_pods(self, pods: Iterable[Pod], version: int, *, since: int | None = None) -> list[Change[Pod]]:
        """These are all pods as of `version`: what is missing was deleted, unless it was seen later than that.

        `since`: the list is as etcd had it, and was asked for when that was `losses`.
        """
        listed = list(pods)
        changes = self._indexed_pods(self._pods.replace(listed, version), version)
        if self._ties is not None:
            if since is not None:
                self._settle(self._ties.proved(version, since, {pod.uid: pod.observed for pod in listed}))
            elif not version:
                # Files that say what they said to the process before are no newer word.
                if changes or not self._adopted:
                    self._settle(self._ties.spoken())
                self._adopted = False
        return changes

    def witness(self) -> Ties[Pod]:
        """From now on the kernel has a say."""
        if self._ties is None:
            self._ties = Ties(self.claims)
            for address in self._claims:
                self._ties.claimed(address, None, 0)
        return self._ties

    @property
    def unproved(self) -> bool:
        """Whether a read that begins now would prove something."""
        return self._ties is not None and self._ties.unproved

    @property
    def losses(self) -> int:
        """How many carriers were lost so far: what a read that begins now is newer than."""
        return self._ties.losses if self._ties is not None else 0

    def saw(self, sights: Mapping[str, Carrier | None], dead: Iterable[Device] = ()) -> set[str]:
        """The kernel shows other carriers at these addresses; these devices are gone. Which addresses have left one."""
        ties = self.witness()
        concerned = ties.saw(sights)
        for device in dead:
            concerned |= ties.died(device)
        self._settle(concerned)
        moved, ties.moved = ties.moved, set()
        return moved

    def blind(self, blind: bool) -> None:
        """Whether the kernel cannot be heard now, so that no tie is certain."""
        self._settle(self.witness().blinded(blind))

    def moved(self) -> dict[str, Why | None]:
        """The addresses whose owner is another than when this was last asked; why, where it was taken by the kernel."""
        moved, self._moved = self._moved, {}
        return moved

    def put_namespace(self, namespace: Namespace) -> list[Change[Namespace]]:
        """A namespace was added or modified."""
        return self._indexed_namespaces(self._namespaces.put(namespace))

    def delete_namespace(self, uid: str, version: int) -> list[Change[Namespace]]:
        """A namespace was deleted."""
        return self._indexed_namespaces(self._namespaces.delete(uid, version))

    def replace_namespaces(self, namespaces: Iterable[Namespace], version: int) -> list[Change[Namespace]]:
        """These are all namespaces as of `version`."""
        return self._indexed_namespaces(self._namespaces.replace(namespaces, version))

    def _indexed_pods(self, changes: list[Change[Pod]], version: int) -> list[Change[Pod]]:
        for change in changes:
            self._index(change)
        changes += [more for change in changes if change.after for more in self._superseded(change.after)]
        for change in changes:
            self._claimed(change, version)
        return changes

    def _claimed(self, change: Change[Pod], version: int) -> None:
        before = set(change.before.addresses) if change.before and change.before.live else set()
        after = set(change.after.addresses) if change.after and change.after.live else set()
        concerned = before | after
        if self._ties is not None:
            for address in before | after:
                ended = change.before if address not in after else None
                concerned |= self._ties.claimed(address, ended, change.after.version if change.after else version)
            if change.before is not None and change.after is None:
                concerned |= self._ties.ended(change.before.uid)
        self._settle(concerned)

    def _settle(self, addresses: Iterable[str]) -> None:
        """Who owns these addresses now."""
        for address in addresses:
            if self._ties is not None:
                verdict = self._ties.judge(address)
            else:
                claims = self.claims(address)
                verdict = [pod for pod in claims if not pod.terminating] or claims
            owners, why = ([], verdict) if isinstance(verdict, Why) else (verdict, None)
            known = [pod.uid for pod in self._owners.get(address, ())], self._withdrawn.get(address)
            if ([pod.uid for pod in owners], why) != known:
                self._moved[address] = why
            _keep(self._owners, address, owners or None)
            _keep(self._withdrawn, address, why)

    def _index(self, change: Change[Pod]) -> None:
        if (before := change.before) is not None and before.live:
            for address in set(before.addresses):
                claims = self._claims[address]
                del claims[before.uid]
                if not claims:
                    del self._claims[address]
        if (after := change.after) is not None and after.live:
            for address in set(after.addresses):
                self._claims.setdefault(address, {})[after.uid] = after

    def _superseded(self, pod: Pod) -> Iterator[Change[Pod]]:
        """End the remembered claims, the pod's own or others', to those of its addresses that a present status has.

        For good: when the newer claim goes, nobody knows that the address went back.
        """
        for address in pod.addresses:
            claims = list(self._claims.get(address, {}).values())
            for claim in claims if len(claims) > 1 else ():
                if claim.remembered:
                    left = tuple(each for each in claim.addresses if each != address)
                    after = replace(claim, addresses=left, remembered=bool(left))
                    self._pods.items[claim.uid] = after
                    change = Change(before=claim, after=after)
                    self._index(change)
                    yield change

    def _indexed_namespaces(self, changes: list[Change[Namespace]]) -> list[Change[Namespace]]:
        for change in changes:
            if (before := change.before) is not None:
                known = self._by_name[before.name]
                del known[before.uid]
                if not known:
                    del self._by_name[before.name]
            if (after := change.after) is not None:
                self._by_name.setdefault(after.name, {})[after.uid] = after
        return changes


ValueT = TypeVar("ValueT")


def _keep(kept: dict[str, ValueT], key: str, value: ValueT | None) -> None:
    if value is None:
        kept.pop(key, None)
    else:
        kept[key] = value

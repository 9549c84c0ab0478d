"""Finds the pod behind an address: what is known, what is being waited for, and one read when the watch says nothing.

Knows: the directory, what is waited for, and how rarely the API server may be asked.
Must not know: Kubernetes' wire, policy, HTTP. Sources of pods report here (`put_pod` and its like).

A request may be earlier than the event of its pod (the commonest pain of kiam and kube2iam): it waits for exactly that
event and is woken by it. If the event does not come, one read for everybody decides.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Protocol

import structlog
from cachetools import TTLCache

from metaproxy.budget import TokenBucket
from metaproxy.caller import Directory, Memory
from metaproxy.carriers import Carrier, Device
from metaproxy.eager import in_task
from metaproxy.errors import CallerAmbiguous, CallerUnknown, Masqueraded
from metaproxy.pods import Namespace, Pod
from metaproxy.store import Change
from metaproxy.telemetry import Metrics
from metaproxy.waiters import Waiters
from metaproxy.withdrawals import Withdrawals, refusal

log = structlog.get_logger()

READ_AFTER = 0.25
"""Seconds that a request from an unknown address waits for the watch before the API server is asked."""

READ_RATE, READ_BURST = 1.0, 5.0
"""How often the API server is read, for all addresses together."""

PROOF_RATE, PROOF_BURST = 2.0, 20.0
"""How often it is read to prove what is newer than a carrier's loss: each read serves all losses before it."""

PROOF_PAUSE = 30.0
"""Seconds until the next try at most, while such reads fail."""

READ_LIMIT = 5.0
"""Seconds after which a read is given up, whatever the source's own time-outs are: one at a time is made, so one that
hangs (an API server without etcd does) would be the last."""

UNKNOWN_MEMORY = 3.0
"""Seconds for which an address that a read did not explain causes no further read: floods must cost nothing."""

UNKNOWN_LIMIT = 1024
"""How many such addresses are remembered; what is forgotten early only costs a token of the bucket."""


class Reader(Protocol):
    """A source that can be asked for its pods at once."""

    async def read_pods(self) -> tuple[list[Pod], int]:
        """All pods of this node now, and the version of that list. Raises any exception when it cannot."""
        ...


class Observer(Protocol):
    """Who wants to know of changes."""

    def pods_changed(self, changes: Iterable[Change[Pod]]) -> None:
        """Pods came, changed, or went."""
        ...

    def namespaces_changed(self, names: frozenset[str]) -> None:
        """Namespaces came, changed, or went."""
        ...

    def owner_withdrawn(self, pod: Pod, note: str) -> None:
        """The pod's address was taken from it."""
        ...


class Lookout(Protocol):
    """Who watches the kernel."""

    def follow(self, addresses: Mapping[str, bool]) -> None:
        """These addresses matter, and no others; each with whether anybody claims it."""
        ...


class Finder:
    """The directory, and those who wait for it to know more. `is_own` tells the node's own addresses."""

    def __init__(
        self, directory: Directory, metrics: Metrics, *, is_own: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._directory = directory
        self._metrics = metrics
        self._is_own = is_own
        self._waiters = Waiters()
        self._withdrawals = Withdrawals(directory, metrics)
        self._unexplained: TTLCache[str, bool] = TTLCache(
            UNKNOWN_LIMIT, UNKNOWN_MEMORY, timer=lambda: asyncio.get_running_loop().time()
        )
        self._read_wanted = asyncio.Event()
        self.observer: Observer | None = None
        self.reader: Reader | None = None
        self.lookout: Lookout | None = None
        # Told of each address that has left a carrier: whoever opened a connection from there is not who is there now,
        # and what was written to it but not yet acknowledged would be sent to the newcomer.
        self.on_moved: Callable[[str], None] = lambda _: None
        self.pods_synced = self.namespaces_synced = False

    @property
    def directory(self) -> Directory:
        """What is known."""
        return self._directory

    def owner(self, address: str) -> Pod | None:
        """The one pod that owns the address now."""
        owners = self._directory.owners(address)
        return owners[0] if len(owners) == 1 else None

    async def find(self, address: str, *, deadline: float) -> Pod:
        """The one pod that owns the address, as soon as it is known, until `deadline` (the loop's time).

        Raises:
            CallerUnknown, CallerAmbiguous, CallerWithdrawn: nobody, or nobody certain, owns it.
            Masqueraded: it is the node's own, so no event will tell whose it is.
        """
        if (pod := self.owner(address)) is not None:
            return pod
        await in_task()
        if not self._directory.owners(address) and self._is_own(address):
            raise Masqueraded(
                "your address here is one of the node's own, not a pod's",
                remedy="a pod without hostNetwork was masqueraded on its way: the operator should exclude the metadata "
                "address from masquerading; a hostNetwork pod uses the node's role",
            )
        loop = asyncio.get_running_loop()
        found = await self._waited(address, begun := loop.time(), deadline)
        outcome = "found" if found else "unknown"
        self._metrics.histogram("caller_wait_seconds", outcome=outcome).observe(loop.time() - begun)
        if found is not None:
            return found
        if (why := self._directory.withdrawn(address)) is not None:
            raise refusal(why)
        if self._directory.owners(address):
            raise CallerAmbiguous(
                "more than one pod claims your address", remedy="ask again; it is settled when the API server is read"
            )
        raise CallerUnknown(
            "no pod of this node is known at your address"
            if self.pods_synced
            else "the pods of this node are not known yet",
            remedy="ask again; if it lasts, the operator should look at the agent's readiness",
        )

    async def _waited(self, address: str, begun: float, deadline: float) -> Pod | None:
        # Two claims cannot be settled by waiting, so they are read at once.
        patience = begun if self._directory.owners(address) else begun + READ_AFTER
        while True:
            until = min(deadline, patience)
            told = await self.news(("address", address), deadline=until)
            if (pod := self.owner(address)) is not None:
                return pod
            if not told and until >= deadline:
                return None
            if not told:
                if self._directory.withdrawn(address) is None:
                    self._ask_read(address)  # what the kernel took a read has been wanted for already, or cannot give
                patience = deadline

    async def news(self, key: Hashable, *, deadline: float) -> bool:
        """Wait until something about the key changed; False when `deadline` came first.

        Keys: `("address", A)`, `("namespace", N)`, `"rules"`.
        """
        return await self._waiters.news(key, deadline=deadline)

    def tell(self, key: Hashable) -> None:
        """Something about the key changed."""
        self._waiters.tell(key)

    def put_pod(self, pod: Pod) -> None:
        """A pod was added or modified."""
        self._pods(self._directory.put_pod(pod))

    def delete_pod(self, uid: str, version: int) -> None:
        """A pod was deleted."""
        self._pods(self._directory.delete_pod(uid, version))

    def replace_pods(self, pods: Iterable[Pod], version: int) -> None:
        """These are all pods as of `version`."""
        self._pods(self._directory.replace_pods(pods, version))
        self.pods_synced = True
        self._metrics.gauge("synced", resource="pods").set(1)

    def put_namespace(self, namespace: Namespace) -> None:
        """A namespace was added or modified."""
        self._namespaces(self._directory.put_namespace(namespace))

    def delete_namespace(self, uid: str, version: int) -> None:
        """A namespace was deleted."""
        self._namespaces(self._directory.delete_namespace(uid, version))

    def replace_namespaces(self, namespaces: Iterable[Namespace], version: int) -> None:
        """These are all namespaces as of `version`."""
        self._namespaces(self._directory.replace_namespaces(namespaces, version))
        self.namespaces_synced = True
        self._metrics.gauge("synced", resource="namespaces").set(1)

    def adopt(self, memory: Memory) -> None:
        """Go on from what another process's directory knew; nothing is known here yet."""
        pods, namespaces = self._directory.adopt(memory)
        self._namespaces(namespaces)
        self._pods(pods)

    async def run(self) -> None:
        """Eternal: reads the API server when somebody could not be explained; one read serves everybody."""
        loop = asyncio.get_running_loop()
        bucket = TokenBucket(rate=READ_RATE, burst=READ_BURST, now=loop.time())
        proofs = TokenBucket(rate=PROOF_RATE, burst=PROOF_BURST, now=loop.time())
        failures = 0
        while True:
            await self._read_wanted.wait()
            due = proofs if self._directory.unproved and not failures else bucket
            await asyncio.sleep(due.wait(loop.time()))
            due.take(loop.time())
            self._read_wanted.clear()
            failures = 0 if await self._read() else failures + 1
            if self._directory.unproved:
                # What was lost while the read was under way needs another.
                if failures:
                    loop.call_later(min(PROOF_PAUSE, 2.0 ** min(failures, 16) - 1.0), self._read_wanted.set)
                else:
                    self._read_wanted.set()

    async def _read(self) -> bool:
        if self.reader is None:
            return True
        since = self._directory.losses
        try:
            async with asyncio.timeout(READ_LIMIT):
                pods, version = await self.reader.read_pods()
        except Exception as error:  # noqa: BLE001  whatever the source's trouble, waiting requests end by their deadline
            log.warning("reading the pods of this node failed", error=repr(error))
            self._metrics.counter("caller_reads_total", outcome="failed").inc()
            return False
        self._metrics.counter("caller_reads_total", outcome="done").inc()
        self._pods(self._directory.replace_pods(pods, version, since=since))
        return True

    def saw(self, sights: Mapping[str, Carrier | None], dead: Iterable[Device]) -> None:
        """The kernel shows other carriers at these addresses; these devices are gone."""
        for address in self._directory.saw(sights, dead):
            self.on_moved(address)
        self._tell_moved()

    def blind(self, blind: bool) -> None:
        """Whether the kernel cannot be heard for the moment."""
        self._directory.blind(blind)
        self._tell_moved()

    def _tell_moved(self) -> None:
        for address, why in self._directory.moved().items():
            self.tell(("address", address))
            if why is not None:
                self._withdrawals.note(address, why, self.observer.owner_withdrawn if self.observer else None)
        if self.lookout is not None:
            if self._directory.unproved:
                self._read_wanted.set()
            for state, number in self._directory.witness().states().items():
                self._metrics.gauge("witness_addresses", state=state).set(number)

    def _ask_read(self, address: str) -> None:
        if self.reader is not None and address not in self._unexplained:
            self._unexplained[address] = True
            self._read_wanted.set()

    def _pods(self, changes: list[Change[Pod]]) -> None:
        if not changes:
            self._tell_moved()
            return
        if self.observer is not None:
            # Before the waiters: what a woken request asks for is then already on its way.
            self.observer.pods_changed(changes)
        addresses = {
            address for change in changes for pod in (change.before, change.after) if pod for address in pod.addresses
        }
        for address in addresses:
            self.tell(("address", address))
        if self.lookout is not None:
            self.lookout.follow(self._directory.witness().addresses)
        self._tell_moved()
        self._metrics.gauge("directory_pods").set(self._directory.pod_count)

    def _namespaces(self, changes: list[Change[Namespace]]) -> None:
        if not changes:
            return
        names = frozenset(item.name for change in changes for item in (change.before, change.after) if item)
        if self.observer is not None:
            self.observer.namespaces_changed(names)
        for name in names:
            self.tell(("namespace", name))
        self._metrics.gauge("directory_namespaces").set(self._directory.namespace_count)

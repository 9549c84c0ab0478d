"""The pod behind an address: woken by exactly its event, one read when the watch is silent, floods that cost nothing.

In virtual time. The API server is a scripted reader: it is the network boundary.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from metaproxy.caller import Directory
from metaproxy.carriers import Carrier
from metaproxy.errors import CallerAmbiguous, CallerUnknown, CallerWithdrawn, Masqueraded, MetaproxyError
from metaproxy.finder import (
    PROOF_BURST,
    PROOF_PAUSE,
    PROOF_RATE,
    READ_AFTER,
    READ_BURST,
    READ_LIMIT,
    READ_RATE,
    UNKNOWN_MEMORY,
    Finder,
)
from metaproxy.pods import ROLE, Namespace, Pod
from metaproxy.store import Change
from metaproxy.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=2)

HOLD = 0.9
MOMENT = 0.005
"""Virtual seconds that count as at once."""

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def now() -> float:
    """The loop's seconds."""
    return asyncio.get_running_loop().time()


def pod(uid: str, *addresses: str, version: int = 1, terminating: bool = False) -> Pod:
    """A pod in the namespace `team`."""
    return Pod(
        uid=uid,
        namespace="team",
        name=uid,
        version=version,
        addresses=addresses,
        terminating=terminating,
        annotations={ROLE: "app"},
    )


class Watchful(Directory):
    """The directory itself, counting how often it is looked at."""

    looks = 0

    def owners(self, address: str) -> list[Pod]:
        """As the directory's."""
        self.looks += 1
        return super().owners(address)


class Api:
    """What a read of the API server says, after how long, and how often it was made."""

    def __init__(self) -> None:
        self.pods: list[Pod] = []
        self.version = 100
        self.delay = 0.02
        self.failure: Exception | None = None
        self.reads: list[float] = []

    async def read_pods(self) -> tuple[list[Pod], int]:
        """One consistent list."""
        self.reads.append(now())
        await asyncio.sleep(self.delay)
        if self.failure is not None:
            raise self.failure
        return list(self.pods), self.version


class Witness:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.pods: list[Change[Pod]] = []
        self.names: list[frozenset[str]] = []
        self.withdrawn: list[tuple[str, str]] = []

    def pods_changed(self, changes: Iterable[Change[Pod]]) -> None:
        """Pods came, changed, or went."""
        self.pods.extend(changes)

    def namespaces_changed(self, names: frozenset[str]) -> None:
        """Namespaces came, changed, or went."""
        self.names.append(names)

    def owner_withdrawn(self, pod: Pod, note: str) -> None:
        """The kernel took the pod's address."""
        self.withdrawn.append((pod.uid, note))


class Lookout:
    """Keeps what it is to look after."""

    def __init__(self) -> None:
        self.addresses: dict[str, bool] = {}

    def follow(self, addresses: Mapping[str, bool]) -> None:
        """These."""
        self.addresses = dict(addresses)


class Bench:
    """A finder at work, its directory, API server and metrics."""

    def __init__(self) -> None:
        self.directory = Watchful()
        self.metrics = Metrics()
        self.api = Api()
        self.own: set[str] = set()
        self.finder = Finder(self.directory, self.metrics, is_own=lambda address: address in self.own)
        self.finder.reader = self.api
        self.observer, self.lookout, self.moved = Witness(), Lookout(), list[str]()

    async def took(self, address: str, hold: float = HOLD) -> tuple[float, Pod | MetaproxyError]:
        """How long a request was held, and what came of it."""
        begun = now()
        try:
            found: Pod | MetaproxyError = await self.finder.find(address, deadline=begun + hold)
        except MetaproxyError as refusal:
            found = refusal
        return now() - begun, found

    def value(self, name: str, **labels: str) -> float | None:
        """A metric's sample."""
        return self.metrics.registry.get_sample_value(f"metaproxy_{name}", labels)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A bench whose finder runs, and must not end by itself."""
    made = Bench()
    task = asyncio.create_task(made.finder.run())
    try:
        yield made
        assert not task.done(), "the finder's task ended by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_known_pod_is_found_without_waiting() -> None:
    """What the directory knows is answered at once, by each of its addresses, and costs no read."""
    async with bench() as b:
        b.finder.put_pod(pod("a", A, "fd00::1"))
        for address in (A, "fd00::1"):
            seconds, found = await b.took(address)
            assert (seconds, found) == (0, b.directory.pod("a"))
        assert b.api.reads == []
        assert b.finder.directory is b.directory


async def test_a_masqueraded_pod_is_told_so_at_once() -> None:
    """No event will tell whose the node's own address is, so nobody is held for it and nothing is read."""
    async with bench() as b:
        b.own = {A}
        seconds, refusal = await b.took(A)
        assert (seconds, type(refusal)) == (0, Masqueraded)
        assert b.api.reads == []


async def test_a_pod_that_claims_the_nodes_address_owns_it() -> None:
    """What the API server says of a pod counts: some networks lend pods a node's address."""
    async with bench() as b:
        b.own = {A}
        b.finder.put_pod(pod("a", A))
        assert (await b.took(A))[1] == b.directory.pod("a")


@pytest.mark.parametrize("late", [0.001, 0.1, 0.2, 0.3, 0.6, 0.85])
async def test_woken_by_exactly_the_event(late: float) -> None:
    """The pod's event comes after its request: the request goes on in that moment, not at a next look."""
    async with bench() as b:
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(late)
        b.finder.put_pod(pod("a", A, version=101))  # newer than any list that was read meanwhile
        seconds, found = await task
        assert isinstance(found, Pod)
        assert seconds == pytest.approx(late, abs=MOMENT)
        assert b.value("caller_wait_seconds_sum", outcome="found") == pytest.approx(late, abs=MOMENT)


async def test_an_address_that_comes_later_wakes_too() -> None:
    """The pod was known without its address; the status that brings it wakes the request."""
    async with bench() as b:
        b.finder.put_pod(pod("a"))
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(0.15)
        b.finder.put_pod(pod("a", A, version=2))
        seconds, found = await task
        assert isinstance(found, Pod)
        assert seconds == pytest.approx(0.15, abs=MOMENT)


async def test_nobody_polls() -> None:
    """While a request waits nothing looks at the directory; events about other pods wake nobody."""
    async with bench() as b:
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(0.01)
        looks = b.directory.looks
        for number in range(100):
            b.finder.put_pod(pod(f"other-{number}", f"10.0.1.{number}"))
            await asyncio.sleep(0.002)
        assert b.directory.looks == looks
        await task
        assert b.directory.looks - looks <= 4


async def test_silence_is_ended_by_one_read() -> None:
    """The watch does not tell of the pod: after a quarter second one read does, for all who wait."""
    async with bench() as b:
        b.api.pods = [pod("a", A, version=50)]
        answers = await asyncio.gather(*(b.took(A) for _ in range(100)))
        assert len(b.api.reads) == 1
        assert {found.uid for _, found in answers if isinstance(found, Pod)} == {"a"}
        assert len(answers) == 100
        assert max(seconds for seconds, _ in answers) == pytest.approx(READ_AFTER + b.api.delay, abs=MOMENT)
        assert b.value("caller_reads_total", outcome="done") == 1


async def test_a_read_is_everybodys() -> None:
    """100 different unknown addresses at once: one read explains those that it can, the rest wait out their time."""
    async with bench() as b:
        b.api.pods = [pod(f"pod-{number}", f"10.0.0.{number}", version=50) for number in range(50)]
        answers = await asyncio.gather(*(b.took(f"10.0.0.{number}") for number in range(100)))
        assert len(b.api.reads) == 1
        assert [isinstance(found, Pod) for _, found in answers] == [True] * 50 + [False] * 50
        assert {round(seconds, 2) for seconds, _ in answers[50:]} == {HOLD}


async def test_two_claims_are_settled_by_a_read() -> None:
    """An address is reused before the deletion of its first pod is seen: nobody is answered until a read decides."""
    async with bench() as b:
        b.finder.put_pod(pod("old", A, version=1))
        b.finder.put_pod(pod("new", A, version=2))
        b.api.pods = [pod("new", A, version=2)]
        seconds, found = await b.took(A)
        assert isinstance(found, Pod)
        assert found.uid == "new"
        assert seconds == pytest.approx(b.api.delay, abs=MOMENT), "waiting cannot settle it, so it is read at once"
        assert len(b.api.reads) == 1
        assert b.finder.owner(A) == found


async def test_two_claims_that_a_read_confirms_are_refused() -> None:
    """The API server, too, has two pods at one address: the request is held to its end and refused as ambiguous."""
    async with bench() as b:
        both = [pod("one", A, version=1), pod("two", A, version=2)]
        b.finder.replace_pods(both, 2)
        b.api.pods = both
        seconds, refusal = await b.took(A)
        assert isinstance(refusal, CallerAmbiguous)
        assert refusal.status == 503
        assert seconds == pytest.approx(HOLD, abs=MOMENT)
        assert b.finder.owner(A) is None


async def test_two_claims_are_settled_by_the_watch() -> None:
    """The deletion of the first comes while the request is held: it goes on in that moment."""
    async with bench() as b:
        b.finder.reader = None
        b.finder.put_pod(pod("old", A, version=1))
        b.finder.put_pod(pod("new", A, version=2))
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(0.4)
        b.finder.delete_pod("old", 3)
        seconds, found = await task
        assert isinstance(found, Pod)
        assert found.uid == "new"
        assert seconds == pytest.approx(0.4, abs=MOMENT)


async def test_a_terminating_pod_yields_to_its_successor() -> None:
    """A pod that is being deleted still owns its address, until a live one claims it: no read is needed."""
    async with bench() as b:
        b.finder.put_pod(pod("old", A, version=1, terminating=True))
        assert isinstance((await b.took(A))[1], Pod)
        b.finder.put_pod(pod("new", A, version=2))
        seconds, found = await b.took(A)
        assert isinstance(found, Pod)
        assert (seconds, found.uid) == (0, "new")
        assert b.api.reads == []


async def test_an_unexplained_address_is_remembered() -> None:
    """What a read did not explain causes no further read for a while, and then one again."""
    async with bench() as b:
        begun = now()
        while now() < begun + UNKNOWN_MEMORY:
            seconds, refusal = await b.took(A)
            assert isinstance(refusal, CallerUnknown)
            assert seconds == pytest.approx(HOLD, abs=MOMENT)
        assert len(b.api.reads) == 1
        await b.took(A)
        assert len(b.api.reads) == 2


async def test_a_flood_of_unknown_addresses_is_cheap() -> None:
    """10,000 unknown addresses in ten seconds: the API server is read as the bucket allows, and nothing is kept."""
    async with bench() as b:
        begun = now()
        tasks = []
        for number in range(10_000):
            tasks.append(asyncio.create_task(b.took(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")))
            if number % 100 == 99:
                await asyncio.sleep(0.1)
        answers = await asyncio.gather(*tasks)
        seconds = now() - begun
        assert all(isinstance(refusal, CallerUnknown) for _, refusal in answers)
        assert max(held for held, _ in answers) <= HOLD + MOMENT
        assert 1 <= len(b.api.reads) <= READ_BURST + READ_RATE * seconds
        assert b.finder._waiters._waiting == {}, "nothing is kept of who went"


async def test_a_flood_does_not_starve_a_pod() -> None:
    """While the flood goes on, a pod that the watch forgot is found by the next read, within about a second."""
    async with bench() as b:

        async def flood() -> None:
            for number in range(3000):
                b.finder._ask_read(f"10.9.{number >> 8}.{number & 255}")
                await asyncio.sleep(0.01)

        storm = asyncio.create_task(flood())
        await asyncio.sleep(20)
        b.api.pods, b.api.version = [pod("a", A, version=150)], 200  # newer than every list that lacked it
        seconds = 0.0
        found: Pod | MetaproxyError | None = None
        while not isinstance(found, Pod):
            held, found = await b.took(A)
            seconds += held
        assert seconds <= 1 / READ_RATE + READ_AFTER + b.api.delay
        await storm


@pytest.mark.parametrize("failure", [TimeoutError(), ConnectionError("refused"), ZeroDivisionError()])
async def test_a_failing_read_hurts_nobody(failure: Exception) -> None:
    """The API server cannot be read: waiting requests end by their deadline or the watch, and the finder goes on."""
    async with bench() as b:
        b.api.failure = failure
        with capture_logs() as logs:
            unknown, late = asyncio.create_task(b.took(A)), asyncio.create_task(b.took(B))
            await asyncio.sleep(0.6)
            b.finder.put_pod(pod("b", B))
            seconds, refusal = await unknown
            assert isinstance(refusal, CallerUnknown)
            assert seconds == pytest.approx(HOLD, abs=MOMENT)
            assert isinstance((await late)[1], Pod)
        assert [line["event"] for line in logs] == ["reading the pods of this node failed"]
        assert b.value("caller_reads_total", outcome="failed") == 1
        b.api.failure, b.api.pods = None, [pod("c", "10.0.0.3", version=50)]
        assert isinstance((await b.took("10.0.0.3"))[1], Pod)


async def test_a_hanging_read_is_given_up() -> None:
    """The API server takes the question and never answers (etcd is away): the read ends, the next one is made."""
    async with bench() as b:
        b.api.delay = 1e6
        assert isinstance((await b.took(A))[1], CallerUnknown)
        await asyncio.sleep(READ_LIMIT + 1)
        assert b.value("caller_reads_total", outcome="failed") == 1
        b.api.delay, b.api.pods = 0.02, [pod("a", A, version=50)]
        assert isinstance((await b.took(A))[1], Pod)


async def test_without_a_reader_only_the_watch_decides() -> None:
    """A source that cannot be read (files): an unknown address waits for its event and is refused at the deadline."""
    async with bench() as b:
        b.finder.reader = None
        seconds, refusal = await b.took(A)
        assert isinstance(refusal, CallerUnknown)
        assert seconds == pytest.approx(HOLD, abs=MOMENT)


async def test_a_reader_that_goes_away_is_no_error() -> None:
    """A read was wanted and the reader is taken away before it is made: nothing happens."""
    async with bench() as b:
        b.finder._ask_read(A)
        b.finder.reader = None
        await asyncio.sleep(1)
        assert b.api.reads == []


async def test_an_old_read_does_not_undo_the_watch() -> None:
    """A read that is older than what the watch told brings nobody back and takes nobody away."""
    async with bench() as b:
        b.finder.put_pod(pod("gone", B, version=5))
        b.finder.delete_pod("gone", 200)
        b.finder.put_pod(pod("new", "10.0.0.9", version=300))
        b.api.pods = [pod("gone", B, version=5)]
        assert isinstance((await b.took(B))[1], CallerUnknown)
        assert isinstance((await b.took("10.0.0.9"))[1], Pod)


async def test_refusals_say_whether_the_pods_are_known() -> None:
    """Before the first list the refusal says so, afterwards it says that no pod has the address; both are retryable."""
    async with bench() as b:
        _, before = await b.took(A)
        b.finder.replace_pods([], 10)
        _, after = await b.took(A)
        for refusal in (before, after):
            assert isinstance(refusal, CallerUnknown)
            assert (refusal.status, refusal.retryable) == (503, True)
        assert "not known yet" in str(before)
        assert "not known yet" not in str(after)


async def test_who_hangs_up_leaves_nothing() -> None:
    """Held requests that are cancelled leave no trace, and the others are still woken."""
    async with bench() as b:
        tasks = [asyncio.create_task(b.took(A)) for _ in range(3)]
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        b.finder.put_pod(pod("a", A))
        assert isinstance((await tasks[1])[1], Pod)
        assert isinstance((await tasks[2])[1], Pod)
        last = asyncio.create_task(b.took(B))
        await asyncio.sleep(0.1)
        last.cancel()
        await asyncio.wait([last])
        assert b.finder._waiters._waiting == {}


async def test_told_and_gone_in_one_moment() -> None:
    """A waiter that is cancelled in the very turn in which its news came: nothing breaks, nothing is left."""
    async with bench() as b:
        for first in ("told", "gone"):
            task = asyncio.create_task(b.finder.news(("address", A), deadline=now() + 1))
            await asyncio.sleep(0.1)
            if first == "gone":
                task.cancel()
            b.finder.tell(("address", A))
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert b.finder._waiters._waiting == {}


async def test_a_deadline_that_is_over_is_no_wait() -> None:
    """Whoever has no time left is answered at once."""
    async with bench() as b:
        begun = now()
        assert not await b.finder.news("rules", deadline=begun - 1)
        assert now() == pytest.approx(begun, abs=MOMENT)


async def test_two_claims_that_come_at_once_are_settled_in_the_same_request() -> None:
    """A list brings two pods at the awaited address: nobody is taken for the caller until the read has decided."""
    async with bench() as b:
        b.api.pods = [pod("new", A, version=2)]
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(0.1)
        b.finder.replace_pods([pod("old", A, version=1), pod("new", A, version=2)], 2)
        seconds, found = await task
        assert isinstance(found, Pod)
        assert found.uid == "new"
        assert seconds == pytest.approx(READ_AFTER + b.api.delay, abs=MOMENT)


async def test_late_namespaces_wake_who_waits_for_them() -> None:
    """A namespace's event wakes exactly who waits for it; a waiter without news is told so at its deadline."""
    async with bench() as b:
        begun = now()
        team = asyncio.create_task(b.finder.news(("namespace", "team"), deadline=begun + HOLD))
        other = asyncio.create_task(b.finder.news(("namespace", "other"), deadline=begun + HOLD))
        await asyncio.sleep(0.3)
        b.finder.put_namespace(Namespace(uid="n", name="team", version=1))
        assert await team
        assert now() - begun == pytest.approx(0.3, abs=MOMENT)
        assert not await other
        assert now() - begun == pytest.approx(HOLD, abs=MOMENT)


async def test_the_observer_hears_before_who_waits() -> None:
    """What a woken request asks for is already on its way: the observer was told first, once for each change."""
    async with bench() as b:
        heard: list[str] = []

        class First(Witness):
            def pods_changed(self, changes: Iterable[Change[Pod]]) -> None:
                """Before the request."""
                heard.append("observer")

        b.finder.observer = First()

        async def ask() -> None:
            await b.took(A)
            heard.append("request")

        task = asyncio.create_task(ask())
        await asyncio.sleep(0.1)
        b.finder.put_pod(pod("a", A))
        b.finder.put_pod(pod("a", A))
        await task
        assert heard == ["observer", "request"]


async def test_changes_are_told_and_counted() -> None:
    """Every real change reaches the observer, repetitions do not; how much is known and synced is shown."""
    async with bench() as b:
        witness = Witness()
        b.finder.observer = witness
        team = Namespace(uid="n", name="team", version=1)
        b.finder.put_pod(pod("a", A))
        b.finder.put_pod(pod("a", A))
        b.finder.replace_pods([pod("b", B, version=5)], 5)
        b.finder.put_namespace(team)
        b.finder.put_namespace(team)
        b.finder.replace_namespaces([team, Namespace(uid="m", name="other", version=2)], 5)
        b.finder.delete_namespace("n", 6)
        b.finder.delete_namespace("n", 6)
        assert [
            (change.before and change.before.uid, change.after and change.after.uid) for change in witness.pods
        ] == [
            (None, "a"),
            ("a", None),
            (None, "b"),
        ]
        assert witness.names == [{"team"}, {"other"}, {"team"}]
        assert b.value("directory_pods") == 1
        assert b.value("directory_namespaces") == 1
        assert b.value("synced", resource="pods") == 1
        assert b.value("synced", resource="namespaces") == 1
        assert b.finder.pods_synced
        assert b.finder.namespaces_synced


# With the kernel as witness.

VETH, OTHER = Carrier(link=7, born=1), Carrier(link=8, born=2)
AWAITED = Carrier(bridge=3)
PORT = Carrier(link=4, born=3, bridge=3, hardware=b"\2\0\0\0\0\1")
OTHER_PORT = Carrier(link=5, born=4, bridge=3, hardware=b"\2\0\0\0\0\2")


@asynccontextmanager
async def witnessed(sight: Carrier = VETH) -> AsyncIterator[Bench]:
    """A bench with a pod that is tied."""
    async with bench() as b:
        b.finder.lookout = b.lookout
        b.finder.observer = b.observer
        b.finder.on_moved = b.moved.append
        b.directory.witness()
        b.api.pods = [pod("a", A)]
        b.finder.put_pod(pod("a", A))
        assert isinstance((await b.took(A))[1], CallerWithdrawn), "the kernel was not heard yet"
        b.finder.blind(False)
        b.finder.saw({A: sight}, ())
        assert isinstance((await b.took(A))[1], Pod)
        b.api.reads.clear()
        yield b


async def test_what_the_kernel_takes_is_refused_told_and_proved() -> None:
    """503 with the reason once its time is over, an Event, a metric, connections cut; one read for the proof."""
    async with witnessed() as b:
        assert b.value("witness_addresses", state="tied") == 1
        b.api.pods = [pod("a", A)]
        b.finder.saw({A: OTHER}, ())
        seconds, refusal = await b.took(A)
        assert isinstance(refusal, CallerWithdrawn)
        assert (refusal.status, refusal.retryable) == (503, True)
        assert "lost" in str(refusal)
        assert seconds == pytest.approx(HOLD, abs=MOMENT)
        assert b.moved == [A]
        assert [uid for uid, _ in b.observer.withdrawn] == ["a"]
        assert b.value("caller_withdrawn_total", why="lost") == 1
        assert b.value("witness_addresses", state="withdrawn") == 1
        assert len(b.api.reads) == 1


async def test_the_tied_carrier_gives_it_back_in_that_moment() -> None:
    """A request that is held meanwhile goes on."""
    async with witnessed() as b:
        b.finder.saw({A: OTHER}, ())
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(0.4)
        b.finder.saw({A: VETH}, ())
        seconds, found = await task
        assert isinstance(found, Pod)
        assert seconds == pytest.approx(0.4, abs=MOMENT)
        assert b.moved == [A, A]


async def test_a_successors_event_gives_it_its_own_at_once() -> None:
    """The dead pod's address is another's: its event decides, though nobody has said that the first is gone."""
    async with witnessed() as b:
        b.api.pods = [pod("a", A)]
        b.finder.saw({A: None}, [(7, 1)])
        await asyncio.sleep(1)
        b.finder.saw({A: OTHER}, ())
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(0.3)
        b.finder.put_pod(pod("b", A, version=101))
        seconds, found = await task
        assert isinstance(found, Pod)
        assert found.uid == "b"
        assert seconds == pytest.approx(0.3, abs=MOMENT)
        assert len(b.api.reads) == 1


async def test_what_a_bridge_has_forgotten_is_waited_for() -> None:
    """An idle pod's request is held until the kernel has heard of it, and asks no API server; nobody is told."""
    async with witnessed(PORT) as b:
        b.finder.saw({A: AWAITED}, ())
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(0.6)
        b.finder.saw({A: PORT}, ())
        seconds, found = await task
        assert isinstance(found, Pod)
        assert seconds == pytest.approx(0.6, abs=MOMENT)
        assert (b.api.reads, b.moved, b.observer.withdrawn) == ([], [], [])
        assert b.value("caller_withdrawn_total", why="unresolved") == 1


async def test_a_first_port_waits_for_who_does_not_answer() -> None:
    """The operator reads for whom; the pod that waits reads no name, and is found when that one is seen."""
    async with witnessed(PORT) as b:
        with capture_logs() as logs:
            b.finder.saw({B: AWAITED, C: AWAITED}, ())
            b.finder.put_pod(pod("silent", B))
            b.finder.saw({B: AWAITED}, ())
            b.finder.put_pod(pod("fresh", C))
            b.finder.saw({C: OTHER_PORT}, ())
        assert [line["pods"] for line in logs if "first port" in line["event"]] == [["team/silent"]]
        _, refusal = await b.took(C)
        assert isinstance(refusal, CallerWithdrawn)
        assert "unsettled" in str(refusal)
        assert "silent" not in str(refusal)
        assert b.value("caller_withdrawn_total", why="unsettled") == 1
        assert b.observer.withdrawn == []
        b.finder.saw({B: replace(OTHER_PORT, link=11)}, ())
        assert b.finder.owner(C) == b.directory.pod("fresh")


async def test_a_kernel_that_is_not_heard_for_a_moment_is_waited_for() -> None:
    """Words were lost: requests are held until everything is there again."""
    async with witnessed() as b:
        b.finder.blind(True)
        task = asyncio.create_task(b.took(A))
        await asyncio.sleep(0.1)
        b.finder.blind(False)
        seconds, found = await task
        assert isinstance(found, Pod)
        assert seconds == pytest.approx(0.1, abs=MOMENT)


async def test_an_owner_is_told_of_an_attack_but_not_of_each_blow() -> None:
    """An address that is taken a hundred times a second is one Event; what ends anyhow is none."""
    async with witnessed(PORT) as b:
        for _ in range(100):
            b.finder.saw({A: OTHER}, ())
            b.finder.saw({A: PORT}, ())
        assert len(b.observer.withdrawn) == 1
        assert b.value("caller_withdrawn_total", why="lost") == 100
        b.finder.put_pod(pod("t", B, terminating=True))
        b.finder.saw({B: VETH}, ())
        b.finder.saw({B: None}, ())
        assert [uid for uid, _ in b.observer.withdrawn] == ["a"]


async def test_proofs_are_rationed_and_tried_again() -> None:
    """Reads that fail are made again with growing pauses until one proves; a storm of losses costs what is allowed."""
    async with witnessed() as b:
        b.api.failure = ConnectionError("refused")
        with capture_logs():
            b.finder.saw({A: OTHER}, ())
            await asyncio.sleep(10)
        assert 3 <= len(b.api.reads) <= 6
        b.api.failure, b.api.pods = None, [pod("b", A, version=50)]
        await asyncio.sleep(PROOF_PAUSE + 1)
        assert isinstance((await b.took(A))[1], Pod)
        b.api.reads.clear()
        begun = now()
        while now() < begun + 30:
            b.finder.saw({A: VETH}, ())
            b.finder.saw({A: OTHER}, ())
            await asyncio.sleep(0.05)
        assert 50 <= len(b.api.reads) <= PROOF_BURST + 30 * PROOF_RATE + 1


async def test_a_loss_while_a_read_is_under_way_needs_another() -> None:
    """What the first says may be older than the second loss."""
    async with witnessed() as b:
        b.api.pods, b.api.delay = [pod("b", A, version=50)], 0.3
        b.finder.saw({A: OTHER}, ())
        await asyncio.sleep(0.1)
        b.finder.saw({A: VETH}, ())
        b.finder.saw({A: OTHER}, ())
        await asyncio.sleep(0.21)
        assert len(b.api.reads) == 1 + 1, "made as soon as the first was there"
        assert b.finder.owner(A) is None
        await asyncio.sleep(0.3)
        assert b.finder.owner(A) == b.directory.pod("b")
        assert len(b.api.reads) == 2


async def test_what_matters_is_followed() -> None:
    """Addresses that are claimed, and those that were."""
    async with witnessed() as b:
        b.finder.put_pod(pod("b", B))
        assert b.lookout.addresses == {A: True, B: True}
        b.finder.delete_pod("b", 9)
        assert b.lookout.addresses == {A: True, B: False}


async def test_without_a_reader_nothing_is_proved() -> None:
    """Files: what is lost waits for their author's next word."""
    async with witnessed() as b:
        b.finder.reader = None
        b.finder.saw({A: OTHER}, ())
        await asyncio.sleep(5)
        assert isinstance((await b.took(A))[1], CallerWithdrawn)
        b.finder.replace_pods([pod("a", A, version=0)], 0)
        assert isinstance((await b.took(A))[1], Pod)

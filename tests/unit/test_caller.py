"""The directory equals a naive model, whatever the order of events, and never answers for another pod."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from metaproxy.caller import Directory
from metaproxy.carriers import Carrier
from metaproxy.entitlements import Entitlements
from metaproxy.pods import PERMITTED, ROLE, Namespace, Pod
from metaproxy.policy import Grant, Rules
from metaproxy.roles import BaseArn
from metaproxy.store import TOMBSTONES, Change

ADDRESSES = ["10.0.0.1", "10.0.0.2", "fd00::1"]
A, B, _ = ADDRESSES
RULES = Rules(base=BaseArn.parse("arn:aws:iam::123456789012:role"))


def pod(
    uid: str,
    *addresses: str,
    version: int = 1,
    host_network: bool = False,
    finished: bool = False,
    terminating: bool = False,
) -> Pod:
    """A pod with a role of its own."""
    return Pod(
        uid=uid,
        namespace="team",
        name=uid,
        version=version,
        addresses=addresses,
        host_network=host_network,
        finished=finished,
        terminating=terminating,
        annotations={ROLE: uid},
    )


def owner(directory: Directory, address: str) -> str | None:
    """The one owner's uid; none and several are nobody."""
    owners = directory.owners(address)
    return owners[0].uid if len(owners) == 1 else None


def filled(*pods: Pod) -> Directory:
    """A directory that saw these, one after the other."""
    directory = Directory()
    for each in pods:
        directory.put_pod(each)
    return directory


# The model: facts are kept as they come; everything is worked out from them with loops.


@dataclass
class Model:
    """What is known, without any index."""

    pods: dict[str, Pod] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    listed: int = 0

    def put(self, new: Pod, *, listed: bool) -> None:
        """Newer replaces older; a list overlooks nobody; finished stays so; blank keeps the address, unless listed."""
        old = self.pods.get(new.uid)
        if new.uid in self.deleted or (new.version < old.version if old else new.version < self.listed):
            return
        if old and old.finished:
            new = replace(new, finished=True)
        if old and old.addresses and not new.addresses and not new.finished and not listed:
            new = replace(new, addresses=old.addresses, remembered=True)
        self.pods[new.uid] = new

    def delete(self, uid: str) -> None:
        """For good."""
        self.deleted.add(uid)
        self.pods.pop(uid, None)

    def settle(self) -> None:
        """What a status has now is nobody else's memory."""
        for each in list(self.pods.values()):
            if each.remembered and each.live:
                others = [other for other in self.pods.values() if other.live and not other.remembered]
                taken = {address for other in others for address in other.addresses}
                left = tuple(address for address in each.addresses if address not in taken)
                self.pods[each.uid] = replace(each, addresses=left, remembered=bool(left))

    def owners(self, address: str) -> set[str]:
        """Live pods with the address; those that are being deleted only if there is no other."""
        claims = [each for each in self.pods.values() if each.live and address in each.addresses]
        return {each.uid for each in claims if not each.terminating} or {each.uid for each in claims}


@dataclass(frozen=True)
class Fact:
    """One event of the API server: the pod in this version, or its deletion."""

    version: int
    pod: Pod
    deleted: bool = False


class DirectoryMachine(RuleBasedStateMachine):
    """A truth (pods, and which of them really holds an address), its events, and their delivery in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.truth: dict[str, Pod] = {}
        self.holder: dict[str, str] = {}
        self.version = 0
        self.facts: list[Fact] = []
        self.snapshots: list[dict[str, Pod]] = [{}]
        self.next_fact = 0
        self.in_order = True
        self.directory = Directory()
        self.model = Model()
        self.entitlements = Entitlements(self.directory, RULES, tokens_required=False)
        self.directory.put_namespace(Namespace(uid="n", name="team", version=1, annotations={PERMITTED: ".*"}))

    # What happens in the cluster. Physical hold and status change together, except that a status may be blank.

    def happen(self, new: Pod, *, deleted: bool = False) -> None:
        """A new version of a pod, or its end."""
        self.version += 1
        new = replace(new, version=self.version)
        if deleted:
            del self.truth[new.uid]
        else:
            self.truth[new.uid] = new
        self.facts.append(Fact(self.version, new, deleted))
        self.snapshots.append(dict(self.truth))

    def release(self, uid: str) -> None:
        """The pod holds no address any more."""
        self.holder = {address: holder for address, holder in self.holder.items() if holder != uid}

    def pick(self, data: st.DataObject, *, running: bool = True) -> Pod:
        """Any pod that is there."""
        choices = [each for each in self.truth.values() if not running or not each.finished]
        return data.draw(st.sampled_from(sorted(choices, key=lambda each: each.uid)))

    def some_running(self) -> bool:
        """Whether there is one to which something can happen."""
        return any(not each.finished for each in self.truth.values())

    @rule(host=st.sampled_from([False, False, False, True]))
    def create(self, host: bool) -> None:
        """A pod is bound to the node; a hostNetwork one has the node's address, which a pod may have had."""
        uid = f"p{self.version}"
        self.happen(pod(uid, *((A,) if host else ()), host_network=host))

    @precondition(some_running)
    @rule(data=st.data(), wanted=st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=2, unique=True))
    def assign(self, data: st.DataObject, wanted: list[str]) -> None:
        """A pod gets addresses that no other holds, a new sandbox's ones included; a terminating one, too."""
        chosen = self.pick(data)
        free = tuple(address for address in wanted if self.holder.get(address, chosen.uid) == chosen.uid)
        if free and not chosen.host_network:
            self.release(chosen.uid)
            self.holder.update(dict.fromkeys(free, chosen.uid))
            self.happen(replace(chosen, addresses=free))

    @precondition(some_running)
    @rule(data=st.data())
    def blank(self, data: st.DataObject) -> None:
        """The status is blank for a moment; the pod still holds its addresses."""
        self.happen(replace(self.pick(data), addresses=()))

    @precondition(some_running)
    @rule(data=st.data())
    def lose_sandbox(self, data: st.DataObject) -> None:
        """The status is blank because the addresses are gone."""
        chosen = self.pick(data)
        self.release(chosen.uid)
        self.happen(replace(chosen, addresses=()))

    @precondition(some_running)
    @rule(data=st.data())
    def terminate(self, data: st.DataObject) -> None:
        """The pod is being deleted and still runs."""
        self.happen(replace(self.pick(data), terminating=True))

    @precondition(some_running)
    @rule(data=st.data(), keeps=st.booleans())
    def finish(self, data: st.DataObject, keeps: bool) -> None:
        """The pod has ended; its status may keep the address."""
        chosen = self.pick(data)
        self.release(chosen.uid)
        self.happen(replace(chosen, finished=True, addresses=chosen.addresses if keeps else ()))

    @precondition(some_running)
    @rule(data=st.data())
    def annotate(self, data: st.DataObject) -> None:
        """Somebody names another role."""
        chosen = self.pick(data)
        self.happen(replace(chosen, annotations={ROLE: f"{chosen.uid}/at{self.version}"}))

    @precondition(lambda self: self.truth)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """The pod is gone."""
        chosen = self.pick(data, running=False)
        self.release(chosen.uid)
        self.happen(chosen, deleted=True)

    # What the directory is told of it.

    def tell(self, fact: Fact) -> None:
        """One event."""
        if fact.deleted:
            changes = self.directory.delete_pod(fact.pod.uid, fact.version)
            self.model.delete(fact.pod.uid)
        else:
            changes = self.directory.put_pod(fact.pod)
            self.model.put(fact.pod, listed=False)
        self.told(changes)

    def list_at(self, version: int) -> None:
        """A list of the state at a version."""
        listed = self.snapshots[version]
        changes = self.directory.replace_pods(listed.values(), version)
        for known in list(self.model.pods.values()):
            if known.uid not in listed and known.version <= version:
                self.model.delete(known.uid)
        for each in listed.values():
            self.model.put(each, listed=True)
        self.model.listed = max(self.model.listed, version)
        self.told(changes)

    def told(self, changes: Iterable[Change[Pod]]) -> None:
        """What was reported as changed is what is now known."""
        self.model.settle()
        for change in changes:
            assert change.before != change.after
        last = {each.uid: change.after for change in changes if (each := change.after or change.before)}
        for uid, after in last.items():
            assert self.directory.pod(uid) == after

    @precondition(lambda self: self.next_fact < len(self.facts))
    @rule(count=st.integers(1, 5))
    def watch(self, count: int) -> None:
        """The next events, in order."""
        for fact in self.facts[self.next_fact : self.next_fact + count]:
            self.tell(fact)
        self.next_fact = min(len(self.facts), self.next_fact + count)

    @precondition(lambda self: self.next_fact)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """An event that was told before comes again: a watch that begins anew at an older version."""
        self.tell(self.facts[data.draw(st.integers(0, self.next_fact - 1))])

    @precondition(lambda self: self.facts)
    @rule(data=st.data())
    def anything(self, data: st.DataObject) -> None:
        """Any event at all, out of order."""
        self.in_order = False
        self.tell(data.draw(st.sampled_from(self.facts)))

    @rule(data=st.data())
    def stale_list(self, data: st.DataObject) -> None:
        """A list of an older state: without newer pods, and with deleted ones. The watch goes on from there."""
        version = data.draw(st.integers(0, self.version))
        self.list_at(version)
        self.next_fact = version

    @rule()
    def fresh_list(self) -> None:
        """A consistent read in between; the watch goes on from where it was."""
        self.list_at(self.version)

    @rule()
    def fresh_start(self) -> None:
        """A list of the present state, from which the watch goes on: whatever was told before, all is well again."""
        self.list_at(self.version)
        self.next_fact = self.version
        self.in_order = True

    @rule()
    def caught_up(self) -> None:
        """All events up to now have come in order."""
        self.watch(len(self.facts))

    # What holds, always.

    @invariant()
    def equals_the_model(self) -> None:
        """Every pod and every address."""
        assert {each.uid: each for each in self.directory.pods()} == self.model.pods
        assert self.directory.pod_count == len(self.model.pods)
        for address in ADDRESSES:
            assert {each.uid for each in self.directory.owners(address)} == self.model.owners(address)

    @invariant()
    def an_owner_is_alive(self) -> None:
        """Never deleted, finished or on the host network, and never two of one."""
        for address in ADDRESSES:
            owners = self.directory.owners(address)
            assert len({each.uid for each in owners}) == len(owners)
            for each in owners:
                assert each.uid not in self.model.deleted
                assert not each.finished
                assert not each.host_network
                assert each is self.directory.pod(each.uid)
                assert address in each.addresses

    @invariant()
    def a_grant_is_the_owners_own(self) -> None:
        """By the annotation of the owner's newest version that is known, and nobody else's."""
        for address in ADDRESSES:
            owners = self.directory.owners(address)
            if len(owners) == 1:
                decision = self.entitlements.of(owners[0])
                assert isinstance(decision, Grant)
                newest = self.model.pods[owners[0].uid].annotations[ROLE]
                assert decision.call.role.arn == f"{RULES.base}{newest}"

    @invariant()
    def when_everything_is_told_it_is_the_truth(self) -> None:
        """No answer for another pod, ever: the holder of an address or nobody; and every pod as it is."""
        if self.next_fact < len(self.facts):
            return
        if self.in_order:
            for address in ADDRESSES:
                uid = owner(self.directory, address)
                # The pod that holds the address, or nobody; an address that nobody holds asks for nothing.
                assert uid is None or self.holder.get(address, uid) == uid
        known = {each.uid: each for each in self.directory.pods()}
        assert known.keys() == self.truth.keys()
        for uid, each in self.truth.items():
            left = replace(known[uid], addresses=(), remembered=False) if known[uid].remembered else known[uid]
            assert left == each


DirectoryMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestDirectoryMachine = DirectoryMachine.TestCase
"""Whatever the order of events: see the machine's invariants."""


# The rules, one by one.


def test_an_unknown_address_has_no_owner() -> None:
    """Nobody is guessed."""
    assert filled().owners(A) == []
    assert filled(pod("p", A)).owners(B) == []


def test_every_address_of_a_pod_is_its_own() -> None:
    """Both families; what a newer status does not have is free, and a repeated one is one."""
    directory = filled(pod("p", A, "fd00::1", A))
    assert [owner(directory, address) for address in (A, "fd00::1")] == ["p", "p"]
    directory.put_pod(pod("p", B, version=2))
    assert [owner(directory, address) for address in ADDRESSES] == [None, "p", None]


@pytest.mark.parametrize("more", [{"host_network": True}, {"finished": True}])
def test_vector_23_32_who_never_owns(more: dict[str, bool]) -> None:
    """A hostNetwork pod's address is the node's, a finished pod's is free; both are known all the same."""
    directory = filled(pod("p", A, **more))
    assert directory.owners(A) == []
    assert directory.pod("p") is not None
    directory.put_pod(pod("q", A))
    assert owner(directory, A) == "q"


def test_vector_32_a_finished_pod_never_runs_again() -> None:
    """Whatever a later status says (kubernetes#125370)."""
    directory = filled(pod("p", A, finished=True), pod("p", A, version=2))
    assert directory.owners(A) == []
    assert directory.pod("p") == pod("p", A, version=2, finished=True)


def test_vector_32_a_blank_status_keeps_the_address() -> None:
    """Until the pod has another, or finishes."""
    directory = filled(pod("p", A), pod("p", version=2))
    assert owner(directory, A) == "p"
    directory.put_pod(pod("p", B, version=3))
    assert (owner(directory, A), owner(directory, B)) == (None, "p")
    directory.put_pod(pod("p", version=4))
    directory.put_pod(pod("p", version=5, finished=True))
    assert directory.owners(B) == []


def test_vector_32_a_remembered_address_is_kept_until_superseded() -> None:
    """Another pod's present status ends the memory for good: its own end does not bring it back."""
    directory = filled(pod("old", A, "fd00::1"), pod("old", version=2))
    changes = directory.put_pod(pod("new", A, version=3))
    assert [(change.after.uid, change.after.addresses) for change in changes if change.after] == [
        ("new", (A,)),
        ("old", ("fd00::1",)),
    ]
    assert (owner(directory, A), owner(directory, "fd00::1")) == ("new", "old")
    directory.put_pod(pod("new", A, version=4, terminating=True))
    assert owner(directory, A) == "new"
    directory.delete_pod("new", 5)
    directory.put_pod(pod("old", version=6))
    assert directory.owners(A) == []
    assert owner(directory, "fd00::1") == "old"


def test_a_blank_status_does_not_remember_what_is_anothers() -> None:
    """The same when the blank status comes after the other pod's claim."""
    directory = filled(pod("old", A), pod("new", A, version=2))
    assert len(directory.owners(A)) == 2
    directory.put_pod(pod("old", version=3))
    assert owner(directory, A) == "new"
    assert directory.pod("old") == pod("old", version=3)


def test_a_list_remembers_nothing() -> None:
    """What happened before a list was perhaps not seen: a blank status in it is blank."""
    directory = filled(pod("p", A), pod("p", version=2))
    directory.replace_pods([pod("p", version=2)], 9)
    assert directory.owners(A) == []
    directory.put_pod(pod("p", A, version=10))
    assert owner(directory, A) == "p"


def test_a_terminating_pod_yields() -> None:
    """It owns its address while it lasts, and loses it to a running pod; two of a kind are nobody."""
    directory = filled(pod("old", A, terminating=True))
    assert owner(directory, A) == "old"
    directory.put_pod(pod("new", A))
    assert owner(directory, A) == "new"
    directory.put_pod(pod("third", A))
    assert {each.uid for each in directory.owners(A)} == {"new", "third"}
    for uid in ("new", "third"):
        directory.put_pod(pod(uid, A, version=2, terminating=True))
    assert len(directory.owners(A)) == 3


def test_vector_31_a_deleted_pod_leaves_its_address() -> None:
    """At once; and neither a replayed event nor an older list brings it back."""
    directory = filled(pod("p", A))
    assert [change.before for change in directory.delete_pod("p", 5)] == [pod("p", A)]
    assert directory.delete_pod("p", 5) == []
    assert directory.put_pod(pod("p", A, version=4)) == []
    assert directory.replace_pods([pod("p", A)], 3) == []
    assert (list(directory.pods()), directory.owners(A)) == ([], [])


def test_an_older_version_is_dropped() -> None:
    """Nothing goes back in time, and what changes nothing is no change."""
    directory = filled(pod("p", A, version=5))
    assert directory.put_pod(pod("p", B, version=4)) == []
    assert directory.put_pod(pod("p", A, version=5)) == []
    assert owner(directory, A) == "p"


def test_a_life_that_a_list_came_after_is_over() -> None:
    """A late watch tells of a pod that came and went before the last list: it owns nothing, not even for a moment."""
    directory = Directory()
    directory.replace_pods([pod("new", A, version=8, terminating=True)], 9)
    assert directory.put_pod(pod("brief", A, version=4)) == []
    assert directory.replace_pods([pod("brief", A, version=4)], 5) == []
    assert owner(directory, A) == "new"
    assert directory.put_pod(pod("next", B, version=10)) != []


def test_a_list_removes_what_it_is_new_enough_to_know_of() -> None:
    """A pod that was seen later than the list stays."""
    directory = filled(pod("old", A, version=3), pod("new", B, version=8))
    changes = directory.replace_pods([pod("other", "fd00::1", version=5)], 6)
    assert [(change.before, change.after) for change in changes] == [
        (pod("old", A, version=3), None),
        (None, pod("other", "fd00::1", version=5)),
    ]
    assert [owner(directory, address) for address in ADDRESSES] == [None, "new", "other"]
    assert directory.pod_count == 2


def test_files_have_no_versions() -> None:
    """The newest word counts: a pod can go, come back, lose its address and run again."""
    directory = filled(pod("p", A, version=0, finished=True), pod("p", A, version=0))
    assert owner(directory, A) == "p"
    directory.put_pod(pod("p", version=0))
    assert directory.owners(A) == []
    directory.delete_pod("p", 0)
    directory.replace_pods([pod("p", B, version=0)], 0)
    assert owner(directory, B) == "p"
    directory.replace_pods([], 0)
    assert directory.pod_count == 0


def test_deletions_are_remembered_up_to_a_bound() -> None:
    """The newest of them: memory does not grow with the age of a node."""
    directory = Directory()
    directory.delete_pod("first", 1)
    directory.delete_pod("second", 2)
    directory.delete_pod("first", 3)
    for n in range(TOMBSTONES - 1):
        directory.delete_pod(f"p{n}", n + 4)
    assert directory.put_pod(pod("first", A)) == []
    assert directory.put_pod(pod("second", A)) != []


# Namespaces.


def team(uid: str, version: int = 1, word: str = "x") -> Namespace:
    """A namespace of that name."""
    return Namespace(uid=uid, name="team", version=version, annotations={PERMITTED: word})


def test_a_namespace_is_found_by_name() -> None:
    """In its newest version; unknown names are nobody's."""
    directory = Directory()
    assert directory.namespace("team") is None
    directory.put_namespace(team("n1"))
    assert len(directory.put_namespace(team("n1", 2, "y"))) == 1
    assert directory.put_namespace(team("n1", 1, "z")) == []
    assert directory.namespace("team") == team("n1", 2, "y")
    assert directory.namespace("other") is None
    assert directory.namespace_count == 1


def test_a_namespace_made_anew_is_another() -> None:
    """While both are known the newer speaks; the old one's end does not take the new one away, nor its return."""
    directory = Directory()
    directory.put_namespace(team("new", 7))
    directory.put_namespace(team("old", 3))
    assert directory.namespace("team") == team("new", 7)
    directory.delete_namespace("old", 6)
    directory.put_namespace(team("old", 4))
    assert directory.namespace("team") == team("new", 7)
    assert len(directory.delete_namespace("new", 8)) == 1
    assert directory.namespace("team") is None


def test_a_list_of_namespaces_is_all_there_are() -> None:
    """As of its version."""
    directory = Directory()
    directory.put_namespace(team("n1", 1))
    directory.put_namespace(Namespace(uid="late", name="late", version=9))
    directory.replace_namespaces([Namespace(uid="n2", name="other", version=2)], 5)
    assert [directory.namespace(name) is not None for name in ("team", "late", "other")] == [False, True, True]
    assert directory.namespace_count == 2


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["team", "other"]), st.integers(1, 9), st.booleans()))
)
def test_namespaces_equal_a_naive_model(events: list[tuple[str, str, int, bool]]) -> None:
    """Whatever the order of events; a uid has one name."""
    directory, known, gone = Directory(), dict[str, Namespace](), set[str]()
    for letter, name, version, deleted in events:
        uid = f"{letter}-{name}"
        if deleted:
            directory.delete_namespace(uid, version)
            known.pop(uid, None)
            gone.add(uid)
        else:
            directory.put_namespace(new := Namespace(uid=uid, name=name, version=version))
            if uid not in gone and (uid not in known or known[uid].version <= version):
                known[uid] = new
        for each in ("team", "other"):
            versions = [item.version for item in known.values() if item.name == each]
            found = directory.namespace(each)
            assert (found.version if found else None) == max(versions, default=None)
            assert found is None or found.uid in known
        assert directory.namespace_count == len(known)


def test_a_list_of_the_watch_is_no_proof() -> None:
    """It may be older than what the kernel has shown: an address that was lost stays without owner."""
    directory = Directory()
    directory.witness()
    directory.blind(False)
    directory.put_pod(pod("u1", "10.0.0.1"))
    directory.saw({"10.0.0.1": Carrier(link=7, born=1)})
    directory.saw({"10.0.0.1": None})
    directory.replace_pods([pod("u1", "10.0.0.1")], 9)
    assert directory.owners("10.0.0.1") == []

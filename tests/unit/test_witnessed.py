"""The directory with the kernel as witness, against a node that knows the truth: never an owner that is not there."""

import random
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metaproxy.caller import Directory
from metaproxy.carriers import Carrier
from metaproxy.claims import Why
from metaproxy.pods import Pod
from tests.unit.witnessed import ADDRESSES, BRIDGED, THIEF, TWINS, World

EVERY = st.sampled_from([*ADDRESSES, THIEF])
SEED = st.integers(0, 1 << 16)


class WitnessMachine(RuleBasedStateMachine):
    """What happens on a node, in any order, with anything late."""

    @initialize(seed=SEED, silent=st.booleans())
    def node(self, seed: int, silent: bool) -> None:
        """It runs, each address with its first pod; the thief is one that never answers for its own, or does."""
        self.world = World(random.Random(seed), silent=silent)

    @rule(address=EVERY)
    def a_pod_starts(self, address: str) -> None:
        """Where none is."""
        self.world.begin(address)

    @rule(address=EVERY)
    def a_pod_dies(self, address: str) -> None:
        """In the kernel alone."""
        self.world.die(address)

    @rule(address=EVERY)
    def the_kernel_learns(self, address: str) -> None:
        """Or is put right."""
        self.world.resolve(address)

    @rule(address=EVERY)
    def the_kernel_forgets(self, address: str) -> None:
        """What a bridge knew."""
        self.world.forget(address)

    @rule(address=st.sampled_from(BRIDGED + TWINS), write=st.booleans())
    def the_thief_answers(self, address: str, write: bool) -> None:
        """For another's address; its pod is not ready by that, which the kubelet may write."""
        self.world.attack(address)
        victim = self.world.holders[address]
        if write and victim is not None:
            self.world.write(victim.uid)
            self.world.end_read()
            self.world.begin_read()

    @rule(deaf=st.booleans())
    def words_are_lost(self, deaf: bool) -> None:
        """Or everything is heard anew."""
        if deaf:
            self.world.deafen()
        else:
            self.world.dump()

    @rule(succeeds=st.booleans())
    def another_process_takes_over(self, succeeds: bool) -> None:
        """It is given what is known, or goes on from that."""
        if succeeds:
            self.world.succeed()
        else:
            self.world.hand_over()

    @rule(what=st.sampled_from(["write", "label", "terminate", "delete", "force"]), pick=SEED)
    def the_api_server_changes(self, what: str, pick: int) -> None:
        """One of the pods that it has."""
        if uids := list(self.world.api):
            getattr(self.world, what)(uids[pick % len(uids)])

    @rule(number=st.integers(1, 5))
    def the_watch_tells(self, number: int) -> None:
        """Some of what is late."""
        for _ in range(number):
            self.world.deliver()

    @rule(begins=st.booleans())
    def it_is_read(self, begins: bool) -> None:
        """The read begins, or its answer comes."""
        if begins:
            self.world.begin_read()
        else:
            self.world.end_read()

    @invariant()
    def an_owner_is_there(self) -> None:
        """The law."""
        assert list(self.world.wrong()) == []

    def teardown(self) -> None:
        """Once all that is late has come, everybody has their own."""
        if hasattr(self, "world"):
            self.world.settle()
            for address, living in self.world.holders.items():
                assert living is not None
                assert self.world.owner(address) == living.uid, self.world.directory.withdrawn(address)


WitnessMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestWitnessMachine = WitnessMachine.TestCase
"""Whatever the order: see the machine's invariant."""


def step(world: World, chance: random.Random) -> None:
    """One of the things that happen, those that change hands most often."""
    address = chance.choice((*ADDRESSES, THIEF))
    what = chance.choice(
        ["begin", "die", "resolve", "attack"] * 8
        + ["forget", "write", "write", "label", "terminate", "delete", "delete", "force"]
        + ["deliver"] * 8
        + ["begin_read", "end_read", "end_read", "deafen", "dump", "dump", "hand_over", "succeed"]
    )
    if what in {"begin", "die", "resolve", "attack", "forget"}:
        getattr(world, what)(address)
    elif what in {"write", "label", "terminate", "delete", "force"}:
        uids = list(world.api)
        if uids:
            getattr(world, what)(chance.choice(uids))
    else:
        getattr(world, what)()


def size(world: World) -> int:
    """How many things are held for the node."""
    ties, view = world.directory.witness(), world.table._view
    return sum(
        len(held)
        for held in (
            ties._points,
            ties._idle,
            ties._places.at,
            ties._places.common,
            ties._tenancy.tenants,
            ties._tenancy.ports,
            ties._unsettled,
            ties.moved,
            world.table._said,
            world.table.sights,
        )
    ) + sum(len(held) for held in (view.links, view.routes, view.neighbours, view.ports))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("silent", [False, True])
def test_fifty_thousand_changes_of_hands(silent: bool) -> None:
    """0 wrong owners, and nothing grows: what is held at the end is what some hundred changes made of it."""
    chance = random.Random(1)
    world = World(chance, silent=silent)
    most = checked = right = 0
    while world.changes < 50_000:
        step(world, chance)
        if len(world.api) > 14:
            world.settle()
            assert all(living and world.owner(a) == living.uid for a, living in world.holders.items())
            if silent:
                world.renew()
        assert list(world.wrong()) == []
        checked += 1
        right += sum(world.owner(address) is not None for address in ADDRESSES)
        if world.changes < 1_000:
            most = max(most, size(world))
        assert size(world) <= 2 * most
    assert right > checked / 10, "hardly anybody ever had an address, so little was shown"


# What the directory makes of it.

VETH = Carrier(link=7, born=1)
ADDRESS = "10.0.0.1"


def pod(uid: str, version: int = 1, **more: str) -> Pod:
    """A pod at the address."""
    return Pod(uid=uid, namespace="n", name=uid, version=version, addresses=(ADDRESS,), **more)  # type: ignore[arg-type]


def test_a_directory_without_witness_knows_nothing_of_it() -> None:
    """Nothing is withdrawn, nothing is to be proved; a witness that comes later counts for what is known already."""
    directory = Directory()
    directory.put_pod(pod("p"))
    assert (directory.unproved, directory.losses, directory.withdrawn(ADDRESS)) == (False, 0, None)
    assert directory.moved() == {ADDRESS: None}
    assert directory.witness().addresses == {ADDRESS: True}
    directory.blind(False)
    assert directory.saw({ADDRESS: VETH}) == set()
    assert directory.saw({}, [(7, 1)]) == {ADDRESS}
    assert directory.withdrawn(ADDRESS) is Why.LOST
    assert directory.unproved
    assert directory.moved() == {ADDRESS: Why.LOST}
    assert directory.moved() == {}


def test_a_change_of_files_is_newer_word() -> None:
    """A list without version gives back what was lost."""
    directory = Directory()
    directory.replace_pods([pod("p", 0)], 0)
    directory.blind(False)
    directory.saw({ADDRESS: VETH})
    directory.saw({ADDRESS: Carrier(link=8, born=2)})
    assert directory.owners(ADDRESS) == []
    directory.replace_pods([pod("p", 0)], 0)
    assert directory.owners(ADDRESS) == [pod("p", 0)]


def test_files_that_a_predecessor_has_read_are_no_newer_word() -> None:
    """What it lost is not given back by reading the same again, but by the next change."""
    former = Directory()
    former.replace_pods([pod("p", 0)], 0)
    former.blind(False)
    former.saw({ADDRESS: VETH})
    former.saw({ADDRESS: Carrier(link=8, born=2)})
    directory = Directory()
    directory.witness()
    directory.adopt(former.memory())
    directory.blind(False)
    directory.replace_pods([pod("p", 0)], 0)
    assert directory.withdrawn(ADDRESS) is Why.LOST
    directory.replace_pods([pod("p", 0), replace(pod("q", 0), addresses=())], 0)
    assert directory.owners(ADDRESS) == [pod("p", 0)]


def test_the_kernel_s_word_of_a_predecessor_needs_one_here() -> None:
    """Without a witness claims decide; and what comes from a process without one is as after any start."""
    former = Directory()
    former.put_pod(pod("p"))
    directory = Directory()
    directory.witness()
    directory.adopt(former.memory())
    directory.blind(False)
    assert directory.saw({ADDRESS: VETH}) == set()
    assert directory.owners(ADDRESS) == [pod("p")]
    last = Directory()
    last.adopt(directory.memory())
    assert last.owners(ADDRESS) == [pod("p")]
    assert last.memory().ties is None


def test_a_blank_status_observes_nothing() -> None:
    """An address that the kubelet leaves out is remembered with what was observed when it was there."""
    directory = Directory()
    directory.put_pod(pod("p", observed="first"))
    directory.blind(False)
    directory.saw({ADDRESS: VETH})
    directory.saw({ADDRESS: None})
    directory.replace_pods([pod("p", observed="first")], 5, since=directory.losses)
    directory.saw({ADDRESS: Carrier(link=8, born=2)})
    directory.replace_pods([pod("p", observed="first")], 6, since=directory.losses)
    directory.put_pod(replace(pod("p", 7, observed="blank"), addresses=()))
    assert directory.claims(ADDRESS)[0].remembered
    assert directory.withdrawn(ADDRESS) is Why.LOST
    directory.put_pod(pod("p", 8, observed="second"))
    assert directory.owners(ADDRESS) == [pod("p", 8, observed="second")]

"""The rule by which claims to an address count, one case at a time; `test_witnessed` holds the whole to the truth."""

import random
from dataclasses import dataclass, replace

import pytest

from metaproxy import ties
from metaproxy.carriers import Carrier
from metaproxy.claims import Why
from metaproxy.ties import Ties

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
VETH, OTHER = Carrier(link=7, born=1), Carrier(link=8, born=2)
AWAITED = Carrier(bridge=3)
MAC, MAC2 = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
PORT = Carrier(link=4, born=3, bridge=3, hardware=MAC)
PORT2 = Carrier(link=5, born=4, bridge=3, hardware=MAC2)


@dataclass(frozen=True)
class Pod:
    """A pod that says it has an address."""

    uid: str
    version: int = 1
    terminating: bool = False
    observed: str = "first"


class Bench:
    """Ties, and the claims that they are asked about."""

    def __init__(self, *, heard: bool = True) -> None:
        self.claims: dict[str, list[Pod]] = {}
        self.ties: Ties[Pod] = Ties(lambda address: self.claims.get(address, []))
        if heard:
            self.ties.blinded(False)

    def claim(self, address: str, *pods: Pod, gone: Pod | None = None, version: int = 0) -> object:
        """These claim the address now; what that makes of it."""
        self.claims[address] = list(pods)
        self.ties.claimed(address, gone, version)
        return self.judged(address)

    def see(self, address: str, sight: Carrier | None) -> object:
        """The kernel shows that; what it makes of the address."""
        self.ties.saw({address: sight})
        return self.judged(address)

    def read(self, version: int, **observed: str) -> None:
        """A read that begins now."""
        self.ties.proved(version, self.ties.losses, observed)

    def judged(self, address: str = A) -> object:
        """The uid of the owner, uids if they are several or none, or why there is none."""
        verdict = self.ties.judge(address)
        if isinstance(verdict, Why):
            return verdict
        return verdict[0].uid if len(verdict) == 1 else [pod.uid for pod in verdict]


def tied(sight: Carrier = VETH) -> Bench:
    """A pod that is tied."""
    bench = Bench()
    assert bench.see(A, sight) == []
    bench.claim(A, Pod("p"))
    assert bench.see(A, sight) == "p"
    assert bench.ties.states() == {"tied": 1, "withdrawn": 0, "unseen": 0}
    return bench


def test_without_a_carrier_claims_decide() -> None:
    """Where no network shows any: one owner, several, a terminating one that yields."""
    bench = Bench()
    assert bench.judged() == []
    assert bench.claim(A, Pod("p")) == "p"
    assert bench.claim(A, Pod("p", terminating=True)) == "p"
    assert bench.claim(A, Pod("p", terminating=True), Pod("q")) == "q"
    assert bench.claim(A, Pod("p"), Pod("q")) == ["p", "q"]
    assert bench.ties.states() == {"tied": 0, "withdrawn": 0, "unseen": 1}
    assert bench.claim(A) == []
    assert bench.claim(B) == []
    assert bench.ties.addresses == {A: False}
    assert bench.ties.states() == {"tied": 0, "withdrawn": 0, "unseen": 0}
    assert not bench.ties.unproved


@pytest.mark.parametrize("sight", [VETH, PORT])
def test_the_carrier_goes_and_comes_back(sight: Carrier) -> None:
    """While another is seen nobody has the address; the tied one gives it back, and who was there is cut off."""
    bench = tied(sight)
    assert bench.ties.moved == set()
    assert bench.see(A, OTHER) == Why.LOST
    assert bench.ties.unproved
    assert bench.ties.states()["withdrawn"] == 1
    assert bench.ties.moved == {A}
    bench.ties.moved.clear()
    assert bench.see(A, sight) == "p"
    assert bench.ties.moved == {A}


def test_a_route_that_goes_is_a_loss_and_a_bridge_that_forgets_is_none() -> None:
    """Of a bridge's neighbour nobody is the owner while it is awaited, and then who was."""
    assert tied(VETH).see(A, None) == Why.LOST
    for nothing in (AWAITED, Carrier(bridge=3, hardware=MAC), None):
        bench = tied(PORT)
        assert bench.see(A, nothing) == Why.UNRESOLVED
        assert bench.see(A, PORT) == "p"
        assert bench.ties.losses == 0
    for elsewhere in (Carrier(bridge=9), Carrier(bridge=3, hardware=MAC2), PORT2):
        assert tied(PORT).see(A, elsewhere) == Why.LOST
    assert tied(VETH).see(A, AWAITED) == Why.LOST


def test_a_device_that_dies_is_a_loss_even_if_a_bridge_had_forgotten_it() -> None:
    """The port went: whoever comes is another. A device of the same index in another life concerns nobody."""
    bench = tied(PORT)
    bench.see(A, AWAITED)
    assert bench.ties.died((4, 99)) == set()
    assert bench.ties.died((4, 3)) == {A}
    assert bench.judged() == Why.LOST


def test_the_same_pod_again_needs_newer_word_of_the_kubelet() -> None:
    """Not a read that repeats it, a label, an annotation or its deletion; nor what was observed before that read."""
    bench = tied()
    bench.see(A, OTHER)
    assert bench.claim(A, Pod("p", 5, observed="second")) == Why.LOST, "no read began after the loss"
    bench.ties.proved(9, bench.ties.losses - 1, {})
    assert bench.judged() == Why.LOST, "it began before"
    bench.read(10, p="second")
    assert bench.claim(A, Pod("p", 11, observed="second")) == Why.LOST, "a label"
    assert bench.claim(A, Pod("p", 12, terminating=True, observed="third")) == Why.LOST
    assert bench.claim(A, Pod("p", 10, observed="third")) == Why.LOST
    assert bench.claim(A, Pod("p", 12, observed="")) == Why.LOST, "it was seen to have ended"
    assert bench.claim(A, Pod("p", 13, observed="third")) == "p"
    assert bench.see(A, VETH) == Why.LOST, "it is tied to the new one now"


def test_another_pod_is_named_by_the_read() -> None:
    """That repeats the loser, too: the two do not make each other ambiguous."""
    bench = tied()
    assert bench.see(A, OTHER) == Why.LOST
    assert bench.claim(A, Pod("p"), Pod("q", 3)) == Why.LOST
    bench.read(10, p="first", q="first")
    assert bench.judged() == "q"
    assert bench.claim(A, Pod("q", 3)) == "q"


def test_who_lost_it_is_not_always_known() -> None:
    """A carrier to which nobody was tied went: a pod that is not known yet may have been its."""
    bench = tied()
    bench.see(A, None)
    bench.see(A, OTHER)
    bench.see(A, None)
    bench.read(10, p="first", q="first")
    bench.see(A, Carrier(link=9, born=9))
    assert bench.claim(A, Pod("q", 8)) == Why.LOST, "the read could name the loser"
    assert bench.claim(A, Pod("q", 11)) == Why.LOST, "it repeats what the read had seen"
    assert bench.claim(A, Pod("q", 12, observed="second")) == "q"


def test_a_claim_that_ends_is_newer_word() -> None:
    """After its pod's deletion another's claim counts at once, whatever is seen; the pod's own must be newer."""
    bench = tied()
    gone = Pod("p")
    assert bench.claim(A, gone=gone, version=5) == []
    assert bench.ties.losses == 1
    assert not bench.ties.unproved
    assert bench.claim(A, Pod("p", 4)) == Why.LOST
    assert bench.claim(A, Pod("p", 6)) == Why.LOST
    assert bench.claim(A, Pod("q", 2)) == "q"
    bench = tied()
    bench.see(A, None)
    assert bench.claim(A, gone=gone, version=5) == []
    assert bench.ties.unproved, "the loss is newer than that word may be"
    assert bench.claim(A, Pod("q", 6)) == Why.LOST
    bench.read(7)
    assert bench.judged() == Why.UNRESOLVED, "its carrier is not there yet"
    assert bench.see(A, OTHER) == "q"


def test_who_lost_an_address_does_not_get_it_back_by_its_successors_end() -> None:
    """The successor is deleted by force and may still run, while the loser has not been deleted yet."""
    bench = tied()
    bench.see(A, OTHER)
    bench.claim(A, Pod("p"), Pod("q", 3))
    bench.read(10, p="first", q="first")
    assert bench.judged() == "q"
    assert bench.claim(A, Pod("p"), gone=Pod("q"), version=9) == Why.LOST
    assert bench.claim(A, Pod("p", 10, observed="second")) == Why.LOST, "not newer than the read"
    assert bench.claim(A, Pod("p", 12)) == Why.LOST, "a label"
    assert bench.claim(A, Pod("p", 13, observed="second")) == "p"
    bench.see(A, None)
    bench.see(A, OTHER)
    assert bench.claim(A, Pod("r", 14), gone=Pod("p"), version=14) == Why.LOST, "that word may be older than the loss"
    bench.read(15, r="first")
    assert bench.judged() == "r"


def test_who_has_proved_itself_since_does_not_lose_by_another_s_end() -> None:
    """It was certain that both were looked at anew; now one is left."""
    bench = tied()
    bench.see(A, OTHER)
    bench.claim(A, Pod("p"), Pod("q", 3))
    bench.read(10, p="first", q="first")
    assert bench.judged() == "q"
    back = Pod("p", 12, observed="second")
    assert bench.claim(A, back, Pod("q", 3)) == ["p", "q"]
    assert bench.claim(A, back, gone=Pod("q"), version=14) == "p"


def test_files_are_their_authors_word() -> None:
    """Without versions a changed file says again whose the address is."""
    bench = tied()
    bench.see(A, OTHER)
    assert bench.claim(A, Pod("p", 0)) == Why.LOST
    assert bench.ties.spoken() == {A}
    assert bench.judged() == "p"


def test_two_pods_behind_one_port_have_nothing() -> None:
    """Whatever hardware address is answered, for a tied pod or a new one; each has its own again afterwards."""
    bench = Bench()
    bench.claim(A, Pod("p"))
    bench.claim(B, Pod("q"))
    bench.see(A, PORT)
    bench.see(B, PORT2)
    forged = Carrier(link=4, born=3, bridge=3, hardware=b"\6")
    bench.ties.saw({B: forged})
    assert (bench.judged(A), bench.judged(B)) == (Why.SHARED, Why.SHARED)
    assert bench.ties.saw({B: PORT2}) == {A, B}
    assert (bench.judged(A), bench.judged(B)) == ("p", "q")
    bench.ties.saw({B: forged})
    assert bench.ties.claimed(A, None, 0) == {A, B}
    bench.claim(A, gone=Pod("p"), version=5)
    assert bench.judged(B) == Why.LOST, "the other is no pod any more, but there is no newer word of this one"


def bridged(*uids: str) -> Bench:
    """Pods on a bridge that are not seen yet, at `A`, `B` and so on."""
    bench = Bench()
    for address, uid in zip((A, B, C), uids, strict=False):
        bench.ties.saw({address: AWAITED})
        bench.claim(address, Pod(uid))
        bench.ties.saw({address: AWAITED})
    return bench


def test_nobody_is_tied_to_a_port_that_is_anothers() -> None:
    """Not even while the other's own address is seen elsewhere, or nobody claims it: its device is still there."""
    bench = bridged("thief")
    assert bench.see(A, PORT) == "thief"
    bench.see(A, AWAITED)
    bench.claim(B, Pod("victim"))
    assert bench.see(B, PORT) == Why.SHARED
    bench.claim(A, gone=Pod("thief"), version=5)
    assert bench.judged(B) == Why.SHARED, "the pod is still known"
    bench.ties.ended("thief")
    assert bench.judged(B) == Why.SHARED, "the device is still there"
    assert bench.see(B, PORT2) == Why.LOST
    bench.read(9)
    bench.claim(B, Pod("victim", 10, observed="second"))
    assert bench.judged(B) == "victim"


@pytest.mark.parametrize("address", [A, B])
def test_a_pod_has_one_port_on_a_bridge(address: str) -> None:
    """Whatever the kubelet writes and whichever of its addresses is seen elsewhere, until the port's device dies."""
    bench = bridged("p", "p")
    assert bench.see(A, PORT) == "p"
    assert bench.see(address, PORT2) == Why.LOST
    bench.read(10, p="first")
    assert bench.claim(address, Pod("p", 11, observed="second")) == Why.LOST
    assert bench.see(address, Carrier(link=4, born=3, bridge=3, hardware=b"\6")) in {"p", Why.LOST}
    bench.read(12, p="second")
    assert bench.claim(address, Pod("p", 13, observed="third")) == "p", "another hardware address at its port"
    bench.see(address, PORT2)
    bench.ties.died((4, 3))
    bench.read(14, p="third")
    assert bench.claim(address, Pod("p", 15, observed="fourth")) == "p"
    assert bench.ties._tenancy.tenants.keys() == {(5, 4)}


def test_who_is_seen_nowhere_keeps_others_from_a_first_port() -> None:
    """It may be behind the port at which another is seen; it is named, and the others have theirs when it is seen."""
    bench = bridged("silent", "fresh")
    assert bench.see(B, PORT2) == Why.UNSETTLED
    assert [pod.uid for pod in bench.ties.awaited(B)] == ["silent"]
    assert bench.ties.awaited("10.9.9.9") == []
    assert bench.ties.saw({A: PORT}) == {A, B}
    assert bench.ties.awaited(B) == []
    assert (bench.judged(B), bench.judged(A)) == ("fresh", "silent")
    assert bench.see(A, AWAITED) == Why.UNRESOLVED
    bench.claim(C, Pod("later"))
    assert bench.see(C, Carrier(link=6, born=5, bridge=3, hardware=b"\4")) == "later", "its port is known"


def test_a_silent_pod_does_not_hinder_others_for_ever() -> None:
    """Not when it is gone, or no pod of this bridge; that it is being deleted can last for as long as it likes."""
    for elsewhere in (None, Carrier(bridge=9)):
        bench = bridged("silent", "fresh")
        assert bench.see(B, PORT2) == Why.UNSETTLED
        assert bench.ties.saw({A: elsewhere}) == {A, B}
        assert bench.judged(B) == "fresh"
    bench = bridged("silent", "fresh")
    bench.see(B, PORT2)
    bench.claim(A, Pod("silent", 2, terminating=True))
    assert bench.judged(B) == Why.UNSETTLED
    bench.claims[A] = []
    bench.ties.claimed(A, Pod("silent"), 5)
    assert bench.ties.ended("silent") == {B}
    assert bench.judged(B) == "fresh"


def test_two_at_one_port_are_seen_nowhere() -> None:
    """Nor is one that is seen at another's port: a thief cannot be seen elsewhere by pointing there."""
    bench = bridged("one", "two", "fresh")
    bench.ties.saw({A: PORT, B: PORT})
    assert bench.see(C, PORT2) == Why.UNSETTLED
    assert {pod.uid for pod in bench.ties.awaited(C)} == {"one", "two"}
    bench = bridged("known", "silent", "fresh")
    bench.ties.saw({B: PORT2})
    assert bench.see(A, PORT) == Why.UNSETTLED
    bench.claims[B] = []
    bench.ties.claimed(B, None, 0)
    assert bench.judged(A) == Why.UNSETTLED, "another is seen nowhere"
    bench.ties.saw({C: Carrier(link=6, born=5, bridge=3)})
    assert (bench.judged(A), bench.judged(C)) == ("known", "fresh")
    bench.ties.saw({B: PORT})
    bench.claim(B, Pod("silent"))
    assert bench.judged(B) == Why.SHARED
    assert [pod.uid for pod in bench.ties.awaited(B)] == ["silent"]


def test_a_pod_whose_port_is_gone_is_waited_for_when_it_is_looked_at_anew() -> None:
    """Its sandbox is made anew, or it is dead: which of the two the kubelet says. One that is known no more is not."""
    bench = bridged("p", "fresh")
    bench.ties.saw({A: PORT, B: AWAITED})
    assert bench.judged(A) == Why.UNSETTLED
    bench.ties.saw({B: PORT2})
    assert (bench.judged(A), bench.judged(B)) == ("p", "fresh")
    bench.ties.died((4, 3))
    bench.ties.saw({A: AWAITED})
    bench.claim(C, Pod("later"))
    third = Carrier(link=6, born=5, bridge=3, hardware=b"\4")
    bench.claim(A, Pod("p", 2, observed="second"))
    assert bench.see(C, third) == Why.UNSETTLED
    bench.claim(A, Pod("p", 2))
    assert bench.judged(C) == "later"
    bench.claim(C, gone=Pod("later"), version=9)
    bench.ties.died((6, 5))
    assert bench.ties._tenancy.ports["later", 3].device is None
    bench.ties.ended("later")
    bench.ties.ended("fresh")
    bench.ties.died((5, 4))
    assert {uid for uid, _ in bench.ties._tenancy.ports} == {"p"}
    assert bench.ties._tenancy.tenants == {}


def test_a_pods_addresses_share_its_port() -> None:
    """Of both families, and so do those of one that continues another under a new uid; no other pod's there."""
    bench = bridged("p", "p")
    assert (bench.see(A, PORT), bench.see(B, PORT)) == ("p", "p")
    for address in (A, B):
        bench.claim(address, Pod("q", 9), gone=Pod("p"), version=5)
    assert bench.judged() == Why.SHARED, "the first is still known"
    bench.ties.ended("p")
    assert (bench.judged(A), bench.judged(B)) == ("q", "q")
    bench.ties.saw({A: AWAITED, B: AWAITED})
    bench.ties.ended("q")
    bench.claim(C, Pod("q"))
    assert bench.see(C, PORT) == "q", "files can take a pod away and name it again, at other addresses"
    bench.claim(C, Pod("r"))
    assert bench.judged(C) in {Why.LOST, Why.SHARED}


def test_one_device_for_many_pods_changes_nothing() -> None:
    """Off bridges: claims decide alone, and that it goes is no loss."""
    bench = tied()
    assert bench.claim(B, Pod("q")) == "q"
    assert bench.see(B, VETH) == "q"
    assert bench.judged(A) == "p"
    assert bench.ties.states() == {"tied": 0, "withdrawn": 0, "unseen": 2}
    assert bench.claim(A, Pod("p"), Pod("r")) == ["p", "r"]
    assert bench.claim(A, Pod("p")) == "p"
    bench.ties.saw({A: None})
    assert (bench.judged(A), bench.judged(B)) == ("p", "q")
    bench.see(A, VETH)
    assert bench.see(A, OTHER) == "p"
    assert bench.ties.losses == 0
    bench.see(A, VETH)
    assert bench.ties.losses == 1, "it had a device of its own meanwhile"
    bench.ties.died((7, 1))
    bench.ties.saw({B: None})
    assert (bench.judged(B), bench.ties.losses) == ("q", 1)
    assert bench.ties._places.common == set()


def test_lost_claims_make_no_device_common() -> None:
    """Two dead pods, whose addresses of two families one successor has: it is nobody until there is word of it."""
    bench = tied()
    bench.claim(B, Pod("q"))
    assert bench.see(B, OTHER) == "q"
    bench.ties.saw({A: None, B: None})
    new = Carrier(link=9, born=3)
    bench.ties.saw({A: new, B: new})
    assert (bench.judged(A), bench.judged(B)) == (Why.LOST, Why.LOST)
    assert bench.ties._places.common == set()
    bench.read(9, p="first", q="first")
    for address, dead in ((A, "p"), (B, "q")):
        bench.claim(address, Pod(dead), Pod("successor", 10))
    assert (bench.judged(A), bench.judged(B)) == ("successor", "successor")
    bench.ties.saw({A: None, B: None})
    assert bench.see(A, VETH) == Why.LOST


def test_nor_does_a_lost_claim_count_on_a_common_device() -> None:
    """Others are there by right; who lost an address that is there now is not."""
    bench = tied(OTHER)
    for address, uid in ((B, "q"), (C, "r")):
        bench.claim(address, Pod(uid))
        bench.ties.saw({address: VETH})
    assert (bench.judged(B), bench.judged(C)) == ("q", "r")
    assert bench.see(A, VETH) == Why.LOST
    assert bench.ties.states() == {"tied": 0, "withdrawn": 1, "unseen": 2}
    bench.ties.moved.clear()
    assert bench.see(A, OTHER) == "p", "it is back at its own"
    assert bench.ties.moved == {A}, "and who came from the common one is cut off"


def common() -> Bench:
    """Two pods of one device off bridges."""
    bench = tied()
    bench.claim(B, Pod("q"))
    bench.see(B, VETH)
    assert bench.ties._places.common == {(7, 1)}
    return bench


def test_a_common_device_that_is_made_anew_locks_nobody_out() -> None:
    """Its routes go one by one, or it dies; in another life, or another device, everybody has their own at once."""
    for dies in (False, True):
        bench = common()
        for number in range(2, 6):
            for address in (A, B):
                bench.ties.saw({address: None})
                assert (bench.judged(A), bench.judged(B)) == ("p", "q")
            if dies:
                bench.ties.died((7, number - 1))
            again = Carrier(link=7, born=number)
            for address in (A, B):
                bench.ties.saw({address: again})
                assert (bench.judged(A), bench.judged(B)) == ("p", "q")
        assert bench.ties.losses == 0


def test_who_has_lost_before_is_not_locked_out_of_a_common_device() -> None:
    """What came back is as if it had never gone, when the device has become common and goes, and words are lost."""
    bench = tied()
    bench.see(A, None)
    bench.see(A, VETH)
    bench.read(9, p="first")
    bench.claim(B, Pod("q"))
    assert bench.see(B, VETH) == "q"
    bench.ties.blinded(True)
    bench.ties.saw({A: None, B: None})
    bench.ties.blinded(False)
    assert (bench.judged(A), bench.judged(B)) == ("p", "q")
    assert bench.see(A, OTHER) == "p"


def test_an_address_on_a_common_device_changes_hands_by_claims() -> None:
    """As the source says it, and again; who it was before does not hinder the next."""
    bench = common()
    for number in range(5):
        before, after = Pod(f"p{number}" if number else "p"), Pod(f"p{number + 1}", 10 + number)
        assert bench.claim(A, before, after) == [before.uid, after.uid]
        assert bench.claim(A, after, gone=before, version=20 + number) == after.uid
        bench.ties.saw({A: None})
        assert bench.see(A, VETH) == after.uid
    assert not bench.ties.unproved


def test_two_that_claim_one_address_when_a_common_device_goes() -> None:
    """Nobody is certain, before and after; who of them ends, and is lost elsewhere, does not count for that."""
    bench = common()
    bench.claim(A, Pod("p"), Pod("r"))
    bench.ties.saw({A: None})
    assert bench.see(A, OTHER) == ["p", "r"]
    assert bench.see(A, None) == Why.LOST
    bench.read(9, p="first", r="first")
    assert bench.see(A, OTHER) == Why.LOST


class Gateways:
    """A node whose pods are all behind two devices off bridges, each with two that stay and some that come and go."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.bench, self.births = chance, Bench(), 2
        self.devices = {1: 1, 2: 2}
        self.places = {f"10.0.{device}.{n}": device for device in (1, 2) for n in (1, 2)}
        self.guests = [f"10.0.9.{n}" for n in range(4)]
        self.places |= dict.fromkeys(self.guests, 1)
        for number, address in enumerate(self.places):
            self.bench.claim(address, Pod(f"first{number}"))
        for address in self.places:
            self.show(address)

    def show(self, address: str, *, gone: bool = False) -> None:
        """Its route is there, or gone; what that concerns is judged."""
        device = self.places[address]
        sight = None if gone else Carrier(link=device, born=self.devices[device])
        for each in self.bench.ties.saw({address: sight}):
            self.bench.judged(each)

    def step(self, number: int) -> None:
        """One of the things that happen."""
        address = self.chance.choice(self.guests)
        what = self.chance.choice(["successor", "move", "flap", "anew", "overrun"])
        if what == "successor":
            (former,) = self.bench.claims[address]
            successor = Pod(f"pod{number}", number)
            self.bench.claim(address, former, successor)
            self.bench.claim(address, successor, gone=former, version=number)
        elif what == "anew":
            device = self.chance.choice((1, 2))
            there = [each for each, place in self.places.items() if place == device]
            for each in self.chance.sample(there, len(there)):
                self.show(each, gone=True)
            if self.chance.random() < 0.5:
                self.bench.ties.died((device, self.devices[device]))
                self.births += 1
                self.devices[device] = self.births
            for each in there:
                self.show(each)
        else:
            self.bench.ties.blinded(what == "overrun")
            if what == "move":
                self.places[address] = self.chance.choice((1, 2))
            else:
                self.show(address, gone=True)
            self.show(address)
            self.bench.ties.blinded(False)


@pytest.mark.parametrize("seed", range(20))
def test_behind_common_devices_everybody_has_what_the_source_says(seed: int) -> None:
    """At once, without any read, whatever happens to their routes and devices, and to words of the kernel."""
    node = Gateways(random.Random(seed))
    for number in range(1, 200):
        node.step(number)
        for address, (pod,) in node.bench.claims.items():
            assert node.bench.judged(address) == pod.uid


@pytest.mark.parametrize("last", ["p", "q"])
def test_a_device_is_common_until_the_source_says_otherwise(last: str) -> None:
    """Where one pod is left, or all of it was one pod's, who comes at its addresses after it is not taken for it."""
    bench = common()
    if last == "q":
        bench.claim(A, gone=Pod("p"), version=5)
    else:
        bench.claim(B, Pod("q"), Pod("p", 4))
        bench.claim(B, Pod("p", 4), gone=Pod("q"), version=5)
    assert bench.ties._places.common == set()
    address = B if last == "q" else A
    assert bench.judged(address) == last
    bench.ties.saw({A: None, B: None})
    assert bench.see(address, OTHER) == Why.LOST


def test_a_process_goes_on_with_common_devices() -> None:
    """Of those at which it still has several pods: one who knew no better may have left another."""
    bench, heir = common(), Bench(heard=False)
    heir.claims = bench.claims
    heir.ties.adopt(bench.ties.memory())
    for address in (A, B):
        heir.ties.claimed(address, None, 0)
    heir.ties.blinded(False)
    heir.ties.saw({A: OTHER})
    assert (heir.judged(A), heir.judged(B), heir.ties.losses) == ("p", "q", 0)
    alone = tied()
    heir = Bench(heard=False)
    heir.claims = alone.claims
    heir.ties.adopt(replace(alone.ties.memory(), common=frozenset({(7, 1)})))
    heir.ties.claimed(A, None, 0)
    heir.ties.blinded(False)
    assert heir.see(A, OTHER) == Why.LOST


def test_a_device_that_was_common_is_none_behind_a_bridge() -> None:
    """As its port it is judged as ports are."""
    bench = common()
    port = Carrier(link=7, born=1, bridge=3, hardware=MAC)
    bench.ties.saw({A: port, B: AWAITED})
    assert bench.judged(A) == Why.UNSETTLED
    bench.ties.saw({B: None})
    assert bench.judged(A) == "p"
    assert bench.ties.losses == 0
    assert bench.see(A, PORT2) == Why.LOST
    assert bench.ties.losses == 1


def test_a_kernel_that_is_not_heard_is_no_witness() -> None:
    """Before it was heard nobody is sure; later who has a carrier is not. Who never had one goes on."""
    bench = Bench(heard=False)
    assert bench.claim(A, Pod("p")) == Why.BLIND
    assert bench.ties.blinded(True) == set()
    assert bench.ties.blinded(False) == {A}
    assert bench.judged() == "p"
    bench.claim(B, Pod("q"))
    bench.see(B, AWAITED)
    bench.see(A, VETH)
    bench.claim("10.0.0.3", Pod("r"))
    assert bench.ties.blinded(True) == {A, B, "10.0.0.3"}
    assert (bench.judged(A), bench.judged(B), bench.judged("10.0.0.3")) == (Why.BLIND, Why.BLIND, "r")
    bench.ties.blinded(False)
    assert (bench.judged(A), bench.judged(B)) == ("p", Why.UNRESOLVED)
    assert bench.ties.losses == 0


def test_what_is_lost_while_nothing_is_heard_has_no_known_loser() -> None:
    """Somebody may have come and gone meanwhile; and so where somebody was awaited already."""
    bench = tied()
    bench.ties.blinded(True)
    bench.see(A, OTHER)
    bench.ties.blinded(False)
    bench.claim(A, Pod("q", 5))
    bench.read(6, q="first")
    assert bench.judged() == Why.LOST
    assert bench.claim(A, Pod("q", 7, observed="second")) == "q"
    bench.see(A, None)
    bench.read(8)
    losses = bench.ties.losses
    bench.ties.blinded(True)
    bench.ties.blinded(False)
    assert bench.ties.losses == losses + 1
    assert bench.ties.unproved


def test_addresses_that_nobody_claims_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest: memory does not grow with the addresses that a node has ever given."""
    monkeypatch.setattr(ties, "REMEMBERED", 8)
    bench = Bench()
    for number in range(100):
        address, sight = f"10.0.1.{number}", Carrier(link=100 + number, born=number)
        bench.claim(address, Pod(f"p{number}"))
        bench.see(address, sight)
        bench.claim(address, gone=Pod(f"p{number}"), version=number)
    assert len(bench.ties.addresses) == len(bench.ties._places.at) == 8
    assert "10.0.1.99" in bench.ties.addresses

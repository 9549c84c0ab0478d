"""Which neighbours are in doubt: those on IPv6 whose hardware address has changed, for a while, within bounds."""

from metaproxy.neighbours import ANSWERS, DOUBT, DOUBTED, KNOWN, Doubts
from metaproxy.netlink import Neighbour

VICTIM = bytes.fromhex("02aa00000001")
THIEF = bytes.fromhex("02aa00000002")


def at(hardware: bytes, *, link: int = 7, address: str = "fd44:1::5", fixed: bool = False) -> Neighbour:
    """The kernel's word that the address is there."""
    return Neighbour(link=link, address=address, hardware=hardware, fixed=fixed)


def test_who_is_seen_first_is_not_in_doubt() -> None:
    """Nor who is seen again."""
    doubts = Doubts()
    for _ in range(2):
        doubts.told(at(VICTIM), 0.0)
    assert not doubts.places(0.0)


def test_a_change_is_in_doubt_for_a_while() -> None:
    """From the last change on."""
    doubts = Doubts()
    doubts.told(at(VICTIM), 0.0)
    doubts.told(at(THIEF), 1.0)
    doubts.told(at(VICTIM), 2.0)
    assert doubts.places(2.0) == [(7, "fd44:1::5")]
    assert doubts.places(1.5 + DOUBT)
    assert not doubts.places(2.0 + DOUBT)


def test_an_entry_that_went_meanwhile_hides_no_change() -> None:
    """A thief may wait until the kernel has forgotten its victim."""
    doubts = Doubts()
    for each in (VICTIM, b"", THIEF):
        doubts.told(at(each), 0.0)
    assert doubts.places(0.0)


def test_who_has_not_answered_is_not_asked_for_again() -> None:
    """The kernel does not know the address: whoever sends there makes it ask everybody."""
    doubts = Doubts()
    for each in (VICTIM, THIEF, b""):
        doubts.told(at(each), 0.0)
    assert not doubts.places(0.0)
    doubts.told(at(THIEF), 1.0)
    assert doubts.places(1.0)


def test_who_answers_every_time_has_it() -> None:
    """An address that changed hands for good is left alone before long; words without a question count nothing."""
    doubts = Doubts()
    for each in (VICTIM, *[THIEF] * 100):
        doubts.told(at(each), 0.0)
    for _ in range(ANSWERS):
        assert doubts.places(0.0)
        for each in (b"", THIEF, THIEF):
            doubts.told(at(each), 0.0)
    assert not doubts.places(0.0)
    # The next change is doubted like the first.
    doubts.told(at(VICTIM), 1.0)
    assert doubts.places(1.0)


def test_two_that_fight_are_in_doubt_for_as_long_as_they_do() -> None:
    """Both answer each question: that is a change each time."""
    doubts = Doubts()
    doubts.told(at(VICTIM), 0.0)
    for number in range(10 * ANSWERS):
        for each in (b"", VICTIM, THIEF):
            doubts.told(at(each), float(number))
        assert doubts.places(float(number))


def test_the_same_address_elsewhere_is_another() -> None:
    """A link-local one is on every device."""
    doubts = Doubts()
    doubts.told(at(VICTIM), 0.0)
    doubts.told(at(THIEF, link=8), 0.0)
    assert not doubts.places(0.0)


def test_ipv4_is_none_of_its_business() -> None:
    """Any sender can make the kernel ask everybody there."""
    doubts = Doubts()
    for each in (VICTIM, THIEF):
        doubts.told(at(each, address="10.0.0.5"), 0.0)
    assert not doubts.places(0.0)


def test_what_is_fixed_is_never_in_doubt() -> None:
    """Taken away, it would not come back."""
    doubts = Doubts()
    for each in (VICTIM, THIEF):
        doubts.told(at(each), 0.0)
    doubts.told(at(THIEF, fixed=True), 0.0)
    assert not doubts.places(0.0)
    doubts.told(at(VICTIM, fixed=True), 0.0)
    assert not doubts.places(0.0)


def test_the_memory_is_bounded() -> None:
    """Whoever makes up addresses, and changes them, pushes out the oldest."""
    doubts = Doubts()
    for each in (VICTIM, THIEF):
        for number in range(2 * KNOWN):
            doubts.told(at(each, address=f"fd44::{number:x}"), 0.0)
    assert not doubts.places(0.0)
    for number in range(KNOWN, KNOWN + DOUBTED + 5):
        doubts.told(at(VICTIM, address=f"fd44::{number:x}"), 0.0)
        doubts.told(at(THIEF, address=f"fd44::{number:x}"), 0.0)
    assert len(doubts.places(0.0)) == DOUBTED
    assert (7, f"fd44::{KNOWN:x}") not in doubts.places(0.0)

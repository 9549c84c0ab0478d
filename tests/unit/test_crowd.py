"""Who gives way when no place is left, and who waits when one wants everything."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from metaproxy.crowd import Crowd, Place, Turns

Name = tuple[str, int]


def crowd(total: int, each: int, **sizes: int) -> Crowd[Name]:
    """A crowd of these sizes; the members of an address are numbered from 0, and the least number goes first."""
    made: Crowd[Name] = Crowd(total=total, each=each, rank=lambda member: member[1])
    for who, size in sizes.items():
        for number in range(size):
            made.add(who, (who, number))
    return made


def speak(members: Crowd[Name], who: str, *numbers: int) -> None:
    """These have said a word."""
    for number in numbers:
        members._parties[who].silent.pop((who, number), None)


def test_while_there_is_room_nobody_goes() -> None:
    """Below both bounds."""
    assert crowd(4, 2, a=1, b=2).place("a") == Place(free=True)
    assert crowd(1, 1).place("a") == Place(free=True)


def test_an_address_above_its_bound_gives_up_what_is_silent() -> None:
    """Its longest silent one goes for the new one; when all have spoken, the new one does."""
    members = crowd(9, 3, a=3)
    assert members.place("a") == Place(free=True, instead_of=("a", 0))
    speak(members, "a", 0, 2)
    assert members.place("a") == Place(free=True, instead_of=("a", 1))
    speak(members, "a", 1)
    assert members.place("a") == Place(free=False)
    assert members.place("b") == Place(free=True)


def test_when_all_places_are_taken_who_has_most_gives_way() -> None:
    """Its longest silent one first; then the one of least rank."""
    members = crowd(5, 4, a=4, b=1)
    assert members.place("c") == members.place("b") == Place(free=True, instead_of=("a", 0))
    speak(members, "a", 0, 1, 2)
    assert members.place("c").instead_of == ("a", 3)
    speak(members, "a", 3)
    assert members.place("c").instead_of == ("a", 0)


def test_of_two_that_have_most_the_silent_one_gives_way() -> None:
    """Whoever says nothing has less to lose."""
    members = crowd(4, 4, a=2, b=2)
    speak(members, "a", 0, 1)
    assert members.place("c").instead_of == ("b", 0)


def test_who_has_most_drives_nobody_out() -> None:
    """Nor who would have as many then: two crowds would drive one another out by turns for ever."""
    members = crowd(5, 5, a=3, b=2)
    speak(members, "a", 0, 1, 2)
    speak(members, "b", 0, 1)
    assert members.place("a") == members.place("b") == Place(free=False)


def test_who_has_none_gets_in() -> None:
    """Even where nobody has more than one."""
    members = crowd(2, 2, a=1, b=1)
    assert members.place("c") == Place(free=True, instead_of=("a", 0))


def test_first_of_all() -> None:
    """Where something has to end whoever comes."""
    assert crowd(4, 4).first() is None
    assert crowd(4, 4, a=1, b=2).first() == ("b", 0)


def test_who_went_is_not_there() -> None:
    """Each is counted once and removed once."""
    members = crowd(4, 4, a=2)
    assert (members.size, members.count("a"), members.count("b")) == (2, 2, 0)
    assert members.remove("a", ("a", 0))
    assert not members.remove("a", ("a", 0))
    assert not members.remove("b", ("b", 0))
    assert members.of("a") == members.everybody() == [("a", 1)]
    assert members.remove("a", ("a", 1))
    assert (members.of("a"), members.size) == ([], 0)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=80), st.integers(1, 9), st.integers(1, 5))
def test_a_neighbour_is_never_kept_out(comings: list[tuple[str, bool]], total: int, each: int) -> None:
    """Whatever comes: no bound is passed, and who has none gets a place, without anybody losing their only fair one."""
    numbers, members = count(), crowd(total, each)
    for who, speaks in comings:
        place = members.place(who)
        before = {name: members.count(name) for name in "abcd"}
        if before[who] == 0:
            assert place.free
        if not place.free:
            assert before[who] >= min(each, max(before.values()) - 1)
            continue
        if place.instead_of is not None:
            loser = place.instead_of[0]
            assert loser == who or before[loser] == max(before.values())
            assert members.remove(*(place.instead_of[0], place.instead_of))
        member = (who, next(numbers))
        party = members.add(who, member)
        if speaks:
            party.silent.pop(member)
        assert members.size == sum(members.count(name) for name in "abcd") <= total
        assert members.count(who) <= each


# Turns.


def test_a_turn_is_shared() -> None:
    """Of each address so many; the rest of it waits, in its order, and others do not."""
    turns: Turns[str] = Turns(2)
    assert turns.over()
    assert [turns.take("a", name) for name in ("a1", "a2", "a3", "a4", "a5")] == [True, True, False, False, False]
    assert turns.take("b", "b1")
    assert not turns.over()
    assert turns.following() == ["a3", "a4"]
    assert not turns.take("a", "a1")
    assert turns.following() == ["a5", "a1"]
    assert not turns.over()
    assert turns.following() == []
    assert turns.over()


def test_who_waits_waits_once() -> None:
    """However often it asks."""
    turns: Turns[str] = Turns(1)
    assert turns.take("a", "a1")
    assert not turns.take("a", "a2")
    assert not turns.take("a", "a2")
    assert turns.following() == ["a2"]
    assert turns.following() == []

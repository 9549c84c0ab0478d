"""A line for each thing and minute, with how many were left out."""

from metaproxy.loglimit import EVERY, KEPT, LogLimit


def test_once_a_minute_and_counted() -> None:
    """The first is told, the others are counted, the next one after a minute tells the count."""
    limit = LogLimit()
    assert limit.left_out("a", 0.0) == 0
    assert [limit.left_out("a", EVERY / 1000 * number) for number in range(1, 1000)] == [None] * 999
    assert limit.left_out("a", EVERY) == 999
    assert limit.left_out("a", 2 * EVERY) == 0


def test_things_do_not_hide_each_other() -> None:
    """Another thing is told at once."""
    limit = LogLimit()
    assert [limit.left_out(thing, 0.0) for thing in ("a", "b", "a", "b")] == [0, 0, None, None]


def test_what_is_remembered_is_bounded() -> None:
    """A flood of different things takes no memory; the oldest is forgotten first, one that goes on is not."""
    limit = LogLimit()
    limit.left_out("going on", 0.0)
    for number in range(10 * KEPT):
        limit.left_out(number, 0.0)
        assert limit.left_out("going on", 0.0) is None
    assert len(limit._told) == KEPT
    assert limit.left_out(0, 0.0) == 0

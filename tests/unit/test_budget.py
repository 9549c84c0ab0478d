"""A bucket never gives more than its burst and its rate, and what it says of waiting is true."""

from hypothesis import given
from hypothesis import strategies as st

from metaproxy.budget import TokenBucket

RATES = st.floats(min_value=0.01, max_value=1000)
BURSTS = st.integers(1, 50)
TIMES = st.floats(min_value=0, max_value=1e6)


@given(RATES, BURSTS, TIMES)
def test_it_starts_full(rate: float, burst: int, now: float) -> None:
    """The burst is there at once, and not a token more."""
    bucket = TokenBucket(rate=rate, burst=burst, now=now)
    assert [bucket.take(now) for _ in range(burst + 1)] == [True] * burst + [False]


@given(RATES, BURSTS, TIMES)
def test_after_the_wait_there_is_a_token(rate: float, burst: int, now: float) -> None:
    """Whoever waits as long as told gets a token then: rounding does not send anybody away again."""
    bucket = TokenBucket(rate=rate, burst=burst, now=now)
    assert bucket.wait(now) == 0
    while bucket.take(now):
        pass
    seconds = bucket.wait(now)
    assert 0 < seconds <= 1 / rate + 1e-5
    assert bucket.take(now + seconds)


@given(RATES, BURSTS, st.lists(st.floats(min_value=0, max_value=10), max_size=60))
def test_never_more_than_burst_and_rate(rate: float, burst: int, gaps: list[float]) -> None:
    """Over any time: at most the burst and what has dripped in since."""
    bucket, now, taken = TokenBucket(rate=rate, burst=burst, now=0.0), 0.0, 0
    for gap in gaps:
        now += gap
        while bucket.take(now):
            taken += 1
            assert taken <= burst + rate * now + 1e-6


def test_a_long_pause_saves_up_the_burst_alone() -> None:
    """A day of silence is no licence for a flood."""
    bucket = TokenBucket(rate=5, burst=3, now=0)
    assert [bucket.take(86_400) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """Going back and forth in time does not fill the bucket twice."""
    bucket = TokenBucket(rate=1, burst=1, now=100)
    assert bucket.take(100)
    assert not bucket.take(50)
    assert not bucket.take(100)
    assert bucket.take(101)

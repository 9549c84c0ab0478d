"""The arithmetic of a session's life, and secrets that stay secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.credentials import Credentials, FailureClass, Secret, pause, renew_at, told_expiry, usable

HIDDEN = "wJalrXUtnFEMI"
UNIT = st.floats(min_value=0, max_value=1, exclude_max=True)
KINDS = st.sampled_from(FailureClass)
FAILURES = st.integers(1, 100_000)


def session(issued: float = 0.0, life: float = 3600.0) -> Credentials:
    """A session of an hour."""
    return Credentials(
        access_key_id="ASIAEXAMPLE",
        secret_access_key=Secret(HIDDEN),
        session_token=Secret(HIDDEN),
        account="123456789012",
        issued=issued,
        expires=issued + life,
    )


SESSIONS = st.builds(session, st.floats(min_value=0, max_value=4e9), st.floats(min_value=900, max_value=43200))


def test_a_secret_shows_itself_only_by_name() -> None:
    """Not in a repr, a format, an exception or the repr of what holds it."""
    secret = Secret(HIDDEN)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        f"{secret!r}",
        f"{secret}",
        repr(session()),
    ]
    assert not any(HIDDEN in text for text in [*shown, repr(ValueError(secret)), str([secret]), str({"a": secret})])
    assert secret.reveal() == HIDDEN
    assert not hasattr(secret, "__dict__")


def test_secrets_compare_by_what_they_hide() -> None:
    """Two sessions with the same keys are equal; a text is no secret."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert session() == session()


@given(SESSIONS, UNIT)
def test_renewal_is_at_half_life(credentials: Credentials, phase: float) -> None:
    """Between 40 and 60 per cent of life, in the middle for the middle phase: an hour's session keeps 24 minutes."""
    life = credentials.expires - credentials.issued
    share = (renew_at(credentials, phase=phase) - credentials.issued) / life
    assert 0.4 - 1e-6 <= share <= 0.6 + 1e-6
    assert renew_at(credentials, phase=0.5) == pytest.approx(credentials.issued + life / 2)


@given(SESSIONS, UNIT, UNIT)
def test_phases_spread_renewals(credentials: Credentials, one: float, other: float) -> None:
    """A later phase is a later renewal: sessions of one moment do not fall due in one."""
    if one <= other:
        assert renew_at(credentials, phase=one) <= renew_at(credentials, phase=other)


@given(SESSIONS, st.floats(min_value=-0.2, max_value=1.2))
def test_what_is_served_has_a_minute_left(credentials: Credentials, share: float) -> None:
    """Expired keys or keys of the last minute are never served (contract M14)."""
    now = credentials.issued + share * (credentials.expires - credentials.issued)
    assert usable(credentials, now) == (credentials.expires - now > 60)


@given(SESSIONS, st.floats(min_value=0, max_value=1))
def test_clients_are_told_early_but_never_too_early(credentials: Credentials, share: float) -> None:
    """At most a minute before the real end (contract S2), never after it, and a minute ahead while it is served."""
    now = credentials.issued + share * (credentials.expires - credentials.issued)
    told = told_expiry(credentials, now)
    assert credentials.expires - 60 <= told <= credentials.expires
    if usable(credentials, now):
        assert told - now >= 60 - 1e-6
    if credentials.expires - now >= 120:
        assert told == credentials.expires - 60


@given(KINDS, FAILURES, UNIT, st.booleans())
def test_a_pause_keeps_its_bounds(kind: FailureClass, failures: int, jitter: float, holding: bool) -> None:
    """Never shorter than three quarters of the first pause, never longer than five quarters of the longest."""
    seconds = pause(kind, failures=failures, jitter=jitter, holding=holding)
    assert 0.75 * kind.first <= seconds <= 1.25 * kind.longest
    if holding:
        assert seconds >= 0.75 * 15


@given(KINDS, FAILURES, st.booleans())
def test_a_pause_keeps_its_length_on_average(kind: FailureClass, failures: int, holding: bool) -> None:
    """Chance makes nodes drift apart, not ask more often."""
    middle = pause(kind, failures=failures, jitter=0.5, holding=holding)
    mean = sum(pause(kind, failures=failures, jitter=(n + 0.5) / 100, holding=holding) for n in range(100)) / 100
    assert mean == pytest.approx(middle)
    assert kind.first <= middle <= kind.longest


@given(KINDS, st.integers(1, 99_999), UNIT, st.booleans())
def test_pauses_grow(kind: FailureClass, failures: int, jitter: float, holding: bool) -> None:
    """Each failure more makes the pause at least as long, at most twice."""
    now = pause(kind, failures=failures, jitter=jitter, holding=holding)
    later = pause(kind, failures=failures + 1, jitter=jitter, holding=holding)
    assert now <= later <= 2 * now


@pytest.mark.parametrize(
    ("kind", "holding", "seconds"),
    [
        (FailureClass.TRANSIENT, False, [1, 2, 4, 8, 16, 32, 60, 60]),
        (FailureClass.TRANSIENT, True, [15, 30, 60, 60]),
        (FailureClass.DENIED, False, [5, 10, 20, 30, 30]),
        (FailureClass.DENIED, True, [15, 30, 30]),
        (FailureClass.INVALID, False, [600, 600]),
        (FailureClass.INVALID, True, [600, 600]),
    ],
)
def test_pauses_by_class(kind: FailureClass, holding: bool, seconds: list[float]) -> None:
    """The pauses of the design, by class: throttled or unreachable, denied, invalid."""
    assert [pause(kind, failures=n, jitter=0.5, holding=holding) for n in range(1, len(seconds) + 1)] == seconds


@given(UNIT)
def test_an_outage_costs_two_calls_a_minute_at_most(jitter: float) -> None:
    """Over half an hour with a session held: whatever chance says, on average at most two calls a minute."""
    spent, calls = 0.0, 0
    while spent < 1800:
        calls += 1
        spent += pause(FailureClass.TRANSIENT, failures=calls, jitter=jitter, holding=True)
    assert calls <= 2 * 30

"""Credentials ahead of and on demand: single flight, renewal, failures, the budget; in virtual time.

STS is scripted: it is the network boundary. A fixed chance of one half makes every jitter vanish, so pauses are exact:
1, 2, 4 … 60 s for what may pass, 5, 10 … 30 s for a refusal, renewal at exactly half life.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from metaproxy.broker import NAP, Broker
from metaproxy.credentials import LAST_SERVED, Credentials
from metaproxy.errors import (
    IssueError,
    Reason,
    StsDenied,
    StsInvalidRequest,
    StsOwnIdentity,
    StsPending,
    StsRegionDisabled,
    StsThrottled,
    StsUnreachable,
)
from metaproxy.issuer import FLIGHT_LIMIT
from metaproxy.roles import AssumeRole, RoleArn
from metaproxy.sessions import GRACE
from metaproxy.telemetry import Metrics
from tests.fakes.issuer import BASE, ScriptedIssuer, Wall

pytestmark = pytest.mark.looptime(noop_cycles=2)  # nothing here waits for threads or sockets

HOLD = 0.9
"""What a request may be held, in seconds."""

MOMENT = 0.005
"""Virtual seconds that count as at once."""


def call(name: str = "app", *, external: str | None = None, session: str = "team.app") -> AssumeRole:
    """One AssumeRole call."""
    return AssumeRole(
        role=RoleArn.parse(f"arn:aws:iam::123456789012:role/{name}"),
        session_name=session,
        duration=3600,
        external_id=external,
    )


def now() -> float:
    """The loop's seconds."""
    return asyncio.get_running_loop().time()


def throttled() -> StsThrottled:
    """STS asks for less."""
    return StsThrottled("STS asks to be called less", remedy="ask again", code="Throttling")


def unreachable() -> StsUnreachable:
    """STS is away."""
    return StsUnreachable("STS cannot be reached", remedy="ask again")


def denied() -> StsDenied:
    """STS refuses the role."""
    return StsDenied("STS refuses", remedy="mend the trust policy", code="AccessDenied")


def invalid() -> StsInvalidRequest:
    """STS refuses the request."""
    return StsInvalidRequest("STS calls it wrong", remedy="mend the request", code="ValidationError")


class Bench:
    """A broker at work, its STS, its clock and its metrics."""

    def __init__(self, *, delay: float = 0.05, life: float = 3600.0, **options: Any) -> None:
        self.wall = Wall()
        self.sts = ScriptedIssuer(self.wall, delay=delay, life=life)
        self.metrics = Metrics()
        self.told: list[tuple[AssumeRole, IssueError]] = []
        self.broker = Broker(
            self.sts,
            self.metrics,
            **{
                "clock": self.wall,
                "chance": lambda: 0.5,
                "on_failure": lambda what, failure: self.told.append((what, failure)),
                **options,
            },
        )

    async def get(self, what: AssumeRole, hold: float = HOLD) -> Credentials:
        """A session within `hold` seconds."""
        return await self.broker.get(what, deadline=now() + hold)

    async def took(self, what: AssumeRole, hold: float = HOLD) -> tuple[float, Credentials | IssueError]:
        """How long a request took, and what came of it."""
        begun = now()
        try:
            answer: Credentials | IssueError = await self.get(what, hold)
        except IssueError as failure:
            answer = failure
        return now() - begun, answer

    def value(self, name: str, **labels: str) -> float | None:
        """A metric's sample."""
        return self.metrics.registry.get_sample_value(f"metaproxy_{name}", labels)


@asynccontextmanager
async def bench(**options: Any) -> AsyncIterator[Bench]:
    """A bench whose broker runs, and must not end by itself."""
    made = Bench(**options)
    task = asyncio.create_task(made.broker.run())
    try:
        yield made
        assert not task.done(), "the broker's task ended by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# One flight for everybody.


async def test_thousand_first_requests_are_one_call() -> None:
    """1,000 requests at once for a key that nobody holds make one AssumeRole, and all get its session."""
    async with bench() as b:
        answers = await asyncio.gather(*(b.get(call()) for _ in range(1000)))
        assert len(b.sts.calls) == 1
        assert {answer.access_key_id for answer in answers} == set(b.sts.given)
        assert b.value("credentials_requests_total", result="waited") == 1000


async def test_the_first_caller_may_hang_up() -> None:
    """The caller that began the flight goes; the other 999 get their answer from that same flight."""
    async with bench() as b:
        waiting = [asyncio.create_task(b.get(call())) for _ in range(1000)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        answers = await asyncio.gather(*waiting[1:])
        assert len(b.sts.calls) == 1
        assert len({answer.access_key_id for answer in answers}) == 1
        assert waiting[0].cancelled()


async def test_the_flight_outlives_all_its_callers() -> None:
    """Everybody hangs up; the flight ends all the same and the next request is answered at once."""
    async with bench(delay=0.5) as b:
        waiting = [asyncio.create_task(b.get(call())) for _ in range(3)]
        await asyncio.sleep(0.1)
        for task in waiting:
            task.cancel()
        await asyncio.sleep(1)
        assert await b.took(call()) == (0, await b.get(call()))
        assert len(b.sts.calls) == 1


async def test_a_time_out_hurts_only_the_one_that_timed_out() -> None:
    """A waiter whose time is over leaves the entry to the others, who asked later and wait longer."""
    async with bench(delay=1.0) as b:
        patient = asyncio.create_task(b.get(call(), hold=5))
        with pytest.raises(StsPending):
            await b.get(call(), hold=0.2)
        await patient
        assert len(b.sts.calls) == 1


async def test_slow_sts_is_pending_and_its_answer_serves_the_retry() -> None:
    """STS needs 5 s: refused at 0.9 s, not sooner and not later; the finished flight answers who asks again."""
    async with bench(delay=5.0) as b:
        seconds, failure = await b.took(call())
        assert isinstance(failure, StsPending)
        assert failure.status == 503
        assert seconds == pytest.approx(HOLD, abs=MOMENT)
        await asyncio.sleep(5.0 - seconds - 0.1)
        seconds, answer = await b.took(call())
        assert isinstance(answer, Credentials)
        assert seconds == pytest.approx(0.1, abs=MOMENT)
        assert len(b.sts.calls) == 1


async def test_an_answer_after_600_ms_is_waited_for() -> None:
    """STS needs 600 ms: the first request is held and served as soon as the answer is there."""
    async with bench(delay=0.6) as b:
        seconds, answer = await b.took(call())
        assert isinstance(answer, Credentials)
        assert seconds == pytest.approx(0.6, abs=MOMENT)


async def test_without_anybody_at_work_a_request_still_ends() -> None:
    """A broker whose task has not begun refuses at the deadline instead of holding for ever; past deadlines too."""
    b = Bench()
    seconds, failure = await b.took(call())
    assert isinstance(failure, StsPending)
    assert seconds == pytest.approx(HOLD, abs=MOMENT)
    assert isinstance((await b.took(call(), hold=-1))[1], StsPending)


# The key is the whole call.


async def test_everything_sent_is_the_key() -> None:
    """Two pods of one role with two external ids, or two session names, never share a session (kube2iam did)."""
    calls = [call(), call(external="acme"), call(external="globex"), call(session="team.other")]
    async with bench() as b:
        answers = await asyncio.gather(*(b.get(each) for each in calls))
        assert len({answer.access_key_id for answer in answers}) == len(calls)
        for asked, answer in zip(calls, answers, strict=True):
            assert b.sts.given[answer.access_key_id] == asked


# Before anybody asks.


async def test_wanted_is_fetched_at_once() -> None:
    """A call that a pod is entitled to is made at once and only once for all its pods; a request then waits nothing."""
    async with bench(delay=0.1) as b:
        for number in range(20):
            b.broker.want(f"uid-{number}", call())
        await asyncio.sleep(0.1 + MOMENT)
        assert (await b.took(call()))[0] == 0
        assert len(b.sts.calls) == 1
        assert b.broker.wanting(call()) == {f"uid-{number}" for number in range(20)}
        assert b.value("credentials_requests_total", result="cached") == 1


async def test_a_node_full_of_pods_is_ready_in_time() -> None:
    """110 pods with 30 roles and STS at 50 ms: all sessions are there within 250 ms."""
    calls = [call(f"role-{number}") for number in range(30)]
    async with bench(delay=0.05) as b:
        begun = now()
        for number in range(110):
            b.broker.want(f"uid-{number}", calls[number % 30])
        await asyncio.gather(*(b.get(each) for each in calls))
        assert now() - begun <= 0.25
        assert len(b.sts.calls) == 30


async def test_another_entitlement_replaces_the_first() -> None:
    """A pod's entitlement changes: the new call is made, the old one is kept for nobody and renewed no more."""
    async with bench() as b:
        b.broker.want("uid", call("old"))
        b.broker.want("uid", call("old"))
        await asyncio.sleep(1)
        b.broker.want("uid", call("new"))
        await asyncio.sleep(1)
        assert b.broker.wanting(call("old")) == frozenset()
        assert b.broker.wanting(call("new")) == {"uid"}
        await asyncio.sleep(2 * 3600)
        assert len(b.sts.times(call("old"))) == 1
        assert len(b.sts.times(call("new"))) > 3


# Life.


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.4), (0.5, 0.5), (0.999, 0.6)])
async def test_renewed_around_half_life(chance: float, share: float) -> None:
    """A session is renewed at half its life, a tenth of it earlier or later by chance."""
    async with bench(chance=lambda: chance) as b:
        b.broker.want("uid", call())
        await asyncio.sleep(3600)
        first, second, *_ = b.sts.times(call())
        assert second - first == pytest.approx(3600 * share, abs=5)


async def test_never_an_empty_slot_while_renewing() -> None:
    """While a renewal is on its way the old session is served at once; 25 minutes of life are never gone below."""
    async with bench(delay=10.0) as b:
        b.broker.want("uid", call())
        await asyncio.sleep(11)
        keys = set()
        for _ in range(3 * 3600):
            seconds, answer = await b.took(call())
            assert isinstance(answer, Credentials)
            assert seconds == 0
            assert answer.expires - b.wall() > 25 * 60
            keys.add(answer.access_key_id)
            await asyncio.sleep(1)
        assert len(keys) == len(b.sts.calls) == 6


async def test_dropped_after_grace_when_nobody_wants_it() -> None:
    """A session that no pod wants is kept for a while, so that a pod's successor finds it, then forgotten."""
    async with bench() as b:
        b.broker.want("old pod", call())
        await asyncio.sleep(1)
        b.broker.want("old pod", None)
        await asyncio.sleep(GRACE - 10)
        assert b.broker.state(call()).held
        b.broker.want("successor", call())
        await asyncio.sleep(10 * 60)
        assert b.broker.state(call()).held
        b.broker.want("successor", None)
        b.broker.want("successor", None)
        await asyncio.sleep(GRACE + NAP + 1)
        assert not b.broker.state(call()).held
        assert b.value("credentials_cached") == 0
        assert len(b.sts.calls) == 1


async def test_renewed_while_one_pod_is_left() -> None:
    """One of two pods goes: the session is renewed for the other."""
    async with bench() as b:
        b.broker.want("gone", call())
        b.broker.want("left", call())
        await asyncio.sleep(1)
        b.broker.want("gone", None)
        await asyncio.sleep(2000)
        assert len(b.sts.calls) == 2
        assert b.broker.state(call()).held


async def test_not_renewed_for_the_dead() -> None:
    """When the last pod goes STS is not asked again, however long one waits; not even by a failure's next try."""
    async with bench() as b:
        b.broker.want("uid", call())
        b.broker.want("unlucky", call("forbidden"))
        b.sts.script.extend([None, denied()])
        await asyncio.sleep(1)
        b.broker.want("uid", None)
        b.broker.want("unlucky", None)
        await asyncio.sleep(6 * 3600)
        assert len(b.sts.calls) == 2


async def test_short_lives_are_no_storm() -> None:
    """Sessions of 100 s, which can hardly be served, are renewed by half life and not again and again."""
    async with bench(life=100.0) as b:
        b.broker.want("uid", call())
        await asyncio.sleep(600)
        assert 600 / 60 <= len(b.sts.calls) <= 600 / 25


# Clocks.


async def test_less_than_a_tick_is_slept_not_spun() -> None:
    """A pause that ends a hair after the clock's tick: the schedule sleeps on instead of turning until it has ended."""
    wall, looks = Wall(), itertools.count()

    def clock() -> float:
        assert next(looks) < 10_000, "spun"
        return wall()

    async with bench(chance=lambda: 0.5 + 1e-9, clock=clock) as b:
        b.sts.failing = unreachable
        b.broker.want("uid", call())
        await asyncio.sleep(100)
        assert 5 <= len(b.sts.calls) <= 8


async def test_the_wall_clock_jumps_forward() -> None:
    """The clock is set past the expiry: nothing expired is served, and a new session is had in that very request."""
    async with bench() as b:
        b.broker.want("uid", call())
        old = await b.get(call())
        b.wall.offset = 2 * 3600
        seconds, new = await b.took(call())
        assert isinstance(new, Credentials)
        assert new.access_key_id != old.access_key_id
        assert seconds == pytest.approx(0.05, abs=MOMENT)
        assert len(b.sts.calls) == 2


async def test_a_jump_is_noticed_without_a_request() -> None:
    """The clock is set past half life: the schedule does not sleep through it."""
    async with bench() as b:
        b.broker.want("uid", call())
        await asyncio.sleep(60)
        b.wall.offset = 2400
        await asyncio.sleep(NAP + 1)
        assert len(b.sts.calls) == 2


async def test_a_request_notices_a_jump_at_once() -> None:
    """The clock is set past half life and somebody asks: served from what is held, and the renewal begins with it."""
    async with bench() as b:
        b.broker.want("uid", call())
        await asyncio.sleep(10)
        b.wall.offset = 2400
        assert (await b.took(call()))[0] == 0
        await asyncio.sleep(0.1)
        assert len(b.sts.calls) == 2


async def test_the_wall_clock_jumps_backward() -> None:
    """The clock is set back by hours: sessions are renewed by half life all the same, and nothing storms."""
    async with bench() as b:
        b.sts.truth = lambda: BASE + now()
        b.broker.want("uid", call())
        await asyncio.sleep(60)
        b.wall.offset = -4 * 3600
        for _ in range(3600):
            answer = await b.get(call())
            assert answer.expires - b.sts.truth() > 25 * 60
            await asyncio.sleep(1)
        assert 2 <= len(b.sts.calls) <= 4


async def test_a_clock_set_back_in_an_outage_stretches_no_life() -> None:
    """The clock is set back and STS fails: what is held is served until its end as STS knows it, not hours longer."""
    async with bench() as b:
        b.sts.truth = lambda: BASE + now()
        b.broker.want("uid", call())
        expires = (await b.get(call())).expires
        b.wall.offset = -4 * 3600
        b.sts.failing = unreachable
        answer: Credentials | IssueError = await b.get(call())
        while isinstance(answer, Credentials):
            await asyncio.sleep(1)
            _, answer = await b.took(call())
        assert expires - b.sts.truth() == pytest.approx(LAST_SERVED, abs=3)


async def test_a_clock_that_is_ahead_is_no_storm() -> None:
    """To a node that lives hours ahead every session is over on arrival: a failure with pauses, and no storm."""
    async with bench() as b:
        b.sts.truth = lambda: BASE + now() - 2 * 3600
        b.broker.want("uid", call())
        _, failure = await b.took(call())
        assert isinstance(failure, StsOwnIdentity)
        assert "clock" in failure.message
        await asyncio.sleep(1800)
        assert len(b.sts.calls) <= 60
        b.sts.truth = b.wall
        await asyncio.sleep(80)
        assert isinstance((await b.took(call()))[1], Credentials)


# Failures.


async def test_throttled_once_is_not_noticed() -> None:
    """STS throttles the first call and answers the second: one request, held, succeeds."""
    async with bench() as b:
        b.sts.script.extend([throttled()])
        seconds, answer = await b.took(call())
        assert isinstance(answer, Credentials)
        assert 0.15 <= seconds <= 0.45
        assert b.told == []


async def test_the_second_try_is_for_those_who_wait() -> None:
    """Nobody waits: a failed prefetch is tried again after its pause and not sooner."""
    async with bench() as b:
        b.sts.script.extend([throttled()])
        b.broker.want("uid", call())
        await asyncio.sleep(0.9)
        assert len(b.sts.calls) == 1
        await asyncio.sleep(0.3)
        assert len(b.sts.calls) == 2


@pytest.mark.parametrize(
    ("make", "pauses"),
    [
        (throttled, [1, 2, 4, 8, 16, 32, 60, 60]),
        (unreachable, [1, 2, 4, 8, 16, 32, 60, 60]),
        (lambda: StsOwnIdentity("expired", remedy="wait"), [1, 2, 4, 8, 16, 32, 60, 60]),
        (denied, [5, 10, 20, 30, 30]),
        (lambda: StsRegionDisabled("not active here", remedy="activate it"), [5, 10, 20, 30, 30]),
        (invalid, [600, 600]),
    ],
)
async def test_failures_are_remembered_by_class(make: Callable[[], IssueError], pauses: list[float]) -> None:
    """A failure keeps us from asking for as long as its class says, however many ask; each is told once."""
    async with bench(delay=0.0) as b:
        b.sts.failing = make
        b.broker.want("uid", call())
        await asyncio.sleep(0.2)  # later than any pause that would be cut short
        while len(b.sts.calls) <= len(pauses):
            seconds, failure = await b.took(call())
            assert type(failure) is type(make())
            assert seconds <= HOLD + MOMENT
            await asyncio.sleep(0.1)
        between = [later - sooner for sooner, later in itertools.pairwise(b.sts.times())]
        assert between[: len(pauses)] == pytest.approx(pauses, abs=0.01)
        assert [failure.reason for _, failure in b.told][: len(pauses)] == [make().reason] * len(pauses)


async def test_a_refusal_is_at_once_and_remembered() -> None:
    """STS denies: the request is not held to its deadline, and the next ones are refused without asking STS."""
    async with bench() as b:
        b.sts.failing = denied
        seconds, failure = await b.took(call())
        assert seconds == pytest.approx(0.05, abs=MOMENT)
        assert isinstance(failure, StsDenied)
        assert (failure.status, failure.code, failure.remedy) == (403, "AccessDenied", "mend the trust policy")
        again = [await b.took(call()) for _ in range(3)]
        assert [seconds for seconds, _ in again] == [0, 0, 0]
        assert len({id(failure) for _, failure in again}) == 3, "each waiter has an exception of its own"
        assert len(b.sts.calls) == 1
        assert b.value("credentials_requests_total", result="failed") == 4


async def test_who_comes_in_a_first_pause_is_not_sent_away() -> None:
    """One failure before anybody asked: who comes then has the second try, not the failure; a second one is told."""
    async with bench(delay=0.0) as b:
        b.sts.script.extend([throttled()])
        b.broker.want("uid", call())
        await asyncio.sleep(0.05)
        seconds, answer = await b.took(call())
        assert isinstance(answer, Credentials)
        assert seconds == pytest.approx(0.2, abs=MOMENT)
        b.sts.script.extend([throttled(), throttled()])
        b.broker.want("uid", call("other"))
        await asyncio.sleep(0.05)
        seconds, answer = await b.took(call("other"))
        assert not isinstance(answer, Credentials)
        again, _ = await b.took(call("other"))
        assert seconds == pytest.approx(0.2, abs=MOMENT)
        assert again == 0


async def test_a_held_request_sees_the_next_try() -> None:
    """A failure whose pause ends within the hold is not passed on: the next try may answer the very same request."""
    async with bench(delay=0.0) as b:
        b.sts.script.extend([throttled(), throttled()])
        b.broker.want("uid", call())
        await asyncio.sleep(0.5)
        seconds, _ = await b.took(call())
        assert seconds == pytest.approx(0.5, abs=MOMENT), "the second call fails and so is told"
        await asyncio.sleep(1.5)
        seconds, answer = await b.took(call())
        assert isinstance(answer, Credentials)
        assert seconds == pytest.approx(0.5, abs=MOMENT)


async def test_a_retry_on_its_way_keeps_the_last_failure_in_mind() -> None:
    """The next try takes long: at the deadline the request is told what failed before, not merely to wait."""
    async with bench(delay=0.0) as b:
        b.sts.script.extend([throttled()])
        b.broker.want("uid", call())
        await asyncio.sleep(0.5)
        b.sts.delay = 5.0
        await asyncio.sleep(0.6)
        seconds, failure = await b.took(call())
        assert seconds == pytest.approx(HOLD, abs=MOMENT)
        assert isinstance(failure, StsThrottled)


async def test_a_supplier_that_hangs_is_given_up() -> None:
    """STS never answers: the flight ends by our own limit as unreachable, and the next begins."""
    async with bench(delay=1e6) as b:
        b.broker.want("uid", call())
        await asyncio.sleep(FLIGHT_LIMIT + 0.5)
        assert [failure.reason for _, failure in b.told] == [Reason.STS_UNREACHABLE]
        await asyncio.sleep(1)
        assert len(b.sts.calls) == 2


async def test_a_foreign_exception_hurts_only_its_call() -> None:
    """The supplier breaks for one role: that role is unreachable, the others and the broker go on."""
    async with bench() as b:
        b.sts.script.extend([ZeroDivisionError("mistake"), ZeroDivisionError("mistake")])
        with capture_logs() as logs:
            _, failure = await b.took(call("odd"))
        assert isinstance(failure, StsUnreachable)
        assert "mistake" not in failure.message
        assert [line["event"] for line in logs].count("the call to STS broke") == 2
        assert isinstance((await b.took(call("fine")))[1], Credentials)


# Outages.


async def test_half_an_hour_without_sts_is_not_noticed() -> None:
    """STS fails for 30 minutes after a first success: known pods lose nothing, and it is asked at most twice a minute.

    Known roles are asked for every second, as are roles that were never had, whose requests fail.
    """
    known = [call(f"known-{number}") for number in range(5)]
    never = [call(f"never-{number}") for number in range(5)]
    chance = random.Random(1)  # the broker's jitter, repeatable
    async with bench(chance=chance.random) as b:
        for number, each in enumerate(known):
            b.broker.want(f"known-{number}", each)
        await asyncio.sleep(0.4 * 3600 - 1)  # the earliest moment of renewal: the worst beginning
        b.sts.failing = unreachable
        begun = now()
        for number, each in enumerate(never):
            b.broker.want(f"never-{number}", each)

        async def ask(each: AssumeRole, *, fails: bool) -> None:
            while now() < begun + 1800:
                _, answer = await b.took(each)
                assert isinstance(answer, IssueError) == fails
                await asyncio.sleep(1)

        await asyncio.gather(*(ask(each, fails=False) for each in known), *(ask(each, fails=True) for each in never))
        outage = Counter(asked for moment, asked in b.sts.calls if moment >= begun)
        assert set(outage) == {*known, *never}
        assert max(outage.values()) <= 2 * 30
        assert b.value("credentials_requests_total", result="stale")
        b.sts.failing = None
        await asyncio.sleep(80)
        for each in (*known, *never):
            assert isinstance((await b.took(each))[1], Credentials)


@pytest.mark.parametrize("make", [throttled, unreachable, denied])
async def test_served_until_shortly_before_the_end(make: Callable[[], IssueError]) -> None:
    """STS fails for good: what is held is served to a minute before its expiry, then refused with what failed."""
    async with bench() as b:
        b.broker.want("uid", call())
        expires = (await b.get(call())).expires
        b.sts.failing = make
        while b.wall() < expires - LAST_SERVED:
            seconds, answer = await b.took(call())
            assert isinstance(answer, Credentials), f"lost {expires - b.wall()} s before its end"
            assert seconds == 0
            await asyncio.sleep(0.5)
        _, failure = await b.took(call())
        assert type(failure) is type(make())


# The budget.


async def test_who_waits_goes_first() -> None:
    """Under a short budget: a waiting request, then what expires soon, then first fetches, then early renewals."""
    early, expiring, first, waiting = call("early"), call("expiring"), call("first"), call("waiting")
    async with bench(rate=0.01, burst=2.0) as b:
        b.broker.want("a", early)
        await asyncio.sleep(1300)
        b.sts.life = 1000.0
        b.broker.want("b", expiring)
        await asyncio.sleep(495)
        b.broker.want("c", call("spender"))
        b.broker.want("d", call("waster"))
        await asyncio.sleep(10)
        assert len(b.sts.calls) == 4, "the budget is spent, and both renewals are due"
        b.broker.want("e", first)
        _, answer = await b.took(waiting, hold=400)
        assert isinstance(answer, Credentials)
        await asyncio.sleep(310)
        assert [asked for _, asked in b.sts.calls[4:]] == [waiting, expiring, first, early]


async def test_calls_are_bounded_by_the_bucket() -> None:
    """A burst goes out at once, the rest at the rate; how many wait is shown, and nothing is lost."""
    async with bench(rate=10.0, burst=20.0, concurrency=1000) as b:
        begun = now()
        for number in range(120):
            b.broker.want(f"uid-{number}", call(f"role-{number}"))
        await asyncio.sleep(0.01)
        assert len(b.sts.calls) == 20
        assert b.value("sts_queue") == 100
        for second in range(1, 10):
            await asyncio.sleep(begun + second - now())
            assert len(b.sts.calls) == pytest.approx(20 + 10 * second, abs=1)
        await asyncio.sleep(2)
        assert len(b.sts.calls) == 120
        assert b.value("sts_queue") == 0


async def test_calls_at_once_are_bounded() -> None:
    """Never more calls at once than allowed, and the end of one begins the next at once."""
    async with bench(concurrency=4, delay=0.1) as b:
        begun = now()
        await asyncio.gather(*(b.took(call(f"role-{number}"), hold=10) for number in range(20)))
        assert b.sts.most_flying == 4
        assert now() - begun == pytest.approx(0.5, abs=MOMENT)


# Being looked at.


async def test_spending_tells_how_much_may_still_be_asked() -> None:
    """What is left of the burst, what is under way, what waits; full before the broker runs."""
    idle = Bench(rate=10.0, burst=20.0, concurrency=4).broker.spending()
    assert (idle.tokens, idle.burst, idle.rate, idle.flights, idle.concurrency, idle.queued) == (20, 20, 10, 0, 4, 0)
    async with bench(rate=10.0, burst=20.0, concurrency=4, delay=1.0) as b:
        for number in range(6):
            b.broker.want(f"uid-{number}", call(f"role-{number}"))
        await asyncio.sleep(0.5)
        busy = b.broker.spending()
        assert (busy.tokens, busy.flights, busy.queued) == (20, 4, 2)
        await asyncio.sleep(0.55)
        assert b.broker.spending().tokens == pytest.approx(18.5, abs=0.1)
        await asyncio.sleep(5)
        assert (b.broker.spending().flights, b.broker.spending().queued) == (0, 0)


async def test_state_tells_how_a_call_is_doing() -> None:
    """Unknown, on its way, held, failed while held: each is told, and no secret is in it."""
    async with bench(delay=1.0) as b:
        unknown = b.broker.state(call())
        assert (unknown.held, unknown.fetching, unknown.expires, unknown.renew_at) == (False, False, None, None)
        assert (unknown.failure, unknown.failing, unknown.retry_in, unknown.issued) == (None, None, None, None)
        b.broker.want("uid", call())
        await asyncio.sleep(0.5)
        assert b.broker.state(call()).fetching
        assert not b.broker.state(call()).held
        await asyncio.sleep(1)
        issued = b.wall() - 0.5
        held = b.broker.state(call())
        assert (held.held, held.fetching, held.failure) == (True, False, None)
        assert held.issued == pytest.approx(issued)
        assert held.failing is None
        assert held.expires == pytest.approx(issued + 3600)
        assert held.renew_at == pytest.approx(issued + 1800)
        b.sts.failing = throttled
        await asyncio.sleep(1803)
        stale = b.broker.state(call())
        assert stale.held
        assert isinstance(stale.failure, StsThrottled)
        assert stale.retry_in == pytest.approx(12.5, abs=0.1), "there is no hurry while good credentials are held"
        assert stale.failing == pytest.approx(2.5, abs=0.1)
        await asyncio.sleep(60)
        assert b.broker.state(call()).failing == pytest.approx(62.5, abs=0.1), "since the first, not the last"
        b.sts.failing = None
        await asyncio.sleep(60)
        assert b.broker.state(call()).failing is None
        assert "secret" not in repr(b.broker.state(call()))


async def test_metrics_tell_what_is_held() -> None:
    """Wanted, cached, shortest life, and STS's answers by outcome: the numbers that alerts stand on."""
    async with bench() as b:
        b.broker.want("a", call("a"))
        b.broker.want("b", call("b"))
        b.sts.script.extend([None, denied()])
        await asyncio.sleep(1)
        assert b.value("credentials_wanted") == 2
        assert b.value("credentials_cached") == 1
        assert b.value("credentials_shortest_life_seconds") == pytest.approx(3600, abs=1)
        assert b.value("sts_request_duration_seconds_count", outcome="ok") == 1
        assert b.value("sts_request_duration_seconds_count", outcome="StsDenied") == 1
        assert b.value("sts_request_duration_seconds_sum", outcome="ok") == pytest.approx(0.05, abs=MOMENT)
        b.broker.want("a", None)
        b.broker.want("b", None)
        await asyncio.sleep(1)
        assert b.value("credentials_wanted") == 0
        assert b.value("credentials_shortest_life_seconds") == 0


async def test_one_audit_line_for_each_session_without_its_secret() -> None:
    """A session that was issued is told once, with role, session name, key id and expiry; never secret or token."""
    with capture_logs() as logs:
        async with bench() as b:
            for number in range(20):
                b.broker.want(f"uid-{number:02}", call())
            answer = await b.get(call())
    (line,) = [line for line in logs if line["event"] == "session issued"]
    assert line["role_arn"] == call().role.arn
    assert line["session_name"] == "team.app"
    assert (line["pods"], line["pod_uids"][:2], len(line["pod_uids"])) == (20, ["uid-00", "uid-01"], 16)
    assert line["access_key_id"] == answer.access_key_id
    assert line["expires"] == answer.expires
    for secret in (answer.secret_access_key, answer.session_token):
        assert secret.reveal() not in repr(logs)


async def test_ends_only_by_cancellation_and_takes_its_flights_along() -> None:
    """The task ends when it is cancelled, with every flight; who waits is told at the deadline, no task is left."""
    b = Bench(delay=100.0)
    task = asyncio.create_task(b.broker.run())
    waiting = asyncio.create_task(b.took(call()))
    await asyncio.sleep(0.1)
    assert b.sts.flying == 1
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert b.sts.flying == 0
    assert not b.broker.state(call()).fetching
    assert isinstance((await waiting)[1], StsPending)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_broker_needs_only_an_issuer_and_metrics() -> None:
    """The defaults stand by themselves: wall time, chance and no listener for failures."""
    broker = Broker(ScriptedIssuer(Wall()), Metrics())
    assert broker.wanting(call()) == frozenset()


# From one process to the next.


async def test_what_one_holds_the_next_one_holds() -> None:
    """Sessions with their renewal, and failures with their pauses: nothing is asked for anew before it is due."""
    async with bench() as former, bench() as b:
        for uid, name in (("1", "app"), ("2", "other")):
            former.broker.want(uid, call(name))
            b.broker.want(uid, call(name))
        former.sts.script.extend([None, denied()])
        b.broker.rest(True)
        await asyncio.sleep(1.0)
        lacking, b_calls = not b.broker.settled, list(b.sts.calls)
        assert (lacking, b_calls) == (True, [])
        b.broker.adopt(former.broker.held())
        b.broker.rest(False)
        assert b.broker.settled
        assert await b.get(call()) == await former.get(call())
        took, answer = await b.took(call("other"))
        assert isinstance(answer, StsDenied)
        assert (took < MOMENT, answer.code, b.sts.calls) == (True, "AccessDenied", [])
        await asyncio.sleep(4.1)  # the pause of five seconds began there
        assert [what for _, what in b.sts.calls] == [call("other")]
        b.sts.calls.clear()
        await asyncio.sleep(1800 - 5.2)
        assert b.sts.calls == []
        await asyncio.sleep(0.3)
        assert [what for _, what in b.sts.calls] == [call()]


async def test_who_rests_asks_for_those_who_wait_alone() -> None:
    """Another process looks ahead; but nobody who asks here is left without."""
    async with bench() as b:
        b.broker.rest(True)
        b.broker.want("1", call())
        await asyncio.sleep(10.0)
        assert b.sts.calls == []
        await b.get(call())
        await asyncio.sleep(2000.0)
        assert len(b.sts.calls) == 1
        b.broker.rest(False)
        await asyncio.sleep(MOMENT)
        assert len(b.sts.calls) == 2


async def test_a_life_is_not_stretched_by_a_handover() -> None:
    """Neither by a wall clock that is set back here, nor by one that was there; and what lives longer is kept."""
    async with bench() as former, bench() as ahead, bench() as b:
        await former.get(call())
        (one,) = former.broker.held()
        ahead.wall.offset = 3600.0
        ahead.broker.adopt([one])
        assert not ahead.broker.state(call()).held
        b.wall.offset = -1800.0
        b.broker.rest(True)
        b.broker.want("1", call())
        b.broker.adopt([one])
        await asyncio.sleep(3600 - LAST_SERVED - 1.0)
        assert b.broker.state(call()).held
        await asyncio.sleep(1.1)
        assert not b.broker.state(call()).held
        b.wall.offset = 0.0
        newer = await b.get(call())
        b.broker.adopt([one])
        assert await b.get(call()) == newer
        assert len(b.sts.calls) == 1


async def test_nothing_is_written_while_a_call_is_under_way() -> None:
    """What lands in time is handed over; only sessions that may be served, and failures, are."""
    async with bench() as b:
        b.broker.want("1", call())
        await asyncio.sleep(0.01)
        assert b.broker.held() == ()
        begun = now()
        await b.broker.landed()
        assert now() - begun < 0.05
        assert [one.call for one in b.broker.held()] == [call()]

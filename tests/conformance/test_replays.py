"""Clients that cannot be had here, replayed against an agent: keys, or an error of their own, whatever happens."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from metaproxy.credentials import TOLD_EARLY
from metaproxy.errors import Reason
from tests.conformance.lateness import Lateness
from tests.conformance.replay import Refused, Replay
from tests.conformance.replayed import CLIENTS, client, each, has_keys, is_refused, is_served, nothing
from tests.conformance.replayed_sdks import DotNet, DotNetExplicit, Php, PhpExtended
from tests.conformance.replayed_tools import FluentBit, S3fs
from tests.conformance.replaying import ARN, HASTY, OTHER, PATIENT, ROLE, ROLES, STRANGER, World, world
from tests.fakes.process import until
from tests.fakes.sts import NODE_KEY, Step

LATE, SOONEST = 0.3, 0.855
"""Seconds: those after which what was awaited comes, and those after which the agent may refuse what it holds."""

DENIED = Step(status=403, code="AccessDenied", message="not authorized to perform sts:AssumeRole")
THROTTLED = Step(status=400, code="Throttling", message="Rate exceeded")
DOWN = Step(reset=True)
MakeWorld = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture(params=["optional", "required"])
def tokens(request: pytest.FixtureRequest) -> str:
    """Each mode of tokens."""
    return str(request.param)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: str) -> MakeWorld:
    """Makes a world with an agent in it, and with the pod when that is declared."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", NODE_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    @asynccontextmanager
    async def make(*, hold: float | None = PATIENT, declare: bool = True) -> AsyncIterator[World]:
        async with world(tmp_path, tokens, hold) as made, made.serving():
            if declare:
                await made.declare()
                await made.told(ROLE, 200)
            yield made

    return make


async def test_served(make: MakeWorld) -> None:
    """Keys at the first fetch, and the same at the next, of the same object."""
    async with make() as world:

        async def play(replay: Replay) -> None:
            held = await is_served(replay, world)
            assert (held.expires - datetime.now(UTC)).total_seconds() > 25 * 60
            assert await is_served(replay, world) == held
            assert {status for line, status in replay.asked if ROLES in line} == {200}
            tokens = [line for line, _ in replay.asked if line.startswith("PUT ")]
            assert len(tokens) == 1 if replay.cached else len(tokens) >= 2

        await each(world, play)


async def test_the_namespace_denies(make: MakeWorld) -> None:
    """403; and keys as soon as it permits, with the same objects."""
    async with make(declare=False) as world:
        await world.declare(permitted="nothing")
        await world.told(Reason.NOT_PERMITTED)
        replays = await each(world, partial(is_refused, status=403, reason=Reason.NOT_PERMITTED))
        await world.declare()
        await world.told(ROLE, 200)
        for replay in replays:
            await is_served(replay, world)


async def test_sts_denies(make: MakeWorld) -> None:
    """403, with the reason."""
    async with make(declare=False) as world:
        world.sts.settings[ARN] = DENIED
        await world.declare()
        await world.told(Reason.STS_DENIED)
        await each(world, partial(is_refused, status=403, reason=Reason.STS_DENIED))


async def test_no_role(make: MakeWorld) -> None:
    """404: the credentials of another link of its chain may be tried."""
    async with make() as world:
        await each(world, partial(is_refused, status=404, reason=Reason.NO_ROLE), OTHER)


async def test_nobody_s_address(make: MakeWorld) -> None:
    """503, when nobody has told of a pod by the end of the agent's own hold, and before anybody has left.

    Agent and clients are in this process: what it is late by, so are they.
    """
    lateness = Lateness()
    async with make(hold=None) as world:
        looking = asyncio.create_task(lateness.run())
        replays = await each(world, partial(is_refused, status=503, reason=Reason.CALLER_UNKNOWN), STRANGER)
        looking.cancel()
    for replay in replays:
        for asked, after in replay.waits:
            assert after < replay.patience + lateness.total(asked, asked + after), replay.asked
        assert max(after for _, after in replay.waits) > SOONEST


@pytest.mark.parametrize(
    ("step", "reason"), [(DOWN, Reason.STS_UNREACHABLE), (THROTTLED, Reason.STS_THROTTLED)], ids=["down", "throttling"]
)
async def test_sts_gives_nothing(make: MakeWorld, step: Step, reason: Reason) -> None:
    """503, and keys as soon as it does, with the same objects."""
    async with make(hold=HASTY, declare=False) as world:
        world.sts.settings[ARN] = step
        await world.declare()
        await world.told(reason)
        replays = await each(world, partial(is_refused, status=503, reason=reason))
        world.sts.settings[ARN] = Step()
        await world.told(ROLE, 200)
        for replay in replays:
            await is_served(replay, world)


@pytest.mark.parametrize("name", [".NET", ".NET, by hand", "PHP", "PHP, extended", "s3fs", "s3fs, with Expect"])
async def test_another_try(make: MakeWorld, name: str) -> None:
    """Who tries a 503 again has keys in the same fetch, when the cause is gone by then."""
    async with make(hold=HASTY, declare=False) as world:

        async def mended() -> None:
            await world.declare()
            await world.told(ROLE, 200)

        replay = client(CLIENTS[name], world, pause=mended)
        await is_served(replay, world)
        assert 503 in {status for _, status in replay.asked}


async def test_the_event_is_late(make: MakeWorld) -> None:
    """300 ms after the first request: the list is held until then, and no answer but 200 is about roles."""
    async with make(declare=False) as world, asyncio.TaskGroup() as group:

        async def play(replay: Replay) -> None:
            await is_served(replay, world)
            assert {status for line, status in replay.asked if ROLES in line} == {200}

        clients = group.create_task(each(world, play))
        await asyncio.sleep(LATE)  # the measure itself, not a wait for something
        assert not clients.done()
        await world.declare()


async def test_sts_is_late(make: MakeWorld) -> None:
    """300 ms: the list is held until the keys are there, and then both answers are 200."""
    async with make(declare=False) as world, asyncio.TaskGroup() as group:
        gate = asyncio.Event()
        world.sts.script(Step(gate=gate), role=ARN)
        await world.declare()

        async def play(replay: Replay) -> None:
            await is_served(replay, world)
            assert {status for line, status in replay.asked if ROLES in line} == {200}

        clients = group.create_task(each(world, play))
        await asyncio.sleep(LATE)  # the measure itself
        assert not clients.done()
        gate.set()


async def test_another_role(make: MakeWorld) -> None:
    """Is what an object gets at its next fetch, but for the one that asks for a role by the name that it once had."""
    async with make() as world:
        replays = await each(world, partial(has_keys, world))
        await world.declare("shop-new")
        await world.told("shop-new", 200)
        for replay in replays:
            if isinstance(replay, S3fs):
                with pytest.raises(Refused) as refused:
                    await replay.fetch()
                assert (refused.value.said.status, Reason.OTHER_ROLE in refused.value.said.text) == (404, True)
            else:
                await is_served(replay, world, ARN.replace(ROLE, "shop-new"))


async def test_tokens_outlive_the_agent(tmp_path: Path, tokens: str) -> None:
    """The next agent takes those of the last: no refusal, and nobody who keeps one needs a new one."""
    async with world(tmp_path, tokens) as made:
        await made.declare()
        async with made.serving_apart():
            await made.told(ROLE, 200)
            replays = await each(made, partial(has_keys, made))
        async with made.serving_apart():
            await made.told(ROLE, 200)
            await _tokens_are_good(made, replays)


async def test_a_takeover(tmp_path: Path, tokens: str) -> None:
    """The next agent takes the last one's sessions too: the same keys, and STS is not asked."""
    async with world(tmp_path, tokens) as made:
        await made.declare()
        async with made.serving_apart(f"--handover.socket={tmp_path / 'handover'}", "--handover.drain=1") as agent:
            await made.told(ROLE, 200)
            replays = await each(made, partial(has_keys, made))
            former, had = agent.process, len(made.sts.calls(ARN))
            await agent.start()
            await until("the next agent has taken over", lambda: '"taken over"' in agent.log(), agent.log)
            former.send_signal(signal.SIGTERM)
            assert await former.wait() == 0
            await agent.until_ready()
            await _tokens_are_good(made, replays)
            assert len(made.sts.calls(ARN)) == had


async def _tokens_are_good(world: World, replays: Sequence[Replay]) -> None:
    for replay in replays:
        before = len(replay.asked)
        await is_served(replay, world)
        later = replay.asked[before:]
        assert 401 not in {status for _, status in later}
        assert not (replay.cached and [line for line, _ in later if line.startswith("PUT ")])


async def test_a_token_that_nobody_gave(make: MakeWorld) -> None:
    """401, and fluent-bit renews it within its fetch."""
    async with make() as world:
        replay = FluentBit(world.wire, nothing)
        await is_served(replay, world)
        replay.token = "of nobody"
        before = len(replay.asked)
        await is_served(replay, world)
        assert [status for _, status in replay.asked[before:]] == [401, 200, 200, 200]


@pytest.mark.parametrize("kind", [DotNet, DotNetExplicit, Php, PhpExtended, S3fs])
async def test_without_tokens(make: MakeWorld, kind: type[Replay], tokens: str) -> None:
    """Who has given tokens up is served where they are optional, else gets 401; .NET takes them up again then."""
    async with make() as world:
        replay = client(kind, world)
        replay.without_tokens = True
        if tokens == "optional":
            await is_served(replay, world)
            assert not [line for line, _ in replay.asked if line.startswith("PUT ")]
        else:
            await is_refused(replay, 401, Reason.TOKEN_MISSING)
            assert replay.without_tokens is not isinstance(replay, DotNet)
            if isinstance(replay, DotNet):
                await is_served(replay, world)


@pytest.mark.parametrize("minutes", [24, 14, 9, 6])
async def test_sts_goes_away(make: MakeWorld, minutes: int) -> None:
    """What is left of a session is served as what it is, for as long as it lasts."""
    async with make(declare=False) as world:
        world.sts.script(Step(life=minutes * 60 + TOLD_EARLY), role=ARN)
        world.sts.settings[ARN] = DOWN
        await world.declare()
        await world.told(ROLE, 200)

        async def play(replay: Replay) -> None:
            held = await is_served(replay, world)
            left = held.expires - datetime.now(UTC)
            assert timedelta(minutes=minutes - 2) < left <= timedelta(minutes=minutes)
            assert await is_served(replay, world) == held

        await each(world, play)


@pytest.mark.parametrize("spelling", ["Z", ".000Z", ".999999Z", "+00:00"])
async def test_dates_as_sts_may_write_them(make: MakeWorld, spelling: str) -> None:
    """However STS says when a session ends, each client reads it: seconds, UTC, a Z."""
    async with make(declare=False) as world:
        world.sts.settings[ARN] = Step(edit=lambda text: text.replace("Z</Expiration>", f"{spelling}</Expiration>"))
        await world.declare()
        await world.told(ROLE, 200)

        async def play(replay: Replay) -> None:
            left = (await is_served(replay, world)).expires - datetime.now(UTC)
            assert timedelta(minutes=55) < left <= timedelta(seconds=3600 - TOLD_EARLY)

        await each(world, play)

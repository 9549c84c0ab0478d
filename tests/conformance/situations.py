"""The situations of the matrix: what the world does while a client makes its calls, and what must come of it.

Knows: the course of each.
Must not know: any client.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from metaproxy.credentials import TOLD_EARLY
from metaproxy.errors import Reason
from tests.conformance.cell import Cell
from tests.conformance.redirected import ROUTES
from tests.conformance.results import Expected
from tests.fakes.process import PATIENCE, until
from tests.fakes.sts import Step

IPV4 = 4
BEHIND = 40.0
"""Seconds by which an agent's clock is behind the clients', so that it tells them of a session as short as 20 seconds:
it never tells of less than a minute by its own clock. With less than 15 some clients do not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What makes a client ask again, in seconds: the life of the session that it is to lose, and how long it rests.

    `leap`: what the client's own clock is set on instead.
    """

    life: float = 45.0
    wait: float = 23.0
    leap: float = 0.0


_LEAP = Rest(life=3_600.0, wait=0.0, leap=3_000.0)
ASKS_AGAIN: Mapping[str, Rest] = {
    # What has less than a quarter of an hour left they take for the answer of a service that is out of order, and keep
    # it for longer than it says: no session is short enough to see them ask again.
    "boto3": _LEAP,
    "aiobotocore": _LEAP,
    # It looks again 60 to 80 seconds after it looked, however soon its keys run out.
    "Java v1": Rest(wait=85.0),
    # It looks whether they have run out every 5 minutes.
    "C++ (pyarrow)": Rest(wait=310.0),
}
"""Clients that others' 20 seconds of life do not bring to ask again once these have passed."""

SLACK = 40.0
"""Seconds by which the life of a session in such a situation may be off."""

OLD = 2_700.0
"""Seconds since STS gave a session when STS goes down: more than that, and the agent would have a new one."""

EVENT_LATE = 0.3
STS_SLOW = 0.6
DENIED = Step(status=403, code="AccessDenied", message="not authorized to perform sts:AssumeRole")
THROTTLED = Step(status=400, code="Throttling", message="Rate exceeded")
DOWN = Step(reset=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Its name, what happens in a sentence, what every client must get."""

    name: str
    text: str
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation(Course):
    """One that is played in a cell."""

    play: Callable[[Cell], Awaitable[None]]
    region: bool = True
    """Whether clients are told a region."""

    seconds: float = 0.0
    """What it takes beside the calls: those that take long begin first."""


async def _cached(cell: Cell) -> None:
    await cell.declare()
    await cell.served()
    assert await cell.left() > 0, "clients are told of keys that have run out"
    await cell.first()
    await cell.again()


async def _fresh(cell: Cell) -> None:
    async with asyncio.TaskGroup() as group:
        call = group.create_task(cell.first())
        await cell.when(cell.traffic.arrived, call)
        await asyncio.sleep(EVENT_LATE)  # the measure itself, not a wait for something
        await cell.declare()


async def _slow(cell: Cell) -> None:
    gate = asyncio.Event()
    cell.script(Step(gate=gate))
    await cell.declare()
    async with asyncio.TaskGroup() as group:
        call = group.create_task(cell.first())
        await cell.when(cell.traffic.arrived, call)
        await asyncio.sleep(STS_SLOW)  # the measure itself
        gate.set()


async def _throttled(cell: Cell) -> None:
    gate = asyncio.Event()
    cell.script(Step(gate=gate, status=THROTTLED.status, code=THROTTLED.code, message=THROTTLED.message))
    await cell.declare()
    async with asyncio.TaskGroup() as group:
        call = group.create_task(cell.first())
        await cell.when(cell.traffic.listed, call)
        await asyncio.sleep(EVENT_LATE)  # the request is held by now
        gate.set()
    await cell.again()


async def _sts_denies(cell: Cell) -> None:
    cell.script(then=DENIED)
    await cell.declare()
    await cell.refused(Reason.STS_DENIED)
    await cell.first()
    cell.script(then=Step())
    async with cell.resting():  # STS is asked again some seconds after it denied
        await cell.served()
    await cell.again()


async def _namespace_denies(cell: Cell) -> None:
    await cell.declare(permitted=False)
    await cell.refused(Reason.NOT_PERMITTED)
    await cell.first()
    await cell.declare()
    await cell.served()
    await cell.again()


async def _no_annotation(cell: Cell) -> None:
    await cell.declare(None)
    await cell.refused(Reason.NO_ROLE)
    await cell.first()
    await cell.declare()
    await cell.served()
    await cell.again()


async def _role_changed(cell: Cell) -> None:
    rest = _rest(cell)
    async with cell.agent_with_a_clock() as node:
        node.clock.set(-BEHIND)
        _begins(cell, rest)
        await cell.declare("a")
        await cell.served("a")
        await cell.first()
        await cell.declare("b")
        await cell.served("b")
        await _keys_run_out(cell, rest)
        await cell.again(cell.role("b"))


async def _restarted(cell: Cell) -> None:
    rest = _rest(cell)
    async with cell.agent_of_its_own() as node:
        node.clock.set(-BEHIND)
        _begins(cell, rest)
        await cell.declare()
        await cell.served()
        await cell.first()
        token = await cell.token()
        cell.script(then=Step())
        await node.agent.stop(signal.SIGTERM)
        await node.agent.start()
        await node.agent.until_ready()
        await cell.served()
        await cell.still_holds(token)
        await _keys_run_out(cell, rest)
        await cell.again(renewed=True)


async def _taken_over(cell: Cell) -> None:
    rest = _rest(cell)
    async with cell.agent_of_its_own(f"--handover.socket={cell.home}/handover", "--handover.drain=1") as node:
        node.clock.set(-BEHIND)
        _begins(cell, rest)
        await cell.declare()
        await cell.served()
        await cell.first()
        token = await cell.token()
        cell.script(then=Step())
        agent = node.agent
        former = agent.process
        await agent.start()
        await until("the next agent has taken over", lambda: '"taken over"' in agent.log(), agent.log)
        former.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await former.wait() == 0, agent.log()
        await agent.until_ready()
        await cell.still_holds(token)
        await _keys_run_out(cell, rest)
        await cell.again()


def _begins(cell: Cell, rest: Rest) -> None:
    cell.script(then=Step(life=rest.life))
    if rest.leap:
        cell.has_a_clock()


def _rest(cell: Cell) -> Rest:
    return ASKS_AGAIN.get(cell.client.name, Rest())


async def _keys_run_out(cell: Cell, rest: Rest) -> None:
    if rest.leap:
        cell.leaps(rest.leap)
    elif cell.client.kind == "program":  # a tool that is run anew holds none
        async with cell.resting():
            await asyncio.sleep(rest.wait)  # the measure itself, not a wait for something


def _down(minutes: int) -> Callable[[Cell], Awaitable[None]]:
    async def play(cell: Cell) -> None:
        async with cell.agent_with_a_clock() as node:
            # It had the session a while ago, by its own clock.
            node.clock.set(-OLD)
            cell.script(_life(minutes), then=DOWN)
            await cell.declare()
            await cell.served()
            node.clock.set(0.0)
            await cell.renewed()
            left = await cell.left()
            assert abs(left - minutes * 60) < SLACK, f"clients are told of {left:.0f} s of life"
            await cell.first()
            await cell.again()

    return play


async def _no_region(cell: Cell) -> None:
    await cell.declare()
    await cell.served()
    await cell.first()


def _life(minutes: int) -> Step:
    """A session of which clients are told that it has just above so many minutes left."""
    return Step(life=minutes * 60 + TOLD_EARLY + SLACK / 2)


LONG = max(rest.wait for rest in ASKS_AGAIN.values())
FINE = Expected(again=True)
ASKED = Expected(again=True, asks=True)

_ALL = (
    Situation(
        name="cached",
        text="The agent has known the pod for a while and holds its credentials.",
        expected=FINE,
        play=_cached,
    ),
    Situation(
        name="fresh pod",
        text="The event of the pod comes 300 ms after its first request.",
        expected=Expected(),
        play=_fresh,
    ),
    Situation(
        name="STS at 600 ms",
        text="STS answers 600 ms after the client's first request.",
        expected=Expected(),
        play=_slow,
    ),
    Situation(
        name="STS throttled, then fine",
        text="STS throttles the call for which the client waits, and answers the next.",
        expected=FINE,
        play=_throttled,
    ),
    Situation(
        name="STS denies",
        text="The role's trust policy does not let the agent assume it. The second call is made when it does.",
        expected=Expected(reason=Reason.STS_DENIED, again=True),
        play=_sts_denies,
    ),
    Situation(
        name="namespace denies",
        text="The pod's namespace does not permit the role. The second call is made when it does.",
        expected=Expected(reason=Reason.NOT_PERMITTED, again=True),
        play=_namespace_denies,
    ),
    Situation(
        name="no annotation",
        text="The pod asks for no role. The second call is made when it does.",
        expected=Expected(reason=Reason.NO_ROLE, again=True),
        play=_no_annotation,
    ),
    Situation(
        name="role changed",
        text="The pod's annotation names another role at the second call, whose keys it must bring.",
        expected=FINE,  # keys of the other role are proof of having asked, with the second call or ahead of it
        play=_role_changed,
        seconds=LONG,
    ),
    Situation(
        name="agent restarted",
        text="The agent is restarted between the two calls, and the keys have run out by then; tokens have not.",
        expected=ASKED,
        play=_restarted,
        seconds=LONG,
    ),
    Situation(
        name="agent taken over",
        text="Another agent takes over between the two calls, and the keys have run out by then; tokens have not.",
        expected=ASKED,
        play=_taken_over,
        seconds=LONG,
    ),
    *(
        Situation(
            name=f"STS down, {minutes} min left",
            text=f"STS does not answer the agent, which asks for a new session; the old one lives {minutes} minutes.",
            expected=FINE,
            play=_down(minutes),
        )
        for minutes in (24, 14, 9, 6)
    ),
    Situation(
        name="region unset",
        text="The client is told no region. Those that ask the metadata service for it must get credentials.",
        expected=Expected(region=True),
        play=_no_region,
        region=False,
    ),
)

SITUATIONS: Mapping[str, Situation] = {situation.name: situation for situation in _ALL}

REDIRECTED: Mapping[str, Course] = {
    name: Course(
        name=name,
        text="The client is in a pod on a node whose redirect leads it to the agent, and is told no endpoint"
        f"{'' if family == IPV4 else ', only to prefer IPv6'}.",
        expected=FINE,
    )
    for name, family in ROUTES.items()
}
"""What is run once more with the real redirect, by redirected.py."""

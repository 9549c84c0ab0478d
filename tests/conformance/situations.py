"""The situations of the matrix: what the world does while a client makes its calls, and what must come of it.

Knows: the course of each.
Must not know: any client.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from metaproxy.credentials import LAST_SERVED, TOLD_EARLY
from metaproxy.errors import Reason
from tests.conformance.cell import Cell
from tests.conformance.redirected import ROUTES
from tests.conformance.results import Expected
from tests.fakes.process import PATIENCE, until
from tests.fakes.sts import Step

IPV4 = 4
SHORT = 25.0
"""Seconds of life that clients are told of a session that they are to lose: with less than 15 some do not start."""

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
    await cell.declare("a")
    await cell.served("a")
    await cell.first()
    await cell.declare("b")
    await cell.served("b")
    await cell.again()
    # Others may go on with what they hold; a process that begins now holds nothing.
    assert cell.client.kind != "tool" or cell.calls[-1].role == cell.role("b"), cell.calls[-1]


async def _restarted(cell: Cell) -> None:
    cell.script(Step(life=LAST_SERVED + SHORT))
    async with cell.agent_of_its_own() as agent:
        await cell.declare()
        await cell.served()
        await cell.first()
        await agent.stop(signal.SIGTERM)
        await agent.start()
        await agent.until_ready()
        await cell.served()
        async with cell.resting():
            await asyncio.sleep(SHORT)  # the measure itself: then every client must ask anew, with the token it has
        await cell.again()


async def _taken_over(cell: Cell) -> None:
    cell.script(Step(life=LAST_SERVED + SHORT))
    async with cell.agent_of_its_own(f"--handover.socket={cell.home}/handover", "--handover.drain=1") as agent:
        await cell.declare()
        await cell.served()
        await cell.first()
        former = agent.process
        await agent.start()
        await until("the next agent has taken over", lambda: '"taken over"' in agent.log(), agent.log)
        former.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await former.wait() == 0, agent.log()
        await agent.until_ready()
        async with cell.resting():
            await asyncio.sleep(SHORT)  # the measure itself, as above
        await cell.again()


def _down(minutes: int) -> Callable[[Cell], Awaitable[None]]:
    async def play(cell: Cell) -> None:
        cell.script(_life(minutes), then=DOWN)
        await cell.declare()
        await cell.served()
        await cell.first()
        await cell.again()

    return play


async def _no_region(cell: Cell) -> None:
    await cell.declare()
    await cell.served()
    await cell.first()


def _life(minutes: int) -> Step:
    """A session of which clients are told that it has just above so many minutes left."""
    return Step(life=minutes * 60 + TOLD_EARLY + 20)


FINE = Expected(again=True)

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
        expected=Expected(reason=Reason.STS_DENIED),
        play=_sts_denies,
    ),
    Situation(
        name="namespace denies",
        text="The pod's namespace does not permit the role. The second call is made when it does.",
        expected=Expected(reason=Reason.NOT_PERMITTED),
        play=_namespace_denies,
    ),
    Situation(
        name="no annotation",
        text="The pod asks for no role. The second call is made when it does.",
        expected=Expected(reason=Reason.NO_ROLE),
        play=_no_annotation,
    ),
    Situation(
        name="role changed",
        text="The pod's annotation names another role at the second call.",
        expected=FINE,
        play=_role_changed,
    ),
    Situation(
        name="agent restarted",
        text="The agent is restarted between the two calls, and the keys have run out by then; tokens have not.",
        expected=FINE,
        play=_restarted,
        seconds=SHORT,
    ),
    Situation(
        name="agent taken over",
        text="Another agent takes over between the two calls, and the keys have run out by then; tokens have not.",
        expected=FINE,
        play=_taken_over,
        seconds=SHORT,
    ),
    *(
        Situation(
            name=f"STS down, {minutes} min left",
            text=f"STS does not answer, and what the agent holds lives {minutes} more minutes.",
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

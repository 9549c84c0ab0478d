"""The courses of the situations: what is done to the world while a client makes its calls.

Knows: when a client calls, what STS and the agent do meanwhile, and what is seen of both that no client would show.
Must not know: any client, what it must get.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from metaproxy.credentials import TOLD_EARLY
from metaproxy.errors import Reason
from tests.conformance.cell import Cell
from tests.conformance.stage import PATIENCE
from tests.fakes.process import AgentProcess, until
from tests.fakes.sts import Step

BEHIND = 40.0
"""Seconds by which an agent's clock is behind the clients', so that it tells them of a session as short as 20 seconds:
it never tells of less than a minute by its own clock. With less than 15 some clients do not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What makes a client ask again, in seconds: the life of the session that it is to lose, and how long it rests.

    `leap`: what the client's own clock is set on instead.
    """

    life: float = 75.0
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
STS_TOO_SLOW = 1.3
"""Seconds after a client's request for the role list: the last are those for which it may be held, and some more."""

DENIED = Step(status=403, code="AccessDenied", message="not authorized to perform sts:AssumeRole")
THROTTLED = Step(status=400, code="Throttling", message="Rate exceeded")
DOWN = Step(reset=True)


async def cached(cell: Cell) -> None:
    """The agent has what the client will ask for."""
    await cell.declare()
    await cell.served()
    assert await cell.left() > 0, "clients are told of keys that have run out"
    await cell.first()
    await cell.again()


async def fresh(cell: Cell) -> None:
    """The pod is declared while the client waits."""
    async with asyncio.TaskGroup() as group:
        call = group.create_task(cell.first())
        await cell.when(cell.traffic.listed, call)
        await asyncio.sleep(EVENT_LATE)  # the measure itself, not a wait for something
        await cell.declare()
    cell.waited()


async def slow(cell: Cell) -> None:
    """STS answers while the client waits."""
    await _answered_late(cell, Step(), STS_SLOW)


async def _answered_late(cell: Cell, answer: Step, seconds: float) -> None:
    """The first call; STS answers so many seconds after the client asked for the role list.

    The pod is declared when the client has begun: of a call that takes long STS would be asked anew.
    """
    gate = asyncio.Event()
    cell.script(replace(answer, gate=gate))
    async with asyncio.TaskGroup() as group:
        call = group.create_task(cell.first())
        await cell.when(cell.traffic.arrived, call)
        await cell.declare()
        await cell.when(cell.traffic.listed, call)
        await asyncio.sleep(seconds)  # the measure itself
        gate.set()
    cell.waited()


async def held(cell: Cell) -> None:
    """STS answers when the agent has told the client that it must come again."""
    gate = asyncio.Event()
    cell.script(Step(gate=gate))
    async with asyncio.TaskGroup() as group:
        call = group.create_task(cell.first())
        await cell.when(cell.traffic.arrived, call)
        await cell.declare()
        await cell.when(cell.traffic.listed, call)
        await asyncio.sleep(STS_TOO_SLOW)  # the measure itself
        await cell.when(cell.traffic.settled, call)
        gate.set()
    cell.was_held()
    await cell.served()
    await cell.again()


async def throttled(cell: Cell) -> None:
    """STS throttles while the client waits, and answers when it is asked again."""
    await _answered_late(cell, THROTTLED, EVENT_LATE)
    await cell.again()


async def sts_denies(cell: Cell) -> None:
    """STS denies, and does not any more at the second call."""
    cell.script(then=DENIED)
    await cell.declare()
    await cell.refused(Reason.STS_DENIED)
    await cell.first()
    cell.script(then=Step())
    async with cell.resting():  # STS is asked again some seconds after it denied
        await cell.served()
    await cell.again()


async def namespace_denies(cell: Cell) -> None:
    """The namespace denies, and does not any more at the second call."""
    await cell.declare(permitted=False)
    await cell.refused(Reason.NOT_PERMITTED)
    await cell.first()
    await cell.declare()
    await cell.served()
    await cell.again()


async def no_annotation(cell: Cell) -> None:
    """The pod has no annotation, and has one at the second call."""
    await cell.declare(None)
    await cell.refused(Reason.NO_ROLE)
    await cell.first()
    await cell.declare()
    await cell.served()
    await cell.again()


async def role_changed(cell: Cell) -> None:
    """The pod has another role at the second call, and the keys of the first have run out."""
    rest = rest_of(cell.client.name)
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


async def restarted(cell: Cell) -> None:
    """The agent is another process at the second call, and the keys of the first have run out."""
    rest = rest_of(cell.client.name)
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


async def taken_over(cell: Cell) -> None:
    """The same, but the agent had a successor; that takes the session over, and asks STS for none."""
    rest = rest_of(cell.client.name)
    async with cell.agent_of_its_own(f"--handover.socket={cell.home}/handover", "--handover.drain=1") as node:
        node.clock.set(-BEHIND)
        _begins(cell, rest)
        await cell.declare()
        await cell.served()
        await cell.first()
        token = await cell.token()
        cell.script(then=Step())
        agent = node.agent
        former, had = agent.process, len(cell.sts.calls(cell.role()))
        await agent.start()
        await until("the next agent has taken over", _says(agent, "taken over"), agent.log, patience=PATIENCE)
        former.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await former.wait() == 0, agent.log()
        await agent.until_ready()
        await cell.still_holds(token)
        asked = len(cell.sts.calls(cell.role())) - had
        assert asked == 0, f"the session was lost in the takeover: STS was asked for {asked} more"
        await _keys_run_out(cell, rest)
        await cell.again()


def _says(agent: AgentProcess, event: str) -> Callable[[], bool]:
    return lambda: f'"{event}"' in agent.log()


def _begins(cell: Cell, rest: Rest) -> None:
    cell.script(then=Step(life=rest.life))
    if rest.leap:
        cell.has_a_clock()


def rest_of(client: str) -> Rest:
    """What makes the client of this name ask again."""
    return ASKS_AGAIN.get(client, Rest())


async def _keys_run_out(cell: Cell, rest: Rest) -> None:
    if rest.leap:
        cell.leaps(rest.leap)
    elif cell.client.kind == "program":  # a tool that is run anew holds none
        async with cell.resting():
            await asyncio.sleep(rest.wait)  # the measure itself, not a wait for something


def down(minutes: int) -> Callable[[Cell], Awaitable[None]]:
    """STS is down when the session that the agent has lives so long."""

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


async def no_region(cell: Cell) -> None:
    """The client is told no region."""
    await cell.declare()
    await cell.served()
    await cell.first()


def _life(minutes: int) -> Step:
    """A session of which clients are told that it has just above so many minutes left."""
    return Step(life=minutes * 60 + TOLD_EARLY + SLACK / 2)

"""The situations of the matrix: what the world does while a client makes its calls, and what must come of it.

Knows: the name, the course and the demand of each.
Must not know: how a course is played, any client.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from metaproxy.errors import Reason
from tests.conformance import courses
from tests.conformance.cell import Cell
from tests.conformance.judging import Expected
from tests.conformance.redirected import ROUTES

IPV4 = 4


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

    rests: bool = False
    """Whether clients rest between their calls until their keys have run out."""

    def seconds(self, client: str) -> float:
        """What it takes beside the calls, for a client of this name: those that take long begin first."""
        return courses.rest_of(client).wait if self.rests else 0.0


FINE = Expected(again=True)
ASKED = Expected(again=True, asks=True)

_ALL = (
    Situation(
        name="cached",
        text="The agent has known the pod for a while and holds its credentials.",
        expected=FINE,
        play=courses.cached,
    ),
    Situation(
        name="fresh pod",
        text="The event of the pod comes 300 ms after the client asked for the role list.",
        expected=Expected(),
        play=courses.fresh,
    ),
    Situation(
        name="STS at 600 ms",
        text="STS answers 600 ms after the client asked for the role list.",
        expected=Expected(),
        play=courses.slow,
    ),
    Situation(
        name="held to its end",
        text=f"STS answers {courses.STS_TOO_SLOW} s after the client asked for the role list; that is refused by then. "
        "The second call is made when the agent has the session.",
        expected=Expected(reason=Reason.STS_PENDING, either=True, again=True),
        play=courses.held,
    ),
    Situation(
        name="STS throttled, then fine",
        text="STS throttles the call for which the client waits, and answers the next.",
        expected=FINE,
        play=courses.throttled,
    ),
    Situation(
        name="STS denies",
        text="The role's trust policy does not let the agent assume it. The second call is made when it does.",
        expected=Expected(reason=Reason.STS_DENIED, again=True),
        play=courses.sts_denies,
    ),
    Situation(
        name="namespace denies",
        text="The pod's namespace does not permit the role. The second call is made when it does.",
        expected=Expected(reason=Reason.NOT_PERMITTED, again=True),
        play=courses.namespace_denies,
    ),
    Situation(
        name="no annotation",
        text="The pod asks for no role. The second call is made when it does.",
        expected=Expected(reason=Reason.NO_ROLE, again=True),
        play=courses.no_annotation,
    ),
    Situation(
        name="role changed",
        text="The pod's annotation names another role at the second call, whose keys it must bring.",
        expected=FINE,  # keys of the other role are proof of having asked, with the second call or ahead of it
        play=courses.role_changed,
        rests=True,
    ),
    Situation(
        name="agent restarted",
        text="The agent is restarted between the two calls, and the keys have run out by then; tokens have not.",
        expected=ASKED,
        play=courses.restarted,
        rests=True,
    ),
    Situation(
        name="agent taken over",
        text="Another agent takes over between the calls, sessions too; the client's keys run out then, tokens do not.",
        expected=ASKED,
        play=courses.taken_over,
        rests=True,
    ),
    *(
        Situation(
            name=f"STS down, {minutes} min left",
            text=f"STS does not answer the agent, which asks for a new session; the old one lives {minutes} minutes.",
            expected=FINE,
            play=courses.down(minutes),
        )
        for minutes in (24, 14, 9, 6)
    ),
    Situation(
        name="region unset",
        text="The client is told no region. Those that take it from the metadata service must get credentials, and "
        "sign for that region; others take one for granted, or have an error of their own for having none.",
        expected=Expected(region=True),
        play=courses.no_region,
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

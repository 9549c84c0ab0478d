"""What a situation demands of every client, and what of a cell is against it, in words.

Knows: which outcome, step, number of requests and of seconds is right, and how late the machine must be to be blamed.
Must not know: how a cell is run, where it is written down. Pure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metaproxy.errors import Reason
from tests.conformance.exchanges import Step
from tests.conformance.registry import Client
from tests.conformance.results import NEVER_LOOKS_AGAIN, NOT_SHOWN, STATUS, Got, Result

MOST, LONGEST = 4, 30.0
"""A call may take so many times the requests that the client usually needs, and so many seconds: far more than any
takes, far less than a client takes that asks without end. One that may be refused has the client's own budget."""

NO_CREDENTIALS = "no credentials with the first call"
LEFT = "a request had no answer when its client left"

SPARE, SPARE_OF_AN_ANSWER = 0.2, 0.1
"""Seconds of the 0.9 for which a request is held that the situations leave to the machine, at least; and those that are
left of the second for which most clients wait."""

Rules = Iterable[tuple[bool, str]]
"""Whether something is wrong, and the words for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a situation demands of every client: credentials, or an error for this reason.

    `either`: the reason passes while the client waits, so one that asks again must not end with it, nor must others.
    """

    reason: Reason | None = None
    either: bool = False
    region: bool = False
    """The client is told no region: who neither finds one nor takes one for granted has an error for that."""

    again: bool = False
    """The second call must have credentials: after a refusal, because its cause has gone."""

    asks: bool = False
    """The second call must have asked the agent: by the client's own rules it is time to."""

    @property
    def first_in_words(self) -> str:
        """What the first call must bring."""
        if self.reason is not None:
            return f"{'credentials, or ' if self.either else ''}an error, for `{self.reason}`"
        return "credentials, of those that find their region" if self.region else "credentials"

    @property
    def second_in_words(self) -> str:
        """What the second call must bring."""
        if not self.again:
            return "none is made"
        return "credentials, and the agent was asked" if self.asks else "credentials"


def faults(result: Result, expected: Expected, client: Client) -> list[str]:
    """What is against what is demanded of the client, in words; empty when all is well."""
    if result.got is Got.MISSING:
        return ["it is not installed"]
    rules = (*_first(result, expected, client), *_requests(result, client), *_second(result, expected, client))
    return [text for holds, text in rules if holds]


def _first(result: Result, expected: Expected, client: Client) -> Rules:
    got, reason = result.got, expected.reason
    yield got not in {Got.CREDENTIALS, Got.REFUSED}, f"the first call: {got}"
    if got is Got.REFUSED and reason is None:
        yield not (expected.region and client.no_region), NO_CREDENTIALS
        # Where it has no region, the agent has refused it nothing.
        yield expected.region and result.at != "", f"it was refused at {result.at}"
    if got is Got.REFUSED and reason is not None and not _left(result, client):
        due, shows = f"{Step.LIST} {STATUS[reason]}", STATUS[reason] in client.shows_bodies
        yield result.at != due, f"it was refused at {result.at or 'no step'}, and only at {due} is right"
        yield (
            shows != (result.reason != ""),
            f"its message shows {result.reason or 'no reason'}, against what its client.toml says",
        )
    yield (
        got is Got.CREDENTIALS and reason is not None and not expected.either,
        f"credentials in spite of {reason}",
    )
    yield (
        bool(result.reason) and result.reason != reason,
        f"its message names {result.reason}, not {reason}",
    )
    yield from _bounds("first", result.requests, result.seconds, client, refused=reason is not None)


def _requests(result: Result, client: Client) -> Rules:
    """What holds of the requests of all calls."""
    yield result.late > 0, f"{result.late} requests for credentials were refused after a list that was not"
    yield result.dropped > 0, f"{result.dropped} requests had no answer when the agent hung up"
    yield _left(result, client), LEFT
    yield result.got is Got.CREDENTIALS and result.token == NOT_SHOWN, "credentials without a session token"


def _left(result: Result, client: Client) -> bool:
    """It was not answered in time: by its own rules it waits for longer than the agent may hold a request."""
    return result.left > 0 and not client.leaves


def _second(result: Result, expected: Expected, client: Client) -> Rules:
    again = result.again
    yield again not in {Got.CREDENTIALS, Got.REFUSED, Got.NOTHING}, f"the second call: {again}"
    yield (
        expected.again and again is Got.REFUSED and not _keeps_its_refusal(result),
        "no credentials with the second call",
    )
    yield expected.again and again is Got.NOTHING, "no second call"
    yield result.anew not in {Got.CREDENTIALS, Got.NOTHING}, f"the call with a new object: {result.anew}"
    yield (
        expected.asks and again is Got.CREDENTIALS and result.again_requests == 0,
        "the second call did not ask the agent",
    )
    yield from _bounds("second", result.again_requests, result.again_seconds, client, refused=again is Got.REFUSED)


def _bounds(which: str, requests: int, seconds: float, client: Client, *, refused: bool) -> Rules:
    most, longest = MOST * client.requests, client.budget if refused else LONGEST
    yield requests > most, f"{requests} requests in the {which} call, and no more than {most} are right"
    yield seconds > longest, f"{seconds:.1f} s for the {which} call, and no more than {longest:.0f} s are right"


def _keeps_its_refusal(result: Result) -> bool:
    """It was refused with the first call, and with the second it has not asked again, as it is known not to."""
    return result.got is Got.REFUSED and not result.again_requests and result.client in NEVER_LOOKS_AGAIN


def taken(result: Result, found: Sequence[str], late: float) -> bool:
    """Whether the machine has made the faults that were found, not the agent and not the client.

    It was `late` by more than the situation leaves to it (seconds, in all) while the request was held, so that what
    came in time came too late: the agent has refused at the role list, as it must, or the client has left.
    """
    held = result.at in {f"{Step.LIST} {STATUS[Reason.STS_PENDING]}", ""}
    spare = SPARE_OF_AN_ANSWER if LEFT in found else SPARE
    return bool(found) and set(found) <= {NO_CREDENTIALS, LEFT} and held and late > spare

"""All clients that are replayed, and what each of them has of a fetch: keys, or its own error, in few requests.

Knows: who they are, how they are told apart when one fails.
Must not know: which situation they are in.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial

import pytest

from metaproxy.errors import Reason
from tests.conformance.replay import Held, Refused, Replay
from tests.conformance.replayed_sdks import DotNet, DotNetExplicit, Php, PhpExtended
from tests.conformance.replayed_tools import FluentBit, S3fs, S3fsThatAnnounces, Vector
from tests.conformance.replaying import ARN, POD, ROLES, World

CLIENTS: Mapping[str, type[Replay]] = {
    ".NET": DotNet,
    ".NET, by hand": DotNetExplicit,
    "PHP": Php,
    "PHP, extended": PhpExtended,
    "fluent-bit": FluentBit,
    "vector": Vector,
    "s3fs": S3fs,
    "s3fs, with Expect": S3fsThatAnnounces,
}

FEW = 2 * 6
"""Requests within which a client that is refused has ended: two fetches of the one that tries most often."""


async def each(world: World, play: Callable[[Replay], Awaitable[None]], pod: str = POD) -> list[Replay]:
    """Every client in the pod plays this, beside each other; whoever fails is named."""
    replays = {name: client(kind, world, pod) for name, kind in CLIENTS.items()}

    async def named(name: str, replay: Replay) -> None:
        try:
            await play(replay)
        except Exception as error:
            error.add_note(f"the client: {name}; it asked {replay.asked}")
            raise

    async with asyncio.TaskGroup() as group:
        for name, replay in replays.items():
            group.create_task(named(name, replay))
    return list(replays.values())


async def nothing() -> None:
    """A pause in which nothing happens."""


def client(kind: type[Replay], world: World, pod: str = POD, pause: Callable[[], Awaitable[None]] = nothing) -> Replay:
    """A client in a pod."""
    return kind(partial(world.wire, pod), pause)


async def is_served(replay: Replay, world: World, role: str = ARN) -> Held:
    """It has keys of the role, as STS gave them."""
    before = len(replay.asked)
    held = await replay.fetch()
    assert world.sts.owner(held.key)[0] == role
    assert (held.secret, held.token) == (world.sts.secret(held.key), world.sts.token(held.key))
    assert held.expires > datetime.now(UTC)
    assert [line for line, _ in replay.asked[before:] if ROLES in line], "it asked nothing"
    return held


async def is_refused(replay: Replay, status: int, reason: Reason) -> None:
    """It ends with its own error, soon, at the list: the reason is in a body that nobody takes for a role."""
    before = len(replay.asked)
    with pytest.raises(Refused) as refused:
        await replay.fetch()
    said = refused.value.said
    assert (said.status, reason.value in said.text) == (status, True), said
    assert b" " in said.body, "one client takes a body without a space for a role"
    asked = replay.asked[before:]
    assert len(asked) <= FEW + len(getattr(replay, "items", ())), asked
    assert not [line for line, _ in asked if line.startswith(f"GET {ROLES}/") and line != f"GET {ROLES}/"], asked


async def has_keys(world: World, replay: Replay) -> None:
    """It has keys, and that is all."""
    await is_served(replay, world)

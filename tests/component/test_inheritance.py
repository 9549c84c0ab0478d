"""What of one process's state another one goes on with: each part on its own terms, and what it learnt at last.

Both are in this process, with directories of their own; what one writes the other reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from metaproxy.caller import Directory
from metaproxy.credentials import Credentials, Secret
from metaproxy.finder import Finder
from metaproxy.handoverstate import Held, Own, Terms
from metaproxy.inheritance import Inheritance
from metaproxy.pods import ROLE, Namespace, Pod
from metaproxy.roles import AssumeRole, RoleArn
from metaproxy.telemetry import Metrics

TERMS = Terms(source="node, cluster", network="kernel", issuer="region", principal="node's role", keys="tags")
OWN = Own(
    away=True, arn="arn:aws:sts::123456789012:assumed-role/node/i", access_key_id="ASIA0", method="env", separate=None
)
CALL = AssumeRole(role=RoleArn.parse("arn:aws:iam::123456789012:role/app"), session_name="shop.web", duration=3600)
SESSION = Credentials(
    access_key_id="ASIA1",
    secret_access_key=Secret("secret"),
    session_token=Secret("token"),
    issued=1_000.0,
    expires=4_600.0,
    account="123456789012",
)
HELD = Held(call=CALL, credentials=SESSION, renew_in=900.0, serve_in=3000.0)


class Identity:
    """Gives a word of who it is, each time that it is asked, and hears another one's."""

    def __init__(self) -> None:
        self.asked = 0
        self.heard: list[Own] = []

    async def own(self) -> Own | None:
        """The word."""
        self.asked += 1
        return OWN

    def adopt(self, own: Own) -> None:
        """It is told of another one."""
        self.heard.append(own)


class Sessions:
    """Holds one, or what it is given."""

    def __init__(self) -> None:
        self.holds: tuple[Held, ...] = (HELD,)
        self.given: list[Held] = []
        self.resting = False

    def rest(self, resting: bool) -> None:
        """It is told to rest, or to go on."""
        self.resting = resting

    async def landed(self) -> None:
        """No call is under way."""

    def held(self) -> tuple[Held, ...]:
        """What it holds."""
        return self.holds

    def adopt(self, held: Iterable[Held]) -> None:
        """It is given what another one holds."""
        self.given += held


class Source:
    """Says to have seen what it is told that was seen."""

    def __init__(self) -> None:
        self.newest = (0, 0)

    def begin_after(self, newest: tuple[int, int]) -> None:
        """Another one has seen these."""
        self.newest = newest


class Process:
    """One of two. `terms`: what is not as with the other; `watches`: its pods have versions."""

    def __init__(self, terms: Mapping[str, str] = {}, *, watches: bool = True) -> None:
        self.terms = replace(TERMS, **terms)
        self.identity, self.sessions, self.source = Identity(), Sessions(), Source()
        self.directory = Directory()
        self.inheritance = Inheritance(
            terms=lambda: self.terms,
            identity=self.identity,
            sessions=self.sessions,
            callers=Finder(self.directory, Metrics(), is_own=lambda _: False),
            kernel=None,
            source=self.source if watches else None,
        )

    async def written(self, *, last: bool) -> bytes:
        """Its state, as the other one is given it."""
        return await self.inheritance.state(None, last=last)


def pod(uid: str, version: int, role: str = "app") -> Pod:
    """A pod whose role is the namespace's to permit."""
    address = f"10.0.0.{ord(uid)}"
    return Pod(uid=uid, namespace="shop", name=uid, version=version, addresses=(address,), annotations={ROLE: role})


def former() -> Process:
    """A process that knows two pods and two namespaces."""
    process = Process()
    process.directory.put_pod(pod("a", 1))
    process.directory.put_pod(pod("b", 2))
    process.directory.put_namespace(Namespace(uid="shop", name="shop", version=3))
    process.directory.put_namespace(Namespace(uid="old", name="old", version=4))
    process.source.newest = (5, 6)
    return process


def learns(process: Process) -> None:
    """Of each kind that there is: something new, something changed, something gone."""
    process.directory.delete_pod("a", 10)
    process.directory.put_pod(pod("b", 11, role="other"))
    process.directory.put_pod(pod("c", 12))
    process.directory.delete_namespace("old", 13)
    process.directory.put_namespace(Namespace(uid="shop", name="shop", version=14))
    process.directory.put_namespace(Namespace(uid="new", name="new", version=15))
    process.source.newest = (16, 17)


# Who it is


@pytest.mark.parametrize(
    ("terms", "heard"), [({}, [OWN]), ({"issuer": "another region"}, []), ({"source": "another cluster"}, [OWN])]
)
async def test_whose_word_counts(terms: dict[str, str], heard: list[Own]) -> None:
    """That of who asks for sessions in the same way, wherever its pods are from."""
    heir = Process(terms)
    heir.inheritance.adopt(await former().written(last=False))
    assert heir.identity.heard == heard


async def test_the_word_is_given_once() -> None:
    """To who begins: STS is not asked for it again while that one takes over."""
    before, heir = former(), Process()
    heir.inheritance.adopt(await before.written(last=False))
    heir.inheritance.settle(await before.written(last=True))
    assert (before.identity.asked, heir.identity.heard) == (1, [OWN])


# Whom it knows


async def test_what_was_learnt_meanwhile() -> None:
    """The heir knows all of it, without its own watch; and goes on watching from there."""
    before, heir = former(), Process()
    heir.inheritance.adopt(await before.written(last=False))
    assert heir.directory.memory() == before.directory.memory()
    assert heir.source.newest == (5, 6)
    learns(before)
    heir.inheritance.settle(await before.written(last=True))
    assert by_uid(heir) == by_uid(before)
    assert heir.source.newest == (16, 17)


async def test_what_the_heir_knows_better() -> None:
    """Its own watch was ahead, of pods: nothing of them goes back in time."""
    before, heir = former(), Process()
    heir.inheritance.adopt(await before.written(last=False))
    newer = pod("b", 20, role="newest")
    heir.directory.put_pod(newer)
    heir.source.newest = (21, 6)
    learns(before)
    heir.inheritance.settle(await before.written(last=True))
    assert newer in heir.directory.memory().pods
    assert heir.source.newest == (21, 17)


async def test_pods_of_another_source() -> None:
    """Neither those of the first state nor those of the last are this one's."""
    before, heir = former(), Process({"source": "another cluster"})
    empty = heir.directory.memory()
    heir.inheritance.adopt(await before.written(last=False))
    learns(before)
    heir.inheritance.settle(await before.written(last=True))
    assert heir.directory.memory() == empty
    assert heir.source.newest == (0, 0)


async def test_pods_without_versions() -> None:
    """Those of files: the heir has read them itself, and what the former one read last is no newer."""
    before, heir = former(), Process(watches=False)
    heir.inheritance.adopt(await before.written(last=False))
    known = heir.directory.memory()
    assert known == before.directory.memory()
    learns(before)
    heir.inheritance.settle(await before.written(last=True))
    assert heir.directory.memory() == known


def by_uid(process: Process) -> tuple[object, ...]:
    """What it knows, in no order."""
    memory = process.directory.memory()
    parts = memory.pods, memory.gone_pods, memory.namespaces, memory.gone_namespaces
    return tuple(sorted(part, key=str) for part in parts)


# What it holds


@pytest.mark.parametrize(
    ("terms", "rests", "held"),
    [
        ({}, True, True),
        ({"principal": ""}, True, True),
        ({"principal": "another role"}, False, False),
        ({"issuer": "another region"}, False, False),
        ({"keys": "other tags"}, False, True),
        ({"source": "another cluster"}, False, True),
    ],
)
async def test_sessions(terms: dict[str, str], rests: bool, held: bool) -> None:
    """They are had from who asked in the same way, as the same role.

    The heir asks for none ahead only if it would ask for the same.
    """
    before, heir = former(), Process(terms)
    heir.inheritance.adopt(await before.written(last=False))
    assert heir.sessions.resting is rests
    heir.inheritance.settle(await before.written(last=True))
    assert heir.sessions.given == ([HELD] if held else [])


@pytest.mark.parametrize("document", [None, b"{}"])
async def test_without_a_last_state(document: bytes | None) -> None:
    """What was given first is held."""
    before, heir = former(), Process()
    heir.inheritance.adopt(await before.written(last=False))
    before.sessions.holds = ()
    heir.inheritance.settle(document)
    assert heir.sessions.given == [HELD]


async def test_a_state_that_cannot_be_read() -> None:
    """Nothing of it is had; what is given last, if that is sound, is."""
    before, heir = former(), Process()
    empty = heir.directory.memory()
    heir.inheritance.adopt(b"{}")
    assert heir.inheritance.key is None
    assert (heir.identity.heard, heir.sessions.resting) == ([], False)
    heir.inheritance.settle(await before.written(last=True))
    assert heir.sessions.given == [HELD]
    assert heir.directory.memory() == empty

"""What a process hands to the next: whatever is written is read back as it was, and nothing else is read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy import handoverstate
from metaproxy.caller import Directory, Memory
from metaproxy.carriers import Carrier, Lives
from metaproxy.credentials import Credentials, Keys, Secret
from metaproxy.errors import StsDenied
from metaproxy.handoverstate import Failure, Held, MisfitError, Own, State, Terms
from metaproxy.netlink import Link
from metaproxy.pods import PERMITTED, ROLE, Namespace, Pod
from metaproxy.roles import AssumeRole, RoleArn
from metaproxy.typedjson import dump, parse

ROLE_ARN = RoleArn.parse("arn:aws:iam::123456789012:role/team/shop-web")
CALL = AssumeRole(role=ROLE_ARN, session_name="shop.web", duration=3600, external_id="x-1", tags=(("team", "a"),))
SESSION = Credentials(
    access_key_id="ASIA1",
    secret_access_key=Secret("se/cret"),
    session_token=Secret("to/ken=="),
    account="123456789012",
    issued=1_000_000.5,
    expires=1_003_600.0,
)
FAILURE = Failure(reason="StsDenied", message="no", remedy="ask", code="AccessDenied")
HELD = Held(
    call=CALL, credentials=SESSION, renew_in=-3.5, serve_in=60.0, failure=None, failures=0, failing=0.0, retry_in=0.0
)
REFUSED = Held(
    call=replace(CALL, external_id=None, source_identity="shop.web"),
    credentials=None,
    renew_in=0.0,
    serve_in=0.0,
    failure=FAILURE,
    failures=2,
    failing=25.0,
    retry_in=10.0,
)
OWN = Own(
    away=True,
    arn="arn:aws:sts::123456789012:assumed-role/node/a,b=c",
    access_key_id="ASIA0",
    method="iam-role",
    separate=HELD,
)
BRIDGE, MAC = 1, b"\2\0\0\0\0\1"


def a_directory() -> Directory:
    """With a pod that is tied to a bridge's port, one whose address is withdrawn, and one that is gone."""
    directory = Directory()
    directory.witness()
    directory.put_namespace(Namespace(uid="ns", name="shop", version=2, annotations={PERMITTED: "é.*"}))
    directory.delete_namespace("old", 3)
    for number, address in enumerate(("10.0.0.1", "fd00::1"), start=3):
        uid = f"u{number}"
        directory.put_pod(
            Pod(
                uid=uid,
                namespace="shop",
                name=uid,
                version=number,
                addresses=(address,),
                annotations={ROLE: "x"},
                observed="seen",
            )
        )
    directory.put_pod(Pod(uid="gone", namespace="shop", name="gone", version=9))
    directory.delete_pod("gone", 10)
    directory.blind(False)
    directory.saw(
        {"10.0.0.1": Carrier(link=2, born=1, bridge=BRIDGE, hardware=MAC), "fd00::1": Carrier(link=3, born=2)}
    )
    directory.saw({"fd00::1": None}, [(3, 2)])
    return directory


def a_state() -> State:
    """With something of everything."""
    return State(
        terms=Terms(source="s", network="n", issuer="i", principal="p", keys="k"),
        key=Secret("ab" * 32),
        own=OWN,
        sessions=(HELD, REFUSED),
        directory=a_directory().memory(),
        newest=(10, 3),
        lives=Lives(devices=((Link(index=2, up=True, life=(b"veth", b"")), 1),), births=2),
    )


def documents(value: Any, change: Any) -> Iterator[Any]:
    """The value with each part of it, on its own, changed."""
    yield change
    if isinstance(value, dict):
        for key, part in value.items():
            for other in documents(part, change):
                yield {**value, key: other}
    elif isinstance(value, list):
        for index, part in enumerate(value):
            for other in documents(part, change):
                yield [*value[:index], other, *value[index + 1 :]]


def test_what_is_written_is_read() -> None:
    """All of it, and it makes the same directory again."""
    state = a_state()
    read = handoverstate.read(handoverstate.write(state))
    assert read == state
    directory = Directory()
    directory.witness()
    directory.adopt(read.directory)
    assert directory.owners("10.0.0.1") == []
    directory.blind(False)
    assert [pod.uid for pod in directory.owners("10.0.0.1")] == ["u3"]
    assert directory.owners("fd00::1") == []
    assert directory.put_pod(Pod(uid="gone", namespace="shop", name="gone", version=11)) == []


def test_a_failure_is_the_same_failure() -> None:
    """With its class, and so its status and code."""
    failure = handoverstate.failure_of(FAILURE)
    assert isinstance(failure, StsDenied)
    assert (failure.message, failure.remedy, failure.code, failure.status) == ("no", "ask", "AccessDenied", 403)


@given(st.binary())
def test_any_bytes(document: bytes) -> None:
    """They are refused, and nothing else happens."""
    with pytest.raises(MisfitError):
        handoverstate.read(document)


@pytest.mark.parametrize(
    "document", [b"[" * 100_000, b"1" * 5_000, b'{"format":1}', b"\xff", b"null", handoverstate.write(a_state())[:-1]]
)
def test_odd_documents(document: bytes) -> None:
    """Deep, long, cut, or of another shape."""
    with pytest.raises(MisfitError):
        handoverstate.read(document)


@pytest.mark.parametrize("change", [None, "x", -1, 1.5, True, [], {}, [[]], float("nan"), 1 << 70, "\ud800"])
def test_every_part_exchanged(change: Any) -> None:
    """Each value replaced by another kind of value: it is refused, or it is a state that a directory can begin with."""
    whole = json.loads(handoverstate.write(a_state()))
    taken = 0
    for document in documents(whole, change):
        try:
            state = handoverstate.read(json.dumps(document).encode())
        except MisfitError:
            continue
        taken += 1
        directory = Directory()
        directory.witness()
        directory.adopt(state.directory)
        directory.blind(False)
        directory.delete_pod("u3", 20)
    # Texts that may be anything, and what may be empty or missing.
    assert taken < 60


@pytest.mark.parametrize(
    ("key", "method", "former", "same"),
    [
        ("ASIA0", "env", "iam-role", True),
        ("ASIA1", "iam-role", "iam-role", True),
        ("ASIA1", "iam-role", "env", False),
        ("ASIA1", "env", "iam-role", False),
        ("ASIA1", "env", "env", False),
    ],
)
def test_who_has_the_same_keys(key: str, method: str, former: str, same: bool) -> None:
    """By their name, or both the node's role's, which gives others every hour."""
    keys = Keys(access_key_id=key, secret_access_key=Secret("x"), session_token=None, method=method)
    assert replace(OWN, method=former).has(keys) is same


def test_another_format() -> None:
    """It is not read, and the message says which it is."""
    whole = json.loads(handoverstate.write(a_state()))
    with pytest.raises(MisfitError, match="its format is 3 and not 2"):
        handoverstate.read(json.dumps(whole | {"format": 3}).encode())


def with_pod(**more: Any) -> dict[str, Any]:
    """The directory with another first pod."""
    memory = a_directory().memory()
    first, *rest = memory.pods
    return {"directory": replace(memory, pods=(replace(first, **more), *rest))}


def with_ties(**more: Any) -> dict[str, Any]:
    """The directory with other ties."""
    memory = a_directory().memory()
    assert memory.ties is not None
    return {"directory": replace(memory, ties=replace(memory.ties, **more))}


def with_point(**more: Any) -> dict[str, Any]:
    """The directory with another first point."""
    ties = a_directory().memory().ties
    assert ties is not None
    (address, point), *rest = ties.points.items()
    return with_ties(points={address: replace(point, **more), **dict(rest)})


MEMORY: Memory = a_directory().memory()
TIES = MEMORY.ties
assert TIES is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": Secret("ab")}, "token key"),
        ({"key": Secret("no key")}, "token key"),
        ({"own": replace(OWN, arn="")}, "an identity"),
        ({"own": replace(OWN, arn="a b")}, "an identity"),
        ({"own": replace(OWN, access_key_id="A" * 2049)}, "an identity"),
        ({"own": replace(OWN, method="")}, "an identity"),
        ({"own": replace(OWN, separate=replace(HELD, credentials=replace(SESSION, account="1")))}, "a session"),
        ({"own": replace(OWN, separate=replace(HELD, call=replace(CALL, session_name="a b")))}, "a call"),
        ({"newest": (-1, 0)}, "version"),
        ({"sessions": (HELD, HELD)}, "twice"),
        ({"sessions": (replace(HELD, call=replace(CALL, duration=1)),)}, "a call"),
        ({"sessions": (replace(HELD, call=replace(CALL, session_name="a b")),)}, "a call"),
        ({"sessions": (replace(HELD, call=replace(CALL, source_identity="a b")),)}, "a call"),
        ({"sessions": (replace(HELD, call=replace(CALL, external_id="a b")),)}, "a call"),
        ({"sessions": (replace(HELD, call=replace(CALL, role=replace(ROLE_ARN, name=".."))),)}, "a call"),
        ({"sessions": (replace(HELD, credentials=replace(SESSION, account="1")),)}, "a session"),
        ({"sessions": (replace(HELD, credentials=replace(SESSION, expires=1_009_999.0)),)}, "a session"),
        ({"sessions": (replace(HELD, credentials=replace(SESSION, expires=999.0)),)}, "a session"),
        ({"sessions": (replace(HELD, credentials=replace(SESSION, session_token=Secret("a\nb"))),)}, "a session"),
        ({"sessions": (replace(HELD, credentials=replace(SESSION, access_key_id="")),)}, "a session"),
        ({"sessions": (replace(REFUSED, failure=replace(FAILURE, reason="Internal")),)}, "a failure"),
        ({"sessions": (replace(REFUSED, failures=0),)}, "a failure"),
        ({"sessions": (replace(REFUSED, retry_in=1e9),)}, "a pause"),
        (with_pod(addresses=("10.0.0.01",)), "a pod"),
        (with_pod(uid=""), "a pod"),
        (with_pod(annotations={"other": "x"}), "a pod"),
        (with_pod(version=-1), "a pod"),
        (with_pod(uid="u4"), "a uid that is there twice"),
        (with_pod(uid="gone"), "a pod that is gone"),
        (with_pod(addresses=("10.0.0.9",)), "an address without a point"),
        ({"directory": replace(MEMORY, namespaces=(*MEMORY.namespaces, *MEMORY.namespaces))}, "twice"),
        ({"directory": replace(MEMORY, namespaces=(Namespace(uid="", name="x"),))}, "a namespace"),
        ({"directory": replace(MEMORY, gone_namespaces=("a", "a"))}, "twice"),
        ({"directory": replace(MEMORY, listed_pods=-1)}, "a version"),
        (with_point(sight=Carrier(link=-2)), "a carrier"),
        (with_point(tied=Carrier()), "a carrier"),
        (with_point(loss=99), "a loss"),
        (with_point(fence=-1), "a loss"),
        (with_ties(points={**TIES.points, "x": TIES.points["10.0.0.1"]}), "an address"),
        (with_ties(tenants={}), "a port without its tenant"),
        ({"lives": Lives(devices=((Link(index=2), 1), (Link(index=2), 2)), births=2)}, "a device"),
        ({"lives": Lives(devices=((Link(index=2), 3),), births=2)}, "a device's life"),
    ],
)
def test_what_cannot_be(change: dict[str, Any], said: str) -> None:
    """Right types are not enough: one thing that cannot be, and nothing of it is believed."""
    with pytest.raises(MisfitError, match=said):
        handoverstate.read(handoverstate.write(replace(a_state(), **change)))


def test_no_secret_shows_itself() -> None:
    """A state, printed, tells no key; nor does what is said of one that cannot be."""
    state = a_state()
    for secret in ("se/cret", "to/ken", "ab" * 32):
        assert secret not in repr(state)
    whole = json.loads(handoverstate.write(state))
    whole["state"]["sessions"][0]["credentials"]["secret_access_key"] = ["se/cret"]
    with pytest.raises(MisfitError) as caught:
        handoverstate.read(json.dumps(whole).encode())
    assert "se/cret" not in str(caught.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    pair: tuple[int, str] = (1, "a")
    several: tuple[bytes, ...] = ()
    perhaps: float | None = None
    flag: bool = True
    names: frozenset[str] = frozenset()


BOXES = st.builds(
    _Box,
    pair=st.tuples(st.integers(-(1 << 63) + 1, (1 << 63) - 1), st.text()),
    several=st.lists(st.binary(), max_size=3).map(tuple),
    perhaps=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    names=st.frozensets(st.text(), max_size=3),
)


@given(BOXES)
def test_any_thing(box: _Box) -> None:
    """Whatever fits its types comes back."""
    assert parse(_Box, dump(box, {}), {}) == box


@pytest.mark.parametrize(
    "change",
    [
        {"pair": [1]},
        {"several": ["g0"]},
        {"several": {}},
        {"flag": 1},
        {"pair": [True, "a"]},
        {"more": 1},
        {"names": ["a", "a"]},
    ],
)
def test_misfits(change: dict[str, Any]) -> None:
    """Too few, no bytes, no list, no truth, no number, too many, twice."""
    whole = json.loads(dump(_Box(), {})) | change
    with pytest.raises(MisfitError):
        parse(_Box, json.dumps(whole).encode(), {})

"""Bytes become events and items, wherever they are cut and whatever they hold."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.watchlines import Framer, ListReader, WireError, event_from

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
objects = st.dictionaries(st.text(), values, max_size=4)
events = st.fixed_dictionaries(
    {"type": st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), "object": objects}
)


@st.composite
def chunkings(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Events, and their bytes cut anywhere."""
    sent = draw(st.lists(events, max_size=6))
    wire = b"".join(json.dumps(event, ensure_ascii=draw(st.booleans())).encode() + b"\n" for event in sent)
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    edges = [0, *cuts, len(wire)]
    return sent, [wire[begin:end] for begin, end in pairwise(edges)]


@given(chunkings())
def test_any_chunking(case: tuple[list[dict[str, Any]], list[bytes]]) -> None:
    """The same events come out, in order, however the bytes are cut; nothing is left."""
    sent, chunks = case
    framer = Framer()

    got = [event_from(line) for chunk in chunks for line in framer.feed(chunk)]

    assert [(event.kind, event.object) for event in got] == [(event["type"], event["object"]) for event in sent]
    assert framer.pending == 0


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 40))
def test_limit_does_not_depend_on_chunks(lines: list[bytes], limit: int) -> None:
    """A line over the limit is refused, and the lines before it given, in one chunk as byte by byte."""
    wire = b"".join(line.replace(b"\n", b"x") + b"\n" for line in lines)

    def run(chunks: list[bytes]) -> tuple[list[bytes], bool]:
        framer, got = Framer(limit), []
        try:
            for chunk in chunks:
                for line in framer.feed(chunk):
                    got.append(line)  # noqa: PERF402  what came before the error counts
        except WireError:
            return got, True
        return got, False

    assert run([wire]) == run([bytes([byte]) for byte in wire])


def test_two_megabytes_in_small_cuts() -> None:
    """An event of 2 MB in chunks of 2,048 bytes is one line: aiohttp's reader raises above 512 KiB."""
    line = json.dumps({"type": "ADDED", "object": {"a": "x" * 2_000_000}}).encode()
    framer = Framer()

    got = [found for at in range(0, len(line), 2_048) for found in framer.feed(line[at : at + 2_048])]
    assert got == []
    assert framer.pending == len(line)

    assert list(framer.feed(b"\n")) == [line]


def test_default_limit() -> None:
    """A line without end is refused before it fills the node's memory."""
    framer = Framer()
    for _ in range(16):
        assert list(framer.feed(b"x" * 1024 * 1024)) == []

    with pytest.raises(WireError, match="more than 16777216 bytes"):
        list(framer.feed(b"x"))


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"type":1,"object":{}}',
        b'{"type":"ADDED"}',
        b'{"type":"ADDED","object":[]}',
        b'{"type":"ADDED","object":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_no_event(line: bytes) -> None:
    """A line that is no event is refused, deep nesting included; nothing else is ever raised."""
    with pytest.raises(WireError):
        event_from(line)


@pytest.mark.parametrize(
    ("obj", "version"),
    [
        ({"metadata": {"resourceVersion": "7"}}, "7"),
        ({"metadata": {"resourceVersion": 7}}, ""),
        ({"metadata": []}, ""),
        ({}, ""),
    ],
)
def test_version_of_event(obj: dict[str, Any], version: str) -> None:
    """An event's version is its object's, or none."""
    assert event_from(json.dumps({"type": "BOOKMARK", "object": obj}).encode()).version == version


@given(st.lists(objects, max_size=5), st.integers(0, 3), st.booleans())
def test_list(items: list[dict[str, Any]], indent: int, metadata_first: bool) -> None:
    """Items and version of a list come out as a whole reading would give them, in any layout and order of keys."""
    metadata = {"metadata": {"resourceVersion": "42"}}
    body = {"kind": "PodList", **(metadata if metadata_first else {}), "items": items, "other": [1], **metadata}
    reader = ListReader(json.dumps(body, indent=indent or None).encode())

    assert list(reader) == items
    assert reader.version == "42"


def test_list_of_nothing() -> None:
    """A list may say null for no items."""
    reader = ListReader(b' {"items" : null , "metadata":{"resourceVersion":"1"}}')

    assert list(reader) == []
    assert reader.version == "1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b"hello",
        b'{"items":[]}',
        b'{"items":[],"metadata":{}}',
        b'{"metadata":{"resourceVersion":"1"}}',
        b'{"metadata":{"resourceVersion":"1"},"items":[{}',
        b'{"metadata":{"resourceVersion":"1"},"items":[{}{}]}',
        b'{"metadata" {"resourceVersion":"1"},"items":[]}',
        b'{"metadata":{"resourceVersion":"1"},"items":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
    ],
)
def test_no_list(body: bytes) -> None:
    """What is no list, or is cut off, or has no version, is refused; nothing else is ever raised."""
    with pytest.raises(WireError):
        list(ListReader(body))


@given(st.data(), st.lists(objects, min_size=1, max_size=3))
def test_cut_list(data: st.DataObject, items: list[dict[str, Any]]) -> None:
    """No beginning of a list is ever taken for a list."""
    body = json.dumps({"metadata": {"resourceVersion": "42"}, "items": items}).encode()

    with pytest.raises(WireError):
        list(ListReader(body[: data.draw(st.integers(0, len(body) - 1))]))

"""The bytes of watches and lists as objects: where one ends and the next begins, whatever chunks they come in.

Knows: JSON lines, the shape of a watch event, the shape of a list. Pure.
Must not know: connections, what any object is for.

A watch sends one JSON line per event, but chunks are not events: an API server cuts bursts at 2,048 bytes in mid-event.
aiohttp's own line reader raises above 512 KiB, so that anyone who may create a large pod could break such a watch.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LINE_LIMIT = 16 * 1024 * 1024
"""Bytes of one event that are accepted. etcd takes objects up to 1.5 MiB unless told otherwise."""


class WireError(ValueError):
    """What came is not what a watch or a list looks like."""


class Framer:
    """Lines out of chunks. `pending` is the number of bytes after the last whole line."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self.pending = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that this chunk completes, without their ends; blank ones are left out. Iterate it to its end.

        Raises:
            WireError: a line is longer than the limit; the lines before it were given.
        """
        *whole, rest = chunk.split(b"\n")
        for end in whole:
            self._keep(end)
            line = b"".join(self._parts)
            self._parts.clear()
            self.pending = 0
            if line.strip():
                yield line
        self._keep(rest)

    def _keep(self, part: bytes) -> None:
        self.pending += len(part)
        if self.pending > self._limit:
            raise WireError(f"an event of more than {self._limit} bytes")
        if part:
            self._parts.append(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent:
    """One event: `kind` is ADDED, MODIFIED, DELETED, BOOKMARK, ERROR, or what a later server may invent."""

    kind: str
    object: Mapping[str, Any]

    @property
    def version(self) -> str:
        """The object's resourceVersion, empty when there is none."""
        return _version(self.object)


def event_from(line: bytes) -> WatchEvent:
    """The event that a line spells.

    Raises:
        WireError: it is no event.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError("an event that is no JSON") from error
    if not isinstance(value, dict) or not isinstance(kind := value.get("type"), str):
        raise WireError("an event without a type")
    if not isinstance(obj := value.get("object"), dict):
        raise WireError(f"an event without an object: {kind[:32]!a}")
    return WatchEvent(kind=kind, object=obj)


class ListReader:
    """The items of a list one by one: a node's memory need not hold all of them as objects at any time.

    `version` is the list's resourceVersion; known when the items have been iterated.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.version = ""

    def __iter__(self) -> Iterator[Any]:
        """The items.

        Raises:
            WireError: this is no list, or one without a version.
        """
        try:
            text, self._body = str(self._body, "utf-8"), b""
            yield from self._items(text)
        except WireError:
            raise
        except (ValueError, IndexError, RecursionError) as error:
            raise WireError("a list that is no JSON") from error
        if not self.version:
            raise WireError("a list without a version")

    def _items(self, text: str) -> Iterator[Any]:
        """Walk the outermost object and the items; every value is the JSON decoder's own business."""
        found = False
        decode = json.JSONDecoder().raw_decode
        at = _after(text, _blank(text, 0), "{")
        while text[at] != "}":
            key, at = decode(text, at)
            at = _after(text, _blank(text, at), ":")
            if key == "items" and text[at] == "[":
                found = True
                at = _after(text, at, "[")
                while text[at] != "]":
                    item, at = decode(text, at)
                    yield item
                    at = _separated(text, at, "]")
                at += 1
            else:
                value, at = decode(text, at)
                found = found or key == "items"
                if key == "metadata":
                    self.version = _version({"metadata": value})
            at = _separated(text, _blank(text, at), "}")
        if not found:
            raise WireError("a list without items")


def _blank(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _after(text: str, at: int, mark: str) -> int:
    """Where the next thing begins behind a mark that must stand here."""
    if text[at] != mark:
        raise ValueError(f"{mark} expected")
    return _blank(text, at + 1)


def _separated(text: str, at: int, end: str) -> int:
    """Behind a comma, or at the end."""
    at = _blank(text, at)
    return at if text[at] == end else _after(text, at, ",")


def _version(obj: Mapping[str, Any]) -> str:
    metadata = obj.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) else ""

"""fluent-bit, vector and s3fs, restated: the bytes that they send, how they go on, how they read what they get.

Knows: what their sources say.
Must not know: the agent, nor what happens in the world. Each client is an object as a process would hold it.
"""

import itertools
import json
import re
from collections.abc import Mapping
from typing import ClassVar

from tests.conformance.replay import FIELDS, HELD_SECONDS, LOST, NOT_FOUND, UNAUTHORIZED, Held, Refused, Replay, read
from tests.conformance.replaying import DOCUMENT_AT, HOST, OK, ROLES, TOKEN, TTL, Said


class FluentBit(Replay):
    """Whether there are tokens is seen by the root with a wrong one; a token is kept until it is refused."""

    agent = "User-Agent: aws-fluent-bit-plugin"
    cached = True
    token: str | None = None
    """Unknown as long as it does not know whether there are tokens."""

    async def fetch(self) -> Held:
        """The list is the role, whole; the document is read as a stream of strings."""
        role = (await self.item(f"{ROLES}/")).text
        found = fluent_credentials((await self.item(f"{ROLES}/{role}")).text)
        assert set(found) == set(FIELDS)
        assert re.fullmatch(r"\d+-\d+-\d+T\d+:\d+:\d+Z", found["Expiration"])
        return read(found)

    async def item(self, path: str) -> Said:
        """An item; when the token is refused, once more with a new one."""
        if self.token is None:
            assert (await self._get("/", "INVALID")).status == UNAUTHORIZED
            await self._renew()
        said = await self._get(path, self.token)
        if said.status == UNAUTHORIZED:
            await self._renew()
            said = await self._get(path, self.token)
        if said.status != OK:
            raise Refused(said)
        return said

    async def _get(self, path: str, token: str | None) -> Said:
        head = (f"Host: {HOST}", "Content-Length: 0", self.agent, f"{TOKEN}: {token}")
        async with self._wires() as wire:
            return await self._send(wire, f"GET {path}", *head)

    async def _renew(self) -> None:
        head = (f"Host: {HOST}", "Content-Length: 0", self.agent, f"{TTL}: {HELD_SECONDS}")
        async with self._wires() as wire:
            said = await self._send(wire, "PUT /latest/api/token", *head)
        assert said.status == OK, said
        self.token = said.text


def fluent_credentials(text: str) -> dict[str, str]:
    """Strings in their order, keys and values alike: one that begins a field's name names the one that follows."""
    strings = re.findall(r'"([^"]*)"', text)
    assert 1 + len(strings) <= 50, "its reader has room for fifty tokens"
    assert all(strings), "an empty string begins every name"
    found = {}
    for string, following in itertools.pairwise(strings):
        for name in FIELDS:
            if name.startswith(string):
                found[name] = following
    return found


class Vector(Replay):
    """Its transform: no way without a token, which it keeps whatever is said of it; each answer is 200 or 404.

    Anything else ends a refresh. It wants the role's name; keys are Rust's affair, asked for as that does.
    """

    agent = "accept: */*"
    cached = True
    token = ""
    known: Mapping[str, str] = {}
    items = (
        *("placement/availability-zone", "local-hostname", "local-ipv4", "public-hostname", "public-ipv4", "mac"),
        "tags/instance/Name",
    )

    async def fetch(self) -> Held:
        """The identity document with eight strings, items, roles; then the keys of the first."""
        document = json.loads(await self._item(DOCUMENT_AT) or "")
        names = ("accountId", "architecture", "imageId", "instanceId", "instanceType", "privateIp", "region", "version")
        assert all(isinstance(document[name], str) for name in names)
        found = {name: document[name] for name in names}
        for item in self.items:
            text = await self._item(f"/latest/meta-data/{item}")
            found |= {item: text} if text is not None else {}
        roles = await self._item(f"{ROLES}/")
        self.known = found | {"roles": roles or ""}
        if roles is None:
            raise Refused(self._last)
        (role,) = roles.splitlines()
        text = await self._item(f"{ROLES}/{role}")
        assert text is not None
        return read(json.loads(text))

    async def _item(self, path: str) -> str | None:
        if not self.token:
            async with self._wires() as wire:
                head = (f"{TTL.lower()}: {HELD_SECONDS}", self.agent, f"host: {HOST}", "content-length: 0")
                said = await self._send(wire, "PUT /latest/api/token", *head)
            assert said.status == OK, said
            self.token = said.text
        async with self._wires() as wire:
            said = await self._send(wire, f"GET {path}", f"{TOKEN.lower()}: {self.token}", self.agent, f"host: {HOST}")
        self._last = said
        if said.status not in {OK, NOT_FOUND}:
            raise Refused(said)
        return said.text if said.status == OK else None


class S3fs(Replay):
    """A token for every load, the list once, and text between commas; further tries when the answer is lost."""

    agent = "User-Agent: s3fs/1.90 (commit hash unknown; OpenSSL)"
    tries: ClassVar[int] = 5
    patience = 120.0
    more: ClassVar[tuple[str, ...]] = ()
    role = ""

    async def fetch(self) -> Held:
        """The list's first line is the role; exactly four pieces of the document name a field."""
        token = ""
        if not self.without_tokens:
            head = (f"{TTL}: {HELD_SECONDS}", "Accept: */*", self.agent, *self.more)
            token = (await self._step("PUT /latest/api/token", *head)).text
        shown = (self.agent, "Accept: */*", *((f"{TOKEN}: {token}",) if token else ()))
        self.role = self.role or (await self._step(f"GET {ROLES}/", *shown)).text.split("\n", 1)[0]
        found = s3fs_credentials((await self._step(f"GET {ROLES}/{self.role}", *shown)).text)
        assert set(found) == set(FIELDS)
        return read(found)

    async def _step(self, line: str, *headers: str) -> Said:
        for number in range(1, self.tries + 1):
            async with self._wires() as wire:
                said = await self._send(wire, line, f"Host: {HOST}", *headers)
            if said.status == OK:
                return said
            if said.status not in LOST or number == self.tries:
                break
            await self._pause()
        raise Refused(said)


class S3fsThatAnnounces(S3fs):
    """With an announced body that is empty: curl's upload as it is when nobody suppresses it."""

    more = ("Content-Length: 0", "Expect: 100-continue")


def s3fs_credentials(text: str) -> dict[str, str]:
    """Pieces between commas; the first of these words that occurs in one names it; its value is behind a colon."""
    found: dict[str, str] = {}
    for piece in text.split(","):
        for name in (*FIELDS[:3], FIELDS[3], "RoleArn"):
            if name in piece:
                value = piece[piece.index(name) :].split(":", 1)[1]
                assert name not in found
                found[name] = value.strip(' \n"}')
                break
    return found

"""The SDKs of .NET and PHP, restated: the bytes that they send, how they go on, how they read what they get.

Knows: what their sources say (both generations of PHP's).
Must not know: the agent, nor what happens in the world. Each client is an object as a process would hold it.
"""

import json
import re
from collections.abc import Mapping
from typing import ClassVar

from tests.conformance.replay import (
    HELD_SECONDS,
    LOST,
    NOT_FOUND,
    UNAUTHORIZED,
    Held,
    Refused,
    Replay,
    date,
    good,
    read,
)
from tests.conformance.replaying import HOST, OK, ROLES, TOKEN, TTL, Said, Wire


class DotNet(Replay):
    """The default chain: a token for each request, the list without a slash, credentials for every line of it."""

    agent = "User-Agent: aws-sdk-dotnet-coreclr/3.7.0.0 .NET_Core/8.0.0 OS/Linux"
    tries: ClassVar[int] = 3
    patience = 5.0

    async def fetch(self) -> Held:
        """Every line of the list is a role."""
        documents = []
        for name in (await self.item(ROLES)).text.split("\n"):
            document = json.loads((await self.item(f"{ROLES}/{name}")).text)
            good(document)
            date(document["LastUpdated"])
            documents.append(document)
        return read(documents[0])

    async def item(self, path: str) -> Said:
        """A token, then the item, on a connection that may be kept; with further tries unless it is not there."""
        async with self._wires() as wire:
            token = await self._token(wire)
            for number in range(1, self.tries + 1):
                shown = (f"{TOKEN}: {token}",) if token else ()
                said = await self._send(wire, f"GET {path}", f"Host: {HOST}", *shown, self.agent)
                if said.status == OK:
                    return said
                self.without_tokens = self.without_tokens and said.status != UNAUTHORIZED
                if said.status in {NOT_FOUND, UNAUTHORIZED} or number == self.tries:
                    break
                await self._pause()
        raise Refused(said)

    async def _token(self, wire: Wire) -> str:
        if self.without_tokens:
            return ""
        head = (f"Host: {HOST}", f"{TTL}: {HELD_SECONDS}", self.agent, "Content-Length: 0")
        said = await self._send(wire, "PUT /latest/api/token", *head)
        assert said.status == OK, said
        return said.text


class DotNetExplicit(DotNet):
    """The provider that is made by hand: the profile's info too; a list is split at HTML's break of a line alone."""

    async def fetch(self) -> Held:
        """The role, the profile's info, the document; each date must be one."""
        (name,) = (await self.item(f"{ROLES}/")).text.split("<br/>")
        info = json.loads((await self.item("/latest/meta-data/iam/info")).text)
        assert info["Code"] == "Success"
        assert not info.get("Message")
        date(info["LastUpdated"])
        assert info["InstanceProfileArn"].startswith("arn:aws:iam::")
        document = json.loads((await self.item(f"{ROLES}/{name}")).text)
        good(document)
        date(document["LastUpdated"])
        return read(document)


class Php(Replay):
    """The body of the list is the role, whole; three attempts for all steps together."""

    agent = "User-Agent: aws-sdk-php/3.300.0 ua/2.0 OS/Linux#6.1 lang/php#8.2.0 GuzzleHttp/7"
    attempts: ClassVar[int] = 3
    again: ClassVar[set[int]] = {NOT_FOUND, 429, *LOST}

    async def fetch(self) -> Held:
        """The document's code is Success to the letter."""
        self._left = self.attempts
        token = ""
        if not self.without_tokens:
            token = (await self._step("PUT /latest/api/token", f"{TTL}: {HELD_SECONDS}")).text
        shown = (f"{TOKEN}: {token}",) if token else ()
        document = await self._documents(shown)
        good(document)
        return read(document)

    async def _documents(self, shown: tuple[str, ...]) -> Mapping[str, str]:
        role = await self._step(f"GET {ROLES}/", *shown)
        document: Mapping[str, str] = json.loads((await self._step(f"GET {ROLES}/{role.text}", *shown)).text)
        return document

    async def _step(self, line: str, *headers: str) -> Said:
        while True:
            async with self._wires() as wire:
                said = await self._send(wire, line, f"Host: {HOST}", *headers, self.agent)
            if said.status == OK:
                return said
            self._left -= 1
            if said.status not in self.again or not self._left:
                raise Refused(said)
            await self._pause()


class PhpExtended(Php):
    """The newer one: the extended path first, and the older one when that is not there."""

    again: ClassVar[set[int]] = {429, *LOST}
    _where: str = f"{ROLES}-extended"

    async def _documents(self, shown: tuple[str, ...]) -> Mapping[str, str]:
        try:
            role = await self._step(f"GET {self._where}/", *shown)
        except Refused as refused:
            if refused.said.status != NOT_FOUND or self._where == ROLES:
                raise
            self._where = ROLES
            return await self._documents(shown)
        document: Mapping[str, str] = json.loads((await self._step(f"GET {self._where}/{role.text}", *shown)).text)
        assert self._where == ROLES or re.fullmatch(r"\d{12}", document["AccountId"])
        return document

"""What replays of clients run on: an agent, pods of it, and connections on which bytes are sent as they are.

Knows: how a pod's connection is made, what of the world can be changed.
Must not know: any client.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.agent import namespace_yaml, pod_yaml, running, write
from tests.fakes.process import AgentProcess, until
from tests.fakes.sts import FakeSts
from tests.fakes.upstream_imds import DOCUMENT, FakeUpstream

POD, OTHER, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.4"
"""A pod with a role, one without, and an address that is nobody's."""

HOST = "169.254.169.254"
ROLES = "/latest/meta-data/iam/security-credentials"
ROLE, ARN = "shop-web", "arn:aws:iam::123456789012:role/shop-web"
DOCUMENT_AT = "/latest/dynamic/instance-identity/document"
ITEMS = (DOCUMENT_AT, "/latest/meta-data/placement/availability-zone", "/latest/meta-data/instance-id")
"""What the agent has from the node's own service."""

OK = 200
TTL, TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
WHOLE_DOCUMENT = {**DOCUMENT, "architecture": "arm64", "imageId": "ami-0", "privateIp": "10.0.0.1", "version": "2017"}
PATIENT, HASTY = 9.0, 0.2
"""Seconds that a request is held: more than any cause lasts, or hardly any, where the cause stays."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer: status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()


class Wire:
    """A connection from a pod's address on which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *lines: str) -> Said:
        """Send a head of these lines; its answer."""
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        length = 0 if lines[0].startswith("HEAD ") else int(headers["content-length"])
        return Said(int(head[0].split()[1]), headers, await self._reader.readexactly(length))


class World:
    """An agent, its STS, and the manifests from which it knows its pods."""

    def __init__(self, folder: Path, sts: FakeSts, upstream: FakeUpstream, tokens: str, hold: float | None) -> None:
        self.sts = sts
        self.tokens = tokens
        self._manifests = folder / "pods.yaml"
        self._folder = folder
        self._flags = (
            f"--source.manifests={self._manifests}",
            f"--sts.endpoint-url={sts.url}",
            f"--upstream.url={upstream.url}",
            f"--tokens.mode={tokens}",
            *((f"--server.hold={hold}",) if hold is not None else ()),
        )
        self._at = ("", 0)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Meanwhile an agent runs in this loop, and has the node's items: how fast these come is not tried here."""
        region, base = "--sts.region=us-east-1", "--role-base-arn=arn:aws:iam::123456789012:role/"
        async with running(*self._flags, region, base) as agent:
            self._at = agent.addresses[0]
            await until("the agent has the node's items", self._has_items, str)
            yield

    @asynccontextmanager
    async def serving_apart(self, *flags: str) -> AsyncIterator[AgentProcess]:
        """Meanwhile an agent runs as a process of its own, with the key of tokens that the last one had."""
        agent = AgentProcess(self._folder, (*self._flags, *flags, f"--tokens.key-file={self._folder / 'key'}"), {})
        await agent.start()
        try:
            await agent.until_ready()
            self._at = (agent.host, 8181)
            await until("the agent has the node's items", self._has_items, agent.log)
            yield agent
        finally:
            await agent.stop()

    async def _has_items(self) -> bool:
        shown = f"{TOKEN}: {await self.token(f'{TTL}: 60', pod=OTHER)}"
        asked = [await self.once(f"GET {item} HTTP/1.1", f"Host: {HOST}", shown, pod=OTHER) for item in ITEMS]
        return {said.status for said in asked} == {OK}

    async def declare(self, role: str | None = ROLE, *, permitted: str = ".*") -> None:
        """The pod is there, with this role; and the other, which asks for none."""
        marks = {"role": role} if role else {}
        await write(
            self._manifests,
            namespace_yaml("shop", permitted),
            pod_yaml("shop", "web", POD, **marks),
            pod_yaml("shop", "idle", OTHER),
        )

    async def nobody(self) -> None:
        """The pod is not there, as far as the agent has been told."""
        await write(self._manifests, namespace_yaml("shop"), pod_yaml("shop", "idle", OTHER))

    async def told(self, part: str, status: int = 0) -> None:
        """Wait until the role list's answer to the pod has this in its body, and this status."""
        last: list[Said] = []

        async def is_told() -> bool:
            shown = f"{TOKEN}: {await self.token(f'{TTL}: 60')}"
            last[:] = [await self.once(f"GET {ROLES}/ HTTP/1.1", f"Host: {HOST}", shown)]
            return status in {0, last[0].status} and part in last[0].text

        await until(f"the pod is told {part}", is_told, lambda: str(last))

    @asynccontextmanager
    async def wire(self, pod: str = POD) -> AsyncIterator[Wire]:
        """A connection as the pod."""
        host, port = self._at
        reader, writer = await asyncio.open_connection(host, port, local_addr=(pod, 0))
        try:
            yield Wire(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    async def once(self, *lines: str, pod: str = POD) -> Said:
        """One request on a connection of its own."""
        async with self.wire(pod) as wire:
            return await wire.send(*lines)

    async def token(self, *lines: str, pod: str = POD) -> str:
        """What a token request with these header lines is answered with."""
        said = await self.once("PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", *lines, pod=pod)
        assert said.status == 200
        return said.text


@asynccontextmanager
async def world(folder: Path, tokens: str, hold: float | None = PATIENT) -> AsyncIterator[World]:
    """A world without an agent yet, nor the pod that has a role. The variables of the node are the caller's to set.

    Without a `hold` its agents have their own.
    """
    async with FakeSts() as sts, FakeUpstream() as upstream:
        upstream.items["dynamic/instance-identity/document"] = json.dumps(WHOLE_DOCUMENT)
        made = World(folder, sts, upstream, tokens, hold)
        await made.nobody()
        yield made

"""Clients that cannot be had here, replayed: their requests as bytes on real connections, their parsers restated.

.NET, PHP, fluent-bit, vector, s3fs, and the request shapes that emulators of the metadata service are tried with.
"""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from metaproxy.app import Agent
from tests.fakes.agent import namespace_yaml, pod_yaml, running, write
from tests.fakes.process import until
from tests.fakes.sts import NODE_KEY, FakeSts
from tests.fakes.upstream_imds import DOCUMENT, FakeUpstream

POD, OTHER = "127.0.0.2", "127.0.0.3"
HOST = "169.254.169.254"
ROLES = "/latest/meta-data/iam/security-credentials"
TTL, TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
FLUENT_FIELDS = ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")
VECTOR_DOCUMENT = {**DOCUMENT, "architecture": "arm64", "imageId": "ami-0", "privateIp": "10.0.0.1", "version": "2017"}


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


@dataclass(frozen=True, slots=True)
class World:
    """A running agent."""

    agent: Agent

    @asynccontextmanager
    async def wire(self, pod: str = POD) -> AsyncIterator[Wire]:
        """A connection as the pod."""
        host, port = self.agent.addresses[0]
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

    async def token(self, *lines: str) -> str:
        """What a token request with these header lines is answered with."""
        said = await self.once("PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", *lines)
        assert said.status == 200
        return said.text


@pytest.fixture(params=["optional", "required"])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """A pod whose role is served, in both modes of tokens; another one that asks for no role."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", NODE_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    await write(
        tmp_path / "pods.yaml",
        namespace_yaml("shop"),
        pod_yaml("shop", "web", POD, role="shop-web"),
        pod_yaml("shop", "idle", OTHER),
    )
    async with FakeSts() as sts, FakeUpstream() as upstream:
        upstream.items["dynamic/instance-identity/document"] = json.dumps(VECTOR_DOCUMENT)
        flags = (
            f"--source.manifests={tmp_path / 'pods.yaml'}",
            f"--sts.endpoint-url={sts.url}",
            f"--upstream.url={upstream.url}",
            f"--tokens.mode={request.param}",
            "--sts.region=us-east-1",
            "--role-base-arn=arn:aws:iam::123456789012:role/",
            "--server.hold=9",
        )
        async with running(*flags) as agent:
            yield World(agent)


def date(text: str) -> datetime:
    """A date in the only form that every parser takes."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


# .NET: a token for each request, the list without a slash, and credentials for every line of it.


async def dotnet(world: World, path: str) -> Said:
    """A token, then the item, each on a connection that may be kept."""
    agent = "User-Agent: aws-sdk-dotnet-coreclr/3.7.0.0 .NET_Core/8.0.0 OS/Linux"
    async with world.wire() as wire:
        token = await wire.send(
            "PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", f"{TTL}: 21600", agent, "Content-Length: 0"
        )
        assert token.status == 200
        return await wire.send(f"GET {path} HTTP/1.1", f"Host: {HOST}", f"{TOKEN}: {token.text}", agent)


async def test_dotnet_default_chain(world: World) -> None:
    """Each line of the list is a role whose document has its dates and keys."""
    listed = await dotnet(world, ROLES)
    names = listed.text.split("\n")
    assert (listed.status, names) == (200, ["shop-web"])
    for name in names:
        document = json.loads((await dotnet(world, f"{ROLES}/{name}")).text)
        assert document["Code"] == "Success"
        assert date(document["LastUpdated"]) <= datetime.now(UTC) < date(document["Expiration"])
        assert all(document[field] for field in ("AccessKeyId", "SecretAccessKey", "Token"))


async def test_dotnet_explicit_provider(world: World) -> None:
    """The profile's info says Success and nothing else; what is split at a break of a line in HTML is one name."""
    info = json.loads((await dotnet(world, "/latest/meta-data/iam/info")).text)
    assert info["Code"] == "Success"
    assert not info.get("Message")
    assert date(info["LastUpdated"]) <= datetime.now(UTC)
    assert info["InstanceProfileArn"].startswith("arn:aws:iam::123456789012:instance-profile/")
    names = (await dotnet(world, f"{ROLES}/")).text.split("<br/>")
    assert names == ["shop-web"]
    document = json.loads((await dotnet(world, f"{ROLES}/{names[0]}")).text)
    assert document["Code"] == "Success"
    assert (date(document["Expiration"]) - datetime.now(UTC)).total_seconds() > 15 * 60


async def test_dotnet_region(world: World) -> None:
    """The identity document has the region."""
    said = await dotnet(world, "/latest/dynamic/instance-identity/document")
    assert json.loads(said.text)["region"] == "eu-west-1"


# PHP: the body of the list is the role, whole.


@pytest.mark.parametrize("path", [ROLES, f"{ROLES}-extended"], ids=["legacy", "extended"])
async def test_php(world: World, path: str) -> None:
    """With the older path and the extended one."""
    agent = "User-Agent: aws-sdk-php/3.300.0 ua/2.0 OS/Linux#6.1 lang/php#8.2.0 GuzzleHttp/7"
    token = await world.token(f"{TTL}: 21600", agent)
    shown = (f"Host: {HOST}", f"{TOKEN}: {token}", agent)
    role = await world.once(f"GET {path}/ HTTP/1.1", *shown)
    assert role.status == 200
    document = json.loads((await world.once(f"GET {path}/{role.text} HTTP/1.1", *shown)).text)
    assert document["Code"] == "Success"
    assert all(document[field] for field in ("AccessKeyId", "SecretAccessKey", "Token"))
    assert date(document["Expiration"]) > datetime.now(UTC)
    if path.endswith("extended"):
        assert re.fullmatch(r"\d{12}", document["AccountId"])


# fluent-bit: whether there are tokens is seen by the root with a wrong one.


async def test_fluent_bit(world: World) -> None:
    """The root refuses a wrong token; then token, list, document, and items with a slash at their end."""
    agent = "User-Agent: aws-fluent-bit-plugin"
    probe = await world.once("GET / HTTP/1.1", f"Host: {HOST}", "Content-Length: 0", agent, f"{TOKEN}: INVALID")
    assert probe.status == 401
    token = await world.token("Content-Length: 0", agent, f"{TTL}: 21600")
    shown = (f"Host: {HOST}", "Content-Length: 0", agent, f"{TOKEN}: {token}")
    role = (await world.once(f"GET {ROLES}/ HTTP/1.1", *shown)).text
    document = await world.once(f"GET {ROLES}/{role} HTTP/1.1", *shown)
    found = fluent_credentials(document.text)
    assert set(found) == set(FLUENT_FIELDS)
    assert re.fullmatch(r"\d+-\d+-\d+T\d+:\d+:\d+Z", found["Expiration"])
    for item in ("instance-id", "instance-type", "placement/availability-zone"):
        assert (await world.once(f"GET /latest/meta-data/{item}/ HTTP/1.1", *shown)).status == 200


def fluent_credentials(text: str) -> dict[str, str]:
    """Strings in their order, keys and values alike: one that begins a field's name names the one that follows."""
    strings = re.findall(r'"([^"]*)"', text)
    assert 1 + len(strings) <= 50, "its reader has room for fifty tokens"
    assert all(strings), "an empty string begins every name"
    found = {}
    for string, following in itertools.pairwise(strings):
        for name in FLUENT_FIELDS:
            if name.startswith(string):
                found[name] = following
    return found


# vector: no way without tokens, a document with eight fields, other items or their absence.


async def test_vector(world: World) -> None:
    """Each answer is 200 or 404: anything else ends its refresh."""
    token = await world.token(f"{TTL}: 21600", "accept: */*")
    shown = (f"host: {HOST}", f"{TOKEN.lower()}: {token}")
    document = json.loads((await world.once("GET /latest/dynamic/instance-identity/document HTTP/1.1", *shown)).text)
    wanted = ("accountId", "architecture", "imageId", "instanceId", "instanceType", "privateIp", "region", "version")
    assert all(isinstance(document[field], str) for field in wanted)
    statuses: dict[str, int] = {}
    for item in (
        "placement/availability-zone",
        "local-hostname",
        "local-ipv4",
        "public-hostname",
        "public-ipv4",
        "mac",
        "tags/instance/Name",
    ):
        statuses[item] = (await world.once(f"GET /latest/meta-data/{item} HTTP/1.1", *shown)).status
    assert statuses.pop("placement/availability-zone") == 200
    assert set(statuses.values()) == {404}
    roles = await world.once(f"GET {ROLES}/ HTTP/1.1", *shown)
    assert roles.text.splitlines() == ["shop-web"]


# s3fs: text between commas, searched for four words.


@pytest.mark.parametrize("expects", [False, True], ids=["plain", "expects to be told to go on"])
async def test_s3fs(world: World, expects: bool) -> None:
    """The role's first line, then a document in which exactly four pieces name a field."""
    agent = "User-Agent: s3fs/1.90 (commit hash unknown; OpenSSL)"
    # With an announced body that is empty: curl's upload as it is when nobody suppresses it.
    more = ["Content-Length: 0", "Expect: 100-continue"] if expects else []
    token = await world.token(f"{TTL}: 21600", "Accept: */*", agent, *more)
    shown = (f"Host: {HOST}", agent, "Accept: */*", f"{TOKEN}: {token}")
    role = (await world.once(f"GET {ROLES}/ HTTP/1.1", *shown)).text.split("\n", 1)[0]
    document = (await world.once(f"GET {ROLES}/{role} HTTP/1.1", *shown)).text
    found = s3fs_credentials(document)
    assert set(found) == {*FLUENT_FIELDS}
    assert (date(found["Expiration"]) - datetime.now(UTC)).total_seconds() > 20 * 60


def s3fs_credentials(text: str) -> dict[str, str]:
    """Pieces between commas; the first of these words that occurs in one names it; its value is behind a colon."""
    found: dict[str, str] = {}
    for piece in text.split(","):
        for name in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration", "RoleArn"):
            if name in piece:
                value = piece[piece.index(name) :].split(":", 1)[1]
                assert name not in found
                found[name] = value.strip(' \n"}')
                break
    return found


# The shapes that emulators are tried with.


@pytest.mark.parametrize("life", ["", "0", "-1", "21601", "abc", "1.5", None])
async def test_a_token_without_a_usable_life(world: World, life: str | None) -> None:
    """400, and nothing else gives one."""
    header = [] if life is None else [f"{TTL}: {life}"]
    said = await world.once("PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", *header)
    assert said.status == 400


@pytest.mark.parametrize("life", [1, 60, 300, 600, 21600])
async def test_the_life_of_a_token(world: World, life: int) -> None:
    """Echoed as it was asked for, in whatever spelling it was asked."""
    for spelling in (TTL, TTL.lower(), "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"):
        said = await world.once("PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", f"{spelling}: {life}")
        assert said.headers[TTL.lower()] == str(life)
        assert re.fullmatch(r"[!-~]+", said.text)


async def test_a_token_whose_life_is_over(world: World) -> None:
    """Good at first; 401 when its second is over."""
    token = await world.token(f"{TTL}: 1")
    statuses: list[int] = []

    async def over() -> bool:
        said = await world.once(f"GET {ROLES}/ HTTP/1.1", f"Host: {HOST}", f"{TOKEN}: {token}")
        statuses.append(said.status)
        return said.status == 401

    await until("the token is refused", over, lambda: str(statuses))
    assert set(statuses) <= {200, 401}


async def test_slashes(world: World) -> None:
    """With a slash at the end and without, the same body, and never a redirect."""
    shown = (f"Host: {HOST}", f"{TOKEN}: {await world.token(f'{TTL}: 60')}")
    paths = (ROLES, f"{ROLES}/shop-web", "/latest/meta-data/instance-id", "/latest/meta-data/placement/region")
    for path in (*paths, "/latest/dynamic/instance-identity/document"):
        plain, slashed = [await world.once(f"GET {path}{end} HTTP/1.1", *shown) for end in ("", "/")]
        assert (plain.status, plain.body) == (slashed.status, slashed.body) == (200, plain.body)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /latest/meta-data/no-such-item HTTP/1.1", 404),
        ("GET /no-such-version/meta-data/instance-id HTTP/1.1", 404),
        ("GET /latest/meta-data/iam/security-credentials/no-such-role HTTP/1.1", 404),
        ("GET /latest/user-data HTTP/1.1", 404),
        ("GET /latest/api/token HTTP/1.1", 405),
        ("HEAD /latest/api/token HTTP/1.1", 405),
        ("POST /latest/api/token HTTP/1.1", 405),
        ("DELETE /latest/meta-data/instance-id HTTP/1.1", 405),
        ("PUT /2021-03-23/api/token HTTP/1.1", 403),
    ],
)
async def test_what_is_not_there(world: World, line: str, status: int) -> None:
    """The status that clients tell apart, with a good token."""
    shown = (f"Host: {HOST}", f"{TOKEN}: {await world.token(f'{TTL}: 60')}", f"{TTL}: 60")
    assert (await world.once(line, *shown)).status == status


@pytest.mark.parametrize("path", ["/", ROLES, f"{ROLES}/shop-web", "/latest/meta-data/instance-id"])
async def test_tokens_of_others(world: World, path: str) -> None:
    """A wrong token is 401 in both modes, another pod's too; none is 401 where they are required."""
    token = await world.token(f"{TTL}: 60")
    request = (f"GET {path} HTTP/1.1", f"Host: {HOST}")
    assert (await world.once(*request, f"{TOKEN}: {token[::-1]}")).status == 401
    assert (await world.once(*request, f"{TOKEN}: {token}", pod=OTHER)).status == 401
    assert (await world.once(*request, f"{TOKEN}: {token}")).status == 200


async def test_head(world: World) -> None:
    """As GET, with the length and without the body."""
    shown = (f"Host: {HOST}", f"{TOKEN}: {await world.token(f'{TTL}: 60')}")
    for path in ("/", ROLES, f"{ROLES}/shop-web", "/latest/meta-data/instance-id"):
        got, head = [await world.once(f"{method} {path} HTTP/1.1", *shown) for method in ("GET", "HEAD")]
        assert (head.status, head.headers["content-length"]) == (200, str(len(got.body)))


@pytest.mark.parametrize("version", ["1.0", "2012-01-12", "2016-09-02", "2021-03-23", "latest"])
async def test_versions(world: World, version: str) -> None:
    """Roles and items are below each of them, and a token is good for all."""
    shown = (f"Host: {HOST}", f"{TOKEN}: {await world.token(f'{TTL}: 60')}")
    listed = await world.once(f"GET /{version}/meta-data/iam/security-credentials/ HTTP/1.1", *shown)
    assert (listed.status, listed.text) == (200, "shop-web")
    assert (await world.once(f"GET /{version}/meta-data/instance-id HTTP/1.1", *shown)).status == 200
    versions: Any = (await world.once("GET / HTTP/1.1", *shown)).text.splitlines()
    assert version in versions


async def test_a_pod_without_a_role(world: World) -> None:
    """404 on the list, with a body that has a space: one client takes any other for a role."""
    said = await world.once("PUT /latest/api/token HTTP/1.1", f"Host: {HOST}", f"{TTL}: 60", pod=OTHER)
    listed = await world.once(f"GET {ROLES}/ HTTP/1.1", f"Host: {HOST}", f"{TOKEN}: {said.text}", pod=OTHER)
    assert listed.status == 404
    assert b" " in listed.body

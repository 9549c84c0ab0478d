"""The tour of the demo: what each pod asks, and what it should get.

Knows: how to ask as a pod, by hand and by an unmodified SDK.
Must not know: anything that an agent does not show at its edge; how one is started.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from metaproxy.demo_pods import LIST, NODES, REGION, trust
from metaproxy.demo_sts import DemoSts

PATIENCE = 120.0
"""Seconds for something to start: many times what it takes."""

SDK = """\
import boto3, sys
print(boto3.client("sts", region_name=sys.argv[1], endpoint_url=sys.argv[2]).get_caller_identity()["Arn"])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the tour's table."""

    pod: str
    what: str
    got: str
    right: bool


class Clock:
    """Wall time that the tour may turn ahead, to see a renewal without waiting for half an hour."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """Unix seconds."""
        return time.time() + self.ahead


async def tour(sts: DemoSts, one: str, two: str, clock: Clock) -> AsyncIterator[Step]:
    """Each pod asks its agent; what it got, as it comes. `clock` is turned ahead in the end, for a renewal."""
    token = await ask(one, "127.0.0.2", "/latest/api/token", method="PUT")
    yield Step(pod="shop/web", what="IMDSv2 token", got=f"{token.status}", right=token.status == 200)  # noqa: PLR2004
    listed = await ask(one, "127.0.0.2", LIST, token=token.text)
    yield Step(pod="shop/web", what="role list", got=listed.text, right=listed.text == "shop-web")

    who = await _sdk(sts, one, "127.0.0.2")
    yield Step(
        pod="shop/web", what="boto3, trusted by node role", got=who, right="assumed-role/shop-web/shop.web" in who
    )
    who = await _sdk(sts, one, "127.0.0.4")
    yield Step(pod="shop/audit", what="boto3, with external id", got=who, right="assumed-role/shop-audit/" in who)

    refused = await ask(one, "127.0.0.3", LIST)
    yield Step(
        pod="shop/orders", what="trusts the separate role only", got=refused.code, right=refused.code == "StsDenied"
    )
    who = await _sdk(sts, two, "127.0.0.3")
    yield Step(
        pod="shop/orders (2)",
        what="boto3, through the separate role",
        got=who,
        right="assumed-role/shop-orders/" in who,
    )

    refused = await ask(one, "127.0.0.5", LIST)
    yield Step(pod="shop/reports", what="trust policy lacks us", got=refused.code, right=NODES in refused.message)
    yield Step(pod="", what="  missing statement", got=json.dumps(trust(NODES)["Statement"][0]), right=True)
    refused = await ask(one, "127.0.0.6", LIST)
    yield Step(
        pod="lab/curious", what="namespace forbids the role", got=refused.code, right=refused.code == "NotPermitted"
    )
    refused = await ask(one, "127.0.0.7", LIST)
    yield Step(pod="lab/plain", what="no annotation", got=refused.code, right=refused.code == "NoRole")

    before = after = (await ask(one, "127.0.0.2", f"{LIST}shop-web")).json.get("AccessKeyId", "nothing")
    clock.ahead = 40 * 60
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while after == before:
                await asyncio.sleep(0.02)
                after = (await ask(one, "127.0.0.2", f"{LIST}shop-web")).json.get("AccessKeyId", "nothing")
    yield Step(pod="shop/web", what="renewed, 40 minutes later", got=f"{before} → {after}", right=after != before)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    status: int
    text: str

    @property
    def json(self) -> Mapping[str, str]:
        return json.loads(self.text)  # type: ignore[no-any-return]

    @property
    def code(self) -> str:
        return self.json.get("code", "")

    @property
    def message(self) -> str:
        return self.json.get("message", "")


async def ask(url: str, pod: str, path: str, *, method: str = "GET", token: str = "") -> _Reply:
    """Ask as the pod: from its address, on a connection of its own."""
    headers = {"X-aws-ec2-metadata-token": token} if token else {}
    if method == "PUT":
        headers["X-aws-ec2-metadata-token-ttl-seconds"] = "21600"
    connector = aiohttp.TCPConnector(local_addr=(pod, 0))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.request(method, f"{url}{path}", headers=headers) as response,
    ):
        return _Reply(status=response.status, text=await response.text())


async def _sdk(sts: DemoSts, url: str, pod: str) -> str:
    """Who boto3, unmodified and told nothing but where the metadata service is, turns out to be in the pod."""
    async with _wire(url, pod) as endpoint:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SDK,
            REGION,
            sts.url,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                **hermetic(Path(tempfile.gettempdir()), {}),
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint,
            },
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    return out.decode().strip()


@asynccontextmanager
async def _wire(url: str, pod: str) -> AsyncIterator[str]:
    """What the node's redirect does for a real pod: connections come out with the pod's own source address."""
    host, _, port = url.removeprefix("http://").partition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port), local_addr=(pod, 0))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back))
                group.create_task(_pump(there, writer))
        finally:
            for end in (writer, back):
                end.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def hermetic(folder: Path, credentials: Mapping[str, str]) -> dict[str, str]:
    """An environment in which no SDK finds anything but what it is given."""
    return {
        "AWS_CONFIG_FILE": str(folder / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        **credentials,
    }

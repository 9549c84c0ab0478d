"""The whole program on one machine: no cluster, no account.

Knows: an embedded STS that checks trust policies, a file of pods that are loopback addresses, two agents, and a tour
through what each pod gets.
Must not know: anything that the agent does not show at its edge.

Agent one runs in this process with the node role's credentials; agent two is a process of its own, in "another cluster"
with another node role, and goes through the separate role that application roles trust.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from metaproxy.app import Agent
from metaproxy.demo_sts import DemoSts
from metaproxy.settings import Settings
from metaproxy.telemetry import configure_logging

ACCOUNT = "111122223333"
REGION = "us-east-1"
NODES = f"arn:aws:iam::{ACCOUNT}:role/demo-nodes"
OTHER_NODES = f"arn:aws:iam::{ACCOUNT}:role/other-cluster-nodes"
SEPARATE = f"arn:aws:iam::{ACCOUNT}:role/metaproxy"
BASE = f"arn:aws:iam::{ACCOUNT}:role/"
EXTERNAL_ID = "shop-4711"
LIST = "/latest/meta-data/iam/security-credentials/"

PATIENCE = 120.0
"""Seconds for something to start: many times what it takes."""

PODS = f"""\
# Each pod is a loopback address: what is asked from there is asked by that pod.
kind: Namespace
metadata: {{name: shop, annotations: {{iam.amazonaws.com/permitted: '{BASE}shop-.*'}}}}
---
kind: Namespace
metadata: {{name: lab, annotations: {{iam.amazonaws.com/allowed-roles: '["lab-*"]'}}}}
---
kind: Pod
metadata: {{namespace: shop, name: web, annotations: {{iam.amazonaws.com/role: shop-web}}}}
status: {{phase: Running, podIP: 127.0.0.2}}
---
kind: Pod
metadata: {{namespace: shop, name: orders, annotations: {{iam.amazonaws.com/role: shop-orders}}}}
status: {{phase: Running, podIP: 127.0.0.3}}
---
kind: Pod
metadata:
  namespace: shop
  name: audit
  annotations: {{iam.amazonaws.com/role: shop-audit, iam.amazonaws.com/external-id: {EXTERNAL_ID}}}
status: {{phase: Running, podIP: 127.0.0.4}}
---
kind: Pod
metadata: {{namespace: shop, name: reports, annotations: {{iam.amazonaws.com/role: shop-reports}}}}
status: {{phase: Running, podIP: 127.0.0.5}}
---
kind: Pod
metadata: {{namespace: lab, name: curious, annotations: {{iam.amazonaws.com/role: shop-web}}}}
status: {{phase: Running, podIP: 127.0.0.6}}
---
kind: Pod
metadata: {{namespace: lab, name: plain}}
status: {{phase: Running, podIP: 127.0.0.7}}
"""

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


def trust(*principals: str, external_id: str = "") -> dict[str, Any]:
    """A trust policy as IAM has them."""
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"AWS": list(principals)},
    }
    if external_id:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return {"Version": "2012-10-17", "Statement": [statement]}


ROLES = {
    NODES: trust("*"),
    OTHER_NODES: trust("*"),
    SEPARATE: trust(NODES, OTHER_NODES),
    f"{BASE}shop-web": trust(NODES),
    f"{BASE}shop-orders": trust(SEPARATE),
    f"{BASE}shop-audit": trust(NODES, external_id=EXTERNAL_ID),
    f"{BASE}shop-reports": trust(f"arn:aws:iam::{ACCOUNT}:role/somebody-else"),
}


class Clock:
    """Wall time that the tour may turn ahead, to see a renewal without waiting for half an hour."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        """Unix seconds."""
        return time.time() + self.ahead


def main(*, once: bool, port: int | None = None) -> int:
    """The command: 0 when everything in the tour went as it should, 1 when not."""
    configure_logging(json=False, level="error")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    return asyncio.run(_demo(once=once, port=port))


async def _demo(*, once: bool, port: int | None) -> int:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metaproxy-demo-")))
        (folder / "pods.yaml").write_text(PODS)
        sts = await stack.enter_async_context(DemoSts())
        for arn, policy in ROLES.items():
            sts.add_role(arn, policy)
        clock = Clock()
        print("metaproxy demo: an STS, two clusters, six pods, one machine.\n")
        one = await stack.enter_async_context(_agent(sts, folder, clock, port))
        two = await stack.enter_async_context(_other_cluster(sts, folder))
        steps = [step async for step in _tour(sts, one, two, clock)]
        _print_table(steps)
        if not all(step.right for step in steps):
            print("\nSomething did not go as it should.")
            return 1
        if once:
            return 0
        _print_invitation(one, two)
        await _until_interrupted()
    return 0


def _arguments(sts: DemoSts, folder: Path, name: str, port: int) -> list[str]:
    return [
        f"--server.listen=127.0.0.1:{port}",
        "--admin.listen=127.0.0.1:0",
        f"--source.manifests={folder / 'pods.yaml'}",
        f"--sts.endpoint-url={sts.url}",
        f"--sts.region={REGION}",
        f"--tokens.key-file={folder / f'{name}.key'}",
        "--upstream.profile=none",
        f"--node-name={name}",
        "--log.level=error",
    ]


@asynccontextmanager
async def _agent(sts: DemoSts, folder: Path, clock: Clock, port: int | None) -> AsyncIterator[str]:
    """Agent one, in this process, with the node role's credentials; yields its URL."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(_hermetic(folder, await sts.node_credentials(NODES)))
    arguments = _arguments(sts, folder, "node-one", port or _free_port())
    settings = Settings.load(arguments)
    agent, stop = Agent(settings, clock=clock), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(agent.run(stop), name="agent")
        await agent.listening.wait()
        host, number = agent.addresses[0]
        await _answers(f"http://{host}:{number}")
        yield f"http://{host}:{number}"
        stop.set()


@asynccontextmanager
async def _other_cluster(sts: DemoSts, folder: Path) -> AsyncIterator[str]:
    """Agent two, a process of its own as an operator would start it; yields its URL."""
    port = _free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **_hermetic(folder, await sts.node_credentials(OTHER_NODES)),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "metaproxy",
        "run",
        *_arguments(sts, folder, "node-two", port),
        f"--assume-role-arn={SEPARATE}",
        env=environment,
    )
    try:
        await _answers(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _tour(sts: DemoSts, one: str, two: str, clock: Clock) -> AsyncIterator[Step]:
    token = await _ask(one, "127.0.0.2", "/latest/api/token", method="PUT")
    yield Step(pod="shop/web", what="IMDSv2 token", got=f"{token.status}", right=token.status == 200)  # noqa: PLR2004
    listed = await _ask(one, "127.0.0.2", LIST, token=token.text)
    yield Step(pod="shop/web", what="role list", got=listed.text, right=listed.text == "shop-web")

    who = await _sdk(sts, one, "127.0.0.2")
    yield Step(
        pod="shop/web", what="boto3, trusted by node role", got=who, right="assumed-role/shop-web/shop.web" in who
    )
    who = await _sdk(sts, one, "127.0.0.4")
    yield Step(pod="shop/audit", what="boto3, with external id", got=who, right="assumed-role/shop-audit/" in who)

    refused = await _ask(one, "127.0.0.3", LIST)
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

    refused = await _ask(one, "127.0.0.5", LIST)
    yield Step(pod="shop/reports", what="trust policy lacks us", got=refused.code, right=NODES in refused.message)
    yield Step(pod="", what="  missing statement", got=json.dumps(trust(NODES)["Statement"][0]), right=True)
    refused = await _ask(one, "127.0.0.6", LIST)
    yield Step(
        pod="lab/curious", what="namespace forbids the role", got=refused.code, right=refused.code == "NotPermitted"
    )
    refused = await _ask(one, "127.0.0.7", LIST)
    yield Step(pod="lab/plain", what="no annotation", got=refused.code, right=refused.code == "NoRole")

    before = after = (await _ask(one, "127.0.0.2", f"{LIST}shop-web")).json.get("AccessKeyId", "nothing")
    clock.ahead = 40 * 60
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while after == before:
                await asyncio.sleep(0.02)
                after = (await _ask(one, "127.0.0.2", f"{LIST}shop-web")).json.get("AccessKeyId", "nothing")
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


async def _ask(url: str, pod: str, path: str, *, method: str = "GET", token: str = "") -> _Reply:
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
                **_hermetic(Path(tempfile.gettempdir()), {}),
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


async def _answers(url: str) -> None:
    """Wait until an agent answers a pod."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(aiohttp.ClientError):
                if (await _ask(url, "127.0.0.7", LIST)).code == "NoRole":
                    return
            await asyncio.sleep(0.05)


def _hermetic(folder: Path, credentials: Mapping[str, str]) -> dict[str, str]:
    """An environment in which no SDK finds anything but what it is given."""
    return {
        "AWS_CONFIG_FILE": str(folder / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        **credentials,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _print_table(steps: list[Step]) -> None:
    for step in steps:
        mark = "ok " if step.right else "NO "
        print(f"  {mark} {step.pod:<17} {step.what:<34} {step.got}")


def _print_invitation(one: str, two: str) -> None:
    print(
        f"""
Still serving. Each of these is a pod asking:

  curl --interface 127.0.0.2 {one}{LIST}
  curl --interface 127.0.0.2 {one}{LIST}shop-web
  curl --interface 127.0.0.5 {one}{LIST}
  curl --interface 127.0.0.6 {one}/metaproxy/explain
  curl --interface 127.0.0.3 {two}{LIST}shop-orders

Ctrl-C ends it."""
    )


async def _until_interrupted() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()

"""The clients as pods behind a real redirect: three styles of pods on a node, IPv4 and IPv6, no endpoint named.

Knows: how a client is put into a pod of the network tests' node.
Must not know: what is expected of it.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tests.conformance.calls import Calls
from tests.conformance.exchanges import Exchange, recorded
from tests.conformance.post import PROVE_AT, Traffic, listening
from tests.conformance.proving import Prover
from tests.conformance.registry import Client
from tests.fakes.process import ROLES, until
from tests.fakes.sts import FakeSts
from tests.network.lab.node import METADATA, OWN, Lab, Pod
from tests.network.lab.processes import Process

ROUTES: Mapping[str, int] = {"real redirect, IPv4": 4, "real redirect, IPv6": 6}
"""The name of each run, and its family."""

_FAMILY = {4: {}, 6: {"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}}
_STS_AT = ("127.0.0.1", 8080)

MARK = "GET explain"

Done = Callable[[Client, str, Calls], None]
"""Who is told of a client, the name of its run, and what it did."""


def routes(client: Client) -> list[str]:
    """The runs in which a client takes part: over IPv6 only those that can be told to prefer it."""
    return [name for name, family in ROUTES.items() if family != max(ROUTES.values()) or client.ipv6]


async def run(clients: Sequence[Client], tokens: str, done: Done) -> None:
    """Every client in each of its runs, tokens as told; fails when the real metadata service was ever asked."""
    with tempfile.TemporaryDirectory(prefix="metaproxy-redirected-") as name:
        lab = Lab(Path(name))
        await asyncio.to_thread(lab.__enter__)
        try:
            await asyncio.to_thread(lab.apply)
            async with FakeSts() as sts:
                await sts.listen(listening(lab.node, _STS_AT))
                agent = await asyncio.to_thread(_agent, lab, Path(name), tokens)
                jobs = iter([(client, route) for client in clients for route in routes(client)])
                async with asyncio.TaskGroup() as group:
                    for pod in lab.pods:
                        group.create_task(_work(pod, jobs, sts, agent, tokens, done), name=f"pod {pod.style}")
            leaks = await asyncio.to_thread(lab.leaks)
            assert leaks == [], f"the real service was asked: {leaks}"
        finally:
            await asyncio.to_thread(lab.__exit__, None, None, None)


def _agent(lab: Lab, folder: Path, tokens: str) -> Process:
    lab.declare()
    host, port = _STS_AT
    agent = lab.start(
        *(sys.executable, "-m", "metaproxy", "run", "--log.format=json", "--log.level=debug"),
        f"--source.manifests={folder / 'pods.yaml'}",
        *(f"--server.listen={address}:{lab.port}" for address in (OWN[4], f"[{OWN[6]}]")),
        "--server.accept-direct=false",
        f"--tokens.key-file={folder / 'key'}",
        f"--tokens.mode={tokens}",
        f"--sts.endpoint-url=http://{host}:{port}",
        *("--sts.region=us-east-1", "--role-base-arn=arn:aws:iam::123456789012:role/", "--upstream.profile=none"),
    )
    agent.wait_for('"listening"', '"manifests are read"')
    return agent


async def _work(
    pod: Pod, jobs: Iterator[tuple[Client, str]], sts: FakeSts, agent: Process, tokens: str, done: Done
) -> None:
    traffic = Traffic("", ("", 0))
    async with _proving(pod, Prover(sts), traffic):
        for client, route in jobs:
            family = ROUTES[route]
            await asyncio.to_thread(_demands, pod, family, tokens)
            calls = Calls(
                client,
                namespace=pod.namespace,
                traffic=traffic,
                sts=sts,
                owner=f"arn:aws:iam::123456789012:role/{pod.role} shop.{pod.style}",
                environment=_FAMILY[family],
            )
            try:
                for call in (calls.first, calls.again):
                    before, made = len(await _asked(pod, family, agent)), len(calls.calls)
                    await call()
                    for one in calls.calls[made:]:
                        one.requests = (await _asked(pod, family, agent))[before:]
            finally:
                await calls.close()
            done(client, route, calls)


def _demands(pod: Pod, family: int, tokens: str) -> None:
    """See that the agent demands a token of the pod as it should."""
    said = pod.curl(f"http://{_host(family)}{ROLES}", "-o", "/dev/null", "-w", "%{http_code}")
    assert (said == "401") is (tokens == "required"), f"without a token: {said}, tokens are {tokens}"


@asynccontextmanager
async def _proving(pod: Pod, prover: Prover, traffic: Traffic) -> AsyncIterator[None]:
    async def prove(request: web.BaseRequest) -> web.StreamResponse:
        return await prover.answer(request, traffic.proofs)

    runner = web.ServerRunner(web.Server(prove), shutdown_timeout=0)
    await runner.setup()
    try:
        await web.SockSite(runner, listening(pod.namespace, PROVE_AT)).start()
        yield
    finally:
        await runner.cleanup()


async def _asked(pod: Pod, family: int, agent: Process) -> list[Exchange]:
    """All that the agent was asked from the pod's address so far.

    Its word of a request comes a moment after its answer, so it is asked for something that no client asks for, and all
    that it says before that counts.
    """
    before = _marks(_said(agent, pod.addresses[family]))
    await asyncio.to_thread(_mark, pod, family)
    said: list[Exchange] = []

    def heard() -> bool:
        said[:] = _said(agent, pod.addresses[family])
        return _marks(said) > before

    await until("the agent has said what it was asked", heard, lambda: "\n".join(agent.lines[-20:]))
    # A mark is two requests: a token's, and the one that shows it.
    return [one for one, after in zip(said, [*said[1:], None], strict=True) if not _marks([one, after])]


def _mark(pod: Pod, family: int) -> None:
    host = f"http://{_host(family)}"
    token = pod.curl(f"{host}/latest/api/token", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60")
    pod.curl(f"{host}/metaproxy/explain", "-H", f"X-aws-ec2-metadata-token: {token}")


def _host(family: int) -> str:
    return f"[{METADATA[family]}]" if ":" in METADATA[family] else METADATA[family]


def _marks(said: Sequence[Exchange | None]) -> int:
    return sum(one is not None and one.told == MARK for one in said)


def _said(agent: Process, peer: str) -> list[Exchange]:
    said = [json.loads(line) for line in list(agent.lines) if line.startswith("{") and f'"{peer}"' in line]
    return [recorded(one["method"], one["route"], one["status"]) for one in said if one.get("event") == "request"]

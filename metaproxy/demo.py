"""The whole program on one machine: no cluster, no account.

Knows: how an embedded STS that checks trust policies, a file of pods and two agents are put together, and how the tour
is told.
Must not know: what the pods ask.

Agent one runs in this process with the node role's credentials; agent two is a process of its own, in "another cluster"
with another node role, and goes through the separate role that application roles trust.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from metaproxy.app import Agent
from metaproxy.demo_pods import LIST, NODES, OTHER_NODES, PODS, REGION, ROLES, SEPARATE
from metaproxy.demo_sts import DemoSts
from metaproxy.demo_tour import PATIENCE, Clock, Step, ask, hermetic, tour
from metaproxy.settings import Settings
from metaproxy.telemetry import configure_logging


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
        steps = [step async for step in tour(sts, one, two, clock)]
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
    os.environ.update(hermetic(folder, await sts.node_credentials(NODES)))
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
        **hermetic(folder, await sts.node_credentials(OTHER_NODES)),
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


async def _answers(url: str) -> None:
    """Wait until an agent answers a pod."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(aiohttp.ClientError):
                if (await ask(url, "127.0.0.7", LIST)).code == "NoRole":
                    return
            await asyncio.sleep(0.05)


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

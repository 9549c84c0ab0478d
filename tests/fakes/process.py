"""The agent as an operator runs it, a process of its own, and pods that ask it: nothing of it is in the test's process.

A pod is a loopback address. The process has loopback addresses of its own too, so that no two race for a port.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.fakes.agent import ask
from tests.fakes.sts import NODE_KEY

PATIENCE = 180.0
"""Seconds: many times what anything here takes."""

PAUSE = 0.02
"""Seconds between two looks at something that rings no bell."""


OWN_SECRET = "own-secret-of-the-node"

ROLES = "/latest/meta-data/iam/security-credentials/"


def own_address() -> str:
    """A loopback address that nobody else uses."""
    return f"127.{100 + secrets.randbelow(100)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"


class AgentProcess:
    """A running `metaproxy run`."""

    def __init__(
        self,
        folder: Path,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        host: str | None = None,
        port: int = 8181,
        prefix: tuple[str, ...] = (),
        patience: float = PATIENCE,
    ) -> None:
        self.patience = patience
        self.host = host or own_address()
        self.url = f"http://{self.host}:{port}"
        self.admin = f"{self.host}:9181"
        self.log_file = folder / "agent.log"
        self.socket = folder / "admin.sock"
        self._prefix = prefix
        self._arguments = (
            f"--server.listen={self.host}:{port}",
            "--server.accept-direct=true",
            f"--admin.listen={self.admin}",
            f"--upstream.url=http://{self.host}:9",
            "--sts.region=us-east-1",
            "--role-base-arn=arn:aws:iam::123456789012:role/",
            *arguments,
        )
        own = {"AWS_ACCESS_KEY_ID": NODE_KEY, "AWS_SECRET_ACCESS_KEY": OWN_SECRET}
        self._environment = {**os.environ, **own, **environment}
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start it, with its log appended to what an earlier one left."""
        with self.log_file.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(*self._prefix, sys.executable, "-m", "metaproxy", "run", *self._arguments),
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end: the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(self.patience):
            return await self.process.wait()

    def log(self) -> str:
        """Everything that it has said."""
        return self.log_file.read_text()

    async def admin_get(self, path: str) -> tuple[int, str]:
        """What the operator's listener says; status 0 while nobody listens."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{self.admin}{path}") as response,
            ):
                return response.status, await response.text()
        except aiohttp.ClientConnectionError:
            return 0, ""

    async def own(self, path: str) -> str:
        """What this very process says at its unix socket, whoever has the operator's address; empty while it is not."""
        connector = aiohttp.UnixConnector(str(self.socket))
        try:
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get(f"http://own{path}") as answer,
            ):
                return await answer.text()
        except aiohttp.ClientConnectionError:
            return ""

    async def until_ready(self) -> None:
        """Wait until it says that it is ready."""

        async def ready() -> bool:
            assert self.process.returncode is None, self.log()
            return (await self.admin_get("/readyz"))[0] == 200

        await until("the agent is ready", ready, self.log, patience=self.patience)

    async def until_up(self) -> None:
        """Wait until the operator and pods are listened to, ready or not."""

        async def up() -> bool:
            assert self.process.returncode is None, self.log()
            return "[+] listener" in (await self.admin_get("/readyz?verbose"))[1]

        await until("the agent listens", up, self.log, patience=self.patience)

    async def ask(
        self, pod: str, path: str = ROLES, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """What a pod is told: status and body."""
        status, body, _ = await ask(self.url, pod, path, method=method, headers=headers)
        return status, body

    async def until_told(self, pod: str, status: int, part: str, path: str = ROLES) -> bytes:
        """Ask as the pod until it is told this; the body."""
        last = 0, b""

        async def told() -> bool:
            nonlocal last
            last = await self.ask(pod, path)
            return last[0] == status and part.encode() in last[1]

        await until(f"{pod} is told {status} {part}", told, lambda: f"told last: {last}\n{self.log()}")
        return last[1]

    async def command(self, *words: str) -> tuple[int, str]:
        """Run a command that asks this agent: exit code and what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "metaproxy", *words, f"--admin.listen={self.admin}"),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()


async def until(
    what: str,
    reached: Callable[[], object],
    explain: Callable[[], str],
    *,
    patience: float = PATIENCE,
    longest: float = PAUSE,
) -> None:
    """Look again and again, by a function or coroutine function, until it is so; the pauses grow up to the longest."""
    pause = PAUSE
    try:
        async with asyncio.timeout(patience):
            while True:
                outcome = reached()
                if await outcome if asyncio.iscoroutine(outcome) else outcome:
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, longest)
    except TimeoutError:
        raise AssertionError(f"not within {patience:.0f} s: {what}\n{explain()}") from None


@asynccontextmanager
async def running(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> AsyncIterator[AgentProcess]:
    """An agent that was started, and is ended by SIGTERM with exit code 0 unless the test ended it.

    `prefix` begins the command that starts it.
    """
    agent = AgentProcess(folder, arguments, environment or {}, prefix=prefix)
    await agent.start()
    try:
        yield agent
    except BaseException:
        print(agent.log())
        raise
    finally:
        ended = agent.process.returncode is not None
        code = await agent.stop()
    assert ended or code == 0, agent.log()

"""One cell of the matrix: a client as a pod of its own, with a role of its own, and what is done to both.

Knows: how a pod is declared, how a client is started, asked again, and believed.
Must not know: which situation it is in, what should come of it.
"""

import asyncio
import json
import os
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from metaproxy.errors import Reason
from tests.conformance.post import PROVE_AT, Post, Traffic
from tests.conformance.registry import Client
from tests.conformance.results import Got
from tests.fakes.process import ROLES, AgentProcess, until
from tests.fakes.sts import FakeSts, Step

ACCOUNT = "123456789012"

HANG = 100.0
"""Seconds after which a call that has not ended is taken for one that never will: above every client's budget."""

_NUMBERED = "127.{}.{}.{}"
_REASON = re.compile(r"\b(" + "|".join(sorted(reason.value for reason in Reason)) + r")\b")
_TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}


@dataclass
class Stage:
    """What all cells share: the STS, the agent, the folder from which it knows pods, and turns to make a call.

    Not more clients at once than turns: the agent must have its share of the machine, as on a node.
    """

    sts: FakeSts
    upstream: str
    agent: AgentProcess
    folder: Path
    turns: asyncio.Semaphore


@dataclass
class Call:
    """One call of the client, as it was told and seen."""

    got: Got
    said: str = ""
    requests: list[str] = field(default_factory=list)
    seconds: float = 0.0
    role: str = ""

    @property
    def reason(self) -> str:
        """The reason code that the message shows, or empty."""
        found = _REASON.search(self.said) if self.got is Got.REFUSED else None
        return found[1] if found else ""


class Cell:
    """See the module. `calls` are the client's calls so far, `tokens` the mode of its namespace."""

    def __init__(self, stage: Stage, post: Post, client: Client, *, number: int, tokens: str, region: bool) -> None:
        self.stage, self.post, self.client = stage, post, client
        self.calls: list[Call] = []
        self._name = f"cell{number}"
        self._tokens = tokens
        pod = _NUMBERED.format(1 + number // 62_500, number // 250 % 250, 1 + number % 250)
        self.agent = stage.agent
        self._folder = stage.folder
        self.traffic = Traffic(pod, (stage.agent.host, 8181))
        post.traffic = self.traffic
        self._home = tempfile.TemporaryDirectory(prefix="metaproxy-client-")
        self._region = region
        self._process: asyncio.subprocess.Process | None = None
        self._errors: asyncio.Task[bytes] | None = None

    def role(self, letter: str = "a") -> str:
        """The ARN of a role of this cell alone."""
        return f"arn:aws:iam::{ACCOUNT}:role/{self._name}-{letter}"

    async def declare(self, role: str | None = "a", *, permitted: bool = True) -> None:
        """The pod is this from now on: with this role of the cell's, or without one; its namespace permits or not."""
        permits = f"{self._name}-.*" if permitted else "nothing"
        marks = f"iam.amazonaws.com/permitted: '.*:role/{permits}', metaproxy.dev/imds-tokens: {self._tokens}"
        annotations = f"annotations: {{iam.amazonaws.com/role: {self._name}-{role}}}" if role else "annotations: {}"
        text = (
            f"kind: Namespace\nmetadata: {{name: {self._name}, annotations: {{{marks}}}}}\n---\n"
            f"kind: Pod\nmetadata: {{namespace: {self._name}, name: app, {annotations}}}\n"
            f"status: {{phase: Running, podIP: {self.traffic.pod}}}\n"
        )
        await asyncio.to_thread(self._write, text)

    def _write(self, text: str) -> None:
        aside = self._folder / f".{self._name}"
        aside.write_text(text)
        aside.rename(self._folder / f"{self._name}.yaml")

    def script(self, *steps: Step, then: Step | None = None, role: str = "a") -> None:
        """What STS does with the next requests for a role of the cell's, and with all after them."""
        self.stage.sts.script(*steps, role=self.role(role))
        if then is not None:
            self.stage.sts.settings[self.role(role)] = then

    async def served(self, role: str = "a") -> None:
        """Wait until the agent serves this role to the pod."""
        await self._told(200, f"{self._name}-{role}")

    async def refused(self, reason: Reason) -> None:
        """Wait until the agent refuses the pod for this reason."""
        await self._told(0, reason.value)

    async def _told(self, status: int, part: str) -> None:
        async def told() -> bool:
            pod = self.traffic.pod
            _, token = await self.agent.ask(pod, "/latest/api/token", method="PUT", headers=_TTL)
            shown = {"X-aws-ec2-metadata-token": token.decode()}
            said, body = await self.agent.ask(pod, ROLES, headers=shown)
            return status in {0, said} and part.encode() in body

        await until(f"{self._name} is told {part}", told, self.agent.log)

    @asynccontextmanager
    async def agent_of_its_own(self) -> AsyncIterator[AgentProcess]:
        """From here on the cell is served by an agent that serves nobody else."""
        folder = Path(self._home.name, "agent")
        (folder / "pods").mkdir(parents=True)
        self._folder = folder / "pods"
        self.agent = make_agent(folder, self.stage.sts, self.stage.upstream)
        await self.agent.start()
        self.traffic.agent = (self.agent.host, 8181)
        try:
            await self.agent.until_ready()
            yield self.agent
        finally:
            await self.agent.stop()

    async def first(self) -> None:
        """The client's first call, to its end."""
        self.calls.append(await self._call(1))

    async def again(self) -> None:
        """The second call with the same object, if the client is there for one; a tool is run anew."""
        if self.client.kind == "tool" or (
            self.client.steps > 1 and self.calls[0].got in {Got.CREDENTIALS, Got.REFUSED}
        ):
            self.calls.append(await self._call(2))

    async def when(self, event: asyncio.Event, call: asyncio.Task[None]) -> None:
        """Wait for the event, or until the call has ended without it."""
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({waiting, call}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _call(self, step: int) -> Call:
        async with self.stage.turns:
            return await self._call_now(step)

    async def _call_now(self, step: int) -> Call:
        seen, proved = len(self.traffic.requests), len(self.traffic.keys)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        try:
            async with asyncio.timeout(HANG):
                call = await (self._run_tool() if self.client.kind == "tool" else self._ask_program(step))
        except TimeoutError:
            call = Call(Got.HUNG)
        call.requests = self.traffic.requests[seen:]
        begun = self.traffic.began if step == 1 and self.traffic.began else asked
        call.seconds = loop.time() - begun
        if call.got is Got.CREDENTIALS:
            call.got, call.role = self._believed(self.traffic.keys[proved:])
        return call

    def _believed(self, keys: Sequence[str]) -> tuple[Got, str]:
        """Whether what was proved is the role and session of this pod."""
        if not keys:
            return Got.UNPROVED, ""
        for key in keys:
            role, session, _ = self.stage.sts.owner(key)
            if not role.startswith(self.role("")) or session != f"{self._name}.app":
                return Got.FOREIGN, role
        return Got.CREDENTIALS, self.stage.sts.owner(keys[-1])[0]

    async def _start(self) -> asyncio.subprocess.Process:
        host, port = PROVE_AT
        endpoint = f"http://{host}:{port}"
        places = {"{sts}": endpoint, "{s3}": endpoint, "{host}": f"{host}:{port}"}
        command = list(self.client.command)
        for name, value in places.items():
            command = [word.replace(name, value) for word in command]
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": self._home.name,
            "METADATA": "",
            "STS_URL": endpoint,
            "S3_URL": endpoint,
            **(dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), "us-east-1") if self._region else {}),
            **self.client.environment,
        }
        return await asyncio.create_subprocess_exec(
            *self.post.namespace.command(*command),
            env=environment,
            cwd=self._home.name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,
        )

    async def _run_tool(self) -> Call:
        self._process = await self._start()
        out, error = await self._process.communicate()
        said = (error + out).decode(errors="replace").strip()
        code = self._process.returncode or 0
        if _aborted(code):
            return Call(Got.ABORTED, said)
        return Call(Got.REFUSED if code else Got.CREDENTIALS, said)

    async def _ask_program(self, step: int) -> Call:
        if step == 1:
            self._process = await self._start()
            assert self._process.stderr is not None
            self._errors = asyncio.create_task(self._process.stderr.read(), name=f"{self._name} errors")
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        if step > 1:
            with suppress(ConnectionError):
                process.stdin.write(b"again\n")
                await process.stdin.drain()
        line = await process.stdout.readline()
        if line:
            told = json.loads(line)
            return Call(Got.CREDENTIALS if told["ok"] else Got.REFUSED, str(told.get("error", "")))
        code = await process.wait()
        assert self._errors is not None
        said = (await self._errors).decode(errors="replace")
        return Call(Got.ABORTED if _aborted(code) else Got.SILENT, f"exit code {code}: {said}")

    async def close(self) -> None:
        """End the client; forget the pod."""
        if (process := self._process) is not None:
            if process.returncode is None:
                assert process.stdin is not None
                process.stdin.close()
                with suppress(TimeoutError):
                    async with asyncio.timeout(10):
                        await process.wait()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if self._errors is not None:
                await self._errors
        await asyncio.to_thread((self._folder / f"{self._name}.yaml").unlink, missing_ok=True)
        await asyncio.to_thread(self._home.cleanup)


def make_agent(folder: Path, sts: FakeSts, upstream: str, *arguments: str) -> AgentProcess:
    """An agent that knows the pods of `folder/pods`; not started."""
    flags = (
        f"--source.manifests={folder / 'pods'}",
        f"--sts.endpoint-url={sts.url}",
        f"--tokens.key-file={folder / 'key'}",
        f"--upstream.url={upstream}",
    )
    return AgentProcess(folder, (*flags, *arguments), {})


def _aborted(code: int) -> bool:
    """A signal ended it: as Python tells of a child, or as a shell of its own. Above these are codes of the CLIs'."""
    return code < 0 or 128 < code <= 128 + signal.SIGSYS

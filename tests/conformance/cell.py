"""One cell of the matrix: a client as a pod of its own, with a role of its own, and what is done to both.

Knows: how a pod is declared, which agent serves it, what STS does with its role.
Must not know: which situation it is in, what should come of it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from metaproxy.errors import Reason
from tests.conformance.calls import REGION, Calls
from tests.conformance.post import Post, Traffic
from tests.conformance.registry import Client
from tests.fakes.process import ROLES, AgentProcess, until
from tests.fakes.sts import FakeSts, Step

ACCOUNT = "123456789012"
_TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}


@dataclass
class Stage:
    """What all cells share: the STS, the agent, the folder from which it knows pods, and turns.

    Not more cells are awake at once than there are turns: the agent must have its share of the machine, as on a node.
    """

    sts: FakeSts
    upstream: str
    agent: AgentProcess
    folder: Path
    turns: asyncio.Semaphore


class Cell(Calls):
    """See the module. `tokens` is the mode of its namespace; `region`: whether the client is told one."""

    def __init__(self, stage: Stage, post: Post, client: Client, *, number: int, tokens: str, region: bool) -> None:
        name = f"cell{number}"
        # Not 127.100 and above: there agents have their addresses.
        pod = f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
        super().__init__(
            client,
            namespace=post.namespace,
            traffic=Traffic(pod, (stage.agent.host, 8181)),
            sts=stage.sts,
            owner=f"arn:aws:iam::{ACCOUNT}:role/{name}-[a-z] {name}.app",
            region=REGION if region else "",
        )
        post.traffic = self.traffic
        self.stage, self.agent = stage, stage.agent
        self._name, self._tokens, self._folder = name, tokens, stage.folder

    def role(self, letter: str = "a") -> str:
        """The ARN of a role of this cell alone."""
        return f"arn:aws:iam::{ACCOUNT}:role/{self._name}-{letter}"

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Meanwhile another cell may have the turn."""
        self.stage.turns.release()
        try:
            yield
        finally:
            await self.stage.turns.acquire()

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
    async def agent_of_its_own(self, *flags: str) -> AsyncIterator[AgentProcess]:
        """From here on the cell is served by an agent that serves nobody else, with these flags more."""
        folder = Path(self.home, "agent")
        (folder / "pods").mkdir(parents=True)
        self._folder = folder / "pods"
        self.agent = make_agent(folder, self.stage.sts, self.stage.upstream, *flags)
        await self.agent.start()
        self.traffic.agent = (self.agent.host, 8181)
        try:
            await self.agent.until_ready()
            yield self.agent
        finally:
            await self.agent.stop()

    async def close(self) -> None:
        """End the client; forget the pod."""
        await super().close()
        await asyncio.to_thread((self._folder / f"{self._name}.yaml").unlink, missing_ok=True)


def make_agent(folder: Path, sts: FakeSts, upstream: str, *arguments: str) -> AgentProcess:
    """An agent that knows the pods of `folder/pods`; not started."""
    flags = (
        f"--source.manifests={folder / 'pods'}",
        f"--sts.endpoint-url={sts.url}",
        f"--tokens.key-file={folder / 'key'}",
        f"--upstream.url={upstream}",
    )
    return AgentProcess(folder, (*flags, *arguments), {})

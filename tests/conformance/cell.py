"""One cell of the matrix: a client as a pod of its own, with a role of its own, and what is done to both.

Knows: how a pod is declared, which agent serves it, what STS does with its role.
Must not know: which situation it is in, what should come of it.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

from metaproxy.errors import Reason
from tests.conformance.calls import REGION, Calls
from tests.conformance.exchanges import OK, UNAUTHORIZED, Exchange, Step
from tests.conformance.post import Post, Traffic
from tests.conformance.registry import Client
from tests.conformance.results import STATUS
from tests.conformance.stage import PATIENCE, Node, Stage
from tests.fakes import sts
from tests.fakes.process import ROLES, until

ACCOUNT = "123456789012"
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

SOONEST, LATEST = 0.855, 1.0
"""Seconds after which the agent may tell a client to come again, of the 0.9 for which it may hold a request: most
clients wait for a second."""

WAITED = 0.29
"""Seconds that the role list takes at least where something comes late: that is by 0.3 s or more."""

TOKEN_LIFE = 21_600
"""Seconds: what SDKs ask for."""

_TTL = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_LIFE)}


class Cell(Calls):
    """See the module. `tokens` is the mode of its namespace; `region`: whether the client is told one."""

    def __init__(self, stage: Stage, post: Post, client: Client, *, number: int, tokens: str, region: bool) -> None:
        name = f"cell{number}"
        # Not 127.100 and above: there agents have their addresses.
        pod = f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
        super().__init__(
            client,
            namespace=post.namespace,
            traffic=Traffic(pod, (stage.node.agent.host, 8181)),
            sts=stage.sts,
            owner=f"arn:aws:iam::{ACCOUNT}:role/{name}-[a-z] {name}.app",
            region=REGION if region else "",
        )
        post.traffic = self.traffic
        self.stage, self._node = stage, stage.node
        self._name, self._tokens = name, tokens

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
        aside = self._node.pods / f".{self._name}"
        aside.write_text(text)
        aside.rename(self._node.pods / f"{self._name}.yaml")

    def script(self, *steps: sts.Step, then: sts.Step | None = None, role: str = "a") -> None:
        """What STS does with the next requests for a role of the cell's, and with all after them."""
        self.stage.sts.script(*steps, role=self.role(role))
        if then is not None:
            self.stage.sts.settings[self.role(role)] = then

    async def first(self) -> None:
        """The client's first call, to its end, and a look whether the agent demands a token of its pod as it should."""
        await super().first()
        await self._demands()

    async def _demands(self) -> None:
        status, _ = await self._node.agent.ask(self.traffic.pod, ROLES)
        due = self._tokens == "required"
        assert (status == UNAUTHORIZED) is due, f"without a token the agent answers {status}, tokens are {self._tokens}"

    async def served(self, role: str = "a") -> None:
        """Wait until the agent serves this role to the pod."""
        await self._told(f"{self._name}-{role}", lambda status, body: status == OK and f"{self._name}-{role}" in body)

    async def refused(self, reason: Reason) -> None:
        """Wait until the agent refuses credentials to the pod for this reason, whatever role is guessed.

        That it refuses the role list too is for the client to see.
        """
        own = f"{ROLES}{self._name}-a"
        await self._told(reason.value, lambda status, body: status != OK and reason.value in body, own)
        # A pod that may have its role, if only STS would give it, may know that another is not its own.
        for path in (own,) if reason is Reason.STS_DENIED else (own, f"{ROLES}admin"):
            told = await self._asked(path)
            assert told[0] == STATUS[reason], f"{path}: {told}"
            assert reason.value in told[1], f"{path}: {told}"

    def was_held(self) -> None:
        """See that the first request for the role list waited as long as a request may, and no longer.

        That a client has left is for `judging` to say. The agent may be as late as the machine was.
        """
        first = self._first_list()
        late = self.stage.lateness.total(first.asked, first.asked + first.after)
        held = first.status == STATUS[Reason.STS_PENDING] and SOONEST < first.after < LATEST + late
        assert held or first.left, f"it was not held as long as it may: {first}"

    def waited(self) -> None:
        """See that the first request for the role list was there before what it had to wait for."""
        first = self._first_list()
        assert first.after > WAITED, f"it had to wait for nothing: {first}"

    def _first_list(self) -> Exchange:
        first = next((one for one in self.traffic.requests if one.step is Step.LIST), None)
        assert first is not None, "the client has asked for no role list"
        return first

    async def renewed(self) -> None:
        """Wait until the agent has asked STS once more for what it serves."""
        await self._told("the same after the next call to STS", lambda *_: len(self.sts.calls(self.role())) > 1)

    async def left(self) -> float:
        """The seconds of life that clients are told of the credentials."""
        _, body = await self._asked(f"{ROLES}{self._name}-a")
        told = json.loads(body)["Expiration"]
        assert _DATE.fullmatch(told), f"{told} is no date that all clients read"
        return datetime.fromisoformat(told).timestamp() - time.time()

    async def _told(self, what: str, reached: Callable[[int, str], bool], path: str = ROLES) -> None:
        token = await self.token()

        async def told() -> bool:
            return reached(*await self._asked(path, token))

        # Many look at once, and what they take of the machine clients do not have.
        explain = self._node.agent.log
        await until(f"{self._name} is told {what}", told, explain, patience=PATIENCE, longest=0.5)

    async def token(self) -> str:
        """A session token of the pod."""
        _, token = await self._node.agent.ask(self.traffic.pod, "/latest/api/token", method="PUT", headers=_TTL)
        return token.decode()

    async def still_holds(self, token: str) -> None:
        """See that a token which was given before is as good as it was.

        Clients would not tell: who is told 401 takes another one.
        """
        status, body = await self._asked(ROLES, token)
        assert status == OK, f"the agent has forgotten a token: {status} {body}"

    async def _asked(self, path: str, token: str = "") -> tuple[int, str]:
        """What the pod is told, with this token or a new one."""
        shown = {"X-aws-ec2-metadata-token": token or await self.token()}
        status, body = await self._node.agent.ask(self.traffic.pod, path, headers=shown)
        return status, body.decode()

    @asynccontextmanager
    async def agent_of_its_own(self, *flags: str) -> AsyncIterator[Node]:
        """From here on the cell is served by an agent that serves nobody else, with these flags more."""
        async with self.stage.made(Path(self.home, "agent"), *flags) as node:
            self._led_to(node)
            yield node

    @asynccontextmanager
    async def agent_with_a_clock(self) -> AsyncIterator[Node]:
        """From here on the cell is served by an agent that serves nobody else meanwhile, and whose clock can be set."""
        async with AsyncExitStack() as stack:
            async with self.resting():  # those who have one now need turns to come to an end with it
                node = await stack.enter_async_context(self.stage.lent())
            self._led_to(node)
            yield node

    def _led_to(self, node: Node) -> None:
        self._node = node
        self.traffic.agent = (node.agent.host, 8181)

    async def close(self) -> None:
        """End the client; forget the pod."""
        await super().close()
        await asyncio.to_thread((self._node.pods / f"{self._name}.yaml").unlink, missing_ok=True)

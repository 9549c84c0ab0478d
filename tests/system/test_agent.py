"""The agent as a process: requests in time, a polite end, tokens that outlive it, and no secret in all that it says.

Pods come from files; STS is scripted.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.process import OWN_SECRET, ROLES, AgentProcess, running, until
from tests.fakes.sts import FakeSts, Step

pytestmark = pytest.mark.timeout(180)

HOLD = 0.9

PATIENT = "--server.hold=9"
"""Where a request has to be answered however busy the machine is; the default's own tests run in virtual time."""
TOKEN = "/latest/api/token"
TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
WEB, THIEF, NOBODY, PLAIN = "127.0.0.2", "127.0.0.3", "127.0.0.99", "127.0.0.4"

NAMESPACE = """\
kind: Namespace
metadata: {name: shop, annotations: {iam.amazonaws.com/permitted: '.*:role/shop-.*'}}
---
"""
POD = """\
kind: Pod
metadata: {namespace: shop, name: %s, annotations: {iam.amazonaws.com/role: %s}}
status: {phase: Running, podIP: %s}
---
"""


@dataclass
class World:
    """An STS, a file of pods, and where the agent keeps what it keeps."""

    sts: FakeSts
    folder: Path

    @property
    def pods(self) -> Path:
        """The manifests."""
        return self.folder / "pods.yaml"

    def write(self, **pods: tuple[str, str]) -> None:
        """These are the pods: name to role and address."""
        text = NAMESPACE + "".join(POD % (name, role, address) for name, (role, address) in pods.items())
        new = self.folder / "pods.new"
        new.write_text(text)
        new.rename(self.pods)

    @asynccontextmanager
    async def agent(self, *arguments: str, **environment: str) -> AsyncIterator[AgentProcess]:
        """The agent."""
        async with running(
            self.folder,
            f"--source.manifests={self.pods}",
            f"--sts.endpoint-url={self.sts.url}",
            f"--tokens.key-file={self.folder / 'key'}",
            *arguments,
            environment=environment,
        ) as agent:
            yield agent


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """With a namespace and no pods yet."""
    async with FakeSts() as sts:
        made = World(sts, tmp_path)
        made.write()
        yield made


def now() -> float:
    """The loop's seconds."""
    return asyncio.get_running_loop().time()


# In time.


@pytest.mark.parametrize("sts", [0.1, 0.4])
async def test_a_pod_whose_event_is_late(world: World, sts: float) -> None:
    """P3: the event 300 ms after the first request, STS on top: one request, held and answered."""
    world.sts.always = Step(delay=sts)
    async with world.agent(PATIENT) as agent:
        await agent.until_ready()
        asked = asyncio.create_task(agent.ask(WEB))
        await asyncio.sleep(0.3)  # the measure itself, not a wait for something
        world.write(web=("shop-web", WEB))
        assert await asked == (200, b"shop-web")
        assert (await agent.ask(WEB, f"{ROLES}shop-web"))[0] == 200
        assert len(world.sts.calls()) == 1


async def test_sts_that_takes_its_time(world: World) -> None:
    """P3: STS at 600 ms is waited for."""
    world.sts.always = Step(delay=0.6)
    async with world.agent(PATIENT) as agent:
        await agent.until_ready()
        world.write(web=("shop-web", WEB))
        assert await agent.ask(WEB) == (200, b"shop-web")
        assert len(world.sts.calls()) == 1


async def test_sts_that_takes_too_long(world: World) -> None:
    """P3: STS that does not answer in time is a 503 at 0.9 s on the list; the same flight serves the next request."""
    gate = asyncio.Event()
    async with world.agent() as agent:
        await agent.until_ready()
        world.sts.always = Step(gate=gate)
        world.write(web=("shop-web", WEB))
        await until("STS is asked", world.sts.calls, agent.log)
        begun = now()
        status, body = await agent.ask(WEB)
        took = now() - begun
        assert (status, json.loads(body)["code"]) == (503, "StsPending")
        assert HOLD - 0.05 <= took < 10 * HOLD
        asked = asyncio.create_task(agent.ask(WEB))
        gate.set()
        assert await asked == (200, b"shop-web")
        assert len(world.sts.calls()) == 1


# From start to end.


async def test_what_is_held_is_answered_before_the_end(world: World) -> None:
    """P7: SIGTERM while a request is held: it gets its answer, then the process ends with 0."""
    gate = asyncio.Event()
    async with world.agent("--server.hold=4") as agent:  # less than the listener waits for what is held
        await agent.until_ready()
        world.sts.always = Step(gate=gate)
        world.write(web=("shop-web", WEB))
        await until("STS is asked", world.sts.calls, agent.log)
        asked = asyncio.create_task(agent.ask(WEB))

        async def held() -> bool:
            return "metaproxy_http_connections 1.0" in (await agent.admin_get("/metrics"))[1]

        await until("the request is held", held, agent.log)
        agent.process.send_signal(signal.SIGTERM)
        await until("it says that it stops", lambda: '"stopping"' in agent.log(), agent.log)
        gate.set()
        assert await asked == (200, b"shop-web")
        assert await agent.stop() == 0


async def test_tokens_outlive_a_restart(world: World) -> None:
    """M4: a token is good after the agent was restarted or killed, for its address alone."""
    world.write(web=("shop-web", WEB))
    async with world.agent("--tokens.mode=required") as agent:
        await agent.until_ready()
        status, token = await agent.ask(WEB, TOKEN, method="PUT", headers=TTL)
        assert status == 200
        for number in (signal.SIGTERM, signal.SIGKILL):
            await agent.stop(number)
            await agent.start()
            await agent.until_ready()
            shown = {"X-aws-ec2-metadata-token": token.decode()}
            assert await agent.ask(WEB, headers=shown) == (200, b"shop-web")
            assert (await agent.ask(THIEF, headers=shown))[0] == 401
            assert (await agent.ask(WEB))[0] == 401


async def test_sts_that_is_not_there_at_the_start(world: World) -> None:
    """STS down at the start keeps it up and not ready, with the reason; it recovers by itself."""
    world.write(web=("shop-web", WEB))
    world.sts.always = Step(reset=True)
    async with world.agent() as agent:
        await agent.until_up()
        status, body = await agent.ask(WEB)
        assert (status, json.loads(body)["code"]) == (503, "StsUnreachable")
        assert (await agent.admin_get("/livez"))[0] == 200
        world.sts.always = Step()
        await agent.until_told(WEB, 200, "shop-web")
        await agent.until_ready()


async def test_no_process_of_its_user_looks_into_it(world: World, tmp_path: Path) -> None:
    """Else a pod among the host's processes would reach its files and sockets through /proc/PID/root, without a mount.

    As root both have given up their capabilities, as containers have.
    """
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()

    async def seen(pid: int) -> bool:
        look = await asyncio.create_subprocess_exec(*bare, "readlink", f"/proc/{pid}/root", stdout=-3, stderr=-3)
        return await look.wait() == 0

    other = await asyncio.create_subprocess_exec(*bare, "cat", stdin=-1, stdout=-1)
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdin.write(b"x")
    await other.stdout.readexactly(1)  # it is what it is to be
    assert await seen(other.pid)
    other.stdin.close()
    await other.wait()
    async with running(tmp_path, f"--source.manifests={world.pods}", prefix=bare) as agent:
        await agent.until_up()
        assert not await seen(agent.process.pid)


# No secret.


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_secret_anywhere(world: World, form: str) -> None:
    """Nothing that the process says to anybody but the owner shows a key, a token, or what STS echoes of them.

    Logs at debug level, metrics, readiness, explanations, error bodies and the effective settings, after successes,
    refusals of every kind, errors of STS that carry secrets, and requests that cannot be read.
    """
    echoed = ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "FwoGZXIvYXdzE" * 20)
    echo = "the key {} and the token {} are refused".format(*echoed)
    world.sts.script(
        Step(status=403, code="AccessDenied", message=echo),
        role="arn:aws:iam::123456789012:role/shop-denied",
    )
    world.write(
        web=("shop-web", WEB), thief=("bank", THIEF), denied=("shop-denied", "127.0.0.5"), odd=("a//b", "127.0.0.6")
    )
    said = []
    async with world.agent(
        "--log.level=debug",
        f"--log.format={form}",
        "--assume-role-arn=arn:aws:iam::123456789012:role/hop",
        "--upstream.url=http://user:upstream-password@127.0.0.1:9",
    ) as agent:
        await agent.until_ready()
        status, token = await agent.ask(WEB, TOKEN, method="PUT", headers=TTL)
        assert status == 200
        shown = {"X-aws-ec2-metadata-token": token.decode()}
        await agent.until_told(WEB, 200, "shop-web")
        status, keys = await agent.ask(WEB, f"{ROLES}shop-web", headers=shown)
        assert status == 200
        assert b"secret/of/" in keys
        for pod in (WEB, THIEF, "127.0.0.5", "127.0.0.6", NOBODY):
            for path in (
                "/metaproxy/explain",
                ROLES,
                f"{ROLES}other",
                "/latest/user-data",
                "/latest/meta-data/iam/info",
            ):
                wrong = {"X-aws-ec2-metadata-token": token.decode()[::-1]}
                said += [(await agent.ask(pod, path, headers=headers))[1].decode() for headers in ({}, wrong)]
        reader, writer = await asyncio.open_connection(agent.host, 8181, local_addr=(WEB, 0))
        writer.write(b"GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: " + token + b"\r\nbroken\r\n\r\n")
        said.append((await reader.read()).decode())
        writer.close()
        await writer.wait_closed()
        for path in ("/metrics", "/livez", "/readyz?verbose", f"/explain?ip={WEB}", "/explain?ip=127.0.0.5"):
            status, text = await agent.admin_get(path)
            assert status in {200, 503}, path
            said.append(text)
        commands = ("explain", "--pod", "shop/web"), ("explain", "--pod", "shop/denied"), ("config",), ("health",)
        said += [(await agent.command(*words))[1] for words in commands]
        assert world.sts.calls("arn:aws:iam::123456789012:role/hop")
    everything = "\n".join([*said, agent.log()])
    assert "StsDenied" in everything
    assert "shop-web" in everything
    key = (world.folder / "key").read_bytes()
    known = (token.decode(), OWN_SECRET, "upstream-password", key.hex(), repr(key)[2:-1], *echoed)
    for secret in ("secret/of/", "token/of/", *known):
        assert secret not in everything, secret

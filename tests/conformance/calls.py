"""A client's process and its calls: started, asked again, listened to, and believed only when STS knows better.

Knows: the contract of clients/README.md.
Must not know: which situation the client is in, what should come of it.
"""

import asyncio
import json
import os
import re
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.conformance.clocks import Clock
from tests.conformance.post import PROVE_AT, Traffic
from tests.conformance.proving import UNSIGNED
from tests.conformance.registry import Client
from tests.conformance.results import NEVER_LOOKS_AGAIN, Call, Got
from tests.fakes.sts import FakeSts
from tests.fakes.upstream_imds import DOCUMENT
from tests.network.lab.namespaces import Namespace

REGION = "us-east-1"
FOUND = DOCUMENT["region"]
"""What the metadata service says to clients that ask it for the region."""

REGIONS = frozenset({REGION, FOUND})
"""In which a client that asks nobody may make its calls when it was told no region: clients of S3 take one for granted.
"""

HANG = 60.0
"""Seconds after which a call that has not ended is taken for one that never will."""

AGAIN = 2
"""The step that is made with the object of the first."""

END = 30.0
"""Seconds that a client has to end when it is not asked anything more."""


class Calls:
    """The client, and its calls so far.

    `owner` is an expression for what its keys must be of: the role's ARN, a space, the session's name. `region` is the
    one that it is told; told none, it means the one that it finds, if it looks for it.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: Namespace,
        traffic: Traffic,
        sts: FakeSts,
        owner: str,
        region: str = REGION,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.client, self.traffic, self.sts = client, traffic, sts
        self.calls: list[Call] = []
        told = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region} if region else {}
        self._namespace, self._more = namespace, {**told, **(environment or {})}
        found = frozenset({FOUND}) if client.finds_region else REGIONS
        traffic.proofs.regions = frozenset({region}) if region else found
        self._owner, self._refusal = re.compile(owner), re.compile(client.refusal)
        if not region and client.no_region:
            self._refusal = re.compile(client.no_region)
        self._folder_of_home = tempfile.TemporaryDirectory(prefix="metaproxy-client-")
        self.home = self._folder_of_home.name
        self._process: asyncio.subprocess.Process | None = None
        self._errors: asyncio.Task[bytes] | None = None

    def has_a_clock(self) -> None:
        """The client, which is to be a Python program that has not begun, is given a clock that can be set."""
        clock = Clock(Path(self.home, "clock"))
        clock.set(0.0)
        self._more |= clock.environment

    def leaps(self, seconds: float) -> None:
        """The client's clock is set on, and that of those to whom it proves itself."""
        Clock(Path(self.home, "clock")).set(seconds)
        self.traffic.proofs.ahead = seconds

    async def first(self) -> None:
        """The client's first call, to its end."""
        self.calls.append(await self._call(1))

    async def again(self, role: str = "", *, renewed: bool = False) -> None:
        """The second call with the same object, if the client is there for one; a tool is run anew.

        One that has not looked again, as is its way, makes a third call with a new object.
        `role`: the ARN of the role that its keys must be of by now. `renewed`: they must be others than before.
        """
        if self.client.kind == "tool" or self.calls[0].got in {Got.CREDENTIALS, Got.REFUSED}:
            known = len(self.traffic.proofs.keys)
            call = await self._call(AGAIN)
            keys = self.traffic.proofs.keys
            if call.got is Got.CREDENTIALS and renewed and set(keys[known:]) <= set(keys[:known]):
                call.got = Got.KEPT
            if call.got is Got.CREDENTIALS and role not in {"", call.role}:
                call.got = Got.FORMER
            self.calls.append(call)
            if call.got is Got.REFUSED and not call.requests and self.client.name in NEVER_LOOKS_AGAIN:
                self.calls.append(await self._call(AGAIN + 1))

    async def when(self, event: asyncio.Event, call: asyncio.Task[None]) -> None:
        """Wait for the event, or until the call has ended without it."""
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait({waiting, call}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _call(self, step: int) -> Call:
        seen, proved = len(self.traffic.requests), len(self.traffic.proofs.keys)
        denied = len(self.traffic.proofs.refused)
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
        if call.got is Got.REFUSED and not self._refusal.search(call.said):
            call.got = Got.BROKEN
        if call.got is Got.CREDENTIALS:
            call.got, call.role = self._believed(self.traffic.proofs.keys[proved:])
        if refused := self.traffic.proofs.refused[denied:]:
            # Without credentials some ask unsigned; a signature that is wrong is another fault than having none.
            if call.got is Got.REFUSED and not all(one.endswith(UNSIGNED) for one in refused):
                call.got = Got.BROKEN
            call.said = f"{call.said}\nnot proved: {refused[-1]}"
        return call

    def _believed(self, keys: Sequence[str]) -> tuple[Got, str]:
        """Whether what was proved is the role and session of this pod."""
        if not keys:
            return Got.UNPROVED, ""
        for key in keys:
            role, session, _ = self.sts.owner(key)
            if not self._owner.fullmatch(f"{role} {session}"):
                return Got.FOREIGN, role
        return Got.CREDENTIALS, self.sts.owner(keys[-1])[0]

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
            "HOME": self.home,
            "METADATA": "",
            "STS_URL": endpoint,
            "S3_URL": endpoint,
            **self._more,
            **self.client.environment,
        }
        return await asyncio.create_subprocess_exec(
            *self._namespace.command(*command),
            env=environment,
            cwd=self.home,
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
            self._errors = asyncio.create_task(self._process.stderr.read(), name=f"{self.client.name} errors")
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        if step > 1:
            with suppress(ConnectionError):
                process.stdin.write(b"again\n" if step == AGAIN else b"anew\n")
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
        """End the client; how it ends then counts for its last call."""
        if (process := self._process) is not None:
            if process.returncode is None:
                assert process.stdin is not None
                process.stdin.close()
                with suppress(TimeoutError):
                    async with asyncio.timeout(END):
                        await process.wait()
                self._ended(process.returncode)
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            if self._errors is not None:
                said = (await self._errors).decode(errors="replace")
                if self.calls:
                    self.calls[-1].said += f"\n{said}" if said else ""
        await asyncio.to_thread(self._folder_of_home.cleanup)

    def _ended(self, code: int | None) -> None:
        """A program that has said how its calls went must end by itself, and well."""
        if code and self.calls and self.calls[-1].got in {Got.CREDENTIALS, Got.REFUSED}:
            self.calls[-1].got = Got.ABORTED
            self.calls[-1].said += f"\nexit code {code} at its end"
        elif code is None and self.calls and self.calls[-1].got is not Got.HUNG:
            self.calls[-1].got = Got.HUNG
            self.calls[-1].said += "\nit did not end with its input"


def _aborted(code: int) -> bool:
    """A signal ended it: as Python tells of a child, or as a shell of its own. Above these are codes of the CLIs'."""
    return code < 0 or 128 < code <= 128 + signal.SIGSYS

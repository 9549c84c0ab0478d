"""STS as metaproxy meets it on the wire: its XML, its errors, and what networks make of them, as told by a script.

Every answer's access key id is unique and can be traced to the call that got it.
"""

import asyncio
import itertools
import re
import socket
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from aiohttp import web

NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
NODE_KEY = "ASIANODE000000000000"
NODE_ARN = "arn:aws:sts::123456789012:assumed-role/node/i-0123456789abcdef0"
_CREDENTIAL = re.compile(r"Credential=([A-Z0-9]+)/\d{8}/([a-z0-9-]+)/sts/aws4_request")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request: its action, its parameters, the access key id and region it was signed with, and its connection."""

    action: str
    parameters: dict[str, str]
    key: str
    region: str
    connection: int

    @property
    def role(self) -> str:
        """The role asked for, empty when who is asking was the question."""
        return self.parameters.get("RoleArn", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What happens to one request. The default is what STS does when all is well.

    `delay` in seconds before anything else; `gate` is waited for; `code`, `message` and `status` make an error;
    `body` replaces the answer's; `reset` cuts the connection; `hang` never answers; `life` in seconds is the session's;
    `edit` changes the text of a good answer; `date` is what the answer says of the time.
    """

    delay: float = 0.0
    gate: asyncio.Event | None = None
    status: int = 200
    code: str = ""
    message: str = "as told"
    body: bytes | None = None
    reset: bool = False
    hang: bool = False
    life: float | None = None
    edit: Callable[[str], str] = field(default=lambda text: text)
    date: str = ""


FINE = Step()


class FakeSts:
    """An STS on a port of loopback. `clock` is its own.

    What happens is the first of: the next step scripted for the role, the next one for everybody, what the role is set
    to, what everybody is set to (`always`). GetCallerIdentity is scripted under its own name.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.always = FINE
        self.settings: dict[str, Step] = {}
        self.asked: list[Asked] = []
        self.given: dict[str, Asked] = {}
        self.arns = {NODE_KEY: NODE_ARN}
        self.expires: dict[str, float] = {}
        self.flying = 0
        self.most_flying = 0
        self.arrived = asyncio.Event()
        self.url = ""
        self._end = asyncio.Event()
        self._steps: deque[Step] = deque()
        self._role_steps: dict[str, deque[Step]] = defaultdict(deque)
        self._numbers = itertools.count(1)
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        self._end.set()
        await self._runner.cleanup()

    async def listen(self, bound: socket.socket) -> None:
        """Answer on this socket too, which may be of another network namespace."""
        assert self._runner is not None
        await web.SockSite(self._runner, bound).start()

    def script(self, *steps: Step, role: str = "") -> None:
        """What happens to the next requests, one step each: for a role (or "GetCallerIdentity"), or for everybody."""
        (self._role_steps[role] if role else self._steps).extend(steps)

    def calls(self, role: str = "") -> list[Asked]:
        """The AssumeRole calls: for a role, or all."""
        return [asked for asked in self.asked if asked.action == "AssumeRole" and role in {"", asked.role}]

    def owner(self, access_key_id: str) -> tuple[str, str, str | None]:
        """Role, session name and external id of the call that got this key."""
        parameters = self.given[access_key_id].parameters
        return parameters["RoleArn"], parameters["RoleSessionName"], parameters.get("ExternalId")

    def identity(self, access_key_id: str) -> str:
        """GetCallerIdentity's answer to whoever signs with this key."""
        arn = self.arns[access_key_id]
        return _xml("GetCallerIdentity", [("Arn", arn), ("UserId", "AROA:session"), ("Account", arn.split(":")[4])])

    def token(self, access_key_id: str) -> str:
        """The session token that belongs to a key that was given."""
        return f"token/of/{int(access_key_id[4:])}=="

    def secret(self, access_key_id: str) -> str:
        """The secret that belongs to a key that was given."""
        return f"secret/of/{int(access_key_id[4:])}"

    def _step(self, asked: Asked) -> Step:
        name = asked.role or asked.action
        for steps in (self._role_steps[name], self._steps):
            if steps:
                return steps.popleft()
        return self.settings.get(name, self.always)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        form = {name: values[0] for name, values in parse_qs((await request.read()).decode()).items()}
        match = _CREDENTIAL.search(request.headers.get("Authorization", ""))
        asked = Asked(
            action=form.pop("Action", ""),
            parameters=form,
            key=match[1] if match else "",
            region=match[2] if match else "",
            connection=request.transport.get_extra_info("peername")[1] if request.transport else 0,
        )
        self.asked.append(asked)
        self.arrived.set()
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        try:
            return await self._answer(request, asked, self._step(asked))
        finally:
            self.flying -= 1

    async def _answer(self, request: web.BaseRequest, asked: Asked, step: Step) -> web.StreamResponse:
        if step.delay:
            await asyncio.sleep(step.delay)
        if step.gate is not None:
            await step.gate.wait()
        if step.hang:
            await self._end.wait()
            return web.Response()
        if step.reset:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if step.body is not None:
            return web.Response(status=step.status, body=step.body, content_type="text/xml")
        if step.code:
            text = error_xml(step.code, step.message)
            return web.Response(status=step.status, text=text, content_type="text/xml", headers=_dated(step))
        whole = self.identity(asked.key) if asked.action == "GetCallerIdentity" else self._session(asked, step)
        return web.Response(text=step.edit(whole), content_type="text/xml", headers=_dated(step))

    def _session(self, asked: Asked, step: Step) -> str:
        number = next(self._numbers)
        key = f"ASIA{number:016}"
        role, session = asked.role, asked.parameters["RoleSessionName"]
        partition, account = role.split(":")[1], role.split(":")[4]
        arn = f"arn:{partition}:sts::{account}:assumed-role/{role.rsplit('/', 1)[-1]}/{session}"
        self.given[key], self.arns[key] = asked, arn
        life = float(asked.parameters.get("DurationSeconds", 3600)) if step.life is None else step.life
        self.expires[key] = self.clock() + life
        expires = datetime.fromtimestamp(self.expires[key], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        credentials = [
            ("AccessKeyId", key),
            ("SecretAccessKey", self.secret(key)),
            ("SessionToken", self.token(key)),
            ("Expiration", expires),
        ]
        user = [("AssumedRoleId", f"AROA:{session}"), ("Arn", arn)]
        return _xml(asked.action, [("Credentials", credentials), ("AssumedRoleUser", user)])


def _dated(step: Step) -> dict[str, str]:
    return {"Date": step.date} if step.date else {}


def error_xml(code: str, message: str) -> str:
    """An error as STS writes it."""
    return (
        f'<ErrorResponse xmlns="{NAMESPACE}">\n  <Error>\n    <Type>Sender</Type>\n    <Code>{code}</Code>\n'
        f"    <Message>{escape(message)}</Message>\n  </Error>\n"
        "  <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>\n</ErrorResponse>\n"
    )


def _xml(action: str, result: Iterable[tuple[str, str | list[tuple[str, str]]]]) -> str:
    return (
        f'<{action}Response xmlns="{NAMESPACE}">\n<{action}Result>{_elements(result)}</{action}Result>\n'
        "<ResponseMetadata><RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId></ResponseMetadata>\n"
        f"</{action}Response>\n"
    )


def _elements(parts: Iterable[tuple[str, str | list[tuple[str, str]]]]) -> str:
    return "".join(
        f"<{name}>{escape(value) if isinstance(value, str) else _elements(value)}</{name}>" for name, value in parts
    )

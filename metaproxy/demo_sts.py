"""The demo's STS: moto's server in this process, behind a check of trust policies as IAM does them.

Knows: which roles there are, whom each trusts, and whose access key signed a request.
Must not know: the agent. moto answers any AssumeRole; the check in front of it makes the answers mean something.

moto comes with the extra `demo` and is imported only when an STS is opened.
"""

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qs, urlencode
from xml.sax.saxutils import escape

import aiohttp
from aiohttp import web
from yarl import URL

from metaproxy.roles import RoleArn
from metaproxy.trust import trusted

TIMEOUT = aiohttp.ClientTimeout(total=60)
"""Seconds for moto: its first answer loads its models."""

CHAINED = 3600
"""Seconds that the session of a role assumed by a role lasts at most: here everybody is a role."""

_KEY = re.compile(r"Credential=([A-Z0-9]+)/")
_HOPS = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})
_SIGNED_BY_NOBODY = (
    "AWS4-HMAC-SHA256 Credential=DEMO/20260101/us-east-1/sts/aws4_request, SignedHeaders=host, Signature=0"
)
_FORM = "application/x-www-form-urlencoded; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """Who signed a request: a session of a role that this STS gave."""

    role: str
    session_name: str

    @property
    def arn(self) -> str:
        role = RoleArn.parse(self.role)
        return f"arn:{role.partition}:sts::{role.account}:assumed-role/{role.name}/{self.session_name}"


class DemoSts:
    """An STS at `url`, for as long as the context lasts; what is no STS request is moto's to answer."""

    def __init__(self) -> None:
        self._moto: Any = None
        self._policies: dict[str, Mapping[str, Any]] = {}
        self._callers: dict[str, _Caller] = {}
        self._session: aiohttp.ClientSession
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None))

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        self._moto = await asyncio.to_thread(_start_moto)
        self._session = aiohttp.ClientSession(timeout=TIMEOUT, auto_decompress=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.to_thread(self._moto.stop)

    def add_role(self, arn: str, trust_policy: Mapping[str, Any]) -> None:
        """A role with its trust policy; replaces the one of that ARN. Raises RoleSyntaxError: that is no role's ARN."""
        _create_role(RoleArn.parse(arn), trust_policy)
        self._policies[arn] = trust_policy

    async def node_credentials(self, role: str) -> dict[str, str]:
        """An environment with a session of a role, as an instance profile gives one to a node."""
        form = {"Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": role, "RoleSessionName": "i-0demo"}
        headers = {"Content-Type": _FORM, "Authorization": _SIGNED_BY_NOBODY}
        _, answer, _ = await self._forward("POST", URL("/"), urlencode(form).encode(), headers)
        text = answer.decode()
        self._remember(text, _Caller(role=role, session_name="i-0demo"))
        return {
            "AWS_ACCESS_KEY_ID": _element("AccessKeyId", text),
            "AWS_SECRET_ACCESS_KEY": _element("SecretAccessKey", text),
            "AWS_SESSION_TOKEN": _element("SessionToken", text),
        }

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        form: dict[str, str] = {}
        if request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOPS}
        assuming = form.get("Action") == "AssumeRole"
        if assuming and (refusal := self._refusal(form, headers.get("Authorization", ""))) is not None:
            return refusal
        status, answer, kind = await self._forward(request.method, request.rel_url, body, headers)
        if assuming and status == web.HTTPOk.status_code:
            caller = _Caller(role=form["RoleArn"], session_name=form["RoleSessionName"])
            self._remember(answer.decode(), caller)
        return web.Response(status=status, body=answer, headers={"Content-Type": kind})

    def _refusal(self, form: Mapping[str, str], authorization: str) -> web.Response | None:
        """What STS says instead of giving a session; None when it gives one."""
        match = _KEY.search(authorization)
        caller = self._callers.get(match[1]) if match else None
        if caller is None:
            return _error(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
        role = form.get("RoleArn", "")
        actions = ["sts:AssumeRole"]
        if "Tags.member.1.Key" in form:
            actions.append("sts:TagSession")
        if "SourceIdentity" in form:
            actions.append("sts:SetSourceIdentity")
        for action in actions:
            if not trusted(
                self._policies.get(role),
                principal=caller.role,
                session_name=caller.session_name,
                external_id=form.get("ExternalId"),
                actions=[action],
            ):
                message = f"User: {caller.arn} is not authorized to perform: {action} on resource: {role}"
                return _error(403, "AccessDenied", message)
        if int(form.get("DurationSeconds", CHAINED)) > CHAINED:
            message = (
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
            )
            return _error(400, "ValidationError", message)
        return None

    async def _forward(
        self, method: str, target: URL, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, str]:
        """Have moto answer: status, body, content type."""
        host, port = self._moto.get_host_and_port()
        url = URL(f"http://{host}:{port}").join(target)
        async with self._session.request(method, url, data=body, headers=headers) as response:
            return response.status, await response.read(), response.headers.get("Content-Type", "text/plain")

    def _remember(self, answer: str, caller: _Caller) -> None:
        self._callers[_element("AccessKeyId", answer)] = caller


def _start_moto() -> Any:
    """A server of moto on a port of loopback, in a thread of its own; importing it takes seconds: for a thread, too."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415  only the demo has moto

    # It names every request on the console.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return server


def _create_role(role: RoleArn, trust_policy: Mapping[str, Any]) -> None:
    """Have moto's IAM know the role, so that it is told from one that is not there."""
    from moto.iam.models import iam_backends  # noqa: PLC0415  only the demo has moto

    backend = iam_backends[role.account][role.partition]
    for known in [known for known in backend.get_roles() if known.name == role.name]:
        backend.delete_role(known.name)
    backend.create_role(
        role_name=role.name,
        assume_role_policy_document=json.dumps(trust_policy),
        path=role.path,
        permissions_boundary=None,
        description="",
        tags=[],
        max_session_duration=None,
    )


def _element(name: str, text: str) -> str:
    match = re.search(f"<{name}>([^<]+)</{name}>", text)
    if match is None:
        raise RuntimeError(f"moto gave no {name}")
    return match[1]


def _error(status: int, code: str, message: str) -> web.Response:
    """A refusal in STS's own shape."""
    text = (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        "<RequestId>00000000-0000-0000-0000-000000000000</RequestId></ErrorResponse>"
    )
    return web.Response(status=status, text=text, content_type="text/xml")

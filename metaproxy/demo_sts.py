"""The demo's STS: moto's server in this process, behind a check of trust policies as IAM does them.

Knows: which roles there are, whom each trusts, and whose access key signed a request.
Must not know: the agent. moto answers any AssumeRole; the check in front of it makes the answers mean something.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import parse_qs, urlencode
from xml.sax.saxutils import escape

import aiohttp
from aiohttp import web
from moto.server import ThreadedMotoServer

from metaproxy.trust import trusted

_KEY = re.compile(r"Credential=([A-Z0-9]+)/")
_ISSUED = re.compile(r"<AccessKeyId>([A-Z0-9]+)</AccessKeyId>")
_PART = r"<{0}>([^<]+)</{0}>"
_FORM = "application/x-www-form-urlencoded; charset=utf-8"

TIMEOUT = aiohttp.ClientTimeout(total=30)
"""Seconds for moto: its first answer loads its models."""


class DemoSts:
    """An STS at `url`, for as long as the context lasts."""

    def __init__(self) -> None:
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._policies: dict[str, Mapping[str, Any]] = {}
        self._owners: dict[str, str] = {}
        self._session: aiohttp.ClientSession
        self._runner = web.AppRunner(self._app(), access_log=None)
        self.calls: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._moto.start)
        self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await asyncio.to_thread(self._moto.stop)

    def add_role(self, arn: str, trust_policy: Mapping[str, Any]) -> None:
        """A role with its trust policy; replaces the one of that name."""
        self._policies[arn] = trust_policy

    async def node_credentials(self, role: str) -> dict[str, str]:
        """An environment with a session of a role, as an instance profile gives one to a node."""
        form = {"Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": role, "RoleSessionName": "i-0demo"}
        # moto checks no signature, but reads from its scope which service is meant.
        signature = (
            "AWS4-HMAC-SHA256 Credential=AKIADEMO/20260101/us-east-1/sts/aws4_request, SignedHeaders=, Signature="
        )
        headers = {"Content-Type": _FORM, "Authorization": signature}
        _, body = await self._forward(urlencode(form).encode(), headers)
        self._remember(body, role)
        names = {
            "AWS_ACCESS_KEY_ID": "AccessKeyId",
            "AWS_SECRET_ACCESS_KEY": "SecretAccessKey",
            "AWS_SESSION_TOKEN": "SessionToken",
        }
        return {name: _first(_PART.format(part), body) for name, part in names.items()}

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() in {"authorization", "content-type", "x-amz-date", "x-amz-security-token"}
        }
        if form.get("Action") == "AssumeRole":
            principal = self._owners.get(_first(_KEY.pattern, headers.get("Authorization", "")), "")
            role = form.get("RoleArn", "")
            self.calls.append((principal, role))
            actions = ["sts:AssumeRole"] + (["sts:TagSession"] if "Tags.member.1.Key" in form else [])
            if not principal or not trusted(
                self._policies.get(role), principal=principal, external_id=form.get("ExternalId"), actions=actions
            ):
                return _denied(principal, role)
        status, answer = await self._forward(body, headers)
        if form.get("Action") == "AssumeRole" and status == web.HTTPOk.status_code:
            self._remember(answer, form["RoleArn"])
        return web.Response(status=status, text=answer, content_type="text/xml")

    async def _forward(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        host, port = self._moto.get_host_and_port()
        async with self._session.post(f"http://{host}:{port}/", data=body, headers=headers) as response:
            return response.status, await response.text()

    def _remember(self, answer: str, role: str) -> None:
        if key := _first(_ISSUED.pattern, answer):
            self._owners[key] = role


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _denied(principal: str, role: str) -> web.Response:
    """STS's refusal, in its own shape and words."""
    message = escape(f"User: {principal} is not authorized to perform: sts:AssumeRole on resource: {role}")
    text = (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>AccessDenied</Code><Message>{message}</Message></Error>"
        "<RequestId>00000000-0000-0000-0000-000000000000</RequestId></ErrorResponse>"
    )
    return web.Response(status=403, text=text, content_type="text/xml")

"""The metadata service of an EC2 node as metaproxy meets it, with credentials of the node that must never come out."""

import asyncio
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

NODE_SECRET = "node-secret-that-must-never-leak"
DOCUMENT = {
    "accountId": "123456789012",
    "availabilityZone": "eu-west-1b",
    "instanceId": "i-0123456789abcdef0",
    "instanceType": "m7g.large",
    "region": "eu-west-1",
}
PROFILE = "arn:aws:iam::123456789012:instance-profile/node"
ITEMS = {
    "dynamic/instance-identity/document": json.dumps(DOCUMENT, indent=2),
    "meta-data/instance-id": "i-0123456789abcdef0",
    "meta-data/instance-type": "m7g.large",
    "meta-data/placement/availability-zone": "eu-west-1b",
    "meta-data/placement/availability-zone-id": "euw1-az2",
    "meta-data/placement/region": "eu-west-1",
    "meta-data/services/domain": "amazonaws.com",
    "meta-data/services/partition": "aws",
    "meta-data/iam/info": json.dumps({"Code": "Success", "InstanceProfileArn": PROFILE, "InstanceProfileId": "AIPA"}),
    "meta-data/iam/security-credentials": "node",
    "meta-data/iam/security-credentials/": "node",
    "meta-data/iam/security-credentials/node": json.dumps(
        {"Code": "Success", "AccessKeyId": "ASIANODE", "SecretAccessKey": NODE_SECRET, "Token": NODE_SECRET}
    ),
    "user-data": f"#!/bin/sh\nexport PASSWORD={NODE_SECRET}\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]


class FakeUpstream:
    """EC2's metadata service on a port of loopback; what it does can be changed at any time.

    `required`: tokens are. `token_status`: how PUT answers. `status`: how every GET answers, with `location`.
    `gate`: answers wait for it. `broken`: connections are cut.
    """

    def __init__(self) -> None:
        self.items = dict(ITEMS)
        self.seen: list[Seen] = []
        self.required = True
        self.token_status = 200
        self.status: int | None = None
        self.location = ""
        self.broken = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        self.url = ""
        self._tokens: set[str] = set()
        self._made = 0
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        self.gate.set()
        await self._runner.cleanup()

    @property
    def gets(self) -> list[str]:
        """The paths that were asked for."""
        return [request.path for request in self.seen if request.method == "GET"]

    @property
    def puts(self) -> int:
        """How many tokens were asked for."""
        return sum(request.method == "PUT" for request in self.seen)

    def forget_tokens(self) -> None:
        """As after a restart of the instance: no token is known any more."""
        self._tokens.clear()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(Seen(method=request.method, path=request.raw_path, headers=dict(request.headers)))
        self.arrived.set()
        await self.gate.wait()
        if self.broken:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if request.method == "PUT" and request.raw_path == "/latest/api/token":
            return self._token(request)
        if self.status is not None:
            return web.Response(status=self.status, headers={"Location": self.location} if self.location else {})
        token = request.headers.get("X-aws-ec2-metadata-token")
        if (token is None and self.required) or (token is not None and token not in self._tokens):
            return web.Response(status=401)
        version, _, leaf = request.raw_path.removeprefix("/").partition("/")
        if request.method != "GET" or version != "latest" or leaf not in self.items:
            return web.Response(status=404, text="<html>Not Found</html>")
        return web.Response(text=self.items[leaf], content_type="text/plain")

    def _token(self, request: web.BaseRequest) -> web.Response:
        life = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if not (life.isdigit() and 1 <= int(life) <= 21600):
            return web.Response(status=400)
        if self.token_status != 200:
            return web.Response(status=self.token_status)
        self._made += 1
        token = f"token-{self._made}=="
        self._tokens.add(token)
        return web.Response(text=token, headers={"X-aws-ec2-metadata-token-ttl-seconds": life})

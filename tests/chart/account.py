"""An AWS account that is empty at first: moto's IAM and STS, behind trust policies and OIDC providers that count.

Knows: that a role trusts whom its policy in IAM names now, and what in a web identity's token must be as that says.
Must not know: who the agent is, and which commands made the roles.

A token's signature is not looked at: whoever made it runs beside.
"""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import boto3
from aiohttp import web
from moto.iam.models import iam_backends

from metaproxy.demo_sts import DemoSts, _Caller
from tests.fakes.aside import Aside
from tests.fakes.sts import error_xml

NUMBER = "123456789012"
_CONNECTION = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})


class _Roles(dict[str, Mapping[str, Any]]):
    """The trust policies of IAM's roles by ARN, as they are when they are asked for."""

    def get(self, arn: str, default: Any = None) -> Any:
        found = [role for role in iam_backends[NUMBER]["aws"].get_roles() if role.arn == arn]
        return json.loads(found[0].assume_role_policy_document) if found else default


class _Sts(DemoSts):
    """Beside sessions of roles it gives those of web identities."""

    def __init__(self) -> None:
        super().__init__()
        self._policies = _Roles()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if form.get("Action") != "AssumeRoleWithWebIdentity":
            return await super()._answer(request)
        if not _vouched(self._policies.get(form["RoleArn"]), form["WebIdentityToken"]):
            text = error_xml("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
            return web.Response(status=403, text=text, content_type="text/xml")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _CONNECTION}
        status, answer, kind = await self._forward(request.method, request.rel_url, body, headers)
        self._remember(answer.decode(), _Caller(role=form["RoleArn"], session_name=form["RoleSessionName"]))
        return web.Response(status=status, body=answer, headers={"Content-Type": kind})


def _vouched(policy: Any, token: str) -> bool:
    """Whether a role's policy names a provider of the account that is the token's issuer, and its claims are met."""
    part = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    issuer = claims["iss"].removeprefix("https://")
    provider = f"arn:aws:iam::{NUMBER}:oidc-provider/{issuer}"
    known = {each.arn for each in iam_backends[NUMBER]["aws"].open_id_providers.values()}
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    for statement in policy["Statement"] if policy else []:
        wanted = dict(statement["Condition"]["StringEquals"])
        if (
            statement["Action"] == "sts:AssumeRoleWithWebIdentity"
            and statement["Principal"]["Federated"] == provider
            and provider in known
            and wanted.pop(f"{issuer}:aud") in audiences
            and wanted.pop(f"{issuer}:sub") == claims["sub"]
            and not wanted
        ):
            return True
    return False


class Account(Aside):
    """For as long as the context lasts; `url` is where all of it answers."""

    _sts: _Sts

    @property
    def url(self) -> str:
        """Of IAM, STS and all the rest."""
        return self._sts.url

    def empty(self) -> None:
        """Take away everything that was made."""
        iam_backends[NUMBER]["aws"].reset()

    def policy(self, arn: str) -> Any:
        """A role's trust policy as it is; None when there is no such role."""
        return _Roles().get(arn)

    def instance(self, profile: str) -> dict[str, str]:
        """What an instance with that profile has of its metadata service, as variables."""
        (role,) = iam_backends[NUMBER]["aws"].get_instance_profile(profile).roles
        return self._on_loop(self._sts.node_credentials(role.arn))

    def owner(self, keys: Mapping[str, str]) -> str:
        """Whose credentials a document of the metadata service holds."""
        client: Any = boto3.client(
            "sts",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["Token"],
        )
        return str(client.get_caller_identity()["Arn"])

    @asynccontextmanager
    async def _living(self) -> AsyncIterator[None]:
        # Made on the loop, whose server it is.
        async with _Sts() as self._sts:
            yield

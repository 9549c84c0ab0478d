"""Unmodified SDKs, told nothing but where the metadata service is, get credentials from the agent and use them."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from metaproxy.demo_sts import DemoSts
from tests.fakes.agent import namespace_yaml, pod_yaml, running, url, wire, write

ACCOUNT = "111122223333"
NODES = f"arn:aws:iam::{ACCOUNT}:role/nodes"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": NODES}}],
}

BOTO3 = """
import boto3, sys
print(boto3.client("sts", region_name="us-east-1", endpoint_url=sys.argv[1]).get_caller_identity()["Arn"])
"""
AIOBOTOCORE = """
import asyncio, sys
from aiobotocore.session import get_session

async def main():
    async with get_session().create_client("sts", region_name="us-east-1", endpoint_url=sys.argv[1]) as client:
        print((await client.get_caller_identity())["Arn"])

asyncio.run(main())
"""


@pytest.mark.parametrize("script", [BOTO3, AIOBOTOCORE], ids=["boto3", "aiobotocore"])
@pytest.mark.parametrize("tokens", ["optional", "required"])
async def test_sdk(script: str, tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK turns out to be the pod's role, in the session named after its workload, with and without v1."""
    manifests = tmp_path / "pods.yaml"
    await write(manifests, namespace_yaml("shop"), pod_yaml("shop", "web", "127.0.0.2", role="team/shop-web"))
    async with DemoSts() as sts:
        sts.add_role(f"arn:aws:iam::{ACCOUNT}:role/team/shop-web", TRUST)
        for name, value in (await sts.node_credentials(NODES)).items():
            monkeypatch.setenv(name, value)
        flags = (
            f"--source.manifests={manifests}",
            f"--sts.endpoint-url={sts.url}",
            "--sts.region=us-east-1",
            "--upstream.profile=none",
            f"--tokens.mode={tokens}",
        )
        async with running(*flags) as agent, wire(url(agent), "127.0.0.2") as endpoint:
            out = await _run(script, sts.url, endpoint)

    assert out == f"arn:aws:sts::{ACCOUNT}:assumed-role/shop-web/shop.web"


async def _run(script: str, sts_url: str, endpoint: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint,
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, sts_url, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode().strip()

"""The IAM guide, command by command, against moto's IAM and STS: it ends with credentials."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest

from metaproxy.trust import trusted

GUIDE = (Path(__file__).parents[2] / "docs" / "iam.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
ACCOUNT = "arn:aws:iam::123456789012:role/"


def run(block: str, folder: Path, client: Any) -> None:
    """Run a block's commands in order: ours as they stand, those of the AWS CLI as the calls that they make."""
    for line in block.splitlines():
        words = shlex.split(line)
        if words[:1] == ["metaproxy"]:
            *command, arrow, file = words[1:]
            assert arrow == ">"
            done = subprocess.run([sys.executable, "-m", "metaproxy", *command], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            (folder / file).write_bytes(done.stdout)
        elif words:
            assert words[:2] == ["aws", "iam"]
            operation, options = words[2].replace("-", "_"), words[3:]
            arguments = {}
            for name, value in zip(options[::2], options[1::2], strict=True):
                key = "".join(part.title() for part in name.removeprefix("--").split("-"))
                path = value.removeprefix("file://")
                arguments[key] = (folder / path).read_text() if path != value else value
            getattr(client, operation)(**arguments)


def test_the_blocks_are_those_that_are_run() -> None:
    """None is passed over."""
    assert len(BLOCKS) == GUIDE.count("```sh") == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("blocks", "principal"), [(BLOCKS[:1], "nodes"), (BLOCKS[1:], "metaproxy")])
def test_from_an_empty_account(blocks: list[str], principal: str, tmp_path: Path) -> None:
    """Each set-up ends with an application role that trusts exactly who the agent is."""
    with moto.mock_aws():
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        client: Any = boto3.client("iam", region_name="us-east-1", **keys)
        for block in blocks:
            run(block, tmp_path, client)
        trust = client.get_role(RoleName="shop-web")["Role"]["AssumeRolePolicyDocument"]
        assert trusted(trust, principal=f"{ACCOUNT}{principal}")
        assert not trusted(trust, principal=f"{ACCOUNT}other")
        if principal == "metaproxy":
            hop = client.get_role(RoleName="metaproxy")["Role"]["AssumeRolePolicyDocument"]
            for node in ("nodes", "nodes-2"):
                assert trusted(hop, principal=f"{ACCOUNT}{node}")
                assert not trusted(trust, principal=f"{ACCOUNT}{node}")
        policy = client.get_role_policy(RoleName="nodes", PolicyName="metaproxy")["PolicyDocument"]
        target = "*" if principal == "nodes" else f"{ACCOUNT}metaproxy"
        assert [each["Resource"] for each in policy["Statement"]] == [target]
        sts: Any = boto3.client("sts", region_name="us-east-1", **keys)
        given = sts.assume_role(RoleArn=f"{ACCOUNT}shop-web", RoleSessionName="shop.web")
        assert json.dumps(given["Credentials"], default=str).count("AccessKeyId") == 1

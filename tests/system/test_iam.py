"""`metaproxy iam`: what it prints, taken by moto's IAM and by cfn-lint; what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
from cfnlint.api import lint_all

ACCOUNT = "--role-base-arn=arn:aws:iam::123456789012:role/"
NODE = "--node-role=arn:aws:iam::123456789012:role/nodes"
HOP = "--assume-role-arn=arn:aws:iam::123456789012:role/metaproxy"
TAGS = ["--sts.session-tags=team={namespace}", "--sts.source-identity={workload}"]

COMMANDS = [
    ["node-policy"],
    ["node-policy", *TAGS],
    ["node-policy", ACCOUNT, "--role=shop/web", "--role=bank"],
    ["node-policy", HOP],
    ["hop-policy", HOP, *TAGS],
    ["hop-policy", HOP, ACCOUNT, "--role=web"],
    ["hop-trust", HOP, NODE, "--node-role=arn:aws:iam::123456789012:role/other-nodes"],
    ["trust-policy", ACCOUNT, "--role=shop/web", NODE],
    ["trust-policy", ACCOUNT, "--role=web", HOP, *TAGS, "--external-id=id-7"],
]


def iam(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "metaproxy", "iam", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def printed(*arguments: str) -> str:
    """What it prints."""
    done = iam(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:60])
def test_iam_takes_it(command: list[str]) -> None:
    """As a policy of a role, or as the trust policy of one: the document that was put in comes out."""
    document = printed(*command)
    with moto.mock_aws():
        client: Any = boto3.client("iam", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        if command[0].endswith("trust") or command[0] == "trust-policy":
            role = client.create_role(RoleName="r", AssumeRolePolicyDocument=document)["Role"]
            assert role["AssumeRolePolicyDocument"] == json.loads(document)
        else:
            arn = client.create_policy(PolicyName="p", PolicyDocument=document)["Policy"]["Arn"]
            version = client.get_policy_version(PolicyArn=arn, VersionId="v1")["PolicyVersion"]
            assert version["Document"] == json.loads(document)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:60])
def test_cloudformation_takes_it(command: list[str]) -> None:
    """cfn-lint finds neither errors nor anything to warn of."""
    found = lint_all(printed(*command, "--format=cloudformation"))
    assert [str(match) for match in found if match.rule.severity != "informational"] == []


def test_the_agents_permissions() -> None:
    """Only what is on; with a separate role the nodes may assume that one alone."""
    statement = json.loads(printed("node-policy"))["Statement"][0]
    assert (statement["Action"], statement["Resource"]) == ("sts:AssumeRole", "*")
    statement = json.loads(printed("node-policy", HOP, *TAGS))["Statement"][0]
    assert statement["Action"] == "sts:AssumeRole"
    assert statement["Resource"] == HOP.partition("=")[2]
    statement = json.loads(printed("hop-policy", HOP, *TAGS, ACCOUNT, "--role=a/b"))["Statement"][0]
    assert statement["Action"] == ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    assert statement["Resource"] == "arn:aws:iam::123456789012:role/a/b"


def test_an_existing_trust_policy_is_kept(tmp_path: Path) -> None:
    """EC2's own statement stays; in Terraform's form too."""
    ec2 = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    path = tmp_path / "trust.json"
    path.write_text(json.dumps({"Version": "2012-10-17", "Statement": [ec2]}))
    command = ["trust-policy", ACCOUNT, "--role=web", NODE, f"--existing={path}"]
    assert json.loads(printed(*command))["Statement"][0] == ec2
    assert '"ec2.amazonaws.com"' in printed(*command, "--format=terraform")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["trust-policy", NODE, ACCOUNT], "--role: name the one role"),
        (["trust-policy", "--role=web", NODE], "--role: give its ARN, or what names stand on by --role-base-arn"),
        (["trust-policy", "--role=a b", NODE], "--role: 'a b' is neither"),
        (["trust-policy", "--role=web", ACCOUNT], "--node-role: name the role of the nodes"),
        (["trust-policy", "--role=web", ACCOUNT, "--node-role=nodes"], "--node-role: 'nodes' is no role ARN"),
        (["hop-policy"], "--assume-role-arn: name the separate role"),
        (["hop-trust", HOP, NODE, "--external-id=x"], "--external-id: only an application role's trust policy"),
        (["trust-policy", "--role=web", ACCOUNT, NODE, "--existing=/nowhere"], "--existing: /nowhere: "),
        (["all"], "invalid choice: 'all'"),
        (["node-policy", "--assume-role-arn=x"], "--assume-role-arn: "),
        (["node-policy", "--format=yaml"], "invalid choice: 'yaml'"),
    ],
)
def test_what_is_missing_is_named(command: list[str], told: str) -> None:
    """Exit code 2."""
    done = iam(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr

"""IAM documents as JSON, Terraform and CloudFormation.

Knows: the form of each. Must not know: what a document says.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

Kind = Literal["policy", "trust"]
"""What a role may do, or who may assume it."""


def as_json(document: Mapping[str, Any], _kind: Kind, _name: str, _path: str) -> str:
    """The document alone, as the console and the AWS CLI take it."""
    return json.dumps(document, indent=2) + "\n"


def as_terraform(document: Mapping[str, Any], kind: Kind, name: str, path: str) -> str:
    """A managed policy, or the role with its trust policy."""
    label = re.sub(r"[^a-zA-Z0-9_]|^(?=[0-9])", "_", name)
    argument, resource = ("policy", "aws_iam_policy") if kind == "policy" else ("assume_role_policy", "aws_iam_role")
    return (
        f'resource "{resource}" "{label}" {{\n'
        f"  name = {_hcl(name, 2)}\n"
        f"  path = {_hcl(path, 2)}\n"
        f"  {argument} = jsonencode({_hcl(document, 2)})\n"
        "}\n"
    )


def as_cloudformation(document: Mapping[str, Any], kind: Kind, name: str, path: str) -> str:
    """A template with a managed policy, or the role with its trust policy; JSON is YAML."""
    if kind == "policy":
        properties = {"ManagedPolicyName": name, "Path": path, "PolicyDocument": document}
        resource = {"Type": "AWS::IAM::ManagedPolicy", "Properties": properties}
    else:
        properties = {"RoleName": name, "Path": path, "AssumeRolePolicyDocument": document}
        resource = {"Type": "AWS::IAM::Role", "Properties": properties}
    logical = re.sub(r"[^a-zA-Z0-9]", "", name.title()) or "Role"
    template = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {logical: resource}}
    return json.dumps(template, indent=2) + "\n"


FORMATS: Mapping[str, Callable[[Mapping[str, Any], Kind, str, str], str]] = {
    "json": as_json,
    "terraform": as_terraform,
    "cloudformation": as_cloudformation,
}


def _hcl(value: Any, indent: int) -> str:
    """A value in Terraform's language: JSON, but for how keys are given values and that `${` begins an expression."""
    pad = " " * (indent + 2)
    if isinstance(value, Mapping):
        lines = [f"{pad}{_hcl(key, 0)} = {_hcl(item, indent + 2)}\n" for key, item in value.items()]
        return "{\n" + "".join(lines) + " " * indent + "}"
    if isinstance(value, list):
        return "[\n" + "".join(f"{pad}{_hcl(item, indent + 2)},\n" for item in value) + " " * indent + "]"
    return json.dumps(value).replace("${", "$${").replace("%{", "%%{")

"""The documents of a set-up, and their forms: what they say, and that each form says the same."""

import json
import re
from typing import Any

import hcl2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.iamdocuments import TRUST, actions, policy, trust_policy
from metaproxy.iamformats import FORMATS, as_terraform
from metaproxy.trust import trusted

NODE = "arn:aws:iam::111122223333:role/nodes"
HOP = "arn:aws:iam::111122223333:role/metaproxy"
EC2 = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}


@pytest.mark.parametrize(
    ("tags", "source_identity", "expected"),
    [
        (False, False, ["sts:AssumeRole"]),
        (True, False, ["sts:AssumeRole", "sts:TagSession"]),
        (False, True, ["sts:AssumeRole", "sts:SetSourceIdentity"]),
        (True, True, ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]),
    ],
)
def test_only_what_is_on(tags: bool, source_identity: bool, expected: list[str]) -> None:
    """A permission that is not needed is not given."""
    assert actions(tags=tags, source_identity=source_identity) == expected


def test_policies_are_narrowed_when_asked() -> None:
    """To the roles that are named; else any role, which the roles' own trust bounds."""
    assert policy([], ["sts:AssumeRole"])["Statement"][0]["Resource"] == "*"
    assert policy([HOP], ["sts:AssumeRole"])["Statement"][0]["Resource"] == HOP
    assert policy([HOP, NODE], ["a", "b"])["Statement"][0] == {
        "Sid": "MetaproxyAssumesRoles",
        "Effect": "Allow",
        "Action": ["a", "b"],
        "Resource": [HOP, NODE],
    }


@pytest.mark.parametrize("external_id", ["", "id-7"])
@pytest.mark.parametrize("principals", [[NODE], [NODE, HOP]])
def test_who_is_trusted(principals: list[str], external_id: str) -> None:
    """As STS would read it: exactly those, with exactly that external id."""
    document = trust_policy(principals, ["sts:AssumeRole"], external_id=external_id)
    for principal in principals:
        assert trusted(document, principal=principal, external_id=external_id or None)
        if external_id:
            assert not trusted(document, principal=principal)
            assert not trusted(document, principal=principal, external_id="other")
    assert not trusted(document, principal="arn:aws:iam::111122223333:role/other", external_id=external_id or None)


LAMBDA = {**EC2, "Principal": {"Service": "lambda.amazonaws.com"}}


@pytest.mark.parametrize(
    "existing", [{"Statement": EC2}, {"Version": "2008-10-17", "Id": "x", "Statement": [EC2, LAMBDA]}]
)
def test_what_was_trusted_stays(existing: dict[str, Any]) -> None:
    """Other statements are kept, ours is replaced and not doubled; what else the document has stays."""
    once = trust_policy([NODE], ["sts:AssumeRole"], existing=existing)
    twice = trust_policy([HOP], ["sts:AssumeRole"], existing=once)
    for document, ours in ((once, NODE), (twice, HOP)):
        kept = [each for each in document["Statement"] if each.get("Sid") != TRUST]
        assert kept in (existing["Statement"], [existing["Statement"]])
        assert [each["Principal"] for each in document["Statement"] if each.get("Sid") == TRUST] == [{"AWS": ours}]
        assert document.get("Id") == existing.get("Id")


@pytest.mark.parametrize("existing", [[], "x", 1, {}, {"Statement": None}, {"Statement": ["x"]}])
def test_what_is_no_policy_is_refused(existing: Any) -> None:
    """Nothing is guessed, and nothing lost."""
    with pytest.raises(ValueError, match="it is no policy"):
        trust_policy([NODE], ["sts:AssumeRole"], existing=existing)


TEXTS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12)
DOCUMENTS = st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS, max_size=3), min_size=1, max_size=3)


@given(DOCUMENTS)
def test_terraform_reads_what_was_meant(document: dict[str, Any]) -> None:
    """Whatever is in a text, Terraform's own interpolation included: none of it is taken for an expression."""
    text = as_terraform(document, "policy", "x", "/")
    inner = text[text.index("jsonencode(") + len("jsonencode(") : text.rindex(")")]
    bare = re.sub(r"\$\$\{", "${", inner).replace("%%{", "%{")
    bare = re.sub(r'^(\s*"(?:[^"\\]|\\.)*") = ', r"\1: ", bare, flags=re.MULTILINE)
    bare = re.sub(r"([}\]\"])\n(\s*\")", r"\1,\n\2", bare)
    bare = re.sub(r",\n(\s*\])", r"\n\1", bare)
    assert json.loads(bare) == document


@pytest.mark.parametrize("kind", ["policy", "trust"])
def test_terraform_is_terraform(kind: Any) -> None:
    """A parser of the language takes it."""
    document = trust_policy([NODE, HOP], ["sts:AssumeRole"], external_id="${aws:x} %{y}")
    (resource,) = hcl2.loads(as_terraform(document, kind, "my-role.x", "/a/"))["resource"]
    ((name, labelled),) = resource.items()
    assert name.strip('"') == {"policy": "aws_iam_policy", "trust": "aws_iam_role"}[kind]
    ((label, body),) = labelled.items()
    assert label.strip('"') == "my_role_x"
    assert (body["name"].strip('"'), body["path"].strip('"')) == ("my-role.x", "/a/")


def test_terraform_names_begin_with_no_digit() -> None:
    """A role's name may; Terraform's may not."""
    text = as_terraform(policy([], ["sts:AssumeRole"]), "policy", "1team", "/")
    assert text.startswith('resource "aws_iam_policy" "_1team" {')


def test_json_is_the_document() -> None:
    """And nothing else."""
    document = policy([], ["sts:AssumeRole"])
    assert json.loads(FORMATS["json"](document, "policy", "x", "/")) == document

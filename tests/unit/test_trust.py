"""Trust policies are read as IAM reads them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.trust import trusted

ACCOUNT = "111122223333"
ME = f"arn:aws:iam::{ACCOUNT}:role/team/nodes"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/nodes/i-1"
OTHER = f"arn:aws:iam::{ACCOUNT}:role/team/others"
TAGGING = ("sts:AssumeRole", "sts:TagSession")


def allow(**parts: Any) -> dict[str, Any]:
    """A statement that allows me, unless told otherwise."""
    return {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": ME}, **parts}


def deny(**parts: Any) -> dict[str, Any]:
    """A statement that denies me, unless told otherwise."""
    return allow(Effect="Deny", **parts)


def asked(*statements: Any, **how: Any) -> bool:
    """Whether a policy of these statements trusts me."""
    return trusted({"Statement": list(statements)}, **{"principal": ME, "session_name": "i-1", **how})


def without(statement: dict[str, Any], key: str, **parts: Any) -> dict[str, Any]:
    """The statement with one element less, and others more."""
    return {name: value for name, value in statement.items() if name != key} | parts


@pytest.mark.parametrize(
    "principal",
    [
        {"AWS": ME},
        {"AWS": [OTHER, ME]},
        {"AWS": SESSION},
        {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
        {"AWS": ACCOUNT},
        {"AWS": "*"},
        {"AWS": ME, "Service": "ec2.amazonaws.com"},
        "*",
    ],
)
def test_named(principal: Any) -> None:
    """The role, its session, its account and everybody are names of mine."""
    assert asked(allow(Principal=principal))


@pytest.mark.parametrize(
    "principal",
    [
        {"AWS": OTHER},
        {"AWS": ME.replace("team/", "")},
        {"AWS": ME.replace("nodes", "*")},
        {"AWS": f"{ME}/"},
        {"AWS": SESSION.replace("i-1", "i-2")},
        {"AWS": "arn:aws:iam::999999999999:root"},
        {"AWS": f"arn:aws:iam::{ACCOUNT}:role/root"},
        {"AWS": "999999999999"},
        {"Service": "*"},
        {"AWS": []},
        {},
        None,
        7,
        [["x"]],
    ],
)
def test_not_named(principal: Any) -> None:
    """Another role, a path that is missing, a wildcard within an ARN, another account: none of them is me."""
    assert not asked(allow(Principal=principal))


@pytest.mark.parametrize(
    "action", ["sts:AssumeRole", "STS:assumerole", "sts:*", "*", "sts:Assume?ole", ["a:b", "sts:*"]]
)
def test_action_allowed(action: Any) -> None:
    """Actions are names whatever their case, with wildcards, alone or in a list."""
    assert asked(allow(Action=action))


@pytest.mark.parametrize("action", ["sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:Assume", [], None, 7])
def test_action_not_allowed(action: Any) -> None:
    """Another action is no AssumeRole."""
    assert not asked(allow(Action=action))


def test_every_action_is_needed() -> None:
    """Tags need sts:TagSession as well, in the same statement or in another."""
    assert not asked(allow(), actions=TAGGING)
    assert asked(allow(Action=list(TAGGING)), actions=TAGGING)
    assert asked(allow(), allow(Action="sts:TagSession"), actions=TAGGING)
    assert not asked(allow(Action=list(TAGGING)), deny(Action="sts:TagSession"), actions=TAGGING)


def test_a_deny_beats_every_allow() -> None:
    """Wherever it stands, a Deny that names me refuses; one that names somebody else does not."""
    assert not asked(allow(), deny())
    assert not asked(deny(), allow())
    assert asked(allow(), deny(Principal={"AWS": OTHER}))
    assert asked(allow(), deny(Action="sts:TagSession"))


def test_an_effect_that_is_none_refuses() -> None:
    """A statement whose effect cannot be read is taken for a Deny."""
    assert not asked(allow(), allow(Effect="allow"))


@pytest.mark.parametrize(
    ("condition", "external_id", "held"),
    [
        ({"StringEquals": {"sts:ExternalId": "x-1"}}, "x-1", True),
        ({"StringEquals": {"STS:externalid": ["x-0", "x-1"]}}, "x-1", True),
        ({"StringEquals": {"sts:ExternalId": "x-1"}}, "X-1", False),
        ({"StringEquals": {"sts:ExternalId": "x-1"}}, None, False),
        ({"StringEquals": {"sts:ExternalId": "x-*"}}, "x-1", False),
        ({"StringEquals": {"sts:ExternalId": []}}, "x-1", False),
        ({"StringLike": {"sts:ExternalId": "x-*"}}, "x-1", True),
        ({"StringLike": {"sts:ExternalId": "x-?"}}, "x-12", False),
        ({"StringLike": {"sts:ExternalId": "x.1"}}, "x-1", False),
        ({"StringEquals": {"sts:ExternalId": "x-1"}, "StringLike": {"sts:ExternalId": "y*"}}, "x-1", False),
        ({}, None, True),
    ],
)
def test_the_external_id(condition: Any, external_id: str | None, held: bool) -> None:
    """An Allow or a Deny under a condition acts when the condition holds, and only then."""
    assert asked(allow(Condition=condition), external_id=external_id) is held
    assert asked(allow(), deny(Condition=condition), external_id=external_id) is not held


@pytest.mark.parametrize(
    "condition",
    [
        {"Bool": {"aws:MultiFactorAuthPresent": "true"}},
        {"StringEquals": {"aws:PrincipalOrgID": "o-1"}},
        {"StringNotEquals": {"sts:ExternalId": "x-2"}},
        {"StringEquals": "x"},
        "x",
        None,
    ],
)
def test_a_condition_that_is_not_known_never_helps(condition: Any) -> None:
    """Under a condition that nobody here can judge, an Allow allows nothing and a Deny denies."""
    assert not asked(allow(Condition=condition), external_id="x-1")
    assert not asked(allow(), deny(Condition=condition), external_id="x-1")


def test_a_deny_whose_known_condition_fails_is_none() -> None:
    """A Deny that fails one known condition does not act, whatever its other conditions are."""
    condition = {"StringEquals": {"sts:ExternalId": "x-2", "aws:PrincipalOrgID": "o-1"}}
    assert asked(allow(), deny(Condition=condition), external_id="x-1")


def test_all_but_somebody() -> None:
    """NotPrincipal and NotAction deny whom and what they do not list, and allow nothing."""
    assert not asked(allow(), without(deny(), "Principal", NotPrincipal={"AWS": OTHER}))
    assert asked(allow(), without(deny(), "Principal", NotPrincipal={"AWS": ME}))
    assert not asked(without(allow(), "Principal", NotPrincipal={"AWS": OTHER}))
    assert not asked(allow(), without(deny(), "Action", NotAction="sts:TagSession"))
    assert asked(allow(), without(deny(), "Action", NotAction="sts:*"))
    assert not asked(without(allow(), "Action", NotAction="sts:TagSession"))


@pytest.mark.parametrize(
    "policy", [None, "", 7, [], {}, {"Statement": None}, {"Statement": "x"}, {"Statement": [None]}]
)
def test_no_policy_trusts_nobody(policy: Any) -> None:
    """What is no policy trusts nobody."""
    assert not trusted(policy, principal=ME)


def test_a_single_statement_needs_no_list() -> None:
    """One statement may stand without a list around it."""
    assert trusted({"Statement": allow()}, principal=ME)


def test_a_principal_that_is_no_role() -> None:
    """Somebody without a role's ARN is trusted only where everybody is."""
    assert not asked(allow(), principal="nobody")
    assert asked(allow(Principal="*"), principal="nobody")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["*", ME, "Allow", "sts:AssumeRole", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Statement", "Effect", "Action", "Principal", "AWS", "Condition", "StringLike", "x"]),
            inner,
        )
    ),
)


@given(policy=JSON)
def test_any_json_is_decided(policy: Any) -> None:
    """Whatever the policy, the answer is yes or no."""
    assert trusted(policy, principal=ME) in {True, False}


@given(statements=st.lists(st.sampled_from([allow(), allow(Principal="*"), deny(Principal={"AWS": OTHER})])))
def test_one_more_deny_never_grants(statements: list[Any]) -> None:
    """A Deny that names me closes every policy."""
    assert not asked(*statements, deny())

"""Decisions are kept, and made anew when a fact changes."""

import dataclasses

import pytest

from metaproxy.caller import Directory
from metaproxy.entitlements import Entitlements
from metaproxy.pods import IMDS_TOKENS, PERMITTED, ROLE, Namespace, Pod
from metaproxy.policy import Denial, Grant, Rules
from metaproxy.roles import BaseArn

RULES = Rules(base=BaseArn.parse("arn:aws:iam::123456789012:role"))
POD = Pod(uid="u", namespace="team", name="web", version=1, addresses=("10.0.0.1",), annotations={ROLE: "r"})
TEAM = Namespace(uid="n", name="team", version=1, annotations={PERMITTED: ".*"})


@pytest.fixture
def directory() -> Directory:
    """A directory with the pod and its namespace."""
    directory = Directory()
    directory.put_pod(POD)
    directory.put_namespace(TEAM)
    return directory


def test_a_decision_is_made_once(directory: Directory) -> None:
    """The same facts give the very same answer object, without deciding again."""
    entitlements = Entitlements(directory, RULES, tokens_required=False)
    assert entitlements.rules is RULES
    assert isinstance(entitlements.of(POD), Grant)
    assert entitlements.of(POD) is entitlements.of(POD)


def test_a_new_fact_is_a_new_decision(directory: Directory) -> None:
    """Pod, namespace and rules: whatever changes, the kept decision is not given any more (no grant outlives it)."""
    entitlements = Entitlements(directory, RULES, tokens_required=False)
    assert isinstance(entitlements.of(POD), Grant)
    other = dataclasses.replace(POD, version=2, annotations={ROLE: "s"})
    moved = entitlements.of(other)
    assert isinstance(moved, Grant)
    assert moved.call.role.name == "s"
    directory.put_namespace(dataclasses.replace(TEAM, version=2, annotations={PERMITTED: ".*role/r"}))
    assert isinstance(entitlements.of(other), Denial)
    assert isinstance(entitlements.of(POD), Grant)
    entitlements.rules = dataclasses.replace(RULES, allow=("arn:aws:iam::123456789012:role/x",))
    assert isinstance(entitlements.of(POD), Denial)
    entitlements.rules = RULES
    directory.delete_namespace("n", 3)
    assert isinstance(entitlements.of(POD), Denial)


def test_a_pod_that_is_gone_is_forgotten(directory: Directory) -> None:
    """Nothing is kept of it; forgetting twice is nothing."""
    entitlements = Entitlements(directory, RULES, tokens_required=False)
    kept = entitlements.of(POD)
    entitlements.forget("u")
    entitlements.forget("u")
    assert entitlements.of(POD) is not kept


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize(("word", "required"), [("required", True), ("optional", False), (None, None)])
def test_a_namespace_overrides_the_operator(word: str | None, required: bool | None, default: bool) -> None:
    """Its word counts, else the operator's; also for a caller whom nobody knows."""
    directory = Directory()
    entitlements = Entitlements(directory, RULES, tokens_required=default)
    assert entitlements.tokens_required(None) is default
    assert entitlements.tokens_required(POD) is default
    directory.put_namespace(Namespace(uid="n", name="team", annotations={IMDS_TOKENS: word} if word else {}))
    assert entitlements.tokens_required(POD) is (default if required is None else required)
    assert entitlements.tokens_required(None) is default

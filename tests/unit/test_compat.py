"""Which pods kiam and kube2iam decide otherwise: each named difference, and none where there is none."""

import fnmatch
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.clusterfacts import NamespaceFacts, PodFacts
from metaproxy.compat import REMEDIES, Difference, Why, compat_findings, difference
from metaproxy.doctorchecks import judged
from metaproxy.findings import Finding, Verdict
from metaproxy.migration import MigrationError, Peer
from metaproxy.peers import PeerRules, crosses, found
from metaproxy.pods import (
    ALLOWED_ROLES,
    EXTERNAL_ID,
    NAMESPACE_ANNOTATIONS,
    PERMITTED,
    POD_ANNOTATIONS,
    ROLE,
    SESSION_NAME,
    Namespace,
    Pod,
)
from metaproxy.policy import Grant, Rules, decide
from metaproxy.roles import BaseArn

ACCOUNT = "arn:aws:iam::123456789012:role/"
RULES = Rules(base=BaseArn.parse(ACCOUNT))
OPTIONAL = Rules(base=RULES.base, namespace_required=False)
KIAM = PeerRules(peer="kiam")
KUBE2IAM = PeerRules(peer="kube2iam")
GLOBS = PeerRules(peer="kube2iam", restricted=True)
EXPRESSIONS = PeerRules(peer="kube2iam", restricted=True, expressions=True)


def pod_of(annotations: Mapping[str, str], name: str = "web") -> Pod:
    """A pod as the directory has it."""
    kept = {key: value for key, value in annotations.items() if key in POD_ANNOTATIONS}
    return Pod(uid=name, namespace="shop", name=name, annotations=kept)


def space_of(annotations: Mapping[str, str]) -> Namespace:
    """A namespace as the directory has it."""
    kept = {key: value for key, value in annotations.items() if key in NAMESPACE_ANNOTATIONS}
    return Namespace(uid="u", name="shop", annotations=kept)


def compared(
    peer: PeerRules, pod: Mapping[str, str], space: Mapping[str, str], rules: Rules = RULES
) -> Difference | None:
    """How a pod with these annotations differs."""
    return difference(pod, space, decide(pod_of(pod), space_of(space), rules), rules, peer)


def listed(*patterns: str) -> str:
    """The value of kube2iam's annotation."""
    return json.dumps(patterns)


LOST: list[tuple[str, Why, PeerRules, dict[str, str], dict[str, str], Rules]] = [
    ("kiam: a|b means beginning or end", Why.ANCHORING, KIAM, {ROLE: "x"}, {PERMITTED: "arn:aws|y"}, RULES),
    (
        "kiam: without the added ends",
        Why.ANCHORING,
        PeerRules(peer="kiam", anchored=False),
        {ROLE: "shop-web"},
        {PERMITTED: "shop"},
        RULES,
    ),
    ("kube2iam: any part of it", Why.ANCHORING, EXPRESSIONS, {ROLE: "ab"}, {ALLOWED_ROLES: listed("a")}, RULES),
    (
        "kube2iam: a default role",
        Why.DEFAULT_ROLE,
        PeerRules(peer="kube2iam", default_role="all"),
        {},
        {},
        RULES,
    ),
    ("kube2iam: the node's role", Why.DEFAULT_ROLE, PeerRules(peer="kube2iam", node_role=True), {}, {}, RULES),
    (
        "kube2iam: the default role is never checked",
        Why.DEFAULT_ROLE,
        PeerRules(peer="kube2iam", default_role="all", restricted=True),
        {ROLE: "all"},
        {ALLOWED_ROLES: listed("x")},
        RULES,
    ),
    (
        "kube2iam: a key of its own, and ours cannot be read",
        Why.KEY,
        PeerRules(peer="kube2iam", role_key="example.com/role"),
        {"example.com/role": "x", ROLE: "a b"},
        {},
        OPTIONAL,
    ),
    ("kube2iam: a star crosses", Why.STARS, GLOBS, {ROLE: "team/x"}, {ALLOWED_ROLES: listed("*")}, RULES),
    ("kube2iam: nobody is restricted", Why.RESTRICTION, KUBE2IAM, {ROLE: "x"}, {}, RULES),
    ("kube2iam: nor by a list", Why.RESTRICTION, KUBE2IAM, {ROLE: "x"}, {ALLOWED_ROLES: listed("y")}, RULES),
    (
        "kiam: does not read lists",
        Why.BOTH,
        KIAM,
        {ROLE: "x"},
        {PERMITTED: ".*", ALLOWED_ROLES: listed("y")},
        RULES,
    ),
    (
        "kube2iam: does not read expressions",
        Why.BOTH,
        GLOBS,
        {ROLE: "x"},
        {PERMITTED: "y", ALLOWED_ROLES: listed("x")},
        RULES,
    ),
    (
        "we have bounds",
        Why.BOUNDS,
        KIAM,
        {ROLE: "x"},
        {PERMITTED: ".*"},
        Rules(base=RULES.base, allow=(f"{ACCOUNT}y",)),
    ),
    (
        "kube2iam: keeps what is good of a list",
        Why.MALFORMED,
        GLOBS,
        {ROLE: "x"},
        {ALLOWED_ROLES: '["x", 1]'},
        RULES,
    ),
    ("kiam: a blank session name", Why.MALFORMED, KIAM, {ROLE: "x", SESSION_NAME: ""}, {PERMITTED: ".*"}, RULES),
    ("a blank external id", Why.MALFORMED, KIAM, {ROLE: "x", EXTERNAL_ID: ""}, {PERMITTED: ".*"}, RULES),
    (
        "kube2iam: a key of its own",
        Why.KEY,
        PeerRules(peer="kube2iam", role_key="example.com/role"),
        {"example.com/role": "x"},
        {},
        OPTIONAL,
    ),
    (
        "kube2iam: a key of its own on the namespace",
        Why.KEY,
        PeerRules(peer="kube2iam", restricted=True, namespace_key="example.com/roles"),
        {ROLE: "x"},
        {"example.com/roles": listed("x")},
        RULES,
    ),
    (
        "kube2iam: the same, and ours says otherwise",
        Why.KEY,
        PeerRules(peer="kube2iam", restricted=True, namespace_key="example.com/roles"),
        {ROLE: "x"},
        {"example.com/roles": listed("x"), ALLOWED_ROLES: listed("y")},
        RULES,
    ),
]

OTHER: list[tuple[str, Why, PeerRules, dict[str, str], dict[str, str], Rules]] = [
    ("ARN: in capitals", Why.CASE, KUBE2IAM, {ROLE: ACCOUNT.replace("arn", "ARN") + "x"}, {}, OPTIONAL),
    (
        "another account",
        Why.BASE,
        PeerRules(peer="kube2iam", base="arn:aws:iam::210987654321:role/"),
        {ROLE: "x"},
        {},
        OPTIONAL,
    ),
    (
        "another default role",
        Why.DEFAULT_ROLE,
        PeerRules(peer="kube2iam", default_role="all"),
        {},
        {},
        Rules(base=RULES.base, namespace_required=False, default_role="none"),
    ),
    (
        "two annotations",
        Why.KEY,
        PeerRules(peer="kube2iam", role_key="example.com/role"),
        {"example.com/role": "x", ROLE: "y"},
        {},
        OPTIONAL,
    ),
    (
        "an external id elsewhere",
        Why.KEY,
        PeerRules(peer="kube2iam", external_id_key="example.com/id"),
        {ROLE: "x", "example.com/id": "id-1"},
        {},
        OPTIONAL,
    ),
]

GAINED: list[tuple[str, Why, PeerRules, dict[str, str], dict[str, str], Rules]] = [
    (
        "our default role",
        Why.DEFAULT_ROLE,
        KIAM,
        {},
        {PERMITTED: ".*"},
        Rules(base=RULES.base, default_role="all"),
    ),
    ("kiam: no expression, but a list", Why.BOTH, KIAM, {ROLE: "x"}, {ALLOWED_ROLES: listed("x")}, RULES),
    ("kiam: no expression", Why.RESTRICTION, KIAM, {ROLE: "x"}, {}, OPTIONAL),
    ("kube2iam: no list, but an expression", Why.BOTH, GLOBS, {ROLE: "x"}, {PERMITTED: ".*"}, RULES),
    ("kube2iam: no list", Why.RESTRICTION, GLOBS, {ROLE: "x"}, {}, OPTIONAL),
    ("spaces", Why.SPELLING, KUBE2IAM, {ROLE: " x "}, {}, OPTIONAL),
    ("kube2iam: a slash before", Why.SPELLING, KUBE2IAM, {ROLE: "/x"}, {}, OPTIONAL),
    ("an external id in spaces", Why.SPELLING, KUBE2IAM, {ROLE: "x", EXTERNAL_ID: " id-1 "}, {}, OPTIONAL),
    (
        "kube2iam: looks elsewhere",
        Why.KEY,
        PeerRules(peer="kube2iam", role_key="example.com/role"),
        {ROLE: "x"},
        {},
        OPTIONAL,
    ),
]


@pytest.mark.parametrize("case", [*LOST, *OTHER], ids=lambda case: case[0])
def test_what_pods_lose(case: tuple[str, Why, PeerRules, dict[str, str], dict[str, str], Rules]) -> None:
    """The peer gives a role that we do not give."""
    _, why, peer, pod, space, rules = case
    other = compared(peer, pod, space, rules)
    assert other is not None
    assert (other.why, other.lost) == (why, True)


@pytest.mark.parametrize("case", GAINED, ids=lambda case: case[0])
def test_what_pods_gain(case: tuple[str, Why, PeerRules, dict[str, str], dict[str, str], Rules]) -> None:
    """We give a role that the peer does not give."""
    _, why, peer, pod, space, rules = case
    other = compared(peer, pod, space, rules)
    assert other is not None
    assert (other.why, other.lost) == (why, False)


def test_each_difference_is_shown_and_has_a_remedy() -> None:
    """No reason that no pod can have."""
    assert {case[1] for case in [*LOST, *OTHER, *GAINED]} | {Why.SHARING} == set(Why) == set(REMEDIES)


SAME: list[tuple[str, PeerRules, dict[str, str], dict[str, str], Rules]] = [
    ("kiam, permitted", KIAM, {ROLE: "x"}, {PERMITTED: ".*x"}, RULES),
    ("kiam, its slash", KIAM, {ROLE: "/x"}, {PERMITTED: ".*"}, RULES),
    ("kiam, not permitted", KIAM, {ROLE: "x"}, {PERMITTED: "y"}, RULES),
    ("kiam, an expression that is none", KIAM, {ROLE: "x"}, {PERMITTED: "("}, RULES),
    ("kiam, nothing on the namespace", KIAM, {ROLE: "x"}, {}, RULES),
    ("no role", KIAM, {}, {PERMITTED: ".*"}, RULES),
    ("a blank role", KUBE2IAM, {ROLE: ""}, {}, OPTIONAL),
    ("no role that STS takes", KUBE2IAM, {ROLE: "a b"}, {}, OPTIONAL),
    ("an external id that STS does not take", KUBE2IAM, {ROLE: "x", EXTERNAL_ID: "?"}, {}, OPTIONAL),
    ("kube2iam, by name", GLOBS, {ROLE: "x"}, {ALLOWED_ROLES: listed("y", "x")}, RULES),
    ("kube2iam, by star", GLOBS, {ROLE: f"{ACCOUNT}x-1"}, {ALLOWED_ROLES: listed("x-*")}, RULES),
    ("kube2iam, a list that is none", GLOBS, {ROLE: "x"}, {ALLOWED_ROLES: "x"}, RULES),
    ("kube2iam, a list that is something else", GLOBS, {ROLE: "x"}, {ALLOWED_ROLES: '{"x": 1}'}, RULES),
    ("kube2iam, optional here too", KUBE2IAM, {ROLE: "x", EXTERNAL_ID: "id-1"}, {}, OPTIONAL),
    (
        "kube2iam, its default role here too",
        PeerRules(peer="kube2iam", default_role="all"),
        {},
        {},
        Rules(base=RULES.base, namespace_required=False, default_role="all"),
    ),
]


@pytest.mark.parametrize("case", SAME, ids=lambda case: case[0])
def test_what_is_the_same(case: tuple[str, PeerRules, dict[str, str], dict[str, str], Rules]) -> None:
    """No row."""
    _, peer, pod, space, rules = case
    assert compared(peer, pod, space, rules) is None


_NAMES = st.sampled_from(["x", "y", "team/x", "/x", "xy", f"{ACCOUNT}x", f"{ACCOUNT}team/x"])


@given(
    role=st.none() | _NAMES, pattern=st.none() | st.sampled_from([".*", "x", ".*x", ".*/x", "x|y", ".*x|.*y", "(", ""])
)
def test_kiam_alike_means_no_row(role: str | None, pattern: str | None) -> None:
    """Against kiam's rules written down once more, with Python's own expressions."""
    pod = {} if role is None else {ROLE: role}
    space = {} if pattern is None else {PERMITTED: pattern}
    arn = "" if role is None else role if role.startswith("arn:") else ACCOUNT + role.removeprefix("/")
    try:
        theirs = arn if arn and pattern and re.search(f"^{pattern}$", arn) else ""
    except re.error:
        theirs = ""
    decision = decide(pod_of(pod), space_of(space), RULES)
    ours = decision.call.role.arn if isinstance(decision, Grant) else ""
    assert (compared(KIAM, pod, space) is None) == (ours == theirs)


@given(
    role=_NAMES, patterns=st.lists(st.sampled_from(["x", "*", "team/*", "y", f"{ACCOUNT}*", "*x", "/x"]), max_size=3)
)
def test_kube2iam_alike_means_no_row(role: str, patterns: list[str]) -> None:
    """Against kube2iam's rules written down once more, with Python's own globs."""
    space = {ALLOWED_ROLES: listed(*patterns)}
    arn, *globs = (text if text.startswith("arn:") else ACCOUNT + text for text in (role, *patterns))
    # An empty segment is no role to STS.
    theirs = arn if "//" not in arn and any(fnmatch.fnmatchcase(arn, glob) for glob in globs) else ""
    decision = decide(pod_of({ROLE: role}), space_of(space), RULES)
    ours = decision.call.role.arn if isinstance(decision, Grant) else ""
    assert (compared(GLOBS, {ROLE: role}, space) is None) == (ours == theirs)


@given(
    pod=st.dictionaries(st.sampled_from([ROLE, EXTERNAL_ID, SESSION_NAME]), st.text()),
    space=st.dictionaries(st.sampled_from([PERMITTED, ALLOWED_ROLES]), st.text()),
    peer=st.sampled_from([KIAM, KUBE2IAM, GLOBS, EXPRESSIONS]),
)
def test_whatever_stands_there(pod: dict[str, str], space: dict[str, str], peer: PeerRules) -> None:
    """Total: foreign text makes no exception."""
    other = compared(peer, pod, space)
    assert other is None or other.why in Why


def rows(peer: PeerRules, rules: Rules, *pods: dict[str, str], space: dict[str, str] | None = None) -> list[Finding]:
    """The findings for pods with these annotations."""
    facts = [PodFacts(pod=pod_of(each, f"p{number}"), annotations=each) for number, each in enumerate(pods)]
    spaces = {"shop": NamespaceFacts(namespace=space_of(space or {}), annotations=space or {})}
    return list(compat_findings(judged(facts, spaces, rules), spaces, rules, peer))


def test_shared_external_ids() -> None:
    """One row for the role, with every pod of it; kiam does not share, nor do pods with one id."""
    pods = [{ROLE: "x", EXTERNAL_ID: "id-1"}, {ROLE: "x", EXTERNAL_ID: "id-2"}, {ROLE: "y", EXTERNAL_ID: "id-1"}]
    [row] = rows(KUBE2IAM, OPTIONAL, *pods)
    assert (row.verdict, row.subjects) == (Verdict.WARNING, ("shop/p0", "shop/p1"))
    assert row.found.startswith("external-id sharing")
    [same] = rows(KUBE2IAM, OPTIONAL, *pods[1:])
    assert same.verdict is Verdict.OK
    [same] = rows(KIAM, RULES, *pods, space={PERMITTED: ".*"})
    assert same.verdict is Verdict.OK


def test_a_difference_is_a_row_with_its_pods() -> None:
    """What is lost is a problem, what is gained a warning; pods that cannot be decided yet are told of apart."""
    [lost] = rows(KUBE2IAM, RULES, {ROLE: "x"}, {ROLE: "x"})
    assert (lost.verdict, lost.subjects) == (Verdict.PROBLEM, ("shop/p0", "shop/p1"))
    [gained] = rows(GLOBS, OPTIONAL, {ROLE: "x"})
    assert gained.verdict is Verdict.WARNING
    [same] = rows(KIAM, RULES, {ROLE: "x"}, {})
    assert same.verdict is Verdict.OK
    [unknown] = rows(KUBE2IAM, Rules(), {ROLE: "x"})
    assert unknown.verdict is Verdict.NOT_CHECKED


def test_a_namespace_that_is_not_there() -> None:
    """Nobody can tell what it permits."""
    facts = [PodFacts(pod=pod_of({ROLE: "x"}), annotations={ROLE: "x"})]
    [row] = compat_findings(judged(facts, {}, RULES), {}, RULES, KUBE2IAM)
    assert row.verdict is Verdict.NOT_CHECKED


@pytest.mark.parametrize(
    ("peer", "flags", "rules"),
    [
        ("kiam", ["server", "--role-base-arn", ACCOUNT], {"base": ACCOUNT}),
        ("kiam", ["--disable-strict-namespace-regexp", "--session=x"], {"anchored": False}),
        ("kube2iam", ["--base-role-arn=" + ACCOUNT[:-1], "--default-role=x"], {"base": ACCOUNT, "default_role": "x"}),
        ("kube2iam", ["--namespace-restrictions"], {"restricted": True}),
        ("kube2iam", ["--namespace-restriction-format=RegExp"], {"expressions": True}),
        ("kube2iam", ["--auto-discover-default-role", "--node=n"], {"node_role": True}),
        ("kube2iam", [f"--base-role-arn={ACCOUNT}x/", "--auto-discover-default-role"], {"node_role": True}),
        ("kube2iam", ["--iam-role-key=a", "--iam-external-id=b"], {"role_key": "a", "external_id_key": "b"}),
        ("kube2iam", ["--namespace-key=c"], {"namespace_key": "c"}),
    ],
)
def test_flags(peer: Peer, flags: list[str], rules: dict[str, Any]) -> None:
    """Those that bear on decisions are taken."""
    assert PeerRules.of(peer, flags) == PeerRules(peer=peer, **rules)


@pytest.mark.parametrize("flags", [["--base-role-arn=x"], ["--nonsense"], ["--default-role"]])
def test_flags_that_cannot_be_meant(flags: list[str]) -> None:
    """Said, not guessed."""
    with pytest.raises(MigrationError):
        PeerRules.of("kube2iam", flags)


def test_keys() -> None:
    """Those that are read are asked for."""
    assert PeerRules(peer="kube2iam", role_key="a", external_id_key="b", namespace_key="c").keys == {"a", "b", "c"}


@given(pattern=st.text(alphabet="ab/*.", max_size=8), text=st.text(alphabet="ab/.", max_size=8))
def test_globs(pattern: str, text: str) -> None:
    """As Python's, where only stars are special."""
    assert crosses(pattern, text) == fnmatch.fnmatchcase(text, pattern)


def test_expressions_that_are_none() -> None:
    """They match nothing."""
    assert not found("(", "(")
    assert not found("\ud800", "x")

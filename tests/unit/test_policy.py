"""Who may have which session: every rule, every malformed fact, and that taking away never gives."""

import dataclasses
import json
from typing import Any

import pytest
import re2
from hypothesis import assume, example, given
from hypothesis import strategies as st

from metaproxy import patterns
from metaproxy.errors import Reason
from metaproxy.patterns import PatternError, allow_pattern
from metaproxy.pods import (
    ALLOWED_ROLES,
    EXTERNAL_ID,
    IMDS_TOKENS,
    NAMESPACE_ANNOTATIONS,
    PERMITTED,
    POD_ANNOTATIONS,
    ROLE,
    SESSION_NAME,
    Namespace,
    Pod,
)
from metaproxy.policy import Denial, Grant, Rules, decide, is_role, tokens_required
from metaproxy.roles import BaseArn, RoleArn

ACCOUNT = "arn:aws:iam::123456789012:role/"
OTHER_ACCOUNT = "arn:aws:iam::210987654321:role/"
BASE = BaseArn.parse(ACCOUNT)
RULES = Rules(base=BASE)
OPTIONAL = Rules(base=BASE, namespace_required=False)


def pod(role: str | None = "web", **annotations: str) -> Pod:
    """A pod that wants the role."""
    wanted = annotations if role is None else {ROLE: role, **annotations}
    return Pod(uid="u1", namespace="team", name="web-7", workload="web", service_account="sa", annotations=wanted)


def team(*, permitted: str | None = None, allowed: Any = None) -> Namespace:
    """The pod's namespace; `allowed` is the list, or the very text."""
    annotations = {}
    if permitted is not None:
        annotations[PERMITTED] = permitted
    if allowed is not None:
        annotations[ALLOWED_ROLES] = allowed if isinstance(allowed, str) else json.dumps(allowed)
    return Namespace(uid="n1", name="team", annotations=annotations)


def arn(pod: Pod, namespace: Namespace | None, rules: Rules = RULES) -> str:
    """The role that is granted."""
    decision = decide(pod, namespace, rules)
    assert isinstance(decision, Grant), decision
    return decision.call.role.arn


def denied(pod: Pod, namespace: Namespace | None, rules: Rules = RULES) -> Denial:
    """The denial: it says what is wrong and what to do, and which rule says so."""
    decision = decide(pod, namespace, rules)
    assert isinstance(decision, Denial), decision
    assert decision.rule
    assert decision.message.isprintable()
    assert decision.remedy
    assert decision.retryable == (decision.status == 503)
    return decision


# Which role.


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("web", f"{ACCOUNT}web"),
        (" web\n", f"{ACCOUNT}web"),
        ("/web", f"{ACCOUNT}web"),
        ("team/web", f"{ACCOUNT}team/web"),
        (f"{OTHER_ACCOUNT}web", f"{OTHER_ACCOUNT}web"),
        ("arn:aws-us-gov:iam::123456789012:role/web", "arn:aws-us-gov:iam::123456789012:role/web"),
    ],
)
def test_a_role_is_a_name_a_path_or_an_arn(text: str, role: str) -> None:
    """As kiam and kube2iam take it."""
    assert arn(pod(text), team(permitted=".*")) == role


@pytest.mark.parametrize("default", ["", "fallback"])
@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_a_blank_role_is_no_role(text: str, default: str) -> None:
    """404, and the default role is not for a pod that says it wants none."""
    denial = denied(pod(text), team(permitted=".*"), dataclasses.replace(RULES, default_role=default))
    assert (denial.reason, denial.status) == (Reason.NO_ROLE, 404)


def test_without_annotation_and_default_there_is_no_role() -> None:
    """404: the SDK's chain goes on (contract S5)."""
    denial = denied(pod(None), team(permitted=".*"))
    assert (denial.reason, denial.status) == (Reason.NO_ROLE, 404)
    assert ROLE in denial.remedy


def test_the_default_role_is_for_the_unannotated_alone() -> None:
    """An annotation, whatever its worth, is never replaced by the default."""
    rules = dataclasses.replace(RULES, default_role="fallback")
    assert arn(pod(None), team(permitted=".*"), rules) == f"{ACCOUNT}fallback"
    assert arn(pod("web"), team(permitted=".*"), rules) == f"{ACCOUNT}web"
    assert denied(pod("no such*role"), team(permitted=".*"), rules).reason is Reason.ROLE_MALFORMED


def test_vector_39_the_default_role_is_not_exempt() -> None:
    """It passes namespace and bounds like any other, and naming it oneself is no way round either."""
    rules = dataclasses.replace(RULES, default_role="fallback")
    for asking in (pod(None), pod("fallback"), pod(f"{ACCOUNT}fallback")):
        assert denied(asking, team(permitted=".*/web"), rules).reason is Reason.NOT_PERMITTED
        assert denied(asking, team(), rules).reason is Reason.NAMESPACE_SILENT
        assert denied(asking, None, rules).reason is Reason.NAMESPACE_UNKNOWN
        bounded = dataclasses.replace(rules, allow=(f"{ACCOUNT}web",))
        assert denied(asking, team(permitted=".*"), bounded).reason is Reason.NOT_ALLOWED


@pytest.mark.parametrize(
    "text",
    ["*", "a b", "a//b", "../a", "arn:", "arn:aws:iam", f"{ACCOUNT}*", f"{ACCOUNT}a\n/b", "é", "\ud800", "r" * 65],
)
def test_vector_42_a_malformed_role_hurts_its_own_pod(text: str) -> None:
    """403 that shows the text, whatever it is; kiam's server panicked."""
    denial = denied(pod(text), team(permitted=".*"))
    assert (denial.reason, denial.status) == (Reason.ROLE_MALFORMED, 403)
    assert denial.message.isascii()


def test_vector_42_a_missing_namespace_is_a_passing_state() -> None:
    """Closed and retryable, also where namespaces need say nothing: it may forbid."""
    for rules in (RULES, OPTIONAL):
        denial = denied(pod(), None, rules)
        assert (denial.reason, denial.status, denial.retryable) == (Reason.NAMESPACE_UNKNOWN, 503, True)


def test_without_base_a_name_waits() -> None:
    """503 that may pass, for a name; an ARN needs no base."""
    rules = Rules(base=None)
    denial = denied(pod("web"), team(permitted=".*"), rules)
    assert (denial.reason, denial.status, denial.retryable) == (Reason.BASE_ARN_UNKNOWN, 503, True)
    assert arn(pod(f"{ACCOUNT}web"), team(permitted=".*"), rules) == f"{ACCOUNT}web"
    default = dataclasses.replace(rules, default_role="web")
    assert denied(pod(None), team(permitted=".*"), default).reason is Reason.BASE_ARN_UNKNOWN


def test_without_base_a_lists_names_wait() -> None:
    """A list's names could permit when the base is known; its ARNs permit now, and a list of ARNs alone decides now."""
    rules, asking = Rules(base=None), pod(f"{ACCOUNT}web")
    assert denied(asking, team(allowed=["web"]), rules).reason is Reason.BASE_ARN_UNKNOWN
    assert denied(asking, team(allowed=[f"{ACCOUNT}x", "web"]), rules).reason is Reason.BASE_ARN_UNKNOWN
    assert arn(asking, team(allowed=["web", f"{ACCOUNT}web"]), rules) == f"{ACCOUNT}web"
    assert denied(asking, team(allowed=[f"{ACCOUNT}x"]), rules).reason is Reason.NOT_PERMITTED
    assert denied(asking, team(allowed=[]), rules).reason is Reason.NOT_PERMITTED


# Namespaces.


def test_vector_34_restriction_is_the_default() -> None:
    """A namespace that says nothing permits nothing, unless the operator said that it need not."""
    denial = denied(pod(), team(), Rules(base=BASE))
    assert (denial.reason, denial.status) == (Reason.NAMESPACE_SILENT, 403)
    assert PERMITTED in denial.remedy
    assert ALLOWED_ROLES in denial.remedy
    assert arn(pod(), team(), OPTIONAL) == f"{ACCOUNT}web"


def test_an_optional_namespace_still_forbids() -> None:
    """Where a namespace speaks, its word counts."""
    assert denied(pod(), team(permitted="nothing"), OPTIONAL).reason is Reason.NOT_PERMITTED
    assert denied(pod(), team(allowed=[]), OPTIONAL).reason is Reason.NOT_PERMITTED
    assert denied(pod(), team(allowed="nonsense"), OPTIONAL).reason is Reason.NAMESPACE_MALFORMED


def test_both_annotations_must_permit() -> None:
    """Neither overrides the other, and the grant names those that were met."""
    both = decide(pod(), team(permitted=".*/web", allowed=["web"]), RULES)
    assert isinstance(both, Grant)
    assert PERMITTED in both.rule
    assert ALLOWED_ROLES in both.rule
    assert denied(pod(), team(permitted=".*/web", allowed=["x"])).rule == f"namespace annotation {ALLOWED_ROLES}"
    assert denied(pod(), team(permitted=".*/x", allowed=["web"])).rule == f"namespace annotation {PERMITTED}"


@pytest.mark.parametrize(
    ("rules", "namespace", "said"),
    [
        (RULES, team(permitted=".*"), f"annotation {ROLE}; namespace annotation {PERMITTED}"),
        (RULES, team(allowed=["web"]), f"annotation {ROLE}; namespace annotation {ALLOWED_ROLES}"),
        (OPTIONAL, team(), f"annotation {ROLE}; namespace policy is optional and the namespace is silent"),
    ],
)
def test_a_grant_says_by_what(rules: Rules, namespace: Namespace, said: str) -> None:
    """What named the role, and what permits it."""
    decision = decide(pod(), namespace, rules)
    assert isinstance(decision, Grant)
    assert decision.rule == said


@pytest.mark.parametrize(
    "expression",
    ["web", "role/web", f"{ACCOUNT}we", "eb", "^web$", "", "^", "$", f"{ACCOUNT}", f"x{ACCOUNT}web", f"{ACCOUNT}web.+"],
)
def test_vector_36_unanchored_expression(expression: str) -> None:
    """An expression matches the whole ARN or nothing: no part of a name, no other account's ARN that contains it."""
    denial = denied(pod(), team(permitted=expression))
    assert (denial.reason, denial.status) == (Reason.NOT_PERMITTED, 403)


@pytest.mark.parametrize(
    "role", ["web-admin", "my-web", f"{OTHER_ACCOUNT}web", "x/web", f"{OTHER_ACCOUNT}{ACCOUNT}web"]
)
def test_vector_36_a_longer_role_is_another(role: str) -> None:
    """`web` is no licence for what contains it."""
    assert isinstance(decide(pod(role), team(permitted=f"{ACCOUNT}web"), RULES), Denial)


@pytest.mark.parametrize(
    "expression", [f"{ACCOUNT}web|{ACCOUNT}db", f"^{ACCOUNT}web$|^{ACCOUNT}db$", f"(?:{ACCOUNT}web)|{ACCOUNT}db"]
)
def test_vector_37_alternation(expression: str) -> None:
    """Each branch must match the whole ARN: a branch does not escape from the anchors."""
    namespace = team(permitted=expression)
    assert arn(pod("web"), namespace) == f"{ACCOUNT}web"
    assert arn(pod("db"), namespace) == f"{ACCOUNT}db"
    for role in ("webx", "web/db", "xdb", "db2", f"{OTHER_ACCOUNT}web"):
        assert denied(pod(role), namespace).reason is Reason.NOT_PERMITTED


@pytest.mark.parametrize(
    "expression", ["x|.*/web", ".*/web|x", "(?i).*/WEB", r".*\bweb", r"(?s).*", r"[^\n]+", ".*\n?"]
)
def test_expressions_are_kiams(expression: str) -> None:
    """RE2's dialect, whole."""
    assert arn(pod(), team(permitted=expression)) == f"{ACCOUNT}web"


def test_vector_37_expressions_are_linear() -> None:
    """What makes a backtracking matcher hang is answered like any other."""
    assert denied(pod("a" * 60), team(permitted="(.*a)*(.*a)*(.*a)*(.*a)*b" * 20)).reason is Reason.NOT_PERMITTED


@pytest.mark.parametrize(
    "expression",
    [
        "(",
        "[",
        "*",
        "a{2,1}",
        r"\1",
        "(?=a)",
        "(?P<n",
        "a{100000}",
        "((a{1000}){1000})",
        "x" * 4097,
        "\ud800",
    ],
)
def test_vector_42_a_malformed_expression_hurts_its_own_namespace(expression: str) -> None:
    """403 that says which annotation; what would need too much memory is none either."""
    denial = denied(pod(), team(permitted=expression))
    assert (denial.reason, denial.status) == (Reason.NAMESPACE_MALFORMED, 403)
    assert PERMITTED in denial.message
    assert "team" in denial.message


def test_expressions_are_compiled_once() -> None:
    """Not per request, as kiam does."""
    expression = ".*/compiled-once"
    decide(pod(), team(permitted=expression), RULES)
    before = patterns.expression.cache_info()
    decide(pod("other"), team(permitted=expression), RULES)
    after = patterns.expression.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)


@pytest.mark.parametrize(
    ("pattern", "role", "met"),
    [
        ("web", "web", True),
        ("/web", "web", True),
        ("web", "webx", False),
        ("web", "team/web", False),
        ("web", f"{OTHER_ACCOUNT}web", False),
        ("*", "web", True),
        ("*", "team/web", False),
        ("*", f"{OTHER_ACCOUNT}web", False),
        ("team/*", "team/web", True),
        ("team/*", "team/a/web", False),
        ("team/*", "web", False),
        ("*/web", "team/web", True),
        ("*/web", "a/team/web", False),
        ("w*b", "web", True),
        ("w*b", "wb", True),
        ("w**b", "web", True),
        ("w.b", "web", False),
        ("(web)", "web", False),
        ("web|db", "web", False),
        ("w?b", "web", False),
        ("[w]eb", "web", False),
        (f"{ACCOUNT}web", "web", True),
        (f"{ACCOUNT}*", "web", True),
        (f"{ACCOUNT}*", "team/web", False),
        (f"{ACCOUNT}*/*", "team/web", True),
        (f"{ACCOUNT}*", f"{OTHER_ACCOUNT}web", False),
        (f"{OTHER_ACCOUNT}*", f"{OTHER_ACCOUNT}web", True),
        ("arn*", "web", False),
        ("*arn:aws:iam::*", f"{OTHER_ACCOUNT}web", False),
        (f"*{OTHER_ACCOUNT}web", f"{OTHER_ACCOUNT}web", False),
        ("/", "web", False),
        ("é", "web", False),
        ("web\n", "web", False),
    ],
)
def test_vector_38_globs(pattern: str, role: str, met: bool) -> None:
    """A star stays within its segment and nothing but the star is special; kube2iam's crosses slashes and accounts."""
    assert isinstance(decide(pod(role), team(allowed=[pattern]), RULES), Grant) is met


@pytest.mark.parametrize(
    "pattern",
    [
        "arn:aws:iam::*:role/web",
        "arn:*:iam::123456789012:role/web",
        "arn:aws:iam::12345678901*:role/web",
        "arn:aws:iam::123456789012:*",
        "arn:aws:iam::123456789012:role*",
        "arn:aws:iam::123456789012:*/web",
        "arn:aws:*",
        "arn:*",
        f"arn:*{ACCOUNT}web",
        "arn:aws:iam::\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661:role/web",
        f"{ACCOUNT}{'x' * 4096}",
        f"{ACCOUNT}\ud800",
    ],
)
def test_vector_38_the_account_is_written_out(pattern: str) -> None:
    """A pattern for ARNs that leaves partition or account open is malformed, for namespaces and for the operator."""
    for listed in ([pattern], [pattern, "web"], ["web", pattern], [f"{ACCOUNT}web", pattern]):
        denial = denied(pod(), team(allowed=listed))
        assert (denial.reason, denial.status) == (Reason.NAMESPACE_MALFORMED, 403)
        assert ALLOWED_ROLES in denial.message
    with pytest.raises(PatternError):
        allow_pattern(pattern)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "web",
            "{}",
            '{"web": 1}',
            "null",
            "7",
            '"web"',
            "[web]",
            "['web']",
            '["web"',
            "[7]",
            '["web", null]',
        ),
        *('[""]', '["web", ["db"]]', "[" * 100_000, "NaN", "9" * 5000, '["\\ud800"]', "\ud800", '["web",]', '["\n"]'),
        json.dumps(["web"] + ["x"] * 512),
        json.dumps(["web", "x" * 4097]),
        json.dumps(["web", "x" * 32_768]),
        json.dumps([f"{n:04}" + "x" * 4000 for n in range(64)]),
        json.dumps(["*a" * 2040] * 9),
    ],
)
def test_vector_42_a_malformed_list_hurts_its_own_namespace(text: str) -> None:
    """403 that says which annotation; a list that would keep everybody waiting while it is compiled is none either."""
    denial = denied(pod(), team(allowed=text))
    assert (denial.reason, denial.status) == (Reason.NAMESPACE_MALFORMED, 403)
    assert ALLOWED_ROLES in denial.message


def test_a_pattern_of_stars_is_a_pattern() -> None:
    """However many: compiled or refused, never an exception."""
    assert isinstance(decide(pod(), team(allowed=["*" * 4000]), RULES), Grant | Denial)


def test_patterns_that_cannot_be_compiled_are_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern for which RE2 needs more memory than it is given is refused, not served and not raised."""
    options = re2.Options()
    options.max_mem, options.log_errors = 300, False
    monkeypatch.setattr(patterns, "_RE2", options)
    with pytest.raises(PatternError):
        allow_pattern(f"{ACCOUNT}{'*a' * 700}")


# The operator's bounds.


def test_the_operators_bound_is_over_everything() -> None:
    """No annotation widens it; one of several patterns must match; none at all is no bound."""
    bounded = dataclasses.replace(RULES, allow=(f"{ACCOUNT}team/*", f"{ACCOUNT}db"))
    assert arn(pod("db"), team(permitted=".*"), bounded) == f"{ACCOUNT}db"
    assert arn(pod("team/web"), team(permitted=".*"), bounded) == f"{ACCOUNT}team/web"
    for role in ("web", "team/a/web", f"{OTHER_ACCOUNT}db"):
        for rules in (bounded, dataclasses.replace(bounded, namespace_required=False)):
            denial = denied(pod(role), team(permitted=".*"), rules)
            assert (denial.reason, denial.status) == (Reason.NOT_ALLOWED, 403)


def test_allow_patterns_are_checked_when_given() -> None:
    """What can be used comes back as it was; what cannot is refused at the start, not at a request."""
    assert allow_pattern(f"{ACCOUNT}*") == f"{ACCOUNT}*"
    with pytest.raises(PatternError):
        allow_pattern("web")


# The call.


def test_a_call_is_made_of_the_pod_and_the_rules() -> None:
    """Everything that is sent, from nothing but these."""
    rules = dataclasses.replace(
        RULES,
        session_name="{cluster}.{node}.{pod}",
        tags=(("ns", "{namespace}"), ("sa", "{service_account}!")),
        source_identity="{uid}",
        duration=7200,
        node="n1",
        cluster="c1",
    )
    decision = decide(pod(**{EXTERNAL_ID: " x-1 "}), team(permitted=".*"), rules)
    assert isinstance(decision, Grant)
    call = decision.call
    assert (call.session_name, call.duration, call.external_id) == ("c1.n1.web-7", 7200, "x-1")
    assert (call.tags, call.source_identity) == ((("ns", "team"), ("sa", "sa-")), "u1")


def test_replicas_share_a_session() -> None:
    """By default the name is namespace and workload: two pods of one Deployment make one call."""
    one, other = (dataclasses.replace(pod(), uid=uid, name=f"web-{uid}") for uid in ("a", "b"))
    first, second = (decide(each, team(permitted=".*"), RULES) for each in (one, other))
    assert isinstance(first, Grant)
    assert first == second
    assert (first.call.session_name, first.call.tags, first.call.source_identity) == ("team.web", (), None)
    alone = decide(dataclasses.replace(pod(), workload=""), team(permitted=".*"), RULES)
    assert isinstance(alone, Grant)
    assert alone.call.session_name == "team.web-7"


def test_a_pods_own_session_name() -> None:
    """Taken as far as it is legal; a blank one is malformed."""
    named = decide(pod(**{SESSION_NAME: " my session "}), team(permitted=".*"), RULES)
    assert isinstance(named, Grant)
    assert named.call.session_name == "my-session"
    for text in ("", " \n"):
        denial = denied(pod(**{SESSION_NAME: text}), team(permitted=".*"))
        assert (denial.reason, denial.status) == (Reason.SESSION_NAME_MALFORMED, 403)


@pytest.mark.parametrize("text", ["", " ", "x", "a b", "é", "x" * 1225, "\ud800"])
def test_a_malformed_external_id_is_refused(text: str) -> None:
    """Never mended and never dropped: without it the session would be another one."""
    denial = denied(pod(**{EXTERNAL_ID: text}), team(permitted=".*"))
    assert (denial.reason, denial.status) == (Reason.EXTERNAL_ID_MALFORMED, 403)


def test_vector_40_external_ids_tell_calls_apart() -> None:
    """Two pods, one role, two external ids or none: three keys (kube2iam gave both the same session)."""
    grants = [
        decide(pod(**ids), team(permitted=".*"), RULES) for ids in ({}, {EXTERNAL_ID: "id1"}, {EXTERNAL_ID: "id2"})
    ]
    assert len({grant.call for grant in grants if isinstance(grant, Grant)}) == 3


def test_vector_45_a_changed_annotation_is_another_decision() -> None:
    """The decision is made of nothing but its arguments."""
    namespace = team(allowed=["web"])
    assert arn(pod("web"), namespace) == f"{ACCOUNT}web"
    assert denied(pod("db"), namespace).reason is Reason.NOT_PERMITTED
    assert arn(pod("web"), namespace) == f"{ACCOUNT}web"


@pytest.mark.parametrize("text", [f"{ACCOUNT}team/web", "team/web", "web"])
def test_a_role_answers_to_three_names(text: str) -> None:
    """Bare name, path and name, ARN (contract M10), and to nothing else."""
    role = RoleArn.parse(f"{ACCOUNT}team/web")
    assert is_role(text, role)
    for other in (f"/{text}", f"{text}/", f"{text}x", f"x{text}", text.upper(), "", "team", f"{OTHER_ACCOUNT}team/web"):
        assert not is_role(other, role)


@pytest.mark.parametrize("default", [True, False])
@pytest.mark.parametrize(
    ("word", "required"),
    [
        (None, None),
        ("required", True),
        ("optional", False),
        (" optional\n", False),
        ("Optional", True),
        ("", True),
        ("off", True),
    ],
)
def test_tokens_by_namespace(word: str | None, required: bool | None, default: bool) -> None:
    """Its word, else the operator's; a word that nobody knows counts as the stricter one."""
    namespace = Namespace(uid="n", name="team", annotations={} if word is None else {IMDS_TOKENS: word})
    assert tokens_required(namespace, default=default) is (default if required is None else required)
    assert tokens_required(None, default=default) is default


# Properties.

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=30)
ROLE_TEXTS = TEXTS | st.sampled_from(
    ["web", "db", "team/web", f"{ACCOUNT}web", f"{OTHER_ACCOUNT}web", "arn:", "", "../x"]
)
PATTERNS = st.text("wdeb*/", min_size=1, max_size=5) | st.sampled_from(
    ["web", "db", "*", "team/*", f"{ACCOUNT}*", f"{ACCOUNT}team/web", f"{OTHER_ACCOUNT}*", f"{OTHER_ACCOUNT}web"]
)
EXPRESSIONS = TEXTS | st.sampled_from([".*", ".*/web", f"{ACCOUNT}(web|db)", "(", "web", "x|.*"])
LISTS = (
    TEXTS
    | st.lists(PATTERNS | TEXTS, max_size=4).map(json.dumps)
    | st.recursive(
        st.none() | st.booleans() | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)
    ).map(json.dumps)
)
PODS = st.builds(
    pod,
    st.none() | ROLE_TEXTS,
).flatmap(
    lambda made: st.dictionaries(st.sampled_from([SESSION_NAME, EXTERNAL_ID]), TEXTS).map(
        lambda more: dataclasses.replace(made, annotations={**made.annotations, **more})
    )
)
TEAMS = st.builds(team, permitted=st.none() | EXPRESSIONS, allowed=st.none() | LISTS)
RULESETS = st.builds(
    Rules,
    base=st.sampled_from([None, BASE]),
    default_role=ROLE_TEXTS,
    namespace_required=st.booleans(),
    allow=st.lists(
        st.sampled_from([f"{ACCOUNT}*", f"{ACCOUNT}web", f"{OTHER_ACCOUNT}*", f"{ACCOUNT}team/*"]), max_size=3
    ).map(tuple),
    tags=st.just((("ns", "{namespace}"),)),
    source_identity=st.sampled_from(["", "{pod}"]),
)


@given(PODS, st.none() | TEAMS, RULESETS)
@example(pod(), team(allowed='["\\ud800"]'), RULES)
def test_vector_42_deciding_is_total(asking: Pod, namespace: Namespace | None, rules: Rules) -> None:
    """Whatever stands in an annotation: a grant or a denial, the same each time, and a grant only within its bounds."""
    decision = decide(asking, namespace, rules)
    assert decide(asking, namespace, rules) == decision
    if isinstance(decision, Denial):
        assert decision.status in {403, 404, 503}
        assert decision.retryable == (decision.status == 503)
        return
    assert namespace is not None
    assert asking.annotations.get(ROLE, rules.default_role).strip()
    assert not rules.namespace_required or {PERMITTED, ALLOWED_ROLES} & namespace.annotations.keys()


@given(PODS, TEAMS, RULESETS, st.lists(PATTERNS, max_size=5), st.lists(PATTERNS, max_size=3))
def test_removing_an_entry_of_the_list_never_grants(
    asking: Pod, namespace: Namespace, rules: Rules, kept: list[str], more: list[str]
) -> None:
    """Whoever is denied with more entries is denied with fewer; and a grant never is another role's."""
    fuller = dataclasses.replace(
        namespace, annotations={**namespace.annotations, ALLOWED_ROLES: json.dumps(kept + more)}
    )
    fewer = dataclasses.replace(namespace, annotations={**namespace.annotations, ALLOWED_ROLES: json.dumps(kept)})
    after, before = decide(asking, fewer, rules), decide(asking, fuller, rules)
    if isinstance(after, Grant):
        assert isinstance(before, Grant)
        assert after == before


@given(PODS, TEAMS, RULESETS.filter(lambda rules: rules.namespace_required))
def test_removing_the_namespaces_word_never_grants(asking: Pod, namespace: Namespace, rules: Rules) -> None:
    """Where namespaces must permit, one that stops speaking permits nothing, and one that is not there neither."""
    assert isinstance(decide(asking, dataclasses.replace(namespace, annotations={}), rules), Denial)
    assert isinstance(decide(asking, None, rules), Denial)


@given(PODS, TEAMS, RULESETS, st.integers(0, 2))
def test_removing_an_allow_pattern_never_grants(asking: Pod, namespace: Namespace, rules: Rules, at: int) -> None:
    """As long as one is left: none at all is no bound, which is a decision of its own."""
    fewer = dataclasses.replace(rules, allow=rules.allow[:at] + rules.allow[at + 1 :])
    assume(fewer.allow)
    if isinstance(after := decide(asking, namespace, fewer), Grant):
        assert decide(asking, namespace, rules) == after


@given(PODS, TEAMS, RULESETS, st.sampled_from([".*/web", f"{ACCOUNT}web", "nothing"]))
def test_narrowing_never_grants(asking: Pod, namespace: Namespace, rules: Rules, narrow: str) -> None:
    """A narrower expression, a first bound, and required instead of optional only ever take away."""
    wide = dataclasses.replace(namespace, annotations={**namespace.annotations, PERMITTED: ".*"})
    tight = dataclasses.replace(namespace, annotations={**namespace.annotations, PERMITTED: narrow})
    if isinstance(decide(asking, tight, rules), Grant):
        assert isinstance(decide(asking, wide, rules), Grant)
    bounded = dataclasses.replace(rules, allow=(f"{ACCOUNT}web",))
    if isinstance(decide(asking, namespace, bounded), Grant):
        assert isinstance(decide(asking, namespace, dataclasses.replace(rules, allow=())), Grant)
    required = dataclasses.replace(rules, namespace_required=True)
    if isinstance(decide(asking, namespace, required), Grant):
        assert isinstance(decide(asking, namespace, dataclasses.replace(rules, namespace_required=False)), Grant)


@given(
    PODS,
    st.lists(PATTERNS | TEXTS, max_size=4).flatmap(lambda items: st.tuples(st.just(items), st.permutations(items))),
)
def test_the_order_of_a_list_is_nothing(asking: Pod, lists: tuple[list[str], list[str]]) -> None:
    """Whether a list permits, forbids or cannot be used does not depend on what stands first."""
    one, other = (decide(asking, team(allowed=items), RULES) for items in lists)
    assert getattr(one, "reason", None) == getattr(other, "reason", None)


def test_the_annotations_are_those_of_the_peers() -> None:
    """Those of kiam and kube2iam, so that no pod needs a change; and one of our own."""
    domain = "iam.amazonaws.com"
    assert {f"{domain}/role", f"{domain}/session-name", f"{domain}/external-id"} == POD_ANNOTATIONS
    assert {f"{domain}/permitted", f"{domain}/allowed-roles", "metaproxy.dev/imds-tokens"} == NAMESPACE_ANNOTATIONS

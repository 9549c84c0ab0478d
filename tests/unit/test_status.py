"""What is so on a node: the document, what it comes to in words, the page and the plain text."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy import statuspage
from metaproxy.budget import Spending, TokenBucket
from metaproxy.claims import Why
from metaproxy.errors import IssueError, Reason, StsDenied, StsUnreachable
from metaproxy.pods import ROLE, Pod
from metaproxy.policy import Decision, Denial, Grant
from metaproxy.roles import AssumeRole, RoleArn
from metaproxy.status import Address, Agent, Condition, Place, PodFacts, Watch, document, listed
from metaproxy.statustable import text
from metaproxy.statusview import LONGEST, Tone, view
from metaproxy.wording import duration, printable, shortened

NOW = 1_000_000.0
BASE = "arn:aws:iam::123456789012:role/"

AGENT = Agent(
    version="1.2.3",
    node="node-a",
    started=NOW - 7260,
    identity="arn:aws:sts::123456789012:assumed-role/node/i-0",
    base_arn=BASE,
    source="2 pods from pods.yaml",
    witness="off",
)
SPENDING = Spending(tokens=12.7, burst=200.0, rate=20.0, flights=1, concurrency=32, queued=0)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a broker tells of a call."""

    held: bool = True
    fetching: bool = False
    issued: float | None = NOW - 900
    expires: float | None = NOW + 2700
    renew_at: float | None = NOW + 900
    failure: IssueError | None = None
    failing: float | None = None
    retry_in: float | None = None


NO_SESSION = Session(held=False, issued=None, expires=None, renew_at=None)
UNREACHABLE = StsUnreachable("STS did not answer in time", remedy="ask again")
DENIED = StsDenied("STS refuses the role", remedy="add the statement", code="AccessDenied")


def pod(namespace: str = "shop", name: str = "web", **fields: Any) -> Pod:
    """A pod at an address."""
    return Pod(
        **{"uid": f"{namespace}/{name}", "namespace": namespace, "name": name, "addresses": ("10.0.0.1",)} | fields
    )


def grant(role: str = f"{BASE}shop-web") -> Grant:
    """The pod may have the role."""
    call = AssumeRole(role=RoleArn.parse(role), session_name="shop.web", duration=3600)
    return Grant(call=call, rule="annotation; namespace")


def denial(reason: Reason = Reason.NOT_PERMITTED, *, retryable: bool = False) -> Denial:
    """The pod may not."""
    return Denial(
        reason=reason, status=403, rule="namespace", message="it may not", remedy="let it", retryable=retryable
    )


def facts(
    decision: Decision | None = None, held: Session | None = None, *addresses: Address, **fields: Any
) -> PodFacts:
    """About a pod, at an address that it owns unless others are given."""
    here = pod(**fields)
    return PodFacts(
        pod=here,
        decision=decision,
        held=held,
        addresses=addresses or [Address(text=each, owned=True) for each in here.addresses],
    )


def told(
    *pods: PodFacts,
    agent: Agent = AGENT,
    checks: Mapping[str, str | None] | None = None,
    watches: Iterable[Watch] = (),
    spending: Spending = SPENDING,
    unlisted: int = 0,
) -> dict[str, Any]:
    """The document, as it comes out of the wire."""
    made = document(
        agent,
        checks={"pods": None} if checks is None else checks,
        watches=watches,
        spending=spending,
        pods=pods,
        unlisted=unlisted,
        now=NOW,
    )
    return dict(json.loads(json.dumps(made)))


CONDITIONS: list[tuple[PodFacts, Condition]] = [
    (facts(grant(), Session()), Condition.SERVED),
    (facts(grant(), Session(failure=UNREACHABLE)), Condition.STALE),
    (facts(grant(), replace(NO_SESSION, fetching=True)), Condition.FETCHING),
    (facts(grant(), None), Condition.FETCHING),
    (facts(grant(), replace(NO_SESSION, failure=DENIED)), Condition.FAILING),
    (facts(grant(), Session(), Address(text="10.0.0.1", owned=False, why=Why.LOST)), Condition.WITHDRAWN),
    (facts(grant(), Session(), Address(text="10.0.0.1", owned=False)), Condition.WITHDRAWN),
    (facts(denial(Reason.NAMESPACE_UNKNOWN, retryable=True)), Condition.WAITING),
    (facts(denial()), Condition.REFUSED),
    (facts(denial(Reason.NO_ROLE)), Condition.NO_ROLE),
    (facts(None, host_network=True), Condition.HOST_NETWORK),
]


@pytest.mark.parametrize(("about", "condition"), CONDITIONS)
def test_the_condition_of_a_pod(about: PodFacts, condition: Condition) -> None:
    """What the facts come to; the order is that of what hinders the pod first."""
    [found] = told(about)["pods"]
    assert found["condition"] == condition


def test_every_condition_has_a_case_and_a_tone() -> None:
    """None is forgotten above, and none is shown as an unknown one would be."""
    assert {condition for _, condition in CONDITIONS} == set(Condition)
    served = view(told(CONDITIONS[0][0])).rows[0].tone
    assert served is Tone.GOOD


@pytest.mark.parametrize(
    ("here", "worth"),
    [
        (pod(), True),
        (pod(finished=True), False),
        (pod(host_network=True), False),
        (pod(host_network=True, annotations={ROLE: "shop-web"}), True),
        (pod(host_network=True, finished=True, annotations={ROLE: "shop-web"}), False),
        (pod(terminating=True), True),
    ],
)
def test_which_pods_have_a_line(here: Pod, worth: bool) -> None:
    """Who may ask, and who believes to be asking for a role and has the node's."""
    assert listed(here) is worth


def test_the_document_of_a_pod() -> None:
    """Each fact stands in it, times as seconds from now, the reason's code as everywhere else."""
    session = Session(failure=DENIED, failing=61.4, retry_in=29.6)
    where = Address(
        text="10.0.0.1",
        owned=False,
        why=Why.LOST,
        place=Place(device="veth1", bridge="cni0", hardware="02:00:00:00:00:01"),
        refused=(Reason.NOT_REDIRECTED, 3),
    )
    [found] = told(facts(grant(), session, where))["pods"]
    assert found == {
        "namespace": "shop",
        "name": "web",
        "uid": "shop/web",
        "terminating": False,
        "condition": "withdrawn",
        "role": f"{BASE}shop-web",
        "decision": {"allowed": True, "rule": "annotation; namespace"},
        "addresses": [
            {
                "address": "10.0.0.1",
                "reason": "CallerWithdrawn",
                "why": "lost",
                "carrier": {"device": "veth1", "bridge": "cni0", "hardware": "02:00:00:00:00:01"},
                "connections_refused": {"reason": "NotRedirected", "number": 3},
            }
        ],
        "credentials": {
            "held": True,
            "fetching": False,
            "life_seconds": 3600,
            "left_seconds": 2700,
            "renew_in_seconds": 900,
        },
        "failure": {
            "reason": "StsDenied",
            "code": "AccessDenied",
            "message": "STS refuses the role",
            "remedy": "add the statement",
            "since_seconds": 61,
            "retry_in_seconds": 30,
        },
    }


def test_the_document_of_the_agent() -> None:
    """What it is, whether it is ready, what it heard last, and what it may spend."""
    watches = [
        Watch(resource="pods", synced=True, last_word=NOW - 3, trouble="", trouble_since=0.0),
        Watch(resource="namespaces", synced=False, last_word=None, trouble="403", trouble_since=NOW - 9),
    ]
    found = told(checks={"pods": None, "identity": "none"}, watches=watches, unlisted=4)
    assert found["agent"]["uptime_seconds"] == 7260
    assert found["agent"]["ready"] is False
    assert found["checks"] == [
        {"name": "pods", "ok": True, "message": ""},
        {"name": "identity", "ok": False, "message": "none"},
    ]
    assert [watch["last_word_seconds"] for watch in found["watches"]] == [3, None]
    assert [watch["trouble_seconds"] for watch in found["watches"]] == [None, 9]
    assert found["sts"] == {
        "tokens": 12,
        "burst": 200,
        "rate": 20.0,
        "flights": 1,
        "concurrency": 32,
        "queued": 0,
    }
    assert found["unlisted_pods"] == 4


def test_a_refusal_has_reason_and_remedy() -> None:
    """Also that of a pod on the node's network, which nobody asked the policy about."""
    refused, on_host = told(facts(denial()), facts(None, host_network=True))["pods"]
    assert refused["decision"]["reason"] == "NotPermitted"
    assert refused["decision"]["remedy"] == "let it"
    assert on_host["decision"]["reason"] == "HostNetwork"
    assert on_host["decision"]["remedy"]


# In words.


def test_what_is_wrong_comes_first() -> None:
    """By urgency, then by name; counted by condition in the same order."""
    shown = view(
        told(
            facts(denial(Reason.NO_ROLE), name="a"),
            facts(grant(), Session(), name="b"),
            facts(grant(), Session(failure=UNREACHABLE, failing=5.0, retry_in=5.0), name="c"),
            facts(denial(), name="z"),
            facts(denial(), name="d"),
        )
    )
    assert [row.name for row in shown.rows] == ["d", "z", "c", "b", "a"]
    assert [(fact.text, fact.label) for fact in shown.counts] == [
        ("2", "refused"),
        ("1", "stale"),
        ("1", "served"),
        ("1", "no role"),
    ]


def test_the_words_for_a_session() -> None:
    """How much of its life is left, when it is renewed, and where in its life that is."""
    [row] = view(told(facts(grant(), Session(), terminating=True))).rows
    assert (row.life, row.renewal, row.left, row.renews) == (0.75, 0.5, "45 min", "in 15 min")
    assert (row.role, row.arn) == ("shop-web", f"{BASE}shop-web")
    assert row.condition == "served, terminating"
    [late] = view(told(facts(grant(), Session(renew_at=NOW - 1)))).rows
    assert late.renews == "due now"
    [none] = view(told(facts(grant(), replace(NO_SESSION, fetching=True)))).rows
    assert (none.life, none.renewal, none.left, none.renews) == (None, None, "being fetched", "")


def test_the_words_for_a_failure() -> None:
    """Reason and STS's own code, since when, until when, what to do."""
    session = replace(NO_SESSION, failure=DENIED, failing=61.0, retry_in=29.0)
    [row] = view(told(facts(grant(), session))).rows
    assert row.failure == "StsDenied (AccessDenied)"
    assert row.failed == "for 1 min 01 s, again in 29 s"
    assert row.trouble == "STS refuses the role; add the statement"
    [plain] = view(told(facts(grant(), replace(session, failure=UNREACHABLE)))).rows
    assert plain.failure == "StsUnreachable"


def test_the_words_for_a_carrier() -> None:
    """The device, on a bridge its port and hardware; what was withdrawn and refused."""
    places = [
        Address(text="10.0.0.1", owned=True, place=Place(device="eth7")),
        Address(text="10.0.0.2", owned=True, place=Place(device="v1", bridge="cni0", hardware="02:00:00:00:00:01")),
        Address(text="10.0.0.3", owned=False, why=Why.BLIND, refused=(Reason.TOO_MANY_CONNECTIONS, 2)),
        Address(text="10.0.0.4", owned=False, place=Place(device="", bridge="cni0")),
        Address(text="10.0.0.5", owned=True),
    ]
    [row] = view(told(facts(grant(), Session(), *places))).rows
    assert row.carriers == (
        ("eth7",),
        ("cni0 port v1", "02:00:00:00:00:01"),
        ("CallerWithdrawn (blind)", "2 connections refused: TooManyConnections"),
        ("cni0", "CallerAmbiguous"),
        (),
    )


def test_the_words_for_the_agent() -> None:
    """Watches with their age and trouble, or the source's own words; a queue and an unknown base are marked."""
    watches = [
        Watch(resource="pods", synced=True, last_word=NOW - 3, trouble="", trouble_since=0.0),
        Watch(resource="namespaces", synced=True, last_word=NOW - 70, trouble="reset", trouble_since=NOW - 9),
        Watch(resource="others", synced=False, last_word=None, trouble="403", trouble_since=NOW - 9),
    ]
    shown = view(
        told(watches=watches, spending=replace(SPENDING, queued=2), agent=replace(AGENT, base_arn=""), unlisted=4)
    )
    said = {fact.label: (fact.text, fact.tone) for fact in shown.facts}
    assert said["Agent"][0] == "metaproxy 1.2.3, 2 h 01 min up"
    assert said["Base ARN"] == ("not known yet", Tone.WARN)
    assert said["STS budget"] == (
        "12 of 200 calls at once (20 more each second), 1 of 32 under way, 2 waiting",
        Tone.WARN,
    )
    assert said["Watch of pods"] == ("synced, last word 3 s ago", Tone.GOOD)
    assert said["Watch of namespaces"] == ("synced, last word 1 min 10 s ago, reset (for 9 s)", Tone.WARN)
    assert said["Watch of others"] == ("no list yet, 403 (for 9 s)", Tone.BAD)
    assert shown.unlisted.startswith("4 more")
    assert {fact.label: fact.text for fact in view(told()).facts}["Source"] == "2 pods from pods.yaml"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _swapped(value: Any, path: list[int], other: Any) -> Any:
    """The document with one part, found by walking down, replaced."""
    if not path or not isinstance(value, dict | list) or not value:
        return other
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = _swapped(value[key], path[1:], other)
    return copy


@given(path=st.lists(st.integers(0, 20), max_size=6), other=JSON)
def test_any_document_can_be_shown(path: list[int], other: Any) -> None:
    """An agent of another version answers otherwise in any one place: it is shown as far as it goes."""
    where = Address(text="10.0.0.1", owned=False, why=Why.LOST, place=Place(device="v"), refused=(Reason.INTERNAL, 1))
    watches = [Watch(resource="pods", synced=True, last_word=NOW, trouble="x", trouble_since=NOW)]
    whole = told(facts(grant(), Session(failure=DENIED), where), watches=watches)
    shown = view(_swapped(whole, path, other))
    assert "<!DOCTYPE html>" in statuspage.render(shown)
    assert text(shown)


# What pods' owners write.

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>&lt;",
    "\x1b[2J\x1b]0;owned\x07[bold red]",
    "\u202egnp.exe\u2066\u200f",
    "שלום עולם",
    "a" * 253,
    "line\nfeed\r\ttab\x00",
]


class Reading(HTMLParser):
    """What a parser makes of the page: its elements, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.elements.append((tag, dict(attrs)))

    @property
    def tags(self) -> set[str]:
        """The names of all elements."""
        return {tag for tag, _ in self.elements}

    @property
    def attributes(self) -> set[str]:
        """The names of all attributes."""
        return {name for _, about in self.elements for name in about}

    def handle_data(self, data: str) -> None:
        """Text."""
        self.said.append(data)


def hostile(word: str) -> dict[str, Any]:
    """A document in which every text that a pod's owner or STS could write is this word."""
    refused = Denial(reason=Reason.ROLE_MALFORMED, status=403, rule=word, message=word, remedy=word)
    failing = Session(failure=StsDenied(word, remedy=word, code=word), failing=1.0, retry_in=1.0)
    where = Address(text=word, owned=True, place=Place(device=word, bridge=word, hardware=word))
    agent = Agent(version=word, node=word, started=NOW, identity=word, base_arn=word, source=word, witness=word)
    watch = Watch(resource=word, synced=True, last_word=NOW, trouble=word, trouble_since=NOW)
    return told(
        facts(refused, None, namespace=word, name=word),
        facts(grant(), failing, where, namespace=word, name=word),
        agent=agent,
        checks={word: word},
        watches=[watch],
    )


@pytest.mark.parametrize("word", HOSTILE)
def test_whatever_is_written_is_text_on_the_page(word: str) -> None:
    """It adds no element and no attribute, and stands there to be read."""
    harmless = Reading(statuspage.render(view(hostile("harmless"))))
    read = Reading(statuspage.render(view(hostile(word))))
    assert read.tags == harmless.tags
    assert read.attributes == harmless.attributes
    assert printable(word) in read.said


@pytest.mark.parametrize("word", HOSTILE)
def test_whatever_is_written_is_text_on_a_terminal(word: str) -> None:
    """No character of it does anything, and rich reads no markup in it."""
    shown = text(view(hostile(word)))
    assert all(char.isprintable() for char in shown.replace("\n", ""))
    assert f"{printable(word)}/{printable(word)}" in shown


def test_a_text_has_an_end() -> None:
    """However long it is, and however its characters have to be written."""
    [row] = view(told(facts(denial(), name="\x00" * 100_000))).rows
    assert len(row.name) == LONGEST


# The page.


def test_the_page_allows_its_own_style_alone() -> None:
    """By the hash of exactly what stands in it; nothing in it needs more."""
    page = statuspage.render(view(told(*(about for about, _ in CONDITIONS))))
    read = Reading(page)
    assert re.findall("<style>(.*?)</style>", page, re.DOTALL) == [statuspage.STYLE]
    assert not read.tags & {"script", "img", "link", "iframe", "form", "object"}
    assert not {name for name in read.attributes if name.startswith("on")} | (read.attributes & {"style", "src"})
    assert "default-src 'none'" in statuspage.POLICY
    assert "unsafe" not in statuspage.POLICY


def bar(session: Session) -> dict[str, dict[str, str | None]]:
    """The parts of a session's bar, by their class, with their attributes."""
    read = Reading(statuspage.render(view(told(facts(grant(), session)))))
    return {str(about["class"]): about for name, about in read.elements if name == "rect"}


@pytest.mark.parametrize(
    ("session", "life", "due"),
    [
        (Session(), "75", "50"),
        (Session(renew_at=NOW + 2700), "75", "0"),
        (Session(renew_at=NOW - 60), "75", "77"),
        (Session(renew_at=NOW + 9000), "75", "0"),
        (Session(expires=NOW + 3, renew_at=NOW - 1200), "0", "100"),
        (Session(issued=NOW + 900, expires=NOW + 4500, renew_at=NOW + 4500), "100", "0"),
    ],
    ids=["half", "at its end", "due", "never", "almost over", "not begun"],
)
def test_the_bar_of_a_session(session: Session, life: str, due: str) -> None:
    """It shrinks towards the left; the mark is where its end will be when renewal is due, never outside."""
    parts = bar(session)
    assert parts["track"]["width"] == "100"
    assert (parts["life"]["width"], parts["life"].get("x")) == (life, None)
    assert parts["due"]["x"] == due


def test_a_bar_without_a_mark() -> None:
    """Nobody says when renewal is due: an agent of another version."""
    whole = told(facts(grant(), Session()))
    del whole["pods"][0]["credentials"]["renew_in_seconds"]
    page = statuspage.render(view(whole))
    assert 'class="life"' in page
    assert 'class="due"' not in page


@given(life=JSON, left=JSON, renews=JSON)
def test_a_bar_is_made_of_numbers(life: Any, left: Any, renews: Any) -> None:
    """Whatever the document has in their place: what is no number is no bar, and each is within it."""
    whole = told(facts(grant(), Session()))
    whole["pods"][0]["credentials"] |= {"life_seconds": life, "left_seconds": left, "renew_in_seconds": renews}
    for name, about in Reading(statuspage.render(view(whole))).elements:
        if name == "rect":
            for part in ("x", "width"):
                assert 0 <= float(about.get(part) or "0") <= 100


def test_the_page_refreshes_when_told() -> None:
    """And then offers to stop; else it offers to begin."""
    still, moving = (statuspage.render(view(told()), refresh=seconds) for seconds in (0, 7))
    assert "http-equiv" not in still
    assert 'href="/status?refresh=5"' in still
    assert '<meta http-equiv="refresh" content="7">' in moving
    assert '<a href="/status">stop</a>' in moving


def test_colour_is_never_the_only_sign() -> None:
    """Each mark has its sign and its word; a bar says in words how long it is."""
    page = statuspage.render(view(told(*(about for about, _ in CONDITIONS), checks={"pods": "none"}, unlisted=2)))
    for words in ("✓ ", "✗ ", "! ", "not ready", "75 percent of its life left", "2 more without"):
        assert words in page


def test_a_table_has_headers_for_rows_and_columns() -> None:
    """For who hears the page: also where a narrow window takes the table apart."""
    page = statuspage.render(view(told(facts(grant(), Session()))))
    assert page.count('scope="col" role="columnheader"') == len(statuspage.COLUMNS)
    assert page.count('scope="row" role="rowheader"') == 1
    assert 'role="table" aria-labelledby="pods"' in page


def test_a_node_without_pods() -> None:
    """Says so, on the page and in plain text."""
    words = "No pod of this node may ask for a role."
    assert words in statuspage.render(view(told()))
    assert words in text(view(told()))


# Plain text.


def test_plain_text_has_a_pod_on_each_line() -> None:
    """No colours, no frames, no folding: for a pipe."""
    said = text(
        view(
            told(
                facts(grant(), Session(), name="w" * 253),
                facts(denial(), name="thief"),
                checks={"pods": None, "identity": "no keys"},
                unlisted=1,
            )
        )
    )
    [line] = [line for line in said.splitlines() if line.startswith("shop/w")]
    assert "w" * 253 in line
    assert "75 %, 45 min, renewal in 15 min" in line
    assert "✗ no keys" in said
    assert "✗ shop/thief: it may not; let it" in said
    assert "1 refused; 1 served; 1 more" in said


# Wording.


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (599, "9 min 59 s"),
        (600, "10 min"),
        (3599, "59 min"),
        (3600, "1 h 00 min"),
        (86_399, "23 h 59 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    """Its two largest units."""
    assert duration(seconds) == words


def test_short_and_printable() -> None:
    """What fits is left as it is; what does something to a terminal is written out."""
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"
    assert printable("a\x1b\u202eש") == "a\\x1b\\u202eש"


def test_the_level_of_a_bucket() -> None:
    """What may begin at once, as time goes by."""
    bucket = TokenBucket(rate=2.0, burst=10.0, now=0.0)
    assert bucket.take(0.0)
    assert bucket.level(0.0) == 9.0
    assert bucket.level(60.0) == 10.0

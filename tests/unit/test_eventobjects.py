"""Events as the API server takes them: every limit is one that a real server was seen to enforce."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaproxy.eventobjects import NAME_LIMIT, NOTE_LIMIT, cut, event, event_name, micro_time, series
from metaproxy.pods import Pod

POD = Pod(uid="u1", namespace="team", name="web-7")
KEY = ("u1", "NoRole", "no role")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_800_000_000.0, "2027-01-15T08:00:00.000000Z"),
        (1_800_000_000.25, "2027-01-15T08:00:00.250000Z"),
    ],
)
def test_times_have_six_digits(now: float, text: str) -> None:
    """Whole seconds included: the server refuses any other number of fraction digits."""
    assert micro_time(now) == text


@given(st.floats(min_value=0, max_value=4e9))
def test_every_time_has_six_digits(now: float) -> None:
    """Whatever the moment."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", micro_time(now))


@given(st.text(st.characters(exclude_categories=[])), st.integers(3, 50))
def test_texts_are_cut_in_bytes(text: str, limit: int) -> None:
    """The server counts bytes; what fits stays as it is, what does not shows that it was cut."""
    result = cut(text, limit)
    assert len(result.encode()) <= limit
    if len(text.encode("utf-8", "replace")) > limit:
        assert result.endswith("…")
    else:
        assert result == text.encode("utf-8", "replace").decode()


@given(
    st.from_regex(SUBDOMAIN, fullmatch=True).filter(lambda name: len(name) <= NAME_LIMIT) | st.just("a" * 235 + "-.b")
)
def test_names_are_legal(pod: str) -> None:
    """A name is a DNS subdomain of at most 253 bytes, however long the pod's own."""
    name = event_name(pod, KEY, 1.0)
    assert len(name) <= NAME_LIMIT
    assert SUBDOMAIN.fullmatch(name)


def test_names_tell_reports_apart() -> None:
    """The same report sent twice has one name; another key or another beginning has another."""
    names = [event_name("p", KEY, 1.0), event_name("p", ("u2", "NoRole", "no role"), 1.0), event_name("p", KEY, 2.0)]
    assert len(set(names)) == 3
    assert event_name("p", KEY, 1.0) == names[0]


def test_an_event_is_about_a_pod_in_its_own_namespace() -> None:
    """Every required field is there, and the Event's namespace is the pod's."""
    made = event(POD, name="web-7.1", reason="NoRole", note="no role", first=1.5, instance="metaproxy-n1")
    assert made["metadata"] == {"name": "web-7.1", "namespace": "team"}
    assert made["regarding"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "team", "name": "web-7", "uid": "u1"}
    assert made["eventTime"] == "1970-01-01T00:00:01.500000Z"
    assert {"action", "reason", "reportingController", "reportingInstance", "note", "type"} < made.keys()
    assert made["type"] == "Warning"
    assert "series" not in made
    assert NOTE_LIMIT == 1024


def test_a_series_counts_from_two() -> None:
    """The server refuses a series of one."""
    assert series(1, 0.0)["series"] == {"count": 2, "lastObservedTime": "1970-01-01T00:00:00.000000Z"}
    assert series(7, 0.0)["series"]["count"] == 7

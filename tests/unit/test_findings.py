"""A report: its rows, its form for programs, and when it says that something is wrong."""

import json

import pytest

from metaproxy.findings import CHECKS, Finding, Verdict, as_document, as_lines, good, in_order, not_checked, ok

PROBLEM = Finding(
    check="roles",
    verdict=Verdict.PROBLEM,
    found="refused",
    remedy="trust it",
    subjects=tuple(f"shop/{number}" for number in range(7)),
    document={"Version": "x"},
)
WARNING = Finding(check="clock", verdict=Verdict.WARNING, found="ahead", remedy="set it")


def test_the_table() -> None:
    """One row each, in the order of the checks; what belongs to it below, the first subjects by name."""
    lines = list(as_lines([PROBLEM, WARNING, ok("own-identity", "me")]))
    rows = [line.split()[:2] for line in lines if not line.startswith(" ")]
    assert rows == [
        ["ok", "own-identity"],
        ["warning", "clock"],
        ["problem", "roles"],
        ["not", "made:"],
        ["1", "problem,"],
    ]
    assert [line.strip() for line in lines[4:-2]] == [
        "shop/0, shop/1, shop/2, shop/3, shop/4 and 2 more",
        "-> trust it",
        "{",
        '"Version": "x"',
        "}",
    ]
    assert lines[-1] == "1 problem, 1 warning, 0 not checked, 1 ok"


def test_the_counts() -> None:
    """In words."""
    assert list(as_lines([WARNING, WARNING]))[-1] == "0 problems, 2 warnings, 0 not checked, 0 ok"


def test_all_subjects_where_they_are_few() -> None:
    """Nothing is said to be left out."""
    few = Finding(check="roles", verdict=Verdict.WARNING, found="x", remedy="y", subjects=("a", "b"))
    assert "a, b" in [line.strip() for line in as_lines([few])]


def test_for_a_program() -> None:
    """Everything, whatever the table leaves out."""
    document = json.loads(json.dumps(as_document([PROBLEM, ok("clock", "fine")])))
    assert document["ok"] is False
    assert [finding["check"] for finding in document["findings"]] == ["clock", "roles"]
    assert document["findings"][0]["remedy"] is None
    assert len(document["findings"][1]["subjects"]) == 7
    assert document["findings"][1]["document"] == {"Version": "x"}


def test_checks_that_were_not_made() -> None:
    """Each is named: no report looks like a whole one that is none."""
    found = [ok(check, "x") for check in CHECKS if check not in {"redirect", "compat"}]
    assert as_document(found)["not_made"] == ["redirect", "compat"]
    assert list(as_lines(found))[-2].startswith("not made: redirect, compat ")
    whole = [ok(check, "x") for check in CHECKS]
    assert as_document(whole)["not_made"] == []
    assert not any(line.startswith("not made") for line in as_lines(whole))


def test_what_is_wrong() -> None:
    """Problems alone: a warning, or what could not be looked at, is told."""
    assert good([WARNING, ok("clock", "x"), not_checked("roles", "x", "y")])
    assert not good([WARNING, PROBLEM])


@pytest.mark.parametrize("verdict", [Verdict.PROBLEM, Verdict.WARNING, Verdict.NOT_CHECKED])
def test_nothing_is_wrong_without_a_remedy(verdict: Verdict) -> None:
    """Nor is there one where all is well, nor a check that nobody knows."""
    with pytest.raises(ValueError, match="clock"):
        Finding(check="clock", verdict=verdict, found="x")
    with pytest.raises(ValueError, match="clock"):
        Finding(check="clock", verdict=Verdict.OK, found="x", remedy="y")
    with pytest.raises(ValueError, match="nonsense"):
        ok("nonsense", "x")


def test_order() -> None:
    """Stable within a check."""
    findings = [ok("compat", "x"), *(ok(name, number) for number in "12" for name in CHECKS)]
    told = in_order(findings)
    assert [finding.check for finding in told] == sorted(
        (finding.check for finding in findings), key=list(CHECKS).index
    )
    assert [finding.found for finding in told if finding.check == "compat"] == ["x", "1", "2"]

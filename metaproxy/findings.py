"""What a check found: its verdict, what is the matter, what to do; and how that is told.

Knows: which checks there are, in which order they are told, and the form of a report.
Must not know: how anything is looked at, or judged.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

EXAMPLES = 5
"""Subjects that the table names; `--json` has all."""


class Verdict(StrEnum):
    """How it is. What could not be looked at is never taken for good."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


CHECKS: Mapping[str, str] = {
    "own-identity": "the agent has AWS credentials that STS takes",
    "region": "the region is known and of the same partition as the identity",
    "separate-role": "the separate role can be assumed",
    "base-arn": "it is known what role names without an ARN stand on",
    "clock": "this machine's clock is that of STS and of the API server",
    "api-permissions": "the API server permits what the agent asks of it",
    "roles": "every role that a pod is entitled to can be assumed, exactly as the agent would",
    "session-duration": "every role allows sessions of the configured duration",
    "namespace-policy": "namespaces permit what their own pods ask for",
    "annotations": "annotations of pods and namespaces can be used",
    "host-network": "no pod on the node's network asks for a role",
    "net-raw": "no pod on a bridge can send packets in another's name",
    "second-networks": "no pod has a network that goes past the node's hooks",
    "redirect": "the redirect of this node is in place",
    "leftover-rules": "no rule of kiam, kube2iam or others leads the metadata address elsewhere",
    "source-route": "this node does not take the senders' word for the way of their packets",
    "compat": "pods are decided as by the peer (only with --compat)",
}
"""Every check by its name, and what holds where it says ok; in the order of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found.

    `remedy`: what to do; only where all is well there is none. `subjects`: whom it concerns, as NAMESPACE/NAME or
    names of the node's parts. `document`: what is to be put somewhere (a trust policy, rules of a ClusterRole).
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""
    subjects: tuple[str, ...] = ()
    document: Any = None

    def __post_init__(self) -> None:
        if self.check not in CHECKS or bool(self.remedy) == (self.verdict is Verdict.OK):
            raise ValueError(f"{self.check}: no such check, or nothing to do about {self.verdict}")


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


def not_checked(check: str, why: str, remedy: str) -> Finding:
    """It could not be looked at."""
    return Finding(check=check, verdict=Verdict.NOT_CHECKED, found=why, remedy=remedy)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """As a report has them."""
    order = {name: number for number, name in enumerate(CHECKS)}
    return sorted(findings, key=lambda finding: order[finding.check])


def good(findings: Iterable[Finding]) -> bool:
    """Whether nothing is wrong: a warning, or what could not be looked at, is told and is no problem."""
    return all(finding.verdict is not Verdict.PROBLEM for finding in findings)


def unmade(findings: Iterable[Finding]) -> list[str]:
    """The checks that a report does not have at all."""
    made = {finding.check for finding in findings}
    return [check for check in CHECKS if check not in made]


def as_document(findings: Iterable[Finding]) -> dict[str, Any]:
    """For a program."""
    told = in_order(findings)
    return {
        "ok": good(told),
        "not_made": unmade(told),
        "findings": [
            {
                "check": finding.check,
                "verdict": finding.verdict.value,
                "found": finding.found,
                "remedy": finding.remedy or None,
                "subjects": list(finding.subjects),
                "document": finding.document,
            }
            for finding in told
        ],
    }


def as_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """For a person: a table, what belongs to a row below it. Parts were written by pods' owners: not yet printable."""
    told = in_order(findings)
    wide = max(map(len, CHECKS)) + 2
    margin = " " * (13 + wide)
    for finding in told:
        yield f"{finding.verdict.value:<13}{finding.check:<{wide}}{finding.found}"
        if finding.subjects:
            shown, more = finding.subjects[:EXAMPLES], len(finding.subjects) - EXAMPLES
            yield f"{margin}{', '.join(shown)}{f' and {more} more' if more > 0 else ''}"
        if finding.remedy:
            yield f"{margin}-> {finding.remedy}"
        if finding.document is not None:
            for line in json.dumps(finding.document, indent=2).splitlines():
                yield f"{margin}{line}"
    if left := unmade(told):
        yield f"not made: {', '.join(left)} (see metaproxy doctor --help)"
    counts = Counter(finding.verdict for finding in told)
    yield ", ".join(
        f"{counts[verdict]} {verdict.value}{'s' if verdict in _COUNTED and counts[verdict] != 1 else ''}"
        for verdict in (Verdict.PROBLEM, Verdict.WARNING, Verdict.NOT_CHECKED, Verdict.OK)
    )


_COUNTED = frozenset({Verdict.PROBLEM, Verdict.WARNING})

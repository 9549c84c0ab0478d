"""The alerts and the dashboard, by Prometheus' own parser and engine: they name what exists, and fire for its cause."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from metaproxy.metricnames import METRICS, REDIRECT_METRICS
from tests.chart.build import Tools
from tests.chart.helm import CHART, Helm, HelmError, only

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks.md"

SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
KNOWN = {"up"} | {
    f"{spec.name}{suffix}" for spec in (*METRICS, *REDIRECT_METRICS) for suffix in SUFFIXES.get(spec.kind, ("",))
}
LABELS = {"instance", "job", "node", "le"}


def ask(tools: Tools, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prometheus' answers."""
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run([tools.promql], input=lines, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def alerts(helm: Helm) -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    rule = only(helm.objects("--set=prometheusRule.enabled=true"), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    return {each["alert"]: each for each in group["rules"]}


def dashboard() -> list[str]:
    """The expressions of the dashboard, with its variables filled in."""
    document = json.loads((CHART / "dashboards" / "metaproxy.json").read_text())
    return [
        target["expr"].replace("$__rate_interval", "5m").replace("$node", ".*")
        for panel in document["panels"]
        for target in panel["targets"]
    ]


def test_expressions(tools: Tools, alerts: dict[str, dict[str, Any]]) -> None:
    """Prometheus takes each, and each metric and label in it is one of ours."""
    expressions = [*(each["expr"] for each in alerts.values()), *dashboard()]
    labels = LABELS | {name for spec in (*METRICS, *REDIRECT_METRICS) for name, _ in spec.labels}
    for expression, told in zip(expressions, ask(tools, [{"expr": text} for text in expressions]), strict=True):
        assert told["error"] == "", expression
        assert told["metrics"], expression
        assert set(told["metrics"]) <= KNOWN, expression
        matched = re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression)
        assert set(matched) <= labels, expression
    (broken,) = ask(tools, [{"expr": "sum("}])
    assert broken["error"]


def test_each_alert_has_its_runbook(alerts: dict[str, dict[str, Any]]) -> None:
    """Six of them, each with a section of its own under the anchor that it names."""
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert list(alerts) == headings
    assert len(alerts) == 6
    for name, alert in alerts.items():
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert alert["labels"]["severity"] in {"warning", "critical"}


SERIES = {
    "up": 'up{job="metaproxy",instance="a"}',
    "synced": 'metaproxy_synced{instance="a",resource="pods"}',
    "event": 'metaproxy_watch_last_event_timestamp_seconds{instance="a",resource="pods"}',
    "restarts": 'metaproxy_watch_restarts_total{instance="a",resource="pods",reason="refused"}',
    "ends": 'metaproxy_watch_restarts_total{instance="a",resource="pods",reason="end"}',
    "denied": 'metaproxy_sts_request_duration_seconds_count{instance="a",outcome="StsDenied"}',
    "ok": 'metaproxy_sts_request_duration_seconds_count{instance="a",outcome="ok"}',
    "life": 'metaproxy_credentials_shortest_life_seconds{instance="a"}',
    "held": 'metaproxy_credentials_cached{instance="a"}',
    "wanted": 'metaproxy_credentials_wanted{instance="a"}',
    "refused": 'metaproxy_http_requests_total{instance="a",route="list",method="GET",code="403",reason="NotPermitted"}',
    "read": 'metaproxy_http_requests_total{instance="a",route="item",method="GET",code="403",reason="NotPermitted"}',
    "failed": 'metaproxy_http_requests_total{instance="a",route="list",method="GET",code="503",reason="StsPending"}',
    "unaccepted": 'metaproxy_http_accept_failures_total{instance="a",reason="EMFILE"}',
    "given": 'metaproxy_http_requests_total{instance="a",route="list",method="GET",code="200",reason=""}',
    "place": 'metaproxy_redirect_in_place{instance="a"}',
    "repairs": 'metaproxy_redirect_repairs_total{instance="a",part="rules"}',
}
CALM = {
    "up": "1x30",
    "synced": "1x30",
    "event": "0+60x30",  # a bookmark a minute
    "restarts": "3x30",
    "ends": "0+1x30",
    "denied": "7x30",
    "ok": "0+2x30",
    "life": "1800x30",
    "held": "5x30",
    "wanted": "5x30",
    "refused": "0+1x30",
    "read": "0x30",
    "failed": "0x30",
    "unaccepted": "0x30",
    "given": "0+600x30",
    "place": "1x30",
    "repairs": "2x30",
}
"""Half an hour of a quiet node, a sample a minute."""

MANIFESTS = {"event": "0x30"}
EMPTY = {"life": "0x30", "held": "0x30", "wanted": "0x30"}

STORMS = [
    ("MetaproxyDown", {"up": "1x15 0x15"}),
    ("MetaproxyWatchStale", {"synced": "0x30"}),
    ("MetaproxyWatchStale", {"event": "0+60x15 900x15"}),
    ("MetaproxyWatchStale", {"restarts": "0+1x30"}),
    ("MetaproxyCredentialsFailing", {"denied": "0+2x30"}),
    ("MetaproxyCredentialsNearExpiry", {"life": "1800-60x30"}),
    ("MetaproxyDenials", {"refused": "0+60x30"}),
    ("MetaproxyDenials", {"unaccepted": "0+1x30"}),
    ("MetaproxyRedirectBroken", {"place": "1x15 0x15"}),
    ("MetaproxyRedirectBroken", {"repairs": "0+1x30"}),
]


def load(changes: dict[str, str]) -> str:
    """The series of a node on which these are other than calm, as Prometheus' own tests write them."""
    return "load 1m\n" + "".join(f"  {SERIES[name]} {values}\n" for name, values in (CALM | changes).items())


def firing(tools: Tools, alerts: dict[str, dict[str, Any]], changes: dict[str, str], at: int = 1_740) -> set[str]:
    """The alerts whose expression finds something then."""
    questions = [{"expr": each["expr"], "load": load(changes), "at": at} for each in alerts.values()]
    told = ask(tools, questions)
    assert [each["error"] for each in told] == [""] * len(told)
    return {name for name, each in zip(alerts, told, strict=True) if each["found"]}


@pytest.mark.parametrize("changes", [{}, EMPTY, MANIFESTS], ids=["calm", "empty", "no-watch"])
def test_calm(tools: Tools, alerts: dict[str, dict[str, Any]], changes: dict[str, str]) -> None:
    """Nothing fires on a quiet node, on one without pods, or on one without a watch."""
    assert firing(tools, alerts, changes) == set()


@pytest.mark.parametrize(("name", "changes"), STORMS, ids=lambda part: str(part)[:50])
def test_storm(tools: Tools, alerts: dict[str, dict[str, Any]], name: str, changes: dict[str, str]) -> None:
    """Each fires for what it is about, and no other does."""
    assert firing(tools, alerts, changes) == {name}


UNTIL = 34 * 60
"""Seconds for which alerts are looked at below."""

EDGES: list[tuple[str, dict[str, str], int | None]] = [
    ("MetaproxyDown", {"up": "1x15 0x30"}, 21),
    ("MetaproxyDown", {"up": "1x15 0x4 1x30"}, None),
    ("MetaproxyWatchStale", {"synced": "1x15 0x30"}, 21),
    ("MetaproxyWatchStale", {"synced": "1x15 0x4 1x30"}, None),
    ("MetaproxyWatchStale", {"event": "0+60x15 900x30"}, 31),  # ten minutes after 15 nothing was heard for too long
    ("MetaproxyWatchStale", {"event": "0+60x15 900x14 1800+60x30"}, None),
    ("MetaproxyWatchStale", {"restarts": "3x15 13x30"}, 21),
    ("MetaproxyWatchStale", {"restarts": "3x15 12x30"}, None),
    ("MetaproxyCredentialsFailing", {"denied": "7x15 8+1x30"}, 31),
    ("MetaproxyCredentialsFailing", {"denied": "7x15 8x13 9x13 10x13"}, 31),  # one failure in fourteen minutes
    ("MetaproxyCredentialsFailing", {"denied": "7x15 8x0 9x30"}, None),
    ("MetaproxyCredentialsNearExpiry", {"life": "1800-60x30"}, 21),
    ("MetaproxyCredentialsNearExpiry", {"life": "899x30"}, 5),
    ("MetaproxyCredentialsNearExpiry", {"life": "900x30"}, None),
    ("MetaproxyCredentialsNearExpiry", {"life": "1800x15 899x4 1800x30"}, None),
    ("MetaproxyCredentialsNearExpiry", {"life": "0x30", "held": "0x30"}, None),
    ("MetaproxyCredentialsNearExpiry", {"life": "0x30", "wanted": "0x30"}, None),
    ("MetaproxyDenials", {"refused": "0+31x40"}, 20),  # after ten minutes it is known, and after ten more it fires
    ("MetaproxyDenials", {"refused": "0+30x40"}, None),
    ("MetaproxyDenials", {"failed": "0+31x40"}, 20),
    ("MetaproxyDenials", {"refused": "0+15x40", "read": "0+16x40"}, 20),  # by the reason, whatever the route
    ("MetaproxyDenials", {"refused": "0+15x40", "failed": "0+16x40"}, None),
    ("MetaproxyDenials", {"refused": "0+60x9 600x40"}, None),
    ("MetaproxyDenials", {"unaccepted": "0x15 1+1x30"}, 26),
    ("MetaproxyDenials", {"unaccepted": "0x15 1x30"}, None),
    ("MetaproxyRedirectBroken", {"place": "1x15 0x30"}, 17),
    ("MetaproxyRedirectBroken", {"place": "1x15 0x0 1x30"}, None),
    ("MetaproxyRedirectBroken", {"repairs": "2x15 5x30"}, 17),
    ("MetaproxyRedirectBroken", {"repairs": "2x15 4x30"}, None),
]
"""On either side of each alert's bounds: the minute at which it fires first, if it does.

An increase is what Prometheus makes of a quarter of an hour's fifteen samples: a fourteenth more than was counted.
"""


@pytest.mark.parametrize(("name", "changes", "first"), EDGES, ids=lambda part: str(part)[:50])
def test_edges(
    tools: Tools, alerts: dict[str, dict[str, Any]], name: str, changes: dict[str, str], first: int | None
) -> None:
    """It fires as late, and for as little, as it says; and then it says where and what, with nothing left blank."""
    alert = alerts[name]
    question = {**{key: alert[key] for key in ("expr", "for", "annotations")}, "load": load(changes), "at": UNTIL}
    [told] = ask(tools, [question])
    assert told["error"] == ""
    firing = [second // 60 for second in told["firing"] or []]
    assert firing[:1] == ([] if first is None else [first])
    for said in told["said"] or []:
        assert " on a " in said["summary"].replace(":", " ")
        assert [text for text in said.values() if re.search(r"^\s|\s$|\s\s|[<{]", text)] == []


@pytest.mark.parametrize("reason", ["refused", "lost", "silence"])
def test_watches_that_begin_anew_for_each_reason(tools: Tools, alerts: dict[str, dict[str, Any]], reason: str) -> None:
    """Each that is no ordinary end counts."""
    series = load({"restarts": "0+1x30"}).replace('reason="refused"', f'reason="{reason}"')
    [told] = ask(tools, [{"expr": alerts["MetaproxyWatchStale"]["expr"], "load": series, "at": 1_740}])
    assert [each["reason"] for each in told["found"] or []] == [reason]


def test_alerts_can_be_left_out(helm: Helm) -> None:
    """By name."""
    objects = helm.with_values({"prometheusRule.enabled": True, "prometheusRule.disabled": ["MetaproxyDenials"]})
    (group,) = only(objects, "PrometheusRule")["spec"]["groups"]
    assert len(group["rules"]) == 5
    with pytest.raises(HelmError):
        helm.with_values({"prometheusRule.disabled": "MetaproxyDenials"})


# ---- monitors

CONTAINERS = {"metaproxy": "9181", "redirect-watch": "9182"}


def rules_of(end: dict[str, Any]) -> str:
    """A monitor's relabelings as Prometheus writes them: the operator changes the keys' spelling."""
    snake = [
        {re.sub("([A-Z])", r"_\1", key).lower(): value for key, value in rule.items()} for rule in end["relabelings"]
    ]
    return str(yaml.safe_dump(snake))


@pytest.mark.parametrize(("address", "shown"), [("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")])
def test_a_pod_without_ports_is_scraped(tools: Tools, helm: Helm, address: str, shown: str) -> None:
    """Prometheus knows a container that declares no port by its pod's address alone: each endpoint takes its own.

    Init containers, which Prometheus lists too, are taken by none.
    """
    endpoints = only(helm.objects("--set=podMonitor.enabled=true"), "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert not any(key in end for end in endpoints for key in ("port", "portNumber", "targetPort"))
    for container in [*CONTAINERS, "folder", "redirect"]:
        labels = {
            "__address__": address,
            "__meta_kubernetes_pod_ip": address,
            "__meta_kubernetes_pod_container_name": container,
            "__meta_kubernetes_pod_node_name": "node-1",
        }
        told = ask(tools, [{"relabel": rules_of(end), "labels": labels} for end in endpoints])
        assert [each["error"] for each in told] == ["", ""]
        kept = [found for each in told for found in each["found"] or []]
        assert [each["__address__"] for each in kept] == [
            f"{shown}:{port}" for port in [CONTAINERS.get(container)] if port
        ]
        assert all(each["node"] == "node-1" for each in kept)

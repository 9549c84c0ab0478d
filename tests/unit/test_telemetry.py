"""Metrics as Prometheus wants them, and bounded whatever pods do."""

import re

from metaproxy.metricnames import METRICS
from metaproxy.settings import Settings
from metaproxy.telemetry import Metrics

UNITS = ("_seconds", "_total", "_info")


def test_names_follow_the_conventions() -> None:
    """One prefix, lower case, base units; counters and only they end in `_total` (the EKS agent's do not)."""
    for spec in METRICS:
        assert re.fullmatch(r"metaproxy_[a-z0-9_]+", spec.name), spec.name
        assert (spec.kind == "counter") is spec.name.endswith("_total"), spec.name
        assert spec.kind != "histogram" or spec.name.endswith("_seconds"), spec.name
        assert spec.help.endswith("."), spec.name


def test_no_label_grows_with_the_cluster() -> None:
    """Never a role, pod, namespace or address (kube2iam's `role_arn` label grew without end)."""
    allowed = {"route", "method", "code", "reason", "version", "outcome", "result", "resource", "state", "how", "why"}
    assert {name for spec in METRICS for name, _ in spec.labels} <= allowed


def test_two_agents_in_one_process_share_nothing() -> None:
    """No metric is the module's own (kiam registers its in `init`)."""
    one, other = Metrics(), Metrics()
    one.gauge("http_connections").inc()
    name = "metaproxy_http_connections"
    assert one.registry.get_sample_value(name) == 1
    assert other.registry.get_sample_value(name) in {None, 0}


def test_the_log_is_not_chatty_unless_asked() -> None:
    """The default level tells no granted request (the EKS agent's is `trace`)."""
    assert Settings.load(["--source.manifests=."]).log.level == "info"

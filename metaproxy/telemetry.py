"""The names, labels and meaning of every metric, and the set-up of logs.

Knows: how metaproxy is seen from outside.
Must not know: any rule of the business.

Labels are bounded: never a role, pod, namespace or address (kube2iam's `role_arn` label grew without end).
"""

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from metaproxy import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody reads

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: its name, kind, meaning, and labels with what they can be."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.9, 1.5)
_ROUTE = ("route", "token, versions, list, credentials, info, item, explain, or none")
_REASON = ("reason", "a reason code as in bodies and logs")
_RESOURCE = ("resource", "pods or namespaces")

_BUILD = Spec("metaproxy_build_info", "gauge", "Always 1.", (("version", "the program's version"),))


def _of_a_listener(prefix: str, meaning: str, refused: str) -> tuple[Spec, ...]:
    """What each listener counts."""
    return (
        Spec(f"{prefix}_connections", "gauge", meaning),
        Spec(
            f"{prefix}_connections_refused_total",
            "counter",
            refused,
            (("reason", "TooManyConnections, CrowdedOut or NotRedirected"),),
        ),
        Spec(
            f"{prefix}_accept_failures_total",
            "counter",
            "Times that accepting paused, because the process (EMFILE) or the node had nothing left for a connection.",
            (("reason", "EMFILE, ENFILE, ENOBUFS, ENOMEM or other"),),
        ),
    )


_ADMIN_CONNECTIONS = _of_a_listener(
    "metaproxy_admin",
    "Open connections of the operator, at the address and the socket.",
    "Connections of the operator's listener that were closed, because their address holds too many.",
)

METRICS = (
    Spec(
        "metaproxy_http_requests_total",
        "counter",
        "Answers to pods.",
        (_ROUTE, ("method", "GET, HEAD, PUT or other"), ("code", "the HTTP status"), _REASON),
    ),
    Spec(
        "metaproxy_http_request_duration_seconds",
        "histogram",
        "Time from a request to its answer, holding included.",
        (_ROUTE,),
        _SECONDS,
    ),
    *_of_a_listener(
        "metaproxy_http",
        "Open connections of pods.",
        "Connections closed: their address holds too many (of all, when all places are taken), or the redirect has not "
        "led them here.",
    ),
    *_ADMIN_CONNECTIONS,
    Spec(
        "metaproxy_imds_version_total",
        "counter",
        "Requests other than for a token, by the version of the protocol that they spoke.",
        (("version", "v1 or v2"),),
    ),
    Spec(
        "metaproxy_decisions_total",
        "counter",
        "Decisions about pods when they, or what decides, changed.",
        (("outcome", "granted or denied"), _REASON),
    ),
    Spec(
        "metaproxy_caller_wait_seconds",
        "histogram",
        "How long requests waited for the pod behind their address.",
        (("outcome", "found or unknown"),),
        _SECONDS,
    ),
    Spec(
        "metaproxy_caller_reads_total",
        "counter",
        "Reads of the API server for an address that the watch did not explain.",
        (("outcome", "done or failed"),),
    ),
    Spec(
        "metaproxy_caller_withdrawn_total",
        "counter",
        "Addresses taken from their pod, because the kernel shows them elsewhere.",
        (("why", "lost, unresolved, shared, unsettled or blind"),),
    ),
    Spec(
        "metaproxy_witness_addresses",
        "gauge",
        "Addresses of pods by what the kernel shows of them.",
        (("state", "tied, withdrawn or unseen"),),
    ),
    Spec(
        "metaproxy_witness_dumps_total",
        "counter",
        "Times that everything was asked of the kernel anew.",
        (("reason", "start, overrun, broken or audit"),),
    ),
    Spec("metaproxy_host_network_roles", "gauge", "hostNetwork pods that ask for a role and use the node's."),
    Spec(
        "metaproxy_credentials_requests_total",
        "counter",
        "Requests for credentials by where these came from.",
        (("result", "cached, waited, stale or failed"),),
    ),
    Spec("metaproxy_credentials_cached", "gauge", "Sessions that are held and may be served."),
    Spec("metaproxy_credentials_wanted", "gauge", "Sessions that live pods of this node are entitled to."),
    Spec(
        "metaproxy_credentials_shortest_life_seconds",
        "gauge",
        "The shortest life left among sessions that are held and wanted.",
    ),
    Spec(
        "metaproxy_sts_request_duration_seconds",
        "histogram",
        "AssumeRole calls by outcome.",
        (("outcome", "ok, or a reason code as in bodies and logs"),),
        (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    ),
    Spec("metaproxy_sts_queue", "gauge", "AssumeRole calls that wait for the budget."),
    Spec("metaproxy_directory_pods", "gauge", "Pods of this node that are known."),
    Spec("metaproxy_directory_namespaces", "gauge", "Namespaces that are known."),
    Spec("metaproxy_synced", "gauge", "Whether a full list has been seen.", (_RESOURCE,)),
    Spec(
        "metaproxy_watch_restarts_total",
        "counter",
        "Watches begun anew, by why the last one ended.",
        (_RESOURCE, ("reason", "end, silence, expired, error, lost or refused")),
    ),
    Spec(
        "metaproxy_watch_last_event_timestamp_seconds",
        "gauge",
        "When the last event of a watch came, in Unix seconds.",
        (_RESOURCE,),
    ),
    Spec("metaproxy_manifest_errors", "gauge", "Manifest files whose last good state is used because they are broken."),
    Spec(
        "metaproxy_upstream_requests_total",
        "counter",
        "Requests to the node's own metadata service.",
        (("outcome", "ok, missing or failed"),),
    ),
    Spec(
        "metaproxy_events_total",
        "counter",
        "Kubernetes Events about pods.",
        (("outcome", "sent, repeated, dropped or failed"),),
    ),
    Spec("metaproxy_descriptors_limit", "gauge", "Files and sockets that the process may have open."),
    Spec(
        "metaproxy_handover_starts_total",
        "counter",
        "Starts of this process with a handover's socket, by how it found its place.",
        (("how", "followed, first or beside"),),
    ),
    Spec(
        "metaproxy_handover_strangers",
        "gauge",
        "Sockets of other processes at our addresses: of one that hangs, or of a stranger who runs as our user.",
    ),
    Spec("metaproxy_event_loop_lag_seconds", "gauge", "How late the event loop was when last looked at."),
    _BUILD,
)


REDIRECT_METRICS = (
    *_ADMIN_CONNECTIONS,
    Spec("metaproxy_redirect_in_place", "gauge", "Whether the redirect was in place when last looked at, or repaired."),
    Spec(
        "metaproxy_redirect_looks_total",
        "counter",
        "Looks at the redirect; a repair is counted and then what came of it.",
        (("outcome", "in_place, repaired or failed"),),
    ),
    Spec(
        "metaproxy_redirect_repairs_total",
        "counter",
        "Repairs, by the layer that differed.",
        (("part", "addresses, routes, guard or rules"),),
    ),
    Spec(
        "metaproxy_redirect_neighbours_asked_total",
        "counter",
        "IPv6 neighbours on bridges that were forgotten so that the kernel asks anew who has the address.",
    ),
    _BUILD,
)
"""Those of `metaproxy redirect watch`."""


class Metrics:
    """Metrics in a registry of their own, so that two agents in one process share nothing."""

    def __init__(self, specs: Sequence[Spec] = METRICS) -> None:
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        for spec in specs:
            labels = [name for name, _ in spec.labels]
            if spec.kind == "histogram":
                metric: Counter | Gauge | Histogram = Histogram(
                    spec.name, spec.help, labels, buckets=spec.buckets, registry=self.registry
                )
            else:
                kind = Counter if spec.kind == "counter" else Gauge
                metric = kind(spec.name, spec.help, labels, registry=self.registry)
            self._metrics[spec.name.removeprefix("metaproxy_")] = metric
        self.gauge("build_info", version=__version__).set(1)

    def counter(self, name: str, **labels: str) -> Counter:
        """A counter by its name without prefix; KeyError and ValueError are mistakes of ours and found by tests."""
        metric = self._child(name, labels)
        assert isinstance(metric, Counter)  # noqa: S101  narrows for the type checker
        return metric

    def gauge(self, name: str, **labels: str) -> Gauge:
        """A gauge by its name without prefix."""
        metric = self._child(name, labels)
        assert isinstance(metric, Gauge)  # noqa: S101
        return metric

    def histogram(self, name: str, **labels: str) -> Histogram:
        """A histogram by its name without prefix."""
        metric = self._child(name, labels)
        assert isinstance(metric, Histogram)  # noqa: S101
        return metric

    def _child(self, name: str, labels: dict[str, str]) -> Counter | Gauge | Histogram:
        metric = self._metrics[name]
        return metric.labels(**labels) if labels else metric


LAG_INTERVAL = 1.0
"""Seconds between two looks at the event loop's lag."""


async def measure_lag(metrics: Metrics) -> None:
    """Eternal: how late the loop wakes us is how late it wakes everybody."""
    loop = asyncio.get_running_loop()
    gauge = metrics.gauge("event_loop_lag_seconds")
    while True:
        begun = loop.time()
        await asyncio.sleep(LAG_INTERVAL)
        gauge.set(max(0.0, loop.time() - begun - LAG_INTERVAL))


def configure_logging(*, json: bool, level: str) -> None:
    """One stream on stdout: JSON lines for machines or columns for a person; libraries' loggers flow into it.

    Libraries speak from `warning` up whatever our level: botocore's debug output would show signed requests.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str) if json else structlog.dev.ConsoleRenderer(colors=False)
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))

"""The library's metrics made of our names, and the set-up of logs.

Knows: how metrics and logs leave the process.
Must not know: what any of them means.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from metaproxy import __version__
from metaproxy.metricnames import METRICS, Spec

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that nobody reads


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

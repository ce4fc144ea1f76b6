"""What the server counts, for Prometheus; every application has a registry of its own."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from latency_model.service.catalog import Catalog

__all__ = ["Metrics"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


class _Tables(Collector):
    """The environments, as they are when somebody asks."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges of every environment."""
        rows = GaugeMetricFamily("gharial_rows", "Rows of an environment", labels=("environment", "kind"))
        fresh = GaugeMetricFamily(
            "gharial_lookups_fresh", "Whether lookups are of the newest revision", labels=("environment",)
        )
        for key, served in self._catalog.served.items():
            for kind in ("convs", "ops", "networks", "failures"):
                rows.add_metric((key, kind), getattr(served.info, kind))
            fresh.add_metric((key,), float(served.fresh))
        return rows, fresh


class Metrics:
    """Counters and times of one application."""

    def __init__(self, catalog: Catalog) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Tables(catalog))
        self.requests = Counter(
            "gharial_requests", "Requests", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "gharial_request_seconds",
            "From the end of a request's headers to the end of its answer",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "gharial_requests_in_flight", "Requests being answered", registry=self.registry
        )
        self.lookups = Counter(
            "gharial_lookups", "Configurations looked up", ("found",), registry=self.registry
        )
        self.harvests = Counter("gharial_harvests", "ONNX models read", ("outcome",), registry=self.registry)
        self._found = {flag: self.lookups.labels(str(flag).lower()) for flag in (True, False)}
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (method, route, status)
        known = self._known.get(key)
        if known is None:
            known = self.requests.labels(method, route, str(status)), self.seconds.labels(route)
            self._known[key] = known
        known[0].inc()
        known[1].observe(seconds)

    def looked_up(self, *, found: int, missing: int) -> None:
        """Count configurations that were asked for."""
        if found:
            self._found[True].inc(found)
        if missing:
            self._found[False].inc(missing)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)

"""Figures for Prometheus: counts and times by route, and nothing about anybody.

With several processes each writes its numbers into files that one collector adds up
(prometheus_client, "Multiprocess Mode"). They are served on an address of their own, away from the
pages: see portal.__main__.
"""

import struct
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recovery.incident import Delivery

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""Set in the environment of every worker before it imports this module."""

OTHER = "other"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LOOKS = 4
_PAUSE_SECONDS = 0.05
_METHODS = frozenset({"GET", "HEAD", "POST"})


class Metrics:
    """The portal's figures in a registry of their own. Labels hold our own words alone: a path
    that is no route of ours, a method that nobody uses, all count as "other"."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "portal_requests",
            "Answers by route, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "portal_request_seconds",
            "From the request's head to the answer's end.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._running = Gauge(
            "portal_requests_running",
            "Requests being answered now.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._throttled = Counter(
            "portal_throttled", "Refusals by limit.", ["limit"], registry=self.registry
        )
        self._enrollments = Counter(
            "portal_enrollments",
            "Authenticators that the platform was asked to bind, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self._webhook_events = Counter(
            "portal_webhook_events",
            "Delivery events of providers, by event; `repeated` were known already.",
            ["event"],
            registry=self.registry,
        )

    def throttled(self, limit: str) -> None:
        self._throttled.labels(limit).inc()

    def enrollment(self, outcome: str) -> None:
        self._enrollments.labels(outcome).inc()

    def webhook_events(self, deliveries: Sequence[Delivery], new: int) -> None:
        for delivery in deliveries:
            self._webhook_events.labels(delivery.event.value).inc()
        self._webhook_events.labels("repeated").inc(len(deliveries) - new)

    def begun(self) -> float:
        self._running.inc()
        return time.perf_counter()

    def answered(self, started: float, route: str, method: str, status: int) -> None:
        self._running.dec()
        shown = method if method in _METHODS else OTHER
        self._requests.labels(route, shown, str(status)).inc()
        self._seconds.labels(route).observe(time.perf_counter() - started)


class Metered:
    """Counts every answer. `routes` are the paths that get a label of their own."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = self._metrics.begun()
        try:
            await self._app(scope, receive, send_seen)
        finally:
            path = scope["path"]
            if path.startswith("/static/"):
                path = "/static"
            route = path if path in self._routes else OTHER
            self._metrics.answered(started, route, scope["method"], status)


class _Together(Collector):
    """The figures of all processes. Their files are read while they are written to and while
    processes come and go; what could not be read is looked at once more."""

    def __init__(self, folder: Path) -> None:
        self._inner = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        for _ in range(_LOOKS - 1):
            try:
                return self._look()
            except (OSError, ValueError, KeyError, struct.error):
                time.sleep(_PAUSE_SECONDS)
        return self._look()

    def _look(self) -> list[Metric]:
        return list(self._inner.collect())  # type: ignore[no-untyped-call]


def serve_metrics(host: str, port: int, *, folder: Path | None, own: Metrics | None) -> int:
    """Serves them in a thread until the process ends; the port. `folder` is where several
    processes write, `own` the figures of a single one."""
    registry = own.registry if own is not None else CollectorRegistry()
    if folder is not None:
        registry.register(_Together(folder))
    server, _ = start_http_server(port, addr=host, registry=registry)
    number: int = server.server_port
    return number

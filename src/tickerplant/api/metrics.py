"""The API's own metrics: a catalogue in which each help text contains advice for a bad value.

A scrape reads counters that the stream maintains anyway. Only requests are counted when they happen. The store counts
the data excluded from bars in the transaction that applies a record, so these counts survive a restart of any service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.requests import ClientDisconnect

from tickerplant.api.http.asgi import App, Receive, Scope, Send
from tickerplant.core.metrics import MetricSpec

REQUESTS: Final = MetricSpec(
    "tickerplant_api_requests", "counter", "REST requests answered, by path and status.",
    "Many 4xx: read the error message; a client sends invalid requests. 5xx: see the log of Tickerplant and /health.",
    ("path", "status"),
)  # fmt: skip
SECONDS: Final = MetricSpec(
    "tickerplant_api_request_seconds", "histogram", "Seconds from the request to the last byte of the answer.",
    "Above 1: ask for fewer rows, or check the load of the database.", ("path",),
)  # fmt: skip
REFUSED: Final = MetricSpec(
    "tickerplant_api_refused_pages", "counter", "Requests refused because a foreign page sent them, by header.",
    "Growing: a page of another site uses this plant. If it is yours, see the settings api.hosts and api.origins.",
    ("header",),
)  # fmt: skip
CLIENTS: Final = MetricSpec(
    "tickerplant_api_stream_clients", "gauge", "Connected WebSocket clients.",
    "Near the maximum (1,000): a client reconnects without closing, or you need another API process.",
)  # fmt: skip
FRAMES: Final = MetricSpec(
    "tickerplant_api_stream_frames", "counter", "Frames queued for WebSocket clients.",
    "Flat while ticks arrive: check the lag of the tail.",
)  # fmt: skip
CONFLATED: Final = MetricSpec(
    "tickerplant_api_stream_conflated_rows", "counter",
    "Ticks and forming rows that slow clients received only as newest state.",
    "Growing steadily: a client reads too slowly or the tail lags. Closed bars are not affected.",
)  # fmt: skip
DROPPED: Final = MetricSpec(
    "tickerplant_api_stream_dropped", "counter", "Clients dropped because they did not read (close code 4008).",
    "Find the client that reconnects. It must read faster or subscribe to less.",
)  # fmt: skip
RESYNCS: Final = MetricSpec(
    "tickerplant_api_stream_resyncs", "counter", "Subscriptions that could not resume from `since`.",
    "Normal after retention or a new log. Otherwise clients keep positions for longer than the log keeps records.",
)  # fmt: skip
LAG: Final = MetricSpec(
    "tickerplant_api_stream_tail_lag_seconds", "gauge", "Age of the newest record when the stream's tail read it.",
    "Above 2: clients receive the newest state only. The machine is too busy, or a replay is faster than the stream.",
)  # fmt: skip
UNREADABLE: Final = MetricSpec(
    "tickerplant_api_stream_unreadable", "counter", "Log records that the stream could not read.",
    "Above 0: see market.deadletter. A newer version of Tickerplant may be writing to the log.",
)  # fmt: skip
LATE: Final = MetricSpec(
    "tickerplant_late_ticks", "counter", "Ticks older than the revision window: stored, but in no bar.",
    "Growing: raise rules.revision_window_sessions, or rebuild the range.", ("feed",),
)  # fmt: skip
UNSUPPORTED: Final = MetricSpec(
    "tickerplant_unsupported_ticks", "counter", "Ticks and vendor bars that could not be used for some or all bars.",
    "Growing: `tickerplant tail status` shows the reasons; the feed sends data that cannot be read.", ("feed",),
)  # fmt: skip
DIFFERENCES: Final = MetricSpec(
    "tickerplant_source_differences", "counter", "Bars for which a second source has other values, by feed.",
    "Growing fast: `tickerplant tail status` shows both bars. Check the order of sources in rules.sources.",
    ("feed",),
)  # fmt: skip
EXCLUSIONS: Final = {"late_ticks": LATE, "unsupported": UNSUPPORTED, "differences": DIFFERENCES}
"""Metrics of data excluded from bars, by column of the store's counts."""
CATALOGUE: Final = (
    REQUESTS,
    SECONDS,
    REFUSED,
    CLIENTS,
    FRAMES,
    CONFLATED,
    DROPPED,
    RESYNCS,
    LAG,
    UNREADABLE,
    *EXCLUSIONS.values(),
)


GONE: Final = 499
"""Status of a request in the metrics if its client left before the answer, as in nginx."""


class ApiMetrics:
    """Registers the catalogue in `registry`.

    `stream` returns the stream's numbers by metric, {} before the stream runs. `exclusions` returns the store's counts
    by metric and feed, {} before the first read.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        stream: Callable[[], dict[MetricSpec, float]],
        exclusions: Callable[[], Mapping[MetricSpec, Mapping[str, float]]] = dict,
    ) -> None:
        self.registry = registry
        self._stream = stream
        self._exclusions = exclusions
        self._requests = Counter(REQUESTS.name, REQUESTS.text, REQUESTS.labels, registry=registry)
        self._seconds = Histogram(SECONDS.name, SECONDS.text, SECONDS.labels, registry=registry)
        self._refused = Counter(REFUSED.name, REFUSED.text, REFUSED.labels, registry=registry)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yield the stream's numbers and the store's counts as metric families. prometheus_client calls this method."""
        for spec, value in self._stream().items():
            family = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
            yield family(spec.name, spec.text, value=value)
        for spec, by_feed in self._exclusions().items():
            counter = CounterMetricFamily(spec.name, spec.text, labels=spec.labels)
            for feed, count in by_feed.items():
                counter.add_metric([feed], count)
            yield counter

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count one request and observe its duration."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_refusal(self, header: str) -> None:
        """Count one request of a foreign page; `header` is the header that caused the refusal."""
        self._refused.labels(header).inc()

    def close(self) -> None:
        """Unregister the metrics, so that the API can start again in this process."""
        for collector in (self, self._requests, self._seconds, self._refused):
            self.registry.unregister(collector)


class CountRequests:
    """Middleware that counts requests by route template. Clients can invent raw paths, so raw paths are not labels."""

    def __init__(self, app: App, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def observe(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except ClientDisconnect:
            status = GONE
            raise
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            self._metrics.count(path, status, time.perf_counter() - began)

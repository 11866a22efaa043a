"""The API's own metrics: a catalogue in which each help text contains advice for a bad value.

A scrape reads counters that the stream maintains anyway. Only requests, and delays of the event loop, are observed when
they happen. The store counts the data excluded from bars in the transaction that applies a record. These counts survive
a restart of any service.
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
    "tickerplant_api_stream_frames", "counter", "Messages with rows or events queued for WebSocket clients.",
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
    "tickerplant_source_differences", "counter", "Bars for which a second source has different values, by feed.",
    "Growing fast: `tickerplant tail status` shows both bars. Check the order of sources in rules.sources.",
    ("feed",),
)  # fmt: skip
LOOP_DELAY: Final = MetricSpec(
    "tickerplant_api_loop_delay_seconds", "histogram", "Delay of timers of the API's event loop, in seconds.",
    "Above 0.1: the process has too little CPU time. Run the API as a process of its own (`tickerplant run api`).",
)  # fmt: skip
LANE_REQUESTS: Final = MetricSpec(
    "tickerplant_api_lane_requests", "gauge", "Requests that run or wait, by lane and state.",
    "Waiting above 0 for long: clients ask for more rows than the API can compute. Ask for fewer, or add a process.",
    ("lane", "state"),
)  # fmt: skip
LIMITED: Final = MetricSpec(
    "tickerplant_api_limited", "counter", "Refused or ended requests and connections, by reason.",
    "Growing: `/health` explains the reasons of the last minute.", ("reason",),
)  # fmt: skip
CONNECTIONS: Final = MetricSpec(
    "tickerplant_api_connections", "gauge", "Open connections of HTTP and WebSocket clients.",
    "Near api.max_connections: a client does not close connections, or the limit is too low.",
)  # fmt: skip
REPEATED: Final = MetricSpec(
    "tickerplant_api_repeated_answers", "counter", "Answers sent again without a read of the database.",
    "Few, compared with tickerplant_api_requests: requests differ, or they are far apart.",
)  # fmt: skip
KEPT_BYTES: Final = MetricSpec(
    "tickerplant_api_kept_answer_bytes", "gauge", "Bytes of answers that are kept for repetition.",
    "At most 16 MiB. Each answer is kept for at most a second.",
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
    LOOP_DELAY,
    LANE_REQUESTS,
    LIMITED,
    CONNECTIONS,
    REPEATED,
    KEPT_BYTES,
    *EXCLUSIONS.values(),
)


GONE: Final = 499
"""Status of a request in the metrics if its client disconnected before the answer, as in nginx."""
DELAY_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of the event loop's delay, in seconds."""


def _family(spec: MetricSpec) -> type[CounterMetricFamily | GaugeMetricFamily]:
    return CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily


class ApiMetrics:
    """Registers the catalogue in `registry`.

    `numbers` returns counters and gauges without labels, by metric. `labelled` returns numbers by metric and label
    values.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        numbers: Callable[[], Mapping[MetricSpec, float]],
        labelled: Callable[[], Mapping[MetricSpec, Mapping[tuple[str, ...], float]]] = dict,
    ) -> None:
        self.registry = registry
        self._numbers = numbers
        self._labelled = labelled
        self._delay = Histogram(LOOP_DELAY.name, LOOP_DELAY.text, registry=registry, buckets=DELAY_BUCKETS)
        self._requests = Counter(REQUESTS.name, REQUESTS.text, REQUESTS.labels, registry=registry)
        self._seconds = Histogram(SECONDS.name, SECONDS.text, SECONDS.labels, registry=registry)
        self._refused = Counter(REFUSED.name, REFUSED.text, REFUSED.labels, registry=registry)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yield the current numbers as metric families. prometheus_client calls this method, in any thread."""
        for spec, value in self._numbers().items():
            yield _family(spec)(spec.name, spec.text, value=value)
        for spec, values in self._labelled().items():
            found = _family(spec)(spec.name, spec.text, labels=spec.labels)
            for labels, value in values.items():
                found.add_metric(labels, value)
            yield found

    def observe_delay(self, seconds: float) -> None:
        """Observe one delay of the event loop."""
        self._delay.observe(seconds)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count one request and observe its duration."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_refusal(self, header: str) -> None:
        """Count one request of a foreign page; `header` is the header that caused the refusal."""
        self._refused.labels(header).inc()

    def close(self) -> None:
        """Unregister the metrics, so that the API can start again in this process."""
        for collector in (self, self._requests, self._seconds, self._refused, self._delay):
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

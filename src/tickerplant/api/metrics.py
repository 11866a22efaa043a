"""The API's own metrics: a catalogue whose texts say what to do about a bad value.

Numbers that the hub counts anyway are read when somebody scrapes; only requests are counted as they happen. What was
left out of bars is counted in the store, once for each position of the log, and so outlives every service.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tickerplant.api.http.asgi import App, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: what it says, and what to do when it looks bad."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    action: str
    labels: tuple[str, ...] = ()


REQUESTS: Final = Spec(
    "tickerplant_api_requests", "counter", "REST requests answered, by path and status.",
    "Many 4xx: read the error's sentence, a client asks wrongly. 5xx: see the plant's log and /health.",
    ("path", "status"),
)  # fmt: skip
SECONDS: Final = Spec(
    "tickerplant_api_request_seconds", "histogram", "Seconds from request to the answer's last byte.",
    "Above a second: ask for fewer rows, or look at the database's load.", ("path",),
)  # fmt: skip
CLIENTS: Final = Spec(
    "tickerplant_api_stream_clients", "gauge", "WebSocket clients connected.",
    "Near the most (1,000): some client reconnects without closing, or another API process is due.",
)  # fmt: skip
FRAMES: Final = Spec(
    "tickerplant_api_stream_frames", "counter", "Frames queued to WebSocket clients.",
    "Flat while ticks come in: see the tail's lag.",
)  # fmt: skip
CONFLATED: Final = Spec(
    "tickerplant_api_stream_conflated_rows", "counter",
    "Ticks and forming rows that slow clients got as newest state only.",
    "Growing steadily: a client reads too slowly or the tail lags; closed bars are not affected.",
)  # fmt: skip
DROPPED: Final = Spec(
    "tickerplant_api_stream_dropped", "counter", "Clients dropped because they did not read (close code 4008).",
    "Find the client that reconnects; it must read faster or subscribe to less.",
)  # fmt: skip
RESYNCS: Final = Spec(
    "tickerplant_api_stream_resyncs", "counter", "Subscriptions whose `since` could not be gone on from.",
    "After a retention or a new log: none. Otherwise clients keep positions for longer than the log keeps records.",
)  # fmt: skip
LAG: Final = Spec(
    "tickerplant_api_stream_tail_lag_seconds", "gauge", "Age of the newest record when the stream's tail applied it.",
    "Above 2: clients get newest state only; the machine is too busy, or a replay runs faster than the stream.",
)  # fmt: skip
UNREADABLE: Final = Spec(
    "tickerplant_api_stream_unreadable", "counter", "Records of the log that the stream could not read.",
    "Above 0: see market.deadletter, or a newer version writes to the log than this one reads.",
)  # fmt: skip
DELIVERED: Final = Spec(
    "tickerplant_alert_webhooks_delivered", "counter", "Webhooks of alerts that a receiver has taken.",
    "Flat while /v1/alerts/firings has new ones: see their `webhook`.",
)  # fmt: skip
FAILED_ATTEMPTS: Final = Spec(
    "tickerplant_alert_webhooks_failed_attempts", "counter", "Attempts to post a webhook that failed.",
    "Growing: a receiver is away or refuses; /v1/alerts/firings says which and why.",
)  # fmt: skip
GIVEN_UP: Final = Spec(
    "tickerplant_alert_webhooks_given_up", "counter", "Webhooks that were given up: too old, or their rule is gone.",
    "Above 0: these alerts have reached nobody by webhook; /v1/alerts/firings has them.",
)  # fmt: skip
LATE: Final = Spec(
    "tickerplant_late_ticks", "counter", "Ticks older than what is remembered: stored, but in no bar.",
    "Growing: raise rules.revision_window_sessions, or have the stretch made again by a rebuild.", ("feed",),
)  # fmt: skip
UNSUPPORTED: Final = Spec(
    "tickerplant_unsupported_ticks", "counter", "Ticks and vendors' bars that could not be used, or not for all bars.",
    "Growing: `tickerplant tail status` shows the reasons; the feed sends what the plant cannot read.", ("feed",),
)  # fmt: skip
DIFFERENCES: Final = Spec(
    "tickerplant_source_differences", "counter",
    "Bars that another source gives differently, by the feed that said so.",
    "Growing fast: `tickerplant tail status` shows both bars; see whose prints count, and the order rules.sources.",
    ("feed",),
)  # fmt: skip
LEFT_OUT: Final = {"late_ticks": LATE, "unsupported": UNSUPPORTED, "differences": DIFFERENCES}
"""By the store's name of each count."""
CATALOGUE: Final = (
    REQUESTS,
    SECONDS,
    CLIENTS,
    FRAMES,
    CONFLATED,
    DROPPED,
    RESYNCS,
    LAG,
    UNREADABLE,
    DELIVERED,
    FAILED_ATTEMPTS,
    GIVEN_UP,
    *LEFT_OUT.values(),
)


class ApiMetrics:
    """The catalogue in a registry.

    `stream` returns the stream's numbers by spec, or {} while there is none; `left_out` the store's counts by spec and
    feed, or {} before they have been read.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        stream: Callable[[], dict[Spec, float]],
        left_out: Callable[[], Mapping[Spec, Mapping[str, float]]] = dict,
    ) -> None:
        self.registry = registry
        self._stream = stream
        self._left_out = left_out
        self._requests = Counter(REQUESTS.name, _help(REQUESTS), REQUESTS.labels, registry=registry)
        self._seconds = Histogram(SECONDS.name, _help(SECONDS), SECONDS.labels, registry=registry)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return the stream's numbers and the store's counts (called by prometheus_client)."""
        for spec, value in self._stream().items():
            family = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
            yield family(spec.name, _help(spec), value=value)
        for spec, by_feed in self._left_out().items():
            counter = CounterMetricFamily(spec.name, _help(spec), labels=spec.labels)
            for feed, count in by_feed.items():
                counter.add_metric([feed], count)
            yield counter

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def close(self) -> None:
        """Take the metrics out of the registry again, so that the API can be started anew in this process."""
        for collector in (self, self._requests, self._seconds):
            self.registry.unregister(collector)


def _help(spec: Spec) -> str:
    return f"{spec.text} {spec.action}"


class CountRequests:
    """Middleware that counts requests by the route's template, never by the raw path, which users make up."""

    def __init__(self, app: App, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; count when answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            self._metrics.count(path, status, time.perf_counter() - began)

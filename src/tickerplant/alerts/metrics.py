"""Metrics of webhook delivery: a catalogue in which each help text contains advice for a bad value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric

from tickerplant.core.metrics import MetricSpec

DELIVERED: Final = MetricSpec(
    "tickerplant_alert_webhooks_delivered", "counter", "Webhooks of alerts that the receiver accepted.",
    "Flat while /v1/alerts/firings shows new alerts: see their `webhook`.",
)  # fmt: skip
FAILED_ATTEMPTS: Final = MetricSpec(
    "tickerplant_alert_webhooks_failed_attempts", "counter", "Failed attempts to send a webhook.",
    "Growing: a receiver is unavailable or refuses webhooks; /v1/alerts/firings shows the rule and the error.",
)  # fmt: skip
GIVEN_UP: Final = MetricSpec(
    "tickerplant_alert_webhooks_given_up", "counter",
    "Webhooks given up: too old, refused (410), or of a rule that was removed or has no webhook.",
    "Above 0: no webhook reported these alerts; /v1/alerts/firings shows them.",
)  # fmt: skip
CATALOGUE: Final = (DELIVERED, FAILED_ATTEMPTS, GIVEN_UP)


@dataclass(slots=True)
class DeliveryCounters:
    """Counts of webhooks, or of attempts to send a webhook, since the start of the process."""

    delivered: int = 0
    failed_attempts: int = 0
    given_up: int = 0


class DeliveryMetrics:
    """Registers the catalogue in a registry. Each scrape reads the counters."""

    def __init__(self, registry: CollectorRegistry, counters: DeliveryCounters) -> None:
        self._registry = registry
        self._counters = counters
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yield one counter per entry of the catalogue. prometheus_client calls this method."""
        counters = self._counters
        values = (counters.delivered, counters.failed_attempts, counters.given_up)
        for spec, value in zip(CATALOGUE, values, strict=True):
            yield CounterMetricFamily(spec.name, spec.text, value=value)

    def close(self) -> None:
        """Unregister the metrics, so that delivery can start again in this process."""
        self._registry.unregister(self)

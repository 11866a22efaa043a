"""The plant's metrics: a catalogue, each with what to do about a bad value, and the registry that the API serves.

Nothing here is on the hot path: counts that services keep anyway are read when somebody scrapes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tickerplant.app import health
from tickerplant.core.errors import TickerplantError
from tickerplant.core.schemas import TOPICS

if TYPE_CHECKING:
    from tickerplant.app.runtime.supervisor import Status
    from tickerplant.log.port import EventLog, TopicPartition

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One metric: `advice` is what to do about a bad value."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str
    advice: str

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        """Return an empty family of the metric."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return make(self.name, self.help, labels=list(self.labels))


SERVICE_UP: Final = Entry(
    "tickerplant_service_up", "gauge", ("service",), "1 while the service runs.",
    "0 for longer than 10 s: read the service's last error in `tickerplant health`.",
)  # fmt: skip
SERVICE_RESTARTS: Final = Entry(
    "tickerplant_service_restarts", "counter", ("service",), "How often the service crashed and was started again.",
    "Growing: the log line `service crashed` has the cause; nothing is lost meanwhile, but it comes late.",
)  # fmt: skip
GROUP_LAG: Final = Entry(
    "tickerplant_group_lag_records", "gauge", ("group", "topic", "partition"), "Records a group has still to read.",
    "Growing in all partitions: the reader is too slow or stopped. In one: it waits there, or a symbol is too busy.",
)  # fmt: skip
LOG_END: Final = Entry(
    "tickerplant_log_records", "counter", ("topic", "partition"), "Records ever appended to the partition.",
    "Not growing on market.prices.raw in session: no feed writes.",
)  # fmt: skip
SERVICE_COUNT: Final = Entry(
    "tickerplant_service_events", "counter", ("service", "event"), "What a service has counted, by event.",
    "`dead_letters` or `unreadable` growing: read `tickerplant tail deadletter`. Late ticks: tickerplant_late_ticks. "
    "`pending` of analytics staying: the store is away or behind, or a backfill has not ended.",
)  # fmt: skip
CATALOGUE: Final = (SERVICE_UP, SERVICE_RESTARTS, GROUP_LAG, LOG_END, SERVICE_COUNT)

TOPIC_NAMES: Final = tuple(spec.name for spec in TOPICS if not spec.keyed)

LOG_EVERY_S: Final = 1.0
"""The log is asked at most this often, however many scrape."""


class PlantCollector(Collector):
    """Reads the plant when scraped. Every source is optional; one that fails leaves its metrics out."""

    def __init__(
        self,
        *,
        event_log: EventLog | None = None,
        statuses: Callable[[], Iterable[Status]] = list,
        counts: Callable[[], Iterable[tuple[str, str, float]]] = list,
    ) -> None:
        self._log, self._statuses, self._counts = event_log, statuses, counts
        self._lock = threading.Lock()
        self._asked_s = 0.0
        self._kept: list[Metric] = []

    def describe(self) -> Iterable[Metric]:
        """Return the catalogue, so that registering does not ask the log."""
        return [entry.family() for entry in CATALOGUE]

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        up, restarts = SERVICE_UP.family(), SERVICE_RESTARTS.family()
        for status in self._statuses():
            up.add_metric([status.name], float(status.state == "running"))
            restarts.add_metric([status.name], status.restarts)
        counts = SERVICE_COUNT.family()
        for service, event, value in self._counts():
            counts.add_metric([service, event], value)
        yield from (up, restarts, counts)
        with self._lock:
            if self._log is not None and time.monotonic() - self._asked_s > LOG_EVERY_S:
                self._kept, self._asked_s = list(self._of_log(self._log)), time.monotonic()
            yield from self._kept

    def _of_log(self, event_log: EventLog) -> Iterator[Metric]:
        lag, end = GROUP_LAG.family(), LOG_END.family()
        for group, topics in health.GROUPS.items():
            for tp, records in _or_nothing(partial(event_log.lag, group, topics)).items():
                lag.add_metric([group, tp.topic, str(tp.partition)], records)
        for topic in TOPIC_NAMES:
            for tp, (_, last) in _or_nothing(partial(event_log.offsets, topic)).items():
                end.add_metric([tp.topic, str(tp.partition)], last)
        yield from (lag, end)


def _or_nothing(question: Callable[[], Mapping[TopicPartition, T]]) -> Mapping[TopicPartition, T]:
    try:
        return question()
    except TickerplantError:  # the health check says what is wrong with the log; a scrape only leaves it out
        return {}


class ServiceCounts:
    """The newest counts of this process's services, as they hand them over after each batch."""

    def __init__(self) -> None:
        self._newest: dict[str, Any] = {}

    def taker(self, service: str) -> Callable[[Any], None]:
        """Return what a service calls with its counts, a dataclass of numbers. Costs one assignment a batch."""

        def take(counts: Any) -> None:
            self._newest[service] = counts

        return take

    def of(self, service: str) -> Any:
        """Return the newest counts of a service, or None."""
        return self._newest.get(service)

    def __call__(self) -> Iterator[tuple[str, str, float]]:
        """Yield (service, event, value)."""
        for service, counts in sorted(self._newest.items()):
            for field in fields(counts):
                value = getattr(counts, field.name)
                if isinstance(value, int | float):
                    yield service, field.name, float(value)


def registry_of(collector: PlantCollector) -> CollectorRegistry:
    """Return a registry with the plant's metrics and the process's own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry

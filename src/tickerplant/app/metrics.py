"""The plant's metrics: a catalogue with advice for bad values, and the registry that the API serves.

Nothing here is on the hot path: a scrape reads existing counters of the services, the log's offsets and the free disk
space.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tickerplant.app import health
from tickerplant.core.errors import LogUnavailable, TickerplantError
from tickerplant.core.metrics import MetricSpec
from tickerplant.core.schemas import TOPICS

if TYPE_CHECKING:
    from tickerplant.app.runtime.supervisor import Status
    from tickerplant.log.port import EventLog, TopicPartition

K = TypeVar("K")
T = TypeVar("T")

SERVICE_UP: Final = MetricSpec(
    "tickerplant_service_up", "gauge", "1 while the service runs.",
    "0 for longer than 10 s: read the service's last error in `tickerplant health`.", ("service",),
)  # fmt: skip
SERVICE_RESTARTS: Final = MetricSpec(
    "tickerplant_service_restarts", "counter", "Restarts of the service after a crash.",
    "Growing: the log line `service crashed` has the cause; no data is lost, but data arrives late.", ("service",),
)  # fmt: skip
GROUP_LAG: Final = MetricSpec(
    "tickerplant_group_lag_records", "gauge", "Records that the consumer group has not read yet.",
    "Growing in all partitions: the reader is too slow or stopped. In one: the reader is blocked there, or a symbol "
    "is too busy.", ("group", "topic", "partition"),
)  # fmt: skip
GROUP_LOST: Final = MetricSpec(
    "tickerplant_group_lost_offsets", "gauge", "Offsets that retention dropped before the group read them.",
    "Above 0: the service cannot continue. `tickerplant health` has the partition. Stop the service, run "
    "`tickerplant skip-lost`, and set a longer retention of the topic.", ("group", "topic", "partition"),
)  # fmt: skip
LOG_END: Final = MetricSpec(
    "tickerplant_log_records", "counter", "Records ever appended to the partition.",
    "Not growing on market.prices.raw in session: no feed writes.", ("topic", "partition"),
)  # fmt: skip
SERVICE_COUNT: Final = MetricSpec(
    "tickerplant_service_events", "counter", "Events that a service has counted, by event.",
    "`dead` or `unreadable` growing: read `tickerplant tail deadletter`. Late ticks: see "
    "tickerplant_late_ticks. `pending` of analytics not falling: the store is unavailable or behind, or a backfill has "
    "not ended.", ("service", "event"),
)  # fmt: skip
SERVICE_ERROR: Final = MetricSpec(
    "tickerplant_service_error_seconds", "gauge", "Seconds for which the service's current error repeats; 0: none.",
    "Above 60: read the error in `tickerplant health`. An error of a failed component does not end by itself.",
    ("service",),
)  # fmt: skip
REFUSED: Final = MetricSpec(
    "tickerplant_refused_partitions", "gauge", "Partitions that are not stored, because the database refuses a record.",
    "Above 0: `tickerplant health` has the partition, the offset and the database's text. Remove the cause, then "
    "restart persistence; nothing is skipped.", ("service",),
)  # fmt: skip
LOG_AGE: Final = MetricSpec(
    "tickerplant_log_metrics_age_seconds", "gauge", "Age of the metrics that were read from the log.",
    "Above 10: the log does not answer, and its metrics are absent. Read the log's error in `tickerplant health`.",
)  # fmt: skip
FEED_UP: Final = MetricSpec(
    "tickerplant_feed_up", "gauge", "1 while the feed is connected, 0 while it is down; an ended feed has no value.",
    "0 for minutes in session: `tickerplant health` has the reason, and `tickerplant vendors` the quotas.", ("feed",),
)  # fmt: skip
DISK_FREE: Final = MetricSpec(
    "tickerplant_disk_free_bytes", "gauge", "Free bytes of the disk of the data folder.",
    "Below 1 GiB: free some space; docs/store.md states how long the store keeps rows.",
)  # fmt: skip
CATALOGUE: Final = (
    SERVICE_UP, SERVICE_RESTARTS, GROUP_LAG, GROUP_LOST, LOG_END, LOG_AGE, SERVICE_COUNT, SERVICE_ERROR, REFUSED,
    FEED_UP, DISK_FREE,
)  # fmt: skip
TOPIC_NAMES: Final = tuple(spec.name for spec in TOPICS if not spec.keyed)

LOG_WAIT_S: Final = 1.0
"""Maximum seconds that a scrape waits for the log."""
MAX_LOG_AGE_S: Final = 10.0
"""Age in seconds above which metrics of the log are absent from a scrape."""
LOG_INTERVAL_S: Final = 1.0
"""Minimum seconds between two reads of the log's offsets, for any number of scraping clients."""


class PlantCollector(Collector):
    """Reads the plant during a scrape. Every argument is optional. If the log fails, its metrics are absent."""

    def __init__(
        self,
        *,
        event_log: EventLog | None = None,
        statuses: Callable[[], Iterable[Status]] = list,
        counts: Callable[[], Iterable[tuple[str, str, float]]] = list,
        folder: Path | None = None,
    ) -> None:
        self._statuses, self._counts, self._folder = statuses, counts, folder
        self._log_reader = LogMetricsReader(event_log) if event_log is not None else None

    def describe(self) -> Iterable[Metric]:
        """Return the catalogue as empty families, so that registering does not read the log."""
        return [_family(spec) for spec in CATALOGUE]

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of the services, of the disk and of the log."""
        now_s = time.time()
        up, restarts = _family(SERVICE_UP), _family(SERVICE_RESTARTS)
        counts, errors, refused = _family(SERVICE_COUNT), _family(SERVICE_ERROR), _family(REFUSED)
        error_s: dict[str, float] = {}
        for status in self._statuses():
            up.add_metric([status.name], float(status.state == "running"))
            restarts.add_metric([status.name], status.restarts)
            error_s[status.name] = now_s - status.error_since_s if status.fails(time.monotonic()) else 0.0
        for service, event, value in self._counts():
            if event == "error_since_s":
                error_s[service] = max(error_s.get(service, 0.0), now_s - value if value else 0.0)
            elif event == "refused_partitions":
                refused.add_metric([service], value)
            else:
                counts.add_metric([service, event], value)
        for service, seconds in error_s.items():
            errors.add_metric([service], seconds)
        yield from (up, restarts, counts, errors, refused)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                found, free = os.statvfs(self._folder), _family(DISK_FREE)
                free.add_metric([], found.f_bavail * found.f_frsize)
                yield free
        if self._log_reader is not None:
            yield from self._log_reader.newest()


class LogMetricsReader:
    """Reads the log's offsets for scrapes in a separate thread, so that a scrape waits at most `LOG_WAIT_S`.

    One read runs at a time, for any number of scrapes. After `LOG_WAIT_S` a scrape gets the metrics of the last
    completed read. It gets no metrics of the log if that read is older than `MAX_LOG_AGE_S`. The age is a metric.
    """

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._guard = threading.Lock()
        self._ended = threading.Event()
        self._running = False
        self._read_s = float("-inf")
        self._families: list[Metric] = []

    def newest(self) -> Iterator[Metric]:
        """Yield the newest metric families of the log, and their age."""
        with self._guard:
            if not self._running and time.monotonic() - self._read_s > LOG_INTERVAL_S:
                self._running = True
                self._ended.clear()
                threading.Thread(target=self._read, name="log-metrics", daemon=True).start()
            reading = self._running
        if reading:
            self._ended.wait(LOG_WAIT_S)
        age_s = time.monotonic() - self._read_s
        age = _family(LOG_AGE)
        age.add_metric([], age_s)
        yield age
        if age_s <= MAX_LOG_AGE_S:
            yield from self._families

    def _read(self) -> None:
        try:
            found = list(self._read_log())
            self._families, self._read_s = found, time.monotonic()
        except LogUnavailable:  # the health check reports the log's error; a scrape only omits its metrics
            pass
        finally:
            with self._guard:
                self._running = False
            self._ended.set()

    def _read_log(self) -> Iterator[Metric]:
        lag, lost, end, up = _family(GROUP_LAG), _family(GROUP_LOST), _family(LOG_END), _family(FEED_UP)
        firsts: dict[TopicPartition, int] = {}
        for topic in TOPIC_NAMES:
            for tp, (first, last) in _or_nothing(partial(self._log.offsets, topic)).items():
                firsts[tp] = first
                end.add_metric([tp.topic, str(tp.partition)], last)
        for group, topics in health.GROUPS.items():
            for tp, records in _or_nothing(partial(self._log.lag, group, topics)).items():
                lag.add_metric([group, tp.topic, str(tp.partition)], records)
            for tp, position in _or_nothing(partial(self._log.committed, group)).items():
                lost.add_metric([group, tp.topic, str(tp.partition)], max(0, firsts.get(tp, 0) - position))
        for feed, newest in _or_nothing(partial(health.feed_states, self._log)).items():
            if newest.state != "ended":
                up.add_metric([feed], float(newest.state == "up"))
        yield from (lag, lost, end, up)


def _family(spec: MetricSpec) -> CounterMetricFamily | GaugeMetricFamily:
    """Return an empty family of the metric."""
    make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    return make(spec.name, spec.help, labels=list(spec.labels))


def _or_nothing(read: Callable[[], Mapping[K, T]]) -> Mapping[K, T]:
    """Return the result; {} after an error, such as an unknown topic. Raises LogUnavailable."""
    try:
        return read()
    except LogUnavailable:
        raise
    except TickerplantError:  # the health check reports the error; a scrape only omits the metrics
        return {}


class ServiceCounts:
    """The newest counters of this process's services, which each service reports after a batch."""

    def __init__(self) -> None:
        self._newest: dict[str, Any] = {}

    def recorder(self, service: str) -> Callable[[Any], None]:
        """Return the function that a service calls with its counters, a dataclass. Costs one assignment per batch."""

        def record(counts: Any) -> None:
            self._newest[service] = counts

        return record

    def of(self, service: str) -> Any:
        """Return the newest counters of a service, or None if it has not reported any."""
        return self._newest.get(service)

    def __call__(self) -> Iterator[tuple[str, str, float]]:
        """Yield (service, event, value) of each numeric counter."""
        for service, counts in sorted(self._newest.items()):
            for field in fields(counts):
                value = getattr(counts, field.name)
                if isinstance(value, int | float):
                    yield service, field.name, float(value)


def registry_of(collector: PlantCollector) -> CollectorRegistry:
    """Return a registry with the metrics of the plant and of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry

"""The plant in one process: its parts opened in the right order, and the services that run on them.

Opening, each step harmless when repeated: 1. the folder's lock, 2. the database and its tables, 3. the log, 4. its
topics, 5. the check that this store follows this log, 6. the rules, written into the log where they have changed.
Closing goes the other way.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from tickerplant.app import health
from tickerplant.app.config.settings import Settings
from tickerplant.app.metrics import PlantCollector, ServiceCounts, registry_of
from tickerplant.app.runtime import services
from tickerplant.app.runtime.database import database
from tickerplant.app.runtime.locks import FolderLock
from tickerplant.app.runtime.supervisor import Service, Supervisor
from tickerplant.app.wiring import alert_rules, parts
from tickerplant.core.errors import StoreUnavailable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tickerplant.app.wiring.sandbox import SandboxElsewhere, SandboxProcess
    from tickerplant.log.port import EventLog
    from tickerplant.sandbox import SandboxEndpoint

PATIENCE_S: Final = 30.0
"""How long a service that is to last waits at its start for a store that does not answer yet."""

MAINTENANCE_S: Final = 30.0
"""Seconds between two looks whether a job of the store or the log's retention is due."""

RANKS: Final = {
    "market_data": 0,
    "sandbox": 1,  # after the feeds, which say good-bye to it
    "aggregation": 2,
    "analytics": 3,
    "persistence": 4,
    "maintenance": 5,
    "api": 6,  # last, so that a dashboard sees the end
}

NEED_STORE: Final = {"persistence", "api"}
"""The other services live by the log alone; analytics and the backfill read the store when it is there."""

WANT_STORE: Final = {"analytics", "market_data"}

SERVICES: Final = ("market_data", "aggregation", "analytics", "persistence", "api")

log = structlog.get_logger(__name__)


@dataclass
class Plant:
    """The opened parts, and what runs on them here."""

    settings: Settings
    event_log: EventLog
    dsn: str
    supervisor: Supervisor = field(default_factory=lambda: Supervisor([]))
    counts: ServiceCounts = field(default_factory=ServiceCounts)

    def supervise(
        self, names: Iterable[str], *, vendor: tuple[SandboxProcess | SandboxElsewhere, SandboxEndpoint] | None = None
    ) -> Supervisor:
        """Make the supervisor of these services (not started). `persistence` brings the maintenance with it.

        `vendor`: the sandbox that market_data is to ask, looked after as a service too.
        """
        services: list[Service] = []
        if vendor is not None:
            services.append(Service("sandbox", sync=vendor[0].watch, placed=False))
        for name in names:
            services.append(self._service(name, vendor[1] if vendor is not None else None))
            if name == "persistence":
                services.append(Service("maintenance", sync=self.maintain))
        for service in services:
            service.rank = RANKS[service.name]
        self.supervisor = Supervisor(services)
        return self.supervisor

    def _service(self, name: str, vendor: SandboxEndpoint | None) -> Service:
        settings, event_log, dsn, counts = self.settings, self.event_log, self.dsn, self.counts
        if name == "market_data":
            return Service(
                name, asynchronous=lambda stop: services.run_market_data(settings, event_log, dsn, stop, vendor)
            )
        if name == "aggregation":
            return Service(name, sync=lambda stop: services.run_aggregation(settings, event_log, stop, counts))
        if name == "analytics":
            return Service(name, sync=lambda stop: services.run_analytics(settings, event_log, dsn, stop, counts))
        if name == "persistence":
            return Service(
                name, asynchronous=lambda stop: services.run_persistence(settings, event_log, dsn, stop, counts)
            )
        if name == "api":
            return Service(name, asynchronous=lambda stop: services.run_api(settings, event_log, dsn, stop, self))
        raise ValueError(name)

    def maintain(self, stop: threading.Event) -> None:
        """Run what is due in the store and apply the log's retention, to kept snapshots first, until `stop`."""
        retentions = parts.snapshot_retentions(self.event_log)
        while not stop.is_set():
            now_us = time.time_ns() // 1000
            done = parts.run_due(self.dsn, now_us)
            for retention in retentions:
                retention.run(now_us)
            trimmed = {topic: n for topic, n in self.event_log.trim(now_us).items() if n}
            if done or trimmed:
                log.info("maintenance", jobs=done, trimmed=trimmed)
            stop.wait(MAINTENANCE_S)

    def registry(self) -> CollectorRegistry:
        """Return a registry that reads this plant when it is scraped."""
        return registry_of(
            PlantCollector(event_log=self.event_log, statuses=self.supervisor.statuses, counts=self.counts)
        )

    def health(self) -> health.Health:
        """Ask all parts. Blocks for as long as the store and the log take to answer (seconds, when they are gone)."""
        found: list[health.Part] = []
        questions: Sequence[tuple[str, Callable[[], Iterable[health.Part]]]] = (
            ("services", lambda: health.service_parts(self.supervisor.statuses())),
            ("indicators", lambda: health.indicator_parts(self.counts.of("analytics"))),
            ("log", lambda: health.log_parts(self.event_log)),
            ("plant", lambda: health.plant_parts(self.event_log, held=True)),
            ("feeds", lambda: health.feed_parts(self.event_log, time.time_ns() // 1_000)),
            ("store", lambda: parts.store_parts(self.dsn, self.event_log)),
            ("jobs", lambda: health.job_parts(parts.jobs_status(self.dsn))),
            ("webhooks", lambda: health.webhook_parts(alert_rules.webhooks(self.dsn))),
            ("left out of bars", lambda: health.left_out_parts(parts.left_out(self.dsn))),
        )
        for name, question in questions:
            found += health.ask(name, question)
        return health.Health(found)


@contextlib.contextmanager
def opened(settings: Settings, *, lasting: bool = False, store: bool = True, wanted: bool = False) -> Iterator[Plant]:
    """Open steps 2 to 5, or with `store` False the log alone; `lasting` is for a service that stays, and waits for a
    store that comes up later than itself.

    `wanted`: the log alone, and the address of the store, which need not answer. Raises what each step raises.
    """
    if not store:
        address = database(settings, lasting=True) if wanted else contextlib.nullcontext("")
        with address as dsn, parts.event_log(settings) as event_log:
            yield Plant(settings, event_log, dsn)
        return
    with database(settings, lasting=lasting) as dsn, parts.event_log(settings, make_topics=False) as event_log:
        _patiently(lambda: _prepare(settings, dsn, event_log), PATIENCE_S if lasting else 0.0)
        yield Plant(settings, event_log, dsn)


def _prepare(settings: Settings, dsn: str, event_log: EventLog) -> None:
    parts.migrate(dsn)
    parts.first_topics(dsn, event_log, settings.partitions)
    parts.check_log(dsn, event_log)


def _patiently(work: Callable[[], None], patience_s: float) -> None:
    """Do `work`, and again for as long as the store is out of reach and `patience_s` is not over."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return work()
        except StoreUnavailable as error:
            if time.monotonic() > deadline:
                raise
            log.warning("waiting for the store", error=str(error))
            time.sleep(0.5)


@contextlib.contextmanager
def folder_alone(settings: Settings) -> Iterator[None]:
    """Hold the data folder as its only plant. Raises FolderHeld, naming who has it."""
    lock = FolderLock(settings.data, "plant.lock")
    if not lock.take(wait_s=0.3):
        for path in sorted(settings.data.glob("service-*.lock")):
            FolderLock(settings.data, path.name).take_or_refuse().release()  # it names the service that runs
        lock.take_or_refuse()
    with lock:
        lock.note()
        yield


@contextlib.contextmanager
def folder_shared(settings: Settings, service: str) -> Iterator[None]:
    """Hold the data folder as this member of this service, beside others. Raises FolderHeld."""
    member = FolderLock(settings.data, f"service-{service}-{settings.instance}.lock")
    with FolderLock(settings.data, "plant.lock").take_or_refuse(shared=True), member.take_or_refuse():
        member.note()
        yield


def folder_is_held(settings: Settings) -> bool:
    """Whether a plant, or a service of one, runs on the data folder."""
    return FolderLock(settings.data, "plant.lock").is_held()

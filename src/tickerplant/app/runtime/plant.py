"""A plant: its components, opened in a fixed order, and the services that run on them.

Steps of opening, each idempotent; closing reverses the order:

1. Acquire the folder's lock.
2. Open the database and create its tables.
3. Open the log.
4. Create its topics.
5. Check that this store follows this log.
6. Append the rules to the log if they have changed.

A process that starts while the brokers are unavailable takes steps 4 to 6 when they answer (`log_binding`).
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from tickerplant.app import health
from tickerplant.app.bounded_checks import BoundedChecks
from tickerplant.app.component import ComponentHealth
from tickerplant.app.config.settings import Settings
from tickerplant.app.disk import plant_disk_health
from tickerplant.app.metrics import PlantCollector, ServiceCounts, registry_of
from tickerplant.app.runtime import services
from tickerplant.app.runtime.log_binding import LogBinding, after_binding
from tickerplant.app.runtime.supervisor import Service, Supervisor
from tickerplant.app.runtime.trouble_reporter import TroubleReporter
from tickerplant.app.wiring import store as store_wiring
from tickerplant.app.wiring.alert_rules import webhook_counts
from tickerplant.app.wiring.database import database, running_dsn
from tickerplant.app.wiring.locks import FolderLock
from tickerplant.app.wiring.log import open_log, snapshot_retentions
from tickerplant.app.wiring.log_binding import create_first_topics, create_followed_topics
from tickerplant.app.wiring.vendors import skipped_health
from tickerplant.core.errors import StoreUnavailable
from tickerplant.core.outage import Outage
from tickerplant.core.schemas import RAW
from tickerplant.log.trouble_reports import service_key

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tickerplant.app.wiring.sandbox import ExternalSandbox, SandboxProcess
    from tickerplant.log.port import EventLog
    from tickerplant.sandbox import SandboxEndpoint

PATIENCE_S: Final = 30.0
"""Maximum seconds that a long-running service waits at its start for the store to answer."""

MAINTENANCE_S: Final = 30.0
"""Seconds between two checks for due jobs of the store and for the log's retention."""

RANKS: Final = {
    "market_data": 0,
    "sandbox": 1,  # after the feeds, which close their connections to it
    "aggregation": 2,
    "analytics": 3,
    "persistence": 4,
    "maintenance": 5,
    "api": 6,  # last, so that a dashboard shows the shutdown
}
"""Rank of each service. Services stop in ascending order of rank."""

NEED_STORE: Final = {"persistence", "api"}
"""Services that do not start without the store."""

WANT_STORE: Final = {"analytics", "market_data"}
"""Services that use the store if it is available, for stored history and for the backfill."""

SERVICES: Final = ("market_data", "aggregation", "analytics", "persistence", "api")

log = structlog.get_logger(__name__)


@dataclass
class Plant:
    """The opened components, and the services that run on them in this process."""

    settings: Settings
    event_log: EventLog
    dsn: str
    binding: LogBinding = field(default_factory=lambda: LogBinding(lambda: None, lambda: ""))
    """Steps 4 to 6 of opening. Services other than the API wait for them."""
    supervisor: Supervisor = field(default_factory=lambda: Supervisor([]))
    counts: ServiceCounts = field(default_factory=ServiceCounts)
    made_up: bool = False
    """True if a sandbox supplies the prices."""
    _newest_registry: CollectorRegistry | None = None

    def supervise(
        self, names: Iterable[str], *, vendor: tuple[SandboxProcess | ExternalSandbox, SandboxEndpoint] | None = None
    ) -> Supervisor:
        """Return the supervisor of these services, not started. `persistence` includes the maintenance.

        `vendor`: the sandbox that market_data uses; it is supervised as a service too.
        """
        supervised: list[Service] = []
        self.made_up = vendor is not None
        if vendor is not None:
            supervised.append(Service("sandbox", sync=vendor[0].watch, placed=False))
        for name in names:
            supervised.append(self._service(name, vendor[1] if vendor is not None else None))
            if name == "persistence":
                supervised.append(after_binding(self.binding, Service("maintenance", sync=self.maintain)))
        for service in supervised:
            service.rank = RANKS[service.name]
        self.supervisor = Supervisor(supervised, TroubleReporter(self.event_log, self.settings.instance))
        return self.supervisor

    def _service(self, name: str, vendor: SandboxEndpoint | None) -> Service:
        settings, event_log, dsn, counts = self.settings, self.event_log, self.dsn, self.counts
        if name == "api":
            return Service(
                name,
                asynchronous=lambda stop: services.run_api(
                    settings,
                    event_log,
                    dsn,
                    stop,
                    services.PlantOfApi(
                        bind=self.binding.run,
                        health=lambda: self.health().as_dict(),
                        registry=self.registry(),
                        counts=counts,
                    ),
                ),
            )
        bodies = {
            "market_data": Service(
                name, asynchronous=lambda stop: services.run_market_data(settings, event_log, dsn, stop, vendor, counts)
            ),
            "aggregation": Service(name, sync=lambda stop: services.run_aggregation(settings, event_log, stop, counts)),
            "analytics": Service(
                name, sync=lambda stop: services.run_analytics(settings, event_log, dsn, stop, counts)
            ),
            "persistence": Service(
                name, asynchronous=lambda stop: services.run_persistence(settings, event_log, dsn, stop, counts)
            ),
        }
        return after_binding(self.binding, bodies[name])

    def maintain(self, stop: threading.Event) -> None:
        """Apply the log's retention and run the due jobs of the store until `stop`.

        The log's retention precedes the jobs, because it does not need the store. Retention deletes only records that
        the store has applied: the positions of persistence hold the other records. If persistence has no position in
        the raw topic, no record is deleted.
        """
        retentions = snapshot_retentions(self.event_log)
        while not stop.is_set():
            now_us = time.time_ns() // 1000
            for retention in retentions:
                retention.run(now_us)
            held = {topic for topic, _ in self.event_log.committed("persistence")}
            trimmed = {topic: n for topic, n in self.event_log.trim(now_us).items() if n} if RAW in held else {}
            if trimmed:
                log.info("maintenance of the log", trimmed=trimmed)
            done = store_wiring.run_due(self.dsn, now_us)
            if done:
                log.info("maintenance of the store", jobs=done)
            stop.wait(MAINTENANCE_S)

    def _own(self) -> set[str]:
        """Return the keys of this process's services, whose statuses health reads directly."""
        return {service_key(status.name, self.settings.instance) for status in self.supervisor.statuses()}

    def registry(self) -> CollectorRegistry:
        """Return a new registry that reads this plant during a scrape. The API adds its own metrics to it."""
        self._newest_registry = registry_of(
            PlantCollector(
                event_log=self.event_log, statuses=lambda: self.supervisor.statuses(), counts=self.counts,
                folder=self.settings.data,
            )
        )  # fmt: skip
        return self._newest_registry

    def newest_registry(self) -> CollectorRegistry:
        """Return the registry of the running API.

        If no API runs in this process, return a registry without its metrics.
        """
        return self._newest_registry or self.registry()

    def health(self) -> health.Health:
        """Return the newest known health of all components. Waits for new answers for at most a second."""
        return health.Health(self._checks.run())

    @functools.cached_property
    def _checks(self) -> BoundedChecks:
        checks: Sequence[tuple[str, Callable[[], Iterable[ComponentHealth]]]] = (
            ("services", lambda: health.service_health(self.supervisor.statuses())),
            ("indicators", lambda: health.indicator_health(self.counts.of("analytics"))),
            ("disk", lambda: plant_disk_health(self.settings)),
            ("vendors", lambda: skipped_health(self.settings, sandbox=self.made_up)),
            ("log", lambda: health.log_health(self.event_log)),
            ("plant", lambda: health.plant_health(self.event_log, held=True)),
            ("feeds", lambda: health.feed_health(self.event_log, time.time_ns() // 1_000)),
            ("troubles", lambda: health.trouble_health(self.event_log, time.time_ns() // 1_000, self._own())),
            ("store", lambda: store_wiring.store_health(self.dsn, self.event_log)),
            (
                "persistence",
                lambda: health.persistence_health(
                    self.event_log, lambda: store_wiring.positions(self.dsn), time.time_ns() // 1_000
                ),
            ),
            ("jobs", lambda: health.job_health(store_wiring.jobs_status(self.dsn))),
            ("webhooks", lambda: health.webhook_health(webhook_counts(self.dsn))),
            ("left out of bars", lambda: health.left_out_health(store_wiring.left_out(self.dsn))),
        )
        return BoundedChecks(checks, evidence={"log": self.event_log.outage})


@contextlib.contextmanager
def opened(
    settings: Settings,
    *,
    lasting: bool = False,
    store: bool = True,
    wanted: bool = False,
    log_later: bool = False,
    then: Callable[[EventLog], object] | None = None,
) -> Iterator[Plant]:
    """Open the plant for the block by steps 2 to 5, and call `then`. If `store` is false, the store need not answer.

    `lasting`: for a long-running service, which waits up to `PATIENCE_S` for the store. `wanted`: the plant has the
    address of the store even if `store` is false. `log_later`: the log need not answer; `Plant.binding` takes steps 4
    and 5 and calls `then`. Raises the errors of each step.
    """
    patience_s = PATIENCE_S if lasting else 0.0
    address = database(settings, lasting=lasting or not store) if store or wanted else contextlib.nullcontext("")
    with address as dsn, open_log(settings, make_topics=False) as event_log:
        if store:
            _retry_store(lambda: store_wiring.migrate(dsn, settings), patience_s)

        def bind() -> None:
            if store:
                _bind(settings, dsn, event_log)
            else:
                create_followed_topics(dsn or running_dsn(settings), event_log, settings.new_partitions)
            if then is not None:
                then(event_log)

        plant = Plant(settings, event_log, dsn, LogBinding(bind, event_log.outage))
        if not log_later:
            _retry_store(plant.binding.run, patience_s)
        yield plant


def _bind(settings: Settings, dsn: str, event_log: EventLog) -> None:
    create_first_topics(dsn, event_log, settings.new_partitions)
    store_wiring.check_log(dsn, event_log)


def _retry_store(work: Callable[[], object], patience_s: float) -> None:
    """Run `work`, and retry it while the store is unavailable, for at most `patience_s`."""
    deadline, outage = time.monotonic() + patience_s, Outage()
    while True:
        try:
            work()
            return
        except StoreUnavailable as error:
            if time.monotonic() > deadline:
                raise
            if outage.fail(str(error), time.time()):
                log.warning("waiting for the store", error=str(error))
            time.sleep(0.5)


@contextlib.contextmanager
def folder_alone(settings: Settings) -> Iterator[None]:
    """Hold the data folder exclusively for the block. Raises FolderHeld, which names the holder."""
    lock = FolderLock(settings.data, "plant.lock")
    warn_if_readable(settings.data)
    if not lock.acquire(wait_s=0.3):
        for path in sorted(settings.data.glob("service-*.lock")):
            FolderLock(settings.data, path.name).acquire_or_raise().release()  # its error names the running service
        lock.acquire_or_raise()
    with lock:
        lock.write_holder()
        yield


@contextlib.contextmanager
def folder_shared(settings: Settings, service: str) -> Iterator[None]:
    """Hold the data folder for the block as one member of one service, beside other members. Raises FolderHeld."""
    member = FolderLock(settings.data, f"service-{service}-{settings.instance}.lock")
    warn_if_readable(settings.data)
    with FolderLock(settings.data, "plant.lock").acquire_or_raise(shared=True), member.acquire_or_raise():
        member.write_holder()
        yield


def warn_if_readable(folder: Path) -> None:
    """Log a warning if other users can list or change an existing data folder. The mode is the user's choice."""
    with contextlib.suppress(OSError):
        mode = folder.stat().st_mode & 0o777
        if mode & 0o066:
            log.warning(
                "other users of this machine can read the data folder", folder=str(folder), mode=f"{mode:04o}",
                action=f"run chmod 700 {folder}, or ignore this warning if they may read it",
            )  # fmt: skip


def folder_is_held(settings: Settings) -> bool:
    """Return True if a plant, or a service of a plant, runs on the data folder."""
    return FolderLock(settings.data, "plant.lock").is_held()

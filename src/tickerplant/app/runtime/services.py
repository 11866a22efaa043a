"""Functions that run each service until its `stop` is set. Each function imports its package when it is called."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from tickerplant.app.config.settings import Settings
from tickerplant.app.disk import free_space
from tickerplant.app.runtime.leader import Leader
from tickerplant.app.wiring.rules import always_open, rules_of
from tickerplant.log.rules_in_force import rules_in_force

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tickerplant.analytics.ondemand.query import OnDemand
    from tickerplant.app.metrics import ServiceCounts
    from tickerplant.core.rules import Rules
    from tickerplant.core.streams import StageFactory
    from tickerplant.log.port import EventLog
    from tickerplant.market_data.backfill import Order, Progress
    from tickerplant.sandbox import SandboxEndpoint


REFRESH_S: Final = 15.0
"""Seconds between two reads of the counts of excluded data for scrapes of `monitoring.port`."""


def run_aggregation(settings: Settings, log: EventLog, stop: threading.Event, counts: ServiceCounts) -> None:
    """Run aggregation until `stop`."""
    from tickerplant.aggregation.service import Aggregation

    Aggregation(
        log,
        instance=settings.instance,
        snapshot_interval_records=settings.snapshot_interval_records,
        metrics=counts.recorder("aggregation"),
    ).run(stop)


def run_analytics(settings: Settings, log: EventLog, dsn: str, stop: threading.Event, counts: ServiceCounts) -> None:
    """Run analytics until `stop`, with the stored bars of the store at `dsn`; "" means without a store."""
    from tickerplant.analytics.service import Analytics

    Analytics(
        log,
        dsn,
        instance=settings.instance,
        snapshot_interval_records=settings.snapshot_interval_records,
        metrics=counts.recorder("analytics"),
    ).run(stop)


async def run_market_data(
    settings: Settings, log: EventLog, dsn: str, stop: asyncio.Event, vendor: SandboxEndpoint | None,
    counts: ServiceCounts,
) -> None:  # fmt: skip
    """Run the feeds and the backfill until `stop`. `vendor`: the sandbox to use instead of the vendors' servers.

    Only one of several members works at a time.
    """
    from tickerplant.app.wiring import vendors
    from tickerplant.market_data.service import FeedCounters, FeedEvents, MarketData, MarketDataConfig, run_feeds

    def recorder(feed: str) -> Callable[[FeedCounters], None]:
        record = counts.recorder(f"feed {feed}")
        return lambda counters: record(FeedEvents.of(counters))

    async def feed() -> None:
        rules = rules_in_force(log, rules_of(settings, always_open=always_open(settings, vendor is not None)))
        async with vendors.open_scheduler(settings, log, endpoint=vendor, rules=rules) as scheduler:
            clock, space = vendors.clock_of(vendor), free_space(settings)
            backfill = vendors.backfill(settings, log, dsn, scheduler, clock, rules) if dsn else None
            feeds = [
                MarketData(
                    log,
                    MarketDataConfig(symbols, provider.name, gather_s=settings.gather_ms / 1_000),
                    stream,
                    clock=clock,
                    on_gap=backfill.wake if backfill is not None else None,
                    metrics=recorder(provider.name),
                    space=space,
                )
                for provider, symbols in vendors.streams(scheduler, settings.symbols)
                if (stream := provider.stream(symbols)) is not None
            ]
            await run_feeds(stop, feeds, backfill.run() if backfill is not None else None)

    await Leader(log, "market_data", settings.instance).run(feed, stop)


async def backfill(
    settings: Settings,
    log: EventLog,
    dsn: str,
    order: Order,
    vendor: SandboxEndpoint | None,
    stop: threading.Event,
    report: Callable[[Progress], None],
) -> Progress:
    """Fetch the bars of the order until vendors return nothing more, or until `stop`; return the progress.

    Calls `report` several times a second. An exception that `report` raises ends the backfill.
    """
    from tickerplant.app.wiring import vendors

    rules = rules_in_force(log, rules_of(settings, always_open=always_open(settings, vendor is not None)))
    clock = vendors.clock_of(vendor)
    async with vendors.open_scheduler(settings, log, endpoint=vendor, rules=rules) as scheduler:
        manager = vendors.backfill(settings, log, dsn, scheduler, clock, rules, order=order)
        running = asyncio.create_task(manager.run())
        try:
            while not running.done() and not stop.is_set():
                await asyncio.wait({running}, timeout=0.2)
                report(manager.progress)
            if running.done():
                running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    return manager.progress


async def run_persistence(
    settings: Settings, log: EventLog, dsn: str, stop: asyncio.Event, counts: ServiceCounts
) -> None:
    """Run persistence until `stop`."""
    from tickerplant.persistence.reporter import PersistenceCounters
    from tickerplant.persistence.service import Persistence

    record = counts.recorder("persistence")

    class Metrics:
        def applied(self, counts: PersistenceCounters, seconds: float) -> None:
            record(counts)

    persistence = Persistence(
        log,
        dsn,
        instance=settings.instance,
        metrics=Metrics(),
        direct_compress=settings.direct_compress,
        gather_s=settings.gather_ms / 1_000,
        longest_gather_s=settings.store_gather_ms / 1_000,
    )
    await persistence.run(stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantOfApi:
    """Parts of the plant that the API uses.

    `bind` checks that the store follows the log. `health` returns the components for `/health`. `registry` contains the
    metrics of `/metrics`. `counts` contains the count of commits of persistence in this process.
    """

    bind: Callable[[], None]
    health: Callable[[], dict[str, Any]]
    registry: CollectorRegistry
    counts: ServiceCounts


async def run_api(settings: Settings, log: EventLog, dsn: str, stop: asyncio.Event, plant: PlantOfApi) -> None:
    """Serve the API until `stop`, and deliver fired alerts to webhooks at the same time.

    Serves REST from the store while the log is unavailable.
    """
    from tickerplant.analytics.alerts.rule_operands import check_rule
    from tickerplant.api.alert_rules import AlertLimits
    from tickerplant.api.service import Api, ApiOptions
    from tickerplant.app.wiring.on_demand import on_demand

    key = settings.api.key.get_secret_value() if settings.api.key is not None else None
    own_rules = settings.rules.rules()

    def bind_log() -> tuple[Rules, OnDemand]:
        plant.bind()
        rules = rules_in_force(log, own_rules)
        return rules, on_demand(rules)

    def commits() -> int | None:
        """Return the count of persistence's commits in this process; None if other processes may store rows."""
        persistence = plant.counts.of("persistence") if settings.embedded_log else None
        return None if persistence is None else int(persistence.transactions)

    options = ApiOptions(
        host=settings.api.host, port=settings.api.port, api_key=key, health=plant.health,
        registry=plant.registry,
        refresh_s=None if settings.monitoring.port is None else REFRESH_S,
        hosts=settings.api.hosts, origins=settings.api.origins, proxies=settings.api.proxies,
        indicators=on_demand(own_rules), check_rule=check_rule, bind_log=bind_log,
        max_connections=settings.api.max_connections, commits=commits,
        alert_limits=AlertLimits(settings.alerts.max_rules, settings.alerts.private_webhooks), rules=own_rules,
    )  # fmt: skip
    delivering = asyncio.create_task(deliver_alerts(settings, log, dsn, plant.registry))
    try:
        await Api(log, dsn, options).run(stop)
    finally:
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)


async def deliver_alerts(settings: Settings, log: EventLog, dsn: str, registry: CollectorRegistry) -> None:
    """Deliver fired alerts to webhooks until cancelled."""
    from tickerplant.alerts.service import AlertDelivery
    from tickerplant.alerts.webhooks import WebhookOptions

    options = WebhookOptions(
        member=settings.instance,
        private=settings.alerts.private_webhooks,
        timeout_s=settings.alerts.webhook_timeout_s,
        retry_hours=settings.alerts.webhook_retry_hours,
        agent=f"tickerplant/{metadata.version('tickerplant')}",
    )
    await AlertDelivery(log, dsn, options, registry=registry).run()


def aggregation_stages(log: EventLog) -> StageFactory:
    """Return the factory of the stages that aggregation runs on this log."""
    from tickerplant.aggregation.stage import AggregationStageFactory

    return AggregationStageFactory(log.identity().generation)

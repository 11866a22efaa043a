"""Every service, as `app` runs it: until it is told to stop. Imports when called."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any

from tickerplant.app.config.settings import Settings
from tickerplant.app.wiring.parts import always_open, rules_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tickerplant.app.metrics import ServiceCounts
    from tickerplant.app.runtime.plant import Plant
    from tickerplant.core.streams import StageFactory
    from tickerplant.log.port import EventLog
    from tickerplant.market_data.backfill import Order, Progress
    from tickerplant.sandbox import SandboxEndpoint


def run_aggregation(settings: Settings, log: EventLog, stop: threading.Event, counts: ServiceCounts) -> None:
    """Run aggregation until `stop`."""
    from tickerplant.aggregation.service import Aggregation

    Aggregation(
        log,
        instance=settings.instance,
        snapshot_interval_records=settings.snapshot_interval_records,
        metrics=counts.taker("aggregation"),
    ).run(stop)


def run_analytics(settings: Settings, log: EventLog, dsn: str, stop: threading.Event, counts: ServiceCounts) -> None:
    """Run analytics until `stop`, with the stored bars of `dsn` where that is not empty."""
    from tickerplant.analytics.service import Analytics

    Analytics(
        log,
        dsn,
        instance=settings.instance,
        snapshot_interval_records=settings.snapshot_interval_records,
        metrics=counts.taker("analytics"),
    ).run(stop)


async def run_market_data(
    settings: Settings, log: EventLog, dsn: str, stop: asyncio.Event, vendor: SandboxEndpoint | None
) -> None:
    """Run the vendors' feeds, or those of the sandbox `vendor`, and the backfill, until `stop`."""
    from tickerplant.app.wiring import vendors
    from tickerplant.market_data.service import MarketData, MarketDataConfig, run_feeds

    rules = rules_of(settings, always_open=always_open(settings, vendor is not None))
    async with vendors.desk(settings, log, place=vendor, rules=rules) as desk:
        clock = vendors.clock_of(vendor)
        backfill = vendors.backfill(settings, log, dsn, desk, clock, rules) if dsn else None
        feeds = [
            MarketData(
                log,
                MarketDataConfig(symbols, provider.name),
                stream,
                clock=clock,
                on_gap=backfill.wake if backfill is not None else None,
            )
            for provider, symbols in vendors.streams(desk, settings.symbols)
            if (stream := provider.stream(symbols)) is not None
        ]
        await run_feeds(stop, feeds, backfill.run() if backfill is not None else None)


async def backfill(
    plant: Plant, order: Order, vendor: SandboxEndpoint | None, stop: threading.Event,
    look: Callable[[Progress], None],
) -> Progress:  # fmt: skip
    """Fetch what is ordered, with vendors of our own, until nothing is left that can be had now; return what was done.

    `look` is called with the progress several times a second, and ends it by raising. Returns at `stop` too.
    """
    from tickerplant.app.wiring import vendors

    settings = plant.settings
    rules = rules_of(settings, always_open=always_open(settings, vendor is not None))
    clock = vendors.clock_of(vendor)
    async with vendors.desk(settings, plant.event_log, place=vendor, rules=rules) as desk:
        manager = vendors.backfill(settings, plant.event_log, plant.dsn, desk, clock, rules, order=order)
        running = asyncio.create_task(manager.run())
        try:
            while not running.done() and not stop.is_set():
                await asyncio.wait({running}, timeout=0.2)
                look(manager.progress)
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
    from tickerplant.persistence.service import Persistence, PersistenceCounters

    take = counts.taker("persistence")

    class Applied:
        def applied(self, counts: PersistenceCounters, seconds: float) -> None:
            take(counts)

    await Persistence(log, dsn, instance=settings.instance, metrics=Applied()).run(stop)


async def run_api(settings: Settings, log: EventLog, dsn: str, stop: asyncio.Event, plant: Plant) -> None:
    """Serve the API until `stop`, and deliver fired alerts to webhooks next to it."""
    from tickerplant.analytics.alerts.rule_operands import check_rule
    from tickerplant.api.service import Api, ApiOptions
    from tickerplant.app.wiring.on_demand import on_demand

    def health() -> dict[str, Any]:
        return plant.health().as_dict()

    key = settings.api.key.get_secret_value() if settings.api.key is not None else None
    registry = plant.registry()
    options = ApiOptions(
        host=settings.api.host, port=settings.api.port, api_key=key, health=health, registry=registry,
        indicators=on_demand(settings), check_rule=check_rule, rules=settings.rules.rules(),
    )  # fmt: skip
    delivering = asyncio.create_task(deliver_alerts(settings, log, dsn, registry))
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
    """Return what makes the stages that aggregation runs on this log."""
    from tickerplant.aggregation.stage import AggregationStageFactory

    return AggregationStageFactory(log.identity().generation)

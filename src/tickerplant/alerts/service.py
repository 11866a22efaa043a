"""The alert delivery service: from `market.alerts` to the outbox, and from the outbox to the receivers."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry

from tickerplant.alerts.metrics import DeliveryCounters, DeliveryMetrics
from tickerplant.alerts.outbox_intake import OutboxIntake
from tickerplant.alerts.webhooks import WebhookOptions, WebhookSender
from tickerplant.log.port import EventLog
from tickerplant.store import Store

MAX_CONNECTIONS = 2
"""Maximum database connections of the delivery. Each use of a connection is one short statement or transaction."""


class AlertDelivery:
    """Runs intake and sender on one pool of connections. Belongs to the event loop that calls `run`."""

    def __init__(
        self, log: EventLog, dsn: str, options: WebhookOptions, *, registry: CollectorRegistry | None = None
    ) -> None:
        self.counters = DeliveryCounters()
        self._log = log
        self._dsn = dsn
        self._options = options
        self._registry = registry or CollectorRegistry()
        self._store: Store | None = None
        self._opening = asyncio.Lock()

    async def run(self) -> None:
        """Deliver alerts until cancelled. Waits and retries while the log or the store is unavailable."""
        metrics = DeliveryMetrics(self._registry, self.counters)
        sender = WebhookSender(self._open_store, self._options, self.counters)
        intake = OutboxIntake(self._log, self._open_store, self._options.member, on_new=sender.wake)
        intake.start(asyncio.get_running_loop())
        try:
            await sender.run()
        finally:
            intake.stop()
            await sender.finish_in_flight()
            # The intake's thread may wait for this loop, so the loop must run until the thread has ended.
            await asyncio.to_thread(intake.join)
            metrics.close()
            store, self._store = self._store, None
            if store is not None:
                await store.close()

    async def _open_store(self) -> Store:
        """Return the store, opened at the first call. Raises StoreUnavailable."""
        if self._store is not None:
            return self._store
        async with self._opening:
            if self._store is None:
                self._store = await Store.open(self._dsn, min_size=1, max_size=MAX_CONNECTIONS)
            return self._store

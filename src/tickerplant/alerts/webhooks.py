"""Webhooks from the outbox to their receivers, with retries.

The sender

1. claims due webhooks, for slightly longer than the time limit of an attempt,
2. posts each of them, and
3. marks it as delivered, or as due again (`retry_schedule`).

After a kill between 2 and 3 the webhook is posted again when the claim has expired. Delivery is at least once; the
receiver can ignore a repeat by its alert id. A webhook is given up if an attempt fails after `retry_hours`. A webhook
is also given up if the receiver answered 410, or if the alert's rule no longer exists or has no webhook. The firings
(`/v1/alerts/firings`) and the health check report the failure.

Memory contains only webhooks in flight: at most `MAX_IN_FLIGHT`, and `MAX_PER_RECEIVER` per receiver. Up to
`MAX_IN_FLIGHT / MAX_PER_RECEIVER - 1` (7) slow receivers delay no other receiver. A receiver that is unavailable for
a day only adds rows to the outbox table. Alerts of one rule may arrive out of order.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from tickerplant.alerts.errors import PostFailed
from tickerplant.alerts.metrics import DeliveryCounters
from tickerplant.alerts.retry_schedule import backoff_s, is_expired
from tickerplant.alerts.signature import headers_of
from tickerplant.core import faults
from tickerplant.core.errors import StoreError
from tickerplant.core.outage import Outage
from tickerplant.store import Store
from tickerplant.store.repositories.alerts import DELIVERED, FAILED, Outbox, PendingWebhook

if TYPE_CHECKING:
    from tickerplant.alerts.webhook_client import WebhookClient

MAX_IN_FLIGHT: Final = 32
"""Maximum webhooks in flight."""
MAX_PER_RECEIVER: Final = 4
"""Maximum webhooks per receiver in one claim."""
CLAIM_MARGIN_S: Final = 5.0
"""Seconds by which a claim is longer than the time limit of an attempt."""
POLL_S: Final = 5.0
"""Maximum seconds between two reads of the outbox: other processes fill it too."""
DRAIN_S: Final = 2.0
"""Maximum seconds that a stop waits for webhooks in flight."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """Options of webhook delivery.

    `member`: suffix of this process's name in the consumer group. `private` allows receivers with addresses that are
    not public. `retry_hours`: age after which a failed webhook is given up. `agent`: value of the header `User-Agent`.
    """

    member: str = "0"
    private: bool = True
    timeout_s: float = 10.0
    retry_hours: float = 24.0
    agent: str = "tickerplant"


class WebhookSender:
    """Sends and retries the webhooks of the outbox. Belongs to one event loop."""

    def __init__(
        self, store: Callable[[], Awaitable[Store]], options: WebhookOptions, counters: DeliveryCounters
    ) -> None:
        self._store = store
        self._options = options
        self._counters = counters
        self._due = asyncio.Event()
        self._in_flight: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._client: WebhookClient | None = None

    def wake(self) -> None:
        """Read the outbox now instead of at the next poll."""
        self._due.set()

    async def run(self) -> None:
        """Send due webhooks until cancelled. Waits while the store is unavailable."""
        outage = Outage()
        while True:
            self._due.clear()
            try:
                claimed = await self._claim()  # Step 1
                for post in claimed:
                    task = asyncio.create_task(self._send(post))
                    self._in_flight[post.alert_id] = (post.url or "", task)
                wait_s = 0.0 if claimed else await self._next_due_s()
                outage.end()
            except StoreError as error:
                if outage.fail(str(error), time.time()):
                    log.warning("store unavailable; webhooks wait for it; check the database", error=str(error))
                wait_s = POLL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(wait_s, 0.01)):
                    await self._due.wait()

    async def finish_in_flight(self) -> None:
        """Wait for webhooks in flight, at most `DRAIN_S`; cancel the remaining webhooks and close the connections."""
        tasks = [task for _, task in self._in_flight.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_S)
        for task in tasks:
            task.cancel()
        if self._client is not None:
            await self._client.close()

    async def _claim(self) -> list[PendingWebhook]:
        room = MAX_IN_FLIGHT - len(self._in_flight)
        if room <= 0:
            return []
        busy = sorted({url for url, _ in self._in_flight.values()})
        store = await self._store()
        async with store.session() as session:
            return await Outbox(session).claim(room, MAX_PER_RECEIVER, busy, self._options.timeout_s + CLAIM_MARGIN_S)

    async def _next_due_s(self) -> float:
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            return POLL_S
        store = await self._store()
        async with store.session() as session:
            next_s = await Outbox(session).next_s()
        if next_s is None:
            return POLL_S
        # A due webhook that was not claimed waits for a busy receiver; the end of the running attempt calls `wake`.
        return min(POLL_S, next_s) if next_s > 0 else POLL_S

    async def _send(self, post: PendingWebhook) -> None:
        try:
            if post.url is None:
                await self._finish(post, FAILED, "its rule was removed or has no webhook any more")
                return
            headers = headers_of(post, int(time.time()))
            try:
                await self._open_client().post(post.url, post.body.encode(), headers)  # Step 2
            except PostFailed as failure:
                await self._retry(post, failure)
            else:
                faults.reach("alerts.webhooks.mark.before")
                self._counters.delivered += 1
                await self._finish(post, DELIVERED, "")  # Step 3
        except StoreError as error:
            log.warning("the result of a webhook was not stored; the webhook is sent again", error=str(error))
        finally:
            self._in_flight.pop(post.alert_id, None)
            self.wake()

    async def _retry(self, post: PendingWebhook, failure: PostFailed) -> None:
        """Make a failed webhook due again later, or give it up."""
        self._counters.failed_attempts += 1
        age_s = time.time() - post.created_at.timestamp()
        if failure.gone or is_expired(age_s, self._options.retry_hours):
            await self._finish(post, FAILED, str(failure))
            return
        store = await self._store()
        async with store.session() as session:
            await Outbox(session).retry(post.alert_id, backoff_s(post.attempts), str(failure))
        if post.attempts == 1:
            log.warning("webhook failed and will be retried", alert=post.alert_id, reason=str(failure))

    async def _finish(self, post: PendingWebhook, state: str, error: str) -> None:
        if state == FAILED:
            self._counters.given_up += 1
            log.error("webhook given up", alert=post.alert_id, attempts=post.attempts, reason=error)
        store = await self._store()
        async with store.session() as session:
            await Outbox(session).finish(post.alert_id, state, error)

    def _open_client(self) -> WebhookClient:
        if self._client is None:
            from tickerplant.alerts.webhook_client import WebhookClient  # loads httpx only if there are webhooks

            options = self._options
            self._client = WebhookClient(timeout_s=options.timeout_s, private=options.private, agent=options.agent)
        return self._client

"""Webhooks: `market.alerts` into an outbox in the store, and from there to the receivers.

Two halves that share nothing but the table:

- The *intake* is a group of its own on `market.alerts`. 1. It puts each alert whose rule has a webhook into the outbox
  (once by its identity; the transaction is on the disk), then 2. commits the group's position. So nothing is missed,
  and what is read again changes nothing.
- The *posting* 1. claims what is due, for a little longer than an attempt takes, 2. posts it, and 3. marks it
  delivered, or due again. A kill between 2 and 3 posts it again after the claim is over: at least once, under the same
  alert id, by which the receiver knows it.

What fails is tried again after 1, 2, 4 … seconds and at most `MAX_BACKOFF_S`, a random half less, so that many do not
come back at once; for `hours`, then it is given up, which the rule's firings and the health check say. Memory holds
what is on its way (`IN_FLIGHT` at most, `EACH` of a receiver), so a receiver that is slow or gone delays no other, and
a receiver that was gone for a day costs rows of a table. Alerts of one rule may arrive in another order than they
fired.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from tickerplant.core import faults, records
from tickerplant.core.errors import Fenced, LogError, StoreError, UnreadableRecord
from tickerplant.core.schemas import ALERTS
from tickerplant.core.times import iso, times_of
from tickerplant.log.port import ConsumedRecord, EventLog, Reader
from tickerplant.store.pool import Store
from tickerplant.store.repositories.alerts import DELIVERED, FAILED, Outbox, PendingWebhook

if TYPE_CHECKING:
    from tickerplant.api.webhook_client import Receivers

GROUP: Final = "webhooks"
IN_FLIGHT: Final = 32
EACH: Final = 4
LEASE_S: Final = 5.0
"""How much longer than an attempt's time limit a claim is."""
MAX_BACKOFF_S: Final = 300.0
LOOK_S: Final = 5.0
"""The posting looks at least so often: other members of the group put things into the outbox too."""
RETRY_S: Final = 1.0
LAST_S: Final = 2.0
"""How long the end waits for what is on its way."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """How webhooks are delivered. `private`: receivers may have addresses that are not public."""

    member: str = "0"
    private: bool = True
    timeout_s: float = 10.0
    hours: float = 24.0
    agent: str = "tickerplant"


@dataclass(slots=True)
class Counts:
    """What was done since the start."""

    delivered: int = 0
    failed_attempts: int = 0
    given_up: int = 0


@dataclass(slots=True)
class Webhooks:
    """The service within the API. Belongs to the loop that calls `run`."""

    event_log: EventLog
    store: Callable[[], Any]
    options: WebhookOptions
    counts: Counts = field(default_factory=Counts)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _flying: dict[str, tuple[str, asyncio.Task[None]]] = field(default_factory=dict)
    _reader: Reader | None = None

    async def run(self) -> None:
        """Work until cancelled; log or store out of reach is waited out."""
        loop, stopping = asyncio.get_running_loop(), threading.Event()
        thread = threading.Thread(target=self._take, args=(loop, stopping), name="api-webhooks", daemon=True)
        thread.start()
        try:
            await self._posting()
        finally:
            stopping.set()
            if self._reader is not None:
                self._reader.wake()
            tasks = [task for _, task in self._flying.values()]
            if tasks:
                await asyncio.wait(tasks, timeout=LAST_S)
            for task in tasks:
                task.cancel()
            # The thread may wait for this loop, so the loop must go on until it has ended.
            await asyncio.to_thread(thread.join, 5.0)

    # The intake, in a thread of its own

    def _take(self, loop: asyncio.AbstractEventLoop, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                member = f"{GROUP}-{self.options.member}"
                with self.event_log.reader([ALERTS], group=GROUP, member=member) as reader:
                    self._reader = reader
                    self._follow(loop, reader, stopping)
            except (LogError, Fenced, StoreError) as error:
                if not stopping.is_set():
                    log.warning("webhooks are taken from the log again from the last commit", error=str(error))
            except (RuntimeError, asyncio.CancelledError):  # the loop is closed or closing
                if stopping.wait(RETRY_S):
                    return
            except Exception:
                log.exception("the intake of webhooks failed and begins again")
            finally:
                self._reader = None
            stopping.wait(RETRY_S)

    def _follow(self, loop: asyncio.AbstractEventLoop, reader: Reader, stopping: threading.Event) -> None:
        while not stopping.is_set():
            deliveries = reader.poll(timeout_s=0.5)
            if not deliveries:
                continue
            alerts = [alert for delivery in deliveries for alert in alerts_of(delivery)]
            if alerts:
                self.event_log.make_durable()  # the store is not to be ahead of the log
                faults.reach("api.webhooks.put.before")
                asyncio.run_coroutine_threadsafe(self._put(alerts), loop).result()  # Step 1
            faults.reach("api.webhooks.commit.before")
            reader.commit({delivery.source: delivery.offset + 1 for delivery in deliveries})  # Step 2

    async def _put(self, alerts: Sequence[tuple[str, str, str]]) -> None:
        store: Store = await self.store()
        async with store.session() as session, session.transaction():
            await session.script("SET LOCAL synchronous_commit = on")
            new = await Outbox(session).put(alerts)
        if new:
            self._wanted.set()

    # The posting

    async def _posting(self) -> None:
        receivers: Receivers | None = None
        try:
            while True:
                self._wanted.clear()
                try:
                    due = await self._claim()  # Step 1
                    if due and receivers is None:
                        receivers = self._receivers()
                    for post in due:
                        assert receivers is not None
                        task = asyncio.create_task(self._post(receivers, post))
                        self._flying[post.alert_id] = (post.url or "", task)
                    wait_s = 0.0 if due else await self._next_s()
                except StoreError as error:
                    log.warning("webhooks wait for the store", error=str(error))
                    wait_s = LOOK_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(wait_s, 0.01)):
                        await self._wanted.wait()
        finally:
            if receivers is not None:
                await receivers.close()

    def _receivers(self) -> Receivers:
        from tickerplant.api.webhook_client import Receivers  # httpx: a plant without webhooks does not load it

        options = self.options
        return Receivers(timeout_s=options.timeout_s, private=options.private, agent=options.agent)

    async def _claim(self) -> list[PendingWebhook]:
        room = IN_FLIGHT - len(self._flying)
        if room <= 0:
            return []
        busy = sorted({url for url, _ in self._flying.values()})
        store: Store = await self.store()
        async with store.session() as session:
            return await Outbox(session).claim(room, EACH, busy, self.options.timeout_s + LEASE_S)

    async def _next_s(self) -> float:
        if len(self._flying) >= IN_FLIGHT:
            return LOOK_S
        store: Store = await self.store()
        async with store.session() as session:
            next_s = await Outbox(session).next_s()
        if next_s is None:
            return LOOK_S
        # One that is due and was not claimed waits for its receiver, which wakes us when it has answered.
        return min(LOOK_S, next_s) if next_s > 0 else LOOK_S

    async def _post(self, receivers: Receivers, post: PendingWebhook) -> None:
        from tickerplant.api.webhook_client import PostFailed

        try:
            if post.url is None:
                await self._finish(post, FAILED, "its rule is gone or has no webhook any more")
                return
            try:
                await receivers.post(post.url, post.body.encode(), headers_of(post, int(time.time())))  # Step 2
            except PostFailed as failure:
                await self._again(post, failure)
            else:
                faults.reach("api.webhooks.mark.before")
                self.counts.delivered += 1
                await self._finish(post, DELIVERED, "")  # Step 3
        except StoreError as error:
            log.warning("how a webhook went could not be kept; it is posted again", error=str(error))
        finally:
            self._flying.pop(post.alert_id, None)
            self._wanted.set()

    async def _again(self, post: PendingWebhook, failure: Any) -> None:
        self.counts.failed_attempts += 1
        age_s = time.time() - post.created_at.timestamp()
        if failure.gone or age_s > self.options.hours * 3600:
            await self._finish(post, FAILED, str(failure))
            return
        store: Store = await self.store()
        async with store.session() as session:
            await Outbox(session).retry(post.alert_id, backoff_s(post.attempts), str(failure))
        if post.attempts == 1:
            log.warning("a webhook was not taken, and is tried again", alert=post.alert_id, reason=str(failure))

    async def _finish(self, post: PendingWebhook, state: str, error: str) -> None:
        if state == FAILED:
            self.counts.given_up += 1
            log.error("a webhook is given up", alert=post.alert_id, attempts=post.attempts, reason=error)
        store: Store = await self.store()
        async with store.session() as session:
            await Outbox(session).finish(post.alert_id, state, error)


def headers_of(post: PendingWebhook, now_s: int) -> dict[str, str]:
    """Return the headers of a webhook; it is signed where there is a secret."""
    from tickerplant.api.webhook_client import ALERT_ID, SIGNATURE, signature

    headers = {"Content-Type": "application/json", ALERT_ID: post.alert_id}
    if post.secret:
        headers[SIGNATURE] = signature(post.secret, post.body.encode(), now_s)
    return headers


def backoff_s(attempts: int) -> float:
    """Return how long to wait after so many attempts: 1, 2, 4 … seconds, capped, less up to a half at random."""
    return min(MAX_BACKOFF_S, 2.0 ** min(attempts - 1, 20)) * random.uniform(0.5, 1.0)


def alerts_of(delivery: ConsumedRecord) -> list[tuple[str, str, str]]:
    """Return (alert_id, rule_id, body) of each alert of a record; none of one that cannot be read."""
    try:
        record = records.decode(delivery.value)
    except UnreadableRecord as error:
        log.error("a record of alerts cannot be read", offset=delivery.offset, error=str(error))
        return []
    if not isinstance(record.header, records.Alerts):
        return []
    times = times_of(record.batch.column("time")).tolist()
    found = []
    for row, time_us in zip(record.batch.to_pylist(), times, strict=True):
        body = row | {"time": iso(time_us), "fired_at": iso(record.header.sent_at_us)}
        found.append((row["alert_id"], row["rule_id"], msgspec.json.encode(body).decode()))
    return found

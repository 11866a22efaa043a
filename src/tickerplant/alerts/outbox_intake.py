"""The intake of alert delivery: copies alerts from the log into the store's outbox, in its own thread.

Its consumer group on `market.alerts` repeats two steps:

1. Insert the alerts whose rules have a webhook into the outbox (once per alert id, flushed to disk).
2. Commit the group's position.

After a kill between the two steps, the alerts are read again. The second insertion changes nothing. No alert is lost.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from tickerplant.core import faults, records
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import Fenced, LogError, StoreError, UnreadableRecord
from tickerplant.core.outage import LONGEST_WAIT_S, Outage
from tickerplant.core.schemas import ALERTS
from tickerplant.core.times import iso
from tickerplant.log.port import ConsumedRecord, EventLog, Reader
from tickerplant.store import Store
from tickerplant.store.repositories.alerts import Outbox

GROUP: Final = "webhooks"
RETRY_S: Final = 1.0
"""Seconds before the intake starts again after an error."""
JOIN_S: Final = 5.0
"""Maximum seconds that a stop waits for the intake's thread."""

log = structlog.get_logger(__name__)


class OutboxIntake:
    """Fills the outbox. `on_new` is called in the event loop when the outbox has new webhooks."""

    def __init__(
        self, event_log: EventLog, store: Callable[[], Awaitable[Store]], member: str, on_new: Callable[[], None]
    ) -> None:
        self._log = event_log
        self._store = store
        self._member = f"{GROUP}-{member}"
        self._on_new = on_new
        self._stopping = threading.Event()
        self._reader: Reader | None = None
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread. Database calls run in `loop`."""
        self._thread = threading.Thread(target=self._run, args=(loop,), name="alert-intake", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Request the end of the thread, and return at once."""
        self._stopping.set()
        if self._reader is not None:
            self._reader.wake()

    def join(self) -> None:
        """Wait for the end of the thread, at most `JOIN_S`. Blocks; call it from an executor."""
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        outage = Outage()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with self._log.reader([ALERTS], group=GROUP, member=self._member) as reader:
                    self._reader = reader
                    self._follow(loop, reader)
            except (LogError, Fenced, StoreError) as error:
                if not self._stopping.is_set() and outage.fail(str(error), time.time()):
                    log.warning(
                        "webhook intake stopped and restarts at the last commit; check event log and database",
                        error=str(error),
                    )
            except (RuntimeError, asyncio.CancelledError):  # the loop is closed or closing
                if self._stopping.wait(RETRY_S):
                    return
            except Exception:
                log.exception("webhook intake failed and restarts")
            finally:
                self._reader = None
                if time.monotonic() - began > LONGEST_WAIT_S:
                    outage.end()
            self._stopping.wait(RETRY_S)

    def _follow(self, loop: asyncio.AbstractEventLoop, reader: Reader) -> None:
        while not self._stopping.is_set():
            consumed = reader.poll(timeout_s=0.5)
            if not consumed:
                continue
            alerts = [alert for record in consumed for alert in alerts_of(record)]
            if alerts:
                self._log.make_durable()  # the store must not be ahead of the log after a power cut
                faults.reach("alerts.intake.put.before")
                asyncio.run_coroutine_threadsafe(self._put(alerts), loop).result()  # Step 1
            faults.reach("alerts.intake.commit.before")
            reader.commit({record.source: record.offset + 1 for record in consumed})  # Step 2

    async def _put(self, alerts: Sequence[tuple[str, str, str]]) -> None:
        store = await self._store()
        async with store.session() as session, session.transaction():
            await session.script("SET LOCAL synchronous_commit = on")
            new = await Outbox(session).put(alerts)
        if new:
            self._on_new()


def alerts_of(consumed: ConsumedRecord) -> list[tuple[str, str, str]]:
    """Return (alert_id, rule_id, body) of each alert of a record.

    `body` is the JSON text of the webhook. Return [] for an unreadable record, and for a record that is not `Alerts`.
    """
    try:
        record = records.decode(consumed.value)
    except UnreadableRecord as error:
        log.error("unreadable record skipped; no webhook reports its alerts", offset=consumed.offset, error=str(error))
        return []
    if not isinstance(record.header, records.Alerts):
        return []
    times = times_of(record.batch.column("time")).tolist()
    found = []
    for row, time_us in zip(record.batch.to_pylist(), times, strict=True):
        body = row | {"time": iso(time_us), "fired_at": iso(record.header.sent_at_us)}
        found.append((row["alert_id"], row["rule_id"], msgspec.json.encode(body).decode()))
    return found

"""Reports outages and refusals of a member of persistence: in log lines, in counters, and as state keys (`status`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from tickerplant.core.errors import LogError
from tickerplant.core.outage import Outage
from tickerplant.log.port import EventLog, TopicPartition
from tickerplant.persistence import status
from tickerplant.persistence.status import REMEDY, Refusal

log: Final = structlog.get_logger(__name__)


@dataclass(slots=True)
class PersistenceCounters:
    """Counters since the start of the service."""

    ticks: int = 0
    rows: int = 0
    transactions: int = 0
    unreadable: int = 0
    """Count of unreadable records, and of stored or logged orders of sources that are invalid."""
    out_of_range: int = 0
    """Count of rows omitted because their time is outside the accepted range."""
    restarts: int = 0
    """Count of restarts after an outage of the log or the database."""
    conflicts: int = 0
    differences: int = 0
    """Count of bars that differ between two sources."""
    refused_partitions: int = 0
    """Number of partitions whose next record the database refuses; they are not written."""
    error_since_s: float = 0.0
    """Time of the first occurrence of the present error, in seconds since 1970; 0 without an error."""


class Metrics(Protocol):
    """Receiver of counters, called on the service's event loop after each transaction and each change of status."""

    def applied(self, counts: PersistenceCounters, seconds: float) -> None:
        """Record the counters so far, and the duration of the last transaction in seconds; 0 if none was measured."""
        ...


class StatusReporter:
    """The present outage and refusals of one member. `changed` is called after the counters have changed."""

    def __init__(
        self, event_log: EventLog, member: str, counts: PersistenceCounters, changed: Callable[[], None]
    ) -> None:
        self._log, self._member, self._counts, self._changed = event_log, member, counts, changed
        self._outage = Outage()
        self._here: set[TopicPartition] = set()
        self._refused: dict[TopicPartition, Refusal] = {}

    async def load(self) -> None:
        """Read the refusals of earlier processes, so that `accept` can remove them. Raises LogError."""
        found = await asyncio.to_thread(status.read_refusals, self._log)
        self._refused = {refusal.source: refusal for refusal in found} | self._refused

    async def fail(self, error: Exception) -> None:
        """Record that a session ended with a transient error. Log one line per outage.

        A repeated error or a full disk is also stored as an outage report.
        """
        if self._outage.fail(str(error), time.time()):
            log.warning("persistence is interrupted, and restarts at the positions of the store", error=str(error))
        self._counts.restarts += 1
        self._counts.error_since_s = self._outage.since_s
        self._changed()
        if self._outage.repeats or status.DISK_FULL in str(error):
            await self._report_outage()

    async def recover(self) -> None:
        """Record that the session works. Does nothing without an outage."""
        full = status.DISK_FULL in self._outage.error
        failures = self._outage.end()
        if failures:
            log.info("persistence writes again", failures=failures)
            self._counts.error_since_s = 0.0
            self._changed()
        if failures > 1 or full:
            await self._report_outage()

    async def refuse(self, source: TopicPartition, offset: int, error: str) -> None:
        """Record that the database refuses the record at this offset."""
        known = self._refused.get(source)
        since_s = known.since_s if known is not None and known.offset == offset else time.time()
        refusal = self._refused[source] = Refusal(*source, offset, error, since_s)
        self._here.add(source)
        log.error(
            "the database refuses a record; its partition stops and the others continue",
            partition=f"{source.topic}/{source.partition}", offset=offset, error=error, action=REMEDY,
        )  # fmt: skip
        await self._count_and_write([status.refusal_change(refusal)])

    async def accept(self, sources: Iterable[TopicPartition]) -> None:
        """Record that rows of these partitions were applied. Does nothing for partitions without a refusal."""
        accepted = [source for source in sources if source in self._refused] if self._refused else []
        for source in accepted:
            log.info("the database accepts the record that it refused", partition=f"{source.topic}/{source.partition}")
            del self._refused[source]
            self._here.discard(source)
        if accepted:
            await self._count_and_write([(status.refusal_key(source), None) for source in accepted])

    async def _count_and_write(self, changes: Iterable[tuple[str, bytes | None]]) -> None:
        self._counts.refused_partitions = len(self._here)
        self._changed()
        await self._write(dict(changes))

    async def _report_outage(self) -> None:
        await self._write(dict([status.outage_change(self._member, self._outage, time.time())]))

    async def _write(self, changes: dict[str, bytes | None]) -> None:
        try:
            await asyncio.to_thread(status.write, self._log, self._member, changes)
        except LogError as error:  # health reports an unavailable log by itself
            log.debug("status not written", error=str(error))

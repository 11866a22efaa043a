"""State keys of the log that report refusals and outages of persistence. `health` of every process reads them.

A *refusal* is a record that the database refuses permanently. An *outage report* is the repeating error of one member.
Both are JSON objects in partition 0 of `STATE_FEEDS`, so that health reads one partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from tickerplant.core.outage import Outage
from tickerplant.core.schemas import STATE_FEEDS
from tickerplant.core.times import SECOND_US
from tickerplant.log.port import EventLog, TopicPartition

REFUSED_PREFIX: Final = "persistence:refused:"
OUTAGE_PREFIX: Final = "persistence:outage:"
STALE_S: Final = 60.0
"""Minimum age, in seconds, of an outage report that is ignored. A member renews its report after each failed attempt,
and the pauses between attempts are at most 5 s. An older report usually belongs to a process that has ended. An attempt
whose database statement waits for its timeout of 120 s is an exception."""
DISK_FULL: Final = "(SQLSTATE 53100)"
"""Text of each error of a database whose disk is full."""
REMEDY: Final = "remove the cause in the database, then restart persistence"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that the database refuses. Its partition stays at `offset`; no record is skipped."""

    topic: str
    partition: int
    offset: int
    error: str
    since_s: float

    @property
    def source(self) -> TopicPartition:
        """Return the partition that contains the record."""
        return TopicPartition(self.topic, self.partition)

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition} stopped at offset {self.offset}: {self.error}; {REMEDY}"


class _RefusalValue(msgspec.Struct):
    offset: int
    error: str
    since_s: float


class OutageReport(msgspec.Struct):
    """The repeating error of one member of persistence; times are in seconds since 1970."""

    error: str
    since_s: float
    failures: int
    reported_s: float


def refusal_change(refusal: Refusal) -> tuple[str, bytes]:
    """Return the key of a refusal and its value."""
    value = _RefusalValue(refusal.offset, refusal.error, refusal.since_s)
    return refusal_key(refusal.source), msgspec.json.encode(value)


def refusal_key(source: TopicPartition) -> str:
    """Return the key of a partition's refusal."""
    return f"{REFUSED_PREFIX}{source.topic}/{source.partition}"


def outage_change(member: str, outage: Outage, now_s: float) -> tuple[str, bytes | None]:
    """Return the key of a member's outage report, and its value; None without an outage, which deletes the key."""
    value = msgspec.json.encode(OutageReport(outage.error, outage.since_s, outage.failures, now_s))
    return OUTAGE_PREFIX + member, value if outage.failures else None


def write(log: EventLog, member: str, changes: Mapping[str, bytes | None]) -> None:
    """Put or delete state keys in one transaction. Raises LogError."""
    with log.writer(f"{member}-status") as writer, writer.transaction() as transaction:
        for key, value in changes.items():
            transaction.put_state(STATE_FEEDS, 0, key, value)


def read_refusals(log: EventLog) -> list[Refusal]:
    """Return all refusals in the log, sorted by their keys. Raises LogError."""
    found = []
    for name, value in _values(log, REFUSED_PREFIX):
        topic, _, partition = name.rpartition("/")
        one = msgspec.json.decode(value, type=_RefusalValue)
        found.append(Refusal(topic, int(partition), one.offset, one.error, one.since_s))
    return found


def read_outages(log: EventLog, now_us: int) -> dict[str, OutageReport]:
    """Return the current outage reports by member.

    Ignores a report whose time is `STALE_S` or more before `now_us`, or after it because of a wrong clock. Raises
    LogError.
    """
    found = {member: msgspec.json.decode(value, type=OutageReport) for member, value in _values(log, OUTAGE_PREFIX)}
    return {name: one for name, one in found.items() if abs(now_us / SECOND_US - one.reported_s) < STALE_S}


def _values(log: EventLog, prefix: str) -> Iterable[tuple[str, bytes]]:
    """Yield each key that begins with `prefix`, without the prefix, and its value."""
    for key in log.state_keys(STATE_FEEDS, 0):
        value = log.get_state(STATE_FEEDS, 0, key) if key.startswith(prefix) else None
        if value is not None:
            yield key.removeprefix(prefix), value

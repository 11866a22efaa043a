"""The newest rows of symbols and the states of feeds from the store, for snapshots.

The hub has read only the newest records of the log.
"""

from __future__ import annotations

from typing import Any, Final

from tickerplant.api.store_reader import StoreReader
from tickerplant.api.websockets.rows import (
    ANALYTICS,
    BAR_COLUMNS,
    BARS,
    STATUS,
    TICK_COLUMNS,
    TICKS,
    VALUE_KEY,
    DictionaryCache,
    StreamRecord,
    columns_of,
)
from tickerplant.core.interval import D1, M1, M5, Interval, parse
from tickerplant.core.times import micros_of
from tickerplant.log.port import TopicPartition

MAX_SYMBOLS: Final = 5_000
"""Maximum symbols read from the store for a subscription to all symbols. The read takes nine statements, and two more
for each activity interval."""
NEWEST_TICKS: Final = 10
"""Count of newest ticks per symbol that are read to find the last tick that may set a price."""


async def read_newest(store: StoreReader, symbols: set[str] | None) -> list[StreamRecord]:
    """Return the newest rows of `symbols` from the store, or of the first `MAX_SYMBOLS` known symbols if it is None."""
    async with store.read() as transaction:
        known = await transaction.symbols(None if symbols is None else sorted(symbols))
        names = (sorted(symbols) if symbols is not None else known.column("symbol").to_pylist())[:MAX_SYMBOLS]
        found = [(TICKS, await transaction.newest_ticks(names, NEWEST_TICKS))]
        for step in (M1, M5, D1, *_activity_intervals(known)):
            found.append((BARS, await transaction.newest_bars(names, step)))
            found.append((ANALYTICS, await transaction.newest_values(names, step)))
        found.append((ANALYTICS, await transaction.newest_forming_values(names)))
    return [_record(kind, table) for kind, table in found if table.num_rows]


async def read_feeds(store: StoreReader) -> list[StreamRecord]:
    """Return the state of each feed that is up or down, by log partition."""
    async with store.read() as transaction:
        found = await transaction.feeds()
    rows = [row for row in found.to_pylist() if row["state"] in ("up", "down")]
    return [_feed_record(row) for row in rows]


def _feed_record(row: dict[str, Any]) -> StreamRecord:
    at_us = micros_of(row["sent_at"])
    event = {
        "event": "feed", "feed": row["feed"], "partition": row["partition"], "state": row["state"],
        "since_us": at_us if row["since"] is None else micros_of(row["since"]), "reason": row["reason"], "count": 0,
        "at_us": at_us,
    }  # fmt: skip
    return StreamRecord(TopicPartition("", row["partition"]), 0, 0, 0, STATUS, event=event)


def _activity_intervals(symbols: Any) -> list[Interval]:
    """Return the activity intervals in which any of these symbols has bars."""
    names = {name for row in symbols.column("intervals").to_pylist() for name in row}
    return sorted(step for step in map(parse, names) if step.is_activity)


def _record(kind: str, table: Any) -> StreamRecord:
    """Return a non-empty table in the form of a log record."""
    names = {TICKS: TICK_COLUMNS, BARS: BAR_COLUMNS}.get(kind) or _value_names(table)
    record = StreamRecord(TopicPartition("", 0), 0, 0, 0, kind, names)
    dictionaries = DictionaryCache()
    record.symbols, _, record.codes = dictionaries.encode(None, table.column("symbol"))
    record.columns = columns_of(table, names, dictionaries)
    return record


def _value_names(table: Any) -> tuple[str, ...]:
    kinds = {field.name: str(field.type) for field in table.schema}
    return VALUE_KEY + tuple(name for name, kind in kinds.items() if kind == "double" and name not in VALUE_KEY)

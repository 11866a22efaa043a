"""The newest rows of symbols and the states of feeds from the store, for snapshots.

The hub has read only the newest records of the log.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from tickerplant.api.fair_places import FairPlaces, PlaceLimits
from tickerplant.api.load import LoadCounters
from tickerplant.api.request_lanes import RequestLane
from tickerplant.api.store_reader import StoreReader
from tickerplant.api.websockets.hub import Hub
from tickerplant.api.websockets.protocol import Filter
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
from tickerplant.core.records import FILE_FEED
from tickerplant.core.times import micros_of
from tickerplant.log.port import TopicPartition

MAX_SYMBOLS: Final = 5_000
"""Maximum symbols read from the store for a subscription to all symbols. The read takes nine statements, and two more
for each activity interval."""
NEWEST_TICKS: Final = 10
"""Count of newest ticks per symbol that are read to find the last tick that may set a price."""
WAITING_CLIENTS: Final = 1_000
LOADING: Final = PlaceLimits(running=1, waiting=WAITING_CLIENTS, waiting_of_client=WAITING_CLIENTS)
"""Limits of the clients whose symbols are read from the store at the same time."""
MAX_LOADED: Final = 100_000
"""Maximum symbols in the set of symbols that were read from the store. Above this count, the set is cleared."""
STATEFUL: Final = (TICKS, BARS, ANALYTICS)
"""Channels with a newest state of each symbol, which a snapshot contains."""

logger = logging.getLogger(__name__)


class StoredState:
    """Adds the newest state in the store to a hub, once for each symbol and for the feeds.

    Belongs to the server's event loop. The statements run in `lane`.
    """

    def __init__(self, store: StoreReader, lane: RequestLane, load: LoadCounters) -> None:
        self._store, self._lane = store, lane
        self._loading = FairPlaces(LOADING, load)
        self._loaded: set[str] = set()
        self._loaded_all = self._loaded_feeds = False

    async def add_to(self, hub: Hub, wanted: Filter, client: str) -> None:
        """Add the state of the selected symbols and feeds to the hub, unless it was added before.

        One client's symbols are read at a time. The next turn belongs to the client that has used the least time.
        """
        if not self._lacks_feeds(wanted) and self._missing(wanted) == set():
            return
        async with self._loading.place(client):
            try:
                if self._lacks_feeds(wanted):
                    hub.seed(await self._lane.run(lambda: read_feeds(self._store), "stream"))
                    self._loaded_feeds = True
                missing = self._missing(wanted)
                if missing != set():
                    await self._add_symbols(hub, missing)
            except Exception as error:  # the stream works without the store; the health check reports the error
                logger.warning("a snapshot is sent without the store's state: %s", error)

    async def _add_symbols(self, hub: Hub, missing: set[str] | None) -> None:
        for record in await self._lane.run(lambda: read_newest(self._store, missing), "stream"):
            hub.seed([record])
            await asyncio.sleep(0)
        if missing is None:
            self._loaded_all = True
        else:
            if len(self._loaded) > MAX_LOADED:
                self._loaded.clear()
            self._loaded |= missing

    def _lacks_feeds(self, wanted: Filter) -> bool:
        return not self._loaded_feeds and wanted.wants(STATUS)

    def _missing(self, wanted: Filter) -> set[str] | None:
        """Return the selected symbols that were not read from the store yet; None if all symbols must be read."""
        if self._loaded_all:
            return set()
        if any(wanted.every(kind) for kind in STATEFUL):
            return None
        return wanted.named() - self._loaded if any(wanted.wants(kind) for kind in STATEFUL) else set()


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
    """Return the state of each feed that is up or down, by log partition, without files: a killed replay stays `up`."""
    async with store.read() as transaction:
        found = await transaction.feeds()
    rows = (row for row in found.to_pylist() if row["state"] in ("up", "down"))
    return [_feed_record(row) for row in rows if not row["feed"].startswith(FILE_FEED)]


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

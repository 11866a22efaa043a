"""The store as the API reads it: the one place that knows the store's interface.

Everything that one answer says is read in one REPEATABLE READ transaction, together with the positions, so that the
rows are the log up to exactly there.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pyarrow as pa

from tickerplant.api.positions import Position
from tickerplant.core.adjustment import Adjustment
from tickerplant.core.coverage import Statuses
from tickerplant.core.errors import StoreError, StoreUnavailable
from tickerplant.core.interval import Interval
from tickerplant.core.sessions import Calendar
from tickerplant.log.port import Identity, TopicPartition

MIN_CONNECTIONS, MAX_CONNECTIONS = 1, 8


class Reading:
    """One consistent look at the store. `position` is where in the log it is."""

    def __init__(self, reader: Any, position: Position) -> None:
        self._reader = reader
        self.position = position

    async def ticks(self, symbol: str, start_us: int | None, end_us: int | None, limit: int) -> pa.Table:
        """Return ticks in order of time; with no start the newest ones."""
        return _table(await self._reader.prices.read(symbol, start_us, end_us, limit))

    async def bars(
        self,
        symbol: str,
        interval: Interval,
        start_us: int | None,
        end_us: int | None,
        limit: int,
        names: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return bars in order of time, all columns or those of `names`; with no start the newest ones."""
        return _table(await self._reader.ohlcv.read(symbol, interval.name, start_us, end_us, limit, names=names))

    async def values(
        self, symbol: str, interval: Interval, start_us: int | None, end_us: int | None, limit: int
    ) -> pa.Table:
        """Return indicator values in order of time; with no start the newest ones."""
        return _table(await self._reader.analytics.read(symbol, interval.name, start_us, end_us, limit))

    async def forming_values(self, symbol: str) -> pa.Table:
        """Return the newest values on forming bars."""
        return _table(await self._reader.realtime_analytics.read(symbol))

    async def newest_ticks(self, symbols: Sequence[str], limit: int) -> pa.Table:
        """Return the newest ticks of each symbol, in order of time within it."""
        return _table(await self._reader.prices.newest_of_each(symbols, limit=limit))

    async def newest_bars(self, symbols: Sequence[str], interval: Interval) -> pa.Table:
        """Return the newest bar of each symbol, forming or not."""
        return _table(await self._reader.ohlcv.newest_of_each(symbols, interval.name, limit=1, forming=True))

    async def newest_values(self, symbols: Sequence[str], interval: Interval) -> pa.Table:
        """Return the newest values of a closed bar of each symbol."""
        return _table(await self._reader.analytics.newest_of_each(symbols, interval.name, limit=1))

    async def newest_forming_values(self, symbols: Sequence[str]) -> pa.Table:
        """Return the newest values on forming bars of each symbol."""
        return _table(await self._reader.realtime_analytics.of_each(symbols))

    async def splits(self, symbol: str) -> pa.Table:
        """Return a symbol's splits, of each session what was said last."""
        return _table(await self._reader.actions.newest_splits(symbol))

    async def adjustment(self, symbol: str, how: str, calendar: Calendar, now_us: int) -> Adjustment:
        """Return what a symbol's bars are adjusted for."""
        found: Adjustment = await self._reader.actions.adjustment(symbol, how, calendar, now_us)
        return found

    async def symbols(self, names: Sequence[str] | None = None) -> pa.Table:
        """Return all symbols that the store knows, or those of these that it does."""
        return _table(await self._reader.symbols.list(names))

    async def firings(
        self, rule: str | None, symbol: str | None, start_us: int | None, end_us: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return the newest alerts that fired, of a rule or a symbol or all, newest first."""
        rows: list[dict[str, Any]] = await self._reader.firings.read(rule, symbol, start_us, end_us, limit)
        return rows

    async def webhooks(self) -> dict[str, float]:
        """Return how many webhooks wait, for how long the oldest has, and how many were given up in a day."""
        counts: dict[str, float] = await self._reader.outbox.counts()
        return counts

    async def covered_symbols(self) -> list[str]:
        """Return every symbol that has bars, or of which a vendor has said something, sorted."""
        names: list[str] = await self._reader.statuses.symbols()
        return names

    async def statuses(
        self,
        calendars: Mapping[str, Calendar],
        interval: Interval,
        start_us: int,
        end_us: int,
        now_us: int,
        *,
        extended_hours: bool,
    ) -> dict[str, Statuses]:
        """Return for each symbol of `calendars` the status of every bar expected in `[start, end)`."""
        found: dict[str, Statuses] = await self._reader.statuses.of(
            calendars, interval.name, start_us, end_us, now_us, extended_hours=extended_hours
        )
        return found

    async def left_out(self) -> pa.Table:
        """Return what was left out of bars, by feed: late ticks, unsupported ones, differences between sources."""
        return _table(await self._reader.coverage.exclusion_counts())


class Source:
    """The store, opened when it is first needed and again after it was out of reach. Closed by `close`."""

    def __init__(self, dsn: str, identity: Identity) -> None:
        self._dsn = dsn
        self._identity = identity
        self._store: Any = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Reading]:
        """Begin one look at the store. Raises StoreUnavailable when it is out of reach."""
        store = await self._open()
        try:
            async with store.read() as reader:
                yield Reading(reader, self._position(await reader.positions()))
        except (TimeoutError, OSError) as error:
            raise StoreUnavailable(f"the database is out of reach: {error}") from error

    async def store(self) -> Any:
        """Return the store, to write what is not of the log: alert rules and webhooks. Raises StoreUnavailable."""
        return await self._open()

    async def positions(self) -> dict[TopicPartition, int]:
        """Return the positions that the store has applied."""
        async with self.read() as reading:
            return reading.position.flat()

    async def close(self) -> None:
        """Close the pool. Harmless twice."""
        store, self._store = self._store, None
        if store is not None:
            await store.close()

    async def _open(self) -> Any:
        if self._store is not None:
            return self._store
        async with self._lock:
            if self._store is None:
                kind = importlib.import_module("tickerplant.store").Store
                try:
                    self._store = await kind.open(self._dsn, min_size=MIN_CONNECTIONS, max_size=MAX_CONNECTIONS)
                except StoreError:
                    raise
                except OSError as error:
                    raise StoreUnavailable(f"the database is out of reach: {error}") from error
            return self._store

    def _position(self, found: Any) -> Position:
        return Position.of(self._identity.log_id, self._identity.generation, _flat(found))


def _flat(found: Any) -> dict[TopicPartition, int]:
    """Return positions by partition, from a mapping whose keys are (topic, partition)."""
    if not isinstance(found, Mapping):
        found = getattr(found, "positions", {})
    return {TopicPartition(*key): int(value) for key, value in found.items()}


def _table(found: Any) -> pa.Table:
    if isinstance(found, pa.RecordBatch):
        return pa.Table.from_batches([found])
    return found


def without(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return the table without these columns, whether or not it has them."""
    return table.drop_columns([name for name in names if name in table.schema.names])

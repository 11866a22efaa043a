"""Reads from the store: one transaction or one statement for each answer, together with the positions of the log.

Transactions are REPEATABLE READ. All rows of one answer correspond to the log at exactly these positions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pyarrow as pa

from tickerplant.api.positions import Position
from tickerplant.core.adjustment import Adjustment
from tickerplant.core.coverage import Statuses
from tickerplant.core.errors import StoreUnavailable
from tickerplant.core.interval import Interval
from tickerplant.core.sessions import Calendar
from tickerplant.log.port import Identity, TopicPartition
from tickerplant.store import Store, snapshot_reads
from tickerplant.store.pool import ReadSession
from tickerplant.store.snapshot_reads import NewestState

MIN_CONNECTIONS, MAX_CONNECTIONS = 1, 8
"""Minimum and maximum database connections per event loop: the server's loop, and the loop of each lane. A lane uses at
most one connection per running request."""


class ReadTransaction:
    """One consistent view of the store. `position` is the log position of the view; the command line needs none."""

    def __init__(self, session: ReadSession, position: Position | None = None) -> None:
        self._session = session
        self._position = position

    @property
    def position(self) -> Position:
        """Return the log position of the view."""
        assert self._position is not None
        return self._position

    async def ticks(self, symbol: str, start_us: int | None, end_us: int | None, limit: int) -> pa.Table:
        """Return at most `limit` ticks in ascending order of time. If `start_us` is None, they are the newest ticks."""
        return await self._session.prices.read(symbol, start_us, end_us, limit)

    async def bars(
        self,
        symbol: str,
        interval: Interval,
        start_us: int | None,
        end_us: int | None,
        limit: int,
        names: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return at most `limit` bars in ascending order of time. If `start_us` is None, they are the newest bars.

        `names` selects columns; None means all.
        """
        return await self._session.ohlcv.read(symbol, interval.name, start_us, end_us, limit, names=names)

    async def is_over(self, symbol: str, interval: Interval, start_us: int) -> bool:
        """Return whether a feed of the symbol has passed the interval that starts at `start_us`, or a later one."""
        return await self._session.coverage.is_over(symbol, interval.name, start_us)

    async def values(
        self, symbol: str, interval: Interval, start_us: int | None, end_us: int | None, limit: int
    ) -> pa.Table:
        """Return at most `limit` rows of values in ascending order of time; the newest rows if `start_us` is None."""
        return await self._session.analytics.read(symbol, interval.name, start_us, end_us, limit)

    async def forming_values(self, symbol: str) -> pa.Table:
        """Return the newest indicator values of a symbol's forming bars, one row per interval."""
        return await self._session.realtime_analytics.read(symbol)

    async def newest_ticks(self, symbols: Sequence[str], limit: int) -> pa.Table:
        """Return the newest `limit` ticks of each symbol, sorted by symbol and time."""
        return await self._session.prices.newest_of_each(symbols, limit=limit)

    async def newest_bars(self, symbols: Sequence[str], interval: Interval) -> pa.Table:
        """Return the newest bar of each symbol, forming or not."""
        return await self._session.ohlcv.newest_of_each(symbols, interval.name, limit=1, forming=True)

    async def newest_values(self, symbols: Sequence[str], interval: Interval) -> pa.Table:
        """Return the indicator values of each symbol's newest closed bar."""
        return await self._session.analytics.newest_of_each(symbols, interval.name, limit=1)

    async def newest_forming_values(self, symbols: Sequence[str]) -> pa.Table:
        """Return the newest indicator values of each symbol's forming bars."""
        return await self._session.realtime_analytics.of_each(symbols)

    async def splits(self, symbol: str) -> pa.Table:
        """Return a symbol's splits. If a session has several reports, only the last report is returned."""
        return await self._session.actions.newest_splits(symbol)

    async def adjustment(self, symbol: str, how: str, calendar: Calendar, now_us: int) -> Adjustment:
        """Return the adjustment of a symbol's bars; `how` is `none`, `splits` or `all`."""
        return await self._session.actions.adjustment(symbol, how, calendar, now_us)

    async def symbols(self, names: Sequence[str] | None = None) -> pa.Table:
        """Return the symbols in the store, restricted to `names` unless it is None."""
        return await self._session.symbols.list(names)

    async def firings(
        self, rule: str | None, symbol: str | None, start_us: int | None, end_us: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return the newest fired alerts, newest first. `rule` and `symbol` are filters; None disables a filter."""
        return await self._session.firings.read(rule, symbol, start_us, end_us, limit)

    async def covered_symbols(self) -> list[str]:
        """Return every symbol that has bars or an answer of a vendor, sorted."""
        return await self._session.statuses.symbols()

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
        """Return the status of every bar expected in `[start_us, end_us)`, for each symbol of `calendars`."""
        return await self._session.statuses.of(
            calendars, interval.name, start_us, end_us, now_us, extended_hours=extended_hours
        )

    async def status_counts(
        self,
        calendars: Mapping[str, Calendar],
        interval: Interval,
        start_us: int,
        end_us: int,
        now_us: int,
        *,
        extended_hours: bool,
    ) -> dict[str, dict[str, int]]:
        """Return for each symbol of `calendars` the count of expected bars in `[start_us, end_us)` by status."""
        return await self._session.statuses.counts(
            calendars, interval.name, start_us, end_us, now_us, extended_hours=extended_hours
        )

    async def feeds(self) -> pa.Table:
        """Return the state of each feed in each log partition (`store.repositories.coverage.FEEDS`)."""
        return await self._session.coverage.feeds()

    async def exclusion_counts(self) -> pa.Table:
        """Return by feed the counts of late ticks, unusable ticks and bars, and bars that differ between sources."""
        return await self._session.coverage.exclusion_counts()


class StoreReader:
    """The store, opened at the first read. If opening fails, the next read tries again.

    Each event loop that reads has its own pool of connections. `identity` is the log that the store follows. If it is
    None, the store's own binding is used, so that reads need no log.
    """

    def __init__(self, dsn: str, identity: Identity | None = None) -> None:
        self._dsn = dsn
        self._identity = identity
        self._stores: dict[asyncio.AbstractEventLoop, asyncio.Task[Store]] = {}
        self._last: tuple[str | None, Position] | None = None

    async def bars(
        self, symbol: str, interval: Interval, start_us: int | None, end_us: int | None, count: int
    ) -> tuple[pa.Table, Position]:
        """Return the rows of `ReadTransaction.bars`, and the position. One statement is faster than a transaction."""
        with _unavailable():
            store = await self.open()
            query = snapshot_reads.bars_query(symbol, interval.name, start_us, end_us, count)
            table, positions = await snapshot_reads.read_bars(store, query)
            return table, await self._position(positions)

    async def newest_state(
        self, symbol: str, intervals: Sequence[Interval], ticks: int
    ) -> tuple[NewestState, Position]:
        """Return the newest state of a symbol with at most `ticks` ticks, and the position, in one statement."""
        with _unavailable():
            store = await self.open()
            names = [interval.name for interval in intervals]
            state, positions = await snapshot_reads.read_newest_state(store, symbol, names, ticks)
            return state, await self._position(positions)

    async def _position(self, positions: str | None) -> Position:
        """Return the position with these applied positions. Unchanged positions give the same object."""
        last = self._last  # lanes read in several threads
        if last is None or last[0] != positions:
            if self._identity is None:
                async with self.read():  # binds the reader to the store's log
                    pass
            assert self._identity is not None
            flat = {TopicPartition(*key): at for key, at in snapshot_reads.positions_of(positions).items()}
            last = self._last = positions, Position.of(self._identity.log_id, self._identity.generation, flat)
        return last[1]

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadTransaction]:
        """Open one transaction for the block. Raises StoreUnavailable."""
        with _unavailable():
            store = await self.open()
            async with store.read() as session:
                positions = {TopicPartition(*key): offset for key, offset in (await session.positions()).items()}
                identity = self._identity or await self._bound_to(session)
                position = Position.of(identity.log_id, identity.generation, positions)
                yield ReadTransaction(session, position)

    async def open(self) -> Store:
        """Return the open store. `AlertRuleManager` also writes through it. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        opening = self._stores.get(loop)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            opening = self._stores[loop] = loop.create_task(
                Store.open(self._dsn, min_size=MIN_CONNECTIONS, max_size=MAX_CONNECTIONS)
            )
        return await asyncio.shield(opening)

    async def _bound_to(self, session: ReadSession) -> Identity:
        """Return the log that the store follows. Raises StoreUnavailable for a store without a log."""
        bound = await session.bound_to()
        if bound is None:
            raise StoreUnavailable("the store follows no event log yet; start the plant once with its log")
        self._identity = Identity(bound.log_id, bound.generation)
        return self._identity

    async def positions(self) -> dict[TopicPartition, int]:
        """Return the positions that the store has applied."""
        async with self.read() as transaction:
            return transaction.position.flat()

    async def close(self) -> None:
        """Close the pool of the running event loop. Safe to call twice."""
        opening = self._stores.pop(asyncio.get_running_loop(), None)
        if opening is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            if not opening.cancelled() and opening.exception() is None:
                await opening.result().close()


@contextmanager
def _unavailable() -> Iterator[None]:
    """Translate errors of the network to StoreUnavailable."""
    try:
        yield
    except (TimeoutError, OSError) as error:
        raise StoreUnavailable(f"the database is unavailable: {error}") from error

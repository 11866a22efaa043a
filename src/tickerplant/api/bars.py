"""Bars for an answer: stored bars, or coarser bars built from stored bars, adjusted for splits and dividends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from fastapi import Response

from tickerplant.api.http.queries import PageRequest
from tickerplant.api.http.responses import page_response, read_page
from tickerplant.api.positions import Position
from tickerplant.api.resample import BASE, ratio, resample
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import ReadTransaction, StoreReader
from tickerplant.core import schemas
from tickerplant.core.adjustment import AS_TRADED, Adjustment
from tickerplant.core.arrow_values import times_of
from tickerplant.core.interval import Interval
from tickerplant.core.sessions import AlwaysOpen, Calendar, end_of
from tickerplant.core.times import DAY_US

BASE_COLUMNS: Final = (
    "time", "open", "high", "low", "close", "volume", "vwap", "trades", "state", "complete", "revision", "version",
    "source",
)  # fmt: skip
"""Columns of the bars that `resample` reads."""
MAX_BASE_ROWS: Final = 200_000
"""Maximum stored rows from which one answer builds coarser bars."""
LONG_OVER_US: Final = DAY_US
"""Maximum time from the end of a bar until the bar is final, even if no feed reports that the symbol did not trade.
Files and removed subscriptions report nothing after their last bar."""


class BarReads(Protocol):
    """The reads of `CoarseBars`, as `ReadTransaction` has them."""

    async def bars(
        self, symbol: str, interval: Interval, start_us: int | None, end_us: int | None, limit: int,
        names: Sequence[str] | None = None,
    ) -> pa.Table:  # fmt: skip
        """Return stored bars."""

    async def is_over(self, symbol: str, interval: Interval, start_us: int) -> bool:
        """Return whether a feed of the symbol has passed the interval."""
        ...


class _NeedsTransaction(Exception):
    """An answer needs several reads at one position of the store."""


class _OneStatement:
    """Reads of bars with their position in one statement. Raises _NeedsTransaction for a second read."""

    def __init__(self, store: StoreReader) -> None:
        self._store = store
        self.position: Position | None = None

    async def bars(
        self, symbol: str, interval: Interval, start_us: int | None, end_us: int | None, limit: int,
        names: Sequence[str] | None = None,
    ) -> pa.Table:  # fmt: skip
        if self.position is not None:
            raise _NeedsTransaction
        table, self.position = await self._store.bars(symbol, interval, start_us, end_us, limit)
        return table if names is None else table.select(names)

    async def is_over(self, symbol: str, interval: Interval, start_us: int) -> bool:
        raise _NeedsTransaction


@dataclass(frozen=True, slots=True)
class CoarseBars:
    """Reader of a symbol's bars of an interval that is built from stored bars (`resample.BASE`).

    `calendar` is the symbol's calendar. `now_us` is the market's time. The stored bars are adjusted first, so that a
    bar across a split is correct too.
    """

    symbol: str
    interval: Interval
    calendar: Calendar
    now_us: int
    adjustment: Adjustment = field(default_factory=Adjustment)

    async def read(self, transaction: BarReads, start_us: int | None, end_us: int | None, count: int) -> pa.Table:
        """Return at most `count` bars in ascending order of time, the newest bars if `start_us` is None.

        A bar is left out if not all of its stored bars were read.
        """
        interval, base = self.interval, BASE[self.interval]
        if start_us is not None:
            start_us = interval.floor(start_us)
        if end_us is not None:
            end_us = interval.end(interval.floor(end_us - 1))
        rows = min((count + 1) * ratio(interval), MAX_BASE_ROWS)
        table = await transaction.bars(self.symbol, base, start_us, end_us, rows, BASE_COLUMNS)
        table = self.adjustment.bars(table, daily=not base.is_intraday)
        built = resample(table, interval, over=bool(table.num_rows) and await self._is_over(transaction, table))
        if not built.num_rows:
            return schemas.BARS.empty_table()  # the header of an empty CSV answer names all columns of a bar
        if table.num_rows >= rows and built.num_rows > 1:
            built = built.slice(1) if start_us is None else built.slice(0, built.num_rows - 1)
        return built.slice(max(0, built.num_rows - count)) if start_us is None else built.slice(0, count)

    async def _is_over(self, transaction: BarReads, table: pa.Table) -> bool:
        """Return whether the last bar is over, so that no further base bar of it can follow.

        A bar is over if its last base bar is stored, or if the symbol's feeds have passed its end. A bar whose end is
        `LONG_OVER_US` ago is over too.
        """
        base, newest_us = BASE[self.interval], int(times_of(table.column("time"))[-1])
        start_us = self.interval.floor(newest_us)
        last_us, end_us = self.interval.end(start_us) - base.us, self.interval.end(start_us)
        if not base.is_intraday:
            # The week of a stock ends with its last session, which may be Thursday's.
            days = np.arange(start_us, end_us, base.us, dtype=np.int64)
            sessions = days[self.calendar.is_session(days)]
            last_us = int(sessions[-1]) if len(sessions) else last_us
            end_us = end_of(self.calendar, last_us, extended=False)
        if newest_us >= last_us:
            return True
        if self.now_us >= end_us + LONG_OVER_US:
            return True
        return self.now_us >= end_us and await transaction.is_over(self.symbol, base, last_us)


async def bars_response(state: ApiState, page: PageRequest, adjust: str) -> Response:
    """Return a page of bars, stored or built from stored bars. `adjust` is `none`, `splits` or `all`."""
    interval = page.interval
    assert interval is not None
    if adjust == AS_TRADED and interval not in BASE:
        requested = page.range
        rows = requested.skip + requested.limit + 1
        table, position = await state.store.bars(page.symbol, interval, requested.start_us, requested.end_us, rows)
        if table.num_rows:
            return page_response(table, page, page.head(), "bars", position, {"adjust": adjust})
    needs_calendar = adjust != AS_TRADED or interval in BASE
    symbol_calendar: Calendar = await state.calendar_of(page.symbol) if needs_calendar else AlwaysOpen()
    now_us = await state.market_now() if interval in BASE else 0
    if adjust == AS_TRADED and interval in BASE:
        coarse, reads = CoarseBars(page.symbol, interval, symbol_calendar, now_us), _OneStatement(state.store)
        with contextlib.suppress(_NeedsTransaction):
            rows = page.range.skip + page.range.limit + 1
            table = await coarse.read(reads, page.range.start_us, page.range.end_us, rows)
            if table.num_rows and reads.position is not None:
                return page_response(table, page, page.head(), "bars", reads.position, {"adjust": adjust})

    async def read(transaction: ReadTransaction, start_us: int | None, end_us: int | None, count: int) -> pa.Table:
        adjustment = Adjustment()
        if adjust != AS_TRADED:
            adjustment = await transaction.adjustment(page.symbol, adjust, symbol_calendar, time.time_ns() // 1000)
        if interval in BASE:
            coarse = CoarseBars(page.symbol, interval, symbol_calendar, now_us, adjustment)
            return await coarse.read(transaction, start_us, end_us, count)
        bars = await transaction.bars(page.symbol, interval, start_us, end_us, count)
        return adjustment.bars(bars, daily=page.by_session)

    async def read_extra(transaction: ReadTransaction, table: pa.Table) -> dict[str, Any]:
        return {"adjust": adjust}

    return await read_page(state, page, "bars", read, read_extra)

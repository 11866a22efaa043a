"""Bars for an answer: stored bars, or coarser bars built from stored bars, adjusted for splits and dividends."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import pyarrow as pa
from fastapi import Response

from tickerplant.api.http.queries import PageRequest
from tickerplant.api.http.responses import read_page
from tickerplant.api.resample import BASE, ratio, resample
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import ReadTransaction
from tickerplant.core.adjustment import AS_TRADED, Adjustment
from tickerplant.core.interval import Interval

MAX_BASE_ROWS: Final = 200_000
"""Maximum stored rows from which one answer builds coarser bars."""


async def read_resampled(
    transaction: ReadTransaction, symbol: str, interval: Interval, start_us: int | None, end_us: int | None, count: int,
    adjustment: Adjustment | None = None,
) -> pa.Table:  # fmt: skip
    """Return at most `count` bars of `interval`, built from stored bars, in ascending order of time.

    A bar is left out if not all of its stored bars were read. The stored bars are adjusted first, so that a bar across
    a split is correct too.
    """
    base = BASE[interval]
    if start_us is not None:
        start_us = interval.floor(start_us)
    if end_us is not None:
        end_us = interval.end(interval.floor(end_us - 1))
    rows = min((count + 1) * ratio(interval), MAX_BASE_ROWS)
    table = await transaction.bars(symbol, base, start_us, end_us, rows)
    if adjustment is not None:
        table = adjustment.bars(table, daily=not base.is_intraday)
    built = resample(table, interval)
    if table.num_rows >= rows and built.num_rows > 1:
        built = built.slice(1) if start_us is None else built.slice(0, built.num_rows - 1)
    return built.slice(max(0, built.num_rows - count)) if start_us is None else built.slice(0, count)


async def bars_response(state: ApiState, page: PageRequest, adjust: str) -> Response:
    """Return a page of bars, stored or built from stored bars. `adjust` is `none`, `splits` or `all`."""
    interval = page.interval
    assert interval is not None
    # Computing an exchange's calendar for the first time is slow, so a thread does it and the stream continues.
    calendar = None if adjust == AS_TRADED else await asyncio.to_thread(state.calendars.of, page.symbol)

    async def read(transaction: ReadTransaction, start_us: int | None, end_us: int | None, count: int) -> pa.Table:
        adjustment = Adjustment()
        if calendar is not None:
            adjustment = await transaction.adjustment(page.symbol, adjust, calendar, time.time_ns() // 1000)
        if interval in BASE:
            return await read_resampled(transaction, page.symbol, interval, start_us, end_us, count, adjustment)
        bars = await transaction.bars(page.symbol, interval, start_us, end_us, count)
        return adjustment.bars(bars, daily=page.by_session)

    async def read_extra(transaction: ReadTransaction, table: pa.Table) -> dict[str, Any]:
        return {"adjust": adjust}

    return await read_page(state, page, "bars", read, read_extra)

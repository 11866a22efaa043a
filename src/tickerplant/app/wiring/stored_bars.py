"""Stored bars, and coarser bars built from them, for the command line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tickerplant.app.wiring.coverage_query import rules_and_market_time
from tickerplant.app.wiring.rows import plain
from tickerplant.app.wiring.store import BarSelection, with_store

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.store import Store


def bars(settings: Settings, dsn: str, selection: BarSelection, adjust: str = "none") -> list[dict[str, Any]]:
    """Return the newest bars of the selection, oldest first, adjusted as `core.adjustment` defines."""
    from tickerplant.api.bars import CoarseBars
    from tickerplant.api.resample import BASE
    from tickerplant.api.store_reader import ReadTransaction
    from tickerplant.core.interval import parse
    from tickerplant.core.sessions import Calendars

    rules, market_us = rules_and_market_time(settings)
    interval = parse(selection.interval)

    async def read(store: Store) -> list[dict[str, Any]]:
        calendar = Calendars(rules).of(selection.symbol)
        async with store.read() as session:
            adjustment = await session.actions.adjustment(selection.symbol, adjust, calendar, time.time_ns() // 1_000)
            if interval in BASE:
                coarse = CoarseBars(selection.symbol, interval, calendar, market_us, adjustment)
                reader = ReadTransaction(session)
                table = await coarse.read(reader, selection.start_us, selection.end_us, selection.limit)
                newest = table.num_rows - selection.limit
                return [plain(row) for row in table.slice(max(0, newest)).to_pylist()]
            table = await session.ohlcv.read(
                selection.symbol, selection.interval, selection.start_us, selection.end_us, selection.limit,
                newest_first=True,
            )  # fmt: skip
        table = adjustment.bars(table, daily=not interval.is_intraday)
        return [plain(row) for row in reversed(table.to_pylist())]

    return with_store(dsn, read)

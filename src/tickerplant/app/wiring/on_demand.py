"""Where `app` touches analytics for values that are computed when asked. Imports when called, as `parts` does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tickerplant.app.config.settings import Settings
from tickerplant.app.wiring.parts import check_date_order, plain, with_store

if TYPE_CHECKING:
    import pyarrow as pa

    from tickerplant.analytics.ondemand.calculation import Calculation
    from tickerplant.analytics.ondemand.query import InputBars, OnDemand
    from tickerplant.core.adjustment import Adjustment
    from tickerplant.market_data.files.bars import FileBars
    from tickerplant.store import Store


def on_demand(settings: Settings) -> OnDemand:
    """Return what computes indicators when asked, and knows what the stream computes under these settings."""
    from tickerplant.analytics.ondemand.query import OnDemand
    from tickerplant.app.runtime.memory_tuning import lean_talib

    lean_talib()
    return OnDemand(settings.rules.rules())


def calculations(texts: Sequence[str]) -> list[Calculation]:
    """Return the indicators that the texts name, plug-ins and TA-Lib's functions among them. Raises BadInput."""
    from tickerplant.analytics.ondemand.calculation import parse_calculation
    from tickerplant.app.runtime.memory_tuning import lean_talib

    lean_talib()
    return [parse_calculation(text) for text in texts]


def broken_plugins() -> list[str]:
    """Return what is wrong with the plug-ins that cannot be loaded."""
    from tickerplant.analytics import plugins

    return [str(broken) for broken in plugins.load()]


def file_bars(
    file: Path, *, symbol: str | None, interval: str | None, tz: str | None, date_order: str | None
) -> FileBars:
    """Return all bars of a file. Raises BadInput when it cannot be read."""
    from tickerplant.market_data.files.bars import read_bars
    from tickerplant.market_data.files.options import ReadOptions

    check_date_order(date_order)
    return read_bars(file, ReadOptions(symbol, interval, tz, date_order))


def computed(
    settings: Settings,
    bars: pa.Table,
    chosen: Sequence[Calculation],
    from_us: int | None,
    to_us: int | None,
    last: int | None,
) -> pa.Table:
    """Return bars of a file with indicator values, in order of symbol and time.

    Shown are those of `[from_us, to_us)`, and of each symbol the newest `last`; all count.
    """
    import pyarrow as pa

    from tickerplant.analytics.ondemand.batch import compute_columns
    from tickerplant.analytics.ondemand.dataframes import read_frame
    from tickerplant.analytics.ondemand.query import with_sessions
    from tickerplant.core.times import times_of

    shown = bars.select(["time", "symbol", "open", "high", "low", "close", "volume"])
    if any("session" in each.inputs for each in chosen):
        bars = with_sessions(bars, settings.rules.rules())
    shown = shown.set_column(1, "symbol", shown.column("symbol").cast(pa.utf8()))
    for name, values in compute_columns(read_frame(bars), chosen).items():
        shown = shown.append_column(name, pa.array(values, mask=np.isnan(values)))
    shown = shown.sort_by([("symbol", "ascending"), ("time", "ascending")])
    times = times_of(shown.column("time"))
    keep = np.ones(len(times), dtype=np.bool_)
    if from_us is not None:
        keep &= times >= from_us
    if to_us is not None:
        keep &= times < to_us
    shown = shown.take(np.flatnonzero(keep))
    if last is None or not shown.num_rows:
        return shown
    codes = shown.column("symbol").combine_chunks().dictionary_encode().indices.to_numpy()
    ends = np.append(np.flatnonzero(np.diff(codes)) + 1, len(codes))
    behind = ends[np.searchsorted(ends, np.arange(len(codes)), side="right")] - np.arange(len(codes))
    return shown.take(np.flatnonzero(behind <= last))


def values(
    settings: Settings,
    dsn: str,
    chosen: Sequence[Calculation],
    symbol: str,
    interval: str,
    from_us: int | None,
    to_us: int | None,
    limit: int,
    adjust: str = "none",
) -> tuple[list[dict[str, Any]], InputBars]:
    """Return the newest `limit` stored bars of `[from_us, to_us)` with indicator values, oldest first.

    The bars are adjusted as `core.adjustment` has it, the values for splits. Besides, the bars that they were computed
    from.
    """
    from tickerplant.analytics.ondemand import query
    from tickerplant.core.bar_request import BarRequest
    from tickerplant.core.interval import parse
    from tickerplant.core.sessions import Calendars

    async def read(store: Store) -> tuple[InputBars, Adjustment]:
        calendar = Calendars(settings.rules.rules()).of(symbol)
        async with store.read() as reading:

            async def bars(first: int | None, last: int | None, count: int) -> pa.Table:
                table = await reading.ohlcv.read(
                    symbol, interval, first, last, count, names=query.COLUMNS, newest_first=True
                )
                return table.take(np.arange(table.num_rows)[::-1])

            splits, now_us = await reading.actions.newest_splits(symbol), time.time_ns() // 1000
            made = await reading.actions.adjustment(symbol, adjust, calendar, now_us)
            request = BarRequest(symbol, parse(interval), from_us, to_us, limit, splits, now_us)
            return await query.gather(bars, chosen, request), made

    stretch, made = with_store(dsn, read)
    table = made.bars(stretch.bars.slice(stretch.lead), daily=not parse(interval).is_intraday)
    found = query.values(stretch, chosen, settings.rules.rules())
    for name in found.schema.names:
        if name not in table.schema.names:
            table = table.append_column(name, found.column(name))
    return [plain(row) for row in table.to_pylist()], stretch

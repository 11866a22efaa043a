"""Indicator values on demand: over the bars of a file, and over stored bars."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tickerplant.app.config.settings import Settings
from tickerplant.app.wiring.coverage_query import rules_and_market_time
from tickerplant.app.wiring.rows import plain
from tickerplant.app.wiring.store import BarSelection, with_store
from tickerplant.app.wiring.stored_bars import bars as stored_bars
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from tickerplant.analytics.ondemand.calculation import Calculation
    from tickerplant.analytics.ondemand.query import InputBars, OnDemand
    from tickerplant.core.adjustment import Adjustment
    from tickerplant.core.rules import Rules
    from tickerplant.store import Store


def on_demand(rules: Rules) -> OnDemand:
    """Return the calculator of indicators on demand, which also describes the stream's indicators."""
    from tickerplant.analytics.ondemand.query import OnDemand
    from tickerplant.app.wiring.memory_tuning import import_talib

    import_talib()
    return OnDemand(rules)


def calculations(texts: Sequence[str]) -> list[Calculation]:
    """Parse indicators, including plug-ins and TA-Lib's functions. Raises BadInput for an unknown indicator."""
    from tickerplant.analytics.ondemand.calculation import parse_calculation
    from tickerplant.app.wiring.memory_tuning import import_talib

    import_talib()
    return [parse_calculation(text) for text in texts]


def broken_plugins() -> list[str]:
    """Return the errors of the plug-ins that cannot be loaded."""
    from tickerplant.analytics import plugins

    return [str(broken) for broken in plugins.load()]


def computed(
    settings: Settings,
    bars: pa.Table,
    chosen: Sequence[Calculation],
    start_us: int | None,
    end_us: int | None,
    last: int | None,
) -> pa.Table:
    """Return bars or closes of a file with indicator values, by symbol and time. Closes without times keep their order.

    The calculation uses all bars. The result contains the bars in `[start_us, end_us)`, at most the newest `last` of
    each symbol, or all if `last` is None. Raises BadInput for a range over closes without times.
    """
    import pyarrow as pa

    from tickerplant.analytics.ondemand.batch import compute_columns
    from tickerplant.analytics.ondemand.dataframes import read_frame
    from tickerplant.analytics.ondemand.query import with_sessions
    from tickerplant.core.arrow_values import times_of

    has_times = "time" in bars.schema.names
    if not has_times and (start_us is not None or end_us is not None):
        raise BadInput("the file has no times, so no range can be chosen: omit --start and --end")
    known = ("time", "symbol", "open", "high", "low", "close", "volume")
    shown = bars.select([name for name in known if name in bars.schema.names])
    if has_times and any("session" in each.inputs for each in chosen):
        bars = with_sessions(bars, settings.rules.rules())
    at = shown.schema.get_field_index("symbol")
    shown = shown.set_column(at, "symbol", shown.column("symbol").cast(pa.utf8()))
    for name, values in compute_columns(read_frame(bars), chosen).items():
        shown = shown.append_column(name, pa.array(values, mask=np.isnan(values)))
    if has_times:
        shown = shown.sort_by([("symbol", "ascending"), ("time", "ascending")])
        times = times_of(shown.column("time"))
        keep = np.ones(len(times), dtype=np.bool_)
        if start_us is not None:
            keep &= times >= start_us
        if end_us is not None:
            keep &= times < end_us
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
    selection: BarSelection,
    adjust: str = "none",
) -> tuple[list[dict[str, Any]], InputBars]:
    """Return the selected stored bars with indicator values, oldest first, and the bars of the calculation.

    The returned bars are adjusted as `adjust` defines; the indicator values are adjusted for splits only.
    """
    from tickerplant.analytics.ondemand import query
    from tickerplant.api.bars import CoarseBars
    from tickerplant.api.resample import BASE
    from tickerplant.api.store_reader import ReadTransaction
    from tickerplant.core.adjustment import FOR_SPLITS
    from tickerplant.core.bar_request import BarRequest
    from tickerplant.core.interval import parse
    from tickerplant.core.sessions import Calendars

    symbol, interval, step = selection.symbol, selection.interval, parse(selection.interval)
    rules, market_us = rules_and_market_time(settings)

    async def read(store: Store) -> tuple[InputBars, Adjustment]:
        calendar = Calendars(rules).of(symbol)
        async with store.read() as session:

            async def bars(first: int | None, last: int | None, count: int) -> pa.Table:
                table = await session.ohlcv.read(
                    symbol, interval, first, last, count, names=query.COLUMNS, newest_first=True
                )
                return table.take(np.arange(table.num_rows)[::-1])

            async def built(first: int | None, last: int | None, count: int) -> pa.Table:
                return await coarse.read(ReadTransaction(session), first, last, count)

            splits, now_us = await session.actions.newest_splits(symbol), time.time_ns() // 1000
            adjustment = await session.actions.adjustment(symbol, adjust, calendar, now_us)
            if step in BASE:  # stored bars are adjusted first: a week built across a split would be wrong
                for_splits = await session.actions.adjustment(symbol, FOR_SPLITS, calendar, now_us)
                coarse, splits = CoarseBars(symbol, step, calendar, market_us, for_splits), splits.slice(0, 0)
            request = BarRequest(symbol, step, selection.start_us, selection.end_us, selection.limit, splits, now_us)
            return await query.gather(built if step in BASE else bars, chosen, request), adjustment

    input_bars, adjustment = with_store(dsn, read)
    found = query.values(input_bars, chosen, rules)
    if step in BASE:
        return _beside(stored_bars(settings, dsn, selection, adjust), found), input_bars
    table = adjustment.bars(input_bars.bars.slice(input_bars.lead), daily=not step.is_intraday)
    for name in found.schema.names:
        if name not in table.schema.names:
            table = table.append_column(name, found.column(name))
    return [plain(row) for row in table.to_pylist()], input_bars


def _beside(bars: list[dict[str, Any]], values: pa.Table) -> list[dict[str, Any]]:
    """Return bars with the values of the same times; the values of other bars are None."""
    by_time = {row["time"]: row for row in map(plain, values.to_pylist())}
    nothing = dict.fromkeys(values.schema.names)
    return [{**by_time.get(bar["time"], nothing), **bar} for bar in bars]

"""Indicators over stored bars on demand: the bars to read, and the values over them.

The caller supplies the reader; this module does not depend on the store. The bars that influence a value are read too:
the window of a windowed indicator, or all earlier bars for a recursive indicator, up to `MAX_BARS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from tickerplant.analytics import plugins
from tickerplant.analytics.derived_inputs import SessionNumbers
from tickerplant.analytics.ondemand import catalogue
from tickerplant.analytics.ondemand.batch import compute_columns
from tickerplant.analytics.ondemand.calculation import Calculation, choose
from tickerplant.analytics.ondemand.dataframes import read_frame
from tickerplant.analytics.realtime.engine import plan_indicators
from tickerplant.analytics.splits import Splits, splits_of
from tickerplant.analytics.usable_bars import PRICES, usable
from tickerplant.core import schemas
from tickerplant.core.adjustment import DIVIDED, MULTIPLIED
from tickerplant.core.arrow_values import times_of
from tickerplant.core.bar_request import BarRequest
from tickerplant.core.interval import Interval
from tickerplant.core.interval import parse as parse_interval
from tickerplant.core.rules import Rules
from tickerplant.core.times import FOREVER_US, BoolArray

MAX_BARS: Final = 200_000
"""Maximum earlier bars that one request reads: two years of minutes of an exchange with regular hours. If more bars are
needed, the result is marked (`InputBars.limited`)."""
PAGE: Final = 5_000
"""Maximum bars per read, so that no read needs much memory or blocks other reads for long."""
COLUMNS: Final = ("time", *PRICES, "volume", "vwap", "state")
"""The columns of bars that are read."""

ReadBars: TypeAlias = Callable[[int | None, int | None, int], Awaitable[pa.Table]]
"""Function (start_us, end_us, count) that returns at most `count` bars of `[start_us, end_us)`, of one symbol and
interval, in ascending order of time. A bound of None is open. If `start_us` is None, the function returns the newest
bars, otherwise the oldest."""


@dataclass(frozen=True, slots=True)
class InputBars:
    """Bars to compute over. The first `lead` bars precede the requested bars.

    `limited` is true if older bars that influence the values may exist, but were not read.
    """

    symbol: str
    interval: str
    bars: pa.Table
    lead: int
    limited: bool
    splits: pa.Table = field(default_factory=schemas.SPLITS.empty_table)
    """The symbol's splits (`schemas.SPLITS`). Bars before a split in effect at `clock_us` are adjusted for it."""
    clock_us: int = FOREVER_US

    @property
    def computed_from_us(self) -> int | None:
        """Return the time of the first bar; None if there are no bars."""
        return int(times_of(self.bars.column("time"))[0]) if self.bars.num_rows else None


async def gather(read_bars: ReadBars, calculations: Sequence[Calculation], request: BarRequest) -> InputBars:
    """Read the requested bars, and the earlier bars that their values depend on.

    Bars without prices do not count towards the bars that a window needs.
    """
    symbol, interval = request.symbol, request.interval.name
    requested = _plain(await read_bars(request.start_us, request.end_us, request.limit))
    if not requested.num_rows:
        return InputBars(symbol, interval, requested, 0, limited=False)
    memories = [calculation.memory for calculation in calculations]
    windows = [memory for memory in memories if memory is not None]
    recursive = len(windows) < len(memories)
    need = MAX_BARS if recursive else min(max(windows, default=0), MAX_BARS)
    pages = [requested]
    before, have, rows = int(times_of(requested.column("time"))[0]), 0, 0
    more = True
    while more and have < need and rows < MAX_BARS:
        count = min(PAGE, need - have, MAX_BARS - rows)
        page = _plain(await read_bars(None, before, count))
        more = page.num_rows >= count
        if page.num_rows:
            pages.insert(0, page)
            before = int(times_of(page.column("time"))[0])
            have += int(_usable(page).sum())
            rows += page.num_rows
    limited = more and (recursive or have < max(windows, default=0))
    splits = schemas.SPLITS.empty_table() if request.splits is None else request.splits
    return InputBars(symbol, interval, pa.concat_tables(pages), rows, limited, splits, request.clock_us)


def values(inputs: InputBars, calculations: Sequence[Calculation], rules: Rules) -> pa.Table:
    """Return `time`, `state` and the calculations' columns for the requested bars, null for no value.

    `rules` contain the symbol's calendar, for splits and for indicators that restart with each session.
    """
    bars = inputs.bars
    here = _usable(bars)
    counted = _adjusted(bars.filter(pa.array(here)), inputs, rules)
    for name, word in (("symbol", inputs.symbol), ("interval", inputs.interval)):
        codes = pa.array(np.zeros(counted.num_rows, dtype=np.int8))
        counted = counted.append_column(name, pa.DictionaryArray.from_arrays(codes, pa.array([word])))
    if any("session" in calculation.inputs for calculation in calculations):
        counted = with_sessions(counted, rules)
    shown = bars.select(["time", "state"])
    for name, found in compute_columns(read_frame(counted), calculations).items():
        column = np.full(bars.num_rows, np.nan)
        column[here] = found
        shown = shown.append_column(name, pa.array(column, mask=np.isnan(column)))
    return shown.slice(inputs.lead)


def _adjusted(bars: pa.Table, inputs: InputBars, rules: Rules) -> pa.Table:
    """Return the bars adjusted for splits, as in the stream."""
    splits = Splits()
    splits.set_calendars(rules)
    if not splits.add(splits_of(inputs.splits), inputs.clock_us):
        return bars
    names = [name for name in bars.schema.names if name in (*DIVIDED, *MULTIPLIED)]
    columns = {name: bars.column(name).cast(pa.float64()).to_numpy() for name in names}
    rows = np.zeros(bars.num_rows, dtype=np.int64)
    daily = not parse_interval(inputs.interval).is_intraday
    times = times_of(bars.column("time"))
    before = np.flatnonzero(times < splits.unadjusted_from([inputs.symbol])[0])
    made = splits.adjust(columns, times, rows, [inputs.symbol], before, daily=daily)
    for name, values in made.items():
        bars = bars.set_column(bars.schema.get_field_index(name), name, pa.array(values, mask=np.isnan(values)))
    return bars


def with_sessions(bars: pa.Table, rules: Rules) -> pa.Table:
    """Return bars with a column `session`. The bars must have the columns `time`, `symbol` and `interval`."""
    symbol, interval = (bars.column(name).cast(pa.utf8()).dictionary_encode() for name in ("symbol", "interval"))
    symbol, interval = (_one(symbol), _one(interval))
    daily = np.array([not parse_interval(word).is_intraday for word in interval.dictionary.to_pylist()], dtype=np.bool_)
    by_date = daily[interval.indices.to_numpy()] if len(daily) else np.empty(0, dtype=np.bool_)
    numbers = SessionNumbers(rules).of(
        symbol.indices.to_numpy().astype(np.int64),
        symbol.dictionary.to_pylist(),
        times_of(bars.column("time")),
        by_date,
    )
    return bars.append_column("session", pa.array(numbers))


def _one(column: pa.ChunkedArray) -> pa.DictionaryArray:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def remaining(inputs: InputBars, calculations: Sequence[Calculation], beyond: int = 0) -> dict[str, int]:
    """Return, for each column without a value at the last bar, the count of bars that the column still needs.

    `beyond` is the count of bars at the end that are ignored. {} if no column needs more bars, or there are no bars.
    """
    bars = inputs.bars.slice(0, inputs.bars.num_rows - beyond)
    if not bars.num_rows:
        return {}
    count = int(_usable(bars).sum())
    dues = ((name, due) for each in calculations for name, due in zip(each.columns, each.warmups, strict=True))
    return {name: due - count for name, due in dues if due > count}


def _usable(bars: pa.Table) -> BoolArray:
    """Return a mask of the bars that the indicators process, as in the stream."""
    columns = (bars.column(name).cast(pa.float64()).to_numpy() for name in (*PRICES, "volume"))
    return usable(columns, bars.num_rows)


class OnDemand:
    """Computes indicators on demand, and lists the warm-ups of the indicators that the stream computes."""

    def __init__(self, rules: Rules) -> None:
        plugins.load()
        self._rules = rules
        self._sets = {
            interval.name: {
                name: due for each in indicators for name, due in zip(each.columns, each.warmups, strict=True)
            }
            for interval, indicators in plan_indicators(rules).items()
        }

    def choose(self, name: str, parameters: Mapping[str, str]) -> Calculation:
        """Return the indicator with that name. Raises UnknownIndicator, or BadInput for an invalid parameter."""
        return choose(name, parameters)

    async def gather(self, read_bars: ReadBars, chosen: Calculation, request: BarRequest) -> InputBars:
        """Read the bars that one indicator needs, as the function `gather` does."""
        return await gather(read_bars, [chosen], request)

    def values(self, inputs: InputBars, chosen: Calculation) -> pa.Table:
        """Return one indicator's values, as the function `values` does. Slow; call it in a thread."""
        return values(inputs, [chosen], self._rules)

    def remaining(self, inputs: InputBars, chosen: Calculation, beyond: int) -> dict[str, int]:
        """Return the count of bars that each column without a value still needs, as the function `remaining` does."""
        return remaining(inputs, [chosen], beyond)

    def warmups(self, interval: Interval) -> Mapping[str, int]:
        """Return the ordinal (counted from 1) of the first bar with a value, by column that the stream computes.

        {} if the stream computes no indicator in this interval.
        """
        return self._sets.get(interval.name, {})

    def listing(self) -> list[dict[str, Any]]:
        """Return the descriptions of all indicators: declared indicators, then TA-Lib's functions."""
        return catalogue.listing()

    def describe(self, name: str) -> dict[str, Any]:
        """Return the description of one indicator, under the requested name. Raises UnknownIndicator."""
        return catalogue.describe(name)


def _plain(bars: pa.Table) -> pa.Table:
    """Return the columns `COLUMNS`, with the same types for every reader."""
    bars = bars.select(COLUMNS)
    at = COLUMNS.index("state")
    return bars.set_column(at, "state", bars.column(at).cast(pa.utf8()))

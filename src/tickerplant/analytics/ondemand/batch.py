"""Indicators over whole columns. Declared indicators are computed by the code of the stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tickerplant.analytics.derived_inputs import input_column, missing_column
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.ondemand.calculation import Calculation, parse_calculation
from tickerplant.analytics.ondemand.dataframes import TIME, Columns, Frame, read_frame
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array


def compute(data: Any, indicator: str | Indicator | Sequence[str | Indicator]) -> Any:
    """Return the output columns of one or several indicators over bars, with one row per bar in the given order.

    `data` is one array of closes, or a mapping of arrays by column (`close`, …). It may also be an Arrow table or
    record batch, or a pandas or Polars frame. The result depends on the kind of `data`. A mapping or array gives a dict
    of float64 arrays with NaN for no value. Arrow gives a table, and Polars a frame, with nulls. pandas gives a frame
    with the same index and NaN. Case is ignored in column names.

    If there are columns `symbol` and `interval`, each series is computed separately. If there is a column `time` (or,
    in pandas, an index of times), each series is processed in order of time. Its rows may have any order. Otherwise
    each series is processed in row order. If there are columns `high`, `low` and `close`, the typical price replaces a
    missing column `vwap` and each missing value of this column. The UTC date of the time replaces a missing column
    `session`. A bar with a missing or infinite input is ignored.

    `indicator` is `RSI(14)`, `BBANDS(period=20, deviations=2)`, `EMA(20)@tradingview`, an `Indicator`, or a function of
    TA-Lib. Raises UnknownIndicator for an unknown name. Raises BadInput for invalid parameters, and for a column
    that is missing or not numeric. Also raises BadInput for a missing or ambiguous time, and for two bars of a series
    with the same time.

    >>> compute([1.0, 2.0, 3.0, 4.0], "SMA(2)")["sma_2"].tolist()
    [nan, 1.5, 2.5, 3.5]
    """
    wanted = _wanted(indicator)
    frame = read_frame(data)
    return frame.to_caller(compute_columns(frame, [parse_calculation(each) for each in wanted]))


def _wanted(indicator: Any) -> list[str | Indicator]:
    if isinstance(indicator, str | Indicator):
        return [indicator]
    wanted = list(indicator) if isinstance(indicator, Iterable) else [indicator]
    for each in wanted:
        if not isinstance(each, str | Indicator):
            raise BadInput(f"{each!r} is not an indicator; pass 'RSI(14)', an Indicator, or a list of them")
    return wanted


def compute_columns(frame: Frame, calculations: Sequence[Calculation]) -> Columns:
    """Return the calculations' columns over the frame's rows, NaN for no value. Raises BadInput."""
    series = frame.series()
    columns: Columns = {}
    for calculation in calculations:
        inputs = _inputs(frame, calculation)
        usable = np.logical_and.reduce([np.isfinite(values) for values in inputs])
        result = np.full((len(calculation.columns), frame.rows), np.nan)
        for rows in series:
            rows = rows[usable[rows]]
            if len(rows):
                result[:, rows] = calculation.run(tuple(values[rows] for values in inputs))
        columns.update(zip(calculation.columns, result, strict=True))
    return columns


def _inputs(frame: Frame, calculation: Calculation) -> tuple[Float64Array, ...]:
    """Return the columns that the calculation reads, float64[rows] each."""
    names = {**frame.names, TIME: TIME} if frame.times is not None else frame.names
    for name in calculation.inputs:
        if (missing := missing_column(name, names)) is not None:
            raise BadInput(f"{calculation} needs the column {missing!r}; the columns are {', '.join(names)}")
    return tuple(input_column(name, names, frame.floats, frame.times_us) for name in calculation.inputs)

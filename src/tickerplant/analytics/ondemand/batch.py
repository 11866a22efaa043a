"""The batch reading of indicators, by the code of the stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tickerplant.analytics.derived_inputs import lacking, supplied
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.ondemand.calculation import Calculation, read
from tickerplant.analytics.ondemand.dataframes import TIME, Columns, Frame, read_frame
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array


def compute(data: Any, indicator: str | Indicator | Sequence[str | Indicator]) -> Any:
    """Return the output columns of one indicator or of several over bars, a row for each bar in the order given.

    `data` is one array of closes; a mapping of arrays by column (`close`, …); an Arrow table or record batch; a pandas
    or a Polars frame. The answer is of the same kind: a dict of float64 arrays, NaN where there is no value; an Arrow
    table, or a Polars frame, with nulls; a pandas frame with the same index, with NaN. Case does not matter in names of
    columns.

    Where there are columns `symbol` and `interval`, each series is computed alone. Where there is a column `time` (or,
    in pandas, an index of times), a series is taken in order of time, in whatever order its rows stand; without one
    they stand in order. Without a column `vwap` (or of a bar that has none) the typical price stands for it, and
    without a column `session` the UTC date of the time. A bar that lacks an input counts for nothing, as in the stream.

    `indicator` is `RSI(14)`, `BBANDS(period=20, deviations=2)`, `EMA(20)@tradingview`, a declaration with its values,
    or a function of TA-Lib. Raises UnknownIndicator for a name, and BadInput for parameters, a column that is missing
    or holds no numbers, and two bars of one time in a series.

    >>> compute([1.0, 2.0, 3.0, 4.0], "SMA(2)")["sma_2"].tolist()
    [nan, 1.5, 2.5, 3.5]
    """
    wanted = _wanted(indicator)
    frame = read_frame(data)
    return frame.give(values_over(frame, [read(each) for each in wanted]))


def _wanted(indicator: Any) -> list[str | Indicator]:
    if isinstance(indicator, str | Indicator):
        return [indicator]
    wanted = list(indicator) if isinstance(indicator, Iterable) else [indicator]
    for each in wanted:
        if not isinstance(each, str | Indicator):
            raise BadInput(
                f"{each!r} is no indicator; write 'RSI(14)', a declaration with its values, or a list of such"
            )
    return wanted


def values_over(frame: Frame, calculations: Sequence[Calculation]) -> Columns:
    """Return the calculations' columns over the frame's rows, NaN where there is no value. Raises BadInput."""
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
        if (missing := lacking(name, names)) is not None:
            raise BadInput(f"{calculation} needs the column {missing!r}; there are {', '.join(names)}")
    return tuple(supplied(name, names, frame.floats, frame.times_us) for name in calculation.inputs)

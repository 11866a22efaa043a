"""The batch reading of an indicator, by the code of the stream."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.analytics.indicator import parse
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.inputs import lacking, supplied
from tickerplant.analytics.study import Study
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array, Int64Array

Bars: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike] | pa.Table | pa.RecordBatch


def compute(data: Bars, indicator: str) -> dict[str, Float64Array]:
    """Return the indicator's output columns over bars in time order, one value a bar, NaN where there is none.

    `data` is one array of closes, a mapping of arrays by column (`close`, …), or an Arrow table of bars, where each
    (symbol, interval) is a series of its own if there are such columns. Without a column `vwap` (or of a bar that has
    none) the typical price stands for it, and without a column `session` the UTC date of `time`. A bar that lacks an
    input counts for nothing, as in the stream. Raises BadInput for an indicator or columns that cannot be read.

    >>> compute([1.0, 2.0, 3.0, 4.0], "SMA(2)")["sma_2"].tolist()
    [nan, 1.5, 2.5, 3.5]
    """
    chosen = parse(indicator)
    inputs = _inputs(data, chosen)
    result = np.full((len(chosen.columns), len(inputs[0])), np.nan)
    usable = np.logical_and.reduce([np.isfinite(values) for values in inputs])
    for series in _series(data, len(inputs[0])):
        rows = series[usable[series]]
        result[:, rows] = Study(chosen, 0, 1).run(0, 0, tuple(values[rows] for values in inputs))
    return dict(zip(chosen.columns, result, strict=True))


def _inputs(data: Any, indicator: Indicator) -> tuple[Float64Array, ...]:
    if isinstance(data, (pa.Table, pa.RecordBatch)):
        names = data.schema.names
    else:
        data = data if isinstance(data, Mapping) else {"close": data}
        names = list(data)
    for name in indicator.INPUTS:
        if (missing := lacking(name, names)) is not None:
            raise BadInput(f"{indicator} needs the column {missing!r}; there are {', '.join(names)}")
    found = tuple(supplied(name, names, partial(_floats, data), partial(_times, data)) for name in indicator.INPUTS)
    if any(values.ndim != 1 or len(values) != len(found[0]) for values in found):
        raise BadInput("the columns must be one-dimensional and of one length")
    return found


def _floats(data: Any, name: str) -> Float64Array:
    return np.asarray(_column(data, name), dtype=np.float64)


def _times(data: Any) -> Int64Array:
    """Return the column `time` in microseconds since 1970, from moments or from such numbers."""
    values = np.asarray(_column(data, "time"))
    if values.dtype.kind in "MOU":
        values = values.astype("datetime64[us]")
    return values.astype(np.int64)


def _column(data: Any, name: str) -> Any:
    column = data[name]
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column


def _series(data: Bars, length: int) -> list[Int64Array]:
    """Return the row numbers of each series, in order."""
    if not isinstance(data, (pa.Table, pa.RecordBatch)):
        return [np.arange(length)]
    code = np.zeros(length, dtype=np.int64)
    for name in {"symbol", "interval"} & set(data.schema.names):
        words = np.asarray(data.column(name).to_pylist(), dtype=np.str_)
        own = np.unique(words, return_inverse=True)[1]
        code = code * (int(own.max(initial=0)) + 1) + own
    order = np.argsort(code, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1)

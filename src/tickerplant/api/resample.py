"""Coarser bars built from stored bars: 15m, 30m and 1h from 5m, and 1w from 1d. Pure; works on whole columns."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import schemas
from tickerplant.core.arrow_values import times_of, timestamps
from tickerplant.core.interval import D1, H1, M5, M15, M30, W1, Interval
from tickerplant.core.times import BoolArray, Float64Array

BASE: Final = {M15: M5, M30: M5, H1: M5, W1: D1}
"""Stored interval from which each interval is built."""


def ratio(interval: Interval) -> int:
    """Return the maximum number of base bars in one bar of the interval."""
    return interval.us // BASE[interval].us


def resample(bars: pa.Table, interval: Interval, *, over: bool = False) -> pa.Table:
    """Return bars of `interval` built from base bars in ascending order. Withdrawn base bars are left out.

    A bar is `forming` if one of its base bars is `forming`. The last bar is also `forming` if it ends later than the
    last base bar, unless `over` is true. `over` means that no further base bar of the last bar can follow. A bar
    is complete if all its base bars are complete. Its version is the greatest version of its base bars. Its `vwap` is
    weighted by volume.
    """
    withdrawn = _has_state(bars, schemas.WITHDRAWN)
    if withdrawn.any():
        bars = bars.filter(pa.array(~withdrawn))
    if not bars.num_rows:
        return bars
    base = BASE[interval]
    times = times_of(bars.column("time"))
    buckets = interval.floor(times)
    first = np.flatnonzero(np.r_[True, buckets[1:] != buckets[:-1]])
    last = np.r_[first[1:], len(times)] - 1
    column = {name: _floats(bars, name) for name in ("open", "high", "low", "close", "volume", "vwap", "trades")}
    weight = np.where(np.isnan(column["vwap"]), 0.0, column["volume"])
    weights = np.add.reduceat(weight, first)
    turnover = np.add.reduceat(np.nan_to_num(column["vwap"]) * weight, first)
    with np.errstate(invalid="ignore", divide="ignore"):
        vwap = np.where(weights > 0, turnover / weights, np.nan)
    trades = np.add.reduceat(column["trades"], first)
    still_forming = np.logical_or.reduceat(_has_state(bars, schemas.FORMING), first)
    if not over and base.end(int(times[-1])) < interval.end(int(buckets[-1])):
        still_forming[-1] = True
    newest = _at_largest(bars, "version", first, last)
    built: dict[str, Any] = {
        "time": timestamps(buckets[first]),
        "open": _nullable(_first_known(column["open"], first, last)),
        "high": _nullable(np.fmax.reduceat(column["high"], first)),
        "low": _nullable(np.fmin.reduceat(column["low"], first)),
        "close": _nullable(_last_known(column["close"], first, last)),
        "volume": pa.array(np.add.reduceat(column["volume"], first)),
        "vwap": _nullable(vwap),
        "trades": pa.array(trades, pa.int64(), mask=np.isnan(trades), safe=False),
        "state": pa.array(np.where(still_forming, schemas.FORMING, schemas.FINAL).astype(object), pa.utf8()),
        "complete": pa.array(np.logical_and.reduceat(bars.column("complete").to_numpy(), first)),
        "revision": bars.column("revision").take(pa.array(newest)),
        "version": bars.column("version").take(pa.array(newest)),
        "source": bars.column("source").take(pa.array(last)),
    }
    return pa.table({name: value for name, value in built.items() if name in bars.schema.names})


def _floats(bars: pa.Table, name: str) -> Float64Array:
    array: Float64Array = bars.column(name).cast(pa.float64()).to_numpy()
    return array


def _nullable(values: Float64Array) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _first_known(values: Float64Array, first: Any, last: Any) -> Float64Array:
    known = np.where(np.isnan(values), len(values), np.arange(len(values)))
    at = np.minimum.reduceat(known, first)
    return np.where(at <= last, values[np.minimum(at, len(values) - 1)], np.nan)


def _last_known(values: Float64Array, first: Any, last: Any) -> Float64Array:
    known = np.where(np.isnan(values), -1, np.arange(len(values)))
    at = np.maximum.reduceat(known, first)
    return np.where(at >= first, values[np.maximum(at, 0)], np.nan)


def _has_state(bars: pa.Table, state: str) -> BoolArray:
    """Return a mask of the bars with this state."""
    mask: BoolArray = pc.equal(bars.column("state"), pa.scalar(state)).to_numpy()
    return mask


def _at_largest(bars: pa.Table, name: str, first: Any, last: Any) -> Any:
    """Return the first row with the greatest value of each bucket."""
    values = bars.column(name).to_numpy()
    greatest = np.repeat(np.maximum.reduceat(values, first), last - first + 1)
    return np.minimum.reduceat(np.where(values == greatest, np.arange(len(values)), len(values)), first)

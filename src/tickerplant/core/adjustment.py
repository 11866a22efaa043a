"""Factors that make prices before and after a split or a dividend comparable. Stored prices are as traded; adjustment
happens on reading.

`effective` is the first instant at the new price: of a daily bar the session's date, of intraday bars the session's
begin. A time before it is before the split. Where several follow, their factors multiply.
"""

from __future__ import annotations

import numpy as np

from tickerplant.core.times import Float64Array, Int64Array


def split_factors(times: Int64Array, effective: Int64Array, ratios: Float64Array) -> Float64Array:
    """Return for each time how many shares of now one share of then has become: float64[times].

    A price of then is divided by it, a size multiplied. `ratios`: new shares for an old one, 4 for a 4-for-1 split, 0.1
    for a reverse split of 1-for-10. Any order of splits gives the same bits: they are multiplied from the newest back.

    >>> split_factors(np.array([0, 5, 9]), np.array([9, 3]), np.array([4.0, 2.0])).tolist()
    [8.0, 4.0, 1.0]
    """
    return _from_the_newest(times, effective, ratios)


def dividend_factors(
    times: Int64Array, effective: Int64Array, amounts: Float64Array, closes_before: Float64Array
) -> Float64Array:
    """Return for each time what a price of then is multiplied by: 1 − amount / close before, for every later ex-date.

    That is how CRSP and the vendors do it. Amounts and closes are as paid and as traded. A dividend without a positive
    close before it, or not below that close, changes nothing.
    """
    usable = (closes_before > 0) & (amounts >= 0) & (amounts < closes_before)
    ratios = 1.0 - amounts[usable] / closes_before[usable]
    return _from_the_newest(times, effective[usable], ratios)


def closes_before(times: Int64Array, closes: Float64Array, effective: Int64Array) -> Float64Array:
    """Return the last close before each ex-date, NaN where there is none; `times` ascend."""
    at = np.searchsorted(times, effective, side="left") - 1
    return np.where(at >= 0, closes[np.maximum(at, 0)] if len(closes) else np.nan, np.nan)


def _from_the_newest(times: Int64Array, effective: Int64Array, ratios: Float64Array) -> Float64Array:
    order = np.argsort(effective, kind="stable")
    products = np.append(np.multiply.accumulate(ratios[order][::-1])[::-1], 1.0)
    factors: Float64Array = products[np.searchsorted(effective[order], times, side="right")]
    return factors

"""Factors that adjust prices as traded for splits and dividends, in the vendors' usual way. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from tickerplant.core.times import Float64Array, Int64Array
from tickerplant.protocols.market import Dividend, Split


def split_factors(splits: Iterable[Split], times_us: Int64Array) -> Float64Array:
    """Return the factor that makes a price at each time comparable with prices after all `splits`: float64[times].

    >>> split_factors([Split(5, 4, 1)], np.array([0, 5])).tolist()
    [0.25, 1.0]
    """
    factor = np.ones(len(times_us))
    for split in splits:
        factor = np.where(times_us < split.us, factor * (split.denominator / split.numerator), factor)
    return factor


def dividend_factors(
    dividends: Iterable[Dividend], close_before: Callable[[int], float | None], times_us: Int64Array
) -> Float64Array:
    """Return the factor that removes the gap of each dividend from a price at each time: float64[times].

    Each dividend multiplies the factor of all times before its ex-date by 1 - amount / close. `close_before` returns
    the close before an ex-date as traded. If it returns None, the dividend has no effect.
    """
    factor = np.ones(len(times_us))
    for paid in dividends:
        close = close_before(paid.us)
        if close is not None:
            factor = np.where(times_us < paid.us, factor * (1 - paid.amount / close), factor)
    return factor

"""The filter of indicator inputs: a bar is usable if its prices and volume are finite and within ±`MAX_VALUE`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from tickerplant.core.times import BoolArray, Float64Array

PRICES: Final = ("open", "high", "low", "close")
MAX_VALUE: Final = 1e100
"""Largest usable price or volume. The sum of squares of larger values could overflow float64."""


def usable(columns: Iterable[Float64Array], rows: int) -> BoolArray:
    """Return a mask of the rows whose values are all within ±`MAX_VALUE`. Nulls must be NaN; NaN is not usable."""
    found: BoolArray = np.ones(rows, dtype=np.bool_)
    for values in columns:
        found &= np.abs(values) <= MAX_VALUE  # False for NaN
    return found

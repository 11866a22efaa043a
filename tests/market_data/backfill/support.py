"""A 1m series with missing bars, for tests of modules that need no store."""

from __future__ import annotations

import numpy as np

from tickerplant.core.coverage import Answers
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, HOUR_US
from tickerplant.market_data.backfill.series import Grid, Series

NOW = 1_767_700_200_000_000
BEGIN = NOW - NOW % DAY_US
NOTHING = np.empty(0, np.int64)
GRID = Grid(calendar("24/7"), "1m")


def series(symbol: str = "A", hours: float = 1.0, *, missing: bool = True) -> Series:
    end = BEGIN + int(hours * HOUR_US)
    one = Series(symbol, "1m", GRID)
    have = NOTHING if missing else GRID.starts(BEGIN, end)
    one.update(BEGIN, end, (have, np.ones(len(have), np.bool_)), Answers.none(), NOTHING)
    return one

"""The request for the stored bars of an on-demand calculation. `api` and `app` pass it to `analytics`."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from tickerplant.core.interval import Interval
from tickerplant.core.times import FOREVER_US


@dataclass(frozen=True, slots=True)
class BarRequest:
    """The bars of one symbol and interval in `[start_us, end_us)`, and the splits to adjust them for.

    The request is for at most `limit` bars: the oldest bars if `start_us` is given, otherwise the newest bars. A bound
    of None is open.
    """

    symbol: str
    interval: Interval
    start_us: int | None
    end_us: int | None
    limit: int
    splits: pa.Table | None = None
    """The symbol's splits (`schemas.SPLITS`); None if there are none.

    A split takes effect if its session has begun by `clock_us`.
    """
    clock_us: int = FOREVER_US

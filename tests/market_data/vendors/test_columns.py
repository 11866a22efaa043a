"""Batches of a vendor's columns keep all rows of one time: the backfill compares them and keeps the last."""

from __future__ import annotations

import numpy as np

from tickerplant.core.arrow_values import times_of
from tickerplant.market_data.feed.validation import distinct_bars
from tickerplant.market_data.vendors.columns import bars_batch


def test_rows_of_one_time_are_kept_in_their_order_and_the_last_one_is_the_bar() -> None:
    time = np.array([120, 60, 120, 60, 180]) * 1_000_000
    prices = tuple(np.array([1.0, 2.0, 3.0, 2.0, 5.0]) for _ in range(4))
    bars = bars_batch("A", "1m", time, prices, np.ones(5), "vendor")
    assert (times_of(bars["time"]) // 1_000_000).tolist() == [60, 60, 120, 120, 180]
    assert bars["close"].to_pylist() == [2.0, 2.0, 1.0, 3.0, 5.0]
    found, conflict = distinct_bars(bars)
    assert found["close"].to_pylist() == [2.0, 3.0, 5.0]
    assert conflict is not None
    assert conflict.note.startswith("1 rows differ")
    assert distinct_bars(found) == (found, None)

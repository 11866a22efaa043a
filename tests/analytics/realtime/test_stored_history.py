"""Bars of newer log records replace stored bars."""

from __future__ import annotations

import numpy as np

from tests.analytics.plant import bars
from tests.analytics.support import T0
from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.realtime.stored_history import newer_bars, overlay
from tickerplant.core import records
from tickerplant.core.arrow_values import times_of
from tickerplant.store.repositories.ohlcv import HISTORY

A = Series("1d", "A")


def test_newer_bars_of_the_log_replace_stored_ones() -> None:
    stored = bars("A", [1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], "1d", 1)
    stored = stored.select(HISTORY.names).cast(HISTORY)  # nullable columns, as the store returns
    log = [
        bars("A", [3], [33.0], "1d", 2),
        bars("A", [5], [5.0], "1d", 3, state="forming"),
        bars("B", [1], [9.0], "1d", 3),
        bars("A", [1], [9.0], "5m", 3),
        bars("A", [2], [np.nan], "1d", 4, state="withdrawn"),
        bars("A", [6], [6.0], "1d", 5),
        bars("A", [6], [66.0], "1d", 6),
    ]
    values: list[object] = [records.encode(records.Bars(sent_at_us=T0, cause=1), batch) for batch in log]
    values[2:2] = [b"garbage", records.encode(records.Mark(sent_at_us=T0, watermark_us=0))]
    newer = newer_bars(values, [A])
    assert set(newer) == {A}
    found = overlay(stored, newer[A])
    assert times_of(found.column("time")).tolist() == [1, 3, 4, 6]
    assert found.column("close").to_pylist() == [1.0, 33.0, 4.0, 66.0]
    assert overlay(stored, []) is stored
    withdrawn = newer_bars(
        [records.encode(records.Bars(sent_at_us=T0), bars("A", [4], [np.nan], "1d", 4, state="withdrawn"))], [A]
    )
    assert overlay(stored.slice(3), withdrawn[A]).num_rows == 0

"""Marks, what is laid over stored bars, splits: the pure parts of computing again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tests.analytics.plant import bars
from tests.analytics.support import T0
from tickerplant.analytics.realtime.recompute_queue import HISTORY_WAIT_US, Again, Missed, Series
from tickerplant.analytics.realtime.splits import Split, Splits
from tickerplant.analytics.realtime.stored_history import behind, laid_over
from tickerplant.core import records
from tickerplant.core.times import DAY_US, times_of
from tickerplant.store.repositories.ohlcv import HISTORY

A, B = Series("1d", "A"), Series("1d", "B")


def test_a_mark_keeps_the_first_bar_and_the_last_position() -> None:
    again = Again()
    again.missed([Missed(A, 50, False)], 7, "f", 0)
    again.missed([Missed(A, 90, False), Missed(B, 10, False)], 9, "f", 0)
    assert again.due(0) == [A, B]
    mark = again.done(A)
    assert (mark.from_us, mark.position) == (50, 9)
    assert again.due(0) == [B]


def test_history_is_due_when_every_feed_that_brought_it_has_ended_or_is_silent() -> None:
    again = Again()
    again.missed([Missed(A, 1, True)], 1, "one", 0)
    again.missed([Missed(A, 1, True), Missed(B, 1, True)], 2, "two", 10)
    again.ended("stranger")
    assert again.due(10) == []
    again.ended("one")
    assert again.due(10) == []
    assert again.due(10 + HISTORY_WAIT_US) == []
    assert again.due(11 + HISTORY_WAIT_US) == [A, B]
    again.ended("two")
    assert again.due(10) == [A, B]
    for series in (A, B):
        again.done(series)
    assert (again.marks, again.feeds) == ({}, {})


def test_a_feed_is_forgotten_with_the_last_mark_that_waits_for_it() -> None:
    again = Again()
    again.missed([Missed(A, 1, True), Missed(B, 1, True)], 1, "one", 0)
    again.done(A)
    assert again.due(0) == []
    again.done(B)
    assert again.feeds == {}


def test_what_the_log_has_behind_the_store_is_laid_over_it() -> None:
    stored = bars("A", [1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], "1d", 1)
    stored = stored.select(HISTORY.names).cast(HISTORY)  # as the store gives them: any column may be null
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
    later = behind(values, [A])
    assert set(later) == {A}
    found = laid_over(stored, later[A])
    assert times_of(found.column("time")).tolist() == [1, 3, 4, 6]
    assert found.column("close").to_pylist() == [1.0, 33.0, 4.0, 66.0]
    assert laid_over(stored, []) is stored
    gone = behind(
        [records.encode(records.Bars(sent_at_us=T0), bars("A", [4], [np.nan], "1d", 4, state="withdrawn"))], [A]
    )
    assert laid_over(stored.slice(3), gone[A]).num_rows == 0


def columns(times: list[int], splits: Splits, *, daily: bool = True) -> list[float]:
    n = len(times)
    made = splits.columns(
        {"close": np.full(n, 100.0), "volume": np.full(n, 10.0), "session": np.arange(n) * 1.0},
        np.array(times), np.zeros(n, dtype=np.int64), ["A"], np.arange(n), daily=daily,
    )  # fmt: skip
    assert made["session"].tolist() == list(range(n))
    assert np.allclose(made["volume"] * made["close"], 1000.0)
    [latest] = splits.latest(["A"])
    adjusted = np.flatnonzero(made["close"] != 100.0)
    assert all(times[i] < latest for i in adjusted)
    return made["close"].tolist()


def test_a_split_waits_for_its_session_and_the_newest_ratio_counts() -> None:
    splits = Splits()
    assert splits.say([Split("A", DAY_US, 2.0), Split("A", 2 * DAY_US, 4.0)], clock_us=DAY_US - 1) == []
    assert columns([0, DAY_US, 2 * DAY_US], splits) == [100.0] * 3
    assert splits.due(DAY_US - 1) == []
    # New York's session of 1970-01-02 is in no schedule, so it begins at 00:00 UTC.
    assert splits.due(DAY_US) == ["A"]
    assert columns([0, DAY_US, 2 * DAY_US], splits) == [50.0, 100.0, 100.0]
    assert splits.say([Split("A", 2 * DAY_US, 5.0)], clock_us=DAY_US) == []
    assert splits.due(3 * DAY_US) == ["A"]
    assert columns([0, DAY_US, 2 * DAY_US], splits) == [10.0, 20.0, 100.0]
    assert splits.say([Split("A", DAY_US, 2.0)], clock_us=3 * DAY_US) == []
    assert splits.say([Split("A", DAY_US, 1.0)], clock_us=3 * DAY_US) == ["A"]
    assert columns([0, DAY_US, 2 * DAY_US], splits) == [20.0, 20.0, 100.0]


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_passed_over(ratio: float) -> None:
    splits = Splits()
    assert splits.say([Split("A", 0, ratio)], clock_us=DAY_US) == []
    assert (splits.effective, splits.waiting) == ({}, {})


def test_splits_of_a_record_without_a_denominator_have_no_ratio() -> None:
    from tickerplant.analytics.realtime.splits import splits_of
    from tickerplant.core import schemas
    from tickerplant.core.times import timestamps

    text = pa.array(["A", "A"]).dictionary_encode()
    rows = [timestamps(np.array([0, DAY_US])), text, pa.array([4.0, 4.0]), pa.array([0.0, 1.0]), text]
    found = splits_of(pa.RecordBatch.from_arrays(rows, schema=schemas.SPLITS))
    assert np.isnan(found[0].ratio)
    assert found[1] == Split("A", DAY_US, 4.0)

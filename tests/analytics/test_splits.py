"""Splits: the time at which a split takes effect, the ratio that applies, and the adjusted columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tickerplant.analytics.splits import Split, Splits, splits_of
from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.times import DAY_US


def columns(times: list[int], splits: Splits, *, daily: bool = True) -> list[float]:
    n = len(times)
    made = splits.adjust(
        {"close": np.full(n, 100.0), "volume": np.full(n, 10.0), "session": np.arange(n) * 1.0},
        np.array(times), np.zeros(n, dtype=np.int64), ["A"], np.arange(n), daily=daily,
    )  # fmt: skip
    assert made["session"].tolist() == list(range(n))
    assert np.allclose(made["volume"] * made["close"], 1000.0)
    [unadjusted_from] = splits.unadjusted_from(["A"])
    adjusted = np.flatnonzero(made["close"] != 100.0)
    assert all(times[i] < unadjusted_from for i in adjusted)
    return made["close"].tolist()


def test_a_split_takes_effect_when_its_session_starts_and_the_newest_ratio_applies() -> None:
    splits = Splits()
    assert splits.add([Split("A", DAY_US, 2.0), Split("A", 2 * DAY_US, 4.0)], clock_us=DAY_US - 1) == []
    assert columns([0, DAY_US, 2 * DAY_US], splits) == [100.0] * 3
    assert splits.activate_due(DAY_US - 1) == []
    # The calendar of New York has no session on 1970-01-02, so the split starts at 00:00 UTC.
    assert splits.activate_due(DAY_US) == ["A"]
    assert columns([0, DAY_US, 2 * DAY_US], splits) == [50.0, 100.0, 100.0]
    assert splits.add([Split("A", 2 * DAY_US, 5.0)], clock_us=DAY_US) == []
    assert splits.activate_due(3 * DAY_US) == ["A"]
    assert columns([0, DAY_US, 2 * DAY_US], splits) == [10.0, 20.0, 100.0]
    assert splits.add([Split("A", DAY_US, 2.0)], clock_us=3 * DAY_US) == []
    assert splits.add([Split("A", DAY_US, 1.0)], clock_us=3 * DAY_US) == ["A"]
    assert columns([0, DAY_US, 2 * DAY_US], splits) == [20.0, 20.0, 100.0]


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_ratio_is_ignored(ratio: float) -> None:
    splits = Splits()
    assert splits.add([Split("A", 0, ratio)], clock_us=DAY_US) == []
    assert (splits.effective, splits.pending) == ({}, {})


def test_splits_of_a_record_without_a_denominator_have_no_ratio() -> None:
    text = pa.array(["A", "A"]).dictionary_encode()
    rows = [timestamps(np.array([0, DAY_US])), text, pa.array([4.0, 4.0]), pa.array([0.0, 1.0]), text]
    found = splits_of(pa.RecordBatch.from_arrays(rows, schema=schemas.SPLITS))
    assert np.isnan(found[0].ratio)
    assert found[1] == Split("A", DAY_US, 4.0)

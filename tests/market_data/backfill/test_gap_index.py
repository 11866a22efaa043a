"""Scans of real tables, and the tasks for the missing bars that the scans find."""

from __future__ import annotations

import numpy as np
import pytest

from tests.market_data.backfill.bench import RULES, SYMBOLS
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.market_data.backfill import gap_index as module
from tickerplant.market_data.backfill.gap_index import GAP_FILL_US, GapIndex
from tickerplant.market_data.backfill.targets import WantedRange
from tickerplant.market_data.vendors.rate_limits import Purpose
from tickerplant.store import Store

NOW = 1_767_700_200_000_000
GRACE_US = 90_000_000


def wanted(days: int, now_us: int = NOW) -> list[WantedRange]:
    return [WantedRange(symbol, "1m", NOW - days * DAY_US, now_us) for symbol in SYMBOLS]


async def test_history_is_requested_only_after_the_whole_range_is_scanned(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = GapIndex(RULES, 2, GRACE_US)
    monkeypatch.setattr(module, "SCAN_S", 0.0)
    await index.scan(store, wanted(200), [], NOW)
    assert index.has_unscanned
    # Each scan includes the last minutes.
    tasks = [index.task(one, NOW, fill_gaps=True) for one in index.series]
    assert all(task is not None and NOW - task.start_us < 20 * MINUTE_US for task in tasks)
    assert [index.task(one, NOW, fill_gaps=False) for one in index.series] == [None] * len(SYMBOLS)
    monkeypatch.setattr(module, "SCAN_S", 60.0)
    await index.scan(store, wanted(200), [], NOW)
    assert not index.has_unscanned
    for one in index.series:
        gaps, history = index.task(one, NOW, fill_gaps=True), index.task(one, NOW, fill_gaps=False)
        assert gaps is not None
        assert history is not None
        assert (gaps.purpose, history.purpose) == (Purpose.GAP_FILL, Purpose.HISTORY)
        assert gaps.start_us >= NOW - GAP_FILL_US > history.newest_us
        assert 0 <= history.start_us - (NOW - 200 * DAY_US) < MINUTE_US
    expected = len(SYMBOLS) * (200 * 1_440 - 2)  # the last one and a half minutes are not due yet
    assert abs(index.counts()[0] - expected) <= len(SYMBOLS)
    assert index.counts()[1] == 0
    assert index.due_us(NOW) is None


async def test_new_minutes_and_reported_gaps_are_scanned_again(store: Store) -> None:
    index = GapIndex(RULES, 2, GRACE_US)
    await index.scan(store, wanted(2), [], NOW)
    for one in index.series:
        one.mark_answered(0, NOW)
        index.recount(one)
    assert index.counts() == (0, 0)
    later = NOW + 10 * MINUTE_US
    await index.scan(store, wanted(2, later), [(NOW - DAY_US, NOW - DAY_US + 5 * MINUTE_US)], later)
    for one in index.series:
        missing = one.missing(0, later)
        old, new = missing[missing < NOW - DAY_US + DAY_US // 2], missing[missing > NOW - DAY_US // 2]
        assert 5 <= len(old) <= 8, "the scan must add the gap and at most three more minutes"
        assert len(new) >= 10
        assert np.all(np.diff(new) == MINUTE_US)


async def test_a_repeated_scan_changes_nothing(store: Store) -> None:
    index = GapIndex(RULES, 2, GRACE_US)
    for _ in range(3):
        await index.scan(store, wanted(5), [], NOW)
    first = index.counts()
    index.clear()
    await index.scan(store, wanted(5), [], NOW)
    assert index.counts() == first

"""What is wanted, and what of it was looked at, on real tables."""

from __future__ import annotations

import numpy as np
import pytest

from tests.market_data.backfill.bench import RULES, SYMBOLS
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.market_data.backfill import gap_index as module
from tickerplant.market_data.backfill.gap_index import HEAL_US, Ledger
from tickerplant.market_data.backfill.series import Wanted
from tickerplant.market_data.vendors.rate_limits import Purpose
from tickerplant.store import Store

NOW = 1_767_700_200_000_000
GRACE_US = 90_000_000


def wanted(days: int, now_us: int = NOW) -> list[Wanted]:
    return [Wanted(symbol, "1m", NOW - days * DAY_US, now_us) for symbol in SYMBOLS]


async def test_a_history_is_wanted_when_all_of_it_was_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(RULES, 2, GRACE_US)
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    await ledger.look(store, wanted(200), [], NOW)
    assert ledger.unseen
    # The last minutes are looked at whatever else there is to look at.
    tasks = [ledger.task(one, NOW, heal=True) for one in ledger.series]
    assert all(task is not None and NOW - task.from_us < 20 * MINUTE_US for task in tasks)
    assert [ledger.task(one, NOW, heal=False) for one in ledger.series] == [None] * len(SYMBOLS)
    monkeypatch.setattr(module, "LOOK_S", 60.0)
    await ledger.look(store, wanted(200), [], NOW)
    assert not ledger.unseen
    for one in ledger.series:
        holes, history = ledger.task(one, NOW, heal=True), ledger.task(one, NOW, heal=False)
        assert holes is not None
        assert history is not None
        assert (holes.purpose, history.purpose) == (Purpose.GAP_FILL, Purpose.HISTORY)
        assert holes.from_us >= NOW - HEAL_US > history.newest_us
        assert 0 <= history.from_us - (NOW - 200 * DAY_US) < MINUTE_US
    expected = len(SYMBOLS) * (200 * 1_440 - 2)  # the last one and a half minutes are not over for long enough
    assert abs(ledger.counts()[0] - expected) <= len(SYMBOLS)
    assert ledger.counts()[1] == 0
    assert ledger.due_us(NOW) is None


async def test_what_comes_with_time_and_holes_that_are_told_are_looked_at_again(store: Store) -> None:
    ledger = Ledger(RULES, 2, GRACE_US)
    await ledger.look(store, wanted(2), [], NOW)
    for one in ledger.series:
        one.settle(0, NOW)
        ledger.count(one)
    assert ledger.counts() == (0, 0)
    later = NOW + 10 * MINUTE_US
    await ledger.look(store, wanted(2, later), [(NOW - DAY_US, NOW - DAY_US + 5 * MINUTE_US)], later)
    for one in ledger.series:
        missing = one.missing(0, later)
        old, new = missing[missing < NOW - DAY_US + DAY_US // 2], missing[missing > NOW - DAY_US // 2]
        assert 5 <= len(old) <= 8, "the hole, and a minute at each end"
        assert len(new) >= 10
        assert np.all(np.diff(new) == MINUTE_US)


async def test_a_second_look_at_the_same_knows_the_same(store: Store) -> None:
    ledger = Ledger(RULES, 2, GRACE_US)
    for _ in range(3):
        await ledger.look(store, wanted(5), [], NOW)
    first = ledger.counts()
    ledger.clear()
    await ledger.look(store, wanted(5), [], NOW)
    assert ledger.counts() == first

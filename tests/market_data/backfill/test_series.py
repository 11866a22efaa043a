"""What is missing, and the requests cut out of it."""

from __future__ import annotations

import numpy as np

from tickerplant.core.coverage import Answers
from tickerplant.core.schemas import ANSWERED, NO_DATA, OUTAGE
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US
from tickerplant.market_data.backfill.plan import page, tasks, together
from tickerplant.market_data.backfill.series import Depth, Grid, Series
from tickerplant.market_data.desk.budget import Purpose
from tickerplant.market_data.providers.port import BarsOffer

NOW = 1_767_700_200_000_000
BEGIN = NOW - NOW % DAY_US
NOTHING = np.empty(0, np.int64)
GRID = Grid(calendar("24/7"), "1m")


def series(symbol: str = "A", hours: float = 1.0, *, missing: bool = True) -> Series:
    end = BEGIN + int(hours * HOUR_US)
    one = Series(symbol, "1m", GRID, BEGIN, end)
    have = NOTHING if missing else GRID.starts(BEGIN, end)
    one.look(BEGIN, end, have, np.ones(len(have), np.bool_), Answers.none(), NOTHING)
    return one


def answers(*rows: tuple[int, int, str, int]) -> Answers:
    return Answers(
        np.array([BEGIN + row[0] * MINUTE_US for row in rows], np.int64),
        np.array([BEGIN + row[1] * MINUTE_US for row in rows], np.int64),
        [row[2] for row in rows], ["v"] * len(rows), [""] * len(rows), np.array([row[3] for row in rows], np.int64),
    )  # fmt: skip


def test_missing_is_what_is_expected_and_neither_whole_nor_silent_nor_answered() -> None:
    one = Series("A", "1m", GRID, BEGIN, BEGIN + HOUR_US)
    have = BEGIN + np.arange(10) * MINUTE_US
    complete = np.arange(10) != 3
    silent = BEGIN + np.array([20, 21]) * MINUTE_US
    told = answers((30, 40, ANSWERED, 0), (40, 45, NO_DATA, 0), (45, 50, OUTAGE, NOW + 1), (50, 55, NO_DATA, NOW + 2))
    one.look(BEGIN, BEGIN + HOUR_US, have, complete, told, silent)
    at = ((one.missing - BEGIN) // MINUTE_US).tolist()
    assert at == [3, *range(10, 20), *range(22, 30), *range(45, 60)]
    ready = ((one.ready(NOW, NOW) - BEGIN) // MINUTE_US).tolist()
    assert ready == [3, *range(10, 20), *range(22, 30), *range(45, 50), *range(55, 60)], "an outage binds nothing"
    assert sorted(set(one.later(NOW, NOW).tolist())) == [NOW + 2]
    assert [(b - a) // MINUTE_US for a, b in one.runs(one.missing)] == [1, 10, 8, 15]


def test_a_later_look_replaces_its_stretch_alone() -> None:
    one = series()
    one.look(BEGIN, BEGIN + 10 * MINUTE_US, GRID.starts(BEGIN, BEGIN + 10 * MINUTE_US), np.ones(10, np.bool_),
             Answers.none(), NOTHING)  # fmt: skip
    assert len(one.missing) == 50
    one.settle(BEGIN + 10 * MINUTE_US, BEGIN + 50 * MINUTE_US)
    assert len(one.missing) == 10
    one.defer(one.missing[:5], NOW + 5)
    assert len(one.ready(NOW, NOW)) == 5


def test_max_goes_as_far_as_vendors_and_no_further_than_is_kept() -> None:
    assert Depth("1d", 30).from_us(NOW, None) == NOW - 30 * DAY_US
    assert NOW - Depth("1m", None).from_us(NOW, None) == 731 * DAY_US
    reach = NOW - Depth("1m", None).from_us(NOW, 8 * DAY_US)
    assert 7 * DAY_US < reach < 8 * DAY_US, "still within when its turn comes"


def test_holes_come_first_then_days_and_symbols_that_miss_the_same_go_together() -> None:
    day_grid = Grid(calendar("24/7"), "1d")
    days = Series("A", "1d", day_grid, BEGIN - 100 * DAY_US, BEGIN)
    days.look(days.from_us, BEGIN, NOTHING, np.empty(0, np.bool_), Answers.none(), NOTHING)
    every = [days, series("A"), series("B"), series("C", missing=False)]
    before = {"1m": NOW, "1d": NOW}
    found = tasks(every, NOW, before, BEGIN - DAY_US, {})
    assert [(task.series.symbol, task.series.interval, task.purpose) for task in found] == [
        ("A", "1m", Purpose.HEAL), ("B", "1m", Purpose.HEAL), ("A", "1d", Purpose.HEAL),
    ]  # fmt: skip
    offer = BarsOffer("1m", 5_000, symbols=8)
    stretch = page(found[0], offer, NOW)
    assert stretch == (BEGIN, BEGIN + HOUR_US)
    request, chosen = together(found[0], found[1:], stretch, offer, 100)
    assert request.symbols == ("A", "B")
    assert len(chosen) == 2
    assert together(found[0], found[1:], stretch, offer, 1)[0].symbols == ("A",)
    left_alone = tasks(every, NOW, before, BEGIN - DAY_US, {}, heal=False)
    assert [task.purpose for task in left_alone] == [Purpose.HISTORY]


def test_a_page_is_as_large_as_the_vendor_allows_and_bridges_what_is_there() -> None:
    one = series(hours=24)
    one.settle(BEGIN + HOUR_US, BEGIN + 23 * HOUR_US)
    [task] = tasks([one], NOW + DAY_US, {"1m": NOW + DAY_US}, BEGIN, {})
    assert page(task, BarsOffer("1m", 5_000), NOW) == (BEGIN, BEGIN + DAY_US), "one request for both gaps"
    assert page(task, BarsOffer("1m", 100), NOW) == (BEGIN + 23 * HOUR_US, BEGIN + DAY_US)
    assert page(task, BarsOffer("1m", 30), NOW) == (BEGIN + DAY_US - 30 * MINUTE_US, BEGIN + DAY_US)
    assert page(task, BarsOffer("1m", 5_000, page_us=2 * HOUR_US), NOW)[0] == BEGIN + 23 * HOUR_US
    wide = page(task, BarsOffer("1m", 5_000), NOW, overlap=40)
    assert wide == (BEGIN - 40 * MINUTE_US, BEGIN + DAY_US)

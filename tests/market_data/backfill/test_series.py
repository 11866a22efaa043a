"""What is missing, and the requests cut out of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tickerplant.core.coverage import Answers
from tickerplant.core.schemas import ANSWERED, NO_DATA, OUTAGE
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, FOREVER_US, HOUR_US, MINUTE_US
from tickerplant.market_data.backfill.planner import Agenda, Task, page, task_of, together
from tickerplant.market_data.backfill.series import Depth, Grid, Series
from tickerplant.market_data.vendors.port import BarsOffer
from tickerplant.market_data.vendors.rate_limits import Purpose

NOW = 1_767_700_200_000_000
BEGIN = NOW - NOW % DAY_US
NOTHING = np.empty(0, np.int64)
GRID = Grid(calendar("24/7"), "1m")


def series(symbol: str = "A", hours: float = 1.0, *, missing: bool = True) -> Series:
    end = BEGIN + int(hours * HOUR_US)
    one = Series(symbol, "1m", GRID)
    have = NOTHING if missing else GRID.starts(BEGIN, end)
    one.look(BEGIN, end, have, np.ones(len(have), np.bool_), Answers.none(), NOTHING)
    return one


def answers(*rows: tuple[int, int, str, int]) -> Answers:
    return Answers(
        np.array([BEGIN + row[0] * MINUTE_US for row in rows], np.int64),
        np.array([BEGIN + row[1] * MINUTE_US for row in rows], np.int64),
        [row[2] for row in rows], ["v"] * len(rows), [""] * len(rows), np.array([row[3] for row in rows], np.int64),
    )  # fmt: skip


def minutes(one: Series) -> list[int]:
    return ((one.missing(0, FOREVER_US) - BEGIN) // MINUTE_US).tolist()


def ready(one: Series) -> list[tuple[int, int]]:
    return [((a - BEGIN) // MINUTE_US, (b - BEGIN) // MINUTE_US) for a, b in one.ready(NOW, 0, FOREVER_US)]


def test_missing_is_what_is_expected_and_neither_whole_nor_silent_nor_answered() -> None:
    one = Series("A", "1m", GRID)
    have = BEGIN + np.arange(10) * MINUTE_US
    complete = np.arange(10) != 3
    silent = BEGIN + np.array([20, 21]) * MINUTE_US
    told = answers((30, 40, ANSWERED, 0), (40, 45, NO_DATA, 0), (45, 50, OUTAGE, NOW + 1), (50, 55, NO_DATA, NOW + 2))
    one.look(BEGIN, BEGIN + HOUR_US, have, complete, told, silent)
    assert minutes(one) == [3, *range(10, 20), *range(22, 30), *range(45, 60)]
    assert ready(one) == [(3, 4), (10, 20), (22, 30), (45, 50), (55, 60)], "an outage binds nothing"
    assert one.due_us(NOW, FOREVER_US) == NOW + 2
    assert one.counts(NOW, FOREVER_US) == (34, 5)
    assert one.counts(NOW, BEGIN + 52 * MINUTE_US) == (26, 2)


def test_a_later_look_replaces_its_stretch_alone() -> None:
    one = series()
    one.look(BEGIN, BEGIN + 10 * MINUTE_US, GRID.starts(BEGIN, BEGIN + 10 * MINUTE_US), np.ones(10, np.bool_),
             Answers.none(), NOTHING)  # fmt: skip
    assert minutes(one) == [*range(10, 60)]
    one.settle(BEGIN + 10 * MINUTE_US, BEGIN + 50 * MINUTE_US, BEGIN + np.array([12]) * MINUTE_US)
    assert minutes(one) == [12, *range(50, 60)]
    one.defer(BEGIN, BEGIN + 55 * MINUTE_US, NOW + 5, NOW)
    assert ready(one) == [(55, 60)]
    assert one.due_us(NOW, FOREVER_US) == NOW + 5
    one.defer(BEGIN, BEGIN + HOUR_US, None, NOW)
    assert minutes(one) == [12, *range(50, 55)], "what waits stays"


@given(st.data())
def test_runs_say_what_single_starts_would(data: st.DataObject) -> None:
    grid = Grid(calendar("XNYS"), "1m")
    begin, hours = BEGIN - 5 * DAY_US, 7 * 24
    every = grid.starts(begin, begin + hours * HOUR_US).tolist()
    one, single = Series("A", "1m", grid), dict[int, int]()
    moment = st.integers(begin // MINUTE_US, begin // MINUTE_US + hours * 60).map(lambda m: m * MINUTE_US)
    odd = st.sampled_from([0, 0, 0, 17_000_000])
    for _ in range(data.draw(st.integers(1, 12))):
        a, b = sorted((data.draw(moment) + data.draw(odd), data.draw(moment) + data.draw(odd)))
        inside = [us for us in every if a <= us < b]
        match data.draw(st.sampled_from(["look", "settle", "defer"])):
            case "look":
                step = data.draw(st.integers(1, 50))
                have = np.array(inside[::step], np.int64)
                one.look(a, b, have, np.ones(len(have), np.bool_), Answers.none(), NOTHING)
                single = {us: again for us, again in single.items() if us not in inside}
                single |= dict.fromkeys(sorted(set(inside) - set(inside[::step])), 0)
            case "settle":
                keep = inside[len(inside) // 2 :][:1]
                one.settle(a, b, np.array(keep, np.int64))
                single = {us: again for us, again in single.items() if us not in inside or us in keep}
            case "defer":
                again_us = data.draw(st.sampled_from([None, NOW + 1, NOW + 2]))
                one.defer(a, b, again_us, NOW)
                mine = {us for us in inside if single.get(us, FOREVER_US) <= NOW}
                single = {us: again_us if us in mine else again for us, again in single.items()
                          if us not in mine or again_us is not None}  # fmt: skip
        assert one.missing(0, FOREVER_US).tolist() == sorted(single)
        found = [us for a, b in one.ready(NOW, 0, FOREVER_US) for us in grid.starts(a, b).tolist()]
        assert found == sorted(us for us, again in single.items() if again <= NOW)
        for a, b in one.ready(NOW, 0, FOREVER_US):
            assert a in single
            assert b - MINUTE_US in single
        limit = data.draw(moment)
        waiting = [again for us, again in single.items() if us < limit and again > NOW]
        assert one.counts(NOW, limit) == (sum(us < limit for us in single), len(waiting))
        assert one.due_us(NOW, limit) == min(waiting, default=None)


def test_only_what_is_wanted_is_and_new_is_what_was_not() -> None:
    one = Series("A", "1m", GRID)
    assert one.want(100, 200) == [(100, 200)]
    assert one.want(120, 230) == [(200, 230)]
    assert one.want(10, 20) == [(10, 20)], "an order of the past makes nothing wanted between"
    assert one.want(15, 120) == [(20, 100)]
    assert one.want(10, 230) == []
    assert one.want(0, 300) == [(0, 10), (230, 300)]


def test_ten_years_of_which_nothing_is_there_are_one_run() -> None:
    for name, interval, days in (("XNYS", "1m", 700), ("XNYS", "1d", 3_600), ("24/7", "5m", 700)):
        one = Series("A", interval, Grid(calendar(name), interval))
        one.look(NOW - days * DAY_US, NOW, NOTHING, np.empty(0, np.bool_), Answers.none(), NOTHING)
        assert len(one.ready(NOW, 0, NOW)) == 1


def test_max_goes_as_far_as_vendors_and_no_further_than_is_kept() -> None:
    assert Depth("1d", 30).from_us(NOW, None) == NOW - 30 * DAY_US
    assert NOW - Depth("1m", None).from_us(NOW, None) == 731 * DAY_US
    reach = NOW - Depth("1m", None).from_us(NOW, 8 * DAY_US)
    assert 7 * DAY_US < reach < 8 * DAY_US, "still within when its turn comes"


def agenda_of(every: list[Series], *, heal: bool = True) -> list[Task]:
    agenda, found = Agenda(), []
    for one in every:
        agenda.put(one, task_of(one, NOW, NOW, BEGIN - DAY_US, heal=heal))
    while (task := agenda.best()) is not None:
        found.append(task)
        agenda.put(task.series, None)
    return found


def test_holes_come_first_then_days_and_symbols_that_miss_the_same_go_together() -> None:
    day_grid = Grid(calendar("24/7"), "1d")
    days = Series("A", "1d", day_grid)
    days.look(BEGIN - 100 * DAY_US, BEGIN, NOTHING, np.empty(0, np.bool_), Answers.none(), NOTHING)
    every = [days, series("A"), series("B"), series("C", missing=False)]
    found = agenda_of(every)
    assert [(task.series.symbol, task.series.interval, task.purpose) for task in found] == [
        ("A", "1m", Purpose.GAP_FILL), ("B", "1m", Purpose.GAP_FILL), ("A", "1d", Purpose.GAP_FILL),
    ]  # fmt: skip
    offer = BarsOffer("1m", 5_000, symbols=8)
    stretch = page(found[0], offer, NOW)
    assert stretch == (BEGIN, BEGIN + HOUR_US)
    agenda = Agenda()
    for task in found:
        agenda.put(task.series, task)
    assert [task.series.symbol for task in agenda.like(found[0], *stretch)] == ["B"]
    request, chosen = together(found[0], found[1:2], stretch, offer, 100)
    assert request.symbols == ("A", "B")
    assert len(chosen) == 2
    assert together(found[0], found[1:2], stretch, offer, 1)[0].symbols == ("A",)
    assert together(found[0], found[1:2], stretch, offer, 9, lambda _: False)[0].symbols == ("A",)
    left_alone = agenda_of(every, heal=False)
    assert [task.purpose for task in left_alone] == [Purpose.HISTORY]


def test_an_agenda_forgets_what_a_series_wanted_before() -> None:
    one, other, agenda = series("A"), series("B"), Agenda()
    agenda.put(one, task_of(one, NOW, NOW, 0))
    agenda.put(other, task_of(other, NOW, NOW, 0))
    one.settle(BEGIN + 30 * MINUTE_US, BEGIN + HOUR_US)
    agenda.put(one, task_of(one, NOW, NOW, 0))
    best = agenda.best()
    assert best is not None
    assert best.series is other, "the newest minutes first"
    agenda.put(other, None)
    best = agenda.best()
    assert best is not None
    assert (best.series, best.to_us) == (one, BEGIN + 30 * MINUTE_US)
    assert len(agenda) == 1


def test_a_page_is_as_large_as_the_vendor_allows_and_bridges_what_is_there() -> None:
    one = series(hours=24)
    one.settle(BEGIN + HOUR_US, BEGIN + 23 * HOUR_US)
    task = task_of(one, NOW, NOW + DAY_US, BEGIN)
    assert task is not None
    assert page(task, BarsOffer("1m", 5_000), NOW) == (BEGIN, BEGIN + DAY_US), "one request for both gaps"
    assert page(task, BarsOffer("1m", 100), NOW) == (BEGIN + 23 * HOUR_US, BEGIN + DAY_US)
    assert page(task, BarsOffer("1m", 30), NOW) == (BEGIN + DAY_US - 30 * MINUTE_US, BEGIN + DAY_US)
    assert page(task, BarsOffer("1m", 5_000, page_us=2 * HOUR_US), NOW)[0] == BEGIN + 23 * HOUR_US
    wide = page(task, BarsOffer("1m", 5_000), NOW, overlap=40)
    assert wide == (BEGIN - 40 * MINUTE_US, BEGIN + DAY_US)

"""The missing bars of a series, and the ranges that can be requested."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.market_data.backfill.support import BEGIN, GRID, NOTHING, NOW, series
from tickerplant.core.coverage import Answers
from tickerplant.core.schemas import ANSWERED, NO_DATA, OUTAGE
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, FOREVER_US, HOUR_US, MINUTE_US
from tickerplant.market_data.backfill.series import Grid, Series


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


def test_expected_bars_are_missing_unless_complete_or_not_traded_or_answered() -> None:
    one = Series("A", "1m", GRID)
    have = BEGIN + np.arange(10) * MINUTE_US
    complete = np.arange(10) != 3
    silent = BEGIN + np.array([20, 21]) * MINUTE_US
    answered = answers(
        (30, 40, ANSWERED, 0), (40, 45, NO_DATA, 0), (45, 50, OUTAGE, NOW + 1), (50, 55, NO_DATA, NOW + 2)
    )
    one.update(BEGIN, BEGIN + HOUR_US, (have, complete), answered, silent)
    assert minutes(one) == [3, *range(10, 20), *range(22, 30), *range(45, 60)]
    assert ready(one) == [(3, 4), (10, 20), (22, 30), (45, 50), (55, 60)], (
        "an answer record of an outage must not postpone a request"
    )
    assert one.due_us(NOW, FOREVER_US) == NOW + 2
    assert one.counts(NOW, FOREVER_US) == (34, 5)
    assert one.counts(NOW, BEGIN + 52 * MINUTE_US) == (26, 2)


def test_ranges_in_which_a_full_disk_stopped_the_feed_are_known_until_another_answer_replaces_them() -> None:
    one, nothing = Series("A", "1m", GRID), (NOTHING, NOTHING.astype(np.bool_))
    paused = answers((10, 20, OUTAGE, 0), (30, 40, OUTAGE, 0))
    paused.note[:] = ["disk: less than 256 MiB were free", "the vendor was unavailable"]
    one.update(BEGIN, BEGIN + HOUR_US, nothing, paused, NOTHING)

    def parts(start: int, end: int) -> list[tuple[int, int, bool]]:
        found = one.by_pause(BEGIN + start * MINUTE_US, BEGIN + end * MINUTE_US)
        return [((a - BEGIN) // MINUTE_US, (b - BEGIN) // MINUTE_US, is_paused) for a, b, is_paused in found]

    assert parts(0, 60) == [(0, 10, False), (10, 20, True), (20, 60, False)]
    assert parts(12, 15) == [(12, 15, True)]
    assert parts(40, 60) == [(40, 60, False)]
    one.update(BEGIN, BEGIN + 15 * MINUTE_US, nothing, answers(), NOTHING)
    assert parts(0, 60) == [(0, 15, False), (15, 20, True), (20, 60, False)]


def test_an_update_replaces_its_range_only() -> None:
    one = series()
    one.update(BEGIN, BEGIN + 10 * MINUTE_US, (GRID.starts(BEGIN, BEGIN + 10 * MINUTE_US), np.ones(10, np.bool_)),
               Answers.none(), NOTHING)  # fmt: skip
    assert minutes(one) == [*range(10, 60)]
    one.mark_answered(BEGIN + 10 * MINUTE_US, BEGIN + 50 * MINUTE_US, BEGIN + np.array([12]) * MINUTE_US)
    assert minutes(one) == [12, *range(50, 60)]
    one.defer(BEGIN, BEGIN + 55 * MINUTE_US, NOW + 5, NOW)
    assert ready(one) == [(55, 60)]
    assert one.due_us(NOW, FOREVER_US) == NOW + 5
    one.defer(BEGIN, BEGIN + HOUR_US, None, NOW)
    assert minutes(one) == [12, *range(50, 55)], "bars that are postponed to a later time must stay missing"


@given(st.data())
def test_ranges_equal_a_model_of_single_bars(data: st.DataObject) -> None:
    grid = Grid(calendar("XNYS"), "1m")
    begin, hours = BEGIN - 5 * DAY_US, 7 * 24
    every = grid.starts(begin, begin + hours * HOUR_US).tolist()
    one, single = Series("A", "1m", grid), dict[int, int]()
    moment = st.integers(begin // MINUTE_US, begin // MINUTE_US + hours * 60).map(lambda m: m * MINUTE_US)
    odd = st.sampled_from([0, 0, 0, 17_000_000])
    for _ in range(data.draw(st.integers(1, 12))):
        a, b = sorted((data.draw(moment) + data.draw(odd), data.draw(moment) + data.draw(odd)))
        inside = [us for us in every if a <= us < b]
        match data.draw(st.sampled_from(["update", "answer", "defer"])):
            case "update":
                step = data.draw(st.integers(1, 50))
                have = np.array(inside[::step], np.int64)
                one.update(a, b, (have, np.ones(len(have), np.bool_)), Answers.none(), NOTHING)
                single = {us: again for us, again in single.items() if us not in inside}
                single |= dict.fromkeys(sorted(set(inside) - set(inside[::step])), 0)
            case "answer":
                keep = inside[len(inside) // 2 :][:1]
                one.mark_answered(a, b, np.array(keep, np.int64))
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


def test_extend_returns_the_new_parts_of_the_range() -> None:
    one = Series("A", "1m", GRID)
    assert one.extend(100, 200) == [(100, 200)]
    assert one.extend(120, 230) == [(200, 230)]
    assert one.extend(10, 20) == [(10, 20)], "an older range must not include the time up to the known range"
    assert one.extend(15, 120) == [(20, 100)]
    assert one.extend(10, 230) == []
    assert one.extend(0, 300) == [(0, 10), (230, 300)]


def test_ten_years_without_a_bar_are_one_range() -> None:
    for name, interval, days in (("XNYS", "1m", 700), ("XNYS", "1d", 3_600), ("24/7", "5m", 700)):
        one = Series("A", interval, Grid(calendar(name), interval))
        one.update(NOW - days * DAY_US, NOW, (NOTHING, np.empty(0, np.bool_)), Answers.none(), NOTHING)
        assert len(one.ready(NOW, 0, NOW)) == 1

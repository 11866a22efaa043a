"""Requests for missing bars, ordered by priority."""

from __future__ import annotations

import numpy as np

from tests.market_data.backfill.support import BEGIN, NOTHING, NOW, series
from tickerplant.core.coverage import Answers
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US
from tickerplant.market_data.backfill.planner import Task, TaskQueue, newest_page, next_task, shared_request
from tickerplant.market_data.backfill.series import Grid, Series
from tickerplant.market_data.vendors.port import BarsOffer
from tickerplant.market_data.vendors.rate_limits import Purpose


def ranked_tasks(every: list[Series], *, fill_gaps: bool = True) -> list[Task]:
    queue, found = TaskQueue(), []
    for one in every:
        queue.put(one, next_task(one, NOW, NOW, BEGIN - DAY_US, fill_gaps=fill_gaps))
    while (task := queue.best()) is not None:
        found.append(task)
        queue.put(task.series, None)
    return found


def test_gaps_are_requested_first_and_symbols_with_the_same_gap_share_a_request() -> None:
    day_grid = Grid(calendar("24/7"), "1d")
    days = Series("A", "1d", day_grid)
    days.update(BEGIN - 100 * DAY_US, BEGIN, (NOTHING, np.empty(0, np.bool_)), Answers.none(), NOTHING)
    every = [days, series("A"), series("B"), series("C", missing=False)]
    found = ranked_tasks(every)
    assert [(task.series.symbol, task.series.interval, task.purpose) for task in found] == [
        ("A", "1m", Purpose.GAP_FILL), ("B", "1m", Purpose.GAP_FILL), ("A", "1d", Purpose.GAP_FILL),
    ]  # fmt: skip
    offer = BarsOffer("1m", 5_000, symbols=8)
    span = newest_page(found[0], offer, NOW)
    assert span == (BEGIN, BEGIN + HOUR_US)
    queue = TaskQueue()
    for task in found:
        queue.put(task.series, task)
    assert [task.series.symbol for task in queue.similar(found[0], *span)] == ["B"]
    request, chosen = shared_request(found[0], found[1:2], span, offer, 100)
    assert request.symbols == ("A", "B")
    assert len(chosen) == 2
    assert shared_request(found[0], found[1:2], span, offer, 1)[0].symbols == ("A",)
    assert shared_request(found[0], found[1:2], span, offer, 9, lambda _: False)[0].symbols == ("A",)
    history = ranked_tasks(every, fill_gaps=False)
    assert [task.purpose for task in history] == [Purpose.HISTORY]


def test_a_new_task_of_a_series_replaces_the_old_one() -> None:
    one, other, queue = series("A"), series("B"), TaskQueue()
    queue.put(one, next_task(one, NOW, NOW, 0))
    queue.put(other, next_task(other, NOW, NOW, 0))
    one.mark_answered(BEGIN + 30 * MINUTE_US, BEGIN + HOUR_US)
    queue.put(one, next_task(one, NOW, NOW, 0))
    best = queue.best()
    assert best is not None
    assert best.series is other, "the task with the newest minutes is not the first"
    queue.put(other, None)
    best = queue.best()
    assert best is not None
    assert (best.series, best.end_us) == (one, BEGIN + 30 * MINUTE_US)
    assert len(queue) == 1


def test_a_page_is_as_large_as_the_offer_and_spans_stored_bars() -> None:
    one = series(hours=24)
    one.mark_answered(BEGIN + HOUR_US, BEGIN + 23 * HOUR_US)
    task = next_task(one, NOW, NOW + DAY_US, BEGIN)
    assert task is not None
    assert newest_page(task, BarsOffer("1m", 5_000), NOW) == (BEGIN, BEGIN + DAY_US), (
        "the page does not contain both gaps"
    )
    assert newest_page(task, BarsOffer("1m", 100), NOW) == (BEGIN + 23 * HOUR_US, BEGIN + DAY_US)
    assert newest_page(task, BarsOffer("1m", 30), NOW) == (BEGIN + DAY_US - 30 * MINUTE_US, BEGIN + DAY_US)
    assert newest_page(task, BarsOffer("1m", 5_000, page_us=2 * HOUR_US), NOW)[0] == BEGIN + 23 * HOUR_US
    wide = newest_page(task, BarsOffer("1m", 5_000), NOW, overlap=40)
    assert wide == (BEGIN - 40 * MINUTE_US, BEGIN + DAY_US)

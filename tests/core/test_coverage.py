"""Expected bars and their statuses."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import pytest

from tickerplant.core import coverage
from tickerplant.core.coverage import Answers, classify, expected, status_ranges
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, datetime_of, micros_of


def us(*parts: int) -> int:
    return micros_of(dt.datetime(*parts, tzinfo=dt.UTC))


NOTHING = np.empty(0, np.int64)
DAY = us(2026, 6, 15)  # a Monday
OPEN, CLOSE = DAY + 13 * HOUR_US + 30 * MINUTE_US, DAY + 20 * HOUR_US


@pytest.mark.parametrize(
    ("name", "interval", "day", "bars", "first", "last"),
    [
        ("XNYS", "1m", (2026, 6, 15), 390, "13:30", "19:59"),
        ("XNYS", "5m", (2026, 6, 15), 78, "13:30", "19:55"),
        ("XNYS", "1m", (2026, 11, 27), 210, "14:30", "17:59"),  # the half day after Thanksgiving, in winter time
        ("XHKG", "1m", (2026, 6, 15), 330, "01:30", "07:59"),  # with a lunch break
        ("24/7", "1m", (2026, 6, 14), 1440, "00:00", "23:59"),
    ],
)
def test_a_session_has_a_bar_for_each_interval_of_its_regular_hours(
    name: str, interval: str, day: tuple[int, int, int], bars: int, first: str, last: str
) -> None:
    starts = expected(calendar(name), interval, us(*day), us(*day) + DAY_US)
    assert len(starts) == bars
    assert np.all(np.diff(starts) > 0)
    assert (f"{datetime_of(int(starts[0])):%H:%M}", f"{datetime_of(int(starts[-1])):%H:%M}") == (first, last)


def test_days_are_the_dates_of_sessions() -> None:
    starts = expected(calendar("XNYS"), "1d", us(2026, 11, 23), us(2026, 11, 30))
    assert [datetime_of(int(at)).day for at in starts] == [23, 24, 25, 27]  # Thanksgiving is the 26th
    assert not len(expected(calendar("XNYS"), "1m", us(2026, 11, 26), us(2026, 11, 27)))
    for name in ("XNYS", "XHKG", "XTKS", "XASX", "24/7"):
        found = expected(calendar(name), "1d", us(2016, 1, 1), us(2026, 1, 1))
        assert np.all(calendar(name).open_of(found) < calendar(name).close_of(found))
        assert len(found) > 2_400


def test_the_bounds_are_half_open() -> None:
    starts = expected(calendar("XNYS"), "1m", OPEN + 1, OPEN + 3 * MINUTE_US)
    assert starts.tolist() == [OPEN + MINUTE_US, OPEN + 2 * MINUTE_US]
    assert not len(expected(calendar("XNYS"), "1m", CLOSE, OPEN))


def test_each_bar_has_one_status_by_the_newest_answer() -> None:
    starts = OPEN + np.arange(10) * MINUTE_US
    answers = Answers(
        np.array([OPEN, OPEN + 2 * MINUTE_US]),
        np.array([OPEN + 5 * MINUTE_US, OPEN + 4 * MINUTE_US]),
        ["quota", "answered"],
        ["a", "b"],
        ["25 a day", ""],
        np.array([CLOSE, 0]),
    )
    found = classify(
        starts,
        starts[[0, 6]],
        np.array([True, False]),
        answers,
        silent=starts[[5]],
        down=starts[[5, 7]],
        over_us=int(starts[9]),
    )
    names = [coverage.STATUSES[code] for code in found.code]
    assert names == [
        "have", "quota", "no_trade", "no_trade", "quota", "no_trade", "partial", "outage", "missing", "pending",
    ]  # fmt: skip
    assert found.counts()["quota"] == 2
    found_ranges = status_ranges(found, "1m", OPEN - MINUTE_US, int(starts[9]) + 2 * MINUTE_US)
    assert [one.status for one in found_ranges][:4] == ["closed", "have", "quota", "no_trade"]
    assert found_ranges[2].note == "25 a day"
    assert found_ranges[2].again_us == CLOSE
    assert all(a.to_us == b.from_us for a, b in itertools.pairwise(found_ranges))
    assert sum(part.bars for part in found_ranges) == 10


def test_nights_are_closed_for_minutes_but_not_for_days() -> None:
    nyse = calendar("XNYS")
    two = (DAY, DAY + 2 * DAY_US)
    starts = expected(nyse, "1m", *two)
    found = classify(
        starts, starts, np.ones(len(starts), np.bool_), Answers.none(), silent=NOTHING, down=NOTHING, over_us=two[1]
    )
    assert [s.status for s in status_ranges(found, "1m", *two)] == ["closed", "have", "closed", "have", "closed"]
    days = expected(nyse, "1d", us(2026, 6, 11), us(2026, 6, 17))
    found = classify(
        days, days, np.ones(len(days), np.bool_), Answers.none(), silent=NOTHING, down=NOTHING, over_us=two[1] * 2
    )
    assert [(s.status, s.bars) for s in status_ranges(found, "1d", us(2026, 6, 11), us(2026, 6, 17))] == [("have", 4)]

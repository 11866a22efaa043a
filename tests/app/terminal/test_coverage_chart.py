"""The coverage chart: the status and the range that each column shows."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from tickerplant.app.terminal.coverage_chart import MARKS, draw
from tickerplant.core.coverage import STATUSES, Statuses, expected
from tickerplant.core.interval import D1, M1
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, micros_of

THURSDAY = micros_of(dt.datetime(2012, 6, 21, tzinfo=dt.UTC))
XNYS, ALWAYS = calendar("XNYS"), calendar("24/7")


def covered(name: str, days: float, *wrong: tuple[int, int, str], interval: str = "1m") -> Statuses:
    """Return the status of each bar: stored, except in the ranges `wrong` of bar numbers, as (first, end, status)."""
    starts = expected(calendar(name), interval, THURSDAY, THURSDAY + int(days * DAY_US))
    code = np.zeros(len(starts), np.int8)
    for first, last, status in wrong:
        code[first:last] = STATUSES.index(status)
    return Statuses(starts, code, np.full(len(starts), -1, np.int32))


def drawn(found: dict[str, Statuses], width: int = 46, interval: str = "1m") -> list[str]:
    calendars = {symbol: ALWAYS if "/" in symbol else XNYS for symbol in found}
    made = draw(found, calendars, M1 if interval == "1m" else D1, width)
    return [f"{line.label} {line.text}" for line in made.lines]


def test_a_column_shows_the_worst_status_of_its_bars() -> None:
    # A column is ten minutes: the session has 390 minutes, and the chart 39 columns.
    day = covered(
        "XNYS", 1, (0, 10, "no_trade"), (15, 16, "partial"), (20, 29, "quota"), (29, 30, "outage"), (30, 40, "outage"),
        (39, 40, "missing"), (40, 49, "partial"), (49, 50, "unavailable"), (385, 390, "pending"),
    )  # fmt: skip
    [line] = drawn({"GOOG": day}, 44)
    assert line == "GOOG ░▒x?u" + "█" * 34
    assert len({mark for mark, _ in MARKS.values()}) == len(MARKS), "the chart must be readable without colours"


def test_a_column_without_gaps_shows_the_most_frequent_status() -> None:
    day = covered("XNYS", 1, (0, 6, "no_trade"), (10, 14, "no_trade"), (384, 390, "pending"))
    [line] = drawn({"GOOG": day}, 44)
    assert line == "GOOG ░" + "█" * 37 + ":"


def test_one_symbol_has_a_line_per_day_with_blanks_for_shorter_sessions() -> None:
    half = micros_of(dt.datetime(2012, 11, 21, tzinfo=dt.UTC))  # the 22nd is Thanksgiving; the 23rd ends at 13:00
    starts = expected(XNYS, "1m", half, half + 3 * DAY_US)
    found = Statuses(starts, np.zeros(len(starts), np.int8), np.full(len(starts), -1, np.int32))
    made = draw({"GOOG": found}, {"GOOG": XNYS}, M1, 15 + 39)
    assert [line.label for line in made.lines] == ["Wed 2012-11-21", "Fri 2012-11-23"]
    assert [line.text for line in made.lines] == ["█" * 39, "█" * 21 + " " * 18]
    assert made.times == ("14:30", "17:45", "21:00")
    assert made.legend == ["have"]


def test_many_symbols_share_one_axis_of_all_open_times() -> None:
    lines = drawn({"AAPL": covered("XNYS", 2), "GOOG": covered("XNYS", 2, (390, 780, "outage"))}, 5 + 41)
    assert lines == ["AAPL " + "█" * 20 + " " + "█" * 20, "GOOG " + "█" * 20 + " " + "x" * 20]
    night = drawn({"A": covered("XNYS", 1), "EUR/USD": covered("24/7", 1)}, 8 + 48)
    assert night == ["A " + " " * 27 + "█" * 13 + " " * 8, "EUR/USD " + "█" * 48]


def test_a_long_range_has_no_blanks_and_a_narrow_terminal_gets_24_columns() -> None:
    year = covered("XNYS", 365, (0, 40_000, "missing"))
    [line] = drawn({"GOOG": year}, 5 + 60)
    assert len(line) == 5 + 60
    assert set(line[5:]) == {"?", "█"}
    [line] = drawn({"GOOG": covered("XNYS", 1)}, 3)
    assert line == "GOOG " + "█" * 24


def test_daily_bars_have_a_line_per_year() -> None:
    made = draw({"GOOG": covered("XNYS", 900, interval="1d")}, {"GOOG": XNYS}, D1, 5 + 61)
    assert [line.label for line in made.lines] == ["2012", "2013", "2014"]
    # A column is six days. The data start in June of the first year and end in December of the last one.
    assert made.lines[1].text == "█" * 61
    assert (made.lines[0].text[:28].strip(), made.lines[2].text[-3:]) == ("", "   ")
    assert made.times == ("January", "July", "December")


@pytest.mark.parametrize("found", [{}, {"GOOG": covered("XNYS", 0.1)}])
def test_a_range_without_expected_bars_has_no_columns(found: dict[str, Statuses]) -> None:
    made = draw(found, {"GOOG": XNYS}, M1, 80)
    assert [line.text for line in made.lines] == [""] * len(found)
    assert (made.times, made.legend) == ((), [])

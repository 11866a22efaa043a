"""Adjustment for splits and dividends, against published examples and a loop over days."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.data import real
from tickerplant.core import schemas
from tickerplant.core.adjustment import (
    Adjustment,
    Closes,
    adjustment_for,
    check_adjustment,
    closes_before,
    dividend_factors,
    ex_dates_of,
    session_starts,
    sessions_before,
    split_factors,
)
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.errors import BadInput
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, FOREVER_US, HOUR_US, micros_of

XNYS = calendar("XNYS")
PRICES = ("open", "high", "low", "close", "vwap")


def day(text: str) -> int:
    return micros_of(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def days(*texts: str) -> np.ndarray:
    return np.array([day(text) for text in texts], dtype=np.int64)


def test_the_vendors_own_example_of_a_split_and_a_dividend() -> None:
    # Yahoo Finance, "What is the adjusted close?": Microsoft's 2-for-1 split of 2003-02-18 and $0.08 of 2003-02-19.
    times = days("2003-02-13", "2003-02-14", "2003-02-18", "2003-02-19")
    closes = np.array([46.99, 48.30, 24.96, 24.53])
    split = split_factors(times, days("2003-02-18"), np.array([2.0]))
    ex = days("2003-02-19")
    dividend = dividend_factors(times, ex, np.array([0.08]), closes_before(times, closes, ex))
    assert dividend[0] == pytest.approx(0.9968, abs=5e-5)
    assert np.round(closes / split * dividend, 2).tolist() == [23.42, 24.07, 24.88, 24.53]


def test_apples_splits_multiply() -> None:
    # apple.com/investor: 2-for-1 on 1987-06-16, 2000-06-21 and 2005-02-28, 7-for-1 on 2014-06-09, 4-for-1 on
    # 2020-08-31. A share of the offering at $22.00 became 224 shares; its split-adjusted price was $0.098.
    effective = days("2014-06-09", "1987-06-16", "2020-08-31", "2000-06-21", "2005-02-28")
    ratios = np.array([7.0, 2.0, 4.0, 2.0, 2.0])
    factors = split_factors(
        days("1980-12-12", "2014-06-06", "2014-06-09", "2020-08-28", "2020-08-31"), effective, ratios
    )
    assert factors.tolist() == [224.0, 28.0, 4.0, 4.0, 1.0]
    assert round(22.00 / factors[0], 2) == 0.10


def test_a_reverse_split_makes_prices_larger_and_sizes_smaller() -> None:
    # General Electric, 1-for-8 on 2021-08-02: $12.95 on 2021-07-30 is $103.60 of the new shares.
    [before, after] = split_factors(days("2021-07-30", "2021-08-02"), days("2021-08-02"), np.array([1 / 8]))
    assert (12.95 / before, 800 * before, after) == (103.6, 100.0, 1.0)


def test_the_order_of_splits_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    effective, ratios = rng.permutation(50), rng.uniform(0.1, 7, 50)
    times, order = np.arange(-5, 60), rng.permutation(50)
    one, other = split_factors(times, effective, ratios), split_factors(times, effective[order], ratios[order])
    assert one.tolist() == other.tolist()
    assert split_factors(times, np.array([], dtype=np.int64), np.array([])).tolist() == [1.0] * len(times)


def test_a_dividend_without_a_smaller_previous_close_changes_nothing() -> None:
    times, closes = np.array([10, 20]), np.array([5.0, 5.0])
    ex = np.array([10, 20])
    before = closes_before(times, closes, ex)
    assert np.isnan(before[0])
    assert before[1] == 5.0
    assert dividend_factors(times, ex, np.array([1.0, 5.0]), before).tolist() == [1.0, 1.0]


def splits(*rows: tuple[int, float, float]) -> pa.Table:
    """Return splits from rows of (session, numerator, denominator)."""
    return pa.table(
        {
            "time": timestamps(np.array([row[0] for row in rows], dtype=np.int64)), "symbol": ["A"] * len(rows),
            "numerator": [row[1] for row in rows], "denominator": [row[2] for row in rows],
            "source": ["test"] * len(rows),
        }
    ).cast(schemas.SPLITS)  # fmt: skip


def dividends(*rows: tuple[int, float]) -> pa.Table:
    """Return dividends from rows of (ex-date, amount)."""
    return pa.table(
        {
            "time": timestamps(np.array([row[0] for row in rows], dtype=np.int64)), "symbol": ["A"] * len(rows),
            "amount": [row[1] for row in rows], "currency": pa.nulls(len(rows), pa.utf8()),
            "source": ["test"] * len(rows),
        }
    ).cast(schemas.DIVIDENDS)  # fmt: skip


def bars(times: np.ndarray, closes: np.ndarray) -> pa.Table:
    columns = {name: pa.array(closes) for name in PRICES}
    return pa.table({"time": timestamps(times), **columns, "volume": np.full(len(times), 100.0), "trades": times})


def daily(adjustment: Adjustment, times: np.ndarray, closes: np.ndarray) -> list[float]:
    made: list[float] = adjustment.bars(bars(times, closes), daily=True).column("close").to_pylist()
    return made


def stored(times: np.ndarray, closes: np.ndarray, ex_dates: np.ndarray) -> Closes:
    """Return the last close before each ex-date among daily bars."""
    at = np.searchsorted(times, ex_dates) - 1
    return Closes(closes_before(times, closes, ex_dates), np.where(at >= 0, times[at], 0))


def test_the_vendors_example_is_reproduced_as_bars() -> None:
    times = days("2003-02-13", "2003-02-14", "2003-02-18", "2003-02-19")
    closes = np.array([46.99, 48.30, 24.96, 24.53])
    split_table, paid = splits((day("2003-02-18"), 2, 1)), dividends((day("2003-02-19"), 0.08))
    before = stored(times, closes, ex_dates_of(paid))
    table = bars(times, closes)
    for_all = adjustment_for(split_table, XNYS, FOREVER_US, paid, before).bars(table, daily=True)
    for name in PRICES:
        assert np.round(for_all.column(name).to_numpy(), 2).tolist() == [23.42, 24.07, 24.88, 24.53]
    assert for_all.column("volume").to_pylist() == [200.0, 200.0, 100.0, 100.0], "dividends do not change volumes"
    assert for_all.column("trades").equals(table.column("trades"))
    assert daily(adjustment_for(split_table, XNYS, FOREVER_US), times, closes) == [23.495, 24.15, 24.96, 24.53]
    assert Adjustment().bars(table, daily=True) is table


def test_two_dividends_of_one_day_are_added_as_in_a_vendors_series() -> None:
    # Microsoft paid $0.08 and $3.00 with the ex-date 2004-11-15. It closed at $29.97 before, and at $27.39 that day.
    times, closes = days("2004-11-12", "2004-11-15"), np.array([29.97, 27.39])
    paid = dividends((day("2004-11-15"), 3.0), (day("2004-11-15"), 0.08))
    made = daily(
        adjustment_for(splits(), XNYS, FOREVER_US, paid, stored(times, closes, ex_dates_of(paid))), times, closes
    )
    assert made == pytest.approx([29.97 - 3.08, 27.39], rel=1e-12)
    have = real("MSFT")
    before, after = (have.adjusted[have.dates.index(date)] for date in ("2004-11-12", "2004-11-15"))
    # The vendor adds the dividend to the close of the ex-date: (27.39 + dividend) / 29.97 is its change of the day.
    assert after / before * 29.97 - 27.39 == pytest.approx(3.08, rel=1e-9)


def test_prices_as_traded_become_a_vendors_series_adjusted_for_splits() -> None:
    # Apple's splits of 2000 and 2005, from its investor relations. It paid no dividend from 1996 to 2012-08-09.
    have = real("AAPL")
    count = have.dates.index("2012-08-09")
    times, traded = days(*have.dates[:count]), np.array([bar[3] for bar in have.bars[:count]])
    split_table = splits((day("2000-06-21"), 2, 1), (day("2005-02-28"), 2, 1))
    found = np.array(daily(adjustment_for(split_table, XNYS, FOREVER_US), times, traded))
    # The vendor's series also contains later events, which multiply all prices by one factor.
    adjusted = np.array(have.adjusted[:count])
    np.testing.assert_allclose(found / found[-1], adjusted / adjusted[-1], rtol=1e-9)
    assert traded[0] / found[0] == pytest.approx(4.0)
    assert found[-1] == traded[-1]


def test_intraday_bars_change_at_the_start_of_the_session() -> None:
    # Apple's 4-for-1 of Monday, 2020-08-31: the session begins at 04:00 in New York, 08:00 UTC.
    begin = day("2020-08-31") + 8 * HOUR_US
    times = np.array([day("2020-08-28") + 20 * HOUR_US, begin - 1, begin, begin + HOUR_US])
    split_table = splits((day("2020-08-31"), 4, 1))
    made = adjustment_for(split_table, XNYS, FOREVER_US).bars(bars(times, np.full(4, 500.0)), daily=False)
    assert made.column("close").to_pylist() == [125.0, 125.0, 500.0, 500.0]
    assert made.column("volume").to_pylist() == [400.0, 400.0, 100.0, 100.0]
    round_the_clock = adjustment_for(split_table, calendar("24/7"), FOREVER_US).bars(
        bars(times, np.full(4, 500.0)), daily=False
    )
    assert round_the_clock.column("close").to_pylist() == [125.0, 500.0, 500.0, 500.0]


def test_a_session_that_has_not_begun_adjusts_nothing() -> None:
    begin = day("2020-08-31") + 8 * HOUR_US
    split_table, paid = splits((day("2020-08-31"), 4, 1)), dividends((day("2020-08-31"), 5.0))
    times, closes = days("2020-08-27", "2020-08-28"), np.array([500.0, 400.0])
    before = stored(times, closes, ex_dates_of(paid))
    assert daily(adjustment_for(split_table, XNYS, begin - 1, paid, before), times, closes) == [500.0, 400.0]
    # The amount is per share after the split, at a close of $100.
    assert daily(adjustment_for(split_table, XNYS, begin, paid, before), times, closes) == [
        pytest.approx(125 * 0.95),
        pytest.approx(95.0),
    ]


def test_nulls_stay_null_and_columns_may_be_missing() -> None:
    times = days("2020-08-27", "2020-08-28", "2020-08-31")
    table = pa.table({"time": timestamps(times), "close": pa.array([None, 400.0, 129.0]), "volume": [0.0, 8.0, 1.0]})
    made = adjustment_for(splits((day("2020-08-31"), 4, 1)), XNYS, FOREVER_US).bars(table, daily=True)
    assert made.column("close").to_pylist() == [None, 100.0, 129.0]
    assert made.column("volume").to_pylist() == [0.0, 32.0, 1.0]
    assert made.schema.names == table.schema.names
    empty = adjustment_for(splits((day("2020-08-31"), 4, 1)), XNYS, FOREVER_US).bars(table.slice(0, 0), daily=True)
    assert empty.num_rows == 0


def test_invalid_splits_and_dividends_above_the_close_are_ignored() -> None:
    times, closes = days("2020-08-27", "2020-08-28"), np.array([50.0, 50.0])
    nonsense = splits((day("2020-08-28"), 0, 1), (day("2020-08-29"), 1, 0), (day("2020-08-30"), np.nan, 1))
    paid = dividends((day("2020-08-28"), 50.0), (day("2020-08-31"), np.nan))
    made = adjustment_for(nonsense, XNYS, FOREVER_US, paid, stored(times, closes, ex_dates_of(paid)))
    assert daily(made, times, closes) == [50.0, 50.0]


def test_sessions_before_respects_weekends_holidays_and_half_days() -> None:
    dates = days("2026-11-30", "2026-11-27", "2026-11-25", "1975-01-06")
    sessions, ends = sessions_before(XNYS, dates)
    assert sessions.tolist() == days("2026-11-27", "2026-11-25", "2026-11-24", "1975-01-05").tolist()
    assert ends.tolist()[:2] == [day("2026-11-27") + 18 * HOUR_US, day("2026-11-25") + 21 * HOUR_US]
    assert ends[3] == dates[3]
    assert sessions_before(calendar("24/7"), dates)[0].tolist() == (dates - DAY_US).tolist()
    # A Saturday has no session in New York. Its start is midnight UTC.
    assert session_starts(XNYS, days("2026-11-28")).tolist() == days("2026-11-28").tolist()


def test_an_adjustment_is_one_of_three() -> None:
    assert [check_adjustment(name) for name in ("none", "splits", "all")] == ["none", "splits", "all"]
    with pytest.raises(BadInput, match="use none, splits or all"):
        check_adjustment("back")


ratios = st.sampled_from([(2, 1), (3, 2), (7, 1), (1, 8), (1, 10), (4, 1)])
events = st.lists(
    st.tuples(st.integers(0, 60), st.one_of(ratios, st.floats(0.01, 80, allow_nan=False))),
    max_size=8,
    unique_by=lambda e: e[0],
)


@given(events, st.randoms(use_true_random=False), st.integers(0, 60))
def test_adjustment_equals_a_loop_from_the_newest_day_to_the_oldest(
    actions: list[tuple[int, tuple[int, int] | float]], random: object, now: int
) -> None:
    times = np.arange(0, 60) * DAY_US
    closes = 50 + 10 * np.sin(np.arange(60))
    kept = [(at, what) for at, what in actions if at <= now]
    expected, factor, shares = [0.0] * 60, 1.0, 1.0
    for at in range(59, -1, -1):  # from the newest day to the oldest, as in a spreadsheet
        expected[at] = closes[at] * factor / shares
        for _, what in ((e, w) for e, w in kept if e == at and at > 0):
            if isinstance(what, tuple):
                shares *= what[0] / what[1]
            elif what < closes[at - 1]:
                factor *= 1 - what / closes[at - 1]
    # An event after the last day affects all days.
    late = [what for at, what in kept if at == 60]
    for what in late:
        if isinstance(what, tuple):
            expected = [value / (what[0] / what[1]) for value in expected]
        elif what < closes[-1]:
            expected = [value * (1 - what / closes[-1]) for value in expected]
    random.shuffle(actions)  # type: ignore[attr-defined]
    split_rows = splits(*((at * DAY_US, *what) for at, what in actions if isinstance(what, tuple)))
    paid = dividends(*((at * DAY_US, what) for at, what in actions if not isinstance(what, tuple)))
    before = stored(times, closes, ex_dates_of(paid))
    made = adjustment_for(split_rows, calendar("24/7"), now * DAY_US, paid, before)
    np.testing.assert_allclose(daily(made, times, closes), expected, rtol=1e-12)
    one_way = adjustment_for(split_rows, calendar("24/7"), now * DAY_US).bars(bars(times, closes), daily=True)
    turnover = one_way.column("close").to_numpy() * one_way.column("volume").to_numpy()
    np.testing.assert_allclose(turnover, closes * 100, rtol=1e-12, err_msg="splits do not change turnover")

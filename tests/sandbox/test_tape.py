"""The market as traded: splits, dividends, sessions and the bar that is forming."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US, WEEK_US, micros_of
from tickerplant.sandbox.corporate_actions import ALL, ANCHOR_US, SPLITS, NewSplit, Tape, session_of
from tickerplant.sandbox.model import Market, MarketSettings

NOW = micros_of(dt.datetime(2026, 9, 23, 12, 34, 56, tzinfo=dt.UTC))
MIDNIGHT = NOW // DAY_US * DAY_US


def tape(sessions: str = "always", rate: float = 6.0, splits: tuple[NewSplit, ...] = ()) -> Tape:
    return Tape(Market(MarketSettings(("AAPL", "BTC/USD", "EUR/USD"), rate, sessions=sessions)), splits)


def test_of_today_it_is_the_model_s() -> None:
    found = tape()
    bars = found.bars("AAPL", NOW - HOUR_US, NOW, MINUTE_US, NOW)
    model = found.market.bars(
        "AAPL", NOW // MINUTE_US * MINUTE_US - 59 * MINUTE_US, NOW // MINUTE_US * MINUTE_US, MINUTE_US
    )
    assert bars.close[:-1].tolist() == model.close.tolist()
    assert (
        found.prints(NOW - SECOND_US, NOW).prices.tolist() == found.market.prints(NOW - SECOND_US, NOW).prices.tolist()
    )


@pytest.mark.parametrize("length", [MINUTE_US, HOUR_US, DAY_US])
def test_the_bar_that_is_forming_ends_now(length: int) -> None:
    found = tape()
    bar = found.bars("AAPL", NOW // length * length, NOW, length, NOW)
    prints = found.prints(NOW // length * length, NOW)
    mine = prints.prices[prints.codes == 0]
    assert (bar.open[0], bar.close[0]) == (mine[0], mine[-1])
    later = found.bars("AAPL", NOW // length * length, NOW, length, NOW + length)
    assert later.volume[0] > bar.volume[0]
    assert len(found.bars("AAPL", NOW + 1, NOW + DAY_US, length, NOW).close) == 0


def test_prints_and_bars_agree_across_a_split() -> None:
    found = tape()
    split = found.splits("AAPL", 0, NOW)[-1]
    ratio = split.numerator / split.denominator
    prints = found.prints(split.us - MINUTE_US, split.us + MINUTE_US)
    mine = prints.codes == 0
    bars = found.bars("AAPL", split.us - MINUTE_US, split.us + MINUTE_US, MINUTE_US, NOW)
    assert bars.close[0] == prints.prices[mine & (prints.times_us < split.us)][-1]
    assert bars.close[1] == prints.prices[mine][-1]
    assert bars.close[0] / bars.close[1] == pytest.approx(ratio, rel=0.02)
    adjusted = found.bars("AAPL", split.us - MINUTE_US, split.us + MINUTE_US, MINUTE_US, NOW, adjust=SPLITS)
    assert adjusted.close[0] == pytest.approx(bars.close[0] / ratio)
    assert adjusted.volume[0] == pytest.approx(bars.volume[0] * ratio, abs=1)


def test_a_split_is_not_known_before_its_day() -> None:
    found = tape(splits=(NewSplit("AAPL", dt.date(2026, 9, 24), 4),))
    tomorrow = MIDNIGHT + DAY_US
    before = found.bars("AAPL", NOW - HOUR_US, NOW, MINUTE_US, NOW, adjust=SPLITS)
    raw = found.bars("AAPL", NOW - HOUR_US, NOW, MINUTE_US, NOW)
    assert before.close.tolist() == raw.close.tolist()
    assert tomorrow not in [split.us for split in found.splits("AAPL", 0, NOW)]
    after = found.bars("AAPL", NOW - HOUR_US, NOW, MINUTE_US, tomorrow, adjust=SPLITS)
    assert after.close[:-1] == pytest.approx(raw.close[:-1] / 4)
    prints = found.prints(tomorrow - 10 * SECOND_US, tomorrow + 10 * SECOND_US)
    mine = prints.codes == 0
    early, late = (prints.prices[mine & side] for side in (prints.times_us < tomorrow, prints.times_us >= tomorrow))
    assert early[-1] / late[0] == pytest.approx(4, rel=0.01)


def test_adjusted_for_all_a_dividend_leaves_no_step() -> None:
    found = tape()
    paid = found.dividends("AAPL", ANCHOR_US, NOW)[0]
    at = np.array([paid.us - DAY_US, paid.us], np.int64)
    factor = found.dividend_factor("AAPL", at, paid.us + DAY_US)
    close = found.bars("AAPL", paid.us - DAY_US, paid.us, DAY_US, NOW).close[-1]
    assert factor.tolist() == pytest.approx([1 - paid.amount / close, 1])
    both = found.bars("AAPL", paid.us - DAY_US, paid.us + DAY_US, DAY_US, paid.us + DAY_US, adjust=ALL)
    assert both.close[0] == pytest.approx(close - paid.amount)


def test_actions_are_a_seed_s() -> None:
    assert tape().splits("AAPL", 0, NOW) == tape().splits("AAPL", 0, NOW) != []
    assert tape().dividends("AAPL", 0, NOW) == tape().dividends("AAPL", 0, NOW)
    assert tape().splits("EUR/USD", 0, NOW) == tape().dividends("BTC/USD", 0, NOW) == []
    assert all(dt.date(1970, 1, 1) + dt.timedelta(split.us // DAY_US) for split in tape().splits("AAPL", 0, NOW))


def test_weeks_and_months_are_made_of_days() -> None:
    found = tape()
    monday = MIDNIGHT - 2 * DAY_US
    days = found.bars("AAPL", monday - WEEK_US, monday, DAY_US, NOW)
    week = found.bars("AAPL", monday - WEEK_US, monday, WEEK_US, NOW)
    assert week.starts_us.tolist() == [monday - WEEK_US]
    assert (week.open[0], week.high[0], week.close[0]) == (days.open[0], days.high.max(), days.close[-1])
    months = found.months("AAPL", NOW - 90 * DAY_US, NOW, 1, NOW)
    assert [dt.datetime.fromtimestamp(us / 1e6, dt.UTC).day for us in months.starts_us.tolist()] == [1] * 4


def test_in_sessions_days_are_sessions_and_hours_begin_with_them() -> None:
    found = tape("us")
    opens, closes = session_of(MIDNIGHT - DAY_US)
    assert closes - opens == 390 * MINUTE_US
    hours = found.bars("AAPL", MIDNIGHT - DAY_US, MIDNIGHT, HOUR_US, NOW)
    assert hours.starts_us.tolist() == [opens + at * HOUR_US for at in range(7)]
    minutes = found.bars("AAPL", opens, closes, MINUTE_US, NOW)
    assert hours.close[-1] == minutes.close[-1]
    assert hours.volume.sum() == minutes.volume.sum()
    day = found.bars("AAPL", MIDNIGHT - DAY_US, MIDNIGHT, DAY_US, NOW)
    assert day.starts_us.tolist() == [MIDNIGHT - DAY_US]
    assert (day.open[0], day.close[0], day.volume[0]) == (minutes.open[0], minutes.close[-1], minutes.volume.sum())
    week = found.bars("AAPL", MIDNIGHT - 9 * DAY_US, MIDNIGHT - 2 * DAY_US, DAY_US, NOW)
    assert len(week.close) == 5


def test_what_is_hidden_is_not_known() -> None:
    found = tape()
    assert not found.without(["AAPL"]).knows("AAPL")
    assert found.knows("AAPL")

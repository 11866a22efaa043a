"""The market as traded: splits, dividends, sessions and the forming bar."""

from __future__ import annotations

import datetime as dt

import pytest

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US, WEEK_US, micros_of
from tickerplant.protocols.market import FOR_ALL, FOR_SPLITS
from tickerplant.sandbox.corporate_actions import ANCHOR_US, ScheduledSplit, TradedMarket
from tickerplant.sandbox.hours import session_of
from tickerplant.sandbox.market_view import MarketView
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket

NOW = micros_of(dt.datetime(2026, 9, 23, 12, 34, 56, tzinfo=dt.UTC))
MIDNIGHT = NOW // DAY_US * DAY_US


def traded(sessions: str = "always", rate: float = 6.0, splits: tuple[ScheduledSplit, ...] = ()) -> TradedMarket:
    return TradedMarket(
        SimulatedMarket(MarketSettings(("AAPL", "BTC/USD", "EUR/USD"), rate, sessions=sessions)), splits
    )


def test_without_splits_prices_equal_the_model_s() -> None:
    found = traded()
    bars = found.bars("AAPL", NOW - HOUR_US, NOW, MINUTE_US, NOW)
    model = found.model.bars(
        "AAPL", NOW // MINUTE_US * MINUTE_US - 59 * MINUTE_US, NOW // MINUTE_US * MINUTE_US, MINUTE_US
    )
    assert bars.close[:-1].tolist() == model.close.tolist()
    assert (
        found.trades(NOW - SECOND_US, NOW).prices.tolist() == found.model.trades(NOW - SECOND_US, NOW).prices.tolist()
    )


@pytest.mark.parametrize("length", [MINUTE_US, HOUR_US, DAY_US])
def test_the_forming_bar_ends_now(length: int) -> None:
    found = traded()
    bar = found.bars("AAPL", NOW // length * length, NOW, length, NOW)
    trades = found.trades(NOW // length * length, NOW)
    mine = trades.prices[trades.codes == 0]
    assert (bar.open[0], bar.close[0]) == (mine[0], mine[-1])
    later = found.bars("AAPL", NOW // length * length, NOW, length, NOW + length)
    assert later.volume[0] > bar.volume[0]
    assert len(found.bars("AAPL", NOW + 1, NOW + DAY_US, length, NOW).close) == 0


def test_trades_and_bars_agree_across_a_split() -> None:
    found = traded()
    split = found.splits("AAPL", 0, NOW)[-1]
    ratio = split.numerator / split.denominator
    trades = found.trades(split.us - MINUTE_US, split.us + MINUTE_US)
    mine = trades.codes == 0
    bars = found.bars("AAPL", split.us - MINUTE_US, split.us + MINUTE_US, MINUTE_US, NOW)
    assert bars.close[0] == trades.prices[mine & (trades.times_us < split.us)][-1]
    assert bars.close[1] == trades.prices[mine][-1]
    assert bars.close[0] / bars.close[1] == pytest.approx(ratio, rel=0.02)
    adjusted = found.bars("AAPL", split.us - MINUTE_US, split.us + MINUTE_US, MINUTE_US, NOW, adjustment=FOR_SPLITS)
    assert adjusted.close[0] == pytest.approx(bars.close[0] / ratio)
    assert adjusted.volume[0] == pytest.approx(bars.volume[0] * ratio, abs=1)


def test_a_split_is_invisible_before_its_day() -> None:
    found = traded(splits=(ScheduledSplit("AAPL", dt.date(2026, 9, 24), 4),))
    tomorrow = MIDNIGHT + DAY_US
    before = found.bars("AAPL", NOW - HOUR_US, NOW, MINUTE_US, NOW, adjustment=FOR_SPLITS)
    raw = found.bars("AAPL", NOW - HOUR_US, NOW, MINUTE_US, NOW)
    assert before.close.tolist() == raw.close.tolist()
    assert tomorrow not in [split.us for split in found.splits("AAPL", 0, NOW)]
    after = found.bars("AAPL", NOW - HOUR_US, NOW, MINUTE_US, tomorrow, adjustment=FOR_SPLITS)
    assert after.close[:-1] == pytest.approx(raw.close[:-1] / 4)
    trades = found.trades(tomorrow - 10 * SECOND_US, tomorrow + 10 * SECOND_US)
    mine = trades.codes == 0
    early, late = (trades.prices[mine & side] for side in (trades.times_us < tomorrow, trades.times_us >= tomorrow))
    assert early[-1] / late[0] == pytest.approx(4, rel=0.01)


def test_full_adjustment_removes_the_gap_of_a_dividend() -> None:
    found = traded()
    paid = found.dividends("AAPL", ANCHOR_US, NOW)[0]
    close = found.bars("AAPL", paid.us - DAY_US, paid.us, DAY_US, NOW).close[-1]
    both = found.bars("AAPL", paid.us - DAY_US, paid.us + DAY_US, DAY_US, paid.us + DAY_US, adjustment=FOR_ALL)
    assert both.close[0] == pytest.approx(close - paid.amount)


def test_the_same_seed_gives_the_same_actions() -> None:
    assert traded().splits("AAPL", 0, NOW) == traded().splits("AAPL", 0, NOW) != []
    assert traded().dividends("AAPL", 0, NOW) == traded().dividends("AAPL", 0, NOW)
    assert traded().splits("EUR/USD", 0, NOW) == traded().dividends("BTC/USD", 0, NOW) == []
    assert all(dt.date(1970, 1, 1) + dt.timedelta(split.us // DAY_US) for split in traded().splits("AAPL", 0, NOW))


def test_weeks_and_months_are_built_from_days() -> None:
    found = traded()
    monday = MIDNIGHT - 2 * DAY_US
    days = found.bars("AAPL", monday - WEEK_US, monday, DAY_US, NOW)
    week = found.bars("AAPL", monday - WEEK_US, monday, WEEK_US, NOW)
    assert week.starts_us.tolist() == [monday - WEEK_US]
    assert (week.open[0], week.high[0], week.close[0]) == (days.open[0], days.high.max(), days.close[-1])
    months = found.month_bars("AAPL", NOW - 90 * DAY_US, NOW, 1, NOW)
    assert [dt.datetime.fromtimestamp(us / 1e6, dt.UTC).day for us in months.starts_us.tolist()] == [1] * 4


def test_with_sessions_days_are_sessions_and_hours_are_aligned_to_them() -> None:
    found = traded("us")
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


def test_a_hidden_symbol_is_unknown() -> None:
    found = traded()
    view = MarketView(found, NOW, {"AAPL"})
    assert view.find("AAPL") is None
    assert [each.symbol for each in view.instruments] == ["BTC/USD", "EUR/USD"]
    assert MarketView(found, NOW).find("AAPL") is not None

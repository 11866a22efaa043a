"""The calendar FX: days from 17:00 to 17:00 New York, weeks from Sunday evening to Friday evening."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tickerplant.core.rules import DEFAULT_RULES, FX_CALENDARS, Rules
from tickerplant.core.sessions import NO_SESSION, Calendars, calendar, matches
from tickerplant.core.times import DAY_US, datetime_of, micros_of

FX = calendar("FX")
NEW_YORK = ZoneInfo("America/New_York")


def utc(text: str) -> int:
    return micros_of(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


@pytest.mark.parametrize(
    ("time", "date"),
    [
        ("2024-03-08T21:59:59", "2024-03-08"),  # winter: New York is at UTC-5, and 17:00 is 22:00 UTC
        ("2024-03-08T22:00:00", None),  # Friday 17:00: the week is over
        ("2024-03-09T12:00:00", None),
        ("2024-03-10T20:59:59", None),  # summer time began that morning: Sunday 17:00 is 21:00 UTC
        ("2024-03-10T21:00:00", "2024-03-11"),
        ("2024-03-11T20:59:59", "2024-03-11"),
        ("2024-03-11T21:00:00", "2024-03-12"),
        ("2024-11-01T20:59:59", "2024-11-01"),
        ("2024-11-03T21:30:00", None),  # summer time ended that morning
        ("2024-11-03T22:00:00", "2024-11-04"),
        ("2024-12-25T15:00:00", "2024-12-25"),
        ("1999-12-31T12:00:00", "1999-12-31"),
        ("2038-01-19T12:00:00", "2038-01-19"),
    ],
)
def test_the_trading_day_changes_at_17_00_new_york(time: str, date: str | None) -> None:
    (session,) = FX.session_of(np.array([utc(time)])).tolist()
    assert session == (NO_SESSION if date is None else utc(date))
    assert FX.is_regular(np.array([utc(time)])).tolist() == [date is not None]


def test_every_session_is_24_hours_and_a_week_has_five() -> None:
    # Summer time changes on Sunday mornings, between two sessions.
    days = np.arange(utc("2010-01-04"), utc("2030-01-07"), DAY_US)
    dates = days[[datetime_of(day).weekday() < 5 for day in days.tolist()]]
    opens, closes = FX.open_of(dates), FX.close_of(dates)
    assert ((closes - opens) == DAY_US).all()
    assert len(dates) == 5 * len(days) // 7
    for at in range(0, len(dates), 97):
        assert datetime_of(int(closes[at])).astimezone(NEW_YORK).hour == 17
    with pytest.raises(ValueError, match="not sessions of FX"):
        FX.open_of(np.array([utc("2024-03-10")]))


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("EUR/USD", "FX"), ("XAU/USD", "FX"), ("USD/CNH", "FX"), ("BTC/USD", "24/7"), ("ETH/BTC", "24/7"),
        ("EUR/USDT", "24/7"), ("eur/usd", "24/7"), ("EURUSD", "XNYS"), ("BTCUSDT", "24/7"), ("AAPL", "XNYS"),
        ("EUR/USD/X", "24/7"),
    ],
)  # fmt: skip
def test_a_new_log_has_the_trading_day_of_foreign_exchange_for_pairs_of_currencies(symbol: str, name: str) -> None:
    assert Calendars(Rules(calendars=FX_CALENDARS)).of(symbol).name == name
    assert Calendars(DEFAULT_RULES).of(symbol).name == ("24/7" if name == "FX" else name)


def test_currency_is_part_of_any_pattern() -> None:
    assert matches("EUR.FX", "{currency}.F?")
    assert matches("C:EURUSD", "C:{currency}{currency}")
    assert not matches("C:EURBTC", "C:{currency}{currency}")
    assert not matches("EUR/USD1", "{currency}/{currency}")

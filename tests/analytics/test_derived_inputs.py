"""The inputs `vwap` and `session`, and the values that replace missing inputs, in the stage and in `compute`."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from tests.analytics.support import T0, Bar, bars, consumed, consumed_bars
from tickerplant.analytics import compute
from tickerplant.analytics.derived_inputs import SessionNumbers
from tickerplant.analytics.stage import AnalyticsStage
from tickerplant.core import records
from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.times import DAY_US, MINUTE_US, micros_of


def utc(text: str) -> int:
    return micros_of(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def day(text: str) -> float:
    return utc(text) / DAY_US


def numbers(symbols: list[str], moments: list[str], *, by_date: bool = False) -> list[float]:
    times = np.array([utc(text) for text in moments])
    rows = np.arange(len(symbols))
    return SessionNumbers(DEFAULT_RULES).of(rows, symbols, times, np.full(len(rows), by_date)).tolist()


def test_sessions_follow_the_calendar_of_the_symbol() -> None:
    # 2012-06-21 was a Thursday. New York's extended hours are 04:00 to 20:00, which is 08:00 to 24:00 UTC.
    made = numbers(
        ["AAPL", "AAPL", "BTC/USD", "MSFT"], ["2012-06-21T13:30", "2012-06-21T23:59"] + ["2012-06-21T23:59"] * 2
    )
    assert made == [day("2012-06-21")] * 4
    assert numbers(["BTC/USD"], ["2012-06-24T12:00"]) == [day("2012-06-24")]  # a Sunday


def test_a_time_between_two_sessions_has_a_session_number_of_its_own() -> None:
    assert numbers(["AAPL", "AAPL"], ["2012-06-21T02:00", "2012-06-24T12:00"]) == [
        day("2012-06-21") + 0.5,
        day("2012-06-24") + 0.5,
    ]


def test_a_daily_bar_belongs_to_its_date_under_any_calendar() -> None:
    assert numbers(["AAPL", "BTC/USD"], ["2012-06-21T00:00"] * 2, by_date=True) == [day("2012-06-21")] * 2


def test_symbols_added_later_have_their_own_calendars() -> None:
    sessions, times = SessionNumbers(DEFAULT_RULES), np.array([utc("2012-06-24T12:00")])
    plain = np.zeros(1, dtype=np.bool_)
    assert sessions.of(np.array([0]), ["AAPL"], times, plain)[0] % 1 == 0.5
    assert sessions.of(np.array([1]), ["AAPL", "BTC/USD"], times, plain)[0] % 1 == 0


def test_an_unknown_calendar_is_refused() -> None:
    with pytest.raises(ConfigError, match="NOWHERE"):
        SessionNumbers(Rules(calendars={"*": "NOWHERE"}))


def rows(moments: list[str], closes: list[float], interval: str = "1m") -> list[Bar]:
    return [Bar(utc(text), "AAPL", x, interval=interval) for text, x in zip(moments, closes, strict=True)]


def values(given: list[Bar], interval: str = "1m") -> list[float]:
    stage = AnalyticsStage()
    settings = {"indicators": {interval: ["VWAP"]}, "forming_indicators": []}
    stage.step(consumed(records.Settings(sent_at_us=T0, values=settings)))
    made = [records.decode(output.value).batch for output in stage.step(consumed_bars(given))]
    return [row["vwap"] for batch in made for row in batch.to_pylist()]


def test_the_vwap_restarts_with_each_session() -> None:
    moments = ["2012-06-21T13:30", "2012-06-21T19:59", "2012-06-22T02:00", "2012-06-22T13:30", "2012-06-22T13:31"]
    assert values(rows(moments, [1.0, 3.0, 10.0, 5.0, 6.0])) == [1.0, 2.0, 10.0, 5.0, 5.5]


def test_a_snapshot_within_a_session_and_a_revision_after_it_change_nothing() -> None:
    given = rows([f"2012-06-21T13:{30 + i}" for i in range(6)], [1.0, 3.0, 2.0, 7.0, 5.0, 4.0])
    revised = given[1]._replace(close=9.0, version=2)
    settings = {"indicators": {"1m": ["VWAP", "ADX(2)@wilder"]}, "forming_indicators": ["VWAP"]}
    whole, cut = AnalyticsStage(), AnalyticsStage()
    for stage in (whole, cut):
        stage.step(consumed(records.Settings(sent_at_us=T0, values=settings)))
        stage.step(consumed_bars(given[:3]))
    cut = AnalyticsStage(cut.snapshot())
    expected = compute({"vwap": [1.0, 9.0, 2.0, 7.0, 5.0, 4.0], "volume": [1.0] * 6, "session": [0] * 6}, "VWAP")[
        "vwap"
    ]
    for stage in (whole, cut):
        stage.step(consumed_bars(given[3:]))
        (output,) = stage.step(consumed_bars([revised]))
        assert [row["vwap"] for row in records.decode(output.value).batch.to_pylist()] == expected[1:].tolist()
    assert whole.snapshot() == cut.snapshot()


def test_a_snapshot_keeps_the_order_of_the_calendars() -> None:
    # Sorted, `*` would precede `B*`, and 05:00 UTC (01:00 in New York) would be in no session of BTC.
    calendars = {"B*": "24/7", "*": "XNYS"}
    settings = {"indicators": {"1m": ["VWAP"]}, "forming_indicators": [], "calendars": calendars}
    stage = AnalyticsStage()
    stage.step(consumed(records.Settings(sent_at_us=T0, values=settings)))
    stage = AnalyticsStage(stage.snapshot())
    assert list(stage.engine.rules.calendars) == ["B*", "*"]
    given = [Bar(utc(text), "BTC", x) for text, x in (("2012-06-21T05:00", 1.0), ("2012-06-21T13:30", 3.0))]
    made = [records.decode(output.value).batch for output in stage.step(consumed_bars(given))]
    assert [row["vwap"] for batch in made for row in batch.to_pylist()] == [1.0, 2.0]


def test_the_vwap_indicator_of_a_daily_bar_covers_that_bar_only() -> None:
    assert values(rows(["2012-06-21T00:00", "2012-06-22T00:00"], [1.0, 3.0], "1d"), "1d") == [1.0, 3.0]


def test_the_typical_price_replaces_a_missing_vwap() -> None:
    batch = bars(rows(["2012-06-21T13:30", "2012-06-21T13:31"], [1.0, 3.0]))
    batch = batch.set_column(3, batch.schema.field("open"), pa.array([1.0, 3.0]))
    batch = batch.set_column(4, batch.schema.field("high"), pa.array([1.0, 6.0]))
    batch = batch.set_column(8, batch.schema.field("vwap"), pa.array([2.0, None], pa.float64()))
    stage = AnalyticsStage()
    settings = {"indicators": {"1m": ["VWAP"]}, "forming_indicators": ["VWAP"]}
    stage.step(consumed(records.Settings(sent_at_us=T0, values=settings)))
    (output,) = stage.step(consumed(records.Bars(sent_at_us=T0, feed="f", cause=1), batch))
    assert [row["vwap"] for row in records.decode(output.value).batch.to_pylist()] == [2.0, 3.0]


def test_compute_derives_a_missing_session_from_the_utc_date_and_a_missing_vwap_from_prices() -> None:
    moments = np.array([T0 // DAY_US * DAY_US + i * 700 * MINUTE_US for i in range(4)])
    columns = {
        "high": [2.0, 3.0, 4.0, 9.0],
        "low": [1.0, 1.0, 4.0, 3.0],
        "close": [1.5, 2.0, 4.0, 6.0],
        "volume": [1.0, 1.0, 2.0, 1.0],
    }
    expected = [1.5, 1.75, 2.875, 6.0]
    for times in (moments, moments.astype("datetime64[us]"), pa.array(moments, pa.timestamp("us", "UTC")).to_pylist()):
        if isinstance(times, list):
            times = [moment.replace(tzinfo=None) for moment in times]
        assert compute({**columns, "time": times}, "VWAP")["vwap"].tolist() == expected
    table = pa.table({**columns, "time": pa.array(moments, pa.timestamp("us", "UTC"))})
    assert compute(table, "VWAP")["vwap"].to_pylist() == expected
    assert compute({**columns, "session": [1, 1, 2, 3]}, "VWAP")["vwap"].tolist() == [1.5, 1.75, 4.0, 6.0]
    partly = {**columns, "time": moments, "vwap": [1.0, np.nan, 4.0, 6.0]}
    assert compute(partly, "VWAP")["vwap"].tolist() == [1.0, 1.5, 2.75, 6.0]


def test_a_missing_column_of_a_derived_input_is_named() -> None:
    with pytest.raises(BadInput, match="needs the column 'time'"):
        compute({"vwap": [1.0], "volume": [1.0]}, "VWAP")
    with pytest.raises(BadInput, match="needs the column 'low'"):
        compute({"high": [1.0], "volume": [1.0], "time": [0]}, "VWAP")

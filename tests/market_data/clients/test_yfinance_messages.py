from __future__ import annotations

import dataclasses
import datetime as dt
import json

import numpy as np
import pytest

from tests.market_data.clients.canned import golden
from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, Float64Array, iso, micros_of
from tickerplant.market_data.clients.yahoo.messages import (
    DELAY_US,
    NOTHING,
    Answer,
    Columns,
    Splits,
    dividend_currencies,
    error_of,
    raise_error,
    read_columns,
    yahoo_symbol,
)
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import BarsRequest

OPEN_US = micros_of(dt.datetime(2021, 9, 16, 13, 30, tzinfo=dt.UTC))
EASTERN_US = -4 * HOUR_US


def columns(times_s: list[int], price: list[float], volume: list[float] | None = None, **others: object) -> Columns:
    time = OPEN_US + np.array(times_s, np.int64) * 1_000_000
    prices: Float64Array = np.array(price, np.float32).astype(np.float64)
    none = np.zeros(len(time))
    volumes = np.array(volume if volume is not None else [100.0] * len(time))
    made = Columns(time, time + EASTERN_US, prices, prices, prices, prices, volumes, none, none, "USD", None)
    return dataclasses.replace(made, **others)  # type: ignore[arg-type]


def read(found: Columns, interval: str = "1m", splits: Splits | None = None, now_us: int = OPEN_US + DAY_US) -> Answer:
    request = BarsRequest(("AAPL",), interval, OPEN_US - DAY_US, OPEN_US + HOUR_US)
    answer = read_columns(found, request, now_us, splits or Splits(), "yahoo")
    for batch in (answer.bars, answer.splits, answer.dividends):
        batch.validate(full=True)
    return answer


def test_a_float32_price_is_restored_to_its_decimal() -> None:
    prices = [148.735, 0.12345678, 42123.57, 1.18463, 3.3333333]
    found = read(columns([0, 60, 120, 180, 240], prices)).bars["close"].to_pylist()
    assert found[:4] == prices[:4]
    assert found[4] == pytest.approx(3.3333333, rel=6e-8)


def test_prices_and_volumes_before_a_split_are_unadjusted() -> None:
    day = (OPEN_US + EASTERN_US) // DAY_US * DAY_US
    splits = Splits(np.array([day + DAY_US, day + 9 * DAY_US, day]), np.array([4.0, 0.5, 7.0]))
    bars = read(columns([0, 60], [124.8075, 124.31], [4000.0, 401.0]), splits=splits).bars
    assert bars["close"].to_pylist() == [249.615, 248.62]
    assert bars["volume"].to_pylist() == [2000.0, 200.0]  # rounded half to even


def test_rows_without_a_price_and_off_the_grid_are_left_out() -> None:
    found = columns([0, 60, 120, 147], [1.0, np.nan, 3.0, 4.0], [1.0, np.nan, np.nan, 0.0])
    bars = read(found).bars
    assert [(at - OPEN_US) // MINUTE_US for at in times_of(bars["time"])] == [0, 2]
    assert bars["volume"].to_pylist() == [1.0, 0.0]


def test_hours_that_begin_at_half_past_are_not_offered() -> None:
    found = columns([0, 3600, 7200], [1.0, 2.0, 3.0])
    with pytest.raises(errors.NotEntitled):
        read(found, "1h")
    assert read(columns([7200], [1.0]), "1h").bars.num_rows == 0  # a single row may be the live row


def test_a_bar_is_finished_by_the_market_time_of_the_vendor() -> None:
    found = columns([0, 60, 120], [1.0, 2.0, 3.0], market_us=OPEN_US + 150_000_000)
    assert read(found, now_us=OPEN_US + 119_999_999).bars.num_rows == 1
    late = read(found, now_us=OPEN_US + 900_000_000)  # quotes of this vendor are 15 minutes late
    assert late.bars.num_rows == 2
    assert late.until_us == OPEN_US + 120_000_000
    quiet = read(found, now_us=OPEN_US + 180_000_000 + DELAY_US)  # no trade since the market time
    assert quiet.bars.num_rows == 3
    assert quiet.until_us == OPEN_US + 180_000_000
    assert read(dataclasses.replace(found, market_us=None), now_us=OPEN_US + DELAY_US + 60_000_000).bars.num_rows == 1


def test_a_daily_bar_before_1970_keeps_its_date() -> None:
    # Yahoo stamps the session of 1962-01-02 with -252322200: 2,921 days before 1970, at 14:30 UTC.
    at = np.array([-252_322_200_000_000])
    found = dataclasses.replace(columns([0], [1.0]), time=at, local=at - 5 * HOUR_US)
    request = BarsRequest(("KO",), "1d", -2_930 * DAY_US, -2_900 * DAY_US)
    (bar,) = read_columns(found, request, OPEN_US, Splits(), "yahoo").bars.to_pylist()
    assert iso(bar["time"]) == "1962-01-02T00:00:00Z"


def test_a_daily_bar_has_the_date_of_the_exchange_and_is_finished_at_the_end_of_the_utc_day() -> None:
    # The session of the 17th in Sydney begins on the 16th in UTC.
    at = np.array([micros_of(dt.datetime(2021, 9, 16, 14, tzinfo=dt.UTC))])
    found = dataclasses.replace(columns([0], [1.0]), time=at, local=at + 10 * HOUR_US)
    day = micros_of(dt.datetime(2021, 9, 17, tzinfo=dt.UTC))
    for now_us, rows in ((day + DAY_US - 1, 0), (day + DAY_US, 1)):
        answer = read_columns(found, BarsRequest(("BHP.AX",), "1d", day, day + DAY_US), now_us, Splits(), "yahoo")
        assert [iso(us) for us in times_of(answer.bars["time"])] == ["2021-09-17T00:00:00Z"][:rows]
        assert answer.until_us == day + rows * DAY_US


def test_splits_are_returned_with_dividends_as_paid() -> None:
    time = OPEN_US + np.arange(-3, 1) * DAY_US
    split, paid = np.array([0.0, 0.0, 4.0, np.nan]), np.array([0.0, 0.205, 0.0, 0.2])
    some = Columns(time, time + EASTERN_US, *[np.ones(4)] * 5, split, paid, "USD")
    splits = Splits().merged_with(some)
    request = BarsRequest(("AAPL",), "1d", int(time[1]), int(time[3]) + 1)
    answer = read_columns(some, request, OPEN_US + 9 * DAY_US, splits, "yahoo")
    days = [iso(us)[:10] for us in time.tolist()]
    assert [
        (iso(micros_of(row["time"]))[:10], row["numerator"], row["denominator"]) for row in answer.splits.to_pylist()
    ] == [(days[2], 4.0, 1.0)]
    assert [
        (iso(micros_of(row["time"]))[:10], row["amount"], row["currency"]) for row in answer.dividends.to_pylist()
    ] == [
        (days[1], 0.82, "USD"),
        (days[3], 0.2, "USD"),
    ]


def test_the_newer_of_two_split_ratios_of_a_day_wins() -> None:
    day = (OPEN_US + EASTERN_US) // DAY_US * DAY_US
    known = Splits(np.array([day, day - DAY_US]), np.array([2.0, 3.0]))
    found = known.merged_with(columns([0], [1.0], splits=np.array([4.0])))
    assert sorted(zip(found.day.tolist(), found.ratio.tolist(), strict=True)) == [(day - DAY_US, 3.0), (day, 4.0)]


def test_an_empty_answer_has_no_rows() -> None:
    answer = read(NOTHING)
    assert (answer.bars.num_rows, answer.splits.num_rows, answer.dividends.num_rows) == (0, 0, 0)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("AAPL", "AAPL"), ("BRK.B", "BRK-B"), ("VOD.L", "VOD.L"), ("^GSPC", "^GSPC"), ("EUR/USD", "EURUSD=X"),
        ("XAU/USD", "XAUUSD=X"), ("BTC/USD", "BTC-USD"), ("BTC/ETH", "BTC-ETH"), ("EURUSD=X", "EURUSD=X"),
    ],
)  # fmt: skip
def test_symbols_are_converted_to_names_of_yahoo(symbol: str, name: str) -> None:
    assert yahoo_symbol(symbol) == name


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("error_unknown", 404, errors.UnknownSymbol),
        ("error_no_data", 400, errors.NoData),
        ("error_lookback", 422, errors.NotEntitled),
        ("error_long", 422, errors.BadRequest),
        ("error_server", 500, errors.VendorDown),
        ("error_new", 404, errors.UnknownSymbol),
    ],
)
def test_a_rejected_chart_is_recognised_by_its_text(name: str, status: int, kind: type[errors.VendorError]) -> None:
    with pytest.raises(kind):
        raise_error(status, golden("yahoo", name))


def test_an_unknown_error_body_raises_nothing_and_an_unknown_text_is_malformed() -> None:
    for body in (b"", b"<html>", b"[]", b'{"chart":{"error":null}}', golden("yahoo", "error_new")):
        raise_error(400, body)
    assert isinstance(error_of(""), errors.NoData)
    assert isinstance(error_of("Short and stout"), errors.Malformed)


def chart(*paid: dict[str, object]) -> bytes:
    events = {"dividends": {str(one["date"]): one for one in paid}}
    return json.dumps({"chart": {"result": [{"events": events}], "error": None}}).encode()


@pytest.mark.parametrize(
    ("event", "prices_in", "amount", "currency"),
    [
        ("GBp", "GBp", 4.5, "GBp"), ("GBP", "GBp", 450.0, "GBp"), ("GBp", "GBP", 0.045, "GBP"),
        ("USD", "GBp", 4.5, "USD/GBp"), ("EUR", "", 4.5, None), (None, "USD", 4.5, "USD"),
    ],
)  # fmt: skip
def test_a_dividend_has_the_currency_of_the_prices_or_both(
    event: str | None, prices_in: str, amount: float, currency: str | None
) -> None:
    # The chart gives a dividend's time as that of the session's open, and its own currency only if it differs.
    midnight = OPEN_US + EASTERN_US - (OPEN_US + EASTERN_US) % DAY_US
    time = np.array([midnight - EASTERN_US])
    paid_in = dividend_currencies(chart({"date": OPEN_US // 1_000_000, "amount": 4.5, "currency": event}))
    found = columns([0], [1.0], time=time, local=time + EASTERN_US, dividends=np.array([4.5]), paid_in=paid_in)
    found = dataclasses.replace(found, currency=prices_in)
    (row,) = read(found, "1d").dividends.to_pylist()
    assert (row["amount"], row["currency"]) == (pytest.approx(amount), currency)


def test_unreadable_events_have_no_currencies() -> None:
    for body in (b"", b"{}", b'{"chart":{"result":null}}', b"[1]", chart({"date": 1e300, "currency": "USD"})):
        assert dividend_currencies(body) == {}

from __future__ import annotations

import datetime as dt

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tests.market_data.clients.canned import golden
from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import DAY_US, FOREVER_US, iso, micros_of
from tickerplant.market_data.clients.alphavantage.messages import (
    Series,
    error_of,
    month_of,
    parse_dividends,
    parse_series,
    parse_splits,
    raise_status,
    without_key,
)
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.columns import terms_of

NOW_US = micros_of(dt.datetime(2024, 3, 1, 3, 30, 20, tzinfo=dt.UTC))  # 22:30 of the previous day in New York
KEY = "K3YK3YK3YK3YK3YK"


def read(name: str, interval: str, from_us: int = -FOREVER_US, to_us: int = FOREVER_US, now_us: int = NOW_US) -> Series:
    found = parse_series(golden("alphavantage", name), "IBM", interval, from_us, to_us, now_us, "alphavantage")
    found.bars.validate(full=True)
    return found


def times(batch: pa.RecordBatch) -> list[str]:
    return [iso(us) for us in times_of(batch["time"]).tolist()]


def test_minutes_are_returned_oldest_first_in_utc() -> None:
    series = read("intraday", "1m")
    assert times(series.bars) == ["2017-12-18T19:56:00Z", "2017-12-18T19:57:00Z"]
    (first, _) = series.bars.to_pylist()
    assert [first[name] for name in ("open", "high", "low", "close", "volume")] == [86.49, 86.5, 86.475, 86.5, 10494.0]
    assert (first["symbol"], first["interval"], first["source"], first["complete"]) == (
        "IBM",
        "1m",
        "alphavantage",
        True,
    )
    assert (series.rows, iso(series.first_us), iso(series.last_us)) == (2, *times(series.bars))


def test_times_before_and_after_a_clock_change_are_converted_to_utc() -> None:
    assert times(read("intraday_summer", "5m").bars) == ["2018-03-09T20:55:00Z", "2018-03-12T13:30:00Z"]


def test_column_names_are_matched_with_any_number_prefix() -> None:
    rows = read("intraday_shifted", "1m").bars.to_pylist()
    assert [(row["open"], row["close"], row["volume"]) for row in rows] == [(86.49, 86.5, 10494.0), (86.5, 86.51, 0.0)]
    assert iso(micros_of(rows[0]["time"])) == "2017-12-18T19:56:00Z"  # this answer has times in UTC


def test_a_daily_bar_has_the_time_midnight_utc() -> None:
    assert times(read("daily", "1d").bars) == ["2017-12-15T00:00:00Z", "2017-12-18T00:00:00Z"]


def test_only_finished_bars_of_the_request_are_returned() -> None:
    at = micros_of(dt.datetime(2017, 12, 18, 19, 57, tzinfo=dt.UTC))
    assert times(read("intraday", "1m", from_us=at).bars) == ["2017-12-18T19:57:00Z"]
    assert times(read("intraday", "1m", to_us=at).bars) == ["2017-12-18T19:56:00Z"]
    assert times(read("intraday", "1m", now_us=at + 59_999_999).bars) == ["2017-12-18T19:56:00Z"]
    assert times(read("daily", "1d", now_us=micros_of(dt.datetime(2017, 12, 18, 22, tzinfo=dt.UTC))).bars) == [
        "2017-12-15T00:00:00Z"
    ]


def test_splits_have_the_smallest_terms() -> None:
    batch = parse_splits(golden("alphavantage", "splits"), "IBM", 0, FOREVER_US, NOW_US, "alphavantage")
    batch.validate(full=True)
    assert [(iso(micros_of(row["time"]))[:10], row["numerator"], row["denominator"]) for row in batch.to_pylist()] == [
        ("1993-01-04", 1.0, 15.0),
        ("1997-05-28", 2.0, 1.0),
        ("1999-05-27", 2.0, 1.0),
    ]
    assert not parse_splits(golden("alphavantage", "splits"), "IBM", 0, DAY_US, NOW_US, "alphavantage").num_rows


@pytest.mark.parametrize(
    ("ratio", "terms"), [(4.0, (4, 1)), (1.5, (3, 2)), (0.1, (1, 10)), (4 / 3, (4, 3)), (1.05, (21, 20)), (7.0, (7, 1))]
)
def test_the_terms_of_a_split_are_the_smallest_integers(ratio: float, terms: tuple[int, int]) -> None:
    assert terms_of(ratio, 1e-9) == terms
    assert terms_of(np.pi, 1e-12) == (np.pi, 1.0)


def test_each_dividend_has_the_currency_of_its_row() -> None:
    rows = [
        ("2024-05-09", "1.5", "GBP"),
        ("2024-02-08", "3.0", "GBX"),
        ("2023-11-09", "-1", "USD"),
        ("2023-08-09", "2", ""),
    ]
    names = ("ex_dividend_date", "amount", "currency")
    body = msgspec.json.encode({"symbol": "VOD.L", "data": [dict(zip(names, row, strict=True)) for row in rows]})
    batch = parse_dividends(body, "VOD.L", 0, FOREVER_US, NOW_US, "alphavantage")
    assert [(row["amount"], row["currency"]) for row in batch.to_pylist()] == [(2.0, None), (3.0, "GBX"), (1.5, "GBP")]


def test_dividends_without_an_amount_are_left_out() -> None:
    batch = parse_dividends(golden("alphavantage", "dividends"), "IBM", 0, FOREVER_US, NOW_US, "alphavantage")
    batch.validate(full=True)
    assert [(iso(micros_of(row["time"]))[:10], row["amount"], row["currency"]) for row in batch.to_pylist()] == [
        ("2023-11-09", 1.66, None),
        ("2024-02-08", 1.66, None),
    ]


@pytest.mark.parametrize(
    ("name", "kind", "wait_s"),
    [
        ("empty", errors.NoData, None),
        ("error_call", errors.UnknownSymbol, None),
        ("error_key", errors.BadKey, None),
        ("error_function", errors.BadRequest, None),
        ("note_minute", errors.QuotaSpent, 40.0),
        ("information_day", errors.QuotaSpent, 1.5 * 3600 - 20),
        ("information_burst", errors.Burst, 2.0),
        ("information_premium", errors.NotEntitled, None),
        ("information_key", errors.BadKey, None),
        ("information_demo", errors.BadKey, None),
        ("information_unknown", errors.Malformed, None),
        ("global_quote", errors.Malformed, None),
    ],
)
def test_an_error_is_recognised_by_its_text(name: str, kind: type[errors.VendorError], wait_s: float | None) -> None:
    body = golden("alphavantage", name)
    for parse in (parse_splits, parse_dividends):
        with pytest.raises(kind):
            parse(body, "IBM", 0, FOREVER_US, NOW_US, "alphavantage")
    with pytest.raises(kind) as caught:
        read(name, "1d")
    assert caught.value.retry_after_s == wait_s
    assert getattr(caught.value, "daily", False) is (name == "information_day")


def test_the_daily_quota_resets_at_midnight_in_new_york() -> None:
    noon = micros_of(dt.datetime(2024, 3, 9, 17, tzinfo=dt.UTC))  # the following night is an hour shorter
    error = error_of("Information", "rate limit is 25 requests per day", noon)
    assert error.retry_after_s == 12 * 3600
    assert error_of("Information", "rate limit is 25 requests per day", noon + DAY_US).retry_after_s == 11 * 3600


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"3",
        b'{"Meta Data":{}}',
        b'{"Time Series (1min)":3}',
        b'{"Time Series (1min)":{"yesterday":{"1. open":"1"}}}',
        b'{"Time Series (1min)":{"2017-12-18 14:56:00":{"1. open":"x","2. high":"1"}}}',
        b'{"Time Series (5min)":{"2017-12-18 14:56:00":{"1. open":"1"}}}',
        b'{"Meta Data":{"6. Time Zone":"US/Atlantis"},"Time Series (1min)":{"2017-12-18 14:56:00":{"1. open":"1"}}}',
        b'{"Information":{"no":"text"}}',
    ],
)
def test_an_answer_of_unknown_shape_is_malformed(body: bytes) -> None:
    with pytest.raises(errors.Malformed):
        parse_series(body, "IBM", "1m", 0, FOREVER_US, NOW_US, "alphavantage")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, errors.VendorDown),
        (503, errors.VendorDown),
        (429, errors.Burst),
        (403, errors.BadKey),
        (302, errors.Malformed),
    ],
)
def test_a_status_other_than_200_raises_an_error(status: int, kind: type[errors.VendorError]) -> None:
    raise_status(200, b"")
    with pytest.raises(kind, match="service message"):
        raise_status(status, b"service message")


def test_a_key_is_removed_from_every_text() -> None:
    for text in (f"at /query?apikey={KEY}&x=1", f"your API key as {KEY} and", "at ?apikey=other", f"key {KEY}"):
        assert KEY not in without_key(text, KEY)
        assert "other" not in without_key(text, KEY)


def test_a_month_begins_and_ends_at_midnight_in_new_york() -> None:
    name, begin, end = month_of(NOW_US)
    assert (name, iso(begin), iso(end)) == ("2024-02", "2024-02-01T05:00:00Z", "2024-03-01T05:00:00Z")
    assert month_of(end)[0] == "2024-03"
    assert iso(month_of(end)[2]) == "2024-04-01T04:00:00Z"

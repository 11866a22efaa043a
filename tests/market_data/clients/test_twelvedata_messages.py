from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tickerplant.core.times import DAY_US, FOREVER_US, MINUTE_US
from tickerplant.market_data.clients.twelvedata.messages import (
    Asked,
    Series,
    credits_of,
    error_of,
    parse_dividends,
    parse_series,
    parse_splits,
    without_key,
)
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import Credits

GOLDEN = Path(__file__).parents[1] / "golden" / "twelvedata"
NOW_US = 1_767_700_000_000_000
ASKED = Asked(["AAPL"], "1m", 0, FOREVER_US, 5_000)


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes().strip()


def parse(body: bytes, *symbols: str, status: int = 200, interval: str = "1m") -> Series:
    return parse_series(body, status, replace(ASKED, symbols=symbols or ("AAPL",), interval=interval), NOW_US)


def bars(name: str, symbol: str, interval: str) -> list[dict[str, object]]:
    found = parse(golden(name), symbol, interval=interval).found[symbol]
    assert isinstance(found, pa.RecordBatch)
    rows: list[dict[str, object]] = found.to_pylist()
    return rows


def test_bars_are_returned_oldest_first_as_numbers() -> None:
    first, second = bars("series_intraday", "AAPL", "1m")
    assert str(first["time"]) == "2021-09-16 19:58:00+00:00"
    assert [second[k] for k in ("open", "high", "low", "close", "volume")] == [
        148.735,
        148.86,
        148.73,
        148.85001,
        624277.0,
    ]
    assert (second["symbol"], second["interval"], second["source"], second["complete"]) == (
        "AAPL",
        "1m",
        "twelvedata",
        True,
    )


def test_a_daily_bar_has_the_time_midnight_utc() -> None:
    (bar,) = bars("series_daily", "AAPL", "1d")
    assert str(bar["time"]) == "2021-09-16 00:00:00+00:00"


def test_bars_of_currencies_have_the_volume_zero() -> None:
    (bar,) = bars("series_forex", "EUR/USD", "1m")
    assert bar["volume"] == 0.0


def test_forming_bars_and_those_outside_the_request_are_dropped() -> None:
    times = [int(bar["time"].timestamp()) * 1_000_000 for bar in bars("series_intraday", "AAPL", "1m")]  # type: ignore[attr-defined]

    def found(now_us: int, asked: Asked = ASKED) -> int:
        batch = parse_series(golden("series_intraday"), 200, asked, now_us).found["AAPL"]
        assert isinstance(batch, pa.RecordBatch)
        return int(batch.num_rows)

    assert found(times[1] + MINUTE_US) == 2
    assert found(times[1] + MINUTE_US - 1) == 1
    assert found(times[0]) == 0
    assert found(NOW_US, replace(ASKED, start_us=times[1])) == 1
    assert found(NOW_US, replace(ASKED, end_us=times[1])) == 1


def test_a_full_page_covers_the_time_since_its_oldest_bar() -> None:
    whole = parse_series(golden("series_intraday"), 200, replace(ASKED, page=3), NOW_US)
    full = parse_series(golden("series_intraday"), 200, replace(ASKED, page=2), NOW_US)
    assert whole.full_since_us == {}
    first = full.found["AAPL"]["time"][0].value  # type: ignore[index]
    assert full.full_since_us == {"AAPL": first}


def test_a_bar_without_a_price_is_dropped() -> None:
    body = golden("series_intraday").replace(b'"open":"148.72"', b'"open":null')
    assert parse(body).found["AAPL"].num_rows == 1  # type: ignore[union-attr]


def test_in_a_batch_each_symbol_has_its_bars_or_its_error() -> None:
    found = parse(golden("series_batch"), "AAPL", "NIKK", "MSFT").found
    assert found["AAPL"].num_rows == 1  # type: ignore[union-attr]
    assert isinstance(found["NIKK"], errors.UnknownSymbol)
    assert isinstance(found["MSFT"], errors.Malformed)


def test_an_unreadable_symbol_does_not_affect_the_others() -> None:
    body = golden("series_batch").replace(b'"NIKK":{', b'"IBM":{"values":[{"datetime":5}],"x":{}},"NIKK":{')
    found = parse(body, "AAPL", "IBM").found
    assert found["AAPL"].num_rows == 1  # type: ignore[union-attr]
    assert isinstance(found["IBM"], errors.Malformed)


def test_symbols_are_matched_in_every_spelling_of_the_vendor() -> None:
    body = golden("series_batch").replace(b'"AAPL"', b'"RY"')
    found = parse(body, "ry:TSX", "nikk").found
    assert found["ry:TSX"].num_rows == 1  # type: ignore[union-attr]
    assert isinstance(found["nikk"], errors.UnknownSymbol)
    both = parse(body, "RY:TSX", "RY:NYSE").found
    assert all(isinstance(answer, errors.Malformed) for answer in both.values()), (
        "an answer that does not name its exchange was assigned to a symbol"
    )


@pytest.mark.parametrize("status", [200, 400, 429])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("error_interval", errors.BadRequest),
        ("error_minute", errors.QuotaSpent),
        ("error_day", errors.QuotaSpent),
        ("error_burst", errors.Burst),
        ("error_key", errors.BadKey),
        ("error_no_data", errors.NoData),
        ("error_symbol", errors.UnknownSymbol),
        ("error_symbol_missing", errors.UnknownSymbol),
        ("error_plan", errors.NotEntitled),
        ("error_plan_symbol", errors.NotEntitled),
        ("error_server", errors.VendorDown),
    ],
)
def test_an_error_is_recognised_by_its_body_for_every_status(status: int, name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        parse(golden(name), "AAPL", "MSFT", status=status)


def test_a_spent_minute_waits_for_the_next_minute_and_a_day_for_the_next_day() -> None:
    now_us = NOW_US - NOW_US % DAY_US + DAY_US // 2 + 20_000_000
    minute, day = (error_of(429, golden(name).decode(), now_us) for name in ("error_minute", "error_day"))
    assert isinstance(minute, errors.QuotaSpent)
    assert isinstance(day, errors.QuotaSpent)
    assert (minute.retry_after_s, minute.daily) == (40.0, False)
    assert (day.retry_after_s, day.daily) == (12 * 3600 - 20.0, True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.BadKey),
        (403, errors.NotEntitled),
        (414, errors.BadRequest),
        (429, errors.QuotaSpent),
        (408, errors.VendorDown),
        (502, errors.VendorDown),
        (301, errors.Malformed),
    ],
)
def test_an_error_without_a_readable_body_is_recognised_by_its_status(status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        parse(b"<html>nginx</html>", "AAPL", "MSFT", status=status)


@pytest.mark.parametrize("name", ["error_no_data", "error_symbol", "error_plan_symbol"])
def test_an_error_of_a_single_symbol_is_its_result(name: str) -> None:
    assert isinstance(parse(golden(name), status=400).found["AAPL"], errors.VendorError)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"values": 3}', b'{"status":"ok"}'])
def test_an_answer_of_unknown_shape_is_malformed(body: bytes) -> None:
    try:
        found = parse(body).found["AAPL"]
    except errors.Malformed:
        return
    assert isinstance(found, errors.Malformed)


def test_an_answer_without_values_is_no_data() -> None:
    assert isinstance(parse(b'{"meta":{},"values":[],"status":"ok"}').found["AAPL"], errors.NoData)


def test_credits_are_read_from_the_headers() -> None:
    minute = {"api-credits-used": "3", "api-credits-left": "5"}
    assert credits_of(minute) == Credits(3, 5)
    assert credits_of({"api-credits-daily-used": "10", "api-credits-daily-left": "790"}) == Credits(10, 790, daily=True)
    assert credits_of({**minute, "api-credits-daily-left": "790"}) == Credits(3, 5)
    assert credits_of({**minute, "api-credits-daily-left": "0"}) == Credits(None, 0, daily=True)
    assert credits_of({}) == Credits()


def test_splits_and_dividends_are_parsed() -> None:
    splits = parse_splits(golden("splits"), "AAPL", 0, NOW_US).to_pylist()
    assert [(str(row["time"].date()), row["numerator"], row["denominator"]) for row in splits] == [
        ("2014-06-09", 7.0, 1.0),
        ("2020-08-31", 4.0, 1.0),
    ]
    dividends = parse_dividends(golden("dividends"), "AAPL", 0, NOW_US).to_pylist()
    assert [(str(row["time"].date()), row["amount"], row["currency"]) for row in dividends] == [
        ("2020-08-07", 0.82, "USD"),
        ("2021-08-06", 0.22, "USD"),
    ]
    assert parse_splits(golden("splits"), "AAPL", 0, 1).num_rows == 0
    assert parse_dividends(b'{"dividends":[]}', "AAPL", 0, NOW_US).num_rows == 0
    wrong = b'{"dividends":[{"ex_date":"2021-08-06","amount":-1},{"ex_date":"2021-08-06","amount":"inf"}]}'
    assert parse_dividends(wrong, "AAPL", 0, NOW_US).num_rows == 0


@pytest.mark.parametrize(
    ("split", "terms"),
    [
        (b'"description":"1-for-8 split","ratio":8', (1.0, 8.0)),
        (b'"ratio":"0.5"', (2.0, 1.0)),
        (b'"ratio":8', (1.0, 8.0)),
        (b'"from_factor":"3","to_factor":"2"', (3.0, 2.0)),
    ],
)
def test_the_terms_of_a_split_are_found_in_each_field(split: bytes, terms: tuple[float, float]) -> None:
    body = b'{"splits":[{"date":"2020-08-31",' + split + b'},{"date":"2020-09-01"}]}'
    (row,) = parse_splits(body, "A", 0, NOW_US).to_pylist()
    assert (row["numerator"], row["denominator"]) == terms


@pytest.mark.parametrize("body", [b"<html>", b'{"splits":[{"date":"soon","ratio":2}]}', b'{"splits":3}'])
def test_actions_that_cannot_be_read_are_malformed(body: bytes) -> None:
    with pytest.raises(errors.Malformed):
        parse_splits(body, "A", 0, NOW_US)


def test_keys_are_removed() -> None:
    assert "secret" not in without_key("GET /x?apikey=secret&a=1 Authorization: apikey secret")
    assert "secret" not in without_key("you sent 'secret'", "secret")

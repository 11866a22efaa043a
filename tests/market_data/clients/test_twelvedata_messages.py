from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tickerplant.market_data.clients import errors
from tickerplant.market_data.clients.twelvedata_messages import (
    Price,
    QuoteColumns,
    credits_of,
    parse_series,
    read_messages,
    without_key,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "twelvedata"


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes().strip()


def bars(name: str, symbol: str, interval: str) -> list[dict[str, object]]:
    found = parse_series(golden(name), 200, [symbol], interval)[symbol]
    assert isinstance(found, pa.RecordBatch)
    rows: list[dict[str, object]] = found.to_pylist()
    return rows


def test_bars_come_oldest_first_as_numbers() -> None:
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


def test_a_daily_bar_is_stamped_midnight_utc() -> None:
    (bar,) = bars("series_daily", "AAPL", "1d")
    assert str(bar["time"]) == "2021-09-16 00:00:00+00:00"


def test_forex_has_no_volume() -> None:
    (bar,) = bars("series_forex", "EUR/USD", "1m")
    assert bar["volume"] == 0.0


def test_in_a_batch_each_symbol_has_its_bars_or_its_error() -> None:
    found = parse_series(golden("series_batch"), 200, ["AAPL", "NIKK", "MSFT"], "1m")
    assert found["AAPL"].num_rows == 1  # type: ignore[union-attr]
    assert isinstance(found["NIKK"], errors.UnknownSymbol)
    assert isinstance(found["MSFT"], errors.Malformed)


@pytest.mark.parametrize("status", [200, 400, 429])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("error_interval", errors.BadRequest),
        ("error_minute", errors.QuotaSpent),
        ("error_day", errors.QuotaSpent),
        ("error_key", errors.BadKey),
        ("error_no_data", errors.NoData),
        ("error_symbol", errors.UnknownSymbol),
        ("error_server", errors.VendorDown),
    ],
)
def test_an_error_is_told_by_its_body_whatever_the_status(status: int, name: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        parse_series(golden(name), status, ["AAPL", "MSFT"], "1m")


def test_a_spent_minute_is_waited_out_sooner_than_a_spent_day() -> None:
    waits = []
    for name in ("error_minute", "error_day"):
        with pytest.raises(errors.QuotaSpent) as caught:
            parse_series(golden(name), 429, ["A", "B"], "1m")
        waits.append(caught.value.retry_after_s)
    assert waits == [60.0, 3600.0]


def test_of_one_symbol_no_data_is_an_answer() -> None:
    assert isinstance(parse_series(golden("error_no_data"), 400, ["AAPL"], "1m")["AAPL"], errors.NoData)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"values": 3}', b'{"status":"ok"}'])
def test_what_is_none_of_it_is_malformed(body: bytes) -> None:
    try:
        found = parse_series(body, 200, ["AAPL"], "1m")["AAPL"]
    except errors.Malformed:
        return
    assert isinstance(found, errors.Malformed)


def test_a_gateway_that_fails_is_a_vendor_that_is_down() -> None:
    with pytest.raises(errors.VendorDown):
        parse_series(b"<html>Bad Gateway</html>", 502, ["AAPL"], "1m")


def test_credits_are_in_the_headers() -> None:
    assert credits_of({"api-credits-used": "3", "api-credits-left": "5"}).left == 5
    assert credits_of({}).left is None


def test_messages_of_every_shape() -> None:
    names = ["price", "price_metal", "subscribe_ok", "subscribe_warning", "subscribe_null", "subscribe_error"]
    found = read_messages([golden(n) for n in [*names, "unsubscribe", "heartbeat"]])
    assert [p.symbol for p in found.prices] == ["AAPL", "XAU/USD"]
    assert found.prices[1].day_volume is None
    assert [s.status for s in found.statuses] == ["ok", "warning", "ok", "error", "ok"]
    assert found.statuses[1].fails == (("NIKK", "symbol not found"),)
    assert (found.others, found.dead) == (1, [])


def test_garbage_between_prices_costs_only_itself() -> None:
    price = golden("price").decode()
    found = read_messages([price, "{oops", price, '{"event":"price","price":"x"}', "{},{}", "3", price])
    assert len(found.prices) == 3
    assert [row.payload for row in found.dead] == [b"{oops", b'{"event":"price","price":"x"}', b"{},{}", b"3"]


def price(symbol: str, volume: float | None, timestamp: int = 1592249566) -> Price:
    return Price(event="price", symbol=symbol, timestamp=timestamp, price=1.5, day_volume=volume)


def sizes(columns: QuoteColumns, *prices: Price) -> list[float]:
    batch, dead = columns.ticks(prices, 1592249567_000000)
    assert not dead
    result: list[float] = batch["size"].to_pylist()
    return result


def test_the_size_is_the_growth_of_the_days_volume() -> None:
    columns = QuoteColumns()
    assert sizes(columns, price("A", 100), price("B", 10), price("A", 103), price("B", 10)) == [0, 0, 3, 0]
    assert sizes(columns, price("A", None), price("B", 30), price("A", 110)) == [0, 20, 7]


def test_a_volume_that_goes_back_is_late_or_a_new_day() -> None:
    columns = QuoteColumns()
    sizes(columns, price("A", 1000))
    assert sizes(columns, price("A", 990), price("A", 1005)) == [0, 5]
    assert sizes(columns, price("A", 40), price("A", 50)) == [40, 10]


def test_what_was_traded_while_away_belongs_to_no_print() -> None:
    columns = QuoteColumns()
    sizes(columns, price("A", 1000))
    columns.forget_volumes()
    assert sizes(columns, price("A", 5000), price("A", 5001)) == [0, 1]


def test_sizes_do_not_depend_on_the_batches() -> None:
    rng = np.random.default_rng(3)
    volumes = rng.integers(0, 50, 300).cumsum()
    volumes[200:] -= volumes[199]
    prices = [price("ABC"[i % 3], None if i % 17 == 0 else float(volumes[i])) for i in range(300)]
    whole = sizes(QuoteColumns(), *prices)
    columns = QuoteColumns()
    parts = [size for at in range(0, 300, 7) for size in sizes(columns, *prices[at : at + 7])]
    assert whole == parts


def test_a_price_without_a_price_or_a_symbol_is_no_print() -> None:
    columns = QuoteColumns()
    odd = [price("A", 1), Price(event="price", symbol="A"), Price(event="price", symbol="", price=1.0)]
    batch, dead = columns.ticks(odd, 0)
    assert batch.num_rows == 1
    assert len(dead) == 2


def test_a_stamp_is_the_time_only_when_asked_for() -> None:
    message = Price(event="price", symbol="A", timestamp=1592249566, price=1.0, sent_ns=1592249566_123456_000)
    plain, _ = QuoteColumns().ticks([message], 0)
    stamped, _ = QuoteColumns(stamped=True).ticks([message], 0)
    assert plain["time"][0].value == 1592249566_000000
    assert stamped["time"][0].value == 1592249566_123456


def test_keys_are_struck_out() -> None:
    assert "secret" not in without_key("GET /x?apikey=secret&a=1 Authorization: apikey secret")

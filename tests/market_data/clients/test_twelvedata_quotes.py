from __future__ import annotations

from pathlib import Path

import numpy as np

from tickerplant.market_data.clients.twelvedata.quotes import Price, QuoteColumns, read_messages

GOLDEN = Path(__file__).parents[1] / "golden" / "twelvedata"


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes().strip()


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

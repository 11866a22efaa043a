from __future__ import annotations

from pathlib import Path

import numpy as np

from tickerplant.core.arrow_values import times_of
from tickerplant.core.flags import TickFlag
from tickerplant.market_data.clients.twelvedata.quotes import Price, QuoteDecoder, read_messages

GOLDEN = Path(__file__).parents[1] / "golden" / "twelvedata"


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes().strip()


def test_messages_are_sorted_by_kind() -> None:
    names = ["price", "price_metal", "subscribe_ok", "subscribe_warning", "subscribe_null", "subscribe_error"]
    found = read_messages([golden(n) for n in [*names, "unsubscribe", "heartbeat"]])
    assert [p.symbol for p in found.prices] == ["AAPL", "XAU/USD"]
    assert found.prices[1].day_volume is None
    assert [s.status for s in found.statuses] == ["ok", "warning", "ok", "error", "ok"]
    assert found.statuses[1].fails == (("NIKK", "symbol not found"),)
    assert (found.heartbeats, found.others, found.dead) == (1, 0, [])


def test_an_unreadable_message_does_not_affect_the_others() -> None:
    price = golden("price").decode()
    found = read_messages([price, "{oops", price, '{"event":"price","price":"x"}', "{},{}", "3", price])
    assert len(found.prices) == 3
    assert [row.payload for row in found.dead] == [b"{oops", b'{"event":"price","price":"x"}', b"{},{}", b"3"]


def price(symbol: str, volume: float | None, timestamp: int = 1592249566) -> Price:
    return Price(event="price", symbol=symbol, timestamp=timestamp, price=1.5, day_volume=volume)


def sizes(decoder: QuoteDecoder, *prices: Price) -> list[float]:
    found, dead = decoder.columns(prices)
    assert not dead
    result: list[float] = decoder.ticks(found, 1592249567_000000)["size"].to_pylist()
    return result


def test_the_size_of_a_tick_is_the_increase_of_the_volume_of_the_day() -> None:
    decoder = QuoteDecoder()
    assert sizes(decoder, price("A", 100), price("B", 20), price("A", 103), price("B", 20)) == [0, 0, 3, 0]
    assert sizes(decoder, price("A", None), price("B", 40), price("A", 110)) == [0, 20, 7]


def test_a_slightly_lower_volume_is_late_and_a_much_lower_one_starts_a_new_day() -> None:
    decoder = QuoteDecoder()
    sizes(decoder, price("A", 1000))
    assert sizes(decoder, price("A", 990), price("A", 1005)) == [0, 5]
    assert sizes(decoder, price("A", 40), price("A", 50)) == [0, 50]


def test_volume_traded_between_two_connections_belongs_to_no_tick() -> None:
    decoder = QuoteDecoder()
    sizes(decoder, price("A", 1000))
    decoder.forget_volumes()
    assert sizes(decoder, price("A", 5000), price("A", 5001)) == [0, 1]


def test_sizes_do_not_depend_on_the_batch_boundaries() -> None:
    rng = np.random.default_rng(3)
    volumes = rng.integers(0, 50, 300).cumsum()
    volumes[200:] -= volumes[199]
    prices = [price("ABC"[i % 3], None if i % 17 == 0 else float(volumes[i])) for i in range(300)]
    whole = sizes(QuoteDecoder(), *prices)
    decoder = QuoteDecoder()
    parts = [size for at in range(0, 300, 7) for size in sizes(decoder, *prices[at : at + 7])]
    assert whole == parts


def test_a_message_without_a_price_or_a_symbol_is_a_dead_row() -> None:
    decoder = QuoteDecoder()
    odd = [price("A", 1), Price(event="price", symbol="A"), Price(event="price", symbol="", price=1.0)]
    found, dead = decoder.columns(odd)
    assert decoder.ticks(found, 0).num_rows == 1
    assert len(dead) == 2


def test_sent_ns_is_the_time_of_a_tick_only_if_the_decoder_is_stamped() -> None:
    message = Price(event="price", symbol="A", timestamp=1592249566, price=1.0, sent_ns=1592249566_123456_000)
    for decoder, expected in ((QuoteDecoder(), 1592249566_000000), (QuoteDecoder(stamped=True), 1592249566_123456)):
        columns, _ = decoder.columns([message])
        assert decoder.ticks(columns, 0)["time"][0].value == expected


def test_each_tick_has_its_own_arrival_also_if_prints_are_reordered() -> None:
    volumes = (1_000.0, 1_020.0, 1_010.0, 1_030.0)
    messages = [
        Price(event="price", symbol="A", timestamp=1592249566, price=float(at), day_volume=volume)
        for at, volume in enumerate(volumes)
    ]
    decoder = QuoteDecoder()
    columns, _ = decoder.columns(messages)
    batch = decoder.ticks(columns, np.array([10, 20, 30, 40]))
    arrivals = dict(zip(batch["price"].to_pylist(), times_of(batch["received_at"]).tolist(), strict=True))
    assert arrivals == {0.0: 10, 1.0: 20, 2.0: 30, 3.0: 40}


def test_a_print_that_arrives_after_a_later_print_of_its_second_has_an_unknown_size() -> None:
    # The minute would open with the second print. Its first print shows by its volume that it was earlier.
    decoder = QuoteDecoder()
    flags = []
    for message in (price("AAPL", 1_000), price("AAPL", 1_020), price("AAPL", 1_010), price("AAPL", 1_030)):
        columns, _ = decoder.columns([message])
        flags += decoder.ticks(columns, 1592249567_000000)["flags"].to_pylist()
    assert flags == [TickFlag.SIZE_UNKNOWN, 0, TickFlag.SIZE_UNKNOWN, 0]

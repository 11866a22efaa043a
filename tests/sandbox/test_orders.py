"""Orders: how they are read, how long they last, and chaos."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from tickerplant.core.errors import BadInput
from tickerplant.core.times import HOUR_US, SECOND_US
from tickerplant.sandbox.fault_script import LASTING, ONCE, Orders, chaos_of, planned, read_lines, read_order

NOW = 1_790_000_000_000_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("do=nothing", "no order 'nothing'"),
        ("do=429&kind=year", "it takes minute, day, burst"),
        ("do=mute&symbol=AAPL", "it takes heartbeats"),
        ("do=429&vendor=reuters", "no vendor"),
        ("do=late&by=soon", "no number"),
        ("do=cancel", "can say that a trade was cancelled"),
    ],
)
def test_what_cannot_be_ordered_is_said(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_order(text)


def test_an_order_lasts_for_its_time_and_vendor() -> None:
    orders = Orders(NOW, iter(()))
    orders.take(read_order("do=429&vendor=yahoo&kind=day&seconds=5"), NOW)
    assert orders.active("429", "yahoo", NOW + 4 * SECOND_US) is not None
    assert orders.active("429", "yahoo", NOW + 5 * SECOND_US) is None
    assert orders.active("429", "binance", NOW) is None
    orders.take(read_order("do=429&seconds=60"), NOW)
    found = orders.active("429", "yahoo", NOW)
    assert found is not None
    assert found.choice("kind") == "minute"
    for symbol in ("AAPL", "MSFT"):
        orders.take(read_order(f"do=unknown&symbol={symbol}"), NOW)
    assert len(orders.all_active("unknown", "yahoo", NOW)) == 2
    orders.take(read_order("do=clear"), NOW)
    assert orders.shown(NOW) == []


def test_a_script_comes_due_by_the_clock() -> None:
    lines = read_lines("# first\n10 do=mute&seconds=5\n\n2.5 do=disconnect\n")
    orders = Orders(NOW, planned([(at, read_order(text)) for at, text in lines], None))
    assert orders.due(NOW + 2 * SECOND_US) == []
    assert [order.do for order in orders.due(NOW + 3 * SECOND_US)] == ["disconnect"]
    assert [order.do for order in orders.due(NOW + 60 * SECOND_US)] == ["mute"]
    with pytest.raises(BadInput, match="SECONDS ORDER"):
        read_lines("soon do=mute")
    with pytest.raises(BadInput, match="no order"):
        read_lines("5 do=nothing")


def test_chaos_is_every_trouble_and_a_seed_s() -> None:
    def day(seed: int) -> list[tuple[float, object]]:
        return list(itertools.takewhile(lambda entry: entry[0] < 24 * 3_600, chaos_of(seed)))

    assert day(1) == day(1) != day(2)
    counts = Counter(order.do for _, order in day(1))  # type: ignore[attr-defined]
    assert counts.keys() == {*LASTING, *ONCE} - {"premium", "unknown", "refuse", "skew", "split", "clear"}
    assert 240 < counts["disconnect"] < 480
    times = [at for at, _ in day(1)]
    assert times == sorted(times)
    merged = Orders(NOW, planned([(60.0, read_order("do=clear"))], 1)).due(NOW + HOUR_US)
    assert sum(order.do == "clear" for order in merged) == 1

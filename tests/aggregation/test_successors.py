"""After a backfill that ends in the present, the live feed closes the last 5m bar and the daily bar of its symbols."""

from tests.aggregation.plant import at, bars, end, last, mark, run, start, ticks, vendor
from tickerplant.aggregation.stage import AggregationStage

SYMBOLS = ("BTC/USD", "ETH/USD")
MINUTE = 60_000_000
TEN = at("2026-01-05T10:00")


def backfilled() -> tuple[AggregationStage, list[bytes]]:
    """Return a new stage and a log of a live feed and a backfill.

    The live feed starts at 10:02:30. The backfill claims coverage from midnight, has bars of both symbols from 09:55 to
    10:02, and ends.
    """
    minutes = [
        (TEN + n * MINUTE, name, "1m", 10.0 + n, 12.0 + n, 9.0 + n, 11.0 + n, 5.0)
        for n in range(-5, 2)
        for name in SYMBOLS
    ]
    return AggregationStage(1), [
        start("live", TEN + 150_000_000, SYMBOLS, live=True),
        mark(TEN + 150_000_000, "live"),
        start("back", at("2026-01-05T00:00"), SYMBOLS, whole=True),
        vendor(minutes, TEN - 5 * MINUTE, "back"),
        mark(TEN + 2 * MINUTE, "back"),
        end("back", whole=False),
    ]


def test_the_end_of_a_backfill_closes_only_bars_whose_interval_is_over() -> None:
    stage, raw = backfilled()
    closed = last(run(raw, stage))
    assert {key for key in closed if key[0] != "1m"} == {("5m", name, TEN - 5 * MINUTE) for name in SYMBOLS}


def test_forming_bars_include_the_minutes_of_the_backfill() -> None:
    stage, raw = backfilled()
    run(raw, stage)
    later = [
        ticks([(TEN + 160_000_000, "BTC/USD", 50.0, 1.0)], TEN + 160_000_000, "live"),
        mark(TEN + 160_000_000, "live"),
    ]
    forming = {row["interval"]: row for row in bars(run(later, stage, 10), "forming") if row["symbol"] == "BTC/USD"}
    assert forming["5m"]["open"] == 10.0
    assert forming["5m"]["high"] == forming["5m"]["close"] == 50.0
    assert forming["5m"]["volume"] == 11.0
    assert forming["1d"]["open"] == 5.0
    assert forming["1d"]["volume"] == 36.0


def test_the_live_feed_closes_forming_bars_even_of_symbols_without_ticks() -> None:
    stage, raw = backfilled()
    run(raw, stage)
    later = [
        ticks([(TEN + 160_000_000, "BTC/USD", 50.0, 1.0)], TEN + 160_000_000, "live"),
        mark(TEN + 5 * MINUTE + 2_000_000, "live"),
    ]
    closed = last(run(later, stage, 10))
    assert closed["5m", "BTC/USD", TEN]["close"] == 50.0
    assert closed["5m", "ETH/USD", TEN]["close"] == 12.0
    assert not closed["5m", "BTC/USD", TEN]["complete"]
    assert not any(key[0] == "1d" for key in closed)
    closed = last(run([mark(at("2026-01-06T00:00:03"), "live")], stage, 20))
    assert {key for key in closed if key[0] == "1d"} == {("1d", name, at("2026-01-05T00:00")) for name in SYMBOLS}


def test_without_a_live_feed_the_end_closes_all_bars() -> None:
    _, raw = backfilled()
    closed = last(run(raw[2:]))
    assert {key[0] for key in closed} == {"1m", "5m", "1d"}
    assert not closed["5m", "BTC/USD", TEN]["complete"]

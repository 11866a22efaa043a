"""Duplicates and disorder in the sandbox's stream: a complete minute has the prices of its trades."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from tests.aggregation.plant import at, last, mark, run, start
from tickerplant.core import records
from tickerplant.core.times import MINUTE_US, SECOND_US
from tickerplant.market_data.clients.twelvedata.quotes import QuoteDecoder, read_messages
from tickerplant.protocols.market import TradeBatch
from tickerplant.sandbox.fault_injector import TradeFaults
from tickerplant.sandbox.fault_script import FaultSchedule, parse_fault
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket

OPEN = at("2026-01-05T14:30")
SYMBOLS = ("AAPL", "MSFT")
MINUTES = 3
Prices = tuple[float, float, float, float]


def messages(trades: TradeBatch) -> list[bytes]:
    columns = (trades.codes, trades.times_us // SECOND_US, trades.prices, trades.day_volumes)
    return [
        msgspec.json.encode(
            {"event": "price", "symbol": SYMBOLS[code], "timestamp": second, "price": price, "day_volume": volume}
        )
        for code, second, price, volume in zip(*(column.tolist() for column in columns), strict=True)
    ]


def between(trades: TradeBatch, begin: int, end: int) -> TradeBatch:
    first, last = np.searchsorted(trades.times_us, (begin, end))
    return TradeBatch(*(getattr(trades, each.name)[first:last] for each in dataclasses.fields(trades)))


@pytest.mark.parametrize(("seed", "share"), [(0, 0.002), (1, 0.3)], ids=["few", "many"])
def test_a_complete_minute_is_exact_under_duplicates_and_reordering(seed: int, share: float) -> None:
    market, end_us = SimulatedMarket(MarketSettings(SYMBOLS, 8.0, seed)), OPEN + MINUTES * MINUTE_US
    faults, schedule = TradeFaults("twelvedata", seed, len(SYMBOLS)), FaultSchedule(OPEN, iter(()))
    for fault in (f"do=duplicate&share={share}&seconds=900", f"do=reorder&share={share}&by=2&seconds=900"):
        schedule.apply(parse_fault(fault), OPEN)
    decoder = QuoteDecoder()
    decoder.add_symbols(SYMBOLS)
    raw = [start("a", OPEN - 1, SYMBOLS, live=True, sent_at_us=OPEN)]
    trades = market.trades(OPEN, end_us)
    for begin in range(OPEN, end_us + 10 * SECOND_US, SECOND_US):
        now = begin + SECOND_US
        sent = faults.apply(between(trades, begin, now), schedule, now)
        columns, _ = decoder.columns(read_messages(messages(sent)).prices)
        if len(columns.codes):
            header = records.Ticks(feed="a", sent_at_us=now, watermark_us=now)
            raw.append(records.encode(header, decoder.ticks(columns, now)).to_pybytes())
        raw.append(mark(now, "a", now))
    found = {key[1:]: bar for key, bar in last(run(raw)).items() if key[0] == "1m" and OPEN < key[2] < end_us}
    expected: dict[tuple[str, int], Prices] = {}
    for symbol in SYMBOLS:
        for minute in range(OPEN + MINUTE_US, end_us, MINUTE_US):
            here = between(trades, minute, minute + MINUTE_US)
            prices = here.prices[here.codes == SYMBOLS.index(symbol)]
            expected[symbol, minute] = (prices[0], prices.max(), prices.min(), prices[-1])
    assert found.keys() == expected.keys()
    complete = {key: bar for key, bar in found.items() if bar["complete"]}
    assert bool(complete) == (share < 0.01)
    for key, bar in complete.items():
        assert (bar["open"], bar["high"], bar["low"], bar["close"]) == expected[key]

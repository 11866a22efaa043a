"""Indicator outputs per second: the default set over 10,000 symbols, compared with talipp and TA-Lib.

    python benchmarks/analytics.py [--symbols 10000] [--bars 300] [--rounds 3]

All systems use one thread, and their CPU time is measured. An output is one value of one symbol and bar. Only the 18
outputs of the default set that all systems compute are counted; the engine also computes %B and bandwidth. Each round
measures, in this order:

- engine: from a batch of decoded bars, one closed bar per symbol, to arrays of values. All symbols have the same number
  of bars (`together`), or each symbol starts at another bar and lacks one bar in ten (`ragged`);
- stage: the same work from the bytes of the input record to the bytes of the output records;
- talipp: its indicator objects, one bar at a time (the state of the art of streaming in Python);
- TA-Lib by window: its functions over a symbol's last 250 bars, called again for each bar (the usual practice);
- TA-Lib batch: its functions, called once over each symbol's whole history (an upper bound: no state, no stream).

After the rounds it measures forming bars, a revision, a snapshot, and a long history of one symbol.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import talib
from benchmarks.support.figures import record as record_figure

from tickerplant.analytics.stage import AnalyticsStage
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.streams import ConsumedRecord
from tickerplant.core.times import DAY_US, MINUTE_US

OUTPUTS = 18
WINDOW = 250


def record(
    times: np.ndarray, codes: np.ndarray, symbols: list[str], close: np.ndarray, interval: str, state: str, version: int
) -> ConsumedRecord:
    """Return bars as a record published by aggregation."""
    n = len(close)

    def constant(value: str, kind: pa.DataType) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int8)), pa.array([value])).cast(kind)

    prices = [pa.array(close), pa.array(close * 1.001), pa.array(close * 0.999), pa.array(close)]
    arrays = [
        timestamps(times),
        pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(symbols)),
        constant(interval, schemas.SMALL_TEXT),
        *prices,
        pa.array(np.ones(n)),
        pa.array(close),
        pa.array(np.ones(n, dtype=np.int64)),
        constant(state, schemas.SMALL_TEXT),
        pa.array(np.ones(n, dtype=np.bool_)),
        pa.array(np.zeros(n, dtype=np.bool_)),
        pa.array(np.zeros(n, dtype=np.int32)),
        pa.array(np.full(n, version)),
        constant("", schemas.SMALL_TEXT),
        constant("bench", schemas.TEXT),
        timestamps(times),
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schemas.BARS)
    return ConsumedRecord(schemas.OHLCV, 0, 0, 0, records.encode(records.Bars(sent_at_us=0, cause=version), batch))


class Market:
    """5m bars, one record per bar."""

    def __init__(self, count: int, *, ragged: bool) -> None:
        self.rng = np.random.default_rng(0)
        self.symbols = [f"S{i}" for i in range(count)]
        self.close = self.rng.uniform(90, 110, count)
        self.begins = self.rng.integers(0, 100, count) if ragged else np.zeros(count, dtype=np.int64)
        self.missed = 0.1 if ragged else 0.0
        self.bar = 0

    def next(self, state: str = "final") -> ConsumedRecord:
        self.close = self.close * np.exp(self.rng.normal(0, 0.001, len(self.close)))
        there = (self.begins <= self.bar) & (self.rng.random(len(self.close)) >= self.missed)
        codes = np.flatnonzero(there)
        times = np.full(len(codes), self.bar * 5 * MINUTE_US)
        self.bar += 1
        return record(times, codes, self.symbols, self.close[codes], "5m", state, self.bar)


def timed(act: Callable[[], object]) -> float:
    """Return the CPU seconds of a call. They equal the elapsed time on an idle machine, because one thread works."""
    began = time.process_time()
    act()
    return time.process_time() - began


class Ours:
    """A stage after the warm-up of its indicators, and its market."""

    def __init__(self, count: int, *, ragged: bool) -> None:
        self.market, self.stage = Market(count, ragged=ragged), AnalyticsStage()
        for _ in range(WINDOW + 150):
            self.stage.step(self.market.next())

    def measure(self, bars: int, act: Callable[[ConsumedRecord], Callable[[], object]]) -> tuple[float, float]:
        """Return the outputs per second over all bars, and the median over single bars."""
        seconds, outputs = [], []
        for _ in range(bars):
            delivery = self.market.next()
            work = act(delivery)
            seconds.append(timed(work))
            outputs.append(OUTPUTS * records.decode(delivery.value).batch.num_rows)
        return sum(outputs) / sum(seconds), float(np.median(np.array(outputs) / np.array(seconds)))

    def engine(self, bars: int) -> tuple[float, float]:
        def act(delivery: ConsumedRecord) -> Callable[[], object]:
            batch = records.decode(delivery.value).batch
            return lambda: self.stage.engine.apply_bars(batch)

        return self.measure(bars, act)

    def whole(self, bars: int) -> tuple[float, float]:
        return self.measure(bars, lambda delivery: lambda: self.stage.step(delivery))


def by_talib(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> None:
    for period in (20, 50, 200):
        talib.SMA(close, period)
    for period in (12, 26, 50, 200):
        talib.EMA(close, period)
    talib.RSI(close, 14)
    talib.MACD(close, 12, 26, 9)
    talib.STOCH(high, low, close, 14, 3, 0, 3, 0)
    talib.BBANDS(close, 20, 2.0, 2.0)
    talib.ATR(high, low, close, 14)
    talib.STDDEV(close, 20)


def series(bars: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.001, bars)))
    return close * 1.001, close * 0.999, close


def talib_batch(count: int, bars: int) -> float:
    arrays = series(bars)
    return count * bars * OUTPUTS / timed(lambda: [by_talib(*arrays) for _ in range(count)])


def talib_window(bars: int) -> float:
    arrays = series(bars + WINDOW)
    cut = [tuple(values[end - WINDOW : end] for values in arrays) for end in range(WINDOW, bars + WINDOW)]
    return bars * OUTPUTS / timed(lambda: [by_talib(*window) for window in cut])


def talipp_stream(bars: int) -> float:
    from talipp.indicators import ATR, BB, EMA, MACD, RSI, SMA, StdDev, Stoch
    from talipp.ohlcv import OHLCV

    of_close = [*map(SMA, (20, 50, 200)), *map(EMA, (12, 26, 50, 200)), RSI(14), MACD(12, 26, 9), BB(20, 2), StdDev(20)]
    of_bars = [Stoch(14, 3), ATR(14)]
    high, low, close = series(bars + WINDOW)

    def take(start: int, end: int) -> None:
        for at in range(start, end):
            price, bar = float(close[at]), OHLCV(float(close[at]), float(high[at]), float(low[at]), float(close[at]), 1)
            for indicator in of_close:
                indicator.add(price)
            for indicator in of_bars:
                indicator.add(bar)

    take(0, WINDOW)
    return bars * OUTPUTS / timed(lambda: take(WINDOW, bars + WINDOW))


def rates(count: int, bars: int) -> Iterator[tuple[str, float]]:
    """Yield outputs per second of each system."""
    for kind in ("together", "ragged"):
        ours = Ours(count, ragged=kind == "ragged")
        for name, measure in (("engine", ours.engine), ("stage", ours.whole)):
            mean, median = measure(bars)
            yield f"{name}, {kind}", mean
            yield f"{name}, {kind}, median bar", median
    yield "talipp", talipp_stream(2_000)
    yield "TA-Lib by window", talib_window(2_000)
    yield "TA-Lib batch", talib_batch(max(count // 10, 1), bars + WINDOW)


def the_rest(count: int) -> None:
    ours = Ours(count, ragged=False)
    stage, market = ours.stage, ours.market
    forming = [market.next("forming") for _ in range(20)]
    peek = min(timed(partial(stage.step, delivery)) for delivery in forming)
    print(f"forming, {count} symbols: {peek * 1e3:.2f} ms, {count * 7 / peek / 1e6:.1f} M outputs/s")
    few = np.arange(min(100, count))
    at = np.full(len(few), (WINDOW + 149) * 5 * MINUTE_US)
    late = record(at, few, market.symbols, market.close[few] * 1.01, "5m", "final", market.bar + 1)
    print(f"revision of the last bar: {timed(lambda: stage.step(late)) / len(few) * 1e3:.2f} ms a symbol")
    snapshot, size = timed(stage.snapshot), len(stage.snapshot())
    print(f"snapshot: {snapshot * 1e3:.0f} ms, {size / 1e6:.0f} MB, {size / count / 1e3:.1f} kB a symbol")
    days = 8_000
    close = market.rng.uniform(90, 110, days)
    history = record(np.arange(days) * DAY_US, np.zeros(days), ["OLD"], close, "1d", "final", 1)
    bulk = timed(lambda: stage.step(history))
    print(f"history, {days} daily bars of a symbol: {bulk * 1e3:.1f} ms, {days * OUTPUTS / bulk / 1e6:.1f} M outputs/s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=10_000)
    parser.add_argument("--bars", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if find_spec("talipp") is None:
        parser.exit(
            1, "talipp is not installed; run `make bench ARGS=analytics`, which installs it and runs this benchmark\n"
        )
    found: dict[str, list[float]] = {}
    for number in range(asked.rounds):
        for name, rate in rates(asked.symbols, asked.bars):
            found.setdefault(name, []).append(rate)
        print(f"round {number + 1} of {asked.rounds}", flush=True)
    talipp, batch = (np.array(found[name]) for name in ("talipp", "TA-Lib batch"))
    print(f"{'M outputs/s':<34}{'least':>8}{'median':>8}{'most':>8}{'× talipp':>10}{'/ batch':>9}")
    for name, values in found.items():
        rate = np.array(values)
        low, middle, high = rate.min() / 1e6, np.median(rate) / 1e6, rate.max() / 1e6
        over, share = np.median(rate / talipp), np.median(rate / batch)
        print(f"{name:<34}{low:8.2f}{middle:8.2f}{high:8.2f}{over:10.1f}{share:9.3f}")
        record_figure(name, middle, "M outputs/s")
        record_figure(f"{name}: × talipp", over, "×")
    the_rest(asked.symbols)


if __name__ == "__main__":
    main()

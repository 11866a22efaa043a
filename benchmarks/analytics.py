"""Indicator outputs a second: `python -m benchmarks.analytics [symbols]`, the default set, whole records in and out."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tickerplant.analytics.stage import AnalyticsStage
from tickerplant.core import records, schemas
from tickerplant.core.times import DAY_US, MINUTE_US, timestamps

OUTPUTS = 13


class Delivery(NamedTuple):
    value: pa.Buffer
    topic: str = schemas.OHLCV
    partition: int = 0
    offset: int = 0
    appended_at_us: int = 0


def record(
    times: np.ndarray, symbols: list[str], close: np.ndarray, interval: str, state: str, version: int
) -> Delivery:
    n = len(close)

    def constant(value: str, kind: pa.DataType) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int8)), pa.array([value])).cast(kind)

    price = pa.array(close)
    codes = pa.array(np.arange(n, dtype=np.int32) % len(symbols))
    arrays = [
        timestamps(times),
        pa.DictionaryArray.from_arrays(codes, pa.array(symbols)),
        constant(interval, schemas.SMALL_TEXT),
        *[price] * 5,
        price,
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
    return Delivery(records.encode(records.Bars(sent_at_us=0, cause=version), batch))


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main(count: int) -> None:
    rng = np.random.default_rng(0)
    symbols = [f"S{i}" for i in range(count)]
    stage = AnalyticsStage()
    bars = 240
    minutes = [
        record(np.full(count, i * MINUTE_US), symbols, rng.uniform(90, 110, count), "1m", "final", i)
        for i in range(bars)
    ]
    close = [timed(lambda delivery=delivery: stage.step(delivery)) for delivery in minutes]
    middle = float(np.median(close))
    print(f"closed, {count} symbols: {middle * 1e3:.2f} ms a bar at the median, {max(close[1:]) * 1e3:.1f} at worst, "
          f"{count * OUTPUTS * bars / sum(close) / 1e6:.1f} M outputs/s")  # fmt: skip
    forming = record(np.full(count, bars * MINUTE_US), symbols, rng.uniform(90, 110, count), "1m", "forming", bars)
    peek = min(timed(lambda: stage.step(forming)) for _ in range(20))
    print(f"forming, {count} symbols: {peek * 1e3:.2f} ms, {count * 7 / peek / 1e6:.1f} M outputs/s")
    late = record(np.full(100, (bars - 1) * MINUTE_US), symbols[:100], rng.uniform(90, 110, 100), "1m", "final", bars)
    print(f"revision of the last bar: {timed(lambda: stage.step(late)) / 100 * 1e3:.2f} ms a symbol")
    snapshot = timed(stage.snapshot)
    size = len(stage.snapshot())
    print(f"snapshot: {snapshot * 1e3:.0f} ms, {size / 1e6:.0f} MB, {size / count / 1e3:.1f} kB a symbol")
    days = 8_000
    history = record(np.arange(days) * DAY_US, ["OLD"], rng.uniform(90, 110, days), "1d", "final", 1)
    bulk = timed(lambda: stage.step(history))
    print(f"history, {days} daily bars of a symbol: {bulk * 1e3:.1f} ms, {days * OUTPUTS / bulk / 1e6:.1f} M outputs/s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)

"""How fast one partition's engine takes ticks: without the log, with and without decoding, by batch size and symbols.

python benchmarks/aggregation.py [--ticks 2000000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa

from tickerplant.aggregation.bar_aggregator import BarAggregator
from tickerplant.aggregation.grouping import TickColumns
from tickerplant.aggregation.publish import bars_of
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.times import MINUTE_US, timestamps

OPEN_US = 1_767_623_400_000_000  # 2026-01-05T14:30Z, the open in New York


def columns(count: int, symbols: int, batch: int, seed: int = 1) -> list[TickColumns]:
    """A feed of `count` ticks at 10,000 a second, sorted by time; symbols as likely as 1 / rank^0.5."""
    rng = np.random.default_rng(seed)
    weight = 1 / np.sqrt(np.arange(1, symbols + 1))
    symbol = rng.choice(symbols, size=count, p=weight / weight.sum()).astype(np.int32)
    times = OPEN_US + np.arange(count, dtype=np.int64) * 100
    price = np.round(100 + np.cumsum(rng.normal(0, 0.001, count)), 2)
    size = rng.integers(1, 500, count).astype(np.float64)
    source, flags = np.zeros(count, dtype=np.int32), np.zeros(count, dtype=np.uint16)
    parts = [slice(begin, begin + batch) for begin in range(0, count, batch)]
    return [TickColumns(times[p], symbol[p], price[p], size[p], source[p], flags[p]) for p in parts]


def encoded(batches: list[TickColumns], names: pa.Array) -> list[pa.Buffer]:
    """The same as raw records."""
    source = pa.array(["bench"])
    result = []
    for part in batches:
        arrays = [
            timestamps(part.time),
            pa.DictionaryArray.from_arrays(pa.array(part.symbol), names),
            pa.array(part.price),
            pa.array(part.size),
            pa.DictionaryArray.from_arrays(pa.array(part.source), source),
            pa.nulls(len(part), pa.utf8()),
            pa.array(part.flags),
            timestamps(part.time),
        ]
        until = int(part.time[-1])
        header = records.Ticks(feed="bench", sent_at_us=until, watermark_us=until)
        result.append(records.encode(header, pa.RecordBatch.from_arrays(arrays, schema=schemas.TICKS)))
    return result


class Arrived:
    """A raw record at an offset."""

    topic, partition = schemas.RAW, 0

    def __init__(self, value: pa.Buffer, offset: int) -> None:
        self.value, self.offset = value, offset


def engine_seconds(batches: list[TickColumns], symbols: int) -> float:
    """Seconds for the engine with its published batches made, a minute's closing included."""
    engine = BarAggregator()
    for number in range(symbols):
        engine.state.symbols.code(f"S{number}")
    engine.state.sources.code("bench")
    engine.state.refresh()
    engine.begin("bench", OPEN_US)
    engine.start("bench", OPEN_US, np.arange(symbols, dtype=np.int32), hole=False, live=True, whole=False)
    engine.finish()
    began = time.perf_counter()
    for offset, part in enumerate(batches):
        until = int(part.time[-1])
        engine.begin("bench", until)
        engine.ticks("bench", part, until, offset, offset)
        bars_of(engine.state, engine.finish(), offset, until)
    return time.perf_counter() - began


def stage_seconds(raw: list[pa.Buffer]) -> float:
    """Seconds for the whole stage, from bytes to bytes."""
    stage = AggregationStage(1)
    began = time.perf_counter()
    for offset, value in enumerate(raw):
        stage.step(Arrived(value, offset))  # type: ignore[arg-type]
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=2_000_000)
    count = parser.parse_args().ticks
    warm = columns(20_000, 100, 1_000)
    engine_seconds(warm, 100)  # loads the calendar
    print(f"{count:,} ticks at 10,000 a second, {count * 100 / MINUTE_US:.1f} minutes of the feed")
    print("symbols  batch  engine M/s  bytes to bytes M/s")
    for symbols in (1_000, 10_000):
        names = pa.array([f"S{number}" for number in range(symbols)])
        for batch in (1_000, 10_000):
            batches = columns(count, symbols, batch)
            engine = min(engine_seconds(batches, symbols) for _ in range(3))
            stage = min(stage_seconds(encoded(batches, names)) for _ in range(2))
            print(f"{symbols:7,} {batch:6,} {count / engine / 1e6:11.2f} {count / stage / 1e6:19.2f}")


if __name__ == "__main__":
    main()

"""Rate of vendors' bars: ten years of 1d and two years of 5m bars for 500 symbols, 20 M bars of random prices.

    python -m benchmarks.history [--bars 3000000] [--ways time symbol slices replay] [--replay-bars 1000000]

`time`, `symbol`: the aggregation stage alone, from bytes to bytes, with the records that a replay writes into one
partition. The input is a file of 1d bars, then a file of 5m bars, sorted by time or by symbol. `symbol` uses fewer
symbols with their whole history. `slices`: bars sorted by time in the records of a backfill, 1,000 bars each. `replay`:
a replay of a Parquet file of 5m bars in the whole plant with default settings, until all rows are stored. The creation
of records is not timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import exchange_calendars
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from benchmarks.aggregation import consumed
from benchmarks.plant import environment
from benchmarks.support.figures import record

from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.times import MINUTE_US

AIM = 200_000
BLOCK_ROWS = 16_384  # batch size of a replay
SLICE_ROWS = 1_000  # batch size of a backfill
FIVE_US = 5 * MINUTE_US
SYMBOL_BARS = 200_000
"""Maximum bars of `symbol`. Such a file advances the watermark only at its end: all bars stay in memory, 140 B each."""
SLICES_BARS = 4_000_000
"""Maximum bars of `slices`. A backfill's watermark also advances only at its end: 20 M bars needed 3 GB of memory."""


@dataclass(frozen=True)
class IntervalBars:
    """Bars of one interval: one per symbol at each of `times`."""

    interval: str
    times: np.ndarray

    def rows(self, order: str, symbols: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return times and symbol numbers of the file's rows from `begin` to `end`."""
        at = np.arange(begin, min(end, len(self.times) * symbols))
        if order == "symbol":
            return self.times[at % len(self.times)], (at // len(self.times)).astype(np.int32)
        return self.times[at // symbols], (at % symbols).astype(np.int32)


def interval_bars(symbols: int, bars: int | None) -> list[IntervalBars]:
    """Return the days of 2016 to 2025 and the 5m bars of 2024 and 2025. `bars` limits both to their newest bars."""
    calendar = exchange_calendars.get_calendar("XNYS", start="2016-01-01", end="2025-12-31")
    days = calendar.sessions.values.astype("datetime64[us]").astype(np.int64)
    recent = calendar.sessions.year >= 2024
    opens = calendar.opens[recent].values.astype("datetime64[us]").astype(np.int64)
    closes = calendar.closes[recent].values.astype("datetime64[us]").astype(np.int64)
    fives = np.concatenate([np.arange(a, b, FIVE_US) for a, b in zip(opens, closes, strict=True)])
    share = min(1.0, bars / ((len(days) + len(fives)) * symbols)) if bars else 1.0
    return [IntervalBars(name, t[-max(1, int(share * len(t))) :]) for name, t in (("1d", days), ("5m", fives))]


def prices(count: int, chance: np.random.Generator) -> dict[str, np.ndarray]:
    opened = np.round(100 + chance.normal(0, 5, count), 2)
    closed = np.round(opened + chance.normal(0, 0.5, count), 2)
    high, low = np.maximum(opened, closed) + 0.25, np.minimum(opened, closed) - 0.25
    volume = chance.integers(100, 1_000_000, count).astype(np.float64)
    return {"open": opened, "high": high, "low": low, "close": closed, "volume": volume}


def feed_records(part: IntervalBars, order: str, symbols: int, size: int) -> Iterator[pa.Buffer]:
    """Yield the records of one feed, from its start to its end."""
    chance = np.random.default_rng(1)
    names = pa.array([f"S{number:03}" for number in range(symbols)])
    feed, first, total = f"file:{part.interval}", int(part.times[0]), len(part.times) * symbols
    now = int(part.times[-1])
    everyone = pa.DictionaryArray.from_arrays(pa.array(np.arange(symbols, dtype=np.int32)), names)
    start = records.Start(feed=feed, sent_at_us=now, from_us=first, whole=True)
    yield records.encode(start, pa.RecordBatch.from_arrays([everyone], schema=schemas.SYMBOLS))
    for begin in range(0, total, size):
        times, symbol = part.rows(order, symbols, begin, begin + size)
        count = len(times)
        zeros = pa.array(np.zeros(count, np.int8)), pa.array(np.zeros(count, np.int32))
        arrays = [
            timestamps(times),
            pa.DictionaryArray.from_arrays(pa.array(symbol), names),
            pa.DictionaryArray.from_arrays(zeros[0], pa.array([part.interval])),
            *(pa.array(values) for values in prices(count, chance).values()),
            pa.nulls(count, pa.float64()),
            pa.nulls(count, pa.int64()),
            pa.DictionaryArray.from_arrays(zeros[1], pa.array(["file"])),
            pa.array(np.ones(count, np.bool_)),
        ]
        # The watermark is the smallest time of the remaining rows. If the file is sorted by symbol, the watermark
        # is the first time until the last symbol begins. In a backfill, it is always the first time.
        behind = min(begin + size, total - 1)
        moves = order == "time" or (order == "symbol" and behind >= total - len(part.times))
        watermark = int(part.rows(order, symbols, behind, behind + 1)[0][0]) if moves else first
        header = records.VendorBars(feed=feed, sent_at_us=now, watermark_us=watermark, reason="file")
        yield records.encode(header, pa.RecordBatch.from_arrays(arrays, schema=schemas.VENDOR_BARS))
    yield records.encode(records.End(feed=feed, sent_at_us=now, whole=True))


def through_stage(order: str, symbols: int, bars: int | None, size: int) -> None:
    pure, offset, every, worst = AggregationStage(1), 0, 0.0, 0.0
    for part in interval_bars(symbols, bars):
        given, taken, published, seconds, ending = len(part.times) * symbols, 0, 0, 0.0, 0.0
        for value in feed_records(part, order, symbols, size):
            began = time.perf_counter()
            out = pure.step(consumed(value, offset))
            ending = time.perf_counter() - began
            seconds += ending
            offset, worst = offset + 1, max(worst, ending)
            for produced in out:
                if produced.topic == schemas.DEADLETTER:
                    raise SystemExit(f"rejected: {records.decode(produced.value).batch.to_pylist()[0]['reason']}")
                if produced.topic == schemas.OHLCV:
                    batch = records.decode(produced.value).batch
                    if "interval" in batch.schema.names:
                        published += batch.num_rows
                        taken += pc.sum(pc.equal(batch["interval"], part.interval)).as_py()
        if taken < given:
            raise SystemExit(f"{taken:,} of {given:,} bars of {part.interval} were published")
        every += seconds
        print(
            f"{order:8}{part.interval:4}{given:12,} bars{given / seconds:12,.0f} bars/s   {published:,} published, "
            f"slowest step {1000 * worst:,.0f} ms, the end {1000 * ending:,.0f} ms",
            flush=True,
        )
        worst = 0.0
    total = sum(len(part.times) for part in interval_bars(symbols, bars)) * symbols
    print(f"{order:8}all {total:12,} bars{total / every:12,.0f} bars/s   {total / every / AIM:.2f} of the aim")
    record(f"stage, {order}", total / every, "bars/s")


def through_plant(symbols: int, bars: int) -> None:
    fives = interval_bars(symbols, None)[1]
    part = IntervalBars("5m", fives.times[-(bars // symbols) :])
    chance = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        path = Path(name) / "bars.parquet"
        times, symbol = part.rows("time", symbols, 0, bars)
        names = pa.array([f"S{number:03}" for number in range(symbols)])
        columns = {
            "time": timestamps(times),
            "symbol": pa.DictionaryArray.from_arrays(pa.array(symbol), names),
            "interval": pa.array(["5m"] * len(times)),
            **{key: pa.array(values) for key, values in prices(len(times), chance).items()},
        }
        pq.write_table(pa.table(columns), path)
        command = [sys.executable, "-m", "tickerplant.app", "replay", str(path), "--data", str(Path(name) / "data")]
        began = time.perf_counter()
        done = subprocess.run([*command, "--json"], env=environment("embedded:"), capture_output=True, text=True)
        wall = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr)
        summary = json.loads(done.stdout.splitlines()[-1])
        record("replay of 5m bars by time", len(times) / summary["seconds"], "bars/s")
        print(
            f"replay  5m  {len(times):12,} bars{len(times) / summary['seconds']:12,.0f} bars/s   file to tables in "
            f"{summary['seconds']:.1f} s, with starting and stopping {wall:.1f} s"
        )


def main() -> None:
    """Run the requested measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=["time", "symbol", "slices", "replay"])
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--bars", type=int, help="total bars instead of about 20 M, in the same proportion")
    parser.add_argument("--replay-bars", type=int, default=1_000_000)
    asked = parser.parse_args()
    for way in asked.ways or ["time", "symbol", "slices", "replay"]:
        if way == "replay":
            through_plant(asked.symbols, asked.replay_bars)
        elif way == "slices":
            through_stage(way, asked.symbols, min(asked.bars or SLICES_BARS, SLICES_BARS), SLICE_ROWS)
        elif way == "time":
            through_stage(way, asked.symbols, asked.bars, BLOCK_ROWS)
        else:
            few = max(
                1, min(asked.bars or SYMBOL_BARS, SYMBOL_BARS) // sum(len(s.times) for s in interval_bars(1, None))
            )
            through_stage(way, few, None, BLOCK_ROWS)


if __name__ == "__main__":
    main()

"""Rate of one partition's engine from ticks to bars, compared with other systems in one run; memory of its state.

    python -m benchmarks.aggregation [--ticks 2000000] [--symbols 10000] [--rounds 5] [--only engine stage polars ...]

`engine`: from columns to batches of published bars (windows, closing, roll-up from 1m to 5m and 1d). `stage`: the same
work from the bytes of a raw record to the bytes of the published records. Both also determine the symbols without a
bar. The ticks are from the last six minutes of a session and 40 s more. Every run closes six 1m bars, two 5m bars and
one 1d bar per symbol.

The systems run in turns, so that a slow moment of the machine affects all of them. The table contains the median and
the range of the rounds, and the ratio to the engine. `benchmarks/peers` describes the other systems.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from benchmarks.peers.bars import PEERS, Contestant, Prints, Result
from benchmarks.support.figures import record

from tickerplant.aggregation.bar_aggregator import BarAggregator
from tickerplant.aggregation.encode import bar_batches
from tickerplant.aggregation.grouping import TickColumns
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.streams import ConsumedRecord
from tickerplant.core.times import MINUTE_US, SECOND_US

OPEN_US = 1_767_623_400_000_000  # 2026-01-05T14:30Z, the open in New York
CLOSE_US = OPEN_US + 390 * MINUTE_US
FROM_US = CLOSE_US - 6 * MINUTE_US
SPAN_US = 400 * SECOND_US
BATCHES = (1_000, 10_000)
LATENESS_US = 2 * SECOND_US


def make_prints(count: int, symbols: int, seed: int = 1) -> Prints:
    """Return `count` ticks over `SPAN_US`, sorted by time. A symbol's probability is proportional to 1 / rank^0.5."""
    rng = np.random.default_rng(seed)
    weight = 1 / np.sqrt(np.arange(1, symbols + 1))
    return Prints(
        time=FROM_US + np.arange(count, dtype=np.int64) * SPAN_US // count,
        symbol=rng.choice(symbols, size=count, p=weight / weight.sum()).astype(np.int32),
        price=np.round(100 + np.cumsum(rng.normal(0, 0.001, count)), 2),
        size=rng.integers(1, 500, count).astype(np.float64),
        symbols=symbols,
    )


def parts(prints: Prints, batch: int) -> Iterator[TickColumns]:
    source, flags = np.zeros(len(prints), dtype=np.int32), np.zeros(len(prints), dtype=np.uint16)
    for begin in range(0, len(prints), batch):
        p = slice(begin, begin + batch)
        yield TickColumns(prints.time[p], prints.symbol[p], prints.price[p], prints.size[p], source[p], flags[p])


def names_of(symbols: int) -> pa.Array:
    return pa.array([f"S{number}" for number in range(symbols)])


def encoded_start(names: pa.Array, from_us: int) -> pa.Buffer:
    column = pa.DictionaryArray.from_arrays(pa.array(np.arange(len(names), dtype=np.int32)), names)
    batch = pa.RecordBatch.from_arrays([column], schema=schemas.SYMBOLS)
    return records.encode(records.Start(feed="bench", sent_at_us=from_us, from_us=from_us, live=True), batch)


def encoded_ticks(part: TickColumns, names: pa.Array, until_us: int) -> pa.Buffer:
    arrays = [
        timestamps(part.time),
        pa.DictionaryArray.from_arrays(pa.array(part.symbol), names),
        pa.array(part.price),
        pa.array(part.size),
        pa.DictionaryArray.from_arrays(pa.array(part.source), pa.array(["bench"])),
        pa.nulls(len(part), pa.utf8()),
        pa.array(part.flags),
        timestamps(part.time),
    ]
    header = records.Ticks(feed="bench", sent_at_us=until_us, watermark_us=until_us)
    return records.encode(header, pa.RecordBatch.from_arrays(arrays, schema=schemas.TICKS))


def consumed(value: pa.Buffer, offset: int) -> ConsumedRecord:
    """Return a raw record at an offset."""
    return ConsumedRecord(schemas.RAW, 0, offset, FROM_US, value)


def engine(prints: Prints, batch: int) -> Contestant:
    batches = list(parts(prints, batch))
    names = names_of(prints.symbols).to_pylist()

    def run() -> Result:
        engine = BarAggregator()
        for name in names:
            engine.state.symbols.code(name)
        engine.state.sources.code("bench")
        engine.state.refresh()
        engine.begin("bench", FROM_US)
        expected = np.arange(prints.symbols, dtype=np.int32)
        engine.start("bench", FROM_US, expected, gap=False, live=True, whole=False)
        engine.finish()
        published: list[pa.RecordBatch] = []
        began = time.perf_counter()
        for offset, part in enumerate(batches):
            until = int(part.time[-1])
            engine.begin("bench", until)
            engine.ticks("bench", part, until, offset, offset)
            published += bar_batches(engine.state, engine.finish(), offset, until)
        return _result(time.perf_counter() - began, published)

    return run


def stage(prints: Prints, batch: int) -> Contestant:
    names = names_of(prints.symbols)
    raw = [consumed(encoded_start(names, FROM_US), 0)]
    for offset, part in enumerate(parts(prints, batch), 1):
        raw.append(consumed(encoded_ticks(part, names, int(part.time[-1])), offset))

    def run() -> Result:
        pure = AggregationStage(1)
        pure.step(raw[0])
        out = []
        began = time.perf_counter()
        for arrived in raw[1:]:
            out += pure.step(arrived)
        seconds = time.perf_counter() - began
        return _result(seconds, [records.decode(o.value).batch for o in out if o.topic == schemas.OHLCV])

    return run


def _result(seconds: float, published: list[pa.RecordBatch]) -> Result:
    """Return time, number of bars and volume. Raises AssertionError if an interval has no bar."""
    table = pa.Table.from_batches(published)
    by_interval = Counter(table["interval"].to_pylist())
    assert by_interval.keys() == {"1m", "5m", "1d"}, by_interval
    minutes = np.array(table["interval"].to_pylist()) == "1m"
    return Result(seconds, len(table), float(table["volume"].to_numpy()[minutes].sum()))


def check(name: str, prints: Prints, result: Result) -> None:
    """Raise SystemExit if the bars do not contain all traded volume: the time is then meaningless."""
    last = int(prints.time[-1])
    closed_us = (last - LATENESS_US) // MINUTE_US * MINUTE_US if name in OURS else last + 1
    wanted = prints.size[prints.time < closed_us].sum()
    if result.volume != wanted:
        raise SystemExit(f"{name}: the bars have a volume of {result.volume:,.0f}, but {wanted:,.0f} was traded")


OURS = {"engine": engine, "stage": stage}


def race(prints: Prints, rounds: int, only: list[str]) -> None:
    """Run all systems in turns, and print the table."""
    runs: dict[tuple[str, int], tuple[Prints, Contestant]] = {}
    for batch in BATCHES:
        for name, prepare in OURS.items():
            if not only or name in only:
                runs[name, batch] = prints, prepare(prints, batch)
        for peer in PEERS:
            if peer.installed and (not only or peer.name in only):
                fewer = prints.first(peer.ticks)
                key = peer.name, batch if peer.batched else 0
                if key not in runs:
                    runs[key] = fewer, peer.prepare(fewer, batch)
    gc.collect()
    gc.freeze()  # exclude the prepared data, up to millions of tuples, from garbage collection
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for number in range(rounds + 1):
        keys = list(runs)
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            given, run = runs[key]
            gc.collect()
            result = run()
            check(key[0], given, result)
            if number:  # the first round loads calendars and fills caches
                rates[key].append(len(given) / result.seconds)
    show(rates)


def show(rates: dict[tuple[str, int], list[float]]) -> None:
    median = {key: statistics.median(found) for key, found in rates.items()}
    titles = {"engine": ("engine", "columns to published batches"), "stage": ("stage", "bytes to bytes")}
    titles |= {peer.name: (peer.title, peer.says) for peer in PEERS if peer.installed}
    print(f"\n{'':15}{'batch':>7}{'M ticks/s':>11}{'range':>18}{'engine is':>11}{'stage is':>10}")
    for batch in BATCHES:
        for name, (title, says) in titles.items():
            size = batch if (name, batch) in median else 0
            if (name, size) not in median:
                continue
            rate, found = median[name, size], rates[name, size]
            span = f"{min(found) / 1e6:.3f} to {max(found) / 1e6:.3f}"
            line = f"{title:15}{size or '-':>7}{rate / 1e6:11.3f}{span:>18}"
            for ours, width in (("engine", 10), ("stage", 9)):
                line += f"{median[ours, batch] / rate:{width}.2f}x" if (ours, batch) in median else ""
            print(f"{line}   {says}")
            record(f"{name}, batches of {size or 'any size'}", rate / 1e6, "M ticks/s")
    for peer in PEERS:
        if not peer.installed:
            print(f"{peer.name:15}is not installed: `make bench` installs it if it has wheels for this machine")


def memory(symbols: int) -> None:
    """Print the bytes of state per symbol: open windows, a closed bar of each interval, a whole session."""
    names = names_of(symbols)
    everyone = np.arange(symbols, dtype=np.int32)
    offset = 0

    def say(value: pa.Buffer) -> int:
        nonlocal offset
        pure.step(consumed(value, offset))
        offset += 1
        return tracemalloc.get_traced_memory()[0]

    def minute(number: int) -> int:
        begin, count = OPEN_US + number * MINUTE_US, len(everyone)
        prices, zeros = np.full(count, 100.0), np.zeros(count, dtype=np.int32)
        times = np.full(count, begin + 30 * SECOND_US)
        part = TickColumns(times, everyone, prices, prices, zeros, zeros.astype(np.uint16))
        return say(encoded_ticks(part, names, begin + 30 * SECOND_US))

    warm = AggregationStage(1)  # load the calendar and Arrow
    warm.step(consumed(encoded_start(names, OPEN_US), 0))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    pure = AggregationStage(1)
    started = say(encoded_start(names, OPEN_US))
    traced = [minute(number) for number in range(390)]
    mark = records.Mark(feed="bench", sent_at_us=CLOSE_US + LATENESS_US, watermark_us=CLOSE_US + LATENESS_US)
    tracemalloc.reset_peak()
    closed = say(records.encode(mark))
    peak = tracemalloc.get_traced_memory()[1]
    kept = len(pure.snapshot())
    tracemalloc.stop()
    # Each minute adds one 1m bar; minutes 2 to 302 also add 60 5m bars.
    one = (traced[4] - traced[2]) / 2
    five = (traced[302] - traced[2] - 300 * one) / 60
    day = closed - before - (started - before) - 390 * one - 78 * five - (traced[0] - started)
    print(f"\nbytes of state a symbol, {symbols:,} symbols, one feed")
    print(f"{(started - before) / symbols:10,.0f}   names, calendars, the feed")
    print(f"{(traced[0] - started) / symbols:10,.0f}   its open window of a minute, room for the next included")
    for interval, size, count in (("1m", one, 390), ("5m", five, 78), ("1d", day, 1)):
        print(f"{size / symbols:10,.0f}   a closed bar of {interval}, {count} in a session")
    print(f"{(closed - before) / symbols:10,.0f}   at the close of a session of 390 minutes")
    print(f"{(peak - closed) / symbols:10,.0f}   more while the session's last bars and its days close")
    print(f"{kept / symbols:10,.0f}   of a snapshot then, {kept / 1e6:,.0f} MB in all")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=2_000_000)
    parser.add_argument("--symbols", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*OURS, *(peer.name for peer in PEERS)], default=[])
    parser.add_argument("--memory-symbols", type=int, default=2_000, help="symbols whose memory is measured; 0: none")
    asked = parser.parse_args()
    prints = make_prints(asked.ticks, asked.symbols)
    each = asked.ticks / asked.symbols / (SPAN_US / MINUTE_US)
    print(f"{asked.ticks:,} ticks of {asked.symbols:,} symbols, {each:.0f} a symbol and minute; {asked.rounds} rounds")
    print(f"Polars may use {os.cpu_count()} cores; every other system uses one thread")
    race(prints, asked.rounds, asked.only)
    if asked.memory_symbols:
        memory(asked.memory_symbols)


if __name__ == "__main__":
    main()

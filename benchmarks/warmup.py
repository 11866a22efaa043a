"""Start of analytics on a store with history: `python -m benchmarks.warmup [scale]`.

Scale 1 has 500 symbols of a stock exchange with 10 years of daily bars (2,520) and 2 years of 5m bars (39,312). One
partition contains all 21 M bars. The rules are the default set of indicators on `5m` and `1d`. The default scale of
0.02 has ten symbols. The store is an embedded PostgreSQL in the folder for temporary files, which may be in memory.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from benchmarks.support.figures import record

from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.service import Analytics, _BootstrapFactory
from tickerplant.analytics.stage import AnalyticsStage
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.port import ConsumedRecord, TopicPartition
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.repositories.ohlcv import Ohlcv
from tickerplant.store.server.embedded import EmbeddedPostgres

SYMBOLS, DAYS, FIVES = 500, 2_520, 39_312
FIRST_US = 1_700_000_000 // 86_400 * DAY_US


def history(symbol: str, interval: str, count: int, seed: int) -> pa.RecordBatch:
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.001, count)))
    number = np.arange(count)
    times = FIRST_US - (DAYS - number) * DAY_US
    if interval == "5m":  # 78 per session
        times = FIRST_US - (count // 78 - number // 78) * DAY_US + 810 * MINUTE_US + number % 78 * 5 * MINUTE_US

    def constant(value: str, kind: pa.DataType) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int8)), pa.array([value])).cast(kind)

    arrays = [
        timestamps(times), constant(symbol, schemas.TEXT), constant(interval, schemas.SMALL_TEXT),
        *(pa.array(close * part) for part in (0.999, 1.001, 0.998, 1.0)), pa.array(np.round(close * 10)),
        pa.array(close), pa.array(np.ones(count, dtype=np.int64)), constant("final", schemas.SMALL_TEXT),
        pa.array(np.ones(count, dtype=np.bool_)), pa.array(np.zeros(count, dtype=np.bool_)),
        pa.array(np.zeros(count, dtype=np.int32)), pa.array(np.ones(count, dtype=np.int64)),
        constant("", schemas.SMALL_TEXT), constant("bench", schemas.TEXT), timestamps(times),
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.BARS)


async def fill(dsn: str, symbols: int) -> int:
    store = await Store.open(dsn, max_size=2)
    await migrate(store)
    rows = 0
    async with store.session() as session:
        await session.script("SET synchronous_commit = off")
        for number in range(symbols):
            for interval, count in (("1d", DAYS), ("5m", FIVES)):
                table = pa.Table.from_batches([history(f"S{number}", interval, count, number)])
                ohlcv = Ohlcv(session)
                await ohlcv.prepare(table)
                async with session.transaction():
                    await ohlcv.upsert(table, 0)
                rows += count
    await store.close()
    return rows


def main(scale: float) -> None:
    symbols = max(1, round(SYMBOLS * scale))
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "postgres") as server:
        began = time.perf_counter()
        rows = asyncio.run(fill(server.dsn, symbols))
        print(f"{symbols} symbols, {rows:,} bars stored in {time.perf_counter() - began:.0f} s")
        log = EmbeddedLog(Path(folder) / "market.log")
        log.create_topics(schemas.TOPICS, 1)
        with log.writer("control") as writer, writer.transaction() as transaction:
            rules = records.Settings(
                sent_at_us=0, values={"indicators": {name: DEFAULT_RULES.indicators[name] for name in ("5m", "1d")}}
            )
            transaction.append(schemas.OHLCV, 0, records.encode(rules))
        before = resource.getrusage(resource.RUSAGE_SELF)
        analytics = Analytics(log, server.dsn)
        stored = analytics._shared.stored(0)
        assert stored is not None
        with stored.session() as session:
            began = time.perf_counter()
            read = sum(session.bars(Series(name, f"S{n}")).num_rows for n in range(symbols) for name in ("1d", "5m"))
            reading = time.perf_counter() - began
        began = time.perf_counter()
        begun = _BootstrapFactory(analytics._shared)(TopicPartition(schemas.OHLCV, 0), 0, 0)
        warming = time.perf_counter() - began
        assert begun is not None
        began = time.perf_counter()
        size = len(begun.stage.snapshot())
        snapshot = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        with stored.session() as session:
            batches = [session.bars(Series("5m", f"S{n}")) for n in range(min(symbols, 5))]
        pure = AnalyticsStage()
        pure.step(ConsumedRecord(schemas.OHLCV, 0, 0, 0, records.encode(rules)))
        began = time.perf_counter()
        for number, batch in enumerate(batches):
            pure.recompute_queue.add(Series("5m", f"S{number}"), 0, 0)
            made = list(pure.recompute(Series("5m", f"S{number}"), batch))
        again = (time.perf_counter() - began) / len(batches)
        said = sum(len(one.value) for one in made)
        print(f"recomputation of {FIVES:,} bars: {again * 1e3:.0f} ms, {said / 1e6:.1f} MB of values")
        print(f"read alone: {read / reading / 1e6:.2f} M bars/s")
        rate = rows / warming / 1e6
        outputs = len(pure.engine.interval_engines["5m"].columns)
        print(f"bootstrap: {warming:.1f} s, {rate:.2f} M bars/s, {rate * outputs:.1f} M outputs/s ({outputs} a bar)")
        record("bootstrap", rate, "M bars/s")
        record("bootstrap: CPU", 1e6 * busy / rows, "µs/bar", "less")
        print(f"at that rate {SYMBOLS} symbols take {SYMBOLS * (DAYS + FIVES) / rate / 1e6:.0f} s")
        print(f"snapshot: {size / symbols / 1e3:.0f} kB a symbol in {snapshot * 1e3:.0f} ms")
        print(f"cpu of this process: {busy:.1f} s; peak memory {after.ru_maxrss / 1024:.0f} MB")
        analytics._shared.close()
        log.close()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.02)

"""A bench that runs persistence and analytics on a real log and PostgreSQL, and computes the expected tables."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tests.analytics.support import T0
from tests.support import waiting
from tests.support.killed import Killed
from tickerplant.analytics import compute
from tickerplant.analytics.service import Analytics
from tickerplant.core import records, schemas
from tickerplant.core.adjustment import split_factors
from tickerplant.core.arrow_values import times_of, timestamps
from tickerplant.core.version import make_version
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.persistence.service import TOPICS, Persistence
from tickerplant.store import Store


def bars(
    symbol: str, times: Sequence[int] | np.ndarray, closes: Sequence[float] | np.ndarray, interval: str, version: int,
    *, state: str = "final", history: bool = False, complete: bool = True,
) -> pa.RecordBatch:  # fmt: skip
    n = len(times)
    close = np.asarray(closes, dtype=np.float64)

    def constant(value: str, kind: pa.DataType) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int8)), pa.array([value])).cast(kind)

    missing = np.isnan(close)
    prices = [pa.array(close * part, mask=missing) for part in (0.999, 1.002, 0.998, 1.0)]
    arrays = [
        timestamps(np.asarray(times, dtype=np.int64)),
        constant(symbol, schemas.TEXT),
        constant(interval, schemas.SMALL_TEXT),
        *prices,
        pa.array(np.round(close * 7 % 100) + 1 if not missing.any() else np.zeros(n)),
        pa.array(close * 1.0005, mask=missing | (np.floor(close * 100) % 5 == 0)),
        pa.array(np.ones(n, dtype=np.int64)),
        constant(state, schemas.SMALL_TEXT),
        pa.array(np.full(n, complete)),
        pa.array(np.full(n, history)),
        pa.array(np.zeros(n, dtype=np.int32)),
        pa.array(np.full(n, version)),
        constant("", schemas.SMALL_TEXT),
        constant("test", schemas.TEXT),
        timestamps(np.full(n, T0)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.BARS)


class Bench:
    """A log with one partition, and both services. Each appended record has a new cause, as from aggregation."""

    def __init__(self, folder: Path, dsn: str, generation: int = 1) -> None:
        self.log = EmbeddedLog(folder / "market.log")
        self.log.create_topics(schemas.TOPICS, 1, generation=generation)
        self.dsn = dsn
        self.analytics: Analytics | None = None
        self._generation = generation
        self._raw = 0
        self._clock_us = T0
        self.splits: list[tuple[int, float]] = []

    def close(self) -> None:
        self.log.close()

    def cause(self) -> int:
        self._raw += 1
        return make_version(self._generation, self._raw)

    def put(self, topic: str, header: records.Header, batch: pa.RecordBatch | None = None) -> None:
        with self.log.writer("aggregation") as writer, writer.transaction() as transaction:
            transaction.append(topic, 0, records.encode(header, batch))

    def bars(
        self, symbol: str, times: Any, closes: Any, interval: str = "1d", *, feed: str = "live", **options: Any
    ) -> None:
        cause = self.cause()
        header = records.Bars(sent_at_us=self.tick(), feed=feed, cause=cause)
        self.put(schemas.OHLCV, header, bars(symbol, times, closes, interval, cause, **options))

    def append(self, kind: type[records.Header], batch: pa.RecordBatch | None = None, **fields: Any) -> None:
        if kind is records.Settings:
            with self.log.writer("control") as writer, writer.transaction() as transaction:
                text = msgspec.json.encode(fields["values"])
                transaction.put_state(schemas.STATE_FEEDS, 0, schemas.SETTINGS_KEY, text)
        self.put(schemas.OHLCV, kind(sent_at_us=self.tick(), cause=self.cause(), **fields), batch)

    def split(self, symbol: str, session_us: int, numerator: float, denominator: float = 1.0) -> None:
        """Append a split to both topics: persistence reads the raw topic, analytics the topic of the bars."""
        text = [pa.array([word]).dictionary_encode() for word in (symbol, "test")]
        arrays = [timestamps(np.array([session_us])), text[0], pa.array([numerator]), pa.array([denominator]), text[1]]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schemas.SPLITS)
        self.put(schemas.RAW, records.Splits(sent_at_us=self.tick()), batch)
        self.append(records.Splits, batch)
        self.splits.append((session_us, numerator / denominator))

    def tick(self, seconds: float = 0.001) -> int:
        self._clock_us += int(seconds * 1e6)
        return self._clock_us

    # Services

    def run(
        self, *, analytics: bool = True, store: bool = True, until: Callable[[], bool] | None = None, dsn: str = ""
    ) -> None:
        """Run the services until `until()` is true or analytics fails. Raise its error unless that is `Killed`.

        The default for `until` waits until every record is applied and no series is queued.
        """
        stop = threading.Event()
        loop_stop: list[Callable[[], None]] = []
        failed: list[BaseException] = []
        made = self.analytics = Analytics(self.log, dsn or self.dsn, snapshot_interval_records=7) if analytics else None

        def persist() -> None:
            async def work() -> None:
                event, loop = asyncio.Event(), asyncio.get_running_loop()
                loop_stop.append(lambda: loop.call_soon_threadsafe(event.set))
                await Persistence(self.log, self.dsn).run(event)

            asyncio.run(work())

        def indicate() -> None:
            assert made is not None
            try:
                made.run(stop)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=persist)] if store else []
        threads += [threading.Thread(target=indicate)] if made is not None else []
        for thread in threads:
            thread.start()
        try:
            over = until or (lambda: self.idle(analytics=analytics))
            waiting.until(lambda: failed or over(), "the services to apply all records")
        finally:
            waiting.until(lambda: loop_stop or not store, "the event loop of persistence")
            stop.set()
            for end in loop_stop:
                end()
            for thread in threads:
                thread.join(waiting.PATIENCE.seconds(60))
        if failed and not isinstance(failed[0], Killed):
            raise failed[0]

    def read_all(self) -> bool:
        lag = self.log.lag("analytics", [schemas.OHLCV])
        return bool(lag) and not any(lag.values())

    def idle(self, *, analytics: bool = True) -> bool:
        """Return True if the services have applied every record and no series is queued.

        Analytics is checked first, because it appends nothing afterwards that persistence must still apply. It is not
        checked if `analytics` is False.
        """
        if analytics and (not self.read_all() or self.pending()):
            return False
        ends = {tp: end for topic in TOPICS for tp, (_, end) in self.log.offsets(topic).items()}
        positions = self.query_store(lambda session: session.positions())
        return all(positions.get(tp, 0) == end for tp, end in ends.items() if end)

    def pending(self) -> int:
        """Return the count of queued series plus the count of stages that started without the store.

        A series counts until the commit of its values. Return 1 before analytics has opened its partition.
        """
        assert self.analytics is not None
        stages = [owned.stage for owned in list(self.analytics.processor._stages.values())]
        if not stages:
            return 1  # analytics has not opened its partition yet, and a snapshot may contain queued series
        queued = sum(len(stage._pure.recompute_queue.marks) + stage._pure.cold for stage in stages)
        return max(queued, self.analytics.counters.pending)

    # Tables

    def query_store(self, query: Callable[[Any], Any]) -> Any:
        async def run() -> Any:
            store = await Store.open(self.dsn, min_size=1, max_size=1)
            try:
                async with store.read() as session:
                    return await query(session)
            finally:
                await store.close()

        return asyncio.run(run())

    def values(self, symbol: str, interval: str, names: Sequence[str]) -> dict[int, tuple[float | None, ...]]:
        table = self.query_store(lambda session: session.analytics.read(symbol, interval, names=names))
        columns = [table.column(name).to_pylist() for name in names]
        return dict(zip(times_of(table.column("time")).tolist(), zip(*columns, strict=True), strict=True))

    def expected(self, symbol: str, interval: str, indicators: Sequence[str]) -> dict[int, tuple[float | None, ...]]:
        """Return the values of `compute` over the stored closed bars, adjusted for splits, by time in µs."""
        table = self.query_store(lambda session: session.ohlcv.read(symbol, interval))
        table = table.filter(pa.array([state == "final" and close is not None for state, close in zip(
            table.column("state").to_pylist(), table.column("close").to_pylist(), strict=True)]))  # fmt: skip
        times = times_of(table.column("time"))
        sessions = np.array([session for session, _ in self.splits], dtype=np.int64)
        factor = split_factors(times, sessions, np.array([ratio for _, ratio in self.splits]))
        inputs = {name: table.column(name).to_numpy() / factor for name in ("open", "high", "low", "close")}
        inputs["vwap"] = table.column("vwap").to_numpy() / factor
        inputs["time"] = times
        inputs["volume"] = table.column("volume").to_numpy() * factor
        made = [values for text in indicators for values in compute(inputs, text).values()]
        return {
            time: tuple(None if np.isnan(column[i]) else float(column[i]) for column in made)
            for i, time in enumerate(times.tolist())
        }

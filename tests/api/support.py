"""Helpers of the API tests: records, a store in memory with the real interface, and a real server in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tests.support.waiting import PATIENCE
from tickerplant.api.positions import Position
from tickerplant.api.service import Api, ApiOptions
from tickerplant.api.store_reader import ReadTransaction, StoreReader
from tickerplant.core import records, schemas
from tickerplant.core.adjustment import Adjustment
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.coverage import Answers, Statuses, classify, expected
from tickerplant.core.errors import StoreUnavailable
from tickerplant.core.interval import Interval
from tickerplant.core.sessions import Calendar
from tickerplant.core.symbols import partition_of
from tickerplant.core.version import make_version
from tickerplant.log.port import EventLog, TopicPartition
from tickerplant.store.repositories.coverage import EXCLUSION_COUNTS, FEEDS
from tickerplant.store.snapshot_reads import NewestState

T0 = 1_773_063_000_000_000  # 2026-03-09T13:30:00Z, the first trading day of summer time in New York
MINUTE = 60_000_000
PARTITIONS = 2
SERVER_THREAD = "api-server"
"""Name of the thread that runs the server's event loop."""


def tick_batch(rows: list[tuple[int, str, float]], *, flags: int = 0) -> pa.RecordBatch:
    times = np.array([row[0] for row in rows], dtype=np.int64)
    return pa.RecordBatch.from_arrays(
        [
            timestamps(times),
            pa.array([row[1] for row in rows]).dictionary_encode(),
            pa.array([row[2] for row in rows], pa.float64()),
            pa.array([1.0] * len(rows)),
            pa.array(["test"] * len(rows)).dictionary_encode(),
            pa.array([None] * len(rows), pa.utf8()),
            pa.array([flags] * len(rows), pa.uint16()),
            timestamps(times),
        ],
        schema=schemas.TICKS,
    )


def bar_batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    base = {
        "interval": "1m", "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 10.0, "vwap": None, "trades": 3,
        "state": "final", "complete": True, "history": False, "revision": 0, "version": make_version(1, 1),
        "reason": "ticks", "source": "test", "published_at": T0,
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([base | row for row in rows], schema=schemas.BARS)


def value_batch(rows: list[dict[str, Any]], outputs: tuple[str, ...] = ("rsi_14",)) -> pa.RecordBatch:
    schema = pa.schema([*schemas.ANALYTICS_KEY, *(pa.field(name, pa.float64()) for name in outputs)])
    base = {"interval": "1m", "state": "final", "version": make_version(1, 1)}
    return pa.RecordBatch.from_pylist([base | row for row in rows], schema=schema)


def ticks(log: EventLog, rows: list[tuple[int, str, float]], writer: str = "w") -> None:
    """Append ticks, one record per partition, in one transaction."""
    with log.writer(writer) as out, out.transaction() as transaction:
        for partition in range(PARTITIONS):
            mine = [row for row in rows if partition_of(row[1], PARTITIONS) == partition]
            if mine:
                header = records.Ticks(sent_at_us=T0, feed="f", watermark_us=T0)
                transaction.append(schemas.RAW, partition, records.encode(header, tick_batch(mine)))


def bars(log: EventLog, rows: list[dict[str, Any]], writer: str = "b") -> None:
    with log.writer(writer) as out, out.transaction() as transaction:
        for partition in range(PARTITIONS):
            mine = [row for row in rows if partition_of(row["symbol"], PARTITIONS) == partition]
            if mine:
                transaction.append(
                    schemas.OHLCV, partition, records.encode(records.Bars(sent_at_us=T0), bar_batch(mine))
                )


class MemoryStore(StoreReader):
    """A store in memory: its tables, and the log positions up to which they contain the records."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.at: dict[TopicPartition, int] = {}
        self.broken = False
        self.over = False
        self.tables: dict[str, pa.Table] = {
            "prices": schemas.TICKS.empty_table(),
            "ohlcv": schemas.BARS.empty_table(),
            "analytics": schemas.ANALYTICS_KEY.empty_table(),
            "exclusions": EXCLUSION_COUNTS.empty_table(),
            "feeds": FEEDS.empty_table(),
        }

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[ReadTransaction]:
        if self.broken:
            raise StoreUnavailable("the database is unavailable")
        identity = self.log.identity()
        yield ReadTransaction(self, Position.of(identity.log_id, identity.generation, self.at))

    async def bars(
        self, symbol: str, interval: Interval, start_us: int | None, end_us: int | None, count: int
    ) -> tuple[pa.Table, Position]:
        async with self.read() as transaction:
            return await transaction.bars(symbol, interval, start_us, end_us, count), transaction.position

    async def newest_state(
        self, symbol: str, intervals: Sequence[Interval], ticks: int
    ) -> tuple[NewestState, Position]:
        async with self.read() as transaction:
            bars = [await transaction.bars(symbol, interval, None, None, 1) for interval in intervals]
            newest = await transaction.ticks(symbol, None, None, ticks)
            return NewestState(newest, bars, await transaction.forming_values(symbol)), transaction.position

    async def close(self) -> None:
        pass

    @property
    def prices(self) -> Any:
        return _Rows(self.tables["prices"])

    @property
    def ohlcv(self) -> Any:
        return _Rows(self.tables["ohlcv"])

    @property
    def analytics(self) -> Any:
        return _Rows(self.tables["analytics"])

    @property
    def realtime_analytics(self) -> Any:
        return _Rows(schemas.ANALYTICS_KEY.empty_table())

    @property
    def coverage(self) -> Any:
        return self

    @property
    def actions(self) -> Any:
        return self

    async def newest_splits(self, symbol: str) -> pa.Table:
        return schemas.SPLITS.empty_table()

    async def adjustment(self, symbol: str, how: str, calendar: Calendar, now_us: int) -> Adjustment:
        return Adjustment()

    async def is_over(self, symbol: str, interval: str, start_us: int) -> bool:
        return self.over

    async def feeds(self) -> pa.Table:
        return self.tables["feeds"]

    async def exclusion_counts(self) -> pa.Table:
        return self.tables["exclusions"]

    @property
    def statuses(self) -> Any:
        return _NothingStored(self)

    @property
    def symbols(self) -> Any:
        return self

    async def list(self, names: Sequence[str] | None = None) -> pa.Table:
        tables = (self.tables[name] for name in ("prices", "ohlcv", "analytics"))
        known = {name for table in tables for name in table.column("symbol").to_pylist()}
        found = sorted(known if names is None else known & set(names))
        has: dict[str, set[str]] = {name: set() for name in found}
        for row in self.tables["ohlcv"].select(["symbol", "interval"]).to_pylist():
            has.get(row["symbol"], set()).add(row["interval"])
        intervals = pa.array([sorted(has[name]) for name in found], pa.list_(pa.utf8()))
        return pa.table({"symbol": pa.array(found, pa.utf8()), "intervals": intervals})


class _NothingStored:
    """Coverage of a store without bars. `test_coverage` uses a database with bars."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def symbols(self) -> Any:
        return (await self._store.list()).column("symbol").to_pylist()

    async def of(
        self, calendars: Mapping[str, Calendar], interval: str, start_us: int, end_us: int, now_us: int, **_: Any
    ) -> dict[str, Statuses]:
        nothing = np.empty(0, np.int64)
        return {
            symbol: classify(
                expected(calendar, interval, start_us, end_us), nothing, nothing == 0, Answers.none(),
                silent=nothing, down=nothing, over_us=now_us,
            )
            for symbol, calendar in calendars.items()
        }  # fmt: skip

    async def counts(self, *arguments: Any, **options: Any) -> dict[str, dict[str, int]]:
        return {symbol: found.counts() for symbol, found in (await self.of(*arguments, **options)).items()}


class _Rows:
    def __init__(self, table: pa.Table) -> None:
        self.table = table

    async def read(self, symbol: str, *rest: Any, names: Sequence[str] | None = None) -> pa.Table:
        table = self.table.filter(pc.equal(self.table.column("symbol"), symbol))
        table = table if names is None else table.select(dict.fromkeys([*names, "time", "interval"]))
        if not rest:
            return table
        interval, (start, end, limit) = (rest[0], rest[1:4]) if len(rest) == 4 else (None, rest)
        if interval is not None:
            table = table.filter(pc.equal(table.column("interval"), interval))
        times = table.column("time").cast(pa.int64()).to_numpy()
        keep = (times >= (start if start is not None else times.min(initial=0))) & (
            times < (end if end is not None else 1 << 62)
        )
        table = table.filter(pa.array(keep)).sort_by("time")
        return table.slice(max(0, table.num_rows - limit)) if start is None else table.slice(0, limit)

    async def newest_of_each(self, symbols: Sequence[str], interval: str | None = None, **options: Any) -> pa.Table:
        how = (interval,) if interval is not None else ()
        found = [await self.read(symbol, *how, None, None, options["limit"]) for symbol in symbols]
        return pa.concat_tables(found) if found else self.table.slice(0, 0)

    async def of_each(self, symbols: Sequence[str]) -> pa.Table:
        return self.table.filter(pc.is_in(self.table.column("symbol").cast(pa.utf8()), pa.array(symbols, pa.utf8())))


@contextlib.contextmanager
def serving(log: EventLog, store: StoreReader, **options: Any) -> Iterator[tuple[httpx.Client, str, Api]]:
    """Run a real server in a thread; yield an HTTP client, the WebSocket address, and the service."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    api = Api(log, "", ApiOptions(port=0, **options), store=store)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(api.run(stop))
            loop.run_until_complete(loop.shutdown_default_executor())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=SERVER_THREAD)
    thread.start()
    asyncio.run_coroutine_threadsafe(asyncio.wait_for(api.started.wait(), PATIENCE.seconds(20)), loop).result(
        PATIENCE.seconds(25)
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{api.bound_port}", timeout=PATIENCE.seconds(30)) as client:
            yield client, f"ws://127.0.0.1:{api.bound_port}/v1/stream", api
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE.seconds(20))
        loop.close()
        assert not failed, failed

"""Ticks of one instant are read in the order of arrival, so that bars built from them equal the published bars."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.aggregation import plant
from tests.store.rows import MINUTE_US, OPEN_US, arrived, ticks
from tests.store.test_prices import put
from tickerplant.core import schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import SECOND_US
from tickerplant.log.port import ConsumedRecord, TopicPartition
from tickerplant.persistence.batching import PartitionBuffer, WriteBatch
from tickerplant.persistence.write_batch import apply
from tickerplant.store import Store, migrations
from tickerplant.store.copy_protocol import copy, plain
from tickerplant.store.migrations import all_migrations, migrate
from tickerplant.store.partitions import ensure_partitions
from tickerplant.store.repositories.positions import Log, begin

Pause = Callable[[Store], Awaitable[None]]
FLAGS = (0, 0, 0, 0, TickFlag.NO_OHLC, TickFlag.NO_VOLUME, TickFlag.NO_OHLC | TickFlag.NO_VOLUME)


async def compress(store: Store) -> None:
    """Compress every chunk of ticks. A chunk that is compressed already is compressed again."""
    async with store.session() as session:
        await session.rows("SELECT compress_chunk(c) FROM show_chunks('realtime_prices') AS c")
        state = "SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = $1"
        assert await session.value(state, "realtime_prices")


async def nothing(store: Store) -> None:
    """Leave the rows as they are."""


async def check_order(store: Store, pause: Pause) -> None:
    """Write three records of one instant, the last first, and check the order of every kind of read."""
    parts = [ticks(40, symbols=2, step_us=0, seed=seed) for seed in (1, 2, 3)]
    for offset in (2, 0, 1):
        await put(store, arrived(parts[offset], offset).take(pa.array(np.arange(40)[::-1])))
        await pause(store)
    for symbol in ("S0000", "S0001"):
        wanted = [row["price"] for part in parts for row in part.to_pylist() if row["symbol"] == symbol]
        async with store.read() as session:
            read = [
                (await session.prices.read(symbol)).column("price").to_pylist(),
                (await session.prices.read(symbol, newest_first=True)).column("price").to_pylist()[::-1],
            ]
            assert read == [wanted, wanted]
            newest = await session.prices.newest_of_each([symbol], limit=50)
            assert newest.column("price").to_pylist() == wanted[-50:]
            first = await session.prices.read(symbol, OPEN_US, limit=5)
            assert first.column("price").to_pylist() == wanted[:5]


async def test_ticks_of_one_instant_are_read_in_the_order_of_arrival(store: Store) -> None:
    await check_order(store, nothing)


@pytest.mark.timescale
async def test_compressed_ticks_of_one_instant_are_read_in_the_order_of_arrival(timescale: Store) -> None:
    await check_order(timescale, compress)


async def check_older_ticks(store: Store, pause: Pause, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrate a store whose ticks have no arrival, and check that these ticks precede later ones."""
    every = all_migrations()
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "all_migrations", lambda: [m for m in every if m.number <= 7])
        await migrate(store)
        old = ticks(20, step_us=0, seed=1)
        async with store.session() as session:
            if store.flavour == "postgresql":
                await ensure_partitions(session, "realtime_prices", times_of(old.column("time")))
            await copy(session, "realtime_prices", plain(old))
        await pause(store)
    assert len(await migrate(store)) == len([m for m in every if m.number > 7])
    new = ticks(20, step_us=0, seed=2)
    await put(store, arrived(new, 5))
    await pause(store)
    async with store.read() as session:
        prices = (await session.prices.read("S0000")).column("price").to_pylist()
    assert sorted(prices[:20]) == sorted(old.column("price").to_pylist())
    assert prices[20:] == new.column("price").to_pylist()
    if store.flavour == "postgresql":
        assert prices[:20] == old.column("price").to_pylist()


async def test_ticks_of_an_older_store_keep_their_order(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await Store.open(empty_dsn, max_size=2)
    await check_older_ticks(store, nothing, monkeypatch)
    await store.close()


@pytest.mark.timescale
@pytest.mark.parametrize("pause", [nothing, compress])
async def test_ticks_of_an_older_timescaledb_precede_later_ones(
    empty_timescale: Store, pause: Pause, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_older_ticks(empty_timescale, pause, monkeypatch)


def feed_records(seed: int, minutes: int, *, corrective: bool) -> list[bytes]:
    """Return the raw records of a tick feed in whole seconds, with flags and late ticks.

    `corrective` adds cancels and corrections.
    """
    random = np.random.default_rng(seed)
    sent: list[tuple[Any, ...]] = []
    values = [plant.start("a", OPEN_US - MINUTE_US, ["A", "B"], live=False)]
    count = 10 * minutes
    for number in range(count):
        newest = OPEN_US + number * MINUTE_US * minutes // count
        rows: list[tuple[Any, ...]] = []
        for _ in range(int(random.integers(1, 12))):
            late = int(random.integers(0, 90)) if random.random() < 0.2 else int(random.integers(0, 3))
            time = max(OPEN_US, (newest // SECOND_US - late) * SECOND_US)
            flags = int(random.choice(FLAGS))
            price, size = float(random.integers(90, 110)), float(random.integers(1, 9))
            rows.append((time, str(random.choice(["A", "B"])), price, size, flags, f"t{len(sent) + len(rows)}"))
        if corrective and sent and random.random() < 0.4:
            old = sent[int(random.integers(len(sent)))]
            kind = TickFlag.CANCEL if random.random() < 0.5 else TickFlag.CORRECTION
            rows.append((*old[:2], 1000.0 if kind == TickFlag.CANCEL else 120.0 + number, 7.0, int(kind), old[5]))
        sent += [row for row in rows if not row[4] & (TickFlag.CANCEL | TickFlag.CORRECTION)]
        values += [plant.ticks(rows, newest), plant.mark(newest)]
    return [*values, plant.end()]


def aggregated(rows: list[dict[str, Any]]) -> dict[int, tuple[Any, ...]]:
    """Return (open, high, low, close, volume, trades) by minute, computed tick by tick."""
    changes = [row for row in rows if row["flags"] & (TickFlag.CANCEL | TickFlag.CORRECTION)]
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row in changes:
            continue
        mine = [c for c in changes if (c["time"], c["trade_id"]) == (row["time"], row["trade_id"])]
        if any(change["flags"] & TickFlag.CANCEL for change in mine):
            continue
        changed = {name: mine[-1][name] for name in ("price", "size")} if mine else {}
        found.setdefault(row["time"] // MINUTE_US * MINUTE_US, []).append(row | changed)
    bars = {}
    for minute, kept in found.items():
        prices = [row["price"] for row in kept if not row["flags"] & TickFlag.NO_OHLC]
        sizes = [row["size"] for row in kept if not row["flags"] & TickFlag.NO_VOLUME]
        of_prices = (prices[0], max(prices), min(prices), prices[-1]) if prices else (None,) * 4
        bars[minute] = (*of_prices, math.fsum(sizes), len(sizes))
    return bars


async def store_feed(store: Store, seed: int, *, minutes: int = 4, corrective: bool = True) -> None:
    """Run records of a tick feed through aggregation and persistence."""
    raw = feed_records(seed, minutes, corrective=corrective)
    published = [out for step in plant.run(raw) for out in step if out.topic == schemas.OHLCV]
    log, sources = Log("x", 1), [TopicPartition(topic, 0) for topic in (schemas.RAW, schemas.OHLCV)]
    buffers = [PartitionBuffer(source, 1, 0) for source in sources]
    async with store.session() as session:
        await begin(session, log, sources)
        for offset, value in enumerate(raw):
            buffers[0].add(ConsumedRecord(schemas.RAW, 0, offset, 0, value))
            if offset == len(raw) // 2:
                await apply(session, log, _flushed(buffers), {})
        for offset, out in enumerate(published):
            buffers[1].add(ConsumedRecord(schemas.OHLCV, 0, offset, 0, bytes(out.value)))
        await apply(session, log, _flushed(buffers), {})


def _flushed(buffers: list[PartitionBuffer]) -> list[WriteBatch]:
    return [batch for buffer in buffers if (batch := buffer.flush(0, last=True)) is not None]


async def check_bars(store: Store, pause: Pause, seed: int) -> None:
    """Compare stored bars with bars built from stored ticks."""
    await store_feed(store, seed)
    await pause(store)
    async with store.read() as reading:
        for symbol in ("A", "B"):
            read = await reading.prices.read(symbol)
            rows = [row | {"time": us} for row, us in zip(read.to_pylist(), times_of(read.column("time")).tolist(),
                                                          strict=True)]  # fmt: skip
            table = await reading.ohlcv.read(symbol, "1m")
            assert pc.all(pc.equal(table.column("state").cast(pa.utf8()), "final")).as_py()
            names = ("open", "high", "low", "close", "volume", "trades")
            bars = {
                time: tuple(bar[name] for name in names)
                for time, bar in zip(times_of(table.column("time")).tolist(), table.to_pylist(), strict=True)
            }
            assert bars == aggregated(rows)


@pytest.mark.parametrize("seed", range(6))
async def test_bars_of_stored_ticks_equal_the_published_minutes(store: Store, seed: int) -> None:
    await check_bars(store, nothing, seed)


@pytest.mark.timescale
async def test_bars_of_compressed_ticks_equal_the_published_minutes(timescale: Store) -> None:
    await check_bars(timescale, compress, 7)

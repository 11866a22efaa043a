"""One transaction writes several partitions. Each batch contains several rows of one key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.store.conftest import database, timescale_server  # noqa: F401 (fixtures)
from tests.store.conftest import store as every_store  # noqa: F401
from tests.store.rows import MINUTE_US, OPEN_US, bars, values
from tests.store.test_coverage import answer
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.times import DAY_US
from tickerplant.log.port import TopicPartition
from tickerplant.persistence.batching import PositionChange, WriteBatch
from tickerplant.persistence.write_batch import apply
from tickerplant.store import Store
from tickerplant.store.copy_protocol import FEW_ROWS
from tickerplant.store.repositories.positions import Log, begin

LOG = Log("x", 1)
MANY = 4 * FEW_ROWS
"""Rows of each kind per batch, two per key. They are too many for query arguments, so the store stages them."""


def splits(symbol: str) -> pa.Table:
    dates = timestamps(OPEN_US - OPEN_US % DAY_US - np.arange(MANY, dtype=np.int64) // 2 * DAY_US)
    numbers = pa.array(np.ones(MANY))
    text = pa.array([symbol] * MANY).dictionary_encode().cast(schemas.TEXT)
    given = {"time": dates, "symbol": text, "numerator": numbers, "denominator": numbers, "source": text}
    return pa.table(
        [given[name].cast(schemas.SPLITS.field(name).type) for name in schemas.SPLITS.names], schema=schemas.SPLITS
    )


def dividends(symbol: str) -> pa.Table:
    table = splits(symbol)
    text = table.column("symbol")
    given = {
        "time": table.column("time"), "symbol": text, "amount": pa.array(np.ones(MANY)), "source": text,
        "currency": text,
    }  # fmt: skip
    columns = [given[name].cast(schemas.DIVIDENDS.field(name).type) for name in schemas.DIVIDENDS.names]
    return pa.table(columns, schema=schemas.DIVIDENDS)


def over(minute: int, emitted: int) -> records.Record:
    batch = pa.RecordBatch.from_arrays(
        [pa.array(["A"]).dictionary_encode(), pa.array([bool(emitted)])], schema=schemas.COVERAGE
    )
    header = records.Over(
        sent_at_us=1, cause=emitted, feed="live", interval="1m", start_us=OPEN_US + minute * MINUTE_US, expected=1,
        emitted=emitted,
    )  # fmt: skip
    return records.Record(header, batch)


def work(topic: str, partition: int, **what: Any) -> WriteBatch:
    return WriteBatch(TopicPartition(topic, partition), PositionChange(0, 1, 1, 1), **what)


def twice(symbol: str, **more: Any) -> list[dict[str, Any]]:
    """Return two versions of each minute of a symbol."""
    return [{"symbol": symbol, "minute": n // 2, "version": 1 + n % 2, **more} for n in range(MANY)]


async def count(store: Store, relation: str, condition: str = "true") -> int:
    async with store.session() as session:
        return int(await session.value(f"SELECT count(*) FROM {relation} WHERE {condition}"))


@pytest.fixture
async def begun(every_store: Store) -> Store:  # noqa: F811
    async with every_store.session() as session:
        topics = (schemas.RAW, schemas.OHLCV, schemas.ANALYTICS)
        await begin(session, LOG, [(topic, partition) for topic in topics for partition in (0, 1)])
    return every_store


async def test_only_the_newest_bar_and_values_of_a_key_are_written(begun: Store) -> None:
    batches = []
    for partition, symbol in enumerate("AB"):
        live, history = twice(symbol), twice(symbol, history=True, source="vendor")
        older = twice(symbol, history=True, source="other", interval="1d", time_us=0)
        forming = twice(symbol, state="forming", interval="5m")
        batches.append(work(schemas.OHLCV, partition, bars=bars(*live, *history, *older, *forming)))
        several = [values(*twice(symbol), *twice(symbol, state="forming")), values(*twice(symbol), names=["ema_20"])]
        batches.append(work(schemas.ANALYTICS, partition, values=several))
    batches[0].sources, batches[2].sources = ("vendor",), ("other", "vendor")  # two source orders need two statements
    async with begun.session() as session:
        await apply(session, LOG, batches, {})
    half = MANY // 2
    assert await count(begun, "intraday_ohlcv", "interval = '1m' AND version = 2") == 2 * half
    assert await count(begun, "intraday_ohlcv", "interval = '5m' AND version = 2") == 2 * half
    assert await count(begun, "historical_ohlcv", "version = 2") == 2
    assert await count(begun, "intraday_analytics", "version = 2") == 2 * half
    assert await count(begun, "realtime_analytics", "version = 2") == 2 * half
    assert await count(begun, "symbols") == 2


async def test_rows_of_other_kinds_are_separate_by_partition_and_written_once(begun: Store) -> None:
    batches = []
    for partition, symbol in enumerate("AB"):
        interval_overs = [over(n // 2, n % 2) for n in range(MANY)]
        tables = [answer(n // 2, n // 2 + 1, "quota" if n % 2 else "outage") for n in range(MANY)]
        feeds = [records.FeedState(sent_at_us=1, cause=n, feed="live", state="up", since_us=OPEN_US) for n in (1, 2)]
        batches.append(
            work(
                schemas.RAW, partition, splits=[(splits(symbol), 1), (splits(symbol), 2)],
                dividends=[(dividends(symbol), 1), (dividends(symbol), 2)], interval_overs=interval_overs, feeds=feeds,
                answers=[(pa.concat_tables(tables).unify_dictionaries(), 1 + partition)],
            )
        )  # fmt: skip
    async with begun.session() as session:
        await apply(session, LOG, batches, {})
    half = MANY // 2
    for relation in ("splits", "dividends"):
        for symbol in "AB":
            assert await count(begun, relation, f"symbol = '{symbol}' AND version = 2") == half
    for partition in (0, 1):
        assert await count(begun, "coverage", f"partition = {partition} AND emitted = 1") == half
        assert await count(begun, "feeds", f"partition = {partition}") == 1
    assert await count(begun, "answers", "verdict = 'quota' AND version = 2") == 1
    assert await count(begun, "answers") == 1

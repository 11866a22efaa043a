"""Rows of new series are copied into their table; the result is that of an upsert of every row."""

import random
from typing import Any

import pyarrow as pa
import pytest

from tests.store.conftest import PLAIN
from tests.store.rows import MINUTE_US, OPEN_US, bars, values
from tickerplant.core.arrow_values import times_of
from tickerplant.store import Store, copy_protocol, new_series
from tickerplant.store.repositories.analytics import Analytics
from tickerplant.store.repositories.ohlcv import Ohlcv
from tickerplant.store.session import Session

SYMBOLS = ["A", "B", "C"]


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return a list that receives table and row count of each COPY of new series."""
    found: list[tuple[str, int]] = []

    async def copy(session: Session, relation: str, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            found.append((relation, batch.num_rows))
        await copy_protocol.copy(session, relation, batch)

    monkeypatch.setattr("tickerplant.store.new_series.copy", copy)
    return found


async def put(store: Store, *tables: pa.Table) -> int:
    """Upsert tables of bars in one transaction; return the count of changed rows."""
    async with store.session() as session:
        ohlcv = Ohlcv(session)
        for table in tables:
            await ohlcv.prepare(table)
        async with session.transaction():
            return sum([await ohlcv.upsert(table, 0) for table in tables])


def minutes(first: int, last: int, symbol: str = "GOOG", **fields: Any) -> list[dict[str, Any]]:
    return [{"minute": minute, "symbol": symbol, **fields} for minute in range(first, last)]


async def stored(store: Store, symbol: str) -> dict[int, tuple[float, int]]:
    """Return close and version of each stored minute of a symbol."""
    async with store.read() as session:
        table = await session.ohlcv.read(symbol, "1m")
    closes, versions = table["close"].to_pylist(), table["version"].to_pylist()
    starts = ((times_of(table["time"]) - OPEN_US) // MINUTE_US).tolist()
    return dict(zip(starts, zip(closes, versions, strict=True), strict=True))


@pytest.mark.parametrize("database", PLAIN, indirect=True)
async def test_only_series_without_rows_in_their_range_are_copied(store: Store, copied: list[tuple[str, int]]) -> None:
    assert await put(store, bars(*minutes(0, 10))) == 10
    assert await put(store, bars(*minutes(10, 20), *minutes(5, 15, "MSFT"))) == 20  # MSFT is new, GOOG continues
    assert copied == [("intraday_ohlcv", 10), ("intraday_ohlcv", 20)]
    both = bars(*minutes(15, 25, price=2.0, version=2), *minutes(20, 30, "MSFT", price=2.0, version=2))
    assert await put(store, both) == 20
    assert copied[2:] == [("intraday_ohlcv", 10)]  # GOOG has rows in its range, and is upserted
    assert [close for close, _ in (await stored(store, "GOOG")).values()] == 15 * [1.0] + 10 * [2.0]
    assert await put(store, both) == 0
    assert len(copied) == 3


@pytest.mark.parametrize("database", PLAIN, indirect=True)
async def test_few_rows_of_each_series_are_upserted(store: Store, copied: list[tuple[str, int]]) -> None:
    rows = [row for symbol in SYMBOLS for row in minutes(0, new_series.MIN_ROWS - 1, symbol)]
    assert await put(store, bars(*rows)) == len(rows)
    assert not copied


async def test_a_transaction_that_writes_a_series_twice_keeps_the_newest_version(store: Store) -> None:
    newer = bars(*minutes(0, 8, price=2.0, version=2))
    older = bars(*minutes(4, 12, price=1.0, version=1))
    assert await put(store, newer, older) == 12
    assert await stored(store, "GOOG") == {**{m: (2.0, 2) for m in range(8)}, **{m: (1.0, 1) for m in range(8, 12)}}


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_of_overlapping_batches_stores_the_newest_version_of_each_bar(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    expected: dict[tuple[str, int], tuple[float, int]] = {}
    for _ in range(12):
        rows, changed = [], 0
        for symbol in chance.sample(SYMBOLS, chance.randint(1, 3)):
            first, version = chance.randrange(60), chance.randrange(1, 9)
            for row in minutes(first, first + chance.randint(1, 20), symbol, price=chance.random(), version=version):
                key = symbol, row["minute"]
                rows.append(row)
                if key not in expected or version > expected[key][1]:
                    expected[key] = row["price"], version
                    changed += 1
        chance.shuffle(rows)
        assert await put(store, bars(*rows)) == changed
    for symbol in SYMBOLS:
        assert await stored(store, symbol) == {m: row for (name, m), row in sorted(expected.items()) if name == symbol}


@pytest.mark.parametrize("database", PLAIN, indirect=True)
async def test_values_of_a_new_series_have_null_for_columns_that_are_not_written(
    store: Store, copied: list[tuple[str, int]]
) -> None:
    async with store.session() as session:
        analytics = Analytics(session)
        for column in ("sma_20", "rsi_14"):
            table = values(*({"minute": minute, column: float(minute)} for minute in range(6)), names=[column])
            await analytics.prepare(table)
            async with session.transaction():
                assert await analytics.upsert(table, 0) == 6
    assert copied == [("intraday_analytics", 6)]
    async with store.read() as reading:
        table = await reading.analytics.read("GOOG", "1m", names=["sma_20", "rsi_14"])
    assert table["rsi_14"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert table["sma_20"].null_count == 6

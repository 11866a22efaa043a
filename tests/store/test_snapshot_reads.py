"""Rows that are read as arrays in one statement with the positions, or from short ranges, equal the stored rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from tests.store.rows import MINUTE_US, OPEN_US, arrived, bars, ticks
from tickerplant.store import Store, snapshot_reads
from tickerplant.store.repositories.ohlcv import Ohlcv
from tickerplant.store.repositories.positions import Log, begin
from tickerplant.store.repositories.prices import Prices
from tickerplant.store.row_spans import RowSpans
from tickerplant.store.snapshot_reads import PUBLIC_BARS

DAY = 1_440


async def put(store: Store, table: pa.Table) -> None:
    async with store.session() as session:
        ohlcv = Ohlcv(session)
        await ohlcv.prepare(table)
        async with session.transaction():
            await ohlcv.upsert(table, 0)


def weekly(count: int) -> Iterator[dict[str, Any]]:
    """Yield bars of every seventh day, each in a partition of its own."""
    for number in range(count):
        unknown = number % 3 == 1
        yield {
            "minute": 7 * DAY * number, "price": 1.5 + number, "version": number + 1,
            "vwap": None if unknown else 1.25, "trades": None if unknown else number,
            "source": "b" if number % 2 else "a",
        }  # fmt: skip


def minutes(table: pa.Table) -> list[int]:
    return [(us - OPEN_US) // MINUTE_US // (7 * DAY) for us in table.column("time").cast(pa.int64()).to_pylist()]


async def test_bars_are_read_with_every_column_and_the_positions(store: Store) -> None:
    table = bars(*weekly(6), {"minute": 7 * DAY * 6, "state": "forming", "version": 9})
    await put(store, table)
    async with store.session() as session:
        await begin(session, Log("log", 1), [("raw", 0), ("raw", 1)])
        await session.execute("UPDATE positions SET position = 7 WHERE partition = 1")
    query = snapshot_reads.bars_query("GOOG", "1m", None, None, 100)
    found, positions = await snapshot_reads.read_bars(store, query)
    assert found.to_pylist() == table.select(PUBLIC_BARS.names).to_pylist()
    assert found.schema.equals(PUBLIC_BARS)
    assert snapshot_reads.positions_of(positions) == {("raw", 0): 0, ("raw", 1): 7}
    nothing, _ = await snapshot_reads.read_bars(store, snapshot_reads.bars_query("NONE", "1m", None, None, 1))
    assert (nothing.num_rows, nothing.schema) == (0, PUBLIC_BARS)


@pytest.mark.parametrize("database", ["embedded"], indirect=True)
async def test_repeated_reads_return_the_rows_of_the_wanted_range(store: Store) -> None:
    await put(store, bars(*weekly(20)))
    at = [OPEN_US + 7 * DAY * MINUTE_US * number for number in range(30)]
    for _ in range(2):  # the second time with short ranges
        async with store.read() as session:
            for bounds, limit, expected in (
                ((None, None), 3, [17, 18, 19]),
                ((None, at[10]), 3, [7, 8, 9]),
                ((None, at[2]), 3, [0, 1]),
                ((at[4], None), 3, [4, 5, 6]),
                ((at[18], None), 3, [18, 19]),
                ((at[4], at[6]), 3, [4, 5]),
                ((None, None), 2, [18, 19]),
            ):
                assert minutes(await session.ohlcv.read("GOOG", "1m", *bounds, limit)) == expected
    await put(store, bars({"minute": 7 * DAY * 18, "state": "withdrawn", "version": 50}))
    found, _ = await snapshot_reads.read_bars(store, snapshot_reads.bars_query("GOOG", "1m", None, None, 3))
    assert minutes(found) == [16, 17, 19]
    await put(store, bars({"minute": 7 * DAY * 25, "version": 51}))
    found, _ = await snapshot_reads.read_bars(store, snapshot_reads.bars_query("GOOG", "1m", None, None, 3))
    assert minutes(found) == [17, 19, 25]


async def test_the_newest_state_has_the_newest_rows_of_each_table(store: Store) -> None:
    prints = ticks(150)
    async with store.session() as session:
        prices = Prices(session)
        await prices.prepare(prints)
        async with session.transaction():
            await prices.append(arrived(prints, 5), 0)
        await session.execute(
            """INSERT INTO realtime_analytics (time, symbol, "interval", state, version, rsi_14)
               VALUES ('2012-06-21', 'S0000', '1m', 'forming', 1, 50.5), ('2012-06-20', 'S0000', '1m', 'forming', 1, 1),
                      ('2012-06-20', 'S0000', '5m', 'forming', 1, NULL)"""
        )
    await put(store, bars(*({"symbol": "S0000", "minute": n} for n in range(5))))
    for _ in range(2):
        state, _ = await snapshot_reads.read_newest_state(store, "S0000", ("1m", "5m"), 100)
        assert state.ticks.to_pylist() == prints.slice(50).to_pylist()
        assert [table.num_rows for table in state.bars] == [1, 0]
        rows = state.values.to_pylist()
        assert [(row["interval"], row["rsi_14"]) for row in rows] == [("1m", 50.5), ("5m", None)]
    async with store.session() as session:
        await session.script("ALTER TABLE realtime_analytics ADD COLUMN new_9 double precision DEFAULT 3")
    state, _ = await snapshot_reads.read_newest_state(store, "S0000", ("1m",), 1)
    assert [row["new_9"] for row in state.values.to_pylist()] == [3.0, 3.0]


def test_a_span_is_used_for_no_more_rows_than_it_had() -> None:
    import numpy as np

    spans, times = RowSpans(), np.array([100, 200, 300])
    spans.add(("t",), times, 4)
    assert spans.narrow(("t",), None, None, 3) == (None, None)
    spans.add(("t",), times, 3)
    assert spans.narrow(("t",), None, None, 3) == (100, None)
    assert spans.narrow(("t",), None, None, 2) == (100, None)
    assert spans.narrow(("t",), None, None, 4) == (None, None)
    assert spans.narrow(("other",), None, None, 3) == (None, None)

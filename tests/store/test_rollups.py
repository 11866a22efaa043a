"""Check roll-ups follow the ticks and bars that arrive, and keep their rows when retention drops their input."""

from __future__ import annotations

import datetime as dt
from typing import Final

import pyarrow as pa
import pytest

from tests.store.rows import MINUTE_US, OPEN_US, bars, ticks
from tests.store.test_bars import put as put_bars
from tests.store.test_prices import put as put_ticks
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import DAY_US, datetime_of
from tickerplant.core.version import make_version
from tickerplant.store import Store
from tickerplant.store.maintenance import jobs_status, run_job
from tickerplant.store.repositories.prices import with_arrival

NOW: Final = dt.datetime.now(dt.UTC)
DAY: Final = dt.timedelta(days=1)


async def run(store: Store, *names: str, now: dt.datetime = NOW) -> None:
    for name in names:
        async with store.session() as session:
            ran = await run_job(session, name, now)
        assert ran, [job.error for job in await jobs_status(store) if job.error]


async def drop(store: Store, relation: str, before_us: int) -> None:
    """Drop the table's rows before a time, as retention does."""
    before = datetime_of(before_us)
    async with store.session() as session:
        if store.flavour == "timescaledb":
            await session.rows(f"SELECT drop_chunks('{relation}', older_than => $1::timestamptz)", before)
            return
        await session.execute("UPDATE arrivals SET arrived_at = starts_at WHERE starts_at < $1", before)
    await run(store, "retention")


async def rows(store: Store, rollup: str) -> list[tuple[object, ...]]:
    async with store.session() as session:
        names = "time, symbol, source, open, high, low, close, volume, trades"
        return [tuple(row) for row in await session.rows(f"SELECT {names} FROM {rollup} ORDER BY time, symbol, source")]


async def check_dropped_ticks(store: Store) -> None:
    today_us = int(NOW.timestamp()) * 1_000_000
    days = [today_us // DAY_US * DAY_US - number * DAY_US + 14 * 60 * MINUTE_US for number in (8, 7, 2)]
    for day in days:
        await put_ticks(store, ticks(600, start_us=day, step_us=1_000_000))
    await run(store, "rollup_5m")
    before = await rows(store, "ohlcv_5m_rollup")
    assert len(before) == 3 * 2
    await drop(store, "realtime_prices", days[2] - DAY_US)
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_prices") == 600
    await put_ticks(store, ticks(10, start_us=days[2] + 60 * MINUTE_US))
    await run(store, "rollup_5m")
    after = await rows(store, "ohlcv_5m_rollup")
    assert after[:-1] == before
    assert after[-1][-1] == 10


async def check_dropped_bars(store: Store) -> None:
    await put_bars(store, bars(*({"minute": day * 1440, "price": float(day)} for day in (0, 1, 40))))
    await run(store, "rollup_1d")
    before = await rows(store, "ohlcv_1d_rollup")
    assert [row[3] for row in before] == [0.0, 1.0, 40.0]
    await drop(store, "intraday_ohlcv", OPEN_US + 30 * DAY_US)
    await put_bars(store, bars({"minute": 40 * 1440 + 1, "price": 50.0}))
    await run(store, "rollup_1d")
    assert [row[6] for row in await rows(store, "ohlcv_1d_rollup")] == [0.0, 1.0, 50.0]


async def check_order_and_flags(store: Store) -> None:
    """Check a bucket whose ticks share one instant and have all kinds of flags."""
    flags = [0, TickFlag.NO_OHLC, TickFlag.NO_VOLUME, TickFlag.CANCEL, TickFlag.CORRECTION, 0]
    prices = [10.0, 99.0, 12.0, 98.0, 97.0, 11.0]
    table = ticks(6, step_us=0)
    table = table.set_column(2, table.schema.field("price"), pa.array(prices))
    table = table.set_column(3, table.schema.field("size"), pa.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    table = table.set_column(6, table.schema.field("flags"), pa.array([int(flag) for flag in flags], pa.uint16()))
    [batch] = table.to_batches()
    stored = pa.Table.from_batches([with_arrival(batch, make_version(1, 5))])
    await put_ticks(store, stored.take(pa.array([5, 2, 0, 4, 1, 3])))
    await run(store, "rollup_5m")
    [row] = await rows(store, "ohlcv_5m_rollup")
    assert row[3:] == (10.0, 12.0, 10.0, 11.0, 35.0, 3)
    async with store.session() as session:
        [more] = await session.rows("SELECT corrections, ordered FROM ohlcv_5m_rollup")
    assert tuple(more) == (2, True)


async def check_retention(store: Store) -> None:
    # Rows are kept for 90 days from the later of their time and their arrival.
    await put_ticks(store, ticks(10))  # ticks of 2012 that arrive now
    await run(store, "rollup_5m", "retention")
    assert len(await rows(store, "ohlcv_5m_rollup")) == 1
    await run(store, "retention", now=NOW + 89 * DAY)
    assert len(await rows(store, "ohlcv_5m_rollup")) == 1
    await run(store, "retention", now=NOW + 91 * DAY)
    assert await rows(store, "ohlcv_5m_rollup") == []


async def test_the_roll_up_of_dropped_ticks_is_kept(store: Store) -> None:
    await check_dropped_ticks(store)


async def test_the_roll_up_of_dropped_bars_is_kept(store: Store) -> None:
    await check_dropped_bars(store)


async def test_roll_ups_order_ticks_by_arrival_and_apply_their_flags(store: Store) -> None:
    await check_order_and_flags(store)


async def test_roll_ups_of_ticks_have_a_retention_of_their_own(store: Store) -> None:
    await check_retention(store)


@pytest.mark.timescale
async def test_continuous_aggregates_have_retention_and_compression_of_their_own(timescale: Store) -> None:
    await put_ticks(timescale, ticks(10))
    await run(timescale, "rollup_5m", "rollup_1d")
    async with timescale.session() as session:
        assert await session.value(
            """SELECT bool_and(c.is_compressed) FROM timescaledb_information.chunks AS c
               JOIN timescaledb_information.continuous_aggregates AS v
                   ON v.materialization_hypertable_name = c.hypertable_name
               WHERE v.view_schema = current_schema()"""
        )
    await put_ticks(timescale, ticks(5, start_us=OPEN_US + 10 * MINUTE_US))  # a refresh into a compressed chunk
    await run(timescale, "rollup_5m", "rollup_1d")
    assert [row[-1] for row in await rows(timescale, "ohlcv_5m_rollup")] == [10, 5]
    await run(timescale, "retention", now=NOW + 91 * DAY)
    assert await rows(timescale, "ohlcv_5m_rollup") == []

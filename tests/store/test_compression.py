"""TimescaleDB compresses rows soon after their age, in few chunks, in every order of arrival."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import pytest

from tests.store.rows import MINUTE_US, bars, values
from tests.store.test_bars import put, put_values
from tests.store.writes import write_intervals
from tickerplant.core.times import DAY_US, datetime_of, micros_of
from tickerplant.store import Store, migrations
from tickerplant.store.migrations import all_migrations, migrate

pytestmark = [pytest.mark.timescale]

MAX_AGE_DAYS: Final = {
    "intraday_ohlcv": 5, "intraday_analytics": 10, "historical_ohlcv": 40, "daily_analytics": 65, "coverage": 16,
}  # fmt: skip
"""Maximum age of an uncompressed row in days, by table."""
MAX_CHUNKS: Final = 400
"""Maximum chunks of ten years of one symbol, over all tables."""
TODAY_US: Final = micros_of(dt.datetime.now(dt.UTC)) // DAY_US * DAY_US


async def run_policies(store: Store) -> None:
    """Run each compression policy once."""
    async with store.session() as session:
        jobs = await session.rows(
            """SELECT job_id FROM timescaledb_information.jobs
               WHERE proc_name IN ('policy_compression', 'policy_columnstore') AND hypertable_schema = current_schema()
               ORDER BY job_id"""
        )
        for row in jobs:
            await session.script(f"CALL run_job({row['job_id']})")


async def uncompressed(store: Store, relation: str) -> list[int]:
    """Return the ages in days of the table's uncompressed rows."""
    async with store.session() as session:
        chunks = await session.rows(f"SELECT c::text AS name FROM show_chunks('{relation}') AS c")
        ages = []
        for chunk in chunks:
            rows = await session.rows(f'SELECT now() - "time" AS age FROM ONLY {chunk["name"]}')
            ages += [row["age"].days for row in rows]
        return ages


async def counts(store: Store) -> dict[str, int]:
    """Return the number of rows by table."""
    async with store.session() as session:
        return {name: await session.value(f"SELECT count(*) FROM {name}") for name in MAX_AGE_DAYS}


async def chunks(store: Store) -> dict[str, int]:
    """Return the number of chunks by table."""
    async with store.session() as session:
        rows = await session.rows(
            """SELECT hypertable_name AS name, count(*) FROM timescaledb_information.chunks
               WHERE hypertable_schema = current_schema() GROUP BY 1"""
        )
        return {row["name"]: row["count"] for row in rows}


async def write(store: Store, days: Sequence[int], symbol: str = "GOOG", **more: Any) -> None:
    """Write a 5m bar, a daily bar, their values and coverage for each of these days before today."""
    times = [TODAY_US - day * DAY_US for day in days]
    for interval, shift in (("5m", 14 * 60 * MINUTE_US), ("1d", 0)):
        rows = [{"time_us": us + shift, "symbol": symbol, "interval": interval, **more} for us in times]
        await put(store, bars(*rows))
        await put_values(store, values(*rows))
    await write_intervals(
        store, [us // (5 * MINUTE_US) for us in times], [symbol], interval="5m", step_us=5 * MINUTE_US, begin_us=0
    )


async def check_ages(store: Store) -> None:
    for relation, days in MAX_AGE_DAYS.items():
        ages = await uncompressed(store, relation)
        assert max(ages) < days, relation
        assert ages, "recent rows are not compressed"


def weekdays(first: int, end: int) -> list[int]:
    """Return the numbers in `[first, end)` that are weekdays when counted back from today."""
    today = dt.datetime.fromtimestamp(TODAY_US / 1e6, dt.UTC).date()
    return [day for day in range(first, end) if (today - dt.timedelta(days=day)).weekday() < 5]


async def test_rows_are_compressed_soon_after_their_age(timescale: Store) -> None:
    # A live feed of some months, and then a backfill of what precedes it, the newest part first.
    for day in range(40, -1, -1):
        await write(timescale, [day])
    for first in range(41, 200, 20):
        await write(timescale, range(first, first + 20))
    assert set((await counts(timescale)).values()) == {201}
    await run_policies(timescale)
    await check_ages(timescale)
    assert set((await counts(timescale)).values()) == {201}
    # Late revisions and an unknown symbol arrive in compressed chunks. The next run compresses them.
    await write(timescale, [150, 30, 12], version=2)
    await write(timescale, range(0, 200, 7), symbol="MSFT")
    assert max(await uncompressed(timescale, "intraday_ohlcv")) > 100
    await run_policies(timescale)
    await check_ages(timescale)
    async with timescale.session() as session:
        assert await session.value("SELECT count(*) FROM intraday_ohlcv WHERE version = 2") == 3


async def test_ten_years_of_a_symbol_have_few_chunks(timescale: Store) -> None:
    days = weekdays(0, 3_653)
    for at in range(0, len(days), 260):
        await write(timescale, days[at : at + 260])
    before = await chunks(timescale)
    await run_policies(timescale)
    await check_ages(timescale)
    after = await chunks(timescale)
    assert sum(after.values()) <= sum(before.values()) <= MAX_CHUNKS, (before, after)
    assert set((await counts(timescale)).values()) == {len(days)}


async def test_chunks_of_a_live_feed_are_merged_across_weekends(timescale: Store) -> None:
    async with timescale.session() as session:
        # All 300 days are recent for the creation of chunks, as if each day had been written on its day.
        await session.execute("UPDATE compression SET after = '400 days' WHERE relation = 'intraday_ohlcv'")
    for day in reversed(weekdays(0, 300)):
        await put(timescale, bars({"time_us": TODAY_US - day * DAY_US, "interval": "5m"}))
    assert (await chunks(timescale))["intraday_ohlcv"] > 200
    await run_policies(timescale)
    # Six chunks of at most 56 days, and at most five days that are not compressed.
    assert (await chunks(timescale))["intraday_ohlcv"] <= 6 + 5
    assert max(await uncompressed(timescale, "intraday_ohlcv")) < MAX_AGE_DAYS["intraday_ohlcv"]
    async with timescale.session() as session:
        assert await session.value("SELECT count(*) FROM intraday_ohlcv") == len(weekdays(0, 300))


async def test_writers_get_the_chunks_that_contain_their_rows(timescale: Store) -> None:
    times = [datetime_of(TODAY_US - day * DAY_US) for day in (0, 1, 2, 5, 30, 31, 400, 401, 3000)]
    catalogue = """SELECT range_start, range_end FROM timescaledb_information.chunks
                   WHERE hypertable_name = 'intraday_ohlcv' AND hypertable_schema = current_schema()"""
    async with timescale.session() as session:
        made = await session.rows("SELECT * FROM tickerplant_make_chunks('intraday_ohlcv', $1)", times)
        stored = {tuple(row) for row in await session.rows(catalogue)}
        for time in times:
            assert sum(start <= time < end for start, end in made) == 1, time
        assert {tuple(row) for row in made} <= stored, "days without rows also have chunks"
        again = await session.rows("SELECT * FROM tickerplant_make_chunks('intraday_ohlcv', $1)", times[::-1])
        assert again == made
        assert {tuple(row) for row in await session.rows(catalogue)} == stored
        other = await session.rows("SELECT * FROM tickerplant_make_chunks('realtime_prices', $1)", times)
        assert other == [], "TimescaleDB creates the chunks of ticks"


async def test_long_chunks_of_an_older_store_are_divided(
    empty_timescale: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = all_migrations()
    store = empty_timescale
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "all_migrations", lambda: [m for m in every if m.number <= 7])
        for module in ("ohlcv", "analytics", "coverage"):
            patch.setattr(f"tickerplant.store.repositories.{module}.ensure_partitions", _nothing)
            patch.setattr(f"tickerplant.store.repositories.{module}.record_arrivals", _nothing)
        await migrate(store)
        await write(store, range(400))
        await run_policies(store)
        await write(store, [5, 200, 350], symbol="MSFT")  # also in chunks that are compressed
    assert max(await uncompressed(store, "historical_ohlcv")) == 399, "the old chunks have ten years"
    async with store.session() as session:
        before = {name: await session.rows(f"SELECT * FROM {name} ORDER BY 1, 2, 3") for name in MAX_AGE_DAYS}
    await migrate(store)
    await run_policies(store)
    await check_ages(store)
    async with store.session() as session:
        for name, rows in before.items():
            assert await session.rows(f"SELECT * FROM {name} ORDER BY 1, 2, 3") == rows, name
    await write(store, [0, 3, 8, 20, 399], version=2)
    await run_policies(store)
    await check_ages(store)


async def _nothing(*arguments: Any) -> None:
    """Create no partitions and record no arrivals, as the older version did on TimescaleDB."""

"""SQL as an interface: comments on tables and columns, and the views `ticks`, `bars`, `indicators`, `latest_prices`.

Each test runs on the embedded server, on PostgreSQL over TCP, and on TimescaleDB. The test of a query plan runs only on
the embedded server.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from tests.store.rows import OPEN_US
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import datetime_of
from tickerplant.store import Store
from tickerplant.store.repositories.analytics import Analytics
from tickerplant.store.session import Session


def at(seconds: float) -> dt.datetime:
    return datetime_of(OPEN_US + int(seconds * 1_000_000))


async def insert_ticks(store: Store, *rows: tuple[Any, ...]) -> None:
    """Insert (symbol, seconds, price, trade id, flags) in order of arrival; further fields are the source and size."""
    async with store.session() as session:
        if not session.timescale:
            await session.script(
                "CREATE TABLE IF NOT EXISTS realtime_prices_default PARTITION OF realtime_prices DEFAULT"
            )
        for number, (symbol, seconds, price, trade_id, flags, *others) in enumerate(rows):
            source, size = [*others, *["test", 1.0][len(others) :]]
            await session.execute(
                "INSERT INTO realtime_prices VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0)",
                at(seconds), symbol, float(price), float(size), source, trade_id, int(flags), at(seconds + 1),
                number + 1,
            )  # fmt: skip


async def rows_of(session: Session, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await session.rows(sql)]


async def latest(store: Store) -> dict[str, tuple[Any, ...]]:
    async with store.session() as session:
        found = await rows_of(session, "SELECT symbol, time, price, size, source, trade_id FROM latest_prices")
    result = {symbol: (time, *others) for symbol, time, *others in found}
    assert len(result) == len(found), "a symbol has one row"
    return result


UNCOMMENTED = """
    SELECT c.relname, a.attname FROM pg_class AS c
    LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
        AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL)
    ORDER BY c.relname, a.attnum
"""


async def test_all_tables_views_and_columns_have_comments(store: Store) -> None:
    async with store.session() as session:
        await Analytics(session).ensure_columns(["added_14"])  # a column of a configured indicator
        assert await rows_of(session, UNCOMMENTED) == []
        counted = await session.value(
            "SELECT count(DISTINCT objoid) FROM pg_description WHERE classoid = 'pg_class'::regclass"
            " AND objoid = ANY (ARRAY['ticks', 'bars', 'indicators', 'latest_prices', 'alerts', 'plant']::regclass[])"
        )
        assert counted == 6


async def test_comments_explain_state_complete_version_and_flags(store: Store) -> None:
    async with store.session() as session:
        found = dict(
            await rows_of(
                session,
                "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
                " WHERE attrelid = 'bars'::regclass AND attnum > 0",
            )
        )
        flags = await session.value(
            "SELECT col_description(attrelid, attnum) FROM pg_attribute"
            " WHERE attrelid = 'realtime_prices'::regclass AND attname = 'flags'"
        )
    assert "forming" in found["state"]
    assert "final" in found["state"]
    assert "covered the whole interval" in found["complete"]
    assert "generation * 2^40 + offset" in found["version"]
    for flag in TickFlag:
        assert f" {flag.value} " in flags


async def test_ticks_have_decoded_flags(store: Store) -> None:
    named = [flag for flag in TickFlag if flag not in (TickFlag.CANCEL, TickFlag.CORRECTION)]
    every = sum(named)
    await insert_ticks(
        store,
        ("A", 0, 1, "t", 0),
        *(("A", 1 + i, 1, "t", flag) for i, flag in enumerate(named)),
        ("A", 20, 1, "t", TickFlag.CANCEL),
        ("A", 21, 1, "t", TickFlag.CORRECTION | every),
    )
    columns = ", ".join(str(flag.name).lower() for flag in named)
    async with store.session() as session:
        found = await rows_of(session, f"SELECT kind, {columns} FROM ticks ORDER BY time")
        whole = await session.rows("SELECT * FROM ticks WHERE symbol = 'A' ORDER BY time LIMIT 1")
    expected = [("trade", *([False] * len(named)))]
    expected += [("trade", *(flag == one for one in named)) for flag in named]
    expected += [("cancel", *([False] * len(named))), ("correction", *([True] * len(named)))]
    assert found == expected
    assert {"price", "size", "source", "trade_id", "flags", "received_at", "version", "row"} <= set(whole[0].keys())


async def test_latest_prices_are_the_newest_trades_that_set_a_price(store: Store) -> None:
    await insert_ticks(
        store,
        ("A", 0, 10, "1", 0), ("A", 2, 12, "3", 0), ("A", 1, 11, "2", 0),  # the newest time, not the last arrival
        ("B", 0, 20, None, 0), ("B", 1, 21, None, TickFlag.NO_OHLC),  # an odd lot sets no price
        ("C", 0, 30, "1", TickFlag.NO_OHLC),  # no price at all
        ("D", 5, 40, None, 0), ("D", 5, 41, None, 0),  # one instant: the last arrival
        ("E/USD", 5, -1.5, None, TickFlag.EXTENDED | TickFlag.SIZE_UNKNOWN, "live", 0),
        ("a", 86_400 * 3, 50, "1", 0),
    )  # fmt: skip
    assert await latest(store) == {
        "A": (at(2), 12.0, 1.0, "test", "3"),
        "B": (at(0), 20.0, 1.0, "test", None),
        "D": (at(5), 41.0, 1.0, "test", None),
        "E/USD": (at(5), -1.5, 0.0, "live", None),
        "a": (at(86_400 * 3), 50.0, 1.0, "test", "1"),
    }


async def test_latest_prices_apply_cancels_and_corrections(store: Store) -> None:
    cancel, correction = TickFlag.CANCEL, TickFlag.CORRECTION
    await insert_ticks(
        store,
        ("A", 0, 10, "1", 0), ("A", 1, 11, "2", 0), ("A", 1, 11, "2", cancel),  # cancelled
        ("B", 0, 20, "1", 0), ("B", 0, 25, "1", correction, "test", 7), ("B", 0, 26, "1", correction, "test", 8),
        ("C", 0, 30, "1", 0), ("C", 0, 30, "1", cancel), ("C", 0, 35, "1", correction),  # a cancel wins
        ("D", 0, 40, "1", cancel), ("D", 0, 40, "1", 0), ("D", -1, 39, "0", 0),  # the cancel arrived first
        ("E", 0, 50, "1", 0), ("E", 0, 51, "2", 0), ("E", 0, 55, "1", correction),  # the corrected trade stays first
        ("F", 0, 60, "1", 0), ("F", 0, 60, "1", cancel, "other"), ("F", 1, 60, "1", cancel),  # cancels of other trades
        ("G", 0, 70, None, 0), ("G", 0, 71, None, correction),  # a correction without an id corrects nothing
    )  # fmt: skip
    found = await latest(store)
    assert {symbol: (row[0], row[1], row[2]) for symbol, row in found.items()} == {
        "A": (at(0), 10.0, 1.0),
        "B": (at(0), 26.0, 8.0),
        "D": (at(-1), 39.0, 1.0),
        "E": (at(0), 51.0, 1.0),
        "F": (at(0), 60.0, 1.0),
        "G": (at(0), 70.0, 1.0),
    }


async def test_latest_prices_of_no_ticks_are_empty(store: Store) -> None:
    assert await latest(store) == {}


@pytest.mark.parametrize("database", ["embedded"], indirect=True)
async def test_latest_prices_read_one_index_entry_per_symbol(store: Store) -> None:
    await insert_ticks(store, *((f"S{i % 20}", i, 1, None, 0) for i in range(400)))
    async with store.session() as session:
        await session.script("ANALYZE realtime_prices; SET enable_seqscan = off")
        plan = "\n".join(
            row[0] for row in await session.rows("EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM latest_prices")
        )
    assert "Seq Scan" not in plan, plan
    assert "Recursive Union" in plan
    assert "rows=400" not in plan


async def test_bars_of_all_intervals_are_in_one_view(store: Store) -> None:
    async with store.session() as session:
        for relation in ("intraday_ohlcv", "historical_ohlcv"):
            if not session.timescale:
                await session.script(f"CREATE TABLE {relation}_all PARTITION OF {relation} DEFAULT")
        for interval, relation in (("1m", "intraday"), ("5m", "intraday"), ("100t", "intraday"), ("1d", "historical")):
            await session.execute(
                f"""INSERT INTO {relation}_ohlcv VALUES ('A', '{interval}', $1, 1, 4, 0.5, 2, 10, 1.5, 3, 'final', true,
                    false, 1, 7, 'late', 'test', $1)""",
                at(0),
            )
        found = await rows_of(session, "SELECT * FROM bars WHERE symbol = 'A' ORDER BY interval")
        names = [row["name"] for row in await session.rows(
            "SELECT attname::text AS name FROM pg_attribute WHERE attrelid = 'bars'::regclass ORDER BY attnum")
        ]  # fmt: skip
        table = [row["name"] for row in await session.rows(
            "SELECT attname::text AS name FROM pg_attribute WHERE attrelid = 'intraday_ohlcv'::regclass AND attnum > 0"
            " ORDER BY attnum")
        ]  # fmt: skip
    assert [row[1] for row in found] == ["100t", "1d", "1m", "5m"]
    assert names == table, "the view has all columns of the tables"
    assert found[1] == ("A", "1d", at(0), 1, 4, 0.5, 2, 10, 1.5, 3, "final", True, False, 1, 7, "late", "test", at(0))


async def test_indicators_have_one_row_per_value_also_of_columns_added_later(store: Store) -> None:
    async with store.session() as session:
        await Analytics(session).ensure_columns(["later_5"])
        for relation in ("intraday_analytics", "daily_analytics"):
            if not session.timescale:
                await session.script(f"CREATE TABLE {relation}_all PARTITION OF {relation} DEFAULT")
        columns = "symbol, interval, time, state, version, rsi_14, later_5"
        sql = f"INSERT INTO {{}} ({columns}) VALUES ($1, $2, $3, $4, 9, $5, $6)"
        await session.execute(sql.format("intraday_analytics"), "A", "5m", at(0), "final", 1 / 3, None)
        await session.execute(sql.format("daily_analytics"), "A", "1d", at(0), "final", float("inf"), 2.5e-308)
        await session.execute(sql.format("realtime_analytics"), "A", "5m", at(0), "forming", 7.0, 7.0)  # closed bar
        await session.execute(sql.format("realtime_analytics"), "A", "5m", at(300), "forming", 8.0, float("nan"))
        found = await rows_of(session, "SELECT * FROM indicators WHERE symbol = 'A' ORDER BY interval, time, indicator")
        one = await rows_of(session, "SELECT value FROM indicators WHERE indicator = 'rsi_14' AND interval = '1d'")
    assert found[:-2] == [
        ("A", "1d", at(0), "later_5", 2.5e-308, "final", 9),
        ("A", "1d", at(0), "rsi_14", float("inf"), "final", 9),
        ("A", "5m", at(0), "rsi_14", 1 / 3, "final", 9),
    ]
    assert [row[3:6] for row in found[-1:]] == [("rsi_14", 8.0, "forming")]
    assert found[-2][3] == "later_5"
    assert found[-2][4] != found[-2][4], "not a number remains not a number"
    assert one == [(float("inf"),)]

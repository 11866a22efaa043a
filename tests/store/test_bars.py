"""Bars and indicator values: the newest version of a key wins, in any order of arrival.

Historical bars also compete by completeness and source.
"""

import itertools
from typing import Any

import pyarrow as pa
import pytest

from tests.store.rows import MINUTE_US, OPEN_US, bars, ticks, values
from tickerplant.core.arrow_values import times_of
from tickerplant.core.reasons import OF_TICKS
from tickerplant.core.sources import SourceOrder
from tickerplant.store import Store
from tickerplant.store.repositories.analytics import Analytics
from tickerplant.store.repositories.ohlcv import Ohlcv

DAY_US = 1440 * MINUTE_US


async def put(store: Store, table: pa.Table, **options: Any) -> int:
    async with store.session() as session:
        ohlcv = Ohlcv(session)
        await ohlcv.prepare(table)
        async with session.transaction():
            return await ohlcv.upsert(table, 0, **options)


async def put_values(store: Store, table: pa.Table) -> int:
    async with store.session() as session:
        analytics = Analytics(session)
        await analytics.prepare(table)
        async with session.transaction():
            return await analytics.upsert(table, 0)


async def closes(store: Store, interval: str = "1m") -> list[tuple[str, float | None, int]]:
    async with store.read() as session:
        table = await session.ohlcv.read("GOOG", interval)
    return [(row["state"], row["close"], row["version"]) for row in table.to_pylist()]


async def test_written_bars_are_read_with_every_column(store: Store) -> None:
    table = bars({"price": 5.25, "version": 3}, {"minute": 1, "vwap": None, "trades": None, "version": 4})
    assert await put(store, table) == 2
    async with store.read() as session:
        assert (await session.ohlcv.read("GOOG", "1m")).equals(table)


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
async def test_the_newest_version_wins_in_any_order_over_transactions(store: Store, order: tuple[int, ...]) -> None:
    for version in order:
        await put(store, bars({"price": float(version), "version": version}))
    assert await closes(store) == [("final", 3.0, 3)]


async def test_the_newest_version_of_a_key_within_a_batch_wins(store: Store) -> None:
    table = bars(*({"price": float(v), "version": v} for v in (2, 5, 3)), {"minute": 1, "version": 1})
    assert await put(store, table) == 2
    assert await closes(store) == [("final", 5.0, 5), ("final", 1.0, 1)]


async def test_the_same_batch_again_changes_nothing(store: Store) -> None:
    table = bars({"version": 2}, {"minute": 1, "version": 2})
    assert await put(store, table) == 2
    assert await put(store, table) == 0


async def test_among_equal_versions_the_closed_state_wins(store: Store) -> None:
    await put(store, bars({"price": 1.0, "state": "forming"}))
    await put(store, bars({"price": 2.0, "state": "final"}))
    await put(store, bars({"price": 3.0, "state": "forming"}))
    assert await closes(store) == [("final", 2.0, 1)]


async def test_a_withdrawal_deletes_the_bar_and_its_values_but_nothing_newer(store: Store) -> None:
    await put(store, bars({"version": 2}, {"minute": 1, "version": 9}))
    await put_values(store, values({"version": 2, "sma_20": 1.0}, {"minute": 1, "version": 9, "sma_20": 2.0}))
    await put_values(store, values({"version": 2, "state": "forming", "sma_20": 1.0}))
    removed = [{"state": "withdrawn", "minute": minute, "version": 5} for minute in (0, 1)]
    await put(store, bars(*removed))
    assert await closes(store) == [("final", 1.0, 9)]
    async with store.read() as session:
        assert (await session.analytics.read("GOOG", "1m")).column("version").to_pylist() == [9]
        assert (await session.realtime_analytics.read("GOOG")).num_rows == 0


async def test_a_withdrawal_deletes_a_forming_bar_of_its_own_version(store: Store) -> None:
    await put(store, bars({"version": 1}, {"minute": 1, "state": "forming", "version": 5}))
    await put_values(store, values({"minute": 1, "version": 5, "state": "forming", "sma_20": 1.0}))
    await put(store, bars({"minute": 1, "state": "withdrawn", "version": 5, "volume": 0.0, "trades": 0, "vwap": None}))
    assert await closes(store) == [("final", 1.0, 1)]
    async with store.read() as session:
        assert (await session.realtime_analytics.read("GOOG")).num_rows == 0
    await put(store, bars({"minute": 1, "state": "withdrawn", "version": 1}, {"version": 1, "state": "withdrawn"}))
    assert await closes(store) == [("final", 1.0, 1)], "a final bar of the same version stays"


@pytest.mark.parametrize("count", [1, 40])  # few rows are sent as arrays, many by COPY
async def test_a_withdrawn_bar_disappears_from_the_list_of_symbols(store: Store, count: int) -> None:
    names = [f"S{i:02d}" for i in range(count)]
    minutes = [{"symbol": s, "minute": i, "price": float(i)} for s in names for i in range(3)]
    days = [{"symbol": s, "interval": "1d", "time_us": OPEN_US // DAY_US * DAY_US, "price": 9.0} for s in names]
    await put(store, bars(*minutes, *days))
    removed = [{"symbol": s, "minute": 2, "state": "withdrawn", "version": 2} for s in names]
    removed += [{**day, "state": "withdrawn", "version": 2} for day in days]
    await put(store, bars(*removed))

    async def known() -> set[tuple[float | None, int]]:
        async with store.read() as session:
            rows = (await session.symbols.list()).to_pylist()
        assert [row["symbol"] for row in rows] == names
        return {(row["last_price"], int(row["last_time"].timestamp() * 1e6) - OPEN_US) for row in rows}

    assert await known() == {(1.0, MINUTE_US)}
    await put(store, bars(*({**bar, "state": "withdrawn", "version": 3} for bar in minutes)))
    assert {price for price, _ in await known()} == {None}
    await put(store, bars(*({**bar, "version": 4} for bar in minutes)))
    assert await known() == {(2.0, 2 * MINUTE_US)}


async def test_activity_bars_are_intraday_bars_at_the_time_of_their_first_print(store: Store) -> None:
    at = [OPEN_US + us for us in (17, 18, 2 * MINUTE_US + 1, 8 * DAY_US)]
    rows = [{"interval": "100t", "time_us": time, "price": float(i)} for i, time in enumerate(at)]
    await put(store, bars(*rows, {"interval": "10000v", "time_us": at[0], "price": 7.0}, {"minute": 0, "price": 8.0}))
    found = [{**row, "state": "forming", "sma_20": 1.0} for row in rows[-1:]]
    await put_values(store, values(*({**row, "sma_20": row["price"]} for row in rows), *found))
    async with store.read() as session:
        table = await session.ohlcv.read("GOOG", "100t")
        part = await session.ohlcv.read("GOOG", "100t", at[1], at[3])
        newest = await session.ohlcv.newest_of_each(["GOOG"], "100t", limit=2)
        shown = await session.analytics.read("GOOG", "100t", names=["sma_20"])
        forming = await session.realtime_analytics.read("GOOG")
        [symbol] = (await session.symbols.list(["GOOG", "NONE"])).to_pylist()
        none = await session.symbols.list([])
    assert table.column("time").cast(pa.int64()).to_pylist() == at
    assert part.column("close").to_pylist() == [1.0, 2.0]
    assert newest.column("close").to_pylist() == [2.0, 3.0]
    assert shown.column("sma_20").to_pylist() == [0.0, 1.0, 2.0, 3.0]
    assert forming.column("interval").to_pylist() == ["100t"]
    assert symbol["intervals"] == ["10000v", "100t", "1m"]
    assert none.num_rows == 0
    await put(store, bars({"interval": "100t", "time_us": at[1], "state": "withdrawn", "version": 2}))
    assert [close for _, close, _ in await closes(store, "100t")] == [0.0, 2.0, 3.0]
    assert [close for _, close, _ in await closes(store, "10000v")] == [7.0]


async def test_copy_and_arrays_give_the_same_rows(store: Store) -> None:
    table = bars(*({"minute": i, "price": float(i), "version": i + 1} for i in range(500)))
    assert await put(store, table) == 500
    newer = bars(*({"minute": i, "price": -float(i), "version": 1000 if i % 2 else 0} for i in range(500)))
    assert await put(store, newer) == 250
    async with store.read() as session:
        found = (await session.ohlcv.read("GOOG", "1m")).column("close").to_pylist()
    assert found == [-float(i) if i % 2 else float(i) for i in range(500)]


async def test_historical_bars_compete_by_completeness_then_source_and_live_bars_do_not(store: Store) -> None:
    sources = SourceOrder(["best", "good*"])

    async def history(version: int, source: str, complete: bool = True) -> None:
        row = {"version": version, "source": source, "complete": complete, "history": True, "price": float(version)}
        await put(store, bars(row), sources=sources)

    await history(1, "goodish", complete=False)
    await history(2, "other")  # a complete bar precedes an incomplete one
    await history(3, "best", complete=False)
    assert await closes(store) == [("final", 2.0, 2)]
    await history(4, "goodish")
    await history(5, "other")
    assert await closes(store) == [("final", 4.0, 4)]
    await history(6, "goodish")  # a newer version of the same source
    assert await closes(store) == [("final", 6.0, 6)]
    await put(store, bars({"version": 7, "source": "other", "complete": False, "price": 7.0}), sources=sources)
    assert await closes(store) == [("final", 7.0, 7)]
    await history(3, "best")  # older than the stored row
    assert await closes(store) == [("final", 7.0, 7)]


async def test_history_in_one_batch_equals_single_writes(store: Store) -> None:
    rows = [
        {"version": 8, "source": "b", "history": True, "price": 8.0},
        {"version": 9, "source": "a", "history": True, "price": 9.0},
        {"version": 11, "source": "c", "history": True, "price": 11.0},
        {"minute": 1, "version": 8, "source": "a", "history": True, "price": 8.0},
        {"minute": 1, "version": 9, "source": "c", "price": 9.0},
    ]
    await put(store, bars(*rows), sources=SourceOrder(["a", "b"]))
    assert [close for _, close, _ in await closes(store)] == [9.0, 9.0]


async def test_a_kind_of_source_may_outrank_another_in_history(store: Store) -> None:
    order = SourceOrder(["official:bars", "*:ticks", "*"])
    built = [{"minute": i, "reason": reason, "source": "official"} for i, reason in enumerate(OF_TICKS)]
    given = {"minute": 20, "reason": "backfill", "source": "official"}
    newer = [{"minute": i, "version": 2, "history": True, "price": 2.0} for i in (*range(len(OF_TICKS)), 20)]
    await put(store, bars(*built, given), sources=order)
    await put(store, bars(*({**row, "source": "other"} for row in newer)), sources=order)
    assert [close for _, close, _ in await closes(store)] == [1.0] * (len(OF_TICKS) + 1)
    await put(store, bars(*({**row, "source": "official"} for row in newer)), sources=order)
    assert [close for _, close, _ in await closes(store)] == [2.0] * (len(OF_TICKS) + 1)
    # The kind of a historical row is bars, independent of its reason.
    late = {"minute": 0, "version": 3, "history": True, "price": 3.0, "source": "other", "reason": "ticks"}
    await put(store, bars(late), sources=order)
    assert (await closes(store))[0] == ("final", 2.0, 2)


@pytest.mark.parametrize("count", [1, 40])  # few rows are sent as arrays, many by COPY
async def test_source_ranks_of_history_depend_on_symbol_and_interval(store: Store, count: int) -> None:
    order = SourceOrder(["a:bars@G* 1m", "b@^*", "b", "a"])
    symbols = {"GOOG": "1m", "GOLD": "5m", "^GSPC": "1m", "IBM": "1m"}
    keys = [
        {"symbol": symbol, "interval": interval, "minute": 5 * i} for symbol, interval in symbols.items()
        for i in range(count)
    ]  # fmt: skip
    first = [{**key, "history": True, "version": 1, "source": "b", "price": 1.0} for key in keys]
    second = [{**key, "history": True, "version": 2, "source": "a", "price": 2.0} for key in keys]

    async def found() -> dict[str, set[float]]:
        async with store.read() as session:
            tables = {symbol: await session.ohlcv.read(symbol, interval) for symbol, interval in symbols.items()}
        assert all(table.num_rows == count for table in tables.values())
        return {symbol: set(table.column("close").to_pylist()) for symbol, table in tables.items()}

    expected = {"GOOG": {2.0}, "GOLD": {1.0}, "^GSPC": {1.0}, "IBM": {1.0}}
    await put(store, bars(*first), sources=order)
    await put(store, bars(*second), sources=order)
    assert await found() == expected
    async with store.session() as session:
        await session.script("TRUNCATE intraday_ohlcv")
    await put(store, bars(*second, *first), sources=order)
    assert await found() == expected, "one batch gives the same rows as two"


async def test_daily_bars_of_centuries_are_stored_in_their_own_table(store: Store) -> None:
    years = [-62_091, -30_000, 0, 12_000, 40_000, 106_000]  # days since 1970, in the years 1800 to 2260
    await put(store, bars(*({"interval": "1d", "time_us": day * DAY_US, "price": float(day)} for day in years)))
    assert [close for _, close, _ in await closes(store, "1d")] == [float(day) for day in years]
    async with store.read() as session:
        times = (await session.ohlcv.read("GOOG", "1d")).column("time")
    assert times_of(times).tolist() == [day * DAY_US for day in years]
    assert await closes(store) == []


async def test_a_limit_without_a_start_returns_the_newest_in_time_order(store: Store) -> None:
    await put(store, bars(*({"minute": i, "price": float(i)} for i in range(20_000, 0, -100))))  # two weeks

    async def read(**bounds: Any) -> list[float]:
        async with store.read() as session:
            return (await session.ohlcv.read("GOOG", "1m", **bounds)).column("close").to_pylist()

    at = OPEN_US + 10_000 * MINUTE_US
    assert await read(limit=3) == [19_800, 19_900, 20_000]
    assert await read(limit=3, newest_first=True) == [20_000, 19_900, 19_800]
    assert await read(start_us=at, limit=2) == [10_000, 10_100]
    assert await read(end_us=at, limit=2) == [9_800, 9_900]
    assert await read(start_us=at, end_us=at + 200 * MINUTE_US) == [10_000, 10_100]
    assert await read(start_us=at, limit=2, newest_first=True) == [20_000, 19_900]


async def test_the_newest_bars_of_many_symbols_are_read_at_once(store: Store) -> None:
    rows = [{"symbol": s, "minute": i, "price": float(i)} for s in ("B", "A", "C") for i in range(10)]
    await put(store, bars(*rows, {"symbol": "A", "minute": 10, "state": "forming"}))
    async with store.read() as session:
        found = await session.ohlcv.newest_of_each(["B", "A", "NONE"], "1m", limit=2)
        earlier = await session.ohlcv.newest_of_each(["A"], "1m", limit=1, before_us=OPEN_US + 5 * MINUTE_US)
        forming = await session.ohlcv.newest_of_each(["A", "C"], "1m", limit=1, forming=True)
    got = list(zip(found.column("symbol").to_pylist(), found.column("close").to_pylist(), strict=True))
    assert got == [("A", 8.0), ("A", 9.0), ("B", 8.0), ("B", 9.0)]
    assert earlier.column("close").to_pylist() == [4.0]
    assert forming.column("state").to_pylist() == ["forming", "final"]


async def test_symbols_are_listed_with_their_times_intervals_and_prices(store: Store) -> None:
    await put(store, bars({"symbol": "B", "minute": 1, "price": 2.0}, {"symbol": "A", "minute": 5, "price": 3.0}))
    await put(store, bars({"symbol": "B", "interval": "5m", "minute": 0, "price": 7.0}))
    await put(store, bars({"symbol": "B", "minute": 2, "price": 9.0, "state": "forming", "version": 3}))
    async with store.read() as session:
        found = (await session.symbols.list()).to_pylist()
    assert [row["symbol"] for row in found] == ["A", "B"]
    assert found[1]["intervals"] == ["1m", "5m"]
    assert found[1]["last_price"] == 2.0


async def test_values_are_stored_in_their_tables_and_new_columns_are_added(store: Store) -> None:
    table = values(
        {"version": 1, "macd_12_26_9": 1.5, "sma_20": None},
        {"minute": 1, "version": 2, "state": "forming", "macd_12_26_9": 2.5},
        {"interval": "1d", "time_us": 15_000 * DAY_US, "macd_12_26_9": 3.5},
        names=("sma_20", "macd_12_26_9"),
    )
    assert await put_values(store, table) == 3
    assert await put_values(store, table) == 0
    async with store.read() as session:
        minute = await session.analytics.read("GOOG", "1m", names=["macd_12_26_9", "sma_20"])
        daily = await session.analytics.read("GOOG", "1d", names=["macd_12_26_9"])
        forming = await session.realtime_analytics.read("GOOG")
    assert minute.column("macd_12_26_9").to_pylist() == [1.5]
    assert minute.column("sma_20").to_pylist() == [None]
    assert daily.column("macd_12_26_9").to_pylist() == [3.5]
    assert forming.column("macd_12_26_9").to_pylist() == [2.5]
    assert forming.column("rsi_14").to_pylist() == [None]


async def test_a_newer_closed_row_sets_missing_columns_to_null(store: Store) -> None:
    both = ("sma_20", "ema_12")
    old = {"sma_20": 1.0, "ema_12": 2.0}
    await put_values(store, values(*({"minute": i, **old} for i in range(40)), names=both))
    await put_values(store, values({"interval": "1d", "time_us": 15_000 * DAY_US, **old}, names=both))
    await put_values(store, values({"minute": 50, "state": "forming", **old}, names=both))
    newer = values(
        {"minute": 0, "version": 2, "sma_20": 3.0},
        {"minute": 50, "state": "forming", "version": 2, "sma_20": 7.0},
        {"interval": "1d", "time_us": 15_000 * DAY_US, "version": 2, "sma_20": 3.0},
    )
    assert await put_values(store, newer) == 3
    assert await put_values(store, newer) == 0
    assert await put_values(store, values({"minute": 1, "version": 0, "sma_20": 9.0})) == 0
    assert await put_values(store, values({"minute": 2, "sma_20": 1.0})) == 1  # among equal versions the later row wins
    async with store.read() as session:
        minute = await session.analytics.read("GOOG", "1m", names=both)
        daily = await session.analytics.read("GOOG", "1d", names=both)
        forming = (await session.realtime_analytics.read("GOOG")).select(both)
    found = list(zip(minute.column("sma_20").to_pylist(), minute.column("ema_12").to_pylist(), strict=True))
    assert found == [(3.0, None), (1.0, 2.0), (1.0, None), *[(1.0, 2.0)] * 37]
    assert daily.select(both).to_pylist() == [{"sma_20": 3.0, "ema_12": None}]
    assert forming.to_pylist() == [{"sma_20": 7.0, "ema_12": 2.0}]


async def test_a_withdrawn_row_of_values_deletes_them(store: Store) -> None:
    await put_values(store, values({"sma_20": 1.0}, {"minute": 1, "sma_20": 2.0}))
    await put_values(store, values({"state": "withdrawn", "version": 4}))
    async with store.read() as session:
        assert (await session.analytics.read("GOOG", "1m", names=["sma_20"])).column("sma_20").to_pylist() == [2.0]


def test_the_test_ticks_have_the_schema() -> None:
    assert ticks(10, symbols=3).num_rows == 10


async def test_history_returns_all_final_bars_with_prices_with_and_without_copy(store: Store) -> None:
    rows = [{"minute": i, "price": 1.0 + i, "version": i + 1} for i in (4, 0, 2, 1)]
    rows += [{"minute": 3, "price": None}, {"minute": 5, "state": "forming"}, {"minute": 6, "interval": "5m"}]
    rows += [{"minute": 2, "symbol": "O'HARA"}]
    await put(store, bars(*rows, {"minute": 7, "vwap": None}))
    found = []
    for copies in (True, False):
        store.database.copies = copies
        async with store.read() as session:
            found.append(await session.ohlcv.history("GOOG", "1m"))
            assert (await session.ohlcv.history("O'HARA", "1m")).num_rows == 1
            assert (await session.ohlcv.history("NONE", "1d")).num_rows == 0
    assert found[0].equals(found[1])
    assert found[0].column("close").to_pylist() == [1.0, 2.0, 3.0, 5.0, 1.0]
    assert found[0].column("vwap").to_pylist()[-1] is None
    assert found[0].column("version").to_pylist() == [1, 2, 3, 5, 1]
    async with store.read() as session:
        whole = (await session.ohlcv.read("GOOG", "1m")).filter(pa.array([True, True, True, False, True, False, True]))
    for name in found[0].schema.names:
        assert found[0].column(name).to_pylist() == whole.column(name).to_pylist()


async def test_among_values_of_one_version_the_later_row_wins(store: Store) -> None:
    assert await put_values(store, values({"version": 5, "sma_20": 1.0})) == 1
    assert await put_values(store, values({"version": 5, "sma_20": 1.0})) == 0
    assert await put_values(store, values({"version": 5, "sma_20": 2.0})) == 1
    assert await put_values(store, values({"version": 4, "sma_20": 3.0})) == 0
    async with store.read() as session:
        assert (await session.analytics.read("GOOG", "1m", names=["sma_20"])).column("sma_20").to_pylist() == [2.0]

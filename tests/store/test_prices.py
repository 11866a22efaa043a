"""Ticks are stored completely and in order, and are read together with their positions."""

import asyncio

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.store.conftest import SEVERAL_SESSIONS
from tests.store.rows import OPEN_US, arrived, ticks
from tickerplant.core.errors import StoreError, StoreUnavailable
from tickerplant.store import Store
from tickerplant.store.repositories.prices import DENSE_TICKS, Prices, sorted_ticks, split_dense

DAY_US = 86_400_000_000


async def put(store: Store, table: pa.Table, partition: int = 0) -> None:
    async with store.session() as session:
        prices = Prices(session)
        await prices.prepare(table)
        async with session.transaction():
            await prices.append(sorted_ticks(table), partition)


async def test_ticks_are_read_with_every_column_to_the_microsecond(store: Store) -> None:
    table = ticks(1000, start_us=4_102_444_799_000_001)  # the end of 2099
    await put(store, table)
    async with store.read() as session:
        assert (await session.prices.read("S0000")).equals(table)


async def test_ticks_of_one_instant_keep_their_order(store: Store) -> None:
    table = ticks(500, step_us=0)
    await put(store, arrived(table, 1))
    async with store.read() as session:
        assert (await session.prices.read("S0000", limit=100)).column("price").to_pylist() == table.column(
            "price"
        ).to_pylist()[-100:]


async def test_the_newest_ticks_of_many_symbols_are_read_at_once_and_in_order(store: Store) -> None:
    many = ticks(600, symbols=3, step_us=0)  # all at one instant, as from a feed with times in whole seconds
    await put(store, arrived(many, 1))
    async with store.read() as session:
        found = await session.prices.newest_of_each(["S0002", "S0000", "NONE"], limit=4)
        for symbol in ("S0000", "S0002"):
            mine = found.filter(pc.equal(found.column("symbol").cast(pa.utf8()), symbol))
            assert mine.to_pylist() == (await session.prices.read(symbol, limit=4)).to_pylist()
    assert found.num_rows == 8


def test_ticks_whose_times_go_back_are_sorted_by_symbol_and_time() -> None:
    later, earlier = ticks(300, symbols=300, start_us=OPEN_US + 1_000), ticks(300, symbols=300, seed=1)
    table = pa.concat_tables([later, earlier, later])  # 300 symbols have codes of 16 bits
    rows = sorted_ticks(table).to_pylist()
    assert rows == sorted(table.to_pylist(), key=lambda row: (row["symbol"], row["time"]))


def test_sorting_is_stable() -> None:
    table = pa.concat_tables([ticks(50, symbols=3, step_us=0, seed=s) for s in (1, 2)])
    done = sorted_ticks(table)
    for symbol in ("S0000", "S0001", "S0002"):
        mask = [name == symbol for name in table.column("symbol").to_pylist()]
        wanted = table.filter(pa.array(mask)).column("price").to_pylist()
        mask = [name == symbol for name in done.column("symbol").to_pylist()]
        assert done.filter(pa.array(mask)).column("price").to_pylist() == wanted


def test_only_symbols_with_many_ticks_in_a_commit_are_compressed_by_copy() -> None:
    few = ticks(3 * (DENSE_TICKS - 1), symbols=3)
    names = [f"S{i % 3:04d}" for i in range(few.num_rows)]
    few = few.set_column(1, few.schema.field("symbol"), pa.array(names).dictionary_encode())
    many = ticks(DENSE_TICKS, seed=2)
    many = many.set_column(1, many.schema.field("symbol"), pa.array(["MANY"] * DENSE_TICKS).dictionary_encode())
    both = pa.concat_tables([few.slice(0, 50), many, few.slice(50)]).unify_dictionaries()
    dense, sparse = split_dense(both)
    assert dense.to_pylist() == many.to_pylist()
    assert sparse.to_pylist() == few.to_pylist()
    assert split_dense(few)[0].num_rows == split_dense(many)[1].num_rows == 0


async def test_concurrent_writers_create_the_same_partitions(store: Store) -> None:
    async def write(number: int) -> None:
        for day in range(6):
            await put(store, ticks(200, symbols=5, start_us=OPEN_US + day * DAY_US, seed=number), number)

    async def write_without_cache(number: int) -> None:
        store.database.known.clear()
        await write(number)

    await asyncio.gather(*(write_without_cache(i) for i in range(6)))
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_prices") == 6 * 6 * 200
        assert await session.value("SELECT count(*) FROM arrivals") == 6 * 6


@pytest.mark.parametrize("database", SEVERAL_SESSIONS, indirect=True)
async def test_a_read_session_has_rows_and_positions_of_one_moment(store: Store) -> None:
    async with store.session() as session:
        await session.script("INSERT INTO positions VALUES ('raw', 0, 'x', 1, 0, 0, 0)")
    await put(store, ticks(1))
    async with store.read() as reading:
        before = await reading.positions()
        async with store.session() as session, session.transaction():
            await session.script("UPDATE positions SET position = 7")
            await Prices(session).append(ticks(5), 0)
        assert await reading.positions() == before == {("raw", 0): 0}
        assert (await reading.prices.read("S0000")).num_rows == 1
    async with store.read() as reading:
        assert await reading.positions() == {("raw", 0): 7}


@pytest.mark.parametrize("database", SEVERAL_SESSIONS, indirect=True)
async def test_refusal_and_unavailability_of_the_server_are_distinct_errors(store: Store, empty_dsn: str) -> None:
    async with store.session() as session:
        with pytest.raises(StoreError) as refused:
            await session.script("SELECT 1 / 0")
        assert not isinstance(refused.value, StoreUnavailable)
        await session.execute("SELECT pg_backend_pid()")
        async with store.session() as other:
            pid = await session.value("SELECT pg_backend_pid()")
            await other.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(StoreUnavailable):
            await session.value("SELECT 1")
    with pytest.raises(StoreUnavailable):
        await Store.open("postgresql://x:y@127.0.0.1:1/x")
    bare = await Store.open(empty_dsn)
    with pytest.raises(StoreError, match="init-db"):
        async with bare.read() as session:
            await session.prices.read("S0000")
    await bare.close()

"""Only the owner of a position advances it, each step once, and only for the log that the store follows."""

import asyncio

import pytest

from tests.store.conftest import SEVERAL_SESSIONS
from tickerplant.core.errors import PositionConflict, StoreMismatch
from tickerplant.store import Store
from tickerplant.store.repositories.positions import (
    Advance,
    Ends,
    Log,
    Partition,
    advance,
    advance_all,
    all_positions,
    begin,
)

RAW = ("market.prices.raw", 0)
BARS = ("market.prices.ohlcv", 0)
LOG = Log("one", 1)


async def test_a_position_moves_only_from_its_expected_value(store: Store) -> None:
    async with store.session() as session:
        await advance(session, RAW, "one", 1, None, 5, 40)
        await advance(session, RAW, "one", 1, 5, 9, 30)
        for wrong in (5, 10, None):
            with pytest.raises(PositionConflict):
                await advance(session, RAW, "one", 1, wrong, 12, 50)
        for log_id, generation in (("two", 1), ("one", 2)):
            with pytest.raises(PositionConflict):
                await advance(session, RAW, log_id, generation, 9, 12, 50)
        found = await all_positions(session)
    assert (found[RAW].position, found[RAW].cause) == (9, 40)


async def test_a_conflict_names_the_partitions_and_moves_none(store: Store) -> None:
    async with store.session() as session:
        await begin(session, LOG, [RAW, BARS])
        await begin(session, LOG, [RAW, BARS])
        await advance(session, RAW, "one", 1, 0, 4, 0)
        steps = [Advance(*RAW, 0, 9, 0, 9), Advance(*BARS, 0, 9, 0, 7)]
        with pytest.raises(PositionConflict) as conflict:
            async with session.transaction():
                await advance_all(session, LOG, steps)
        assert conflict.value.args[1] == frozenset([RAW])
        found = await all_positions(session)
    assert (found[RAW].position, found[BARS].position) == (4, 0)


async def test_one_of_two_concurrent_owners_succeeds(store: Store) -> None:
    async with store.session() as session:
        await begin(session, LOG, [RAW])

    async def own() -> bool:
        async with store.session() as session:
            try:
                async with session.transaction():
                    await advance(session, RAW, "one", 1, 0, 5, 0)
                    await asyncio.sleep(0.05)
            except PositionConflict:
                return False
            return True

    assert sorted(await asyncio.gather(own(), own(), own())) == [False, False, True]


def ends(there: dict[Partition, int]) -> Ends:
    """Return a function that returns these end offsets of a log."""

    async def read_ends() -> dict[Partition, int]:
        return there

    return read_ends


@pytest.mark.parametrize("database", SEVERAL_SESSIONS, indirect=True)
async def test_the_ends_of_the_log_are_read_after_the_positions_of_the_store(store: Store) -> None:
    await store.check_log("one", 1, ends({}))

    async def append_and_apply() -> dict[Partition, int]:
        async with store.session() as session:  # as in a running plant, a record is appended and applied meanwhile
            await advance(session, RAW, "one", 1, None, 10, 0)
        return {RAW: 5}

    await store.check_log("one", 1, append_and_apply)


async def test_a_store_follows_one_log_and_is_never_ahead_of_it(store: Store) -> None:
    await store.check_log("one", 1, ends({RAW: 10}))
    await store.check_log("one", 1, ends({RAW: 10}))
    for log_id, generation in (("two", 1), ("one", 2)):
        with pytest.raises(StoreMismatch, match="tickerplant adopt"):
            await store.check_log(log_id, generation, ends({RAW: 10}))
    async with store.session() as session:
        await advance(session, RAW, "one", 1, None, 10, 0)
    await store.check_log("one", 1, ends({RAW: 10}))
    with pytest.raises(StoreMismatch, match=r"ahead of its log.*tickerplant adopt"):
        await store.check_log("one", 1, ends({RAW: 9}))


async def test_an_adopted_log_has_a_greater_generation_and_starts_at_its_beginning(store: Store) -> None:
    await store.check_log("one", 1, ends({}))
    async with store.session() as session:
        await advance(session, RAW, "one", 1, None, 10, 0)
    with pytest.raises(StoreMismatch, match="greater"):
        await store.adopt("two", 1)
    await store.adopt("two", 2)
    await store.check_log("two", 2, ends({RAW: 0}))
    assert await store.bound_to() == Log("two", 2)
    async with store.session() as session:
        assert await all_positions(session) == {}
        with pytest.raises(PositionConflict):
            await advance(session, RAW, "one", 1, 10, 12, 0)

"""Stored bars and silent intervals of symbols, and vendors' answers."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tests.store.rows import MINUTE_US, OPEN_US, bars
from tests.store.writes import MANY, write_bars, write_intervals
from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.symbols import partition_of
from tickerplant.store import Store
from tickerplant.store.maintenance import retention
from tickerplant.store.repositories.answers import Segment, VendorAnswers, merge_adjacent, overlay

END_US = OPEN_US + 10 * MINUTE_US


def answer(first: int, last: int, verdict: str, *, source: str = "a", note: str | None = None) -> pa.Table:
    def text(value: str, kind: pa.DataType = schemas.TEXT) -> pa.Array:
        return pa.array([value]).dictionary_encode().cast(kind)

    def time(minute: int) -> pa.Array:
        return timestamps(np.array([OPEN_US + minute * MINUTE_US], np.int64))

    columns = [
        text("GOOG"), text("1m", schemas.SMALL_TEXT), time(first), time(last), text(source),
        text(verdict, schemas.SMALL_TEXT), pa.array([note], pa.utf8()), pa.nulls(1, schemas.TIMESTAMP),
    ]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=schemas.ANSWERS)


async def put(store: Store, table: pa.Table, version: int) -> None:
    async with store.session() as session, session.transaction():
        await VendorAnswers(session).put(table, version)


async def retain(store: Store, now: dt.datetime, *statements: str) -> None:
    """Run statements, and then retention at this time."""
    async with store.session() as session:
        for sql in statements:
            await session.execute(sql)
        await retention(session, now)


async def stored_answers(store: Store, interval: str = "1m") -> list[tuple[int, int, str, str]]:
    """Return (first minute, end minute, verdict, source) of each stored answer, in time order."""
    async with store.read() as session:
        found = (await session.answers.read(["GOOG"], interval, 0, OPEN_US + 100 * MINUTE_US)).get("GOOG")
    if found is None:
        return []
    minutes = [((us - OPEN_US) // MINUTE_US).tolist() for us in (found.from_us, found.to_us)]
    return sorted(zip(*minutes, found.verdict, found.source, strict=True))


async def test_the_newest_answer_of_each_minute_wins_from_any_vendor(store: Store) -> None:
    await put(store, answer(0, 5, "quota", note="25 a day"), 1)
    await put(store, answer(3, 8, "outage", source="b"), 2)
    assert await stored_answers(store) == [(0, 3, "quota", "a"), (3, 8, "outage", "b")]
    await put(store, answer(4, 6, "answered"), 3)
    assert await stored_answers(store) == [(0, 3, "quota", "a"), (3, 4, "outage", "b"), (4, 6, "answered", "a"),
                                 (6, 8, "outage", "b")]  # fmt: skip
    async with store.read() as session:
        found = (await session.answers.read(["GOOG", "NONE"], "1m", OPEN_US, OPEN_US + 10 * MINUTE_US))["GOOG"]
        assert found.verdict == ["quota", "outage", "outage", "answered"], "older versions precede newer ones"
        assert found.again_us.tolist() == [0, 0, 0, 0]
        assert await session.answers.read(["GOOG"], "1m", OPEN_US + 8 * MINUTE_US, OPEN_US + 9 * MINUTE_US) == {}


async def test_adjacent_equal_answers_are_one_row(store: Store) -> None:
    for version, (first, last) in enumerate([(0, 5), (10, 15), (5, 10), (14, 20)], 1):
        await put(store, answer(first, last, "answered"), version)
    assert await stored_answers(store) == [(0, 20, "answered", "a")]
    await put(store, answer(20, 25, "answered", source="b"), 9)
    await put(store, answer(8, 12, "no_data"), 10)
    assert await stored_answers(store) == [(0, 8, "answered", "a"), (8, 12, "no_data", "a"), (12, 20, "answered", "a"),
                                 (20, 25, "answered", "b")]  # fmt: skip
    await put(store, answer(0, 12, "answered"), 11)
    assert await stored_answers(store) == [(0, 20, "answered", "a"), (20, 25, "answered", "b")]


async def test_an_answer_applied_again_changes_nothing(store: Store) -> None:
    for version in (1, 2, 2, 1):
        await put(store, answer(0, 5, f"{'quota' if version == 1 else 'answered'}"), version)
    assert await stored_answers(store) == [(0, 5, "answered", "a")]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 8), st.sampled_from("ab")), max_size=8), st.data())
def test_segments_contain_the_newest_answer_of_each_instant(
    answers: list[tuple[int, int, str]], data: st.DataObject
) -> None:
    pieces: list[Segment] = []
    wanted: dict[int, tuple[int, str]] = {}
    order = data.draw(st.permutations(range(len(answers))))
    for version in [*range(len(answers)), *order]:  # applied once, and once more in any order
        begin, length, text = answers[version]
        pieces = merge_adjacent(overlay(pieces, Segment(begin, begin + length, (text,), version)))
        for instant in range(begin, begin + length):
            wanted[instant] = max(wanted.get(instant, (version, text)), (version, text))
        assert {i: p.answer[0] for p in pieces for i in range(p.start_us, p.end_us)} == {
            i: text for i, (_, text) in wanted.items()
        }
        assert sum(p.end_us - p.start_us for p in pieces) == len(wanted), "no segments overlap"


async def test_answers_are_kept_as_long_as_the_bars_of_their_interval(store: Store) -> None:
    now = dt.datetime.now(dt.UTC)
    await put(store, answer(0, 5, "answered"), 1)
    await retain(store, now)
    assert len(await stored_answers(store)) == 1, "an answer about 2012 that arrived today is kept"
    await write_bars(store, bars({"minute": 2}))
    await retain(
        store, dt.datetime(2013, 1, 1, tzinfo=dt.UTC), "UPDATE answers SET arrived_at = '2012-07-01'",
        """INSERT INTO answers SELECT symbol, daily, from_time, to_time, source, verdict, note, again_at, version,
               arrived_at FROM answers, unnest('{1d,1w}'::text[]) AS n (daily)""",
    )  # fmt: skip
    assert len(await stored_answers(store)) == 1
    for keep in ("NULL", "'900 years'"):
        kept = f"UPDATE retention SET keep = {keep} WHERE relation = 'intraday_ohlcv'"
        await retain(store, now, "DELETE FROM intraday_ohlcv", kept)
        assert len(await stored_answers(store)) == 1, "bars of its interval are kept for longer than answers"
    await retain(store, now, "UPDATE retention SET keep = '1 day' WHERE relation = 'intraday_ohlcv'")
    assert await stored_answers(store) == []
    assert len(await stored_answers(store, "1d")) == len(await stored_answers(store, "1w")) == 1, (
        "daily bars have no retention"
    )


async def test_stored_bars_and_counts_contain_final_bars_only(store: Store) -> None:
    table = bars(
        {"minute": 0},
        {"minute": 1, "complete": False},
        {"minute": 2, "state": "forming"},
        {"minute": 3},
        {"minute": 0, "symbol": "MSFT"},
        {"minute": 0, "interval": "1d", "time_us": OPEN_US - OPEN_US % 86_400_000_000},
    )
    await write_bars(store, table)
    async with store.read() as session:
        starts, complete = await session.coverage.stored_bars("GOOG", "1m", OPEN_US, OPEN_US + 10 * MINUTE_US)
        assert ((starts - OPEN_US) // MINUTE_US).tolist() == [0, 1, 3]
        assert complete.tolist() == [True, False, True]
        counts = await session.coverage.counts(["GOOG", "MSFT", "NONE"], "1m", OPEN_US, OPEN_US + 10 * MINUTE_US)
        assert {symbol: number.tolist() for symbol, (_, number) in counts.items()} == {"GOOG": [2], "MSFT": [1]}
        starts, _ = await session.coverage.stored_bars("GOOG", "1d", 0, OPEN_US)
        assert len(starts) == 1


def minutes(starts: np.ndarray) -> list[int]:
    return ((starts - OPEN_US) // MINUTE_US).tolist()


async def assert_many_symbols(store: Store) -> None:
    table = bars(
        {"minute": 3}, {"minute": 0}, {"minute": 1, "complete": False}, {"minute": 2, "state": "forming"},
        {"minute": 1, "symbol": "MSFT"}, {"minute": 10, "symbol": "LATE"}, {"minute": 0, "interval": "5m"},
    )  # fmt: skip
    await write_bars(store, table)
    async with store.read() as session:
        found = await session.coverage.stored_bars_of(["NONE", "MSFT", "GOOG", "LATE", "GOOG"], "1m", OPEN_US, END_US)
        assert await session.coverage.stored_bars_of([], "1m", OPEN_US, END_US) == {}
    assert {symbol: minutes(starts) for symbol, (starts, _) in found.items()} == {"MSFT": [1], "GOOG": [0, 1, 3]}
    assert found["GOOG"][1].tolist() == [True, False, True]


async def assert_silent_intervals(store: Store) -> None:
    both = ["GOOG", "MSFT"]
    await write_intervals(store, [1, 10], both)  # one covering feed
    await write_intervals(store, [4], both)
    await write_intervals(store, [2], ["MSFT"])
    await write_intervals(store, [3], both, whole=False)
    # GOOG traded in `other`, or `other` does not carry GOOG. Both cases have one result.
    await write_intervals(store, [4], ["MSFT"], feed="other")
    await write_intervals(store, [5], both)
    await write_intervals(store, [5], ["GOOG"], feed="other", whole=False)  # `other` was not up for the whole minute
    await write_intervals(store, [6], ["GOOG"], feed="other")
    await write_intervals(store, [6], both)
    await write_intervals(store, [5], both, interval="5m")
    symbols = ["BUSY", "MSFT", "NONE", "GOOG", "MSFT"]
    here = partition_of("GOOG", MANY)
    async with store.read() as session:
        found = await session.coverage.silent_intervals(symbols, "1m", here, OPEN_US, END_US)
        assert {name: minutes(starts) for name, starts in found.items()} == {"MSFT": [1, 2, 4, 5], "GOOG": [1, 5, 6]}
        assert await session.coverage.silent_intervals(["BUSY"], "1m", here, OPEN_US, END_US) == {}
        assert await session.coverage.silent_intervals(symbols, "1m", here + 1, OPEN_US, END_US) == {}
        assert await session.coverage.silent_intervals([], "1m", here, OPEN_US, END_US) == {}


async def test_many_symbols_are_read_together(store: Store) -> None:
    await assert_many_symbols(store)


async def test_a_symbol_was_silent_if_every_covering_feed_lists_it(store: Store) -> None:
    await assert_silent_intervals(store)


async def test_reading_many_symbols_equals_reading_each(store: Store) -> None:
    random = np.random.default_rng(3)
    symbols = [f"S{number}" for number in range(40)]
    rows = [
        {"minute": int(m), "symbol": symbol, "complete": bool(random.random() < 0.8)}
        for symbol in symbols[1:] for m in random.permutation(20)[: random.integers(0, 20)]
    ]  # fmt: skip
    await write_bars(store, bars(*rows))
    listed: dict[int, list[set[str]]] = {}
    for feed in ("live", "other", "third"):
        for minute in range(12):
            silent = [symbol for symbol in symbols if random.random() < 0.7]
            whole = bool(random.random() < 0.7)
            await write_intervals(store, [minute], silent, feed=feed, whole=whole)
            if whole:
                listed.setdefault(minute, []).append({*silent})
    here = partition_of("GOOG", MANY)
    async with store.read() as session:
        have = await session.coverage.stored_bars_of(symbols, "1m", OPEN_US, END_US)
        silences = await session.coverage.silent_intervals(symbols, "1m", here, OPEN_US, END_US)
        for symbol in symbols:
            mine = sorted((r["minute"], r["complete"]) for r in rows if r["symbol"] == symbol and r["minute"] < 10)
            starts, complete = have.get(symbol, (np.empty(0, np.int64), np.empty(0, np.bool_)))
            assert [*zip(minutes(starts), complete.tolist(), strict=True)] == mine
            assert (symbol in have) == bool(mine)
            silent = [m for m in range(10) if m in listed and all(symbol in names for names in listed[m])]
            assert minutes(silences.get(symbol, np.empty(0, np.int64))) == silent
            assert (symbol in silences) == bool(silent)

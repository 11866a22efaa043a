"""What is stored of a symbol's bars, and what vendors answered."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tests.store.rows import MINUTE_US, OPEN_US, bars
from tickerplant.core import schemas
from tickerplant.core.times import timestamps
from tickerplant.store import Store
from tickerplant.store.repositories.answers import VendorAnswers
from tickerplant.store.repositories.ohlcv import Ohlcv


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


async def test_answers_come_oldest_first_and_a_wider_one_replaces_what_lies_within(store: Store) -> None:
    await put(store, answer(0, 5, "quota", note="25 a day"), 1)
    await put(store, answer(3, 8, "outage", source="b"), 2)
    await put(store, answer(0, 6, "answered"), 3)
    async with store.read() as look:
        found = (await look.answers.read(["GOOG", "NONE"], "1m", OPEN_US, OPEN_US + 10 * MINUTE_US))["GOOG"]
        assert found.verdict == ["outage", "answered"]
        assert found.source == ["b", "a"]
        assert ((found.from_us - OPEN_US) // MINUTE_US).tolist() == [3, 0]
        assert found.again_us.tolist() == [0, 0]
        assert await look.answers.read(["GOOG"], "1m", OPEN_US + 8 * MINUTE_US, OPEN_US + 9 * MINUTE_US) == {}


async def test_an_answer_applied_again_changes_nothing(store: Store) -> None:
    for version in (1, 2, 2, 1):
        await put(store, answer(0, 5, f"{'quota' if version == 1 else 'answered'}"), version)
    async with store.read() as look:
        assert (await look.answers.read(["GOOG"], "1m", OPEN_US, OPEN_US + MINUTE_US))["GOOG"].verdict == ["answered"]


async def test_have_and_counts_are_of_final_bars(store: Store) -> None:
    table = bars(
        {"minute": 0},
        {"minute": 1, "complete": False},
        {"minute": 2, "state": "forming"},
        {"minute": 3},
        {"minute": 0, "symbol": "MSFT"},
        {"minute": 0, "interval": "1d", "time_us": OPEN_US - OPEN_US % 86_400_000_000},
    )
    async with store.session() as session:
        ohlcv = Ohlcv(session)
        await ohlcv.prepare(table)
        async with session.transaction():
            await ohlcv.upsert(table, 0)
    async with store.read() as look:
        starts, complete = await look.coverage.have("GOOG", "1m", OPEN_US, OPEN_US + 10 * MINUTE_US)
        assert ((starts - OPEN_US) // MINUTE_US).tolist() == [0, 1, 3]
        assert complete.tolist() == [True, False, True]
        counts = await look.coverage.counts(["GOOG", "MSFT", "NONE"], "1m", OPEN_US, OPEN_US + 10 * MINUTE_US)
        assert {symbol: number.tolist() for symbol, (_, number) in counts.items()} == {"GOOG": [2], "MSFT": [1]}
        starts, _ = await look.coverage.have("GOOG", "1d", 0, OPEN_US)
        assert len(starts) == 1

"""Corporate actions: the selection among several sources, and the closes before ex-dates."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from tests.store.rows import bars
from tests.store.test_bars import put
from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.sessions import calendar
from tickerplant.core.times import FOREVER_US, HOUR_US, MINUTE_US, micros_of
from tickerplant.store import Store
from tickerplant.store.repositories.actions import Actions

XNYS = calendar("XNYS")


def day(text: str) -> int:
    return micros_of(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


async def pay(store: Store, version: int, source: str, *rows: tuple[str, float], symbol: str = "GOOG") -> None:
    """Store the dividends of one record."""
    table = pa.table(
        {
            "time": timestamps(np.array([day(row[0]) for row in rows])), "symbol": [symbol] * len(rows),
            "amount": [row[1] for row in rows], "currency": ["USD"] * len(rows), "source": [source] * len(rows),
        }
    ).cast(schemas.DIVIDENDS)  # fmt: skip
    async with store.session() as session, session.transaction():
        await Actions(session).put_dividends(table, version)


async def split(store: Store, version: int, source: str, date: str, numerator: float, denominator: float) -> None:
    table = pa.table(
        {
            "time": timestamps(np.array([day(date)])), "symbol": ["GOOG"], "numerator": [numerator],
            "denominator": [denominator], "source": [source],
        }
    ).cast(schemas.SPLITS)  # fmt: skip
    async with store.session() as session, session.transaction():
        await Actions(session).put_splits(table, version)


async def paid(store: Store) -> list[tuple[str, float, str]]:
    async with store.read() as session:
        rows = (await session.actions.newest_dividends("GOOG")).to_pylist()
    return [(row["time"].date().isoformat(), row["amount"], row["source"]) for row in rows]


async def test_all_dividends_of_the_newest_source_of_an_ex_date_count(store: Store) -> None:
    await pay(store, 1, "yahoo", ("2026-03-09", 0.25), ("2026-06-08", 0.26))
    await pay(store, 2, "polygon", ("2026-03-09", 0.25), ("2026-03-09", 3.0))
    await pay(store, 3, "user", ("2026-09-08", 0.5), symbol="MSFT")
    assert await paid(store) == [
        ("2026-03-09", 0.25, "polygon"),
        ("2026-03-09", 3.0, "polygon"),
        ("2026-06-08", 0.26, "yahoo"),
    ]
    await pay(store, 4, "yahoo", ("2026-03-09", 0.25))
    assert await paid(store) == [("2026-03-09", 0.25, "yahoo"), ("2026-06-08", 0.26, "yahoo")]


async def test_the_close_before_an_ex_date_is_that_of_the_previous_session(store: Store) -> None:
    def daily(date: str, price: float | None) -> dict[str, object]:
        return {"interval": "1d", "time_us": day(date), "price": price}

    def minute(us: int, price: float, interval: str = "1m") -> dict[str, object]:
        return {"interval": interval, "time_us": us, "price": price}

    friday = day("2026-03-06")
    await put(
        store,
        bars(
            daily("2026-03-04", 40.0), daily("2026-03-05", 50.0), daily("2026-03-09", 70.0), daily("2026-03-11", 81.0),
            minute(friday + 20 * HOUR_US, 60.0), minute(friday + 21 * HOUR_US - MINUTE_US, 61.0),
            minute(friday + 22 * HOUR_US, 62.0),  # after the close
            minute(day("2026-03-09") + 9 * HOUR_US, 63.0),  # before the open, at the new price
            minute(day("2026-03-09") + 19 * HOUR_US, 71.0, "5m"),
        ),
    )  # fmt: skip
    dates = np.array([day(text) for text in ("2026-03-04", "2026-03-05", "2026-03-09", "2026-03-10", "2026-03-12")])
    async with store.read() as session:
        found = await session.actions.closes_before("GOOG", dates, XNYS)
        none = await session.actions.closes_before("GOOG", dates[:0], XNYS)
    assert np.isnan(found.price[0])
    assert found.price.tolist()[1:] == [40.0, 61.0, 70.0, 81.0]
    assert found.session_us.tolist()[1:] == [day("2026-03-04"), friday, day("2026-03-09"), day("2026-03-11")]
    assert len(none.price) == 0


async def test_an_older_day_is_used_if_nothing_later_is_stored(store: Store) -> None:
    old = {"interval": "1m", "time_us": day("2026-02-02") + 16 * HOUR_US, "price": 10.0}
    await put(store, bars({"interval": "1d", "time_us": day("2026-02-27"), "price": 20.0}, old))
    async with store.read() as session:
        found = await session.actions.closes_before("GOOG", np.array([day("2026-03-09")]), XNYS)
    assert (found.price.tolist(), found.session_us.tolist()) == ([20.0], [day("2026-02-27")])


async def test_an_adjustment_contains_valid_actions_that_took_effect(store: Store) -> None:
    await split(store, 1, "yahoo", "2026-03-09", 4, 1)
    await split(store, 2, "user", "2026-03-09", 2, 1)
    await pay(store, 3, "yahoo", ("2026-03-09", 1.0), ("2026-03-16", 1.0))
    await put(store, bars({"interval": "1d", "time_us": day("2026-03-06"), "price": 40.0}))
    async with store.read() as session:
        nothing = await session.actions.adjustment("GOOG", "none", XNYS, FOREVER_US)
        splits = await session.actions.adjustment("GOOG", "splits", XNYS, FOREVER_US)
        every = await session.actions.adjustment("GOOG", "all", XNYS, day("2026-03-12"))
        bars_of = await session.ohlcv.read("GOOG", "1d")
    assert len(nothing.ratios) == len(nothing.amounts) == 0
    assert (splits.ratios.tolist(), splits.amounts.tolist()) == ([2.0], [])
    assert (every.amounts.tolist(), every.closes.tolist()) == ([1.0], [20.0]), "the close is per share of the ex-date"
    assert every.bars(bars_of, daily=True).column("close").to_pylist() == [pytest.approx(20 * 0.95)]
    assert splits.sessions.tolist() == [day("2026-03-09")]
    assert splits.begins.tolist() == [day("2026-03-09") + 8 * HOUR_US]

"""Status of expected bars from stored bars, vendors' answers and feed states."""

from __future__ import annotations

import numpy as np
import pytest

from tests.store.rows import MINUTE_US, OPEN_US, bars
from tests.store.test_coverage import answer
from tests.store.test_coverage import put as put_answer
from tests.store.writes import MANY, write_bars, write_intervals
from tickerplant.core import records, schemas
from tickerplant.core.coverage import STATUSES, Statuses
from tickerplant.core.errors import BadInput
from tickerplant.core.sessions import calendar
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import DAY_US
from tickerplant.store import Store
from tickerplant.store.repositories.coverage import Coverage

NOW = OPEN_US + 30 * DAY_US
CODES = {"have": "h", "partial": "p", "no_trade": "-", "outage": "o", "quota": "q", "unavailable": "x",
         "missing": "?", "pending": "."}  # fmt: skip


async def state(store: Store, status: str, minute: int, *, feed: str = "live") -> None:
    async with store.session() as session, session.transaction():
        header = records.FeedState(
            sent_at_us=1, cause=1, feed=feed, state=status, since_us=OPEN_US + minute * MINUTE_US
        )
        await Coverage(session).put_feeds([header], partition_of("GOOG", MANY))


async def partitions(store: Store) -> None:
    async with store.session() as session:
        await session.execute(
            """INSERT INTO positions (topic, partition, log_id, generation, position, resume, cause)
               SELECT $1, n, 'x', 1, 0, 0, 0 FROM generate_series(0, $2 - 1) AS n""",
            schemas.RAW,
            MANY,
        )


async def statuses_of(
    store: Store, minutes: int = 10, *, symbol: str = "GOOG", name: str = "XNYS", now_us: int = NOW
) -> str:
    async with store.read() as reading:
        found = await reading.statuses.of(
            {symbol: calendar(name)}, "1m", OPEN_US, OPEN_US + minutes * MINUTE_US, now_us
        )
    return codes(found[symbol])


def codes(found: Statuses) -> str:
    return "".join(CODES[STATUSES[code]] for code in found.code)


async def test_each_expected_bar_is_stored_or_has_a_reason(store: Store) -> None:
    await write_bars(store, bars({"minute": 0}, {"minute": 1, "complete": False}, {"minute": 2, "state": "forming"}))
    await put_answer(store, answer(3, 6, "quota", note="25 a day"), 1)
    await put_answer(store, answer(5, 7, "answered"), 2)
    await put_answer(store, answer(7, 8, "not_offered", source="b", note="no plan"), 3)
    await put_answer(store, answer(8, 9, "outage"), 4)
    assert await statuses_of(store) == "hp?qq--xo?"
    assert await statuses_of(store, now_us=OPEN_US + 4 * MINUTE_US) == "hp?......."


async def test_a_minute_without_trades_in_a_covering_feed_had_no_trade(store: Store) -> None:
    await write_bars(store, bars({"minute": 0, "source": "live"}, {"minute": 4, "source": "live"}))
    await write_intervals(store, [0, 4, 9])
    await write_intervals(store, [1, 2], ["GOOG", "MSFT"])
    await write_intervals(store, [3], ["GOOG"], whole=False)  # the feed reconnected in this minute
    assert await statuses_of(store, 5) == "h--oh"
    await write_intervals(store, [2], ["GOOG"], feed="other", whole=False)
    assert await statuses_of(store, 5) == "h--oh", "one feed that was up for the whole minute is enough"


async def test_a_gap_in_the_minutes_of_a_feed_is_its_outage(store: Store) -> None:
    await partitions(store)
    await write_bars(store, bars({"minute": 0, "source": "live"}, {"minute": 7, "source": "live"}))
    await write_intervals(store, [0, 1, 6, 7])
    await state(store, "up", 6)
    assert await statuses_of(store) == "h?oooo?h??"  # GOOG is not listed as silent in minutes 1 and 6
    await write_intervals(store, [1, 6], ["GOOG"])
    assert await statuses_of(store) == "h-oooo-h??"
    await write_intervals(store, range(10), feed="better")  # no record shows that `better` carries GOOG
    assert await statuses_of(store) == "h-oooo-h??"
    await write_intervals(store, range(10), ["GOOG"], feed="better")
    assert await statuses_of(store) == "h------h--"


async def test_a_feed_in_state_down_is_down_until_now(store: Store) -> None:
    await partitions(store)
    await write_bars(store, bars({"minute": 0, "source": "live"}))
    await write_intervals(store, [0])
    await state(store, "down", 1)
    assert await statuses_of(store) == "hooooooooo"
    assert await statuses_of(store, now_us=OPEN_US + 6 * MINUTE_US) == "hoooo....."
    async with store.read() as reading:  # the next day, without any other record
        tomorrow = OPEN_US + DAY_US
        found = await reading.statuses.of(
            {"GOOG": calendar("XNYS")}, "1m", tomorrow, tomorrow + 3 * MINUTE_US, tomorrow + DAY_US
        )
    assert codes(found["GOOG"]) == "ooo"
    await put_answer(store, answer(1, 5, "answered"), 1)
    assert await statuses_of(store) == "h----ooooo", "a vendor's answer overrides an outage"


async def test_a_silent_day_counts_if_the_feed_was_up_throughout(store: Store) -> None:
    await partitions(store)
    day = OPEN_US - OPEN_US % DAY_US
    for number in (0, 1):
        await write_intervals(store, [number], ["GOOG"], interval="1d", step_us=DAY_US, begin_us=day)
    await write_intervals(store, range(390))
    await write_intervals(store, range(100), begin_us=OPEN_US + DAY_US)
    await write_intervals(store, [389], begin_us=OPEN_US + DAY_US)
    await state(store, "up", 0)
    async with store.read() as reading:
        found = await reading.statuses.of({"GOOG": calendar("XNYS")}, "1d", day, day + 5 * DAY_US, NOW)
    assert codes(found["GOOG"]) == "-o?"  # Thursday, Friday, and Monday without a record


async def test_many_symbols_are_separate_and_each_has_its_calendar(store: Store) -> None:
    await write_bars(
        store,
        bars(
            {"minute": 0}, {"minute": 1}, {"minute": 1, "symbol": "MSFT"},
            {"minute": 2, "symbol": "EUR/USD", "complete": False},
        ),
    )  # fmt: skip
    await write_intervals(store, [2], ["MSFT"])
    names = {"NONE": "XNYS", "MSFT": "XNYS", "EUR/USD": "24/7", "GOOG": "XNYS"}
    async with store.read() as reading:
        assert await reading.statuses.symbols() == ["EUR/USD", "GOOG", "MSFT"]
        calendars = {symbol: calendar(name) for symbol, name in names.items()}
        found = await reading.statuses.of(calendars, "1m", OPEN_US - MINUTE_US, OPEN_US + 3 * MINUTE_US, NOW)
    statuses = {symbol: codes(each) for symbol, each in found.items()}
    assert statuses == {"NONE": "???", "MSFT": "?h-", "EUR/USD": "???p", "GOOG": "hh?"}


async def test_daily_bars_are_pending_until_their_session_is_over(store: Store) -> None:
    day = OPEN_US - OPEN_US % DAY_US
    async with store.read() as reading:
        for hours, expected in ((6, "."), (7, "?")):  # the session is six and a half hours long
            now = OPEN_US + hours * 60 * MINUTE_US
            found = await reading.statuses.of({"GOOG": calendar("XNYS")}, "1d", day, day + DAY_US, now)
            assert codes(found["GOOG"]) == expected
        late = await reading.statuses.of({"GOOG": calendar("XNYS")}, "1d", day, day + DAY_US, now, extended_hours=True)
        assert codes(late["GOOG"]) == "."
    assert np.array_equal(late["GOOG"].starts, [day])


async def test_a_request_for_too_many_intervals_is_refused(store: Store) -> None:
    async with store.read() as reading:
        with pytest.raises(BadInput, match="a symbol has more than 2,000,000 intervals of 1m"):
            await reading.statuses.of({"GOOG": calendar("XNYS")}, "1m", 0, NOW, NOW)
        some = {f"S{number}": calendar("24/7") for number in range(100)}
        with pytest.raises(BadInput, match="100 symbols have more than 20,000,000"):
            await reading.statuses.of(some, "1m", NOW - 200 * DAY_US, NOW, NOW)


async def test_an_interval_is_over_when_a_feed_reports_that_the_symbol_had_no_trades_in_it_or_later(
    store: Store,
) -> None:
    async def over(minute: int, symbol: str = "GOOG") -> bool:
        async with store.read() as reading:
            return await reading.coverage.is_over(symbol, "1m", OPEN_US + minute * MINUTE_US)

    assert not await over(0), "nothing is known of any feed"
    await write_intervals(store, [0, 1], ["GOOG"])
    await write_intervals(store, [5], ["MSFT"], feed="of other symbols")
    assert [await over(minute) for minute in (0, 1, 2)] == [True, True, False]
    await partitions(store)
    assert [await over(minute) for minute in (0, 1, 2)] == [True, True, False]
    await write_intervals(store, [9], ["GOOG"], interval="5m", step_us=5 * MINUTE_US)
    assert not await over(2)

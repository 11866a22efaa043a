"""Coverage over REST, with bars, vendor answers and feed states in a real database."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.support import PARTITIONS, serving
from tests.store.rows import MINUTE_US, OPEN_US, bars
from tests.store.test_coverage import answer
from tests.store.test_coverage import put as put_answer
from tests.store.test_interval_status import write_bars, write_intervals
from tickerplant.api import state
from tickerplant.api.log_state import OTHER_CLOCK_US, market_now
from tickerplant.api.positions import HEADER
from tickerplant.api.store_reader import StoreReader
from tickerplant.core import records
from tickerplant.core.coverage import STATUSES
from tickerplant.core.rules import Rules, values_of
from tickerplant.core.schemas import PROGRESS_KEY, RAW, SETTINGS_KEY, STATE_FEEDS
from tickerplant.core.times import DAY_US
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.log.port import EventLog
from tickerplant.store import Store

DAY = OPEN_US - OPEN_US % DAY_US  # Thursday, 2012-06-21
NOW = OPEN_US + 7 * 60 * MINUTE_US  # half an hour after the close
HOUR = {"from": "2012-06-21T09:30", "to": "2012-06-21T10:30", "tz": "America/New_York"}


async def fill(dsn: str) -> None:
    store = await Store.open(dsn)
    minutes = [{"minute": minute} for minute in range(390) if minute not in range(10, 16)]
    await write_bars(store, bars(*minutes, {"minute": 20, "complete": False, "version": 2}))
    # Three sessions of daily bars, Monday to Wednesday.
    await write_bars(store, bars(*({"interval": "1d", "time_us": DAY - days * DAY_US} for days in (3, 2, 1))))
    await write_bars(store, bars({"symbol": "EUR/USD"}))
    await write_intervals(store, [10], ["GOOG"])
    await put_answer(store, answer(12, 14, "quota", source="av", note="25 a day, until 00:00"), 1)
    await put_answer(store, answer(14, 15, "not_offered"), 2)
    await store.close()


@pytest.fixture
def client(dsn: str, log: EmbeddedLog) -> Iterator[httpx.Client]:
    asyncio.run(fill(dsn))
    with serving(log, StoreReader(dsn, log.identity()), now_us=lambda: NOW) as (client, _, _):
        yield client


def keep(log: EventLog, partition: int, key: str, value: Any) -> None:
    with log.writer("test") as writer, writer.transaction() as transaction:
        transaction.put_state(STATE_FEEDS, partition, key, json.dumps(value).encode())


def test_a_range_is_split_into_parts_of_one_status(client: httpx.Client) -> None:
    answered = client.get("/v1/coverage/goog", params=HOUR)
    body = answered.json()
    parts = [(piece["from"][11:16], piece["to"][11:16], piece["status"], piece["bars"]) for piece in body["stretches"]]
    assert parts == [
        ("09:30", "09:40", "have", 10), ("09:40", "09:41", "no_trade", 1), ("09:41", "09:42", "missing", 1),
        ("09:42", "09:44", "quota", 2), ("09:44", "09:45", "unavailable", 1), ("09:45", "09:46", "missing", 1),
        ("09:46", "09:50", "have", 4), ("09:50", "09:51", "partial", 1), ("09:51", "10:30", "have", 39),
    ]  # fmt: skip
    quota = body["stretches"][3]
    assert (quota["source"], quota["note"], quota["again_at"]) == ("av", "25 a day, until 00:00", None)
    assert body["stretches"][0]["source"] is None
    assert (body["symbol"], body["interval"], body["tz"]) == ("GOOG", "1m", "America/New_York")
    assert (body["from"], body["to"]) == ("2012-06-21T09:30:00-04:00", "2012-06-21T10:30:00-04:00")
    assert (body["expected"], body["have"], body["share"], body["count"]) == (60, 53, 0.9, 9)
    assert body["counts"] == dict.fromkeys(STATUSES, 0) | {
        "have": 53, "partial": 1, "no_trade": 1, "quota": 2, "unavailable": 1, "missing": 2,
    }  # fmt: skip
    assert (body["next"], body["backfill"]) == (None, None)
    assert json.loads(answered.headers[HEADER]) == body["position"]


def test_the_default_range_is_five_sessions_or_a_year_of_days(client: httpx.Client) -> None:
    body = client.get("/v1/coverage/GOOG").json()
    # The range is Friday to Thursday, from 00:00 UTC of the first session. The newest expected minute is over.
    assert (body["from"], body["to"]) == ("2012-06-15T00:00:00+00:00", "2012-06-21T20:31:00+00:00")
    assert (body["expected"], body["counts"]["pending"]) == (5 * 390, 0)
    closed = [piece for piece in body["stretches"] if piece["status"] == "closed"]
    assert (len(closed), closed[-1]["from"], closed[-1]["bars"]) == (6, "2012-06-21T20:00:00+00:00", 0)
    days = client.get("/v1/coverage/GOOG?interval=1d").json()
    assert (days["from"], days["to"], days["expected"]) == (
        "2011-06-22",
        "2012-06-22",
        253,
    )  # 262 weekdays minus nine holidays
    assert [(piece["from"], piece["to"], piece["status"]) for piece in days["stretches"]][-2:] == [
        ("2012-06-18", "2012-06-21", "have"), ("2012-06-21", "2012-06-22", "missing"),
    ]  # fmt: skip
    assert days["share"] == round(3 / 253, 6)
    later = client.get("/v1/coverage/GOOG?to=2012-06-21T14:00").json()
    assert (later["from"][:10], later["expected"]) == ("2012-06-15", 4 * 390 + 30)


def test_pages_of_parts_are_consecutive(client: httpx.Client) -> None:
    complete, found, query = client.get("/v1/coverage/GOOG", params=HOUR).json(), [], HOUR | {"limit": "4"}
    while True:
        body = client.get("/v1/coverage/GOOG", params=query).json()
        found += body["stretches"]
        if body["next"] is None:
            break
        query |= body["next"]
    assert found == complete["stretches"]


def test_csv_contains_the_parts_with_numeric_times(client: httpx.Client) -> None:
    answered = client.get("/v1/coverage/GOOG", params=HOUR | {"format": "csv", "limit": "5", "times": "s"})
    rows = list(csv.DictReader(io.StringIO(answered.text)))
    assert list(rows[0]) == ["from", "to", "status", "bars", "source", "note", "again_at"]
    assert (rows[0]["from"], rows[0]["status"], rows[0]["source"]) == (str(OPEN_US // 1_000_000), "have", "")
    assert rows[3]["note"] == "25 a day, until 00:00"
    assert json.loads(answered.headers["X-Next"]) == {"from": (OPEN_US + 15 * MINUTE_US) // 1_000_000}
    assert 'filename="GOOG-coverage-1m.csv"' in answered.headers["content-disposition"]


def test_every_symbol_has_one_row(client: httpx.Client, log: EmbeddedLog) -> None:
    progress = {"working": True, "done": 3, "of": 12, "eta_s": 40.5}
    keep(log, PARTITIONS - 1, PROGRESS_KEY, progress)
    body = client.get("/v1/coverage", params=HOUR).json()
    assert [(row["symbol"], row["expected"], row["have"]) for row in body["symbols"]] == [
        ("EUR/USD", 60, 1), ("GOOG", 60, 53),
    ]  # fmt: skip
    assert body["symbols"][1]["counts"]["quota"] == 2
    assert (body["count"], body["backfill"], body["interval"]) == (2, progress, "1m")
    assert client.get("/v1/coverage/EUR/USD", params=HOUR).json()["backfill"] == progress
    rows = list(csv.DictReader(io.StringIO(client.get("/v1/coverage", params=HOUR | {"format": "csv"}).text)))
    assert [row["missing"] for row in rows] == ["59", "2"]
    keep(log, PARTITIONS - 1, PROGRESS_KEY, "no object")
    assert client.get("/v1/coverage", params=HOUR).json()["backfill"] is None


def test_the_calendars_are_those_of_the_rules_in_force(client: httpx.Client, log: EmbeddedLog) -> None:
    keep(log, 0, SETTINGS_KEY, values_of(Rules(calendars={"*": "24/7"})))
    body = client.get("/v1/coverage/GOOG?interval=5m&from=2012-06-23&to=2012-06-24").json()  # a Saturday
    assert (body["expected"], body["counts"]["pending"]) == (288, 288)
    keep(log, 0, SETTINGS_KEY, ["of another version"])
    assert client.get("/v1/coverage/GOOG?interval=5m&from=2012-06-23&to=2012-06-24").json()["expected"] == 0
    assert client.get("/v1/coverage/GOOG?from=2012-06-23&to=2012-06-24").json()["share"] is None


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/coverage/GOGO", 404, "did you mean GOOG?"),
        ("/v1/coverage/GOOG?interval=15m", 400, "which has 1m, 5m, 1d"),
        ("/v1/coverage/GOOG?interval=100t", 400, "is not at /v1/coverage"),
        ("/v1/coverage/GOOG?start=2012-06-21", 400, "unknown parameter `start`"),
        ("/v1/coverage/GOOG?from=noon", 400, "`from` 'noon' is not a time"),
        ("/v1/coverage/GOOG?from=2012-06-22&to=2012-06-21", 400, "`from` '2012-06-22' is not before `to`"),
        ("/v1/coverage?from=2012-06-22", 400, "is not before now"),
        ("/v1/coverage/GOOG?from=0001-01-02", 400, "request a shorter range"),
        ("/v1/coverage/GOOG?limit=0", 400, "`limit` must be 1 to"),
        ("/v1/coverage?to=9999-12-31", 400, "request a shorter range"),
        ("/v1/coverage?from=9999-12-30&to=9999-12-31", 200, ""),
        ("/v1/coverage?from=0001-01-01&to=0001-01-02", 200, ""),
        ("/v1/coverage?interval=1d&from=1900-01-01", 200, ""),
    ],
)
def test_an_invalid_request_gets_a_reason(client: httpx.Client, path: str, status: int, words: str) -> None:
    answered = client.get(path)
    assert answered.status_code == status, answered.text
    if status != 200:
        error = answered.json()["error"]
        assert words in f"{error['message']} {error['hint']}"


def test_the_market_time_is_the_machines_unless_a_feed_has_its_own_clock(log: EmbeddedLog) -> None:
    import time

    def now() -> int:
        return time.time_ns() // 1_000

    def feed(feed: str, sent_at_us: int) -> None:
        with log.writer("test") as writer, writer.transaction() as transaction:
            mark = records.Mark(sent_at_us=sent_at_us, feed=feed, watermark_us=sent_at_us)
            transaction.append(RAW, 1, records.encode(mark))

    before = now()
    assert before <= market_now(log) <= now()
    feed("live", now())
    assert before <= market_now(log) <= now()
    feed("sandbox", OPEN_US)
    assert market_now(log) == OPEN_US
    feed("", now())  # a record without a feed has the machine's time
    assert market_now(log) == OPEN_US
    feed("sandbox", now() + 10 * OTHER_CLOCK_US)
    assert market_now(log) > now() + 5 * OTHER_CLOCK_US


@pytest.mark.parametrize(("seconds", "reads"), [(3_600.0, 1), (0.0, 2)])
async def test_the_market_time_advances_between_two_reads_of_the_log(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, seconds: float, reads: int
) -> None:
    read: list[int] = []

    def read_market(_: object) -> int:
        read.append(OPEN_US)
        return OPEN_US

    monkeypatch.setattr(state, "MARKET_S", seconds)
    monkeypatch.setattr(state, "market_now", read_market)
    api = state.ApiState(log, StoreReader(""))
    first, second = await api.market_now(), await api.market_now()
    api.pools.close()
    assert (first, len(read)) == (OPEN_US, reads)
    assert second >= OPEN_US

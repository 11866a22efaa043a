"""kill -9 during a backfill, at every named point and at random moments: it resumes without a gap.

The vendor is the sandbox, a process that is never killed. It records all requests and their cost. A request in flight
at the kill may be repeated once; no other request may be repeated.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.plant import Plant
from tests.support.waiting import PATIENCE, until
from tickerplant.app.wiring.locks import FolderLock
from tickerplant.core.times import DAY_US, MINUTE_US, datetime_of, micros_of

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(600)]

SYMBOLS = ("AAPL", "MSFT", "BTC/USD")
KILLS = int(os.environ.get("CHAOS_KILLS", "4"))
SEED = int(os.environ.get("CHAOS_SEED", "7"))
THOROUGH = KILLS >= 25
DAYS = {"1d": 40, "5m": 120 if THOROUGH else 20, "1m": 40 if THOROUGH else 6}
QUOTA = 400

POINTS = (
    "desk.debited:1", "backfill.request.before:2", "desk.answered:1", "backfill.request.after:1",
    "backfill.append.before:1", "backfill.append.after:1", "feed.append.before:4", "feed.append.after:4",
    "feed.commit.before:5", "feed.commit.after:5",
)  # fmt: skip
"""Crash points with the number of the hit that kills, one per run.

The first three transactions of a run may contain no bars, only its barrier and the start of a round.
"""
SOME_POINTS = ("desk.debited:1", "backfill.request.after:1", "feed.append.after:4", "backfill.append.after:1")
"""Crash points of `make test`. `make chaos` and `make test-all` use all POINTS."""


@pytest.fixture
def vendor() -> Iterator[str]:
    """Run a sandbox and yield its address."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "tickerplant.sandbox", "--names", ",".join(SYMBOLS), "--rate", "12",
            "--quota", f"twelvedata={QUOTA}/minute",
        ],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())["url"]
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE.seconds(10))
    process.stdout.close()


@pytest.fixture
def plant(tmp_path: Path, vendor: str) -> Iterator[Plant]:
    plant = Plant(
        tmp_path / "data",
        {
            "TICKERPLANT_SYMBOLS": ",".join(SYMBOLS),
            "TICKERPLANT_HISTORY": ",".join(f"{name}:{days}" for name, days in DAYS.items()),
            "TICKERPLANT_SANDBOX__ENABLED": "true",
            "TICKERPLANT_SANDBOX__URL": vendor,
            "TICKERPLANT_VENDORS__QUOTAS": f"sandbox={QUOTA}/minute",
            "TICKERPLANT_PARTITIONS": "2",
            "TICKERPLANT_RULES__INDICATORS": "{}",
        },
    )
    yield plant
    # The database server of a killed plant runs for some seconds more. A later command would use it.
    store = FolderLock(plant.data, "store.lock")
    until(lambda: not store.is_held(), "the store to be free")


def run(plant: Plant, folder: Path, fault: str | None) -> int:
    """Run a backfill until the crash point `fault`, or to its end if `fault` is None; return its exit code."""
    output = folder / "backfill.log"
    more = {"TICKERPLANT_TESTING__CRASH_AT": fault} if fault else {}
    return plant.start("backfill", "--json", output=output, **more).wait(PATIENCE.seconds(240))


def get(url: str, what: str, **params: Any) -> Any:
    return httpx.get(f"{url}/sandbox/{what}", params=params, timeout=PATIENCE.seconds(60)).json()


def overlapping(vendor: str) -> list[str]:
    """Return the requests that overlap an earlier one for the same symbol and interval."""
    seen: dict[tuple[str, str], list[tuple[str, str]]] = {}
    found = []
    for request in get(vendor, "requests", vendor="twelvedata")["requests"]:
        query = request["query"]
        if request["path"] != "/time_series":
            continue
        begin, end, twice = query["start_date"], query["end_date"], False
        for symbol in query["symbol"].split(","):
            former = seen.setdefault((symbol, query["interval"]), [])
            twice |= any(begin <= other_end and other_begin <= end for other_begin, other_end in former)
            former.append((begin, end))
        if twice:
            found.append(f"{query['interval']} {query['symbol']} {begin} to {end}")
    return found


async def _stored(dsn: str, relation: str, interval: str, begin: int, end: int) -> dict[str, dict[int, bool]]:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        rows = await connection.fetch(
            f"SELECT symbol, time, complete FROM {relation} WHERE interval = $1 AND state = 'final'"
            " AND time >= $2 AND time < $3 ORDER BY symbol, time",
            interval, datetime_of(begin), datetime_of(end),
        )  # fmt: skip
    finally:
        await connection.close()
    found: dict[str, dict[int, bool]] = {symbol: {} for symbol in SYMBOLS}
    for row in rows:
        found[row["symbol"]][micros_of(row["time"])] = row["complete"]
    return found


def assert_complete(plant: Plant, vendor: str, began_us: int) -> None:
    """Check that the tables contain exactly the market's bars that have ended, each of them complete."""
    today_us = began_us - began_us % DAY_US
    last = {"1d": today_us, "5m": today_us, "1m": began_us - began_us % MINUTE_US - 3 * MINUTE_US}
    with plant.store() as dsn:
        for interval, days in DAYS.items():
            # Begin with the first whole day, because the start of a history of N days advances from run to run.
            begin, end = today_us - (days - 1) * DAY_US, last[interval]
            relation = "historical_ohlcv" if interval == "1d" else "intraday_ohlcv"
            stored = asyncio.run(_stored(dsn, relation, interval, begin, end))
            for symbol in SYMBOLS:
                truth = get(vendor, "bars", symbol=symbol, interval=interval, from_us=begin, to_us=end)["time_us"]
                assert list(stored[symbol]) == truth, (symbol, interval)
                assert all(stored[symbol].values()), (symbol, interval)


def assert_requests(vendor: str, kills: int) -> None:
    """Check that at most one request per kill was repeated, none was refused, and each quota held."""
    repeated = overlapping(vendor)
    assert len(repeated) <= kills, repeated
    counts = get(vendor, "counts")["vendors"]["twelvedata"]
    assert counts["refused"] == 0, counts
    assert all(window["largest_asked"] <= window["limit"] for window in counts["windows"] if window["limit"]), counts


def test_a_backfill_killed_at_every_point_resumes_without_a_gap(tmp_path: Path, plant: Plant, vendor: str) -> None:
    began_us = time.time_ns() // 1_000
    points = POINTS if THOROUGH else SOME_POINTS
    for point in points:
        assert run(plant, tmp_path, point) == -signal.SIGKILL, (point, (tmp_path / "backfill.log").read_text()[-2000:])
    assert run(plant, tmp_path, None) == 0, (tmp_path / "backfill.log").read_text()[-2000:]
    assert_complete(plant, vendor, began_us)
    assert_requests(vendor, len(points))


def test_a_backfill_killed_at_any_moment_resumes_without_a_gap(tmp_path: Path, plant: Plant, vendor: str) -> None:
    began_us, moments, kills = time.time_ns() // 1_000, random.Random(SEED), 0
    print(f"CHAOS_SEED={SEED}")
    for _ in range(KILLS if THOROUGH else 1):
        code = run(plant, tmp_path, f"random:{moments.uniform(3, 9):.3f}")
        assert code in (0, -signal.SIGKILL), (tmp_path / "backfill.log").read_text()[-2000:]
        kills += code != 0
    assert run(plant, tmp_path, None) == 0
    assert_complete(plant, vendor, began_us)
    assert_requests(vendor, kills)

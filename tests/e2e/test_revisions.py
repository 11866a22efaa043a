"""Late records revise bars in tables, `tail` and the stream. A second run over the raw records gives the same tables.

The test appends raw records to the log of a running plant.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from tests.aggregation.plant import at, mark, start, ticks
from tests.e2e.support import rows, run_command
from tests.support.plant import Plant, json_lines
from tests.support.waiting import PATIENCE, until
from tickerplant.core.flags import TickFlag
from tickerplant.core.schemas import ANALYTICS, OHLCV, RAW, TOPICS
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import MINUTE_US, SECOND_US
from tickerplant.log.open import open_log

pytestmark = [pytest.mark.slow]

OPEN = at("2026-01-05T14:30")
CLOSE = at("2026-01-05T21:00")
M, S = MINUTE_US, SECOND_US
SYMBOLS = ["ACME", "LONE"]
EVERY = "SELECT * FROM {} ORDER BY symbol, interval, time"
TABLES = ("intraday_ohlcv", "historical_ohlcv", "intraday_analytics", "daily_analytics")


class Feed:
    """Writer of one feed's records into every partition."""

    def __init__(self, plant: Plant) -> None:
        self.log = open_log("embedded:", data=plant.data)
        self._writer = self.log.writer("test")

    def append(self, record: Callable[[list[str]], bytes]) -> None:
        with self._writer.transaction() as transaction:
            partitions = self.log.partitions(RAW)
            for partition in range(partitions):
                mine = [symbol for symbol in SYMBOLS if partition_of(symbol, partitions) == partition]
                transaction.append(RAW, partition, record(mine))

    def ticks(self, watermark: int, *prints: tuple[Any, ...]) -> None:
        """Append rows (seconds after the open, symbol, price, size, flags, id), and then a mark."""
        every = [(OPEN + int(row[0] * S), *row[1:]) for row in prints]
        self.append(lambda mine: ticks([r for r in every if r[1] in mine], watermark, "test", sent=watermark))
        self.append(lambda mine: mark(watermark, "test", sent=watermark))

    def close(self) -> None:
        self._writer.close()
        self.log.close()


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[tuple[Plant, str]]:
    plant = Plant(tmp_path / "data")
    process = plant.start("up", "--no-sandbox", "--port", "0", output=tmp_path / "up.log")
    try:
        found: list[str] = []

        def is_up() -> bool:
            assert process.poll() is None, (tmp_path / "up.log").read_text()
            events = [str(line.get("event", "")) for line in json_lines(tmp_path / "up.log")]
            found.extend(event.rpartition(" ")[2] for event in events if event.startswith("the API listens on"))
            return bool(found)

        until(is_up, "the plant to start")
        yield plant, found[0].rstrip("/")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE.seconds(30))
        except subprocess.TimeoutExpired:
            process.kill()


def receive_bars(stream: ClientConnection, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Return the bars that the stream sends, up to the message with the first bar for which `until` is true."""
    found: list[dict[str, Any]] = []
    while True:
        message = json.loads(stream.recv(timeout=PATIENCE.seconds(20)))
        if message["type"] == "bars":
            found += [dict(zip(message["columns"], row, strict=True)) for row in message["rows"]]
            if any(until(bar) for bar in found):
                return found


def test_late_ticks_cancels_and_corrections_revise_and_withdraw_bars_everywhere(
    plant: tuple[Plant, str], tmp_path: Path
) -> None:
    running, base = plant
    feed = Feed(running)
    try:
        feed.append(lambda mine: start("test", OPEN - M, mine, live=False, sent_at_us=OPEN - M))
        feed.ticks(
            CLOSE + 2 * S,
            (1, "ACME", 10.0, 1, 0, "1"), (2, "ACME", 15.0, 2, 0, "2"), (3, "ACME", 11.0, 4, 0, "3"),
            (600, "ACME", 12.0, 8, 0, "4"), (60, "LONE", 7.0, 1, 0, "5"),
        )  # fmt: skip

        def stored(symbol: str, interval: str) -> list[dict[str, Any]]:
            route = "historical" if interval == "1d" else "intraday"
            response = httpx.get(
                f"{base}/v1/{route}/{symbol}",
                params={"interval": interval, "start": "2026-01-05"},
                timeout=PATIENCE.seconds(30),
            )
            return response.json().get("bars", []) if response.status_code == 200 else []

        until(lambda: stored("ACME", "1d") and stored("LONE", "1d"), "the daily bars")
        assert stored("ACME", "1d")[0]["high"] == 15.0
        with connect(f"{base.replace('http', 'ws')}/v1/stream") as stream:
            stream.send(json.dumps({"action": "subscribe", "symbols": SYMBOLS, "channels": ["bars"]}))
            while json.loads(stream.recv(timeout=PATIENCE.seconds(20)))["type"] != "snapshot":
                pass
            expected: list[tuple[str, tuple[Any, ...], dict[str, float]]] = [
                ("late", (4, "ACME", 16.0, 1, 0, "6"), {"high": 16.0, "volume": 16.0}),
                ("cancel", (2, "ACME", 15.0, 2, int(TickFlag.CANCEL), "2"), {"high": 16.0, "volume": 14.0}),
                ("correction", (4, "ACME", 13.0, 3, int(TickFlag.CORRECTION), "6"), {"high": 13.0, "volume": 16.0}),
            ]
            for revision, (reason, tick, values) in enumerate(expected, 1):
                feed.ticks(CLOSE + 3 * S, tick)
                bars = receive_bars(stream, lambda bar: bar["interval"] == "1d")
                assert {bar["interval"]: (bar["reason"], bar["revision"], bar["state"]) for bar in bars} == {
                    name: (reason, revision, "final") for name in ("1m", "5m", "1d")
                }
                for name, value in values.items():
                    assert {bar["interval"]: bar[name] for bar in bars}["1d"] == value
                until(lambda r=revision: stored("ACME", "1d")[0]["revision"] == r, "the revised row in the table")
                for interval in ("1m", "5m", "1d"):
                    row = stored("ACME", interval)[0]
                    assert (row["reason"], row["revision"]) == (reason, revision), interval
                assert stored("ACME", "1d")[0]["volume"] == values["volume"]
                tail = run_command(running, "tail", "ohlcv", "--json", "-n", "8").lines
                assert {(t["interval"], t["reason"], t["revision"]) for t in tail if t.get("symbol") == "ACME"} >= {
                    (name, reason, revision) for name in ("1m", "5m", "1d")
                }

            feed.ticks(CLOSE + 4 * S, (60, "LONE", 7.0, 1, int(TickFlag.CANCEL), "5"))
            gone = receive_bars(stream, lambda bar: bar["interval"] == "1d")
            assert {(bar["interval"], bar["state"]) for bar in gone} == {
                (name, "withdrawn") for name in ("1m", "5m", "1d")
            }
        until(lambda: not any(stored("LONE", name) for name in ("1m", "5m", "1d")), "the withdrawn bars to disappear")
        with running.store() as dsn:
            for table in TABLES:
                assert rows(dsn, f"SELECT 1 FROM {table} WHERE symbol = 'LONE'") == [], table

            late_us = OPEN - 3 * 86_400 * S
            feed.append(
                lambda mine: ticks([(late_us, s, 1.0, 1) for s in mine], CLOSE + 4 * S, "test", sent=CLOSE + 5 * S)
            )
            until(
                lambda: "older than memory" in run_command(running, "tail", "status", "--json").out,
                "the count of late ticks",
            )

            before = {table: rows(dsn, EVERY.format(table)) for table in TABLES}
        result = run_command(
            running, "rebuild", "ACME", "--from", "2026-01-05T14:00:00Z", "--to", "2026-01-05T21:00:00Z", "--json"
        )
        assert result.code == 0, result.err
        assert {stored("ACME", name)[0]["reason"] for name in ("1m", "5m", "1d")} == {"rebuild"}
        assert stored("ACME", "1d")[0]["volume"] == 16.0
        verified = run_command(running, "verify", "--json")
        assert verified.code == 0, verified.out
        assert all(line["equal"] for line in verified.lines)
        with running.store() as dsn:
            after = {table: rows(dsn, EVERY.format(table)) for table in TABLES}
        assert {table: len(found) for table, found in after.items()} == {t: len(f) for t, f in before.items()}

        again = Plant(tmp_path / "again")
        run_again(feed, again, tmp_path / "again.log")
        with again.store() as dsn:
            for table in TABLES:
                assert rows(dsn, EVERY.format(table)) == after[table], (
                    f"{table}: a second run over the raw records gives other rows"
                )
    finally:
        feed.close()


def run_again(feed: Feed, plant: Plant, output: Path) -> None:
    """Copy the raw records into the log of a new plant, and run the plant until its tables contain all rows."""
    log = open_log("embedded:", data=plant.data)
    partitions = feed.log.partitions(RAW)
    log.create_topics(TOPICS, partitions)
    with log.writer("copy") as writer:
        for source, (_, end) in sorted(feed.log.offsets(RAW).items()):
            with writer.transaction() as transaction:
                for delivery in feed.log.read_range(source, 0, end):
                    transaction.append(RAW, source.partition, delivery.value)
    process = plant.start("up", "--no-sandbox", "--port", "0", output=output)
    try:

        def done() -> bool:
            assert process.poll() is None, output.read_text()
            lags = [log.lag("aggregation", [RAW]), log.lag("analytics", [OHLCV])]
            if any(any(lag.values()) for lag in lags) or not log.committed("analytics"):
                return False
            ends = {(t, p): end for t in (RAW, OHLCV, ANALYTICS) for (_, p), (_, end) in log.offsets(t).items()}
            with plant.store() as dsn:
                there = {(t, p): at for t, p, at in rows(dsn, "SELECT topic, partition, position FROM positions")}
            return all(there.get(source, 0) >= end for source, end in ends.items())

        until(done, "the new plant to store all records")
    finally:
        process.terminate()
        process.wait(PATIENCE.seconds(30))
        log.close()

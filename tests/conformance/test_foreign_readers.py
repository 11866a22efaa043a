"""Programs without Tickerplant read the log as docs/topics.md describes: the examples of that page run here."""

from __future__ import annotations

import ast
import datetime as dt
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import confluent_kafka
import pyarrow as pa
import pytest

from tests.conformance.conftest import DEADLINE_S, Bench, kill, line
from tests.support.waiting import PATIENCE, Guard
from tickerplant.core import records, schemas
from tickerplant.core.symbols import partition_of
from tickerplant.log.embedded import EmbeddedLog

PAGE = Path(__file__).parents[2] / "docs" / "topics.md"
START = dt.datetime(2026, 3, 9, 13, 30, tzinfo=dt.UTC)
OHLCV = "market.prices.ohlcv"
DATA = ".local/share/tickerplant"
AAPL, MSFT = 0, 1
"""Partition numbers of two symbols in topics of three partitions.

`printf AAPL | gzip | tail -c8` shows the CRC-32 3,060,094,812 = 3 · n + 0.
That of MSFT is 3,974,476,411 = 3 · n + 1."""


def example(word: str) -> str:
    """Return the Python block of the page that contains `word`."""
    (found,) = (block for block in re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text()) if word in block)
    return str(found)


def imported(code: str) -> set[str]:
    nodes = ast.walk(ast.parse(code))
    return {
        name.partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }


def bars(symbol: str, *rows: tuple[int, float | None, str]) -> bytes:
    """Return a record of 1-minute bars. Each row is the minute after 13:30, the close and the state."""
    count = len(rows)
    values: dict[str, list[Any]] = {field.name: [None] * count for field in schemas.BARS}
    values |= {
        "time": [START + dt.timedelta(minutes=minute) for minute, _, _ in rows],
        "close": [close for _, close, _ in rows],
        "state": [state for _, _, state in rows],
        "symbol": [symbol] * count, "interval": ["1m"] * count, "volume": [1.0] * count,
        "complete": [True] * count, "history": [False] * count, "revision": [0] * count, "version": [7] * count,
        "reason": ["ticks"] * count, "source": ["test"] * count, "published_at": [START] * count,
    }  # fmt: skip
    batch = pa.RecordBatch.from_arrays(
        [pa.array(values[field.name], field.type) for field in schemas.BARS], schema=schemas.BARS
    )
    return bytes(records.encode(records.Bars(sent_at_us=1, feed="test", cause=7), batch))


MARK = bytes(records.encode(records.Mark(sent_at_us=1, feed="test", watermark_us=1)))


def test_the_partition_of_a_symbol_is_its_crc32() -> None:
    assert (partition_of("AAPL", 3), partition_of("MSFT", 3)) == (AAPL, MSFT)
    assert (partition_of("AAPL", 2**32), partition_of("MSFT", 2**32)) == (3_060_094_812, 3_974_476_411)


def abort_a_transaction(bench: Bench, value: bytes) -> None:
    """Append a record in a transaction that is aborted after the broker has stored the record."""
    assert bench.broker is not None
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": bench.broker.bootstrap, "transactional.id": f"{bench.prefix}aborted"}
    )
    producer.init_transactions(PATIENCE.seconds(DEADLINE_S))
    producer.begin_transaction()
    producer.produce(bench.prefix + OHLCV, value, partition=AAPL)
    assert producer.flush(PATIENCE.seconds(DEADLINE_S)) == 0
    producer.abort_transaction(PATIENCE.seconds(DEADLINE_S))


def messages_of(bench: Bench, partition: int, count: int) -> list[confluent_kafka.Message]:
    """Return the first messages of a partition that a consumer of committed records receives."""
    assert bench.broker is not None
    settings = {
        "bootstrap.servers": bench.broker.bootstrap, "group.id": f"{bench.prefix}messages",
        "isolation.level": "read_committed",
    }  # fmt: skip
    consumer = confluent_kafka.Consumer(settings)
    consumer.assign([confluent_kafka.TopicPartition(bench.prefix + OHLCV, partition, 0)])
    found: list[confluent_kafka.Message] = []
    guard = Guard(DEADLINE_S)
    while len(found) < count:
        guard.check(f"{count} messages; {len(found)} have arrived")
        found += consumer.consume(count - len(found), timeout=0.5)
    consumer.close()
    return found


@pytest.mark.kafka
def test_the_kafka_consumer_of_the_page_prints_the_committed_bars(kafka: Bench) -> None:
    assert kafka.broker is not None
    writer = kafka.writer()
    with writer.transaction() as transaction:
        transaction.append(OHLCV, AAPL, bars("AAPL", (0, 101.5, "final")))
        transaction.append(OHLCV, AAPL, MARK)
    abort_a_transaction(kafka, bars("AAPL", (0, 999.0, "final")))
    with writer.transaction() as transaction:
        transaction.append(OHLCV, AAPL, bars("AAPL", (1, 102.25, "forming")))
        transaction.append(OHLCV, MSFT, bars("MSFT", (0, None, "withdrawn")))

    code = example("Consumer(")
    assert imported(code) == {"json", "pyarrow", "confluent_kafka"}
    assert len([row for row in code.splitlines() if row]) == 15
    own = {"localhost:9092": kafka.broker.bootstrap, OHLCV: kafka.prefix + OHLCV, "bar-printer": f"{kafka.prefix}own"}
    for shown, used in own.items():
        assert code.count(f'"{shown}"') == 1
        code = code.replace(f'"{shown}"', f'"{used}"')
    process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, bufsize=0)
    try:
        printed = [line(process) for _ in range(3)]
    finally:
        kill(process)
    assert [row for row in printed if row.startswith("AAPL")] == [
        "AAPL 1m 2026-03-09T13:30:00+00:00 101.5 final",
        "AAPL 1m 2026-03-09T13:31:00+00:00 102.25 forming",
    ]
    assert [row for row in printed if row.startswith("MSFT")] == ["MSFT 1m 2026-03-09T13:30:00+00:00 None withdrawn"]

    found = messages_of(kafka, AAPL, 3)
    # Offset 2 is the marker of the first transaction, 3 and 4 are the aborted record and its marker.
    assert [message.offset() for message in found] == [0, 1, 5]
    assert {message.key() for message in found} == {None}
    assert {message.headers() for message in found} == {None}
    assert {message.timestamp()[0] for message in found} == {confluent_kafka.TIMESTAMP_LOG_APPEND_TIME}


@pytest.fixture
def market_log(tmp_path: Path) -> EmbeddedLog:
    """Return an embedded log in the default data folder of a user whose home is `tmp_path`.

    It contains 400 small records, and a large record in another partition.
    """
    log = EmbeddedLog(tmp_path / DATA / "market.log")
    log.create_topics(schemas.TOPICS, 3)
    with log.writer("writer") as writer:
        for minute in range(200):
            with writer.transaction() as transaction:
                transaction.append(OHLCV, AAPL, bars("AAPL", (minute, 100.0 + minute / 4, "final")))
                transaction.append(OHLCV, AAPL, MARK)
        large = bars("MSFT", *((minute, float(minute), "final") for minute in range(300)))
        assert len(large) > 16_384
        with writer.transaction() as transaction:
            transaction.append(OHLCV, MSFT, large)
    return log


def expected_lines() -> list[str]:
    """Return the lines that the reader of the page prints for `market_log`."""

    def time(minute: int) -> str:
        return f"2026-03-09T{13 + (30 + minute) // 60}:{(30 + minute) % 60:02}:00+00:00"

    return [f"AAPL 1m {time(minute)} {100 + minute * 0.25} final" for minute in range(200)] + [
        f"MSFT 1m {time(minute)} {minute}.0 final" for minute in range(300)
    ]


def test_the_sqlite_reader_of_the_page_prints_all_bars_while_the_log_is_open_and_afterwards(
    market_log: EmbeddedLog, tmp_path: Path
) -> None:
    code = example("sqlite3.connect(")
    assert imported(code) == {"functools", "json", "pathlib", "sqlite3", "pyarrow", "zstandard"}

    def run() -> list[str]:
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert run() == expected_lines()
    market_log.close()
    assert run() == expected_lines()
    with sqlite3.connect(tmp_path / DATA / "market.log") as connection:
        kinds = connection.execute("SELECT dictionary > 0, count(*) FROM records GROUP BY 1").fetchall()
        assert dict(kinds)[1] > 200, "the example has decompressed records"
        assert dict(kinds)[0] >= 1
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_records_with_different_columns_are_concatenated_as_the_page_describes() -> None:
    def values(symbol: str, **outputs: float | None) -> pa.RecordBatch:
        key: list[Any] = [START, symbol, "1m", "final", 7]
        schema = pa.schema([*schemas.ANALYTICS_KEY, *(pa.field(name, pa.float64()) for name in outputs)])
        arrays = [pa.array([value], field.type) for value, field in zip([*key, *outputs.values()], schema, strict=True)]
        data = records.encode(records.Values(sent_at_us=1), pa.RecordBatch.from_arrays(arrays, schema=schema))
        with pa.ipc.open_stream(data) as stream:
            return stream.read_next_batch()

    code = example("concat_tables")
    names: dict[str, Any] = {"pa": pa}
    exec(code, names)
    batches = [values("AAPL", rsi_14=70.5), values("MSFT", sma_20=3.5, rsi_14=None), values("AAPL", sma_20=4.5)]
    table = names["concatenate"](batches)
    assert table.select(["symbol", "state", "rsi_14", "sma_20"]).to_pylist() == [
        {"symbol": "AAPL", "state": "final", "rsi_14": 70.5, "sma_20": None},
        {"symbol": "MSFT", "state": "final", "rsi_14": None, "sma_20": 3.5},
        {"symbol": "AAPL", "state": "final", "rsi_14": None, "sma_20": 4.5},
    ]
    assert table.schema.metadata is None

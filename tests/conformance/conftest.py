"""One suite for every adapter of the event log: `bench` is a new log with three topics of three partitions."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kafka import KafkaBroker
from tests.support.waiting import PATIENCE, Guard
from tickerplant.core.schemas import OHLCV, RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.kafka import KafkaLog
from tickerplant.log.port import ConsumedRecord, EventLog, Reader, TopicPartition, Writer

ROOT = Path(__file__).parents[2]
PARTITIONS = 3
SPECS = [TopicSpec(RAW, 5 * DAY_US), TopicSpec(OHLCV, 5 * DAY_US), TopicSpec(STATE_AGGREGATION, None)]
DEADLINE_S = 45.0
MARKER = b"marker"
_numbers = itertools.count()


class Bench:
    """A log under test, and other processes that use it."""

    def __init__(self, kind: str, folder: Path, broker: KafkaBroker | None) -> None:
        self.kind, self.folder, self.broker = kind, folder, broker
        self.prefix = f"t{os.getpid()}-{next(_numbers)}."
        self.path = folder / "market.log"
        self._stack = contextlib.ExitStack()
        self.log = self.open()
        self.log.create_topics(SPECS, PARTITIONS)

    def open(self, patience_s: float | None = None) -> EventLog:
        """Open the log again, as another process does."""
        patience_s = patience_s or PATIENCE.seconds(30.0)
        if self.broker is None:
            log: EventLog = EmbeddedLog(self.path, patience_s=patience_s)
        else:
            log = KafkaLog(
                self.broker.bootstrap, topic_prefix=self.prefix, patience_s=patience_s, session_timeout_s=3.0
            )
        self._stack.callback(log.close)
        return log

    def reader(self, *topics: str, **how: object) -> Reader:
        reader = self.log.reader(topics or (RAW,), **how)  # type: ignore[arg-type]
        return self._stack.enter_context(reader)

    def writer(self, name: str = "writer") -> Writer:
        return self._stack.enter_context(self.log.writer(name))

    def child(self, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a role of `child.py` on this log. `close` kills the process."""
        url = (
            f"sqlite://{self.path}" if self.broker is None else f"kafka://{self.broker.bootstrap}?prefix={self.prefix}"
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.conformance.child", role, url, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            bufsize=0,  # unbuffered, so that `select` in `line` sees all output
        )
        self._stack.callback(kill, process)
        return process

    def close(self) -> None:
        self._stack.close()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child with SIGKILL."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def line(process: subprocess.Popen[bytes]) -> str:
    """Return the next line that a child prints; fail after `DEADLINE_S`."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], PATIENCE.seconds(DEADLINE_S))[0], "the child printed nothing"
    return process.stdout.readline().decode().strip()


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    broker = request.getfixturevalue("kafka_broker") if request.param == "kafka" else None
    bench = Bench(request.param, tmp_path, broker)
    yield bench
    bench.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench("embedded", tmp_path, None)
    yield bench
    bench.close()


@pytest.fixture
def kafka(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench("kafka", tmp_path, kafka_broker)
    yield bench
    bench.close()


def write(writer: Writer, *values: bytes, topic: str = RAW, partition: int = 0) -> None:
    """Append values in one transaction."""
    with writer.transaction() as transaction:
        for value in values:
            transaction.append(topic, partition, value)


def read(reader: Reader, count: int, **limits: int) -> list[ConsumedRecord]:
    """Poll until `count` records have arrived, and return them; fail after `DEADLINE_S`."""
    taken: list[ConsumedRecord] = []
    guard = Guard(DEADLINE_S)
    while len(taken) < count:
        guard.check(f"{count} records; {len(taken)} have arrived")
        taken += reader.poll(timeout_s=0.5, **limits)
    return taken


def values(found: list[ConsumedRecord]) -> list[bytes]:
    return [bytes(record.value) for record in found]


def is_exhausted(bench: Bench, reader: Reader, topic: str = RAW) -> bool:
    """Append a marker to each partition. Return True if the reader returns only the markers."""
    for partition in range(PARTITIONS):
        write(bench.writer("marker"), MARKER, topic=topic, partition=partition)
    return values(read(reader, PARTITIONS)) == [MARKER] * PARTITIONS


def at(partition: int, topic: str = RAW) -> TopicPartition:
    return TopicPartition(topic, partition)

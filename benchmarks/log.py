"""Throughput and latency of the event log: `python -m benchmarks.log [embedded] [kafka] [--seconds 3]`.

Records are batches of 4,096 ticks, like those of feeds. Appending uses transactions of one, four and twenty records
over four partitions. Reading uses one reader without a group. The wake-up time starts before a transaction of one small
record and ends when a sleeping reader in another thread has received the record. It includes the commit. The brokers
run on the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from benchmarks.support.figures import record as record_figure

from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.schemas import RAW, TOPICS
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.kafka import KafkaLog
from tickerplant.log.port import LATEST, EventLog

ROOT = Path(__file__).resolve().parents[1]
TICKS, PARTITIONS = 4_096, 4


def make_record() -> pa.Buffer:
    """Return 4,096 ticks of 100 symbols, 50 µs apart, with trade ids."""
    chance = np.random.default_rng(1)
    symbols = [f"SYM{i:03d}" for i in range(100)]
    times = timestamps(1_700_000_000_000_000 + np.arange(TICKS, dtype=np.int64) * 50)
    batch = pa.record_batch(
        [
            times,
            pa.DictionaryArray.from_arrays(chance.integers(0, 100, TICKS).astype(np.int32), symbols),
            100 + chance.normal(0, 0.01, TICKS).cumsum().round(2),
            chance.integers(1, 500, TICKS).astype(np.float64),
            pa.DictionaryArray.from_arrays(np.zeros(TICKS, np.int32), ["bench"]),
            [str(i) for i in range(TICKS)],
            np.zeros(TICKS, np.uint16),
            times,
        ],
        schema=schemas.TICKS,
    )
    return records.encode(records.Ticks(sent_at_us=0, feed="bench", watermark_us=0), batch)


def append(log: EventLog, record: pa.Buffer, per_transaction: int, seconds: float) -> tuple[float, list[float]]:
    """Return the ticks per second, and the seconds of each transaction."""
    times, count = [], 0
    with log.writer("bench") as writer:
        began = now = time.perf_counter()
        while now - began < seconds:
            with writer.transaction() as transaction:
                for _ in range(per_transaction):
                    transaction.append(RAW, count % PARTITIONS, record)
                    count += 1
            before, now = now, time.perf_counter()
            times.append(now - before)
    return count * TICKS / (now - began), times


def read(log: EventLog, seconds: float) -> float:
    """Return the ticks per second of one reader, from the first record to the end of the log or a timeout."""
    count = 0
    with log.reader([RAW]) as reader:
        first = reader.poll(timeout_s=5)
        began = time.perf_counter()
        while (now := time.perf_counter()) - began < seconds:
            deliveries = reader.poll(timeout_s=1)
            if not deliveries:
                break
            count += len(deliveries)
            last = time.perf_counter()
    assert first
    return count * TICKS / (min(now, last) - began)


def wake(log: EventLog, rounds: int) -> list[float]:
    """Return the seconds from the start of a transaction until a sleeping reader has received its record."""
    times: list[float] = []
    with log.reader([RAW], start=LATEST) as reader, log.writer("bench") as writer:
        reader.poll(timeout_s=0.2)
        arrived = threading.Semaphore(0)
        ends: list[float] = []

        def listen() -> None:
            while len(ends) < rounds:
                for _ in reader.poll(timeout_s=5):
                    ends.append(time.perf_counter())
                    arrived.release()

        thread = threading.Thread(target=listen)
        thread.start()
        for _ in range(rounds):
            time.sleep(0.01)  # let the reader sleep again
            began = time.perf_counter()
            with writer.transaction() as transaction:
                transaction.append(RAW, 0, b"x" * 400)
            arrived.acquire()
            times.append(ends[-1] - began)
        thread.join()
    return times


def idle(log: EventLog, seconds: float) -> float:
    """Return the share of a core used by eight sleeping readers."""
    readers = [log.reader([RAW], group=f"group {i}", start=LATEST) for i in range(8)]
    for reader in readers:
        reader.poll(timeout_s=2)
    stop = threading.Event()

    def sleep(reader: object) -> None:
        while not stop.is_set():
            reader.poll(timeout_s=1)  # type: ignore[attr-defined]

    threads = [threading.Thread(target=sleep, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(seconds)
    cost = (time.process_time() - before) / seconds
    stop.set()
    for thread in threads:
        thread.join()
    for reader in readers:
        reader.close()
    return cost


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[EventLog]:
    if kind == "embedded":
        with EmbeddedLog(folder / "market.log") as log:
            yield log
        return
    sys.path.insert(0, str(ROOT))
    from tools.kafka.broker import KafkaBroker

    with KafkaBroker(folder / "broker") as broker, KafkaLog(broker.bootstrap) as log:
        yield log


def percentile(times: list[float], share: float) -> str:
    return f"{1000 * statistics.quantiles(times, n=100)[round(share * 100) - 1]:.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["embedded", "kafka"])
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    record = make_record()
    print(f"{TICKS} ticks a record, {len(record)} bytes, {len(record) / TICKS:.0f} bytes a tick")
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder, opened(kind, Path(folder)) as log:
            log.create_topics(TOPICS, PARTITIONS)
            append(log, record, 4, arguments.seconds if kind == "embedded" else 8.0)  # a JVM starts slowly
            for per_transaction in (1, 4, 20):
                rate, times = append(log, record, per_transaction, arguments.seconds)
                record_figure(f"{kind}: append, {per_transaction} a transaction", rate / 1e6, "M ticks/s")
                print(
                    f"{kind:9} append, {per_transaction:2} a transaction {rate / 1e6:7.2f} M ticks/s   "
                    f"p50 {percentile(times, 0.5)}, p99 {percentile(times, 0.99)}"
                )
            reading = read(log, arguments.seconds) / 1e6
            print(f"{kind:9} read                    {reading:9.2f} M ticks/s")
            times = wake(log, 300)
            record_figure(f"{kind}: read", reading, "M ticks/s")
            record_figure(f"{kind}: commit and wake, p50", 1e3 * statistics.median(times), "ms", "less")
            print(f"{kind:9} commit and wake           p50 {percentile(times, 0.5)}, p99 {percentile(times, 0.99)}")
            sleeping = 100 * idle(log, 5)
            print(f"{kind:9} idle, 8 readers           {sleeping:.2f} % of a core")
            record_figure(f"{kind}: idle, 8 readers", sleeping, "% of a core", "less")


if __name__ == "__main__":
    main()

"""Time from the end of a minute until all its bars are readable: 10,000 symbols, the aggregation service, both logs.

    python -m benchmarks.closing [embedded] [kafka] [--partitions 1 4] [--symbols 10000] [--minutes 20]

The service is a separate process. Every symbol trades a few times in each minute. The minute's forming bars are
published at its end, 2 s before it closes, as in a live plant. After the service has read these records, the watermark
that closes the minute is appended to every partition in one transaction. The measured time starts before that
transaction and ends when a reader has decoded the minute's last bar. Every fifth minute also closes the 5m bars in the
same step. The broker runs on the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from benchmarks.support.figures import record

from tickerplant.aggregation.service import GROUP, Aggregation
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.times import MINUTE_US, SECOND_US
from tickerplant.log.open import open_log
from tickerplant.log.port import LATEST, EventLog, Reader, Writer

OPEN_US = 1_767_623_400_000_000  # 2026-01-05T14:30Z, the open in New York
LATENESS_US = 2 * SECOND_US
WARM = {"embedded": 3, "kafka": 10}  # a JVM starts slowly
AIM_MS = 250
DEADLINE_S = 30.0


def serve(url: str) -> None:
    """Aggregate until standard input ends."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    log = open_log(url)
    try:
        Aggregation(log).run(stop)
    finally:
        log.close()


@contextmanager
def service(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the service in a child process that ends with this process; yield the child."""
    command = [sys.executable, "-m", "benchmarks.closing", "--serve", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path(__file__).parents[1])
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()


class Feed:
    """A live feed of all symbols, split over the partitions like real feeds."""

    def __init__(self, writer: Writer, symbols: int, partitions: int, each: int, batch: int) -> None:
        self._writer, self._each, self._batch = writer, each, batch
        names = [f"S{number:05}" for number in range(symbols)]
        where = np.array([zlib.crc32(name.encode()) % partitions for name in names])
        self._names = [pa.array(np.array(names)[where == p]) for p in range(partitions)]
        self._chance = np.random.default_rng(1)

    def start(self) -> None:
        header = records.Start(feed="bench", sent_at_us=OPEN_US, from_us=OPEN_US, live=True)
        with self._writer.transaction() as transaction:
            for partition, names in enumerate(self._names):
                column = pa.DictionaryArray.from_arrays(pa.array(np.arange(len(names), dtype=np.int32)), names)
                batch = pa.RecordBatch.from_arrays([column], schema=schemas.SYMBOLS)
                transaction.append(schemas.RAW, partition, records.encode(header, batch))

    def minute(self, begin_us: int) -> None:
        """Append the ticks of a minute, and a watermark at its end. The minute stays open for the allowed lateness."""
        for partition, names in enumerate(self._names):
            count = len(names) * self._each
            times = begin_us + np.sort(self._chance.integers(0, MINUTE_US, count))
            symbols = self._chance.permutation(np.repeat(np.arange(len(names), dtype=np.int32), self._each))
            for at in range(0, count, self._batch):
                part = slice(at, at + self._batch)
                value = self._ticks(times[part], symbols[part], names)
                with self._writer.transaction() as transaction:
                    transaction.append(schemas.RAW, partition, value)
        self.mark(begin_us + MINUTE_US)

    def _ticks(self, times: np.ndarray, symbols: np.ndarray, names: pa.Array) -> pa.Buffer:
        count, until = len(times), int(times[-1])
        arrays = [
            timestamps(times),
            pa.DictionaryArray.from_arrays(pa.array(symbols), names),
            pa.array(np.round(100 + self._chance.normal(0, 1, count), 2)),
            pa.array(self._chance.integers(1, 500, count).astype(np.float64)),
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["bench"])),
            pa.nulls(count, pa.utf8()),
            pa.array(np.zeros(count, np.uint16)),
            timestamps(times),
        ]
        header = records.Ticks(feed="bench", sent_at_us=until, watermark_us=until)
        return records.encode(header, pa.RecordBatch.from_arrays(arrays, schema=schemas.TICKS))

    def mark(self, watermark_us: int) -> None:
        value = records.encode(records.Mark(feed="bench", sent_at_us=watermark_us, watermark_us=watermark_us))
        with self._writer.transaction() as transaction:
            for partition in range(len(self._names)):
                transaction.append(schemas.RAW, partition, value)


def settle(log: EventLog, reader: Reader, process: subprocess.Popen[bytes]) -> None:
    """Wait until the service has read all input and the reader all output.

    Raises SystemExit after `DEADLINE_S`, or if the service has ended.
    """
    until = time.monotonic() + DEADLINE_S
    while not (lag := log.lag(GROUP, [schemas.RAW])) or any(lag.values()):
        if time.monotonic() > until or process.poll() is not None:
            raise SystemExit("the service ended or is too slow")
        time.sleep(0.01)
    while reader.poll(timeout_s=0.1):
        pass


def closed_bars(value: Any, start_us: int) -> int:
    """Return the number of closed bars of the minute in a record."""
    record = records.decode(value)
    if not isinstance(record.header, records.Bars):
        return 0
    batch = record.batch
    ours = pc.and_(pc.equal(batch["interval"], "1m"), pc.equal(batch["state"], schemas.FINAL))
    return pc.sum(pc.and_(ours, pc.equal(batch["time"].cast(pa.int64()), start_us))).as_py() or 0


def measure(log: EventLog, url: str, asked: argparse.Namespace, partitions: int, warm: int) -> list[tuple[bool, float]]:
    """Return (whether the minute also closed 5m bars, milliseconds) of each measured minute."""
    log.create_topics(schemas.TOPICS, partitions)
    chance, found = np.random.default_rng(2), []
    with service(url) as process, log.writer("bench") as writer, log.reader([schemas.OHLCV], start=LATEST) as reader:
        feed = Feed(writer, asked.symbols, partitions, asked.each, asked.batch)
        feed.start()
        settle(log, reader, process)
        for number in range(warm + asked.minutes):
            begin_us = OPEN_US + number * MINUTE_US
            feed.minute(begin_us)
            settle(log, reader, process)
            time.sleep(chance.uniform(0.05, 0.15))  # the service must be idle
            bars, began = 0, time.perf_counter()
            feed.mark(begin_us + MINUTE_US + LATENESS_US)
            while bars < asked.symbols:
                if time.perf_counter() - began > DEADLINE_S:
                    raise SystemExit(f"{bars:,} of {asked.symbols:,} bars were published before the deadline")
                bars += sum(closed_bars(d.value, begin_us) for d in reader.poll(timeout_s=1.0))
            if number >= warm:
                found.append((number % 5 == 4, 1000 * (time.perf_counter() - began)))
    return found


@contextmanager
def address(kind: str, folder: Path) -> Iterator[str]:
    """Yield the address of a log without options, and run its broker if it needs one."""
    if kind == "embedded":
        yield f"sqlite://{folder}"
        return
    from tools.kafka.broker import KafkaBroker

    with KafkaBroker(folder / "broker") as broker:
        yield f"kafka://{broker.bootstrap}"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["embedded", "kafka"])
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--symbols", type=int, default=10_000)
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--each", type=int, default=5, help="ticks per symbol and minute")
    parser.add_argument("--batch", type=int, default=4_096, help="ticks per record")
    parser.add_argument("--serve", metavar="URL", help="run the service; used by this program itself")
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    print(f"{asked.symbols:,} symbols, {asked.each} ticks each a minute; milliseconds from append to readable")
    print("log       partitions   minutes: p50    max   with 5m: p50    max   of them in the aim")
    for kind in asked.kinds:
        with tempfile.TemporaryDirectory() as name, address(kind, Path(name)) as base:
            for partitions in asked.partitions:
                url = f"{base}/{partitions}.log" if kind == "embedded" else f"{base}?prefix=p{partitions}."
                log = open_log(url)
                try:
                    found = measure(log, url, asked, partitions, WARM[kind])
                finally:
                    log.close()
                line = f"{kind:9} {partitions:10}"
                for fifth, width in ((False, 15), (True, 15)):
                    times = [ms for five, ms in found if five == fifth] or [float("nan")]
                    line += f"{statistics.median(times):{width}.1f}{max(times):7.1f}"
                    title = f"{kind}, {partitions} partitions: {'with 5m' if fifth else 'minutes'}"
                    record(f"{title}, p50", statistics.median(times), "ms", "less")
                within = sum(ms <= AIM_MS for _, ms in found)
                print(f"{line}   {within} of {len(found)} within {AIM_MS} ms", flush=True)


if __name__ == "__main__":
    main()

"""Rate of feeds into the embedded log: a file, and the client connected to the sandbox.

python -m benchmarks.feed file --ticks 5000000 --symbols 1000 --partitions 4
python -m benchmarks.feed stream --rate 20000 --symbols 1000 --seconds 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from benchmarks.support.figures import record

from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.port import LATEST
from tickerplant.market_data.clients.twelvedata.session import StreamConfig
from tickerplant.market_data.clients.twelvedata.stream import TwelveDataStream
from tickerplant.market_data.files.replay import ReplayOptions, replay
from tickerplant.market_data.service import MarketData, MarketDataConfig
from tickerplant.sandbox.model import symbol_names


def generate(path: Path, ticks: int, symbols: int, *, ids: bool) -> None:
    rng = np.random.default_rng(1)
    start = 1_340_285_400_000_000
    columns = {
        "time": pa.array(start + np.sort(rng.integers(0, 23_400_000_000, ticks))).view(schemas.TIMESTAMP),
        "symbol": pa.DictionaryArray.from_arrays(
            pa.array(rng.integers(0, symbols, ticks), pa.int32()), [f"SYM{i:04d}" for i in range(symbols)]
        ),
        "price": np.round(100 + rng.normal(0, 1, ticks), 2),
        "size": rng.integers(1, 1_000, ticks).astype(np.float64),
    }
    if ids:
        columns["trade_id"] = pa.array(np.arange(ticks)).cast(pa.utf8())
    table = pa.table(columns)
    if path.suffix == ".csv":
        table = table.set_column(1, "symbol", table["symbol"].cast(pa.utf8()))
        pa.csv.write_csv(table, path)
    else:
        pa.parquet.write_table(table, path)


def file(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"ticks.{args.format}"
        generate(path, args.ticks, args.symbols, ids=args.ids)
        log = EmbeddedLog(Path(folder) / "market.log")
        log.create_topics(schemas.TOPICS, args.partitions)
        began, cpu = time.perf_counter(), time.process_time()
        summary = replay(log, path, ReplayOptions())
        wall = time.perf_counter() - began
        print(
            f"{path.stat().st_size / 1e6:.0f} MB of {args.format}: {summary.ticks:,} ticks in {wall:.2f} s wall, "
            f"{time.process_time() - cpu:.2f} s CPU: {summary.ticks / wall:,.0f} ticks/s"
        )
        record("file", summary.ticks / wall, "ticks/s")
        record("file: CPU", 1e6 * (time.process_time() - cpu) / summary.ticks, "µs/tick", "less")
        log.close()


def stream(args: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "tickerplant.sandbox", "--stamp"]
    command += ["--symbols", str(args.symbols), "--rate", str(args.rate)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE) as sandbox,
        EmbeddedLog(Path(folder) / "market.log") as log,
    ):
        try:
            assert sandbox.stdout is not None
            endpoint = json.loads(sandbox.stdout.readline())
            log.create_topics(schemas.TOPICS, args.partitions)
            asyncio.run(_stream(args, log, endpoint, sandbox.pid))
        finally:
            sandbox.terminate()


async def _stream(args: argparse.Namespace, log: EmbeddedLog, endpoint: dict[str, str], vendor: int) -> None:
    symbols = symbol_names(args.symbols)
    ticks = TwelveDataStream(StreamConfig(endpoint["stream_url"], "key", symbols, stamped=True))
    service, stop = MarketData(log, MarketDataConfig(symbols), ticks), asyncio.Event()
    latencies: list[np.ndarray] = []
    reading = threading.Event()
    reader = threading.Thread(target=_read, args=(log, latencies, reading))
    task = asyncio.create_task(service.run(stop))
    await asyncio.sleep(2.0)
    reader.start()
    before, began, cpu, vendor_cpu = service.counts.ticks, time.perf_counter(), time.process_time(), _cpu_s(vendor)
    batches = service.counts.batches
    await asyncio.sleep(args.seconds)
    ticks, wall = service.counts.ticks - before, time.perf_counter() - began
    used, vendor_used = time.process_time() - cpu, _cpu_s(vendor) - vendor_cpu
    reading.set()
    stop.set()
    await task
    await asyncio.to_thread(reader.join)
    every = np.concatenate(latencies) / 1_000
    print(
        f"asked {args.rate:,.0f}/s: {ticks / wall:,.0f} ticks/s "
        f"in batches of {ticks / (service.counts.batches - batches):.0f}; "
        f"client {used / wall:.0%} of a core, sandbox {vendor_used / wall:.0%}; sent to readable "
        f"p50 {np.percentile(every, 50):.1f} ms, p99 {np.percentile(every, 99):.1f} ms"
    )
    record("stream: client", used / wall, "cores", "less")
    for percent in (50, 99):
        record(f"stream: sent to readable, p{percent}", float(np.percentile(every, percent)), "ms", "less")


def _read(log: EmbeddedLog, latencies: list[np.ndarray], done: threading.Event) -> None:
    with log.reader([schemas.RAW], start=LATEST) as reader:
        while not done.is_set():
            deliveries = reader.poll(timeout_s=0.1)
            now = time.time_ns() // 1_000
            for delivery in deliveries:
                record = records.decode(delivery.value)
                if isinstance(record.header, records.Ticks):
                    latencies.append(now - times_of(record.batch["time"]))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("file")
    one.add_argument("--ticks", type=int, default=5_000_000)
    one.add_argument("--symbols", type=int, default=1_000)
    one.add_argument("--partitions", type=int, default=4)
    one.add_argument("--format", choices=["parquet", "csv"], default="parquet")
    one.add_argument("--ids", action="store_true", help="add trade ids")
    one.set_defaults(run=file)
    two = commands.add_parser("stream")
    two.add_argument("--rate", type=float, default=10_000)
    two.add_argument("--symbols", type=int, default=1_000)
    two.add_argument("--partitions", type=int, default=4)
    two.add_argument("--seconds", type=float, default=10)
    two.set_defaults(run=stream)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

"""Replays of 1m bars in four shapes of a file: many or few symbols, sorted by time or by symbol.

    python -m benchmarks.shapes                                # 200,000 bars of 500 and of 10 symbols
    python -m benchmarks.shapes --symbols 10 --orders symbol --bars 50000

Each replay is `tickerplant replay` on a new data folder, until all rows are in the tables. A replay of one bar measures
the start-up, which is subtracted from the time and the CPU time. CPU time includes PostgreSQL. `worst / best` compares
the slowest shape with the fastest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.history import prices
from benchmarks.plant import environment
from benchmarks.support.figures import record, report

from tickerplant.core.arrow_values import timestamps
from tickerplant.core.times import DAY_US, MINUTE_US

OPEN_US = 1_767_623_400_000_000
"""2026-01-05T14:30Z, the open in New York. Weekends are skipped. Holidays are not skipped,
so their bars are off-session."""
SESSION_MINUTES = 390
ORDERS = ("time", "symbol")


class Cost(NamedTuple):
    """Seconds of a replay, and CPU seconds of its processes and of PostgreSQL."""

    seconds: float
    cpu_s: float


def minutes(count: int) -> np.ndarray:
    """Return the starts of `count` minutes of consecutive weekday sessions."""
    session, minute = np.divmod(np.arange(count, dtype=np.int64), SESSION_MINUTES)
    days = session + session // 5 * 2  # the first session is a Monday
    return OPEN_US + days * DAY_US + minute * MINUTE_US


def write(path: Path, symbols: int, bars: int, order: str) -> int:
    """Write a file of 1m bars in the order `time` or `symbol`; return the number of bars."""
    each = max(1, bars // symbols)
    at = np.arange(each * symbols)
    which, when = (at % symbols, at // symbols) if order == "time" else (at // each, at % each)
    columns = {
        "time": timestamps(minutes(each)[when]),
        "symbol": pa.DictionaryArray.from_arrays(
            pa.array(which.astype(np.int32)), [f"S{number:03}" for number in range(symbols)]
        ),
        "interval": pa.array(["1m"] * len(at)),
        **{name: pa.array(values) for name, values in prices(len(at), np.random.default_rng(1)).items()},
    }
    pq.write_table(pa.table(columns), path)
    return len(at)


def replay(symbols: int, bars: int, order: str) -> tuple[int, Cost]:
    """Replay a file of this shape on a new data folder; return the number of bars and the cost, start-up included."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        path = Path(name) / "bars.parquet"
        count = write(path, symbols, bars, order)
        command = [sys.executable, "-m", "tickerplant.app", "replay", str(path), "--data", str(Path(name) / "data")]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([*command, "--json"], env=environment("embedded:"), capture_output=True, text=True)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        if found["vendor_bars"] != count or found["dead_lettered"]:
            raise SystemExit(f"{found['vendor_bars']:,} of {count:,} bars were read: {found}")
    return count, Cost(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    """Measure the start-up, then each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, nargs="+", default=[500, 10])
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--bars", type=int, default=200_000)
    parser.add_argument("--starts", type=int, default=3, help="replays that measure the start-up")
    asked = parser.parse_args()
    replay(1, 1, "time")  # compiles modules and fills the page cache
    starts = [replay(1, 1, "time")[1] for _ in range(asked.starts)]
    start = Cost(*(statistics.median(values) for values in zip(*starts, strict=True)))
    report("start-up", {"seconds": start.seconds, "cpu_s": start.cpu_s})
    wall: list[float] = []
    cpu: list[float] = []
    for symbols in asked.symbols:
        for order in asked.orders:
            count, cost = replay(symbols, asked.bars, order)
            seconds, cpu_s = cost.seconds - start.seconds, cost.cpu_s - start.cpu_s
            if min(seconds, cpu_s) <= 0:
                raise SystemExit(
                    "the replay is as short as its start-up; set a larger --bars, or wait for a quiet machine"
                )
            wall.append(count / seconds)
            cpu.append(count / cpu_s)
            values = {"bars": count, "bars_per_s": wall[-1], "bars_per_cpu_s": cpu[-1], "load": os.getloadavg()[0]}
            report(f"{symbols} symbols by {order}", values)
    print(f"worst / best            {min(wall) / max(wall):.2f}, by CPU time {min(cpu) / max(cpu):.2f}")
    record("worst / best", min(wall) / max(wall), "")
    record("worst / best by CPU time", min(cpu) / max(cpu), "")


if __name__ == "__main__":
    main()

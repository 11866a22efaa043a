"""QuestDB and the plant with the same ticks: the rate of writing, and the times of the same queries.

    python -m benchmarks.questdb                       # 5 M ticks of 1,000 symbols, 167 per symbol and minute
    python -m benchmarks.questdb --ticks 200000 --only questdb

QuestDB gets the ticks by ILP over TCP, as lines that are encoded before the measurement. Its time ends when all rows
are visible to queries. It only stores the ticks. The plant gets them by `tickerplant replay` of a Parquet file. It also
computes and stores bars and indicators, and sends them to ten WebSocket clients. Both run on the two cores of the same
machine, one after the other. `tools/questdb` downloads the jar of QuestDB.

The queries read the 1m bars of one symbol, the 1m bars of all symbols, and the newest 500 ticks of one symbol. QuestDB
computes bars with `SAMPLE BY 1m`; the plant has stored them. Both servers answer the same client through PostgreSQL's
protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plant import cpu_of, make_ticks, throughput  # noqa: E402
from benchmarks.support.figures import record, report  # noqa: E402
from tools.questdb.server import QuestDB  # noqa: E402

SYMBOL: Final = "SYM0001"
TABLE: Final = """CREATE TABLE trades (symbol SYMBOL CAPACITY 4096, price DOUBLE, size DOUBLE, timestamp TIMESTAMP)
    TIMESTAMP(timestamp) PARTITION BY DAY WAL"""
BAR: Final = (
    "first(price) AS open, max(price) AS high, min(price) AS low, last(price) AS close, sum(size) AS volume, "
    "count() AS trades"
)
OF_QUESTDB: Final = {
    "1m bars of a symbol": f"SELECT timestamp, {BAR} FROM trades WHERE symbol = '{SYMBOL}' SAMPLE BY 1m",
    "1m bars of all symbols": f"SELECT timestamp, symbol, {BAR} FROM trades SAMPLE BY 1m",
    "newest 500 ticks": f"SELECT timestamp, price, size FROM trades WHERE symbol = '{SYMBOL}' "
    "ORDER BY timestamp DESC LIMIT 500",
}
OF_PLANT: Final = {
    "1m bars of a symbol": 'SELECT "time", open, high, low, close, volume, trades FROM intraday_ohlcv '
    f"WHERE symbol = '{SYMBOL}' AND \"interval\" = '1m' ORDER BY \"time\"",
    "1m bars of all symbols": 'SELECT "time", symbol, open, high, low, close, volume, trades FROM intraday_ohlcv '
    "WHERE \"interval\" = '1m'",
    "newest 500 ticks": f"SELECT \"time\", price, size FROM realtime_prices WHERE symbol = '{SYMBOL}' "
    'ORDER BY "time" DESC LIMIT 500',
}
REPEATS: Final = 15
LINES: Final = 50_000
"""Ticks of one block of lines."""
VISIBLE_S: Final = 300.0


def lines_of(path: Path) -> list[bytes]:
    """Return the ticks of a file as ILP lines in blocks. Times are nanoseconds."""
    blocks = []
    for batch in pq.ParquetFile(path).iter_batches(LINES):
        time_ns = pc.multiply(batch["time"].cast(pa.int64()), 1_000)
        texts = [column.cast(pa.utf8()) for column in (batch["symbol"], batch["price"], batch["size"], time_ns)]
        parts = ["trades,symbol=", texts[0], " price=", texts[1], ",size=", texts[2], " ", texts[3], "\n", ""]
        column = pc.binary_join_element_wise(*parts)
        blocks.append("".join(column.to_pylist()).encode())
    return blocks


async def fill(server: QuestDB, blocks: list[bytes], count: int) -> dict[str, Any]:
    """Send all lines to a new table and wait until they are visible; return rate and CPU time."""
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute(TABLE)
        used, began = cpu_of([server.pid]), time.perf_counter()
        with socket.create_connection(("127.0.0.1", server.ilp_port)) as sender:
            for block in blocks:
                sender.sendall(block)
        sent = time.perf_counter() - began
        while (found := await connection.fetchval("SELECT count() FROM trades")) < count:
            if time.perf_counter() - began > sent + VISIBLE_S:
                raise SystemExit(f"QuestDB shows {found:,} of {count:,} ticks after {VISIBLE_S:g} s")
            await asyncio.sleep(0.02)
        seconds = time.perf_counter() - began
        used = cpu_of([server.pid]) - used
    finally:
        await connection.close()
    return {
        "ticks": count,
        "seconds": seconds,
        "seconds_to_send": sent,
        "ticks_per_s": count / seconds,
        "cpu_s": used,
        "cpu_us_per_tick": 1e6 * used / count,
        "load": os.getloadavg()[0],
    }


async def ask(dsn: str, queries: Mapping[str, str]) -> dict[str, Any]:
    """Return the median milliseconds and the number of rows of each query."""
    connection = await asyncpg.connect(dsn)
    found: dict[str, Any] = {}
    try:
        for name, query in queries.items():
            took = []
            for _ in range(REPEATS):
                began = time.perf_counter()
                rows = await connection.fetch(query)
                took.append(1e3 * (time.perf_counter() - began))
            found |= {f"{name}, rows": len(rows), f"{name}, p50_ms": statistics.median(took)}
    finally:
        await connection.close()
    return found


def questdb(ticks: Path, count: int, folder: Path) -> dict[str, Any]:
    """Measure QuestDB."""
    blocks = lines_of(ticks)
    with QuestDB(folder) as server:
        found = asyncio.run(fill(server, blocks, count))
        return found | asyncio.run(ask(server.dsn, OF_QUESTDB))


def plant(ticks: Path, folder: Path) -> dict[str, Any]:
    """Measure the plant with the embedded log, and query its database after the plant has stopped."""
    from tickerplant.store.server.embedded import EmbeddedPostgres

    found = throughput("embedded:", ticks, folder)
    with EmbeddedPostgres(folder / "postgres") as server:
        return found | asyncio.run(ask(server.dsn, OF_PLANT))


def main() -> None:
    """Measure both and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=5_000_000)
    parser.add_argument("--symbols", type=int, default=1_000)
    parser.add_argument("--density", type=float, default=167, help="ticks per symbol and minute")
    parser.add_argument("--only", choices=("questdb", "plant"))
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the stack, which stops the servers
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        ticks = Path(name) / "ticks.parquet"
        make_ticks(ticks, asked.ticks, asked.symbols, minutes=asked.ticks / asked.symbols / asked.density)
        peer = questdb(ticks, asked.ticks, Path(name) / "questdb") if asked.only != "plant" else {}
        report("QuestDB", peer)
        ours = plant(ticks, Path(name) / "data") if asked.only != "questdb" else {}
        report("plant", ours)
    for key in [name for name in ours if name in peer]:
        if key == "ticks_per_s" or key == "cpu_us_per_tick" or key.endswith("_ms"):
            ratio = ours[key] / peer[key]
            print(f"  plant / QuestDB, {key:<40}{ratio:8.2f}")
            record(f"plant / QuestDB: {key}", ratio, "×", "more" if key == "ticks_per_s" else "less")


if __name__ == "__main__":
    main()

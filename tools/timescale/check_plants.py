"""Feeds one plant on a real TimescaleDB and one on the embedded store, and compares their rows.

    python tools/timescale/check_plants.py postgresql://postgres@127.0.0.1:5432/postgres [SYMBOLS]

SYMBOLS (300) have bars of five sessions, all compressed. Then 300 official bars of one old minute arrive, and ten years
of 5m bars of another symbol are split. Ticks in compressed chunks are cancelled, corrected and rebuilt. After each
step, `health` must be ok. It takes some minutes. The last line is `equal`, or the script raises an error.
"""

# ruff: noqa: S608 (all parts of the statements are constants of this file)

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tickerplant.app.config.settings import load
from tickerplant.app.wiring.log import open_log
from tickerplant.core import schemas
from tickerplant.core.flags import TickFlag
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.store.server.embedded import EmbeddedPostgres

RULES: Final = '[rules.calendars]\n"*" = "24/7"\n'
BARS: Final = "symbol, interval, time, open, high, low, close, round(volume::numeric, 6), trades, state, complete"
TABLES: Final = {
    "intraday_ohlcv": f"{BARS}, source",
    "historical_ohlcv": BARS,
    "realtime_prices": "symbol, time, price, size, trade_id, flags",
    "intraday_analytics": "symbol, interval, time, state, sma_20, ema_12, rsi_14",
    "daily_analytics": "symbol, interval, time, state, sma_20, ema_12, rsi_14",
    "splits": "symbol, time, numerator, denominator",
}
FIRST: Final = dt.datetime.now(dt.UTC).replace(hour=14, minute=30, second=0, microsecond=0) - dt.timedelta(days=16)
BAR: Final = "time,symbol,open,high,low,close,volume"


def sessions(symbols: int) -> Iterator[str]:
    """Yield lines of five sessions of 1m bars."""
    yield BAR
    for day in range(5):
        for minute in range(390):
            at = FIRST + dt.timedelta(days=day, minutes=minute)
            for number in range(symbols):
                price = 100 + number + (day * 390 + minute) % 37 / 10
                prices = f"{price},{price + 1},{price - 1},{price + 0.5}"
                yield f"{at:%Y-%m-%dT%H:%M:%SZ},S{number:03d},{prices},{100 + minute}"


def official(symbols: int) -> Iterator[str]:
    """Yield lines of bars of one old minute whose prices differ from those of `sessions`."""
    yield BAR
    for number in range(symbols):
        yield f"{FIRST + dt.timedelta(minutes=100):%Y-%m-%dT%H:%M:%SZ},S{number:03d},7,9,6,8,5555"


def ten_years() -> Iterator[str]:
    """Yield lines of ten years of 5m bars of the symbol LONG."""
    yield BAR
    for day in range(3650):
        start = FIRST - dt.timedelta(days=3700 - day)
        for bar in range(54):
            price = 50 + (day * 54 + bar) % 101 / 10
            at = start + dt.timedelta(minutes=5 * bar)
            yield f"{at:%Y-%m-%dT%H:%M:%SZ},LONG,{price},{price + 1},{price - 1},{price},{1000 + bar}"


class Plant:
    """A data folder and its store. Commands run the services themselves."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store = folder, store
        folder.mkdir()
        (folder / "settings.toml").write_text(RULES)
        self._arguments = ["--data", str(folder / "data"), "--config", str(folder / "settings.toml")]
        self._arguments += ["--store", store] if store else []

    def run(self, *arguments: str) -> str:
        """Run a command and return its output. Raises RuntimeError if it fails."""
        began = time.monotonic()
        command = [sys.executable, "-m", "tickerplant.app", *arguments, *self._arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        print(f"  {self.folder.name}: {' '.join(arguments)[:70]}: exit {done.returncode}, {seconds:.1f} s", flush=True)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return done.stdout

    def check_health(self) -> None:
        """Raise RuntimeError if a component is not ok, except the plant itself, which is not running."""
        command = [sys.executable, "-m", "tickerplant.app", "health", "--json", *self._arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise RuntimeError(done.stderr)
        found = json.loads(done.stdout)
        bad = [part for part in found["parts"] if part["state"] != "ok" and part["name"] != "plant"]
        if bad:
            raise RuntimeError(f"{self.folder.name}: {bad}")

    def ticks(self, *rows: tuple[int, float, float, int, str], first: bool = False) -> None:
        """Append ticks (microsecond, price, size, flags, trade id) of TICK; `replay` of the next file applies them."""
        settings = load({"data": str(self.folder / "data")}).settings
        with open_log(settings) as log, FeedWriter(log, "tape") as writer:
            if first:
                writer.start(["TICK"], start_us=rows[0][0] - 60_000_000)
            times = pa.array([row[0] for row in rows], pa.int64()).cast(schemas.TICKS.field("time").type)
            names = [pa.array([text] * len(rows)).dictionary_encode() for text in ("TICK", "tape")]
            prices, sizes = (pa.array([row[i] for row in rows]) for i in (1, 2))
            flags = pa.array([row[3] for row in rows], pa.uint16())
            columns = [times, names[0], prices, sizes, names[1], pa.array([row[4] for row in rows]), flags, times]
            writer.append_ticks(pa.RecordBatch.from_arrays(columns, schema=schemas.TICKS), rows[-1][0])
            writer.mark(rows[0][0] + 86_400_000_000)

    @contextmanager
    def address(self) -> Iterator[str]:
        """Yield the address of the store, which runs for the block."""
        if self.store:
            yield self.store
            return
        with EmbeddedPostgres(self.folder / "data" / "postgres") as server:
            yield server.dsn

    def rows(self, table: str) -> list[Any]:
        """Return all rows of a table as text, sorted."""
        with self.address() as dsn:
            return asyncio.run(_fetch(dsn, f"SELECT row({TABLES[table]})::text FROM {table} ORDER BY 1"))


async def _fetch(dsn: str, sql: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row[0] for row in await connection.fetch(sql)]
    finally:
        await connection.close()


def compress(dsn: str) -> None:
    """Compress every chunk of bars, values and ticks."""
    for table in TABLES:
        if table != "splits":
            asyncio.run(
                _fetch(dsn, f"SELECT compress_chunk(c, if_not_compressed => true) FROM show_chunks('{table}') c")
            )
    [counts] = asyncio.run(
        _fetch(
            dsn,
            "SELECT count(*) FILTER (WHERE is_compressed) || ' of ' || count(*) FROM timescaledb_information.chunks"
            f" WHERE hypertable_name IN ({', '.join(repr(table) for table in TABLES)})",
        )
    )
    print(f"  compressed chunks: {counts}")


def write(path: Path, lines: Iterable[str]) -> Path:
    """Write a file and return its path."""
    path.write_text("\n".join(lines) + "\n")
    return path


def feed(plants: list[Plant], folder: Path, symbols: int, dsn: str) -> None:
    """Feed the same input to all plants, and compress everything between the steps."""
    files = {
        "sessions": write(folder / "sessions.csv", sessions(symbols)),
        "official": write(folder / "official.csv", official(symbols)),
        "long": write(folder / "long.csv", ten_years()),
        "flush": write(folder / "flush.csv", [BAR, f"{FIRST:%Y-%m-%dT%H:%M:%SZ},TICK2,1,1,1,1,1"]),
    }
    first_us = int(FIRST.timestamp() * 1e6)
    split = f"{FIRST - dt.timedelta(days=1000):%Y-%m-%d}"
    tape = [(first_us + i * 1_000_000, 10 + i % 60 / 10, 1.0 + i % 5, 0, str(i)) for i in range(3600)]
    cancel = [(*tape[i][:3], int(TickFlag.CANCEL), tape[i][4]) for i in (30, 95)]
    correction = [(tape[200][0], 99.0, 7.0, int(TickFlag.CORRECTION), tape[200][4])]
    bar, source = ("--interval", "1m"), ("--source", "vendor")
    steps: list[tuple[str, Any]] = [
        ("bars of all symbols", lambda plant: plant.run("replay", str(files["sessions"]), *bar, *source)),
        ("ticks", lambda plant: plant.ticks(*tape, first=True)),
        ("ten years of 5m", lambda plant: plant.run("replay", str(files["long"]), "--interval", "5m", *source)),
        ("official bars", lambda plant: plant.run("replay", str(files["official"]), *bar, *source)),
        ("cancels", lambda plant: plant.ticks(*cancel, *correction)),
        ("one more bar", lambda plant: plant.run("replay", str(files["flush"]), *bar, *source)),
        (
            "rebuild",
            lambda plant: plant.run(
                "rebuild", "TICK", "--from", f"{FIRST:%Y-%m-%d}", "--to", f"{FIRST + dt.timedelta(1):%Y-%m-%d}"
            ),
        ),
        ("split", lambda plant: plant.run("action", "split", "LONG", split, "2:1")),
    ]
    for name, step in steps:
        print(name)
        for plant in plants:
            step(plant)
            plant.check_health()
        compress(dsn)


def main(server: str, symbols: int) -> None:
    """Create the database and both plants, feed them, and compare."""
    name = "tickerplant_check_plants"
    for sql in (f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}"):
        asyncio.run(_fetch(server, sql))
    dsn = f"{server.rpartition('/')[0]}/{name}"
    with tempfile.TemporaryDirectory() as folder:
        plants = [Plant(Path(folder) / "embedded", ""), Plant(Path(folder) / "real", dsn)]
        feed(plants, Path(folder), symbols, dsn)
        for table in TABLES:
            embedded, real = (plant.rows(table) for plant in plants)
            different = sorted(set(embedded) ^ set(real))
            print(f"{table}: {len(embedded)} and {len(real)} rows, {len(different)} differ")
            if embedded != real:
                raise SystemExit(f"{table} differs: {different[:6]}")
    asyncio.run(_fetch(server, f"DROP DATABASE {name} WITH (FORCE)"))
    print("equal")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300)

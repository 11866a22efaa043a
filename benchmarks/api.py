"""The API under load: delays of its event loop by route and stream command, and plain requests beside expensive ones.

    python -m benchmarks.api                 # every route and command alone, then plain requests beside expensive ones
    python -m benchmarks.api --symbols 40    # two years of minutes of 40 symbols; the default is 12

The server runs in this process with a store of its own. A thread measures the event loop's delay 200 times a second.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import uvloop
from benchmarks.support.figures import record
from websockets.sync.client import connect

from tickerplant.analytics.ondemand.query import OnDemand
from tickerplant.api.service import Api, ApiOptions
from tickerplant.api.store_reader import StoreReader
from tickerplant.core import schemas
from tickerplant.core.rules import Rules
from tickerplant.core.times import DAY_US, micros_of
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.partitions import ensure_partitions
from tickerplant.store.server.embedded import EmbeddedPostgres

END: Final = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
START: Final = END - dt.timedelta(days=730)
PROBE_S: Final = 0.005
REPEATS: Final = 3

_BARS: Final = """INSERT INTO {table} (symbol, "interval", "time", open, high, low, close, volume, vwap, trades, state,
        complete, history, revision, version, reason, source, published_at)
    SELECT name, $1, t, 100, 108, 99, 101, 10, 101.5, 3, 'final', true, false, 0, 1, 'ticks', 'bench', t
    FROM generate_series($2::timestamptz, $3::timestamptz - $4::interval, $4::interval) AS t, unnest($5::text[]) AS name
    WHERE date_part('hour', t) BETWEEN 14 AND 20"""


async def fill(dsn: str, symbols: list[str], identity: tuple[str, int]) -> None:
    """Write two years of bars for each symbol, and a day of ticks of the first symbol."""
    store = await Store.open(dsn, max_size=1)
    await migrate(store)
    times = np.arange(micros_of(START), micros_of(END), DAY_US, dtype=np.int64)
    async with store.session() as session:
        for table in ("intraday_ohlcv", "realtime_prices", "historical_ohlcv"):
            await ensure_partitions(session, table, times)
        for table, name, step in (
            ("intraday_ohlcv", "1m", dt.timedelta(minutes=1)),
            ("intraday_ohlcv", "5m", dt.timedelta(minutes=5)),
            ("historical_ohlcv", "1d", dt.timedelta(days=1)),
        ):
            begin = START + dt.timedelta(hours=14) if name == "1d" else START
            await session.execute(_BARS.format(table=table), name, begin, END, step, symbols)
        await session.execute(
            """INSERT INTO realtime_prices SELECT t, $1, 100, 5, 'bench', NULL, 0, t
               FROM generate_series($2::timestamptz, $3::timestamptz, $4::interval) AS t""",
            symbols[0], END - dt.timedelta(days=1), END - dt.timedelta(seconds=1), dt.timedelta(seconds=1),
        )  # fmt: skip
        await session.execute(
            "INSERT INTO symbols SELECT name, $1, $2, '{1m,5m,1d}', 101 FROM unnest($3::text[]) AS name",
            START, END, symbols,
        )  # fmt: skip
        await session.execute("INSERT INTO plant (log_id, generation) VALUES ($1, $2)", *identity)
    await store.close()


class LoopProbe:
    """A thread that measures the time until the event loop runs a callback."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._delays: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(PROBE_S):
            began, ran = time.perf_counter(), threading.Event()
            self._loop.call_soon_threadsafe(ran.set)
            ran.wait(60)
            self._delays.append(time.perf_counter() - began)

    def worst_ms(self) -> float:
        """Return the longest delay since the last call, in ms."""
        found, self._delays = self._delays, []
        return max(found, default=0.0) * 1e3

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()


@contextmanager
def served(log: EmbeddedLog, dsn: str) -> Iterator[tuple[str, LoopProbe]]:
    """Run the API in a thread; yield its address and the probe of its event loop."""
    api = Api(log, dsn, ApiOptions(port=0, indicators=OnDemand(Rules()), now_us=lambda: micros_of(END)),
              store=StoreReader(dsn))  # fmt: skip
    loop, stop = uvloop.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(api.run(stop)))
    thread.start()
    asyncio.run_coroutine_threadsafe(api.started.wait(), loop).result(60)
    probe = LoopProbe(loop)
    try:
        yield f"127.0.0.1:{api.bound_port}", probe
    finally:
        probe.stop()
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def routes(symbol: str) -> tuple[str, ...]:
    """Return one path of each kind of answer."""
    return (
        "/health", "/metrics", "/v1/status", "/v1/symbols", "/openapi.json", f"/v1/realtime/{symbol}",
        f"/v1/intraday/{symbol}?limit=100", f"/v1/intraday/{symbol}?limit=50000", f"/v1/ticks/{symbol}?limit=50000",
        f"/v1/intraday/{symbol}?interval=1h&limit=1000", f"/v1/historical/{symbol}?interval=1d&limit=1000",
        f"/v1/indicators/RSI/{symbol}?interval=1m&limit=10000", f"/v1/coverage/{symbol}",
        f"/v1/coverage/{symbol}?from=2024-04-01", "/v1/coverage", "/v1/coverage?from=2025-04-01",
    )  # fmt: skip


def measure_routes(client: httpx.Client, probe: LoopProbe, paths: tuple[str, ...]) -> None:
    """Print the time of each route alone, and the worst delay of the event loop during its requests."""
    print(f"{'route':<52}{'ms':>9}{'worst loop delay, ms':>24}")
    for path in paths:
        probe.worst_ms()
        took = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            status = client.get(path).status_code
            took.append((time.perf_counter() - began) * 1e3)
        shown = path if status == 200 else f"{path} ({status})"
        worst_ms = probe.worst_ms()
        print(f"{shown:<52}{statistics.median(took):>9.1f}{worst_ms:>24.1f}", flush=True)
        record(path, statistics.median(took), "ms", "less")
        record(f"{path}: longest delay of the loop", worst_ms, "ms", "less")


def measure_frames(address: str, probe: LoopProbe) -> None:
    """Print the time of each command of the stream, and the worst delay of the event loop during the command."""
    everything = {"action": "subscribe", "symbols": ["*"]}
    commands: dict[str, tuple[dict[str, object], str]] = {
        "ping": ({"action": "ping"}, "pong"),
        "subscribe to all": (everything, "snapshot"),
        "subscribe to 1,000 symbols": (everything | {"symbols": [f"X{n}" for n in range(1_000)]}, "snapshot"),
    }
    for name, (command, answer) in commands.items():
        probe.worst_ms()
        with connect(f"ws://{address}/v1/stream", max_size=None) as socket:
            began = time.perf_counter()
            socket.send(json.dumps(command))
            while json.loads(socket.recv())["type"] != answer:
                pass
            took_ms = (time.perf_counter() - began) * 1e3
        print(f"{'frame: ' + name:<52}{took_ms:>9.1f}{probe.worst_ms():>24.1f}", flush=True)


def measure_beside(address: str, probe: LoopProbe, plain: str, expensive: str, clients: int, seconds: float) -> None:
    """Print times of plain requests and of `/health` while `clients` send expensive requests without a pause."""
    ending = threading.Event()
    counts: list[int] = []

    def load() -> None:
        with httpx.Client(base_url=f"http://{address}", timeout=120) as client:
            while not ending.is_set():
                counts.append(client.get(expensive).status_code)

    threads = [threading.Thread(target=load, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    probe.worst_ms()
    found: dict[str, list[float]] = {plain: [], "/health": []}
    with httpx.Client(base_url=f"http://{address}", timeout=120) as client:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for path, took in found.items():
                began = time.perf_counter()
                client.get(path)
                took.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.02)
    ending.set()
    print(f"beside {clients} clients of {expensive}: {len(counts)} answers, worst loop delay {probe.worst_ms():.0f} ms")
    for path, took in found.items():
        p50, p99 = np.percentile(took, [50, 99])
        print(f"  {path:<50} p50 {p50:8.1f} ms   p99 {p99:8.1f} ms   {len(took)} requests", flush=True)
        record(f"{path} beside {expensive}, p99", float(p99), "ms", "less")
    for thread in threads:
        thread.join(60)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    symbols = [f"S{number:03d}" for number in range(options.symbols)]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        EmbeddedPostgres(Path(folder) / "store") as postgres,
        EmbeddedLog(Path(folder) / "market.log") as log,
    ):
        log.create_topics(schemas.TOPICS, 4)
        identity = log.identity()
        asyncio.run(fill(postgres.dsn, symbols, (identity.log_id, identity.generation)))
        with (
            served(log, postgres.dsn) as (address, probe),
            httpx.Client(base_url=f"http://{address}", timeout=120) as client,
        ):
            measure_routes(client, probe, routes(symbols[0]))
            measure_frames(address, probe)
            plain = f"/v1/intraday/{symbols[0]}?limit=100"
            for expensive in ("/v1/coverage?from=2025-04-01", f"/v1/ticks/{symbols[0]}?limit=50000"):
                measure_beside(address, probe, plain, expensive, 8, options.seconds)


if __name__ == "__main__":
    main()

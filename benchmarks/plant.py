"""The whole plant: ticks from a file to committed rows with all services, and ticks from a socket to WebSocket clients.

    python benchmarks/plant.py                          # both logs, 5 M ticks, 1,000 symbols
    python benchmarks/plant.py --ticks 20000000 --log embedded
    python benchmarks/plant.py --only latency --rates 100 1000 10000 --gather 0 default
    python benchmarks/plant.py --only latency --rates 1000 --log kafka --partitions 1
    python benchmarks/plant.py --only latency --rates 1000 --history

Two cores run the plant, its database, the feed, the clients and (with `--log kafka`) the broker. The plant is
`tickerplant up`: five services, forming bars, indicators, API. Ten WebSocket clients in a separate process subscribe to
ticks, bars and values of twenty symbols each. The feed is `tickerplant replay` of a Parquet file in a separate process.
Memory is the sum of the proportional set sizes of the plant's processes, without the database server.

Other work on the two cores reduces the measured rate. The CPU seconds of the plant, the database, the feed and the
clients are therefore measured too. `bound_ticks_per_s` is the rate of two cores that spend all time on these processes,
an upper bound.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.support.figures import report  # noqa: E402

CLIENTS = 10
SYMBOLS_OF_A_CLIENT = 20
WARM_S = {"embedded": 15.0, "kafka": 45.0}
"""Warm-up seconds. A broker's virtual machine compiles for most of a minute."""


def make_ticks(
    path: Path, count: int, symbols: int, *, minutes: float = 120, seed: int = 1, day: str = "2024-03-04"
) -> None:
    """Write `count` ticks of `symbols` symbols over `minutes` of one session, ascending in time."""
    random = np.random.default_rng(seed)
    begin = np.datetime64(f"{day}T15:00:00", "us").astype(np.int64)
    names = pa.array([f"SYM{number:04}" for number in range(symbols)])
    base = random.uniform(10, 500, symbols)
    schema = pa.schema(
        [
            ("time", pa.timestamp("us", tz="UTC")),
            ("symbol", pa.dictionary(pa.int32(), pa.utf8())),
            ("price", pa.float64()),
            ("size", pa.float64()),
        ]
    )
    block = 500_000
    step = minutes * 60_000_000 / count
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for first in range(0, count, block):
            rows = min(block, count - first)
            times = begin + ((first + np.arange(rows)) * step).astype(np.int64)
            codes = random.integers(0, symbols, rows).astype(np.int32)
            prices = np.round(base[codes] * (1 + random.normal(0, 0.001, rows)), 2)
            sizes = random.integers(1, 500, rows).astype(np.float64)
            columns = [
                pa.array(times).view(pa.timestamp("us", tz="UTC")),
                pa.DictionaryArray.from_arrays(pa.array(codes), names),
                pa.array(prices),
                pa.array(sizes),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def memory_of(pid: int) -> dict[str, float]:
    """Return the proportional set size in MiB of each process of the plant, without PostgreSQL's."""
    found: dict[str, float] = {}
    for one in [pid, *descendants(pid)]:
        with suppress(OSError):
            name = Path(f"/proc/{one}/comm").read_text().strip()
            if name.startswith("postgres"):
                continue
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    found[f"{name}[{one}]"] = int(line.split()[1]) / 1024
    return found


def cpu_of(pids: Iterable[int]) -> float:
    """Return the CPU seconds that the processes `pids` have used since their start."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Cpu:
    """CPU seconds by component since construction. The feed's seconds are counted when its process has ended."""

    def __init__(self, plant: int, clients: int) -> None:
        below = [p for p in descendants(plant) if Path(f"/proc/{p}/comm").read_text().startswith("postgres")]
        self._pids = {"plant": [plant], "clients": [clients]}
        self._postgres = {postgres for postgres in below}
        self._root = plant
        self._first = self._now()
        self._feed = self._children()

    def _now(self) -> dict[str, float]:
        self._postgres.update(p for p in descendants(self._root))
        return {**{name: cpu_of(pids) for name, pids in self._pids.items()}, "postgres": cpu_of(self._postgres)}

    @staticmethod
    def _children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def used(self) -> dict[str, float]:
        """Return the CPU seconds of each component since construction."""
        now = self._now()
        parts = {name: round(now[name] - self._first[name], 1) for name in now}
        return {**parts, "feed": round(self._children() - self._feed, 1)}


class Memory(threading.Thread):
    """Samples the plant's memory once a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.samples: list[float] = []
        self.processes: dict[str, float] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(1.0):
            now = memory_of(self.pid)
            if now:
                self.samples.append(sum(now.values()))
                self.processes = now


def _watch(url: str, number: int, seconds_left: Any, results: Any) -> None:
    """Run all clients in this process; put the received rows and the ages of ticks (ms) into the queue."""
    import websockets

    async def client(which: int, counts: dict[str, int], ages_ms: list[float]) -> None:
        symbols = [f"SYM{(which * SYMBOLS_OF_A_CLIENT + n):04}" for n in range(SYMBOLS_OF_A_CLIENT)]
        async with websockets.connect(url, max_size=None, compression=None) as socket_:
            await socket_.send(json.dumps({"action": "subscribe", "symbols": symbols}))
            async for text in socket_:
                now_us = time.time_ns() // 1000
                message = json.loads(text)
                kind = message.get("type", "?")
                rows = message.get("rows", ())
                counts[kind] = counts.get(kind, 0) + len(rows)
                if kind == "ticks" and rows and seconds_left.value:
                    at = message["columns"].index("received_us") if "received_us" in message["columns"] else None
                    if at is not None:
                        ages_ms.extend((now_us - row[at]) / 1000 for row in rows)

    async def all_clients() -> None:
        counts: dict[str, int] = {}
        ages: list[float] = []
        tasks = [asyncio.create_task(client(which, counts, ages)) for which in range(number)]
        while not results["stop"].is_set():  # noqa: ASYNC110 - another process sets it
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [repr(o) for o in outcomes if isinstance(o, Exception)]
        results["queue"].put({"counts": counts, "ages_ms": ages, "failed": failed})

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(all_clients())


@contextmanager
def clients(url: str, number: int = CLIENTS) -> Iterator[dict[str, Any]]:
    """Run the WebSocket clients in a separate process. The dict contains their results after the block."""
    context = multiprocessing.get_context("spawn")
    queue, stop, measuring = context.Queue(), context.Event(), context.Value("b", 0)
    process = context.Process(target=_watch, args=(url, number, measuring, {"queue": queue, "stop": stop}), daemon=True)
    process.start()
    seen: dict[str, Any] = {"measuring": measuring, "pid": process.pid}
    try:
        yield seen
    finally:
        stop.set()
        with suppress(Exception):
            seen.update(queue.get(timeout=60))
        process.join(10)


@contextmanager
def plant(
    folder: Path, env: dict[str, str], *arguments: str, port: int = 0
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run `tickerplant up` until the block ends; yield the process and the API's address.

    `port` 0 selects a free port.
    """
    port = port or free_port()
    command = [sys.executable, "-m", "tickerplant.app", "up", "--data", str(folder), "--port", str(port), *arguments]
    with open(folder.parent / "plant.log", "wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the plant did not start:\n{(folder.parent / 'plant.log').read_text()[-3000:]}")
            time.sleep(0.2)
        yield process, url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()


def environment(log: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TICKERPLANT_")}
    return {**kept, "TICKERPLANT_LOG": log, "TICKERPLANT_LOG_FORMAT": "json", "TICKERPLANT_LOG_LEVEL": "warning"}


def throughput(log: str, ticks: Path, folder: Path) -> dict[str, Any]:
    """Return ticks per second from feed to committed rows, with CPU and memory during the run."""
    env = {**environment(log), "TICKERPLANT_PARTITIONS": "4"}  # as `replay` creates without a plant
    with (
        plant(folder, env, "--no-sandbox") as (process, url),
        clients(url.replace("http", "ws") + "/v1/stream") as seen,
    ):
        time.sleep(5)
        memory, cpu = Memory(process.pid), Cpu(process.pid, seen["pid"])
        memory.start()
        command = [sys.executable, "-m", "tickerplant.app", "replay", str(ticks), "--data", str(folder), "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        summary = json.loads(done.stdout.splitlines()[-1])
        used, load = cpu.used(), os.getloadavg()[0]
        memory.stop.set()
    samples = memory.samples or [0.0]
    third = max(1, len(samples) // 3)
    return {
        "ticks": summary["read"],
        "seconds": summary["seconds"],
        "ticks_per_s": summary["read"] / summary["seconds"],
        "cpu_s": used,
        "cpu_us_per_tick": 1e6 * sum(used.values()) / summary["read"],
        "bound_ticks_per_s": 2 * summary["read"] / sum(used.values()),
        "load": load,
        "memory_max_mb": max(samples),
        "memory_first_third_mb": float(np.median(samples[:third])),
        "memory_last_third_mb": float(np.median(samples[-third:])),
        "processes": {name: round(size) for name, size in memory.processes.items()},
        "rows_to_clients": seen.get("counts"),
        "clients_failed": seen.get("failed"),
    }


@dataclass(frozen=True)
class Live:
    """A plant with live ticks: their rate, and settings that the measurement changes. None keeps the default.

    If `history` is true, the first start's backfill of all symbols (1.8 M bars) runs during the measurement.
    """

    rate: float
    seconds: float
    warm_s: float
    gather_ms: int | None = None
    partitions: int | None = None
    history: bool = False

    def title(self, log: str) -> str:
        """Return a title with all conditions that differ from the defaults."""
        gather = "" if self.gather_ms is None else f", gather_ms {self.gather_ms}"
        partitions = "" if self.partitions is None else f", {self.partitions} partitions"
        history = ", first backfill" if self.history else ""
        return f"{log}: tick to WebSocket, {self.rate:g}/s{gather}{partitions}{history}"

    def settings(self) -> dict[str, str]:
        """Return the settings as environment variables."""
        symbols = ",".join(f"SYM{number:04}" for number in range(1_000))
        values = {
            "SYMBOLS": symbols,
            "SANDBOX__RATE": str(self.rate),
            "GATHER_MS": None if self.gather_ms is None else str(self.gather_ms),
            "PARTITIONS": None if self.partitions is None else str(self.partitions),
            "HISTORY": None if self.history else "none",
        }
        return {f"TICKERPLANT_{name}": value for name, value in values.items() if value is not None}


def fetched_bars(log: str, folder: Path) -> int:
    """Return the number of bars that the backfill has written so far."""
    from tickerplant.log.open import open_log
    from tickerplant.market_data.backfill.progress import read_progress

    opened = open_log(log, data=folder)
    try:
        progress = read_progress(opened)
    finally:
        opened.close()
    return progress.bars if progress is not None else 0


def latency(log: str, live: Live, folder: Path) -> dict[str, Any]:
    """Return the age of ticks at ten clients, counted from the time at which the plant received them from the vendor.

    The plant starts the sandbox. The first `warm_s` seconds are not counted.
    """
    env, seconds = {**environment(log), **live.settings()}, live.seconds
    with (
        plant(folder, env, "--sandbox") as (process, url),
        clients(url.replace("http", "ws") + "/v1/stream") as seen,
    ):
        time.sleep(live.warm_s)
        cpu, began = Cpu(process.pid, seen["pid"]), time.monotonic()
        bars = fetched_bars(log, folder) if live.history else 0
        seen["measuring"].value = 1
        time.sleep(seconds)
        seen["measuring"].value = 0
        processes, used, load = memory_of(process.pid), cpu.used(), os.getloadavg()[0]
        bars = fetched_bars(log, folder) - bars if live.history else 0
        seconds = time.monotonic() - began
    ages = np.array(seen.get("ages_ms") or [np.nan])
    fetched = {"bars": bars, "history_bars_per_s": bars / seconds} if live.history else {}
    return {
        "rate": live.rate,
        "rows": len(ages),
        "rows_expected": int(live.rate * seconds * CLIENTS * SYMBOLS_OF_A_CLIENT / 1_000),
        **fetched,
        "p50_ms": float(np.percentile(ages, 50)),
        "p90_ms": float(np.percentile(ages, 90)),
        "p99_ms": float(np.percentile(ages, 99)),
        "max_ms": float(ages.max()),
        "cpu_s_per_s": {name: round(value / seconds, 2) for name, value in used.items()},
        "load": load,
        "processes": {name: round(size) for name, size in processes.items()},
        "clients_failed": seen.get("failed"),
    }


@contextmanager
def log_url(which: str, folder: Path) -> Iterator[str]:
    """Yield the address of a new log, and run its broker if it needs one."""
    if which == "embedded":
        yield "embedded:"
        return
    from tools.kafka.broker import KafkaBroker

    broker = KafkaBroker(folder / "kafka")
    broker.start()
    try:
        yield f"kafka://{broker.bootstrap}"
    finally:
        broker.stop()


def main() -> None:
    """Run the requested measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=5_000_000)
    parser.add_argument("--symbols", type=int, default=1_000)
    parser.add_argument(
        "--minutes", type=float, help="minutes of the session that contain the ticks; default: from --density"
    )
    parser.add_argument(
        "--density", type=float, default=167, help="ticks per symbol and minute; a busy stock has some hundreds"
    )
    parser.add_argument("--log", choices=("embedded", "kafka", "both"), default="both")
    parser.add_argument("--only", choices=("throughput", "latency"))
    parser.add_argument("--rates", "--rate", type=float, nargs="+", default=[10_000], help="ticks a second")
    parser.add_argument(
        "--gather", nargs="+", default=["default"], help="values of gather_ms, one measurement each; 0: no gathering"
    )
    parser.add_argument("--partitions", type=int, help="partitions of each topic instead of the default")
    parser.add_argument("--seconds", type=float, default=30, help="seconds of each measurement of latency")
    parser.add_argument("--warm", type=float, help="seconds before latency is measured")
    parser.add_argument("--history", action="store_true", help="measure latency during the first start's backfill")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the stack, which stops the plant
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    for which in ("embedded", "kafka") if asked.log == "both" else (asked.log,):
        if asked.only != "latency":
            with tempfile.TemporaryDirectory() as name, log_url(which, Path(name)) as url:
                ticks = Path(name) / "ticks.parquet"
                minutes = asked.minutes or asked.ticks / asked.symbols / asked.density
                make_ticks(ticks, asked.ticks, asked.symbols, minutes=minutes)
                report(f"{which}: feed to committed rows", throughput(url, ticks, Path(name) / "data"))
        if asked.only != "throughput":
            warm_s = WARM_S[which] if asked.warm is None else asked.warm
            for rate, gather in itertools.product(asked.rates, asked.gather):
                gather_ms = None if gather == "default" else int(gather)
                live = Live(rate, asked.seconds, warm_s, gather_ms, asked.partitions, asked.history)
                with tempfile.TemporaryDirectory() as name, log_url(which, Path(name)) as url:
                    report(live.title(which), latency(url, live, Path(name) / "data"))


if __name__ == "__main__":
    main()

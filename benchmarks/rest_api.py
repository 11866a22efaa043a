"""REST of the demo with its history, compared with a plain FastAPI application with asyncpg on the same tables.

    python -m benchmarks.rest_api
    python -m benchmarks.rest_api --requests 50 --seconds 5

The plant is `tickerplant up` with its sandbox, as `make run` starts it, after the first backfill. One connection sends
each request several times, to both servers in turn. `p50_ms` is the median. 64 connections then send requests for 100
bars to one server after the other. The plain server is one process of uvicorn. It answers only bars, without pages,
limits and errors. `typed` is the same server with declared types of its answers, which FastAPI encodes faster. The
client reads bodies and does not decode them.

The plant sends an answer again for up to a second. The figures `uncached` are of requests that all differ, so that each
answer is read from the database.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plant import cpu_of, environment, free_port, plant  # noqa: E402
from benchmarks.support.figures import record, report  # noqa: E402

SYMBOL = "AAPL"
BARS = f"/v1/intraday/{SYMBOL}?interval=1m&limit=100"
PATHS = {
    "2,600 daily bars": f"/v1/historical/{SYMBOL}?interval=1d&limit=2600",
    "100 bars": BARS,
    "newest state": f"/v1/realtime/{SYMBOL}",
    "1,000 1h bars": f"/v1/intraday/{SYMBOL}?interval=1h&limit=1000",
    "RSI of 100 days": f"/v1/indicators/RSI/{SYMBOL}?interval=1d&limit=100",
    "health": "/health",
}
PREFIXES = {"plant": "", "plain": "", "typed": "/typed"}
BY_PLAIN = ("2,600 daily bars", "100 bars")
HISTORY_S = 600.0
CONNECTIONS = 64


def wait_for_history(folder: Path) -> None:
    """Wait until the first backfill is complete. Raises SystemExit after `HISTORY_S`."""
    from tickerplant.log.open import open_log
    from tickerplant.market_data.backfill.progress import read_progress

    deadline = time.monotonic() + HISTORY_S
    log = open_log("embedded:", data=folder)
    try:
        while (found := read_progress(log)) is None or found.working or found.missing > found.later:
            if time.monotonic() > deadline:
                raise SystemExit(f"the first backfill is not complete after {HISTORY_S:g} s: {found}")
            time.sleep(0.5)
    finally:
        log.close()


@contextmanager
def plain(dsn: str) -> Iterator[tuple[int, int]]:
    """Run the plain application; yield its port and process id."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.peers.plain_api:app", "--port", str(port)]
    env = {**os.environ, "BENCH_DSN": dsn}
    process = subprocess.Popen([*command, "--log-level", "warning", "--no-access-log"], env=env, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError):
                one_request(http.client.HTTPConnection("127.0.0.1", port, timeout=5), BARS)
                break
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def one_request(connection: http.client.HTTPConnection, path: str) -> tuple[float, bytes]:
    """Return the milliseconds and the body of an answer. Raises SystemExit for a status other than 200."""
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    took_ms = 1e3 * (time.perf_counter() - began)
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {body[:300]!r}")
    return took_ms, body


def rows_of(body: bytes) -> int:
    """Return the number of rows in an answer of bars or values."""
    found = json.loads(body)
    lists = [found] if isinstance(found, list) else [value for value in found.values() if isinstance(value, list)]
    return max((len(each) for each in lists), default=0)


def alone(ports: dict[str, int], asked: argparse.Namespace) -> None:
    """Measure each path with one connection, on both servers in turn."""
    connections = {name: http.client.HTTPConnection("127.0.0.1", port, timeout=60) for name, port in ports.items()}
    for title, path in PATHS.items():
        servers = [name for name in connections if name == "plant" or title in BY_PLAIN]
        took: dict[str, list[float]] = {name: [] for name in servers}
        rows = {name: rows_of(one_request(connections[name], PREFIXES[name] + path)[1]) for name in servers}
        uncached: list[float] = []
        for number in range(asked.requests):
            for name in servers:
                took[name].append(one_request(connections[name], PREFIXES[name] + path)[0])
            uncached.append(one_request(connections["plant"], differing(path, number))[0])
        medians = {name: statistics.median(values) for name, values in took.items()}
        for name, p50 in medians.items():
            report(f"{title}, {name}", {"rows": rows[name], "p50_ms": p50})
        report(f"{title}, uncached, plant", {"p50_ms": statistics.median(uncached)})
        for name in servers[1:]:
            for what, p50 in ((title, medians["plant"]), (f"{title}, uncached", statistics.median(uncached))):
                ratio = medians[name] / p50
                print(f"  {what}: {name} / plant    {ratio:.2f}")
                record(f"{what}: {name} / plant", ratio, "×")


def differing(path: str, number: int) -> str:
    """Return a different path with the same answer. A server without a key ignores `apikey`."""
    return f"{path}{'&' if '?' in path else '?'}apikey={number}"


async def _ask_until(port: int, paths: Iterator[str], until_s: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    try:
        while time.perf_counter() < until_s:
            writer.write(f"GET {next(paths)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
            if not head.startswith(b"http/1.1 200"):
                raise SystemExit(head.decode())
            count += 1
    finally:
        writer.close()
    return count


async def many(port: int, paths: Iterator[str], seconds: float) -> float:
    """Return the answers per second of `CONNECTIONS` connections."""
    began = time.perf_counter()
    counts = await asyncio.gather(*(_ask_until(port, paths, began + seconds) for _ in range(CONNECTIONS)))
    return sum(counts) / (time.perf_counter() - began)


def together(ports: dict[str, int], pids: dict[str, int], asked: argparse.Namespace) -> None:
    """Measure 64 connections, on one server after the other."""
    rates = {}
    for name, port in [*ports.items(), ("plant, uncached", ports["plant"])]:
        server, _, uncached = name.partition(", ")
        path = PREFIXES[server] + BARS
        used = cpu_of([pids[server]])
        paths = (differing(path, number) for number in itertools.count()) if uncached else itertools.repeat(path)
        rates[name] = asyncio.run(many(port, paths, asked.seconds))
        used = cpu_of([pids[server]]) - used
        values = {"requests_per_s": rates[name], "requests_per_cpu_s": rates[name] * asked.seconds / max(used, 0.01)}
        report(f"64 connections, 100 bars, {name}", {**values, "load": os.getloadavg()[0]})
    for name in list(ports)[1:]:
        for plant_name in ("plant", "plant, uncached"):
            ratio = rates[plant_name] / rates[name]
            print(f"  {plant_name} / {name}                  {ratio:.2f}")
            record(f"64 connections, 100 bars: {plant_name} / {name}", ratio, "×")


def main() -> None:
    """Measure both servers."""
    from tickerplant.app.config.settings import load
    from tickerplant.app.wiring.database import database

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="requests of each path")
    parser.add_argument("--seconds", type=float, default=15, help="seconds of 64 connections")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the stack, which stops the servers
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "data"
        with plant(folder, environment("embedded:"), "--sandbox") as (process, url):
            wait_for_history(folder)
            with database(load({"data": folder}).settings) as dsn, plain(dsn) as (port, pid):
                ports = {"plant": int(url.rpartition(":")[2]), "plain": port, "typed": port}
                alone(ports, asked)
                together(ports, {"plant": process.pid, "plain": pid, "typed": pid}, asked)


if __name__ == "__main__":
    main()

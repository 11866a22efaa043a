"""The stream with many clients: CPU time of each additional message, and memory of each additional client.

    python -m benchmarks.fanout                        # 400 clients of all symbols: 12 symbols, 50 ticks a second
    python -m benchmarks.fanout --clients 400 900 --rate 50
    python -m benchmarks.fanout --clients 5000 --processes 2

The plant is `tickerplant up` with its sandbox. One client is measured first, then each number of clients, on the same
plant. `messages_per_cpu_s` divides the additional messages by the additional CPU time of the plant. The clients run in
separate processes, count frames without decoding them, and answer pings. They come from several loopback addresses,
because the plant limits the clients of one address. `refused` are clients that the plant did not admit. `waiting` are
clients without a first message; a count above 0 means that the machine is too busy for the measurement.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import multiprocessing
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.plant import cpu_of, descendants, environment, memory_of, plant  # noqa: E402
from benchmarks.support.figures import report  # noqa: E402

ADDRESSES = 16
"""Number of loopback addresses of the clients."""
CONNECT_S = 120.0
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
SUBSCRIBE = json.dumps({"action": "subscribe", "symbols": ["*"]}).encode()


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame of at most 125 bytes. The mask is zero, so the payload is unchanged."""
    assert len(payload) < 126
    return struct.pack("!BB4x", 0x80 | opcode, 0x80 | len(payload)) + payload


@dataclass
class Totals:
    """Counts of a process's clients: text frames, clients with a first frame, and clients without a connection."""

    messages: int = 0
    live: int = 0
    ended: int = 0


class Counter(asyncio.Protocol):
    """One WebSocket client that subscribes to all symbols and counts text frames."""

    def __init__(self, totals: Totals) -> None:
        self._totals, self._received = totals, b""
        self._open = self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        host, port = transport.get_extra_info("peername")
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET /v1/stream HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        at = 0
        if not self._open:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                self._received = received
                return
            if not received.startswith(b"HTTP/1.1 101"):
                self._transport.close()
                return
            self._open, at = True, end + 4
            self._transport.write(frame(TEXT, SUBSCRIBE))
        self._received = self._count(received, at)

    def _count(self, received: bytes, at: int) -> bytes:
        """Count the complete frames from `at` on; return the bytes of the incomplete frame."""
        end = len(received)
        while end - at >= 2:
            opcode, size, head = received[at] & 15, received[at + 1] & 127, 2
            if size == 126:
                head = 4
                size = int.from_bytes(received[at + 2 : at + 4]) if end - at >= 4 else end
            elif size == 127:
                head = 10
                size = int.from_bytes(received[at + 2 : at + 10]) if end - at >= 10 else end
            if at + head + size > end:
                break
            if opcode == TEXT:
                self._totals.messages += 1
                if not self._counted:
                    self._counted = True
                    self._totals.live += 1
            elif opcode == PING:
                self._transport.write(frame(PONG, received[at + head : at + head + size]))
            elif opcode == CLOSE:
                self._transport.close()
            at += head + size
        return received[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self._totals.live -= self._counted
        self._totals.ended += 1


def follow(port: int, number: int, first: int, shared: Any, stop: Any) -> None:
    """Run `number` clients in this process; keep their counts in `shared` (messages, live, ended) until `stop`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def all_clients() -> None:
        loop, totals = asyncio.get_running_loop(), Totals()

        async def connect(which: int) -> None:
            source = (f"127.0.0.{2 + (first + which) % ADDRESSES}", 0)
            try:
                await loop.create_connection(lambda: Counter(totals), "127.0.0.1", port, local_addr=source)
            except OSError:
                totals.ended += 1

        for begin in range(0, number, 50):
            await asyncio.gather(*(connect(which) for which in range(begin, min(begin + 50, number))))
            shared[:] = [totals.messages, totals.live, totals.ended]
        while not stop.is_set():
            shared[:] = [totals.messages, totals.live, totals.ended]
            await asyncio.sleep(0.05)

    asyncio.run(all_clients())


@contextmanager
def crowd(port: int, number: int, processes: int) -> Iterator[list[Any]]:
    """Run the clients in several processes; yield the counts of each process."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    shares = [number // processes + (part < number % processes) for part in range(processes)]
    counts = [context.Array("q", 3) for _ in shares]
    started = [
        context.Process(target=follow, args=(port, share, sum(shares[:part]), counts[part], stop), daemon=True)
        for part, share in enumerate(shares)
        if share
    ]
    for process in started:
        process.start()
    try:
        yield counts
    finally:
        stop.set()
        for process in started:
            process.join(20)


def totals_of(counts: list[Any]) -> tuple[int, int, int]:
    """Return messages, live clients, and ended or refused clients of all processes."""
    messages, live, ended = (sum(part[index] for part in counts) for index in range(3))
    return messages, live, ended


def services(pid: int) -> list[int]:
    """Return the processes of the plant without those of PostgreSQL."""
    names = {one: Path(f"/proc/{one}/comm") for one in [pid, *descendants(pid)]}
    return [one for one, path in names.items() if path.exists() and not path.read_text().startswith("postgres")]


def measure(pid: int, port: int, number: int, asked: argparse.Namespace) -> dict[str, float]:
    """Return the rates of a number of clients over the measured seconds, after all are connected or refused."""
    with crowd(port, number, min(asked.processes, number)) as counts:
        deadline = time.monotonic() + CONNECT_S
        while sum(totals_of(counts)[1:]) < number and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(asked.warm)
        used, began, messages = cpu_of(services(pid)), time.monotonic(), totals_of(counts)[0]
        time.sleep(asked.seconds)
        seconds = time.monotonic() - began
        now, live, ended = totals_of(counts)
        used = cpu_of(services(pid)) - used
        memory = sum(memory_of(pid).values())
    return {
        "clients": live,
        "refused": ended,
        "waiting": number - live - ended,
        "messages_per_s": (now - messages) / seconds,
        "cpu_s_per_s": used / seconds,
        "memory_mb": memory,
    }


def main() -> None:
    """Measure one client, then each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[400])
    parser.add_argument("--symbols", type=int, default=12)
    parser.add_argument("--rate", type=float, default=50, help="ticks a second of all symbols")
    parser.add_argument("--warm", type=float, default=10, help="seconds between the connections and the measurement")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--processes", type=int, default=1, help="processes of clients")
    parser.add_argument("--gather", type=int, help="gather_ms of the plant instead of the default")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the stack, which stops the plant
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    env = {
        **environment("embedded:"),
        "TICKERPLANT_SYMBOLS": ",".join(f"SYM{number:04}" for number in range(asked.symbols)),
        "TICKERPLANT_SANDBOX__RATE": str(asked.rate),
        "TICKERPLANT_HISTORY": "none",
        "TICKERPLANT_API__MAX_CONNECTIONS": str(2 * max(asked.clients) + 200),
    }
    if asked.gather is not None:
        env["TICKERPLANT_GATHER_MS"] = str(asked.gather)
    with tempfile.TemporaryDirectory() as name, plant(Path(name) / "data", env, "--sandbox") as (process, url):
        port = int(url.rpartition(":")[2])
        one = measure(process.pid, port, 1, asked)
        report("1 client", one)
        for number in asked.clients:
            many = measure(process.pid, port, number, asked)
            cores = many["cpu_s_per_s"] - one["cpu_s_per_s"]
            messages = many["messages_per_s"] - one["messages_per_s"]
            clients = max(many["clients"] - one["clients"], 1)
            more = {
                "cpu_s_per_s_more": cores,
                "messages_per_cpu_s": messages / cores if min(messages, cores) > 0 else math.nan,
                "memory_mb_per_1000_clients": 1000 * (many["memory_mb"] - one["memory_mb"]) / clients,
                "load": os.getloadavg()[0],
            }
            report(f"{number} clients", {**many, **more})


if __name__ == "__main__":
    main()

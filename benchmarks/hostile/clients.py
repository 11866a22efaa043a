"""Hostile clients of a plant, and the process that runs them and the hostile vendor with the lowest priority.

The constants below bound each attack. The attackers use the addresses `SOURCES`, so that the plant can tell them from
the probe, which uses 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import random
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.hostile import fuzzed
from benchmarks.hostile.vendor import HostileVendor

SOURCES: Final = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
REST_PER_S: Final = 40.0
"""Fuzzed requests per second."""
PLAIN_FLOOD: Final = 20
PLAIN_PER_S: Final = 100.0
"""Clients that repeat cheap requests, and the maximum requests per second of all."""
EXPENSIVE: Final = 120
"""Clients that repeat expensive requests, one after the other: more than the plant queues."""
FRAMES: Final = 8
"""Connections that send fuzzed frames."""
STORMS: Final = 8
"""Stream clients that change large subscriptions, and resume from the beginning of the log."""
IDLE: Final = 1_900
"""Idle and half-open sockets. They are opened again when the plant closes them."""
OPENED_PER_S: Final = 200.0
ENDLESS: Final = 40
"""Requests that never end: one byte a second of a head or of a body."""
UNREAD: Final = 30
"""Clients that never read their answer of up to 50,000 rows."""
SLOW: Final = 20
"""Stream clients that read nothing, or 1 kB a second."""
FLOODED_BYTES_PER_S: Final = 500_000
"""Bytes of pings, empty fragments and tiny chunks, per second and kind."""
WAIT_S: Final = 90.0
"""Maximum seconds for an answer."""

EXPENSIVE_PATHS: Final = (
    "/v1/coverage?from=2015-01-01", "/v1/coverage?interval=1m&from=2023-01-01", "/v1/coverage/AAPL?from=1990-01-01",
    "/v1/intraday/AAPL?limit=50000", "/v1/ticks/MSFT?limit=50000", "/v1/historical/AAPL?interval=1w&limit=50000",
    "/v1/intraday/BTC/USD?interval=1h&limit=50000&format=csv", "/v1/indicators/RSI/AAPL?interval=1m&limit=50000",
    "/v1/indicators/BBANDS/AAPL?interval=1m&limit=50000", "/v1/analytics/AAPL?interval=1m&limit=50000",
)  # fmt: skip
CHEAP_PATHS: Final = ("/health", "/metrics", "/v1/status", "/none", "/v1/intraday/AAPL", "/openapi.json", "/")


@dataclass
class Target:
    """The plant under attack, and the counts of its answers."""

    port: int
    answers: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    """Count of answers by attack, status and error code. Status 0 is a connection that ended without an answer."""
    dishonest: list[str] = field(default_factory=list)
    """The first 20 answers 5xx that are not a 503 with `Retry-After` or with the field `wrong` of `/health`."""
    sources: itertools.cycle[str] = field(default_factory=lambda: itertools.cycle(SOURCES))

    async def open(self, *, receive_bytes: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection; a small `receive_bytes` keeps answers in the plant's memory."""
        made = socket.socket()
        made.setblocking(False)
        try:
            if receive_bytes is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            made.bind((next(self.sources), 0))
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
            return await asyncio.open_connection(sock=made, limit=1 << 16)
        except BaseException:
            made.close()
            raise

    def note(self, attack: str, request: bytes, head: bytes, body: bytes) -> int:
        """Count an answer; return its status."""
        status = int(head[9:12]) if head[9:12].isdigit() else 0
        code = ""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            code = str(json.loads(body)["error"]["code"])
        if status >= 500:
            names = b"retry-after:" in head.lower() or b'"wrong"' in body
            if (status != 503 or not names) and len(self.dishonest) < 20:
                self.dishonest.append(f"{attack}: {request[:200]!r} got {head[:80]!r} {body[:300]!r}")
        self.answers[attack, status, code] += 1
        return status

    async def ask(self, attack: str, request: bytes) -> int:
        """Send a request on a connection of its own, and read the answer; return its status, 0 without an answer."""
        head = body = b""
        writer = None
        try:
            async with asyncio.timeout(WAIT_S):
                reader, writer = await self.open()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                size = 0
                while data := await reader.read(1 << 16):
                    size += len(data)
                    body = (body + data)[:4_096]
                    if _is_over(head, size, data):
                        break
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            if writer is not None:
                writer.close()
        return self.note(attack, request, head, body)

    async def handshake(self, *, receive_bytes: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection of the stream."""
        reader, writer = await self.open(receive_bytes=receive_bytes)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        return reader, writer


def _is_over(head: bytes, size: int, last: bytes) -> bool:
    """Return True if `size` bytes are the whole body."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return size >= int(line.partition(b":")[2])
    return last.endswith(b"0\r\n\r\n")


def get(path: str, port: int, *headers: str) -> bytes:
    """Return a plain request whose connection ends with the answer."""
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


async def rest(target: Target, seed: int) -> None:
    """Send fuzzed requests."""
    made, running = fuzzed.Requests(seed, target.port), set()
    while True:
        if len(running) < 200:
            task = asyncio.create_task(target.ask("fuzzed REST", made.request()))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(1 / REST_PER_S)


async def plain(target: Target, seed: int) -> None:
    """Repeat cheap requests."""
    for path in itertools.cycle(CHEAP_PATHS[seed % 7 :] + CHEAP_PATHS[: seed % 7]):
        await target.ask("cheap requests", get(path, target.port))
        await asyncio.sleep(PLAIN_FLOOD / PLAIN_PER_S)


async def expensive(target: Target, seed: int) -> None:
    """Repeat expensive requests."""
    first = seed % len(EXPENSIVE_PATHS)
    for path in itertools.cycle(EXPENSIVE_PATHS[first:] + EXPENSIVE_PATHS[:first]):
        if await target.ask("expensive requests", get(path, target.port)) in (0, 429, 503):
            await asyncio.sleep(1)


async def frames(target: Target, seed: int) -> None:
    """Send fuzzed frames on one connection after the other."""
    made = fuzzed.Frames(seed)
    while True:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(30):
                reader, writer = await target.handshake()
                try:
                    reading = asyncio.create_task(_discard(reader))
                    for _ in range(20):
                        writer.write(made.frame())
                        await writer.drain()
                        await asyncio.sleep(0.1)
                    reading.cancel()
                finally:
                    writer.close()
            target.answers["fuzzed frames", 101, ""] += 1
        await asyncio.sleep(0.2)


async def _discard(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


async def storm(target: Target, seed: int) -> None:
    """Change large subscriptions, and resume from the beginning of the log."""
    chosen, channels = random.Random(seed), ["ticks", "bars", "analytics", "alerts", "bars.1m", "analytics.5m"]
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            reader, writer = await target.handshake()
            first = await reader.read(1 << 16)
            welcome, _ = json.JSONDecoder().raw_decode(first[first.index(b"{") :].decode(errors="replace"))
            reading = asyncio.create_task(_discard(reader))
            for _ in range(30):
                names = chosen.choice([["*"], [f"S{chosen.random()}" for _ in range(1_000)], ["AAPL", "MSFT"]])
                command: dict[str, Any] = {"action": "subscribe", "symbols": names, "channels": channels}
                if chosen.random() < 0.5:
                    command["since"] = _beginning(welcome["position"])
                writer.write(fuzzed.masked(json.dumps(command).encode()))
                writer.write(fuzzed.masked(b'{"action":"unsubscribe"}'))
                writer.write(fuzzed.masked(b'{"action":"ping"}') * 50)
                await writer.drain()
                await asyncio.sleep(0.5)
            reading.cancel()
            writer.transport.abort()
            target.answers["subscription storms", 101, ""] += 1
        await asyncio.sleep(1)


def _beginning(position: dict[str, Any]) -> dict[str, Any]:
    """Return the position near the beginning of the log."""
    offsets = {topic: dict.fromkeys(partitions, 10) for topic, partitions in position["offsets"].items()}
    return {**position, "offsets": offsets}


async def idle(target: Target, seed: int) -> None:
    """Keep a share of the idle and half-open sockets open."""
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    beginnings = (b"", b"GET /health HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Endless: ", b"\x16\x03\x01")
    share = IDLE // 4
    try:
        while True:
            opened = [pair for pair in opened if not (pair[0].at_eof() or pair[1].is_closing())]
            if len(opened) < share:
                with contextlib.suppress(OSError):
                    pair = await target.open()
                    pair[1].write(beginnings[seed % 4])
                    opened.append(pair)
                    target.answers["idle sockets", 0, ""] += 1
            await asyncio.sleep(4 / OPENED_PER_S)
    finally:
        for _, writer in opened:
            writer.transport.abort()


async def endless(target: Target, seed: int) -> None:
    """Send a request that never ends, one byte a second."""
    beginnings = (
        b"GET /v1/intraday/AAPL?x=",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: ",
        b"POST /v1/alerts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 9000\r\n\r\n",
    )
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await target.open()
            writer.write(beginnings[seed % 3])
            while not (reader.at_eof() or writer.is_closing()):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(1)
            writer.transport.abort()
            target.answers["endless requests", 0, ""] += 1
        await asyncio.sleep(0.5)


async def unread(target: Target, seed: int) -> None:
    """Request a large answer, and never read it."""
    paths = ("/v1/ticks/AAPL?limit=50000", "/v1/intraday/MSFT?limit=5000", "/v1/historical/AAPL?limit=3000", "/health")
    while True:
        with contextlib.suppress(OSError):
            _, writer = await target.open(receive_bytes=4_096)
            writer.transport.pause_reading()
            writer.write(get(paths[seed % 4], target.port).replace(b"close", b"keep-alive") * (1 + seed % 5 * 20))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await writer.drain()
                    await asyncio.sleep(60)
            writer.transport.abort()
            target.answers["unread answers", 0, ""] += 1


async def slow(target: Target, seed: int) -> None:
    """Subscribe to everything, and read nothing or 1 kB a second."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await target.handshake(receive_bytes=4_096)
            writer.write(
                fuzzed.masked(b'{"action":"subscribe","symbols":["*"],"channels":["ticks","bars","analytics"]}')
            )
            writer.transport.pause_reading()
            end = time.monotonic() + 60
            while time.monotonic() < end and not writer.is_closing():
                await asyncio.sleep(1)
                if seed % 2:
                    writer.transport.resume_reading()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1_024), 1)
                    writer.transport.pause_reading()
                elif seed % 4 == 0:
                    writer.write(fuzzed.masked(b"x" * 100, 9) * 100)  # each is answered, and no answer is read
            writer.transport.abort()
            target.answers["slow readers", 101, ""] += 1
        await asyncio.sleep(1)


async def flood(target: Target, seed: int) -> None:
    """Send tiny frames or chunks, at `FLOODED_BYTES_PER_S`."""
    chunks = b"1\r\nx\r\n" * 2_000
    empty = struct.pack("!BBI", 0x00, 0x80, 0) * 2_000
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if seed == 0:
                reader, writer = await target.open()
                writer.write(
                    f"POST /v1/alerts HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nTransfer-Encoding: chunked\r\n"
                    "Content-Type: application/json\r\n\r\n".encode()
                )
                data = chunks
            else:
                reader, writer = await target.handshake()
                writer.write(struct.pack("!BBIB", 0x01, 0x81, 0, 0x78) if seed == 1 else b"")
                data = empty if seed == 1 else fuzzed.masked(b"", 9) * 2_000
            reading = asyncio.create_task(_discard(reader))
            end = time.monotonic() + 20
            while time.monotonic() < end and not reading.done():
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(len(data) / FLOODED_BYTES_PER_S)
            reading.cancel()
            writer.transport.abort()
            target.answers["floods of frames and chunks", 0, ""] += 1
        await asyncio.sleep(0.5)


ATTACKS: Final[tuple[tuple[Callable[[Target, int], Awaitable[None]], int], ...]] = (
    (rest, 1), (plain, PLAIN_FLOOD), (expensive, EXPENSIVE), (frames, FRAMES), (storm, STORMS), (idle, 4),
    (endless, ENDLESS), (unread, UNREAD), (slow, SLOW), (flood, 3),
)  # fmt: skip
"""Each attack, and its number of concurrent runs."""


def run(settings: dict[str, Any], shared: dict[str, Any]) -> None:
    """Run all attacks in this process until `shared["stop"]` is set.

    Puts the addresses of the vendor into `shared["queue"]`, waits for `shared["begin"]`, and at last puts the counts.
    """
    os.nice(19)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_attack(settings, shared))


async def _attack(settings: dict[str, Any], shared: dict[str, Any]) -> None:
    vendor, target = HostileVendor(settings["seed"]), Target(settings["port"])
    shared["queue"].put(await vendor.serve())
    failures: Counter[str] = Counter()

    async def again(attack: Callable[[Target, int], Awaitable[None]], seed: int) -> None:
        while True:
            try:
                await attack(target, seed)
            except Exception as error:
                failures[f"{attack.__name__}: {error!r}"] += 1
                await asyncio.sleep(1)

    while not shared["begin"].is_set():  # noqa: ASYNC110 - another process sets it
        await asyncio.sleep(0.1)
    wanted = settings.get("only") or [attack.__name__ for attack, _ in ATTACKS]
    tasks = [
        asyncio.create_task(again(attack, seed))
        for attack, times in ATTACKS
        if attack.__name__ in wanted
        for seed in range(times)
    ]
    while not shared["stop"].is_set():  # noqa: ASYNC110 - another process sets it
        await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=10)
    found = {
        "answers": [[*key, count] for key, count in target.answers.items()],
        "dishonest": target.dishonest,
        "vendor": dict(vendor.counts),
        "failures": dict(failures),
    }
    shared["queue"].put(found)

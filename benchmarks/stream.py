"""One socket with Twelve Data's protocol and 5,000 symbols: the client's load on one core, and its limit.

    python -m benchmarks.stream                      # parse alone, the socket at full speed, then 20,000 messages/s
    python -m benchmarks.stream --only steady --rate 20000 --seconds 180

The vendor is a separate process on the second core; the client runs on the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from benchmarks.support.figures import record
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tickerplant.core import schemas
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendars
from tickerplant.core.times import SECOND_US
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.market_data.clients.twelvedata.quotes import read_messages
from tickerplant.market_data.clients.twelvedata.session import StreamConfig
from tickerplant.market_data.clients.twelvedata.stream import TwelveDataStream
from tickerplant.market_data.service import FeedCounters, MarketData, MarketDataConfig
from tickerplant.market_data.vendors.port import Connected, StreamEvent, Ticks
from tickerplant.protocols.twelvedata.stream import TwelveDataFrames
from tickerplant.sandbox.corporate_actions import TradedMarket
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket, symbol_names

CALENDARS = Calendars(Rules(calendars={"*": "24/7"}))
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def pin(core: int, pid: int = 0) -> None:
    if len(CORES) > 1:
        os.sched_setaffinity(pid, {CORES[core]})


def frames(messages: int, symbols: int) -> list[bytes]:
    """Return frames of the newest `messages` trades. No symbol's day volume decreases."""
    rate = 20_000.0
    market = SimulatedMarket(MarketSettings(symbol_names(symbols), rate))
    now_us = time.time_ns() // 1_000
    trades = market.trades(now_us - int(2 * messages / rate * SECOND_US), now_us)  # the rate is the mean of the day
    found = TwelveDataFrames(TradedMarket(market).instruments).encode(trades)[-messages:]
    assert len(found) == messages
    return found


def payload(frame: bytes) -> bytes:
    return frame[2 if frame[1] < 126 else 4 :]


# The vendor at full speed ----------------------------------------------------------------------------------------


async def blast(messages: int, symbols: int) -> None:
    made = frames(messages, symbols)
    blocks = [b"".join(made[at : at + 500]) for at in range(0, len(made), 500)]

    async def talk(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"event":"subscribe-status","status":"ok","success":[],"fails":[]}')
        for at, block in enumerate(blocks):
            connection.transport.write(block)
            if at % 8 == 0:
                while connection.transport.get_write_buffer_size():  # noqa: ASYNC110 - no event exists for it
                    await asyncio.sleep(0)
        await connection.wait_closed()

    async with serve(talk, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        print(json.dumps({"url": f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"}), flush=True)
        await server.serve_forever()


@contextmanager
def vendor(*command: str) -> Iterator[tuple[dict[str, str], int]]:
    with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE) as process:
        try:
            pin(1, process.pid)
            assert process.stdout is not None
            yield json.loads(process.stdout.readline()), process.pid
        finally:
            process.terminate()


# Measurements ----------------------------------------------------------------------------------------------------


def parse(args: argparse.Namespace) -> None:
    texts: list[str | bytes] = [payload(frame) for frame in frames(400_000, args.symbols)]
    for size in (20, 200, 2_000, 16_000):
        stream = TwelveDataStream(StreamConfig("ws://nowhere", "", symbol_names(args.symbols), calendars=CALENDARS))
        batches = [texts[at : at + size] for at in range(0, len(texts), size)]
        began = time.process_time()
        for batch in batches:
            stream.session.parser.ticks(read_messages(batch), np.zeros(len(batch), np.int64), 0.0)
        rate = len(texts) / (time.process_time() - began)
        print(f"parse alone, batches of {size:>6,}: {rate:>9,.0f} messages/s")
        record(f"parse alone, batches of {size}", rate, "messages/CPU s")


async def library(url: str, messages: int, symbols: int) -> None:
    async with connect(url, compression=None, ping_interval=None, max_size=1 << 24) as connection:
        await connection.send("{}")
        await connection.recv()
        began, used = time.perf_counter(), time.process_time()
        for _ in range(messages):
            await connection.recv(decode=False)
        told("`recv` of the library, no parse", messages, began, used)


async def socket_and_parse(url: str, messages: int, symbols: int) -> None:
    stream = TwelveDataStream(StreamConfig(url, "key", symbol_names(symbols), calendars=CALENDARS))
    queue: asyncio.Queue[StreamEvent] = asyncio.Queue(2)
    task = asyncio.create_task(stream.run(queue))
    assert isinstance(await queue.get(), Connected)
    seen, began, used = 0, time.perf_counter(), time.process_time()
    while seen < messages:
        event = await queue.get()
        assert isinstance(event, Ticks), event
        seen += event.messages
    told("the client's socket and parse", messages, began, used)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def into_the_log(url: str, messages: int, symbols: int) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedLog(Path(folder) / "market.log") as log:
        log.create_topics(schemas.TOPICS, 4)
        stream = TwelveDataStream(StreamConfig(url, "key", symbol_names(symbols), calendars=CALENDARS))
        service = MarketData(log, MarketDataConfig(symbol_names(symbols)), stream)
        stop = asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        while not service.counts.ticks:  # noqa: ASYNC110
            await asyncio.sleep(0)
        first, began, used = service.counts.ticks, time.perf_counter(), time.process_time()
        while service.counts.ticks < messages:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        told("socket, parse and the embedded log", messages - first, began, used)
        stop.set()
        await task


def told(what: str, messages: int, began: float, used: float) -> None:
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    print(
        f"{what:<36}: {messages / wall:>9,.0f} messages/s, {cpu / wall:4.0%} of a core, {cpu / messages * 1e6:.2f} µs"
    )
    record(what, messages / wall, "messages/s")
    record(f"{what}: CPU", cpu / messages * 1e6, "µs/message", "less")


def full_speed(args: argparse.Namespace) -> None:
    parts: list[Callable[[str, int, int], Awaitable[None]]] = [library, socket_and_parse, into_the_log]
    with vendor("benchmarks.stream", "--blast", "--symbols", str(args.symbols)) as (addresses, _):
        for part in parts:
            asyncio.run(part(addresses["url"], args.messages, args.symbols))  # type: ignore[arg-type]


def steady(args: argparse.Namespace) -> None:
    sandbox = ["tickerplant.sandbox", "--stamp", "--symbols", str(args.symbols), "--rate", str(args.rate)]
    with (
        tempfile.TemporaryDirectory() as folder,
        vendor(*sandbox) as (addresses, pid),
        EmbeddedLog(Path(folder) / "market.log") as log,
    ):
        log.create_topics(schemas.TOPICS, args.partitions)
        asyncio.run(_steady(args, log, addresses["stream_url"], pid))


async def _steady(args: argparse.Namespace, log: EmbeddedLog, url: str, vendor_pid: int) -> None:
    ages: list[int] = []
    symbols = symbol_names(args.symbols)

    def note(counts: FeedCounters) -> None:
        # A print's time is the time of sending. The watermark is one second behind the newest print.
        ages.append(time.time_ns() // 1_000 - counts.watermark_us - SECOND_US)

    stream = TwelveDataStream(StreamConfig(url, "key", symbols, calendars=CALENDARS, stamped=True))
    service = MarketData(log, MarketDataConfig(symbols), stream, metrics=note)
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(stop))
    await asyncio.sleep(3.0)
    print("   seconds  messages/s  client  vendor   age ms: p50   p99   worst   memory MB")
    every, began = max(1.0, args.seconds / 6), time.perf_counter()
    while (passed := time.perf_counter() - began) < args.seconds:
        ages.clear()
        ticks, used, vendor_used, at = service.counts.ticks, time.process_time(), cpu_s(vendor_pid), time.perf_counter()
        await asyncio.sleep(every)
        wall = time.perf_counter() - at
        found = np.array(ages) / 1_000
        record("steady: client", (time.process_time() - used) / wall, "cores", "less")
        record("steady: age, p99", float(np.percentile(found, 99)), "ms", "less")
        print(
            f"{passed + wall:10.0f}{(service.counts.ticks - ticks) / wall:12,.0f}"
            f"{(time.process_time() - used) / wall:8.0%}{(cpu_s(vendor_pid) - vendor_used) / wall:8.0%}"
            f"{np.percentile(found, 50):14.1f}{np.percentile(found, 99):6.1f}{found.max():8.1f}{memory_mb():12.0f}",
            flush=True,
        )
    stop.set()
    await task
    counts = service.counts
    print(f"connects {counts.connects}, losses {counts.losses}, dead {counts.dead}, batches {counts.batches:,}")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


PARTS = {"parse": parse, "socket": full_speed, "steady": steady}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--messages", type=int, default=500_000, help="messages of the measurements at full speed")
    parser.add_argument("--rate", type=float, default=20_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--blast", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.blast:
        asyncio.run(blast(args.messages, args.symbols))
        return
    pin(0)
    for name, part in PARTS.items():
        if args.only in (None, name):
            print(f"-- {name}, load {os.getloadavg()[0]:.1f}", flush=True)
            part(args)


if __name__ == "__main__":
    main()

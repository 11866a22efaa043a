"""No callback of the API's event loop computes for long, for any request or command of a client.

The measure is CPU time of the loop's thread, in units of a reference spin of the same run. It does not depend on the
load of the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Final

import httpx
import numpy as np
import pytest
from websockets.sync.client import connect

from tests.api.loop_cpu import LoopCpu, measured
from tests.api.support import MINUTE, SERVER_THREAD, T0, MemoryStore, bars, serving, ticks, value_batch
from tests.support.waiting import PATIENCE
from tickerplant.analytics.ondemand.query import OnDemand
from tickerplant.api.store_reader import StoreReader
from tickerplant.core import records, schemas
from tickerplant.core.rules import Rules
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import DAY_US, datetime_of
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.store import Store
from tickerplant.store.partitions import ensure_partitions

MOST_SPINS: Final = 25.0
"""Maximum CPU time of one callback, in reference spins of about 2 ms."""
ROWS: Final = 20_000
SYMBOLS: Final = 2_000
DAY: Final = T0 - T0 % DAY_US
START, END = DAY - ROWS * MINUTE, DAY

HANDSHAKE: Final = (
    b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

_BARS: Final = """INSERT INTO {table} (symbol, "interval", "time", open, high, low, close, volume, vwap, trades, state,
        complete, history, revision, version, reason, source, published_at)
    SELECT $1, $2, t, 100 + n % 7, 108, 99, 101 + n % 5, 10, 101.5, 3, 'final', true, false, 0, n, 'ticks', 'test', t
    FROM generate_series($3::timestamptz, $4::timestamptz - $5::interval, $5::interval) WITH ORDINALITY AS s (t, n)"""


async def fill(dsn: str) -> None:
    store = await Store.open(dsn, max_size=1)
    begin, end, step = datetime_of(START), datetime_of(END), datetime_of(MINUTE) - datetime_of(0)
    async with store.session() as session:
        times = np.arange(START, END, DAY_US // 2, dtype=np.int64)
        for table in ("intraday_ohlcv", "realtime_prices", "historical_ohlcv", "intraday_analytics"):
            await ensure_partitions(session, table, times)
        await session.execute(_BARS.format(table="intraday_ohlcv"), "AAPL", "1m", begin, end, step)
        await session.execute(_BARS.format(table="intraday_ohlcv"), "AAPL", "5m", begin, end, 5 * step)
        await session.execute(
            """INSERT INTO realtime_prices SELECT t, 'AAPL', 100 + n % 9, 5, 'test', 'id' || n, 0, t
               FROM generate_series($1::timestamptz, $2::timestamptz - $3::interval, $3::interval)
                   WITH ORDINALITY AS s (t, n)""",
            begin, end, step,
        )  # fmt: skip
        await session.execute(
            """INSERT INTO symbols SELECT name, $1, $2, '{1m,5m}', 1.5
               FROM (SELECT 'AAPL' AS name UNION ALL SELECT 'S' || n FROM generate_series(1, $3) AS n) AS names""",
            begin, end, SYMBOLS,
        )  # fmt: skip
        await session.execute("INSERT INTO plant (log_id, generation) VALUES ('test', 1) ON CONFLICT DO NOTHING")
    await store.close()


@pytest.fixture
def served(dsn: str, log: EmbeddedLog) -> Iterator[tuple[httpx.Client, str, LoopCpu]]:
    asyncio.run(fill(dsn))
    with (
        measured(SERVER_THREAD) as cpu,
        serving(log, StoreReader(dsn), indicators=OnDemand(Rules()), now_us=lambda: END) as (client, url, _),
    ):
        yield client, url, cpu


RANGE: Final = f"start={START}&end={END}&limit={ROWS}"
ROUTES: Final = (
    f"/v1/ticks/AAPL?{RANGE}",
    f"/v1/ticks/AAPL?{RANGE}&format=csv&tz=America/New_York",
    f"/v1/intraday/AAPL?{RANGE}",
    f"/v1/intraday/AAPL?{RANGE}&interval=1h&adjust=all",
    "/v1/intraday/AAPL?interval=1h&limit=5000",
    f"/v1/intraday/AAPL?{RANGE}&format=csv&times=ms",
    f"/v1/realtime/AAPL?{RANGE}",
    "/v1/realtime/AAPL",
    f"/v1/analytics/AAPL?{RANGE}&interval=1m",
    f"/v1/indicators/RSI/AAPL?{RANGE}&interval=1m&period=14",
    "/v1/indicators",
    "/v1/indicators/TA_STOCH/AAPL?interval=1h",
    "/v1/coverage/AAPL?from=2026-02-01",
    "/v1/coverage?interval=1d",
    "/v1/coverage?from=2025-12-01&to=2026-01-01&interval=5m",
    "/v1/historical/AAPL?interval=1w",
    "/v1/alerts/firings?limit=50000",
    "/v1/symbols",
    "/v1/symbols?format=csv",
    "/v1/intraday/APPLE",
    "/v1/status",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/",
)


def test_no_route_computes_on_the_event_loop(served: tuple[httpx.Client, str, LoopCpu]) -> None:
    client, _, cpu = served
    for path in ROUTES:
        cpu.step = path
        found = client.get(path)
        assert found.status_code in (200, 307, 404), (path, found.text[:300])
    spins = {path: round(n, 1) for path, n in cpu.spins().items()}
    assert set(ROUTES) <= set(spins)
    assert {path: n for path, n in spins.items() if n > MOST_SPINS} == {}, spins


def fill_log(log: EmbeddedLog) -> None:
    """Append the newest state of `SYMBOLS` symbols and a burst of ticks."""
    names = [f"S{number}" for number in range(SYMBOLS)]
    bars(log, [{"time": T0, "symbol": name, "interval": step} for name in names for step in ("1m", "5m")])
    with log.writer("values") as out, out.transaction() as transaction:
        for partition in range(2):
            rows = [
                {"time": T0, "symbol": name, "rsi_14": 50.0} for name in names if partition_of(name, 2) == partition
            ]
            header = records.Values(sent_at_us=T0)
            transaction.append(schemas.ANALYTICS, partition, records.encode(header, value_batch(rows)))
    ticks(log, [(T0 + number, names[number % SYMBOLS], 1.0 + number) for number in range(4 * SYMBOLS)])


def test_no_frame_computes_on_the_event_loop(served: tuple[httpx.Client, str, LoopCpu], log: EmbeddedLog) -> None:
    client, url, cpu = served
    everything = {"action": "subscribe", "symbols": ["*"], "channels": ["ticks", "bars", "analytics", "status"]}
    many = [f"S{number}" for number in range(900)]
    start = client.get("/v1/status").json()["end"]
    with connect(url, max_size=None, open_timeout=PATIENCE.seconds(20)) as live:
        cpu.step = "records"
        live.send(json.dumps(everything))
        while json.loads(live.recv(timeout=PATIENCE.seconds(30)))["type"] != "snapshot":
            pass
        seen = 0
        fill_log(log)
        while seen < 4 * SYMBOLS:
            message = json.loads(live.recv(timeout=PATIENCE.seconds(30)))
            if message["type"] == "ticks":
                seen += len(message["rows"])
            elif message["type"] == "conflated":
                seen += message["skipped"]
        for name, command in (
            ("snapshot of all", everything),
            ("snapshot of many", everything | {"symbols": many}),
            ("since", everything | {"since": start}),
            ("ping", {"action": "ping", "id": 1}),
            ("unsubscribe", {"action": "unsubscribe"}),
            ("not JSON", "[" * 10_000),
        ):
            cpu.step = name
            with connect(url, max_size=None, open_timeout=PATIENCE.seconds(20)) as other:
                other.recv()
                other.send(json.dumps(command) if isinstance(command, dict) else command)
                other.send('{"action":"ping","id":"end"}')
                while json.loads(other.recv(timeout=PATIENCE.seconds(30))).get("id") != "end":
                    pass
    spins = {name: round(n, 1) for name, n in cpu.spins().items()}
    assert {name: n for name, n in spins.items() if n > MOST_SPINS} == {}, spins


CHUNKS: Final = b"1\r\nx\r\n" * 40_000
"""A quarter of a megabyte, as one read of a socket may return."""


def test_no_flood_of_tiny_parts_computes_on_the_event_loop(log: EmbeddedLog, store: MemoryStore) -> None:
    frames = {"pings": b"\x89\x80\0\0\0\0", "fragments": b"\x00\x80\0\0\0\0"}
    with measured(SERVER_THREAD) as cpu, serving(log, store) as (client, _, api):

        def send(step: str, head: bytes, parts: bytes) -> None:
            """Send as fast as the server reads, until the server ends the connection or has read everything."""
            cpu.step = step
            with socket.create_connection(("127.0.0.1", api.bound_port)) as sender:
                sender.settimeout(PATIENCE.seconds(30))
                sender.sendall(head)
                if head == HANDSHAKE:
                    assert b"welcome" in sender.recv(1 << 16) + sender.recv(1 << 16)
                with contextlib.suppress(ConnectionError):
                    sender.sendall(parts)
                    sender.shutdown(socket.SHUT_WR)
                    while sender.recv(1 << 16):
                        pass

        head = b"POST /v1/alerts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        send("chunks", head + b"Transfer-Encoding: chunked\r\n\r\n", CHUNKS)
        for name, one in frames.items():
            begin = b"\x01\x80\0\0\0\0" if name == "fragments" else b""
            send(name, HANDSHAKE, begin + one * (len(CHUNKS) // len(one)))
        assert client.get("/v1/status").status_code == 200
    spins = {name: round(n, 1) for name, n in cpu.spins().items()}
    assert {"chunks", *frames} <= set(spins)
    assert {name: n for name, n in spins.items() if n > MOST_SPINS} == {}, spins

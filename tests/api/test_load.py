"""The API under load: lanes with fair turns and limits, requests of disconnected clients, and limits of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvloop
from fastapi import Request

from tests.api.support import MINUTE, T0, MemoryStore, bar_batch, serving, ticks
from tests.support.waiting import PATIENCE, until
from tickerplant.api.blocking import Pools, in_thread
from tickerplant.api.http import connections, lanes, loop_turns, outgoing
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.lanes import is_expensive
from tickerplant.api.load import LoadCounters
from tickerplant.api.request_lanes import COMPUTING, READING, LaneLimits, RequestLane
from tickerplant.api.store_reader import ReadTransaction
from tickerplant.core.errors import LogUnavailable
from tickerplant.core.rules import Rules
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.log.port import EventLog


@pytest.fixture
async def lane() -> AsyncIterator[RequestLane]:
    made = RequestLane("test", LaneLimits(running=1, waiting=4, waiting_of_client=2, budget_s=600), LoadCounters())
    yield made
    await made.stop(_nothing)


async def _nothing() -> None:
    pass


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE.seconds(20)):
        while not condition():  # noqa: ASYNC110 - conditions of other threads have no event
            await asyncio.sleep(0.001)


class Gate:
    """Work of a lane that waits until the test releases it; `order` lists the names in the order of their turns."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.order: list[str] = []
        self.cancelled: list[str] = []

    def work(self, name: str, *, blocking: bool = False) -> Callable[[], Any]:
        async def run() -> str:
            self.order.append(name)
            try:
                await eventually(self.go.is_set)
                if blocking:
                    time.sleep(0.05)  # the time that its client has used
            except asyncio.CancelledError:
                self.cancelled.append(name)
                raise
            return name

        return run


async def test_a_lane_whose_thread_cannot_start_gives_its_places_back(
    lane: RequestLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, errors = uvloop.new_event_loop, [OSError(24, "too many open files"), OSError(24, "too many open files")]

    def make_later() -> asyncio.AbstractEventLoop:
        if errors:
            raise errors.pop()
        return make()

    async def work() -> str:
        return "answer"

    monkeypatch.setattr(uvloop, "new_event_loop", make_later)
    for _ in range(2):  # twice as often as the lane has places
        with pytest.raises(OSError, match="too many open files"):
            await lane.run(work, "a client")
    assert lane.running == 0
    assert await lane.run(work, "a client") == "answer"


async def test_a_client_with_many_requests_does_not_displace_another(lane: RequestLane) -> None:
    gate = Gate()
    first = asyncio.create_task(lane.run(gate.work("greedy 1", blocking=True), "greedy"))
    await eventually(lambda: gate.order == ["greedy 1"])
    others = [asyncio.create_task(lane.run(gate.work(f"greedy {n}"), "greedy")) for n in (2, 3)]
    await eventually(lambda: lane.waiting == 2)
    modest = asyncio.create_task(lane.run(gate.work("modest"), "modest"))
    await eventually(lambda: lane.waiting == 3)
    gate.go.set()
    await asyncio.gather(first, *others, modest)
    assert gate.order == ["greedy 1", "modest", "greedy 2", "greedy 3"]


async def test_a_lane_refuses_more_than_its_limits(lane: RequestLane) -> None:
    gate = Gate()
    running = [asyncio.create_task(lane.run(gate.work("a"), "a"))]
    await eventually(lambda: lane.running == 1)
    running += [asyncio.create_task(lane.run(gate.work("a"), "a")) for _ in range(2)]
    await eventually(lambda: lane.waiting == 2)
    with pytest.raises(ApiError, match="2 requests of this client wait already") as own:
        await lane.run(gate.work("a"), "a")
    running += [asyncio.create_task(lane.run(gate.work("b"), "b")) for _ in range(2)]
    await eventually(lambda: lane.waiting == 4)
    with pytest.raises(ApiError, match="1 requests run and 4 wait already") as common:
        await lane.run(gate.work("c"), "c")
    assert (own.value.status, own.value.retry_after_s, common.value.status) == (429, 2, 503)
    gate.go.set()
    await asyncio.gather(*running)


async def test_a_place_rests_after_a_request_while_the_loop_is_late() -> None:
    counters = LoadCounters()
    limits = LaneLimits(running=1, waiting=4, waiting_of_client=2, budget_s=600, rest=1.0)
    lane = RequestLane("test", limits, counters)
    try:
        for _ in range(100):
            counters.observe_delay(0.0)
        await lane.run(lambda: asyncio.sleep(0.05), "a")
        assert lane.running == 0
        for _ in range(100):
            counters.observe_delay(0.05)
        assert counters.mean_delay_s == pytest.approx(0.05, rel=1e-3)
        await lane.run(lambda: asyncio.sleep(0.2), "a")
        assert lane.running == 1, "the place rests for as long as the request took"
        await eventually(lambda: lane.running == 0)
        await lane.run(lambda: asyncio.sleep(0), "b")
    finally:
        await lane.stop(_nothing)


async def test_a_cancelled_request_gives_its_place_back_when_it_has_ended(lane: RequestLane) -> None:
    gate = Gate()
    running = asyncio.create_task(lane.run(gate.work("gone"), "a"))
    await eventually(lambda: gate.order == ["gone"])
    waiting = asyncio.create_task(lane.run(gate.work("never"), "a"))
    await eventually(lambda: lane.waiting == 1)
    waiting.cancel()
    running.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    await eventually(lambda: lane.running == 0)
    assert (gate.order, gate.cancelled, lane.waiting) == (["gone"], ["gone"], 0)


async def test_a_request_that_takes_too_long_gets_503() -> None:
    counters = LoadCounters()
    lane = RequestLane("test", LaneLimits(running=1, waiting=1, waiting_of_client=1, budget_s=0.02), counters)
    with pytest.raises(ApiError, match="took longer") as slow:
        await lane.run(Gate().work("slow"), "a")
    assert (slow.value.status, slow.value.code, counters.recent_refusals()) == (503, "too_slow", {"too_slow": 1})
    await lane.stop(_nothing)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
async def test_only_threads_that_compute_have_a_low_priority() -> None:
    async def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = await niceness()
    for limits, wanted in ((READING, own), (COMPUTING, 10)):
        lane = RequestLane("test", limits, LoadCounters())
        assert await lane.run(niceness, "a") == wanted
        await lane.stop(_nothing)
    pools = Pools()
    assert await in_thread(pools.log, lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())) == own
    for pool in (pools.compute, pools.catch_up):
        assert await in_thread(pool, lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())) == 10
    pools.close()
    assert await niceness() == own


@pytest.mark.parametrize(
    ("path", "expensive"),
    [
        ("/v1/ticks/AAPL", False),
        ("/v1/ticks/EUR/USD?limit=50000", True),
        ("/v1/ticks/AAPL?limit=10&skip=190000", True),
        ("/v1/ticks/AAPL?limit=many", False),
        ("/v1/ticks/AAPL?limit=50000.0", True),
        ("/v1/ticks/AAPL?limit=50_000", True),
        ("/v1/intraday/AAPL?interval=60m&limit=2000", True),
        ("/v1/historical/AAPL?interval=WEEKLY&limit=2000", True),
        ("/v1/intraday/AAPL?interval=1h", False),
        ("/v1/intraday/AAPL?interval=1h&limit=2000", True),
        ("/v1/coverage", True),
        ("/v1/coverage/AAPL", False),
        ("/v1/coverage/AAPL?from=2001-01-01", True),
        ("/v1/indicators", False),
        ("/v1/indicators/RSI", False),
        ("/v1/indicators/RSI/EUR/USD", True),
    ],
)
def test_requests_for_many_rows_run_in_a_lane_of_their_own(path: str, expensive: bool) -> None:
    path, _, query = path.partition("?")
    assert (
        is_expensive(Request({"type": "http", "path": path, "query_string": query.encode(), "headers": []}))
        is expensive
    )


class SlowStore(MemoryStore):
    """A store whose reads in one lane wait until `go` is set."""

    def __init__(self, log: EventLog, lane: str) -> None:
        super().__init__(log)
        self.lane = lane
        self.go = threading.Event()
        self.reading = 0
        self.cancelled = 0

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[ReadTransaction]:
        if threading.current_thread().name == f"api-{self.lane}":
            self.reading += 1
            try:
                await eventually(self.go.is_set)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        async with super().read() as transaction:
            yield transaction


@pytest.mark.parametrize(("lane", "limit", "running"), [("computing", 50_000, 1), ("reading", 4_000, 2)])
def test_larger_requests_delay_no_small_request(log: EmbeddedLog, lane: str, limit: int, running: int) -> None:
    store = SlowStore(log, lane)
    store.tables["ohlcv"] = store.tables["ohlcv"].from_batches([bar_batch([{"time": T0, "symbol": "AAPL"}])])
    with serving(log, store) as (client, _, _), httpx.Client(base_url=client.base_url, timeout=None) as other:
        threads = [threading.Thread(target=other.get, args=(f"/v1/intraday/AAPL?limit={limit}",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: store.reading == running, "the lane's places for one client are taken, the others wait", 20)
        assert client.get("/health").json()["wrong"] == []
        metric = f'tickerplant_api_lane_requests{{lane="{lane}",state="running"}} {running}.0'
        assert metric in client.get("/metrics").text
        assert client.get("/v1/intraday/AAPL?limit=100").json()["count"] == 1
        store.go.set()
        for thread in threads:
            thread.join()


def test_the_request_of_a_disconnected_client_is_cancelled(log: EmbeddedLog) -> None:
    store = SlowStore(log, "reading")
    with serving(log, store) as (client, _, api):
        with socket.create_connection(("127.0.0.1", api.bound_port)) as gone:
            gone.sendall(b"GET /v1/intraday/AAPL HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: store.reading > 0, "the request runs", 20)
        until(lambda: store.cancelled == 1, "the request is cancelled", 20)
        store.go.set()
        assert client.get("/v1/status").status_code == 200


@pytest.fixture
def quick_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SWEEP_S", 0.01)
    monkeypatch.setattr(connections, "REQUEST_S", 0.2)


HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame with a payload of less than 126 bytes, masked with zeros."""
    return bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload


def closed(connection: socket.socket) -> bool:
    """Return True when the server has closed the connection."""
    connection.settimeout(PATIENCE.seconds(20))
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4_096):
            pass
    return True


@pytest.mark.usefixtures("quick_limits")
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Endless: ",
        b"POST /v1/alerts HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    ],
)
def test_a_connection_without_a_complete_request_is_closed(log: EmbeddedLog, store: MemoryStore, sent: bytes) -> None:
    with serving(log, store) as (client, _, api), socket.create_connection(("127.0.0.1", api.bound_port)) as idle:
        idle.sendall(sent)
        assert closed(idle)
        assert "because a request did not end" in client.get("/health").text


@pytest.mark.usefixtures("quick_limits")
def test_a_client_of_the_stream_that_leaves_without_reading_is_disconnected(
    log: EmbeddedLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def metric(name: str) -> float:
        return float(client.get("/metrics").text.partition(f"\n{name} ")[2].split()[0])

    def is_full() -> bool:
        ticks(log, [(T0 + n, f"S{n % 50}", 1.0) for n in range(5_000)])
        return metric("tickerplant_api_stream_conflated_rows_total") > 0

    with serving(log, store) as (client, _, api), socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect(("127.0.0.1", api.bound_port))
        deaf.sendall(HANDSHAKE)
        received = b""
        deaf.settimeout(PATIENCE.seconds(20))
        while b'"welcome"' not in received:
            received += deaf.recv(4_096)
        deaf.sendall(client_frame(0x1, b'{"action":"subscribe","symbols":["*"],"channels":["ticks"]}'))
        until(is_full, "the socket of the client is full", 60)
        deaf.sendall(client_frame(0x8, b"\x03\xe8"))
        monkeypatch.setattr(loop_turns, "UNREAD_S", 0.2)
        until(lambda: metric("tickerplant_api_connections") == 1, "only the connection of this test remains", 20)
        assert "1 clients of the stream dropped, because they did not read" in client.get("/health").text
        assert "Exception in callback" not in caplog.text


def test_idle_connections_make_room_for_new_ones(
    log: EmbeddedLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MIN_WAIT_S", 0.0)
    with serving(log, store, max_connections=20) as (client, _, api), contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", api.bound_port))) for _ in range(60)]
        assert client.get("/v1/status").status_code == 200
        health = client.get("/health").json()
        assert any("idle connections closed to make room" in wrong for wrong in health["wrong"])
        assert closed(idle[0])
        count = int(float(client.get("/metrics").text.partition("\ntickerplant_api_connections ")[2].split()[0]))
        assert count <= 20


def status_of(connection: socket.socket) -> int:
    """Read a JSON answer; return its status."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(1 << 16)
    return int(received[9:12])


def test_a_body_after_the_answer_ends_the_connection(
    log: EmbeddedLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    with serving(log, store) as (_, _, api), socket.create_connection(("127.0.0.1", api.bound_port)) as sender:
        sender.settimeout(PATIENCE.seconds(20))
        sender.sendall(b"POST /v1/symbols HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n")
        assert status_of(sender) == 405
        sender.sendall(bytes(5_000) + b"GET /v1/symbols HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(sender) == 200, "a small body is read"
        sender.sendall(b"POST /v1/symbols HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert status_of(sender) == 405
        ended = False
        while not ended:
            try:
                sender.sendall(b"1\r\nx\r\n" * 1_000)
            except ConnectionError:
                ended = True


def unread_request(port: int, path: str) -> socket.socket:
    """Return a connection that has requested an answer and never reads it."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.connect(("127.0.0.1", port))
    made.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return made


def test_an_answer_that_is_not_read_is_bounded_and_ends_its_connection(
    log: EmbeddedLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = bar_batch([{"time": T0, "symbol": "AAPL"}])
    rows = row.take(pa.array(np.zeros(40_000, np.int64)))  # 10 MB as JSON, more than the buffers of a socket
    store.tables["ohlcv"] = store.tables["ohlcv"].from_batches([rows])
    path = "/v1/intraday/AAPL?limit=50000"
    monkeypatch.setattr(connections, "SWEEP_S", 0.01)
    monkeypatch.setattr(outgoing, "MAX_UNREAD_OF_CLIENT", 1_000_000)
    with serving(log, store) as (client, _, api), contextlib.ExitStack() as stack:
        first = stack.enter_context(unread_request(api.bound_port, path))
        first.settimeout(PATIENCE.seconds(20))
        assert first.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200", "the first answer has started"
        refused: list[httpx.Response] = []

        def is_refused() -> bool:
            """Request as many bytes as are unread already; return True if a request was refused."""
            found = client.get(path)
            refused.extend([found] if found.status_code == 503 else [])
            return bool(refused)

        until(is_refused, "the bytes of the first answer are counted", 20)
        assert (refused[0].json()["error"]["code"], refused[0].headers["Retry-After"]) == ("answers_unread", "2")
        monkeypatch.setattr(loop_turns, "UNREAD_S", 0.2)
        until(
            lambda: "because the client did not read the answer" in client.get("/health").text,
            "the first connection is closed", 20,
        )  # fmt: skip
        until(lambda: client.get(path).status_code == 200, "its bytes are no longer counted", 20)
        assert closed(first), "the bytes in the socket can still be read"


def test_descriptors_remain_for_the_plant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "descriptor_limit", lambda: 1_024)
    assert connections.ConnectionGuard(LoadCounters(), 5_000).max_connections == 1_024 - 256
    monkeypatch.setattr(connections, "descriptor_limit", lambda: 64)
    assert connections.ConnectionGuard(LoadCounters(), 5_000).max_connections == connections.MIN_CONNECTIONS


@pytest.mark.parametrize(("proxies", "client"), [((), "127.0.0.1"), (("127.0.0.1",), "192.0.2.7")])
def test_only_a_known_proxy_names_the_client(
    log: EmbeddedLog, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, proxies: tuple[str, ...], client: str
) -> None:
    clients: list[str] = []

    def client_of(request: Request) -> str:
        clients.append(own_client_of(request))
        return clients[-1]

    own_client_of = lanes.client_of
    monkeypatch.setattr(lanes, "client_of", client_of)
    with serving(log, store, proxies=proxies) as (plain, _, _):
        plain.get("/v1/symbols", headers={"X-Forwarded-For": "192.0.2.7"})
    assert clients == [client]


class AbsentLog:
    """A log whose broker is unavailable: every call fails until `back` is True."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.back = False

    def __getattr__(self, name: str) -> Any:
        if self.back:
            return getattr(self._log, name)

        def fail(*_: Any, **__: Any) -> Any:
            raise LogUnavailable("no answer from the brokers")

        return fail


def test_the_api_serves_the_store_while_the_log_is_unavailable(log: EmbeddedLog, store: MemoryStore) -> None:
    store.tables["ohlcv"] = store.tables["ohlcv"].from_batches(
        [bar_batch([{"time": T0 + n * 5 * MINUTE, "symbol": "AAPL", "interval": "5m"} for n in range(3)])]
    )
    away: Any = AbsentLog(log)
    with serving(away, store, bind_log=lambda: (away.identity(), Rules(), None)[1:]) as (client, _, _):
        assert client.get("/v1/intraday/AAPL?interval=5m").json()["count"] == 3
        assert client.get("/v1/intraday/AAPL?interval=15m").json()["count"] == 1
        assert client.get("/v1/coverage/AAPL").status_code == 200
        assert (client.get("/v1/status").status_code, client.get("/metrics").status_code) == (503, 200)
        found = client.get("/health")
        assert (found.status_code, found.json()["parts"][0]["sentence"]) == (
            503,
            "has not started: no answer from the brokers; it starts when the log and the database answer",
        )
        away.back = True
        until(lambda: client.get("/health").status_code == 200, "the stream starts", 20)
        assert client.get("/v1/status").json()["stream"]["clients"] == 0

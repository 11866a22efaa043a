"""Limits of one client: places and connections that it leaves to others, and turns of the server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.support.waiting import PATIENCE, eventually
from tickerplant.api.blocking import Pools
from tickerplant.api.fair_places import FairPlaces, PlaceLimits, UsedTime, client_name
from tickerplant.api.http import connections
from tickerplant.api.http.connections import ConnectionGuard
from tickerplant.api.http.loop_turns import TURN_ITEMS, TURN_S, LoopTurns, PacedProtocol
from tickerplant.api.load import LoadCounters
from tickerplant.api.websockets.endpoint import Stream
from tickerplant.api.websockets.hub import Hub
from tickerplant.api.websockets.server_protocol import MAX_FRAGMENTS, StreamProtocol, stream_protocol
from tickerplant.log.port import Identity


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_a_client_is_an_address_or_a_network_of_one_host(host: str, name: str) -> None:
    assert client_name(host) == name


async def test_one_client_leaves_places_to_others() -> None:
    counters = LoadCounters()
    places = FairPlaces(PlaceLimits(running=3, reserved=1, waiting=10, waiting_of_client=10), counters)
    await places.admit("greedy")
    await places.admit("greedy")
    third = asyncio.create_task(places.admit("greedy"))
    await asyncio.sleep(0)
    assert (places.running, places.waiting) == (2, 1)
    await places.admit("modest")  # at once, before the request that waits
    assert places.running == 3
    places.release("modest", 0.1)
    await asyncio.sleep(0)
    assert not third.done(), "the last place stays free for another client"
    places.release("greedy", 5.0)
    await third
    assert (places.running, places.waiting) == (2, 0)
    async with places.place("modest"):
        assert places.running == 3
    assert places.running == 2


async def test_metrics_may_count_waiting_requests_in_another_thread() -> None:
    places = FairPlaces(PlaceLimits(running=1, waiting=1_000, waiting_of_client=10), LoadCounters())
    await places.admit("first")
    ended, counted = threading.Event(), 0

    def count() -> None:
        nonlocal counted
        while not ended.is_set():
            assert places.waiting in range(301)
            counted += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    counting = asyncio.create_task(asyncio.to_thread(count))
    try:
        for _ in range(30):
            waiting = [asyncio.create_task(places.admit(f"client {number}")) for number in range(300)]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await eventually(lambda: counted > 0)
    finally:
        ended.set()
        sys.setswitchinterval(interval)
    await counting


def test_the_greediest_of_many_clients_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tickerplant.api.fair_places.MAX_CLIENTS", 4)
    used = UsedTime()
    for number in range(5):
        used.add(str(number), float(number + 1))
    assert used.least(["4", "3", "2"]) == "2"
    assert used.least(["4", "0"]) == "0"
    assert used.least(["4", "unknown"]) == "unknown"
    assert len(used._used) == 3


class OtherClient:
    client = "192.0.2.1"


class OpenConnection:
    """A connection that waits for bytes of its client."""

    def __init__(self, guard: ConnectionGuard, client: str, open_now: set[Any]) -> None:
        self.client_name = client
        self.connections = open_now
        self.transport = SimpleNamespace(abort=lambda: guard.count(client, -1))
        open_now.add(self)
        guard.count(client, 1)
        self.admitted = guard.admit(self)  # type: ignore[arg-type]
        if self.admitted:
            guard.waiting[self] = 0.0  # type: ignore[index]


def test_the_connections_of_one_client_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MIN_WAIT_S", -1.0)
    guard, open_now = ConnectionGuard(LoadCounters(), 20), set[Any]()
    greedy = [OpenConnection(guard, "greedy", open_now) for _ in range(30)]
    assert all(one.admitted for one in greedy)
    assert Counter(one.client_name for one in open_now) == {"greedy": 18}
    assert not open_now & set(greedy[:12]), "its oldest connections were closed"
    modest = [OpenConnection(guard, "modest", open_now) for _ in range(4)]
    assert all(one.admitted for one in modest)
    assert Counter(one.client_name for one in open_now) == {"greedy": 16, "modest": 4}
    guard.waiting.clear()  # every connection has a request in progress
    assert not OpenConnection(guard, "modest", open_now).admitted
    assert guard.load.recent_refusals() == {"idle_connection": 14, "too_many_connections": 1}


async def test_the_stream_clients_of_one_address_leave_room_for_others() -> None:
    stream = Stream(SimpleNamespace(), Hub(Identity("log", 1), {}), pools=Pools())  # type: ignore[arg-type]
    stream.max_clients = 10
    stream.connections |= {OtherClient() for _ in range(9)}  # type: ignore[arg-type]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect" if sent else "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await stream({"client": ("192.0.2.1", 1)}, receive, send)
    assert sent[1]["code"] == 4006
    assert sent[1]["reason"] == "the maximum of 9 clients of one address is connected; try again later"
    assert stream.load.recent_refusals() == {"stream_full": 1}
    sent.clear()
    await stream({"client": ("192.0.2.2", 1)}, receive, send)
    assert "websocket.close" not in [message["type"] for message in sent]


async def test_turns_belong_to_the_client_that_has_used_least_and_are_few_per_iteration() -> None:
    turns, order = LoopTurns(), list[str]()
    for number in range(100):
        turns.take("greedy", lambda number=number: order.append(f"greedy {number}"))  # type: ignore[misc]
    assert len(order) == TURN_ITEMS, "the other turns wait for later iterations"
    await asyncio.sleep(0)
    begun = len(order)
    assert begun <= 2 * TURN_ITEMS
    waited = asyncio.create_task(turns.of("modest"))
    while not waited.done():  # noqa: ASYNC110 - counts iterations of the loop
        await asyncio.sleep(0)
    assert len(order) <= begun + 3 * TURN_ITEMS, "far fewer than the greedy client has waiting"
    while len(order) < 100:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert order == [f"greedy {number}" for number in range(100)]


async def test_a_long_turn_ends_its_round() -> None:
    turns, order = LoopTurns(), list[str]()

    def compute() -> None:
        order.append("long")
        until = time.thread_time() + TURN_S
        while time.thread_time() < until:
            pass

    turns.take("greedy", compute)
    turns.take("greedy", compute)
    turns.take("modest", lambda: order.append("modest"))
    assert order == ["long"]
    await iterations()
    assert order == ["long"], "a pause follows"
    await eventually(lambda: len(order) == 3, "the other turns")
    assert order == ["long", "modest", "long"]


class Transport(asyncio.Transport):
    """A transport without a socket, which records what the protocol does."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reading = True
        self.closed = False
        self.protocol: Any = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1) if name in ("peername", "sockname") else default

    def get_protocol(self) -> Any:
        return self.protocol

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


class Parser(asyncio.Protocol):
    """A parser that records its pieces."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        if data.startswith(b"broken"):
            raise ValueError(data)


class Paced(PacedProtocol, Parser):
    busy = False

    def may_parse(self) -> bool:
        return not self.busy


def paced(turns: LoopTurns) -> Paced:
    protocol = Paced()
    protocol.turns, protocol.transport = turns, Transport()
    protocol.transport.protocol = protocol  # type: ignore[attr-defined]
    protocol.connection_made(protocol.transport)
    return protocol


async def iterations() -> None:
    """Run everything that is due in the loop."""
    for _ in range(300):
        await asyncio.sleep(0)


async def test_received_bytes_are_parsed_in_pieces_while_the_socket_is_not_read() -> None:
    protocol = paced(LoopTurns())
    transport: Any = protocol.transport
    data = bytes(range(256)) * 400
    protocol.data_received(data)
    assert (len(protocol.pieces), transport.reading) == (1, False)
    await eventually(lambda: b"".join(protocol.pieces) == data, "all pieces")
    assert {len(piece) for piece in protocol.pieces} == {protocol.piece_bytes}
    assert transport.reading
    protocol.busy = True
    protocol.data_received(data)
    await iterations()
    assert (len(protocol.pieces), transport.reading) == (50, False), "the application has not taken the last piece"
    protocol.busy = False
    protocol.continue_parsing()
    protocol.data_received(b"end")
    await eventually(lambda: b"".join(protocol.pieces) == data + data + b"end", "all pieces")
    assert transport.reading


async def test_an_error_of_the_parser_ends_one_connection_only() -> None:
    turns = LoopTurns()
    broken, sound = paced(turns), paced(turns)
    with contextlib.suppress(ValueError):
        broken.data_received(b"broken" + bytes(10_000))
    sound.data_received(bytes(100_000))
    await eventually(lambda: len(b"".join(sound.pieces)) == 100_000, "all pieces")
    assert (broken.transport.is_closing(), len(broken.pieces)) == (True, 1)


def frame(data: bytes, opcode: int, *, fin: bool = True) -> bytes:
    """Return a short frame of a client, masked with zeros."""
    return bytes([(0x80 if fin else 0) | opcode, 0x80 | len(data), 0, 0, 0, 0]) + data


async def connected(app: Callable[[Any, Any, Any], Awaitable[None]]) -> tuple[StreamProtocol, Transport]:
    """Return the protocol and the transport of a WebSocket that the application has accepted."""
    config = uvicorn.Config(app, ws_per_message_deflate=False, ws_max_size=1_000, log_config=None)
    config.load()
    made: type[Any] = stream_protocol(ConnectionGuard(LoadCounters()))
    protocol, transport = made(config=config, server_state=ServerState(), app_state={}), Transport()
    transport.protocol = protocol
    protocol.connection_made(transport)
    protocol.data_received(
        b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        b"Cookie: " + b"x" * 3_000 + b"\r\n\r\n"
    )
    async with asyncio.timeout(PATIENCE.seconds(10)):
        while b"\r\n\r\n" not in transport.written:  # noqa: ASYNC110 - the transport has no event
            await asyncio.sleep(0)
    transport.written.clear()
    return protocol, transport


def application(taken: list[Any], go: asyncio.Event) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """Return an application that takes a message only after `go` is set."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await go.wait()
            taken.append(await receive())
            if taken[-1]["type"] == "websocket.disconnect":
                return

    return app


async def test_pings_are_not_answered_while_the_client_does_not_read() -> None:
    protocol, transport = await connected(application([], asyncio.Event()))
    protocol.data_received(frame(b"x" * 100, 9))
    assert bytes(transport.written) == bytes([0x8A, 100]) + b"x" * 100
    transport.written.clear()
    protocol.pause_writing()
    protocol.data_received(frame(b"x" * 100, 9) * 1_000)
    await iterations()
    assert (transport.written, transport.reading) == (b"", False)
    protocol.resume_writing()
    await eventually(lambda: transport.reading, "all pings")
    assert len(transport.written) == 1_000 * 102
    protocol.connection_lost(None)


async def test_few_messages_are_parsed_before_the_application_takes_them() -> None:
    taken, go = list[Any](), asyncio.Event()
    protocol, transport = await connected(application(taken, go))
    protocol.data_received(frame(b"", 1) * 5_000)
    await iterations()
    assert protocol.queue.qsize() <= protocol.piece_bytes // 6 + 1
    assert not transport.reading
    go.set()
    await eventually(lambda: transport.reading, "all messages")
    await eventually(lambda: len(taken) == 5_000, "all messages")
    protocol.connection_lost(None)


async def test_a_message_has_a_bounded_number_of_fragments() -> None:
    taken, go = list[Any](), asyncio.Event()
    go.set()
    protocol, transport = await connected(application(taken, go))
    whole = frame(b"x", 1, fin=False) + frame(b"", 0, fin=False) * (MAX_FRAGMENTS - 2) + frame(b"y", 0)
    protocol.data_received(whole)
    await eventually(lambda: bool(taken), "the whole message")
    assert [message.get("text") for message in taken] == ["xy"]
    protocol.data_received(frame(b"x", 1, fin=False) + frame(b"", 0, fin=False) * MAX_FRAGMENTS)
    await eventually(lambda: len(taken) == 2, "the end")
    assert taken[-1]["type"] == "websocket.disconnect"
    assert (taken[-1]["code"], transport.closed) == (1008, True)
    assert b"at most 1024 fragments" in transport.written
    protocol.connection_lost(None)

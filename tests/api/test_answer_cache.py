"""Kept answers: they equal new answers, are dropped when the position changes or their age ends, and are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import Response

from tests.api.support import T0, MemoryStore, bar_batch, serving
from tests.support.waiting import PATIENCE, until
from tickerplant.api import service
from tickerplant.api.http import answer_cache, repeated_requests
from tickerplant.api.http.answer_cache import AnswerCache, PositionedResponse
from tickerplant.api.http.connections import GuardedHttp
from tickerplant.api.positions import Position
from tickerplant.api.service import Api
from tickerplant.api.store_reader import ReadTransaction
from tickerplant.core import schemas
from tickerplant.log.embedded.log import EmbeddedLog
from tickerplant.log.port import EventLog, TopicPartition

PATH = "/v1/intraday/AAPL?limit=2"
HEAD = b"GET /v1/intraday/AAPL?limit=2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
LONG_S = 3_600.0


class NoFirings:
    """Fired alerts of a store that has none."""

    async def read(self, *_: object) -> list[dict[str, Any]]:
        return []


class CountingStore(MemoryStore):
    """A store that counts its reads."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(log)
        self.reads = 0
        self.go = threading.Event()
        self.go.set()
        self.commits = 0

    def write(self, *closes: float, position: int) -> None:
        """Replace the bars, as a commit of persistence does."""
        rows = [{"time": T0 + n * 60_000_000, "symbol": "AAPL", "close": close} for n, close in enumerate(closes)]
        self.tables["ohlcv"] = self.tables["ohlcv"].from_batches([bar_batch(rows)])
        self.at = {TopicPartition(schemas.OHLCV, 0): position}

    @property
    def firings(self) -> Any:
        return NoFirings()

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[ReadTransaction]:
        self.reads += 1
        async with super().read() as transaction:
            yield transaction


@pytest.fixture
def store(log: EmbeddedLog) -> CountingStore:
    made = CountingStore(log)
    made.write(1.0, 2.0, position=1)
    return made


@pytest.fixture
def long_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_cache, "MAX_AGE_S", LONG_S)
    monkeypatch.setattr(answer_cache, "OWN_AGE_S", LONG_S)


@pytest.fixture
def server(log: EmbeddedLog, store: CountingStore, long_age: None) -> Iterator[tuple[httpx.Client, int]]:
    with serving(log, store, commits=lambda: store.commits) as (client, _, api):
        store.reads = 0  # the start of the stream reads the positions
        yield client, api.bound_port


def closes(answer: httpx.Response) -> list[float]:
    return [bar["close"] for bar in answer.json()["bars"]]


def test_a_repeated_request_gets_the_same_bytes_without_a_read(
    server: tuple[httpx.Client, int], store: CountingStore
) -> None:
    client, _ = server
    answers = [client.get(PATH) for _ in range(4)]
    others = [client.get(PATH, headers={"X-Other": "parsed again"}), client.head(PATH)]
    assert store.reads == 1
    heads = [[item for item in answer.headers.multi_items() if item[0] != "date"] for answer in [*answers, *others]]
    assert all(head == heads[0] for head in heads)
    assert [answer.content for answer in answers] == [answers[0].content] * 4
    assert (others[0].content, others[1].content) == (answers[0].content, b"")
    metrics = client.get("/metrics").text
    assert "tickerplant_api_repeated_answers_total 5.0" in metrics
    assert 'tickerplant_api_requests_total{path="/v1/intraday/{symbol:path}",status="200"} 6.0' in metrics
    assert float(metrics.partition("\ntickerplant_api_kept_answer_bytes ")[2].split()[0]) > len(answers[0].content)


def test_a_commit_of_this_process_ends_answers(server: tuple[httpx.Client, int], store: CountingStore) -> None:
    client, _ = server
    assert closes(client.get(PATH)) == [1.0, 2.0]
    store.write(1.0, 3.0, position=2)
    store.commits += 1
    assert closes(client.get(PATH)) == [1.0, 3.0]


def test_an_answer_of_another_position_ends_answers(server: tuple[httpx.Client, int], store: CountingStore) -> None:
    client, _ = server
    first, other = client.get(PATH), "/v1/intraday/AAPL?limit=1"
    store.write(1.0, 3.0, position=2)
    assert closes(client.get(PATH)) == [1.0, 2.0], "another process has written, and no answer has shown it yet"
    assert closes(client.get(other)) == [3.0]
    assert closes(client.get(PATH)) == [1.0, 3.0]
    store.write(1.0, 4.0, position=3)
    assert client.get("/v1/status").status_code == 200, "the status shows the position too"
    assert closes(client.get(PATH)) == [1.0, 4.0]
    store.write(1.0, 5.0, position=4)
    assert client.get("/v1/alerts/firings").json()["position"] is not None, "so do fired alerts"
    assert closes(client.get(PATH)) == [1.0, 5.0]
    assert first.json()["position"] != client.get(PATH).json()["position"]


@pytest.mark.parametrize(("age", "commits"), [("MAX_AGE_S", None), ("OWN_AGE_S", 0)])
@pytest.mark.usefixtures("long_age")
def test_answers_end_with_their_age(
    log: EmbeddedLog, store: CountingStore, monkeypatch: pytest.MonkeyPatch, age: str, commits: int | None
) -> None:
    monkeypatch.setattr(answer_cache, age, 0.0)
    with serving(log, store, commits=lambda: commits) as (client, _, _):
        assert closes(client.get(PATH)) == [1.0, 2.0]
        store.write(1.0, 3.0, position=1)
        assert closes(client.get(PATH)) == [1.0, 3.0]


def test_errors_and_answers_about_the_plant_are_read_each_time(
    server: tuple[httpx.Client, int], store: CountingStore
) -> None:
    client, _ = server
    for path, status in (("/v1/intraday/NONE", 404), ("/v1/symbols", 200), ("/v1/intraday/AAPL?limit=0", 400)):
        reads = store.reads
        assert [client.get(path).status_code for _ in range(2)] == [status, status]
        assert store.reads == reads + (0 if status == 400 else 2 * (2 if status == 404 else 1))
    assert client.get("/metrics").text.partition("\ntickerplant_api_kept_answer_bytes ")[2].startswith("0.0")


@pytest.mark.parametrize(
    ("head", "is_known"),
    [
        (b"GET /v1/intraday/AAPL?limit=2 HTTP/1.1\r\nHost: localhost\r\n\r\n", True),
        (b"GET /v1/intraday/AAPL?limit=2 HTTP/1.1\r\nHost: localhost\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"HEAD /v1/intraday/AAPL?limit=2 HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
        (b"GET /v1/intraday/AAPL?limit=2 HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n", False),
        (b"GET /v1/intraday/AAPL?limit=2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", False),
        (
            b"GET /v1/intraday/AAPL?limit=2 HTTP/1.1\nHost: localhost\n\nGET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            False,
        ),
        (b"GET /v1/symbols HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
        (b"GET /v1/intraday/AAPL?limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
    ],
)
def test_only_plain_requests_with_kept_answers_become_known(
    server: tuple[httpx.Client, int], monkeypatch: pytest.MonkeyPatch, head: bytes, is_known: bool
) -> None:
    known: list[bytes] = []
    remember = repeated_requests.KnownRequest

    def count(key: Any) -> Any:
        known.append(key[1])
        return remember(key)

    monkeypatch.setattr(repeated_requests, "KnownRequest", count)
    _, port = server
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(PATIENCE.seconds(20))
            connection.sendall(head)
            assert connection.recv(9).startswith(b"HTTP/1.1 ")
    assert known == ([b"limit=2"] if is_known else [])


def test_a_request_with_another_host_is_checked_again(server: tuple[httpx.Client, int]) -> None:
    client, _ = server
    assert [client.get(PATH).status_code for _ in range(2)] == [200, 200]
    assert client.get(PATH, headers={"Host": "evil.example"}).status_code == 403


class SlowStore(CountingStore):
    """A store whose reads wait while `go` is not set."""

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[ReadTransaction]:
        async with super().read() as transaction:
            while not self.go.is_set():  # noqa: ASYNC110 - an event of another thread
                await asyncio.sleep(0.001)
            yield transaction


def connections(stack: contextlib.ExitStack, api: Api, count: int) -> list[socket.socket]:
    """Open connections that the stack closes."""
    address = ("127.0.0.1", api.bound_port)
    return [stack.enter_context(socket.create_connection(address, PATIENCE.seconds(20))) for _ in range(count)]


def answer(connection: socket.socket) -> bytes:
    """Receive one JSON answer; return its body."""
    received = b""
    while not received.endswith(b"]}"):
        received += connection.recv(1 << 16)
    return received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("is_kept", [True, False])
def test_connections_of_one_client_wait_for_one_read(
    log: EmbeddedLog, long_age: None, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    store, waits = SlowStore(log), list[GuardedHttp]()
    monkeypatch.setattr(GuardedHttp, "await_answer", lambda connection: waits.append(connection))
    store.write(1.0, 2.0, position=1)
    with (
        serving(log, store, commits=lambda: store.commits) as (_, _, api),
        contextlib.ExitStack() as stack,
    ):
        made = connections(stack, api, 4)
        store.reads = 0
        for connection in made:
            connection.sendall(HEAD)
            answer(connection)
        assert store.reads == 1
        store.write(1.0, 3.0, position=2)
        store.commits += 1
        store.go.clear()
        made[0].sendall(HEAD)
        until(lambda: store.reads == 2, "one connection asks", 20)
        for connection in made[1:]:
            connection.sendall(HEAD)
        until(lambda: len(waits) == 3, "the other connections wait", 20)
        assert [one.timeout_keep_alive_task for one in waits] == [None] * 3, "a wait is not an idle connection"
        made.pop().close()  # a connection that leaves while it waits
        until(lambda: [one in (one._waits_among or {}) for one in waits].count(False) == 1, "it is forgotten", 20)
        for connection in made[1:]:
            connection.sendall(HEAD)  # this request is held until the first request has its answer
        store.commits += 0 if is_kept else 1
        store.go.set()
        first = answer(made[0])
        for connection in made[1:]:
            received = b""
            while received.count(b"HTTP/1.1 200 OK") < 2 or not received.endswith(b"]}"):
                received += connection.recv(1 << 16)
            assert received.count(first) == 2
        assert b'"close":3.0' in first
        assert (store.reads == 2) is is_kept


def test_a_request_that_waits_is_answered_when_the_server_stops(
    log: EmbeddedLog, long_age: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, waits, ended = SlowStore(log), list[GuardedHttp](), list[GuardedHttp]()
    shutdown = GuardedHttp.shutdown

    def end(connection: GuardedHttp) -> None:
        shutdown(connection)
        ended.append(connection)
        if len(ended) == 2:
            store.go.set()

    monkeypatch.setattr(GuardedHttp, "await_answer", lambda connection: waits.append(connection))
    monkeypatch.setattr(GuardedHttp, "shutdown", end)
    monkeypatch.setattr(service, "SHUTDOWN_S", PATIENCE.seconds(20))
    store.write(1.0, 2.0, position=1)
    with contextlib.ExitStack() as stack:
        with serving(log, store, commits=lambda: store.commits) as (_, _, api):
            made = connections(stack, api, 2)
            for connection in made:
                connection.sendall(HEAD)
                answer(connection)
            store.write(1.0, 3.0, position=2)
            store.commits += 1
            store.reads = 0
            store.go.clear()
            made[0].sendall(HEAD)
            until(lambda: store.reads == 1, "one connection asks", 20)
            made[1].sendall(HEAD)
            until(lambda: len(waits) == 1, "the other connection waits", 20)
        for connection in made:
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")  # until the server closes it
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert [bar["close"] for bar in json.loads(body)["bars"]] == [1.0, 3.0]


def response(size: int, offset: int) -> PositionedResponse:
    made = PositionedResponse(bytes(size))
    made.position = Position("log", 1, {"topic": {0: offset}})
    return made


def scope(number: int) -> dict[str, Any]:
    return {"path": "/v1/ticks/A", "query_string": b"%d" % number, "route": None}


@pytest.mark.usefixtures("long_age")
def test_the_cache_is_bounded() -> None:
    cache = AnswerCache(lambda: 0)
    long = scope(0) | {"query_string": b"apikey=" + bytes(1_000_000)}
    cache.keep(long, cache.begin(), response(1, 1))
    assert cache.size_bytes > 1_000_000, "the bytes of the request count too"
    for number in range(100):
        cache.keep(scope(number), cache.begin(), response(1_000_000, 1))
        assert 1_000_000 < cache.size_bytes <= answer_cache.MAX_BYTES
    assert cache.find(("/v1/ticks/A", b"99")) is not None
    cache.keep(scope(100), cache.begin(), response(answer_cache.MAX_ANSWER_BYTES, 1))
    assert cache.find(("/v1/ticks/A", b"100")) is None


@pytest.mark.usefixtures("long_age")
def test_an_answer_whose_position_was_overtaken_is_not_kept() -> None:
    cache = AnswerCache(lambda: 0)
    old, new = cache.begin(), cache.begin()
    cache.keep(scope(2), new, response(1, 2))
    cache.keep(scope(1), old, response(1, 1))
    assert (cache.find(("/v1/ticks/A", b"1")), cache.size_bytes) == (None, 0)


def test_ended_answers_are_dropped_by_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = AnswerCache(lambda: 0)
    cache.keep(scope(1), cache.begin(), response(10, 1))
    assert cache.size_bytes > 10
    monkeypatch.setattr(answer_cache, "OWN_AGE_S", 0.0)
    cache.sweep()
    assert cache.size_bytes == 0


@pytest.mark.usefixtures("long_age")
def test_without_commits_no_answer_is_kept() -> None:
    cache = AnswerCache()
    cache.keep(scope(1), cache.begin(), response(1, 1))
    cache.keep(scope(2), cache.begin(), Response(b""))
    assert cache.find(("/v1/ticks/A", b"1")) is None

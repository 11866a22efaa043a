"""The sandbox over real sockets: faults that only a socket shows, its pages, its clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.waiting import PATIENCE
from tickerplant.core.times import HOUR_US, SECOND_US
from tickerplant.sandbox import Market, MarketSettings, SandboxPlace, SandboxSettings, running
from tickerplant.sandbox.endpoint import place_of
from tickerplant.system_clock import SystemClock, starting_at

MARKET = MarketSettings(("AAPL", "MSFT", "BTC/USD"), 300.0)
OPEN_US = 1_773_063_000_000_000  # 2026-03-09T13:30:00Z, a Monday


@pytest.fixture
def place() -> Iterator[SandboxPlace]:
    with running(SandboxSettings(MARKET)) as found:
        yield found


@pytest.fixture
def client(place: SandboxPlace) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=place.url, params={"apikey": "k"}, timeout=PATIENCE.seconds(30)) as found:
        yield found


def order(client: httpx.Client, do: str, **options: Any) -> None:
    client.get("/sandbox/orders", params={"do": do, **options}).raise_for_status()


def page(place: SandboxPlace, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (
        httpx.get(f"{place.url}/sandbox/{name}", timeout=PATIENCE.seconds(30)).raise_for_status().json()
    )
    return found


def streamed(place: SandboxPlace) -> dict[str, Any]:
    """Return what was counted of Twelve Data's stream."""
    found: dict[str, Any] = page(place, "counts")["streams"]["twelvedata"]
    return found


def price(client: httpx.Client) -> httpx.Response:
    return client.get("/price", params={"symbol": "AAPL"})


def test_connections_are_kept_and_posts_are_heard(client: httpx.Client) -> None:
    assert [price(client).status_code for _ in range(3)] == [200, 200, 200]
    parts = {"a": {"url": "/price?symbol=AAPL"}}
    assert "price" in client.post("/batch", json=parts).json()["data"]["a"]
    assert client.get("/nowhere").status_code == 404


def test_a_vendor_that_is_down_is_down_alone(client: httpx.Client) -> None:
    order(client, "down", vendor="twelvedata", how="reset", seconds=60)
    with pytest.raises(httpx.TransportError):
        price(client)
    assert client.get("/api/v3/ping").status_code == 200
    order(client, "down", vendor="twelvedata", status=502, seconds=60)
    assert price(client).status_code == 502
    order(client, "clear")
    assert price(client).status_code == 200
    counts = client.get("/sandbox/counts").json()["vendors"]["twelvedata"]
    assert (counts["requests"], counts["refused"]) == (3, 2)
    assert counts["statuses"] == {"0": 1, "200": 1, "502": 1}


def test_answers_break_off_come_slowly_or_cannot_be_read(client: httpx.Client) -> None:
    order(client, "malformed", how="truncated", seconds=60)
    with pytest.raises(httpx.RemoteProtocolError):
        price(client)
    order(client, "malformed", how="json", seconds=60)
    with pytest.raises(json.JSONDecodeError):
        price(client).json()
    order(client, "clear")
    order(client, "slow", by=0.3, seconds=60)
    began = time.monotonic()
    assert price(client).status_code == 200
    assert time.monotonic() - began >= 0.3


def test_orders_that_cannot_be_read_are_refused(client: httpx.Client) -> None:
    for query in ({"do": "nothing"}, {"do": "cancel"}, {"do": "mute", "vendor": "x"}):
        answer = client.get("/sandbox/orders", params=query)
        assert (answer.status_code, answer.json()["status"]) == (400, "error")
    order(client, "unknown", symbol="AAPL", seconds=60)
    assert price(client).status_code == 400
    assert client.get("/sandbox/orders").json()["in_force"][0]["symbol"] == "AAPL"


def test_what_was_asked_is_remembered_without_the_key(client: httpx.Client) -> None:
    price(client)
    found = client.get("/sandbox/requests", params={"vendor": "twelvedata"}).json()["requests"]
    assert [(each["path"], each["query"], each["credits"]) for each in found] == [("/price", {"symbol": "AAPL"}, 1)]
    assert client.get("/sandbox/requests", params={"vendor": "yahoo"}).json()["requests"] == []


def test_the_truth_can_be_asked_for(client: httpx.Client) -> None:
    now_us = client.get("/sandbox/clock").json()["now_us"]
    query: dict[str, Any] = {"symbol": "AAPL", "interval": "5m", "from_us": now_us - HOUR_US, "to_us": now_us}
    bars = client.get("/sandbox/bars", params=query).json()
    assert len(bars["time_us"]) == len(bars["close"]) == 12
    assert client.get("/sandbox/bars", params={**query, "symbol": "NIKK"}).status_code == 400
    assert client.get("/sandbox/bars", params={**query, "interval": "7m"}).status_code == 400
    assert client.get("/sandbox/actions", params={"symbol": "AAPL"}).json()["splits"]
    assert client.get("/sandbox/nowhere").status_code == 404


SUBSCRIBE = '{"action":"subscribe","params":{"symbols":"AAPL"}}'


async def receive_until(socket: ClientConnection, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE.seconds(20)):
        while True:
            message: dict[str, Any] = json.loads(await socket.recv())
            if wanted(message):
                return message


def is_price(message: dict[str, Any]) -> bool:
    return message["event"] == "price"


async def test_a_mute_socket_may_answer_heartbeats(place: SandboxPlace, client: httpx.Client) -> None:
    async with connect(f"{place.stream_url}?apikey=k", close_timeout=0.1) as socket:
        await socket.send(SUBSCRIBE)
        await receive_until(socket, is_price)
        order(client, "mute", vendor="twelvedata", heartbeats="yes", seconds=60)
        await socket.send('{"action":"heartbeat"}')
        await receive_until(socket, lambda message: message["event"] == "heartbeat")
        await asyncio.wait_for(await socket.ping(), PATIENCE.seconds(10))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.2)
        order(client, "mute", vendor="twelvedata", seconds=60)
        await socket.send('{"action":"heartbeat"}')
        pong = await socket.ping()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pong, 0.3)
        order(client, "clear")
        await receive_until(socket, is_price)
    counts = streamed(place)
    assert counts["swallowed"] > 0
    assert counts["sent"] > 0


async def test_one_connection_too_many_closes_the_oldest(place: SandboxPlace) -> None:
    sockets = [await connect(f"{place.stream_url}?apikey=k") for _ in range(4)]
    with pytest.raises(ConnectionClosed) as closed:
        await sockets[0].recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    for socket in sockets:
        await socket.close()


async def test_streams_are_refused_and_dropped_by_vendor(place: SandboxPlace, client: httpx.Client) -> None:
    with pytest.raises(InvalidStatus):
        await connect(f"{place.stream_url}?apikey=bad")
    with pytest.raises(InvalidStatus):
        await connect(place.stream_url.replace("price", "nothing") + "?apikey=k")
    yahoo = await connect(place.yahoo_stream_url)
    socket = await connect(f"{place.stream_url}?apikey=k")
    order(client, "down", vendor="twelvedata", seconds=60)
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    with pytest.raises(InvalidStatus):
        await connect(f"{place.stream_url}?apikey=k")
    await yahoo.send('{"subscribe":["AAPL"]}')
    assert json.loads(await yahoo.recv())["type"] == "pricing"
    await yahoo.close()


async def test_spoiled_prints_are_counted(place: SandboxPlace, client: httpx.Client) -> None:
    async with connect(f"{place.stream_url}?apikey=k") as socket:
        order(client, "duplicate", share=1, seconds=60)
        order(client, "volume", how="absent", share=1, seconds=60)
        await socket.send(SUBSCRIBE)
        first = await receive_until(socket, is_price)
        assert "day_volume" not in first
        assert await receive_until(socket, is_price) == first
        order(client, "garbage", vendor="twelvedata")
        with pytest.raises(json.JSONDecodeError):
            await receive_until(socket, lambda message: False)
    spoiled = streamed(place)["spoiled"]
    assert spoiled["duplicate"] > 0
    assert spoiled["volume"] > 0


async def test_an_hour_goes_by_in_seconds_and_the_script_with_it() -> None:
    settings = SandboxSettings(
        MarketSettings(("AAPL", "MSFT"), 5.0),
        clock=starting_at(OPEN_US, 600.0),
        script=((60.0, "do=429&kind=day&vendor=twelvedata&seconds=600"), (1_200.0, "do=disconnect")),
    )
    with running(settings) as place:
        heard: list[int] = []
        async with connect(f"{place.stream_url}?apikey=k") as socket:
            await socket.send(SUBSCRIBE)
            with contextlib.suppress(ConnectionClosed):
                while message := json.loads(await socket.recv()):
                    if is_price(message):
                        heard.append(message["timestamp"])
        first_us, last_us = heard[0] * SECOND_US, heard[-1] * SECOND_US
        assert OPEN_US <= first_us < last_us <= OPEN_US + 1_300 * SECOND_US
        assert last_us >= OPEN_US + 1_100 * SECOND_US
        assert heard == sorted(heard)
        prints = Market(settings.market).prints_of("AAPL", (heard[0] + 1) * SECOND_US, heard[-1] * SECOND_US)
        due = (prints.times_us // SECOND_US).tolist()
        first = heard.index(due[0])
        assert heard[first : first + len(due)] == due  # none of what was due is left out
        shown = page(place, "clock")
        assert SystemClock(shown["origin_us"], shown["epoch_us"], shown["speed"]) == place.clock
        taken = page(place, "orders")["taken"]
        assert taken == {"429": 1, "disconnect": 1}


def test_as_a_process_it_tells_where_it_is_and_what_time() -> None:
    command = [sys.executable, "-m", "tickerplant.sandbox"]
    options = ["--names", "AAPL", "--start", "2026-03-09T13:30:00", "--speed", "60", "--free-plans", "--chaos", "3"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            place = place_of(child.stdout.readline(), ("AAPL",))
            assert place.clock.origin_us == OPEN_US
            now_us = page(place, "clock")["now_us"]
            assert OPEN_US < now_us <= place.clock.now_us()
            answer = page(place, "counts")
            assert answer["vendors"] == {}
        finally:
            child.terminate()
    assert child.returncode == 0
    wrong = subprocess.run([*command, "--quota", "acme=5/day"], capture_output=True, text=True, check=False)
    assert "no vendor 'acme'" in wrong.stderr

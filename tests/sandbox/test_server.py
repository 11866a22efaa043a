"""The sandbox over real sockets: faults of connections, control routes, clock."""

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

from tests.sandbox.support import yahoo_stream_url
from tests.support.waiting import PATIENCE, eventually
from tickerplant.core.times import HOUR_US, SECOND_US
from tickerplant.sandbox import MarketSettings, SandboxEndpoint, SandboxSettings, SimulatedMarket, running
from tickerplant.sandbox.endpoint import parse_greeting
from tickerplant.system_clock import SystemClock, starting_at

MARKET = MarketSettings(("AAPL", "MSFT", "BTC/USD"), 300.0)
OPEN_US = 1_773_063_000_000_000  # 2026-03-09T13:30:00Z, a Monday


@pytest.fixture
def endpoint() -> Iterator[SandboxEndpoint]:
    with running(SandboxSettings(MARKET)) as found:
        yield found


@pytest.fixture
def client(endpoint: SandboxEndpoint) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url, params={"apikey": "k"}, timeout=PATIENCE.seconds(30)) as found:
        yield found


def fault(client: httpx.Client, do: str, **options: Any) -> None:
    client.get("/sandbox/faults", params={"do": do, **options}).raise_for_status()


def page(endpoint: SandboxEndpoint, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (
        httpx.get(f"{endpoint.url}/sandbox/{name}", timeout=PATIENCE.seconds(30)).raise_for_status().json()
    )
    return found


def streamed(endpoint: SandboxEndpoint) -> dict[str, Any]:
    """Return the counters of Twelve Data's stream."""
    found: dict[str, Any] = page(endpoint, "counts")["streams"]["twelvedata"]
    return found


def price(client: httpx.Client) -> httpx.Response:
    return client.get("/price", params={"symbol": "AAPL"})


def test_connections_are_persistent_and_post_bodies_are_read(client: httpx.Client) -> None:
    assert [price(client).status_code for _ in range(3)] == [200, 200, 200]
    parts = {"a": {"url": "/price?symbol=AAPL"}}
    assert "price" in client.post("/batch", json=parts).json()["data"]["a"]
    assert client.get("/nowhere").status_code == 404


def test_one_vendor_can_be_down_alone(client: httpx.Client) -> None:
    fault(client, "down", vendor="twelvedata", how="reset", seconds=60)
    with pytest.raises(httpx.TransportError):
        price(client)
    assert client.get("/api/v3/ping").status_code == 200
    fault(client, "down", vendor="twelvedata", status=502, seconds=60)
    assert price(client).status_code == 502
    fault(client, "clear")
    assert price(client).status_code == 200
    counts = client.get("/sandbox/counts").json()["vendors"]["twelvedata"]
    assert (counts["requests"], counts["refused"]) == (3, 2)
    assert counts["statuses"] == {"0": 1, "200": 1, "502": 1}


def test_responses_can_be_truncated_malformed_or_delayed(client: httpx.Client) -> None:
    fault(client, "malformed", how="truncated", seconds=60)
    with pytest.raises(httpx.RemoteProtocolError):
        price(client)
    fault(client, "malformed", how="json", seconds=60)
    with pytest.raises(json.JSONDecodeError):
        price(client).json()
    fault(client, "clear")
    fault(client, "slow", by=0.3, seconds=60)
    began = time.monotonic()
    assert price(client).status_code == 200
    assert time.monotonic() - began >= 0.3


def test_the_old_route_of_faults_still_works(client: httpx.Client) -> None:
    client.get("/sandbox/orders", params={"do": "429", "seconds": 60}).raise_for_status()
    assert price(client).status_code == 429


def test_invalid_faults_are_refused(client: httpx.Client) -> None:
    for query in ({"do": "nothing"}, {"do": "cancel"}, {"do": "mute", "vendor": "x"}):
        answer = client.get("/sandbox/faults", params=query)
        assert (answer.status_code, answer.json()["status"]) == (400, "error")
    fault(client, "unknown", symbol="AAPL", seconds=60)
    assert price(client).status_code == 400
    assert client.get("/sandbox/faults").json()["in_force"][0]["symbol"] == "AAPL"


def test_requests_are_logged_without_the_key(client: httpx.Client) -> None:
    price(client)
    found = client.get("/sandbox/requests", params={"vendor": "twelvedata"}).json()["requests"]
    assert [(each["path"], each["query"], each["credits"]) for each in found] == [("/price", {"symbol": "AAPL"}, 1)]
    assert client.get("/sandbox/requests", params={"vendor": "yahoo"}).json()["requests"] == []


def test_the_reference_bars_and_actions_are_served(client: httpx.Client) -> None:
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


def is_heartbeat(message: dict[str, Any]) -> bool:
    return message["event"] == "heartbeat"


async def swallow_more(endpoint: SandboxEndpoint) -> None:
    """Wait until the muted stream has suppressed further prices."""
    before = streamed(endpoint).get("swallowed", 0)
    await eventually(lambda: streamed(endpoint).get("swallowed", 0) > before + 3, "suppressed prices")


async def test_a_mute_stream_can_answer_heartbeats(endpoint: SandboxEndpoint, client: httpx.Client) -> None:
    async with connect(f"{endpoint.stream_url}?apikey=k", close_timeout=0.1) as socket:
        await socket.send(SUBSCRIBE)
        await receive_until(socket, is_price)
        fault(client, "mute", vendor="twelvedata", heartbeats="yes", seconds=60)
        await socket.send('{"action":"heartbeat"}')
        await receive_until(socket, is_heartbeat)
        await asyncio.wait_for(await socket.ping(), PATIENCE.seconds(10))
        await swallow_more(endpoint)
        await socket.send('{"action":"heartbeat"}')
        assert is_heartbeat(json.loads(await socket.recv())), "a muted stream sent a price"
        fault(client, "mute", vendor="twelvedata", seconds=60)
        await socket.send('{"action":"heartbeat"}')
        pong = await socket.ping()
        await swallow_more(endpoint)
        fault(client, "clear")
        await receive_until(socket, is_price)
        assert not pong.done(), "a mute stream answered a ping"
    counts = streamed(endpoint)
    assert counts["swallowed"] > 0
    assert counts["sent"] > 0


async def test_a_connection_above_the_limit_closes_the_oldest(endpoint: SandboxEndpoint) -> None:
    sockets = [await connect(f"{endpoint.stream_url}?apikey=k") for _ in range(4)]
    with pytest.raises(ConnectionClosed) as closed:
        await sockets[0].recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    for socket in sockets:
        await socket.close()


async def test_streams_are_refused_and_dropped_by_vendor(endpoint: SandboxEndpoint, client: httpx.Client) -> None:
    with pytest.raises(InvalidStatus):
        await connect(f"{endpoint.stream_url}?apikey=bad")
    with pytest.raises(InvalidStatus):
        await connect(endpoint.stream_url.replace("price", "nothing") + "?apikey=k")
    yahoo = await connect(yahoo_stream_url(endpoint))
    socket = await connect(f"{endpoint.stream_url}?apikey=k")
    fault(client, "down", vendor="twelvedata", seconds=60)
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    with pytest.raises(InvalidStatus):
        await connect(f"{endpoint.stream_url}?apikey=k")
    await yahoo.send('{"subscribe":["AAPL"]}')
    assert json.loads(await yahoo.recv())["type"] == "pricing"
    await yahoo.close()


async def test_affected_trades_are_counted(endpoint: SandboxEndpoint, client: httpx.Client) -> None:
    async with connect(f"{endpoint.stream_url}?apikey=k") as socket:
        fault(client, "duplicate", share=1, seconds=60)
        fault(client, "volume", how="absent", share=1, seconds=60)
        await socket.send(SUBSCRIBE)
        first = await receive_until(socket, is_price)
        assert "day_volume" not in first
        assert await receive_until(socket, is_price) == first
        fault(client, "garbage", vendor="twelvedata")
        with pytest.raises(json.JSONDecodeError):
            await receive_until(socket, lambda message: False)
    spoiled = streamed(endpoint)["spoiled"]
    assert spoiled["duplicate"] > 0
    assert spoiled["volume"] > 0


async def test_a_fast_clock_runs_stream_and_script() -> None:
    settings = SandboxSettings(
        MarketSettings(("AAPL", "MSFT"), 5.0),
        clock=starting_at(OPEN_US, 600.0),
        fault_script=((60.0, "do=429&kind=day&vendor=twelvedata&seconds=600"), (1_200.0, "do=disconnect")),
    )
    with running(settings) as endpoint:
        received: list[int] = []
        async with connect(f"{endpoint.stream_url}?apikey=k") as socket:
            await socket.send(SUBSCRIBE)
            with contextlib.suppress(ConnectionClosed):
                while message := json.loads(await socket.recv()):
                    if is_price(message):
                        received.append(message["timestamp"])
        first_us, last_us = received[0] * SECOND_US, received[-1] * SECOND_US
        assert OPEN_US <= first_us < last_us <= OPEN_US + 1_300 * SECOND_US
        assert last_us >= OPEN_US + 1_100 * SECOND_US
        assert received == sorted(received)
        trades = SimulatedMarket(settings.market).trades_of(
            "AAPL", (received[0] + 1) * SECOND_US, received[-1] * SECOND_US
        )
        due = (trades.times_us // SECOND_US).tolist()
        first = received.index(due[0])
        assert received[first : first + len(due)] == due  # no due trade is missing
        shown = page(endpoint, "clock")
        assert SystemClock(shown["origin_us"], shown["epoch_us"], shown["speed"]) == endpoint.clock
        taken = page(endpoint, "faults")["taken"]
        assert taken == {"429": 1, "disconnect": 1}


def test_the_process_prints_its_address_and_clock() -> None:
    command = [sys.executable, "-m", "tickerplant.sandbox"]
    options = [
        "--names",
        "AAPL",
        "--start",
        "2026-03-09T13:30:00",
        "--speed",
        "60",
        "--free-plans",
        "--fault-seed",
        "3",
    ]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            endpoint = parse_greeting(child.stdout.readline(), ("AAPL",))
            assert endpoint.clock.origin_us == OPEN_US
            now_us = page(endpoint, "clock")["now_us"]
            assert OPEN_US < now_us <= endpoint.clock.now_us()
            answer = page(endpoint, "counts")
            assert answer["vendors"] == {}
        finally:
            child.terminate()
    assert child.returncode == 0
    wrong = subprocess.run([*command, "--quota", "acme=5/day"], capture_output=True, text=True, check=False)
    assert "no vendor 'acme'" in wrong.stderr


def test_the_old_command_and_options_work_with_a_warning() -> None:
    options = ["--names", "AAPL", "--chaos", "3"]
    command = [sys.executable, "-m", "tickerplant.market_data.sandbox", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            endpoint = parse_greeting(child.stdout.readline(), ("AAPL",))
            assert page(endpoint, "orders") == page(endpoint, "faults")
        finally:
            child.terminate()
        assert child.stderr is not None
        warned = child.stderr.read().decode()
    assert "use python -m tickerplant.sandbox" in warned
    assert "use --fault-seed" in warned

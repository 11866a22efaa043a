"""The stream that polls trades, connected over sockets to an exchange controlled by a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.market_data.clients.binance import BinanceVendor, golden
from tests.market_data.support import embedded, read_all, rows
from tests.support.waiting import PATIENCE
from tickerplant.core import records
from tickerplant.core.arrow_values import times_of
from tickerplant.core.clock import Clock
from tickerplant.core.schemas import TICKS
from tickerplant.core.times import DAY_US, MILLISECOND_US
from tickerplant.market_data.clients.ccxt import stream as ccxt_stream
from tickerplant.market_data.clients.ccxt.exchange import Exchange
from tickerplant.market_data.clients.ccxt.stream import TradesStream
from tickerplant.market_data.service import MarketData, MarketDataConfig
from tickerplant.market_data.vendors.port import Connected, Disconnected, KeyRejected, StreamEvent, Ticks
from tickerplant.system_clock import starting_at

FIRST_US = 1_704_207_000_000_000
SPEED = 20.0
"""Clock seconds per real second. One clock second lasts 50 ms, the minimum pause between two polls."""


class Feed:
    """A running stream and its events."""

    def __init__(self, stream: TradesStream, clock: Clock) -> None:
        self.stream, self.clock = stream, clock
        self.queue: asyncio.Queue[StreamEvent] = asyncio.Queue(2)
        self.events: list[StreamEvent] = []
        self.ticks: list[Ticks] = []

    def now_ms(self) -> int:
        return self.clock.now_us() // MILLISECOND_US

    async def until(self, kind: type[Any], count: int = 1) -> Any:
        """Read events until `kind` occurs, and return that event. A `Ticks` event without a batch is skipped."""
        while True:
            async with asyncio.timeout(PATIENCE.seconds(20)):
                event = await self.queue.get()
            self.events.append(event)
            if isinstance(event, Ticks):
                self.ticks.append(event)
                if kind is Ticks and event.batch is None:
                    continue
            if isinstance(event, kind):
                return event

    async def ids(self, *wanted: int) -> None:
        """Read events until all these trades have arrived; check that no other trade arrived."""
        while not set(map(str, wanted)) <= set(self.found()):
            await self.until(Ticks)
        assert sorted(self.found()) == sorted(map(str, wanted))

    def found(self) -> list[str]:
        return [name for event in self.ticks if event.batch is not None for name in event.batch["trade_id"].to_pylist()]

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events if not isinstance(event, Ticks)]


@pytest.fixture
async def vendor() -> AsyncIterator[BinanceVendor]:
    async with BinanceVendor().serving() as found:
        yield found


@contextlib.asynccontextmanager
async def feed(vendor: BinanceVendor, *symbols: str, by_id: bool = True, speed: float = SPEED) -> AsyncIterator[Feed]:
    clock = starting_at(FIRST_US + DAY_US, speed)
    exchange = Exchange("binance", clock, vendor.url)
    stream = TradesStream(exchange, symbols or ("BTC/USDT",), "ccxt", clock)
    stream._by_id = by_id
    made = Feed(stream, clock)
    task = asyncio.create_task(stream.run(made.queue))
    try:
        yield made
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await exchange.close()


@pytest.mark.parametrize("by_id", [True, False])
async def test_each_trade_after_the_connection_is_delivered_once(vendor: BinanceVendor, by_id: bool) -> None:
    async with feed(vendor, "BTC/USDT", "ETH/USDT", by_id=by_id) as made:
        for at in range(5):
            vendor.trade("BTCUSDT", at, made.now_ms() - 500 + at)
        await made.until(Connected)
        assert not made.ticks
        wanted = []
        for at in range(10, 40):
            vendor.trade("BTCUSDT", at, made.now_ms(), 42_000 + at / 8, at / 4)
            vendor.trade("ETHUSDT", at + 100, made.now_ms(), 2_000, 3)
            wanted += [at, at + 100]
            await asyncio.sleep(0.01)
        await made.ids(*wanted)
        batch = pa.Table.from_batches([event.batch for event in made.ticks if event.batch is not None])
        batch.validate(full=True)
        assert batch.schema == TICKS
        first = next(row for row in batch.to_pylist() if row["trade_id"] == "12")
        assert [first[name] for name in ("symbol", "price", "size", "source", "flags")] == [
            "BTC/USDT", 42_001.5, 3.0, "ccxt", 0,
        ]  # fmt: skip
        assert made.kinds() == ["Connected"]
        # No trade is more than 1 s older than an earlier trade: the feed allows this disorder.
        newest = 0
        for event in made.ticks:
            if event.batch is not None:
                times = times_of(event.batch["time"])
                assert int(times.min()) > newest - 1_000_000
                newest = max(newest, int(times.max()))


async def test_trades_with_equal_times_are_delivered_separately(vendor: BinanceVendor) -> None:
    async with feed(vendor) as made:
        await made.until(Connected)
        now_ms = made.now_ms()
        for at in range(3):
            vendor.trade("BTCUSDT", 70 + at, now_ms)
        await made.ids(70, 71, 72)
        vendor.trade("BTCUSDT", 73, now_ms)
        await made.ids(70, 71, 72, 73)


@pytest.mark.parametrize("by_id", [True, False])
async def test_more_trades_than_a_page_are_delivered_without_a_gap(
    vendor: BinanceVendor, monkeypatch: pytest.MonkeyPatch, by_id: bool
) -> None:
    vendor.page = 60
    monkeypatch.setattr(ccxt_stream, "PAGE", 60)
    async with feed(vendor, by_id=by_id) as made:
        vendor.trade("BTCUSDT", 1, made.now_ms())
        await made.until(Connected)
        now_ms = made.now_ms()
        for at in range(1_000):
            vendor.trade("BTCUSDT", 100 + at, now_ms + at)
        await made.ids(*range(100, 1_100))
        assert made.kinds() == ["Connected"]


async def test_a_page_without_the_last_known_trade_is_a_gap(vendor: BinanceVendor) -> None:
    async with feed(vendor, by_id=False) as made:
        vendor.trade("BTCUSDT", 1, made.now_ms())
        await made.until(Connected)
        last_ms = made.now_ms()
        vendor.trade("BTCUSDT", 2, last_ms)
        await made.ids(2)
        vendor.trades["BTCUSDT"] = []
        vendor.trade("BTCUSDT", 50, made.now_ms())
        lost = await made.until(Disconnected)
        assert isinstance(lost, Disconnected)
        assert lost.since_us == last_ms * MILLISECOND_US
        assert "BTC/USDT are missing" in lost.reason
        again = await made.until(Connected)
        assert again.at_us > lost.since_us
        await made.ids(2, 50)


async def test_a_millisecond_with_more_trades_than_a_page_is_a_gap_and_the_stream_continues(
    vendor: BinanceVendor,
) -> None:
    vendor.page = 60
    async with feed(vendor, by_id=False) as made:
        vendor.trade("BTCUSDT", 1, made.now_ms())
        await made.until(Connected)
        now_ms = made.now_ms()
        for at in range(100):
            vendor.trade("BTCUSDT", 100 + at, now_ms)
        await made.until(Ticks)
        vendor.trade("BTCUSDT", 900, now_ms + 1)
        await made.until(Disconnected)
        await made.until(Connected)
        while "900" not in made.found():
            await made.until(Ticks)


async def test_trades_of_an_outage_are_delivered_after_it(vendor: BinanceVendor) -> None:
    async with feed(vendor) as made:
        vendor.trade("BTCUSDT", 1, made.now_ms())
        await made.until(Connected)
        vendor.trade("BTCUSDT", 2, made.now_ms())
        await made.ids(2)
        began_us = made.clock.now_us()
        vendor.failing["aggTrades"] = (503, {}, b"")
        vendor.trade("BTCUSDT", 3, made.now_ms())
        lost = await made.until(Disconnected)
        assert lost.since_us < began_us + 2_000_000
        del vendor.failing["aggTrades"]
        await made.until(Connected)
        vendor.trade("BTCUSDT", 4, made.now_ms())
        await made.ids(2, 3, 4)
        assert made.kinds() == ["Connected", "Disconnected", "Connected"]


async def test_a_short_failure_is_not_a_disconnection(vendor: BinanceVendor) -> None:
    async with feed(vendor, speed=3.0) as made:
        await made.until(Connected)
        vendor.failing["aggTrades"] = None
        vendor.trade("BTCUSDT", 2, made.now_ms())
        await vendor.until_asked("aggTrades", 3)
        del vendor.failing["aggTrades"]
        await made.ids(2)
        assert made.kinds() == ["Connected"]


async def test_symbols_that_the_exchange_does_not_list_are_rejected(vendor: BinanceVendor) -> None:
    async with feed(vendor, "AAA/USDT", "BTC/USDT") as made:
        await made.until(Connected)
        vendor.trade("BTCUSDT", 2, made.now_ms())
        await made.ids(2)
        assert [sorted(event.rejected) for event in made.ticks if event.rejected] == [["AAA/USDT"]]


@pytest.mark.parametrize("status", [401, 451])
async def test_an_exchange_that_rejects_the_client_is_retried(vendor: BinanceVendor, status: int) -> None:
    vendor.failing["aggTrades"] = (status, {}, golden("error_place"))
    async with feed(vendor, speed=200.0) as made:
        await made.until(KeyRejected)
        await made.until(KeyRejected)
        del vendor.failing["aggTrades"]
        await made.until(Connected)


async def test_the_stream_waits_for_the_retry_after_of_the_exchange(vendor: BinanceVendor) -> None:
    vendor.failing["aggTrades"] = (429, {"Retry-After": "30"}, golden("error_weight"))
    async with feed(vendor, speed=100.0) as made:
        await vendor.until_asked("aggTrades")
        asked_us = made.clock.now_us()
        del vendor.failing["aggTrades"]
        assert (await made.until(Connected)).at_us - asked_us > 25_000_000


async def test_a_trade_without_a_price_is_a_dead_letter(vendor: BinanceVendor) -> None:
    async with feed(vendor) as made:
        await made.until(Connected)
        vendor.trade("BTCUSDT", 2, made.now_ms())
        vendor.trade("BTCUSDT", 3, made.now_ms())
        vendor.trades["BTCUSDT"][0]["p"] = None
        await made.ids(3)
        dead = [row for event in made.ticks for row in event.dead]
        assert dead[0].reason == "a trade of BTC/USDT cannot be used: it has no price"


async def test_golden_trades_are_parsed(vendor: BinanceVendor) -> None:
    async with feed(vendor) as made:
        await made.until(Connected)
        vendor.failing["aggTrades"] = (200, {"Content-Type": "application/json"}, golden("aggTrades"))
        made.stream._symbols[0].last_ms = FIRST_US // 1_000
        await made.ids(26129, 26130)
        rows = [row for event in made.ticks if event.batch is not None for row in event.batch.to_pylist()]
        assert [(row["price"], row["size"]) for row in rows] == [(42000.1, 0.0047), (42000.2, 1.5)]
        assert {row["time"].isoformat() for row in rows} == {"2024-01-02T14:50:00.123000+00:00"}


async def test_the_log_has_every_trade_once_and_none_before_a_watermark(tmp_path: Path, vendor: BinanceVendor) -> None:
    clock = starting_at(FIRST_US + DAY_US, SPEED)
    symbols = ("BTC/USDT", "ETH/USDT")
    with embedded(tmp_path) as log:
        exchange = Exchange("binance", clock, vendor.url)
        service = MarketData(
            log, MarketDataConfig(symbols, "ccxt"), TradesStream(exchange, symbols, "ccxt", clock), clock=clock
        )
        stop = asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        try:
            async with asyncio.timeout(PATIENCE.seconds(30)):
                await vendor.until_asked("aggTrades", 4)
                for at in range(200):
                    vendor.trade(("BTCUSDT", "ETHUSDT")[at % 2], at, clock.now_us() // MILLISECOND_US, 1 + at)
                    await asyncio.sleep(0.005)
                asked = len(vendor.asked)
                await vendor.until_asked("aggTrades", asked + 8)
        finally:
            stop.set()
            await task
            await exchange.close()
        assert sorted(row["price"] for row in rows(log, records.Ticks)) == [1.0 + at for at in range(200)]
        for part in read_all(log).values():
            watermark_us = 0
            for record in part:
                if isinstance(record.header, records.Ticks):
                    assert int(times_of(record.batch["time"]).min()) >= watermark_us
                if isinstance(record.header, records.Ticks | records.Mark):
                    watermark_us = record.header.watermark_us

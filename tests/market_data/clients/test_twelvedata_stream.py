"""The stream of Twelve Data, connected over real sockets to a server controlled by a test."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.market_data.clients.manual_clock import ManualClock
from tests.market_data.clients.vendor import StreamVendor, price
from tests.support.waiting import PATIENCE, eventually
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sessions import Calendars
from tickerplant.core.times import micros_of
from tickerplant.market_data.clients.twelvedata import session as twelvedata_session
from tickerplant.market_data.clients.twelvedata.session import StreamConfig, StreamSettings
from tickerplant.market_data.clients.twelvedata.stream import TwelveDataStream
from tickerplant.market_data.vendors.port import Connected, Disconnected, KeyRejected, StreamEvent, Ticks
from tickerplant.system_clock import starting_at

ALWAYS = Calendars(Rules(calendars={"*": "24/7"}))
QUICK = StreamSettings(
    heartbeat_s=PATIENCE.seconds(0.1), mute_s=PATIENCE.seconds(0.4), silent_s=PATIENCE.seconds(0.5),
    backoff_first_s=0.02, backoff_max_s=0.1, steady_s=0.05,
)  # fmt: skip
KEY = "hush-hush"
HEARTBEAT = {"action": "heartbeat"}


class Client:
    """A running stream and its events."""

    def __init__(self, stream: TwelveDataStream, queue_events: int = 1_000) -> None:
        self.stream = stream
        self.queue: asyncio.Queue[StreamEvent] = asyncio.Queue(queue_events)
        self.events: list[StreamEvent] = []
        self.ticks: list[Ticks] = []

    def take(self) -> None:
        while not self.queue.empty():
            event = self.queue.get_nowait()
            self.events.append(event)
            if isinstance(event, Ticks):
                self.ticks.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def rows(self) -> list[dict[str, Any]]:
        return [row for event in self.ticks if event.batch is not None for row in event.batch.to_pylist()]

    async def until(self, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            self.take()
            return condition()

        await eventually(holds, f"more events than {self.events[-5:]}")


@contextlib.asynccontextmanager
async def client(vendor: StreamVendor, symbols: list[str], **changes: Any) -> AsyncIterator[Client]:
    options = {"settings": QUICK, "calendars": ALWAYS, **changes}
    found = Client(TwelveDataStream(StreamConfig(vendor.url, KEY, symbols, **options)))
    task = asyncio.create_task(found.stream.run(found.queue))
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def heartbeats(vendor: StreamVendor, td: Client, seconds: float) -> None:
    """Wait for so many heartbeats that `seconds` have passed by the client's clock."""
    count = vendor.received.count(HEARTBEAT) + 1 + math.ceil(seconds / QUICK.heartbeat_s)
    await td.until(lambda: vendor.received.count(HEARTBEAT) >= count)


async def test_the_stream_subscribes_and_delivers_prices() -> None:
    async with StreamVendor().serving() as vendor, client(vendor, ["AAPL", "EUR/USD"]) as td:
        await td.until(lambda: bool(td.ticks))
        await vendor.send(price("AAPL", 10.0, 100), price("AAPL", 11.0, 103), price("EUR/USD", 1.1))
        await td.until(lambda: len(td.rows()) == 3)
        assert [(row["symbol"], row["price"], row["size"]) for row in td.rows()] == [
            ("AAPL", 10.0, 0.0),
            ("AAPL", 11.0, 3.0),
            ("EUR/USD", 1.1, 0.0),
        ]
        assert isinstance(td.events[0], Connected)
        assert vendor.subscribed() == ["AAPL", "EUR/USD"]
        assert vendor.keys == [KEY]
        await td.until(lambda: {"action": "heartbeat"} in vendor.received)


async def test_few_messages_are_parsed_together_and_many_at_once() -> None:
    async with StreamVendor().serving() as vendor, client(vendor, ["AAPL"], longest_gather_s=0.05) as td:
        await td.until(lambda: bool(td.ticks))
        await vendor.send(price("AAPL", 1.0, 1))
        await td.until(lambda: len(td.rows()) == 1)
        assert td.ticks[-1].waited_s >= 0.05
    async with StreamVendor().serving() as vendor, client(vendor, ["AAPL"], longest_gather_s=3_600.0) as td:
        await eventually(lambda: vendor.subscribed() == ["AAPL"], "a subscription")
        await vendor.send(*(price("AAPL", float(number), number) for number in range(1, 101)))
        await td.until(lambda: len(td.rows()) == 100)
        arrivals = [row["received_at"] for row in td.rows()]
        assert arrivals == sorted(arrivals)
        assert micros_of(arrivals[-1]) == td.ticks[-1].received_us


async def test_a_warning_needs_no_reconnect_and_is_reported_once() -> None:
    async with StreamVendor().serving() as vendor:
        vendor.unknown = {"NIKK"}
        async with client(vendor, ["AAPL", "NIKK"]) as td:
            await td.until(lambda: any(event.rejected for event in td.ticks))
            for connection in list(vendor.connections):
                connection.transport.abort()
            await td.until(lambda: len(td.of(Connected)) == 2)
            await td.until(lambda: vendor.subscribed() == ["AAPL", "NIKK", "AAPL"])
            assert [event.rejected for event in td.ticks if event.rejected] == [{"NIKK": "symbol not found"}]
            assert [event.notes for event in td.ticks if event.notes] == []


async def test_a_rejected_symbol_is_subscribed_again_after_a_pause() -> None:
    async with StreamVendor().serving() as vendor:
        vendor.unknown = {"NIKK"}
        settings = StreamSettings(heartbeat_s=0.1, mute_s=5, rejected_s=0.3)
        async with client(vendor, ["AAPL", "NIKK"], settings=settings) as td:
            await td.until(lambda: vendor.subscribed().count("NIKK") == 2)
            vendor.unknown = set()
            await td.until(lambda: vendor.subscribed().count("NIKK") == 3)
            await vendor.send(price("NIKK"))
            await td.until(lambda: len(td.rows()) == 1)
            assert len(td.of(Connected)) == 1
            assert [event.rejected for event in td.ticks if event.rejected] == [{"NIKK": "symbol not found"}]


async def test_a_subscription_rejected_as_a_whole_is_noted_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    async with StreamVendor().serving() as vendor:

        def answer(message: dict[str, Any]) -> object:
            if message["action"] == "subscribe":
                return {"event": "subscribe-status", "status": "error", "messages": ["no such plan"], "success": None}
            return vendor.default_answer(message)

        vendor.answer = answer
        async with client(vendor, ["AAPL"]) as td:
            await td.until(lambda: any(event.notes for event in td.ticks))
            beats = [message for message in vendor.received if message["action"] == "heartbeat"]
            await td.until(lambda: vendor.received.count({"action": "heartbeat"}) >= len(beats) + 2)
            assert vendor.accepted == 1
            assert len(vendor.subscribed()) == 1
            assert td.ticks[0].notes[0] == "subscribe-status error: no such plan"


async def test_added_and_removed_symbols_apply_to_a_new_connection() -> None:
    async with StreamVendor().serving() as vendor, client(vendor, ["AAPL", "MSFT"]) as td:
        await td.until(lambda: bool(td.ticks))
        td.stream.subscribe(["IBM", "AAPL"])
        td.stream.unsubscribe(["MSFT"])
        await td.until(lambda: any(message["action"] == "unsubscribe" for message in vendor.received))
        assert vendor.subscribed() == ["AAPL", "MSFT", "IBM"]
        vendor.received.clear()
        for connection in list(vendor.connections):
            connection.transport.abort()
        await td.until(lambda: vendor.subscribed() == ["AAPL", "IBM"])
        td.stream.reset()
        await td.until(lambda: {"action": "reset"} in vendor.received)


async def test_many_symbols_are_subscribed_in_few_messages_below_a_megabyte() -> None:
    symbols = [f"SYM{at:05d}" for at in range(5_000)]
    async with StreamVendor().serving() as vendor, client(vendor, symbols) as td:
        await td.until(lambda: len(vendor.subscribed()) == 5_000)
        assert vendor.subscribed() == symbols
        assert len([message for message in vendor.received if message["action"] == "subscribe"]) == 3


async def test_the_client_sends_at_most_the_vendors_limit_of_messages_per_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(twelvedata_session, "CLIENT_EVENTS", 5)
    clock, settings = ManualClock(), StreamSettings(heartbeat_s=10_000, mute_s=10_000, silent_s=10_000)
    async with StreamVendor().serving() as vendor, client(vendor, ["AAPL"], settings=settings, clock=clock) as td:
        await td.until(lambda: bool(td.ticks))
        for at in range(11):
            td.stream.subscribe([f"S{at}"])
        for total in (5, 10):
            await td.until(lambda total=total: len(vendor.received) >= total)
            await td.until(lambda: 60.0 in clock.waits_s())
            assert len(vendor.received) == total
            clock.advance(60.0)
        await td.until(lambda: len(vendor.received) == 12)


async def test_a_price_is_matched_to_its_symbol_by_the_exchange() -> None:
    async with StreamVendor().serving() as vendor, client(vendor, ["RY:TSX", "BP:LSE", "BP:NYSE"]) as td:
        await td.until(lambda: bool(td.ticks))
        london, new_york = ({**price("BP"), "exchange": name} for name in ("LSE", "NYSE"))
        await vendor.send({**price("RY"), "exchange": "TSX"}, london, new_york)
        await td.until(lambda: len(td.rows()) == 3)
        assert [row["symbol"] for row in td.rows()] == ["RY:TSX", "BP:LSE", "BP:NYSE"]
        assert not any(event.rejected or event.notes for event in td.ticks)


async def test_a_connection_without_messages_is_disconnected_since_the_last_message() -> None:
    async with StreamVendor().serving() as vendor, client(vendor, ["AAPL"]) as td:
        await td.until(lambda: td.stream.session.heartbeats_answered)
        vendor.answer = lambda message: None
        await td.until(lambda: bool(td.of(Disconnected)))
        assert td.of(Disconnected)[0].reason == "mute"
        assert td.of(Disconnected)[0].since_us <= td.of(Ticks)[-1].received_us


async def test_pings_show_a_live_connection_if_heartbeats_are_not_answered() -> None:
    async with StreamVendor().serving() as vendor:
        vendor.answer = lambda message: None if message["action"] == "heartbeat" else vendor.default_answer(message)
        async with client(vendor, ["AAPL"]) as td:
            await td.until(lambda: len(td.of(Connected)) == 2)
            await heartbeats(vendor, td, 2.5 * QUICK.mute_s)
            assert [lost.reason for lost in td.of(Disconnected)] == ["mute"]


async def test_a_subscription_without_an_answer_is_a_dead_connection() -> None:
    async with StreamVendor().serving() as vendor:
        vendor.answer = lambda message: {"event": "heartbeat"} if message["action"] == "heartbeat" else None
        async with client(vendor, ["AAPL"]) as td:
            await td.until(lambda: bool(td.of(Disconnected)))
            assert td.of(Disconnected)[0].reason == "no answer to the subscription"


async def test_a_connection_without_any_prices_is_lost_and_one_silent_symbol_is_no_loss() -> None:
    clock, settings = ManualClock(), StreamSettings(heartbeat_s=10_000, mute_s=10_000, silent_s=1.0)
    async with (
        StreamVendor().serving() as vendor,
        client(vendor, ["AAPL", "MSFT"], settings=settings, clock=clock) as td,
    ):
        await td.until(lambda: bool(td.ticks))
        for at in range(60):  # each price arrives 0.1 s after the previous one
            await vendor.send(price("AAPL" if at < 10 else "MSFT"))
            await td.until(lambda at=at: len(td.rows()) == at + 1)
            clock.advance(0.1)
        assert not td.of(Disconnected)
        last_us = td.of(Ticks)[-1].received_us
        await td.until(lambda: clock.advance(0.25) > 0 and bool(td.of(Disconnected)))
        lost = td.of(Disconnected)[0]
        assert lost.reason == "no prices on a live connection"
        assert lost.since_us == last_us
        assert clock.now_us() - last_us >= 50 * 100_000, "silence of 50 mean times between prices is allowed"
        await td.until(lambda: clock.advance(0.25) > 0 and len(td.of(Connected)) == 2)


async def test_the_stream_reconnects_slowly_outside_all_sessions() -> None:
    night_us = micros_of(dt.datetime(2026, 6, 15, 3, 0, tzinfo=dt.UTC))
    settings = replace(QUICK, silent_s=PATIENCE.seconds(0.2), backoff_first_s=0.01, backoff_max_s=0.6)
    options = {"settings": settings, "calendars": Calendars(DEFAULT_RULES), "clock": starting_at(night_us, 1.0)}
    async with StreamVendor().serving() as vendor:
        with capture_logs() as logs:
            async with client(vendor, ["AAPL"], **options) as td:
                await td.until(lambda: bool(td.ticks))
                await vendor.send(*[price("AAPL")] * 20)
                await td.until(lambda: len(td.rows()) == 20)
                await heartbeats(vendor, td, 1.5 * QUICK.mute_s)
                assert not td.of(Disconnected), "a lack of prices outside sessions ended the connection"
                dropped_us = td.stream.session.clock.now_us()
                for connection in list(vendor.connections):
                    connection.transport.abort()
                await td.until(lambda: len(td.of(Connected)) == 2)
                assert td.of(Connected)[1].at_us - dropped_us >= 300_000, "the stream reconnected too early"
        assert [entry["log_level"] for entry in logs if "again" in entry["event"]] == ["info"]


async def test_the_size_after_a_drop_does_not_use_the_volume_before_it() -> None:
    async with StreamVendor().serving() as vendor, client(vendor, ["AAPL"]) as td:
        await td.until(lambda: bool(td.ticks))
        await vendor.send(price("AAPL", 1.0, 1_000), price("AAPL", 1.0, 1_010))
        await td.until(lambda: len(td.rows()) == 2)
        for connection in list(vendor.connections):
            connection.transport.abort()
        await td.until(lambda: len(td.of(Connected)) == 2 and bool(vendor.connections))
        await vendor.send(price("AAPL", 1.0, 300), price("AAPL", 1.0, 301))
        await td.until(lambda: len(td.rows()) == 4)
        assert [row["size"] for row in td.rows()] == [0, 10, 0, 1]


@pytest.mark.parametrize(
    ("status", "headers", "refused", "longest"),
    [
        (401, {}, True, True),
        (403, {}, True, True),
        (429, {"Retry-After": "9"}, False, True),
        (500, {}, False, False),
    ],
)
async def test_a_refused_handshake_lengthens_the_pause(
    status: int, headers: dict[str, str], refused: bool, longest: bool
) -> None:
    settings = StreamSettings(backoff_first_s=0.01, backoff_max_s=30.0)
    async with StreamVendor().serving() as vendor:
        vendor.status = (status, headers)
        with capture_logs() as logs:
            async with client(vendor, ["AAPL"], settings=settings) as td:
                await td.until(lambda: bool(logs))
                td.take()
        assert bool(td.of(KeyRejected)) == refused
        assert not td.of(Disconnected)
        assert logs[0]["reason"] == f"HTTP {status}"
        assert (logs[0]["pause_s"] >= 0.3) == longest
        assert KEY not in str(logs)


@pytest.mark.parametrize(
    ("code", "words", "slow"),
    [(1000, "closed by the vendor: 1000 bye", False), (1008, "3 connections", True), (1013, "1013 bye", True)],
)
async def test_the_reason_of_a_close_is_reported(code: int, words: str, slow: bool) -> None:
    settings = StreamSettings(backoff_first_s=0.01, backoff_max_s=30.0)
    async with StreamVendor().serving() as vendor:
        with capture_logs() as logs:
            async with client(vendor, ["AAPL"], settings=settings) as td:
                await td.until(lambda: bool(td.ticks))
                for connection in list(vendor.connections):
                    await connection.close(code, "bye")
                await td.until(lambda: bool(td.of(Disconnected) and logs))
        assert words in td.of(Disconnected)[0].reason
        assert (logs[0]["pause_s"] > 0.02) == slow


async def test_an_unreachable_vendor_is_retried_with_growing_pauses() -> None:
    with capture_logs() as logs:
        vendor = StreamVendor()
        vendor.url = "ws://127.0.0.1:1/"
        async with client(vendor, ["AAPL"]) as td:
            await td.until(lambda: len(logs) >= 5)
    assert not td.events
    pauses = [entry["pause_s"] for entry in logs]
    assert pauses[0] <= 0.02
    assert 0.05 <= pauses[4] <= 0.1


async def test_a_full_queue_loses_no_tick_and_ends_no_connection() -> None:
    async with StreamVendor().serving() as vendor:
        stream = TwelveDataStream(StreamConfig(vendor.url, KEY, ["AAPL"], settings=QUICK, calendars=ALWAYS))
        td = Client(stream, queue_events=1)
        task = asyncio.create_task(stream.run(td.queue))
        await td.until(lambda: bool(td.ticks))
        for at in range(40):
            await vendor.send(*[price("AAPL", float(at * 100 + k)) for k in range(100)])
        await asyncio.sleep(2.5 * QUICK.mute_s)  # the queue is not read for longer than a mute vendor is tolerated
        await td.until(lambda: len(td.rows()) == 4_000)
        await heartbeats(vendor, td, QUICK.heartbeat_s)
        assert not td.of(Disconnected)
        assert [row["price"] for row in td.rows()] == [float(at) for at in range(4_000)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_fast_clock_does_not_turn_a_short_real_delay_into_a_lost_connection() -> None:
    fast = starting_at(micros_of(dt.datetime(2026, 6, 15, 15, 0, tzinfo=dt.UTC)), 500.0)
    async with (
        StreamVendor().serving() as vendor,
        client(vendor, ["AAPL"], settings=StreamSettings(), clock=fast) as td,
    ):
        await td.until(lambda: bool(td.ticks))
        await vendor.send(*[price("AAPL")] * 20)
        await fast.sleep(10 * StreamSettings().mute_s)  # half a second by the machine's clock
        await vendor.send(price("AAPL"))
        await td.until(lambda: len(td.rows()) == 21)
        assert not td.of(Disconnected)


async def test_a_redirect_is_not_followed_and_the_key_is_not_sent() -> None:
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % elsewhere.encode())
        await writer.drain()
        writer.close()

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        followed.append(await reader.read(1_000))
        writer.close()

    followed: list[bytes] = []
    async with (
        await asyncio.start_server(other, "127.0.0.1") as there,
        await asyncio.start_server(answer, "127.0.0.1") as here,
    ):
        elsewhere = f"ws://127.0.0.1:{there.sockets[0].getsockname()[1]}/"
        url = f"ws://127.0.0.1:{here.sockets[0].getsockname()[1]}/"
        stream = TwelveDataStream(StreamConfig(url, "SECRET", ["AAPL"], settings=QUICK, calendars=ALWAYS))
        task = asyncio.create_task(stream.run(asyncio.Queue(2)))
        await eventually(lambda: len(asked) == 2, "another attempt")
        assert not task.done(), "the stream stopped after a redirect"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert "SECRET" in asked[0]
    assert not followed

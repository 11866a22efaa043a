"""A stream that floods: bounded memory and dead letters, a dropped connection, and no symbol that was not requested."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.market_data.clients.test_twelvedata_stream import client
from tests.market_data.clients.vendor import StreamVendor, price
from tests.market_data.support import embedded, headers, rows
from tests.market_data.test_service import ALWAYS, QUICK
from tests.support.waiting import eventually
from tickerplant.app import health
from tickerplant.app.component import DEGRADED
from tickerplant.core import records
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.schemas import DEADLETTER, TEXT, TICKS
from tickerplant.core.sessions import Calendars
from tickerplant.log.port import EventLog, TopicPartition
from tickerplant.market_data.clients.twelvedata import connection as connections
from tickerplant.market_data.clients.twelvedata import quotes
from tickerplant.market_data.clients.twelvedata.quotes import Price, QuoteDecoder, SubscribeStatus
from tickerplant.market_data.clients.twelvedata.session import StreamConfig
from tickerplant.market_data.clients.twelvedata.stream import TwelveDataStream
from tickerplant.market_data.clients.twelvedata.subscriptions import Subscriptions
from tickerplant.market_data.feed import flood
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.flood import MAX_DEAD_ROWS, DeadLetterBudget, FloodGuard
from tickerplant.market_data.service import FeedEvents, MarketData, MarketDataConfig
from tickerplant.market_data.vendors.port import Connected, StreamEvent, Ticks


def dead_letters(log: EventLog) -> list[dict[str, object]]:
    found = []
    for partition in range(log.partitions(DEADLETTER)):
        source = TopicPartition(DEADLETTER, partition)
        first, end = log.offsets(DEADLETTER)[source]
        for record in log.read_range(source, first, end):
            assert len(record.value) < 8 << 20
            found += records.decode(record.value).batch.to_pylist()
    return found


def service(log: EventLog, url: str, symbols: Sequence[str] = ("AAPL",)) -> MarketData:
    stream = TwelveDataStream(StreamConfig(url, "key", symbols, settings=QUICK, calendars=Calendars(ALWAYS)))
    return MarketData(log, MarketDataConfig(symbols), stream)


@pytest.mark.parametrize("kind", ["unwanted", "unreadable", "impossible", "answers"])
async def test_a_flood_is_dropped_counted_bounded_and_visible(tmp_path: Path, kind: str) -> None:
    now_s = int(time.time())
    far = 5_000_000_000  # in the year 2128
    messages = {
        "unwanted": lambda at: json.dumps(price(f"X{at}", 1.5, 10.0, now_s)),
        "unreadable": lambda at: f'{{"event":"price","symbol":"AAPL","price":"{at}{"x" * 60_000}"}}',
        "answers": lambda at: json.dumps(
            {"event": "subscribe-status", "status": "ok", ("success", "fails")[at % 2]: [{"symbol": "AAPL"}]}
        ),
        "impossible": lambda at: json.dumps(price("AAPL", 1.5, 10.0 + at, far)),
    }
    async with StreamVendor().serving() as vendor:
        with embedded(tmp_path, 1) as log:
            feed, stop = service(log, vendor.url), asyncio.Event()
            task = asyncio.create_task(feed.run(stop))
            await eventually(lambda: bool(vendor.received))
            await vendor.send(price("AAPL", 1.5, 10.0, now_s))
            await eventually(lambda: feed.counts.ticks == 1 or task.done())
            make = messages[kind]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(flood, "LAST_PAUSE_S", 3_600.0)
                patch.setattr(flood, "FIRST_PAUSE_S", 3_600.0)
                for begin in range(0, 3_000, 250):
                    if not vendor.connections:
                        break
                    await asyncio.gather(
                        vendor.send(*[make(at) for at in range(begin, begin + 250)]), return_exceptions=True
                    )
                await eventually(lambda: feed.counts.floods == 1 or task.done())
                await eventually(
                    lambda: task.done() or any(isinstance(header, records.Down) for header in headers(log))
                )
            [trouble] = health.trouble_health(log, time.time_ns() // 1_000)
            assert (trouble.name, trouble.state) == ("vendor of twelvedata", DEGRADED)
            assert "messages in" in trouble.sentence
            stop.set()
            await task
            [down] = [header for header in headers(log) if isinstance(header, records.Down)]
            assert down.reason.startswith("flood: ")
            letters = dead_letters(log)
            assert {row["symbol"] for row in rows(log, records.Ticks)} == {"AAPL"}
            if kind == "unwanted":
                assert feed.counts.unwanted >= 1_000
                assert len(letters) == 100, "the first print of a hundred symbols"
            elif kind == "answers":
                assert letters == []
            else:
                assert feed.counts.dead >= 1_000
                assert len(letters) <= MAX_DEAD_ROWS + 1
            assert all(len(row["payload"]) <= flood.MAX_PAYLOAD_BYTES for row in letters)  # type: ignore[arg-type]
            assert FeedEvents.of(feed.counts).floods == 1


async def test_a_plug_in_cannot_store_symbols_that_were_not_requested(tmp_path: Path) -> None:
    now_us = time.time_ns() // 1_000
    names = [f"S{at}" for at in range(50)] + ["AAPL"]

    class Plugin:
        async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
            await out.put(Connected(now_us))
            await out.put(Ticks(now_us, _ticks(["AAPL", "AAPL"], now_us), messages=2))
            await out.put(Ticks(now_us, _ticks(names, now_us), messages=len(names)))
            await asyncio.Event().wait()

    with embedded(tmp_path, 1) as log:
        feed, stop = MarketData(log, MarketDataConfig(["AAPL"], "plug"), Plugin()), asyncio.Event()
        task = asyncio.create_task(feed.run(stop))
        await eventually(lambda: feed.counts.unwanted == 50 or task.done())
        stop.set()
        await task
        assert [row["symbol"] for row in rows(log, records.Ticks)] == ["AAPL"] * 3
        assert feed.counts.floods == 0, "fifty are no flood"


def _ticks(names: Sequence[str], at_us: int) -> pa.RecordBatch:
    count = len(names)
    symbols = pa.array(names, pa.utf8()).dictionary_encode().cast(TEXT)
    times = timestamps(np.full(count, at_us, np.int64))
    arrays = [
        times, symbols, pa.array(np.full(count, 1.5)), pa.array(np.full(count, 1.0)),
        pa.array(["plug"] * count, pa.utf8()).dictionary_encode().cast(TEXT), pa.nulls(count, pa.utf8()),
        pa.array(np.zeros(count, np.uint16)), times,
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=TICKS)


async def test_one_connection_holds_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    # While the writer is behind, the socket is not read once the gathered messages have `GATHER_BYTES`.
    held: list[int] = []
    real = connections.Connection._on_messages

    def observed(self: connections.Connection, texts: list[bytes]) -> None:
        real(self, texts)
        held.append(self._gathered_bytes)

    monkeypatch.setattr(connections.Connection, "_on_messages", observed)
    monkeypatch.setattr(connections, "GATHER_BYTES", 1 << 20)
    text = json.dumps({"event": "other", "text": "x" * 60_000})
    async with StreamVendor().serving() as vendor, client(vendor, ["AAPL"], settings=QUICK) as td:
        await td.until(lambda: bool(vendor.received))
        td.queue = asyncio.Queue(1)
        sending = asyncio.create_task(vendor.send(*[text] * 400))
        await eventually(lambda: sum(held) > 2 << 20)
        assert max(held) < (1 << 20) + 600_000, "one read has at most 256 kB, and completes at most one message"
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def test_the_budget_keeps_a_sample_of_each_minute() -> None:
    budget = DeadLetterBudget()
    row = DeadRow("no", b"x" * 60_000)
    kept = budget.take([row] * 700, 0.0) + budget.take([row] * 700, 1.0) + budget.take([row] * 700, 59.0)
    assert len(kept) == MAX_DEAD_ROWS + 1
    assert {len(one.payload) for one in kept} == {flood.MAX_PAYLOAD_BYTES}
    assert "4,096 of 60,000 bytes" in kept[0].reason
    assert "more are counted only" in kept[-1].reason
    assert budget.dropped == 2_100 - MAX_DEAD_ROWS
    assert len(budget.take([row] * 5, 60.0)) == 5
    assert len(budget.take([row] * 5, 10.0)) == 5, "a clock that was set back begins a new minute"


def test_most_messages_must_be_unusable_and_many_for_a_flood() -> None:
    assert FloodGuard().observe(999, 0, 0.0) is None
    assert FloodGuard().observe(1_000, 1_000, 0.0) is None, "half of the messages are prints"
    guard = FloodGuard()
    assert guard.observe(600, 10, 0.0) is None
    assert guard.observe(600, 10, 61.0) is None, "another minute"
    assert guard.observe(600, 10, 62.0) == "flood: 1,200 of 1,220 messages in 1 s were unusable"


def test_the_pause_after_a_flood_doubles_up_to_ten_minutes_and_is_short_again_after_an_hour() -> None:
    guard = FloodGuard()
    assert [guard.pause_s(at * 700.0) for at in range(7)] == [30, 60, 120, 240, 480, 600, 600]
    assert guard.pause_s(6 * 700.0 + 3_601) == 30


def test_any_number_of_spellings_of_a_symbol_is_accepted_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotes, "_ALIASES", 100)
    decoder = QuoteDecoder(wanted_only=True)
    decoder.add_symbols(["AAPL", "RY:TSX"])
    prices = [Price(event="price", symbol=" " * at + "aapl", price=1.0, timestamp=1.6e9) for at in range(300)]
    prices.append(Price(event="price", symbol="RY", exchange="TSX", price=1.0, timestamp=1.6e9))
    columns, dead = decoder.columns(prices)
    assert (len(columns.codes), dead, decoder.take_unwanted()) == (301, [], 0)
    assert len(decoder._codes) < 110


def test_an_answer_with_many_names_is_applied_once_per_name() -> None:
    subscriptions = Subscriptions([f"S{at}" for at in range(2_000)], Calendars(ALWAYS), 60.0)
    names = tuple((f"X{at}", "no") for at in range(20_000))
    rejected, notes = subscriptions.apply(SubscribeStatus("subscribe-status", "warning", (), names), 0.0)
    assert rejected == {}
    assert len(notes) <= 20


def test_a_symbol_that_is_removed_and_added_again_is_reported_again() -> None:
    subscriptions = Subscriptions(["A", "B"], Calendars(ALWAYS), 60.0)
    refusal = SubscribeStatus("subscribe-status", "warning", (), (("A", "no"), ("B", "no")))
    assert subscriptions.apply(refusal, 0.0)[0] == {"A": "no", "B": "no"}
    assert subscriptions.apply(refusal, 1.0)[0] == {}
    subscriptions.remove(["A"])
    subscriptions.add(["A"])
    assert subscriptions.apply(refusal, 2.0)[0] == {"A": "no"}
    subscriptions.clear()
    subscriptions.add(["A", "B"])
    assert subscriptions.apply(refusal, 3.0)[0] == {"A": "no", "B": "no"}

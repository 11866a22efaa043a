"""The market data service on a real log, connected to the sandbox or a scripted vendor over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.market_data.clients.vendor import StreamVendor, price
from tests.market_data.support import embedded, headers, read_all, rows
from tests.support.waiting import PATIENCE, eventually
from tickerplant.core import records, schemas
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendars
from tickerplant.log.port import EventLog
from tickerplant.market_data.clients.twelvedata.client import provider
from tickerplant.market_data.clients.twelvedata.session import StreamConfig, StreamSettings
from tickerplant.market_data.clients.twelvedata.stream import TwelveDataStream
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.service import MARK_EVERY_S, MarketData, MarketDataConfig
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import BarsRequest, ProviderContext
from tickerplant.sandbox import MarketSettings, SandboxEndpoint, SandboxSettings, running
from tickerplant.system_clock import starting_at

SYMBOLS = ("AAPL", "MSFT", "EUR/USD")
QUICK = StreamSettings(
    heartbeat_s=PATIENCE.seconds(0.2), mute_s=PATIENCE.seconds(0.6), backoff_first_s=0.05, backoff_max_s=0.2
)
ALWAYS = Rules(calendars={"*": "24/7"})


@pytest.fixture
def endpoint() -> Iterator[SandboxEndpoint]:
    with running(SandboxSettings(MarketSettings(SYMBOLS, 300.0))) as found:
        yield found


def make(log: EventLog, endpoint: SandboxEndpoint, **changes: object) -> MarketData:
    """Return a service whose feed is the stream of the sandbox. `changes` replace arguments of its configuration."""
    symbols = changes.pop("symbols", SYMBOLS)
    key = str(changes.pop("key", "secret-key"))
    url = str(changes.pop("stream_url", endpoint.stream_url))
    on_gap = changes.pop("on_gap", None)
    config = MarketDataConfig(symbols, **changes)  # type: ignore[arg-type]
    stream = TwelveDataStream(StreamConfig(url, key, config.symbols, settings=QUICK, calendars=Calendars(ALWAYS)))
    return MarketData(log, config, stream, on_gap=on_gap)  # type: ignore[arg-type]


async def work(service: MarketData, until: Callable[[MarketData], bool]) -> MarketData:
    """Run the service until `until(service)` is true, then stop and return it."""
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(stop))
    await eventually(lambda: until(service) or task.done(), "the service's work")
    stop.set()
    await task
    return service


async def order(endpoint: SandboxEndpoint, what: str, seconds: float = 1.0) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE.seconds(30)) as client:
        (await client.get(f"{endpoint.url}/sandbox/faults", params={"do": what, "seconds": seconds})).raise_for_status()


async def test_prints_arrive_between_start_and_down(tmp_path: Path, endpoint: SandboxEndpoint) -> None:
    with embedded(tmp_path) as log:
        service = await work(make(log, endpoint), lambda s: s.counts.ticks > 200)
        found = rows(log, records.Ticks)
        assert len(found) == service.counts.ticks
        assert {row["symbol"] for row in found} == set(SYMBOLS)
        assert {row["time"].microsecond for row in found} == {0}
        assert sum(row["size"] for row in found if row["symbol"] == "AAPL") > 0
        for part in read_all(log).values():
            headers = [record.header for record in part]
            assert isinstance(headers[0], records.Start)
            assert headers[0].live
            assert isinstance(headers[-1], records.Down)
            for header in headers:
                if isinstance(header, records.Ticks | records.Mark):
                    assert header.watermark_us <= header.sent_at_us


async def test_no_tick_is_older_than_an_earlier_watermark(tmp_path: Path, endpoint: SandboxEndpoint) -> None:
    with embedded(tmp_path) as log:
        await work(make(log, endpoint), lambda s: s.counts.ticks > 900)
        for part in read_all(log).values():
            watermark_us = 0
            for record in part:
                if isinstance(record.header, records.Ticks):
                    assert min(t.value for t in record.batch["time"]) >= watermark_us
                watermark_us = max(watermark_us, getattr(record.header, "watermark_us", 0))


async def test_a_dropped_connection_is_reopened_and_its_gap_is_recorded(
    tmp_path: Path, endpoint: SandboxEndpoint
) -> None:
    with embedded(tmp_path, 1) as log:
        service, stop = make(log, endpoint), asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        await eventually(lambda: service.counts.ticks > 50)
        await order(endpoint, "disconnect")
        await eventually(lambda: service.counts.connects == 2)
        before = service.counts.ticks
        await eventually(lambda: service.counts.ticks > before + 50)
        stop.set()
        await task
        control = [h for h in headers(log) if isinstance(h, records.Start | records.Down)]
        assert [type(h) for h in control] == [records.Start, records.Down, records.Start, records.Down]
        assert control[2].hole  # type: ignore[union-attr]
        assert not control[0].hole  # type: ignore[union-attr]


async def test_a_mute_vendor_is_down_since_its_last_message(tmp_path: Path, endpoint: SandboxEndpoint) -> None:
    with embedded(tmp_path, 1) as log:
        service, stop = make(log, endpoint), asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        await eventually(lambda: service.counts.ticks > 50)
        await order(endpoint, "mute", 2.5 * QUICK.mute_s)
        muted_us = time.time_ns() // 1_000
        await eventually(lambda: service.counts.losses > 0)
        await eventually(lambda: service.counts.connects > 1)
        before = service.counts.ticks
        await eventually(lambda: service.counts.ticks > before)
        stop.set()
        await task
        down = next(h for h in headers(log) if isinstance(h, records.Down))
        assert down.since_us <= muted_us + QUICK.heartbeat_s * 1_000_000
        assert down.sent_at_us >= down.since_us + 500_000


async def test_an_unreadable_message_becomes_a_dead_letter_and_the_stream_continues(
    tmp_path: Path, endpoint: SandboxEndpoint
) -> None:
    with embedded(tmp_path, 1) as log:
        service, stop = make(log, endpoint), asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        await eventually(lambda: service.counts.ticks > 50)
        await order(endpoint, "garbage")
        await eventually(lambda: service.counts.dead == 1)
        before = service.counts.ticks
        await eventually(lambda: service.counts.ticks > before)
        assert service.counts.connects == 1
        stop.set()
        await task
        (dead,) = rows(log, records.Dead, schemas.DEADLETTER)
        assert dead["payload"] == b"{oops"


async def test_a_rejected_symbol_is_not_expected_and_needs_no_reconnect(
    tmp_path: Path, endpoint: SandboxEndpoint
) -> None:
    with embedded(tmp_path, 1) as log:
        service = await work(make(log, endpoint, symbols=("AAPL", "NIKK")), lambda s: s.counts.ticks > 50)
        assert service.counts.connects == 1
        last = [r for r in read_all(log)[0] if isinstance(r.header, records.Start)][-1]
        assert last.batch["symbol"].to_pylist() == ["AAPL"]


async def test_the_watermark_of_a_feed_without_ticks_follows_the_clock(tmp_path: Path) -> None:
    with (
        running(SandboxSettings(MarketSettings(("AAPL",), 0.001))) as endpoint,
        embedded(tmp_path, 1) as log,
    ):
        began_us = time.time_ns() // 1_000
        service = make(log, endpoint, symbols=("AAPL",), quiet_slack_us=500_000)
        await work(service, lambda s: s.counts.watermark_us > began_us)
        assert any(isinstance(h, records.Mark) for h in headers(log))


async def test_each_partition_of_a_busy_feed_receives_marks_in_turn(
    tmp_path: Path, endpoint: SandboxEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[list[int]] = []
    marked_s: list[float] = []
    mark = FeedWriter.mark

    def noted(writer: FeedWriter, watermark_us: int, *, partitions: Sequence[int]) -> bool:
        turns.append(list(partitions))
        marked_s.append(time.monotonic())
        return mark(writer, watermark_us, partitions=partitions)

    monkeypatch.setattr(FeedWriter, "mark", noted)
    with embedded(tmp_path, 4) as log:
        began_s = time.monotonic()
        await work(make(log, endpoint), lambda s: len(turns) >= 9 and s.counts.ticks > 0)
        first = turns[0][0]
        assert turns == [[(first + at) % 4] for at in range(len(turns))], "each turn marks the next partition"
        assert len(turns) <= (marked_s[-1] - began_s) / (MARK_EVERY_S / 4), "at most one mark per partition and second"
        marks = [[h for h in headers(log, p) if isinstance(h, records.Mark)] for p in range(4)]
        assert min(map(len, marks)) >= 2


async def test_a_rejected_symbol_is_expected_after_its_first_tick(tmp_path: Path) -> None:
    async with StreamVendor().serving() as vendor:
        vendor.unknown = {"NIKK"}
        with embedded(tmp_path, 1) as log:
            stream = TwelveDataStream(
                StreamConfig(vendor.url, "k", ["AAPL", "NIKK"], settings=QUICK, calendars=Calendars(ALWAYS))
            )
            service, stop = MarketData(log, MarketDataConfig(("AAPL", "NIKK")), stream), asyncio.Event()
            task = asyncio.create_task(service.run(stop))
            await eventually(lambda: service.counts.rejected == 1)
            await vendor.send(price("AAPL"))
            await eventually(lambda: service.counts.ticks == 1)
            assert service.counts.rejected == 1
            await vendor.send(price("NIKK"))
            await eventually(lambda: service.counts.rejected == 0)

            def starts() -> list[list[str]]:
                found = [r for r in read_all(log).get(0, []) if isinstance(r.header, records.Start)]
                return [record.batch["symbol"].to_pylist() for record in found]

            await eventually(lambda: len(starts()) > 2)  # the counter changes before the record is written
            stop.set()
            await task
            assert starts() == [["AAPL", "NIKK"], ["AAPL"], ["AAPL", "NIKK"]]


async def test_a_fast_clock_changes_neither_the_real_rate_of_marks_nor_the_order_of_watermarks(tmp_path: Path) -> None:
    speed = 60.0
    clock = starting_at(1_767_700_000_000_000, speed)
    began_us = clock.now_us()
    async with StreamVendor().serving() as vendor:
        with embedded(tmp_path, 4) as log:
            symbols = [f"S{at}" for at in range(8)]
            stream = TwelveDataStream(StreamConfig(vendor.url, "k", symbols, clock=clock, calendars=Calendars(ALWAYS)))
            service = MarketData(log, MarketDataConfig(symbols), stream, clock=clock)
            stop = asyncio.Event()
            task = asyncio.create_task(service.run(stop))
            await eventually(lambda: service.counts.connected)

            async def send() -> None:
                while True:
                    now_s = clock.now_us() // 1_000_000
                    await vendor.send(*[price(symbol, second=now_s) for symbol in symbols])
                    await asyncio.sleep(0.02)

            async def are_all_marked_after(watermark_us: int) -> bool:
                found = await asyncio.to_thread(read_all, log)
                marks = [[r.header for r in part if isinstance(r.header, records.Mark)] for part in found.values()]
                return len(found) == 4 and all(part and part[-1].watermark_us > watermark_us for part in marks)

            sender = asyncio.create_task(send())
            await eventually(lambda: are_all_marked_after(began_us), "marks of a busy feed")
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            last_us = clock.now_us()
            await eventually(lambda: are_all_marked_after(last_us), "marks by the clock")
            stop.set()
            await task
            for part in read_all(log).values():
                marks = [r.header for r in part if isinstance(r.header, records.Mark)]
                real_s = (marks[-1].sent_at_us - began_us) / speed / 1e6
                assert 2 <= len(marks) <= 4 * real_s + 2
                assert marks[-1].sent_at_us - marks[-1].watermark_us >= 0.2 * speed * 1e6
                watermark_us = 0
                for record in part:
                    if isinstance(record.header, records.Ticks):
                        assert min(t.value for t in record.batch["time"]) >= watermark_us
                    watermark_us = max(watermark_us, getattr(record.header, "watermark_us", 0))


async def test_lag_and_skew_of_the_vendors_clock_are_measured(tmp_path: Path) -> None:
    clock = starting_at(1_767_700_000_500_000, 1.0)
    async with StreamVendor().serving() as vendor:
        with embedded(tmp_path, 1) as log:
            stream = TwelveDataStream(StreamConfig(vendor.url, "k", ["AAPL"], clock=clock, calendars=Calendars(ALWAYS)))
            service, stop = (
                MarketData(log, MarketDataConfig(("AAPL",)), stream, clock=clock),
                asyncio.Event(),
            )
            task = asyncio.create_task(service.run(stop))
            await eventually(lambda: service.counts.connected)
            await vendor.send(price("AAPL", second=1_767_700_000 - 8))
            await eventually(lambda: service.counts.ticks == 1)
            assert 8_000_000 <= service.counts.lag_us < 20_000_000
            assert service.counts.skew_us == 0
            await vendor.send(price("AAPL", second=1_767_700_000 + 30))
            await eventually(lambda: service.counts.ticks == 2)
            assert 15_000_000 < service.counts.skew_us <= 29_500_000
            assert service.counts.watermark_us <= clock.now_us()
            stop.set()
            await task


async def test_a_spent_quota_and_a_bad_key_raise_different_errors(endpoint: SandboxEndpoint) -> None:
    async def ask(key: str) -> None:
        vendor = provider(ProviderContext("twelvedata", key, url=endpoint.url))
        try:
            await vendor.bars(BarsRequest(["AAPL"], "1m", 0, 60_000_000))
        finally:
            await vendor.close()

    with pytest.raises(errors.BadKey):
        await ask("bad")
    await order(endpoint, "429", 5)
    with pytest.raises(errors.QuotaSpent):
        await ask("good")


async def test_a_key_is_in_no_log_and_no_output(
    endpoint: SandboxEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "secret-key" not in repr(ProviderContext("twelvedata", "secret-key"))
    with embedded(tmp_path, 1) as log:
        service = make(log, endpoint, stream_url=endpoint.stream_url.replace("quotes", "nowhere"))
        stop = asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        printed: list[str] = []

        def attempts() -> int:
            printed.extend(capsys.readouterr())
            return "".join(printed).count("connecting again")

        await eventually(lambda: attempts() >= 2, "two refused connections")
        stop.set()
        await task
        assert "secret-key" not in str(read_all(log))
    printed.extend(capsys.readouterr())
    assert "secret-key" not in "".join(printed)


async def test_a_gap_is_reported_after_the_feed_has_reconnected(tmp_path: Path, endpoint: SandboxEndpoint) -> None:
    gaps: list[tuple[int, int, Sequence[str]]] = []

    def missed(*gap: Any) -> None:
        gaps.append(gap)

    with embedded(tmp_path, 1) as log:
        service, stop = make(log, endpoint, on_gap=missed), asyncio.Event()
        task = asyncio.create_task(service.run(stop))
        await eventually(lambda: service.counts.ticks > 50)
        assert gaps == []
        await order(endpoint, "disconnect")
        await eventually(lambda: len(gaps) == 1)
        before = service.counts.ticks
        await eventually(lambda: service.counts.ticks > before)
        stop.set()
        await task
        down, *_ = [h for h in headers(log) if isinstance(h, records.Down)]
        starts = [h for h in headers(log) if isinstance(h, records.Start)]
        assert gaps[0] == (down.since_us, starts[1].from_us, list(SYMBOLS))
        stopped = [h for h in headers(log) if isinstance(h, records.Mark | records.Ticks)][-1].watermark_us
        await work(make(log, endpoint, on_gap=missed), lambda s: len(gaps) == 2)
        assert gaps[1][0] == stopped


async def test_the_sandbox_answers_rest_requests_in_the_form_of_the_vendor(endpoint: SandboxEndpoint) -> None:
    async with httpx.AsyncClient(base_url=endpoint.url, params={"apikey": "k"}, timeout=PATIENCE.seconds(30)) as client:
        one = (await client.get("/time_series", params={"symbol": "AAPL", "interval": "1min", "dp": "5"})).json()
        assert len(one["values"]) == 30
        assert next(iter(one["values"][0])) == "datetime"
        assert one["values"][0]["datetime"] > one["values"][1]["datetime"]
        many = await client.get("/time_series", params={"symbol": "AAPL,NIKK", "interval": "1day", "outputsize": "2"})
        assert many.headers["is_batch"] == "true"
        assert many.json()["NIKK"]["code"] == 400
        assert many.json()["AAPL"]["status"] == "ok"
        text = await client.get(
            "/time_series", params={"symbol": "EUR/USD", "interval": "1h", "format": "CSV", "outputsize": "3"}
        )
        assert text.headers["content-type"] == "text/csv"
        assert text.text.splitlines()[0] == "datetime;open;high;low;close"
        wrong = await client.get("/time_series", params={"symbol": "AAPL", "interval": "0.99min"})
        assert (wrong.status_code, wrong.json()["code"]) == (400, 400)
        assert "price" in (await client.get("/price", params={"symbol": "AAPL"})).json()
        quote = (await client.get("/quote", params={"symbol": "AAPL"})).json()
        assert float(quote["fifty_two_week"]["low"]) <= float(quote["close"])
        assert (await client.get("/technical_indicators")).json()["status"] == "ok"
        assert "api-credits-left" in (await client.get("/api_usage")).headers
        assert (await client.get("/nothing")).status_code == 404
    async with httpx.AsyncClient(base_url=endpoint.url, timeout=PATIENCE.seconds(30)) as client:
        assert (await client.get("/price", params={"symbol": "AAPL"})).status_code == 401


async def test_the_stream_follows_the_vendors_protocol(endpoint: SandboxEndpoint) -> None:
    async with connect(f"{endpoint.stream_url}?apikey=k") as socket:
        await socket.send('{"action":"subscribe","params":{"symbols":"aapl,NIKK"}}')
        assert '"status":"warning"' in str(await socket.recv())
        assert '"symbol":"AAPL"' in str(await socket.recv())
        await socket.send('{"action":"reset"}')
        while "reset-status" not in str(await socket.recv()):
            pass
        await socket.send('{"action":"heartbeat"}')
        assert str(await socket.recv()) == '{"event":"heartbeat","status":"ok"}'
        await socket.send('{"action":"subscribe","params":{"symbols":[{"symbol":"EUR/USD","type":"Forex"}]}}')
        assert '"status":"ok"' in str(await socket.recv())
        assert "day_volume" not in str(await socket.recv())

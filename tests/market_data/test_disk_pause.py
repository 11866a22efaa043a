"""A feed stops while the disk is almost full, and continues by itself. Coverage contains the reason `disk`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.market_data.backfill.bench import SYMBOLS as BENCH_SYMBOLS
from tests.market_data.backfill.bench import VENDOR, Bench, bench, sandbox
from tests.market_data.support import embedded, headers, rows
from tests.market_data.test_service import ALWAYS, QUICK, SYMBOLS
from tests.support.waiting import eventually
from tickerplant.core import coverage, records
from tickerplant.core.free_space import MIB, FreeSpace
from tickerplant.core.sessions import Calendars, calendar
from tickerplant.core.times import DAY_US, MINUTE_US, micros_of
from tickerplant.log.port import EventLog
from tickerplant.market_data.backfill.publish import answers_batch
from tickerplant.market_data.backfill.targets import WantedRange
from tickerplant.market_data.clients.twelvedata.session import StreamConfig
from tickerplant.market_data.clients.twelvedata.stream import TwelveDataStream
from tickerplant.market_data.disk_pause import pause_rows
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.service import MarketData, MarketDataConfig
from tickerplant.market_data.vendors.port import Quota
from tickerplant.sandbox import MarketSettings, SandboxEndpoint, SandboxSettings, running

NOTE = "disk: less than 100 MiB were free"
FIVE_US = 5 * MINUTE_US


class Disk:
    """A disk whose free space the test sets, and the space for a feed."""

    def __init__(self, mib: int) -> None:
        self.mib = mib
        self.space = FreeSpace(lambda: self.mib * MIB, 100 * MIB)


@pytest.fixture
def endpoint() -> Iterator[SandboxEndpoint]:
    with running(SandboxSettings(MarketSettings(SYMBOLS, 300.0))) as found:
        yield found


def make(log: EventLog, endpoint: SandboxEndpoint, disk: Disk, gaps: list[tuple[int, int]]) -> MarketData:
    config = StreamConfig(endpoint.stream_url, "key", SYMBOLS, settings=QUICK, calendars=Calendars(ALWAYS))
    return MarketData(
        log, MarketDataConfig(SYMBOLS), TwelveDataStream(config), space=disk.space,
        on_gap=lambda start_us, end_us, _: gaps.append((start_us, end_us)),
    )  # fmt: skip


async def test_a_feed_stops_before_the_disk_is_full_and_continues_by_itself(
    tmp_path: Path, endpoint: SandboxEndpoint
) -> None:
    disk, gaps, stop = Disk(500), list[tuple[int, int]](), asyncio.Event()
    with embedded(tmp_path, 1) as log:
        service = make(log, endpoint, disk, gaps)
        task = asyncio.create_task(service.run(stop))
        await eventually(lambda: service.counts.ticks > 50)
        disk.mib = 99
        await eventually(lambda: service.counts.losses == 1 and not service.counts.connected)
        await eventually(lambda: bool(rows(log, records.Answers)), "the reason is in the log while the disk is low")
        disk.mib = 110
        stored = len(rows(log, records.Ticks))
        await asyncio.sleep(1.0)  # two checks of the free space
        assert len(rows(log, records.Ticks)) == stored, "110 MiB are within the margin"
        disk.mib = 126
        await eventually(lambda: service.counts.connects == 2)
        await eventually(lambda: len(rows(log, records.Ticks)) > stored + 50)
        stop.set()
        await task
        control = [one for one in headers(log) if isinstance(one, records.Start | records.Down)]
        assert [type(one) for one in control] == [records.Start, records.Down, records.Start, records.Down]
        down, again = control[1], control[2]
        assert isinstance(down, records.Down)
        assert isinstance(again, records.Start)
        assert down.reason == NOTE
        assert again.hole
        answers = rows(log, records.Answers)
    [(gap_start_us, gap_end_us)] = gaps
    assert {(row["verdict"], row["note"], row["again_at"]) for row in answers} == {("outage", NOTE, None)}
    assert {(row["symbol"], row["interval"]) for row in answers} == {(s, i) for s in SYMBOLS for i in ("1m", "5m")}
    for step, interval in ((MINUTE_US, "1m"), (FIVE_US, "5m")):
        mine = [row for row in answers if row["interval"] == interval]
        begin, end = min(micros_of(row["from_time"]) for row in mine), max(micros_of(row["to_time"]) for row in mine)
        assert begin % step == end % step == 0
        assert end == gap_end_us + -gap_end_us % step, "until the feed is connected again"
        assert gap_start_us - step < begin + step, "from the stop of the feed, after the newest tick"


async def test_a_feed_that_starts_on_a_full_disk_waits(tmp_path: Path, endpoint: SandboxEndpoint) -> None:
    disk, gaps, stop = Disk(1), list[tuple[int, int]](), asyncio.Event()
    with embedded(tmp_path, 1) as log:
        service = make(log, endpoint, disk, gaps)
        task = asyncio.create_task(service.run(stop))
        await eventually(lambda: bool(rows(log, records.Answers)))
        assert service.counts.connects == 0
        disk.mib = 200
        await eventually(lambda: service.counts.ticks > 0)
        stop.set()
        await task
    assert gaps == [], "a new feed has no gap"


async def _statuses(server: Bench, symbol: str, start_us: int, end_us: int) -> list[tuple[str, int, str]]:
    async with server.store.read() as session:
        found = await session.statuses.of({symbol: calendar("24/7")}, "1m", start_us, end_us, end_us + 10 * FIVE_US)
    ranges = coverage.status_ranges(found[symbol], "1m", start_us, end_us)
    return [(one.status, one.bars, one.note) for one in ranges]


async def test_ranges_of_a_full_disk_keep_their_reason_until_a_vendor_has_them(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        async with bench(tmp_path, dsn, endpoint) as server:
            now_us = endpoint.clock.now_us()
            end_us = now_us - now_us % FIVE_US - 3 * FIVE_US
            start_us = end_us - 2 * FIVE_US
            with FeedWriter(server.log, "live", clock=endpoint.clock.now_us) as writer:
                writer.append_answers(answers_batch(pause_rows(BENCH_SYMBOLS, start_us + 1, end_us - 1, NOTE)))
                writer.commit()
            await eventually(lambda: _has_answers(server), "persistence has stored the reasons")
            for symbol in BENCH_SYMBOLS:
                assert await _statuses(server, symbol, start_us, end_us) == [("outage", 10, NOTE)]

            wanted = [WantedRange(symbol, "1m", start_us, end_us) for symbol in BENCH_SYMBOLS]
            server.quotas = {VENDOR: (Quota(1, DAY_US),)}
            await server.fill(ranges=wanted)
            left = [await _statuses(server, symbol, start_us, end_us) for symbol in BENCH_SYMBOLS]
            notes = [note for ranges in left for status, _, note in ranges if status == "quota"]
            assert len(notes) >= 2, "one credit is one symbol"
            assert all(note.startswith("disk, not taken in; twelvedata") for note in notes), notes

            server.quotas = {}
            await server.fill(ranges=wanted)
            for symbol in BENCH_SYMBOLS:
                found = await _statuses(server, symbol, start_us, end_us)
                assert {status for status, _, _ in found} <= {"have", "no_trade"}


async def _has_answers(server: Bench) -> bool:
    return all([(await server.answers(symbol, "1m")).verdict for symbol in BENCH_SYMBOLS])

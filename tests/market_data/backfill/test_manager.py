"""The backfill manager with a real log, real services and a real store.

Requested bars are stored, answered requests are not repeated, and bars equal those of the simulated market.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.market_data.backfill.bench import SYMBOLS, Bench, bench, sandbox
from tests.market_data.support import read_all
from tests.market_data.support import ticks as prints
from tests.support.waiting import PATIENCE
from tickerplant.core import records
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import Fenced
from tickerplant.core.schemas import ANSWERED, DEADLETTER, NO_DATA, NOT_OFFERED, QUOTA
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US
from tickerplant.market_data.backfill import BackfillPlan, Depth, Order, WantedRange
from tickerplant.market_data.backfill.orders import place_order
from tickerplant.market_data.backfill.progress import read_progress
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.vendors.errors import NoData, UnknownSymbol
from tickerplant.market_data.vendors.port import ActionsAnswer, BarsAnswer, BarsRequest, Provider, Quota

GRACE_US = 2 * MINUTE_US


async def assert_whole(parts: Bench, interval: str, start_us: int, end_us: int) -> None:
    for symbol in SYMBOLS:
        have, complete = await parts.have(symbol, interval, start_us, end_us)
        assert have.tolist() == parts.truth(symbol, interval, start_us, end_us), (symbol, interval)
        assert complete.all(), (symbol, interval)


async def test_history_is_fetched_once_and_a_second_run_requests_no_stored_bars(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        now_us = endpoint.clock.now_us()
        async with bench(tmp_path, dsn, endpoint) as parts:
            depths = (Depth("1d", 20), Depth("5m", 4), Depth("1m", 2))
            manager = await parts.fill(*depths)
            today_us = now_us - now_us % DAY_US
            await assert_whole(parts, "1d", today_us - 19 * DAY_US, today_us - DAY_US)
            await assert_whole(parts, "5m", today_us - 3 * DAY_US, today_us - DAY_US)
            since_us = now_us - 2 * DAY_US
            await assert_whole(parts, "1m", since_us - since_us % MINUTE_US + MINUTE_US, now_us - GRACE_US)
            # Aggregation rolls up today's 5m bars. A bar is complete if all its minutes are stored.
            await assert_whole(parts, "5m", today_us, now_us - now_us % HOUR_US)
            assert parts.repeated() == 0
            assert manager.progress.missing == manager.progress.later
            asked = len(parts.requests())
            assert asked == manager.progress.requests - len(parts.requests("/splits"))
            again = await parts.fill(*depths)
            newest = [call for call in parts.requests()[asked:] if call["query"]["interval"] != "1min"]
            assert newest == [], "the second run requested bars that are stored"
            assert again.progress.requests <= 1
            stored = read_progress(parts.log)
            assert stored is not None
            assert not stored.working


async def test_a_gap_of_the_stream_is_filled_and_its_5m_bars_become_complete(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        now_us = endpoint.clock.now_us()
        begin = now_us - now_us % HOUR_US - HOUR_US  # 17:00
        async with bench(tmp_path, dsn, endpoint) as parts:

            def live() -> None:
                with FeedWriter(parts.log, "live", clock=endpoint.clock.now_us) as writer:
                    writer.start(SYMBOLS, start_us=begin, live=True)
                    for minute in range(30):
                        if minute == 10:
                            writer.down(begin + 10 * MINUTE_US + 20_000_000)
                        if minute == 13:
                            writer.start(SYMBOLS, start_us=begin + 13 * MINUTE_US + 7, gap=True, live=True)
                        if not 10 < minute < 13:
                            times = [begin + minute * MINUTE_US + 30_000_000] * len(SYMBOLS)
                            writer.append_ticks(prints(list(SYMBOLS), times), begin + (minute + 1) * MINUTE_US)

            await asyncio.to_thread(live)
            wanted = [WantedRange(symbol, "1m", begin, begin + 25 * MINUTE_US) for symbol in SYMBOLS]
            await parts.fill(ranges=wanted)
            for symbol in SYMBOLS:
                minutes, complete = await parts.have(symbol, "1m", begin, begin + 25 * MINUTE_US)
                assert len(minutes) == 25
                assert complete.all()
                fives, whole = await parts.have(symbol, "5m", begin, begin + 25 * MINUTE_US)
                assert len(fives) == 5
                assert whole.all(), "a 5m bar of live and backfilled minutes is incomplete"
            # The request covers no minutes that the live feed delivered.
            [asked] = parts.requests()
            assert asked["query"]["start_date"].endswith("17:10:00")
            assert asked["query"]["end_date"] < "2026-03-10 17:14:00"


async def test_an_answer_for_a_part_of_a_day_makes_no_complete_day(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        now_us = endpoint.clock.now_us()
        day_us = now_us - now_us % DAY_US - 5 * DAY_US
        async with bench(tmp_path, dsn, endpoint) as parts:
            await parts.fill(Depth("1d", 10))
            before = [await parts.have(symbol, "1d", day_us, day_us + DAY_US) for symbol in SYMBOLS]
            versions = await day_versions(parts, day_us)
            noon_us = day_us + 12 * HOUR_US
            await parts.fill(ranges=[WantedRange(s, "1m", noon_us, noon_us + 7 * MINUTE_US) for s in SYMBOLS])
            await parts.fill()  # returns after the bars of the previous round are stored
            assert all(len(have) == 1 and whole.all() for have, whole in before)
            assert await day_versions(parts, day_us) == versions, "the daily bar of the vendor was replaced"
            for symbol in SYMBOLS:
                fives, whole = await parts.have(symbol, "5m", day_us, day_us + DAY_US)
                assert not len(fives) or not whole.any()


async def day_versions(parts: Bench, day_us: int) -> list[int]:
    async with parts.store.read() as session:
        tables = [await session.ohlcv.read(symbol, "1d", day_us, day_us + DAY_US) for symbol in SYMBOLS]
    return [row["version"] for table in tables for row in table.to_pylist()]


class Late:
    """A vendor that does not have the bars of the last `behind_us` of some symbols yet."""

    def __init__(self, made: Any, behind_us: int, symbols: Sequence[str] = SYMBOLS) -> None:
        self._made, self.behind_us, self.symbols = made, behind_us, symbols
        self.name, self.offer = made.name, made.offer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        answer = await self._made.bars(request)
        last_us = self._made._clock.now_us() - self.behind_us
        found = {
            symbol: bars.filter(pa.array(times_of(bars["time"]) + MINUTE_US <= last_us))
            if isinstance(bars, pa.RecordBatch) and symbol in self.symbols
            else bars
            for symbol, bars in answer.found.items()
        }
        return replace(answer, found=found)


async def test_bars_that_a_delayed_vendor_does_not_have_yet_are_requested_again(tmp_path: Path, dsn: str) -> None:
    with sandbox(speed=100.0) as endpoint:
        async with bench(tmp_path, dsn, endpoint) as parts:
            late: list[Late] = []

            def wrap(made: Provider) -> Provider:
                late.append(Late(made, 15 * MINUTE_US))
                return late[-1]

            parts.wrap = wrap
            now_us = endpoint.clock.now_us()
            begin, end = now_us - now_us % HOUR_US - HOUR_US, now_us - now_us % MINUTE_US - 4 * MINUTE_US
            wanted = [WantedRange(symbol, "1m", begin, end) for symbol in SYMBOLS]
            await parts.fill(ranges=wanted, once_wait_s=0.0)
            answers = await parts.answers("AAPL", "1m")
            assert {ANSWERED, NO_DATA} == set(answers.verdict)
            assert int(answers.to_us[answers.verdict.index(ANSWERED)]) <= endpoint.clock.now_us() - 15 * MINUTE_US
            assert all(again > 0 for again, v in zip(answers.again_us, answers.verdict, strict=True) if v == NO_DATA)
            await parts.fill(ranges=wanted, once_wait_s=1_200.0)
            for symbol in SYMBOLS:
                have, complete = await parts.have(symbol, "1m", begin, end)
                assert have.tolist() == parts.truth(symbol, "1m", begin, end)
                assert complete.all()


async def test_bars_of_crypto_do_not_hide_the_delay_of_shares_in_one_request(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        async with bench(tmp_path, dsn, endpoint) as parts:
            parts.wrap = lambda made: Late(made, 15 * MINUTE_US, ("AAPL", "MSFT"))
            now_us = endpoint.clock.now_us()
            begin, end = now_us - now_us % HOUR_US - HOUR_US, now_us - now_us % MINUTE_US - 4 * MINUTE_US
            await parts.fill(ranges=[WantedRange(symbol, "1m", begin, end) for symbol in SYMBOLS], once_wait_s=0.0)
            [asked] = parts.requests()
            assert len(asked["query"]["symbol"].split(",")) == len(SYMBOLS), "the request does not have all symbols"
            for symbol in SYMBOLS:
                answers = await parts.answers(symbol, "1m")
                answered_us = max(int(b) for b, v in zip(answers.to_us, answers.verdict, strict=True) if v == ANSWERED)
                late = any(v == NO_DATA and again for v, again in zip(answers.verdict, answers.again_us, strict=True))
                assert (answered_us < end) == late == (symbol != "BTC/USD"), symbol


class Twice(Late):
    """A vendor whose answers contain each bar a second time, with a volume that is greater by 1."""

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        answer: BarsAnswer = await self._made.bars(request)
        found: dict[str, Any] = {}
        for symbol, bars in answer.found.items():
            assert isinstance(bars, pa.RecordBatch)
            at = bars.schema.get_field_index("volume")
            other = bars.set_column(at, bars.schema.field(at), pc.add(bars["volume"], 1.0))
            found[symbol] = pa.Table.from_batches([bars, other]).combine_chunks().to_batches()[0]
        return replace(answer, found=found)


async def test_several_rows_of_one_bar_become_a_dead_letter_and_the_last_row_is_stored(
    tmp_path: Path, dsn: str
) -> None:
    with sandbox() as endpoint:
        async with bench(tmp_path, dsn, endpoint) as parts:
            now_us = endpoint.clock.now_us()
            begin = now_us - now_us % DAY_US - 3 * DAY_US
            wanted = [WantedRange("AAPL", "1m", begin, begin + 5 * MINUTE_US)]
            parts.wrap = lambda made: Twice(made, 0)
            await parts.fill(ranges=wanted)
            await parts.fill()  # returns after the bars of the previous round are stored
            have, complete = await parts.have("AAPL", "1m", begin, begin + 5 * MINUTE_US)
            assert have.tolist() == parts.truth("AAPL", "1m", begin, begin + 5 * MINUTE_US)
            assert complete.all()
            async with parts.store.read() as session:
                stored = await session.ohlcv.read("AAPL", "1m", begin, begin + 5 * MINUTE_US)
            market = parts.bars("AAPL", "1m", begin, begin + 5 * MINUTE_US)
            assert stored["volume"].to_pylist() == [volume + 1 for volume in market["volume"]]
            [dead] = [
                record.batch["reason"][0].as_py()
                for found in read_all(parts.log, DEADLETTER).values()
                for record in found
            ]
            assert dead.startswith("twelvedata: 1m: 5 rows differ from an earlier row of the same bar")


class Nothing:
    """A vendor that answers its first request with `no data`."""

    def __init__(self, made: Any) -> None:
        self._made, self.times = made, 1
        self.name, self.offer = made.name, made.offer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        if self.times:
            self.times -= 1
            raise NoData("no data is available on the specified dates")
        answer: BarsAnswer = await self._made.bars(request)
        return answer


async def test_no_data_is_final_for_older_minutes_only(tmp_path: Path, dsn: str) -> None:
    with sandbox(speed=100.0) as endpoint:
        now_us = endpoint.clock.now_us()
        begin, end = now_us - now_us % HOUR_US - 2 * HOUR_US, now_us - now_us % MINUTE_US - 4 * MINUTE_US
        async with bench(tmp_path, dsn, endpoint) as parts:
            parts.wrap = Nothing
            await parts.fill(ranges=[WantedRange("AAPL", "1m", begin, end)], once_wait_s=600.0)
            have, complete = await parts.have("AAPL", "1m", begin, end)
            truth = parts.truth("AAPL", "1m", begin, end)
            young = [us for us in truth if us >= now_us - 29 * MINUTE_US]
            assert [us for us in have.tolist() if us >= young[0]] == young
            assert complete.all()
            assert len(have) < len(young) + 10, "minutes older than half an hour were requested again"
            answers = await parts.answers("AAPL", "1m")
            assert any(v == NO_DATA and not again for v, again in zip(answers.verdict, answers.again_us, strict=True))


class OtherTimes:
    """A vendor whose answers never cover the requested times."""

    def __init__(self, made: Any) -> None:
        self._made = made
        self.name, self.offer = made.name, made.offer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    async def bars(self, request: BarsRequest) -> BarsAnswer:
        answer = await self._made.bars(request)
        return replace(answer, covers=dict.fromkeys(request.symbols, (request.end_us, request.end_us)))


async def test_a_vendor_that_answers_for_other_times_receives_one_request(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        async with bench(tmp_path, dsn, endpoint) as parts:
            parts.wrap = OtherTimes
            manager = await parts.fill(Depth("1d", 10))
            assert manager.progress.requests - len(parts.requests("/splits")) == 1
            answers = await parts.answers("AAPL", "1d")
            assert set(answers.verdict) == {NOT_OFFERED}
            assert "other times" in answers.note[0]


class Unlisted:
    """A vendor without splits and dividends of AAPL."""

    def __init__(self, made: Any) -> None:
        self._made = made
        self.name, self.offer = made.name, made.offer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    async def actions(self, symbol: str, start_us: int, end_us: int) -> ActionsAnswer:
        if symbol == "AAPL":
            raise UnknownSymbol("not listed: AAPL")
        answer: ActionsAnswer = await self._made.actions(symbol, start_us, end_us)
        return answer


async def test_splits_that_no_vendor_has_do_not_delay_other_symbols(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        async with bench(tmp_path, dsn, endpoint) as parts:
            parts.wrap = Unlisted
            await parts.fill(Depth("1d", 3))
            assert {asked["query"]["symbol"] for asked in parts.requests("/splits")} == {"MSFT"}


async def test_every_order_is_carried_out_once(tmp_path: Path, dsn: str) -> None:
    with sandbox() as vendor:
        now_us = vendor.clock.now_us()
        today_us = now_us - now_us % DAY_US
        async with bench(tmp_path, dsn, vendor) as parts, parts.scheduler() as scheduler:

            def place_numbered_order(number: int) -> None:
                symbol = SYMBOLS[number % 2]
                start_us = today_us - (number + 10) * DAY_US
                order = Order(id=f"o{number}", symbols=[symbol], intervals=["1d"],
                              start_us=start_us, end_us=start_us + DAY_US)  # fmt: skip
                place_order(parts.log, order)

            await asyncio.gather(*(asyncio.to_thread(place_numbered_order, number) for number in range(6)))
            manager = parts.manager(scheduler, BackfillPlan(SYMBOLS))
            running = asyncio.create_task(manager.run())
            async with asyncio.timeout(PATIENCE.seconds(60)):
                while len(manager.progress.orders) < 6:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                asked = manager.progress.requests
                await asyncio.to_thread(place_numbered_order, 6)
                while len(manager.progress.orders) < 7:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert manager.progress.requests >= asked + 1
            for number in range(7):
                day_us = today_us - (number + 10) * DAY_US
                have, complete = await parts.have(SYMBOLS[number % 2], "1d", day_us, day_us + DAY_US)
                assert len(have) == 1
                assert complete.all()


async def test_an_order_does_not_wait_for_the_history_of_other_symbols(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        now_us = endpoint.clock.now_us()
        today_us = now_us - now_us % DAY_US
        async with bench(tmp_path, dsn, endpoint) as parts, parts.scheduler() as scheduler:
            depths = [Depth("1d", 1_000), Depth("1m", 60)]
            manager = parts.manager(scheduler, BackfillPlan(SYMBOLS, depths))
            running = asyncio.create_task(manager.run())
            async with asyncio.timeout(PATIENCE.seconds(120)):
                while not manager.progress.bars:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                begin, end = today_us - 3_000 * DAY_US, today_us - 2_900 * DAY_US
                order = Order(id="now", symbols=["MSFT"], intervals=["1d"], start_us=begin, end_us=end)
                await asyncio.to_thread(place_order, parts.log, order)
                while not manager.progress.orders:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert manager.progress.missing > 0, "the order waited for all history"
            have, complete = await parts.have("MSFT", "1d", begin, end)
            assert have.tolist() == parts.truth("MSFT", "1d", begin, end), "the ordered bars are not stored"
            assert complete.all()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_quotas_are_respected_and_postponed_bars_are_reported_with_a_time(tmp_path: Path, dsn: str) -> None:
    day = Quota(12, DAY_US)
    with sandbox(twelvedata=(day,)) as endpoint:
        async with bench(tmp_path, dsn, endpoint) as parts:
            parts.quotas = {"twelvedata": (day,)}
            manager = await parts.fill(Depth("1d", 30), Depth("1m", 12))
            counts = (await asyncio.to_thread(parts_counts, parts))["twelvedata"]
            assert counts["refused"] == 0
            assert all(w["largest_asked"] <= w["limit"] for w in counts["windows"] if w["limit"])
            assert manager.progress.later > 0
            assert manager.progress.blocked
            for symbol in SYMBOLS:
                today_us = endpoint.clock.now_us() - endpoint.clock.now_us() % DAY_US
                days, complete = await parts.have(symbol, "1d", 0, today_us)
                assert len(days) >= 28, "minutes were requested before daily bars"
                assert complete.all(), (today_us, days[~complete])
            answers = [await parts.answers(symbol, "1m") for symbol in SYMBOLS]
            assert any(QUOTA in one.verdict for one in answers)


def parts_counts(parts: Bench) -> Any:
    import httpx

    return httpx.get(f"{parts.endpoint.url}/sandbox/counts", timeout=PATIENCE.seconds(30)).json()["vendors"]


async def test_bars_and_answer_records_of_a_request_are_adjacent_and_each_round_ends(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        async with bench(tmp_path, dsn, endpoint, partitions=1) as parts:
            await parts.fill(Depth("1d", 30))
            headers = [record.header for record in read_all(parts.log)[0] if record.header.feed == "backfill"]
            kinds = [type(header) for header in headers]
            assert kinds.count(records.Start) == kinds.count(records.End)
            assert kinds[-1] is records.End
            bars = kinds.index(records.VendorBars)
            assert records.Answers in (kinds[bars - 1], kinds[bars + 1])


async def test_a_second_manager_takes_over_and_the_first_one_stops(tmp_path: Path, dsn: str) -> None:
    with sandbox() as endpoint:
        async with bench(tmp_path, dsn, endpoint) as parts, parts.scheduler() as scheduler:
            first, second = (
                parts.manager(scheduler, BackfillPlan(SYMBOLS, [Depth("1d", 5)], once=once)) for once in (False, True)
            )
            running = asyncio.create_task(first.run())
            async with asyncio.timeout(PATIENCE.seconds(60)):
                while first.progress.at_us == 0 or first.progress.working:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await second.run()
            first.wake(0, endpoint.clock.now_us())
            with pytest.raises(Fenced):
                await asyncio.wait_for(running, PATIENCE.seconds(90))

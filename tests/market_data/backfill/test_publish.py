"""How bars are cut into slices, and the pace at which they are said."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.market_data.support import embedded, read_all
from tests.market_data.vendors.support import bars_batch
from tickerplant.core import records, schemas
from tickerplant.core.interval import M5
from tickerplant.core.schemas import RAW
from tickerplant.core.times import MINUTE_US, times_of
from tickerplant.log.port import TopicPartition
from tickerplant.market_data.backfill.publish import (
    SLICE_BARS,
    Publisher,
    Saying,
    Told,
    answers_batch,
    in_order,
    slices_of,
)
from tickerplant.market_data.feed.writer import FeedWriter

BEGIN = 1_767_700_200_000_000  # 11:50, between five minutes
SYMBOLS = ("AAPL", "MSFT", "IBM")


def day() -> pa.RecordBatch:
    found = in_order([bars_batch(symbol, BEGIN, 1_440) for symbol in SYMBOLS])
    assert found is not None
    return found


@pytest.mark.parametrize("fives", [False, True])
def test_slices_touch_each_other_and_part_no_instant(fives: bool) -> None:
    end = BEGIN + 1_440 * MINUTE_US
    found = slices_of(day(), BEGIN, end, fives=fives)
    assert [one.from_us for one in found] == [BEGIN, *(one.to_us for one in found[:-1])]
    assert found[-1].to_us == end
    assert sum(one.bars.num_rows for one in found) == 3 * 1_440
    assert max(one.bars.num_rows for one in found) <= SLICE_BARS
    for one in found:
        times = times_of(one.bars["time"])
        assert (np.diff(times) >= 0).all(), "in the order of time"
        assert one.from_us <= times[0]
        assert times[-1] < one.to_us
        assert (np.unique(times, return_counts=True)[1] == 3).all(), "all symbols of a minute"
    if fives:
        assert all(one.to_us % M5.us == 0 for one in found)


def test_more_symbols_than_a_slice_has_bars_are_one_slice_an_instant() -> None:
    many = in_order([bars_batch(f"S{at}", BEGIN, 2) for at in range(SLICE_BARS + 1)])
    assert [one.bars.num_rows for one in slices_of(many, BEGIN, BEGIN + 2 * MINUTE_US)] == 2 * [SLICE_BARS + 1]


def test_no_bars_are_no_slices() -> None:
    assert slices_of(None, 0, 1) == slices_of(day().slice(0, 0), 0, 1) == []


def test_answers_are_columns_of_their_schema() -> None:
    batch = answers_batch([Told("A", "1m", 0, 1, "v", "answered"), Told("A", "1m", 1, 2, "", "quota", "n", 7)])
    assert batch.schema.equals(schemas.ANSWERS)
    assert batch["again_at"].null_count == batch["note"].null_count == 1


async def test_a_slice_waits_until_the_one_before_is_taken(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log, log.reader([RAW], group="aggregation") as reader:
        place = TopicPartition(RAW, 0)

        def follow() -> int:
            """Take what is there and commit; return how many bars were waiting."""
            waiting = 0
            while deliveries := reader.poll(timeout_s=0.0):
                for delivery in deliveries:
                    record = records.decode(delivery.value)
                    waiting += record.batch.num_rows if isinstance(record.header, records.VendorBars) else 0
                reader.commit({place: deliveries[-1].offset + 1})
            return waiting

        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.sleep(min(seconds, 0.005))

        writer = FeedWriter(log, "backfill", hold_bytes=1 << 40)
        publisher = Publisher(log, asyncio.to_thread, sleep)
        await publisher.barrier(writer)
        follow()  # the group has a position from now on
        filling = asyncio.create_task(publisher.old(writer, SYMBOLS, day(), BEGIN, Saying()))
        most = total = 0
        while not filling.done():
            await asyncio.sleep(0.03)
            waiting = follow()
            most, total = max(most, waiting), total + waiting
        await filling
        await publisher.finish(writer)
        assert total + follow() == 3 * 1_440
        assert most <= SLICE_BARS, "a second slice was said before the first was taken"
        assert slept
        writer.close()


async def test_bars_of_the_present_are_a_round_a_slice_and_what_was_left_open_is_ended(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log:
        publisher = Publisher(log, asyncio.to_thread)
        with FeedWriter(log, "backfill", hold_bytes=1 << 40) as writer:
            await publisher.old(writer, SYMBOLS, day().slice(0, 3), BEGIN, Saying())
        end = BEGIN + 1_440 * MINUTE_US
        with FeedWriter(log, "backfill", hold_bytes=1 << 40) as writer:  # that one was killed: its round is open
            publisher = Publisher(log, asyncio.to_thread)
            told = [Told("AAPL", "1m", BEGIN, end, "v", "answered")]
            await publisher.present(writer, SYMBOLS, day(), (BEGIN, end), Saying(told))
        said = [record.header for record in read_all(log)[0]]
        kinds = [type(header) for header in said]
        assert kinds[:4] == [records.Start, records.VendorBars, records.End, records.Start]
        starts = [header for header in said[3:] if isinstance(header, records.Start)]
        bars = [header for header in said[3:] if isinstance(header, records.VendorBars)]
        assert [header.from_us for header in starts] == [BEGIN, *(header.watermark_us for header in bars[:-1])]
        assert bars[-1].watermark_us == end
        assert kinds[-3:] == [records.VendorBars, records.Answers, records.End]
        assert kinds.count(records.Answers) == 1, "with the last slice"

"""Bars are cut into slices. Each slice is appended after aggregation has read the previous slice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.market_data.support import embedded, read_all
from tests.market_data.vendors.support import bars_batch
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.core.interval import M5
from tickerplant.core.schemas import RAW
from tickerplant.core.times import MINUTE_US
from tickerplant.log.port import TopicPartition
from tickerplant.market_data.backfill.publish import (
    SLICE_BARS,
    AnswerRecords,
    AnswerRow,
    Publisher,
    answers_batch,
    merge_by_time,
    slices_of,
)
from tickerplant.market_data.feed.writer import FeedWriter

BEGIN = 1_767_700_200_000_000  # 2026-01-06T11:50:00Z
SYMBOLS = ("AAPL", "MSFT", "IBM")


def day() -> pa.RecordBatch:
    found = merge_by_time([bars_batch(symbol, BEGIN, 1_440) for symbol in SYMBOLS])
    assert found is not None
    return found


@pytest.mark.parametrize("align_to_5m", [False, True])
def test_slices_are_adjacent_and_keep_each_instant_whole(align_to_5m: bool) -> None:
    end = BEGIN + 1_440 * MINUTE_US
    found = slices_of(day(), BEGIN, end, align_to_5m=align_to_5m)
    assert [one.start_us for one in found] == [BEGIN, *(one.end_us for one in found[:-1])]
    assert found[-1].end_us == end
    assert sum(one.bars.num_rows for one in found) == 3 * 1_440
    assert max(one.bars.num_rows for one in found) <= SLICE_BARS
    for one in found:
        times = times_of(one.bars["time"])
        assert (np.diff(times) >= 0).all(), "the bars are not in time order"
        assert one.start_us <= times[0]
        assert times[-1] < one.end_us
        assert (np.unique(times, return_counts=True)[1] == 3).all(), "a slice does not have all symbols of a minute"
    if align_to_5m:
        assert all(one.end_us % M5.us == 0 for one in found)


def test_an_instant_with_more_bars_than_a_slice_is_one_slice() -> None:
    many = merge_by_time([bars_batch(f"S{at}", BEGIN, 2) for at in range(SLICE_BARS + 1)])
    assert [one.bars.num_rows for one in slices_of(many, BEGIN, BEGIN + 2 * MINUTE_US)] == 2 * [SLICE_BARS + 1]


def test_no_bars_give_no_slices() -> None:
    assert slices_of(None, 0, 1) == slices_of(day().slice(0, 0), 0, 1) == []


def test_answer_rows_become_a_batch_of_the_schema() -> None:
    batch = answers_batch(
        [AnswerRow("A", "1m", 0, 1, "v", "answered"), AnswerRow("A", "1m", 1, 2, "", "quota", "n", 7)]
    )
    assert batch.schema.equals(schemas.ANSWERS)
    assert batch["again_at"].null_count == batch["note"].null_count == 1


async def test_a_slice_is_appended_after_aggregation_has_read_the_previous_one(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log, log.reader([RAW], group="aggregation") as reader:
        partition = TopicPartition(RAW, 0)

        def follow() -> int:
            """Read all records and commit; return the number of bars among them."""
            waiting = 0
            while received := reader.poll(timeout_s=0.0):
                for one in received:
                    record = records.decode(one.value)
                    waiting += record.batch.num_rows if isinstance(record.header, records.VendorBars) else 0
                reader.commit({partition: received[-1].offset + 1})
            return waiting

        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.sleep(min(seconds, 0.005))

        writer = FeedWriter(log, "backfill", hold_bytes=1 << 40)
        publisher = Publisher(log, asyncio.to_thread, sleep)
        await publisher.barrier(writer)
        follow()  # commits a first position of the group
        filling = asyncio.create_task(publisher.append_history(writer, SYMBOLS, day(), BEGIN, AnswerRecords()))
        most = total = 0
        while not filling.done():
            await asyncio.sleep(0.03)
            waiting = follow()
            most, total = max(most, waiting), total + waiting
        await filling
        await publisher.end_round(writer)
        assert total + follow() == 3 * 1_440
        assert most <= SLICE_BARS, "a slice was appended before the previous one was read"
        assert slept
        writer.close()


async def test_each_slice_of_recent_bars_is_a_round_and_an_open_round_is_ended_first(tmp_path: Path) -> None:
    with embedded(tmp_path, 1) as log:
        publisher = Publisher(log, asyncio.to_thread)
        with FeedWriter(log, "backfill", hold_bytes=1 << 40) as writer:
            await publisher.append_history(writer, SYMBOLS, day().slice(0, 3), BEGIN, AnswerRecords())
        end = BEGIN + 1_440 * MINUTE_US
        with FeedWriter(
            log, "backfill", hold_bytes=1 << 40
        ) as writer:  # the round of the first writer is still open, as after a kill
            publisher = Publisher(log, asyncio.to_thread)
            rows = [AnswerRow("AAPL", "1m", BEGIN, end, "v", "answered")]
            await publisher.append_recent(writer, SYMBOLS, day(), (BEGIN, end), AnswerRecords(rows))
        headers = [record.header for record in read_all(log)[0]]
        kinds = [type(header) for header in headers]
        assert kinds[:4] == [records.Start, records.VendorBars, records.End, records.Start]
        starts = [header for header in headers[3:] if isinstance(header, records.Start)]
        bars = [header for header in headers[3:] if isinstance(header, records.VendorBars)]
        assert [header.from_us for header in starts] == [BEGIN, *(header.watermark_us for header in bars[:-1])]
        assert bars[-1].watermark_us == end
        assert kinds[-3:] == [records.VendorBars, records.Answers, records.End]
        assert kinds.count(records.Answers) == 1, "answer records were appended with more than one slice"

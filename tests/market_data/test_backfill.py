"""The first history beside a live feed: in the order of time, in slices, and no faster than it is followed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from tests.market_data.support import embedded, read_all
from tickerplant.core import records
from tickerplant.core.interval import M1
from tickerplant.core.schemas import RAW, VENDOR_BARS
from tickerplant.core.times import MINUTE_US, from_us, times_of
from tickerplant.log.port import EventLog, TopicPartition
from tickerplant.market_data.backfill import Depth, backfill
from tickerplant.market_data.clients.errors import VendorError

NOW_US = M1.floor(1_767_700_000_000_000)
SYMBOLS = ("AAPL", "MSFT", "IBM")


class Vendor:
    """Has a bar of every minute; remembers how many bars it was asked for at once."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def time_series(
        self, symbols: Sequence[str], interval: str, from_us_: int, to_us: int, *, limit: int = 5_000
    ) -> dict[str, pa.RecordBatch | VendorError]:
        times = [from_us(at) for at in range(from_us_, to_us, MINUTE_US)]
        self.asked.append(len(symbols) * len(times))
        prices = {name: 1.0 for name in ("open", "high", "low", "close", "volume")}
        return {
            symbol: pa.RecordBatch.from_pylist(
                [
                    {"time": at, "symbol": symbol, "interval": interval, "source": "v", "complete": True, **prices}
                    for at in times
                ],
                schema=VENDOR_BARS,
            )
            for symbol in symbols
        }


async def fetch(log: EventLog, vendor: Vendor) -> list[float]:
    """Run a backfill of a day's minutes to its end; return how long it wanted to sleep each time."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(min(seconds, 0.005))

    summary = await backfill(log, "v", vendor, SYMBOLS, (Depth("1m", 1),), clock=lambda: NOW_US, sleep=sleep)
    assert summary.complete
    assert summary.bars == 3 * 1440
    return slept


async def test_slices_are_small_and_in_the_order_of_time(tmp_path: Path) -> None:
    vendor = Vendor()
    with embedded(tmp_path, 2) as log:
        await fetch(log, vendor)
        for of_partition in read_all(log).values():
            batches = [record.batch for record in of_partition if isinstance(record.header, records.VendorBars)]
            assert batches
            assert max(batch.num_rows for batch in batches) <= 1_000
            times = [int(at) for batch in batches for at in times_of(batch["time"])]
            assert times == sorted(times), "all symbols of a minute come together"
    assert sum(vendor.asked) == 3 * 1440
    assert max(vendor.asked) <= 3_000


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

        with log.writer("w") as writer, writer.transaction() as transaction:  # the group has a position from now on
            transaction.append(RAW, 0, records.encode(records.Mark(sent_at_us=1, feed="f", watermark_us=1)))
        follow()
        filling = asyncio.create_task(fetch(log, Vendor()))
        most = total = 0
        while not filling.done():
            await asyncio.sleep(0.03)
            waiting = follow()
            most, total = max(most, waiting), total + waiting
        await filling
        assert total + follow() == 3 * 1440
        assert most <= 1_000, "a second slice was said before the first was taken"

"""From a vendor's answer to the log: what is missing of it as bars, and what it says of the stretch that was asked.

Bars go in slices in the order of time over all symbols, each when aggregation has taken the one before, so that live
ticks find most of the plant free; what the answer says comes with the last slice, in one transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.schemas import ANSWERS, RAW, SMALL_TEXT, TEXT, VENDOR_BARS
from tickerplant.core.times import times_of, timestamps
from tickerplant.log.port import EventLog
from tickerplant.market_data.feed import DeadRow, FeedWriter

SLICE_BARS: Final = 1_000
_FOLLOWER: Final = "aggregation"
_LOOK_S: Final = 0.02
_REST: Final = 2.0
_PATIENCE_S: Final = 10.0

Call = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs what blocks (the log) in a thread, one call at a time."""


@dataclass(frozen=True, slots=True)
class Told:
    """One row of `schemas.ANSWERS`; `again_us` None: never, or answered."""

    symbol: str
    interval: str
    from_us: int
    to_us: int
    source: str
    verdict: str
    note: str = ""
    again_us: int | None = None


def answers_batch(rows: Sequence[Told]) -> pa.RecordBatch:
    """Return the rows as columns of `schemas.ANSWERS`."""

    def text(values: list[str], kind: pa.DataType = TEXT) -> pa.Array:
        return pa.array(values, pa.utf8()).dictionary_encode().cast(kind)

    def times(values: list[int]) -> pa.Array:
        return timestamps(np.array(values, dtype=np.int64))

    again = pa.array([row.again_us for row in rows], pa.int64()).cast(ANSWERS.field("again_at").type)
    return pa.RecordBatch.from_arrays(
        [
            text([row.symbol for row in rows]),
            text([row.interval for row in rows], SMALL_TEXT),
            times([row.from_us for row in rows]),
            times([row.to_us for row in rows]),
            text([row.source for row in rows]),
            text([row.verdict for row in rows], SMALL_TEXT),
            pa.array([row.note[:500] or None for row in rows], pa.utf8()),
            again,
        ],
        schema=ANSWERS,
    )


def only(batch: pa.RecordBatch, starts: Any) -> pa.RecordBatch:
    """Return the bars that start at one of these times."""
    keep = np.isin(times_of(batch["time"]), starts)
    return batch if keep.all() else batch.filter(pa.array(keep))


def in_order(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return the bars of several symbols in the order of time, or None for none."""
    batches = [batch for batch in batches if batch.num_rows]
    if not batches:
        return None
    table = pa.Table.from_batches([batch.cast(VENDOR_BARS) for batch in batches]).unify_dictionaries()
    table = table.combine_chunks()
    return table.take(pc.sort_indices(table["time"])).combine_chunks().to_batches()[0]


class Publisher:
    """Says what a request brought, at a pace that leaves room."""

    def __init__(
        self, event_log: EventLog, call: Call, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._log, self._call, self._sleep = event_log, call, sleep

    async def say(
        self,
        writer: FeedWriter,
        bars: pa.RecordBatch | None,
        told: Sequence[Told],
        watermark_us: int,
        *,
        splits: pa.RecordBatch | None = None,
        dividends: pa.RecordBatch | None = None,
        dead: Sequence[DeadRow] = (),
        place: bytes | None = None,
    ) -> None:
        """Bring all of it into the log; the last transaction has the last slice, the answers and the place."""
        slices = [bars.slice(at, SLICE_BARS) for at in range(0, bars.num_rows, SLICE_BARS)] if bars is not None else []
        for part in slices[:-1]:
            await self._call(partial(writer.vendor_bars, part, watermark_us, reason="backfill"))
            await self._rest(writer.ends)

        def last() -> None:
            writer.dead(dead)
            if splits is not None and splits.num_rows:
                writer.splits(splits, commit=False)
            if dividends is not None and dividends.num_rows:
                writer.dividends(dividends, commit=False)
            if told:
                writer.answers(answers_batch(told))
            if slices:
                writer.vendor_bars(slices[-1], watermark_us, place, reason="backfill")
            else:
                writer.keep_place(place)
                writer.commit()

        await self._call(last)
        if slices:
            await self._rest(writer.ends)

    async def _rest(self, ends: Mapping[int, int]) -> None:
        """Return when aggregation is past these offsets and has rested; at once for a log that nobody follows."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < _PATIENCE_S:
            committed = await asyncio.to_thread(self._log.committed, _FOLLOWER)
            at = {tp.partition: position for tp, position in committed.items() if tp.topic == RAW}
            if not at:
                return
            if all(at.get(partition, 0) > end for partition, end in ends.items()):
                await self._sleep(max(_LOOK_S, _REST * waited))
                return
            await self._sleep(max(_LOOK_S, waited / 4))

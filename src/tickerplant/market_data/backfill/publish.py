"""The publisher: it appends the missing bars of an answer, and its answer records, to the log.

Bars are appended in slices, in time order over all symbols. After each slice, the publisher waits at most 10 seconds
until aggregation has processed the slice. It then pauses for twice that time, so that live ticks are not delayed. The
answer records are appended with
the last slice, in one transaction.

The feed is a sequence of rounds (`start`, bars, `end`). The coverage that a round claims determines which coarser bars,
rolled up from its bars, are complete:

- Bars older than aggregation's revision window belong to a round that claims no coverage. Such a round may lack bars
  of a day, so coarser bars are requested from the vendor.
- Recent bars fill gaps of a stream. Each slice is one round and one transaction. It claims exactly its range, or
  nothing if the answered range is unknown.

Even after a kill, the feed thus never claims coverage of bars that it did not append.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.arrow_values import times_of, timestamps
from tickerplant.core.interval import M5
from tickerplant.core.schemas import ANSWERS, RAW, SMALL_TEXT, TEXT, VENDOR_BARS
from tickerplant.core.times import FOREVER_US, Int64Array
from tickerplant.log.port import EventLog
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.writer import FeedWriter

SLICE_BARS: Final = 1_000
"""Maximum number of bars of one slice, unless a single instant or 5m interval has more."""
_FOLLOWER: Final = "aggregation"
_POLL_S: Final = 0.02
_IDLE_FACTOR: Final = 2.0
"""Length of the pause after a slice, as a multiple of the time that aggregation took for the slice."""
_MAX_WAIT_S: Final = 10.0
_MAX_NOTE_CHARS: Final = 500

Call = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Function that runs a blocking call on the log in a thread, one call at a time."""


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One row of `schemas.ANSWERS`. `again_us`: time of the next request; None if no further request is planned."""

    symbol: str
    interval: str
    start_us: int
    end_us: int
    source: str
    verdict: str
    note: str = ""
    again_us: int | None = None


def answers_batch(rows: Sequence[AnswerRow]) -> pa.RecordBatch:
    """Return the rows as a batch of `schemas.ANSWERS`."""

    def text(values: list[str], kind: pa.DataType = TEXT) -> pa.Array:
        return pa.array(values, pa.utf8()).dictionary_encode().cast(kind)

    def times(values: list[int]) -> pa.Array:
        return timestamps(np.array(values, dtype=np.int64))

    again = pa.array([row.again_us for row in rows], pa.int64()).cast(ANSWERS.field("again_at").type)
    return pa.RecordBatch.from_arrays(
        [
            text([row.symbol for row in rows]),
            text([row.interval for row in rows], SMALL_TEXT),
            times([row.start_us for row in rows]),
            times([row.end_us for row in rows]),
            text([row.source for row in rows]),
            text([row.verdict for row in rows], SMALL_TEXT),
            pa.array([row.note[:_MAX_NOTE_CHARS] or None for row in rows], pa.utf8()),
            again,
        ],
        schema=ANSWERS,
    )


def bars_at(batch: pa.RecordBatch, starts: Int64Array) -> pa.RecordBatch:
    """Return the bars that start at one of these times."""
    keep = np.isin(times_of(batch["time"]), starts)
    return batch if keep.all() else batch.filter(pa.array(keep))


def merge_by_time(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return the bars of several symbols as one batch in time order; None if there are none."""
    batches = [batch for batch in batches if batch.num_rows]
    if not batches:
        return None
    table = pa.Table.from_batches([batch.cast(VENDOR_BARS) for batch in batches]).unify_dictionaries()
    table = table.combine_chunks()
    return table.take(pc.sort_indices(table["time"])).combine_chunks().to_batches()[0]


@dataclass(frozen=True, slots=True)
class Slice:
    """Bars in time order: all bars found in `[start_us, end_us)`."""

    bars: pa.RecordBatch
    start_us: int
    end_us: int


def slices_of(bars: pa.RecordBatch | None, start_us: int, end_us: int, *, align_to_5m: bool = False) -> list[Slice]:
    """Cut bars in time order into adjacent slices of at most SLICE_BARS (see there), from `start_us` to `end_us`.

    All bars of an instant are in one slice: after a kill, all symbols lack the same range, which is one request.
    `align_to_5m`: cuts are multiples of five minutes, so that the parts of a 5m bar are in one slice.
    """
    if bars is None or not bars.num_rows:
        return []
    times = times_of(bars["time"])
    marks = np.asarray(M5.floor(times)) if align_to_5m else times
    edges = [0]
    while edges[-1] < len(times):
        first, last = edges[-1], min(edges[-1] + SLICE_BARS, len(times))
        if last < len(times):
            before = int(np.searchsorted(marks, marks[last]))
            last = before if before > first else int(np.searchsorted(marks, marks[last], side="right"))
        edges.append(last)
    cuts = [start_us, *(max(start_us, int(marks[at])) for at in edges[1:-1]), end_us]
    return [
        Slice(bars.slice(first, last - first), cuts[at], cuts[at + 1])
        for at, (first, last) in enumerate(itertools.pairwise(edges))
    ]


@dataclass(frozen=True, slots=True)
class AnswerRecords:
    """The records of an answer besides its bars. `conflicts`: count of rows that differ from a row of the same bar."""

    answers: Sequence[AnswerRow] = ()
    splits: pa.RecordBatch | None = None
    dividends: pa.RecordBatch | None = None
    dead: Sequence[DeadRow] = ()
    resume_token: bytes | None = None
    conflicts: int = 0

    def append_to(self, writer: FeedWriter) -> None:
        """Append the records to the transaction of the next commit."""
        writer.append_dead_letters(self.dead)
        if self.conflicts:
            writer.set_conflicts(writer.cursor.conflicts + self.conflicts)
        if self.splits is not None and self.splits.num_rows:
            writer.append_splits(self.splits, commit=False)
        if self.dividends is not None and self.dividends.num_rows:
            writer.append_dividends(self.dividends, commit=False)
        if self.answers:
            writer.append_answers(answers_batch(self.answers))
        writer.set_resume_token(self.resume_token)


class Publisher:
    """Appends bars and answers at a pace that leaves time for live ticks.

    The writer must not commit by itself (a large `hold_bytes`): a slice and its answer are one transaction.
    """

    def __init__(
        self, event_log: EventLog, call: Call, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._log, self._call, self._sleep = event_log, call, sleep
        self._in_round = False

    async def barrier(self, writer: FeedWriter) -> dict[int, int]:
        """Append an empty round to every partition, after all existing records; return its offset in each partition.

        Aggregation forwards the round. When the store has applied the round, it has applied all earlier records.
        """

        def append() -> None:
            writer.start((), start_us=FOREVER_US, gap=True, new_round=True)
            writer.end()

        await self._call(append)
        self._in_round = False
        return dict(writer.last_offsets)

    async def append_history(
        self, writer: FeedWriter, symbols: Sequence[str], bars: pa.RecordBatch | None, start_us: int,
        records: AnswerRecords,
    ) -> None:  # fmt: skip
        """Append bars older than the revision window, in a round that claims no coverage; the round stays open.

        If there are no bars, only the records are appended.
        """

        def start() -> None:
            writer.start(symbols, start_us=FOREVER_US, gap=True, new_round=True)
            writer.commit()

        def append(part: Slice, last: AnswerRecords | None) -> None:
            writer.append_bars(part.bars, start_us, reason="backfill")
            if last is not None:
                last.append_to(writer)
            writer.commit()

        parts = slices_of(bars, start_us, FOREVER_US)
        if not parts:
            await self.append_records(writer, records)
            return
        if not self._in_round:
            await self._call(start)
            self._in_round = True
        for at, part in enumerate(parts):
            await self._call(partial(append, part, records if at == len(parts) - 1 else None))
            await self._wait_for_aggregation(writer.last_offsets)

    async def append_recent(
        self, writer: FeedWriter, symbols: Sequence[str], bars: pa.RecordBatch | None,
        coverage: tuple[int, int] | None, records: AnswerRecords,
    ) -> None:  # fmt: skip
        """Append recent bars. `coverage`: the range in which no symbol has other bars; None if it is unknown.

        Intervals of `coverage` without a bar had no trades. If there are no bars at all, only the records are appended.
        """

        def append(part: Slice, last: AnswerRecords | None) -> None:
            covered_from_us = FOREVER_US if coverage is None else part.start_us
            writer.start(symbols, start_us=covered_from_us, gap=True, new_round=True)
            writer.append_bars(part.bars, part.end_us, reason="backfill")
            if last is not None:
                last.append_to(writer)
            writer.end()

        times = times_of(bars["time"]) if bars is not None else None
        if bars is None or times is None or not len(times):
            await self.append_records(writer, records)
            return
        await self.end_round(writer)
        start_us, end_us = coverage or (int(times[0]), int(times[-1]) + 1)
        parts = slices_of(bars, start_us, end_us, align_to_5m=True)
        for at, part in enumerate(parts):
            await self._call(partial(append, part, records if at == len(parts) - 1 else None))
            await self._wait_for_aggregation(writer.last_offsets)

    async def append_records(self, writer: FeedWriter, records: AnswerRecords) -> None:
        """Append and commit records of an answer that has no bars."""

        def append() -> None:
            records.append_to(writer)
            writer.commit()

        await self._call(append)

    async def end_round(self, writer: FeedWriter, resume_token: bytes | None = None) -> None:
        """End the round of old bars if it is open, so that analytics recomputes the indicators of these bars."""
        if self._in_round:
            await self._call(partial(writer.end, resume_token))
            self._in_round = False

    async def _wait_for_aggregation(self, offsets: Mapping[int, int]) -> None:
        """Wait until aggregation has committed past these offsets, at most _MAX_WAIT_S, and then pause.

        The pause is _IDLE_FACTOR times the wait. Together they last at most about 30 s. There is no pause if
        aggregation has not committed in time. Returns at once if no group `aggregation` reads the log.
        """
        started_s = time.monotonic()
        while (waited := time.monotonic() - started_s) < _MAX_WAIT_S:
            committed = await asyncio.to_thread(self._log.committed, _FOLLOWER)
            positions = {tp.partition: position for tp, position in committed.items() if tp.topic == RAW}
            if not positions:
                return
            if all(positions.get(partition, 0) > offset for partition, offset in offsets.items()):
                await self._sleep(max(_POLL_S, _IDLE_FACTOR * waited))
                return
            await self._sleep(max(_POLL_S, waited / 4))

"""From a vendor's answer to the log: what is missing of it as bars, and what it says of the stretch that was asked.

Bars go in slices in the order of time over all symbols, each when aggregation has taken the one before, so that live
ticks find most of the plant free; what the answer says comes with the last slice, in one transaction.

The feed comes in rounds (`start`, bars, `end`), and what a round claims to cover decides which coarser bars, rolled up
from its bars, count as complete. Bars older than aggregation's memory go into a round that claims nothing, for it never
has all of a day at hand: the vendor's own coarser bars are asked for. Bars of the present fill holes of what a stream
brings: each slice of them is a round of its own, in one transaction, which claims exactly its stretch. So at rest, and
after a kill, the feed never claims what it has not brought.
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

from tickerplant.core.interval import M5
from tickerplant.core.schemas import ANSWERS, RAW, SMALL_TEXT, TEXT, VENDOR_BARS
from tickerplant.core.times import FOREVER_US, times_of, timestamps
from tickerplant.log.port import EventLog
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.writer import FeedWriter

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


@dataclass(frozen=True, slots=True)
class Slice:
    """Bars in the order of time, and the stretch of which they are all that was brought."""

    bars: pa.RecordBatch
    from_us: int
    to_us: int


def slices_of(bars: pa.RecordBatch | None, from_us: int, to_us: int, *, fives: bool = False) -> list[Slice]:
    """Cut bars in the order of time into slices of some SLICE_BARS that touch each other from `from_us` to `to_us`.

    All bars of an instant are in one: what a kill leaves is missing of every symbol alike, and is one request. With
    `fives` cuts lie between five minutes, so that no 5m bar has its parts in two.
    """
    if bars is None or not bars.num_rows:
        return []
    times = times_of(bars["time"])
    marks = np.asarray(M5.floor(times)) if fives else times
    edges = [0]
    while edges[-1] < len(times):
        begin, end = edges[-1], min(edges[-1] + SLICE_BARS, len(times))
        if end < len(times):
            before = int(np.searchsorted(marks, marks[end]))
            end = before if before > begin else int(np.searchsorted(marks, marks[end], side="right"))
        edges.append(end)
    cuts = [from_us, *(max(from_us, int(marks[at])) for at in edges[1:-1]), to_us]
    return [
        Slice(bars.slice(begin, end - begin), cuts[at], cuts[at + 1])
        for at, (begin, end) in enumerate(itertools.pairwise(edges))
    ]


@dataclass(frozen=True, slots=True)
class Saying:
    """What goes with the last of a request's bars."""

    told: Sequence[Told] = ()
    splits: pa.RecordBatch | None = None
    dividends: pa.RecordBatch | None = None
    dead: Sequence[DeadRow] = ()
    place: bytes | None = None

    def say(self, writer: FeedWriter) -> None:
        """Say it, in the transaction of the next commit."""
        writer.append_dead_letters(self.dead)
        if self.splits is not None and self.splits.num_rows:
            writer.append_splits(self.splits, commit=False)
        if self.dividends is not None and self.dividends.num_rows:
            writer.append_dividends(self.dividends, commit=False)
        if self.told:
            writer.append_answers(answers_batch(self.told))
        writer.set_resume_token(self.place)


class Publisher:
    """Says what requests brought, at a pace that leaves room. The writer holds what is said until it is committed."""

    def __init__(
        self, event_log: EventLog, call: Call, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._log, self._call, self._sleep = event_log, call, sleep
        self._in_round = False

    async def barrier(self, writer: FeedWriter) -> dict[int, int]:
        """Write a record behind all that raw holds that is passed on to bars; return its offset by partition."""

        def say() -> None:
            writer.start((), start_us=FOREVER_US, gap=True, new_round=True)
            writer.end()

        await self._call(say)
        self._in_round = False
        return dict(writer.last_offsets)

    async def old(
        self, writer: FeedWriter, symbols: Sequence[str], bars: pa.RecordBatch | None, from_us: int, saying: Saying
    ) -> None:
        """Bring bars older than what aggregation remembers, in a round that claims nothing; it stays open."""

        def begin() -> None:
            writer.start(symbols, start_us=FOREVER_US, gap=True, new_round=True)
            writer.commit()

        def say(part: Slice, last: Saying | None) -> None:
            writer.append_bars(part.bars, from_us, reason="backfill")
            if last is not None:
                last.say(writer)
            writer.commit()

        parts = slices_of(bars, from_us, FOREVER_US)
        if not parts:
            await self.note(writer, saying)
            return
        if not self._in_round:
            await self._call(begin)
            self._in_round = True
        for at, part in enumerate(parts):
            await self._call(partial(say, part, saying if at == len(parts) - 1 else None))
            await self._rest(writer.last_offsets)

    async def present(
        self, writer: FeedWriter, symbols: Sequence[str], bars: pa.RecordBatch | None,
        claim: tuple[int, int] | None, saying: Saying,
    ) -> None:  # fmt: skip
        """Bring bars of the present. `claim`: the stretch of which these are all there are, of every symbol; or None.

        What the vendor did not bring of it was not traded.
        """

        def say(part: Slice, last: Saying | None) -> None:
            from_us = FOREVER_US if claim is None else part.from_us
            writer.start(symbols, start_us=from_us, gap=True, new_round=True)
            writer.append_bars(part.bars, part.to_us, reason="backfill")
            if last is not None:
                last.say(writer)
            writer.end()

        times = times_of(bars["time"]) if bars is not None else None
        if bars is None or times is None or not len(times):
            await self.note(writer, saying)
            return
        await self.finish(writer)
        from_us, to_us = claim or (int(times[0]), int(times[-1]) + 1)
        parts = slices_of(bars, from_us, to_us, fives=True)
        for at, part in enumerate(parts):
            await self._call(partial(say, part, saying if at == len(parts) - 1 else None))
            await self._rest(writer.last_offsets)

    async def note(self, writer: FeedWriter, saying: Saying) -> None:
        """Say what comes without bars."""

        def say() -> None:
            saying.say(writer)
            writer.commit()

        await self._call(say)

    async def finish(self, writer: FeedWriter, place: bytes | None = None) -> None:
        """End the round of old bars if one is open: indicators of what it brought are computed now."""
        if self._in_round:
            await self._call(partial(writer.end, place))
            self._in_round = False

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

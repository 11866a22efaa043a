"""The first history: bars of the days before, fetched once, so that charts are not empty.

A backfill is a feed with an end. Its plan is a list of units (an interval, a stretch, some symbols); its cursor says
how many are on the log and up to when the plan reaches, so a killed backfill goes on with the next unit and a finished
one does nothing. Another set of symbols or depths is another feed.

A unit is asked for in requests as large as the vendor likes, and said in slices of `_SLICE_BARS` in the order of time:
all symbols of a minute together are one step for who builds bars of them, one symbol's whole day is 1,440. Each slice
waits until aggregation has taken the one before, and then rests twice as long as that took, so that live ticks find
most of the plant free.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from tickerplant.core import interval as intervals
from tickerplant.core.schemas import RAW, VENDOR_BARS
from tickerplant.core.times import DAY_US
from tickerplant.log.port import EventLog
from tickerplant.market_data import cursors
from tickerplant.market_data.clients.errors import Malformed, NoData, UnknownSymbol, VendorError
from tickerplant.market_data.feed import DeadRow, FeedWriter, now_us

log = structlog.get_logger(__name__)

_UNIT_BARS: Final = 72_000  # fifty symbols' minutes of a day: 6 MB, and asked for again after a kill
_REQUEST_BARS: Final = 3_000  # two symbols' minutes of a day: few enough for the sandbox on a busy machine
_SLICE_BARS: Final = 1_000
_MAX_SYMBOLS: Final = 100
_PAGE_BARS: Final = 5_000
_RETRIES: Final = 20

_FOLLOWER: Final = "aggregation"
_LOOK_S: Final = 0.02
_REST: Final = 2.0
_PATIENCE_S: Final = 10.0

_NO_BARS: Final = pa.RecordBatch.from_pylist([], schema=VENDOR_BARS)


class BarSource(Protocol):
    """Who can be asked for bars: a vendor's REST client."""

    async def time_series(
        self, symbols: Sequence[str], interval: str, from_us_: int, to_us: int, *, limit: int = ...
    ) -> dict[str, pa.RecordBatch | VendorError]:
        """Return each symbol's bars of `[from, to)` or its error."""
        ...


@dataclass(frozen=True, slots=True)
class Depth:
    """How far back which bars are fetched."""

    interval: str
    days: int


DEFAULT_DEPTHS: Final = (Depth("1d", 365), Depth("1m", 1))


@dataclass(frozen=True, slots=True)
class _Unit:
    symbols: Sequence[str]
    interval: str
    from_us: int
    to_us: int


class _Place(msgspec.Struct, array_like=True):
    done: int
    to_us: int


@dataclass(slots=True)
class BackfillSummary:
    """What a backfill did in this run; `complete` when nothing is left to do."""

    feed: str
    units: int = 0
    bars: int = 0
    failed: int = 0
    complete: bool = False


def backfill_name(vendor: str, symbols: Sequence[str], depths: Sequence[Depth]) -> str:
    """Return the feed's name: the vendor and a hash of what is fetched."""
    plan = msgspec.json.encode([sorted(symbols), depths])
    return f"backfill:{vendor}:{hashlib.blake2b(plan, digest_size=6).hexdigest()}"


def _plan(symbols: Sequence[str], depths: Sequence[Depth], to_us: int) -> list[_Unit]:
    units = []
    for depth in depths:
        length = intervals.parse(depth.interval)
        end_us = length.floor(to_us)  # the interval that is not over yet comes from the stream
        begin_us = length.floor(to_us - depth.days * DAY_US)
        page_us = _PAGE_BARS * length.us
        for page in range(begin_us, end_us, page_us):
            last = min(page + page_us, end_us)
            size = max(1, _UNIT_BARS // max(1, (last - page) // length.us))
            units += [_Unit(symbols[at : at + size], depth.interval, page, last) for at in range(0, len(symbols), size)]
    return units


async def backfill(
    event_log: EventLog,
    vendor: str,
    source: BarSource,
    symbols: Sequence[str],
    depths: Sequence[Depth] = DEFAULT_DEPTHS,
    *,
    call: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread,
    clock: Callable[[], int] = now_us,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> BackfillSummary:
    """Fetch what is missing of the plan. `call` runs what blocks (the log), in one thread at a time.

    Waits out spent quotas and failures that pass; gives up (incomplete, to be called again) on those that do not.
    """
    summary = BackfillSummary(backfill_name(vendor, symbols, depths))
    writer: FeedWriter = await call(lambda: FeedWriter(event_log, summary.feed, clock=clock))
    try:
        if writer.cursor.state == cursors.ENDED:
            summary.complete = True
            return summary
        kept = writer.cursor.place
        place = msgspec.msgpack.decode(kept, type=_Place) if kept else _Place(0, clock())
        units = _plan(symbols, depths, place.to_us)
        from_us = min((unit.from_us for unit in units), default=place.to_us)
        await call(lambda: writer.start(symbols, from_us=from_us, whole=True))
        pace = _Pace(event_log, sleep)
        for number in range(place.done, len(units)):
            batch, failed, dead = await _fetch(source, units[number], sleep)
            summary.failed += failed
            after = msgspec.msgpack.encode(_Place(number + 1, place.to_us))
            *former, last = _slices(batch)
            for part in former:
                await call(partial(writer.vendor_bars, part, from_us, reason="backfill"))
                await pace.rest(writer.ends)
            await call(partial(_say, writer, last, dead, from_us, after))
            await pace.rest(writer.ends)
            summary.units += 1
            summary.bars += batch.num_rows
        # All before `to_us` is there; the day and the five minutes that it lies in are left to the stream.
        await call(lambda: writer.mark(intervals.M1.floor(place.to_us)))
        await call(lambda: writer.end(whole=False))
        summary.complete = True
    except VendorError as error:
        log.warning("backfill given up for now", feed=summary.feed, reason=str(error))
    finally:
        await call(writer.close)
    return summary


def _say(writer: FeedWriter, batch: pa.RecordBatch, dead: list[DeadRow], from_us: int, after: bytes) -> None:
    writer.dead(dead)
    if batch.num_rows:
        writer.vendor_bars(batch, from_us, after, reason="backfill")
    else:
        writer.mark(from_us, after)
        writer.commit()


def _slices(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    """Cut a unit's bars, in the order of time, into slices; at least one, which may be empty."""
    return [batch.slice(at, _SLICE_BARS) for at in range(0, max(1, batch.num_rows), _SLICE_BARS)]


class _Pace:
    """Lets who follows the log take one slice before the next is said."""

    def __init__(self, event_log: EventLog, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._log, self._sleep = event_log, sleep

    async def rest(self, ends: Mapping[int, int]) -> None:
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


async def _fetch(
    source: BarSource, unit: _Unit, sleep: Callable[[float], Awaitable[None]]
) -> tuple[pa.RecordBatch, int, list[DeadRow]]:
    """Return the unit's bars in the order of time, for how many symbols there was an error, and dead letters."""
    bars = max(1, (unit.to_us - unit.from_us) // intervals.parse(unit.interval).us)
    size = min(_MAX_SYMBOLS, max(1, _REQUEST_BARS // bars))
    found: dict[str, pa.RecordBatch | VendorError] = {}
    for at in range(0, len(unit.symbols), size):
        request = dataclasses.replace(unit, symbols=unit.symbols[at : at + size])
        found |= await _ask(source, request, sleep)
        await sleep(_LOOK_S)
    batches, failed, dead = [], 0, []
    for symbol, answer in found.items():
        if isinstance(answer, VendorError):
            failed += 1
            if isinstance(answer, Malformed):
                dead.append(DeadRow(str(answer), symbol.encode()))
            elif not isinstance(answer, NoData | UnknownSymbol):
                log.warning("no history", symbol=symbol, interval=unit.interval, reason=str(answer))
        elif answer.num_rows:
            batches.append(answer)
    if not batches:
        return _NO_BARS, failed, dead
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    order = pc.sort_indices(table["time"])
    return table.take(order).combine_chunks().to_batches()[0], failed, dead


async def _ask(
    source: BarSource, unit: _Unit, sleep: Callable[[float], Awaitable[None]]
) -> dict[str, pa.RecordBatch | VendorError]:
    """Return the answer of one request, having waited out what passes."""
    for attempt in range(_RETRIES):
        try:
            return await source.time_series(unit.symbols, unit.interval, unit.from_us, unit.to_us)
        except VendorError as error:
            if error.retry_after_s is None or attempt == _RETRIES - 1:
                raise
            log.info("backfill waits", reason=str(error), seconds=error.retry_after_s)
            await sleep(error.retry_after_s)
    raise AssertionError  # the last turn returns or raises

"""The feed of a file: ticks or bars from CSV, Parquet or DBN into the log, at full speed or a multiple of real time.

The feed is named by what the file holds and by the options that change how it is read (`files.effect`), so the same
file given twice changes nothing, and a replay that was killed goes on where it was. Two passes: the first reads times
and symbols alone, since the watermark of a file is the least of the times still to come (a file sorted by symbol works
too) and `start` names the symbols.

Going as fast as it can, it waits for nobody: what limits it is the log. Memory holds one block of the file and one
transaction (`TRANSACTION_BYTES`).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from tickerplant.core.errors import BadInput
from tickerplant.core.records import FILE_FEED
from tickerplant.core.schemas import RAW
from tickerplant.core.times import FOREVER_US, SECOND_US, Int64Array
from tickerplant.log.port import EventLog, at_positions
from tickerplant.market_data.feed import cursor as feed_cursor
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.writer import FeedWriter, now_us
from tickerplant.market_data.files.column_roles import BARS, Shape, recognise
from tickerplant.market_data.files.detect import DataFile, open_file
from tickerplant.market_data.files.feed_identity import effect_of
from tickerplant.market_data.files.rows import DEFAULT_SOURCE, Reading, RowReader, Rows

BATCH_ROWS: Final = 16_384
"""Rows of a batch before it is split: with 4 partitions records of 170 KB."""
TRANSACTION_BYTES: Final = 4 * 1024 * 1024
_PACE_S: Final = 0.02  # what falls due within 20 ms goes together when a speed is given
_LONGEST_SLEEP_S: Final = 0.25  # then it looks for `stop` and marks
_FEW_ERRORS: Final = 3
_FEW_CODES: Final = 10
_LAST_OFFSETS: Final = 64  # behind the last record stand the marker of its transaction and those of aborted ones
_LAST_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What a file may not say itself, and how fast it goes.

    `symbol`, `interval`, `tz` (IANA) and `date_order` (`mdy`, `dmy`) stand in for what the file does not say. `speed`
    is a multiple of real time; None is as fast as it goes. `whole`: the first and the last interval count as complete
    though the file begins and ends within them. `conditions` names the table that trade conditions are read by, of
    `conditions.TABLES`; None is by each trade's tape, or what the tapes agree on.
    """

    symbol: str | None = None
    interval: str | None = None
    tz: str | None = None
    date_order: str | None = None
    source: str = DEFAULT_SOURCE
    speed: float | None = None
    whole: bool = True
    conditions: str | None = None

    @property
    def reading(self) -> Reading:
        """The part that decides what the rows say."""
        return Reading(self.symbol, self.interval, self.tz, self.date_order, self.source, self.conditions)


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How far a replay is: rows of the file, and the newest time sent (0 before the first)."""

    rows: int
    rows_total: int
    time_us: int


@dataclass(slots=True)
class ReplaySummary:
    """What a replay did. `ends`: the last raw offset in each partition; who has read these has all of the file.

    `already`: the file had been replayed before, nothing was written. `stopped`: it was asked to stop; the same call
    goes on. `ticks`, `bars` and `dead` count over all runs of this feed, `rows_read` and `seconds` this one.
    `unknown_conditions`: how many of the rows read carry each code that no table knows; they are ordinary trades.
    """

    feed: str
    kind: str
    rows_total: int = 0
    rows_read: int = 0
    ticks: int = 0
    bars: int = 0
    dead: int = 0
    repeats: int = 0
    already: bool = False
    stopped: bool = False
    ends: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    symbols: int = 0
    from_us: int = 0
    to_us: int = 0
    notes: tuple[str, ...] = ()
    unknown_conditions: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Scan:
    symbols: list[str]
    rows: int
    from_us: int
    to_us: int
    still_to_come_us: list[int]  # for each block, the least time in the blocks after it


def feed_name(path: Path, reading: Reading, *, whole: bool) -> str:
    """Return the name of the file's feed: a hash of its bytes and one of the options that take effect on it."""
    with path.open("rb") as stream:
        content = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=10)).hexdigest()
    read = msgspec.json.encode([reading, whole])
    return f"{FILE_FEED}{content}-{hashlib.blake2b(read, digest_size=4).hexdigest()}"


def replay(
    log: EventLog,
    path: Path,
    options: ReplayOptions = ReplayOptions(),
    *,
    progress: Callable[[ReplayProgress], None] | None = None,
    stop: threading.Event | None = None,
    clock: Callable[[], int] = now_us,
    sleep: Callable[[float], object] | None = None,
) -> ReplaySummary:
    """Bring a file into the log and return what was done. Blocks; `stop` ends it after the batch at hand, cleanly.

    `clock` gives microseconds UTC and `sleep` waits seconds; they pace the replay when a speed is given. Raises
    BadInput when the file cannot be understood (nothing is written then), Fenced when another replay of the same file
    takes over, LogUnavailable (calling again goes on).
    """
    began = time.monotonic()
    stop = stop or threading.Event()
    if options.speed is not None and not options.speed > 0:
        raise BadInput(f"a speed of {options.speed} does not get anywhere; it must be above 0")
    file = open_file(path)
    shape = recognise(file.header, line=file.header_number)
    effect = effect_of(file, shape, options.reading)
    feed = feed_name(path, effect.reading, whole=options.whole)
    summary = ReplaySummary(feed, shape.kind, notes=(*shape.notes, *effect.notes))
    with FeedWriter(log, summary.feed, hold_bytes=0 if options.speed else TRANSACTION_BYTES, clock=clock) as writer:
        if writer.cursor.state == feed_cursor.ENDED:
            summary.already = True
        else:
            run = _Run(file, shape, options, writer, stop, progress, clock, sleep or stop.wait, summary)
            run.go()
        cursor = writer.cursor
        summary.ticks, summary.bars = cursor.ticks, cursor.bars
        summary.dead, summary.repeats = cursor.dead, cursor.repeats
        summary.ends = _last_records(log) if summary.already else dict(writer.last_offsets)
    summary.seconds = time.monotonic() - began
    return summary


def _last_records(log: EventLog) -> dict[int, int]:
    """Return the offset of the last raw record in each partition that has one.

    On Kafka the end of a partition lies behind the marker of its last transaction, which no reader ever meets: who
    waits for the offset before the end waits for ever. So the last stretch is read, which takes a moment there.
    """
    bounds = {tp: (first, end) for tp, (first, end) in log.offsets(RAW).items() if end > first}
    found: dict[int, int] = {}
    start = at_positions({tp: max(first, end - _LAST_OFFSETS) for tp, (first, end) in bounds.items()})
    deadline = time.monotonic() + _LAST_S
    with log.reader([RAW], start=start) as reader:
        while any(found.get(tp.partition, -1) < end - 1 for tp, (_, end) in bounds.items()):
            deliveries = reader.poll(timeout_s=0.2)
            for delivery in deliveries:
                if delivery.source in bounds and delivery.offset < bounds[delivery.source][1]:
                    found[delivery.partition] = delivery.offset
            if not deliveries and (len(found) == len(bounds) or time.monotonic() > deadline):
                break
    return found


@dataclass(slots=True)
class _Run:
    """One run over a file: scan, start, batches, end."""

    file: DataFile
    shape: Shape
    options: ReplayOptions
    writer: FeedWriter
    stop: threading.Event
    progress: Callable[[ReplayProgress], None] | None
    clock: Callable[[], int]
    sleep: Callable[[float], object]
    summary: ReplaySummary
    _began_us: int = 0
    _origin_us: int = 0

    def go(self) -> None:
        scan = self._scan()
        done = int(self.writer.cursor.resume_token or b"0")
        reader = self._reader()
        summary = self.summary
        summary.symbols, summary.rows_total = len(scan.symbols), scan.rows
        summary.from_us, summary.to_us = scan.from_us, scan.to_us
        stopped_before = self.writer.cursor.state == feed_cursor.DOWN
        from_us = self.writer.cursor.watermark_us if stopped_before else scan.from_us
        # A killed run's watermark too: the time that has been played is not waited for again.
        origin_us = max(from_us, self.writer.cursor.watermark_us)
        for at, block in enumerate(self.file.blocks(self.shape.wanted)):
            rows = reader.read(block)
            if not at:
                _refuse_nonsense(rows)
                self.writer.start(scan.symbols, start_us=from_us, whole=self.options.whole or stopped_before)
                self._began_us, self._origin_us = self.clock(), origin_us
            if rows.end > done and not self._send(rows, scan.still_to_come_us[at], done):
                summary.stopped = True
                self.writer.commit()
                self.writer.down(reason="stopped")
                return
            done = max(done, rows.end)
        self.writer.end(str(done).encode(), whole=self.options.whole)
        self._note_conditions(reader)

    def _note_conditions(self, reader: RowReader) -> None:
        """Say, once for the file, what of its conditions was not understood."""
        summary, notes = self.summary, list(self.summary.notes)
        summary.unknown_conditions = {**reader.conditions.unknown}
        if self.options.conditions and "conditions" not in self.shape.columns:
            notes.append("no column for conditions: none were read")
        if reader.conditions.unknown:
            notes.append(f"conditions not known, taken as ordinary trades: {_counted(reader.conditions.unknown)}")
        if reader.conditions.unclear:
            notes.append(
                "conditions that CTA and UTP read differently, taken as not setting a price (say --conditions cta or "
                f"utp): {_counted(reader.conditions.unclear)}"
            )
        if reader.corrections.unknown:
            notes.append(f"corrections not known, taken as ordinary trades: {_counted(reader.corrections.unknown)}")
        summary.notes = tuple(notes)

    def _reader(self) -> RowReader:
        return RowReader(
            self.file.path.name, self.file.unit, self.shape, self.options.reading, header=self.file.header_number
        )

    def _scan(self) -> _Scan:
        """Read times and symbols alone: what is to come behind each block, and what `start` must know."""
        reader = self._reader()
        least: list[int] = []
        rows, newest = 0, -FOREVER_US
        for block in self.file.blocks(reader.scan_columns()):
            times = reader.scan(block)
            rows += len(block.numbers) + len(block.broken)
            least.append(int(times.min()) if len(times) else FOREVER_US)
            newest = max(newest, int(times.max()) if len(times) else newest)
        first = min(least, default=FOREVER_US)
        if not rows:
            raise BadInput(f"{self.file.path.name} has a header and no rows", line=self._line_after_header())
        if first == FOREVER_US:
            raise BadInput(f"no row of {self.file.path.name} has a time that can be read")
        still = np.minimum.accumulate(np.array([*least[1:], newest], np.int64)[::-1])[::-1]
        return _Scan(reader.symbols, rows, first, newest, still.tolist())

    def _line_after_header(self) -> int | None:
        return None if self.file.header_number is None else self.file.header_number + 1

    def _send(self, rows: Rows, after_us: int, done: int) -> bool:
        """Send what of a block is not on the log yet; return False when asked to stop before all of it was."""
        dead = [row for row in rows.dead if row.number >= done]
        for row in dead[: max(0, _FEW_ERRORS - len(self.summary.errors))]:
            self.summary.errors.append(row.reason)
        first = int(np.searchsorted(rows.numbers, done))
        # The least of the times still to come, behind each row of the block.
        still = np.minimum.accumulate(np.append(rows.times, after_us)[::-1])[::-1]
        newest = np.maximum.accumulate(rows.times) if self.options.speed else rows.times
        at, dead_at = first, 0
        while True:
            if self.stop.is_set():
                return False
            to, ceiling_us = self._due(newest, at)
            last = to == len(rows.numbers)
            place = rows.end if last else int(rows.numbers[to])
            sending = dead_at
            while dead_at < len(dead) and dead[dead_at].number < place:
                dead_at += 1
            self.writer.append_dead_letters([DeadRow(row.reason, row.payload) for row in dead[sending:dead_at]])
            watermark_us = min(int(still[to]), ceiling_us)
            batch = rows.batch.slice(at, to - at)
            if self.shape.kind == BARS:
                self.writer.append_bars(batch, watermark_us, str(place).encode(), reason="file")
            else:
                self.writer.append_ticks(batch, watermark_us, str(place).encode())
            self.summary.rows_read += to - at + dead_at - sending
            if self.progress is not None and to > at:
                self.progress(ReplayProgress(place - 1, self.summary.rows_total, int(rows.times[to - 1])))
            at = to
            if last:
                return True

    def _due(self, newest: Int64Array, at: int) -> tuple[int, int]:
        """Return up to which row may be sent now, and the time that it is in the file. Waits when a speed is given."""
        end = min(at + BATCH_ROWS, len(newest))
        speed = self.options.speed
        if speed is None or at == len(newest):
            return end, FOREVER_US
        while not self.stop.is_set():
            now = self._origin_us + int((self.clock() - self._began_us) * speed)
            if newest[at] <= now:
                return min(end, int(np.searchsorted(newest, now, side="right"))), now
            self.writer.mark(min(now, int(newest[at])))
            wait_s = (int(newest[at]) - now) / SECOND_US / speed
            self.sleep(min(max(wait_s, _PACE_S), _LONGEST_SLEEP_S))
        return at, FOREVER_US


def _counted(codes: dict[str, int]) -> str:
    """Return the most frequent codes with their counts."""
    order = sorted(codes.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(order) - _FEW_CODES} more" if len(order) > _FEW_CODES else ""
    return ", ".join(f"{code} ({times:,})" for code, times in order[:_FEW_CODES]) + more


def _refuse_nonsense(rows: Rows) -> None:
    """Refuse a file that begins with a block of broken rows alone: it is misunderstood, not broken in places."""
    if rows.dead and not rows.batch.num_rows:
        raise BadInput(f"none of the first {len(rows.dead)} rows can be read; {rows.dead[0].reason}")

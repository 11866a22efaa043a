"""The feed of a file: appends its ticks or bars to the log, at full speed or at a multiple of real time.

The feed's name is a hash of the file's content and of the options that change its rows (`effective_options`). A second
replay of the same file and options therefore changes nothing, and a killed replay resumes where it stopped.

A replay reads the file at least twice. The first pass reads only times, symbols and intervals. The watermark is the
least time in the remaining rows, so a file sorted by symbol works too. The `start` record contains all symbols. If no
speed is given, only the log limits the replay. Memory contains one block of the file and one transaction
(`TRANSACTION_BYTES`).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from tickerplant.core.errors import BadInput
from tickerplant.core.records import FILE_FEED
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.schemas import RAW
from tickerplant.core.times import FOREVER_US, SECOND_US, Int64Array
from tickerplant.log.port import EventLog, at_positions
from tickerplant.log.rules_in_force import rules_in_force
from tickerplant.market_data.feed import cursor as feed_cursor
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.writer import FeedWriter, now_us
from tickerplant.market_data.files.bar_checks import INTERVAL_COLUMN, INTERVAL_OPTION, BarChecks
from tickerplant.market_data.files.block import with_advice
from tickerplant.market_data.files.closing_prints import ClosingPrints
from tickerplant.market_data.files.currency_pairs import notes_of_pairs
from tickerplant.market_data.files.effective_options import EffectiveOptions, effective_options
from tickerplant.market_data.files.file_layout import layout_of
from tickerplant.market_data.files.layout import BARS, CLOSES, FileLayout
from tickerplant.market_data.files.open_file import DataFile, errors_of, open_file
from tickerplant.market_data.files.options import DEFAULT_SOURCE, ReadOptions
from tickerplant.market_data.files.row_reader import RowReader, Rows

BATCH_ROWS: Final = 16_384
"""Maximum number of rows in one batch before it is split by partition: records of 170 KB in 4 partitions."""
TRANSACTION_BYTES: Final = 4 * 1024 * 1024
_PACE_S: Final = 0.02  # if a speed is given, rows that are due within 20 ms form a batch
_LONGEST_SLEEP_S: Final = 0.25  # `stop` is checked and a mark is appended after each sleep
_MAX_ERRORS: Final = 3
_MAX_CODES: Final = 10
_LAST_OFFSETS: Final = 64  # the last record may be followed by markers of its transaction and of aborted ones
_LAST_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """The options of a replay.

    `symbol`, `interval`, `tz` (IANA) and `date_order` (`mdy`, `dmy`) apply if the file does not contain them. `source`
    is the source of the rows for which the file contains none. `speed` is a multiple of real time; None is full speed.
    `whole`: the first and the last interval of the file count as complete (True) or incomplete (False). If it is None,
    they count as complete unless another file cuts them (see `aggregation.cut_minutes`). `conditions`: a table of
    `conditions.TABLES`; None selects the table by the tape of each trade, or the table of both tapes. `columns`: pairs
    of a role and the name of its column, for columns of other names. `decimal`: `point` or `comma`. `strict`: refuse a
    file that can be read in two ways. `force_interval`: read bars whose times do not fit their interval.
    """

    symbol: str | None = None
    interval: str | None = None
    tz: str | None = None
    date_order: str | None = None
    source: str = DEFAULT_SOURCE
    speed: float | None = None
    whole: bool | None = None
    conditions: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    decimal: str | None = None
    strict: bool = False
    force_interval: bool = False

    @property
    def read_options(self) -> ReadOptions:
        """Return the options that change the rows."""
        return ReadOptions(
            self.symbol,
            self.interval,
            self.tz,
            self.date_order,
            self.source,
            self.conditions,
            self.columns,
            self.decimal,
        )


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """The progress of a replay: number of the last appended row, count of the file's rows, and time of that row."""

    rows: int
    rows_total: int
    time_us: int


@dataclass(slots=True)
class ReplaySummary:
    """The result of a replay. `ends`: the last offset of the file in each partition of `market.prices.raw`.

    `already`: an earlier replay has completed this file, and nothing was appended; `ends` are then the offsets of the
    topic's last records. `stopped`: the replay was stopped; the same call resumes it. `rows_read` and `seconds` refer
    to this run, the other counts to all runs of this feed. `conflicts`: count of dead letters with the identity of an
    earlier trade, but a different price or size. Rows that differ from an earlier row of the same bar count too.
    `unknown_conditions`: number of rows with each unknown code; they count as ordinary trades.
    """

    feed: str
    kind: str
    rows_total: int = 0
    rows_read: int = 0
    ticks: int = 0
    bars: int = 0
    dead: int = 0
    repeats: int = 0
    conflicts: int = 0
    already: bool = False
    stopped: bool = False
    ends: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    symbols: int = 0
    start_us: int = 0
    end_us: int = 0
    notes: tuple[str, ...] = ()
    unknown_conditions: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _TickOrder:
    """The order of a file's times: counts of rows whose time is after, before, or equal to that of the row above."""

    rises: int = 0
    falls: int = 0
    ties: int = 0
    _last_us: int | None = None

    def add(self, times: Int64Array) -> None:
        """Add the times of a block, in the order of the file."""
        steps = np.diff(times if self._last_us is None else np.concatenate(([self._last_us], times)))
        self.rises += int(np.count_nonzero(steps > 0))
        self.falls += int(np.count_nonzero(steps < 0))
        self.ties += int(np.count_nonzero(steps == 0))
        self._last_us = int(times[-1]) if len(times) else self._last_us

    @property
    def is_newest_first(self) -> bool:
        """Return True if the file has the newest rows first, and rows of equal times."""
        return self.falls > 0 and not self.rises and self.ties > 0


_NEWEST_FIRST: Final = (
    "the file has the newest trades first; of two trades with equal times, the upper trade counts as earlier. If the "
    "lower trade is earlier, reverse the file; otherwise bars may open and close at the wrong trade"
)


@dataclass(frozen=True, slots=True)
class _Scan:
    symbols: list[str]
    rows: int
    start_us: int
    end_us: int
    min_later_us: list[int]  # for each block, the least time in the blocks after it


def feed_name(path: Path, effective: EffectiveOptions, *, whole: bool | None) -> str:
    """Return the name of the file's feed: a hash of its content, and a hash of the options that determine its rows.

    `whole` None is hashed as True, because earlier versions had only True and False.
    """
    with path.open("rb") as stream:
        content = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=10)).hexdigest()
    claim = {None: True, True: "whole", False: False}[whole]
    encoded = msgspec.json.encode([effective.options.encoded, claim, *effective.changes])
    return f"{FILE_FEED}{content}-{hashlib.blake2b(encoded, digest_size=4).hexdigest()}"


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
    """Append a file to the log and return the result. Blocks; `stop` ends the replay after the current batch.

    `clock` returns microseconds UTC and `sleep` waits seconds; both set the pace if a speed is given. Raises BadInput
    if the file cannot be interpreted. If the first pass finds the fault, nothing is appended. Raises Fenced if another
    replay of the same file takes over. Another call after LogUnavailable resumes the replay.
    """
    began = time.monotonic()
    stop = stop or threading.Event()
    if options.speed is not None and not options.speed > 0:
        raise BadInput(f"the speed must be above 0, not {options.speed}")
    with errors_of(path):
        file = open_file(path)
        layout = layout_of(file, options.read_options)
        if layout.kind == CLOSES:
            raise BadInput(
                f"{path.name} has a close and no open, high and low: it is neither a file of bars nor of ticks. Set "
                f"--column price={layout.columns['close']} if each row is a trade",
                line=file.header_number,
            )
        effective = effective_options(file, layout, options.read_options)
        if options.strict and effective.choices:
            raise BadInput(
                f"--strict: {'; '.join(effective.choices)}; set the option that decides, or omit --strict",
                line=file.header_number,
            )
    feed = feed_name(path, effective, whole=options.whole)
    summary = ReplaySummary(feed, layout.kind, notes=(*effective.choices, *layout.notes, *effective.notes))
    with FeedWriter(log, summary.feed, hold_bytes=0 if options.speed else TRANSACTION_BYTES, clock=clock) as writer:
        if writer.cursor.state == feed_cursor.ENDED:
            summary.already = True
        else:
            rules = rules_in_force(log, DEFAULT_RULES)
            closing = ClosingPrints(rules) if _can_miss_closing_prints(layout) else None
            run = _Run(
                file, layout, options, writer, stop, progress, clock, sleep or stop.wait, summary, rules, closing
            )
            with errors_of(path):
                run.run()
        cursor = writer.cursor
        summary.ticks, summary.bars = cursor.ticks, cursor.bars
        summary.dead, summary.repeats = cursor.dead, cursor.repeats
        summary.conflicts = cursor.conflicts
        summary.ends = _last_records(log) if summary.already else dict(writer.last_offsets)
    summary.seconds = time.monotonic() - began
    return summary


def _can_miss_closing_prints(layout: FileLayout) -> bool:
    """Return True if nothing in the file assigns a print to a session's closing auction."""
    return layout.kind != BARS and not {"conditions", "flags"} & {*layout.columns}


def _last_records(log: EventLog) -> dict[int, int]:
    """Return the offset of the last raw record in each partition that has one.

    The end of a Kafka partition is after the marker of its last transaction. No reader receives a marker, so a wait for
    the offset before the end would never finish. The last records are therefore read.
    """
    bounds = {tp: (first, end) for tp, (first, end) in log.offsets(RAW).items() if end > first}
    found: dict[int, int] = {}
    start = at_positions({tp: max(first, end - _LAST_OFFSETS) for tp, (first, end) in bounds.items()})
    deadline = time.monotonic() + _LAST_TIMEOUT_S
    with log.reader([RAW], start=start) as reader:
        while any(found.get(tp.partition, -1) < end - 1 for tp, (_, end) in bounds.items()):
            received = reader.poll(timeout_s=0.2)
            for record in received:
                if record.source in bounds and record.offset < bounds[record.source][1]:
                    found[record.partition] = record.offset
            if not received and (len(found) == len(bounds) or time.monotonic() > deadline):
                break
    return found


@dataclass(slots=True)
class _Run:
    """One run over a file: scan, `start`, batches, `end`."""

    file: DataFile
    layout: FileLayout
    options: ReplayOptions
    writer: FeedWriter
    stop: threading.Event
    progress: Callable[[ReplayProgress], None] | None
    clock: Callable[[], int]
    sleep: Callable[[float], object]
    summary: ReplaySummary
    rules: Rules
    closing: ClosingPrints | None
    _began_us: int = 0
    _origin_us: int = 0

    def run(self) -> None:
        """Append the file from the position of the cursor to its end, or until `stop`."""
        scan = self._scan()
        done = int(self.writer.cursor.resume_token or b"0")
        reader = self._reader()
        summary = self.summary
        summary.symbols, summary.rows_total = len(scan.symbols), scan.rows
        summary.start_us, summary.end_us = scan.start_us, scan.end_us
        stopped_before = self.writer.cursor.state == feed_cursor.DOWN
        start_us = self.writer.cursor.watermark_us if stopped_before else scan.start_us
        # A resumed run continues at the watermark: it does not wait again for time that a killed run replayed.
        origin_us = max(start_us, self.writer.cursor.watermark_us)
        for at, block in enumerate(self.file.blocks(self.layout.used_columns)):
            rows = reader.read(block)
            if self.closing is not None:
                self.closing.add(rows.batch, rows.times)
            if not at:
                _check_first_block(rows)
                whole = self.options.whole is not False
                self.writer.start(
                    scan.symbols,
                    start_us=start_us,
                    whole=whole or stopped_before,
                    firm=self.options.whole is True,
                )
                self._began_us, self._origin_us = self.clock(), origin_us
            if rows.end > done and not self._append(rows, scan.min_later_us[at], done):
                summary.stopped = True
                self.writer.commit()
                self.writer.down(reason="stopped")
                return
            done = max(done, rows.end)
        self.writer.end(str(done).encode(), whole=self.options.whole is not False)
        self._add_notes(reader)
        self._add_conflict_note()

    def _add_conflict_note(self) -> None:
        """Add a note about trades with equal identity and a different price or size to the summary."""
        conflicts = self.writer.cursor.conflicts
        if conflicts and self.layout.kind != BARS:
            column = self.layout.columns["trade_id"]
            first = f" (first: {self.writer.first_conflict})" if self.writer.first_conflict else ""
            self.summary.notes += (
                f"{conflicts:,} trades have the id, time and symbol of an earlier trade but a different price or size; "
                f"they are dead letters{first}. If the column {column} does not identify trades, rename it",
            )

    def _add_notes(self, reader: RowReader) -> None:
        """Add notes about conditions, and about prints that daily bars do not contain, to the summary."""
        summary, notes = self.summary, list(self.summary.notes)
        notes += [choice for choice in reader.choices if choice not in notes]
        summary.unknown_conditions = {**reader.conditions.unknown}
        if self.options.conditions and "conditions" not in self.layout.columns:
            notes.append("no column for conditions: --conditions has no effect")
        if reader.conditions.unknown:
            notes.append(f"unknown conditions, treated as ordinary trades: {_counted(reader.conditions.unknown)}")
        if reader.conditions.ambiguous:
            notes.append(
                "conditions that CTA and UTP define differently, treated as setting no price (set --conditions cta or "
                f"utp): {_counted(reader.conditions.ambiguous)}"
            )
        if reader.corrections.unknown:
            notes.append(f"unknown corrections, treated as ordinary trades: {_counted(reader.corrections.unknown)}")
        if self.closing is not None and (note := self.closing.note()) is not None:
            notes.append(note)
        summary.notes = tuple(notes)

    def _reader(self) -> RowReader:
        return RowReader.of(self.file, self.layout, self.options.read_options)

    def _scan(self) -> _Scan:
        """Read times and symbols; return the least time after each block, and the content of `start`."""
        reader = self._reader()
        least: list[int] = []
        rows, newest = 0, -FOREVER_US
        checks = BarChecks() if self.layout.kind == BARS else None
        order = _TickOrder()
        for block in self.file.blocks(reader.scan_columns()):
            times = reader.scan(block, checks)
            order.add(times)
            rows += len(block.numbers) + len(block.broken)
            least.append(int(times.min()) if len(times) else FOREVER_US)
            newest = max(newest, int(times.max()) if len(times) else newest)
        first = min(least, default=FOREVER_US)
        if not rows:
            raise BadInput(f"{self.file.path.name} has a header but no rows; add rows", line=self._line_after_header())
        if first == FOREVER_US:
            reason = reader.first_reason or "its times are out of range; write ISO 8601"
            raise BadInput(f"no row of {self.file.path.name} can be read; {with_advice(reason)}")
        self._add_choices(reader.choices)
        self.summary.notes += tuple(notes_of_pairs(reader.symbols, self.rules))
        if checks is not None:
            self._check_bars(checks)
        elif order.is_newest_first:
            self._add_choices([_NEWEST_FIRST])
        min_later = np.minimum.accumulate(np.array([*least[1:], newest], np.int64)[::-1])[::-1]
        return _Scan(reader.symbols, rows, first, newest, min_later.tolist())

    def _check_bars(self, checks: BarChecks) -> None:
        """Raise BadInput if an interval does not fit the times. Add a note about several rows of one bar."""
        try:
            checks.check_intervals(INTERVAL_COLUMN if "interval" in self.layout.columns else INTERVAL_OPTION)
        except BadInput as error:
            if not self.options.force_interval:
                raise
            self._add_choices([f"--force-interval: read although {error}"])
        if not (checks.may_repeat or self.options.strict):
            return
        reader = self._reader()
        if checks.may_repeat:
            checks.compare(self._bars(reader))
        else:
            deque(self._bars(reader), maxlen=0)
        self._add_choices(reader.choices)
        note = checks.note(self.file.path.name, self.file.unit)
        if note is not None:
            self.writer.set_conflicts(checks.conflicts)
            self._add_choices([note])

    def _add_choices(self, choices: Iterable[str]) -> None:
        """Add choices to the notes, if they are new. Raises BadInput for a new choice if `strict` is set."""
        found = tuple(choice for choice in choices if choice not in self.summary.notes)
        if found and self.options.strict:
            raise BadInput(f"--strict: {'; '.join(found)}; set the option that decides, or omit --strict")
        self.summary.notes += found

    def _bars(self, reader: RowReader) -> Iterator[tuple[pa.RecordBatch, Int64Array, Int64Array]]:
        """Yield the valid bars of each block, the number of each bar's series, and the row numbers."""
        for block in self.file.blocks(self.layout.used_columns):
            rows = reader.read(block)
            yield rows.batch, reader.groups(rows.batch["symbol"], rows.batch["interval"]), rows.numbers

    def _line_after_header(self) -> int | None:
        return None if self.file.header_number is None else self.file.header_number + 1

    def _append(self, rows: Rows, after_us: int, done: int) -> bool:
        """Append the part of a block that is not in the log; return False if stopped before the end of the block."""
        dead = [row for row in rows.dead if row.number >= done]
        for row in dead[: max(0, _MAX_ERRORS - len(self.summary.errors))]:
            self.summary.errors.append(row.reason)
        first = int(np.searchsorted(rows.numbers, done))
        # The least time after each row of the block.
        min_later = np.minimum.accumulate(np.append(rows.times, after_us)[::-1])[::-1]
        newest = np.maximum.accumulate(rows.times) if self.options.speed else rows.times
        at, dead_at = first, 0
        while True:
            if self.stop.is_set():
                return False
            to, ceiling_us = self._due(newest, at, int(min_later[at]))
            last = to == len(rows.numbers)
            position = rows.end if last else int(rows.numbers[to])
            first_dead = dead_at
            while dead_at < len(dead) and dead[dead_at].number < position:
                dead_at += 1
            self.writer.append_dead_letters([DeadRow(row.reason, row.payload) for row in dead[first_dead:dead_at]])
            watermark_us = min(int(min_later[to]), ceiling_us)
            batch = rows.batch.slice(at, to - at)
            if self.layout.kind == BARS:
                self.writer.append_bars(batch, watermark_us, str(position).encode(), reason="file")
            else:
                self.writer.append_ticks(
                    batch, watermark_us, str(position).encode(), locate=partial(self._place, rows, at)
                )
            self.summary.rows_read += to - at + dead_at - first_dead
            if self.progress is not None and to > at:
                self.progress(ReplayProgress(position - 1, self.summary.rows_total, int(rows.times[to - 1])))
            at = to
            if last:
                return True

    def _place(self, rows: Rows, begin: int, row: int) -> str:
        """Return file and row number of a row of the batch that begins at `begin`."""
        return f"{self.file.path.name} {self.file.unit} {rows.numbers[begin + row]}"

    def _due(self, newest: Int64Array, at: int, least_us: int) -> tuple[int, int]:
        """Return the end of the rows that are due, and the current time of the replay. Waits if a speed is given.

        `least_us`: least time of the rows that are not in the log. Marks are appended even if rows are always due.
        Otherwise the forming bars of a dense file would not be published.
        """
        end = min(at + BATCH_ROWS, len(newest))
        speed = self.options.speed
        if speed is None or at == len(newest):
            return end, FOREVER_US
        while not self.stop.is_set():
            now = self._origin_us + int((self.clock() - self._began_us) * speed)
            self.writer.mark(min(now, least_us))
            if newest[at] <= now:
                return min(end, int(np.searchsorted(newest, now, side="right"))), now
            wait_s = (int(newest[at]) - now) / SECOND_US / speed
            self.sleep(min(max(wait_s, _PACE_S), _LONGEST_SLEEP_S))
        return at, FOREVER_US


def _counted(codes: dict[str, int]) -> str:
    """Return the most frequent codes with their counts, as text."""
    order = sorted(codes.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(order) - _MAX_CODES} more" if len(order) > _MAX_CODES else ""
    return ", ".join(f"{code} ({times:,})" for code, times in order[:_MAX_CODES]) + more


def _check_first_block(rows: Rows) -> None:
    """Raise BadInput if all rows of the first block are broken: the file has another format than detected."""
    if rows.dead and not rows.batch.num_rows:
        raise BadInput(f"none of the first {len(rows.dead)} rows can be read; {with_advice(rows.dead[0].reason)}")

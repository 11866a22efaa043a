"""From records of the log to what one database transaction writes: pure, columns in and columns out.

A `Gathering` belongs to one partition of one topic. It takes deliveries in order and, when asked, hands over a `Work`:
all ticks of the stretch, the newest version of each bar and of its values, and how far the topic has come.

Closed states are handed over at once. Forming ones are conflated: the newest of each key waits until a second after the
last ones were handed over. So a crash may find rows in memory whose records lie before the applied position: with each
position goes `resume`, the oldest record of which a forming row still waits, and reading begins there. A record between
`resume` and the position only brings its forming rows back (`recall`); all else of it has been applied.

Bars and values differ in one thing. A closed bar takes the place of the forming one, which then need not be written.
The values on a forming bar have a table of their own, so the last of them are written whether or not the bar has closed
since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import records, schemas
from tickerplant.core.errors import ConfigError, UnreadableRecord
from tickerplant.core.rules import rules_from
from tickerplant.core.sources import SourceOrder
from tickerplant.core.times import DAY_US, NEVER_US, SECOND_US, times_of
from tickerplant.core.version import make_version
from tickerplant.log.port import ConsumedRecord, TopicPartition
from tickerplant.store.row_selection import chosen, is_closed, newest_by_key, not_newer

FORMING_EVERY_US: Final = SECOND_US
"""A forming row of a key goes to the store at most this often."""
FIRST_US: Final = -70 * 365 * DAY_US
LAST_US: Final = 230 * 365 * DAY_US
"""Rows outside the years 1900 to 2200 are not of any market; one would make a table partition of its own."""
OFFSET: Final = "_offset"
"""The column that a waiting row carries: the offset of its record."""


@dataclass(frozen=True, slots=True)
class Move:
    """A topic's partition has been read from `expected` to `position`; `cause` is the newest on the way.

    `resume` is where reading begins after a restart: `position`, or an earlier record of which forming rows wait.
    """

    expected: int
    position: int
    cause: int
    resume: int


@dataclass(slots=True)
class Work:
    """What one transaction writes for one partition of one topic. Tables without rows are None."""

    source: TopicPartition
    move: Move
    ticks: pa.Table | None = None
    bars: pa.Table | None = None
    values: list[pa.Table] = field(default_factory=list)
    """Tables of equal columns each; closed and forming states of one key may both be there."""
    splits: list[tuple[pa.Table, int]] = field(default_factory=list)
    dividends: list[tuple[pa.Table, int]] = field(default_factory=list)
    """With the version of their record, as `splits`."""
    answers: list[tuple[pa.Table, int]] = field(default_factory=list)
    overs: list[records.Record] = field(default_factory=list)
    feeds: list[records.FeedState] = field(default_factory=list)
    differences: list[tuple[records.Differences, int]] = field(default_factory=list)
    """With how many bars there are that two sources give differently; only the count is kept."""
    alerts: list[tuple[pa.Table, int]] = field(default_factory=list)
    """With the `sent_at_us` of their record, which is when they fired."""
    dead: list[tuple[records.Record, int]] = field(default_factory=list)
    """With the offset of their record."""
    sources: tuple[str, ...] | None = None
    """The order of sources, if the log has said a new one; it can be read."""
    unreadable: int = 0
    out_of_range: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are to write."""
        tables = [self.ticks, self.bars, *self.values, *(t for t, _ in self.splits), *(t for t, _ in self.dividends)]
        rows = sum(int(t.num_rows) for t in tables if t is not None)
        rows += sum(int(table.num_rows) for table, _ in self.alerts)
        rows += sum(int(table.num_rows) for table, _ in self.answers)
        return rows + len(self.overs) + len(self.feeds) + len(self.dead)


class Gathering:
    """What has been read of one partition of one topic and not yet been written. Bounded by whoever reads.

    `position`: where the store is; `generation`: of the log.
    """

    def __init__(self, source: TopicPartition, generation: int, position: int) -> None:
        self.source = source
        self.ticks_waiting = 0
        self.bytes_waiting = 0
        self._generation = generation
        self._position = position
        self._next = position
        self._cause = 0
        self._resume = position
        self._formed_us = NEVER_US
        self._ticks: list[pa.RecordBatch] = []
        self._bars: list[pa.Table] = []
        self._values: dict[tuple[str, ...], list[pa.Table]] = {}
        self._waiting_bars: pa.Table | None = None
        self._waiting_values: dict[tuple[str, ...], pa.Table] = {}
        self._work = self._empty()

    @property
    def moved(self) -> bool:
        """Whether records have come since the last Work."""
        return self._next != self._position

    @property
    def due_us(self) -> int | None:
        """When the forming rows that wait are due, in the clock of `hand_over`; None if none wait."""
        if self._waiting_bars is None and not self._waiting_values:
            return None
        return self._formed_us + FORMING_EVERY_US

    def take(self, delivery: ConsumedRecord) -> None:
        """Take one record. One that cannot be read only moves the position: aggregation has put it aside."""
        old = delivery.offset < self._position
        try:
            record = records.decode(delivery.value)
        except UnreadableRecord:
            self._work.unreadable += not old
            record = None
        if old:
            if record is not None:
                self._recall(record, delivery.offset)
            return
        cause = 0
        if record is not None:
            self._sort(record, delivery.offset)
            # The record that is passed on comes last of what a raw record causes; before it, not all of that is here.
            passed_on = isinstance(record.header, records.Mark | records.End | records.Settings | records.Splits)
            cause = record.header.cause - (not passed_on)
        if delivery.topic == schemas.RAW:
            cause = make_version(self._generation, delivery.offset)
        self.bytes_waiting += len(delivery.value)
        self._next = delivery.offset + 1
        self._cause = max(self._cause, cause)

    def hand_over(self, now_us: int, *, last: bool = False) -> Work | None:
        """Return what is due and forget it; None if there is nothing. `last`: everything is due.

        `now_us` is any clock that does not go back. The next Work expects that this one was applied.
        """
        due = last or now_us - self._formed_us >= FORMING_EVERY_US
        if not self.moved and not (due and self.due_us is not None):
            return None
        work, self._work = self._work, self._empty()
        if self._ticks:
            work.ticks = pa.Table.from_batches(self._ticks)
        work.bars, self._waiting_bars, formed = self._due_bars(due)
        work.values, self._waiting_values, formed_values = self._due_values(due)
        if formed or formed_values:
            self._formed_us = now_us
        waiting = [t for t in (self._waiting_bars, *self._waiting_values.values()) if t is not None]
        self._resume = min([self._next, *(int(t.column(OFFSET).to_numpy().min()) for t in waiting)])
        work.move = Move(self._position, self._next, self._cause, self._resume)
        self._position = self._next
        self._ticks, self._bars, self._values = [], [], {}
        self.ticks_waiting = self.bytes_waiting = 0
        return work

    def _empty(self) -> Work:
        return Work(self.source, Move(0, 0, 0, 0))

    def _sort(self, record: records.Record, offset: int) -> None:
        header, work = record.header, self._work
        batch = record.batch.replace_schema_metadata(None)
        match header:
            case records.Ticks():
                batch = self._in_range(batch)
                self._ticks.append(batch)
                self.ticks_waiting += batch.num_rows
            case records.Bars():
                self._bars.append(_marked(self._in_range(batch), offset))
            case records.Values():
                self._values.setdefault(tuple(batch.schema.names), []).append(_marked(self._in_range(batch), offset))
            case records.Splits() if self.source.topic == schemas.RAW:  # aggregation passes them on; once is enough
                work.splits.append((pa.Table.from_batches([batch]), make_version(self._generation, offset)))
            case records.Dividends():
                work.dividends.append((pa.Table.from_batches([batch]), make_version(self._generation, offset)))
            case records.Answers():
                work.answers.append((pa.Table.from_batches([batch]), make_version(self._generation, offset)))
            case records.Over() if FIRST_US <= header.start_us < LAST_US:
                work.overs.append(record)
            case records.FeedState():
                work.feeds.append(header)
            case records.Differences():
                work.differences.append((header, batch.num_rows))
            case records.Alerts():
                work.alerts.append((pa.Table.from_batches([self._in_range(batch)]), header.sent_at_us))
            case records.Dead():
                work.dead.append((record, offset))
            case records.Settings() if self.source.topic == schemas.OHLCV:
                try:
                    sources = rules_from(header.values).sources
                    SourceOrder(sources)
                except ConfigError:
                    work.unreadable += 1
                else:
                    work.sources = sources
            case _:
                pass

    def _recall(self, record: records.Record, offset: int) -> None:
        """Bring back the forming rows of a record that has been applied; its closed ones only end their waiting."""
        if not isinstance(record.header, records.Bars | records.Values):
            return
        table = _marked(self._in_range(record.batch.replace_schema_metadata(None)), offset)
        if isinstance(record.header, records.Bars):
            _, self._waiting_bars, _ = _split_bars([table], self._waiting_bars, due=False)
        else:
            names = tuple(record.batch.schema.names)
            self._values = {names: [table]}
            _, self._waiting_values, _ = self._due_values(False)
            self._values = {}

    def _in_range(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not batch.num_rows:
            return batch
        times = times_of(batch.column(batch.schema.get_field_index("time")))
        if int(times.min()) >= FIRST_US and int(times.max()) < LAST_US:
            return batch
        good = (times >= FIRST_US) & (times < LAST_US)
        self._work.out_of_range += len(good) - int(good.sum())
        return batch.filter(pa.array(good))

    def _due_bars(self, due: bool) -> tuple[pa.Table | None, pa.Table | None, bool]:
        return _split_bars(self._bars, self._waiting_bars, due=due)

    def _due_values(self, due: bool) -> tuple[list[pa.Table], dict[tuple[str, ...], pa.Table], bool]:
        now: list[pa.Table] = []
        forming: dict[tuple[str, ...], pa.Table] = {}
        withdrawn: list[pa.Table] = []
        for names in {**self._waiting_values, **self._values}:
            tables = list(self._values.get(names, ()))
            if names in self._waiting_values:
                tables.insert(0, self._waiting_values[names])
            table = pa.concat_tables(tables).unify_dictionaries()
            mask = is_closed(table)
            closed = newest_by_key(chosen(table, mask))
            if closed.num_rows:
                now.append(closed.drop_columns([OFFSET]))
                withdrawn.append(closed.filter(pc.equal(closed.column("state").cast(pa.utf8()), schemas.WITHDRAWN)))
            forming[names] = newest_by_key(chosen(table, pc.invert(mask)))
        for gone in withdrawn:
            forming = {names: t.filter(pa.array(~not_newer(t, gone))) for names, t in forming.items()}
        forming = {names: t for names, t in forming.items() if t.num_rows}
        if not due:
            return now, forming, False
        return [*now, *(t.drop_columns([OFFSET]) for t in forming.values())], {}, bool(forming)


def _split_bars(
    batches: Sequence[pa.Table], waiting: pa.Table | None, *, due: bool
) -> tuple[pa.Table | None, pa.Table | None, bool]:
    """Return (rows to write, forming rows that wait, whether forming rows are written).

    Bars marked `history` compete in the store by rank, so all of them go there.
    """
    tables = [*([waiting] if waiting is not None else []), *batches]
    if not tables:
        return None, None, False
    table = pa.concat_tables(tables).unify_dictionaries()
    history = table.column("history")
    rows = newest_by_key(chosen(table, pc.invert(history)))
    closed = is_closed(rows)
    forming = chosen(rows, pc.invert(closed))
    formed = due and forming.num_rows > 0
    now = pa.concat_tables([rows if due else chosen(rows, closed), chosen(table, history)])
    later = forming if forming.num_rows and not due else None
    return (now.drop_columns([OFFSET]) if now.num_rows else None), later, formed


def _marked(batch: pa.RecordBatch, offset: int) -> pa.Table:
    table = pa.Table.from_batches([batch])
    return table.append_column(OFFSET, pa.array(np.full(batch.num_rows, offset, dtype=np.int64)))

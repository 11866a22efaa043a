"""Collects consumed records into the batch of one database transaction. Pure. Each operation processes entire columns.

A `PartitionBuffer` belongs to one partition of one topic. It adds consumed records in order. `flush` returns a
`WriteBatch`: the rows that are due, with only the newest version of each live bar and value, and the partition's new
position.

Closed states are flushed at once. Forming states are conflated. The newest state of each key waits until a second after
the last forming rows were flushed, or 0.75 s with other rows. A crash may therefore lose rows in memory
that belong to applied records. Each position has a `resume`: the offset of the oldest record with a forming row still
in memory. Reading starts at this offset. The buffer only restores the forming rows of a record between `resume` and the
position; its other rows have been applied.

Bars and values differ in one respect. A closed bar replaces the forming bar, which then need not be written. The values
of a forming bar have their own table. Their newest state is written even if the bar has closed since, unless the bar
was withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import ConfigError, UnreadableRecord
from tickerplant.core.rules import rules_from
from tickerplant.core.sources import SourceOrder
from tickerplant.core.times import FIRST_US, LAST_US, NEVER_US, SECOND_US
from tickerplant.core.version import make_version
from tickerplant.log.port import ConsumedRecord, TopicPartition
from tickerplant.store.repositories.prices import with_arrival
from tickerplant.store.row_selection import filter_rows, is_closed, newest_by_key, not_newer

FORMING_EVERY_US: Final = SECOND_US
"""Microseconds after which pending forming rows are due."""
FORMING_WITH_OTHERS_US: Final = FORMING_EVERY_US * 3 // 4
"""Minimum microseconds between two writes of forming rows. If other rows need a transaction, forming rows are written
with these rows before they are due."""
OFFSET: Final = "_offset"
"""Column of a pending row: the offset of its record."""


@dataclass(frozen=True, slots=True)
class PositionChange:
    """A move of one topic partition from `expected` to `position`.

    `cause` is the version of the newest raw record whose outputs are all before `position`. `resume` is the offset at
    which reading starts after a restart: `position`, or the offset of the oldest record with pending forming rows.
    """

    expected: int
    position: int
    cause: int
    resume: int


@dataclass(slots=True)
class WriteBatch:
    """Rows that one transaction writes for one partition of one topic. A table is None if it would have no rows."""

    source: TopicPartition
    change: PositionChange
    ticks: pa.Table | None = None
    """Ticks with the columns of their arrival (`store.repositories.prices.ARRIVAL`)."""
    bars: pa.Table | None = None
    values: list[pa.Table] = field(default_factory=list)
    """At most two tables per set of columns: closed and forming states. Both tables may contain the same key."""
    splits: list[tuple[pa.Table, int]] = field(default_factory=list)
    """Splits, as (rows, version of their record)."""
    dividends: list[tuple[pa.Table, int]] = field(default_factory=list)
    """Dividends, as (rows, version of their record)."""
    answers: list[tuple[pa.Table, int]] = field(default_factory=list)
    """Vendors' answers, as (rows, version of their record)."""
    interval_overs: list[records.Record] = field(default_factory=list)
    feeds: list[records.FeedState] = field(default_factory=list)
    differences: list[tuple[records.Differences, int]] = field(default_factory=list)
    """Differences, as (record, count of bars that differ between two sources). Only the count is stored."""
    alerts: list[tuple[pa.Table, int]] = field(default_factory=list)
    """Alerts, as (rows, `sent_at_us` of their record). This time is stored as the time of the firings."""
    dead: list[tuple[records.Record, int]] = field(default_factory=list)
    """Dead letters, as (dead letter, offset of its record)."""
    sources: tuple[str, ...] | None = None
    """The order of sources, if the records contain a valid order; else None."""
    unreadable: int = 0
    out_of_range: int = 0

    @property
    def rows(self) -> int:
        """Return the count of rows to write, without orders of sources and counts of differences."""
        tables = [self.ticks, self.bars, *self.values, *(t for t, _ in self.splits), *(t for t, _ in self.dividends)]
        rows = sum(int(t.num_rows) for t in tables if t is not None)
        rows += sum(int(table.num_rows) for table, _ in self.alerts)
        rows += sum(int(table.num_rows) for table, _ in self.answers)
        return rows + len(self.interval_overs) + len(self.feeds) + len(self.dead)


class PartitionBuffer:
    """Records of one topic partition that were read and not yet written. The reader limits the size of all buffers.

    `position` is the store's position when the buffer is created. `generation` is the log's generation.
    """

    def __init__(self, source: TopicPartition, generation: int, position: int) -> None:
        self.source = source
        self.buffered_ticks = 0
        self.buffered_bytes = 0
        self._generation = generation
        self._position = position
        self._next = position
        self._cause = 0
        self._resume = position
        self._formed_us = NEVER_US
        self._ticks: list[pa.RecordBatch] = []
        self._bars: list[pa.Table] = []
        self._values: dict[tuple[str, ...], list[pa.Table]] = {}
        self._pending_bars: pa.Table | None = None
        self._pending_values: dict[tuple[str, ...], pa.Table] = {}
        self._batch = self._empty()

    @property
    def moved(self) -> bool:
        """Return whether records at or after the position were added since the last flush."""
        return self._next != self._position

    @property
    def due_us(self) -> int | None:
        """Return when pending forming rows are due, in µs of the clock of `flush`; None if no rows are pending."""
        if self._pending_bars is None and not self._pending_values:
            return None
        return self._formed_us + FORMING_EVERY_US

    def add(self, consumed: ConsumedRecord) -> None:
        """Add one record. A record before the position only changes the pending forming rows.

        An unreadable record at or after the position is counted, and advances the position.
        """
        old = consumed.offset < self._position
        try:
            record = records.decode(consumed.value)
        except UnreadableRecord:
            self._batch.unreadable += not old
            record = None
        if old:
            if record is not None:
                self._restore_pending(record, consumed.offset)
            return
        cause = 0
        if record is not None:
            self._collect(record, consumed.offset)
            # A passed-on record is the last output of its raw record. Before it, the outputs are incomplete.
            passed_on = isinstance(record.header, records.Mark | records.End | records.Settings | records.Splits)
            cause = record.header.cause - (not passed_on)
        if consumed.topic == schemas.RAW:
            cause = make_version(self._generation, consumed.offset)
        self.buffered_bytes += len(consumed.value)
        self._next = consumed.offset + 1
        self._cause = max(self._cause, cause)

    def flush(self, now_us: int, *, last: bool = False) -> WriteBatch | None:
        """Return and remove the due rows, or None if no row is due and `moved` is false.

        All rows are due if `last` is true. `now_us` is a time of a monotonic clock. The next WriteBatch expects that
        this batch was applied.
        """
        since_us = now_us - self._formed_us
        due = last or since_us >= (FORMING_WITH_OTHERS_US if self.moved else FORMING_EVERY_US)
        if not self.moved and not (due and self.due_us is not None):
            return None
        output, self._batch = self._batch, self._empty()
        if self._ticks:
            output.ticks = pa.Table.from_batches(self._ticks)
        output.bars, self._pending_bars, formed = self._due_bars(due)
        output.values, self._pending_values, formed_values = self._due_values(due)
        if formed or formed_values:
            self._formed_us = now_us
        waiting = [t for t in (self._pending_bars, *self._pending_values.values()) if t is not None]
        self._resume = min([self._next, *(int(t.column(OFFSET).to_numpy().min()) for t in waiting)])
        output.change = PositionChange(self._position, self._next, self._cause, self._resume)
        self._position = self._next
        self._ticks, self._bars, self._values = [], [], {}
        self.buffered_ticks = self.buffered_bytes = 0
        return output

    def _empty(self) -> WriteBatch:
        return WriteBatch(self.source, PositionChange(0, 0, 0, 0))

    def _collect(self, record: records.Record, offset: int) -> None:
        header, output = record.header, self._batch
        batch = record.batch.replace_schema_metadata(None)
        match header:
            case records.Ticks():
                batch = batch.select(schemas.TICKS.names)
                batch = self._in_range(with_arrival(batch, make_version(self._generation, offset)))
                self._ticks.append(batch)
                self.buffered_ticks += batch.num_rows
            case records.Bars():
                self._bars.append(_with_offset(self._in_range(batch), offset))
            case records.Values():
                self._values.setdefault(tuple(batch.schema.names), []).append(
                    _with_offset(self._in_range(batch), offset)
                )
            case records.Splits() if self.source.topic == schemas.RAW:  # aggregation passes them on, too
                output.splits.append((pa.Table.from_batches([batch]), make_version(self._generation, offset)))
            case records.Dividends():
                output.dividends.append((pa.Table.from_batches([batch]), make_version(self._generation, offset)))
            case records.Answers():
                output.answers.append((pa.Table.from_batches([batch]), make_version(self._generation, offset)))
            case records.Over() if FIRST_US <= header.start_us <= LAST_US:
                output.interval_overs.append(record)
            case records.FeedState():
                output.feeds.append(header)
            case records.Differences():
                output.differences.append((header, batch.num_rows))
            case records.Alerts():
                output.alerts.append((pa.Table.from_batches([self._in_range(batch)]), header.sent_at_us))
            case records.Dead():
                output.dead.append((record, offset))
            case records.Settings() if self.source.topic == schemas.OHLCV:
                try:
                    sources = rules_from(header.values).sources
                    SourceOrder(sources)
                except ConfigError:
                    output.unreadable += 1
                else:
                    output.sources = sources
            case _:
                pass

    def _restore_pending(self, record: records.Record, offset: int) -> None:
        """Restore the pending forming rows of an applied record. Its closed rows only remove pending rows."""
        if not isinstance(record.header, records.Bars | records.Values):
            return
        table = _with_offset(self._in_range(record.batch.replace_schema_metadata(None)), offset)
        if isinstance(record.header, records.Bars):
            _, self._pending_bars, _ = _split_bars([table], self._pending_bars, due=False)
        else:
            names = tuple(record.batch.schema.names)
            self._values = {names: [table]}
            _, self._pending_values, _ = self._due_values(False)
            self._values = {}

    def _in_range(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if not batch.num_rows:
            return batch
        times = times_of(batch.column(batch.schema.get_field_index("time")))
        if int(times.min()) >= FIRST_US and int(times.max()) <= LAST_US:
            return batch
        good = (times >= FIRST_US) & (times <= LAST_US)
        self._batch.out_of_range += len(good) - int(good.sum())
        return batch.filter(pa.array(good))

    def _due_bars(self, due: bool) -> tuple[pa.Table | None, pa.Table | None, bool]:
        return _split_bars(self._bars, self._pending_bars, due=due)

    def _due_values(self, due: bool) -> tuple[list[pa.Table], dict[tuple[str, ...], pa.Table], bool]:
        now: list[pa.Table] = []
        forming: dict[tuple[str, ...], pa.Table] = {}
        withdrawn: list[pa.Table] = []
        for names in {**self._pending_values, **self._values}:
            tables = list(self._values.get(names, ()))
            if names in self._pending_values:
                tables.insert(0, self._pending_values[names])
            table = pa.concat_tables(tables).unify_dictionaries()
            mask = is_closed(table)
            closed = newest_by_key(filter_rows(table, mask))
            if closed.num_rows:
                now.append(closed.drop_columns([OFFSET]))
                withdrawn.append(closed.filter(pc.equal(closed.column("state").cast(pa.utf8()), schemas.WITHDRAWN)))
            forming[names] = newest_by_key(filter_rows(table, pc.invert(mask)))
        for removed in withdrawn:
            forming = {names: t.filter(pa.array(~not_newer(t, removed))) for names, t in forming.items()}
        forming = {names: t for names, t in forming.items() if t.num_rows}
        if not due:
            return now, forming, False
        return [*now, *(t.drop_columns([OFFSET]) for t in forming.values())], {}, bool(forming)


def _split_bars(
    batches: Sequence[pa.Table], waiting: pa.Table | None, *, due: bool
) -> tuple[pa.Table | None, pa.Table | None, bool]:
    """Return (rows to write, pending forming rows, whether forming rows are written).

    A table without rows is None. All bars marked `history` are written, because the store selects among them by
    completeness and rank.
    """
    tables = [*([waiting] if waiting is not None else []), *batches]
    if not tables:
        return None, None, False
    table = pa.concat_tables(tables).unify_dictionaries()
    history = table.column("history")
    rows = newest_by_key(filter_rows(table, pc.invert(history)))
    closed = is_closed(rows)
    forming = filter_rows(rows, pc.invert(closed))
    formed = due and forming.num_rows > 0
    now = pa.concat_tables([rows if due else filter_rows(rows, closed), filter_rows(table, history)])
    later = forming if forming.num_rows and not due else None
    return (now.drop_columns([OFFSET]) if now.num_rows else None), later, formed


def _with_offset(batch: pa.RecordBatch, offset: int) -> pa.Table:
    table = pa.Table.from_batches([batch])
    return table.append_column(OFFSET, pa.array(np.full(batch.num_rows, offset, dtype=np.int64)))


def lane_number(source: TopicPartition, partitions: int, lanes: int) -> int:
    """Return the number of the lane that writes a partition.

    If topics have one partition, one lane writes values of indicators, and another lane writes all other topics.

    >>> [lane_number(TopicPartition(schemas.RAW, number), 4, 2) for number in range(4)]
    [0, 1, 0, 1]
    >>> [lane_number(TopicPartition(topic, 0), 1, 2) for topic in (schemas.RAW, schemas.OHLCV, schemas.ANALYTICS)]
    [0, 0, 1]

    """
    return (source.partition if partitions > 1 else int(source.topic == schemas.ANALYTICS)) % lanes


@dataclass(slots=True)
class Lane:
    """The partitions of one connection. `wakeup` is set when there may be rows to write."""

    number: int
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    buffers: dict[TopicPartition, PartitionBuffer] = field(default_factory=dict)

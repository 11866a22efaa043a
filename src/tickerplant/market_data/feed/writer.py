"""The writer of one feed. It appends all records of a vendor, a file or the backfill to `market.prices.raw`.

A feed is one ordered stream. Its records are appended in transactions that also store its cursor. A feed that is killed
at any instant therefore resumes exactly after its last record in the log. `committer` lists the steps of a commit.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tickerplant.core import records
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import LogError
from tickerplant.core.flags import TickFlag
from tickerplant.core.schemas import DEADLETTER, RAW, SYMBOLS, TICKS
from tickerplant.core.times import FOREVER_US, MILLISECOND_US, NEVER_US, SECOND_US, Int64Array, iso
from tickerplant.log.port import EventLog
from tickerplant.market_data.feed import cursor as feed_cursor
from tickerplant.market_data.feed.committer import Committer, state_partition
from tickerplant.market_data.feed.cursor import Cursor, Identities
from tickerplant.market_data.feed.dead_letters import DeadRow, dead_batches, dead_rows
from tickerplant.market_data.feed.flood import DeadLetterBudget
from tickerplant.market_data.feed.partitioner import Int32Array, SymbolPartitioner
from tickerplant.market_data.feed.validation import (
    FUTURE_US,
    Reasons,
    check_bars,
    check_ticks,
    widen_bars,
    without,
)

MARK_EVERY_US: Final = 250 * MILLISECOND_US
"""Minimum time between two marks of all partitions, in µs. Each mark triggers the publication of every forming bar."""
_KINDS: Final = int(TickFlag.CANCEL | TickFlag.CORRECTION)


def now_us() -> int:
    """Return the time by the machine's clock in microseconds UTC: the default stamp of a feed's records."""
    return time.time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class _RowKind:
    """The check and the record header of one kind of rows."""

    check: Callable[[pa.RecordBatch, int], Reasons]
    header: Callable[..., records.Header]


_TICKS: Final = _RowKind(check_ticks, records.Ticks)
_BARS: Final = _RowKind(check_bars, records.VendorBars)


class FeedWriter:
    """Writes one feed into every partition of `market.prices.raw`. Belongs to one thread at a time.

    Two writers of one feed fence each other: the next commit of the older writer raises Fenced. `hold_bytes` lets
    several batches share a transaction: `append_ticks` and `append_bars` commit if that many bytes are pending. They
    commit at every call if `hold_bytes` is 0. The docstrings of the other methods state when they commit. Pending
    records are in memory: up to `hold_bytes`, one batch, and the records of methods that do not commit. `clock` returns
    microseconds UTC. If the clock is fast, choose a longer `mark_every_us`; otherwise marks are too frequent by the
    machine's clock.
    """

    def __init__(
        self,
        log: EventLog,
        feed: str,
        *,
        hold_bytes: int = 0,
        clock: Callable[[], int] = now_us,
        mark_every_us: int = MARK_EVERY_US,
    ) -> None:
        self.feed = feed
        self.partitions = log.partitions(RAW)
        self._clock = clock
        self._hold_bytes = hold_bytes
        self._mark_every_us = mark_every_us
        self._partitioner = SymbolPartitioner(self.partitions)
        self._dead_partition = state_partition(feed, log.partitions(DEADLETTER))
        self._symbols: list[str] = []
        self._started = False
        self._sent_us = NEVER_US
        self._marked_us = NEVER_US
        self._appended_watermarks_us = [NEVER_US] * self.partitions
        self._committer = Committer(log, feed)
        self._cursor, self._ids = self._committer.load()
        self.dead_budget = DeadLetterBudget()
        self.last_refusal = ""
        """The reason of the newest row that became a dead letter; "" if there was none."""
        self.first_conflict: str | None = None
        """The reason of the first conflict that this writer found; None if there was none."""

    @property
    def cursor(self) -> Cursor:
        """Return the state of the feed, including records that are not yet committed. Read-only."""
        return self._cursor

    @property
    def symbols(self) -> Sequence[str]:
        """Return the symbols that the feed is expected to deliver, as of the last `start` by this writer."""
        return self._symbols

    @property
    def last_offsets(self) -> dict[int, int]:
        """Return the offset of the last raw record that was committed, by partition."""
        return self._committer.last_offsets

    # State of the feed -----------------------------------------------------------------------------------------------

    def start(
        self,
        symbols: Sequence[str],
        *,
        start_us: int,
        gap: bool = False,
        live: bool = False,
        whole: bool = False,
        firm: bool = False,
        new_round: bool = False,
    ) -> None:
        """Append a `start` record to every partition: the feed is up, and should deliver these symbols.

        If the cursor of a live feed is still open at the first call, the feed was killed. A `down` record since its
        watermark is then appended first, and `gap` becomes True. An open feed of a file continues without a record if
        its symbols are the same. A call while the feed is up replaces the expected symbols. `start_us`, `gap`, `live`,
        `whole` and `firm` are fields of `records.Start`. The records are committed, unless `new_round`.

        `new_round` ends a round that was left open, and begins a round with its own watermark. The start of the
        round is part of the next commit, so that a whole round may be one transaction. A backfill has rounds; a file
        has none. Raises LogError when the feed has ended, unless `new_round`.
        """
        cursor = self._cursor
        if new_round:
            self._start_new_round()
        elif cursor.state == feed_cursor.ENDED:
            raise LogError(f"feed {self.feed} has ended and cannot start again; use another feed name")
        self._symbols = list(dict.fromkeys(symbols))
        self._partitioner.add(self._symbols)
        digest = zlib.crc32("\n".join(self._symbols).encode())
        left_open = cursor.state == feed_cursor.OPEN and not self._started
        self._started = True
        if left_open and not live and not cursor.live and digest == cursor.symbols_digest:
            return
        if left_open and live:
            self._append_down(max(cursor.watermark_us, 0), "not stopped cleanly")
            gap = True
        for partition in range(self.partitions):
            rows = pa.RecordBatch.from_arrays([self._partitioner.symbols_in(partition, self._symbols)], schema=SYMBOLS)
            header = records.Start(
                sent_at_us=self._now(), feed=self.feed, from_us=start_us, hole=gap, live=live, whole=whole, firm=firm
            )
            self._append(partition, header, rows)
        cursor.state, cursor.live, cursor.symbols_digest = feed_cursor.OPEN, live, digest
        if not new_round:
            self.commit()

    def mark(
        self, watermark_us: int, resume_token: bytes | None = None, *, partitions: Collection[int] | None = None
    ) -> bool:
        """Append the watermark, which also shows that the feed is alive.

        Return False if the last mark is too recent: the next record of rows, or the next mark, then contains the
        watermark, and `resume_token` is ignored. If `partitions` is given, only these are marked, without a minimum
        interval. A mark triggers the publication of all forming bars of a partition. A caller that marks the partitions
        in turn spreads this work over time.
        """
        self._advance(watermark_us)
        if partitions is not None:
            self._append_marks(partitions)
        elif self._clock() - self._marked_us < self._mark_every_us:
            return False
        else:
            self._mark_partitions(force=True)
        self.set_resume_token(resume_token)
        self.commit()
        return True

    def down(self, since_us: int | None = None, reason: str = "") -> None:
        """Append a `down` record to every partition, and commit. A feed that is not up stays unchanged.

        The feed has delivered nothing since `since_us`, or since its watermark if `since_us` is None.
        """
        if self._cursor.state == feed_cursor.OPEN:
            self._append_down(self._watermark() if since_us is None else since_us, reason)
            self.commit()

    def end(self, resume_token: bytes | None = None, *, whole: bool = False) -> None:
        """Append an `end` record to every partition, and commit: the feed is complete. Only a new round can follow.

        A feed that has ended already stays unchanged.
        """
        if self._cursor.state == feed_cursor.ENDED:
            return
        watermark_us = self._watermark() if self.feed.startswith(records.FILE_FEED) else None
        for partition in range(self.partitions):
            header = records.End(sent_at_us=self._now(), feed=self.feed, whole=whole, watermark_us=watermark_us)
            self._append(partition, header)
        self._cursor.state = feed_cursor.ENDED
        self.set_resume_token(resume_token)
        self.commit()

    def set_resume_token(self, resume_token: bytes | None) -> None:
        """Store this token with the next commit; None keeps the stored token."""
        if resume_token is not None:
            self._cursor.resume_token = resume_token
            self._committer.cursor_changed()

    # Rows ------------------------------------------------------------------------------------------------------------

    def append_ticks(
        self,
        batch: pa.RecordBatch,
        watermark_us: int,
        resume_token: bytes | None = None,
        *,
        locate: Callable[[int], str] | None = None,
    ) -> int:
        """Append ticks (`schemas.TICKS` or `schemas.TICKS_OF_EXCHANGES`) and return the count of accepted ticks.

        Two ticks with a trade id are the same tick if symbol, trade id, time, kind and exchange are equal. Two
        corrections must also have equal price and size. A repeat with the same price and size is dropped and counted. A
        repeat with a different price or size is a conflict: it becomes a dead letter, as invalid rows do.
        `watermark_us`: ticks of later batches are at or after this time, unless they are out of order. The commit of
        these ticks also stores `resume_token`. `locate(row)` returns the file and the number of a row of the batch; the
        reason of a conflict begins with this text.
        """
        batch, codes, numbers = self._valid(_TICKS, batch)
        if batch["trade_id"].null_count < batch.num_rows:
            batch, codes = self._without_repeats(batch, codes, numbers, locate)
        self._cursor.ticks += batch.num_rows
        self._append_rows(_TICKS, batch, codes, watermark_us)
        self._end_of_call(resume_token)
        return int(batch.num_rows)

    def append_bars(
        self, batch: pa.RecordBatch, watermark_us: int, resume_token: bytes | None = None, *, reason: str = "vendor"
    ) -> int:
        """Append closed bars (columns `schemas.VENDOR_BARS`, as traded) and return the count of accepted bars.

        Low and high are widened if only rounding noise separates them from open or close; see `widen_bars`.
        """
        batch, codes, _ = self._valid(_BARS, batch)
        batch = widen_bars(batch)
        self._cursor.bars += batch.num_rows
        self._append_rows(_BARS, batch, codes, watermark_us, reason=reason)
        self._end_of_call(resume_token)
        return int(batch.num_rows)

    def append_splits(self, batch: pa.RecordBatch, *, commit: bool = True) -> None:
        """Append splits (columns `schemas.SPLITS`), each in the partition of its symbol; commit if `commit`."""
        self._append_by_symbol(records.Splits, batch)
        if commit:
            self.commit()

    def append_dividends(self, batch: pa.RecordBatch, *, commit: bool = True) -> None:
        """Append dividends (columns `schemas.DIVIDENDS`), each in its symbol's partition; commit if `commit`."""
        self._append_by_symbol(records.Dividends, batch)
        if commit:
            self.commit()

    def append_answers(self, batch: pa.RecordBatch) -> None:
        """Append vendors' answers (columns `schemas.ANSWERS`) to the transaction of the next commit."""
        self._append_by_symbol(records.Answers, batch)

    def append_dead_letters(self, rows: Sequence[DeadRow]) -> None:
        """Append rows to the dead-letter topic, in the transaction of the next commit.

        All rows are counted. A live feed stores at most `flood.MAX_DEAD_ROWS` of them per minute, with cut payloads.
        """
        self._cursor.dead += len(rows)
        self.last_refusal = rows[-1].reason if rows else self.last_refusal
        if self._cursor.live:
            rows = self.dead_budget.take(rows, self._clock() / SECOND_US)
        for batch in dead_batches(self.feed, rows):
            data = records.encode(records.Dead(sent_at_us=self._now(), feed=self.feed), batch)
            self._committer.append(DEADLETTER, self._dead_partition, data)

    def set_conflicts(self, count: int) -> None:
        """Set the count of rows that conflict with an earlier row; the next commit stores it."""
        self._cursor.conflicts = count
        self._committer.cursor_changed()

    # Commits ---------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit all pending records with the cursor; see `Committer.commit`. Raises Fenced, LogUnavailable."""
        self._committer.commit(self._cursor)

    def recover(self) -> None:
        """Continue after LogUnavailable without loss or duplicates; see `Committer.recover`."""
        self._committer.recover(self._cursor)

    def put_state(self, topic: str, partition: int, key: str, value: bytes) -> None:
        """Store the newest value of a key in its own transaction, as this feed's only writer."""
        self._committer.put_state(topic, partition, key, value)

    def close(self) -> None:
        """Release the feed's name.

        Pending records are lost, and the stored cursor does not count them. May be called twice.
        """
        self._committer.close()

    def __enter__(self) -> FeedWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Helpers ---------------------------------------------------------------------------------------------------------

    def _valid(self, kind: _RowKind, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Int32Array, Int64Array]:
        """Return the valid rows, their symbols' codes and their row numbers; the other rows become dead letters."""
        reasons = kind.check(batch, self._clock() + FUTURE_US if self._cursor.live else FOREVER_US)
        numbers = np.arange(batch.num_rows)
        if reasons:
            self.append_dead_letters(dead_rows(batch, reasons))
            batch, numbers = without(batch, reasons), np.delete(numbers, list(reasons))
        return batch, self._partitioner.codes(batch["symbol"]), numbers

    def _append_rows(
        self, kind: _RowKind, batch: pa.RecordBatch, codes: Int32Array, watermark_us: int, **header: Any
    ) -> None:
        watermark_us = self._advance(watermark_us)
        make = partial(kind.header, feed=self.feed, watermark_us=watermark_us, **header)
        for partition, rows in self._partitioner.split(batch, codes) if batch.num_rows else ():
            self._append(partition, make(sent_at_us=self._now()), rows)
            self._appended_watermarks_us[partition] = watermark_us

    def _append_by_symbol(self, header: Callable[..., records.Header], batch: pa.RecordBatch) -> None:
        for partition, rows in self._partitioner.split(batch, self._partitioner.codes(batch["symbol"])):
            self._append(partition, header(sent_at_us=self._now(), feed=self.feed), rows)

    def _append(self, partition: int, header: records.Header, rows: pa.RecordBatch | None = None) -> None:
        self._committer.append(RAW, partition, records.encode(header, rows))

    def _without_repeats(
        self, batch: pa.RecordBatch, codes: Int32Array, numbers: Int64Array, locate: Callable[[int], str] | None
    ) -> tuple[pa.RecordBatch, Int32Array]:
        """Return the ticks without repeats and conflicts; conflicts become dead letters."""
        with_id = np.flatnonzero(batch["trade_id"].is_valid().to_numpy(zero_copy_only=False))
        added = self._ids.add(self._identities(batch, codes, with_id))
        for segment in added.full:
            self._committer.store_segment(self._cursor.segments % feed_cursor.SEGMENTS, segment)
            self._cursor.segments += 1
        self._cursor.ids, self._cursor.values = self._ids.ids, self._ids.values
        if added.fresh.all():
            return batch, codes
        conflicts = with_id[added.conflicts]
        self._cursor.repeats += int(np.count_nonzero(~added.fresh)) - len(conflicts)
        self._cursor.conflicts += len(conflicts)
        if len(conflicts):
            reasons = {row: self._conflict_reason(batch, row) for row in conflicts.tolist()}
            if locate is not None:
                reasons = {row: f"{locate(int(numbers[row]))}: {reason}" for row, reason in reasons.items()}
            self.first_conflict = self.first_conflict or reasons[int(conflicts[0])]
            self.append_dead_letters(dead_rows(batch, reasons))
        keep = np.ones(batch.num_rows, dtype=np.bool_)
        keep[with_id[~added.fresh]] = False
        self._committer.cursor_changed()
        return batch.filter(pa.array(keep)), codes[keep]

    def _identities(self, batch: pa.RecordBatch, codes: Int32Array, with_id: Int64Array) -> Identities:
        """Return the identities of the ticks at these positions, which have a trade id."""
        ticks = batch if len(with_id) == batch.num_rows else batch.take(pa.array(with_id))
        symbols = self._partitioner.hashes(codes)[with_id]
        trade_ids, times_us = ticks["trade_id"], times_of(ticks["time"])
        kinds = ticks["flags"].to_numpy(zero_copy_only=False) & np.uint16(_KINDS)
        exchanges = ticks["exchange"].cast(pa.utf8()) if ticks.num_columns > len(TICKS) else None
        values = feed_cursor.value_digests(ticks["price"].to_numpy(), ticks["size"].to_numpy())
        keys = feed_cursor.id_keys(symbols, trade_ids, kinds, times_us, exchanges, values)
        until_us, former = self._cursor.former_until_us or 0, None
        if len(times_us) and int(times_us.min()) < until_us:
            former = feed_cursor.former_id_keys(symbols, trade_ids, kinds)
            former = np.where(times_us < until_us, former, np.uint64(0))
        return Identities(keys, values, former)

    def _conflict_reason(self, batch: pa.RecordBatch, row: int) -> str:
        tick = {name: batch[name][row].as_py() for name in ("symbol", "trade_id", "price", "size")}
        return (
            f"an earlier tick of {tick['symbol']} at {iso(int(times_of(batch['time'])[row]))} has the trade id "
            f"{tick['trade_id']} and another price or size than {tick['price']:g} and {tick['size']:g}; it is kept"
        )

    def _now(self) -> int:
        self._sent_us = max(self._sent_us, self._clock())
        return self._sent_us

    def _watermark(self) -> int:
        return max(self._cursor.watermark_us, 0)

    def _advance(self, watermark_us: int) -> int:
        """Advance the watermark and return it. It never decreases, and is never in the future for a live feed."""
        if self._cursor.live:
            watermark_us = min(watermark_us, self._clock())
        if watermark_us > self._cursor.watermark_us:
            self._cursor.watermark_us = watermark_us
            self._committer.cursor_changed()
        return self._cursor.watermark_us

    def _start_new_round(self) -> None:
        """End a round that was left open (mostly by a kill), and reset the watermark."""
        if self._cursor.state == feed_cursor.OPEN:
            for partition in range(self.partitions):
                self._append(partition, records.End(sent_at_us=self._now(), feed=self.feed))
        self._cursor.state, self._cursor.watermark_us = feed_cursor.ENDED, NEVER_US
        self._appended_watermarks_us = [NEVER_US] * self.partitions

    def _append_down(self, since_us: int, reason: str) -> None:
        for partition in range(self.partitions):
            header = records.Down(sent_at_us=self._now(), feed=self.feed, since_us=since_us, reason=reason)
            self._append(partition, header)
        self._cursor.state = feed_cursor.DOWN

    def _mark_partitions(self, *, force: bool) -> None:
        """Mark the partitions whose last record has an older watermark, or all partitions if `force`."""
        watermark_us = self._cursor.watermark_us
        behind = [p for p in range(self.partitions) if force or self._appended_watermarks_us[p] < watermark_us]
        self._append_marks(behind)
        if behind:
            self._marked_us = self._clock()

    def _append_marks(self, partitions: Iterable[int]) -> None:
        watermark_us = self._cursor.watermark_us
        for partition in partitions:
            self._append(partition, records.Mark(sent_at_us=self._now(), feed=self.feed, watermark_us=watermark_us))
            self._appended_watermarks_us[partition] = watermark_us

    def _end_of_call(self, resume_token: bytes | None) -> None:
        """Mark the partitions without rows, set the token, and commit unless more batches share the transaction."""
        if self._clock() - self._marked_us >= self._mark_every_us:
            self._mark_partitions(force=False)
        self.set_resume_token(resume_token)
        if self._committer.pending_bytes >= self._hold_bytes:
            self.commit()

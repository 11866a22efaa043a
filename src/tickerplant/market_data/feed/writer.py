"""The one way into `market.prices.raw`: a feed's writer, with its cursor.

A feed is one ordered stream. Whatever it says is appended in transactions that also keep its cursor, so a feed that is
killed at any instant goes on exactly behind what the log holds. One call of `commit` does, in this order:

1. append the records said since the last commit, in the order in which they were said,
2. keep the segments of trade ids that became full,
3. keep the cursor, which counts the commit,
4. commit the log's transaction.

Nobody sees any of it before Step 4. When Step 4 fails with LogUnavailable its outcome may be unknown (a broker that
died before it answered): `recover` reads the kept cursor and says again what is not on the log.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from tickerplant.core import faults, records
from tickerplant.core.errors import LogError
from tickerplant.core.flags import TickFlag
from tickerplant.core.schemas import DEAD, DEADLETTER, RAW, STATE_FEEDS, SYMBOLS
from tickerplant.core.streams import MAX_DEAD_PAYLOAD_BYTES, cut_to_fit
from tickerplant.core.times import FOREVER_US, MILLISECOND_US, NEVER_US
from tickerplant.log.port import EventLog, Writer
from tickerplant.market_data.feed import cursor as feed_cursor
from tickerplant.market_data.feed.cursor import Cursor, RecentIds
from tickerplant.market_data.feed.partitioner import Int32Array, Parter
from tickerplant.market_data.feed.validation import FUTURE_US, Reasons, check_bars, check_ticks, without

MARK_EVERY_US: Final = 250 * MILLISECOND_US
"""Marks at most four a second: each lets every forming bar be published."""
_DEAD_ROWS: Final = 1_000
"""Maximum rows of one dead-letter record: below a megabyte with rows of a few hundred bytes. A record also
ends before its payloads exceed `MAX_DEAD_PAYLOAD_BYTES`."""
_KINDS: Final = int(TickFlag.CANCEL | TickFlag.CORRECTION)


def now_us() -> int:
    """Return the time by the machine's clock: what feeds stamp their records with unless given another clock."""
    return time.time_ns() // 1_000


def state_key(feed: str) -> str:
    """Return the key under which a feed's cursor is kept in `market.state.feeds`."""
    return f"feed:{feed}"


def state_partition(feed: str, partitions: int) -> int:
    """Return the partition of `market.state.feeds` that keeps a feed's cursor."""
    return zlib.crc32(feed.encode()) % partitions


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row that could not be taken: why, and as much of it as there is."""

    reason: str
    payload: bytes


class FeedWriter:
    """Writes one feed into every partition of `market.prices.raw`. Belongs to one thread at a time.

    Two living writers of one feed fence each other: the elder's next commit raises Fenced. `hold_bytes` lets several
    batches share a transaction: what is said is committed once that much is waiting, or at `commit`; 0 commits at every
    call. What waits is in memory, so it is bounded by `hold_bytes` and one batch. `clock` gives microseconds UTC; by a
    fast one `mark_every_us` is longer, so that marks are no more often.
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
        self.ends: dict[int, int] = {}
        """The offset of the last raw record written, by partition."""
        self._log = log
        self._clock = clock
        self._hold_bytes = hold_bytes
        self._mark_every_us = mark_every_us
        self.partitions = log.partitions(RAW)
        self._parter = Parter(self.partitions)
        self._state = state_partition(feed, log.partitions(STATE_FEEDS))
        self._dead_partition = state_partition(feed, log.partitions(DEADLETTER))
        self._pending: list[tuple[str, int, pa.Buffer]] = []
        self._pending_segments: list[tuple[int, bytes]] = []
        self._pending_bytes = 0
        self._dirty = False
        self._symbols: list[str] = []
        self._started = False
        self._sent_us = NEVER_US
        self._marked_us = NEVER_US
        self._said = [NEVER_US] * self.partitions
        self._writer: Writer = log.writer(state_key(feed))
        self._cursor, self._ids = self._read_cursor()

    @property
    def cursor(self) -> Cursor:
        """Where the feed stands, what is said but not yet committed included. Not to be changed."""
        return self._cursor

    @property
    def symbols(self) -> Sequence[str]:
        """The symbols that the feed is expected to bring, as of its last `start` by this writer."""
        return self._symbols

    # What a feed says ------------------------------------------------------------------------------------------------

    def start(
        self,
        symbols: Sequence[str],
        *,
        from_us: int,
        hole: bool = False,
        live: bool = False,
        whole: bool = False,
        again: bool = False,
    ) -> None:
        """Say that the feed is up and which symbols it is expected to bring; commits, unless `again`.

        A live feed whose cursor is still open was killed: it is said to be down since its watermark first, and the hole
        is there whatever the caller thinks. A file that is open goes on without a word. Called again while up it
        replaces the expected symbols. Raises LogError when the feed has ended, unless it begins `again`: a backfill has
        rounds, a file that is given twice has not. A round has a watermark of its own; what was left open is ended
        first. All that goes with the next commit, so that a whole round may be one transaction.
        """
        cursor = self._cursor
        if again:
            self._begin_round()
        elif cursor.state == feed_cursor.ENDED:
            raise LogError(f"feed {self.feed} has ended and cannot start again")
        self._symbols = list(dict.fromkeys(symbols))
        self._parter.expect(self._symbols)
        digest = zlib.crc32("\n".join(self._symbols).encode())
        left_open = cursor.state == feed_cursor.OPEN and not self._started
        self._started = True
        if left_open and not live and not cursor.live and digest == cursor.symbols_digest:
            return
        if left_open and live:
            self._say_down(max(cursor.watermark_us, 0), "not stopped cleanly")
            hole = True
        for partition in range(self.partitions):
            rows = pa.RecordBatch.from_arrays([self._parter.symbols_in(partition, self._symbols)], schema=SYMBOLS)
            header = records.Start(
                sent_at_us=self._now(), feed=self.feed, from_us=from_us, hole=hole, live=live, whole=whole
            )
            self._put(partition, header, rows)
        cursor.state, cursor.live, cursor.symbols_digest = feed_cursor.OPEN, live, digest
        if not again:
            self.commit()

    def ticks(self, batch: pa.RecordBatch, watermark_us: int, place: bytes | None = None) -> int:
        """Say prints (columns `schemas.TICKS`) and return how many were taken.

        Rows that cannot be go to the dead letters; repeats of a trade id are dropped and counted. `watermark_us`: no
        tick before it will be sent in order any more. `place` is kept with the commit that these ticks are in.
        """
        live = self._cursor.live
        reasons = check_ticks(batch, self._clock() + FUTURE_US if live else FOREVER_US)
        if reasons:
            self.dead(dead_rows(batch, reasons))
            batch = without(batch, reasons)
        codes = self._parter.codes(batch["symbol"])
        if batch["trade_id"].null_count < batch.num_rows:
            batch, codes = self._without_repeats(batch, codes)
        self._cursor.ticks += batch.num_rows
        watermark_us = self._advance(watermark_us)
        for partition, rows in self._parter.split(batch, codes) if batch.num_rows else ():
            header = records.Ticks(sent_at_us=self._now(), feed=self.feed, watermark_us=watermark_us)
            self._put(partition, header, rows)
            self._said[partition] = watermark_us
        self._end_of_call(place)
        return int(batch.num_rows)

    def vendor_bars(
        self, batch: pa.RecordBatch, watermark_us: int, place: bytes | None = None, *, reason: str = "vendor"
    ) -> int:
        """Say finished bars (columns `schemas.VENDOR_BARS`, as traded) and return how many were taken."""
        reasons = check_bars(batch, self._clock() + FUTURE_US if self._cursor.live else FOREVER_US)
        if reasons:
            self.dead(dead_rows(batch, reasons))
            batch = without(batch, reasons)
        codes = self._parter.codes(batch["symbol"])
        self._cursor.bars += batch.num_rows
        watermark_us = self._advance(watermark_us)
        for partition, rows in self._parter.split(batch, codes) if batch.num_rows else ():
            header = records.VendorBars(
                sent_at_us=self._now(), feed=self.feed, watermark_us=watermark_us, reason=reason
            )
            self._put(partition, header, rows)
            self._said[partition] = watermark_us
        self._end_of_call(place)
        return int(batch.num_rows)

    def mark(self, watermark_us: int, place: bytes | None = None, *, partitions: Collection[int] | None = None) -> bool:
        """Say how far the feed has come, and that it lives. Return False when it was too soon after the last mark.

        Then the watermark is remembered and goes with the next record. Call it once a second while the market is open,
        once a minute otherwise; or for some `partitions` at a time, each as often, so that what a mark causes (the
        forming bars of all symbols of the partition) is spread over the second.
        """
        self._advance(watermark_us)
        if partitions is not None:
            self._mark(partitions)
        elif self._clock() - self._marked_us < self._mark_every_us:
            return False
        else:
            self._mark_all(force=True)
        self._note_place(place)
        self.commit()
        return True

    def down(self, since_us: int | None = None, reason: str = "") -> None:
        """Say that the feed brings nothing since then (default: its watermark); commits. No-op unless it is up."""
        if self._cursor.state == feed_cursor.OPEN:
            self._say_down(self._watermark() if since_us is None else since_us, reason)
            self.commit()

    def end(self, place: bytes | None = None, *, whole: bool = False) -> None:
        """Say that the feed has brought all it had; commits. It cannot start again."""
        if self._cursor.state == feed_cursor.ENDED:
            return
        for partition in range(self.partitions):
            self._put(partition, records.End(sent_at_us=self._now(), feed=self.feed, whole=whole))
        self._cursor.state = feed_cursor.ENDED
        self._note_place(place)
        self.commit()

    def splits(self, batch: pa.RecordBatch, *, commit: bool = True) -> None:
        """Say splits (columns `schemas.SPLITS`), each in the partition of its symbol; commits unless told not to."""
        for partition, rows in self._parter.split(batch, self._parter.codes(batch["symbol"])):
            self._put(partition, records.Splits(sent_at_us=self._now(), feed=self.feed), rows)
        if commit:
            self.commit()

    def dividends(self, batch: pa.RecordBatch, *, commit: bool = True) -> None:
        """Say dividends (columns `schemas.DIVIDENDS`), each in its symbol's partition; commits unless told not to."""
        for partition, rows in self._parter.split(batch, self._parter.codes(batch["symbol"])):
            self._put(partition, records.Dividends(sent_at_us=self._now(), feed=self.feed), rows)
        if commit:
            self.commit()

    def put_state(self, topic: str, partition: int, key: str, value: bytes) -> None:
        """Keep the newest value of a key, in a transaction of its own, as this feed's only writer."""
        with self._writer.transaction() as transaction:
            transaction.put_state(topic, partition, key, value)

    def keep_place(self, place: bytes | None) -> None:
        """Have this place kept with the next commit."""
        self._note_place(place)

    def answers(self, batch: pa.RecordBatch) -> None:
        """Say what vendors answered (columns `schemas.ANSWERS`), in the transaction of the next commit."""
        for partition, rows in self._parter.split(batch, self._parter.codes(batch["symbol"])):
            self._put(partition, records.Answers(sent_at_us=self._now(), feed=self.feed), rows)

    def dead(self, rows: Sequence[DeadRow]) -> None:
        """Put rows into the dead letters, in the transaction of the next commit."""
        some: list[tuple[bytes, str]] = []
        size = 0
        for row in rows:
            payload, reason = cut_to_fit(row.payload, row.reason)
            if some and (len(some) == _DEAD_ROWS or size + len(payload) > MAX_DEAD_PAYLOAD_BYTES):
                self._append_dead(some)
                some, size = [], 0
            some.append((payload, reason))
            size += len(payload)
        if some:
            self._append_dead(some)
        self._cursor.dead += len(rows)

    def _append_dead(self, rows: Sequence[tuple[bytes, str]]) -> None:
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array([self.feed] * len(rows), pa.utf8()),
                pa.array([0] * len(rows), pa.int32()),
                pa.array([-1] * len(rows), pa.int64()),
                pa.array([reason for _, reason in rows], pa.utf8()),
                pa.array([payload for payload, _ in rows], pa.binary()),
            ],
            schema=DEAD,
        )
        data = records.encode(records.Dead(sent_at_us=self._now(), feed=self.feed), batch)
        self._queue(DEADLETTER, self._dead_partition, data)

    # Commits ---------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit what has been said: the four effects of the module's docstring. Nothing said, nothing done.

        Raises Fenced when a newer writer has the feed, LogUnavailable when the log is out of reach; what was said is
        still held then, and `recover` goes on.
        """
        if not self._dirty and not self._pending:
            return
        self._cursor.commits += 1
        try:
            self._commit()
        except BaseException:
            self._cursor.commits -= 1
            raise
        for source, offset in self._writer.committed().items():
            if source.topic == RAW:
                self.ends[source.partition] = offset
        self._forget_pending()

    def _commit(self) -> None:
        faults.reach("feed.append.before")
        with self._writer.transaction() as transaction:
            # Step 1
            for topic, partition, data in self._pending:
                transaction.append(topic, partition, data)
            faults.reach("feed.append.after")
            # Step 2
            for slot, ids in self._pending_segments:
                transaction.put_state(STATE_FEEDS, self._state, f"{state_key(self.feed)}/ids/{slot}", ids)
            # Step 3
            transaction.put_state(STATE_FEEDS, self._state, state_key(self.feed), feed_cursor.encode(self._cursor))
            faults.reach("feed.commit.before")
            # Step 4: leaving the block
        faults.reach("feed.commit.after")

    def recover(self) -> None:
        """After LogUnavailable: take the feed's name anew, and commit what was said unless that already happened.

        Raises LogUnavailable again while the log stays out of reach, with everything still held.
        """
        self._writer.close()
        self._writer = self._log.writer(state_key(self.feed))
        kept = self._log.get_state(STATE_FEEDS, self._state, state_key(self.feed))
        if kept is not None and feed_cursor.decode(kept, self.feed).commits > self._cursor.commits:
            self._cursor.commits += 1
            self._forget_pending()
        self.commit()

    def close(self) -> None:
        """Let go of the feed's name; what was not committed is lost, and the cursor knows. Harmless twice."""
        self._writer.close()

    def __enter__(self) -> FeedWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Helpers ---------------------------------------------------------------------------------------------------------

    def _read_cursor(self) -> tuple[Cursor, RecentIds]:
        key = state_key(self.feed)
        cursor = feed_cursor.decode(self._log.get_state(STATE_FEEDS, self._state, key), self.feed)
        segments = []
        for number in range(max(0, cursor.segments - feed_cursor.SEGMENTS), cursor.segments):
            kept = self._log.get_state(STATE_FEEDS, self._state, f"{key}/ids/{number % feed_cursor.SEGMENTS}")
            segments.append(np.frombuffer(kept or b"", dtype=np.uint64))
        return cursor, RecentIds(segments, np.frombuffer(cursor.ids, dtype=np.uint64))

    def _without_repeats(self, batch: pa.RecordBatch, codes: Int32Array) -> tuple[pa.RecordBatch, Int32Array]:
        trade_ids = batch["trade_id"]
        kinds = batch["flags"].to_numpy(zero_copy_only=False) & np.uint16(_KINDS)
        named = np.flatnonzero(trade_ids.is_valid().to_numpy(zero_copy_only=False))
        keys = feed_cursor.id_keys(self._parter.hashes(codes), trade_ids, kinds)[named]
        fresh, full, young = self._ids.take(keys)
        for segment in full:
            slot = self._cursor.segments % feed_cursor.SEGMENTS
            self._pending_segments.append((slot, segment.tobytes()))
            self._cursor.segments += 1
        self._cursor.ids = young.tobytes()
        if fresh.all():
            return batch, codes
        self._cursor.repeats += int((~fresh).sum())
        keep = np.ones(batch.num_rows, dtype=np.bool_)
        keep[named[~fresh]] = False
        self._dirty = True
        return batch.filter(pa.array(keep)), codes[keep]

    def _now(self) -> int:
        self._sent_us = max(self._sent_us, self._clock())
        return self._sent_us

    def _watermark(self) -> int:
        return max(self._cursor.watermark_us, 0)

    def _advance(self, watermark_us: int) -> int:
        """Move the watermark forward, never back, and that of a live feed not past now."""
        if self._cursor.live:
            watermark_us = min(watermark_us, self._clock())
        if watermark_us > self._cursor.watermark_us:
            self._cursor.watermark_us = watermark_us
            self._dirty = True
        return self._cursor.watermark_us

    def _put(self, partition: int, header: records.Header, rows: pa.RecordBatch | None = None) -> None:
        self._queue(RAW, partition, records.encode(header, rows))

    def _queue(self, topic: str, partition: int, data: pa.Buffer) -> None:
        self._pending.append((topic, partition, data))
        self._pending_bytes += len(data)

    def _begin_round(self) -> None:
        """End the round that was left open (by a kill, mostly), and forget how far it had come."""
        if self._cursor.state == feed_cursor.OPEN:
            for partition in range(self.partitions):
                self._put(partition, records.End(sent_at_us=self._now(), feed=self.feed))
        self._cursor.state, self._cursor.watermark_us = feed_cursor.ENDED, NEVER_US
        self._said = [NEVER_US] * self.partitions

    def _say_down(self, since_us: int, reason: str) -> None:
        for partition in range(self.partitions):
            header = records.Down(sent_at_us=self._now(), feed=self.feed, since_us=since_us, reason=reason)
            self._put(partition, header)
        self._cursor.state = feed_cursor.DOWN

    def _mark_all(self, *, force: bool) -> None:
        watermark_us = self._cursor.watermark_us
        behind = [p for p in range(self.partitions) if force or self._said[p] < watermark_us]
        self._mark(behind)
        if behind:
            self._marked_us = self._clock()

    def _mark(self, partitions: Iterable[int]) -> None:
        watermark_us = self._cursor.watermark_us
        for partition in partitions:
            header = records.Mark(sent_at_us=self._now(), feed=self.feed, watermark_us=watermark_us)
            self._put(partition, header)
            self._said[partition] = watermark_us

    def _note_place(self, place: bytes | None) -> None:
        if place is not None:
            self._cursor.place = place
            self._dirty = True

    def _end_of_call(self, place: bytes | None) -> None:
        """Tell the partitions that had no rows, keep the place, and commit unless more may share the transaction."""
        if self._clock() - self._marked_us >= self._mark_every_us:
            self._mark_all(force=False)
        self._note_place(place)
        if self._pending_bytes >= self._hold_bytes:
            self.commit()

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_segments.clear()
        self._pending_bytes = 0
        self._dirty = False


def dead_rows(batch: pa.RecordBatch, reasons: Reasons) -> list[DeadRow]:
    """Return the rows that have a reason, each as JSON."""
    numbers = sorted(reasons)
    rows = batch.take(pa.array(numbers)).to_pylist()
    encoder = msgspec.json.Encoder(enc_hook=str)
    return [DeadRow(reasons[number], encoder.encode(row)) for number, row in zip(numbers, rows, strict=True)]

"""The transaction of one feed: records and dead letters, segments of trade ids, and the cursor, committed together.

One call of `Committer.commit` performs these steps in order:

1. append the records that were added since the last commit, in the order of their addition,
2. store the segments of trade ids that became full,
3. store the cursor, which counts the commit,
4. commit the log's transaction.

No reader sees any of these effects before Step 4. If Step 4 raises LogUnavailable, its outcome may be unknown: a broker
may have died before it answered. `recover` reads the stored cursor and appends the records that are not in the log.
"""

from __future__ import annotations

import zlib

import pyarrow as pa

from tickerplant.core import faults
from tickerplant.core.schemas import RAW, STATE_FEEDS
from tickerplant.log.port import EventLog, Writer
from tickerplant.market_data.feed import cursor as feed_cursor
from tickerplant.market_data.feed.cursor import Cursor, RecentIds


def state_key(feed: str) -> str:
    """Return the key of a feed's cursor in `market.state.feeds`."""
    return f"feed:{feed}"


def state_partition(feed: str, partitions: int) -> int:
    """Return the partition of `market.state.feeds` that stores a feed's cursor."""
    return zlib.crc32(feed.encode()) % partitions


class Committer:
    """Buffers the records of a feed, and commits them with the feed's cursor. Belongs to one thread at a time.

    A new committer fences the previous writer of its feed. The buffer is unbounded: the caller commits when
    `pending_bytes` is large enough.
    """

    def __init__(self, log: EventLog, feed: str) -> None:
        self.last_offsets: dict[int, int] = {}
        """Offset of the last raw record that was committed, by partition."""
        self.pending_bytes = 0
        self._log = log
        self._feed = feed
        self._key = state_key(feed)
        self._partition = state_partition(feed, log.partitions(STATE_FEEDS))
        self._records: list[tuple[str, int, pa.Buffer]] = []
        self._segments: list[tuple[int, bytes]] = []
        self._cursor_changed = False
        self._writer: Writer = log.writer(self._key)

    def load(self) -> tuple[Cursor, RecentIds]:
        """Return the stored cursor and the trade ids that the feed appended recently."""
        cursor = feed_cursor.decode(self._log.get_state(STATE_FEEDS, self._partition, self._key), self._feed)
        segments = []
        for number in range(max(0, cursor.segments - feed_cursor.SEGMENTS), cursor.segments):
            key = f"{self._key}/ids/{number % feed_cursor.SEGMENTS}"
            segments.append(self._log.get_state(STATE_FEEDS, self._partition, key) or b"")
        return cursor, RecentIds(segments, cursor.ids, cursor.values)

    def append(self, topic: str, partition: int, data: pa.Buffer) -> None:
        """Add a record to the next commit."""
        self._records.append((topic, partition, data))
        self.pending_bytes += len(data)

    def store_segment(self, slot: int, ids: bytes) -> None:
        """Add a full segment of trade ids to the next commit."""
        self._segments.append((slot, ids))

    def cursor_changed(self) -> None:
        """Mark the cursor as changed: the next `commit` stores it even if no record was appended."""
        self._cursor_changed = True

    def commit(self, cursor: Cursor) -> None:
        """Perform the four steps of the module's docstring; do nothing if there is no change.

        Raises Fenced when a newer writer has taken over the feed. Raises LogUnavailable; the buffer is then unchanged,
        and the caller must call `recover`.
        """
        if not self._cursor_changed and not self._records:
            return
        cursor.commits += 1
        try:
            self._commit(cursor)
        except BaseException:
            cursor.commits -= 1
            raise
        for source, offset in self._writer.committed().items():
            if source.topic == RAW:
                self.last_offsets[source.partition] = offset
        self._clear()

    def _commit(self, cursor: Cursor) -> None:
        faults.reach("feed.append.before")
        with self._writer.transaction() as transaction:
            # Step 1
            for topic, partition, data in self._records:
                transaction.append(topic, partition, data)
            faults.reach("feed.append.after")
            # Step 2
            for slot, ids in self._segments:
                transaction.put_state(STATE_FEEDS, self._partition, f"{self._key}/ids/{slot}", ids)
            # Step 3
            transaction.put_state(STATE_FEEDS, self._partition, self._key, feed_cursor.encode(cursor))
            faults.reach("feed.commit.before")
            # Step 4: the end of the block commits
        faults.reach("feed.commit.after")

    def recover(self, cursor: Cursor) -> None:
        """Open a new writer after LogUnavailable, and commit the buffer unless that commit already took place.

        Raises LogUnavailable while the log is unavailable; the buffer is then unchanged.
        """
        self._writer.close()
        self._writer = self._log.writer(self._key)
        stored = self._log.get_state(STATE_FEEDS, self._partition, self._key)
        if stored is not None and feed_cursor.decode(stored, self._feed).commits > cursor.commits:
            cursor.commits += 1
            self._clear()
        self.commit(cursor)

    def put_state(self, topic: str, partition: int, key: str, value: bytes) -> None:
        """Store the newest value of a key in its own transaction, as this feed's only writer."""
        with self._writer.transaction() as transaction:
            transaction.put_state(topic, partition, key, value)

    def close(self) -> None:
        """Release the feed's name. Records that were not committed are lost; the stored cursor does not count them.

        May be called twice.
        """
        self._writer.close()

    def _clear(self) -> None:
        self._records.clear()
        self._segments.clear()
        self.pending_bytes = 0
        self._cursor_changed = False

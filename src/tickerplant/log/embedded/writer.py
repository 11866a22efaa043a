"""Writing: transactions gather in memory and go into the file in one short SQLite transaction."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tickerplant.core.errors import Fenced, LogError, RecordTooLarge
from tickerplant.log.embedded import records
from tickerplant.log.embedded.reader import EmbeddedReader
from tickerplant.log.port import MAX_RECORD_BYTES, Payload, Reader, TopicPartition

if TYPE_CHECKING:
    from tickerplant.log.embedded.log import EmbeddedLog

MAX_TRANSACTION_BYTES = 4 << 30
"""What one transaction may hold, for it stands in memory until the commit; more is refused with RecordTooLarge."""


class EmbeddedTransaction:
    """What is to be written, until the commit. Holds references to the payloads, not copies: leave them unchanged."""

    def __init__(self, writer: EmbeddedWriter) -> None:
        self._writer = writer
        self._bytes = 0
        self.appends: dict[TopicPartition, list[memoryview]] = {}
        self.states: dict[tuple[TopicPartition, str], memoryview | None] = {}
        self.positions: list[tuple[EmbeddedReader, dict[TopicPartition, int]]] = []

    def append(self, topic: str, partition: int, value: Payload) -> None:
        """Append one record."""
        view = memoryview(value).cast("B")
        if len(view) > MAX_RECORD_BYTES:
            raise RecordTooLarge(f"a record of {len(view)} bytes; the log takes {MAX_RECORD_BYTES}")
        self._grow(len(view))
        source = TopicPartition(topic, partition)
        if source not in self.appends:
            if self._writer.topic_is_keyed(source):
                raise LogError(f"{topic} keeps values by key: use put_state")
            self.appends[source] = []
        self.appends[source].append(view)

    def put_state(self, topic: str, partition: int, key: str, value: Payload | None) -> None:
        """Keep the newest value of a key, of any size within `MAX_TRANSACTION_BYTES`; None forgets it."""
        source = TopicPartition(topic, partition)
        if not self._writer.topic_is_keyed(source):
            raise LogError(f"{topic} keeps a stretch of time, not values by key: use append")
        view = None if value is None else memoryview(value).cast("B")
        self._grow(0 if view is None else len(view))
        self.states[source, key] = view

    def send_positions(self, reader: Reader, positions: Mapping[TopicPartition, int]) -> None:
        """Commit the reader's group to these positions."""
        if not isinstance(reader, EmbeddedReader) or reader.group is None:
            raise LogError("positions can be sent for a reader of this log with a group only")
        self.positions.append((reader, dict(positions)))

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_TRANSACTION_BYTES:
            raise RecordTooLarge(f"a transaction of more than {MAX_TRANSACTION_BYTES} bytes")


class EmbeddedWriter:
    """The writer of a name, in one thread at a time."""

    def __init__(self, log: EmbeddedLog, name: str) -> None:
        self._log, self._name = log, name
        self._connection = log.connect()
        self._open: EmbeddedTransaction | None = None
        self._closed = False
        self._last: dict[TopicPartition, int] = {}
        with log.writing(self._connection) as connection:
            (self._epoch,) = connection.execute(
                "INSERT INTO writers VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (name,),
            ).fetchall()[0]

    def topic_is_keyed(self, source: TopicPartition) -> bool:
        """Return whether the topic keeps values by key. Raises UnknownTopic, also for a partition it does not have."""
        catalog = self._log.catalog
        catalog.partition_id(self._connection, *source)
        return catalog.topic(self._connection, source.topic).retention_us is None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[EmbeddedTransaction]:
        """Begin; leaving the block commits, an exception in it aborts."""
        if self._closed:
            raise LogError(f"the writer {self._name} is closed")
        if self._open is not None:
            raise LogError(f"the writer {self._name} has a transaction open already")
        self._open = transaction = EmbeddedTransaction(self)
        try:
            yield transaction
            if self._closed:
                raise LogError(f"the writer {self._name} was closed inside its transaction, which is aborted")
            self._commit(transaction)
        finally:
            self._open = None

    def _commit(self, transaction: EmbeddedTransaction) -> None:
        """Write everything, or nothing.

        1. the name is still ours; 2. positions, each partition still its reader's; 3. records; 4. kept values;
        5. SQLite's commit, the writers' lock let go; 6. readers are rung for.
        """
        last: dict[TopicPartition, int] = {}
        find = self._log.catalog.partition_id
        with self._log.writing(self._connection) as connection:
            self._check_epoch()  # Step 1
            for reader, positions in transaction.positions:  # Step 2
                reader.keep_positions(connection, positions)
            now_us = time.time_ns() // 1000
            for source, values in transaction.appends.items():  # Step 3
                last[source] = records.append(connection, find(connection, *source), values, now_us)
            for (source, key), value in transaction.states.items():  # Step 4
                records.put_state(connection, find(connection, *source), key, value)
        self._last = last  # Step 5
        if last:
            topics = {self._log.catalog.topic(self._connection, source.topic).id for source in last}
            self._log.ringer.ring(topics)  # Step 6

    def _check_epoch(self) -> None:
        (epoch,) = self._connection.execute("SELECT epoch FROM writers WHERE name = ?", (self._name,)).fetchone()
        if epoch != self._epoch:
            raise Fenced(f"a newer writer has the name {self._name}; this one must stop")

    def committed(self) -> Mapping[TopicPartition, int]:
        """Return the last committed transaction's last offsets."""
        return self._last

    def close(self) -> None:
        """Abort what is open."""
        if not self._closed:
            self._closed = True
            self._connection.close()

    def __enter__(self) -> EmbeddedWriter:
        """Return the writer."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

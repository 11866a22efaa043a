"""Writing: a transaction is buffered in memory and written to the file in one short SQLite transaction."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from tickerplant.core.errors import Fenced, LogError, RecordTooLarge
from tickerplant.log.embedded import records
from tickerplant.log.embedded.context import LogContext
from tickerplant.log.embedded.reader import EmbeddedReader
from tickerplant.log.port import MAX_RECORD_BYTES, Payload, Reader, TopicPartition

MAX_TRANSACTION_BYTES = 4 << 30
"""Maximum bytes of one transaction, which is in memory until its commit. A larger transaction raises RecordTooLarge."""


class EmbeddedTransaction:
    """The buffer of a transaction until its commit. It holds references to the payloads: do not change them."""

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
            raise RecordTooLarge(
                f"a record of {len(view)} bytes exceeds the log's maximum of {MAX_RECORD_BYTES}; split it"
            )
        self._grow(len(view))
        source = TopicPartition(topic, partition)
        if source not in self.appends:
            if self._writer.topic_is_keyed(source):
                raise LogError(f"{topic} is a state topic: use put_state")
            self.appends[source] = []
        self.appends[source].append(view)

    def put_state(self, topic: str, partition: int, key: str, value: Payload | None) -> None:
        """Set the value of a key, up to `MAX_TRANSACTION_BYTES`; None deletes the key."""
        source = TopicPartition(topic, partition)
        if not self._writer.topic_is_keyed(source):
            raise LogError(f"{topic} is not a state topic: use append")
        view = None if value is None else memoryview(value).cast("B")
        self._grow(0 if view is None else len(view))
        self.states[source, key] = view

    def send_positions(self, reader: Reader, positions: Mapping[TopicPartition, int]) -> None:
        """Add these positions of the reader's group to the commit."""
        if not isinstance(reader, EmbeddedReader) or reader.group is None:
            raise LogError("send_positions needs a reader of this log that has a group")
        self.positions.append((reader, dict(positions)))

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_TRANSACTION_BYTES:
            raise RecordTooLarge(f"a transaction exceeds the maximum of {MAX_TRANSACTION_BYTES} bytes; split it")


class EmbeddedWriter:
    """A named writer. A newer writer with the same name fences it. Use it from one thread at a time."""

    def __init__(self, context: LogContext, name: str) -> None:
        self._context, self._name = context, name
        self._connection = context.connect()
        self._open: EmbeddedTransaction | None = None
        self._closed = False
        self._last: dict[TopicPartition, int] = {}
        with context.write_transaction(self._connection) as connection:
            (self._epoch,) = connection.execute(
                "INSERT INTO writers VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                (name,),
            ).fetchall()[0]

    def topic_is_keyed(self, source: TopicPartition) -> bool:
        """Return whether the topic is a state topic. Raises UnknownTopic, also for a partition outside the topic."""
        catalog = self._context.catalog
        catalog.partition_id(self._connection, *source)
        return catalog.topic(self._connection, source.topic).retention_us is None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[EmbeddedTransaction]:
        """Begin a transaction. Leaving the block commits it; an exception in the block aborts it."""
        if self._closed:
            raise LogError(f"the writer {self._name} is closed")
        if self._open is not None:
            raise LogError(f"the writer {self._name} already has an open transaction")
        self._open = transaction = EmbeddedTransaction(self)
        try:
            yield transaction
            if self._closed:
                raise LogError(f"the writer {self._name} was closed inside its transaction, which was aborted")
            self._commit(transaction)
        finally:
            self._open = None

    def _commit(self, transaction: EmbeddedTransaction) -> None:
        """Write everything or nothing.

        1. Check that no newer writer has the name, 2. commit positions, if their readers still own the partitions,
        3. append records, 4. put state values, 5. commit in SQLite and release the writers' lock, 6. wake readers.

        Step 5 writes to the `-wal` file without a sync: a power failure may lose the last commits, but no part of a
        commit. `EmbeddedLog.make_durable` syncs that file. `Checkpointer` moves pages from the `-wal` file into the
        database file.
        """
        last: dict[TopicPartition, int] = {}
        find, encoder = self._context.catalog.partition_id, self._context.encoder
        with self._context.write_transaction(self._connection) as connection:
            self._check_epoch()  # Step 1
            for reader, positions in transaction.positions:  # Step 2
                reader.commit_positions(connection, positions)
            now_us = time.time_ns() // 1000
            for source, values in transaction.appends.items():  # Step 3
                topic_id = self._context.catalog.topic(connection, source.topic).id
                stored = [encoder.encode(connection, topic_id, value) for value in values]
                last[source] = records.append(connection, find(connection, *source), stored, now_us)
            for (source, key), value in transaction.states.items():  # Step 4
                records.put_state(connection, find(connection, *source), key, value)
            # Step 5: leaving the block
        self._last = last
        if last:
            topics = {self._context.catalog.topic(self._connection, source.topic).id for source in last}
            self._context.notifier.notify(topics)  # Step 6

    def _check_epoch(self) -> None:
        (epoch,) = self._connection.execute("SELECT epoch FROM writers WHERE name = ?", (self._name,)).fetchone()
        if epoch != self._epoch:
            raise Fenced(f"a newer writer has the name {self._name}; stop this writer")

    def committed(self) -> Mapping[TopicPartition, int]:
        """Return the last offset of each partition to which the last committed transaction appended."""
        return self._last

    def close(self) -> None:
        """Close the writer. An open transaction is aborted."""
        if not self._closed:
            self._closed = True
            self._connection.close()

    def __enter__(self) -> EmbeddedWriter:
        """Return the writer."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the writer."""
        self.close()

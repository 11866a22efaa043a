"""The event log of one SQLite file: `EmbeddedLog`, the port's implementation."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tickerplant import machine
from tickerplant.core.errors import ConfigError, LogError, UnknownTopic
from tickerplant.core.schemas import TopicSpec
from tickerplant.log.embedded import file, groups, locks, records
from tickerplant.log.embedded.backup import LogSnapshot
from tickerplant.log.embedded.checkpointer import Checkpointer
from tickerplant.log.embedded.context import LogContext
from tickerplant.log.embedded.leadership import EmbeddedLeadership
from tickerplant.log.embedded.reader import EmbeddedReader
from tickerplant.log.embedded.writer import EmbeddedWriter
from tickerplant.log.port import EARLIEST, ConsumedRecord, Identity, RebalanceListener, Start, TopicPartition

PATIENCE_S = 30.0
"""Maximum seconds that a writer waits for its turn.

The longest turn is the commit of the largest snapshot, about 1 s per GB.
"""

_CHUNK_RECORDS, _CHUNK_BYTES = 256, 8 << 20
"""Maximum records and bytes of one read of `read_range`, which holds the lock of the log's connection for some ms."""


class EmbeddedLog:
    """The event log in the file `path`, created if missing. All processes and threads of one machine may share it.

    The log needs a local file system: SQLite's -wal and the locks do not work on a network. A write that waits for
    other writers longer than `patience_s` raises LogUnavailable. Raises LogError if `path` is another kind of file, and
    ConfigError if its folder cannot be created.
    """

    def __init__(self, path: Path | str, *, patience_s: float = PATIENCE_S) -> None:
        self.path = Path(path).absolute()
        self._folder = self.path.with_name(self.path.name + ".d")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._folder.joinpath("members").mkdir(mode=0o700, exist_ok=True)
            _create_private(self.path)
            self._writers = locks.share_writer_lock(self._folder / "writer.lock")
        except OSError as error:
            raise ConfigError(
                f"the event log cannot be created at {self.path} ({error}); choose another file or data folder"
            ) from error
        try:
            with file.translate_errors(self.path):
                self._connection = file.connect(self.path, patience_s)
            try:
                with file.translate_errors(self.path), self._writers.hold(patience_s):
                    file.prepare(self._connection, self.path)
                self._wal_fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            locks.return_writer_lock(self._folder / "writer.lock")
            raise
        _sync_folder(self.path.parent)  # makes the names of the file and of its -wal durable
        self._context = LogContext(self.path, self._folder, self._writers, patience_s)
        self._checkpointer = Checkpointer(self.path, self._folder / "checkpoint.lock", self._writers)
        self._decoder = self._context.decoder()
        self._guard = threading.Lock()  # guards self._connection, which all methods here share

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._guard:
            self._context.check_open()
            with file.translate_errors(self.path):
                yield self._connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection, self._context.write_transaction(connection):
            yield connection

    def identity(self) -> Identity:
        """Return the identity of this log."""
        with self._reading() as connection:
            found = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        if "log_id" not in found:
            raise UnknownTopic(f"the event log {self.path} has no topics yet; `tickerplant create-topics` creates them")
        return Identity(found["log_id"], found["generation"])

    def create_topics(self, specs: Iterable[TopicSpec], partitions: int, *, generation: int = 1) -> list[str]:
        """Create the missing topics and return their names. Existing topics get the retention of their spec.

        State topics have no retention.
        """
        created: list[str] = []
        with self._writing() as connection:
            connection.execute("INSERT INTO meta VALUES ('log_id', ?) ON CONFLICT DO NOTHING", (str(uuid.uuid4()),))
            connection.execute("INSERT INTO meta VALUES ('generation', ?) ON CONFLICT DO NOTHING", (generation,))
            for spec in specs:
                row = connection.execute("SELECT partitions FROM topics WHERE name = ?", (spec.name,)).fetchone()
                if row is None:
                    self._create_topic(connection, spec, partitions)
                    created.append(spec.name)
                elif row[0] != partitions:
                    raise LogError(
                        f"topic {spec.name} has {row[0]} partitions, not {partitions}; "
                        f"the number is fixed when a topic is created: use {row[0]}"
                    )
                connection.execute(
                    "UPDATE topics SET retention_us = ? WHERE name = ? AND retention_us IS NOT NULL",
                    (spec.retention_us, spec.name),
                )
        return created

    def _create_topic(self, connection: sqlite3.Connection, spec: TopicSpec, partitions: int) -> None:
        topic_id = connection.execute(
            "INSERT INTO topics (name, partitions, retention_us) VALUES (?, ?, ?)",
            (spec.name, partitions, spec.retention_us),
        ).lastrowid
        connection.executemany(
            "INSERT INTO partitions (topic_id, partition, first_offset, next_offset, last_us) VALUES (?, ?, 0, 0, 0)",
            [(topic_id, partition) for partition in range(partitions)],
        )

    def partitions(self, topic: str) -> int:
        """Return the count of partitions of a topic. Raises UnknownTopic."""
        with self._reading() as connection:
            return len(self._context.catalog.topic(connection, topic).partition_ids)

    def reader(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        member: str | None = None,
        start: Start = EARLIEST,
        listener: RebalanceListener | None = None,
    ) -> EmbeddedReader:
        """Return a reader of these topics.

        A reader with a group joins it at once; its first poll assigns its partitions.
        """
        with file.translate_errors(self.path):
            return EmbeddedReader(self._context, topics, group, member, start, listener)

    def read_range(self, source: TopicPartition, begin: int, end: int) -> Iterator[ConsumedRecord]:
        """Yield the records of one partition in `[begin, end)`, in order. Some megabytes are in memory at a time."""
        while begin < end:
            with self._reading() as connection:
                partition_id = self._context.catalog.partition_id(connection, *source)
                begin = max(begin, records.bounds(connection, [partition_id])[partition_id].first)
                count = min(_CHUNK_RECORDS, end - begin)  # offsets are consecutive in a file
                limits = records.Limits(count, _CHUNK_BYTES, at_least=1)
                rows = records.read(connection, self._decoder, partition_id, begin, limits) if count > 0 else []
            for offset, appended_at_us, value in rows:
                yield ConsumedRecord(source.topic, source.partition, offset, appended_at_us, value)
            if not rows:
                return
            begin = rows[-1][0] + 1

    def writer(self, name: str) -> EmbeddedWriter:
        """Return a new writer with this name; it fences an earlier writer of the name."""
        return EmbeddedWriter(self._context, name)

    def get_state(self, topic: str, partition: int, key: str) -> bytes | None:
        """Return the newest committed value of a key; None if the key has no value."""
        with self._reading() as connection, file.snapshot(connection):
            return records.get_state(connection, self._context.catalog.partition_id(connection, topic, partition), key)

    def state_keys(self, topic: str, partition: int) -> list[str]:
        """Return the keys that have a value, sorted."""
        with self._reading() as connection:
            partition_id = self._context.catalog.partition_id(connection, topic, partition)
            rows = connection.execute(
                "SELECT DISTINCT key FROM state WHERE partition_id = ? ORDER BY key", (partition_id,)
            )
            return [key for (key,) in rows.fetchall()]

    def offsets(self, topic: str, *, read_uncommitted: bool = False) -> dict[TopicPartition, tuple[int, int]]:
        """Return (earliest, end) of each partition.

        `read_uncommitted` has no effect: a record becomes readable at its commit.
        """
        del read_uncommitted
        with self._reading() as connection:
            ids = self._context.catalog.topic(connection, topic).partition_ids
            found = records.bounds(connection, ids)
        return {TopicPartition(topic, i): found[partition_id] for i, partition_id in enumerate(ids)}

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """Return the positions that a group has committed."""
        with self._reading() as connection:
            positions = self._context.positions_of(connection, group)
            names = self._context.catalog.names(connection, positions)
        return {names[partition_id]: position for partition_id, position in positions.items()}

    def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Return the count of records after the group's committed position, by partition."""
        committed = self.committed(group)
        bounds = {name: b for topic in topics for name, b in self.offsets(topic).items()}
        return {name: max(0, end - max(first, committed.get(name, first))) for name, (first, end) in bounds.items()}

    def groups(self) -> list[str]:
        """Return the names of groups that have committed a position, sorted."""
        with self._reading() as connection:
            rows = connection.execute("SELECT DISTINCT group_name FROM positions ORDER BY group_name").fetchall()
        return [group for (group,) in rows]

    def members(self, group: str) -> int:
        """Return the count of live members of a group."""
        with self._reading() as connection:
            incarnations = groups.incarnations(connection, group)
        return sum(map(self._context.is_alive, incarnations))

    def abort_abandoned(
        self, group: str, sources: Sequence[TopicPartition], outputs: Collection[str], own: str
    ) -> list[str]:
        """Return []: SQLite rolls the transaction of a dead process back at once."""
        del group, sources, outputs, own
        return []

    def lead(self, name: str, member: str) -> EmbeddedLeadership:
        """Return a member's wait for the leadership `name`."""
        del member
        self._context.check_open()
        return EmbeddedLeadership(self._folder / f"leader-{name}.lock")

    def outage(self) -> str:
        """Return "": a file is available unless a call fails."""
        return ""

    def make_durable(self) -> None:
        """Block until everything readable now would survive a power failure.

        A commit is in the -wal before it can be read, so one sync of the -wal is enough. SQLite resets a -wal only
        after a checkpoint has moved all its pages into the file and synced the file. Thread-safe.
        """
        self._context.check_open()
        machine.sync_data(self._wal_fd)

    def trim(self, now_us: int) -> dict[str, int]:
        """Drop records older than their topic's retention, in short transactions between the writers' transactions.

        Returns the count of dropped records by topic. Records at or after a group's position or a retention hold
        remain.

        The file does not shrink; SQLite reuses its free pages. A kill between two transactions is harmless.
        """
        dropped: dict[str, int] = {}
        with self._reading() as connection:
            topics = self._context.catalog.topics(connection)
        for topic in topics:
            retention_us = topic.retention_us
            for partition_id in topic.partition_ids if retention_us is not None else ():
                while count := self._trim_some(partition_id, now_us - (retention_us or 0)):
                    dropped[topic.name] = dropped.get(topic.name, 0) + count
        return dropped

    def _trim_some(self, partition_id: int, before_us: int) -> int:
        with self._reading() as connection:
            range_ = records.droppable(connection, partition_id, before_us)
        if range_.first == range_.next:
            return 0
        with self._writing() as connection:  # computed again under the lock: a hold may be new
            range_ = records.droppable(connection, partition_id, before_us)
            return records.drop(connection, partition_id, range_) if range_.first < range_.next else 0

    def hold_retention(self, holder: str, positions: Mapping[TopicPartition, int] | None) -> None:
        """Set the retention holds of `holder`, which replace its earlier holds; None removes them."""
        with self._writing() as connection:
            rows = [
                (holder, self._context.catalog.partition_id(connection, *name), at)
                for name, at in (positions or {}).items()
            ]
            connection.execute("DELETE FROM floors WHERE holder = ?", (holder,))
            connection.executemany("INSERT INTO floors VALUES (?, ?, ?)", rows)

    def snapshot(self) -> LogSnapshot:
        """Return a snapshot of the log for a backup. Writers continue, and their pages stay in the -wal."""
        self._context.check_open()
        return LogSnapshot(self._context)

    def close(self) -> None:
        """Close the file. SQLite moves the -wal into it and removes the -wal if no other connection is open."""
        with self._guard:
            if self._context.is_closed:
                return
            self._context.is_closed = True
        self._checkpointer.close()
        self._context.notifier.close()
        with self._writers.hold(self._context.patience_s):
            self._connection.close()
        os.close(self._wal_fd)
        locks.return_writer_lock(self._folder / "writer.lock")

    def __enter__(self) -> EmbeddedLog:
        """Return the log."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the log."""
        self.close()


def _create_private(path: Path) -> None:
    """Create the file with mode 0600 if it does not exist; SQLite's -wal and -shm get the same mode.

    An existing file is not opened: closing it would release SQLite's locks of this process.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

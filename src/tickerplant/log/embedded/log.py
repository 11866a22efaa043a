"""The log of one SQLite file: `EmbeddedLog`."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tickerplant.core.errors import ConfigError, LogError, UnknownTopic
from tickerplant.core.schemas import TopicSpec
from tickerplant.log.embedded import file, groups, locks, records
from tickerplant.log.embedded.catalog import Catalog
from tickerplant.log.embedded.checkpointer import Checkpointer
from tickerplant.log.embedded.reader import EmbeddedReader
from tickerplant.log.embedded.wakeup import Ringer, bells_folder
from tickerplant.log.embedded.writer import EmbeddedWriter
from tickerplant.log.port import EARLIEST, ConsumedRecord, Identity, RebalanceListener, Start, TopicPartition

PATIENCE_S = 30.0
"""How long a writer waits for its turn. The longest turn is the commit of the largest snapshot, about 1 s a GB."""

_STRETCH_RECORDS, _STRETCH_BYTES = 256, 8 << 20
"""What `stretch` reads at a time: the lock of the log's own connection is held for some ms."""


class EmbeddedLog:
    """The event log in the file `path`, made if it is not there; for any number of processes and threads of a machine.

    Not for network file systems: neither SQLite's log nor the locks work there. `patience_s` is how long a write waits
    for other writers before LogUnavailable. Raises LogError when `path` is something else than an event log.
    """

    def __init__(self, path: Path | str, *, patience_s: float = PATIENCE_S) -> None:
        self.path = Path(path).absolute()
        self._patience_s = patience_s
        self._closed = False
        self._folder = self.path.with_name(self.path.name + ".d")
        try:
            self._folder.joinpath("members").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the event log cannot be kept at {self.path}: {error}") from error
        self.catalog = Catalog()
        self._writers = locks.share_writer_lock(self._folder / "writer.lock")
        try:
            with file.told(self.path):
                self._connection = file.connect(self.path, patience_s)
            try:
                with file.told(self.path), self._writers.hold(patience_s):
                    file.prepare(self._connection, self.path)
                self._wal_fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            locks.return_writer_lock(self._folder / "writer.lock")
            raise
        _sync_folder(self.path.parent)  # the names of the file and of its -wal
        self.bells = bells_folder(self._folder)
        self.ringer = Ringer(self.bells)
        self._checkpointer = Checkpointer(self.path, self._folder / "checkpoint.lock", self._writers)
        self._guard = threading.Lock()  # of self._connection, which serves all methods here that do not write much

    # What readers and writers use.

    def connect(self) -> sqlite3.Connection:
        """Return a new connection to the file."""
        if self._closed:
            raise LogError(f"the event log {self.path} is closed")
        with file.told(self.path):
            return file.connect(self.path, self._patience_s)

    @contextlib.contextmanager
    def writing(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        """Run the block as one write transaction, in the queue of writers. Raises LogUnavailable out of patience."""
        with file.told(self.path), self._writers.hold(self._patience_s), file.immediate(connection):
            yield connection

    def life_path(self, incarnation: str) -> Path:
        """Return where the sign of life of a member stands."""
        return self._folder / "members" / incarnation

    def lives(self, incarnation: str) -> bool:
        """Return whether a member lives."""
        return locks.lives(self.life_path(incarnation))

    def bury(self, incarnations: Iterable[str]) -> None:
        """Remove what dead members have left."""
        for incarnation in incarnations:
            self.life_path(incarnation).unlink(missing_ok=True)

    def positions_of(self, connection: sqlite3.Connection, group: str) -> dict[int, int]:
        """Return a group's committed positions by partition id."""
        rows = connection.execute("SELECT partition_id, position FROM positions WHERE group_name = ?", (group,))
        return dict(rows.fetchall())

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._guard:
            if self._closed:
                raise LogError(f"the event log {self.path} is closed")
            with file.told(self.path):
                yield self._connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection, self.writing(connection):
            yield connection

    # The port.

    def identity(self) -> Identity:
        """Return which log this is."""
        with self._reading() as connection:
            found = dict(connection.execute("SELECT key, value FROM meta").fetchall())
        if "log_id" not in found:
            raise UnknownTopic(f"the event log {self.path} has no topics yet; `tickerplant create-topics` makes them")
        return Identity(found["log_id"], found["generation"])

    def create_topics(self, specs: Iterable[TopicSpec], partitions: int, *, generation: int = 1) -> list[str]:
        """Make what is missing and return its names. The retention of those that are there is set anew."""
        made: list[str] = []
        with self._writing() as connection:
            connection.execute("INSERT INTO meta VALUES ('log_id', ?) ON CONFLICT DO NOTHING", (str(uuid.uuid4()),))
            connection.execute("INSERT INTO meta VALUES ('generation', ?) ON CONFLICT DO NOTHING", (generation,))
            for spec in specs:
                row = connection.execute("SELECT partitions FROM topics WHERE name = ?", (spec.name,)).fetchone()
                if row is None:
                    self._make(connection, spec, partitions)
                    made.append(spec.name)
                elif row[0] != partitions:
                    raise LogError(
                        f"topic {spec.name} has {row[0]} partitions, not {partitions}; "
                        "the number is fixed when a topic is made"
                    )
                connection.execute(
                    "UPDATE topics SET retention_us = ? WHERE name = ? AND retention_us IS NOT NULL",
                    (spec.retention_us, spec.name),
                )
        return made

    def _make(self, connection: sqlite3.Connection, spec: TopicSpec, partitions: int) -> None:
        topic_id = connection.execute(
            "INSERT INTO topics (name, partitions, retention_us) VALUES (?, ?, ?)",
            (spec.name, partitions, spec.retention_us),
        ).lastrowid
        connection.executemany(
            "INSERT INTO partitions (topic_id, partition, first_offset, next_offset, last_us) VALUES (?, ?, 0, 0, 0)",
            [(topic_id, partition) for partition in range(partitions)],
        )

    def partitions(self, topic: str) -> int:
        """Return the number of partitions."""
        with self._reading() as connection:
            return len(self.catalog.topic(connection, topic).partition_ids)

    def reader(
        self,
        topics: Sequence[str],
        *,
        group: str | None = None,
        member: str | None = None,
        start: Start = EARLIEST,
        listener: RebalanceListener | None = None,
    ) -> EmbeddedReader:
        """Return a reader; with a group it is a member from now on, and knows its partitions after its first poll."""
        with file.told(self.path):
            return EmbeddedReader(self, topics, group, member, start, listener)

    def read_range(self, source: TopicPartition, begin: int, end: int) -> Iterator[ConsumedRecord]:
        """Yield what one partition has in `[begin, end)`, in order; some megabytes are held at a time."""
        while begin < end:
            with self._reading() as connection:
                partition_id = self.catalog.partition_id(connection, *source)
                begin = max(begin, records.bounds(connection, [partition_id])[partition_id].first)
                wanted = min(_STRETCH_RECORDS, end - begin)  # offsets are dense here
                rows = records.read(connection, partition_id, begin, wanted, _STRETCH_BYTES, 1) if wanted > 0 else []
            for offset, appended_at_us, value in rows:
                yield ConsumedRecord(source.topic, source.partition, offset, appended_at_us, value)
            if not rows:
                return
            begin = rows[-1][0] + 1

    def writer(self, name: str) -> EmbeddedWriter:
        """Return the writer of that name and fence any earlier one."""
        return EmbeddedWriter(self, name)

    def get_state(self, topic: str, partition: int, key: str) -> bytes | None:
        """Return the newest committed value of a key, or None."""
        with self._reading() as connection, file.snapshot(connection):
            return records.get_state(connection, self.catalog.partition_id(connection, topic, partition), key)

    def state_keys(self, topic: str, partition: int) -> list[str]:
        """Return the keys that have a value, sorted."""
        with self._reading() as connection:
            partition_id = self.catalog.partition_id(connection, topic, partition)
            rows = connection.execute(
                "SELECT DISTINCT key FROM state WHERE partition_id = ? ORDER BY key", (partition_id,)
            )
            return [key for (key,) in rows.fetchall()]

    def offsets(self, topic: str, *, read_uncommitted: bool = False) -> dict[TopicPartition, tuple[int, int]]:
        """Return (earliest, end) of each partition. Nothing is appended before it is committed."""
        del read_uncommitted
        with self._reading() as connection:
            ids = self.catalog.topic(connection, topic).partition_ids
            found = records.bounds(connection, ids)
        return {TopicPartition(topic, i): found[partition_id] for i, partition_id in enumerate(ids)}

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """Return the positions that a group has committed."""
        with self._reading() as connection:
            positions = self.positions_of(connection, group)
            names = self.catalog.names(connection, positions)
        return {names[partition_id]: position for partition_id, position in positions.items()}

    def lag(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Return how many records of each partition the group has still to read."""
        committed = self.committed(group)
        bounds = {name: b for topic in topics for name, b in self.offsets(topic).items()}
        return {name: max(0, end - max(first, committed.get(name, first))) for name, (first, end) in bounds.items()}

    def groups(self) -> list[str]:
        """Return the names of groups that have committed a position, sorted."""
        with self._reading() as connection:
            rows = connection.execute("SELECT DISTINCT group_name FROM positions ORDER BY group_name").fetchall()
        return [group for (group,) in rows]

    def members(self, group: str) -> int:
        """Return how many members of a group live."""
        with self._reading() as connection:
            incarnations = groups.incarnations(connection, group)
        return sum(map(self.lives, incarnations))

    def make_durable(self) -> None:
        """Return when all that can be read now would survive a power cut.

        A commit is in the -wal file before anybody can read it, so syncing that file is enough: a -wal is begun anew
        only after a checkpoint has moved all of it into the file and synced that. Safe from any thread; blocks for
        one sync.
        """
        if self._closed:
            raise LogError(f"the event log {self.path} is closed")
        os.fdatasync(self._wal_fd)

    def trim(self, now_us: int) -> dict[str, int]:
        """Drop what is older than its topic's retention, in short transactions between those of the writers.

        The file does not shrink; its free pages are used again. Counts on nothing: a kill in between is harmless.
        """
        dropped: dict[str, int] = {}
        with self._reading() as connection:
            topics = self.catalog.topics(connection)
        for topic in topics:
            retention_us = topic.retention_us
            for partition_id in topic.partition_ids if retention_us is not None else ():
                while count := self._trim_some(partition_id, now_us - (retention_us or 0)):
                    dropped[topic.name] = dropped.get(topic.name, 0) + count
        return dropped

    def _trim_some(self, partition_id: int, before_us: int) -> int:
        with self._reading() as connection:
            stretch = records.droppable(connection, partition_id, before_us)
        if stretch.first == stretch.next:
            return 0
        with self._writing() as connection:  # asked again: a floor may have come meanwhile
            stretch = records.droppable(connection, partition_id, before_us)
            return records.drop(connection, partition_id, stretch) if stretch.first < stretch.next else 0

    def hold_retention(self, holder: str, floors: Mapping[TopicPartition, int] | None) -> None:
        """Hold retention of these partitions back for `holder`, in place of what it held before; None lets go."""
        with self._writing() as connection:
            rows = [(holder, self.catalog.partition_id(connection, *name), at) for name, at in (floors or {}).items()]
            connection.execute("DELETE FROM floors WHERE holder = ?", (holder,))
            connection.executemany("INSERT INTO floors VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Close the file. If nobody else has it open, SQLite moves all of the -wal into it and removes that."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
        self._checkpointer.close()
        self.ringer.close()
        with self._writers.hold(self._patience_s):
            self._connection.close()
        os.close(self._wal_fd)
        locks.return_writer_lock(self._folder / "writer.lock")

    def __enter__(self) -> EmbeddedLog:
        """Return the log."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

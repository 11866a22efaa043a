"""A consistent copy of the log's file, made while its writers continue: `LogSnapshot`.

The snapshot is one read transaction of SQLite. Writers continue, and their pages stay in the `-wal` until the copy
ends. The copy is one file without a `-wal`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tickerplant.core.errors import LogError, UnknownTopic
from tickerplant.log.embedded import file
from tickerplant.log.port import Identity, TopicPartition

if TYPE_CHECKING:
    from tickerplant.log.embedded.context import LogContext

STEP_PAGES: Final = 512
"""Pages per step of a copy: 8 MiB. Progress is reported after each step."""

Progress = Callable[[int, int], None]
"""A function that receives the count of copied bytes and the total count. It may raise an error to end the copy."""


class LogSnapshot:
    """The log at one instant, until `close`. Belongs to one thread."""

    def __init__(self, context: LogContext) -> None:
        self._context = context
        self._connection = context.connect()
        try:
            with file.translate_errors(context.path):
                self._connection.execute("BEGIN")
                self._connection.execute("SELECT count(*) FROM meta").fetchone()  # the snapshot begins with a read
        except BaseException:
            self._connection.close()
            raise

    def identity(self) -> Identity:
        """Return the identity of the log. Raises UnknownTopic for a log without topics."""
        found = dict(self._rows("SELECT key, value FROM meta"))
        if "log_id" not in found:
            raise UnknownTopic(f"the event log {self._context.path} has no topics yet; start the plant once")
        return Identity(found["log_id"], found["generation"])

    def offsets(self) -> dict[TopicPartition, tuple[int, int]]:
        """Return (first offset, next offset to assign) of each partition of all topics."""
        rows = self._rows(
            "SELECT t.name, p.partition, p.first_offset, p.next_offset "
            "FROM partitions p JOIN topics t ON t.id = p.topic_id ORDER BY t.name, p.partition"
        )
        return {TopicPartition(topic, partition): (first, end) for topic, partition, first, end in rows}

    def holds(self) -> dict[str, dict[TopicPartition, int]]:
        """Return the retention holds by holder."""
        rows = self._rows(
            "SELECT f.holder, t.name, p.partition, f.position FROM floors f "
            "JOIN partitions p ON p.id = f.partition_id JOIN topics t ON t.id = p.topic_id"
        )
        found: dict[str, dict[TopicPartition, int]] = {}
        for holder, topic, partition, position in rows:
            found.setdefault(holder, {})[TopicPartition(topic, partition)] = position
        return found

    def copy(
        self,
        target: Path,
        positions: Mapping[str, Mapping[TopicPartition, int]],
        progress: Progress,
    ) -> None:
        """Write the snapshot to a new file with mode 0600, and sync it.

        `positions` contains maximum positions in the copy, for groups whose effects are in another store. If it
        contains no position of a partition, the position of such a group is the partition's first offset.
        """
        os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with file.translate_errors(target):
            copy = sqlite3.connect(target, isolation_level=None)
            try:
                copy.execute("PRAGMA synchronous = OFF")  # one sync at the end is enough
                self._connection.backup(
                    copy,
                    pages=STEP_PAGES,
                    progress=lambda _, left, pages: progress((pages - left) * file.PAGE_BYTES, pages * file.PAGE_BYTES),
                )
                _check(copy, self._context.path)
                with file.immediate(copy):
                    _lower_positions(copy, positions)
            finally:
                copy.close()  # the last connection moves the -wal into the file and removes it
        _sync(target)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with file.translate_errors(self._context.path):
            return self._connection.execute(sql).fetchall()

    def close(self) -> None:
        """End the snapshot. Idempotent."""
        self._connection.close()

    def __enter__(self) -> LogSnapshot:
        """Return the snapshot."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End the snapshot."""
        self.close()


def _check(copy: sqlite3.Connection, source: Path) -> None:
    """Raise LogError if the pages of the copy are damaged. The log then has the same damage."""
    (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise LogError(f"the event log {source} is damaged ({found}); restore an earlier backup or start a new log")


def _lower_positions(copy: sqlite3.Connection, positions: Mapping[str, Mapping[TopicPartition, int]]) -> None:
    rows = copy.execute(
        "SELECT g.group_name, g.partition_id, g.position, p.first_offset, t.name, p.partition FROM positions g "
        "JOIN partitions p ON p.id = g.partition_id JOIN topics t ON t.id = p.topic_id"
    ).fetchall()
    for group, partition_id, position, first, topic, partition in rows:
        if group in positions:
            most = max(first, positions[group].get(TopicPartition(topic, partition), 0))
            copy.execute(
                "UPDATE positions SET position = ? WHERE group_name = ? AND partition_id = ?",
                (min(position, most), group, partition_id),
            )


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

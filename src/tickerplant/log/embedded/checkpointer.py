"""Moves committed pages from the -wal into the file, in one thread of one process on the machine.

SQLite before 3.51.3 can damage a file when a checkpoint of a fully moved -wal starts while a commit resets that -wal.
Two rules prevent this:

1. A lock elects one checkpointer on the machine.
2. The checkpointer checkpoints beside writers only if a commit followed its last checkpoint. Then the -wal is not fully
   moved and cannot be reset. Otherwise it checkpoints under the writers' lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

import structlog

from tickerplant.core.errors import LogUnavailable
from tickerplant.log.embedded import file
from tickerplant.log.embedded.locks import WriterLock, try_lock

_RESTART_BYTES = 64 << 20  # a longer -wal slows the lookups of readers, and recovery after a crash
_BUSY_BYTES = 8 << 20
_BUSY_PAUSE_S, _IDLE_PAUSE_S = 0.1, 1.0
_RESTART_TIMEOUT_MS = 50  # writers are blocked while the checkpoint waits for readers
_TIMEOUT_S = 30.0

_log = structlog.get_logger(__name__)


class Checkpointer:
    """The checkpointer's thread. It runs from the constructor until `close`."""

    def __init__(self, path: Path, lock_path: Path, writers: WriterLock) -> None:
        self._path, self._lock_path, self._writers = path, lock_path, writers
        self._stop = threading.Event()
        self._seen = -1  # SQLite's `data_version` at the end of the last checkpoint
        self._thread = threading.Thread(target=self._run, name="log-checkpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the current checkpoint."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while (fd := try_lock(self._lock_path)) is None:
            if self._stop.wait(_IDLE_PAUSE_S):
                return
        try:
            connection = file.connect(self._path, 1.0)
            try:
                self._checkpoint_often(connection)
            finally:
                connection.close()
        finally:
            os.close(fd)

    def _checkpoint_often(self, connection: sqlite3.Connection) -> None:
        pause_s = _IDLE_PAUSE_S
        while not self._stop.wait(pause_s):
            pause_s = _IDLE_PAUSE_S
            try:
                moved_bytes = self._passive(connection)
                if moved_bytes > _RESTART_BYTES:
                    self._restart(connection)
                if moved_bytes > _BUSY_BYTES:
                    pause_s = _BUSY_PAUSE_S
            except (sqlite3.OperationalError, LogUnavailable) as error:
                _log.warning("checkpoint failed, retrying", path=str(self._path), error=str(error))

    def _passive(self, connection: sqlite3.Connection) -> int:
        """Move the pages that no reader needs in the -wal; return the -wal's bytes, or 0 if there is no new commit."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._seen:
            return 0
        with contextlib.nullcontext() if self._seen >= 0 else self._writers.hold(_TIMEOUT_S):
            _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (self._seen,) = connection.execute("PRAGMA data_version").fetchone()
        return int(pages) * file.PAGE_BYTES

    def _restart(self, connection: sqlite3.Connection) -> None:
        """Make the next commit write the -wal from its beginning.

        Writers wait during the checkpoint. A -wal of 64 MB would make them wait 0.7 s, mostly for SQLite's sync of the
        file. Most pages are therefore moved and synced before the lock is held.
        """
        for _ in range(2):
            self._passive(connection)
            self._writers.sync(self._path)
        connection.execute(f"PRAGMA busy_timeout = {_RESTART_TIMEOUT_MS}")
        with self._writers.hold(_TIMEOUT_S):
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            (self._seen,) = connection.execute("PRAGMA data_version").fetchone()
        connection.execute("PRAGMA busy_timeout = 1000")

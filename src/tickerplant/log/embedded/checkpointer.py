"""Moves what was committed from the -wal into the file, in one thread of one process on the machine.

SQLite before 3.51.3 can damage a file when a checkpoint begins on a log that is already wholly moved while a commit
starts that log over. So: one checkpointer at a time (a lock says who); it checkpoints beside writers only when a commit
has come after its last checkpoint ended (then the log is not wholly moved, and cannot start over); else under their
lock.
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
from tickerplant.log.embedded.locks import WriterLock, try_lead

_RESTART_BYTES = 64 << 20  # a longer log makes readers search longer, and recovery after a crash too
_BUSY_BYTES = 8 << 20
_BUSY_PAUSE_S, _IDLE_PAUSE_S = 0.1, 1.0
_RESTART_PATIENCE_MS = 50  # writers wait while we wait for readers
_PATIENCE_S = 30.0

_log = structlog.get_logger(__name__)


class Checkpointer:
    """The thread, from the constructor until `close`."""

    def __init__(self, path: Path, lock_path: Path, writers: WriterLock) -> None:
        self._path, self._lock_path, self._writers = path, lock_path, writers
        self._stop = threading.Event()
        self._seen = -1  # SQLite's count of others' commits as of the end of our last checkpoint
        self._thread = threading.Thread(target=self._run, name="log-checkpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, after the checkpoint that runs."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while (lead := try_lead(self._lock_path)) is None:
            if self._stop.wait(_IDLE_PAUSE_S):
                return
        try:
            connection = file.connect(self._path, 1.0)
            try:
                self._checkpoint_often(connection)
            finally:
                connection.close()
        finally:
            os.close(lead)

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
                _log.warning("checkpoint failed; trying again", path=str(self._path), error=str(error))

    def _passive(self, connection: sqlite3.Connection) -> int:
        """Move what no reader needs any more in the log; return its size, or 0 if no commit came since the last."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._seen:
            return 0
        with contextlib.nullcontext() if self._seen >= 0 else self._writers.hold(_PATIENCE_S):
            _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (self._seen,) = connection.execute("PRAGMA data_version").fetchone()
        return int(pages) * file.PAGE_BYTES

    def _restart(self, connection: sqlite3.Connection) -> None:
        """Make the next commit begin the log anew.

        Writers have to wait for it, and of a log of 64 MB they would wait 0.7 s, most of it for the sync of the file
        that SQLite makes when all is moved. So first move most and sync, then what has come meanwhile, then do it.
        """
        for _ in range(2):
            self._passive(connection)
            self._writers.sync(self._path)
        connection.execute(f"PRAGMA busy_timeout = {_RESTART_PATIENCE_MS}")
        with self._writers.hold(_PATIENCE_S):
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            (self._seen,) = connection.execute("PRAGMA data_version").fetchone()
        connection.execute("PRAGMA busy_timeout = 1000")

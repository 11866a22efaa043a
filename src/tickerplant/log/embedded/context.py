"""State shared by readers and writers of one open log: connections, the writers' lock, the catalog, notifications."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from tickerplant.core.errors import LogError
from tickerplant.log.embedded import file, liveness
from tickerplant.log.embedded.catalog import Catalog
from tickerplant.log.embedded.compression import Decoder, Dictionaries, Encoder
from tickerplant.log.embedded.locks import WriterLock
from tickerplant.log.embedded.wakeup import Notifier, sockets_directory


class LogContext:
    """One open log, as its readers and writers use it. Thread-safe; `EmbeddedLog` owns and closes it."""

    def __init__(self, path: Path, folder: Path, writers: WriterLock, patience_s: float) -> None:
        self.path, self.writers, self.patience_s = path, writers, patience_s
        self.is_closed = False
        self.catalog = Catalog()
        self._dictionaries = Dictionaries()
        self.encoder = Encoder(self._dictionaries)
        """Compresses records inside `write_transaction`."""
        self.sockets = sockets_directory(folder)
        self.notifier = Notifier(self.sockets)
        self._members = folder / "members"

    def connect(self) -> sqlite3.Connection:
        """Return a new connection to the file. Raises LogError after the log was closed."""
        self.check_open()
        with file.translate_errors(self.path):
            return file.connect(self.path, self.patience_s)

    def decoder(self) -> Decoder:
        """Return a new decoder of records, for one thread at a time."""
        return Decoder(self._dictionaries)

    def check_open(self) -> None:
        """Raise LogError if the log is closed."""
        if self.is_closed:
            raise LogError(f"the event log {self.path} is closed")

    @contextlib.contextmanager
    def write_transaction(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        """Run the block as one write transaction, in the queue of writers. Raises LogUnavailable on a timeout."""
        with file.translate_errors(self.path), self.writers.hold(self.patience_s):
            try:
                with file.immediate(connection):
                    yield connection
            except BaseException:
                self.encoder.roll_back()
                raise

    def liveness_path(self, incarnation: str) -> Path:
        """Return the path of a member's liveness lock."""
        return self._members / incarnation

    def is_alive(self, incarnation: str) -> bool:
        """Return whether a member is alive."""
        return liveness.is_alive(self.liveness_path(incarnation))

    def remove_members(self, incarnations: Iterable[str]) -> None:
        """Remove the liveness files of dead members."""
        for incarnation in incarnations:
            self.liveness_path(incarnation).unlink(missing_ok=True)

    def positions_of(self, connection: sqlite3.Connection, group: str) -> dict[int, int]:
        """Return a group's committed positions by partition id."""
        rows = connection.execute("SELECT partition_id, position FROM positions WHERE group_name = ?", (group,))
        return dict(rows.fetchall())

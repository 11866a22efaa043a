"""The SQLite file: its tables, its connections, and the translation of its errors."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tickerplant.core.errors import LogError, LogUnavailable
from tickerplant.log.embedded import compression

APPLICATION_ID: Final = 0x54504C47  # "TPLG"
FORMAT: Final = 2
"""Version of the tables. Format 1 had no compressed records; `prepare` upgrades it."""

PAGE_BYTES: Final = 16_384
"""Page size of the file in bytes. Reads of 56 KB records reach 2.1 GB/s with 4 KB pages, 4.6 GB/s with 16 KB and 5.4
GB/s with 64 KB.

A commit of two small records writes at least three pages; with 64 KB pages it takes three times as long as with 4 KB
pages."""

_FULL_BYTES: Final = 1 << 20
_CACHE_KB = 2_048
_MMAP_BYTES = 0
_WAL_LIMIT_BYTES = 128 << 20  # size to which SQLite truncates the -wal after a large snapshot

_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE topics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL, retention_us INTEGER);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL, last_us INTEGER NOT NULL,
    UNIQUE (topic_id, partition));
CREATE TABLE records (
    id INTEGER PRIMARY KEY, partition_id INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    appended_at_us INTEGER NOT NULL, value BLOB NOT NULL, dictionary INTEGER NOT NULL DEFAULT {compression.PLAIN});
CREATE UNIQUE INDEX records_by_offset ON records (partition_id, "offset");
CREATE TABLE state (
    id INTEGER PRIMARY KEY, partition_id INTEGER NOT NULL, key TEXT NOT NULL, part INTEGER NOT NULL,
    value BLOB NOT NULL);
CREATE UNIQUE INDEX state_by_key ON state (partition_id, key, part);
CREATE TABLE writers (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE groups_ (name TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE members (
    group_name TEXT NOT NULL, member TEXT NOT NULL, incarnation TEXT NOT NULL, topic_ids TEXT NOT NULL,
    PRIMARY KEY (group_name, member)) WITHOUT ROWID;
CREATE TABLE owners (
    group_name TEXT NOT NULL, partition_id INTEGER NOT NULL, incarnation TEXT NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (group_name, partition_id)) WITHOUT ROWID;
CREATE TABLE positions (
    group_name TEXT NOT NULL, partition_id INTEGER NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (group_name, partition_id)) WITHOUT ROWID;
CREATE TABLE floors (
    holder TEXT NOT NULL, partition_id INTEGER NOT NULL, position INTEGER NOT NULL,
    PRIMARY KEY (holder, partition_id)) WITHOUT ROWID;
{compression.TABLE}"""
_UPGRADE = f"""
ALTER TABLE records ADD COLUMN dictionary INTEGER NOT NULL DEFAULT {compression.PLAIN};
{compression.TABLE}"""


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Raise a LogError or LogUnavailable for each SQLite error in the block."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LogUnavailable(
                f"the event log {path} is locked by another program; end that program: {error}"
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise LogUnavailable(f"no space left for the event log {path}; free some space: {error}") from error
        if code == sqlite3.SQLITE_IOERR and _is_full(path):  # some writes of SQLite do not report the cause
            raise LogUnavailable(f"no space left for the event log {path}; free some space: {error}") from error
        if code == sqlite3.SQLITE_NOTADB:
            raise LogError(
                f"{path} is not an event log, not even an SQLite file. It is unchanged; choose another file or "
                "data folder"
            ) from error
        if code == sqlite3.SQLITE_CORRUPT:
            raise LogError(f"the event log {path} is damaged ({error}); restore a backup or start a new log") from error
        raise LogError(f"the event log {path} failed: {error}") from error


def _is_full(path: Path) -> bool:
    with contextlib.suppress(OSError):
        found = os.statvfs(path.parent)
        return found.f_bavail * found.f_frsize < _FULL_BYTES
    return False


def connect(path: Path, patience_s: float) -> sqlite3.Connection:
    """Return a connection for one thread at a time. It waits at most `patience_s` seconds for other locks."""
    connection = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")  # no sync per commit; `make_durable` syncs
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # a checkpoint inside COMMIT can add 7 ms
        connection.execute("PRAGMA secure_delete = OFF")  # some builds overwrite deleted records with zeros
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        connection.execute(f"PRAGMA mmap_size = {_MMAP_BYTES}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables in a new file, or upgrade the tables of format 1. Raises LogError for any other file.

    Call with the writers' lock held.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and application_id in (0, APPLICATION_ID):
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {FORMAT}; COMMIT"
        )
    elif application_id != APPLICATION_ID:
        raise LogError(
            f"{path} is an SQLite file of another program, not an event log. It is unchanged; choose another file or "
            "data folder"
        )
    elif version == 1:
        connection.executescript(f"BEGIN IMMEDIATE; {_UPGRADE} PRAGMA user_version = {FORMAT}; COMMIT")
    elif version != FORMAT:
        raise LogError(
            f"the event log {path} has format {version}, and this version of Tickerplant reads {FORMAT}; run the "
            "version that wrote it"
        )
    connection.execute("SELECT count(*) FROM meta").fetchone()  # opens the -wal, so that its file exists


@contextlib.contextmanager
def immediate(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run the block in one write transaction. Call with the writers' lock held."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run all reads of the block on one snapshot of the file."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")

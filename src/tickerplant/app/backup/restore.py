"""Build a data folder from a backup.

Order of steps:

1. Check the manifest, the versions, the data folder, and sizes and checksums of all files.
2. Lock the data folder, check the free space, and mark the folder as incomplete. Every other command refuses the folder
   from here on.
3. Remove what an interrupted restore left.
4. Copy the log, create the database's cluster, and load the dump.
5. Check that the database continues from the log, at the positions of the manifest.
6. Copy the settings file and the password of the read-only role.
7. Remove the mark.

A killed command is repeated from step 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tickerplant.app.backup import manifest
from tickerplant.app.backup.create import require_embedded
from tickerplant.app.backup.manifest import Manifest, Progress, chunks_of, sync_folder, write_private
from tickerplant.app.wiring.locks import RESTORE_NAME, FolderLock
from tickerplant.core import faults
from tickerplant.core.errors import BadInput, LogError, MigrationError, StoreError, TickerplantError
from tickerplant.core.free_space import MIB

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings

LABELS: Final = ("checksums", "event log", "database")
MAX_JOBS: Final = 4
_HARMLESS: Final = frozenset((manifest.SETTINGS_NAME, "plant.lock", "lost+found"))
"""Names that a data folder may contain before a restore: the user's settings file, the lock file, and `lost+found`."""


def restore(settings: Settings, source: Path, progress: Progress) -> Manifest:
    """Build the data folder of the settings from a backup, and return its manifest.

    Raises TickerplantError, such as BadInput for a damaged or incomplete backup and for a folder that is not empty.
    """
    require_embedded(settings, "restore")
    data, source = settings.data, source.expanduser().absolute()
    if not source.is_dir():
        raise BadInput(f"{source} is not a folder; name a folder that `backup` wrote")
    found = manifest.read(source)
    _check_version(found, source, data)
    _check_folder(data)
    manifest.check_files(source, found, progress, "checksums")
    with FolderLock(data, "plant.lock").acquire_or_raise() as lock, _errors(data):
        lock.write_holder()
        _check_folder(data)
        _check_space(found, data)
        _mark(data, source)
        _clear(data)
        _build(data, source, found, progress)
        faults.reach("restore.unmark.before")
        (data / RESTORE_NAME).unlink()
        sync_folder(data)
    return found


def _check_version(found: Manifest, source: Path, data: Path) -> None:
    from tickerplant.store.migrations import all_migrations
    from tickerplant.store.server.binaries import find_binaries

    unknown = set(found.migrations) - {migration.name for migration in all_migrations()}
    if unknown:
        raise MigrationError(
            f"{source} was written by a newer version of Tickerplant ({found.version}): this one does not contain "
            f"migration {min(unknown)}; restore it with that version"
        )
    server = find_binaries(None, data / "postgres" / "cluster")
    if server.major < found.postgresql:
        raise StoreError(
            f"{source} contains a database of PostgreSQL {found.postgresql}, and {server.folder} contains "
            f"{server.major}; install PostgreSQL {found.postgresql}"
        )


def _check_folder(data: Path) -> None:
    """Raise BadInput if the data folder has contents that an interrupted restore did not write."""
    try:
        names = {entry.name for entry in os.scandir(data)}
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInput(f"{data} cannot be used ({error.strerror}); choose another folder with --data") from None
    if RESTORE_NAME not in names and names - _HARMLESS:
        raise BadInput(
            f"{data} is not empty, and `restore` needs a new data folder; name one with --data, or move this one"
        )


def _check_space(found: Manifest, data: Path) -> None:
    needed = found.files[manifest.LOG_NAME].bytes + found.database_bytes
    disk = os.statvfs(data)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        raise TickerplantError(
            f"the backup needs {needed // MIB + 1:,} MiB, and the disk of {data} has {free // MIB:,} MiB free; free "
            "some, or choose another folder with --data"
        )


@contextlib.contextmanager
def _errors(data: Path) -> Iterator[None]:
    again = "the folder is incomplete: run the command again"
    try:
        yield
    except OSError as error:
        name = error.filename or data
        raise TickerplantError(f"the restore failed at {name} ({error.strerror}); {again}") from error


def _mark(data: Path, source: Path) -> None:
    marker = data / RESTORE_NAME
    marker.unlink(missing_ok=True)
    write_private(marker, [f"{source}\n".encode()])
    sync_folder(data)
    faults.reach("restore.mark.after")


def _clear(data: Path) -> None:
    """Remove what an interrupted restore left, after its database server has stopped."""
    from tickerplant.store.server.embedded import EmbeddedPostgres

    EmbeddedPostgres(data / "postgres").remove()
    shutil.rmtree(data / f"{manifest.LOG_NAME}.d", ignore_errors=True)
    for end in ("", "-wal", "-shm", "-journal"):
        (data / f"{manifest.LOG_NAME}{end}").unlink(missing_ok=True)
    (data / manifest.PASSWORD_NAME).unlink(missing_ok=True)


def _build(data: Path, source: Path, found: Manifest, progress: Progress) -> None:
    from tickerplant.app.config.settings import child_environment
    from tickerplant.store import backup as store_backup
    from tickerplant.store.server.embedded import EmbeddedPostgres

    _copy(source / manifest.LOG_NAME, data / manifest.LOG_NAME, found, progress)
    faults.reach("restore.log.after")
    with EmbeddedPostgres(data / "postgres") as server:
        dsn = server.dsn
        program = store_backup.client_program("pg_restore", found.postgresql, server.cluster)
        faults.reach("restore.store.before")
        progress("database", 0, None)
        jobs = min(MAX_JOBS, os.cpu_count() or 1)
        store_backup.restore(program, dsn, source / manifest.STORE_NAME, child_environment(), jobs=jobs)
        asyncio.run(store_backup.analyze(dsn))
        faults.reach("restore.store.after")
        _check_positions(dsn, data, found)
    for name in (manifest.SETTINGS_NAME, manifest.PASSWORD_NAME):
        if name in found.files and not (data / name).exists():
            write_private(data / name, [(source / name).read_bytes()])


def _copy(source: Path, target: Path, found: Manifest, progress: Progress) -> None:
    """Copy the log's file, and compare its checksum again: another program may have changed it meanwhile."""
    wanted = found.files[manifest.LOG_NAME]

    def report(done: int) -> None:
        faults.reach("restore.log.step")
        progress("event log", done, wanted.bytes)

    if write_private(target, chunks_of(source), report) != wanted:
        raise BadInput(f"{source} changed while it was read; run the command again")


def _check_positions(dsn: str, data: Path, found: Manifest) -> None:
    """Raise an error unless log and database contain what the manifest states, and fit each other."""
    from tickerplant.app.wiring.store import check_log, positions
    from tickerplant.log.embedded.log import EmbeddedLog

    with EmbeddedLog(data / manifest.LOG_NAME) as event_log:
        identity = event_log.identity()
        with event_log.snapshot() as log:
            offsets = manifest.nested(log.offsets())
        if (identity.log_id, identity.generation, offsets) != (found.log_id, found.generation, dict(found.offsets)):
            raise LogError(f"the restored log differs from the description in {manifest.NAME}; use another backup")
        check_log(dsn, event_log)
    if manifest.nested(positions(dsn)) != dict(found.positions):
        raise StoreError(f"the positions of the restored database differ from {manifest.NAME}; use another backup")

"""Write a backup of an embedded plant, which may run.

Order of steps:

1. Read the positions of the groups whose effects are in the database.
2. Begin a snapshot of the database.
3. Begin a snapshot of the log, which is never older than the snapshot of the database. Repeat from step 1 if the
   database cannot continue from this log, or if an alert rule changed meanwhile.
4. Copy the log, and lower the groups' positions in the copy to those of step 1. End the snapshot of the log.
5. Dump the database. End the snapshot of the database.
6. Copy the settings file and the password of the read-only role.
7. Write `backup.json` and rename the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tickerplant.app.backup import manifest
from tickerplant.app.backup.draft import draft_of
from tickerplant.app.backup.manifest import BackupFile, Manifest, Progress, write_private
from tickerplant.core import faults
from tickerplant.core.errors import ConfigError, LogError, StoreUnavailable, TickerplantError
from tickerplant.core.free_space import MIB
from tickerplant.core.times import iso

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.embedded.backup import LogSnapshot
    from tickerplant.log.embedded.log import EmbeddedLog
    from tickerplant.log.port import TopicPartition
    from tickerplant.store.backup import StoreSnapshot, StoreState

ATTEMPTS: Final = 50
PAUSE_S: Final = 0.1
LABELS: Final = ("event log", "database", "checksum")
_APPLIED: Final = ("persistence", "webhooks")
"""Groups that commit their position after their effect is in the database."""


def create(settings: Settings, target: Path, progress: Progress) -> Manifest:
    """Write a backup into a new folder and return its manifest. Raises TickerplantError with one line."""
    from tickerplant.app.wiring import open_readonly
    from tickerplant.app.wiring.store import check_log
    from tickerplant.log.embedded.log import EmbeddedLog

    require_embedded(settings, "backup")
    if not open_readonly.has_plant(settings):
        raise open_readonly.no_plant(settings)
    with (
        draft_of(target, settings.data) as draft,
        open_readonly.store_of(settings) as dsn,
        open_readonly.log_of(settings) as event_log,
        _disk_errors(draft),
    ):
        assert isinstance(event_log, EmbeddedLog)
        check_log(dsn, event_log)
        return _write(_Target(draft, settings, progress), dsn, event_log)


def require_embedded(settings: Settings, command: str) -> None:
    """Raise ConfigError if the log or the database is not the embedded one."""
    if settings.log != "embedded:" or not settings.embedded_store:
        which = "store" if settings.log == "embedded:" else "log"
        raise ConfigError(
            f"`{command}` needs the embedded log and the embedded database, and the setting {which} names another one; "
            "follow docs/backup.md for Kafka and other databases"
        )


@dataclass(frozen=True, slots=True)
class _Target:
    """The folder to write, and the checks while it is written."""

    draft: Path
    settings: Settings
    progress: Progress

    def report(self, label: str, done: int, total: int | None) -> None:
        """Report progress. Raises TickerplantError if too little free space is left on the plant's disk."""
        faults.reach(f"backup.{label.partition(' ')[2] or label}.step")
        self.progress(label, done, total)
        least = self.settings.min_free_mb * MIB
        found = os.statvfs(self.draft)
        free = found.f_bavail * found.f_frsize
        if free < least and os.stat(self.draft).st_dev == os.stat(self.settings.data).st_dev:
            raise TickerplantError(
                f"the backup was stopped and removed: the plant needs {least // MIB:,} MiB (min_free_mb), and its "
                f"disk has {free // MIB:,} MiB left; name a folder on another disk"
            )


@contextlib.contextmanager
def _disk_errors(draft: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TickerplantError(
            f"the backup cannot be written to {draft} ({error.strerror}) and was removed; free some space, or name a "
            "folder on another disk"
        ) from error


def _write(target: _Target, dsn: str, event_log: EmbeddedLog) -> Manifest:
    from tickerplant.app.config.settings import child_environment
    from tickerplant.store import backup as store_backup

    draft, settings = target.draft, target.settings
    with _snapshots(dsn, event_log) as (store, log, positions):
        created_us = time.time_ns() // 1_000
        identity, offsets, state = log.identity(), log.offsets(), store.state
        if state.flavour != "postgresql":
            raise ConfigError("the embedded database has TimescaleDB's tables; follow docs/backup.md to back it up")
        program = store_backup.client_program("pg_dump", state.major, settings.data / "postgres" / "cluster")
        log_path = draft / manifest.LOG_NAME
        log.copy(log_path, positions, lambda done, total: target.report("event log", done, total))
        log.close()
        chunks = store_backup.dump(program, dsn, store.name, child_environment())
        with contextlib.closing(chunks):
            dumped = write_private(
                draft / manifest.STORE_NAME, chunks, lambda done: target.report("database", done, None)
            )
    files = {manifest.STORE_NAME: dumped}
    for name in (manifest.SETTINGS_NAME, manifest.PASSWORD_NAME):
        with contextlib.suppress(FileNotFoundError):
            files[name] = write_private(draft / name, [(settings.data / name).read_bytes()])
    files[manifest.LOG_NAME] = _described(log_path, target)
    made = Manifest(
        version=metadata.version("tickerplant"), created_at=iso(created_us), log_id=identity.log_id,
        generation=identity.generation, offsets=manifest.nested(offsets),
        positions=manifest.nested(state.positions), postgresql=state.major, migrations=state.migrations,
        database_bytes=state.database_bytes, files=files,
    )  # fmt: skip
    faults.reach("backup.manifest.before")
    write_private(draft / manifest.NAME, [made.text().encode()])
    return made


@contextlib.contextmanager
def _snapshots(
    dsn: str, event_log: EmbeddedLog
) -> Iterator[tuple[StoreSnapshot, LogSnapshot, Mapping[str, Mapping[TopicPartition, int]]]]:
    """Yield snapshots of database and log that fit each other, and the positions of the groups of `_APPLIED`."""
    from tickerplant.store.backup import StoreSnapshot, read_rules

    reason = ""
    with asyncio.Runner() as runner:
        for attempt in range(1, ATTEMPTS + 1):
            positions = {group: event_log.committed(group) for group in _APPLIED}
            try:
                store = runner.run(StoreSnapshot.open(dsn))
            except StoreUnavailable:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(PAUSE_S)
                continue
            try:
                with event_log.snapshot() as log:
                    faults.reach("backup.snapshots.after")
                    reason = mismatch(store.state, log.offsets())
                    if not reason and runner.run(read_rules(dsn)) == store.state.rules:
                        yield store, log, positions
                        return
            finally:
                runner.run(store.close())
            time.sleep(PAUSE_S)
    raise LogError(f"no consistent backup was possible: {reason or 'alert rules changed in each attempt'}; try again")


def mismatch(state: StoreState, offsets: Mapping[TopicPartition, tuple[int, int]]) -> str:
    """Return why a database cannot continue from a log; "" if it can."""
    bounds = {(source.topic, source.partition): found for source, found in offsets.items()}
    for (topic, partition), position in sorted(state.positions.items()):
        first, end = bounds.get((topic, partition), (position, position))
        if not first <= position <= end:
            return f"the database continues {topic}/{partition} at {position}, and the log has [{first}, {end})"
    return ""


def _described(path: Path, target: _Target) -> BackupFile:
    size = path.stat().st_size
    return BackupFile(size, manifest.checksum(path, lambda done: target.progress("checksum", done, size)))

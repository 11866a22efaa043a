"""The file `backup.json`: what a backup contains, with sizes, checksums and positions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tickerplant.core.errors import BadInput

NAME: Final = "backup.json"
LOG_NAME: Final = "market.log"
STORE_NAME: Final = "store.dump"
SETTINGS_NAME: Final = "tickerplant.toml"
PASSWORD_NAME: Final = "reader.password"  # noqa: S105
FILES: Final = (LOG_NAME, STORE_NAME, SETTINGS_NAME, PASSWORD_NAME)
"""The names of all files that a backup may contain besides `backup.json`. The last two are optional."""
FORMAT: Final = 1
DRAFT_SUFFIX: Final = ".incomplete"
"""Suffix of the folder's name while the backup is written."""

CHUNK_BYTES: Final = 1 << 20
_MAX_BYTES: Final = 64 << 20

Progress = Callable[[str, int, int | None], None]
"""A function that receives a label, the bytes done, and the total bytes, or None if the total is unknown."""
Partitions = Mapping[str, Mapping[str, Any]]
"""Values by topic and partition number, with the number as text."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """Size and SHA-256 of one file of a backup."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a backup."""

    version: str
    """The version of Tickerplant that wrote the backup."""
    created_at: str
    log_id: str
    generation: int
    offsets: Partitions
    """[first offset, next offset] of each partition of the log."""
    positions: Partitions
    """Next offset of each partition that the database has to apply."""
    postgresql: int
    """Major version of the server that wrote the dump."""
    migrations: tuple[str, ...]
    database_bytes: int
    """Size of the database, with its indexes."""
    files: Mapping[str, BackupFile]

    def text(self) -> str:
        """Return the text of `backup.json`."""
        tree = {
            "format": FORMAT,
            "tickerplant": self.version,
            "created_at": self.created_at,
            "log": {"id": self.log_id, "generation": self.generation, "offsets": self.offsets},
            "store": {
                "postgresql": self.postgresql,
                "migrations": list(self.migrations),
                "bytes": self.database_bytes,
                "positions": self.positions,
            },
            "files": {name: {"bytes": one.bytes, "sha256": one.sha256} for name, one in self.files.items()},
        }
        return json.dumps(tree, indent=1) + "\n"


def nested(values: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """Return values by (topic, partition) as nested dicts for JSON. A tuple becomes a list."""
    found: dict[str, dict[str, Any]] = {}
    for (topic, partition), value in sorted(values.items()):
        found.setdefault(topic, {})[str(partition)] = list(value) if isinstance(value, tuple) else value
    return found


def read(folder: Path) -> Manifest:
    """Return the manifest of a complete backup. Raises BadInput, with the name of the file or folder."""
    if folder.name.endswith(DRAFT_SUFFIX):
        raise BadInput(f"{folder} is an incomplete backup: the command `backup` was interrupted; use another backup")
    path = folder / NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        tree = json.loads(path.read_text(encoding="utf-8"))
        number = tree["format"]
    except FileNotFoundError:
        raise BadInput(f"{folder} is not a backup: it contains no {NAME}; name a folder that `backup` wrote") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); correct the rights, or use another backup") from None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    if number != FORMAT:
        raise BadInput(
            f"{path} has format {number}, and this version of Tickerplant reads {FORMAT}; restore it with the version "
            f"that wrote it ({tree.get('tickerplant', 'unknown')})"
        )
    try:
        return _parsed(tree)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def _parsed(tree: Mapping[str, Any]) -> Manifest:
    log, store = tree["log"], tree["store"]
    files = {name: BackupFile(int(one["bytes"]), str(one["sha256"])) for name, one in tree["files"].items()}
    if not {LOG_NAME, STORE_NAME} <= files.keys() <= set(FILES):
        raise ValueError("its list of files is wrong")
    return Manifest(
        version=str(tree["tickerplant"]), created_at=str(tree["created_at"]), log_id=str(log["id"]),
        generation=int(log["generation"]), offsets=_partitions(log["offsets"]),
        positions=_partitions(store["positions"]), postgresql=int(store["postgresql"]),
        migrations=tuple(map(str, store["migrations"])), database_bytes=int(store["bytes"]), files=files,
    )  # fmt: skip


def _partitions(tree: Mapping[str, Any]) -> Partitions:
    return {str(topic): {str(int(number)): value for number, value in below.items()} for topic, below in tree.items()}


def _damaged(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is damaged ({error}); use another backup")


def check_files(folder: Path, manifest: Manifest, progress: Progress, label: str) -> None:
    """Compare sizes and checksums of all files with the manifest. Raises BadInput with the name of the wrong file."""
    for name, wanted in manifest.files.items():
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            raise BadInput(f"{folder / name} cannot be read ({error.strerror}); use another backup") from None
        if found != wanted.bytes:
            raise BadInput(
                f"{folder / name} is damaged: it has {found:,} bytes, and {NAME} names {wanted.bytes:,}; use another "
                "backup"
            )
    done, total = 0, sum(wanted.bytes for wanted in manifest.files.values())
    for name, wanted in manifest.files.items():

        def report(count: int, before: int = done) -> None:
            progress(label, before + count, total)

        if checksum(folder / name, report) != wanted.sha256:
            raise BadInput(f"{folder / name} is damaged: its checksum differs from {NAME}; use another backup")
        done += wanted.bytes


def checksum(path: Path, progress: Callable[[int], None] = lambda done: None) -> str:
    """Return the SHA-256 of a file, in hex. `progress` receives the count of bytes read. Raises BadInput."""
    made, done = hashlib.sha256(), 0
    try:
        for chunk in chunks_of(path):
            made.update(chunk)
            done += len(chunk)
            progress(done)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); use another backup") from None
    return made.hexdigest()


def write_private(
    path: Path, chunks: Iterable[bytes], progress: Callable[[int], None] = lambda done: None
) -> BackupFile:
    """Write a new file with mode 0600, sync it, and return its description.

    `progress` receives the count of bytes written, after each chunk. Raises OSError.
    """
    made, done = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
            made.update(chunk)
            done += len(chunk)
            progress(done)
        file.flush()
        os.fsync(handle)
    return BackupFile(done, made.hexdigest())


def chunks_of(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file in chunks of `CHUNK_BYTES`."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""The health of the disk with the data folder: whether files can be written, and the free space."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tickerplant import machine
from tickerplant.app.component import DEGRADED, FAILED, OK, ComponentHealth
from tickerplant.core.free_space import MIB, UNLIMITED, FreeSpace

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings

PROBE_BYTES: Final = 1 << 20
"""Bytes that the check allocates and then releases: about the size of the records of some seconds."""
LOW_BYTES: Final = 256 << 20
"""Minimum free bytes of a healthy disk: about a minute of a log at full speed, and the database's next WAL files."""

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a file that is full."""


def intake_folders(settings: Settings) -> list[Path]:
    """Return the local folders of the embedded log and the embedded database, which grow with the intake."""
    folders = [settings.data] if settings.embedded_store or settings.log == "embedded:" else []
    if settings.log.startswith("sqlite:///"):
        folders.append(Path(settings.log.removeprefix("sqlite://")).parent)
    return folders


def free_space(settings: Settings) -> FreeSpace:
    """Return the free space that the intake needs.

    It is never low if log and database are on servers, or if `min_free_mb` is 0.
    """
    folders = intake_folders(settings)
    if not folders or not settings.min_free_mb:
        return UNLIMITED
    return FreeSpace(lambda: _free_bytes(folders), settings.min_free_mb * MIB)


def _free_bytes(folders: Sequence[Path]) -> int:
    """Return the free bytes of the fullest of these folders' disks.

    A folder that cannot be checked is ignored. `1 << 62` if no folder can be checked.
    """
    found = [1 << 62]
    for folder in folders:
        try:
            answer = os.statvfs(folder)
        except OSError:
            continue
        found.append(answer.f_bavail * answer.f_frsize)
    return min(found)


def plant_disk_health(settings: Settings) -> Iterable[ComponentHealth]:
    """Yield the health of the disk with the data folder, and of the log's disk if that is a different disk."""
    folders = intake_folders(settings)
    seen = set()
    for folder in dict.fromkeys((settings.data, *folders)):
        try:
            device = os.stat(folder).st_dev
        except OSError:
            continue
        if device not in seen:
            seen.add(device)
            least_bytes = settings.min_free_mb * MIB if folder in folders else 0
            name = "disk" if folder == settings.data else f"disk {folder}"
            yield from disk_health(folder, least_bytes=least_bytes, name=name)


def disk_health(folder: Path, *, least_bytes: int = 0, name: str = "disk") -> Iterable[ComponentHealth]:
    """Yield the health of a folder's disk. Leaves no file behind. Yields nothing if the folder does not exist.

    `least_bytes`: free bytes below which the plant takes in no data; 0: no minimum.

    The check allocates space, because the free space that the system reports ignores quotas.
    """
    try:
        found = os.statvfs(folder)
    except FileNotFoundError:
        return
    free = found.f_bavail * found.f_frsize
    details, resume_bytes = {"free_bytes": free}, FreeSpace(lambda: free, least_bytes).resume_bytes
    if least_bytes:
        details["least_bytes"] = least_bytes
    error = _probe(folder)
    if error is not None and error.errno in FULL:
        sentence = f"nothing can be written to {folder}: {error.strerror}; {free >> 20:,} MiB are free. Free some space"
        yield ComponentHealth(name, FAILED, sentence, details)
    elif error is not None and error.errno in (errno.EROFS, errno.EIO):
        yield ComponentHealth(
            name, FAILED, f"nothing can be written to {folder}: {error.strerror}; check the disk", details
        )
    elif free < least_bytes:
        sentence = (
            f"the plant takes in no data: only {free // MIB:,} MiB are free for {folder}, and min_free_mb is "
            f"{least_bytes // MIB:,}. Free some space; the plant continues at {resume_bytes // MIB:,} MiB"
        )
        yield ComponentHealth(name, FAILED, sentence, details)
    elif free < max(LOW_BYTES, 2 * least_bytes):
        sentence = f"only {free // MIB:,} MiB are free for {folder}; free some space"
        if free < resume_bytes:
            sentence += f". Feeds that have stopped continue at {resume_bytes // MIB:,} MiB"
        yield ComponentHealth(name, DEGRADED, sentence, details)
    else:
        yield ComponentHealth(name, OK, f"{free >> 20:,} MiB are free", details)


def _probe(folder: Path) -> OSError | None:
    """Return the error of allocating `PROBE_BYTES` in a file without a name; None if this works or cannot be tested."""
    try:
        machine.allocate_unnamed(folder, PROBE_BYTES)
    except OSError as error:  # another user's folder, or a file system without such files, cannot be checked
        return error if error.errno in (*FULL, errno.EROFS, errno.EIO) else None
    return None

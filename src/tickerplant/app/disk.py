"""The health of the disk below the data folder: whether anything can still be written, and how much is free."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tickerplant import machine
from tickerplant.app.component import DEGRADED, FAILED, OK, ComponentHealth

PROBE_BYTES: Final = 1 << 20
"""Bytes that the check allocates and releases at once: the records of some seconds."""
LOW_BYTES: Final = 256 << 20
"""Minimum free bytes of a healthy disk: about a minute of a log at full speed, and the database's next WAL files."""

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk, a quota or a file that is full."""


def disk_health(folder: Path) -> Iterable[ComponentHealth]:
    """Yield whether the data folder can be written. Leaves no file behind. Yields nothing if the folder does not exist.

    The check allocates space, because the free space that the system reports ignores quotas.
    """
    try:
        found = os.statvfs(folder)
    except FileNotFoundError:
        return
    free = found.f_bavail * found.f_frsize
    details = {"free_bytes": free}
    error = _probe(folder)
    if error is not None and error.errno in FULL:
        sentence = f"nothing can be written to {folder}: {error.strerror}; {free >> 20:,} MiB are free. Free some space"
        yield ComponentHealth("disk", FAILED, sentence, details)
    elif error is not None and error.errno in (errno.EROFS, errno.EIO):
        yield ComponentHealth(
            "disk", FAILED, f"nothing can be written to {folder}: {error.strerror}; check the disk", details
        )
    elif free < LOW_BYTES:
        yield ComponentHealth("disk", DEGRADED, f"only {free >> 20:,} MiB are free for {folder}; free some", details)
    else:
        yield ComponentHealth("disk", OK, f"{free >> 20:,} MiB are free", details)


def _probe(folder: Path) -> OSError | None:
    """Return the error of allocating `PROBE_BYTES` in a file without a name; None if it works or is not supported."""
    try:
        machine.allocate_unnamed(folder, PROBE_BYTES)
    except OSError as error:  # another user's folder, or a file system without such files, cannot be checked
        return error if error.errno in (*FULL, errno.EROFS, errno.EIO) else None
    return None

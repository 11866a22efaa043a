"""The folder in which a backup is written. It gets its name when the backup is complete.

`DIR.incomplete` becomes `DIR` by one rename. A killed command leaves `DIR.incomplete`, which the next `backup` to DIR
replaces. A lock on a file in this folder shows whether a command still writes the backup.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tickerplant.app.backup import manifest
from tickerplant.app.backup.manifest import DRAFT_SUFFIX, FILES, sync_folder
from tickerplant.app.wiring.locks import FolderLock
from tickerplant.core import faults
from tickerplant.core.errors import BadInput, FolderHeld

LOCK_NAME: Final = "backup.lock"
OWN: Final = frozenset(
    (LOCK_NAME, manifest.NAME, *FILES, *(manifest.LOG_NAME + end for end in ("-journal", "-wal", "-shm")))
)
"""Names of all files that `backup` writes. Other files are never removed."""


@contextlib.contextmanager
def draft_of(target: Path, data: Path) -> Iterator[Path]:
    """Yield an empty folder for the block, and rename it to `target` at the end. An error removes the folder.

    Raises BadInput if `target` cannot be used, and FolderHeld if another command writes the same backup.
    """
    _check_target(target, data)
    draft = target.with_name(target.name + DRAFT_SUFFIX)
    try:
        draft.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{draft} cannot be created ({error.strerror}); name another folder") from None
    lock = FolderLock(draft, LOCK_NAME)
    if not lock.acquire():
        raise FolderHeld(f"another process writes the backup {target}; wait for it, or name another folder")
    with lock:
        _clear(draft)
        try:
            yield draft
            sync_folder(draft)
            faults.reach("backup.rename.before")
            (draft / LOCK_NAME).unlink()
            _rename(draft, target)
        except BaseException:
            with contextlib.suppress(OSError, BadInput):
                _clear(draft)
                (draft / LOCK_NAME).unlink(missing_ok=True)
                draft.rmdir()
            raise
        faults.reach("backup.rename.after")
        sync_folder(target.parent)


def _check_target(target: Path, data: Path) -> None:
    if not target.name or target.name.endswith(DRAFT_SUFFIX):
        raise BadInput(f"{target} is no name for a backup; name a new folder that does not end with {DRAFT_SUFFIX}")
    if not target.parent.is_dir():
        raise BadInput(f"the folder {target.parent} does not exist; create it, or mount its disk")
    if target.resolve().is_relative_to(data.resolve()):
        raise BadInput(f"{target} is in the data folder, and would be lost with it; name a folder elsewhere")
    if target.is_symlink() or (target.exists() and (not target.is_dir() or os.listdir(target))):
        raise BadInput(f"{target} exists; name a new folder")


def _clear(draft: Path) -> None:
    """Remove what an interrupted backup left. Raises BadInput if the folder has other files."""
    names = {entry.name for entry in os.scandir(draft)}
    foreign = sorted(names - OWN)
    if foreign:
        raise BadInput(f"{draft} contains {foreign[0]}, which `backup` did not write; move it, or name another folder")
    for name in names - {LOCK_NAME}:
        (draft / name).unlink()


def _rename(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError as error:
        advice = "a mount point cannot be a backup: name a folder in it" if target.is_mount() else "name a new folder"
        raise BadInput(f"the backup cannot be named {target} ({error.strerror}); {advice}") from None

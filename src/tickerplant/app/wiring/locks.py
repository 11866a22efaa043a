"""Kernel locks on small files of a data folder. The kernel releases a lock when its process ends, even by a kill.

- `plant.lock`: exclusive for `up`, and for a command that runs its own plant; shared by each `run NAME`.
- `service-NAME-INSTANCE.lock`: held by the one process that is this member of this service.
- `store.lock`: held by the process that owns the embedded PostgreSQL.
- `store.users`: shared by each process that uses the embedded PostgreSQL. The owner of the server may stop when there
  are no users.

Each file contains its holder as JSON; `store.lock` also contains the address with its password, so the files have mode
0600. Only the lock itself shows whether a process holds it, never the content.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tickerplant.core.errors import ConfigError, FolderHeld

RESTORE_NAME: Final = "restore.incomplete"
"""Name of the file that marks a data folder until `tickerplant restore` has completed it."""


def require_restored(data: Path) -> None:
    """Raise ConfigError for a data folder that `tickerplant restore` has not completed."""
    marker = data / RESTORE_NAME
    if marker.exists():
        source = marker.read_text(errors="replace").strip() or "BACKUP"
        raise ConfigError(
            f"the data folder {data} is incomplete, because `restore` runs or was interrupted; run "
            f"`tickerplant restore {source} --data {data}` again, or choose another folder"
        )


class FolderLock:
    """One lock file of a data folder, held by this process until `release`, the end of `with`, or the process's end."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._file: int | None = None
        self.exclusive = False

    def acquire(self, *, shared: bool = False, wait_s: float = 0.0) -> bool:
        """Acquire the lock; return False if other processes still hold it after `wait_s`."""
        deadline = time.monotonic() + wait_s
        if self._file is None:
            self._file = _open(self.path)
        while True:
            try:
                fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    self.release()
                    return False
                time.sleep(0.02)
            else:
                self.exclusive = not shared
                return True

    def acquire_or_raise(self, *, shared: bool = False) -> FolderLock:
        """Acquire the lock, or raise FolderHeld with the holder's name."""
        if not self.acquire(shared=shared, wait_s=0.3):
            holder = self.holder()
            who = f"process {holder['pid']} ({holder['what']})" if holder.get("pid") else "another process"
            raise FolderHeld(
                f"the data folder {self.path.parent} is in use by {who}; stop it or choose another folder with --data"
            )
        return self

    def write_holder(self, **fields: Any) -> None:
        """Write this process and `fields` into the file, for other processes to read.

        Raises OSError with the file's name if the write fails, such as on a full disk; the file is then empty.
        """
        assert self._file is not None
        text = json.dumps({"pid": os.getpid(), "what": " ".join(["tickerplant", *sys.argv[1:3]]), **fields})
        os.ftruncate(self._file, 0)
        try:
            os.pwrite(self._file, text.encode(), 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def withdraw(self) -> None:
        """Remove the fields of `write_holder` from the file, also if the disk is full."""
        with contextlib.suppress(OSError):
            self.write_holder()

    def holder(self) -> dict[str, Any]:
        """Return the object that the holder has written; {} if there is none."""
        with contextlib.suppress(OSError, ValueError):
            written = json.loads(self.path.read_text())
            if isinstance(written, dict):
                return written
        return {}

    def is_held(self, *, exclusively: bool = False) -> bool:
        """Return True if any process, including this one, holds the lock.

        If `exclusively` is true, only an exclusive holder counts. A concurrent call with `exclusively` does not count
        as a holder.
        """
        if not self.path.exists():
            return False  # the check creates no file
        probe = FolderLock(self.path.parent, self.path.name)
        if probe.acquire(shared=exclusively):
            probe.release()
            return False
        return True

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A link could name a file of the user, which `write_holder` would overwrite.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(f"{path} is a symbolic link; remove it, because it may name another file") from None
        raise ConfigError(
            f"the data folder {path.parent} cannot be used: {error.strerror}; choose another folder with --data"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # a read of a pipe would never end
        os.close(handle)
        raise ConfigError(f"{path} is not a regular file; remove it")
    return handle

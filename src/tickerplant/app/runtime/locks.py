"""Who works in a data folder: kernel locks on small files, which a killed process gives back by dying.

- `plant.lock`: alone by `up` and by a `replay` that brings its own plant; shared by each `run NAME`.
- `service-NAME-INSTANCE.lock`: by the one process that is this member of this service.
- `store.lock`: by the process that owns the embedded PostgreSQL.
- `store.users`: shared by each process that uses it; an owner whose users are gone may stop.

A file says in JSON who holds it, `store.lock` also the address with its password (so the files are 0600); the lock
itself is what counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tickerplant.core.errors import ConfigError, FolderHeld


class FolderLock:
    """One lock file of a data folder. Belongs to the process; released by `release`, by leaving `with`, or by dying."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._file: int | None = None
        self.exclusive = False

    def take(self, *, shared: bool = False, wait_s: float = 0.0) -> bool:
        """Take it and return True, or False when others still hold it after `wait_s`."""
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

    def take_or_refuse(self, *, shared: bool = False) -> FolderLock:
        """Take it or raise FolderHeld, naming the holder."""
        if not self.take(shared=shared, wait_s=0.3):
            holder = self.holder()
            who = f"process {holder['pid']} ({holder['what']})" if holder.get("pid") else "another process"
            raise FolderHeld(f"the data folder {self.path.parent} is in use by {who}; stop it or name another --data")
        return self

    def note(self, **fields: Any) -> None:
        """Write who holds it, for others' messages."""
        assert self._file is not None
        text = json.dumps({"pid": os.getpid(), "what": " ".join(["tickerplant", *sys.argv[1:3]]), **fields})
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)

    def holder(self) -> dict[str, Any]:
        """Return what the holder has noted, or {}."""
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(self.path.read_text())
            if isinstance(noted, dict):
                return noted
        return {}

    def is_held(self, *, alone: bool = False) -> bool:
        """Whether anybody holds it now, this process included; with `alone` only whether somebody holds it for himself.

        Two that ask at once with `alone` do not take each other for a holder.
        """
        if not self.path.exists():
            return False  # asking makes no file
        probe = FolderLock(self.path.parent, self.path.name)
        if probe.take(shared=alone):
            probe.release()
            return False
        return True

    def release(self) -> None:
        """Give it back. Harmless twice."""
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
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"the data folder {path.parent} cannot be used: {error.strerror}") from None

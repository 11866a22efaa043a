"""Liveness of group members: each member holds a lock that the kernel releases when its process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class LivenessLock:
    """A locked file that shows other processes that its holder is alive. The lock needs no clock.

    It uses `flock`, for the reason given in `locks`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def close(self) -> None:
        """Release the lock and remove the file. A second call does nothing."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def is_alive(path: Path) -> bool:
    """Return whether the holder of the liveness lock at `path` is alive."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)

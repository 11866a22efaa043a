"""Leadership: the holder of a lock leads. The kernel releases the lock when its process dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

_SLICE_S: Final = 0.1


class EmbeddedLeadership:
    """The wait of one member for the leadership. Belongs to one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._is_held = False

    def poll(self, *, timeout_s: float) -> bool:
        """Return whether this member leads; wait at most `timeout_s` for a change."""
        deadline_s = time.monotonic() + timeout_s
        while self._is_held or not self._acquire():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(left_s, _SLICE_S))
        return self._is_held

    def _acquire(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._is_held = True
        return True

    def close(self) -> None:
        """Release the lock. Another member leads within a tenth of a second."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> EmbeddedLeadership:
        """Return the leadership."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Release the lock."""
        self.close()

"""The setting `testing.crash_at`: kills the process at a named fault point, or at a random instant.

Only tests use it.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

from tickerplant.core import faults


def install(crash_at: str | None) -> None:
    """Arm `point:count` or `random:seconds`. None has no effect."""
    if crash_at is None:
        return
    name, _, number = crash_at.rpartition(":")
    if name == "random":
        _crash_within(float(number))
    else:
        faults.install(_CrashPoint(name, int(float(number))))


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _CrashPoint:
    """Kills the process when it reaches the point for the count-th time."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._left = name, count
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                _crash()


def _crash_within(seconds: float) -> None:
    """Kill the process at an instant drawn uniformly from `[0, seconds)`."""
    after = random.random() * seconds

    def wait() -> None:
        time.sleep(after)
        _crash()

    threading.Thread(target=wait, name="crash", daemon=True).start()

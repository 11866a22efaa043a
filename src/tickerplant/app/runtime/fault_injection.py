"""The setting `fault`: for tests that kill the process at a named point, or at any instant."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

from tickerplant.core import faults


def install(fault: str | None) -> None:
    """Arm what the setting says: `point:count`, or `random:seconds`; None arms nothing."""
    if fault is None:
        return
    name, _, number = fault.rpartition(":")
    if name == "random":
        _within(float(number))
    else:
        faults.install(_At(name, int(float(number))))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _At:
    """Dies when the point is reached for the count-th time."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._left = name, count
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                _die()


def _within(seconds: float) -> None:
    """Die at an instant drawn from `[0, seconds)`, whatever the process is doing then."""
    after = random.random() * seconds

    def wait() -> None:
        time.sleep(after)
        _die()

    threading.Thread(target=wait, name="fault", daemon=True).start()

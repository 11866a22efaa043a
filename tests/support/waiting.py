"""Waiting for conditions, with timeouts that scale with the machine.

A test waits for a condition, not for a fixed time. A guard fails the test if the condition does not become true. The
guard's seconds are seconds of an idle, ordinary machine; they pass more slowly on a slow or busy machine.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

_SPIN: Final = 100_000
_SPIN_S: Final = 0.0025
"""Seconds that `_SPIN` rounds of an empty loop take on an ordinary machine of 2024."""
_FRESH_S: Final = 1.0
"""Seconds for which a measured load is reused."""
HANG_S: Final = 60.0
"""Default seconds of a guard. Every condition of a test becomes true in far less on an idle machine."""


class Patience:
    """Slowness of this machine relative to an idle, ordinary machine; at least 1."""

    def __init__(self) -> None:
        self._slowness = max(1.0, min(_spin() for _ in range(5)) / _SPIN_S)
        self._factor, self._measured_s = 1.0, -_FRESH_S

    def factor(self) -> float:
        """Return the factor: the processor's slowness times the runnable threads per core."""
        now = time.monotonic()
        if now - self._measured_s >= _FRESH_S:
            self._factor, self._measured_s = self._slowness * _load_per_core(), now
        return self._factor

    def seconds(self, idle_s: float) -> float:
        """Return the current timeout in seconds of a step that takes at most `idle_s` on an idle machine."""
        return idle_s * self.factor()


def _spin() -> float:
    began = time.perf_counter()
    for _ in range(_SPIN):
        pass
    return time.perf_counter() - began


def _load_per_core() -> float:
    """Return the runnable threads per core: the larger of the current number and the last minute's, at least 1."""
    try:
        last_minute, _, _, runnable, *_ = Path("/proc/loadavg").read_text().split()
    except OSError:
        last_minute, runnable = str(os.getloadavg()[0]), "0"
    return max(1.0, max(float(last_minute), float(runnable.split("/")[0])) / len(os.sched_getaffinity(0)))


PATIENCE: Final = Patience()


class Guard:
    """A deadline whose seconds pass more slowly if the machine is slow or busy."""

    def __init__(self, idle_s: float = HANG_S) -> None:
        self._left_s, self._checked_s = idle_s, time.monotonic()

    def is_over(self) -> bool:
        """Return True if the time is over. Call it repeatedly: each call counts the time since the previous one."""
        now = time.monotonic()
        self._left_s -= (now - self._checked_s) / PATIENCE.factor()
        self._checked_s = now
        return self._left_s < 0

    def check(self, what: str) -> None:
        """Raise AssertionError with `what` if the time is over."""
        assert not self.is_over(), f"waited for {what}"


def until(
    condition: Callable[[], Any], what: str = "a condition", idle_s: float = HANG_S, every_s: float = 0.02
) -> Any:
    """Wait until the condition is true; return its value. Raises AssertionError with `what` after `idle_s`."""
    guard = Guard(idle_s)
    while not (found := condition()):
        guard.check(what)
        time.sleep(every_s)
    return found


async def eventually(
    condition: Callable[[], Any | Awaitable[Any]], what: str = "a condition", idle_s: float = HANG_S
) -> Any:
    """Wait like `until`, in an event loop. The condition may be a coroutine function."""
    guard = Guard(idle_s)
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        guard.check(what)
        await asyncio.sleep(0.01)

"""Waiting for conditions, with timeouts that scale with the machine.

No test waits for a time. It waits for a condition, and a guard fails it when the condition never comes true. The
guard's seconds are those of an idle, ordinary machine: `Guard` counts them slower on a slow or busy one.
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
"""A measured load is reused for this long."""
HANG_S: Final = 60.0
"""Default guard: every condition of a test comes true in far less on an idle machine."""


class Patience:
    """Slowness of this machine relative to an idle, ordinary one; at least 1."""

    def __init__(self) -> None:
        self._slowness = max(1.0, min(_spin() for _ in range(5)) / _SPIN_S)
        self._factor, self._measured_s = 1.0, -_FRESH_S

    def factor(self) -> float:
        """Return the factor: the processor's slowness times the runnable threads per core."""
        now = time.monotonic()
        if now - self._measured_s >= _FRESH_S:
            self._factor, self._measured_s = self._slowness * _crowd(), now
        return self._factor

    def seconds(self, idle_s: float) -> float:
        """Return how long a step may take now that takes `idle_s` at most on an idle machine."""
        return idle_s * self.factor()


def _spin() -> float:
    began = time.perf_counter()
    for _ in range(_SPIN):
        pass
    return time.perf_counter() - began


def _crowd() -> float:
    """Return the runnable threads per core, of this moment or of the last minute, whichever is more; at least 1."""
    try:
        last_minute, _, _, runnable, *_ = Path("/proc/loadavg").read_text().split()
    except OSError:
        last_minute, runnable = str(os.getloadavg()[0]), "0"
    return max(1.0, max(float(last_minute), float(runnable.split("/")[0])) / len(os.sched_getaffinity(0)))


PATIENCE: Final = Patience()


class Guard:
    """A deadline whose seconds pass slower while the machine is busy."""

    def __init__(self, idle_s: float = HANG_S) -> None:
        self._left_s, self._looked_s = idle_s, time.monotonic()

    def is_over(self) -> bool:
        """Return whether the time is over. Call it repeatedly: each call counts the time since the previous one."""
        now = time.monotonic()
        self._left_s -= (now - self._looked_s) / PATIENCE.factor()
        self._looked_s = now
        return self._left_s < 0

    def check(self, what: str) -> None:
        """Fail once the time is over; the message names the awaited event."""
        assert not self.is_over(), f"waited for {what}"


def until(
    condition: Callable[[], Any], what: str = "a condition", idle_s: float = HANG_S, every_s: float = 0.02
) -> Any:
    """Wait until the condition is true and return its value; fail naming it otherwise."""
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

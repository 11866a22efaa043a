"""Keep the threads of the services on one core, and move them all when other processes use that core.

One interpreter runs on one core at a time. Each call into Arrow or SQLite releases the interpreter's lock, so a busy
plant switches threads about ten thousand times a second. A switch to a thread on a sleeping core costs at least 50 µs
on a virtual machine; on the same core it costs 3 µs. On two cores the plant did not keep up with 10,000 ticks/s,
although half a core was idle. On one core it keeps up. The database, the disk and other processes use the other cores.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from tickerplant import machine

POLL_S: Final = 2.0
CROWDED: Final = 0.3
"""Maximum share of the core that other processes may use before the threads move."""
QUIETER: Final = 0.15
"""Minimum difference between the shares of two cores for a move."""


class CoreAffinity:
    """The core of this process's services. Has no effect if threads cannot be placed, or if there is only one core."""

    def __init__(self) -> None:
        self._cores = machine.cores()
        self._core = -1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Choose a core and monitor it. A thread moves to the core with `join`; its new threads inherit the core."""
        if len(self._cores) < 2:
            return
        load = _OtherLoad(self._cores)
        time.sleep(0.05)
        others = load.measure(-1)
        self._core = min(self._cores, key=lambda core: others[core])
        self._thread = threading.Thread(target=self._monitor, args=(load,), name="cores", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Move the calling thread to the core."""
        if self._core >= 0:
            machine.place_thread(self._core)

    def stop(self) -> None:
        """Stop monitoring; the threads stay on their core. Idempotent."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _monitor(self, load: _OtherLoad) -> None:
        while not self._stop.wait(POLL_S):
            others = load.measure(self._core)
            best = min(self._cores, key=lambda core: others[core])
            if others[self._core] > CROWDED and others[best] < others[self._core] - QUIETER:
                self._move(best)

    def _move(self, core: int) -> None:
        former, self._core = self._core, core
        machine.move_threads(former, core)


class _OtherLoad:
    """The load of each core that other processes cause."""

    def __init__(self, cores: list[int]) -> None:
        self._cores = cores
        self._before = self._now()

    def measure(self, own_core: int) -> dict[int, float]:
        """Return the share of each core that other processes have used since the last call.

        Assumes that this process ran only on `own_core`; -1 means on none of the cores.
        """
        (when, own, used), self._before = self._before, self._now()
        seconds = max(1e-3, self._before[0] - when)
        result = {core: (self._before[2][core] - used[core]) / seconds for core in self._cores}
        if own_core >= 0:
            result[own_core] -= (self._before[1] - own) / seconds
        return result

    def _now(self) -> tuple[float, float, dict[int, float]]:
        return time.monotonic(), time.process_time(), machine.busy_seconds(self._cores)

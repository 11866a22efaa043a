"""Keeps the threads of the services together on one core, and moves them all when others want it.

One interpreter runs on one core at a time: its lock passes from thread to thread, some ten thousand times a second in a
busy plant, for each call into Arrow or SQLite lets go of it. Handing it to a thread on a core that sleeps costs 50 µs
and more on a virtual machine; on one's own core, 3. Spread over two cores the plant fell behind 10,000 ticks a second
with half a core to spare; together it keeps up. The database, the log's disk and the other processes have the rest.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Final

LOOK_S: Final = 2.0
CROWDED: Final = 0.3
"""What share of the core others may use before a quieter one is looked for."""
QUIETER: Final = 0.15
"""How much quieter that must be."""


class Together:
    """The core of this process's services. Where threads cannot be placed (not Linux, one core) it does nothing."""

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        self._core = -1
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Choose a core and look after it. Threads come to it with `join`, and those that they start with them."""
        if len(self._cores) < 2:
            return
        busy = _Busy(self._cores)
        time.sleep(0.05)
        others = busy.look(-1)
        self._core = min(self._cores, key=lambda core: others[core])
        self._thread = threading.Thread(target=self._look_after, args=(busy,), name="cores", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Place the calling thread with the others."""
        if self._core >= 0:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {self._core})

    def stop(self) -> None:
        """End looking after it; the threads stay where they are. Harmless twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _look_after(self, busy: _Busy) -> None:
        while not self._stop.wait(LOOK_S):
            others = busy.look(self._core)
            best = min(self._cores, key=lambda core: others[core])
            if others[self._core] > CROWDED and others[best] < others[self._core] - QUIETER:
                self._move(best)

    def _move(self, core: int) -> None:
        former, self._core = self._core, core
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended
                if os.sched_getaffinity(int(task)) == {former}:
                    os.sched_setaffinity(int(task), {core})


class _Busy:
    """How busy each core is with others than this process."""

    def __init__(self, cores: list[int]) -> None:
        self._cores = cores
        self._before = self._now()

    def look(self, own_core: int) -> dict[int, float]:
        """Return the share of each core that others have used since the last look; ours was all on `own_core`."""
        (when, own, used), self._before = self._before, self._now()
        seconds = max(1e-3, self._before[0] - when)
        result = {core: (self._before[2][core] - used[core]) / seconds for core in self._cores}
        if own_core >= 0:
            result[own_core] -= (self._before[1] - own) / seconds
        return result

    def _now(self) -> tuple[float, float, dict[int, float]]:
        ticks = os.sysconf("SC_CLK_TCK")
        used = dict.fromkeys(self._cores, 0.0)
        with contextlib.suppress(OSError):
            for line in Path("/proc/stat").read_text().splitlines():
                name, *fields = line.split()
                if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in used:
                    user, nice, system, _idle, _iowait, irq, soft = map(int, fields[:7])
                    used[int(name[3:])] = (user + nice + system + irq + soft) / ticks
        return time.monotonic(), time.process_time(), used

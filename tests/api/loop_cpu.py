"""Measurement of the CPU time of each callback of an event loop, in units of a reference spin of the same run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

SPIN: Final = 100_000
"""Additions of the reference spin: about 2 ms of CPU time."""


def spin_s() -> float:
    """Return the CPU seconds of the reference spin, the least of ten."""
    found = []
    for _ in range(10):
        began = time.thread_time()
        total = 0
        for number in range(SPIN):
            total += number
        found.append(time.thread_time() - began)
    return min(found)


@dataclass
class LoopCpu:
    """The longest callback of each step, by the name that `step` sets."""

    spin_s: float
    longest: dict[str, tuple[float, str]] = field(default_factory=dict)
    step: str = "start"

    def spins(self) -> dict[str, float]:
        """Return the CPU time of the longest callback by step, as a multiple of the reference spin."""
        return {step: seconds / self.spin_s for step, (seconds, _) in self.longest.items()}


@contextlib.contextmanager
def measured(name: str) -> Iterator[LoopCpu]:
    """Measure every callback that asyncio runs in the thread `name`. Loops of C (uvloop) are not measured.

    The objects of other tests are frozen first. Otherwise a garbage collection that a callback triggers would scan the
    heap of the whole test process, which takes 80 ms.
    """
    gc.collect()
    gc.freeze()
    found, run = LoopCpu(spin_s()), asyncio.Handle._run  # type: ignore[attr-defined]

    def timed(self: asyncio.Handle) -> None:
        if threading.current_thread().name != name:
            run(self)
            return
        began = time.thread_time()
        run(self)
        seconds = time.thread_time() - began
        if seconds > found.longest.get(found.step, (0.0, ""))[0]:
            found.longest[found.step] = seconds, repr(self)

    asyncio.Handle._run = timed  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        asyncio.Handle._run = run  # type: ignore[attr-defined]

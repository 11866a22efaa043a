"""Counters of the API's load: refused and ended requests and connections, and delays of the event loop.

`/metrics` exports them, and `/health` lists the refusals and the longest delay of the last minute.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 60.0
"""Seconds of the recent past that `/health` describes."""
PROBE_S: Final = 0.05
"""Seconds between two measurements of the event loop's delay while a connection is open."""
_DELAY_WEIGHT: Final = 0.15
"""Weight of a new measurement in the mean delay."""
IDLE_PROBE_S: Final = 0.5
"""Seconds between two measurements of the event loop's delay without a connection."""


class Recent:
    """The greatest value, or the count by name, of the last `WINDOW_S` seconds, in slices of five seconds."""

    SLICE_S: Final = 5.0

    def __init__(self) -> None:
        self._slices: deque[tuple[float, float, Counter[str]]] = deque()

    def add(self, value: float = 0.0, name: str = "") -> None:
        """Add a value, and count `name` unless it is empty."""
        now = time.monotonic()
        if not self._slices or now - self._slices[-1][0] > self.SLICE_S:
            self._slices.append((now, 0.0, Counter()))
            self._forget(now)
        begun, greatest, counts = self._slices[-1]
        if value > greatest:
            self._slices[-1] = (begun, value, counts)
        if name:
            counts[name] += 1

    def greatest(self) -> float:
        """Return the greatest recent value; 0.0 if there is none."""
        self._forget(time.monotonic())
        return max((value for _, value, _ in self._slices), default=0.0)

    def counts(self) -> Counter[str]:
        """Return the recent count by name."""
        self._forget(time.monotonic())
        return sum((counts for _, _, counts in self._slices), Counter())

    def _forget(self, now: float) -> None:
        while self._slices and now - self._slices[0][0] > WINDOW_S:
            self._slices.popleft()


class LoadCounters:
    """Counts refusals and measures the event loop's delay. Belongs to the server's event loop."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        """Refused or ended requests and connections since the start, by reason."""
        self.on_delay: Callable[[float], None] = lambda _: None
        """Function that receives each measured delay of the event loop, in seconds."""
        self.connections: Callable[[], int] = lambda: 0
        """Function that returns the count of open connections."""
        self.mean_delay_s = 0.0
        """Mean delay of the event loop in seconds, in which half of each delay is forgotten after about 0.2 s."""
        self._refusals = Recent()
        self._delays = Recent()

    def refuse(self, reason: str) -> None:
        """Count one refused or ended request or connection."""
        self.refused[reason] += 1
        self._refusals.add(name=reason)

    def recent_refusals(self) -> Counter[str]:
        """Return the refusals of the last minute, by reason."""
        return self._refusals.counts()

    def longest_delay_s(self) -> float:
        """Return the longest delay of the event loop in the last minute, in seconds."""
        return self._delays.greatest()

    def observe_delay(self, seconds: float) -> None:
        """Add one measured delay of the event loop."""
        self.on_delay(seconds)
        self.mean_delay_s += _DELAY_WEIGHT * (seconds - self.mean_delay_s)
        self._delays.add(seconds)

    async def watch_loop(self) -> None:
        """Measure the delay of the event loop, until cancelled: the time by which it runs a timer too late."""
        loop = asyncio.get_running_loop()
        while True:
            pause_s = PROBE_S if self.connections() else IDLE_PROBE_S
            due = loop.time() + pause_s
            await asyncio.sleep(pause_s)
            self.observe_delay(max(0.0, loop.time() - due))

"""The clock of market_data: the machine's, or one that begins elsewhere and runs faster, as a sandbox's does.

Everything in this room that asks for the time or waits does it by one `Clock`, so that a day with the sandbox can be
run through in minutes by the same code: quotas, pauses, heartbeats and pages all live in the clock's seconds.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from tickerplant.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Clock:
    """`now_us` was `origin_us` when the machine's clock said `epoch_us`, and runs `speed` times as fast since.

    The default is the machine's clock. Two processes with the same three numbers agree on the time.
    """

    origin_us: int = 0
    epoch_us: int = 0
    speed: float = 1.0
    _zero_s: float = field(default_factory=time.monotonic, compare=False)

    def __post_init__(self) -> None:
        if not 0.01 <= self.speed <= 10_000:
            raise ConfigError(f"a clock runs at 0.01 to 10000 times real time, not {self.speed:g}")

    def now_us(self) -> int:
        """Return the time, microseconds UTC."""
        real_us = time.time_ns() // 1_000
        if self.speed == 1.0 and self.origin_us == self.epoch_us:
            return real_us
        return self.origin_us + int((real_us - self.epoch_us) * self.speed)

    def monotonic(self) -> float:
        """Return seconds of this clock that never go back, from an arbitrary beginning: for measuring stretches."""
        return (time.monotonic() - self._zero_s) * self.speed

    def real_s(self, seconds: float) -> float:
        """Return how long `seconds` of this clock last by the machine's: what timeouts of libraries are given."""
        return seconds / self.speed

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of this clock."""
        await asyncio.sleep(self.real_s(max(0.0, seconds)))


def starting_at(start_us: int, speed: float) -> Clock:
    """Return a clock that says `start_us` now and runs `speed` times as fast as the machine's."""
    return Clock(start_us, time.time_ns() // 1_000, speed)

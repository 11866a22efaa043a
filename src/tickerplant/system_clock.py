"""The machine's clock, shifted and scaled. It implements `core.clock.Clock`.

The module is outside the subpackages: market_data and the sandbox both need a real clock and must not import each
other. Core reads no clock.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from tickerplant.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SystemClock:
    """A clock that shows `origin_us` at machine time `epoch_us` and runs `speed` times as fast as the machine's.

    The default is the machine's clock itself. Two processes with the same three numbers agree on the time. Raises
    ConfigError if `speed` is outside 0.01 to 10,000.
    """

    origin_us: int = 0
    epoch_us: int = 0
    speed: float = 1.0
    _zero_s: float = field(default_factory=time.monotonic, compare=False)

    def __post_init__(self) -> None:
        if not 0.01 <= self.speed <= 10_000:
            raise ConfigError(f"the speed of the clock is {self.speed:g}; use 0.01 to 10000")

    def now_us(self) -> int:
        """Return the time in microseconds UTC."""
        real_us = time.time_ns() // 1_000
        if self.speed == 1.0 and self.origin_us == self.epoch_us:
            return real_us
        return self.origin_us + int((real_us - self.epoch_us) * self.speed)

    def monotonic(self) -> float:
        """Return a time that never decreases, in seconds of this clock. Its origin is arbitrary: use differences."""
        return (time.monotonic() - self._zero_s) * self.speed

    def real_s(self, seconds: float) -> float:
        """Convert a duration of this clock to seconds of the machine's clock, the unit of libraries' timeouts."""
        return seconds / self.speed

    async def sleep(self, seconds: float) -> None:
        """Suspend the task for `seconds` of this clock."""
        await asyncio.sleep(self.real_s(max(0.0, seconds)))


def starting_at(start_us: int, speed: float) -> SystemClock:
    """Return a clock that shows `start_us` now and runs `speed` times as fast as the machine's."""
    return SystemClock(start_us, time.time_ns() // 1_000, speed)

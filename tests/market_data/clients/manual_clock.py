"""A clock that advances only when a test advances it."""

from __future__ import annotations

import asyncio
import datetime as dt

from tickerplant.core.times import SECOND_US, micros_of


class ManualClock:
    """Implements `core.clock.Clock`. Tasks that sleep continue when `advance` passes their time."""

    speed = 1.0

    def __init__(self, start: dt.datetime = dt.datetime(2026, 6, 15, 15, 0, tzinfo=dt.UTC)) -> None:
        self._now_us = micros_of(start)
        self._sleepers: dict[asyncio.Future[None], int] = {}

    def now_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return self._now_us / SECOND_US

    def real_s(self, seconds: float) -> float:
        return seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return await asyncio.sleep(0)
        woken = asyncio.get_running_loop().create_future()
        self._sleepers[woken] = self._now_us + int(seconds * SECOND_US)
        try:
            await woken
        finally:
            self._sleepers.pop(woken, None)

    def waits_s(self) -> list[float]:
        """Return the remaining seconds of each task that sleeps."""
        return [(until_us - self._now_us) / SECOND_US for until_us in self._sleepers.values()]

    def advance(self, seconds: float) -> float:
        """Advance the clock, wake the tasks that are due, and return the time as `monotonic` does."""
        self._now_us += int(seconds * SECOND_US)
        for woken, until_us in list(self._sleepers.items()):
            if until_us <= self._now_us and not woken.done():
                woken.set_result(None)
        return self.monotonic()

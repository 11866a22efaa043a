"""Stops a feed while the disk is almost full, and reports the range that the feed misses.

It treats every vendor alike. A stream is cancelled, which closes its connection, and runs again when the disk has room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from tickerplant.core.clock import Clock
from tickerplant.core.free_space import FreeSpace
from tickerplant.core.interval import M1, M5
from tickerplant.core.schemas import OUTAGE
from tickerplant.core.times import MINUTE_US, SECOND_US
from tickerplant.market_data.backfill.publish import AnswerRow
from tickerplant.market_data.vendors.port import Disconnected, StreamEvent, TickStream

POLL_S: Final = 0.5
"""Seconds between two checks of the free space. At 100,000 ticks/s, a log grows by about 2 MiB in this time."""
REPORT_EVERY_US: Final = MINUTE_US
_REPORT_REAL_S: Final = 10.0
"""Minimum seconds between two reports, by the machine's clock. It applies if `clock` is faster than that clock."""


class DiskPause:
    """Runs the stream of one feed while the disk has room; see `vendors.port.TickStream`. Belongs to one event loop."""

    def __init__(self, stream: TickStream, space: FreeSpace, clock: Clock) -> None:
        self._stream = stream
        self._space = space
        self._clock = clock
        self._since_us: int | None = None
        self._reported_us: int | None = None
        self._low = False

    @property
    def reason(self) -> str:
        """Return the reason of a pause, as text for logs and coverage."""
        return self._space.reason

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Run the stream until cancelled, except while the disk is almost full."""
        while True:
            await self._wait_for_space()
            running = asyncio.create_task(self._stream.run(out), name="stream connection")
            try:
                while not running.done() and not self._space.is_low():
                    await asyncio.wait({running}, timeout=POLL_S)
                if running.done():
                    return running.result()
                self._begin()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            await out.put(Disconnected(self._clock.now_us(), self.reason))

    def due(self) -> tuple[int, int] | None:
        """Return the range `[start, end)` of the pause so far, in µs, if a report of it is due; otherwise None."""
        now_us = self._clock.now_us()
        if not self._low or self._since_us is None:
            return None
        every_us = max(REPORT_EVERY_US, int(_REPORT_REAL_S * self._clock.speed * SECOND_US))
        if self._reported_us is not None and now_us - self._reported_us < every_us:
            return None
        self._reported_us = now_us
        return self._since_us, now_us

    def end(self, start_us: int) -> tuple[int, int] | None:
        """End the pause at the connection that began at `start_us`, and return its range `[start, end)` in µs.

        Return None if there was no pause before `start_us`, or if the disk is almost full again.
        """
        since_us = self._since_us
        if self._low or since_us is None:
            return None
        self._since_us = self._reported_us = None
        return (since_us, start_us) if since_us < start_us else None

    def _begin(self) -> None:
        self._low = True
        if self._since_us is None:
            self._since_us = self._clock.now_us()

    async def _wait_for_space(self) -> None:
        while self._space.is_low():
            self._begin()
            await asyncio.sleep(POLL_S)
        self._low = False


def pause_rows(symbols: Sequence[str], start_us: int, end_us: int, note: str) -> list[AnswerRow]:
    """Return answer rows for 1m and 5m: bars that overlap `[start_us, end_us)` are missing, for the reason `note`."""
    return [
        AnswerRow(symbol, step.name, start_us - start_us % step.us, end_us + -end_us % step.us, "", OUTAGE, note)
        for step in (M1, M5)
        for symbol in symbols
    ]

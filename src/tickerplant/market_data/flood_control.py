"""Protects the plant from a stream that floods: drops its connection, and the ticks of symbols that were not requested.

It treats every vendor alike. A stream is cancelled, which closes its connection, and runs again after a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.clock import Clock
from tickerplant.market_data.feed.flood import FloodGuard
from tickerplant.market_data.vendors.port import Disconnected, StreamEvent, Ticks, TickStream

MAX_NOTES: Final = 20
"""Maximum logged warnings per event."""


class FloodControl:
    """Runs the stream of one feed; see `vendors.port.TickStream`. Belongs to one event loop."""

    def __init__(self, stream: TickStream, symbols: Sequence[str], clock: Clock) -> None:
        self._stream = stream
        self._symbols = pa.array(symbols, pa.utf8())
        self._clock = clock
        self._guard = FloodGuard()
        self._flood = ""
        self._flooded = asyncio.Event()
        self._dictionary: pa.Array | None = None
        self._wanted: pa.Array | None = None

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Run the stream until cancelled, with a pause after each flood."""
        while True:
            running = asyncio.create_task(self._stream.run(out), name="stream connection")
            flooded = asyncio.create_task(self._flooded.wait())
            try:
                await asyncio.wait({running, flooded}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    return running.result()
            finally:
                for task in (running, flooded):
                    task.cancel()
                await asyncio.gather(running, flooded, return_exceptions=True)
            await out.put(Disconnected(self._clock.now_us(), self._flood))
            await self._clock.sleep(self._guard.pause_s(self._clock.monotonic()))
            self._flooded.clear()

    def observe(self, unusable: int, usable: int, why: str) -> str | None:
        """Count the messages of one event. In a flood, drop the connection and return the reason; else return None.

        `why`: the reason of an unusable message.
        """
        if self._flooded.is_set():  # events of the dropped connection
            return None
        reason = self._guard.observe(unusable, usable, self._clock.monotonic())
        if reason is None:
            return None
        self._flood = f"{reason}; {why}"
        self._flooded.set()
        return self._flood

    def wanted(self, event: Ticks) -> pa.RecordBatch | None:
        """Return the ticks of requested symbols; None if the event has no ticks.

        The count of ticks of other symbols is added to `event.unwanted`.
        """
        batch = event.batch
        if batch is None:
            return None
        column = batch["symbol"]
        if column.dictionary is not self._dictionary:
            self._dictionary = column.dictionary
            wanted = pc.is_in(column.dictionary, self._symbols)
            self._wanted = None if pc.all(wanted).as_py() is not False else wanted
        if self._wanted is None:
            return batch
        keep = self._wanted.take(column.indices)
        dropped = batch.num_rows - int(np.count_nonzero(keep))
        event.unwanted += dropped
        return batch.filter(keep) if dropped else batch

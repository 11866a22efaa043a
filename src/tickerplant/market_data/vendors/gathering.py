"""Gathering of ticks that arrive slowly: several events of a stream become one record of the log.

A record and its transaction cost as much for one tick as for a hundred. A feed with few ticks therefore waits for a
short time after a tick, and appends the ticks of that time together. A feed with many ticks does not wait, because
`FULL_MESSAGES` arrive in less than that time. A stream may gather messages before it parses them (`Ticks.waited_s`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import pyarrow as pa

from tickerplant.market_data.vendors.port import StreamEvent, Ticks

FULL_MESSAGES: Final = 64
"""Minimum count of messages at which an event does not wait for more messages."""


class Gatherer:
    """Takes events from a stream's queue, and merges ticks that arrive within `gather_s` seconds (0: no merging).

    A cancelled call of `get` loses no event: the next call returns it.
    """

    def __init__(self, queue: asyncio.Queue[StreamEvent], gather_s: float) -> None:
        self._queue = queue
        self._gather_s = gather_s
        self._held: deque[StreamEvent] = deque()
        self._due_s = 0.0

    def empty(self) -> bool:
        """Return True if `get` has returned all events that arrived."""
        return not self._held and self._queue.empty()

    async def get(self) -> StreamEvent:
        """Return the next event, or the ticks of several events as one."""
        time_s = asyncio.get_running_loop().time
        if not self._held:
            first = await self._queue.get()
            self._held.append(first)
            self._due_s = time_s() + self._gather_s - (first.waited_s if isinstance(first, Ticks) else 0.0)
        while self._gather_s and self._is_short():
            if not self._queue.empty():
                self._held.append(self._queue.get_nowait())
                continue
            if self._due_s <= time_s():
                break
            try:
                async with asyncio.timeout(self._due_s - time_s()):
                    self._held.append(await self._queue.get())
            except TimeoutError:
                break
        return self._next()

    def get_nowait(self) -> StreamEvent:
        """Return the next event that has arrived. Raises asyncio.QueueEmpty if there is none."""
        if not self._held:
            self._held.append(self._queue.get_nowait())
        return self._next()

    def _is_short(self) -> bool:
        """Return True if the held events can be merged with more ticks, and have room for them."""
        return all(map(_may_gather, self._held)) and _messages(self._held) < FULL_MESSAGES

    def _next(self) -> StreamEvent:
        """Remove and return the first event, with all events that can be merged with it."""
        first = self._held.popleft()
        if not isinstance(first, Ticks) or not self._held:
            return first
        merged = [first]
        while self._held and _may_follow(merged[-1], self._held[0]):
            merged.append(self._held.popleft())  # type: ignore[arg-type]
        return _merge(merged) if len(merged) > 1 else first


def _messages(events: deque[StreamEvent]) -> int:
    return sum(event.messages for event in events if isinstance(event, Ticks))


def _may_gather(event: StreamEvent) -> bool:
    """Return True for ticks without a gap and without rejected symbols. Other events must keep their order."""
    return isinstance(event, Ticks) and event.gap is None and not event.rejected and event.batch is not None


def _may_follow(before: Ticks, event: StreamEvent) -> bool:
    return (
        _may_gather(before) and _may_gather(event) and before.batch.schema.equals(event.batch.schema)  # type: ignore[union-attr]
    )


def _merge(events: list[Ticks]) -> Ticks:
    """Return one event with the ticks of all events, in order, and the time of the last arrival."""
    table = pa.Table.from_batches([event.batch for event in events]).unify_dictionaries().combine_chunks()
    return Ticks(
        received_us=events[-1].received_us,
        batch=table.to_batches()[0],
        dead=[row for event in events for row in event.dead],
        notes=[note for event in events for note in event.notes],
        messages=sum(event.messages for event in events),
        unwanted=sum(event.unwanted for event in events),
        control=sum(event.control for event in events),
    )

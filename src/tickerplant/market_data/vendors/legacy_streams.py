"""Streams of the earlier plug-in port, which put raw messages on the queue and parse them in `read`.

They work for one more version: `adapt` wraps such a stream so that it puts parsed `Ticks` instead.
"""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

import pyarrow as pa

from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.vendors.port import Connected, StreamEvent, Ticks, TickStream


@dataclass(frozen=True, slots=True)
class Received:
    """Raw messages that arrived together, and the time of arrival by our clock."""

    texts: list[str | bytes]
    at_us: int


@dataclass(slots=True)
class Said:
    """Parsed messages in the earlier form. Fields are as in `port.Ticks`; `refused` is `rejected`, `hole` is `gap`."""

    ticks: pa.RecordBatch | None = None
    dead: list[DeadRow] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    messages: int = 0
    hole: tuple[int, int] | None = None


class LegacyTickStream(Protocol):
    """A stream of the earlier port."""

    async def run(self, out: asyncio.Queue[Any]) -> None:
        """Put Connected, Received, Disconnected and KeyRejected on `out` until cancelled."""
        ...

    def read(self, event: Received) -> Said:
        """Parse raw messages."""
        ...

    def reconnected(self) -> None:
        """Remove the state of the previous connection."""
        ...


def adapt(stream: TickStream | LegacyTickStream) -> TickStream:
    """Return a stream of this version's port. A stream with `read` is wrapped, with a DeprecationWarning."""
    if not _is_legacy(stream):
        return stream
    message = (
        f"{type(stream).__name__}.read is deprecated: put vendors.port.Ticks on the queue of run() instead; "
        "streams with read() and reconnected() work for one more version only"
    )
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return _AdaptedStream(stream)


def _is_legacy(stream: TickStream | LegacyTickStream) -> TypeGuard[LegacyTickStream]:
    return hasattr(stream, "read")


class _AdaptedStream:
    def __init__(self, stream: LegacyTickStream) -> None:
        self._stream = stream

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Run the wrapped stream; parse each raw message when the stream puts it on the queue."""
        await self._stream.run(_ParsingQueue(self._stream, out))


class _ParsingQueue(asyncio.Queue[Any]):
    """The queue that a legacy stream writes to: parses each event and puts it on the real queue."""

    def __init__(self, stream: LegacyTickStream, out: asyncio.Queue[StreamEvent]) -> None:
        super().__init__(out.maxsize)
        self._stream = stream
        self._out = out

    async def put(self, item: Any) -> None:
        """Put the parsed event; block while the real queue is full."""
        await self._out.put(self._parsed(item))

    def put_nowait(self, item: Any) -> None:
        """Put the parsed event; raise QueueFull if the real queue is full."""
        if self._out.full():
            raise asyncio.QueueFull
        self._out.put_nowait(self._parsed(item))

    def full(self) -> bool:
        """Return True if the real queue is full."""
        return self._out.full()

    def _parsed(self, event: Any) -> StreamEvent:
        if isinstance(event, Connected):
            self._stream.reconnected()
        if not isinstance(event, Received):
            return event  # type: ignore[no-any-return]
        said = self._stream.read(event)
        return Ticks(event.at_us, said.ticks, said.dead, said.refused, said.notes, said.messages, said.hole)

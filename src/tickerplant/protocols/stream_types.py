"""The interface of a vendor's stream, and WebSocket framing. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from tickerplant.core.times import BoolArray
from tickerplant.protocols.market import TradeBatch


class StreamSession(Protocol):
    """The subscriptions of one connection."""

    subscribed: BoolArray
    """Mask over the list of instruments: bool[instruments]."""

    def receive(self, text: str | bytes, hidden: Iterable[str] = ()) -> dict[str, Any] | None:
        """Process a client's message; return the answer, or None if the API sends none.

        Symbols in `hidden` are treated as unknown.
        """
        ...


class FrameEncoder(Protocol):
    """Encodes trades as WebSocket frames."""

    def encode(self, trades: TradeBatch, sent_ns: int | None = None) -> list[bytes]:
        """Return one frame per trade, unmasked and complete.

        `sent_ns`, if given, is added to each message of a JSON API to measure latency.
        """
        ...


def text_frame(body: bytes) -> bytes:
    """Return a text message as one unmasked WebSocket frame."""
    size = len(body)
    if size < 126:
        return b"\x81" + bytes((size,)) + body
    return b"\x81" + (b"\x7e" + size.to_bytes(2, "big") if size < 65_536 else b"\x7f" + size.to_bytes(8, "big")) + body

"""The bits of a tick's `flags`: the parts of a bar that a print must not change, and the kind of print."""

from __future__ import annotations

from enum import IntFlag


class TickFlag(IntFlag):
    """Bits of the uint16 column `flags`; 0 is an ordinary trade."""

    NO_OHLC = 1
    """The print does not set open, high, low or close (odd lots, average prices, late reports). Its size counts."""
    NO_VOLUME = 2
    """The print's size does not count (a duplicate report of volume, a price indication)."""
    CANCEL = 4
    """Cancels the tick of the same feed and symbol with the same `trade_id`, `time` and exchange."""
    CORRECTION = 8
    """Replaces price and size of the tick of the same feed and symbol with the same `trade_id`, `time` and exchange."""
    EXTENDED = 16
    """The print is outside regular hours."""
    CLOSING_AUCTION = 32
    """Print of the closing auction. It belongs to the daily bar although it arrives after the close."""
    SIZE_UNKNOWN = 64
    """The print's size is unknown, so a bar with this print is incomplete. An example is the first print of a feed that
    sends only the day's volume."""


KNOWN_BITS = int(~TickFlag(0)) & 0xFFFF

"""The bits of a tick's `flags`: what a print may not do, and what it is."""

from __future__ import annotations

from enum import IntFlag


class TickFlag(IntFlag):
    """Bits of the uint16 column `flags`; 0 is an ordinary trade."""

    NO_OHLC = 1
    """May not set open, high, low or close (odd lots, average price, late reports); its size still counts."""
    NO_VOLUME = 2
    """Its size does not count (a duplicate report of volume, a price indication)."""
    CANCEL = 4
    """Takes back the tick of the same feed and symbol named by `trade_id` and `time`."""
    CORRECTION = 8
    """Replaces price and size of the tick of the same feed and symbol named by `trade_id` and `time`."""
    EXTENDED = 16
    """Printed outside regular hours."""
    CLOSING_AUCTION = 32
    """Print of the closing auction: counts for the daily bar though it comes after the close."""
    SIZE_UNKNOWN = 64
    """Its size is not known: a bar that holds it is not complete. So is the first print of a feed that tells only the
    volume of the day."""


KNOWN_BITS = int(~TickFlag(0)) & 0xFFFF

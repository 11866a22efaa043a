"""Reasons for which aggregation publishes a bar (column `reason`), and the kind of bar that each implies.

A passed-through vendor bar has its feed's reason: `vendor`, `backfill`, `official` or `file`.
"""

from __future__ import annotations

from typing import Final

from tickerplant.core.sources import BARS, TICKS

CUT: Final = "cut"
"""Reason of an incomplete bar: two files cut one of its minutes, or the log lost records of an earlier feed."""
NO_PRINT: Final = "cancel or correction of a print that has not come"
"""Reason on `market.status` for cancels and corrections whose print the feed has not sent before them."""
DISK: Final = "disk"
"""First word of the reason in `down` records and in coverage if a full disk stops the intake."""
OF_TICKS: Final = ("ticks", "parts", "late", "down", "auction", "cancel", "correction", "rebuild", CUT)
"""Reasons of bars that aggregation builds itself, from prints or finer bars, including their revisions.

`source` is not among them: it is the reason of a bar that replaces a bar of another source, and may be of either kind.
"""


def kind_of(reason: str, *, history: bool) -> str:
    """Return the kind of a published bar for the order of sources (`core.sources`): TICKS or BARS.

    Bars of history are passed-through vendor bars.

    >>> kind_of("late", history=False), kind_of("ticks", history=True), kind_of("backfill", history=False)
    ('ticks', 'bars', 'bars')
    """
    return TICKS if not history and reason in OF_TICKS else BARS

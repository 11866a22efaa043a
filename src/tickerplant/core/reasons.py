"""Why aggregation published a bar (the column `reason`), and of which kind that makes it in the order of sources.

A bar that passes a vendor's bar on has the reason that its feed gave: `vendor`, `backfill`, `official`, `file`.
"""

from __future__ import annotations

from typing import Final

from tickerplant.core.sources import BARS, TICKS

OF_TICKS: Final = ("ticks", "parts", "late", "down", "auction", "cancel", "correction", "rebuild")
"""Reasons of bars that aggregation built itself: at first from prints or from finer bars, and whenever it revised one.

`source` is not among them: another source's bar has taken the place, and that may be of either kind.
"""


def kind_of(reason: str, *, history: bool) -> str:
    """Return the kind of a published bar in the order of sources (`core.sources`): TICKS or BARS.

    Bars of history are vendors' bars that were passed through.

    >>> kind_of("late", history=False), kind_of("ticks", history=True), kind_of("backfill", history=False)
    ('ticks', 'bars', 'bars')
    """
    return TICKS if not history and reason in OF_TICKS else BARS

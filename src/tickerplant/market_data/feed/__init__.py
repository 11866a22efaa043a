"""Feeds into `market.prices.raw`.

`writer` appends, `cursor` is what a feed stores of itself, `commands` are records that no feed writes.
"""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Return `DeadRow`, which plug-ins of earlier versions import from here, with a warning."""
    if name != "DeadRow":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tickerplant.market_data.feed.writer import DeadRow

    text = f"{__name__}.DeadRow is now tickerplant.market_data.feed.writer.DeadRow; the old name will be removed"
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    return DeadRow

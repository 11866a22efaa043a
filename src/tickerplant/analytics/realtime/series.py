"""The key of one series of bars."""

from __future__ import annotations

from typing import NamedTuple


class Series(NamedTuple):
    """The bars of one symbol in one interval, both by name."""

    interval: str
    symbol: str

"""The options for reading a file: facts that the file itself does not contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tickerplant.core import interval as intervals

DEFAULT_SOURCE: Final = "file"
"""Source of rows if neither the file nor the user names a source."""
INTERVALS: Final = (intervals.M1, intervals.M5, intervals.D1)
"""The intervals of bars that a file may have."""
INTERVAL_NAMES: Final = ", ".join(interval.name for interval in INTERVALS)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The user's options. The name of a file's feed contains a hash of this object as JSON: never rename the fields.

    `tz` is an IANA name, `date_order` is `mdy` or `dmy`, and `conditions` names a table of `conditions.TABLES`.
    """

    symbol: str | None = None
    interval: str | None = None
    tz: str | None = None
    date_order: str | None = None
    source: str = DEFAULT_SOURCE
    conditions: str | None = None

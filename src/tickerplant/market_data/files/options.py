"""The options for reading a file: facts that the file itself does not contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tickerplant.core import interval as intervals

DEFAULT_SOURCE: Final = "file"
"""Source of rows if neither the file nor the user names a source."""
INTERVALS: Final = (intervals.M1, intervals.M5, intervals.D1)
"""The intervals of bars that a file may have."""
INTERVAL_NAMES: Final = ", ".join(interval.name for interval in INTERVALS)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The user's options. The name of a file's feed contains a hash of `encoded`: never rename the fields.

    `tz` is an IANA name, `date_order` is `mdy` or `dmy`, and `conditions` names a table of `conditions.TABLES`.
    `columns` are pairs of a role and the name of its column, and `decimal` is `point` or `comma`.
    """

    symbol: str | None = None
    interval: str | None = None
    tz: str | None = None
    date_order: str | None = None
    source: str = DEFAULT_SOURCE
    conditions: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    decimal: str | None = None

    @property
    def encoded(self) -> dict[str, Any]:
        """Return the options for the hash: the fields of the first version, and later fields only if they are set."""
        later = {"columns": self.columns, "decimal": self.decimal}
        return {
            "symbol": self.symbol,
            "interval": self.interval,
            "tz": self.tz,
            "date_order": self.date_order,
            "source": self.source,
            "conditions": self.conditions,
        } | {name: value for name, value in later.items() if value}

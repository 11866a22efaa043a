"""Counts prints at the exact end of a session: daily bars lack them if a file has no trade conditions. Pure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendar, Calendars
from tickerplant.core.times import SECOND_US, BoolArray, Int64Array, datetime_of


class ClosingPrints:
    """Counter of the prints at the instant when regular hours end.

    Regular hours are half-open, so such a print is outside them. It is often the closing auction (Tokyo 11:30:00 and
    15:30:00, New York 16:00:00). A condition or a flag would assign it to the session.
    """

    def __init__(self, rules: Rules) -> None:
        self._calendars = None if rules.extended_hours else Calendars(rules)
        self.count = 0
        self._first = ""

    def add(self, batch: pa.RecordBatch, times: Int64Array) -> None:
        """Count the prints of a batch (`schemas.TICKS`) with these times."""
        at = np.flatnonzero(times % SECOND_US == 0)  # every session ends at a full second
        if self._calendars is None or not len(at):
            return
        column = batch["symbol"]
        codes, names = column.indices.to_numpy(zero_copy_only=False)[at], column.dictionary.to_pylist()
        for code in np.unique(codes).tolist():
            rows = at[codes == code]
            ends = rows[_is_end(self._calendars.of(names[code]), times[rows])]
            if len(ends) and not self._first:
                self._first = f"{names[code]} at {datetime_of(int(times[ends[0]])):%Y-%m-%d %H:%M:%S} UTC"
            self.count += len(ends)

    def note(self) -> str | None:
        """Return a note about the prints; None if there are none."""
        if not self.count:
            return None
        return (
            f"{self.count:,} prints at the exact end of a session are not in its daily bar, because the file has no "
            f"column for conditions (first: {self._first}); set rules.extended_hours to include them"
        )


def _is_end(calendar: Calendar, times: Int64Array) -> BoolArray:
    """Return a mask of the times at which regular hours end, also for a lunch break."""
    return calendar.is_regular(times - 1) & ~calendar.is_regular(times)

"""What makes a row fit for the log: columns in, a reason for each row that is not. Pure, and column-wise.

"Corrupt data is worse than no data": a row with a price that is no number or a time that cannot be goes to the dead
letters with its reason and moves no watermark.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core import interval as intervals
from tickerplant.core.times import DAY_US, FOREVER_US, MINUTE_US, BoolArray, Int64Array, times_of

FUTURE_US: Final = MINUTE_US
"""How far a live feed's times may lie ahead of our clock: clocks differ by seconds, broken times by much more."""
EARLIEST_TICK_US: Final = DAY_US
"""The first day of 1970 is where times that were lost (0, -1) end up, and no market kept prints by machine then."""
EARLIEST_BAR_US: Final = -5_364_662_400_000_000  # 1800-01-01: daily series reach back before 1970, to about there
LATEST_US: Final = 7_258_118_400_000_000  # 2200-01-01: a file may be made up, but a year 20121 is a slip

Reasons = dict[int, str]
"""Row number to why it cannot be taken."""


def check_ticks(batch: pa.RecordBatch, latest_us: int = FOREVER_US) -> Reasons:
    """Return the rows of a TICKS batch that cannot be taken; `latest_us` is now and the tolerance, for a live feed."""
    time = times_of(batch["time"])
    price = batch["price"].to_numpy(zero_copy_only=False)
    size = batch["size"].to_numpy(zero_copy_only=False)
    reasons: Reasons = {}
    _note(reasons, ~np.isfinite(price), "the price is no finite number")
    _note(reasons, ~(np.isfinite(size) & (size >= 0)), "the size is negative or no finite number")
    _note_times(reasons, time, EARLIEST_TICK_US, latest_us)
    return reasons


def check_bars(batch: pa.RecordBatch, latest_us: int = FOREVER_US) -> Reasons:
    """Return the rows of a VENDOR_BARS batch that cannot be taken."""
    time = times_of(batch["time"])
    o, h, low, c, volume = (
        batch[name].to_numpy(zero_copy_only=False) for name in ("open", "high", "low", "close", "volume")
    )
    reasons: Reasons = {}
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(o) & np.isfinite(h) & np.isfinite(low) & np.isfinite(c)
        _note(reasons, ~finite, "a price is no finite number")
        _note(reasons, finite & (low > h), "low is above high")
        outside = (np.maximum(o, c) > h) | (np.minimum(o, c) < low)
        _note(reasons, finite & (low <= h) & outside, "open or close lies outside low to high")
        _note(reasons, ~(np.isfinite(volume) & (volume >= 0)), "the volume is negative or no finite number")
    _note_times(reasons, time, EARLIEST_BAR_US, latest_us)
    column = batch["interval"]
    codes = column.indices.to_numpy(zero_copy_only=False)
    for code, name in enumerate(column.dictionary.to_pylist()):
        grid = intervals.parse(name)
        if grid.is_activity:
            _note(reasons, codes == code, f"bars of {grid} go by activity: the plant makes them from ticks alone")
            continue
        off = (codes == code) & (grid.floor(time) != time)
        _note(reasons, off, f"the time is not the start of a {grid} interval (UTC)")
    return reasons


def can_be(time: Int64Array, earliest_us: int) -> BoolArray:
    """Return which times are such as a market's data may have; the others are slips, whoever says them."""
    result: BoolArray = (time >= earliest_us) & (time <= LATEST_US)
    return result


def _note_times(reasons: Reasons, time: Int64Array, earliest_us: int, latest_us: int) -> None:
    _note(reasons, time < earliest_us, "the time lies before there were any markets' data")
    _note(reasons, time > min(latest_us, LATEST_US), "the time lies in the future")


def _note(reasons: Reasons, bad: BoolArray, why: str) -> None:
    if bad.any():
        for row in np.flatnonzero(bad).tolist():
            reasons.setdefault(row, why)


def without(batch: pa.RecordBatch, reasons: Reasons) -> pa.RecordBatch:
    """Return the batch without the rows that have a reason."""
    if not reasons:
        return batch
    keep: npt.NDArray[np.bool_] = np.ones(batch.num_rows, dtype=np.bool_)
    keep[list(reasons)] = False
    return batch.filter(pa.array(keep))

"""Checks of rows before they enter the log: columns in, a reason for each invalid row out. Pure, column-wise.

An invalid row has, for example, an impossible price, size or time. It becomes a dead letter with its reason, and does
not advance the watermark. Corrupt data is worse than no data. Rounding noise is not corruption: `widen_bars` widens a
bar whose open or close is outside its low and high only by rounding noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import DAY_US, FOREVER_US, MINUTE_US, BoolArray, Float64Array, Int64Array, iso

FUTURE_US: Final = MINUTE_US
"""Maximum lead of a live feed's times over our clock. Clocks differ by seconds; the error of a broken time is much
larger."""
EARLIEST_TICK_US: Final = DAY_US
"""Earliest time of a tick. A missing time is often 0 or -1, which is earlier. No electronic print is from 1970."""
EARLIEST_BAR_US: Final = -5_364_662_400_000_000  # 1800-01-01: the oldest daily series begin about then
LATEST_US: Final = 7_258_118_400_000_000  # 2200-01-01: a file may be simulated, but a year 20121 is an error
ROUNDING_NOISE: Final = 1e-9
"""Maximum relative distance between prices that counts as noise of float64 arithmetic. A price that a vendor has
multiplied by an adjustment factor differs by about 1e-16 per operation; the finest tick sizes are above 1e-9."""

MAX_PRICE: Final = 1e15
"""Maximum absolute price. Adjusted prices of shares with many reverse splits reach 1e12; an index reached 1e13."""
MIN_PRICE: Final = 1e-18
"""Minimum absolute price other than 0: one wei. Ratios of two prices, and their squares, stay finite."""
MAX_SIZE: Final = 1e20
"""Maximum size of a trade and volume of a bar. Daily volumes of small coins reach 1e17."""
MAX_TRADE_ID_BYTES: Final = 256
"""Maximum bytes of a trade id. Ids of exchanges have at most 64 bytes."""

Reasons = dict[int, str]
"""Reason why a row is invalid, by row index."""


def check_ticks(batch: pa.RecordBatch, latest_us: int = FOREVER_US) -> Reasons:
    """Return the reasons for the invalid rows of a TICKS batch, {} if all are valid. `latest_us`: latest valid time."""
    time = times_of(batch["time"])
    price = batch["price"].to_numpy(zero_copy_only=False)
    size = batch["size"].to_numpy(zero_copy_only=False)
    reasons: Reasons = {}
    ordinary = _are_ordinary(time, price, size, min(latest_us, LATEST_US))
    if not ordinary:
        _note(reasons, ~np.isfinite(price), "the price {} is not a finite number", price)
        _note(reasons, ~_is_price(price), f"the price {{}} is not 0 or of {MIN_PRICE:g} to {MAX_PRICE:g}", price)
        _note(reasons, ~(np.isfinite(size) & (size >= 0)), "the size {} is negative or not a finite number", size)
        _note(reasons, ~(size <= MAX_SIZE), f"the size {{}} is above {MAX_SIZE:g}", size)
    ids = batch["trade_id"]
    if ids.null_count < len(ids):
        long = pc.fill_null(pc.greater(pc.binary_length(ids), MAX_TRADE_ID_BYTES), False)
        _note(reasons, long.to_numpy(zero_copy_only=False), f"the trade id has more than {MAX_TRADE_ID_BYTES} bytes")
    if not ordinary:
        _note_times(reasons, time, EARLIEST_TICK_US, latest_us)
    return reasons


def check_bars(batch: pa.RecordBatch, latest_us: int = FOREVER_US) -> Reasons:
    """Return the reasons for the invalid rows of a VENDOR_BARS batch, {} if all are valid."""
    time = times_of(batch["time"])
    o, h, low, c, volume = (
        batch[name].to_numpy(zero_copy_only=False) for name in ("open", "high", "low", "close", "volume")
    )
    reasons: Reasons = {}
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(o) & np.isfinite(h) & np.isfinite(low) & np.isfinite(c)
        for values in (o, h, low, c):
            _note(reasons, ~np.isfinite(values), "the price {} is not a finite number", values)
            _note(reasons, ~_is_price(values), f"the price {{}} is not 0 or of {MIN_PRICE:g} to {MAX_PRICE:g}", values)
        noise = ROUNDING_NOISE * np.maximum(np.maximum(np.abs(o), np.abs(c)), np.maximum(np.abs(h), np.abs(low)))
        crossed = low > h + noise
        _note(reasons, finite & crossed, "low {} is above high {}", low, h)
        for name, values in (("open", o), ("close", c)):
            outside = (values > h + noise) | (values < low - noise)
            _note(reasons, finite & ~crossed & outside, name + " {} is outside low to high, {} to {}", values, low, h)
        wrong = ~(np.isfinite(volume) & (volume >= 0))
        _note(reasons, wrong, "the volume {} is negative or not a finite number", volume)
        _note(reasons, ~(volume <= MAX_SIZE), f"the volume {{}} is above {MAX_SIZE:g}", volume)
    _note_times(reasons, time, EARLIEST_BAR_US, latest_us)
    column = batch["interval"]
    codes = column.indices.to_numpy(zero_copy_only=False)
    for code, name in enumerate(column.dictionary.to_pylist()):
        grid = intervals.parse(name)
        if grid.is_activity:
            _note(reasons, codes == code, f"bars of {grid} are activity bars, which are built from ticks only")
            continue
        off = np.flatnonzero((codes == code) & (grid.floor(time) != time))
        for row in off.tolist():
            why = f"the time {iso(int(time[row]))} is not the start of a {grid} interval (UTC)"
            reasons.setdefault(row, why)
    return reasons


def widen_bars(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the bars with low and high widened until they contain open and close.

    `check_bars` tolerates open and close that are outside by rounding noise. The batch itself is returned if no bar
    needs a change.
    """
    o, h, low, c = (batch[name].to_numpy(zero_copy_only=False) for name in ("open", "high", "low", "close"))
    highest = np.maximum(np.maximum(o, c), np.maximum(h, low))
    lowest = np.minimum(np.minimum(o, c), np.minimum(h, low))
    if np.array_equal(highest, h) and np.array_equal(lowest, low):
        return batch
    for name, values in (("high", highest), ("low", lowest)):
        batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), pa.array(values))
    return batch


@dataclass(frozen=True, slots=True)
class Conflict:
    """Rows that differ from an earlier row of the same bar: their count, and a note for the user."""

    count: int
    note: str


def find_conflict(bars: pa.RecordBatch | pa.Table) -> Conflict | None:
    """Return the count of rows that differ from an earlier row of the same bar, with a note; None if no row differs.

    `bars`: bars of one symbol and interval, in any order (`schemas.VENDOR_BARS`). Readers keep the last row of a time.
    """
    times = times_of(bars["time"])
    order = np.argsort(times, kind="stable")
    same = times[order][1:] == times[order][:-1]
    earlier, later = order[:-1][same], order[1:][same]
    differs = np.zeros(len(later), dtype=np.bool_)
    for name in ("open", "high", "low", "close", "volume"):
        values = np.asarray(bars[name])
        differs |= values[earlier] != values[later]
    if not differs.any():
        return None
    count, first = int(np.count_nonzero(differs)), iso(int(times[later[differs][0]]))
    note = f"{count:,} rows differ from an earlier row of the same bar (first: {first}); the last row is kept"
    return Conflict(count, note)


def distinct_bars(bars: pa.RecordBatch) -> tuple[pa.RecordBatch, Conflict | None]:
    """Return the last row of each time, in order of time, and the conflict; None if no row differs.

    `bars`: as for `find_conflict`. The batch itself is returned if no time is repeated.
    """
    times = times_of(bars["time"])
    if (times[1:] > times[:-1]).all():
        return bars, None
    order = np.argsort(times, kind="stable")
    last = np.append(times[order][1:] != times[order][:-1], True)
    return bars.take(pa.array(order[last])), find_conflict(bars)


def _are_ordinary(time: Int64Array, price: Float64Array, size: Float64Array, latest_us: int) -> bool:
    """Return True if all prices are above 0 and all values are valid. Most batches are ordinary and need no masks."""
    return not len(time) or bool(
        price.min() >= MIN_PRICE
        and price.max() <= MAX_PRICE
        and size.min() >= 0
        and size.max() <= MAX_SIZE
        and time.min() >= EARLIEST_TICK_US
        and time.max() <= latest_us
    )


def _is_price(values: npt.NDArray[np.float64]) -> BoolArray:
    """Return a mask of the values that a price may have: 0, or an absolute value of `MIN_PRICE` to `MAX_PRICE`."""
    size = np.abs(values)
    result: BoolArray = (size <= MAX_PRICE) & ((size >= MIN_PRICE) | (size == 0))
    return result


def is_plausible(time: Int64Array, earliest_us: int) -> BoolArray:
    """Return a mask of the times that market data may have; other times are errors."""
    result: BoolArray = (time >= earliest_us) & (time <= LATEST_US)
    return result


def _note_times(reasons: Reasons, time: Int64Array, earliest_us: int, latest_us: int) -> None:
    for row in np.flatnonzero(time < earliest_us).tolist():
        reasons.setdefault(row, f"the time {_shown_time(time, row)} is before any market data existed")
    for row in np.flatnonzero(time > min(latest_us, LATEST_US)).tolist():
        reasons.setdefault(row, f"the time {_shown_time(time, row)} is in the future")


def _note(reasons: Reasons, bad: BoolArray, why: str, *columns: npt.NDArray[np.float64]) -> None:
    """Add a reason for each bad row. `why` has braces for the row's value of each column."""
    if bad.any():
        for row in np.flatnonzero(bad).tolist():
            reasons.setdefault(row, why.format(*(float(column[row]) for column in columns)))


def _shown_time(times: Int64Array, row: int) -> str:
    try:
        return iso(int(times[row]))
    except (OverflowError, ValueError):
        return f"{int(times[row])} µs since 1970"


def without(batch: pa.RecordBatch, reasons: Reasons) -> pa.RecordBatch:
    """Return the batch without the rows that have a reason."""
    if not reasons:
        return batch
    keep: npt.NDArray[np.bool_] = np.ones(batch.num_rows, dtype=np.bool_)
    keep[list(reasons)] = False
    return batch.filter(pa.array(keep))

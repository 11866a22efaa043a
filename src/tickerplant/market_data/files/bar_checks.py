"""Checks over all bars of a file: the interval fits the times, and no bar has several rows. Pure, column-wise.

`scan` reads times, symbols and intervals of each block. `check_intervals` then raises BadInput for an interval that
does not fit them. If rows may repeat a bar, `compare` finds them in a second pass. Rows in order of time need no
memory. A row out of order needs 8 bytes, and 16 more during the second pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import BadInput
from tickerplant.core.hashing import UInt64Array, mix
from tickerplant.core.interval import D1, Interval
from tickerplant.core.times import DAY_US, MINUTE_US, NEVER_US, BoolArray, Int64Array, iso
from tickerplant.market_data.files.options import INTERVAL_NAMES, INTERVALS

_BITS: Final = 20
"""Minimum evidence, in bits, that the bars have another interval: the times are a coincidence in one of a million
cases. If the times are multiples of k intervals, each time after the first adds log2(k) bits."""
_REGULAR_BITS: Final = 10
"""Minimum evidence, in bits, if all differences of times are equal. If bars are k intervals apart on average, one of
e·k differences is exactly k intervals."""
_REGULAR_DAYS: Final = 5
"""Minimum number of dates with equal gaps that indicates weekly bars."""
_LONG_GAP_US: Final = 5 * DAY_US
"""Minimum gap between the dates of bars that are not daily. Long holidays cause single gaps of this length, but not
all gaps between twelve dates."""
_MIN_DAYS: Final = 12
_VALUES: Final = ("open", "high", "low", "close", "volume")


@dataclass(slots=True)
class _Evidence:
    """Evidence from the rows of one interval.

    `rows`: number of rows. `off_grid`: rows whose time is not the start of an interval. `step_us`: common divisor of
    the differences of times. `distinct`: lower bound of the number of distinct times. `regular`: the number of distinct
    times if they are in one block and all differences are equal, otherwise 0. `gap_us`: least difference of two
    distinct times in a block. `written`, `dates`: sums over the blocks of the distinct times as written, and of the
    distinct dates. `repeated`: rows whose time is not after the time of an earlier row of the symbol.
    """

    rows: int = 0
    off_grid: int = 0
    first_us: int | None = None
    step_us: int = 0
    distinct: int = 0
    regular: int = 0
    gap_us: int = 0
    written: int = 0
    dates: int = 0
    repeated: int = 0


class BarChecks:
    """The checks of one file.

    `repeats`, `conflicts`: counts of rows that repeat the bar of an earlier row, with equal and with different values.
    `first_conflict`: numbers of the first two rows of a bar with different values, and the bar's name; None if there is
    none.
    """

    def __init__(self) -> None:
        self.repeats = self.conflicts = 0
        self.first_conflict: tuple[int, int, str] | None = None
        self._evidence: dict[int, _Evidence] = {}
        self._newest = np.empty(0, np.int64)
        self._sign = 0
        self._found: list[UInt64Array] = []
        self._keys = np.empty(0, np.uint64)
        self._digests = np.empty(0, np.uint64)
        self._numbers = np.empty(0, np.int64)

    # First pass ------------------------------------------------------------------------------------------------------

    def scan(self, groups: Int64Array, times: Int64Array, written: Int64Array) -> None:
        """Add the valid rows of a block. `groups`: see `group_codes`. `written`: each time as written, not in UTC.

        Add blocks in the order of the file. Without a time of day, `written` equals `times`.
        """
        if not len(times):
            return
        repeated = self._find_repeated(groups, times)
        interval = groups % len(INTERVALS)
        for number in np.unique(interval).tolist():
            mine = interval == number
            evidence = self._evidence.setdefault(number, _Evidence())
            evidence.repeated += int(np.count_nonzero(repeated[mine]))
            _add(evidence, INTERVALS[number], times[mine], written[mine])

    def _find_repeated(self, groups: Int64Array, times: Int64Array) -> BoolArray:
        """Return a mask of the rows that are not after all earlier rows of their group.

        The first rows show whether times ascend or descend.
        """
        if not self._sign:
            mine = times[groups == groups[0]]
            self._sign = -1 if mine[-1] < mine[0] else 1
        count = len(groups)
        more = int(groups.max()) + 1 - len(self._newest)
        if more > 0:
            self._newest = np.concatenate([self._newest, np.full(more, NEVER_US)])
        order = np.argsort(groups, kind="stable")
        ordered, moments = groups[order], times[order] * self._sign
        number = np.cumsum(np.concatenate(([0], ordered[1:] != ordered[:-1])))
        places = np.unique(moments, return_inverse=True)[1].reshape(-1) + number * count
        before = np.concatenate(([-1], np.maximum.accumulate(places)[:-1]))
        late = (before >= places) | (self._newest[ordered] >= moments)
        np.maximum.at(self._newest, ordered, moments)
        if late.any():
            self._found.append(_keys(ordered[late], times[order][late]))
        result = np.empty(count, np.bool_)
        result[order] = late
        return result

    def check_intervals(self, option: str) -> None:
        """Raise BadInput if an interval does not fit the times. `option`: advice on setting another interval."""
        for number, evidence in sorted(self._evidence.items()):
            reason = _misfit(evidence, INTERVALS[number])
            if reason is not None:
                raise BadInput(f"the bars are not {INTERVALS[number]} bars: {reason}; {option}")

    @property
    def may_repeat(self) -> bool:
        """Return True if a second pass is needed."""
        return bool(self._found)

    # Second pass -----------------------------------------------------------------------------------------------------

    def compare(self, blocks: Iterable[tuple[pa.RecordBatch, Int64Array, Int64Array]]) -> None:
        """Count the rows that repeat a bar. `blocks`: bars, their groups and their row numbers, in the file's order."""
        self._keys = np.unique(np.concatenate(self._found)) if self._found else self._keys
        self._digests = np.zeros(len(self._keys), np.uint64)
        self._numbers = np.full(len(self._keys), -1)
        for bars, groups, numbers in blocks:
            keys = _keys(groups, times_of(bars["time"]))
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            rows = np.flatnonzero(self._keys[at] == keys)
            if len(rows):
                self._compare(bars, numbers, rows[np.argsort(at[rows], kind="stable")], np.sort(at[rows]))

    def _compare(self, bars: pa.RecordBatch, numbers: Int64Array, rows: Int64Array, places: Int64Array) -> None:
        """Compare rows with the preceding row of their bar. `places`: index of the bar of each row, ascending."""
        digests, numbers_of = _digests(bars.take(pa.array(rows))), numbers[rows]
        first = np.concatenate(([True], places[1:] != places[:-1]))
        last = np.concatenate((first[1:], [True]))
        former = np.where(first, self._digests[places], np.roll(digests, 1))
        former_numbers = np.where(first, self._numbers[places], np.roll(numbers_of, 1))
        known = former_numbers >= 0
        differs = known & (former != digests)
        self.conflicts += int(np.count_nonzero(differs))
        self.repeats += int(np.count_nonzero(known & ~differs))
        if differs.any() and self.first_conflict is None:
            at = int(np.flatnonzero(differs)[np.argmin(numbers_of[differs])])
            row = int(rows[at])
            name = f"{bars['symbol'][row]} {bars['interval'][row]} {iso(int(times_of(bars['time'])[row]))}"
            self.first_conflict = int(former_numbers[at]), int(numbers_of[at]), name
        self._digests[places[last]], self._numbers[places[last]] = digests[last], numbers_of[last]

    def note(self, name: str, unit: str) -> str | None:
        """Return the choice between rows of one bar as a note for the user; None if there is no conflict."""
        if self.first_conflict is None:
            return None
        before, row, bar = self.first_conflict
        return (
            f"{self.conflicts:,} rows differ from an earlier row of the same bar (first: {bar} in {name} "
            f"{unit}s {before} and {row}); the last row of each bar is kept"
        )


def group_codes(symbols: Int64Array, intervals: pa.DictionaryArray) -> Int64Array:
    """Return the group of each row: one number for each symbol (a code that does not change) and interval."""
    names = [interval.name for interval in INTERVALS]
    known = [names.index(name) if name in names else 0 for name in intervals.dictionary.to_pylist()] or [0]
    codes = np.array(known, np.int64)[intervals.indices.to_numpy(zero_copy_only=False)]
    result: Int64Array = symbols.astype(np.int64) * len(INTERVALS) + codes
    return result


def _add(evidence: _Evidence, interval: Interval, times: Int64Array, written: Int64Array) -> None:
    """Add the rows of one interval in a block to the evidence."""
    evidence.rows += len(times)
    on_grid = times % interval.us == 0
    evidence.off_grid += int(np.count_nonzero(~on_grid))
    found = np.unique(times[on_grid])
    evidence.written += len(np.unique(written))
    evidence.dates += len(np.unique(times // DAY_US))
    if not len(found):
        return
    gaps = np.diff(found)
    evidence.regular = len(found) if evidence.first_us is None and len(gaps) and gaps.min() == gaps.max() else 0
    if evidence.first_us is None:
        evidence.first_us = int(found[0])
    evidence.step_us = int(np.gcd.reduce(np.append(found - evidence.first_us, evidence.step_us)))
    evidence.distinct = max(evidence.distinct, len(found))
    if len(gaps):
        gap_us = int(gaps.min())
        evidence.gap_us = min(evidence.gap_us or gap_us, gap_us)


def _misfit(evidence: _Evidence, interval: Interval) -> str | None:
    """Return the reason why these rows do not have this interval; None if they may have it."""
    rows, step_us = evidence.rows, evidence.step_us
    if interval == D1:
        if 2 * evidence.repeated >= rows and evidence.written >= 2 * evidence.dates:
            return f"{rows:,} rows have {evidence.dates:,} dates, and their times of day differ"
        enough = evidence.distinct >= _MIN_DAYS or evidence.regular >= _REGULAR_DAYS
        if enough and evidence.gap_us >= _LONG_GAP_US:
            return f"their dates are at least {evidence.gap_us // DAY_US} days apart"
        return None
    if 2 * evidence.off_grid > rows > evidence.off_grid:
        return f"{evidence.off_grid:,} of {rows:,} times are not the start of a {interval} interval"
    factor = step_us // interval.us
    if factor <= 1:
        return None
    is_regular = (evidence.regular - 2) * np.log2(np.e * factor) >= _REGULAR_BITS
    if is_regular or (evidence.distinct - 1) * np.log2(factor) >= _BITS:
        length = f"{step_us // DAY_US} d" if step_us % DAY_US == 0 else f"{step_us // MINUTE_US} min"
        return f"all times are multiples of {length} apart"
    return None


def _keys(groups: Int64Array, times: Int64Array) -> UInt64Array:
    with np.errstate(over="ignore"):
        return mix(mix(times.astype(np.uint64)) + groups.astype(np.uint64))


def _digests(bars: pa.RecordBatch) -> UInt64Array:
    """Return a digest of the values of each bar: uint64[n]."""
    result = np.zeros(bars.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name in _VALUES:
            result = mix(result + (bars[name].to_numpy(zero_copy_only=False) + 0.0).view(np.uint64))
    return result


_OTHERWISE: Final = f"a file may have bars of {INTERVAL_NAMES}, and --force-interval reads the bars as they are"
INTERVAL_OPTION: Final = f"set the interval of the bars with --interval; {_OTHERWISE}"
INTERVAL_COLUMN: Final = f"correct the column of intervals; {_OTHERWISE}"

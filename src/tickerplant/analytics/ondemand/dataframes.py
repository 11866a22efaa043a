"""Adapters for bars in any container (arrays, a mapping, Arrow, pandas, Polars), and for results of the same kind.

pandas and Polars are never imported here: a caller that passes one of their frames has already imported them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.analytics.indicator.declaration import BAR_INPUTS
from tickerplant.core.clock_column import ClockColumn, parts_of
from tickerplant.core.column_names import NAMES, find, normalise, with_clock
from tickerplant.core.errors import BadInput
from tickerplant.core.time_values import DATE, LOCAL, NUMBER, OFFSET, UTC, TimeValues, is_text, order_of, parse_times
from tickerplant.core.times import Float64Array, Int64Array

Columns = dict[str, Float64Array]
SERIES_KEYS: Final = ("symbol", "interval")
"""The columns that identify a series."""
TIME, CLOCK = "time", "clock"
_READ: Final = frozenset({*BAR_INPUTS, *SERIES_KEYS, TIME})


@dataclass(frozen=True, slots=True)
class Frame:
    """Bars by column. `to_caller` converts float64 columns, NaN for no value, into the caller's kind of container.

    `names` maps lower-case names and roles to the caller's names. `times` is an index that is used if there is no
    column with times.
    """

    rows: int
    names: Mapping[str, str]
    column: Callable[[str], Any]
    to_caller: Callable[[Columns], Any]
    times: Any = None

    def floats(self, name: str) -> Float64Array:
        """Return a column as float64, NaN for null. Raises BadInput if it is not numeric."""
        column = self.column(self.names[name])
        try:
            if isinstance(column, pa.Array | pa.ChunkedArray):
                found = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            elif _package_of(column) == "pandas":
                found = column.to_numpy(dtype=np.float64, na_value=np.nan)
            else:
                found = np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise BadInput(f"the column {name!r} contains values that are not numbers: {error}") from None
        if found.ndim != 1 or len(found) != self.rows:
            raise BadInput(
                f"the column {name!r} has the shape {found.shape}; columns must have one dimension and the same length"
            )
        return np.ascontiguousarray(found)

    def series(self) -> list[Int64Array]:
        """Return the row indices of each series, in order of time, or in row order if there are no times.

        Raises BadInput if a series has two bars with the same time, or if a time is missing or ambiguous.
        """
        code = np.zeros(self.rows, dtype=np.int64)
        for name in SERIES_KEYS:
            if name in self.names:
                own = _codes(self.column(self.names[name]))
                code = code * (int(own.max(initial=0)) + 1) + own
        times = self._order_of_times()
        order = np.argsort(code, kind="stable") if times is None else np.lexsort((times, code))
        changes = np.diff(code[order]) != 0
        if times is not None:
            again = np.flatnonzero((np.diff(times[order]) == 0) & ~changes)
            if len(again):
                first, second = sorted(order[again[0] : again[0] + 2].tolist())
                raise BadInput(
                    f"two bars of one series have the same time: rows {first} and {second} (from 0); series are "
                    f"identified by the columns {' and '.join(SERIES_KEYS)}"
                )
        return np.split(order, np.flatnonzero(changes) + 1)

    def times_us(self) -> Int64Array:
        """Return the times in microseconds since 1970. Raises BadInput if they are missing or a value is not a time."""
        values = self._times()
        if values is None:
            raise BadInput("the bars have no times; add a column `time`")
        if values.reasons:
            raise BadInput(f"row {min(values.reasons)} (from 0): {values.reasons[min(values.reasons)]}")
        return values.us

    def _order_of_times(self) -> Int64Array | None:
        """Return a number for each row that increases with its time; None without times.

        Numbers that are not times, such as 0, 1, 2, give the order directly.
        """
        values = self._times()
        if values is None:
            return None
        if not values.reasons:
            return values.us
        sequence = self._sequence()
        if sequence is None or len(values.reasons) < self.rows:
            raise BadInput(f"row {min(values.reasons)} (from 0): {values.reasons[min(values.reasons)]}")
        return np.unique(sequence, return_inverse=True)[1].astype(np.int64)

    def _sequence(self) -> Float64Array | None:
        """Return the times as plain numbers; None if they are not numbers."""
        column = self._arrow_times()
        if column is None or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            return None
        found: Float64Array = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return found

    def _times(self) -> TimeValues | None:
        """Return the parsed times; None if there are none.

        Raises BadInput if a time is missing or ambiguous, or if only some times have a zone. Also raises BadInput if
        the number of times differs from the number of bars.
        """
        column = self._arrow_times()
        if column is None:
            return None
        if len(column) != self.rows:
            raise BadInput(f"there are {len(column)} times; expected one for each of the {self.rows} bars")
        if column.null_count:
            raise BadInput("a time is missing; remove the bars without a time")
        order, ambiguous = order_of(column)
        if ambiguous is not None and order is None:
            raise BadInput(f"the order of day and month in {ambiguous} is ambiguous; pass timestamps or ISO 8601")
        values = parse_times(column, order)
        zoned = np.isin(values.kind, (NUMBER, UTC, OFFSET))
        plain = np.isin(values.kind, (LOCAL, DATE))
        if zoned.any() and plain.any():
            first = int(np.argmax(plain))
            raise BadInput(
                f"row {first} (from 0): the time {column[first].as_py()} has no zone, but other times have one; "
                "give all times a zone, or none"
            )
        return values

    def _arrow_times(self) -> pa.Array | None:
        """Return the times as an Arrow array, with each date joined to its clock time; None if there are none."""
        column = self.column(self.names[TIME]) if TIME in self.names else self.times
        if column is None:
            return None
        times = _arrow(column)
        if CLOCK not in self.names:
            return times
        clock = str(self.names[CLOCK])
        others = {normalise(str(name)): str(name) for name in self.names.values()}
        parts = [_arrow(self.column(name)) for name in parts_of(clock, others)]
        return ClockColumn(clock).join(times, _arrow(self.column(self.names[CLOCK])), parts)


def _arrow(column: Any) -> pa.Array:
    """Return any column as an Arrow array. Raises BadInput if Arrow has no type for all its values."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    if isinstance(column, pa.Array):
        return column
    try:
        found = pa.array(column, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise BadInput(f"a column of times cannot be read ({error}); use one type for all values") from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def read_frame(data: Any) -> Frame:
    """Return the bars of a table, data frame, mapping of arrays, or array.

    A single array contains closes. Raises BadInput for other data.
    """
    package = _package_of(data)
    if isinstance(data, pa.RecordBatch | pa.Table):
        return _of_arrow(data)
    if isinstance(data, pa.Array | pa.ChunkedArray):
        return _of_arrow(pa.table({"close": data}))
    if package == "pandas":
        return _of_pandas(data)
    if package == "polars":
        return _of_polars(data)
    if hasattr(data, "__arrow_c_stream__") and not isinstance(data, Mapping):
        return _of_arrow(pa.table(data))
    if not isinstance(data, Mapping):
        data = {"close": data}
    if not data:
        raise BadInput("there are no columns; pass at least one, such as `close`")
    first = next(iter(data.values()))
    rows = len(first) if hasattr(first, "__len__") else -1
    if rows < 0 or isinstance(first, str):
        raise BadInput(f"bars must be arrays, a mapping of arrays, or a table, not {type(first).__name__}")
    return Frame(rows, _names(data), data.__getitem__, dict)


def _of_arrow(table: Any) -> Frame:
    def to_caller(columns: Columns) -> pa.Table:
        return pa.table({name: pa.array(values, mask=np.isnan(values)) for name, values in columns.items()})

    return Frame(table.num_rows, _names(table.schema.names), table.column, to_caller)


def _of_pandas(data: Any) -> Frame:
    pandas = sys.modules["pandas"]
    frame = data.to_frame("close") if data.ndim == 1 else data

    def to_caller(columns: Columns) -> Any:
        return pandas.DataFrame(columns, index=frame.index)

    times = frame.index.to_timestamp() if isinstance(frame.index, pandas.PeriodIndex) else frame.index
    timed = isinstance(times, pandas.DatetimeIndex) or _has_times(frame.index)
    if frame.index.nlevels > 1:
        raise BadInput(
            f"the frame's index has several levels ({', '.join(map(str, frame.index.names))}); pass "
            "frame.reset_index(), so that they become columns, such as `symbol` and `time`"
        )
    if frame.columns.nlevels > 1:
        raise BadInput("the frame's columns have several levels; pass one symbol, or symbols in a column `symbol`")
    return Frame(len(frame), _names(frame.columns), frame.__getitem__, to_caller, times if timed else None)


def _has_times(index: Any) -> bool:
    """Return whether an index without a time type has a name of a time column, or contains only texts of times."""
    if normalise(str(index.name or "")) in NAMES[TIME]:
        return True
    if not len(index) or not isinstance(index[0], str):
        return False
    column = _arrow(index)
    return is_text(column.type) and not parse_times(column, order_of(column)[0]).reasons


def _of_polars(data: Any) -> Frame:
    polars = sys.modules["polars"]
    if isinstance(data, polars.LazyFrame):
        raise BadInput("the frame is lazy; call collect() first")
    table = pa.table(data if isinstance(data, polars.DataFrame) else data.to_frame("close"))

    def to_caller(columns: Columns) -> Any:
        return polars.DataFrame(columns).fill_nan(None)

    return Frame(table.num_rows, _names(table.schema.names), table.column, to_caller)


def _names(names: Any) -> dict[str, str]:
    """Return the columns by lower-case name, and by role. Roles also match the column names that files use.

    Raises BadInput if two names of a needed column differ only in case.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = str(name).lower()
        if plain in found and plain in _READ:
            raise BadInput(f"the data has the columns {found[plain]!r} and {name!r}; pass a single {plain!r}")
        found.setdefault(plain, name)
    named: dict[str, Any] = {}
    for name in names:
        named.setdefault(normalise(str(name)), name)
    roles = {role: find(named, role) for role in NAMES if role in _READ and role not in found}
    roles["close"] = found.get("close") or roles.get("close") or find(named, "price")
    found.update({role: name for role, name in roles.items() if name is not None})
    if TIME in found:
        taken = {found[role] for role in _READ if role in found}
        others = {plain: str(name) for plain, name in named.items() if name not in taken}
        time, clock = with_clock(str(found[TIME]), others)
        found[TIME] = named[normalise(time)]
        if clock is not None:
            found[CLOCK] = named[normalise(clock)]
    return found


def _codes(column: Any) -> Int64Array:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        chunks = [column] if isinstance(column, pa.Array) else column.chunks
        words = pa.chunked_array([_words(chunk) for chunk in chunks], pa.large_utf8())
        encoded = pc.dictionary_encode(words, null_encoding="encode").combine_chunks()
        indices: Int64Array = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return indices
    codes: Int64Array = np.unique(np.asarray(column).astype(np.str_), return_inverse=True)[1].astype(np.int64)
    return codes


def _words(chunk: pa.Array) -> pa.Array:
    """Return text as `large_utf8`, from any type of text or dictionary of text."""
    if pa.types.is_dictionary(chunk.type):
        return chunk.dictionary.cast(pa.large_utf8()).take(chunk.indices)
    return chunk.cast(pa.large_utf8())


def _package_of(data: Any) -> str:
    package = type(data).__module__.partition(".")[0]
    return package if package in sys.modules else ""

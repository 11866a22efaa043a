"""Converts a file's columns to the columns of the log: blocks of text or typed columns in, TICKS or VENDOR_BARS out.
Pure.

A row that cannot be read becomes a dead letter with file, line and reason; the other rows are unaffected. A column is
cast as a whole. Its values are parsed one by one only if the cast fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import timestamps, value_at, values_of
from tickerplant.core.clock_column import ClockColumn
from tickerplant.core.column_names import normalise
from tickerplant.core.errors import BadInput
from tickerplant.core.flags import KNOWN_BITS, TickFlag
from tickerplant.core.interval import Interval
from tickerplant.core.schemas import SMALL_TEXT, TEXT, TICKS, TICKS_OF_EXCHANGES, VENDOR_BARS
from tickerplant.core.sessions import calendar
from tickerplant.core.shown import quoted
from tickerplant.core.symbols import check_symbol
from tickerplant.core.time_column import TimeColumn, check_zone
from tickerplant.core.time_values import INVALID
from tickerplant.core.times import DAY_US, MINUTE_US, WEEK_US, BoolArray, Float64Array, Int64Array
from tickerplant.market_data.feed.validation import (
    EARLIEST_BAR_US,
    EARLIEST_TICK_US,
    Reasons,
    check_bars,
    check_ticks,
    is_plausible,
    widen_bars,
)
from tickerplant.market_data.files import conditions
from tickerplant.market_data.files.bar_checks import BarChecks, group_codes
from tickerplant.market_data.files.block import Block, BrokenRow
from tickerplant.market_data.files.databento_text import RECORD_TYPES, DatabentoRecords, fixed_prices
from tickerplant.market_data.files.layout import BARS, FileLayout
from tickerplant.market_data.files.numbers import NumberFormat
from tickerplant.market_data.files.open_file import DataFile
from tickerplant.market_data.files.options import INTERVAL_NAMES, INTERVALS, ReadOptions
from tickerplant.market_data.files.symbol_names import SymbolNames

Int32Array = npt.NDArray[np.int32]

_EXCHANGE = "XNYS"
"""Name of the calendar whose regular hours the tapes' conditions use."""
_YEARS = ("1970 to 2200", "1800 to 2200")  # of ticks and of bars
_WIDENED = "bars have a high below or a low above another price by rounding noise, and are widened to that price"
_PRICES = ("open", "high", "low", "close", "price")
_NUMBERS = (*_PRICES, "volume", "size", "vwap", "trades")
"""Roles whose texts show the format of a file's numbers."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a block: valid rows with their numbers and times, the broken rows, and the end of the block."""

    batch: pa.RecordBatch
    numbers: Int64Array
    times: Int64Array
    dead: Sequence[BrokenRow]
    end: int


class RowReader:
    """Reads the blocks of one file in order. Raises BadInput for missing or superfluous options, and for unknown times.

    `unit`: `line`, `row` or `record`. `header`: line number of the header. `conditions` and `corrections` count the
    unknown codes of these columns over all blocks. `first_reason`: the reason why the first unreadable row of `scan` is
    invalid; None if there is none. `has_suffix`: a symbol with a share-class suffix has been read.
    """

    def __init__(
        self, name: str, unit: str, layout: FileLayout, options: ReadOptions, *, header: int | None = None
    ) -> None:
        self.kind = layout.kind
        self._name = name
        self._unit = unit
        self._layout = layout
        self._options = options
        self._times: TimeColumn | None = None
        self._clock = ClockColumn(layout.clock) if layout.clock else None
        self._numbers = NumberFormat(options.decimal, has_commas=layout.has_commas)
        self._databento = DatabentoRecords(name, layout) if layout.databento else None
        self.first_reason: str | None = None
        self.has_suffix = False
        self._widened, self._first_widened = 0, ""
        self._file_symbols = SymbolNames()
        self.conditions, self.corrections = conditions.ConditionDecoder(), conditions.ConditionDecoder()
        self._table = conditions.table_named(options.conditions) if options.conditions else conditions.EITHER_TAPE
        self._given_symbol = _one_symbol(options.symbol, layout.symbol)
        self._given_interval = intervals.parse(options.interval) if options.interval else None
        if self._given_interval is not None and self._given_interval.is_activity:
            raise BadInput(f"bars of {self._given_interval} are aggregated from ticks; replay a file of ticks")
        if self._given_interval is not None and self._given_interval not in INTERVALS:
            raise BadInput(
                f"a file may have bars of {INTERVAL_NAMES}; {self._given_interval} bars are derived from these"
            )
        if "symbol" in layout.columns and self._given_symbol is not None:
            raise BadInput("the file has a column of symbols: omit --symbol")
        if layout.kind != BARS and self._given_interval is not None:
            raise BadInput("the file has ticks, which have no interval: omit --interval")
        if "interval" in layout.columns and self._given_interval is not None:
            raise BadInput("the file has a column of intervals: omit --interval")
        if "symbol" not in layout.columns and self._given_symbol is None:
            raise BadInput("no column has the symbol; set it with --symbol", line=header)
        if layout.kind == BARS and "interval" not in layout.columns and self._given_interval is None:
            raise BadInput(
                "no column has the interval of the bars; set it with --interval, to 1m for example", line=header
            )

    @classmethod
    def of(cls, file: DataFile, layout: FileLayout, options: ReadOptions) -> RowReader:
        """Return a reader for the blocks of a file."""
        return cls(file.path.name, file.unit, layout, options, header=file.header_number)

    @property
    def times(self) -> TimeColumn | None:
        """Return the reader of the time column; None before the first row."""
        return self._times

    @property
    def choices(self) -> list[str]:
        """Return notes for the user about the reading of ambiguous or inexact values in the rows so far."""
        found = self.first_choices
        if self._widened:
            found.append(f"{self._widened:,} {_WIDENED} (first: {self._first_widened})")
        return found + (self._times.late_choices if self._times is not None else [])

    @property
    def first_choices(self) -> list[str]:
        """Return notes for the user about ambiguous formats that were chosen from the first rows for the whole file."""
        readers = (self._numbers, self._times, self._clock)
        return [reader.choice for reader in readers if reader is not None and reader.choice is not None]

    @property
    def takes_decimal(self) -> bool:
        """Return True if the given decimal mark has an effect."""
        return self._numbers.is_given

    @property
    def given_symbol(self) -> str | None:
        """Return the symbol of the options, in normal form; None if not given."""
        return self._given_symbol

    @property
    def given_interval(self) -> str | None:
        """Return the interval of the options, in normal form; None if not given."""
        return self._given_interval.name if self._given_interval is not None else None

    @property
    def symbols(self) -> list[str]:
        """Return the symbols read so far, in the order of their first rows."""
        return list(self._file_symbols.codes)

    def scan(self, block: Block, checks: BarChecks | None = None) -> Int64Array:
        """Return the plausible times of a block, and record its symbols. Other columns may be absent.

        Bars are added to `checks`.
        """
        times, symbols, grid, reasons = self._time_and_symbol(block)
        good = is_plausible(times, EARLIEST_BAR_US if self.kind == BARS else EARLIEST_TICK_US)
        good[list(reasons)] = False
        if checks is not None and grid is not None and self._times is not None and len(times):
            checks.scan(self.groups(symbols, grid)[good], times[good], self._times.written[good])
        if self.first_reason is None and (not good.all() or block.broken):
            found = {int(block.numbers[row]): reason for row, reason in reasons.items()}
            for row in np.flatnonzero(~good)[:1].tolist():
                written = quoted(value_at(self._time_column(block), row))
                found.setdefault(
                    int(block.numbers[row]), f"the time {written} is outside {_YEARS[self.kind == BARS]}; correct it"
                )
            found.update({row.number: row.reason for row in block.broken})
            self.first_reason = f"{self._unit} {min(found)}: {found[min(found)]}"
        return times[good]

    def groups(self, symbols: pa.DictionaryArray, grid: pa.DictionaryArray) -> Int64Array:
        """Return a number for each bar, which identifies its symbol and interval in `BarChecks`: int64[rows]."""
        codes = [self._file_symbols.codes.get(symbol, 0) for symbol in symbols.dictionary.to_pylist()] or [0]
        return group_codes(np.array(codes)[symbols.indices.to_numpy(zero_copy_only=False)], grid)

    def scan_columns(self) -> list[str]:
        """Return the names of the columns that `scan` reads."""
        roles = ("time", "symbol", "interval")
        names = [self._layout.columns[role] for role in roles if role in self._layout.columns]
        return list(dict.fromkeys([*names, *self._layout.symbol_columns, *self._layout.clock_columns]))

    def written(self, block: Block) -> Int64Array:
        """Return the clock as written in each valid row, in microseconds. No zone is needed."""
        column = self._time_column(block)
        if not len(column):
            return np.empty(0, np.int64)
        values = self._new_times(block).parse(column)
        found: Int64Array = values.written()[values.kind != INVALID]
        return found

    def read(self, block: Block) -> Rows:
        """Return the rows of a block in the schema of the log."""
        block = self._databento.select(block) if self._databento is not None else block
        self.detect_numbers(block)
        times, symbols, grid, reasons = self._time_and_symbol(block)
        batch = (
            self._bars(block, times, symbols, grid, reasons)
            if self.kind == BARS
            else self._ticks(block, times, symbols, reasons)
        )
        for row, reason in (check_bars(batch) if self.kind == BARS else check_ticks(batch)).items():
            reasons.setdefault(row, reason)
        dead = [*block.broken, *self._dead(block, reasons)]
        numbers = block.numbers
        if reasons:
            keep = np.ones(len(numbers), dtype=np.bool_)
            keep[list(reasons)] = False
            batch, numbers, times = batch.filter(pa.array(keep)), numbers[keep], times[keep]
        if self.kind == BARS:
            batch = self._widen(batch, numbers)
        dead = [BrokenRow(d.number, f"{self._name} {self._unit} {d.number}: {d.reason}", d.payload) for d in dead]
        return Rows(batch, numbers, times, sorted(dead, key=lambda row: row.number), block.end)

    def _widen(self, batch: pa.RecordBatch, numbers: Int64Array) -> pa.RecordBatch:
        """Return the bars with high and low widened to open and close, and count the widened bars."""
        result = widen_bars(batch)
        if result is not batch:
            changed = np.zeros(batch.num_rows, np.bool_)
            for name in ("high", "low"):
                changed |= np.asarray(batch[name]) != np.asarray(result[name])
            if not self._widened:
                self._first_widened = f"{self._name} {self._unit} {numbers[int(np.argmax(changed))]}"
            self._widened += int(changed.sum())
        return result

    # Columns ---------------------------------------------------------------------------------------------------------

    def _time_and_symbol(self, block: Block) -> tuple[Int64Array, pa.Array, pa.Array | None, Reasons]:
        reasons: Reasons = {}
        rows = len(block.numbers)
        symbols, codes = self._symbols(block, rows, reasons)
        grid = self._intervals(block, rows, reasons) if self.kind == BARS else None
        column = self._time_column(block)
        if not rows:
            return np.empty(0, np.int64), symbols, grid, reasons
        if self._times is None:
            self._times = self._new_times(block)
        times, unread = self._times.read(column, codes, _daily(grid, rows))
        for row, reason in unread.items():
            reasons.setdefault(row, reason)
        if grid is not None and "1w" in grid.dictionary.to_pylist():
            weekly = pc.equal(grid.cast(pa.utf8()), "1w").to_numpy(zero_copy_only=False)
            times = np.where(weekly, Interval(WEEK_US, "1w").floor(times), times)
        return times, symbols, grid, reasons

    def _time_column(self, block: Block) -> pa.Array:
        column = block.columns[self._layout.columns["time"]]
        if self._clock is not None and self._layout.clock:
            clock, *parts = (block.columns[name] for name in self._layout.clock_columns)
            column = self._clock.join(column, clock, parts)
        return column

    def _new_times(self, block: Block) -> TimeColumn:
        return TimeColumn(
            tz=check_zone(self._options.tz) if self._options.tz else None,
            date_order=self._options.date_order,
            implied_tz=self._layout.zone,
            line=int(block.numbers[0]) if self._unit == "line" else None,
            late_us=0 if self.kind == BARS else MINUTE_US,
        )

    def _symbols(self, block: Block, rows: int, reasons: Reasons) -> tuple[pa.Array, Int32Array]:
        name = self._layout.columns.get("symbol")
        if name is None:
            assert self._given_symbol is not None
            self._file_symbols.add(self._given_symbol)
            codes = np.zeros(rows, dtype=np.int32)
            return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array([self._given_symbol])), codes
        column = self._symbol_column(block)
        texts = self._file_symbols.of(column.dictionary)
        indices = column.indices.fill_null(0).cast(pa.int32()).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
            reasons[row] = "the symbol is missing"
        for at, reason in texts.invalid.items():
            for row in np.flatnonzero(indices == at).tolist():
                reasons.setdefault(row, reason)
        return pa.DictionaryArray.from_arrays(pa.array(texts.name_of[indices]), texts.names), texts.codes[indices]

    def _symbol_column(self, block: Block) -> pa.DictionaryArray:
        """Return the symbols as a dictionary array. A share-class suffix follows its symbol after a dot."""
        column, *more = (block.columns[name] for name in self._layout.symbol_columns)
        for suffix in more:
            texts = pc.utf8_trim_whitespace(suffix.cast(pa.utf8())).fill_null("")
            has = pc.not_equal(texts, "")
            self.has_suffix |= bool(pc.any(has).as_py())
            roots = pc.utf8_trim_whitespace(column.cast(pa.utf8()))
            column = pc.if_else(has, pc.binary_join_element_wise(roots, texts, "."), roots)
        return column if pa.types.is_dictionary(column.type) else column.cast(pa.utf8()).dictionary_encode()

    def _intervals(self, block: Block, rows: int, reasons: Reasons) -> pa.Array:
        name = self._layout.columns.get("interval")
        if name is None:
            assert self._given_interval is not None
            indices = np.zeros(rows, np.int8)
            return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array([self._given_interval.name]))
        column = block.columns[name].cast(pa.utf8()).fill_null("").dictionary_encode()
        names: list[str] = []
        for at, text in enumerate(column.dictionary.to_pylist()):
            try:
                if not text.strip():
                    raise BadInput(f"the interval is missing; use one of {INTERVAL_NAMES}")
                found = intervals.parse(self._interval_named(text.strip()))
                if found not in INTERVALS and not found.is_activity:
                    raise BadInput(f"the interval is {found}; use one of {INTERVAL_NAMES}")
                names.append(found.name)
            except BadInput as error:
                names.append("1m")
                for row in np.flatnonzero(column.indices.to_numpy(zero_copy_only=False) == at).tolist():
                    reasons[row] = str(error)
        unique = list(dict.fromkeys(names)) or ["1m"]
        index_of = np.array([unique.index(p) for p in names] or [0], np.int8)
        local = index_of[column.indices.fill_null(0).to_numpy(zero_copy_only=False)]
        return pa.DictionaryArray.from_arrays(pa.array(local, pa.int8()), pa.array(unique))

    def _interval_named(self, text: str) -> str:
        """Return the name of an interval. Databento writes a record type, and Finam and Stooq write minutes."""
        column = self._layout.columns["interval"]
        if column == self._layout.databento.get("rtype"):
            return RECORD_TYPES.get(text, text)
        return f"{text}m" if normalise(column) == "per" and text and not text.strip("0123456789") else text

    def detect_numbers(self, block: Block) -> None:
        """Decide the format of the numbers from the first block. Raises BadInput if they have two readings."""
        names = [self._layout.columns[role] for role in _NUMBERS if role in self._layout.columns]
        line = int(block.numbers[0]) if self._unit == "line" and len(block.numbers) else None
        if len(block.numbers):
            self._numbers.detect((block.columns[name] for name in names), line)

    def _ticks(self, block: Block, times: Int64Array, symbols: pa.Array, reasons: Reasons) -> pa.RecordBatch:
        rows = len(times)
        flags = self._floats(block, "flags", reasons, absent=0.0)
        known = (flags >= 0) & (flags <= KNOWN_BITS) & (flags == np.floor(flags))
        for row in np.flatnonzero(~known).tolist():
            reasons.setdefault(row, "the flags contain unknown bits")
        trade_id = self._texts(block, "trade_id")
        columns = [
            timestamps(times),
            symbols.cast(TEXT),
            pa.array(self._floats(block, "price", reasons)),
            pa.array(self._floats(block, "size", reasons, absent=0.0)),
            self._sources(block, rows),
            trade_id if trade_id is not None else pa.nulls(rows, pa.utf8()),
            pa.array(np.where(known, flags, 0).astype(np.uint16) | self._conditions(block, times)),
            timestamps(times),
        ]
        exchanges = self._texts(block, "exchange")
        if exchanges is None:
            return pa.RecordBatch.from_arrays(columns, schema=TICKS)
        return pa.RecordBatch.from_arrays(
            [*columns, exchanges.dictionary_encode().cast(TEXT)], schema=TICKS_OF_EXCHANGES
        )

    def _conditions(self, block: Block, times: Int64Array) -> npt.NDArray[np.uint16]:
        """Return the flags of a block's conditions and corrections.

        A table in the options takes precedence over the tapes.
        """
        columns = self._layout.columns
        bits = np.zeros(len(times), dtype=np.uint16)
        if "conditions" in columns:
            tapes = None if self._options.conditions or "tape" not in columns else block.columns[columns["tape"]]
            bits = self.conditions.flags(block.columns[columns["conditions"]], self._table, tapes)
            if (bits & TickFlag.EXTENDED).any():
                regular = calendar(_EXCHANGE).is_regular(times)
                bits = conditions.without_price_in_regular_hours(bits, regular)
        if "correction" in columns:
            bits = bits | self.corrections.flags(block.columns[columns["correction"]], conditions.CORRECTIONS)
        return bits

    def _bars(
        self, block: Block, times: Int64Array, symbols: pa.Array, grid: pa.Array | None, reasons: Reasons
    ) -> pa.RecordBatch:
        assert grid is not None
        rows = len(times)
        vwap = self._floats(block, "vwap", reasons, absent=np.nan)
        trades = self._floats(block, "trades", reasons, absent=np.nan)
        for row in np.flatnonzero((trades < 0) | (trades != np.floor(trades)) & ~np.isnan(trades)).tolist():
            reasons.setdefault(row, f"trades {trades[row]} is not a number of trades; set --column trades=NAME")
        columns = [
            timestamps(times),
            symbols.cast(TEXT),
            grid.cast(SMALL_TEXT),
            *(pa.array(self._floats(block, name, reasons)) for name in ("open", "high", "low", "close")),
            pa.array(self._floats(block, "volume", reasons, absent=0.0)),
            pa.array(vwap, mask=np.isnan(vwap)),
            pa.array(np.nan_to_num(trades).astype(np.int64), mask=np.isnan(trades)),
            self._sources(block, rows),
            pa.array(np.ones(rows, dtype=np.bool_)),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=VENDOR_BARS)

    def _sources(self, block: Block, rows: int) -> pa.Array:
        texts = self._texts(block, "source")
        if texts is None:
            return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([self._options.source]))
        return texts.fill_null(self._options.source).dictionary_encode().cast(TEXT)

    def _texts(self, block: Block, role: str) -> pa.Array | None:
        """Return a column as text with nulls for empty values; None if the file has no such column."""
        name = self._layout.columns.get(role)
        if name is None:
            return None
        texts = block.columns[name].cast(pa.utf8())
        return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.utf8()), texts)

    def _floats(self, block: Block, role: str, reasons: Reasons, *, absent: float | None = None) -> Float64Array:
        """Return a column as numbers. An empty value becomes `absent`; if `absent` is None, the row is broken."""
        name = self._layout.columns.get(role)
        if name is None:
            assert absent is not None
            return np.full(len(block.numbers), absent)
        column = block.columns[name]
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        if self._layout.databento and role in _PRICES and (pa.types.is_integer(column.type) or is_text):
            fixed = fixed_prices(column)
            if fixed is not None:
                for row in np.flatnonzero(np.isnan(fixed)).tolist():
                    reasons.setdefault(row, f"the {role} is missing")
                return np.nan_to_num(fixed)
        if not is_text:
            return self._typed_floats(column, role, reasons, absent)
        values, missing, invalid = self._numbers.read(column)
        for row in np.flatnonzero(invalid).tolist():
            reasons.setdefault(row, self._numbers.why_invalid(role, value_at(column, row)))
        if absent is not None:
            return np.where(missing, absent, values)
        for row in np.flatnonzero(missing).tolist():
            reasons.setdefault(row, f"the {role} is missing")
        return values

    def _typed_floats(self, column: pa.Array, role: str, reasons: Reasons, absent: float | None) -> Float64Array:
        try:
            floats = column.cast(pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise BadInput(
                f"the column {self._layout.columns[role]} for {role} contains {column.type}, not numbers; set --column "
                f"{role}=NAME"
            ) from error
        if floats.null_count and absent is None:
            for row in np.flatnonzero(floats.is_null().to_numpy(zero_copy_only=False)).tolist():
                reasons.setdefault(row, f"the {role} is missing")
        result: Float64Array = floats.fill_null(0.0 if absent is None else absent).to_numpy(zero_copy_only=False)
        return result

    def _dead(self, block: Block, reasons: Reasons) -> list[BrokenRow]:
        if not reasons:
            return []
        order = sorted(reasons)
        wanted = pa.array(order)
        values = {name: values_of(column.take(wanted)) for name, column in block.columns.items()}
        encoder = msgspec.json.Encoder(enc_hook=str)
        return [
            BrokenRow(
                int(block.numbers[row]),
                reasons[row],
                encoder.encode({name: column[at] for name, column in values.items()}),
            )
            for at, row in enumerate(order)
        ]


def _daily(grid: pa.Array | None, rows: int) -> BoolArray:
    """Return a mask of the rows whose times are dates of sessions."""
    if grid is None:
        return np.zeros(rows, np.bool_)
    by_code = np.array([not intervals.parse(name).is_activity and intervals.parse(name).us >= DAY_US
                        for name in grid.dictionary.to_pylist()])  # fmt: skip
    result: BoolArray = by_code[grid.indices.to_numpy(zero_copy_only=False)]
    return result


def _one_symbol(given: str | None, of_file: str | None) -> str | None:
    """Return the symbol of the options or of the lines above the header; None if neither has a symbol.

    Raises BadInput if they differ.
    """
    symbols = [check_symbol(symbol) for symbol in (given, of_file) if symbol]
    if len(set(symbols)) > 1:
        raise BadInput(f"the header contains the symbol {symbols[1]}, not {symbols[0]}: omit --symbol")
    return symbols[0] if symbols else None

"""Dispatches raw records to the engine. Each kind of record has one handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tickerplant.aggregation.bar_aggregator import BarAggregator
from tickerplant.aggregation.candidates import REASONS
from tickerplant.aggregation.decode import check, read_ticks, read_vendor_bars
from tickerplant.aggregation.rows import Codes
from tickerplant.core import records
from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.rules import rules_from
from tickerplant.core.streams import EMPTY_HISTORY, MAX_PASSED_ON_BYTES, ConsumedRecord, History
from tickerplant.core.times import FOREVER_US, NEVER_US
from tickerplant.core.version import make_version

PASSED_ON: Final = (records.Mark, records.End, records.Settings, records.Splits, records.AlertRule)
"""Kinds of raw records that aggregation passes on to `market.prices.ohlcv`."""
_MAX_REASONS: Final = 100
"""Maximum distinct reasons: the column `reason` of published bars is a dictionary with int8 indices. The first reason
after `REASONS` replaces each further reason."""


class Dispatcher:
    """Applies raw records to an engine. The caller calls the engine's `finish` after each `apply`.

    `only`: codes of the symbols whose ticks and bars a rebuild applies. Outside a rebuild, `only` is None, and all
    symbols are applied. A rebuild keeps the engine's rules: it ignores the values of `Settings` records.
    """

    def __init__(self, engine: BarAggregator, generation: int, *, only: Codes | None = None) -> None:
        self._engine, self._generation, self._only = engine, generation, only
        self._handlers: dict[type[records.Header], Callable[[Any, pa.RecordBatch, int, History], None]] = {
            records.Start: self._start,
            records.Ticks: self._ticks,
            records.VendorBars: self._vendor_bars,
            records.Mark: self._mark,
            records.Down: self._down,
            records.End: self._end,
            records.Settings: self._settings if only is None else self._advance_clock,
            records.Splits: self._advance_clock,
            records.Dividends: self._advance_clock,
            records.Answers: self._advance_clock,
            records.Rebuild: self._advance_clock,
            records.AlertRule: self._advance_clock,
        }

    def apply(self, consumed: ConsumedRecord, history: History = EMPTY_HISTORY) -> records.Record:
        """Apply one record to the engine; return the decoded record.

        Raises UnreadableRecord or ConfigError for a record that cannot be applied; the engine is then unchanged.
        """
        record = records.decode(consumed.value)
        handler = self._handlers.get(type(record.header))
        if handler is None:
            raise UnreadableRecord(f"{type(record.header).__name__} does not belong into {consumed.topic}")
        if len(memoryview(consumed.value).cast("B")) > MAX_PASSED_ON_BYTES and isinstance(record.header, PASSED_ON):
            kind = type(record.header).__name__
            raise UnreadableRecord(f"a {kind} record of more than {MAX_PASSED_ON_BYTES} bytes cannot be passed on")
        check(record.batch)
        handler(record.header, record.batch, consumed.offset, history)
        return record

    def version(self, offset: int) -> int:
        """Return the version of the raw record at `offset`."""
        return make_version(self._generation, offset)

    def _begin(self, header: records.Header) -> BarAggregator:
        self._engine.begin(header.feed, header.sent_at_us)
        return self._engine

    def _start(self, header: records.Start, batch: pa.RecordBatch, offset: int, history: History) -> None:
        engine = self._begin(header)
        symbols = engine.state.symbols.codes(batch.column(0), header.feed)
        engine.state.refresh()
        engine.start(
            header.feed,
            _clipped(header.from_us),
            symbols,
            gap=header.hole,
            live=header.live,
            whole=header.whole,
            firm=header.firm,
        )
        if engine.state.feed(header.feed).is_file:
            engine.state.file_begins(header.feed, symbols, _clipped(header.from_us), offset)

    def _ticks(self, header: records.Ticks, batch: pa.RecordBatch, offset: int, history: History) -> None:
        state = self._engine.state
        ticks, unusable = read_ticks(batch, state.symbols, state.sources, header.feed)
        engine = self._begin(header)
        if self._only is not None:
            ticks = ticks.where(np.isin(ticks.symbol, self._only))
        if unusable:
            engine.unsupported(header.feed, "price or size is no number", unusable)
        engine.ticks(header.feed, ticks, _clipped(header.watermark_us), offset, self.version(offset), history)

    def _vendor_bars(self, header: records.VendorBars, batch: pa.RecordBatch, offset: int, history: History) -> None:
        state = self._engine.state
        rows, intervals, usable = read_vendor_bars(batch, state.symbols, state.sources, header.feed)
        engine = self._begin(header)
        rows["first_offset"] = rows["last_offset"] = offset
        rows["arrival"] = self.version(offset)
        rows["reason"] = self._reason(header.reason)
        if not usable.all():
            reason = "bar of another interval, off its bucket, or without prices"
            engine.unsupported(header.feed, reason, int(np.count_nonzero(~usable)))
        if self._only is not None:
            usable &= np.isin(rows["symbol"], self._only)
        engine.vendor_bars(header.feed, rows[usable], intervals[usable], _clipped(header.watermark_us))

    def _reason(self, text: str) -> int:
        reasons = self._engine.state.reasons
        if len(reasons) < _MAX_REASONS or text in reasons.texts:
            return reasons.code(text)
        return len(REASONS)

    def _mark(self, header: records.Mark, batch: pa.RecordBatch, offset: int, history: History) -> None:
        self._begin(header).mark(header.feed, _clipped(header.watermark_us))

    def _down(self, header: records.Down, batch: pa.RecordBatch, offset: int, history: History) -> None:
        self._begin(header).down(header.feed, _clipped(header.since_us), header.reason)

    def _end(self, header: records.End, batch: pa.RecordBatch, offset: int, history: History) -> None:
        watermark_us = NEVER_US if header.watermark_us is None else _clipped(header.watermark_us)
        self._begin(header).end(header.feed, whole=header.whole, watermark_us=watermark_us)

    def _settings(self, header: records.Settings, batch: pa.RecordBatch, offset: int, history: History) -> None:
        self._engine.settings(rules_from(header.values))
        self._engine.begin("", header.sent_at_us)

    def _advance_clock(self, header: records.Header, batch: pa.RecordBatch, offset: int, history: History) -> None:
        self._engine.begin("", header.sent_at_us)


def _clipped(us: int) -> int:
    return min(max(us, NEVER_US), FOREVER_US)

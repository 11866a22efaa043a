"""Records in, records out: the pure stage of one partition around the engine.

Of one step's outputs the bars come first, then the record that is passed on to those behind, then what `market.status`
hears. Every output names the version of the raw record that caused it, and carries that record's `sent_at_us`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.aggregation import snapshot
from tickerplant.aggregation.bar_aggregator import BarAggregator, Outcome
from tickerplant.aggregation.finished import REASONS
from tickerplant.aggregation.grouping import TickColumns
from tickerplant.aggregation.publish import bars_of, coverage_of
from tickerplant.aggregation.rows import FROM_VENDOR, INTERVALS, empty_rows
from tickerplant.core import records, schemas
from tickerplant.core.errors import BadInput, ConfigError, UnreadableRecord
from tickerplant.core.interval import parse
from tickerplant.core.rules import rules_from
from tickerplant.core.times import FOREVER_US, NEVER_US, Int64Array, from_us, times_of, to_us
from tickerplant.core.version import make_version

_FIRST_US: Final = to_us(dt.datetime(1800, 1, 1, tzinfo=dt.UTC))
_LAST_US: Final = to_us(dt.datetime(2261, 1, 1, tzinfo=dt.UTC))
_MAX_REASONS: Final = 100  # the reason of a published bar is an int8 dictionary

FORMAT: Final = snapshot.FORMAT


class Arrived(Protocol):
    """A raw record with its place, as the log delivers it."""

    @property
    def topic(self) -> str: ...  # noqa: D102
    @property
    def partition(self) -> int: ...  # noqa: D102
    @property
    def offset(self) -> int: ...  # noqa: D102
    @property
    def value(self) -> Any: ...  # noqa: D102


class Produced(NamedTuple):
    """A record to append to a topic, in the partition of its cause."""

    topic: str
    value: Any


class AggregationStage:
    """The state of one partition; `step` never raises for what a record says: that goes to the dead letter."""

    def __init__(self, generation: int, kept: bytes | None = None) -> None:
        self._generation = generation
        self._engine = BarAggregator(None if kept is None else snapshot.restore(kept))
        self._handlers: dict[type[records.Header], Callable[[Any, pa.RecordBatch, int, int], None]] = {
            records.Start: self._start,
            records.Ticks: self._ticks,
            records.VendorBars: self._vendor_bars,
            records.Mark: self._mark,
            records.Down: self._down,
            records.End: self._end,
            records.Settings: self._settings,
            records.Splits: self._nothing,
            records.Dividends: self._nothing,
            # Running a stretch again from raw needs the log: it is read before the step and comes with the record.
            records.Rebuild: self._nothing,
        }

    def step(self, delivery: Arrived) -> list[Produced]:
        """Take one raw record and return what it causes."""
        try:
            record = records.decode(delivery.value)
            handler = self._handlers.get(type(record.header))
            if handler is None:
                raise UnreadableRecord(f"{type(record.header).__name__} does not belong into {delivery.topic}")
            _check(record.batch)
            version = make_version(self._generation, delivery.offset)
            handler(record.header, record.batch, delivery.offset, version)
        except (UnreadableRecord, ConfigError) as error:
            return [_dead(delivery, str(error), self._engine.state.last_sent_us)]
        return self._publish(record, self._engine.finish(), version)

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return snapshot.dump(self._engine.state)

    def keep_label(self) -> str | None:
        """Return the UTC day of the log's clock: retention counts in days of it."""
        sent = self._engine.state.last_sent_us
        return from_us(sent).date().isoformat() if _FIRST_US <= sent <= _LAST_US else None

    def _publish(self, record: records.Record, outcome: Outcome, version: int) -> list[Produced]:
        header, state = record.header, self._engine.state
        said: dict[str, Any] = {"feed": header.feed, "sent_at_us": header.sent_at_us, "cause": version}
        result = [
            Produced(schemas.OHLCV, records.encode(records.Bars(**said), batch))
            for batch in bars_of(state, outcome, version, header.sent_at_us)
        ]
        passed = _passed_on(header, said)
        if passed is not None:
            batch = record.batch if isinstance(passed, records.Splits) else None
            result.append(Produced(schemas.OHLCV, records.encode(passed, batch)))
        for over in outcome.over:
            said["feed"] = over.feed
            emitted = int(np.count_nonzero(over.emitted))
            interval = INTERVALS[over.interval].name
            told = records.Over(
                **said, interval=interval, start_us=over.start_us, expected=len(over.symbols), emitted=emitted
            )
            result.append(Produced(schemas.STATUS, records.encode(told, coverage_of(state, over))))
        for row in outcome.states:
            said["feed"] = row.feed
            feed_state = records.FeedState(
                **said, state=row.state, since_us=row.since_us, reason=row.reason, count=row.count
            )
            result.append(Produced(schemas.STATUS, records.encode(feed_state)))
        return result

    def _begin(self, header: records.Header) -> BarAggregator:
        self._engine.begin(header.feed, header.sent_at_us)
        return self._engine

    def _start(self, header: records.Start, batch: pa.RecordBatch, offset: int, version: int) -> None:
        engine = self._begin(header)
        symbols = engine.state.symbols.codes(batch.column(0), header.feed)
        engine.state.refresh()
        engine.start(
            header.feed, _time(header.from_us), symbols, hole=header.hole, live=header.live, whole=header.whole
        )

    def _ticks(self, header: records.Ticks, batch: pa.RecordBatch, offset: int, version: int) -> None:
        times = _times(batch.column(0))
        engine = self._begin(header)
        state = engine.state
        ticks = TickColumns(
            time=times,
            symbol=state.symbols.codes(batch.column(1), header.feed),
            price=batch.column(2).to_numpy(),
            size=batch.column(3).to_numpy(),
            source=state.sources.codes(batch.column(4), header.feed),
            flags=batch.column(6).to_numpy(),
        )
        sound = np.isfinite(ticks.price) & np.isfinite(ticks.size)
        if not sound.all():
            engine.unsupported(header.feed, "price or size is no number", int(np.count_nonzero(~sound)))
            ticks = ticks.where(sound)
        engine.ticks(header.feed, ticks, _time(header.watermark_us), offset, version)

    def _vendor_bars(self, header: records.VendorBars, batch: pa.RecordBatch, offset: int, version: int) -> None:
        times = _times(batch.column(0))
        engine = self._begin(header)
        state = engine.state
        rows = empty_rows(batch.num_rows)
        rows["start"] = times
        rows["symbol"] = state.symbols.codes(batch.column(1), header.feed)
        for name, column in (("open", 3), ("high", 4), ("low", 5), ("close", 6), ("volume", 7)):
            rows[name] = batch.column(column).to_numpy()
        rows["vwap"] = batch.column(8).to_numpy(zero_copy_only=False)
        rows["pv"] = np.where(rows["volume"] == 0, 0.0, rows["vwap"] * rows["volume"])
        rows["trades"] = batch.column(9).fill_null(-1).to_numpy()
        rows["source"] = state.sources.codes(batch.column(10), header.feed)
        rows["complete"] = batch.column(11).to_numpy(zero_copy_only=False)
        rows["kind"] = FROM_VENDOR
        rows["open_time"] = rows["close_time"] = times
        rows["first_offset"] = rows["last_offset"] = offset
        rows["arrival"] = version
        rows["reason"] = self._reason(header.reason)
        codes = _interval_codes(batch.column(2))
        lengths = np.array([interval.us for interval in INTERVALS])[codes]
        usable = (codes >= 0) & (times % lengths == 0)
        for name in ("open", "high", "low", "close", "volume"):
            usable &= np.isfinite(rows[name])
        if not usable.all():
            reason = "bar of another interval, off its bucket, or without prices"
            engine.unsupported(header.feed, reason, int(np.count_nonzero(~usable)))
        engine.vendor_bars(header.feed, rows[usable], codes[usable], _time(header.watermark_us))

    def _reason(self, text: str) -> int:
        reasons = self._engine.state.reasons
        if len(reasons) < _MAX_REASONS or text in reasons.texts:
            return reasons.code(text)
        return len(REASONS)

    def _mark(self, header: records.Mark, batch: pa.RecordBatch, offset: int, version: int) -> None:
        self._begin(header).mark(header.feed, _time(header.watermark_us))

    def _down(self, header: records.Down, batch: pa.RecordBatch, offset: int, version: int) -> None:
        self._begin(header).down(header.feed, _time(header.since_us), header.reason)

    def _end(self, header: records.End, batch: pa.RecordBatch, offset: int, version: int) -> None:
        self._begin(header).end(header.feed, whole=header.whole)

    def _settings(self, header: records.Settings, batch: pa.RecordBatch, offset: int, version: int) -> None:
        rules = rules_from(header.values)
        self._engine.settings(rules)
        self._engine.begin("", header.sent_at_us)

    def _nothing(self, header: records.Header, batch: pa.RecordBatch, offset: int, version: int) -> None:
        self._engine.begin("", header.sent_at_us)


def _passed_on(header: records.Header, said: dict[str, Any]) -> records.Header | None:
    match header:
        case records.Mark():
            return records.Mark(**said, watermark_us=header.watermark_us)
        case records.End():
            return records.End(**said, whole=header.whole)
        case records.Settings():
            return records.Settings(**said, values=header.values)
        case records.Splits():
            return records.Splits(**said)
    return None


def _check(batch: pa.RecordBatch) -> None:
    """Raise UnreadableRecord for nulls where none may be."""
    for declared, column in zip(batch.schema, batch.columns, strict=True):
        if column.null_count and not declared.nullable:
            raise UnreadableRecord(f"column {declared.name} has nulls")
        if isinstance(column, pa.DictionaryArray) and column.dictionary.null_count:
            raise UnreadableRecord(f"the dictionary of column {declared.name} has nulls")


def _times(column: pa.Array) -> Int64Array:
    times = times_of(column)
    if len(times) and (times.min() < _FIRST_US or times.max() > _LAST_US):
        raise UnreadableRecord("times before 1800 or after 2260")
    return times


def _time(us: int) -> int:
    return min(max(us, NEVER_US), FOREVER_US)


def _interval_codes(column: pa.DictionaryArray) -> npt.NDArray[np.int8]:
    codes = []
    for name in column.dictionary.to_pylist():
        try:
            interval = parse(name)
        except BadInput:
            interval = None
        codes.append(INTERVALS.index(interval) if interval in INTERVALS else -1)
    result: npt.NDArray[np.int8] = np.array(codes, dtype=np.int8)[column.indices.to_numpy()]
    return result


def _dead(delivery: Arrived, reason: str, sent_at_us: int) -> Produced:
    value = bytes(memoryview(delivery.value))
    batch = pa.RecordBatch.from_pylist(
        [
            {
                "topic": delivery.topic,
                "partition": delivery.partition,
                "offset": delivery.offset,
                "reason": reason,
                "payload": value,
            }
        ],
        schema=schemas.DEAD,
    )
    return Produced(schemas.DEADLETTER, records.encode(records.Dead(sent_at_us=sent_at_us), batch))

"""The pure stage of one partition, around the engine: raw records in, published records out.

The outputs of one step are ordered: bars, then the record that is passed on to analytics and persistence (if any), then
the records of `market.status`. Each output contains the version of the raw record that caused the output. It also
contains the `sent_at_us` of that record; a dead letter contains log time instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import numpy as np

from tickerplant.aggregation import snapshot
from tickerplant.aggregation.bar_aggregator import BarAggregator
from tickerplant.aggregation.dispatch import Dispatcher
from tickerplant.aggregation.earlier_feeds import join_earlier_feeds
from tickerplant.aggregation.encode import bar_batches, coverage_batch, differences_batch
from tickerplant.aggregation.outcome import Outcome
from tickerplant.aggregation.rebuild import rebuild
from tickerplant.aggregation.rows import INTERVALS
from tickerplant.core import records, schemas
from tickerplant.core.errors import ConfigError, UnreadableRecord
from tickerplant.core.streams import EMPTY_HISTORY, ConsumedRecord, History, Output, Stage, StageFactory, dead_letter
from tickerplant.core.times import FIRST_US, LAST_US, datetime_of

FORMAT: Final = snapshot.FORMAT

_Header = TypeVar("_Header", bound=records.Header)


class AggregationStage(Stage):
    """The state of one partition. `step` never raises for the content of a record; it returns a dead letter instead."""

    def __init__(self, generation: int, kept: bytes | None = None) -> None:
        self._generation = generation
        self._engine = BarAggregator(None if kept is None else snapshot.decode_snapshot(kept))
        self._dispatcher = Dispatcher(self._engine, generation)
        self._only_ticks = False

    def step(self, consumed: ConsumedRecord, history: History = EMPTY_HISTORY) -> list[Output]:
        """Apply one raw record and return the records that it causes."""
        version, self._only_ticks = self._dispatcher.version(consumed.offset), False
        try:
            record = self._dispatcher.apply(consumed, history)
            if isinstance(record.header, records.Rebuild):
                rebuild(self._engine, self._generation, record, consumed.offset, history)
            elif isinstance(record.header, records.End):
                join_earlier_feeds(self._engine, self._generation, record.header.feed, consumed, history)
        except (UnreadableRecord, ConfigError) as error:
            return [dead_letter(consumed, str(error), self._engine.state.last_sent_us, cause=version)]
        self._engine.state.record_hour(consumed.offset)
        self._only_ticks = isinstance(record.header, records.Ticks)
        return list(self._outputs(record, self._engine.finish(), version))

    def commit_may_wait(self) -> bool:
        """Return whether the last record was a `Ticks` record: such records arrive continually."""
        return self._only_ticks

    def snapshot(self) -> bytes:
        """Return the whole state as bytes."""
        return snapshot.encode_snapshot(self._engine.state)

    def oldest_offset(self) -> int | None:
        """Return the smallest raw offset that a correction may read again; None if there is none."""
        return self._engine.state.oldest_offset()

    def keep_label(self) -> str | None:
        """Return the UTC date of log time. None before the first record and for times outside 1800 to 2260."""
        sent = self._engine.state.last_sent_us
        return datetime_of(sent).date().isoformat() if FIRST_US <= sent <= LAST_US else None

    def _outputs(self, record: records.Record, outcome: Outcome, version: int) -> Iterator[Output]:
        state, cause = self._engine.state, record.header

        def header(kind: type[_Header], feed: str, **more: Any) -> _Header:
            return kind(feed=feed, sent_at_us=cause.sent_at_us, cause=version, **more)

        for batch in bar_batches(state, outcome, version, cause.sent_at_us):
            yield Output(schemas.OHLCV, records.encode(header(records.Bars, cause.feed), batch))
        match cause:
            case records.Mark():
                passed = header(records.Mark, cause.feed, watermark_us=cause.watermark_us)
                yield Output(schemas.OHLCV, records.encode(passed))
            case records.End():
                yield Output(schemas.OHLCV, records.encode(header(records.End, cause.feed, whole=cause.whole)))
            case records.Settings():
                yield Output(schemas.OHLCV, records.encode(header(records.Settings, cause.feed, values=cause.values)))
            case records.Splits():
                yield Output(schemas.OHLCV, records.encode(header(records.Splits, cause.feed), record.batch))
            case records.AlertRule():
                rule = header(records.AlertRule, cause.feed, rule=cause.rule, removed=cause.removed)
                yield Output(schemas.OHLCV, records.encode(rule))
        for over in outcome.over:
            interval_over = header(
                records.Over,
                over.feed,
                interval=INTERVALS[over.interval].name,
                start_us=over.start_us,
                expected=len(over.symbols),
                emitted=int(np.count_nonzero(over.emitted)),
                whole=over.whole,
            )
            yield Output(schemas.STATUS, records.encode(interval_over, coverage_batch(state, over)))
        differences = differences_batch(state, outcome)
        if differences is not None:
            yield Output(schemas.STATUS, records.encode(header(records.Differences, cause.feed), differences))
        for row in outcome.statuses:
            status = header(
                records.FeedState, row.feed, state=row.state, since_us=row.since_us, reason=row.reason, count=row.count
            )
            yield Output(schemas.STATUS, records.encode(status))


class AggregationStageFactory(StageFactory):
    """Creates the stages of a log of one generation."""

    format: int = FORMAT

    def __init__(self, generation: int) -> None:
        self._generation = generation

    def __call__(self, partition: int, snapshot: bytes | None) -> AggregationStage:
        """Return the stage restored from `snapshot`, or a new stage if `snapshot` is None."""
        return AggregationStage(self._generation, snapshot)

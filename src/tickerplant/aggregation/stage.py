"""Records in, records out: the pure stage of one partition around the engine.

Of one step's outputs the bars come first, then the record that is passed on to those behind, then what `market.status`
hears. Every output names the version of the raw record that caused it, and carries that record's `sent_at_us`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tickerplant.aggregation import snapshot
from tickerplant.aggregation.bar_aggregator import BarAggregator, Outcome
from tickerplant.aggregation.columns import FIRST_US, LAST_US
from tickerplant.aggregation.decode import Intake
from tickerplant.aggregation.encode import bars_of, coverage_of, differences_of
from tickerplant.aggregation.rebuild import rebuild
from tickerplant.aggregation.rows import INTERVALS
from tickerplant.core import records, schemas
from tickerplant.core.errors import ConfigError, UnreadableRecord
from tickerplant.core.streams import EMPTY_HISTORY, ConsumedRecord, History, Output, Stage, StageFactory, dead_letter
from tickerplant.core.times import datetime_of

FORMAT: Final = snapshot.FORMAT


class AggregationStage(Stage):
    """The state of one partition; `step` never raises for what a record says: that goes to the dead letter."""

    def __init__(self, generation: int, kept: bytes | None = None) -> None:
        self._generation = generation
        self._engine = BarAggregator(None if kept is None else snapshot.restore(kept))
        self._intake = Intake(self._engine, generation)

    def step(self, consumed: ConsumedRecord, history: History = EMPTY_HISTORY) -> list[Output]:
        """Apply one raw record and return the records that it causes."""
        try:
            record = self._intake.take(consumed, history)
            if isinstance(record.header, records.Rebuild):
                rebuild(self._engine, self._generation, record, consumed.offset, history)
        except (UnreadableRecord, ConfigError) as error:
            sent_at_us, version = self._engine.state.last_sent_us, self._intake.version(consumed.offset)
            return [dead_letter(consumed, str(error), sent_at_us, cause=version)]
        self._engine.state.note_hour(consumed.offset)
        return self._publish(record, self._engine.finish(), self._intake.version(consumed.offset))

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return snapshot.dump(self._engine.state)

    def oldest_offset(self) -> int | None:
        """Return the least raw offset that a later step may read again (see `recount`), or None if there is none."""
        return self._engine.state.oldest_offset()

    def keep_label(self) -> str | None:
        """Return the UTC day of the log's clock: retention counts in days of it."""
        sent = self._engine.state.last_sent_us
        return datetime_of(sent).date().isoformat() if FIRST_US <= sent <= LAST_US else None

    def _publish(self, record: records.Record, outcome: Outcome, version: int) -> list[Output]:
        header, state = record.header, self._engine.state
        said: dict[str, Any] = {"feed": header.feed, "sent_at_us": header.sent_at_us, "cause": version}
        result = [
            Output(schemas.OHLCV, records.encode(records.Bars(**said), batch))
            for batch in bars_of(state, outcome, version, header.sent_at_us)
        ]
        passed = _passed_on(header, said)
        if passed is not None:
            batch = record.batch if isinstance(passed, records.Splits) else None
            result.append(Output(schemas.OHLCV, records.encode(passed, batch)))
        for over in outcome.over:
            said["feed"] = over.feed
            emitted = int(np.count_nonzero(over.emitted))
            interval = INTERVALS[over.interval].name
            told = records.Over(
                **said,
                interval=interval,
                start_us=over.start_us,
                expected=len(over.symbols),
                emitted=emitted,
                whole=over.whole,
            )
            result.append(Output(schemas.STATUS, records.encode(told, coverage_of(state, over))))
        differences = differences_of(state, outcome)
        if differences is not None:
            said["feed"] = header.feed
            result.append(Output(schemas.STATUS, records.encode(records.Differences(**said), differences)))
        for row in outcome.states:
            said["feed"] = row.feed
            feed_state = records.FeedState(
                **said, state=row.state, since_us=row.since_us, reason=row.reason, count=row.count
            )
            result.append(Output(schemas.STATUS, records.encode(feed_state)))
        return result


class AggregationStageFactory(StageFactory):
    """Makes the stages of a log of one generation."""

    format: int = FORMAT

    def __init__(self, generation: int) -> None:
        self._generation = generation

    def __call__(self, partition: int, snapshot: bytes | None) -> AggregationStage:
        """Return the stage restored from `snapshot`, or a new one for None."""
        return AggregationStage(self._generation, snapshot)


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
        case records.AlertRule():
            return records.AlertRule(**said, rule=header.rule, removed=header.removed)
    return None

"""The pure stage of one partition, around the engine: bars in, values and alerts out.

The outputs of one step are values of closed bars, then values of forming bars, then fired alerts. They contain the
`sent_at_us`, `feed` and `cause` of the record that caused them. A dead letter contains the time at which the record was
appended. `Mark` and `End` records are passed on unchanged, so that a reader of `market.analytics` can follow the
progress of each feed.

If the retained bars are too few to correct a series, the series is queued (`recompute_queue`) and computed from stored
history between two records. `due` returns the series that may be computed, and `recompute` computes one series. The
version of the values is the newest cause of the applied records. No published value of these bars has a greater
version. If versions are equal, the last published value wins.

A state that was built from the store (`begin`) already contains all records before `known_to`. The stage publishes the
withdrawals and alerts of these records, and queues the series that they changed. It computes these series again after
it has reached `known_to`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from tickerplant.analytics import snapshot
from tickerplant.analytics.alerts.evaluator import AlertEvaluator
from tickerplant.analytics.alerts.fired_alerts import alert_batch
from tickerplant.analytics.encode import value_batches
from tickerplant.analytics.realtime.engine import Engine
from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.splits import Split, splits_of
from tickerplant.core import records, schemas
from tickerplant.core.errors import BadInput, ConfigError, UnreadableRecord
from tickerplant.core.rules import Rules, rules_from
from tickerplant.core.streams import EMPTY_HISTORY, ConsumedRecord, History, Output, Stage, dead_letter
from tickerplant.core.times import FOREVER_US, NEVER_US, iso

FORMAT: Final = snapshot.FORMAT
_MIN_LABEL_US: Final = 0
_MAX_LABEL_US: Final = 9_000_000_000_000_000  # in 2255


class AnalyticsStage(Stage):
    """The state of one partition. `step` never raises for the content of a record; it returns a dead letter instead."""

    def __init__(self, data: bytes | None = None) -> None:
        if data is None:
            engine = Engine()
            self._state = snapshot.PartitionState(engine, AlertEvaluator(engine.rules, engine.splits))
        else:
            self._state = snapshot.decode_snapshot(data)
        self.engine, self.alerts = self._state.engine, self._state.alerts
        self.recompute_queue = self._state.recompute_queue

    def begin(self, rules: Rules | None, known_to: int, *, cold: bool = False) -> None:
        """Initialise a state that will contain all records before the offset `known_to`.

        `rules` are the current rules; None if unknown. `cold` means that the store was unavailable.
        """
        state = self._state
        if rules is not None:
            try:
                self.engine.apply_rules(rules)
                self.alerts.apply_rules(rules)
            except (BadInput, ConfigError):  # the record of these rules will become a dead letter
                rules = None
        state.known_to, state.has_rules, state.cold = known_to, rules is not None, cold

    def load_splits(self, splits: list[Split], clock_us: int) -> None:
        """Load the splits of the store. Splits whose session has started by `clock_us` do not queue their series."""
        self.engine.splits.add(splits, clock_us)

    def step(self, consumed: ConsumedRecord, history: History = EMPTY_HISTORY) -> list[Output]:
        """Apply one record and return the records that it causes."""
        state = self._state
        try:
            record = records.decode(consumed.value)
            state.clock_us = max(state.clock_us, record.header.sent_at_us)
            state.cause = max(state.cause, record.header.cause)
            self._queue_symbols(self.engine.splits.activate_due(state.clock_us), consumed.offset)
            return self._apply(record, consumed.offset)
        except (UnreadableRecord, ConfigError, BadInput) as error:
            return [dead_letter(consumed, str(error), consumed.appended_at_us)]  # the record's time may be unreadable

    def snapshot(self) -> bytes:
        """Return the whole state as bytes."""
        return snapshot.encode_snapshot(self._state)

    @property
    def cold(self) -> bool:
        """Return whether the store was unavailable at the start, so that every series must be computed again."""
        return self._state.cold

    def queue_stored(self, stored: list[Series], splits: list[Split], clock_us: int, position: int) -> None:
        """Queue all series of the store, and end the cold start.

        The values of series that this state already contains are published again. `splits` are those of the store, as
        in `load_splits`. Splits that the log has already delivered take precedence. If the store contains a newer
        ratio, the record of this ratio follows later in the log.
        """
        known_splits = self.engine.splits
        known_splits.add(
            [split for split in splits if not known_splits.contains(split.symbol, split.session_us)], clock_us
        )
        known = {Series(name, symbol) for name in self.engine.interval_engines for symbol in self.engine.symbols}
        for series in dict.fromkeys([*stored, *sorted(known)]):
            if series.interval in self.engine.interval_engines:
                self.recompute_queue.add(series, NEVER_US if series in known else FOREVER_US, position)
        self._state.cold = False

    def due(self, position: int) -> list[Series]:
        """Return the queued series that may be computed again; [] before the position `known_to`.

        `position` is the offset of the next record. The caller checks that the store has reached the position of the
        series' mark.
        """
        if position < self._state.known_to:
            return []
        return self.recompute_queue.due(self._state.clock_us)

    def recompute(self, series: Series, bars: pa.RecordBatch) -> Iterator[Output]:
        """Build a series' state from its whole history (`Engine.rebuild`) and yield its new values as records.

        The caller must exhaust the iterator; until then the series' state is incomplete.
        """
        mark = self.recompute_queue.remove(series)
        state = self._state
        self.alerts.rebuild(series, bars, mark.start_us)
        if series.interval not in self.engine.interval_engines:
            return
        header = records.Values(sent_at_us=state.clock_us, cause=state.cause)
        for made in self.engine.rebuild(series, bars, mark.start_us):
            for chunk in made.chunks:
                chunk.versions[:] = state.cause
            for values in value_batches([made], self.engine.symbol_array):
                yield Output(schemas.ANALYTICS, records.encode(header, values))

    def queued_work(self) -> bytes:
        """Return the series that are queued to be computed again, as `QueuedSeries` in JSON."""
        return self.recompute_queue.describe()

    def keep_label(self) -> str | None:
        """Return the UTC date of log time. None before the first record and for times outside 1970 to 2255."""
        clock_us = self._state.clock_us
        return iso(clock_us)[:10] if _MIN_LABEL_US <= clock_us <= _MAX_LABEL_US else None

    def _apply(self, record: records.Record, offset: int) -> list[Output]:
        header = record.header
        if isinstance(header, records.Bars):
            return self._apply_bars(header, record.batch, offset)
        if isinstance(header, (records.Mark, records.End)):
            if isinstance(header, records.End):
                self.recompute_queue.end_feed(header.feed)
            return [Output(schemas.ANALYTICS, records.encode(header))]
        if isinstance(header, records.Settings):
            self._apply_settings(rules_from(header.values), offset)
        elif isinstance(header, records.AlertRule):
            self._apply_alert_rule(header, offset)
        elif isinstance(header, records.Splits):
            self._queue_symbols(self.engine.splits.add(splits_of(record.batch), self._state.clock_us), offset)
        elif not isinstance(header, records.Dividends):
            raise UnreadableRecord(f"unexpected {type(header).__name__} record among bars")
        return []

    def _apply_bars(self, header: records.Bars, batch: pa.RecordBatch, offset: int) -> list[Output]:
        known = offset < self._state.known_to
        made = self.engine.record_known(batch) if known else self.engine.apply_bars(batch)
        position = self._state.known_to if known else offset + 1
        origin: dict[str, Any] = {"sent_at_us": header.sent_at_us, "feed": header.feed, "cause": header.cause}
        result = [
            Output(schemas.ANALYTICS, records.encode(records.Values(**origin), values))
            for values in value_batches(made, self.engine.symbol_array)
        ]
        fired = self.alerts.apply_bars(batch, header.feed)
        if fired:
            result.append(Output(schemas.ALERTS, records.encode(records.Alerts(**origin), alert_batch(fired))))
        rejected = [*self.engine.drain_rejected(), *self.alerts.watch.drain_rejected()]
        self.recompute_queue.add_rejected(rejected, position, header.feed, self._state.clock_us)
        return result

    def _apply_alert_rule(self, header: records.AlertRule, offset: int) -> None:
        """Apply an alert rule, and queue its series, so that its indicators are computed from the first stored bar."""
        self.alerts.apply_alert_rule(header, self.engine)
        series = Series(header.rule.interval, header.rule.symbol)
        if not header.removed and self.alerts.watches(series):
            self.recompute_queue.add(series, FOREVER_US, offset + 1)

    def _apply_settings(self, rules: Rules, offset: int) -> None:
        if offset < self._state.known_to and self._state.has_rules:
            return  # the state was built under rules that are at least as new
        grown = self.engine.apply_rules(rules)
        self.alerts.apply_rules(rules)
        for interval in grown:
            for symbol in self.engine.symbols:
                self.recompute_queue.add(Series(interval, symbol), NEVER_US, offset + 1)
        for series in list(self.recompute_queue.marks):
            if series.interval not in self.engine.interval_engines and not self.alerts.watches(series):
                self.recompute_queue.remove(series)
                self.alerts.stale.discard(series)

    def _queue_symbols(self, symbols: list[str], offset: int) -> None:
        """Queue every series of symbols that have been split, from the first bar on."""
        for symbol in symbols:
            self.alerts.mark_split(symbol, self.engine)
            for interval in dict.fromkeys([*self.engine.interval_engines, *self.alerts.watch.interval_engines]):
                self.recompute_queue.add(Series(interval, symbol), NEVER_US, offset + 1)

"""Records in, records out: the pure stage of one partition around the engine.

Of one step's outputs the closed values come first, then the forming ones, then the alerts that fired. What is made
carries the `sent_at_us`, `feed` and `cause` of the record that caused it; `Mark` and `End` are passed on as they came,
so that whoever reads `market.analytics` knows how far it is.

What memory is too short for is marked (`again`), and computed from stored history between two records: `due` says
which series, `compute_again` does one. Its values carry the newest cause that the state has seen: nothing that has been
published of these bars is newer, and what is published later wins.

A state that was made from the store (`begun`) knows all records before `known_to` already. Those are only looked
through for what they changed, and that is published, as it is in the state, once `known_to` is reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from tickerplant.analytics import snapshot
from tickerplant.analytics.alerts.rules import Alerts, batch_of
from tickerplant.analytics.publish import batches
from tickerplant.analytics.realtime.engine import Engine
from tickerplant.analytics.realtime.recompute_queue import Series
from tickerplant.analytics.realtime.splits import Split, splits_of
from tickerplant.core import records, schemas
from tickerplant.core.errors import BadInput, ConfigError, UnreadableRecord
from tickerplant.core.rules import Rules, rules_from
from tickerplant.core.streams import EMPTY_HISTORY, ConsumedRecord, History, Output, Stage, dead_letter
from tickerplant.core.times import FOREVER_US, NEVER_US, iso

FORMAT: Final = snapshot.FORMAT
_FIRST_US: Final = 0
_LAST_US: Final = 9_000_000_000_000_000  # in 2255


class AnalyticsStage(Stage):
    """The state of one partition; `step` never raises for what a record says: that goes to the dead letter."""

    def __init__(self, kept: bytes | None = None) -> None:
        if kept is None:
            engine = Engine()
            self._state = snapshot.State(engine, Alerts(engine.rules, engine.splits))
        else:
            self._state = snapshot.restore(kept)
        self.engine, self.alerts, self.again = self._state.engine, self._state.alerts, self._state.again

    def begin(self, rules: Rules | None, known_to: int, *, cold: bool = False) -> None:
        """Begin with a state that is to know all records before the offset `known_to`.

        `rules`: those in force, if they are known. `cold`: the store should have been read, and could not be.
        """
        state = self._state
        if rules is not None:
            try:
                self.engine.apply(rules)
                self.alerts.apply(rules)
            except (BadInput, ConfigError):  # what cannot be applied is put aside when its record comes
                rules = None
        state.known_to, state.has_rules, state.cold = known_to, rules is not None, cold

    def say_splits(self, splits: list[Split], clock_us: int) -> None:
        """Know these splits of the store; of those whose session has begun by `clock_us` the series are not marked."""
        self.engine.splits.say(splits, clock_us)

    def step(self, consumed: ConsumedRecord, history: History = EMPTY_HISTORY) -> list[Output]:
        """Apply one record and return the records that it causes."""
        state = self._state
        try:
            record = records.decode(consumed.value)
            state.clock_us = max(state.clock_us, record.header.sent_at_us)
            state.cause = max(state.cause, record.header.cause)
            self._mark_all(self.engine.splits.due(state.clock_us), consumed.offset)
            return self._take(record, consumed.offset)
        except (UnreadableRecord, ConfigError, BadInput) as error:
            return [dead_letter(consumed, str(error), consumed.appended_at_us)]  # its own time is unreadable

    def snapshot(self) -> bytes:
        """Return the whole state."""
        return snapshot.take(self._state)

    @property
    def cold(self) -> bool:
        """Whether the store could not be read at the beginning, so that all is to be computed again when it can."""
        return self._state.cold

    def warm_up(self, stored: list[Series], splits: list[Split], clock_us: int, position: int) -> None:
        """Mark all that the store has. What was published of each series so far will be published again.

        `splits` are those of the store, as in `say_splits`. What the log has said of a (symbol, session) counts: that
        the store has something newer of it, the log is yet to say.
        """
        said = self.engine.splits
        said.say([split for split in splits if not said.knows(split.symbol, split.session_us)], clock_us)
        known = {Series(name, symbol) for name in self.engine.panes for symbol in self.engine.symbols}
        for series in dict.fromkeys([*stored, *sorted(known)]):
            if series.interval in self.engine.panes:
                self.again.mark(series, NEVER_US if series in known else FOREVER_US, position)
        self._state.cold = False

    def due(self, position: int) -> list[Series]:
        """Return the series that may be computed again, once the store is as far as their marks' positions.

        `position`: that of the next record.
        """
        if position < self._state.known_to:
            return []
        return self.again.due(self._state.clock_us)

    def compute_again(self, series: Series, bars: pa.RecordBatch) -> Iterator[Output]:
        """Make a series' state from its whole history (`Engine.again`) and yield the values that are due, as records.

        To be used up: the state is whole only then.
        """
        mark = self.again.done(series)
        state = self._state
        self.alerts.again(series, bars, mark.from_us)
        if series.interval not in self.engine.panes:
            return
        said = records.Values(sent_at_us=state.clock_us, cause=state.cause)
        for made in self.engine.again(series, bars, mark.from_us):
            for chunk in made.chunks:
                chunk.versions[:] = state.cause
            for values in batches([made], self.engine.known):
                yield Output(schemas.ANALYTICS, records.encode(said, values))

    def keep_label(self) -> str | None:
        """Return the UTC day of the log's clock; None before the first record, and for times that nobody lives in."""
        clock_us = self._state.clock_us
        return iso(clock_us)[:10] if _FIRST_US <= clock_us <= _LAST_US else None

    def _take(self, record: records.Record, offset: int) -> list[Output]:
        header = record.header
        if isinstance(header, records.Bars):
            return self._bars(header, record.batch, offset)
        if isinstance(header, (records.Mark, records.End)):
            if isinstance(header, records.End):
                self.again.ended(header.feed)
            return [Output(schemas.ANALYTICS, records.encode(header))]
        if isinstance(header, records.Settings):
            self._settings(rules_from(header.values), offset)
        elif isinstance(header, records.AlertRule):
            self._rule(header, offset)
        elif isinstance(header, records.Splits):
            self._mark_all(self.engine.splits.say(splits_of(record.batch), self._state.clock_us), offset)
        elif not isinstance(header, records.Dividends):
            raise UnreadableRecord(f"a {type(header).__name__} record has no place among bars")
        return []

    def _bars(self, header: records.Bars, batch: pa.RecordBatch, offset: int) -> list[Output]:
        known = offset < self._state.known_to
        made = self.engine.skim(batch) if known else self.engine.bars(batch)
        position = self._state.known_to if known else offset + 1
        said: dict[str, Any] = {"sent_at_us": header.sent_at_us, "feed": header.feed, "cause": header.cause}
        result = [
            Output(schemas.ANALYTICS, records.encode(records.Values(**said), values))
            for values in batches(made, self.engine.known)
        ]
        fired = self.alerts.bars(batch, header.feed)
        if fired:
            result.append(Output(schemas.ALERTS, records.encode(records.Alerts(**said), batch_of(fired))))
        missed = [*self.engine.take_missed(), *self.alerts.watch.take_missed()]
        self.again.missed(missed, position, header.feed, self._state.clock_us)
        return result

    def _rule(self, header: records.AlertRule, offset: int) -> None:
        """Take an alert's rule. Its indicators too count from the recorded start, once the store has been asked."""
        self.alerts.rule(header, self.engine)
        series = Series(header.rule.interval, header.rule.symbol)
        if not header.removed and self.alerts.watches(series):
            self.again.mark(series, FOREVER_US, offset + 1)

    def _settings(self, rules: Rules, offset: int) -> None:
        if offset < self._state.known_to and self._state.has_rules:
            return  # the state was made under the newest rules, which these lead to
        grown = self.engine.apply(rules)
        self.alerts.apply(rules)
        for interval in grown:
            for symbol in self.engine.symbols:
                self.again.mark(Series(interval, symbol), NEVER_US, offset + 1)
        for series in list(self.again.marks):
            if series.interval not in self.engine.panes and not self.alerts.watches(series):
                self.again.done(series)
                self.alerts.stale.discard(series)

    def _mark_all(self, symbols: list[str], offset: int) -> None:
        """Mark every interval of these symbols, which have been split, from its beginning."""
        for symbol in symbols:
            self.alerts.split(symbol, self.engine)
            for interval in dict.fromkeys([*self.engine.panes, *self.alerts.watch.panes]):
                self.again.mark(Series(interval, symbol), NEVER_US, offset + 1)

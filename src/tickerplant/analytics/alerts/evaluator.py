"""The alert rules of one partition: `AlertRule` and `Bars` in, fired alerts out. Pure.

A `WatchEngine` computes the operands of the rules. It receives only the bars of the watched (symbol, interval) pairs.
It runs the same code as the engine of the settings' indicators, so values, revisions and nulls are equal. A rule
therefore needs no indicator in the settings. A batch of bars is skipped if there are no active rules.

All rules of an interval are evaluated at once (`RuleTable`). Python code runs only for rules whose truth changed or
whose bar is not new. However, rules are evaluated one by one if a batch contains many bars of one symbol (a revision, a
replay). `RuleState` decides at which bars a rule fires.

No rule fires at these bars. They only update the states of rules:

- bars marked `history`;
- bars that ended before the rule was created, which only update rules with `crosses_above` or `crosses_below`. Bars of
  a file are exempt from this condition, because files are replayed to see which rules fire;
- bars of a `stale` series: some of its retained bars precede a split, and the series has not been computed again since
  the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.analytics.alerts.fired_alerts import FiredAlert
from tickerplant.analytics.alerts.rule_operands import check_rule
from tickerplant.analytics.alerts.rule_state import ANY_BAR, NEW_BARS, NO_BAR, UNKNOWN, RuleState
from tickerplant.analytics.alerts.rule_table import RuleTable, make_table
from tickerplant.analytics.alerts.watch_engine import WatchEngine, seed_history
from tickerplant.analytics.realtime.engine import FORMING, WITHDRAWN, Engine, IntervalValues
from tickerplant.analytics.realtime.interval_engine import Chunk, IntervalEngine
from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.splits import Splits
from tickerplant.core import interval as intervals
from tickerplant.core import records
from tickerplant.core.alerts import Rule
from tickerplant.core.rules import Rules
from tickerplant.core.times import BoolArray, Float64Array, Int64Array


class AlertEvaluator:
    """All rules of a partition and their states. `splits` is the `Splits` object of the engine."""

    def __init__(self, rules: Rules, splits: Splits) -> None:
        self.watch = WatchEngine(rules, splits)
        self.rule_states: dict[str, RuleState] = {}
        self.stale: set[Series] = set()
        """Series that retain bars from before their last split and have not been computed again since the split."""
        self._tables: dict[str, RuleTable] | None = {}
        self._watched: dict[str, Counter[str]] = {}
        self._lookup: tuple[pa.Array, list[str], BoolArray] | None = None

    def apply_rules(self, rules: Rules) -> None:
        """Apply new settings. Alert rules are unchanged."""
        self.watch.apply_rules(rules)

    # Rules

    def apply_alert_rule(self, header: records.AlertRule, engine: Engine) -> None:
        """Add, replace or remove a rule. A new rule starts with the bars that `engine` retains.

        Ignores a rule whose revision is not greater than that of the known rule, and the removal of an unknown rule.
        Raises BadInput, without a change, for an invalid rule.
        """
        known = self.rule_states.get(header.rule.id)
        if header.removed if known is None else header.rule.revision <= known.rule.revision:
            return
        rule = header.rule if header.removed else check_rule(header.rule)
        self.sync_states()
        if known is not None:
            self._unwatch(known.rule)
            del self.rule_states[rule.id]
        if not header.removed:
            last_old_us = header.sent_at_us - intervals.parse(rule.interval).us
            self.rule_states[rule.id] = state = RuleState(rule, last_old_us)
            if rule.active:
                self._watch_rule(rule)
                self._start(state, engine)

    def _unwatch(self, rule: Rule) -> None:
        if not rule.active:
            return
        symbols = self._watched[rule.interval]
        symbols[rule.symbol] -= 1
        if not symbols[rule.symbol]:
            del symbols[rule.symbol]
        if self.watch.count_rule(rule, -1):
            self.watch.apply_rules(self.watch.rules)

    def _watch_rule(self, rule: Rule) -> None:
        symbols = self._watched.setdefault(rule.interval, Counter())
        symbols[rule.symbol] += 1
        if self.watch.count_rule(rule, 1):
            self.watch.apply_rules(self.watch.rules)

    def _start(self, state: RuleState, engine: Engine) -> None:
        rule = state.rule
        target = self.watch.interval_engines[rule.interval]
        row = self._row(rule.symbol)
        if self._watched[rule.interval][rule.symbol] == 1:
            target.reset(row)
            source = engine.interval_engines.get(rule.interval)
            if source is not None and rule.symbol in engine.symbols:
                seed_history(target, row, source, engine.symbols.index(rule.symbol))
        if target.history.retained[row]:
            values = target.newest_values(row)
            truth = UNKNOWN if values is None else self._truth(rule, target.columns, values)
            state.start_after(int(target.history.last_us[row]), truth)

    def _row(self, symbol: str) -> int:
        if symbol not in self.watch.symbols:
            self.watch.add_symbols([symbol])
        return self.watch.symbols.index(symbol)

    def _truth(self, rule: Rule, columns: tuple[str, ...], values: Float64Array) -> int:
        first = np.zeros(1, dtype=np.int64)
        table = make_table([RuleState(rule)], first)
        chunk = Chunk(first, first, 1, first, values[:, None])
        return int(table.truths(first, *table.values(columns, chunk, first, first))[0])

    def restore(self, states: Iterable[RuleState], symbols: Sequence[str]) -> None:
        """Restore the rules and the watched symbols from a snapshot. The caller restores the watch engine's bars."""
        for state in states:
            self.rule_states[state.rule.id] = state
            if state.rule.active:
                self._watched.setdefault(state.rule.interval, Counter())[state.rule.symbol] += 1
                self.watch.count_rule(state.rule, 1)
        self.watch.apply_rules(self.watch.rules)
        self.watch.add_symbols(symbols)
        self._tables = None

    def _made_tables(self) -> dict[str, RuleTable]:
        if self._tables is None:
            rows = {symbol: row for row, symbol in enumerate(self.watch.symbols)}
            by_interval: dict[str, list[RuleState]] = {}
            for one in self.rule_states.values():
                if one.live:
                    by_interval.setdefault(one.rule.interval, []).append(one)
            self._tables = {}
            for interval, some in by_interval.items():
                some.sort(key=lambda one: (rows[one.rule.symbol], one.rule.id))
                self._tables[interval] = make_table(some, np.array([rows[one.rule.symbol] for one in some]))
            self._lookup = None
        return self._tables

    # Bars

    def watches(self, series: Series) -> bool:
        """Return whether an active rule uses the series."""
        watched = self._watched.get(series.interval, Counter())
        return watched[series.symbol] > 0 and series.interval in self.watch.interval_engines

    def rebuild(self, series: Series, batch: pa.RecordBatch, start_us: int) -> None:
        """Replace a series by its whole history, as `Engine.rebuild` does. Updates rule states; no rule fires."""
        self.stale.discard(series)
        if self.watches(series):
            for part in self.watch.rebuild(series, batch, start_us):
                self._evaluate(part, NO_BAR)

    def mark_split(self, symbol: str, engine: Engine) -> None:
        """Mark a symbol's series as stale if they retain bars from before the symbol's last split.

        The bars that `engine` retains count too, because new rules start with them. `rebuild` removes the mark.
        """
        [split_us] = self.watch.splits.unadjusted_from([symbol])
        for one in (engine, self.watch):
            if symbol not in one.symbols:
                continue
            row = one.symbols.index(symbol)
            for name, interval_engine in one.interval_engines.items():
                history = interval_engine.history
                if history.retained[row] and history.read_times(row)[0] < split_us:
                    self.stale.add(Series(name, symbol))

    def apply_bars(self, batch: pa.RecordBatch, feed: str = "") -> list[FiredAlert]:
        """Apply the rows of one `Bars` record, caused by `feed`, and return the alerts that fire, in order."""
        if not batch.num_rows or not any(self._watched.values()):
            return []
        mask = self._mask(batch)
        if not mask.any():
            return []
        if not mask.all():
            batch = batch.filter(pa.array(mask))
        history = batch.column("history").to_numpy(zero_copy_only=False)
        fired: list[FiredAlert] = []
        for old in (True, False) if history.any() else (False,):
            rows = batch if not history.any() else batch.filter(pa.array(history == old))
            fire = NO_BAR if old else ANY_BAR if feed.startswith(records.FILE_FEED) else NEW_BARS
            for part in self.watch.apply_bars(rows):
                fired += self._evaluate(part, fire)
        if any(one.rule.once for one in fired):
            self.sync_states()
        return fired

    def _mask(self, batch: pa.RecordBatch) -> BoolArray:
        """Return a mask of the rows with a watched symbol in a watched interval."""
        self._made_tables()
        if self._lookup is None:
            names = sorted(name for name, symbols in self._watched.items() if symbols)
            symbols = sorted(set().union(*(self._watched[name] for name in names)))
            matrix = np.zeros((len(symbols) + 1, len(names) + 1), dtype=np.bool_)
            for column, name in enumerate(names):
                for row, symbol in enumerate(symbols):
                    matrix[row, column] = symbol in self._watched[name]
            self._lookup = (pa.array(symbols, pa.utf8()), names, matrix)
        known, names, matrix = self._lookup
        symbol, interval = batch.column("symbol"), batch.column("interval")
        found = pc.index_in(symbol.dictionary, value_set=known).fill_null(len(known))
        rows: Int64Array = found.to_numpy(zero_copy_only=False).astype(np.int64)
        words = interval.dictionary.to_pylist()
        columns = np.array([names.index(word) if word in names else len(names) for word in words], dtype=np.int64)
        mask: BoolArray = matrix[rows[symbol.indices.to_numpy()], columns[interval.indices.to_numpy()]]
        return mask

    def sync_states(self) -> None:
        """Copy the tables into the rule states and discard the tables; they are built again when needed."""
        for table in (self._tables or {}).values():
            for index in range(len(table.states)):
                table.load(index)
        self._tables = None

    def _evaluate(self, part: IntervalValues, fire: int) -> list[FiredAlert]:
        table = self._made_tables().get(part.interval)
        if table is None:
            return []
        engine, fired = self.watch.interval_engines[part.interval], []
        for chunk in part.chunks:
            if chunk.state == WITHDRAWN:
                _withdraw(table, engine, chunk)
            elif len(chunk.times) == 1 or (chunk.times == chunk.times[0]).all():
                fired += self._evaluate_time(table, part.columns, chunk, fire)
            elif chunk.state == FORMING:
                for time_us in np.unique(chunk.times):
                    fired += self._evaluate_time(table, part.columns, _rows(chunk, chunk.times == time_us), fire)
            else:
                for row in np.unique(chunk.symbols).tolist():
                    for index in table.rules_of(row):
                        fired += self._evaluate_rule(table, part.columns, chunk, index, fire)
        return fired

    def _evaluate_time(self, table: RuleTable, columns: tuple[str, ...], chunk: Chunk, fire: int) -> list[FiredAlert]:
        """Evaluate all rules on one bar of each of many symbols; return the alerts that fire."""
        row_at = np.full(int(max(chunk.symbols.max(), table.rows.max())) + 1, -1)
        row_at[chunk.symbols] = np.arange(len(chunk.symbols))
        at = row_at[table.rows]
        forming = chunk.state == FORMING
        which = np.flatnonzero((at >= 0) & table.on_update if forming else at >= 0)
        if not len(which):
            return []
        at, time_us = at[which], int(chunk.times[0])
        left, right = table.values(columns, chunk, which, at)
        truths = table.truths(which, left, right)
        # If the truth is unchanged and the bar is new, only the times advance.
        known, same = truths != UNKNOWN, truths == table.truth[which]
        if not forming:
            same &= (truths == table.closed_truth[which]) & (time_us > table.last_us[which])
            table.last_us[which[known & same]] = time_us
        table.observed_us[which[known & same]] = time_us
        fired: list[FiredAlert] = []
        for i in np.flatnonzero(known & ~same).tolist():
            index = int(which[i])
            one = table.load(index)
            if forming:
                found = one.observe_forming(time_us, int(truths[i]), fire=self._may_fire(one.rule, fire))
            else:
                found = one.observe_closed(chunk.times[:1], [int(truths[i])], fire=self._may_fire(one.rule, fire))
            table.store(index)
            version = int(chunk.versions[at[i]])
            fired += [FiredAlert(one.rule, f, float(left[i]), float(right[i]), chunk.state, version) for f in found]
        return fired

    def _evaluate_rule(
        self, table: RuleTable, columns: tuple[str, ...], chunk: Chunk, index: int, fire: int
    ) -> list[FiredAlert]:
        """Evaluate one rule on many bars of its symbol; return the alerts that fire."""
        own = np.flatnonzero(chunk.symbols == table.rows[index])
        which = np.full(len(own), index)
        left, right = table.values(columns, chunk, which, own)
        one = table.load(index)
        truths = table.truths(which, left, right).tolist()
        found = one.observe_closed(chunk.times[own], truths, fire=self._may_fire(one.rule, fire))
        table.store(index)
        versions = chunk.versions[own]
        return [
            FiredAlert(one.rule, f, float(left[f.row]), float(right[f.row]), chunk.state, int(versions[f.row]))
            for f in found
        ]

    def _may_fire(self, rule: Rule, fire: int) -> int:
        """Return the bars at which a rule may fire: `NO_BAR` while the rule's series is stale, otherwise `fire`."""
        return NO_BAR if self.stale and Series(rule.interval, rule.symbol) in self.stale else fire


def _withdraw(table: RuleTable, engine: IntervalEngine, chunk: Chunk) -> None:
    for row, time_us in zip(chunk.symbols.tolist(), chunk.times.tolist(), strict=True):
        for index in table.rules_of(row):
            table.load(index).withdraw(time_us, int(engine.history.last_us[row]))
            table.store(index)


def _rows(chunk: Chunk, which: BoolArray) -> Chunk:
    return Chunk(chunk.times[which], chunk.symbols[which], chunk.state, chunk.versions[which], chunk.values[:, which])

"""Alert rules of one partition: `AlertRule` and `Bars` in, the alerts that fire out. Pure.

The values of the rules' sides are computed by an engine of their own (`Watch`), which sees the bars of the watched
(symbol, interval) alone: the same code as the indicators of the settings, and so the same values, revisions and nulls.
A rule thus needs no indicator to be in the settings, and without rules a batch of bars costs nothing.

What a rule says to a bar is in `crossings`. In a batch, all rules of an interval are compared at once, and Python looks
at those alone whose truth has changed; one symbol's bars in a row (a revision, a replay) go rule by rule.

Bars marked `history`, and those that ended before a rule was made, move the rules' state but fire nothing: they are of
the time before. Of a file's bars that is not asked: they are replayed to see what fires. Nor does anything fire while
what is remembered of a series is half from before a split, until it has been computed again (`Alerts.stale`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.analytics.alerts.rule_operands import Side, check_rule, left_of, side_of
from tickerplant.analytics.alerts.rule_state import ANY_BAR, NEW_BARS, NO_BAR, UNKNOWN, Crossings, Firing
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.realtime.engine import FORMING, WITHDRAWN, Engine, Made
from tickerplant.analytics.realtime.interval_engine import Chunk, Pane, Rows
from tickerplant.analytics.realtime.recompute_queue import Series
from tickerplant.analytics.realtime.splits import Splits
from tickerplant.core import interval as intervals
from tickerplant.core import records, schemas
from tickerplant.core.alerts import CROSSES_BELOW, LESS, ON_UPDATE, PERCENT_CHANGE, Rule, alert_id
from tickerplant.core.interval import Interval
from tickerplant.core.rules import Rules
from tickerplant.core.times import BoolArray, Float64Array, Int64Array, timestamps

_TRUTHS = np.array([UNKNOWN], dtype=np.int64)
_NUMBER, _ABSENT = -1, -2


class Watch(Engine):
    """An engine of the indicators that rules look at, in the intervals where they do."""

    def __init__(self, rules: Rules, splits: Splits) -> None:
        self.closed: dict[str, Counter[Indicator]] = {}
        self.formed: Counter[Indicator] = Counter()
        super().__init__(rules, splits)

    def wanted(self, rules: Rules) -> tuple[Mapping[Interval, Sequence[Indicator]], frozenset[Indicator]]:
        """Return what rules look at, in an order that does not depend on when they came."""
        planned = {
            intervals.parse(name): sorted(used, key=str) for name, used in sorted(self.closed.items()) if used.total()
        }
        return dict(sorted(planned.items())), frozenset(self.formed)

    def use(self, rule: Rule, number: int) -> bool:
        """Count a rule in (1) or out (-1), and say whether other indicators are wanted now."""
        used = self.closed.setdefault(rule.interval, Counter())
        before = set(used), set(self.formed)
        for side in sides(rule):
            if side.indicator is not None:
                for counter in (used, self.formed) if rule.when == ON_UPDATE else (used,):
                    counter[side.indicator] += number
                    if not counter[side.indicator]:
                        del counter[side.indicator]
        return (set(used), set(self.formed)) != before


def sides(rule: Rule) -> tuple[Side, Side]:
    """Return the left and the right side. Raises BadInput for what nobody knows."""
    return left_of(rule.left, rule.operator, rule.bars), side_of(rule.right)


def _sense(rule: Rule) -> float:
    """Return 1 where the left side has to be above the right one, and -1 where below."""
    if rule.operator == PERCENT_CHANGE:
        return 1.0 if side_of(rule.right).number > 0 else -1.0
    return -1.0 if rule.operator in (CROSSES_BELOW, LESS) else 1.0


@dataclass(slots=True)
class Fired:
    """What one rule fired, with the values of its sides and where they come from."""

    rule: Rule
    firing: Firing
    left: float
    right: float
    state: int
    version: int


@dataclass(slots=True)
class _Book:
    """The live rules of one interval side by side, ordered by symbol's row, then id."""

    all: list[Crossings]
    rows: Int64Array
    sense: Float64Array
    inclusive: BoolArray
    update: BoolArray
    names: list[tuple[str, str]]
    numbers: Float64Array
    truth: Int64Array
    closed: Int64Array
    """The truth on the newest closed bar; `truth` is that of the newest observation."""
    last: Int64Array
    seen: Int64Array
    places: dict[tuple[str, ...], tuple[Int64Array, Int64Array]] = field(default_factory=dict)

    def at(self, columns: tuple[str, ...]) -> tuple[Int64Array, Int64Array]:
        """Return the number of each side's column, below 0 for none: `_NUMBER`, or `_ABSENT` from these columns."""
        found = self.places.get(columns)
        if found is None:
            numbers = {name: number for number, name in enumerate(columns)} | {"": _NUMBER}
            pairs = np.array([[numbers.get(name, _ABSENT) for name in pair] for pair in self.names], dtype=np.int64)
            found = self.places[columns] = (pairs[:, 0], pairs[:, 1])
        return found

    def values(self, part: Made, chunk: Chunk, which: Int64Array, at: Int64Array) -> tuple[Float64Array, Float64Array]:
        """Return the values of both sides of the rules `which`, each at its own row `at` of the chunk.

        NaN where the chunk has no such column: nothing is known of that side.
        """
        left, right = (place[which] for place in self.at(part.columns))
        return _read(chunk, left, at), np.where(right == _NUMBER, self.numbers[which], _read(chunk, right, at))

    def truths(self, which: Int64Array, left: Float64Array, right: Float64Array) -> Int64Array:
        """Return 1, 0, or -1 where a side is null."""
        difference = self.sense[which] * (left - right)
        true = np.where(self.inclusive[which], difference >= 0.0, difference > 0.0)
        truths: Int64Array = np.where(np.isnan(difference), UNKNOWN, true.astype(np.int64))
        return truths

    def load(self, number: int) -> Crossings:
        """Return a rule's memory, with the times that were moved on in the arrays alone."""
        one = self.all[number]
        one.last_us, one.seen_us = int(self.last[number]), int(self.seen[number])
        one.ended_us = max(one.ended_us, one.last_us)
        return one

    def note(self, number: int) -> None:
        """Have the arrays say what the rule's memory says."""
        one = self.all[number]
        self.truth[number], self.closed[number] = one.truth, one.closed_truth
        self.last[number], self.seen[number] = one.last_us, one.seen_us


class Alerts:
    """All rules of a partition, and what they have seen. `splits` are those of the engine."""

    def __init__(self, rules: Rules, splits: Splits) -> None:
        self.watch = Watch(rules, splits)
        self.memory: dict[str, Crossings] = {}
        self.stale: set[Series] = set()
        """What has been split and not been computed again since."""
        self._books: dict[str, _Book] | None = {}
        self._watched: dict[str, Counter[str]] = {}
        self._lookup: tuple[pa.Array, list[str], BoolArray] | None = None

    def apply(self, rules: Rules) -> None:
        """Go on under other settings."""
        self.watch.apply(rules)

    # Rules

    def rule(self, header: records.AlertRule, engine: Engine) -> None:
        """Take a rule, begin it anew or let go of it; its bars so far are those that `engine` remembers.

        Raises BadInput, and changes nothing, for a rule that cannot be read.
        """
        known = self.memory.get(header.rule.id)
        if header.removed if known is None else header.rule.revision <= known.rule.revision:
            return
        rule = header.rule if header.removed else check_rule(header.rule)
        self.settle()
        if known is not None:
            self._release(known)
            del self.memory[rule.id]
        if not header.removed:
            old_us = header.sent_at_us - intervals.parse(rule.interval).us
            self.memory[rule.id] = begun = Crossings(rule, old_us)
            if rule.active:
                self._watch_for(rule)
                self._begin(begun, engine)

    def _release(self, known: Crossings) -> None:
        rule = known.rule
        if not rule.active:
            return
        symbols = self._watched[rule.interval]
        symbols[rule.symbol] -= 1
        if not symbols[rule.symbol]:
            del symbols[rule.symbol]
        if self.watch.use(rule, -1):
            self.watch.apply(self.watch.rules)

    def _watch_for(self, rule: Rule) -> None:
        symbols = self._watched.setdefault(rule.interval, Counter())
        symbols[rule.symbol] += 1
        if self.watch.use(rule, 1):
            self.watch.apply(self.watch.rules)

    def _begin(self, begun: Crossings, engine: Engine) -> None:
        rule, pane = begun.rule, self.watch.panes[begun.rule.interval]
        row = self._row(rule.symbol)
        if self._watched[rule.interval][rule.symbol] == 1:
            pane.forget(row)
            former = engine.panes.get(rule.interval)
            if former is not None and rule.symbol in engine.symbols:
                warm(pane, row, former, engine.symbols.index(rule.symbol))
        if pane.history.kept[row]:
            values = pane.newest(row)
            truth = UNKNOWN if values is None else self._truth(rule, pane.columns, values)
            begun.begin(int(pane.history.last[row]), truth)

    def _row(self, symbol: str) -> int:
        if symbol not in self.watch.symbols:
            self.watch.add_symbols([symbol])
        return self.watch.symbols.index(symbol)

    def _truth(self, rule: Rule, columns: tuple[str, ...], values: Float64Array) -> int:
        book = _book([Crossings(rule)], np.zeros(1, dtype=np.int64))
        part = Made(rule.interval, columns, ())
        chunk = Chunk(_TRUTHS, _TRUTHS, 1, _TRUTHS, values[:, None])
        first = np.zeros(1, dtype=np.int64)
        return int(book.truths(first, *book.values(part, chunk, first, first))[0])

    def restore(self, memory: Iterable[Crossings], symbols: Sequence[str]) -> None:
        """Take rules with their memory and the watch's symbols from a snapshot; the panes are filled by others."""
        for kept in memory:
            self.memory[kept.rule.id] = kept
            if kept.rule.active:
                self._watched.setdefault(kept.rule.interval, Counter())[kept.rule.symbol] += 1
                self.watch.use(kept.rule, 1)
        self.watch.apply(self.watch.rules)
        self.watch.add_symbols(symbols)
        self._books = None

    def _made_books(self) -> dict[str, _Book]:
        if self._books is None:
            rows = {symbol: row for row, symbol in enumerate(self.watch.symbols)}
            by_interval: dict[str, list[Crossings]] = {}
            for one in self.memory.values():
                if one.live:
                    by_interval.setdefault(one.rule.interval, []).append(one)
            self._books = {}
            for interval, some in by_interval.items():
                some.sort(key=lambda one: (rows[one.rule.symbol], one.rule.id))
                self._books[interval] = _book(some, np.array([rows[one.rule.symbol] for one in some]))
            self._lookup = None
        return self._books

    # Bars

    def watches(self, series: Series) -> bool:
        """Return whether a rule looks at a series."""
        watched = self._watched.get(series.interval, Counter())
        return watched[series.symbol] > 0 and series.interval in self.watch.panes

    def again(self, series: Series, batch: pa.RecordBatch, from_us: int) -> None:
        """Take a series' whole history as `Engine.again` does: its values move the rules' state and fire nothing."""
        self.stale.discard(series)
        if self.watches(series):
            for part in self.watch.again(series, batch, from_us):
                self._part(part, NO_BAR)

    def split(self, symbol: str, engine: Engine) -> None:
        """Let nothing fire on a symbol's bars where some that are remembered are from before its last split.

        Rules begin with what `engine` remembers, so that counts too. `again` ends it.
        """
        [split_us] = self.watch.splits.latest([symbol])
        for one in (engine, self.watch):
            if symbol not in one.symbols:
                continue
            row = one.symbols.index(symbol)
            for name, pane in one.panes.items():
                if pane.history.kept[row] and pane.history.read_times(row)[0] < split_us:
                    self.stale.add(Series(name, symbol))

    def bars(self, batch: pa.RecordBatch, feed: str = "") -> list[Fired]:
        """Take the rows of one `Bars` record, which `feed` caused, and return what fires, in order."""
        if not batch.num_rows or not any(self._watched.values()):
            return []
        mask = self._mask(batch)
        if not mask.any():
            return []
        if not mask.all():
            batch = batch.filter(pa.array(mask))
        history = batch.column("history").to_numpy(zero_copy_only=False)
        fired: list[Fired] = []
        for old in (True, False) if history.any() else (False,):
            rows = batch if not history.any() else batch.filter(pa.array(history == old))
            fire = NO_BAR if old else ANY_BAR if feed.startswith(records.FILE_FEED) else NEW_BARS
            for part in self.watch.bars(rows):
                fired += self._part(part, fire)
        if any(one.rule.once for one in fired):
            self.settle()
        return fired

    def _mask(self, batch: pa.RecordBatch) -> BoolArray:
        """Return which rows are of a watched symbol in a watched interval."""
        self._made_books()
        if self._lookup is None:
            names = sorted(name for name, symbols in self._watched.items() if symbols)
            symbols = sorted(set().union(*(self._watched[name] for name in names)))
            table = np.zeros((len(symbols) + 1, len(names) + 1), dtype=np.bool_)
            for column, name in enumerate(names):
                for row, symbol in enumerate(symbols):
                    table[row, column] = symbol in self._watched[name]
            self._lookup = (pa.array(symbols, pa.utf8()), names, table)
        known, names, table = self._lookup
        symbol, interval = batch.column("symbol"), batch.column("interval")
        found = pc.index_in(symbol.dictionary, value_set=known).fill_null(len(known))
        places: Int64Array = found.to_numpy(zero_copy_only=False).astype(np.int64)
        words = interval.dictionary.to_pylist()
        columns = np.array([names.index(word) if word in names else len(names) for word in words], dtype=np.int64)
        mask: BoolArray = table[places[symbol.indices.to_numpy()], columns[interval.indices.to_numpy()]]
        return mask

    def settle(self) -> None:
        """Have each rule's memory be all that is known of it; what stands side by side is made again when needed."""
        for book in (self._books or {}).values():
            for number in range(len(book.all)):
                book.load(number)
        self._books = None

    def _part(self, part: Made, fire: int) -> list[Fired]:
        book = self._made_books().get(part.interval)
        if book is None:
            return []
        pane, fired = self.watch.panes[part.interval], []
        for chunk in part.chunks:
            if chunk.state == WITHDRAWN:
                self._withdrawn(book, pane, chunk)
            elif len(chunk.times) == 1 or (chunk.times == chunk.times[0]).all():
                fired += self._across(book, part, chunk, fire)
            elif chunk.state == FORMING:
                for time_us in np.unique(chunk.times):
                    fired += self._across(book, part, _rows(chunk, chunk.times == time_us), fire)
            else:
                for row in np.unique(chunk.symbols).tolist():
                    for number in _rules_of(book, row):
                        fired += self._along(book, part, chunk, number, fire)
        return fired

    def _across(self, book: _Book, part: Made, chunk: Chunk, fire: int) -> list[Fired]:
        """Take one bar of each of many symbols, all rules at once."""
        place = np.full(int(max(chunk.symbols.max(), book.rows.max())) + 1, -1)
        place[chunk.symbols] = np.arange(len(chunk.symbols))
        at = place[book.rows]
        forming = chunk.state == FORMING
        which = np.flatnonzero((at >= 0) & book.update if forming else at >= 0)
        if not len(which):
            return []
        at, time_us = at[which], int(chunk.times[0])
        left, right = book.values(part, chunk, which, at)
        truths = book.truths(which, left, right)
        # Where the truth stays and the bar is new, all that moves is the time.
        known, same = truths != UNKNOWN, truths == book.truth[which]
        if not forming:
            same &= (truths == book.closed[which]) & (time_us > book.last[which])
            book.last[which[known & same]] = time_us
        book.seen[which[known & same]] = time_us
        fired: list[Fired] = []
        for i in np.flatnonzero(known & ~same).tolist():
            number = int(which[i])
            one = book.load(number)
            if forming:
                found = one.formed(time_us, int(truths[i]), fire=self._which(one.rule, fire))
            else:
                found = one.closed(chunk.times[:1], [int(truths[i])], fire=self._which(one.rule, fire))
            book.note(number)
            version = int(chunk.versions[at[i]])
            fired += [Fired(one.rule, f, float(left[i]), float(right[i]), chunk.state, version) for f in found]
        return fired

    def _along(self, book: _Book, part: Made, chunk: Chunk, number: int, fire: int) -> list[Fired]:
        """Take many bars of the symbol of one rule."""
        mine = np.flatnonzero(chunk.symbols == book.rows[number])
        which = np.full(len(mine), number)
        left, right = book.values(part, chunk, which, mine)
        one = book.load(number)
        found = one.closed(
            chunk.times[mine], book.truths(which, left, right).tolist(), fire=self._which(one.rule, fire)
        )
        book.note(number)
        versions = chunk.versions[mine]
        return [
            Fired(one.rule, f, float(left[f.row]), float(right[f.row]), chunk.state, int(versions[f.row]))
            for f in found
        ]

    def _which(self, rule: Rule, fire: int) -> int:
        """Return which bars may fire for a rule."""
        return NO_BAR if self.stale and Series(rule.interval, rule.symbol) in self.stale else fire

    def _withdrawn(self, book: _Book, pane: Pane, chunk: Chunk) -> None:
        for row, time_us in zip(chunk.symbols.tolist(), chunk.times.tolist(), strict=True):
            for number in _rules_of(book, row):
                book.load(number).withdrawn(time_us, int(pane.history.last[row]))
                book.note(number)


def warm(pane: Pane, row: int, former: Pane, former_row: int) -> None:
    """Give a symbol that has no bars here those that another pane remembers, if it has all their columns.

    Whoever has bars from elsewhere (the store) gives them to `Pane.close` in the same manner.
    """
    history, needed = former.history, pane.history.columns
    count = int(history.count[former_row])
    if not history.kept[former_row] or not set(needed) <= set(history.columns):
        return
    columns = {name: history.read(former_row, history.oldest(former_row), count)[name] for name in needed}
    times = history.read_times(former_row)
    nothing = np.zeros(len(times), dtype=np.int64)
    pane.close(Rows(np.full(len(times), row), times, nothing, columns, np.ones(len(times), dtype=np.bool_)))


def _read(chunk: Chunk, columns: Int64Array, at: Int64Array) -> Float64Array:
    """Return the value of each column at its row, NaN for columns below 0."""
    values = np.full(len(columns), np.nan)
    there = np.flatnonzero(columns >= 0)
    values[there] = chunk.values[columns[there], at[there]]
    return values


def _rows(chunk: Chunk, which: BoolArray) -> Chunk:
    return Chunk(chunk.times[which], chunk.symbols[which], chunk.state, chunk.versions[which], chunk.values[:, which])


def _rules_of(book: _Book, row: int) -> range:
    return range(int(np.searchsorted(book.rows, row)), int(np.searchsorted(book.rows, row, side="right")))


def _book(some: list[Crossings], rows: Int64Array) -> _Book:
    pairs = [sides(one.rule) for one in some]
    return _Book(
        some,
        rows,
        np.array([_sense(one.rule) for one in some]),
        np.array([one.rule.operator == PERCENT_CHANGE for one in some]),
        np.array([one.rule.when == ON_UPDATE for one in some]),
        [(left.column, right.column) for left, right in pairs],
        np.array([right.number for _, right in pairs]),
        np.array([one.truth for one in some], dtype=np.int64),
        np.array([one.closed_truth for one in some], dtype=np.int64),
        np.array([one.last_us for one in some], dtype=np.int64),
        np.array([one.seen_us for one in some], dtype=np.int64),
    )


def batch_of(fired: Sequence[Fired]) -> pa.RecordBatch:
    """Return the rows of an `Alerts` record."""

    def text(values: list[str], kind: pa.DataType) -> pa.Array:
        return pa.array(values, pa.utf8()).dictionary_encode().cast(kind)

    rules = [one.rule for one in fired]
    ids = [alert_id(one.rule.id, one.rule.revision, one.firing.time_us, one.firing.number) for one in fired]
    arrays = [
        pa.array(ids, pa.utf8()),
        pa.array([rule.id for rule in rules], pa.utf8()),
        pa.array([rule.revision for rule in rules], pa.int32()),
        timestamps(np.array([one.firing.time_us for one in fired], dtype=np.int64)),
        text([rule.symbol for rule in rules], schemas.TEXT),
        text([rule.interval for rule in rules], schemas.SMALL_TEXT),
        pa.array([str(rule) for rule in rules], pa.utf8()),
        pa.array([one.left for one in fired]),
        pa.array([one.right for one in fired]),
        text([schemas.STATES[one.state] for one in fired], schemas.SMALL_TEXT),
        pa.array([one.firing.revised for one in fired]),
        pa.array([one.version for one in fired], pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.ALERT)

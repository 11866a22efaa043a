"""The state of one partition: everything that a snapshot contains, and caches derived from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.candidates import REASONS, CandidateBlocks
from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.grouping import TickColumns
from tickerplant.aggregation.rows import DAYS, FIVES, MINUTES, ROW, Codes, Interner, Rows
from tickerplant.aggregation.source_priority import PendingMinutes, SourceRanking
from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.interval import Interval, parse
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sessions import Calendar, Calendars, matches
from tickerplant.core.times import FOREVER_US, HOUR_US, MINUTE_US, NEVER_US, BoolArray, Int64Array

_MAX_HOURS: Final = 24 * 8
"""Maximum entries of `State.hours`: eight days of a log that has records in each hour. Older entries are dropped."""
_MAX_FILES: Final = 1_024
"""Maximum files of ticks in `file_spans`; the oldest is dropped. A file takes about 150 bytes and 4 bytes per symbol in
each snapshot."""


@dataclass(frozen=True, slots=True)
class FileSpan:
    """The part of a file of ticks in one partition: symbols (sorted), first and last time, and range of raw offsets.

    `last_us` is NEVER_US until the file has ended. `last_offset` is inclusive. `first_row`, `last_row`: symbol and time
    of the first and the last tick in the order of the file. They are None before these ticks, and in snapshots of
    earlier versions. A file sorted by symbol may be cut at these rows, inside its range of times.
    """

    name: str
    symbols: Codes
    first_us: int
    last_us: int
    first_offset: int
    last_offset: int
    first_row: tuple[int, int] | None = None
    last_row: tuple[int, int] | None = None

    @property
    def range(self) -> tuple[object, ...]:
        """Return the times and the rows with which the file begins and ends."""
        return self.first_us, self.last_us, self.first_row, self.last_row


class State:
    """Names, feeds, bars and rules of one partition."""

    def __init__(self, symbols: Interner | None = None, sources: Interner | None = None) -> None:
        self.rules: Rules = DEFAULT_RULES
        self.symbols = symbols or Interner()
        self.sources = sources or Interner()
        self.reasons = Interner(list(REASONS))
        self.feeds: dict[int, FeedState] = {}
        self.next_feed = 0
        self.candidates = (CandidateBlocks(MINUTES), CandidateBlocks(FIVES), CandidateBlocks(DAYS))
        """Closed bars of 1m, 5m and 1d, by interval code (`rows.INTERVALS`)."""
        self.auctions = CandidateBlocks(FIVES)
        """Closing auction trades after the close, by session. They are parts of the daily bar only."""
        self.newest: Int64Array = np.empty(0, dtype=np.int64)
        """Start of the newest published bar, by symbol."""
        self.evicted_before: Int64Array = np.empty(0, dtype=np.int64)
        """Time, by symbol, before which bars may have been published and evicted."""
        self.pending = PendingMinutes()
        self.hours: list[tuple[int, int]] = []
        """Pairs (log time, raw offset), an hour or more apart. All records before the offset were sent by that time."""
        self.file_spans: dict[str, FileSpan] = {}
        """The last `_MAX_FILES` files of ticks, oldest first, including files whose feeds were dropped."""
        self.next_check_us = NEVER_US
        """Log time of the next check for silent feeds."""
        self.last_sent_us = NEVER_US
        """Log time: the greatest `sent_at_us` that the partition has read so far."""
        self.held: tuple[int, int] | None = None
        """Range `[start, end)` that a rebuild recomputes. Its bars are not evicted. None outside a rebuild."""
        # The attributes below are caches, or derived from those above.
        self.calendars: list[Calendar] = []
        self.calendar_of: Codes = np.empty(0, dtype=np.int32)
        self.ranking = SourceRanking(self.rules, self.symbols, self.sources)
        self.activities: list[Interval] = []
        """Activity intervals in the rules; their codes follow those of `rows.INTERVALS`."""
        self.members: npt.NDArray[np.bool_] = np.empty((0, 0), dtype=np.bool_)
        """`members[symbol, activity interval]`: the symbol has bars of the interval."""
        self.day_cache: dict[int, tuple[Rows, BoolArray]] = {}
        self._calendars = Calendars(self.rules)
        self._feed_numbers: dict[str, int] = {}
        self._file_claims: dict[int, list[int]] | None = None

    def record_hour(self, offset: int) -> None:
        """Add log time and this offset to `hours` if the last entry is at least one hour old; keep `_MAX_HOURS`."""
        if not self.hours or self.last_sent_us >= self.hours[-1][0] + HOUR_US:
            self.hours = [*self.hours[-_MAX_HOURS + 1 :], (self.last_sent_us, offset)]

    def offset_before(self, time_us: int) -> int:
        """Return the largest known raw offset before which no record was sent after `time_us`; 0 if none is known."""
        return max((offset for sent, offset in self.hours if sent <= time_us), default=0)

    def offset_after(self, time_us: int, offset: int) -> int:
        """Return the smallest known raw offset at which log time was after `time_us`; `offset` if none is known."""
        return min((known for sent, known in self.hours if sent > time_us), default=offset)

    def file_begins(self, name: str, symbols: Codes, first_us: int, offset: int) -> None:
        """Store the start of a file, whose `Start` record has this offset. A resumed file keeps its first start.

        A rebuild stores nothing, because it has the files of the original state.
        """
        if self.held is not None:
            return
        known = self.file_spans.get(name)
        rows: tuple[tuple[int, int] | None, ...] = (None, None)
        if known is not None:
            symbols, first_us = np.union1d(known.symbols, symbols), min(known.first_us, first_us)
            offset, rows = min(known.first_offset, offset), (known.first_row, known.last_row)
        self.file_spans[name] = FileSpan(name, np.unique(symbols), first_us, NEVER_US, offset, offset, *rows)
        if len(self.file_spans) > _MAX_FILES:
            del self.file_spans[next(iter(self.file_spans))]
            self.file_changed()

    def file_continues(self, feed: FeedState, ticks: TickColumns) -> None:
        """Update the first and the last row of a file with these ticks."""
        span = self.file_spans.get(feed.name)
        if span is not None and self.held is None and not feed.ended:
            first, last = ((int(ticks.symbol[at]), int(ticks.time[at])) for at in (0, -1))
            self.file_spans[feed.name] = replace(span, first_row=span.first_row or first, last_row=last)
            if span.first_row is None:
                self.file_changed()

    def file_ends(self, feed: FeedState, offset: int) -> FileSpan | None:
        """Store the end of a file, whose `End` record has this offset; return its span, None for a file without ticks.

        A file of bars needs no span: vendors' bars compete in the store.
        """
        span = self.file_spans.pop(feed.name, None)
        if span is None or not feed.sources:
            return None
        last_us = max(feed.newest_us, feed.watermark_us)
        span = self.file_spans[feed.name] = replace(span, last_us=last_us, last_offset=offset)
        return span

    def oldest_offset(self) -> int | None:
        """Return the smallest raw offset that a correction may read again; None if there is none.

        Open windows, retained bars and unmatched corrections refer to raw offsets.
        """
        blocks = (block for each in (*self.candidates, self.auctions) for block in each.blocks.values())
        found = [int(block["first_offset"].min()) for block in blocks]
        for feed in self.feeds.values():
            found += [int(rows["first_offset"].min()) for rows in [feed.windows.dump()[0]] if len(rows)]
            found += [int(feed.unmatched.offsets.min())] if len(feed.unmatched) else []
        return min(found, default=None)

    def for_rebuild(self) -> State:
        """Return a state without bars, with the final coverage of each feed.

        Symbols, sources and feeds have the same codes. The rules are the same, but without activity bars and the wait
        for a better source.
        """
        fresh = State(self.symbols, self.sources)
        fresh.reasons = self.reasons
        fresh.next_feed = self.next_feed
        # Activity bars are published only once. No minute of a rebuild waits for a better source.
        fresh.set_rules(msgspec.structs.replace(self.rules, activity_bars={}, source_priority_wait_us=0))
        for feed in self.feeds.values():
            limit_us = FOREVER_US if feed.ended else feed.horizon_us
            copied = FeedState(
                feed.name, feed.number, live=feed.live, up=True, coverage_fixed=True, max_horizon_us=limit_us
            )
            copied.coverage, copied.last_sent_us = list(feed.coverage), FOREVER_US
            copied.expected, copied.sources = feed.expected, set(feed.sources)
            if feed.is_file:
                copied.firm, copied.declared_until_us = feed.firm, feed.declared_until_us
            fresh.add_feed(copied)
        fresh.file_spans = dict(self.file_spans)
        return fresh

    def feed(self, name: str) -> FeedState:
        """Return the feed of that name. A new name gets a new feed."""
        number = self._feed_numbers.get(name)
        if number is None:
            number = self._feed_numbers[name] = self.next_feed
            self.next_feed += 1
            self.feeds[number] = FeedState(name, number)
            self.feeds[number].activity.fit(self.activities)
        return self.feeds[number]

    def known_feed(self, name: str) -> FeedState | None:
        """Return the feed of that name, None if there is none."""
        number = self._feed_numbers.get(name)
        return None if number is None else self.feeds[number]

    def file_claims(self) -> dict[int, list[int]]:
        """Return the numbers of the files that have a claim on a minute (see `cut_minutes`), by the minute's start.

        Files that are `firm` are omitted.
        """
        if self._file_claims is None:
            self._file_claims = {}
            for feed in self.feeds.values():
                if feed.is_file and not feed.firm:
                    for start in self.claimed_minutes(feed):
                        self._file_claims.setdefault(start, []).append(feed.number)
        return self._file_claims

    def claimed_minutes(self, feed: FeedState) -> set[int]:
        """Return the starts of the minutes in which a file begins or ends, by time or by row order."""
        rows = {row[1] - row[1] % MINUTE_US for row in self.file_rows(feed) if row is not None}
        return {feed.first_minute_us, *feed.last_minutes_us} | rows

    def file_rows(self, feed: FeedState) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        """Return (symbol, time) of a file's first row, and of its last row if the file has ended; None if unknown."""
        span = self.file_spans.get(feed.name)
        return (None, None) if span is None else (span.first_row, span.last_row if feed.ended else None)

    def file_changed(self) -> None:
        """Compute `file_claims` again at its next call, because the files or their first rows have changed."""
        self._file_claims = None

    def add_feed(self, feed: FeedState) -> None:
        """Add a feed that already has a number."""
        self.feeds[feed.number] = feed
        self._feed_numbers[feed.name] = feed.number
        self.file_changed()

    def drop_feed(self, feed: FeedState) -> None:
        """Remove a feed and its name."""
        del self.feeds[feed.number]
        del self._feed_numbers[feed.name]
        self.file_changed()

    def set_rules(self, rules: Rules) -> None:
        """Apply these rules from now on.

        Raises ConfigError for a calendar that cannot be loaded, an invalid order of sources or an invalid interval;
        nothing is changed then.
        """
        calendars = Calendars(rules)
        calendars.check()
        ranking = SourceRanking(rules, self.symbols, self.sources)
        activities = _activity_intervals(rules)
        self.rules = rules
        self._calendars = calendars
        self.calendars, self.calendar_of = [], np.empty(0, dtype=np.int32)
        self.ranking = ranking
        self.activities = activities
        self.members = np.empty((0, len(self.activities)), dtype=np.bool_)
        self.day_cache.clear()
        for candidates in (*self.candidates, self.auctions):
            candidates.rules_changed()
        for feed in self.feeds.values():
            feed.retained_from, feed.retained_until_us = [], NEVER_US
            feed.activity.fit(self.activities)
        self.refresh()

    def refresh(self) -> None:
        """Add the symbols and sources that are new since the last call to the arrays and to the ranking."""
        if len(self.calendar_of) < len(self.symbols):
            added = self.symbols.texts[len(self.calendar_of) :]
            numbers = [self._calendar_number(text) for text in added]
            self.calendar_of = np.concatenate((self.calendar_of, np.array(numbers, dtype=np.int32)))
        more = len(self.symbols) - len(self.newest)
        if more:
            never = np.full(more, NEVER_US, dtype=np.int64)
            self.newest = np.concatenate((self.newest, never))
            self.evicted_before = np.concatenate((self.evicted_before, never))
        self.ranking.refresh()
        if len(self.members) < len(self.symbols):
            has = [self._membership(text) for text in self.symbols.texts[len(self.members) :]]
            fits = np.array(has, dtype=np.bool_).reshape(len(has), len(self.activities))
            self.members = np.concatenate((self.members, fits))

    def _membership(self, symbol: str) -> list[bool]:
        chosen = next((n for pattern, n in self.rules.activity_bars.items() if matches(symbol, pattern)), ())
        return [interval.name in chosen for interval in self.activities]

    def _calendar_number(self, symbol: str) -> int:
        calendar = self._calendars.of(symbol)
        for number, known in enumerate(self.calendars):
            if known is calendar:
                return number
        self.calendars.append(calendar)
        return len(self.calendars) - 1

    def day_rows(self, session: int) -> tuple[Rows, BoolArray]:
        """Return the cached daily sums of a session by symbol, and a mask of the valid sums.

        The caller may change both arrays in place.
        """
        found = self.day_cache.get(session)
        count = len(self.symbols)
        if found is None or len(found[1]) < count:
            found = np.zeros(count, dtype=ROW), np.zeros(count, dtype=np.bool_)
            self.day_cache[session] = found
        return found


def _activity_intervals(rules: Rules) -> list[Interval]:
    """Return the activity intervals in the rules, each once. Raises ConfigError for any other interval."""
    names = sorted({name for names in rules.activity_bars.values() for name in names})
    try:
        found = [parse(name) for name in names]
    except BadInput as error:
        raise ConfigError(f"activity_bars: {error}") from error
    for interval in found:
        if not interval.is_activity:
            raise ConfigError(f"activity_bars: {interval} is an interval of time; use an amount, such as 100t")
    return found

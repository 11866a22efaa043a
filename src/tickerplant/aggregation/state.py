"""The state of one partition: everything that a snapshot holds, and what follows from it at once."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.candidates import REASONS, Finished
from tickerplant.aggregation.feed_state import Feed
from tickerplant.aggregation.ranking import Ranking
from tickerplant.aggregation.rows import DAYS, FIVES, MINUTES, ROW, Names, Rows
from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.interval import Interval, parse
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sessions import Calendar, Calendars
from tickerplant.core.times import FOREVER_US, HOUR_US, NEVER_US, Int64Array

if TYPE_CHECKING:
    from tickerplant.aggregation.source_priority import Hold


_MOST_HOURS = 24 * 8


class State:
    """Names, feeds, bars and rules of one partition."""

    def __init__(self, symbols: Names | None = None, sources: Names | None = None) -> None:
        self.rules: Rules = DEFAULT_RULES
        self.symbols = symbols or Names()
        self.sources = sources or Names()
        self.reasons = Names(list(REASONS))
        self.feeds: dict[int, Feed] = {}
        self.next_feed = 0
        self.finished = (Finished(MINUTES), Finished(FIVES), Finished(DAYS))
        """Bars of 1m, 5m, 1d: see `rows.INTERVALS`."""
        self.auctions = Finished(FIVES)
        """Prints of the closing auction after the close, by session: parts of the daily bar alone."""
        self.newest: Int64Array = np.empty(0, dtype=np.int64)
        """By symbol: the start of the newest bar published."""
        self.forgotten: Int64Array = np.empty(0, dtype=np.int64)
        """By symbol: bars that begin before this may have been published and are not remembered."""
        self.holds: dict[tuple[int, int], Hold] = {}
        """By (minute, feed): for whom it waits."""
        self.hours: list[tuple[int, int]] = []
        """Log times at least an hour apart, and the raw offset of the first record sent then or after."""
        self.next_check_us = NEVER_US
        """Log time of the next look at feeds that are silent."""
        self.last_sent_us = NEVER_US
        # What follows from the above, and what is only remembered to save work.
        self.calendars: list[Calendar] = []
        self.calendar_of: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
        self.ranking = Ranking(self.rules, self.symbols, self.sources)
        self.activities: list[Interval] = []
        """Intervals by activity that the rules name; their codes follow those of `rows.INTERVALS`."""
        self.members: npt.NDArray[np.bool_] = np.empty((0, 0), dtype=np.bool_)
        """By symbol and such interval: whether the symbol has bars of it."""
        self.day_cache: dict[int, tuple[Rows, npt.NDArray[np.bool_]]] = {}
        self._calendars = Calendars(self.rules)
        self._feed_numbers: dict[str, int] = {}

    def note_hour(self, offset: int) -> None:
        """Remember where the log's clock stands, once an hour, for as long as raw is kept and may be rebuilt."""
        if not self.hours or self.last_sent_us >= self.hours[-1][0] + HOUR_US:
            self.hours = [*self.hours[-_MOST_HOURS + 1 :], (self.last_sent_us, offset)]

    def offset_before(self, time_us: int) -> int:
        """Return a raw offset before which nothing was sent after `time_us`: the latest that is known."""
        return max((offset for sent, offset in self.hours if sent <= time_us), default=0)

    def oldest_offset(self) -> int | None:
        """Return the least raw offset of a print that is in a bar which is remembered, or of what undid one."""
        found = [
            int(block["first_offset"].min()) for f in (*self.finished, self.auctions) for block in f.blocks.values()
        ]
        for feed in self.feeds.values():
            found += [int(rows["first_offset"].min()) for rows in [feed.windows.dump()[0]] if len(rows)]
            found += [int(feed.undone.offsets.min())] if len(feed.undone) else []
        return min(found, default=None)

    def beginning(self) -> State:
        """Return a state without bars under the same rules and numbers, which knows when each feed was up."""
        fresh = State(self.symbols, self.sources)
        fresh.reasons = self.reasons
        fresh.next_feed = self.next_feed
        # Bars by activity are published once, and who waits for whom is over by now.
        fresh.set_rules(msgspec.structs.replace(self.rules, activity_bars={}, source_priority_wait_us=0))
        for feed in self.feeds.values():
            cap_us = FOREVER_US if feed.ended else feed.horizon_us
            seeded = Feed(feed.name, feed.number, live=feed.live, up=True, settled=True, cap_us=cap_us)
            seeded.coverage, seeded.heard_us = list(feed.coverage), FOREVER_US
            seeded.expected, seeded.sources = feed.expected, set(feed.sources)
            fresh.add_feed(seeded)
        return fresh

    def feed(self, name: str) -> Feed:
        """Return the feed of that name, a new one if need be."""
        number = self._feed_numbers.get(name)
        if number is None:
            number = self._feed_numbers[name] = self.next_feed
            self.next_feed += 1
            self.feeds[number] = Feed(name, number)
            self.feeds[number].activity.fit(self.activities)
        return self.feeds[number]

    def add_feed(self, feed: Feed) -> None:
        """Put back a feed from a snapshot."""
        self.feeds[feed.number] = feed
        self._feed_numbers[feed.name] = feed.number

    def drop_feed(self, feed: Feed) -> None:
        """Forget a feed."""
        del self.feeds[feed.number]
        del self._feed_numbers[feed.name]

    def knows_feed(self, name: str) -> bool:
        """Return whether a feed of that name is remembered."""
        return name in self._feed_numbers

    def set_rules(self, rules: Rules) -> None:
        """Live by other rules from now on.

        Raises ConfigError, and changes nothing, when a calendar is unknown, or the order of sources or an interval
        cannot be read.
        """
        calendars = Calendars(rules)
        calendars.check()
        ranking = Ranking(rules, self.symbols, self.sources)
        activities = _activities(rules)
        self.rules = rules
        self._calendars = calendars
        self.calendars, self.calendar_of = [], np.empty(0, dtype=np.int32)
        self.ranking = ranking
        self.activities = activities
        self.members = np.empty((0, len(self.activities)), dtype=np.bool_)
        self.day_cache.clear()
        for feed in self.feeds.values():
            feed.floors, feed.floors_until = [], NEVER_US
            feed.activity.fit(self.activities)
        self.refresh()

    def refresh(self) -> None:
        """Fit the arrays by symbol and by source to the names known now."""
        if len(self.calendar_of) < len(self.symbols):
            fresh = self.symbols.texts[len(self.calendar_of) :]
            numbers = [self._calendar_number(text) for text in fresh]
            self.calendar_of = np.concatenate((self.calendar_of, np.array(numbers, dtype=np.int32)))
        more = len(self.symbols) - len(self.newest)
        if more:
            never = np.full(more, NEVER_US, dtype=np.int64)
            self.newest = np.concatenate((self.newest, never))
            self.forgotten = np.concatenate((self.forgotten, never))
        self.ranking.refresh()
        if len(self.members) < len(self.symbols):
            has = [self._activities_of(text) for text in self.symbols.texts[len(self.members) :]]
            fits = np.array(has, dtype=np.bool_).reshape(len(has), len(self.activities))
            self.members = np.concatenate((self.members, fits))

    def _activities_of(self, symbol: str) -> list[bool]:
        chosen = next((n for pattern, n in self.rules.activity_bars.items() if fnmatchcase(symbol, pattern)), ())
        return [interval.name in chosen for interval in self.activities]

    def _calendar_number(self, symbol: str) -> int:
        calendar = self._calendars.of(symbol)
        for number, known in enumerate(self.calendars):
            if known is calendar:
                return number
        self.calendars.append(calendar)
        return len(self.calendars) - 1

    def day_rows(self, session: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Return the remembered sums of a session by symbol, and which of them hold; both may be written to."""
        found = self.day_cache.get(session)
        count = len(self.symbols)
        if found is None or len(found[1]) < count:
            found = np.zeros(count, dtype=ROW), np.zeros(count, dtype=np.bool_)
            self.day_cache[session] = found
        return found


def _activities(rules: Rules) -> list[Interval]:
    """Return the intervals by activity that the rules name, each once. Raises ConfigError for any other."""
    names = sorted({name for names in rules.activity_bars.values() for name in names})
    try:
        found = [parse(name) for name in names]
    except BadInput as error:
        raise ConfigError(f"activity_bars: {error}") from error
    for interval in found:
        if not interval.is_activity:
            raise ConfigError(f"activity_bars: {interval} is an interval of time")
    return found

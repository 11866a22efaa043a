"""The engine of one partition: what feeds say goes in, bars come out. Pure: no IO, no clock.

One raw record is one step: `begin`, the method of its kind, then `finish`. All times are int64 microseconds UTC;
`version` is that of the record.

    ticks ──> windows of (feed, symbol, minute) ──closed──> 1m candidates ──winner──> 5m ──winner──> 1d by the calendar
    vendors' bars ───────────────────────────────────────> candidates of their interval ──┘

Windows close when they end at or before their feed's watermark less the lateness; at its `down`; at its `end`. A 5m
bar closes when its feed's horizon passes its end, a daily bar when it passes the session's close, or at `end`; not at
`down`, for the feed may come back within it: until it does, log time less the lateness is its horizon if it is live.
What an ended feed leaves open in the present of a live one (a backfill of this morning) closes with the live one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation import forming, retention, rollup, source_priority
from tickerplant.aggregation.candidates import AUCTION, CANCEL, CORRECTION, DOWN, LATE, SOURCE, TICKS
from tickerplant.aggregation.corrections import UNDOES, auction_sessions, recount
from tickerplant.aggregation.feed_state import Feed
from tickerplant.aggregation.grouping import TickColumns, group_ticks
from tickerplant.aggregation.rows import DAYS, FIVES, FROM_TICKS, INTERVALS, MINUTES, Rows, keys_of, take
from tickerplant.aggregation.state import State
from tickerplant.core.flags import TickFlag
from tickerplant.core.interval import M5
from tickerplant.core.rules import Rules
from tickerplant.core.schemas import STALE_FEED_US
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.streams import EMPTY_HISTORY, History
from tickerplant.core.times import DAY_US, FOREVER_US, MINUTE_US, NEVER_US, SECOND_US, BoolArray, Int64Array

_MAX_OVER: Final = 1440  # interval-over records of one step: a feed whose watermark jumps a day says one day of them


@dataclass(frozen=True, slots=True)
class OverRow:
    """A feed's interval is over: of the expected symbols, which have a bar of it."""

    feed: str
    interval: int
    start_us: int
    symbols: npt.NDArray[np.int32]
    emitted: BoolArray
    whole: bool = True


@dataclass(frozen=True, slots=True)
class StateRow:
    """What is to be said of a feed on `market.status`."""

    feed: str
    state: str
    since_us: int
    reason: str = ""
    count: int = 0


@dataclass(slots=True)
class Outcome:
    """What one step causes: closed and forming bars by interval code, and what `market.status` shall hear."""

    closed: dict[int, list[Rows]] = field(default_factory=dict)
    forming: dict[int, Rows] = field(default_factory=dict)
    over: list[OverRow] = field(default_factory=list)
    states: list[StateRow] = field(default_factory=list)
    differing: dict[int, list[tuple[Rows, Rows]]] = field(default_factory=dict)
    """By interval code: published bars, and what another source says of them."""


class BarAggregator:
    """The engine of one partition. `state` is all it knows."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self._outcome = Outcome()
        self._moved: dict[int, Feed] = {}
        self._looked = False

    def begin(self, feed: str, sent_at_us: int) -> None:
        """Begin a step of a record of `feed` ("" for none), sent at `sent_at_us`: the log's clock moves."""
        state = self.state
        state.last_sent_us = max(state.last_sent_us, sent_at_us)
        if feed:
            heard = state.feed(feed)
            heard.heard_us = max(heard.heard_us, sent_at_us)
        if state.last_sent_us >= state.next_check_us:
            state.next_check_us = state.last_sent_us + SECOND_US
            self._look_at_silent_feeds()
            self._looked = True
        if state.holds:
            self._release()

    def finish(self) -> Outcome:
        """End the step and return what it causes; each (symbol, interval, time) at most once."""
        state = self.state
        for interval, finished in enumerate(state.finished):
            differing = finished.differing()
            if differing:
                self._outcome.differing[interval] = differing
            blocks = finished.take_changed()
            for rows in blocks:
                symbols = rows["symbol"]
                state.newest[symbols] = np.maximum(state.newest[symbols], rows["start"])
            if blocks:
                self._outcome.closed.setdefault(interval, []).extend(blocks)
        state.auctions.take_changed()
        # Only now, for what a step changes it must still be able to publish.
        for feed in self._moved.values():
            retention.tidy(state, feed)
        self._moved.clear()
        if self._looked:
            retention.drop_silent(state, state.last_sent_us)
            self._looked = False
        outcome, self._outcome = self._outcome, Outcome()
        return outcome

    def start(
        self, name: str, from_us: int, symbols: npt.NDArray[np.int32], *, hole: bool, live: bool, whole: bool
    ) -> None:
        """The feed is up from `from_us` on and expected to bring `symbols`."""
        feed = self.state.feed(name)
        if feed.up and live:
            self._fall(feed, feed.watermark_us, "restarted")
        again = feed.ended and not live
        feed.up, feed.live, feed.ended = True, live, False
        feed.expected = np.unique(symbols)
        if again:
            feed.begin_again(from_us)
            self._outcome.states.append(StateRow(name, "up", from_us))
            return
        former = feed.coverage[-1][1] if feed.coverage else FOREVER_US
        feed.rise(from_us, hole=hole, whole=whole)
        feed.over_us = max(feed.over_us, from_us - from_us % MINUTE_US)
        if not hole and former < FOREVER_US:
            self._recover(feed, former)
        self._outcome.states.append(StateRow(name, "up", from_us))

    def ticks(
        self,
        name: str,
        ticks: TickColumns,
        watermark_us: int,
        offset: int,
        version: int,
        history: History = EMPTY_HISTORY,
    ) -> None:
        """Add prints of a feed in order of arrival, then advance its watermark. Corrections read `history`."""
        state, feed = self.state, self._known(name, watermark_us)
        state.refresh()
        reason = LATE
        if len(ticks):
            feed.top_us = max(feed.top_us, int(ticks.time.max()))
            if state.activities:
                self._count_activity(feed, ticks)
            least, most = int(ticks.source.min()), int(ticks.source.max())
            feed.sources |= {least} if least == most else set(np.unique(ticks.source).tolist())
            touched = self._touches_undone(feed, ticks)
            if touched is not None:
                reason = self._recount(feed, ticks.where(touched), offset, version, history)
                ticks = ticks.where(~touched)
        if len(ticks):
            if int(np.bitwise_or.reduce(ticks.flags)) & TickFlag.CLOSING_AUCTION:
                self._keep_auction(feed, ticks, offset, version)
            self._take_ticks(feed, ticks, offset, version)
        self._advance(feed, watermark_us, reason)

    def vendor_bars(self, name: str, rows: Rows, intervals: npt.NDArray[np.int8], watermark_us: int) -> None:
        """Finished bars that a vendor gave, one row for each, with the code of its interval."""
        state, feed = self.state, self._known(name, watermark_us)
        state.refresh()
        if len(rows):
            feed.top_us = max(feed.top_us, int(rows["start"].max()))
            rows["feed"] = rows["feed_hi"] = feed.number
            rows["history"] = retention.is_history(state, rows["start"], rows["symbol"])
        for code in np.unique(intervals).tolist():
            mine = rows[intervals == code]
            if code == DAYS:
                feed.top_us = max(feed.top_us, int(mine["start"].max()) + DAY_US - 1)
            # Of a bar given twice in one record the later one counts.
            order = np.lexsort((np.arange(len(mine)), mine["symbol"], mine["start"]))
            mine = mine[order]
            again = (mine["symbol"][1:] == mine["symbol"][:-1]) & (mine["start"][1:] == mine["start"][:-1])
            mine = mine[np.concatenate((~again, [True]))]
            if code == MINUTES:
                source_priority.hold(state, feed, mine)
            state.finished[code].merge(mine, state.ranking, SOURCE)
        self._advance(feed, watermark_us, reason=SOURCE)

    def mark(self, name: str, watermark_us: int) -> None:
        """A watermark alone; forming bars of what the feed has touched are published."""
        feed = self._known(name, watermark_us)
        self._advance(feed, watermark_us)
        self._outcome.forming = forming.forming(self.state, feed)

    def down(self, name: str, since_us: int, reason: str) -> None:
        """The feed has brought nothing since `since_us`."""
        self._fall(self.state.feed(name), since_us, reason)

    def end(self, name: str, *, whole: bool) -> None:
        """The feed has brought all it had: everything it had open closes."""
        feed = self.state.feed(name)
        if not whole and feed.coverage:
            feed.fall(feed.watermark_us)
        feed.up, feed.ended = False, True
        heirs = self._heirs(feed)
        self._close(feed, FOREVER_US, LATE, coarser_us=min((heir.horizon_us for heir in heirs), default=FOREVER_US))
        for heir in heirs:
            heir.open_fives |= feed.open_fives
            heir.open_days |= feed.open_days
        feed.open_fives, feed.open_days = set(), set()
        feed.seal()
        self._outcome.states.append(StateRow(name, "ended", feed.watermark_us))

    def settings(self, rules: Rules) -> None:
        """Live by these rules from now on. Raises ConfigError, and changes nothing, when a calendar is unknown."""
        self.state.set_rules(rules)
        rollup.reopen_days(self.state)
        for feed in self.state.feeds.values():
            retention.tidy(self.state, feed)  # a feed without floors would hold back all that is to be forgotten

    def close_like(self, others: Mapping[int, Feed]) -> None:
        """Close of each feed what `others`, the same feeds elsewhere, have closed (in a rebuild, at its end)."""
        for feed in list(self.state.feeds.values()):
            like = others.get(feed.number)
            gone_on = like is not None and not like.ended
            limit_us = like.horizon_us if like is not None and gone_on else FOREVER_US
            feed.horizon_us = max(feed.horizon_us, min(limit_us, FOREVER_US))
            if like is None or not like.up:
                self._finish_minutes(feed, feed.windows.take_before(FOREVER_US), LATE)
            self.state.holds = {key: hold for key, hold in self.state.holds.items() if key[1] != feed.number}
            self._close(feed, limit_us, LATE)

    def say(self, row: StateRow) -> None:
        """Have `market.status` hear this."""
        self._outcome.states.append(row)

    def publish(self, interval: int, rows: Rows) -> None:
        """Publish closed bars of an interval (code) as they are, none of which is remembered."""
        if len(rows):
            self._outcome.closed.setdefault(interval, []).append(rows)

    def unsupported(self, name: str, reason: str, count: int) -> None:
        """Count what the engine cannot use."""
        self._outcome.states.append(StateRow(name, "unsupported", self.state.feed(name).watermark_us, reason, count))

    def _known(self, name: str, watermark_us: int) -> Feed:
        """Return the feed; one that never said `start` counts as up since the first watermark it gave."""
        feed = self.state.feed(name)
        if not feed.up and not feed.coverage:
            feed.up = True
            feed.rise(watermark_us, hole=True, whole=False)
        return feed

    def _count_activity(self, feed: Feed, ticks: TickColumns) -> None:
        """Give prints to the bars by activity; cancels and corrections are none."""
        counts = self.state.members[ticks.symbol].any(axis=1) & ((ticks.flags & UNDOES) == 0)
        late = feed.activity.add(ticks.where(counts)) if counts.any() else 0
        if late:
            self.unsupported(feed.name, "too late for bars by activity", late)

    def _end_activity(self, feed: Feed, limit_us: int) -> None:
        state = self.state
        bars = feed.activity.release(limit_us, state.members, state.calendars, state.calendar_of)
        for number, rows in enumerate(bars):
            if not len(rows):
                continue
            rows["feed"] = rows["feed_hi"] = feed.number
            rows["reason"], rows["revision"] = TICKS, 0
            # A bar whose last print sets no price ends no later than that of the last that did, as far as is known.
            ends = np.maximum(rows["start"], rows["close_time"]) + 1
            rows["complete"] = feed.covers(rows["start"], ends)
            rows = take(rows, ~source_priority.outspoken(state, feed, rows))
            if len(rows):
                self._outcome.closed.setdefault(len(INTERVALS) + number, []).append(rows)

    def _touches_undone(self, feed: Feed, ticks: TickColumns) -> BoolArray | None:
        """Return which prints have their minute counted again: of one that this record undoes a print of, or that a
        cancel or a correction has named a print of, at this time, that had not come.
        """
        undoes = (ticks.flags & UNDOES) != 0
        if not len(feed.undone) and not undoes.any():
            return None
        keys = keys_of(ticks.time - ticks.time % MINUTE_US, ticks.symbol)
        again = keys[undoes | feed.undone.awaits(keys, ticks.time)]
        touched: BoolArray = np.isin(keys, again)
        return touched if touched.any() else None

    def _recount(self, feed: Feed, ticks: TickColumns, offset: int, version: int, history: History) -> int:
        """Count the minutes of these prints again, and put the bars in their place; return why they changed."""
        state = self.state
        ticks = self._remembered(feed, ticks)
        if not len(ticks):
            return LATE
        again = recount(state, feed, ticks, offset, version, history)
        if again.unknown:
            self.unsupported(feed.name, "cancel or correction of a print that has not come", again.unknown)
        if again.lost:
            self.unsupported(feed.name, "the log no longer has the prints of a bar to correct", again.lost)
        rows, horizon = again.minutes, feed.horizon_us - feed.horizon_us % MINUTE_US
        closed = rows["start"] < horizon
        for start in np.unique(rows["start"]).tolist():
            here = rows["start"] == start
            symbols = rows["symbol"][here]
            feed.windows.drop(start, symbols)
            # The first part of a drop's minute is finished already; what is counted again goes there whole.
            done = state.finished[MINUTES].of_feed(start, symbols, feed.number)["symbol"]
            closed[here] |= np.isin(symbols, done)
        if not closed.all():
            window = take(rows, ~closed)
            window["reason"] = TICKS
            feed.windows.merge(window, len(state.symbols))
        for reason in np.unique(again.reasons[closed]).tolist():
            some = take(rows, closed & (again.reasons == reason))
            some["reason"] = reason
            self._finish_minutes(feed, some, reason, add=False)
        if len(again.auctions):
            again.auctions["reason"] = AUCTION
            state.auctions.merge(again.auctions, state.ranking, AUCTION, add=False)
        flags = int(np.bitwise_or.reduce(ticks.flags))
        return CANCEL if flags & TickFlag.CANCEL else CORRECTION if flags & TickFlag.CORRECTION else LATE

    def _remembered(self, feed: Feed, ticks: TickColumns) -> TickColumns:
        """Leave out what is older than the feed remembers, and say how much that is."""
        minutes = ticks.time - ticks.time % MINUTE_US
        forgotten = minutes < retention.floors_of(self.state, feed, ticks.symbol)
        if not forgotten.any():
            return ticks
        count, since = int(np.count_nonzero(forgotten)), int(ticks.time[forgotten].min())
        self._outcome.states.append(StateRow(feed.name, "late", since, "older than memory", count))
        return ticks.where(~forgotten)

    def _keep_auction(self, feed: Feed, ticks: TickColumns, offset: int, version: int) -> None:
        """Keep the closing auction's prints after the close for the daily bar, by session."""
        state = self.state
        prints = ticks.where((ticks.flags & TickFlag.CLOSING_AUCTION) != 0)
        sessions = auction_sessions(state, prints)
        late = prints.time < retention.floors_of(state, feed, prints.symbol)
        keep = (sessions != NO_SESSION) & ~late
        if not keep.any():
            return
        rows = group_ticks(prints.where(keep), sessions[keep])
        self._stamp(feed, rows, offset, version, AUCTION)
        rows["complete"] = True
        state.auctions.merge(rows, state.ranking, AUCTION)

    def _stamp(self, feed: Feed, rows: Rows, offset: int, version: int, reason: int) -> None:
        rows["feed"] = rows["feed_hi"] = feed.number
        rows["first_offset"] = rows["last_offset"] = offset
        rows["arrival"] = version
        rows["reason"] = reason

    def _take_ticks(self, feed: Feed, ticks: TickColumns, offset: int, version: int) -> None:
        state = self.state
        horizon = feed.horizon_us - feed.horizon_us % MINUTE_US  # minutes that begin before it have ended by it
        if horizon > NEVER_US and int(ticks.time.min()) < horizon:
            late = ticks.time < horizon
            self._take_late(feed, ticks.where(late), offset, version)
            ticks = ticks.where(~late)
            if not len(ticks):
                return
        rows = group_ticks(ticks)
        self._stamp(feed, rows, offset, version, TICKS)
        feed.windows.merge(rows, len(state.symbols))

    def _take_late(self, feed: Feed, ticks: TickColumns, offset: int, version: int) -> None:
        ticks = self._remembered(feed, ticks)
        if len(ticks):
            rows = group_ticks(ticks)
            self._stamp(feed, rows, offset, version, LATE)
            self._finish_minutes(feed, rows, LATE)

    def _finish_minutes(self, feed: Feed, rows: Rows, reason: int, *, add: bool = True) -> None:
        if len(rows):
            starts = rows["start"]
            rows["complete"] = feed.covers(starts, starts + MINUTE_US) & ~rows["unsized"]
            source_priority.hold(self.state, feed, rows)
            self.state.finished[MINUTES].merge(rows, self.state.ranking, reason, add=add)

    def _advance(self, feed: Feed, watermark_us: int, reason: int = LATE) -> None:
        feed.advance(watermark_us, self.state.rules.allowed_lateness_us)
        self._close(feed, feed.horizon_us, reason)

    def _release(self) -> None:
        """Let those minutes compete whose wait is over, and close what waited for them."""
        state, minutes = self.state, self.state.finished[MINUTES]
        waited = set()
        for start, number in source_priority.over(state):
            block = minutes.blocks.get(start)
            if block is not None:
                minutes.reconsider(start, state.ranking, SOURCE, held=block["held"] & (block["feed"] != number))
            waited.add(number)
            if number in state.feeds:  # whoever settles first takes the minute's change for all
                state.feeds[number].open_fives.add(M5.floor(start))
        for number in sorted(waited & state.feeds.keys()):
            feed = state.feeds[number]
            self._close(feed, FOREVER_US if feed.ended else feed.horizon_us, SOURCE)

    def _heirs(self, feed: Feed) -> list[Feed]:
        """Return the live feeds that go on bringing symbols of a feed that has ended."""
        others = (other for other in self.state.feeds.values() if other.live and other.up and other is not feed)
        return [other for other in others if len(np.intersect1d(other.expected, feed.expected))]

    def _close(
        self,
        feed: Feed,
        limit_us: int,
        reason: int,
        redo_since_us: int | None = None,
        coarser_us: int = FOREVER_US,
    ) -> None:
        """Close what ends at or before `limit_us` (coarser bars: and `coarser_us`), carry every change up, and say what
        is over.
        """
        state = self.state
        if feed.windows.first_start + MINUTE_US <= limit_us:
            self._finish_minutes(feed, feed.windows.take_before(limit_us), reason)
        days = rollup.settle(self.state, feed, min(limit_us, coarser_us), reason, redo_since_us)
        if state.activities:
            self._end_activity(feed, limit_us)
        if feed.live:
            self._declare_intraday(feed, limit_us)
        self._declare_days(feed, days)
        self._moved[feed.number] = feed
        if state.holds:
            self._release()

    def _fall(self, feed: Feed, since_us: int, reason: str) -> None:
        feed.up = False
        feed.fall(since_us)
        self._take_back(feed, since_us)
        self._finish_minutes(feed, feed.windows.take_before(FOREVER_US), LATE)
        self._recover(feed, since_us)
        self._outcome.states.append(StateRow(feed.name, "down", since_us, reason))

    def _take_back(self, feed: Feed, since_us: int) -> None:
        """Say of the intervals that were declared over and end after `since_us` that the feed was not up for all."""
        if feed.over_us <= NEVER_US or not len(feed.expected):
            return
        first = max(since_us - since_us % M5.us, feed.over_us - _MAX_OVER * MINUTE_US)
        self._declare_minutes(feed, np.arange(first, feed.over_us, MINUTE_US))

    def _recover(self, feed: Feed, since_us: int) -> None:
        """Decide anew whether the feed's bars that end after `since_us` are complete."""
        minutes = self.state.finished[MINUTES]
        for start in sorted(start for start in minutes.blocks if start + MINUTE_US > since_us):
            block = minutes.blocks[start]
            ours = (block["feed"] == feed.number) & (block["kind"] == FROM_TICKS)
            covered = feed.covers(np.array([start]), np.array([start + MINUTE_US]))[0]
            complete = np.where(ours, covered & ~block["unsized"], block["complete"])
            if (complete != block["complete"]).any():
                minutes.reconsider(start, self.state.ranking, DOWN, complete=complete)
        self._close(feed, feed.horizon_us, DOWN, redo_since_us=since_us)

    def _look_at_silent_feeds(self) -> None:
        state = self.state
        now = state.last_sent_us
        for feed in list(state.feeds.values()):
            if not feed.live or feed.ended:
                continue
            if feed.up and feed.heard_us + STALE_FEED_US < now:
                self._fall(feed, feed.watermark_us, "silent")
            if not feed.up and (feed.open_fives or feed.open_days):
                feed.horizon_us = max(feed.horizon_us, min(now - state.rules.allowed_lateness_us, feed.cap_us))
                self._close(feed, feed.horizon_us, LATE)

    def _declare_intraday(self, feed: Feed, limit_us: int) -> None:
        """Say of each minute and five minutes that ended at or before the horizon which symbols have a bar of it.

        Expected are the feed's symbols whose exchange has a session then. A feed that is not live says days alone: a
        file of a year would say a hundred thousand minutes.
        """
        end = min(limit_us, feed.horizon_us)
        end -= end % MINUTE_US
        if not feed.up or end <= feed.over_us or not len(feed.expected):
            return
        starts = np.arange(max(feed.over_us, end - _MAX_OVER * MINUTE_US), end, MINUTE_US)
        feed.over_us = end
        self._declare_minutes(feed, starts)

    def _declare_minutes(self, feed: Feed, starts: Int64Array) -> None:
        """Declare these minutes, and the five minutes that end with one of them."""
        calendar_of = self.state.calendar_of[feed.expected]
        numbers = np.unique(calendar_of)
        in_session = np.array([self.state.calendars[n].session_of(starts) != NO_SESSION for n in numbers.tolist()])
        whole = feed.covers(starts, starts + MINUTE_US)
        for start, inside, covered in zip(starts.tolist(), in_session.T, whole.tolist(), strict=True):
            if not inside.any():
                continue
            expected = feed.expected if inside.all() else feed.expected[np.isin(calendar_of, numbers[inside])]
            self._declare(feed, MINUTES, start, expected, whole=covered)
            if (start + MINUTE_US) % M5.us == 0:
                five = M5.floor(start)
                all_of_it = feed.covers(np.array([five]), np.array([five + M5.us]))
                self._declare(feed, FIVES, five, expected, whole=bool(all_of_it[0]))

    def _declare_days(self, feed: Feed, closed: list[tuple[int, int]]) -> None:
        for session in sorted({session for _, session in closed}):
            calendars = [calendar for calendar, of_it in closed if of_it == session]
            expected = feed.expected[np.isin(self.state.calendar_of[feed.expected], calendars)]
            if len(expected):
                known = [self.state.calendars[number] for number in calendars]
                opens = min(int(one.open_of(np.array([session]))[0]) for one in known)
                closes = max(int(one.close_of(np.array([session]))[0]) for one in known)
                whole = bool(feed.covers(np.array([opens]), np.array([closes]))[0])
                self._declare(feed, DAYS, session, expected, whole=whole)

    def _declare(
        self, feed: Feed, interval: int, start: int, expected: npt.NDArray[np.int32], *, whole: bool = True
    ) -> None:
        block = self.state.finished[interval].blocks.get(start)
        if block is None:
            emitted = np.zeros(len(expected), dtype=np.bool_)
        else:
            ours = (block["feed"] <= feed.number) & (feed.number <= block["feed_hi"])
            emitted = np.isin(expected, block["symbol"][ours & ~block["gone"]])
        self._outcome.over.append(OverRow(feed.name, interval, start, expected, emitted, whole))

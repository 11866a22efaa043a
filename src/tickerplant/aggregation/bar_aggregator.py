"""The engine of one partition: feeds' records in, bars out. Pure: no IO, no clock.

One raw record causes one step: `begin`, the method for the record's type (if any), and `finish`. `settings` is called
before `begin`, because `settings` may raise. All times are int64 microseconds UTC. `version` is the record's version.

    ticks ──> windows of (feed, symbol, minute) ──closed──> 1m candidates ──winner──> 5m ──winner──> 1d by the calendar
    vendors' bars ───────────────────────────────────────> candidates of their interval ──┘

When bars close:

- A window closes when it ends at or before its feed's *horizon*: the watermark less the allowed lateness. It also
  closes at the feed's `down` or `end`.
- A 5m bar closes when its feed's horizon reaches the end of the bar. A daily bar closes when the horizon reaches the
  end of the session. Both also close at the feed's `end`. They do not close at `down`, because the feed may be up again
  before the bar ends. While a live feed with such open bars is down, its horizon advances to log time less the allowed
  lateness.
- A backfill may end while a live feed of the same symbols is up. Coarser bars that end after the live feed's horizon
  then remain open until the live feed closes them.
- A 5m or daily bar that contains a pending minute remains open (see `source_priority`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation import completeness, retention, rollup
from tickerplant.aggregation.candidates import AUCTION, DOWN, LATE, SOURCE, TICKS
from tickerplant.aggregation.corrections import CORRECTIVE, affected_ticks, apply_corrections, auction_sessions
from tickerplant.aggregation.cut_minutes import mark_cut_minutes
from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.forming import forming_bars
from tickerplant.aggregation.grouping import TickColumns, group_ticks
from tickerplant.aggregation.outcome import FeedStatus, Outcome
from tickerplant.aggregation.rows import CUT, DAYS, INTERVALS, MINUTES, Codes, Rows, take
from tickerplant.aggregation.source_priority import outranked
from tickerplant.aggregation.state import State
from tickerplant.core import reasons
from tickerplant.core.flags import TickFlag
from tickerplant.core.interval import M5
from tickerplant.core.rules import Rules
from tickerplant.core.schemas import STALE_FEED_US
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.streams import EMPTY_HISTORY, History
from tickerplant.core.times import DAY_US, FOREVER_US, MINUTE_US, NEVER_US, SECOND_US


class BarAggregator:
    """The engine of one partition. `state` is its whole state between two steps."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self._outcome = Outcome()
        self._advanced: dict[int, FeedState] = {}
        self._checked_silence = False

    def begin(self, feed: str, sent_at_us: int) -> None:
        """Begin the step of a record. `feed` is "" if no feed sent the record. `sent_at_us` may advance log time."""
        state = self.state
        state.last_sent_us = max(state.last_sent_us, sent_at_us)
        if feed:
            sender = state.feed(feed)
            sender.last_sent_us = max(sender.last_sent_us, sent_at_us)
        if state.last_sent_us >= state.next_check_us:
            state.next_check_us = state.last_sent_us + SECOND_US
            self._check_silent_feeds()
            self._checked_silence = True
        if state.pending:
            self._release_pending()

    def finish(self) -> Outcome:
        """End the step and return its outcome, which contains each (symbol, interval, time) at most once."""
        state = self.state
        for interval, candidates in enumerate(state.candidates):
            differences = candidates.drain_differences()
            if differences:
                self._outcome.differences[interval] = differences
            blocks = candidates.drain_changed()
            for rows in blocks:
                symbols = rows["symbol"]
                cut = (rows["flaws"] & CUT) != 0
                if cut.any():
                    rows["reason"][cut] = state.reasons.code(reasons.CUT)
                # The rows are sorted by start. If an index occurs twice, NumPy assigns the last value.
                state.newest[symbols] = np.maximum(state.newest[symbols], rows["start"])
            if blocks:
                self._outcome.closed.setdefault(interval, []).extend(blocks)
        state.auctions.drain_changed()
        # Evict last: a bar that the step changes must still be published.
        for feed in self._advanced.values():
            retention.advance(state, feed)
        self._advanced.clear()
        if self._checked_silence:
            retention.drop_silent_feeds(state, state.last_sent_us)
            self._checked_silence = False
        outcome, self._outcome = self._outcome, Outcome()
        return outcome

    def start(
        self, name: str, start_us: int, symbols: Codes, *, gap: bool, live: bool, whole: bool, firm: bool = False
    ) -> None:
        """Mark the feed up from `start_us`, and expect it to deliver `symbols`.

        `gap`, `whole`: as for `FeedState.mark_up`. `live`: the feed counts as down after `STALE_FEED_US` without a
        record. `firm`: the first and the last interval of a file are complete, even if other files have trades in them.
        """
        feed = self.state.feed(name)
        feed.firm = firm
        if feed.up and live:
            self._mark_down(feed, feed.watermark_us, "restarted")
        new_round = feed.ended and not live
        feed.up, feed.live, feed.ended = True, live, False
        feed.expected = np.unique(symbols)
        if new_round:
            feed.start_new_round(start_us)
            self._outcome.statuses.append(FeedStatus(name, "up", start_us))
            return
        former_end = feed.coverage[-1][1] if feed.coverage else FOREVER_US
        feed.mark_up(start_us, gap=gap, whole=whole)
        if not feed.is_file or feed.declared_until_us == NEVER_US:
            feed.declared_until_us = max(feed.declared_until_us, start_us - start_us % MINUTE_US)
        self.state.file_changed()
        if not gap and former_end < FOREVER_US:
            self._recompute_completeness(feed, former_end)
        self._outcome.statuses.append(FeedStatus(name, "up", start_us))

    def ticks(
        self,
        name: str,
        ticks: TickColumns,
        watermark_us: int,
        offset: int,
        version: int,
        history: History = EMPTY_HISTORY,
    ) -> None:
        """Add ticks of a feed in order of arrival, then advance the feed's watermark.

        Cancels and corrections read the affected ticks again from `history`.
        """
        state, feed = self.state, self._known_feed(name, watermark_us)
        state.refresh()
        reason = LATE
        if len(ticks):
            feed.newest_us = max(feed.newest_us, int(ticks.time.max()))
            if feed.is_file:
                state.file_continues(feed, ticks)
            if state.activities:
                self._count_activity(feed, ticks)
            least, most = int(ticks.source.min()), int(ticks.source.max())
            feed.sources |= {least} if least == most else set(np.unique(ticks.source).tolist())
            affected = affected_ticks(feed, ticks)
            if affected is not None:
                corrected = apply_corrections(
                    state, self._outcome, feed, ticks.where(affected), offset, version, history
                )
                for why, rows in corrected.closed:
                    self._add_minutes(feed, rows, why, add=False)
                reason = corrected.reason
                ticks = ticks.where(~affected)
        if len(ticks):
            if int(np.bitwise_or.reduce(ticks.flags)) & TickFlag.CLOSING_AUCTION:
                self._add_auction(feed, ticks, offset, version)
            self._add_ticks(feed, ticks, offset, version)
        self._advance(feed, watermark_us, reason)

    def vendor_bars(self, name: str, rows: Rows, intervals: npt.NDArray[np.int8], watermark_us: int) -> None:
        """Add closed bars of a vendor, each with the code of its interval, then advance the feed's watermark."""
        state, feed = self.state, self._known_feed(name, watermark_us)
        state.refresh()
        if len(rows):
            feed.newest_us = max(feed.newest_us, int(rows["start"].max()))
            rows["feed"] = rows["last_feed"] = feed.number
            rows["history"] = retention.is_history(state, rows["start"], rows["symbol"])
        for code in np.unique(intervals).tolist():
            mine = rows[intervals == code]
            if code == DAYS:
                feed.newest_us = max(feed.newest_us, int(mine["start"].max()) + DAY_US - 1)
            # If a record contains a bar twice, the later row counts.
            order = np.lexsort((np.arange(len(mine)), mine["symbol"], mine["start"]))
            mine = mine[order]
            again = (mine["symbol"][1:] == mine["symbol"][:-1]) & (mine["start"][1:] == mine["start"][:-1])
            mine = mine[np.concatenate((~again, [True]))]
            if code == MINUTES:
                self._wait_for_better_feeds(feed, mine)
            state.candidates[code].merge(mine, state.ranking, SOURCE)
        self._advance(feed, watermark_us, reason=SOURCE)

    def mark(self, name: str, watermark_us: int) -> None:
        """Advance the feed's watermark, and publish the forming bars that changed since the feed's last mark."""
        feed = self._known_feed(name, watermark_us)
        self._advance(feed, watermark_us)
        self._outcome.forming = forming_bars(self.state, feed)

    def down(self, name: str, since_us: int, reason: str) -> None:
        """Mark the feed down: it has delivered nothing since `since_us`."""
        self._mark_down(self.state.feed(name), since_us, reason)

    def end(self, name: str, *, whole: bool, watermark_us: int = NEVER_US) -> None:
        """End the feed: its windows and its open 5m and daily bars close.

        Coarser bars that a live feed of the same symbols takes over remain open. `whole`: the feed has delivered all
        its data; if false, its coverage ends at its watermark. `watermark_us`: the last watermark of a file.
        """
        feed = self.state.feed(name)
        if not whole and feed.coverage:
            feed.mark_down(feed.watermark_us)
        feed.up, feed.ended = False, True
        if feed.is_file:
            feed.watermark_us = max(feed.watermark_us, watermark_us)
            self.state.file_changed()
            self._add_minutes(feed, feed.windows.close_before(FOREVER_US), LATE)
            mark_cut_minutes(self.state, sorted(self.state.claimed_minutes(feed)))
        successors = self._successors(feed)
        limit_us = min((successor.horizon_us for successor in successors), default=FOREVER_US)
        self._close(feed, FOREVER_US, LATE, coarser_us=limit_us)
        for successor in successors:
            successor.open_fives |= feed.open_fives
            successor.open_days |= feed.open_days
        feed.open_fives, feed.open_days = set(), set()
        feed.close_coverage()
        self._outcome.statuses.append(FeedStatus(name, "ended", feed.watermark_us))

    def settings(self, rules: Rules) -> None:
        """Apply these rules from now on. Raises ConfigError, and changes nothing, if they are invalid."""
        self.state.set_rules(rules)
        rollup.reopen_days(self.state)
        for feed in self.state.feeds.values():
            retention.advance(self.state, feed)  # a feed without `retained_from` would prevent all eviction

    def close_as(self, others: Mapping[int, FeedState]) -> None:
        """Close the bars that the same feeds in another engine (`others`) have closed; the last step of a rebuild."""
        for feed in list(self.state.feeds.values()):
            other = others.get(feed.number)
            limit_us = other.horizon_us if other is not None and not other.ended else FOREVER_US
            feed.horizon_us = max(feed.horizon_us, min(limit_us, FOREVER_US))
            if other is None or not other.up:
                self._add_minutes(feed, feed.windows.close_before(FOREVER_US), LATE)
            self.state.pending.drop_feed(feed.number)
            self._close(feed, limit_us, LATE)

    def report(self, status: FeedStatus) -> None:
        """Add an entry to the outcome for `market.status`."""
        self._outcome.statuses.append(status)

    def publish(self, interval: int, rows: Rows) -> None:
        """Publish closed bars of an interval (code) unchanged. The engine must not retain any of them."""
        if len(rows):
            self._outcome.closed.setdefault(interval, []).append(rows)

    def unsupported(self, name: str, reason: str, count: int) -> None:
        """Add a status entry to the outcome: reason and count of input that the engine cannot use."""
        self._outcome.unsupported(name, self.state.feed(name).watermark_us, reason, count)

    def _known_feed(self, name: str, watermark_us: int) -> FeedState:
        """Return the feed. A feed that sent no `start` counts as up from its first watermark on."""
        feed = self.state.feed(name)
        if not feed.up and not feed.coverage:
            feed.up = True
            feed.mark_up(watermark_us, gap=True, whole=False)
        return feed

    def _count_activity(self, feed: FeedState, ticks: TickColumns) -> None:
        """Add the ticks of symbols that have activity bars, except cancels and corrections; report the late ticks."""
        counts = self.state.members[ticks.symbol].any(axis=1) & ((ticks.flags & CORRECTIVE) == 0)
        late = feed.activity.add(ticks.where(counts)) if counts.any() else 0
        if late:
            self.unsupported(feed.name, "too late for bars by activity", late)

    def _end_activity(self, feed: FeedState, limit_us: int) -> None:
        state = self.state
        bars = feed.activity.release(limit_us, state.members, state.calendars, state.calendar_of)
        for number, rows in enumerate(bars):
            if not len(rows):
                continue
            rows["feed"] = rows["last_feed"] = feed.number
            rows["reason"], rows["revision"] = TICKS, 0
            # A row contains only the times of trades that set a price. Other trades of the bar may be later.
            ends = np.maximum(rows["start"], rows["close_time"]) + 1
            rows["complete"] = feed.covers(rows["start"], ends)
            rows = take(rows, ~outranked(feed, rows, state.feeds, state.ranking))
            if len(rows):
                self._outcome.closed.setdefault(len(INTERVALS) + number, []).append(rows)

    def _add_auction(self, feed: FeedState, ticks: TickColumns, offset: int, version: int) -> None:
        """Store, by session, the closing auction trades with a time after the close: parts of the daily bar."""
        state = self.state
        ticks = ticks.where((ticks.flags & TickFlag.CLOSING_AUCTION) != 0)
        sessions = auction_sessions(state, ticks)
        evicted = ticks.time < retention.retained_starts(state, feed, ticks.symbol)
        keep = (sessions != NO_SESSION) & ~evicted
        if not keep.any():
            return
        rows = group_ticks(ticks.where(keep), sessions[keep])
        self._stamp(feed, rows, offset, version, AUCTION)
        rows["complete"] = True
        state.auctions.merge(rows, state.ranking, AUCTION)

    def _stamp(self, feed: FeedState, rows: Rows, offset: int, version: int, reason: int) -> None:
        rows["feed"] = rows["last_feed"] = feed.number
        rows["first_offset"] = rows["last_offset"] = offset
        rows["arrival"] = version
        rows["reason"] = reason

    def _add_ticks(self, feed: FeedState, ticks: TickColumns, offset: int, version: int) -> None:
        horizon = feed.horizon_us - feed.horizon_us % MINUTE_US  # earlier minutes are closed
        if horizon > NEVER_US and int(ticks.time.min()) < horizon:
            late = ticks.time < horizon
            self._add_late_ticks(feed, ticks.where(late), offset, version)
            ticks = ticks.where(~late)
            if not len(ticks):
                return
        rows = group_ticks(ticks)
        self._stamp(feed, rows, offset, version, TICKS)
        feed.windows.merge(rows, len(self.state.symbols))

    def _add_late_ticks(self, feed: FeedState, ticks: TickColumns, offset: int, version: int) -> None:
        """Add ticks of closed minutes to the candidates. Each changed bar is published with its next revision."""
        ticks = retention.drop_evicted(self.state, self._outcome, feed, ticks)
        if len(ticks):
            rows = group_ticks(ticks)
            self._stamp(feed, rows, offset, version, LATE)
            self._add_minutes(feed, rows, LATE)

    def _add_minutes(self, feed: FeedState, rows: Rows, reason: int, *, add: bool = True) -> None:
        """Add closed minutes of a feed, sorted by start, to the feed's candidates.

        If `add` is false, they replace the candidates.
        """
        if len(rows):
            rows["complete"] = completeness.minutes_complete(feed, rows)
            self._wait_for_better_feeds(feed, rows)
            self.state.candidates[MINUTES].merge(rows, self.state.ranking, reason, add=add)
            if feed.is_file:
                claims = self.state.file_claims()
                mark_cut_minutes(self.state, [s for s in np.unique(rows["start"]).tolist() if s in claims])

    def _wait_for_better_feeds(self, feed: FeedState, rows: Rows) -> None:
        state = self.state
        wait_us = state.rules.source_priority_wait_us
        if wait_us:
            state.pending.add(feed, rows, state.feeds, state.ranking, state.last_sent_us + wait_us)

    def _release_pending(self) -> None:
        """Select winners again in minutes whose wait is over, and close the coarser bars that waited for them."""
        state, minutes = self.state, self.state.candidates[MINUTES]
        waited = set()
        for start, number in state.pending.drain_expired(state.feeds, state.last_sent_us):
            block = minutes.blocks.get(start)
            if block is not None:
                minutes.reselect(start, state.ranking, SOURCE, pending=block["pending"] & (block["feed"] != number))
            waited.add(number)
            if number in state.feeds:  # the first feed to close consumes the change on behalf of all
                state.feeds[number].open_fives.add(M5.floor(start))
        for number in sorted(waited & state.feeds.keys()):
            feed = state.feeds[number]
            self._close(feed, FOREVER_US if feed.ended else feed.horizon_us, SOURCE)

    def _successors(self, feed: FeedState) -> list[FeedState]:
        """Return the live feeds that continue to deliver symbols of a feed that has ended."""
        others = (other for other in self.state.feeds.values() if other.live and other.up and other is not feed)
        return [other for other in others if len(np.intersect1d(other.expected, feed.expected))]

    def _advance(self, feed: FeedState, watermark_us: int, reason: int = LATE) -> None:
        feed.advance(watermark_us, self.state.rules.allowed_lateness_us)
        self._close(feed, feed.horizon_us, reason)

    def _close(
        self,
        feed: FeedState,
        limit_us: int,
        reason: int,
        redo_since_us: int | None = None,
        coarser_us: int = FOREVER_US,
    ) -> None:
        """Close the feed's bars that end at or before `limit_us`, and declare the intervals that are over.

        Changes propagate to 5m and 1d. Coarser bars close up to the lesser of `limit_us` and `coarser_us`.
        See `rollup.close_coarser` for `redo_since_us`.
        """
        state = self.state
        if feed.windows.first_start + MINUTE_US <= limit_us:
            self._add_minutes(feed, feed.windows.close_before(limit_us), reason)
        days = rollup.close_coarser(state, feed, min(limit_us, coarser_us), reason, redo_since_us)
        if state.activities:
            self._end_activity(feed, limit_us)
        if feed.live:
            completeness.declare_intraday(state, self._outcome, feed, limit_us)
        completeness.declare_days(state, self._outcome, feed, days)
        self._advanced[feed.number] = feed
        if state.pending:
            self._release_pending()

    def _mark_down(self, feed: FeedState, since_us: int, reason: str) -> None:
        feed.up = False
        feed.mark_down(since_us)
        completeness.declare_again(self.state, self._outcome, feed, since_us)
        self._add_minutes(feed, feed.windows.close_before(FOREVER_US), LATE)
        self._recompute_completeness(feed, since_us)
        self._outcome.statuses.append(FeedStatus(feed.name, "down", since_us, reason))

    def _recompute_completeness(self, feed: FeedState, since_us: int) -> None:
        """Recompute the completeness of the feed's bars that end after `since_us`; publish the changed bars."""
        completeness.recompute_minutes(self.state, feed, since_us)
        self._close(feed, feed.horizon_us, DOWN, redo_since_us=since_us)

    def _check_silent_feeds(self) -> None:
        """Mark silent live feeds down.

        The horizon of a live feed that is down and has open coarser bars advances with log time.
        """
        state = self.state
        now = state.last_sent_us
        for feed in list(state.feeds.values()):
            if not feed.live or feed.ended:
                continue
            if feed.up and feed.last_sent_us + STALE_FEED_US < now:
                self._mark_down(feed, feed.watermark_us, "silent")
            if not feed.up and (feed.open_fives or feed.open_days):
                feed.horizon_us = max(feed.horizon_us, min(now - state.rules.allowed_lateness_us, feed.max_horizon_us))
                self._close(feed, feed.horizon_us, LATE)

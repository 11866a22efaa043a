"""The ledger: every series that is wanted, what is missing of it, and what of it was not looked at yet.

What is there and what vendors have answered is read from the store: of the last minutes in every round, of holes when
they are reported, of a history once, the newest first and a few seconds in a round, so that requests for what matters
most do not wait until ten years of everything have been looked through.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from tickerplant.core.coverage import Answers
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendars
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, Int64Array
from tickerplant.market_data.backfill.planner import Task, task_of
from tickerplant.market_data.backfill.series import Grid, Series, Wanted
from tickerplant.market_data.vendors.rate_limits import Purpose
from tickerplant.store import Store

HEAL_US: Final = 2 * DAY_US
"""Missing bars that are no older are holes: they may be asked for by the credits that are kept in reserve."""
SHORT_US: Final = HEAL_US + DAY_US
PIECE_US: Final = 60 * DAY_US
"""Of a longer history is looked at so much at once: the silences of many symbols are read in one go."""
LOOK_BACK_US: Final = 15 * MINUTE_US
"""Of the last minutes is looked again in every round: what a feed declares down afterwards becomes incomplete."""
LOOK_S: Final = 5.0
"""So long a round looks into history that it has not seen yet."""
_ORDER: Final = {"1d": 0, "1m": 1}
_MANY: Final = 100
_SOME: Final = 25
"""Symbols of which one query asks; of months of minutes of some: 2 M rows at most."""
_AT_ONCE: Final = 50

_Stretch = tuple[int, int]


class Ledger:
    """What is wanted and missing. `grace_us`: for so long an interval must be over before its bar is missing."""

    def __init__(self, rules: Rules, partitions: int, grace_us: int) -> None:
        self._rules = rules
        self._calendars = Calendars(rules)
        self._partitions = partitions
        self._grace_us = grace_us
        self._grids: dict[tuple[str, str], Grid] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._unseen: deque[tuple[Series, int, int]] = deque()
        self._ordered: dict[tuple[str, str], list[_Stretch]] = {}
        self._hidden: Counter[int] = Counter()  # pieces of a series that were not looked at yet
        self._counts: dict[int, tuple[int, int]] = {}
        self._floors: dict[str, int] = {}
        self._now_us = 0

    def clear(self) -> None:
        """Forget everything: another store, or one that has been away."""
        self._series.clear()
        self._unseen.clear()
        self._hidden.clear()
        self._counts.clear()

    @property
    def series(self) -> Iterable[Series]:
        """Return all series."""
        return self._series.values()

    @property
    def unseen(self) -> bool:
        """Whether something has not been looked at yet."""
        return bool(self._unseen)

    def calendar_name(self, symbol: str) -> str:
        """Return the name of a symbol's calendar."""
        return self._calendars.of(symbol).name

    # Looking ---------------------------------------------------------------------------------------------------------

    async def look(self, store: Store, wanted: Iterable[Wanted], holes: Sequence[_Stretch], now_us: int) -> None:
        """Bring what is known up to date. `holes`: stretches of which a stream has brought nothing."""
        self._now_us = now_us
        self._floors.clear()
        recent: dict[tuple[str, int, int], list[Series]] = {}
        for number, one in enumerate(wanted):
            for series, from_us, to_us in self._want(one, holes):
                recent.setdefault((series.interval, from_us, to_us), []).append(series)
            if not number % _AT_ONCE:
                await asyncio.sleep(0)
        for (interval, from_us, to_us), some in recent.items():
            for at in range(0, len(some), _MANY):
                await self._read(store, some[at : at + _MANY], interval, from_us, to_us)
        await self._look_further(store)
        for number, series in enumerate(self._series.values()):
            self.count(series)
            if not number % _AT_ONCE:
                await asyncio.sleep(0)

    def _want(self, wanted: Wanted, holes: Sequence[_Stretch]) -> list[tuple[Series, int, int]]:
        """Return what is to be looked at now of a series; what is wanted of its history is noted as unseen."""
        key = (wanted.symbol, wanted.interval)
        one = self._series.get(key)
        if one is None:
            one = self._series[key] = Series(*key, self._grid(*key))
        back_us = max(LOOK_BACK_US, 2 * self._grace_us) + one.grid.length_us
        since_us = wanted.to_us
        for from_us, to_us in one.want(wanted.from_us, wanted.to_us):
            if wanted.from_us < from_us and to_us == wanted.to_us and to_us - from_us <= HEAL_US:
                since_us = from_us  # it goes on where it ended before
            else:
                self._note_unseen(one, from_us, to_us)
        stretches = [(since_us - back_us, wanted.to_us)]
        stretches += [(begin - one.grid.length_us, end + one.grid.length_us) for begin, end in holes]
        inside = [(max(wanted.from_us, begin), min(wanted.to_us, end)) for begin, end in stretches]
        return [(one, begin, end) for begin, end in inside if end > begin]

    def _note_unseen(self, one: Series, from_us: int, to_us: int) -> None:
        """Take note of a stretch to look at, in pieces from the newest back: the last days, then months of minutes."""
        cut_us = max(from_us, to_us - SHORT_US)
        pieces = [(cut_us, to_us)]
        while cut_us > from_us:
            begin_us = from_us if one.interval == "1d" else max(from_us, cut_us - PIECE_US)
            pieces.append((begin_us, cut_us))
            cut_us = begin_us
        self._unseen.extend((one, begin, end) for begin, end in pieces)
        self._hidden[id(one)] += len(pieces)

    async def _look_further(self, store: Store) -> None:
        """Look at what has not been looked at, the most valuable first, for a few seconds."""
        began = time.monotonic()
        self._unseen = deque(sorted(self._unseen, key=self._worth))
        while self._unseen and time.monotonic() - began < LOOK_S:
            one, from_us, to_us = self._unseen[0]
            most = _MANY if one.interval == "1d" or to_us - from_us <= SHORT_US else _SOME
            same = [one]
            for other, *stretch in itertools.islice(self._unseen, 1, most):
                if other.interval != one.interval or stretch != [from_us, to_us]:
                    break
                same.append(other)
            await self._read(store, same, one.interval, from_us, to_us)
            for series in same:
                self._unseen.popleft()
                self._hidden[id(series)] -= 1

    def _worth(self, piece: tuple[Series, int, int]) -> tuple[bool, int, int, int, int]:
        """Return what is looked at first: the last days, then days, then minutes; and symbols of a partition together,
        for what feeds say of them is read by partition.
        """
        one, from_us, to_us = piece
        partition = partition_of(one.symbol, self._partitions)
        return (to_us - from_us > SHORT_US, _ORDER.get(one.interval, 2), -to_us, -from_us, partition)

    async def _read(self, store: Store, some: Sequence[Series], interval: str, from_us: int, to_us: int) -> None:
        """Look at a stretch of several series in the store."""
        symbols = [one.symbol for one in some]
        by_partition: dict[int, list[str]] = {}
        for symbol in symbols:
            by_partition.setdefault(partition_of(symbol, self._partitions), []).append(symbol)
        nothing = np.empty(0, np.int64)
        silent: dict[str, Int64Array] = {}
        async with store.read() as look:
            have = await look.coverage.stored_bars_of(symbols, interval, from_us, to_us)
            answers = await look.answers.read(symbols, interval, from_us, to_us)
            for partition, names in by_partition.items():
                silent |= await look.coverage.silent_intervals(names, interval, partition, from_us, to_us)

        def note() -> None:
            for one in some:
                times, complete = have.get(one.symbol, (nothing, nothing.astype(np.bool_)))
                told = answers.get(one.symbol, Answers.none())
                one.look(from_us, to_us, times, complete, told, silent.get(one.symbol, nothing))

        await asyncio.to_thread(note)

    def _grid(self, symbol: str, interval: str) -> Grid:
        calendar = self._calendars.of(symbol)
        key = (calendar.name, interval)
        if key not in self._grids:
            self._grids[key] = Grid(calendar, interval)
        return self._grids[key]

    def order(self, ordered: Iterable[Wanted]) -> None:
        """Let these come before other history."""
        self._ordered.clear()
        for one in ordered:
            self._ordered.setdefault((one.symbol, one.interval), []).append((one.from_us, one.to_us))

    def is_done(self, wanted: Wanted, now_us: int, patience_us: int) -> bool:
        """Whether nothing is left of this that can be asked for now, or within `patience_us`."""
        one = self._series.get((wanted.symbol, wanted.interval))
        if one is None or self._hidden[id(one)]:
            return False
        return not one.ready(now_us + patience_us, wanted.from_us, min(wanted.to_us, self.before_us(one, now_us)))

    # What is missing -------------------------------------------------------------------------------------------------

    def derived_from(self, symbol: str) -> int:
        """Return from where on a symbol's coarser bars are made of 1m bars: as far as aggregation remembers."""
        calendar = self._calendars.of(symbol)
        if calendar.name not in self._floors:
            at = np.array([self._now_us - 2 * HOUR_US], np.int64)
            self._floors[calendar.name] = int(
                calendar.start_of_last_sessions(at, self._rules.revision_window_sessions)[0]
            )
        return self._floors[calendar.name]

    def before_us(self, one: Series, now_us: int) -> int:
        """Return before which time a bar must start to be missing: over for long enough, and not made of 1m bars."""
        limit_us = now_us - self._grace_us - one.grid.length_us
        return limit_us if one.interval == "1m" else min(limit_us, self.derived_from(one.symbol))

    def task(self, one: Series, now_us: int, *, heal: bool) -> Task | None:
        """Return what the series wants next, None for nothing.

        Its history is wanted when all of it has been looked at: a page that is cut at what is known costs a whole one.
        """
        before_us = self.before_us(one, now_us)
        task = task_of(one, now_us, before_us, now_us - HEAL_US, heal=heal)
        if task is None or task.purpose is Purpose.GAP_FILL:
            return task
        for from_us, to_us in self._ordered.get((one.symbol, one.interval), ()) if not self._hidden[id(one)] else ():
            if runs := one.ready(now_us, from_us, min(to_us, before_us)):
                return Task(one, runs[0][0], runs[-1][1], now_us, Purpose.HISTORY, ordered=True)
        return None if self._hidden[id(one)] else task

    def holes(self, interval: str, now_us: int) -> int:
        """Return how many series of the interval have holes that may be asked for now."""
        return sum(
            bool(one.ready(now_us, now_us - HEAL_US, self.before_us(one, now_us)))
            for one in self._series.values()
            if one.interval == interval
        )

    def count(self, one: Series) -> None:
        """Count again what is missing of a series."""
        self._counts[id(one)] = one.counts(self._now_us, self.before_us(one, self._now_us))

    def counts(self) -> tuple[int, int]:
        """Return how many bars are missing, and for how many of them nobody can be asked yet; by the last counts."""
        return sum(missing for missing, _ in self._counts.values()), sum(later for _, later in self._counts.values())

    def due_us(self, now_us: int) -> int | None:
        """Return when the first missing bar of those that wait may be asked for, None for none that waits."""
        times = [one.due_us(now_us, self.before_us(one, now_us)) for one in self._series.values()]
        return min((us for us in times if us is not None), default=None)

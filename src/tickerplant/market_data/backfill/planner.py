"""Requests cut out of what is missing: the largest value first, in pages as large as a vendor allows. Pure.

A page begins at the newest missing bar and reaches back; what it holds of bars that are there already costs nothing, so
gaps that one page can hold are one request. Symbols that miss the same stretch go together.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tickerplant.market_data.backfill.series import Series
from tickerplant.market_data.vendors.port import BarsOffer, BarsRequest
from tickerplant.market_data.vendors.rate_limits import Purpose

MOST_BARS: Final = 20_000
"""Expected in one answer, over all symbols: 2 MB, and asked for again after a kill."""
OVERLAP_BARS: Final = 40
"""Bars before a gap that are asked for too where the vendor's are to be compared with those that are there."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one series wants next: its missing bars of `[from_us, to_us)` that may be asked for at `now_us`.

    `from_us` is the oldest of them, `to_us` the end of the newest. `ordered`: somebody waits for them.
    """

    series: Series
    from_us: int
    to_us: int
    now_us: int
    purpose: Purpose
    ordered: bool = False

    @property
    def newest_us(self) -> int:
        """Return the start of the newest of its bars."""
        return self.to_us - self.series.grid.length_us

    @property
    def rank(self) -> tuple[int, int, int]:
        """Return what comes first: holes of now, then what was ordered; days (few bars, long charts) before minutes,
        and the newest before older ones.
        """
        of_interval = {"1d": 0, "1m": 1}.get(self.series.interval, 2)
        heal = self.purpose is Purpose.GAP_FILL
        return (0 if heal else 1 if self.ordered else 2, 0 if heal else of_interval, -self.newest_us)

    def runs(self) -> list[tuple[int, int]]:
        """Return the runs of its bars, oldest first."""
        return self.series.ready(self.now_us, self.from_us, self.to_us)


def task_of(one: Series, now_us: int, before_us: int, heal_from_us: int, *, heal: bool = True) -> Task | None:
    """Return what a series wants next, None for nothing.

    `before_us`: bars that start at or after it are not over for long enough, or come without asking. `heal_from_us`:
    missing bars from here on are holes, which are left alone without `heal`.
    """
    if heal and (holes := one.ready(now_us, heal_from_us, before_us)):
        return Task(one, holes[0][0], holes[-1][1], now_us, Purpose.GAP_FILL)
    if older := one.ready(now_us, 0, min(heal_from_us, before_us)):
        return Task(one, older[0][0], older[-1][1], now_us, Purpose.HISTORY)
    return None


class Agenda:
    """The tasks of a round, best first: one of each series."""

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self._heap: list[tuple[tuple[int, int, int], int, Task]] = []
        self._number = itertools.count()

    def put(self, one: Series, task: Task | None) -> None:
        """Take what a series wants now; None: nothing in this round."""
        if task is None:
            self._tasks.pop(id(one), None)
            return
        self._tasks[id(one)] = task
        heapq.heappush(self._heap, (task.rank, next(self._number), task))

    def best(self) -> Task | None:
        """Return the best task, which stays; None when nothing is left."""
        while self._heap:
            task = self._heap[0][2]
            if self._tasks.get(id(task.series)) is task:
                return task
            heapq.heappop(self._heap)
        return None

    def like(self, first: Task, from_us: int, to_us: int) -> Iterator[Task]:
        """Yield the other tasks of its interval and purpose whose newest bar lies in `[from_us, to_us)`, best first."""
        found = [
            task for task in self._tasks.values()
            if task is not first and from_us <= task.newest_us < to_us
            and task.series.interval == first.series.interval and task.purpose is first.purpose
        ]  # fmt: skip
        yield from sorted(found, key=lambda task: task.rank)

    def __len__(self) -> int:
        return len(self._tasks)


def page(task: Task, offer: BarsOffer, now_us: int, *, overlap: int = 0) -> tuple[int, int]:
    """Return the stretch `[from, to)` of the task's newest page at this vendor, `overlap` bars before it included."""
    grid = task.series.grid
    overlap = min(overlap, offer.page_bars // 2)
    oldest_us = task.from_us
    if offer.page_us is not None:
        oldest_us = max(oldest_us, task.to_us - offer.page_us)
    if offer.lookback_us is not None:
        oldest_us = max(oldest_us, now_us - offer.lookback_us)
    every = grid.starts(min(oldest_us, task.newest_us), task.to_us)
    every = every[-(min(offer.page_bars, MOST_BARS) - overlap) :]
    from_us = task.series.ready(task.now_us, int(every[0]), task.to_us)[0][0]
    if overlap:
        before = grid.starts(from_us - overlap * 20 * grid.length_us, from_us)[-overlap:]
        limit_us = task.to_us - offer.page_us if offer.page_us is not None else 0
        if offer.lookback_us is not None:
            limit_us = max(limit_us, now_us - offer.lookback_us)
        before = before[before >= limit_us]
        from_us = int(before[0]) if len(before) else from_us
    return from_us, task.to_us


def together(
    first: Task, rest: Iterable[Task], stretch: tuple[int, int], offer: BarsOffer, most: int,
    fits: Callable[[Task], bool] = lambda _: True,
) -> tuple[BarsRequest, list[Task]]:  # fmt: skip
    """Return the request of the first task and of those that miss something within the same stretch, up to `most`.

    `rest`: tasks of the same interval and purpose; `fits`: whether one may go along, asked of few of them.
    """
    from_us, to_us = stretch
    bars = max(1, len(first.series.grid.starts(from_us, to_us)))
    most = max(1, min(offer.symbols, most, MOST_BARS // bars))
    chosen = [first]
    for task in rest if most > 1 else ():
        # The newest page of the other must be this one: else it would be asked in pieces.
        mine = from_us <= task.newest_us < to_us and len(task.series.grid.starts(task.newest_us, to_us)) <= bars
        if mine and fits(task):
            chosen.append(task)
            if len(chosen) >= most:
                break
    symbols = tuple(task.series.symbol for task in chosen)
    return BarsRequest(symbols, first.series.interval, from_us, to_us), chosen

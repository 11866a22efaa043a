"""Requests cut from the missing bars: the most valuable first, in pages up to the limits of vendor and plant. Pure.

A page begins at the newest missing bar and extends backwards. Stored bars inside a page cost nothing, so gaps that fit
into one page are one request. Symbols with missing bars in the same range share a request.
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

MAX_BARS: Final = 20_000
"""Maximum number of bars of one answer, over all symbols: 2 MB, which are requested again after a kill."""
OVERLAP_BARS: Final = 40
"""Number of bars before a gap that are also requested if the vendor's bars must be compared with stored bars."""


@dataclass(frozen=True, slots=True)
class Task:
    """The missing bars of one series to request next: the bars in `[start_us, end_us)` that are ready at `now_us`.

    `start_us` is the start of the oldest bar, `end_us` the end of the newest. `ordered`: a user's order includes them.
    """

    series: Series
    start_us: int
    end_us: int
    now_us: int
    purpose: Purpose
    ordered: bool = False

    @property
    def newest_us(self) -> int:
        """Return the start of the newest bar."""
        return self.end_us - self.series.grid.length_us

    @property
    def rank(self) -> tuple[int, int, int]:
        """Return the rank of the task, lowest first: recent gaps, then orders, then history.

        Daily bars (few bars, long charts) precede minutes, within orders and within history. Newer bars precede older
        bars.
        """
        interval_rank = {"1d": 0, "1m": 1}.get(self.series.interval, 2)
        is_gap = self.purpose is Purpose.GAP_FILL
        return (0 if is_gap else 1 if self.ordered else 2, 0 if is_gap else interval_rank, -self.newest_us)


def next_task(series: Series, now_us: int, before_us: int, gaps_from_us: int, *, fill_gaps: bool = True) -> Task | None:
    """Return the next task of a series; None if it has none.

    `before_us`: bars that start at or after this time are not due yet, or arrive without a request. `gaps_from_us`:
    missing bars from this time on are recent gaps; they are skipped unless `fill_gaps` is True.
    """
    if fill_gaps and (gaps := series.ready(now_us, gaps_from_us, before_us)):
        return Task(series, gaps[0][0], gaps[-1][1], now_us, Purpose.GAP_FILL)
    if older := series.ready(now_us, 0, min(gaps_from_us, before_us)):
        return Task(series, older[0][0], older[-1][1], now_us, Purpose.HISTORY)
    return None


class TaskQueue:
    """The tasks of a round by rank, at most one for each series."""

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self._heap: list[tuple[tuple[int, int, int], int, Task]] = []
        self._number = itertools.count()

    def put(self, series: Series, task: Task | None) -> None:
        """Replace the task of a series, or remove it if `task` is None."""
        if task is None:
            self._tasks.pop(id(series), None)
            return
        self._tasks[id(series)] = task
        heapq.heappush(self._heap, (task.rank, next(self._number), task))

    def best(self) -> Task | None:
        """Return the task of the lowest rank without removing it; None if the queue is empty."""
        while self._heap:
            task = self._heap[0][2]
            if self._tasks.get(id(task.series)) is task:
                return task
            heapq.heappop(self._heap)
        return None

    def similar(self, first: Task, start_us: int, end_us: int) -> Iterator[Task]:
        """Yield the other tasks of the same interval and purpose whose newest bar is in `[start_us, end_us)`."""
        found = [
            task for task in self._tasks.values()
            if task is not first and start_us <= task.newest_us < end_us
            and task.series.interval == first.series.interval and task.purpose is first.purpose
        ]  # fmt: skip
        yield from sorted(found, key=lambda task: task.rank)

    def __len__(self) -> int:
        return len(self._tasks)


def newest_page(task: Task, offer: BarsOffer, now_us: int, *, overlap: int = 0) -> tuple[int, int]:
    """Return the range `[start, end)` of the task's newest page at this vendor, with up to `overlap` bars before it."""
    grid = task.series.grid
    overlap = min(overlap, offer.page_bars // 2)
    oldest_us = task.start_us
    if offer.page_us is not None:
        oldest_us = max(oldest_us, task.end_us - offer.page_us)
    if offer.lookback_us is not None:
        oldest_us = max(oldest_us, now_us - offer.lookback_us)
    starts = grid.starts(min(oldest_us, task.newest_us), task.end_us)
    starts = starts[-(min(offer.page_bars, MAX_BARS) - overlap) :]
    start_us = task.series.ready(task.now_us, int(starts[0]), task.end_us)[0][0]
    if overlap:
        before = grid.starts(start_us - overlap * 20 * grid.length_us, start_us)[-overlap:]
        limit_us = task.end_us - offer.page_us if offer.page_us is not None else 0
        if offer.lookback_us is not None:
            limit_us = max(limit_us, now_us - offer.lookback_us)
        before = before[before >= limit_us]
        start_us = int(before[0]) if len(before) else start_us
    return start_us, task.end_us


def shared_request(
    first: Task, others: Iterable[Task], page: tuple[int, int], offer: BarsOffer, limit: int,
    fits: Callable[[Task], bool] = lambda _: True,
) -> tuple[BarsRequest, list[Task]]:  # fmt: skip
    """Return one request for up to `limit` tasks, and these tasks: the first, and others with the same newest page.

    `others`: tasks of the same interval and purpose. `fits` returns True if a task may share the request.
    """
    start_us, end_us = page
    bars = max(1, len(first.series.grid.starts(start_us, end_us)))
    limit = max(1, min(offer.symbols, limit, MAX_BARS // bars))
    chosen = [first]
    for task in others if limit > 1 else ():
        # The newest page of the other task must be this page; otherwise its bars would be requested in pieces.
        same = start_us <= task.newest_us < end_us and len(task.series.grid.starts(task.newest_us, end_us)) <= bars
        if same and fits(task):
            chosen.append(task)
            if len(chosen) >= limit:
                break
    symbols = tuple(task.series.symbol for task in chosen)
    return BarsRequest(symbols, first.series.interval, start_us, end_us), chosen

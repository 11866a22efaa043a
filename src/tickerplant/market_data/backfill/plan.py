"""Requests cut out of what is missing: the largest value first, in pages as large as a vendor allows. Pure.

A page begins at the newest missing bar and reaches back; what it holds of bars that are there already costs nothing, so
gaps that one page can hold are one request. Symbols that miss the same stretch go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.core.times import Int64Array
from tickerplant.market_data.backfill.series import Series
from tickerplant.market_data.desk.budget import Purpose
from tickerplant.market_data.providers.port import BarsOffer, BarsRequest

MOST_BARS: Final = 20_000
"""Expected in one answer, over all symbols: 2 MB, and asked for again after a kill."""
OVERLAP_BARS: Final = 40
"""Bars before a gap that are asked for too where the vendor's are to be compared with those that are there."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one series wants next: its newest missing bars that may be asked for now."""

    series: Series
    starts: Int64Array
    purpose: Purpose

    @property
    def rank(self) -> tuple[int, int, int]:
        """Return what comes first: holes of now, then days (few bars, long charts), then the newest minutes."""
        of_interval = {"1d": 0, "1m": 1}.get(self.series.interval, 2)
        heal = self.purpose is Purpose.HEAL
        return (0 if heal else 1, 0 if heal else of_interval, -int(self.starts[-1]))


def tasks(
    series: Sequence[Series],
    now_us: int,
    before_us: dict[str, int],
    heal_from_us: int,
    derived_from: dict[str, int],
    *,
    heal: bool = True,
) -> list[Task]:
    """Return what may be asked for now, best first.

    `before_us`: by interval, bars that start at or after it are not over for long enough. `heal_from_us`: missing bars
    from here on are holes, which are left alone without `heal`. `derived_from`: by symbol, coarser bars from here on
    come of 1m bars and are not asked for.
    """
    found = []
    for one in series:
        limit_us = before_us[one.interval]
        if one.interval != "1m":
            limit_us = min(limit_us, derived_from.get(one.symbol, limit_us))
        ready = one.ready(now_us, limit_us)
        holes = ready[ready >= heal_from_us]
        if len(holes) and heal:
            found.append(Task(one, holes, Purpose.HEAL))
        elif len(holes) < len(ready):
            found.append(Task(one, ready[: len(ready) - len(holes)], Purpose.HISTORY))
    return sorted(found, key=lambda task: task.rank)


def page(task: Task, offer: BarsOffer, now_us: int, *, overlap: int = 0) -> tuple[int, int]:
    """Return the stretch `[from, to)` of the task's newest page at this vendor, `overlap` bars before it included."""
    grid, starts = task.series.grid, task.starts
    overlap = min(overlap, offer.page_bars // 2)
    last_us = int(starts[-1])
    to_us = last_us + grid.length_us
    oldest_us = int(starts[0])
    if offer.page_us is not None:
        oldest_us = max(oldest_us, to_us - offer.page_us)
    if offer.lookback_us is not None:
        oldest_us = max(oldest_us, now_us - offer.lookback_us)
    every = grid.starts(min(oldest_us, last_us), to_us)
    every = every[-(min(offer.page_bars, MOST_BARS) - overlap) :]
    first = starts[np.searchsorted(starts, every[0])]
    from_us = int(first)
    if overlap:
        before = grid.starts(from_us - overlap * 20 * grid.length_us, from_us)[-overlap:]
        limit_us = to_us - offer.page_us if offer.page_us is not None else 0
        if offer.lookback_us is not None:
            limit_us = max(limit_us, now_us - offer.lookback_us)
        before = before[before >= limit_us]
        from_us = int(before[0]) if len(before) else from_us
    return from_us, to_us


def together(
    first: Task, rest: Sequence[Task], stretch: tuple[int, int], offer: BarsOffer, most: int
) -> tuple[BarsRequest, list[Task]]:
    """Return the request of the first task and of those that miss something within the same stretch, up to `most`."""
    from_us, to_us = stretch
    bars = max(1, len(first.series.grid.starts(from_us, to_us)))
    most = max(1, min(offer.symbols, most, MOST_BARS // bars))
    chosen = [first]
    for task in rest:
        if len(chosen) >= most:
            break
        same = task.series.interval == first.series.interval and task.purpose is first.purpose
        if not same or task.series is first.series:
            continue
        # The newest page of the other must be this one: else it would be asked in pieces.
        if (
            from_us <= int(task.starts[-1]) < to_us
            and len(task.series.grid.starts(int(task.starts[-1]), to_us)) <= bars
        ):
            chosen.append(task)
    symbols = tuple(task.series.symbol for task in chosen)
    return BarsRequest(symbols, first.series.interval, from_us, to_us), chosen

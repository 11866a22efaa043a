"""The requests of a round: their order, their vendors, and the reasons why no vendor can get a request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from tickerplant.core.clock import Clock
from tickerplant.core.reasons import DISK
from tickerplant.core.schemas import NOT_OFFERED
from tickerplant.core.times import MINUTE_US, SECOND_US
from tickerplant.market_data.backfill.gap_index import GapIndex
from tickerplant.market_data.backfill.planner import OVERLAP_BARS, Task, TaskQueue, newest_page, shared_request
from tickerplant.market_data.backfill.progress import Progress
from tickerplant.market_data.backfill.publish import AnswerRow
from tickerplant.market_data.backfill.vendor_penalties import VendorPenalties
from tickerplant.market_data.vendors.port import BarsRequest, kind_of
from tickerplant.market_data.vendors.rate_limits import Purpose
from tickerplant.market_data.vendors.scheduler import Blocked, Choice, RequestScheduler

IDLE_S: Final = 60.0
"""Maximum seconds of pause after a round without requests, and minimum seconds between two requests for recent gaps."""
IDLE_MAX_S: Final = 1_800.0
"""Maximum seconds between two requests for recent gaps, if few credits are left."""
_ROUND_S: Final = 60.0
_ROUND_REQUESTS: Final = 50
_MAX_REPORTED: Final = 100_000
"""Maximum number of remembered reasons. When it is exceeded, all are removed, and some are reported again."""
_REPORT_AGAIN_US: Final = 10 * MINUTE_US
"""Minimum change of the next request's time at which the same reason is reported again."""
_MAX_UNREPORTED: Final = 1_000
"""Minimum number of reasons that are appended together during a round."""
_MINUTE_QUOTA_US: Final = 2 * MINUTE_US
"""Maximum wait that is not reported: credits per minute are available again after such a wait."""
_YIELD_EVERY: Final = 50
"""Number of series handled between two yields to the event loop."""


@dataclass(slots=True)
class Round:
    """One round: its start, its tasks and the number of its requests. `fill_gaps`: the round may request recent gaps.

    `ordered`: a request of this round was for a user's order.
    """

    started_s: float
    fill_gaps: bool
    tasks: TaskQueue
    requests: int = 0
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class NextRequest:
    """A request that is ready to be sent, and the tasks that it serves."""

    choice: Choice
    request: BarsRequest
    tasks: list[Task]
    purpose: Purpose


class RoundPlanner:
    """Chooses the requests of each round, and collects the reasons why gaps cannot be requested."""

    def __init__(
        self, scheduler: RequestScheduler, gaps: GapIndex, penalties: VendorPenalties, progress: Progress, clock: Clock
    ) -> None:
        self._scheduler = scheduler
        self._gaps = gaps
        self._penalties = penalties
        self._progress = progress
        self._clock = clock
        self._gaps_requested_s = -1e9
        self._reported: dict[tuple[str, str, int, int], tuple[str, int]] = {}
        self._unreported: list[AnswerRow] = []

    # The round -------------------------------------------------------------------------------------------------------

    async def start(self, *, urgent: bool) -> Round:
        """Return a new round with the tasks of all series. `urgent`: request recent gaps without saving credits."""
        round_ = Round(self._clock.monotonic(), urgent or self._may_fill_gaps(), TaskQueue())
        now_us = self._clock.now_us()
        for number, series in enumerate(self._gaps.series):
            round_.tasks.put(series, self._gaps.task(series, now_us, fill_gaps=round_.fill_gaps))
            if not number % _YIELD_EVERY:
                await asyncio.sleep(0)
        return round_

    def next_task(self, round_: Round) -> Task | None:
        """Return the most valuable task; None at the end of the round.

        A round ends after _ROUND_S or _ROUND_REQUESTS. It also ends after the requests for orders, because a user waits
        until the ordered bars are in the store.
        """
        task = round_.tasks.best()
        late = self._clock.monotonic() - round_.started_s >= max(_ROUND_S, self._clock.speed)
        if task is None or late or round_.requests >= _ROUND_REQUESTS or (round_.ordered and not task.ordered):
            return None
        return task

    def next_request(self, round_: Round, first: Task) -> NextRequest | None:
        """Return the request for the task's newest page, shared with similar tasks; None if no vendor is available.

        If no vendor is available, the task is postponed. Its series continues with the remaining ranges, unless the
        time of its next request is known.
        """
        choice = self._choose(first)
        if isinstance(choice, Blocked):
            lasts = self._postpone(first, choice)
            self._gaps.recount(first.series)
            round_.tasks.put(first.series, None if lasts else self._next(first, round_))
            return None
        request, tasks = self._shared(round_.tasks, first, choice)
        round_.requests += 1
        round_.ordered |= first.ordered
        if first.purpose is Purpose.GAP_FILL:
            self._gaps_requested_s = self._clock.monotonic()
        return NextRequest(choice, request, tasks, first.purpose)

    def update(self, round_: Round, done: NextRequest) -> None:
        """Replace the tasks of a request after its answer."""
        for task in done.tasks:
            self._gaps.recount(task.series)
            round_.tasks.put(task.series, self._next(task, round_))

    def drain_reasons(self, *, everything: bool = False) -> list[AnswerRow]:
        """Return the reasons to append; [] until there are enough for a record, unless `everything`."""
        if not everything and len(self._unreported) < _MAX_UNREPORTED:
            return []
        rows, self._unreported = self._unreported, []
        return rows

    def forget(self) -> None:
        """Remove expired penalties and old reasons, so that memory does not grow with the running time."""
        self._penalties.forget(self._clock.now_us())
        if len(self._reported) > _MAX_REPORTED:
            self._reported.clear()

    def lookback_us(self, interval: str) -> int | None:
        """Return the longest lookback of all vendors for an interval, in microseconds.

        None if a vendor has no limit; 0 if no vendor offers the interval.
        """
        offers = [provider.offer.of(interval) for provider in self._scheduler.providers(kind_of(interval))]
        found = [offer.lookback_us for offer in offers if offer is not None]
        return None if None in found else max((one for one in found if one is not None), default=0)

    # One request -----------------------------------------------------------------------------------------------------

    def _choose(self, task: Task) -> Choice | Blocked:
        series = task.series
        excluded = self._penalties.excluded((series.symbol, series.interval), self._clock.now_us())
        return self._scheduler.choose(
            series.interval, series.symbol, task.newest_us, task.end_us, task.purpose, without=excluded
        )

    def _next(self, task: Task, round_: Round) -> Task | None:
        return self._gaps.task(task.series, self._clock.now_us(), fill_gaps=round_.fill_gaps)

    def _shared(self, tasks: TaskQueue, first: Task, choice: Choice) -> tuple[BarsRequest, list[Task]]:
        """Return the request for the first task's newest page, and the tasks that share it."""
        series, now_us = first.series, self._clock.now_us()
        compares = self._scheduler.needs_comparison(choice.name, series.symbol, series.interval)
        page = newest_page(first, choice.offer, now_us, overlap=OVERLAP_BARS if compares else 0)

        def fits(task: Task) -> bool:
            other = self._choose(task)
            return isinstance(other, Choice) and other.name == choice.name

        cost = max(1, choice.provider.cost(BarsRequest((series.symbol,), series.interval, *page)))
        limit = max(1, choice.credits // cost)
        return shared_request(first, tasks.similar(first, *page), page, choice.offer, limit, fits)

    # Gaps that cannot be requested -----------------------------------------------------------------------------------

    def _postpone(self, task: Task, blocked: Blocked) -> bool:
        """Postpone a task that no vendor can serve now; return True if the time of the next request is known.

        The series then has no further task in this round. Otherwise its remaining ranges may be requested.
        """
        series, now_us = task.series, self._clock.now_us()
        ranges = [(task.start_us, task.end_us)]
        if blocked.verdict == NOT_OFFERED:
            key = (series.symbol, series.interval)
            blocked, empty = self._penalties.reason(key, blocked, task.newest_us, now_us)
            ranges = empty or ranges
        elif (oldest_us := now_us - (self.lookback_us(series.interval) or now_us)) > task.start_us:
            too_old = Blocked(NOT_OFFERED, "no vendor has bars that old")
            self._postpone_range(task, task.start_us, oldest_us, too_old)
            ranges = [(oldest_us, task.end_us)]
        for start_us, end_us in ranges:
            self._postpone_range(task, start_us, end_us, blocked)
        return blocked.again_us is not None

    def _postpone_range(self, task: Task, start_us: int, end_us: int, blocked: Blocked) -> None:
        """Postpone the missing bars of a task in `[start_us, end_us)`, and report the reason if it is new."""
        series, now_us = task.series, self._clock.now_us()
        again_us = None if blocked.again_us is None else max(blocked.again_us, now_us + SECOND_US)
        runs = series.ready(task.now_us, max(start_us, task.start_us), min(end_us, task.end_us))
        for start, end in runs:
            series.defer(start, end, again_us, task.now_us)
        self._progress.blocked, self._progress.again_us = blocked.note, again_us or 0
        if again_us is not None and again_us - now_us <= _MINUTE_QUOTA_US:
            return
        for start, end, paused in (part for run in runs for part in series.by_pause(*run)):
            key = (series.symbol, series.interval, start, end)
            note = f"{DISK}, not taken in; {blocked.note}" if paused else blocked.note
            before = self._reported.get(key)
            moved_us = abs(before[1] - (again_us or 0)) if before is not None else 0
            if before is None or before[0] != blocked.verdict or moved_us > _REPORT_AGAIN_US:
                self._reported[key] = (blocked.verdict, again_us or 0)
                self._unreported.append(AnswerRow(*key, "", blocked.verdict, note, again_us))

    # The pace of gap requests ----------------------------------------------------------------------------------------

    def _may_fill_gaps(self) -> bool:
        """Return True if this round may request recent gaps. The pace makes credits last until their windows end."""
        series = self._gaps.series_with_gaps("1m", self._clock.now_us())
        return self._clock.monotonic() - self._gaps_requested_s >= self._gap_interval_s(series)

    def _gap_interval_s(self, series: int) -> float:
        """Return the seconds between two requests for the recent gaps of `series` series, by the remaining credits."""
        now_us = self._clock.now_us()
        rate = 0.0
        names = {provider.name for provider in self._scheduler.providers(kind_of("1m"))}
        for row in self._scheduler.status(now_us):
            if row.vendor not in names or row.until_us is not None:
                continue
            rates = [max(0.0, w.left / max(1.0, (w.resets_us - now_us) / SECOND_US)) if w.quota.daily
                     else w.quota.credits / (w.quota.period_us / SECOND_US) for w in row.windows]  # fmt: skip
            rate += min(rates, default=1e9)
        return min(IDLE_MAX_S, max(IDLE_S, series / rate if rate > 0 else IDLE_MAX_S))

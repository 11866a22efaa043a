"""The objects that routes and middleware share while the API runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry, generate_latest

from tickerplant.api import metrics
from tickerplant.api.alert_rules import AlertRuleManager
from tickerplant.api.blocking import Pools, Shared, ask_log, in_thread
from tickerplant.api.fair_places import FairPlaces
from tickerplant.api.http.answer_cache import AnswerCache
from tickerplant.api.http.loop_turns import LoopTurns
from tickerplant.api.http.repeated_requests import RepeatedRequests
from tickerplant.api.load import LoadCounters
from tickerplant.api.log_state import backfill_progress, market_now
from tickerplant.api.on_demand import IndicatorCalculator
from tickerplant.api.request_lanes import COMPUTING, READING, SMALL, STREAM, WRITING, RequestLane
from tickerplant.api.store_probe import StoreProbe
from tickerplant.api.store_reader import StoreReader
from tickerplant.api.websockets.endpoint import Stream
from tickerplant.api.websockets.tail import Tail
from tickerplant.core.errors import LogUnavailable, TickerplantError
from tickerplant.core.metrics import MetricSpec
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sessions import Calendar, Calendars
from tickerplant.log.port import EventLog
from tickerplant.log.rules_in_force import rules_in_force

SCRAPE_TIMEOUT_S: Final = 2.0
"""Maximum seconds that a scrape waits for the store's counts. Prometheus cancels a scrape after 10 s by default."""
AWAY_S: Final = 5.0
"""Seconds after an unanswered call to the log in which requests use the last known answers at once."""
FRESH_S: Final = 0.5
"""Maximum age, in seconds, of a health check that answers further requests."""

STALE_S: Final = 1.5
"""Maximum age, in seconds, of a health check that answers a request while the next check runs."""

MARKET_S: Final = 0.25
"""Seconds for which the market's time is computed from the last read of the log."""

T = TypeVar("T")

STATIC = Path(__file__).parent / "static"


class Lanes:
    """The lanes: `small` for at most 500 rows, `reading` for a few thousand, `computing` for more.

    `stream` reads the stored rows of `snapshot` messages. Requests of `small` and `writing` run on the server's loop.
    """

    def __init__(self, load: LoadCounters) -> None:
        self.small = RequestLane("small", SMALL, load)
        self.reading = RequestLane("reading", READING, load)
        self.computing = RequestLane("computing", COMPUTING, load)
        self.stream = RequestLane("stream", STREAM, load)
        self.writing = FairPlaces(WRITING, load)

    @property
    def by_name(self) -> dict[str, RequestLane | FairPlaces]:
        """Return every lane and `writing`, by name."""
        return {**{lane.name: lane for lane in self.all}, "writing": self.writing}

    @property
    def all(self) -> tuple[RequestLane, ...]:
        """Return every lane."""
        return (self.small, self.reading, self.computing, self.stream)


@dataclass(frozen=True, slots=True)
class LogFacts:
    """Facts from the log that coverage needs: rules in force, progress of the backfill, and market time in µs."""

    rules: Rules
    progress: dict[str, Any] | None
    now_us: int


@dataclass
class ApiState:
    """Log, store, stream and options of the running API.

    `stream` and `tail` are None until the stream starts. `log_error` is the reason if it cannot start, otherwise "".
    `health` returns `{"parts": [{"name", "state": ok | degraded | failed, "sentence", …}]}`. `hosts` and `origins` are
    those of `http.site.CheckSite`. `calendars` contain the session starts that intraday adjustment needs. `rules` are
    the rules of the settings, and after the start of the stream the rules in force. `now_us` returns the market's time
    in µs; if None, the API derives the time from the log.
    """

    log: EventLog
    store: StoreReader
    health: Callable[[], Mapping[str, Any]] | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    api_key: str | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    indicators: IndicatorCalculator | None = None
    calendars: Calendars = field(default_factory=lambda: Calendars(DEFAULT_RULES))
    rules: Rules = DEFAULT_RULES
    now_us: Callable[[], int] | None = None
    static: Path = STATIC
    stream: Stream | None = None
    tail: Tail | None = None
    log_error: str = ""
    pools: Pools = field(default_factory=Pools)
    load: LoadCounters = field(default_factory=LoadCounters)
    turns: LoopTurns = field(default_factory=LoopTurns)
    alert_rules: AlertRuleManager | None = None
    answers: AnswerCache = field(default_factory=AnswerCache)
    exclusions: dict[MetricSpec, dict[str, float]] = field(default_factory=dict)
    """Counts of data excluded from bars, by metric and feed, as of the last successful read of the store."""

    def __post_init__(self) -> None:
        """Create the lanes, and the shared calls of `/health`, `/health/ready` and `/metrics`."""
        self.lanes = Lanes(self.load)
        self.repeated = RepeatedRequests(self.answers)
        self.store_probe = StoreProbe(self.store)
        self.shared_health = (
            None if self.health is None else Shared(self.pools.health, self.health, fresh_s=FRESH_S, stale_s=STALE_S)
        )
        self.shared_metrics = Shared(self.pools.health, lambda: generate_latest(self.registry))
        self._market_ahead_us = 0
        self._market_until_s = 0.0
        self._log_away_until = 0.0
        self._facts: tuple[Rules, dict[str, Any] | None] | None = None

    async def market_now(self) -> int:
        """Return the market's time in µs.

        It advances from the last known time for `MARKET_S`, and while the log is unavailable.
        """
        if self.now_us is None and time.monotonic() < self._market_until_s:
            return time.time_ns() // 1_000 + self._market_ahead_us
        with contextlib.suppress(LogUnavailable):
            now_us = await self._ask_log(self._read_market_now)
            self._market_ahead_us = now_us - time.time_ns() // 1_000
            self._market_until_s = time.monotonic() + MARKET_S
            return now_us
        return time.time_ns() // 1_000 + self._market_ahead_us

    async def calendar_of(self, symbol: str) -> Calendar:
        """Return a symbol's calendar. The first call loads it in a thread, because loading an exchange is slow."""
        calendars = self.calendars
        found = calendars.loaded(symbol)
        return await in_thread(self.pools.compute, lambda: calendars.of(symbol)) if found is None else found

    async def _ask_log(self, call: Callable[[], T]) -> T:
        """Return the result of a call to the log.

        Raises LogUnavailable. Raises it at once if a call of the last `AWAY_S` seconds was unanswered, or if an error
        has prevented the start of the stream.
        """
        if time.monotonic() < self._log_away_until or (self.log_error and self.stream is None):
            raise LogUnavailable(self.log_error or "the event log is unavailable")
        try:
            return await ask_log(self.pools.log, call)
        except LogUnavailable:
            self._log_away_until = time.monotonic() + AWAY_S
            raise

    def _read_market_now(self) -> int:
        return market_now(self.log) if self.now_us is None else self.now_us()

    async def log_facts(self) -> LogFacts:
        """Return the facts from the log; while the log is unavailable, the last known facts.

        If no facts are known yet, return `rules` and no progress.
        """
        with contextlib.suppress(LogUnavailable):
            self._facts = await self._ask_log(
                lambda: (rules_in_force(self.log, self.rules), backfill_progress(self.log))
            )
        rules, progress = self._facts or (self.rules, None)
        return LogFacts(rules, progress, await self.market_now())

    async def refresh_exclusions(self) -> None:
        """Read `exclusions` from the store. If the store does not answer in time, the old counts remain."""
        try:
            async with asyncio.timeout(SCRAPE_TIMEOUT_S), self.store.read() as transaction:
                table = await transaction.exclusion_counts()
        except (TickerplantError, TimeoutError):  # the health check reports the store's error
            return
        feeds = table.column("feed").to_pylist()
        for name, spec in metrics.EXCLUSIONS.items():
            counts = table.column(name).to_pylist()
            self.exclusions[spec] = {feed: count for feed, count in zip(feeds, counts, strict=True) if count}

    def labelled_numbers(self) -> Mapping[MetricSpec, Mapping[tuple[str, ...], float]]:
        """Return numbers by metric and label values: excluded data, requests in lanes, refusals."""
        found: dict[MetricSpec, Mapping[tuple[str, ...], float]] = {
            spec: {(feed,): count for feed, count in counts.items()} for spec, counts in list(self.exclusions.items())
        }
        lanes: dict[tuple[str, ...], float] = {}
        for lane in self.lanes.all:
            lanes[lane.name, "running"], lanes[lane.name, "waiting"] = lane.running, lane.waiting
        lanes["writing", "running"], lanes["writing", "waiting"] = (
            self.lanes.writing.running,
            self.lanes.writing.waiting,
        )
        refused: dict[tuple[str, ...], float] = {(reason,): n for reason, n in dict(self.load.refused).items()}
        return {**found, metrics.LANE_REQUESTS: lanes, metrics.LIMITED: refused}

    def numbers(self) -> dict[MetricSpec, float]:
        """Return counters and gauges without labels, by metric. Before the stream starts, its metrics are absent."""
        found: dict[MetricSpec, float] = {
            metrics.CONNECTIONS: self.load.connections(),
            metrics.REPEATED: self.answers.hits,
            metrics.KEPT_BYTES: self.answers.size_bytes,
        }
        if self.stream is None:
            return found
        counters = self.stream.hub.counters
        return found | {
            metrics.CLIENTS: len(self.stream.connections),
            metrics.FRAMES: counters.frames,
            metrics.CONFLATED: counters.conflated_rows,
            metrics.DROPPED: counters.dropped,
            metrics.RESYNCS: counters.resyncs,
            metrics.UNREADABLE: counters.unreadable,
            metrics.LAG: self.tail.lag_s if self.tail is not None else 0.0,
        }

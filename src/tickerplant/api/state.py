"""The objects that routes and middleware share while the API runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from tickerplant.api import metrics
from tickerplant.api.alert_rules import AlertRuleManager
from tickerplant.api.log_state import market_now
from tickerplant.api.on_demand import ConcurrencyLimiter, IndicatorCalculator
from tickerplant.api.store_reader import StoreReader
from tickerplant.api.websockets.endpoint import Stream
from tickerplant.api.websockets.tail import Tail
from tickerplant.core.errors import TickerplantError
from tickerplant.core.metrics import MetricSpec
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sessions import Calendars
from tickerplant.log.port import EventLog

SCRAPE_TIMEOUT_S: Final = 2.0
"""Maximum seconds that a scrape waits for the store's counts. Prometheus cancels a scrape after 10 s."""

STATIC = Path(__file__).parent / "static"


@dataclass
class ApiState:
    """Log, store, stream and options of the running API. `stream` and `tail` are None until the stream starts.

    `health` returns `{"parts": [{"name", "state": ok | degraded | failed, "sentence", …}]}`. `hosts` and `origins` are
    those of `http.site.CheckSite`. `calendars` contain the session starts that intraday adjustment needs. `rules` are
    the rules of the settings. `now_us` returns the market's time in µs; if None, the API derives the time from the log.
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
    limiter: ConcurrencyLimiter = field(default_factory=ConcurrencyLimiter)
    alert_rules: AlertRuleManager | None = None
    exclusions: dict[MetricSpec, dict[str, float]] = field(default_factory=dict)
    """Counts of data excluded from bars, by metric and feed, read from the store at the last scrape."""

    def market_now(self) -> int:
        """Return the market's time in µs. Blocks."""
        return market_now(self.log) if self.now_us is None else self.now_us()

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

    def exclusion_numbers(self) -> Mapping[MetricSpec, Mapping[str, float]]:
        """Return the counts of data excluded from bars, by metric and feed; {} before the first scrape."""
        return self.exclusions

    def stream_numbers(self) -> dict[MetricSpec, float]:
        """Return the stream's counters and gauges by metric; {} before the stream runs."""
        if self.stream is None:
            return {}
        counters = self.stream.hub.counters
        return {
            metrics.CLIENTS: len(self.stream.connections),
            metrics.FRAMES: counters.frames,
            metrics.CONFLATED: counters.conflated_rows,
            metrics.DROPPED: counters.dropped,
            metrics.RESYNCS: counters.resyncs,
            metrics.UNREADABLE: counters.unreadable,
            metrics.LAG: self.tail.lag_s if self.tail is not None else 0.0,
        }

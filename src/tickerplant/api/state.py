"""What the API's parts share while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from tickerplant.api import metrics
from tickerplant.api.alert_rules import Rulebook
from tickerplant.api.on_demand import Indicators, Turns
from tickerplant.api.store_reader import Source
from tickerplant.api.webhooks import Webhooks
from tickerplant.api.websockets.endpoint import Stream
from tickerplant.api.websockets.tail import Tail
from tickerplant.core.errors import TickerplantError
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sessions import Calendars
from tickerplant.log.port import EventLog

SCRAPE_S: Final = 2.0
"""How long a scrape waits for the store's counts; Prometheus gives up on the whole answer after 10 s."""

STATIC = Path(__file__).parent / "static"


@dataclass
class ApiState:
    """The log, the store, and (once the tail runs) the stream. `health` returns
    `{"parts": [{"name", "state": ok | degraded | failed, "sentence", …}]}`. `indicators` computes when asked.
    `calendars` say when a session begins at a split; `rules` are those of the settings, and `now_us` the market's time
    (None: as the log says).
    """

    log: EventLog
    source: Source
    health: Callable[[], Mapping[str, Any]] | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    api_key: str | None = None
    indicators: Indicators | None = None
    calendars: Calendars = field(default_factory=lambda: Calendars(DEFAULT_RULES))
    rules: Rules = DEFAULT_RULES
    now_us: Callable[[], int] | None = None
    static: Path = STATIC
    stream: Stream | None = None
    tail: Tail | None = None
    turns: Turns = field(default_factory=Turns)
    rulebook: Rulebook | None = None
    webhooks: Webhooks | None = None
    left_out: dict[metrics.Spec, dict[str, float]] = field(default_factory=dict)
    """The store's counts of what was left out of bars, by feed, as they were last read."""

    async def read_left_out(self) -> None:
        """Read `left_out` anew; a store that does not answer in time leaves it as it is."""
        try:
            async with asyncio.timeout(SCRAPE_S), self.source.read() as reading:
                table = await reading.left_out()
        except (TickerplantError, TimeoutError):  # the health check says what is wrong with the store
            return
        feeds = table.column("feed").to_pylist()
        for name, spec in metrics.LEFT_OUT.items():
            counts = table.column(name).to_pylist()
            self.left_out[spec] = {feed: count for feed, count in zip(feeds, counts, strict=True) if count}

    def left_out_numbers(self) -> Mapping[metrics.Spec, Mapping[str, float]]:
        """Return `left_out` for the metrics."""
        return self.left_out

    def numbers(self) -> dict[metrics.Spec, float]:
        """Return the stream's numbers and the webhooks' for the metrics."""
        return self._stream_numbers() | self._webhook_numbers()

    def _webhook_numbers(self) -> dict[metrics.Spec, float]:
        if self.webhooks is None:
            return {}
        counts = self.webhooks.counts
        return {
            metrics.DELIVERED: counts.delivered,
            metrics.FAILED_ATTEMPTS: counts.failed_attempts,
            metrics.GIVEN_UP: counts.given_up,
        }

    def _stream_numbers(self) -> dict[metrics.Spec, float]:
        if self.stream is None:
            return {}
        counts = self.stream.hub.counts
        return {
            metrics.CLIENTS: len(self.stream.connections),
            metrics.FRAMES: counts.frames,
            metrics.CONFLATED: counts.conflated_rows,
            metrics.DROPPED: counts.dropped,
            metrics.RESYNCS: counts.resyncs,
            metrics.UNREADABLE: counts.unreadable,
            metrics.LAG: self.tail.lag_s if self.tail is not None else 0.0,
        }
